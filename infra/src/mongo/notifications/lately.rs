//! What one writer has told not long ago.
//!
//! Who takes a like back and likes again is not told of anew: the notification is there. MongoDB says so at once. FerretDB
//! 1.24, given a hundred documents of which one is there already, begins again and inserts each by itself, with a commit for
//! each, so that one restless thumb in a hundred costs as much as a hundred inserts.

use std::{collections::HashSet, mem};

use parking_lot::Mutex;
use uuid::Uuid;

use super::documents::Told;

/// So many are remembered at least, once there were so many; at most twice as many, in about 5 MB.
const REMEMBERED: usize = 100_000;

/// The notifications that a writer has brought to their end lately: inserted, and settled with every fact that was there.
/// Whoever brings a fact about one later looks at it by themselves, so nothing is left to be done for one that is told again.
///
/// Only of those that events tell by themselves. Where wishes decide, telling it again is how a wish that came late is heard.
#[derive(Debug, Default)]
pub(super) struct Lately(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    young: HashSet<Uuid>,
    old: HashSet<Uuid>,
}

impl Lately {
    /// Leaves out what was told lately. Answers what is to be remembered of the rest, once that is told.
    pub(super) fn leave_out(&self, told: &mut Vec<Told>) -> Vec<Uuid> {
        let remembered = self.0.lock();
        let mut fresh = Vec::new();
        told.retain(|told| match id_of(told) {
            Some(id) if remembered.knows(id) => false,
            id => {
                fresh.extend(id);
                true
            }
        });
        fresh
    }

    /// What was told may not be there any more.
    pub(super) fn forget(&self) {
        *self.0.lock() = Remembered::default();
    }

    /// These have been told now, and settled.
    pub(super) fn remember(&self, ids: impl IntoIterator<Item = Uuid>) {
        let mut remembered = self.0.lock();
        for id in ids {
            remembered.add(id);
        }
    }
}

impl Remembered {
    fn knows(&self, id: Uuid) -> bool {
        self.young.contains(&id) || self.old.contains(&id)
    }

    fn add(&mut self, id: Uuid) {
        if self.young.len() >= REMEMBERED {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(id);
    }
}

/// The id of a notification that may be left out when it was told before.
fn id_of(told: &Told) -> Option<Uuid> {
    (!told.is_by_wish()).then_some(())?;
    told.id.parse().ok()
}

#[cfg(test)]
mod tests {
    use socialhub_domain::{PostId, Timestamp, UserId};
    use socialhub_projections::notifications::{About, Notice};

    use super::*;

    fn told(about: About) -> Told {
        let notice = Notice {
            recipient: UserId(Uuid::from_u128(1)),
            about,
            username: "ada".to_owned(),
            at: Timestamp(1),
        };
        Told::new(1, &notice)
    }

    fn like() -> Told {
        told(About::Like {
            post: PostId(Uuid::from_u128(2)),
            liker: UserId(Uuid::from_u128(3)),
        })
    }

    fn new_post() -> Told {
        told(About::NewPost {
            post: PostId(Uuid::from_u128(2)),
            author: UserId(Uuid::from_u128(3)),
        })
    }

    fn remember(lately: &Lately, told: Told) {
        let fresh = lately.leave_out(&mut vec![told]);
        lately.remember(fresh);
    }

    fn left(lately: &Lately, mut told: Vec<Told>) -> usize {
        lately.leave_out(&mut told);
        told.len()
    }

    #[test]
    fn what_was_told_is_left_out_once_it_was() {
        let lately = Lately::default();
        assert_eq!(left(&lately, vec![like()]), 1);
        remember(&lately, like());
        assert_eq!(left(&lately, vec![like()]), 0);
    }

    #[test]
    fn what_wishes_decide_is_told_each_time() {
        let lately = Lately::default();
        remember(&lately, new_post());
        assert_eq!(left(&lately, vec![new_post()]), 1);
    }

    #[test]
    fn what_is_long_ago_is_forgotten_and_no_more_than_that() {
        let lately = Lately::default();
        remember(&lately, like());
        lately.remember((0..REMEMBERED as u128).map(Uuid::from_u128));
        assert_eq!(left(&lately, vec![like()]), 0);
        lately.remember((0..2 * REMEMBERED as u128).map(|n| Uuid::from_u128(n + 9_000_000)));
        assert_eq!(left(&lately, vec![like()]), 1);
        let remembered = lately.0.lock();
        assert!(remembered.young.len() + remembered.old.len() <= 2 * REMEMBERED);
    }
}
