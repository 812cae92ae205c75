//! What the server said of the size of collections, and how long that is taken for the same.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// After so many times as long as it is taken for the same, it says nothing any more.
const FORGOTTEN: u32 = 6;

/// How large a collection was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub documents: usize,
    /// On disk.
    pub bytes: u64,
}

/// What was said of one collection.
struct Said {
    size: Size,
    /// When somebody set out to ask who got this answer.
    at: Instant,
    /// When somebody last set out to ask, with or without an answer so far.
    asked: Instant,
}

/// What was said of all of them.
#[derive(Default)]
pub(super) struct Sizes(Mutex<HashMap<String, Said>>);

impl Sizes {
    /// What was said, unless that is forgotten, and whether whoever finds it should ask anew: then they are taken to do so.
    pub(super) fn known(
        &self,
        collection: &str,
        now: Instant,
        holds: impl Fn(Size) -> Duration,
    ) -> Option<(Size, bool)> {
        let mut all = self.0.lock();
        let said = all.get_mut(collection)?;
        let holds = holds(said.size);
        if now.duration_since(said.at) >= holds * FORGOTTEN {
            return None;
        }
        let is_due = now.duration_since(said.asked) >= holds;
        if is_due {
            said.asked = now;
        }
        Some((said.size, is_due))
    }

    /// Keeps an answer to who set out to ask at a moment, unless a later one is known.
    pub(super) fn answered(&self, collection: &str, asked: Instant, size: Size) {
        let mut all = self.0.lock();
        let said = all.entry(collection.to_owned()).or_insert(Said {
            size,
            at: asked,
            asked,
        });
        if asked >= said.at {
            (said.size, said.at) = (size, asked);
        }
    }

    /// Somebody has inserted so many documents: while much is written, a collection soon is not what was said of it.
    pub(super) fn grown(&self, collection: &str, documents: usize) {
        if let Some(said) = self.0.lock().get_mut(collection) {
            said.size.documents = said.size.documents.saturating_add(documents);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLDS: Duration = Duration::from_secs(10);

    fn size(documents: usize) -> Size {
        Size {
            documents,
            bytes: 0,
        }
    }

    #[test]
    fn one_asks_anew_when_it_is_due_and_the_others_go_by_what_was_said() {
        let (sizes, begun) = (Sizes::default(), Instant::now());
        let known = |seconds| sizes.known("c", begun + Duration::from_secs(seconds), |_| HOLDS);
        assert_eq!(known(0), None);
        sizes.answered("c", begun, size(1));
        assert_eq!(known(9), Some((size(1), false)));
        assert_eq!(known(10), Some((size(1), true)));
        assert_eq!(known(11), Some((size(1), false)));
        sizes.answered("c", begun + HOLDS, size(2));
        assert_eq!(known(12), Some((size(2), false)));
        // An answer that was long on its way.
        sizes.answered("c", begun, size(1));
        assert_eq!(known(13), Some((size(2), false)));
        sizes.grown("c", 40);
        sizes.grown("nobody has asked for it", 40);
        assert_eq!(known(14), Some((size(42), false)));
    }

    #[test]
    fn what_is_asked_for_in_vain_is_forgotten() {
        let (sizes, begun) = (Sizes::default(), Instant::now());
        let known = |seconds| sizes.known("c", begun + Duration::from_secs(seconds), |_| HOLDS);
        sizes.answered("c", begun, size(1));
        for tens in 1..6 {
            assert_eq!(known(tens * 10), Some((size(1), true)));
        }
        assert_eq!(known(60), None);
    }
}
