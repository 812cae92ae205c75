//! Reading ahead.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::part::{Page, Part, PartError};

/// Pages that wait while one is handled: reading and writing go on at the same time, in bounded memory.
const AHEAD: usize = 2;

/// The pages of a part after a cursor, until its end. Reading ends when nobody takes them any more.
pub(super) fn pages(
    part: Arc<dyn Part>,
    mut cursor: String,
) -> mpsc::Receiver<Result<Page, PartError>> {
    let (sender, pages) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        loop {
            let page = match part.read(&cursor).await {
                Ok(None) => return,
                Ok(Some(page)) => Ok(page),
                Err(error) => Err(error),
            };
            let last = page.is_err();
            if let Ok(page) = &page {
                page.cursor.clone_into(&mut cursor);
            }
            if sender.send(page).await.is_err() || last {
                return;
            }
        }
    });
    pages
}

/// Text in pieces of so many lines.
pub(super) fn pieces(text: &[u8], lines: usize) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let ends = rest.iter().enumerate();
        let mut ends = ends.filter(|(_, byte)| **byte == b'\n');
        let end = match ends.nth(lines.max(1) - 1) {
            Some((at, _)) => at + 1,
            None => rest.len(),
        };
        let (piece, left) = rest.split_at(end);
        rest = left;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::pieces;

    #[test]
    fn text_is_cut_after_lines() {
        let cut = |lines| pieces(b"a\nbb\nc\n", lines).collect::<Vec<_>>();
        assert_eq!(cut(1), [&b"a\n"[..], b"bb\n", b"c\n"]);
        assert_eq!(cut(2), [&b"a\nbb\n"[..], b"c\n"]);
        assert_eq!(cut(3), [&b"a\nbb\nc\n"[..]]);
        assert_eq!(pieces(b"", 2).count(), 0);
    }
}
