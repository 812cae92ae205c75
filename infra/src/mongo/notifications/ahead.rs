//! What came ahead of what it is about.
//!
//! A mark may come before its notification, an erasure before what the person did, a post before a wish that is older. That
//! is rare: topics are read side by side, so what is first in the log is mostly first here. What does come ahead is noted.
//! Whoever inserts notifications looks at the notes, once for a thousand of them, instead of looking for every fact there
//! might be; whoever inserts wishes looks at how far announcements reach.
//!
//! That somebody wrote their own side before they looked at the other holds for notes, too: a mark that does not find its
//! notification is noted, then looks again. A note may stay behind; it costs a look-up, and says nothing by itself.

use std::collections::HashSet;

use futures::TryStreamExt;
use mongodb::bson::{doc, oid::ObjectId};
use serde::{Deserialize, Serialize};

use super::{
    documents::{Announcement, ERASED, Facts},
    tables::Tables,
};
use crate::mongo::connection::Fault;

/// If there are so many notes, facts are looked up one by one after all.
const NOTES: i64 = 4_000;

/// That a fact may be ahead of notifications: those of an erased person for ever, a mark until its notification is there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Note {
    /// The fact's.
    #[serde(rename = "_id")]
    pub id: String,
}

/// How far the announcements of a batch reach. It is there before they are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Reach {
    #[serde(rename = "_id")]
    id: String,
    position: i64,
}

impl Reach {
    /// Of some announcements; none where there are none.
    pub(super) fn of(announced: &[Announcement]) -> Option<Self> {
        let position = announced.iter().map(|post| post.position).max()?;
        Some(Self {
            id: ObjectId::new().to_hex(),
            position,
        })
    }
}

impl Tables {
    /// Notes that facts are ahead. They are inserted already.
    pub(super) async fn note(&self, facts: impl IntoIterator<Item = String>) -> Result<(), Fault> {
        let notes: Vec<_> = facts.into_iter().map(|id| Note { id }).collect();
        self.access
            .insert_new(&self.ahead, &notes)
            .await
            .map(|_| ())
    }

    /// The facts of which there are notes; none when there are too many of them.
    pub(super) async fn noted(&self) -> Result<Option<Facts>, Fault> {
        let found: Vec<Note> = self
            .access
            .write(async {
                let found = self.ahead.find(doc! {}).limit(NOTES);
                found.await?.try_collect().await
            })
            .await?;
        let all = i64::try_from(found.len()).is_ok_and(|count| count < NOTES);
        Ok(all.then(|| found.into_iter().map(|note| note.id).collect()))
    }

    /// Those of some people who are erased.
    pub(super) async fn erased_of<'p>(
        &self,
        people: &HashSet<&'p str>,
    ) -> Result<HashSet<&'p str>, Fault> {
        let facts = if let Some(noted) = self.noted().await? {
            noted
        } else {
            let ids = people.iter().map(|person| (*person).to_owned()).collect();
            self.facts_about(&self.facts, &ids).await?
        };
        let people = people.iter().copied();
        Ok(people.filter(|person| facts.say(ERASED, person)).collect())
    }

    /// Removes the notes of marks whose notification is there and says what the facts say.
    pub(super) async fn forget(&self, marks: &HashSet<String>) -> Result<(), Fault> {
        self.access.delete_ids(&self.ahead, marks).await
    }

    /// Says how far announcements will reach, before they are inserted.
    pub(super) async fn will_reach(&self, reach: Option<&Reach>) -> Result<(), Fault> {
        if let Some(reach) = reach {
            self.access.insert_one(&self.reach, reach).await?;
        }
        Ok(())
    }

    /// How far the announcements reach that are not of this batch. The batch's wishes are inserted already.
    pub(super) async fn reach_of_others(&self, own: Option<&Reach>) -> Result<i64, Fault> {
        let found = self.access.find_all(&self.reach, doc! {}).await?;
        let others = found
            .iter()
            .filter(|reach| own.is_none_or(|own| own.id != reach.id));
        Ok(others.map(|reach| reach.position).max().unwrap_or_default())
    }

    /// Removes what reaches less far: this one says it, too.
    pub(super) async fn has_reached(&self, own: Option<Reach>) -> Result<(), Fault> {
        let Some(own) = own else { return Ok(()) };
        let lower = doc! { "position": { "$lt": own.position } };
        self.access
            .write(self.reach.delete_many(lower))
            .await
            .map(|_| ())
    }
}
