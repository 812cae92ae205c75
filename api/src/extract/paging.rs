//! Pages of lists: `limit`, and `page` or `cursor`; and how a page is answered.

use axum::extract::{FromRequestParts, Query};
use http::{Uri, request::Parts};
use socialhub_projections::page::{PageRequest, PageStart};
use utoipa::IntoParams;

use crate::{
    error::{ApiError, BadField},
    sign::Signer,
    state::App,
};

/// Items of a page when the client does not say.
const LIMIT_DEFAULT: usize = 20;
/// The most items of a page.
const LIMIT_MAX: u64 = 100;
/// The highest page number; beyond it one must use cursors.
const PAGE_MAX: u64 = 1_000_000;

/// How lists are asked for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query for the OpenAPI document")]
pub(crate) struct PageParams {
    /// How many items, 1 to 100; 20 when left out.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// The page by number, from 1. Not together with `cursor`.
    #[param(minimum = 1, maximum = 1_000_000)]
    page: Option<u32>,
    /// The `nextCursor` of the page before (preferred: it neither skips nor repeats items).
    cursor: Option<String>,
}

/// The decoded query of a request.
pub(crate) struct ListQuery {
    uri: Uri,
    pairs: Vec<(String, String)>,
}

impl FromRequestParts<App> for ListQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        let pairs = Query::try_from_uri(&parts.uri)
            .map_err(|_| ApiError::bad_field("query", "cannot be read"))?
            .0;
        Ok(Self {
            uri: parts.uri.clone(),
            pairs,
        })
    }
}

/// A list: its kind and what it is a list of. Cursors of one do not fit another.
#[derive(Debug, Clone)]
pub(crate) struct List {
    /// The kind, e.g. `followers`.
    pub kind: &'static str,
    /// Whose, or the filter.
    pub scope: String,
}

impl List {
    pub(crate) fn new(kind: &'static str, scope: impl Into<String>) -> Self {
        Self {
            kind,
            scope: scope.into(),
        }
    }
}

impl ListQuery {
    /// A query parameter. One given twice is bad, since it is not clear which counts.
    pub(crate) fn get(&self, name: &str) -> Result<Option<&str>, BadField> {
        let mut values = self.pairs.iter().filter(|(key, _)| key == name);
        let first = values.next().map(|(_, value)| value.as_str());
        if values.next().is_some() {
            return Err(bad(name, "must be given once"));
        }
        Ok(first)
    }

    /// A truth value of the query; no when left out.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        let wrong = |field| ApiError::invalid(vec![field]);
        match self.get(name).map_err(wrong)? {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(wrong(bad(name, "must be true or false"))),
        }
    }

    /// The page that is asked for.
    pub(crate) fn page(&self, signer: &Signer, list: &List) -> Result<PageRequest, ApiError> {
        let limit = self.number("limit", LIMIT_MAX);
        let start = self.start(signer, list);
        match (limit, start) {
            (Ok(limit), Ok(start)) => Ok(PageRequest {
                limit: limit
                    .and_then(|limit| usize::try_from(limit).ok())
                    .unwrap_or(LIMIT_DEFAULT),
                start,
            }),
            (limit, start) => Err(ApiError::invalid(
                [limit.err(), start.err()].into_iter().flatten().collect(),
            )),
        }
    }

    fn start(&self, signer: &Signer, list: &List) -> Result<PageStart, BadField> {
        match (self.number("page", PAGE_MAX)?, self.get("cursor")?) {
            (Some(_), Some(_)) => Err(bad("cursor", "cannot be used together with page")),
            (page, None) => Ok(PageStart::Page(page.unwrap_or(1))),
            (None, Some(cursor)) => signer
                .unseal(list.kind, &list.scope, cursor)
                .map(PageStart::After)
                .ok_or_else(|| bad("cursor", "is not a cursor of this list")),
        }
    }

    fn number(&self, name: &str, most: u64) -> Result<Option<u64>, BadField> {
        let Some(text) = self.get(name)? else {
            return Ok(None);
        };
        // `parse` alone would take a leading plus sign.
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && (1..=most).contains(&number) => Ok(Some(number)),
            _ => Err(bad(
                name,
                &format!("must be a whole number from 1 to {most}"),
            )),
        }
    }

    /// The address of the page after `cursor`: this request's own, other parameters as they were.
    pub(crate) fn next_link(&self, cursor: &str) -> String {
        let mut link = format!("<{}?", self.uri.path());
        for pair in self.uri.query().unwrap_or_default().split('&') {
            let name = pair.split('=').next().unwrap_or_default();
            if !pair.is_empty() && name != "cursor" && name != "page" {
                link.push_str(pair);
                link.push('&');
            }
        }
        link.push_str("cursor=");
        link.push_str(cursor);
        link.push_str(">; rel=\"next\"");
        link
    }
}

fn bad(field: &str, message: &str) -> BadField {
    BadField {
        field: field.to_owned(),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(uri: &str) -> ListQuery {
        let uri: Uri = uri.parse().unwrap();
        let pairs = Query::try_from_uri(&uri).unwrap().0;
        ListQuery { uri, pairs }
    }

    fn page(uri: &str) -> Result<PageRequest, ApiError> {
        query(uri).page(&Signer::new(&[1; 32]), &List::new("feed", ""))
    }

    #[test]
    fn limits_have_bounds() {
        assert_eq!(page("/feed").unwrap(), PageRequest::first(20));
        assert_eq!(page("/feed?limit=100").unwrap().limit, 100);
        for bad in [
            "0",
            "101",
            "-1",
            "%2B5",
            "x",
            "",
            "1e3",
            "99999999999999999999",
        ] {
            assert!(page(&format!("/feed?limit={bad}")).is_err(), "{bad}");
        }
        assert!(page("/feed?limit=5&limit=6").is_err());
    }

    #[test]
    fn a_page_is_a_number_or_a_cursor() {
        let signer = Signer::new(&[1; 32]);
        let cursor = signer.seal("feed", "", "17");
        assert_eq!(page("/feed?page=3").unwrap().start, PageStart::Page(3));
        assert_eq!(
            page(&format!("/feed?cursor={cursor}")).unwrap().start,
            PageStart::After("17".to_owned())
        );
        assert!(page(&format!("/feed?page=1&cursor={cursor}")).is_err());
        assert!(page("/feed?page=0").is_err());
        assert!(page("/feed?cursor=").is_err());
    }

    #[test]
    fn the_next_link_keeps_the_other_parameters() {
        let link = query("/users/search?q=a%20b&page=2&limit=5&cursor=old").next_link("new");
        assert_eq!(
            link,
            "</users/search?q=a%20b&limit=5&cursor=new>; rel=\"next\""
        );
        assert_eq!(
            query("/feed").next_link("c"),
            "</feed?cursor=c>; rel=\"next\""
        );
    }
}
