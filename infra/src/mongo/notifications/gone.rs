//! What is known to be gone, without asking for each.
//!
//! A like may come after its post's deletion, so whoever tells of likes has to know what is gone; and to ask for the posts and
//! comments of every batch costs the more, the more is gone. So deletions are listed, too: a part of the list is a document
//! with the next number, inserted by whoever finds that number free. A writer that has read the first hundred parts and does
//! not find a hundred-and-first knows everything that is gone.
//!
//! Whoever deletes lists it, then looks for the notifications about it; whoever tells inserts the notifications, then looks
//! whether the list has grown. So whoever is second sees both.

use std::collections::HashSet;

use mongodb::bson::doc;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    documents::{GONE, Told},
    tables::Tables,
};
use crate::mongo::{access::INSERT, connection::Fault};

/// If more is gone, it is asked for after all: so much takes about 15 MB.
const KNOWN: usize = 400_000;

/// How many go into one part: a thousand parts are read at once.
const PART: usize = 200;

/// A part of the list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Part {
    /// Its number, from 1 on without a gap.
    #[serde(rename = "_id")]
    id: String,
    /// Posts and comments.
    pub gone: Vec<String>,
}

impl Part {
    /// None for what was never made here.
    pub(super) fn number(&self) -> Option<u64> {
        self.id.parse().ok()
    }
}

/// What a writer has read of the list.
#[derive(Debug, Default)]
pub(super) struct Gone(Mutex<Read>);

#[derive(Debug, Default)]
struct Read {
    /// Whether the list as it was then was read to its end.
    begun: bool,
    /// How many parts. Of later ones some may have been read already, too.
    parts: u64,
    gone: HashSet<Uuid>,
    /// Whether that was more than is kept.
    too_many: bool,
}

impl Read {
    fn add(&mut self, number: u64, gone: impl IntoIterator<Item = Uuid>) {
        if number == self.parts + 1 {
            self.parts = number;
        }
        if !self.too_many {
            self.gone.extend(gone);
            self.too_many = self.gone.len() > KNOWN;
        }
        if self.too_many {
            self.gone = HashSet::new();
        }
    }
}

impl Gone {
    fn parts(&self) -> u64 {
        self.0.lock().parts
    }

    /// What is no part, or no id, says nothing: no event is to blame for it.
    fn add(&self, part: &Part) {
        if let Some(number) = part.number() {
            let gone = part.gone.iter().filter_map(|id| id.parse().ok());
            self.0.lock().add(number, gone);
        }
    }

    /// Those of some ids that were read.
    pub(super) fn among<'i>(&self, ids: impl IntoIterator<Item = &'i str>) -> Known {
        let read = self.0.lock();
        let is_gone = |id: &&str| id.parse().is_ok_and(|id| read.gone.contains(&id));
        Known {
            parts: read.parts,
            gone: ids.into_iter().filter(is_gone).map(str::to_owned).collect(),
            is_all: !read.too_many,
        }
    }

    /// The list may not be what it was.
    pub(super) fn forget(&self) {
        *self.0.lock() = Read::default();
    }
}

/// What is known of some ids.
pub(super) struct Known {
    /// How many parts of the list say so.
    parts: u64,
    pub gone: HashSet<String>,
    /// Not so when there is too much to be kept.
    is_all: bool,
}

/// What a notification is about: where one of these is gone, so is the notification.
pub(super) fn subjects(told: &Told) -> impl Iterator<Item = &str> {
    [&told.post, &told.comment]
        .into_iter()
        .flatten()
        .map(String::as_str)
}

impl Tables {
    /// Lists what is gone, as far as it is not listed yet. The facts are inserted already.
    pub(super) async fn list_as_gone(&self, ids: Vec<String>) -> Result<(), Fault> {
        for ids in ids.chunks(PART) {
            loop {
                let parts = self.read_on().await?;
                let listed = self.gone.among(ids.iter().map(String::as_str));
                let mut missing = ids.to_vec();
                missing.retain(|id| !listed.gone.contains(id));
                if missing.is_empty() {
                    break;
                }
                let part = Part {
                    id: (parts + 1).to_string(),
                    gone: missing,
                };
                // If somebody else has taken the number, theirs is read first.
                if self.access.insert_one(&self.list, &part).await? {
                    self.gone.add(&part);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes off the list what never was gone.
    pub(super) async fn unlist(&self, ids: &HashSet<String>) -> Result<(), Fault> {
        if ids.is_empty() {
            return Ok(());
        }
        let all = self.access.find_all(&self.list, doc! {}).await?;
        for mut part in all {
            let listed = part.gone.len();
            part.gone.retain(|id| !ids.contains(id));
            if part.gone.len() < listed {
                let same = doc! { "_id": &part.id };
                self.access
                    .write(self.list.replace_one(same, &part))
                    .await?;
            }
        }
        Ok(())
    }

    /// Reads what was added to the list; answers how many parts it has.
    async fn read_on(&self) -> Result<u64, Fault> {
        let begun = self.gone.0.lock().begun;
        if !begun {
            self.read_list().await?;
        }
        loop {
            let parts = self.gone.parts();
            let next = doc! { "_id": (parts + 1).to_string() };
            let Some(part) = self.access.write(self.list.find_one(next)).await? else {
                return Ok(parts);
            };
            self.gone.add(&part);
        }
    }

    async fn read_list(&self) -> Result<(), Fault> {
        let mut all = self.access.write(self.list.find(doc! {})).await?;
        loop {
            let some = self.access.some_of(&mut all).await?;
            some.iter().for_each(|part| self.gone.add(part));
            if some.len() < INSERT {
                self.gone.0.lock().begun = true;
                return Ok(());
            }
        }
    }

    /// Those of some posts and comments that are gone.
    pub(super) async fn gone_among(&self, ids: &HashSet<String>) -> Result<HashSet<String>, Fault> {
        if ids.is_empty() {
            return Ok(HashSet::new());
        }
        loop {
            let parts = self.read_on().await?;
            let known = self.gone.among(ids.iter().map(String::as_str));
            if known.parts < parts {
                // Somebody has found that the store went back in time.
                continue;
            }
            if known.is_all {
                return Ok(known.gone);
            }
            let facts = self.facts_about(&self.facts, ids).await?;
            let gone = ids.iter().filter(|id| facts.say(GONE, id));
            return Ok(gone.cloned().collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: usize, gone: &[u128]) -> Part {
        Part {
            id: number.to_string(),
            gone: gone
                .iter()
                .map(|id| Uuid::from_u128(*id).to_string())
                .collect(),
        }
    }

    fn are_gone(gone: &Gone, ids: [u128; 2]) -> Option<usize> {
        let ids = ids.map(|id| Uuid::from_u128(id).to_string());
        let known = gone.among(ids.iter().map(String::as_str));
        known.is_all.then_some(known.gone.len())
    }

    #[test]
    fn parts_count_as_far_as_there_is_no_gap() {
        let gone = Gone::default();
        gone.add(&part(1, &[1]));
        gone.add(&part(3, &[3]));
        assert_eq!(gone.parts(), 1);
        assert_eq!(are_gone(&gone, [1, 3]), Some(2));
        assert_eq!(are_gone(&gone, [1, 2]), Some(1));
        gone.add(&part(2, &[2]));
        gone.add(&part(3, &[3]));
        assert_eq!(gone.parts(), 3);
        gone.forget();
        assert_eq!((gone.parts(), are_gone(&gone, [1, 3])), (0, Some(0)));
    }

    #[test]
    fn what_is_too_much_to_be_kept_is_not_known() {
        let gone = Gone::default();
        let many: Vec<u128> = (0..=KNOWN as u128).collect();
        gone.add(&part(1, &many));
        gone.add(&part(2, &[7]));
        assert_eq!((gone.parts(), are_gone(&gone, [1, 7])), (2, None));
    }

    #[test]
    fn what_is_no_part_says_nothing() {
        let gone = Gone::default();
        gone.add(&Part {
            id: "x".to_owned(),
            ..part(1, &[1])
        });
        assert_eq!((gone.parts(), are_gone(&gone, [1, 2])), (0, Some(0)));
        let mut odd = part(1, &[1]);
        odd.gone.push("y".to_owned());
        gone.add(&odd);
        assert_eq!((gone.parts(), are_gone(&gone, [1, 2])), (1, Some(1)));
    }
}
