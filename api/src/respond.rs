//! How good answers look: JSON, `X-Position`, `X-Stale`, `Link`.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, LINK},
};
use serde::Serialize;
use socialhub_commands::Done;
use socialhub_domain::UserId;
use socialhub_projections::Freshness;

use crate::{
    error::ApiError,
    extract::paging::{List, ListQuery},
    state::Shared,
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// A JSON answer. Never cached: it depends on who asks and when.
pub(crate) fn json<T: Serialize>(status: StatusCode, body: &T) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => {
            let mut response = Response::new(Body::from(bytes));
            *response.status_mut() = status;
            response.headers_mut().insert(CONTENT_TYPE, JSON);
            response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
            response
        }
        Err(error) => ApiError::internal(error.to_string()).into_response(),
    }
}

/// The answer to a query.
pub(crate) fn read<T: Serialize>(freshness: Freshness, body: &T) -> Response {
    let mut response = json(StatusCode::OK, body);
    let headers = response.headers_mut();
    headers.insert("x-position", freshness.position.into());
    if freshness.stale {
        headers.insert("x-stale", TRUE);
    }
    response
}

/// One page of a list as it is answered.
pub(crate) struct Listing<'a> {
    pub query: &'a ListQuery,
    pub list: &'a List,
    pub freshness: Freshness,
}

impl Listing<'_> {
    /// The client's cursor for a reader's key.
    pub(crate) fn cursor(&self, app: &Shared, next: Option<String>) -> Option<String> {
        next.map(|key| app.signer.seal(self.list.kind, &self.list.scope, &key))
    }

    /// The answer, with a link to the next page.
    pub(crate) fn answer<T: Serialize>(&self, cursor: Option<&str>, body: &T) -> Response {
        let mut response = read(self.freshness, body);
        let link = cursor.map(|cursor| self.query.next_link(cursor));
        if let Some(Ok(link)) = link.map(|link| HeaderValue::from_bytes(link.as_bytes())) {
            response.headers_mut().insert(LINK, link);
        }
        response
    }
}

/// The answer to a command; `who` will read it in what they ask next.
pub(crate) fn written<R, T: Serialize>(
    who: UserId,
    done: &Done<R>,
    status: StatusCode,
    body: &T,
) -> Response {
    mark_written(Some(who), done, json(status, body))
}

/// The answer to a command that has nothing to tell.
pub(crate) fn written_empty<R>(who: UserId, done: &Done<R>) -> Response {
    mark_written(Some(who), done, StatusCode::NO_CONTENT.into_response())
}

/// The answer to a command of nobody in particular.
pub(crate) fn written_by_nobody<R, T: Serialize>(done: &Done<R>, body: &T) -> Response {
    mark_written(None, done, json(StatusCode::OK, body))
}

/// On an answer to a command: what its person has written. The layer around all routes notes it before the answer goes out.
#[derive(Clone, Copy)]
pub(crate) struct Wrote {
    pub user: UserId,
    pub position: u64,
}

fn mark_written<R>(who: Option<UserId>, done: &Done<R>, mut response: Response) -> Response {
    if let Some(user) = who {
        let position = done.position;
        response.extensions_mut().insert(Wrote { user, position });
    }
    let headers = response.headers_mut();
    headers.insert("x-position", done.position.into());
    if done.replayed {
        headers.insert("idempotent-replayed", TRUE);
    }
    response
}
