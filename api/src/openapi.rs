//! The OpenAPI document: collected from the handlers, and completed with what all of them have in common.

use std::sync::OnceLock;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Info, License, OpenApi, Ref, RefOr, Required, Server,
        content::ContentBuilder,
        header::HeaderBuilder,
        path::{Operation, ParameterBuilder, ParameterIn, PathItem},
        response::{Response, ResponseBuilder},
        schema::{ObjectBuilder, Type},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use crate::error::{BadField, ProblemBody};

/// The page at `/docs`.
pub(crate) const PAGE: &str = include_str!("docs.html");

const DESCRIPTION: &str = "Every path is served twice: as written here, and below `/api/v1` as the service's own \
(`/feed` also below `/api`). Operations and media have one path each.\n\n\
Every answer carries `X-Request-Id`; every good answer to a command `X-Position`, the position of the event log after \
it. A read waits up to two seconds until its read model has seen what the same person wrote last, and what \
`X-Min-Position` asks for; `X-Position` says how far the model is, `X-Stale: true` that it is behind that, or that it lacks \
what was in the log some seconds ago already.\n\n\
Lists take `limit` and `page` or `cursor`, and link to their next page.\n\n\
Errors are `application/problem+json`; `errors` names every bad field.";

/// POST routes that take no `Idempotency-Key`.
const UNKEYED: [&str; 3] = ["/auth/login", "/auth/verify-otp", "/auth/reset-password"];

/// The document of every route.
#[must_use]
pub fn document() -> OpenApi {
    crate::router::documented()
}

/// The document as JSON, made once.
pub(crate) fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| document().to_json().unwrap_or_default())
}

/// Adds to the routes what all of them have in common.
pub(crate) fn complete(mut document: OpenApi) -> OpenApi {
    document.info = Info::builder()
        .title("SocialHub")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(License::new("MIT")))
        .build();
    document.servers = Some(vec![Server::new("/")]);
    let components = document.components.get_or_insert_default();
    for name in ["bearer", "operator"] {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme(name, SecurityScheme::Http(scheme));
    }
    let schemas = &mut components.schemas;
    schemas.insert(BadField::name().into_owned(), BadField::schema());
    schemas.insert(ProblemBody::name().into_owned(), ProblemBody::schema());
    for (path, item) in &mut document.paths.paths {
        complete_item(path, item);
    }
    document
}

fn complete_item(path: &str, item: &mut PathItem) {
    let parameters = path.contains('{');
    if let Some(get) = &mut item.get {
        get.operation_id = Some(operation_id("get", path));
        complete_read(path, get);
        add_common(get, path, parameters);
    }
    let commands = [
        (&mut item.post, "post"),
        (&mut item.put, "put"),
        (&mut item.patch, "patch"),
        (&mut item.delete, "delete"),
    ];
    for (operation, verb) in commands {
        if let Some(operation) = operation {
            operation.operation_id = Some(operation_id(verb, path));
            complete_command(operation, verb == "post" && !UNKEYED.contains(&path));
            add_common(operation, path, parameters);
        }
    }
}

/// A name of its own for each operation, e.g. `getUsersProfileByUserId`; generated clients call their functions so.
fn operation_id(verb: &str, path: &str) -> String {
    let mut id = verb.to_owned();
    for part in path.split(['/', '-', '.']).filter(|part| !part.is_empty()) {
        if part.starts_with('{') {
            id.push_str("By");
        }
        let mut letters = part.trim_matches(['{', '}']).chars();
        id.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        id.push_str(letters.as_str());
    }
    id
}

fn is_secured(operation: &Operation) -> bool {
    operation.security.is_some()
}

/// What may be answered to any request.
fn add_common(operation: &mut Operation, path: &str, parameters: bool) {
    add_problem(
        operation,
        "400",
        "Bad input; `errors` names every bad field",
    );
    add_problem(
        operation,
        "429",
        "Too many requests; `Retry-After` says when",
    );
    add_problem(
        operation,
        "503",
        "Not applied; ask again after `Retry-After`",
    );
    if parameters {
        add_problem(operation, "404", "Not there, or not visible to you");
    }
    if is_secured(operation) && !path.starts_with("/media") {
        add_problem(operation, "401", "No good token");
    }
}

fn complete_command(operation: &mut Operation, keyed: bool) {
    add_problem(operation, "403", "Not yours to do");
    add_problem(
        operation,
        "409",
        "Changed by others again and again, or still running; ask again",
    );
    add_problem(
        operation,
        "504",
        "Outcome unknown: ask again with the same Idempotency-Key",
    );
    if operation.request_body.is_some() {
        add_problem(operation, "413", "Too large; says what");
        add_problem(operation, "415", "A type that is not taken; says which");
    }
    if keyed {
        add_problem(
            operation,
            "422",
            "The Idempotency-Key was used with other content",
        );
        add_header(
            operation,
            "Idempotency-Key",
            "Makes repeating the request safe for 24 hours: 1 to 255 visible ASCII characters",
            Type::String,
        );
    }
    describe_header(
        operation,
        "X-Position",
        "The position of the event log after this command",
    );
}

fn complete_read(path: &str, operation: &mut Operation) {
    let is_query = is_secured(operation)
        && !path.ends_with("/stream")
        && !["/auth/verify-user", "/metrics"].contains(&path)
        && !path.starts_with("/media");
    if is_query {
        add_header(
            operation,
            "X-Min-Position",
            "The position of the event log that the answer should have seen",
            Type::Integer,
        );
        describe_header(operation, "X-Position", "How far the read model is");
        describe_header(
            operation,
            "X-Stale",
            "`true` when the read model is behind what was asked for, or lacks what was in the log some seconds ago already",
        );
    }
}

fn add_problem(operation: &mut Operation, status: &str, description: &str) {
    let responses = &mut operation.responses.responses;
    if responses.contains_key(status) {
        return;
    }
    let schema = Ref::from_schema_name(ProblemBody::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let response = ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", content)
        .build();
    responses.insert(status.to_owned(), RefOr::T(response));
}

fn add_header(operation: &mut Operation, name: &str, description: &str, kind: Type) {
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(ObjectBuilder::new().schema_type(kind)))
        .build();
    let parameters = operation.parameters.get_or_insert_default();
    parameters.push(parameter.into());
}

fn describe_header(operation: &mut Operation, name: &str, description: &str) {
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(Response { headers, .. }) = response
            && status.starts_with('2')
        {
            let header = HeaderBuilder::new()
                .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
                .description(Some(description))
                .build();
            headers.insert(name.to_owned(), header.into());
        }
    }
}
