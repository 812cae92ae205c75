//! `POST /posts/`

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;
use socialhub_commands::{
    Actor, CommandContext, Done,
    create_post::{CreatePost, CreatedPost, PostDraft},
};
use socialhub_domain::{UserId, validation};
use utoipa::ToSchema;

use super::upload::{self, Received};
use crate::{
    error::ApiError,
    extract::{
        auth::Signed,
        body,
        context::{Fingerprint, Key, Origin},
        fields::Fields,
    },
    respond,
    state::App,
    views::{PostBody, PostWriter},
};

/// The route, as the scope of its idempotency keys.
const ROUTE: &str = "POST /posts";

/// A post to be.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body for the OpenAPI document")]
pub(crate) struct CreatePostBody {
    /// The text; may be empty or left out when there are files.
    #[schema(max_length = 10000)]
    content: String,
    /// `public` (default), `followers` or `private`.
    #[schema(examples("public"))]
    visibility: Option<String>,
}

/// A post to be, with files.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body for the OpenAPI document")]
pub(crate) struct CreatePostForm {
    /// The text.
    #[schema(max_length = 10000)]
    content: Option<String>,
    /// `public` (default), `followers` or `private`.
    visibility: Option<String>,
    /// At most 10 images, videos or audio files of 10 MB each (also as `files[]`).
    #[schema(value_type = Vec<String>, format = Binary)]
    files: Vec<Vec<u8>>,
}

/// The new post.
#[derive(Serialize, ToSchema)]
struct CreatePostAnswer {
    /// `Post created`.
    message: &'static str,
    /// The post.
    post: PostBody,
}

fn parse(mut fields: Fields, has_files: bool) -> Result<CreatePost, ApiError> {
    let check = |text: &str| validation::content(text, has_files);
    let content = if has_files {
        fields.optional_text("content", check).unwrap_or_default()
    } else {
        fields.text("content", check)
    };
    let visibility = fields.visibility("visibility");
    fields.finish()?;
    Ok(CreatePost {
        content,
        visibility,
    })
}

fn fingerprint(input: &CreatePost, files: &[[u8; 32]]) -> Fingerprint {
    let fields = Fingerprint::new()
        .field("content", &input.content)
        .field("visibility", input.visibility.as_str());
    files
        .iter()
        .fold(fields, |fields, hash| fields.field("file", hash))
}

/// The author's picture as the read model has it now; the post does not fail for want of it.
async fn picture(app: &App, author: UserId) -> Option<String> {
    let profile = app.api.feed.profile(author, author).await.ok().flatten();
    profile.and_then(|profile| profile.avatar)
}

/// Writes a post, with files or without.
#[utoipa::path(
    post,
    path = "/posts",
    tag = "posts",
    request_body(content(
        (CreatePostBody = "application/json"),
        (CreatePostForm = "multipart/form-data")
    )),
    responses((status = 201, description = "Written", body = inline(CreatePostAnswer))),
    security(("bearer" = []))
)]
pub(crate) async fn create(
    State(app): State<App>,
    Signed(actor): Signed,
    origin: Origin,
    key: Key,
    request: Request,
) -> Result<Response, ApiError> {
    let who = actor.id;
    let done = if body::is_json(request.headers()) {
        from_json(&app, actor, origin, key, request).await?
    } else if body::is_multipart(request.headers()) {
        let app = app.clone();
        // On a task of its own: when the client goes away in the middle, the task still ends in one of two ways, the
        // post written or its files removed, and never with files removed under a post that was just committed.
        tokio::spawn(async move { from_form(&app, actor, origin, key, request).await })
            .await
            .map_err(|error| ApiError::internal(error.to_string()))??
    } else {
        body::read(&app, request.into_body()).await?;
        return Err(body::wrong_type("application/json or multipart/form-data"));
    };
    let writer = PostWriter {
        app: &app,
        viewer: who,
    };
    let body = CreatePostAnswer {
        message: "Post created",
        post: writer.created(done.result.clone(), picture(&app, who).await),
    };
    Ok(respond::written(who, &done, StatusCode::CREATED, &body))
}

async fn from_json(
    app: &App,
    actor: Actor,
    origin: Origin,
    key: Key,
    request: Request,
) -> Result<Done<CreatedPost>, ApiError> {
    let bytes = body::read(app, request.into_body()).await?;
    let input = parse(Fields::from_json(&bytes)?, false)?;
    let context = origin.keyed(Some(actor), key, ROUTE, || fingerprint(&input, &[]));
    commit(app, &context, app.api.commands.draft_post(), input).await
}

async fn from_form(
    app: &App,
    actor: Actor,
    origin: Origin,
    key: Key,
    request: Request,
) -> Result<Done<CreatedPost>, ApiError> {
    let Received {
        draft,
        fields,
        hashes,
    } = upload::receive(app, request).await?;
    let input = parse(fields, !hashes.is_empty())?;
    let context = origin.keyed(Some(actor), key, ROUTE, || fingerprint(&input, &hashes));
    commit(app, &context, draft, input).await
}

async fn commit(
    app: &App,
    context: &CommandContext,
    draft: PostDraft,
    input: CreatePost,
) -> Result<Done<CreatedPost>, ApiError> {
    Ok(app.api.commands.create_post(context, draft, input).await?)
}
