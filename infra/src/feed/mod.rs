//! What the stores of the `feed` model have in common.

pub(crate) mod gather;

use socialhub_domain::event::Media;
use socialhub_projections::{PageRequest, feed::PersonSummary, page::PageStart};
use uuid::Uuid;

/// Pages by number that begin further down are first checked against how much there can be.
pub(crate) const FAR_DOWN: u64 = 2_000;

/// Lower case letter by letter, so that the start of a text becomes the start of its lower case.
pub(crate) fn lower(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// The files of a post as JSON; none when it has none.
pub(crate) fn media_text(media: &[Media]) -> Option<String> {
    if media.is_empty() {
        return None;
    }
    serde_json::to_string(media).ok()
}

/// The key of a page of a search that ends with somebody, whose username in lower case stands beside them.
pub(crate) fn search_key((person, username): &(PersonSummary, String)) -> String {
    format!("{username}/{}", person.id)
}

/// The username in lower case and the id that a page of a search starts after; before everybody for the first page, and
/// for a key that cannot be read.
pub(crate) fn search_start(page: &PageRequest) -> (String, Uuid) {
    let PageStart::After(key) = &page.start else {
        return (String::new(), Uuid::nil());
    };
    // Not every store has texts with that character, and no username has it.
    let parts = key.rsplit_once('/').filter(|_| !key.contains('\0'));
    parts
        .and_then(|(name, id)| Some((name.to_owned(), id.parse().ok()?)))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use socialhub_domain::UserId;

    use super::*;

    #[test]
    fn a_key_is_where_the_next_page_starts_and_nonsense_is_the_first() {
        let id = Uuid::from_u128(7);
        let person = PersonSummary {
            id: UserId(id),
            username: "A/b".to_owned(),
            name: "Ab".to_owned(),
            avatar: None,
        };
        let after = |key: &str| PageRequest {
            limit: 10,
            start: PageStart::After(key.to_owned()),
        };
        let key = search_key(&(person, "a/b".to_owned()));
        assert_eq!(search_start(&after(&key)), ("a/b".to_owned(), id));
        let first = (String::new(), Uuid::nil());
        assert_eq!(search_start(&PageRequest::first(10)), first);
        for nonsense in ["", "a", "a/b", &format!("a\0/{id}")] {
            assert_eq!(search_start(&after(nonsense)), first, "{nonsense:?}");
        }
    }
}
