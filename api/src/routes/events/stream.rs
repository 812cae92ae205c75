//! `GET /events/stream`

use std::collections::BTreeSet;

use axum::{extract::State, response::Response};
use http::HeaderMap;
use socialhub_domain::event::CATALOGUE;
use socialhub_event_log::Position;

use super::FirehoseParams;
use crate::{
    error::{ApiError, BadField},
    extract::{auth::Operator, paging::ListQuery},
    firehose::{FirehoseEvent, Start, Types, open},
    state::App,
};

/// Every event of the log, from any position on and then as they happen, without personal fields. For the operator.
///
/// Server-sent events: `id` is the position, `event` the type. An `id` without data moves the cursor over events of other
/// types. At least once: after a lost connection begin again after the last `id`.
#[utoipa::path(
    get,
    path = "/events/stream",
    tag = "events",
    params(
        FirehoseParams,
        ("Last-Event-ID" = Option<u64>, Header, description = "The position to begin after; counts before `after`")
    ),
    responses(
        (status = 200, description = "Events", body = FirehoseEvent, content_type = "text/event-stream"),
        (status = 403, description = "`OPERATOR_TOKEN` is not set: this is nobody's"),
    ),
    security(("operator" = []))
)]
pub(crate) async fn stream(
    State(app): State<App>,
    _: Operator,
    headers: HeaderMap,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let start = start(&headers, &query);
    let types = types(&query);
    match (start, types) {
        (Ok(start), Ok(types)) => open(app, start, types).await,
        (start, types) => Err(ApiError::invalid(
            [start.err(), types.err()].into_iter().flatten().collect(),
        )),
    }
}

/// Where to begin. What a client sends when it reconnects counts before what is in its address, which stays the same.
fn start(headers: &HeaderMap, query: &ListQuery) -> Result<Start, BadField> {
    let after = match query.get("after")? {
        Some(text) => position("after", text)?,
        None => 0,
    };
    match headers.get("last-event-id").filter(|id| !id.is_empty()) {
        None => Ok(Start {
            field: "after",
            after,
        }),
        Some(id) => {
            let field = "Last-Event-ID";
            let after = position(field, id.to_str().unwrap_or_default())?;
            Ok(Start { field, after })
        }
    }
}

fn position(field: &str, text: &str) -> Result<Position, BadField> {
    // `parse` alone would take a leading plus sign.
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(position) if digits => Ok(position),
        _ => Err(bad(field, "must be a position: a whole number, 0 or more")),
    }
}

/// The types that are asked for; none for all.
fn types(query: &ListQuery) -> Result<Types, BadField> {
    let Some(list) = query.get("types")? else {
        return Ok(Types::All);
    };
    let mut wanted = BTreeSet::new();
    for name in list.split(',') {
        let known = CATALOGUE.iter().find(|(known, _)| *known == name.trim());
        let Some((known, _)) = known else {
            let names: Vec<_> = CATALOGUE.iter().map(|(name, _)| *name).collect();
            let message = format!(
                "`{name}` is no type of event: they are {}",
                names.join(", ")
            );
            return Err(bad("types", &message));
        };
        wanted.insert(*known);
    }
    Ok(Types::These(wanted))
}

fn bad(field: &str, message: &str) -> BadField {
    BadField {
        field: field.to_owned(),
        message: message.to_owned(),
    }
}
