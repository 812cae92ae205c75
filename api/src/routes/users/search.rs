//! `GET /users/search`

use axum::{extract::State, response::Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    error::ApiError,
    extract::{
        auth::Signed,
        context::MinPosition,
        paging::{List, ListQuery, PageParams},
    },
    respond::Listing,
    state::App,
    views::Person,
};

/// The longest text to search for, in characters.
const QUERY_MAX: usize = 100;

/// People found.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SearchAnswer {
    /// By username.
    users: Vec<Person>,
    /// The cursor of the next page.
    next_cursor: Option<String>,
}

fn prefix(query: &ListQuery) -> Result<&str, ApiError> {
    let bad = |message: &str| ApiError::bad_field("q", message);
    let text = query
        .get("q")
        .map_err(|field| ApiError::invalid(vec![field]))?
        .ok_or_else(|| bad("is required"))?
        .trim();
    if text.is_empty() || text.contains('\0') || text.chars().count() > QUERY_MAX {
        return Err(bad(&format!("must be 1 to {QUERY_MAX} characters")));
    }
    Ok(text)
}

/// People whose username or name starts with a text.
#[utoipa::path(
    get,
    path = "/users/search",
    tag = "users",
    params(("q" = String, Query, description = "The start of a username or name"), PageParams),
    responses((status = 200, description = "People", body = inline(SearchAnswer))),
    security(("bearer" = []))
)]
pub(crate) async fn search(
    State(app): State<App>,
    Signed(actor): Signed,
    query: ListQuery,
    MinPosition(asked): MinPosition,
) -> Result<Response, ApiError> {
    let prefix = prefix(&query)?;
    let list = List::new("search", prefix);
    let request = query.page(&app.signer, &list)?;
    let models = [&app.models.feed];
    let freshness = app.settle(&models, Some(actor.id), asked).await?;
    let page = app.api.feed.search(prefix, &request).await?;
    let listing = Listing {
        query: &query,
        list: &list,
        freshness,
    };
    let body = SearchAnswer {
        users: page.items.into_iter().map(Person::from).collect(),
        next_cursor: listing.cursor(&app, page.next),
    };
    Ok(listing.answer(body.next_cursor.as_deref(), &body))
}
