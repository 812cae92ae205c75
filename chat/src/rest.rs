//! The history of a room over REST.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};

use crate::{
    admission::Admission,
    ports::{ChatLog, ChatUser, Direction, History, HistoryQuery, Message},
    problem::Problem,
    room_id::RoomId,
};

/// Messages of a page, by default and at most.
const DEFAULT_LIMIT: usize = 20;
const MOST: usize = 100;

/// What the REST side needs.
#[derive(Clone)]
pub(crate) struct RestState {
    /// Where messages are kept.
    pub(crate) log: Arc<dyn ChatLog>,
    /// Who may read.
    pub(crate) admission: Admission,
}

/// The routes of the REST side, on the service's and the gateway's path.
pub(crate) fn rest_router(state: RestState) -> Router {
    Router::new()
        .route("/chat/rooms/{room_id}/messages", get(messages))
        .route("/api/v1/chat/rooms/{room_id}/messages", get(messages))
        .with_state(state)
}

#[derive(Debug, Default, Deserialize)]
struct Asked {
    before: Option<String>,
    after: Option<String>,
    cursor: Option<String>,
    limit: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    messages: Vec<Message>,
    next_cursor: Option<String>,
}

async fn messages(
    State(state): State<RestState>,
    room: Result<Path<String>, PathRejection>,
    asked: Result<Query<Asked>, QueryRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let outcome = async {
        let user = authenticate(&state, &headers)?;
        let room = room.map(|Path(room)| room).unwrap_or_default();
        let Query(asked) = asked
            .map_err(|_| Problem::invalid("query", "before, after, cursor and limit, each once"))?;
        page(&state, &user, &room, &asked).await
    };
    match outcome.await {
        Ok(page) => answer(page, &uri),
        Err(problem) => problem.answer(&headers),
    }
}

fn authenticate(state: &RestState, headers: &HeaderMap) -> Result<ChatUser, Problem> {
    let admitted = state.admission.admit(None, headers);
    let (user, _) = admitted.ok_or_else(|| {
        Problem::new(
            StatusCode::UNAUTHORIZED,
            "Unauthorized",
            "a valid bearer token is needed",
        )
    })?;
    Ok(user)
}

async fn page(
    state: &RestState,
    user: &ChatUser,
    room: &str,
    asked: &Asked,
) -> Result<Page, Problem> {
    let room = RoomId::parse(room)
        .map_err(|_| Problem::invalid("roomId", "must be 1 to 100 visible characters"))?;
    let query = asked.query()?;
    if !room.admits(user.id) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "Forbidden",
            "this room admits only the two people it names",
        ));
    }
    let history = state.log.read(&room, query).await.map_err(|error| {
        tracing::warn!(%error, "a room's history could not be read");
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Service unavailable",
            "the history cannot be read now: try again in a moment",
        )
    })?;
    let next_cursor = next_cursor(&history, query);
    Ok(Page {
        messages: history.messages,
        next_cursor,
    })
}

/// Where the next page in the same direction begins, when there is one.
fn next_cursor(history: &History, query: HistoryQuery) -> Option<String> {
    match query.direction {
        Direction::Newest => {
            let first = history.messages.first()?.seq;
            (first > 1).then(|| format!("b{first}"))
        }
        Direction::Oldest => {
            let last = history.messages.last()?.seq;
            (last < history.last_seq).then(|| format!("a{last}"))
        }
    }
}

fn answer(page: Page, uri: &Uri) -> Response {
    let link = page.next_cursor.as_ref().and_then(|cursor| {
        let limit = uri.query().and_then(|query| {
            query
                .split('&')
                .find(|pair| pair.starts_with("limit="))
                .map(|pair| format!("&{pair}"))
        });
        let limit = limit.unwrap_or_default();
        let link = format!("<{}?cursor={cursor}{limit}>; rel=\"next\"", uri.path());
        HeaderValue::try_from(link).ok()
    });
    let mut response = Json(page).into_response();
    if let Some(link) = link {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

impl Asked {
    fn query(&self) -> Result<HistoryQuery, Problem> {
        let limit = match self.limit.as_deref().map(str::parse) {
            None => DEFAULT_LIMIT,
            Some(Ok(limit @ 1..=MOST)) => limit,
            Some(_) => return Err(Problem::invalid("limit", "must be a number from 1 to 100")),
        };
        let (before, after) = self.bounds()?;
        Ok(HistoryQuery {
            after: after.unwrap_or(0),
            before,
            direction: if after.is_some() {
                Direction::Oldest
            } else {
                Direction::Newest
            },
            limit,
        })
    }

    fn bounds(&self) -> Result<(Option<u64>, Option<u64>), Problem> {
        const NOT_A_SEQ: &str = "must be a message's seq";
        match (&self.before, &self.after, &self.cursor) {
            (None, None, None) => Ok((None, None)),
            (Some(before), None, None) => {
                let before = seq(before).ok_or_else(|| Problem::invalid("before", NOT_A_SEQ))?;
                Ok((Some(before), None))
            }
            (None, Some(after), None) => {
                let after = seq(after).ok_or_else(|| Problem::invalid("after", NOT_A_SEQ))?;
                Ok((None, Some(after)))
            }
            (None, None, Some(cursor)) => {
                parse_cursor(cursor).ok_or_else(|| Problem::invalid("cursor", "is not a cursor"))
            }
            _ => Err(Problem::invalid(
                "before",
                "only one of before, after and cursor",
            )),
        }
    }
}

fn seq(text: &str) -> Option<u64> {
    text.parse().ok().filter(|&seq| seq < 1 << 53)
}

fn parse_cursor(cursor: &str) -> Option<(Option<u64>, Option<u64>)> {
    if let Some(before) = cursor.strip_prefix('b') {
        return Some((Some(seq(before)?), None));
    }
    Some((None, Some(seq(cursor.strip_prefix('a')?)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_checked() {
        let asked = |before: Option<&str>, limit: Option<&str>| Asked {
            before: before.map(str::to_owned),
            limit: limit.map(str::to_owned),
            ..Asked::default()
        };
        assert_eq!(asked(None, None).query().unwrap().limit, DEFAULT_LIMIT);
        assert_eq!(asked(Some("7"), None).query().unwrap().before, Some(7));
        for (before, limit) in [(Some("x"), None), (Some("-1"), None), (None, Some("101"))] {
            assert!(asked(before, limit).query().is_err());
        }
    }

    #[test]
    fn cursors_go_on_where_the_page_ended() {
        assert_eq!(parse_cursor("b12"), Some((Some(12), None)));
        assert_eq!(parse_cursor("a12"), Some((None, Some(12))));
        assert_eq!(parse_cursor("c12"), None);
        assert_eq!(parse_cursor("é"), None);
    }
}
