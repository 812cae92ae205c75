//! The collections of one generation, and what every generation keeps beside its model: checkpoints, letters, writers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use mongodb::{
    Collection, IndexModel,
    bson::{Document, doc},
    error::{Error, ErrorKind},
};
use serde::{Deserialize, Serialize};
use socialhub_domain::Timestamp;
use socialhub_event_log::Position;
use socialhub_projections::{
    Checkpoint, GenerationId, ParkedLetter, Source,
    record::SequenceKey,
    store::{Attempts, ParkedSequence},
};

use super::{
    ahead::{Note, Reach},
    documents::{Announcement, Fact, ReadUpTo, Told, Wish, parse},
    gone::{Gone, Part},
    lately::Lately,
    perhaps::PerhapsTold,
};
use crate::mongo::{
    access::{Access, SIDE_BY_SIDE},
    connection::{Fault, from_stored, to_stored},
};

/// The names of the collections, without the generation's number. What lists are read from goes first when a generation
/// is dropped: nobody sees a notification without what was made of it.
const NAMES: [&str; 12] = [
    "notifications",
    "announcements",
    "wishes",
    "facts",
    "marks",
    "gone",
    "read_up_to",
    "ahead",
    "reach",
    "checkpoints",
    "letters",
    "writers",
];

/// A writer that was not heard of for this long is gone, in milliseconds.
const WRITER_GONE: i64 = 10_000;

/// The code of "there is a collection of that name".
const NAMESPACE_EXISTS: i32 = 48;

/// The collections of one generation.
#[derive(Clone)]
pub(in crate::mongo) struct Tables {
    pub(super) access: Access,
    id: GenerationId,
    pub(super) notifications: Collection<Told>,
    pub(super) announcements: Collection<Announcement>,
    pub(super) wishes: Collection<Wish>,
    /// What is gone, and who is erased.
    pub(super) facts: Collection<Fact>,
    /// What was read or removed by its owner: many more, and most of them are never asked for.
    pub(super) marks: Collection<Fact>,
    /// The list of what is gone.
    pub(super) list: Collection<Part>,
    pub(super) read_up_to: Collection<ReadUpTo>,
    pub(super) ahead: Collection<Note>,
    pub(super) reach: Collection<Reach>,
    checkpoints: Collection<StoredCheckpoint>,
    letters: Collection<StoredLetter>,
    writers: Collection<Document>,
    /// What whoever writes by these tables and their clones has told, and has read of what is gone.
    pub(super) lately: Arc<Lately>,
    pub(super) perhaps: Arc<PerhapsTold>,
    pub(super) gone: Arc<Gone>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredCheckpoint {
    #[serde(rename = "_id")]
    id: String,
    source: String,
    partition: i32,
    position: i64,
    event_id: String,
    next_offset: Option<i64>,
    #[serde(default)]
    partitions: Option<i32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredLetter {
    #[serde(rename = "_id")]
    position: i64,
    event_id: String,
    topic: String,
    key: String,
    raw: String,
    reason: String,
    attempts: i64,
    parked_at: i64,
}

/// Of a letter what tells where it belongs.
#[derive(Debug, Clone, Deserialize)]
struct LetterOutline {
    #[serde(rename = "_id")]
    position: i64,
    topic: String,
    key: String,
    attempts: i64,
}

impl LetterOutline {
    fn parts(self) -> (Position, SequenceKey, u32) {
        let sequence = SequenceKey {
            topic: self.topic,
            key: self.key,
        };
        let attempts = u32::try_from(self.attempts).unwrap_or(u32::MAX);
        (from_stored(self.position), sequence, attempts)
    }
}

impl StoredCheckpoint {
    fn new(checkpoint: &Checkpoint) -> Self {
        Self {
            id: format!("{}/{}", checkpoint.source, checkpoint.position),
            source: checkpoint.source.name.clone(),
            partition: checkpoint.source.partition,
            position: to_stored(checkpoint.position),
            event_id: checkpoint.event_id.to_string(),
            next_offset: checkpoint.next_offset,
            partitions: checkpoint.partitions,
        }
    }
}

impl StoredLetter {
    fn new(letter: &ParkedLetter) -> Self {
        Self {
            position: to_stored(letter.position),
            event_id: letter.event_id.to_string(),
            topic: letter.topic.clone(),
            key: letter.key.clone(),
            raw: letter.raw.clone(),
            reason: letter.reason.clone(),
            attempts: i64::from(letter.attempts),
            parked_at: letter.parked_at.0,
        }
    }

    fn letter(self) -> Result<ParkedLetter, Fault> {
        Ok(ParkedLetter {
            position: from_stored(self.position),
            event_id: parse(&self.event_id)?,
            topic: self.topic,
            key: self.key,
            raw: self.raw,
            reason: self.reason,
            attempts: u32::try_from(self.attempts).unwrap_or(u32::MAX),
            parked_at: Timestamp(self.parked_at),
        })
    }
}

/// How often a source's records have been tried.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredAttempts {
    #[serde(rename = "_id")]
    id: String,
    attempt_of: String,
    tried: Vec<StoredAttempt>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredAttempt {
    position: i64,
    tries: i64,
}

impl StoredAttempts {
    fn new(source: &Source, attempts: &Attempts) -> Self {
        let tried = attempts.iter().map(|(position, tries)| StoredAttempt {
            position: to_stored(*position),
            tries: i64::from(*tries),
        });
        Self {
            id: Self::id(source),
            attempt_of: source.to_string(),
            tried: tried.collect(),
        }
    }

    fn id(source: &Source) -> String {
        format!("attempts/{source}")
    }

    fn attempts(self) -> Attempts {
        let known = self.tried.into_iter().map(|tried| {
            let tries = u32::try_from(tried.tries).unwrap_or(u32::MAX);
            (from_stored(tried.position), tries)
        });
        known.collect()
    }
}

fn collection_name(name: &str, id: GenerationId) -> String {
    format!("{name}_{id}")
}

impl Tables {
    pub(in crate::mongo) fn new(access: &Access, id: GenerationId) -> Self {
        let (database, name) = (&access.database, |name| collection_name(name, id));
        Self {
            access: access.apart(),
            id,
            notifications: database.collection(&name("notifications")),
            announcements: database.collection(&name("announcements")),
            wishes: database.collection(&name("wishes")),
            facts: database.collection(&name("facts")),
            marks: database.collection(&name("marks")),
            list: database.collection(&name("gone")),
            read_up_to: database.collection(&name("read_up_to")),
            ahead: database.collection(&name("ahead")),
            reach: database.collection(&name("reach")),
            checkpoints: database.collection(&name("checkpoints")),
            letters: database.collection(&name("letters")),
            writers: database.collection(&name("writers")),
            lately: Arc::default(),
            perhaps: Arc::default(),
            gone: Arc::default(),
        }
    }

    /// The generations that have any collection in a database.
    pub(in crate::mongo) async fn all_in(access: &Access) -> Result<BTreeSet<GenerationId>, Fault> {
        let names = access
            .write(access.database.list_collection_names())
            .await?;
        let number = |name: &String| {
            let (name, number) = name.rsplit_once('_')?;
            NAMES.contains(&name).then_some(number)?.parse().ok()
        };
        Ok(names.iter().filter_map(number).map(GenerationId).collect())
    }

    /// Makes what is not there of collections and indexes.
    pub(in crate::mongo) async fn prepare(&self) -> Result<(), Fault> {
        let there = self
            .access
            .write(self.access.database.list_collection_names())
            .await?;
        let missing: Vec<_> = NAMES
            .iter()
            .map(|name| collection_name(name, self.id))
            .filter(|name| !there.contains(name))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        for name in missing {
            let making = self.access.database.create_collection(name).into_future();
            let made = making.map(|made| match made {
                Err(error) if is_there(&error) => Ok(()),
                made => made,
            });
            self.access.write(made).await?;
        }
        let index = |keys| IndexModel::builder().keys(keys).build();
        let list = index(doc! { "user": 1, "shown": 1, "position": -1, "read": 1 });
        self.access
            .write(self.notifications.create_index(list))
            .await?;
        let of_actor = index(doc! { "actor": 1 });
        self.access
            .write(self.notifications.create_index(of_actor))
            .await?;
        if self.access.lists_read_all().await? {
            // Where a range of ids is not looked up, either.
            let of_post = index(doc! { "post": 1 });
            self.access
                .write(self.notifications.create_index(of_post))
                .await?;
        }
        let of_author = index(doc! { "author": 1, "position": 1 });
        self.access
            .write(self.announcements.create_index(of_author))
            .await?;
        let of_pair = index(doc! { "author": 1, "follower": 1, "position": 1 });
        self.access.write(self.wishes.create_index(of_pair)).await?;
        for facts in [&self.facts, &self.marks] {
            let about = index(doc! { "about": 1 });
            self.access.write(facts.create_index(about)).await?;
        }
        let of_user = index(doc! { "user": 1, "up_to": -1 });
        self.access
            .write(self.read_up_to.create_index(of_user))
            .await?;
        Ok(())
    }

    /// Forgets what was told, and what is gone.
    pub(super) fn start_afresh(&self) {
        self.lately.forget();
        self.gone.forget();
    }

    pub(in crate::mongo) async fn drop_all(&self) -> Result<(), Fault> {
        for name in NAMES {
            let name = collection_name(name, self.id);
            self.access
                .write(self.access.database.collection::<Document>(&name).drop())
                .await?;
        }
        Ok(())
    }

    /// Bytes on disk, as far as the server says.
    pub(in crate::mongo) async fn bytes(&self) -> u64 {
        let sizes = NAMES.map(|name| async move {
            let name = collection_name(name, self.id);
            // What is not said is no reason to say nothing of the rest.
            self.access.bytes(&name).await.unwrap_or_default()
        });
        let sizes: Vec<_> = stream::iter(sizes).buffered(SIDE_BY_SIDE).collect().await;
        sizes.into_iter().sum()
    }

    pub(in crate::mongo) async fn checkpoints(&self) -> Result<Vec<Checkpoint>, Fault> {
        let mut highest: BTreeMap<(String, i32), StoredCheckpoint> = BTreeMap::new();
        for stored in self.access.find_all(&self.checkpoints, doc! {}).await? {
            let source = (stored.source.clone(), stored.partition);
            match highest.get(&source) {
                Some(known) if known.position >= stored.position => {}
                _ => {
                    highest.insert(source, stored);
                }
            }
        }
        let read = |stored: StoredCheckpoint| {
            Ok(Checkpoint {
                source: Source {
                    name: stored.source,
                    partition: stored.partition,
                },
                position: from_stored(stored.position),
                event_id: parse(&stored.event_id)?,
                next_offset: stored.next_offset,
                partitions: stored.partitions,
            })
        };
        highest.into_values().map(read).collect()
    }

    /// Moves checkpoints forward, never back: each is a document of its own, and the highest counts. An update in place could
    /// be lost to one that began earlier. Answers what finds those that are outdated now.
    pub(in crate::mongo) async fn move_checkpoints(
        &self,
        checkpoints: &[&Checkpoint],
    ) -> Result<Vec<Document>, Fault> {
        let stored: Vec<_> = checkpoints
            .iter()
            .map(|checkpoint| StoredCheckpoint::new(checkpoint))
            .collect();
        self.access.insert_new(&self.checkpoints, &stored).await?;
        let outdated = stored.iter().map(|stored| {
            doc! {
                "source": &stored.source, "partition": stored.partition,
                "position": { "$lt": stored.position },
            }
        });
        Ok(outdated.collect())
    }

    /// Removes checkpoints that others have gone beyond: they say nothing, but are read with them.
    pub(in crate::mongo) async fn remove_checkpoints(
        &self,
        outdated: Vec<Document>,
    ) -> Result<(), Fault> {
        if outdated.is_empty() {
            return Ok(());
        }
        let outdated = doc! { "$or": outdated };
        self.access
            .write(self.checkpoints.delete_many(outdated))
            .await
            .map(|_| ())
    }

    pub(in crate::mongo) async fn letters(&self) -> Result<Vec<ParkedLetter>, Fault> {
        let mut found = self.access.find_all(&self.letters, doc! {}).await?;
        found.sort_by_key(|letter| letter.position);
        found.into_iter().map(StoredLetter::letter).collect()
    }

    /// The sequences of the letters. What the letters hold stays on the server.
    pub(super) async fn parked_sequences(&self) -> Result<Vec<ParkedSequence>, Fault> {
        let outlines = self.letters.clone_with_type::<LetterOutline>();
        let wanted = doc! { "topic": 1, "key": 1, "attempts": 1 };
        let mut found = Vec::new();
        self.access
            .each_part_of(outlines.find(doc! {}).projection(wanted), |part| {
                found.extend(part.into_iter().map(LetterOutline::parts));
                Ok(())
            })
            .await?;
        Ok(ParkedSequence::of(found))
    }

    pub(in crate::mongo) async fn count_letters(&self) -> Result<u64, Fault> {
        self.access
            .write(self.letters.count_documents(doc! {}))
            .await
    }

    /// A letter that is there already stays as it is.
    pub(super) async fn park<'l>(
        &self,
        letters: impl Iterator<Item = &'l ParkedLetter>,
    ) -> Result<(), Fault> {
        let stored: Vec<_> = letters.map(StoredLetter::new).collect();
        self.access
            .insert_new(&self.letters, &stored)
            .await
            .map(|_| ())
    }

    pub(super) async fn has_letter(&self, position: Position) -> Result<bool, Fault> {
        let filter = doc! { "_id": to_stored(position) };
        let found = self.access.write(self.letters.find_one(filter)).await?;
        Ok(found.is_some())
    }

    pub(super) async fn remove_letter(&self, position: Position) -> Result<(), Fault> {
        let filter = doc! { "_id": to_stored(position) };
        self.access
            .write(self.letters.delete_one(filter))
            .await
            .map(|_| ())
    }

    pub(super) async fn set_attempts(
        &self,
        source: &Source,
        attempts: &Attempts,
    ) -> Result<(), Fault> {
        let stored = StoredAttempts::new(source, attempts);
        let all = self.writers.clone_with_type::<StoredAttempts>();
        let filter = doc! { "_id": &stored.id };
        self.access
            .write(all.replace_one(filter, &stored).upsert(true))
            .await
            .map(|_| ())
    }

    pub(super) async fn attempts(&self, source: &Source) -> Result<Attempts, Fault> {
        let all = self.writers.clone_with_type::<StoredAttempts>();
        let filter = doc! { "_id": StoredAttempts::id(source) };
        let found = self.access.write(all.find_one(filter)).await?;
        Ok(found.map_or_else(Attempts::new, StoredAttempts::attempts))
    }

    pub(super) async fn stopped_cleanly(&self, source: &Source) -> Result<bool, Fault> {
        let filter = doc! { "_id": format!("end/{source}") };
        let found = self.access.write(self.writers.find_one(filter)).await?;
        Ok(found.is_none_or(|end| end.get_bool("clean").unwrap_or(true)))
    }

    pub(super) async fn set_stopped_cleanly(
        &self,
        source: &Source,
        clean: bool,
    ) -> Result<(), Fault> {
        if clean {
            self.access
                .write(
                    self.writers
                        .delete_many(doc! { "attempt_of": source.to_string() }),
                )
                .await?;
        }
        let filter = doc! { "_id": format!("end/{source}") };
        let update = doc! { "$set": { "clean": clean } };
        self.access
            .write(self.writers.update_one(filter, update).upsert(true))
            .await
            .map(|_| ())
    }

    /// Says that a writer is there.
    pub(super) async fn writer_is_here(&self, writer: &str, now: i64) -> Result<(), Fault> {
        let update = doc! { "$set": { "seen_at": now, "writer": true } };
        let seen = self
            .writers
            .update_one(doc! { "_id": writer }, update)
            .upsert(true);
        self.access.write(seen).await.map(|_| ())
    }

    /// Says that a writer is no longer there.
    pub(super) async fn writer_has_left(&self, writer: &str) -> Result<(), Fault> {
        self.access
            .write(self.writers.delete_one(doc! { "_id": writer }))
            .await
            .map(|_| ())
    }

    pub(in crate::mongo) async fn has_writer(&self, now: i64) -> Result<bool, Fault> {
        let found: Vec<_> = self
            .access
            .write(async {
                let found = self.writers.find(doc! { "writer": true }).await?;
                found.try_collect().await
            })
            .await?;
        let seen_at = |writer: &Document| writer.get_i64("seen_at").ok();
        let mut seen = found.iter().filter_map(seen_at);
        Ok(seen.any(|at| now - at < WRITER_GONE))
    }
}

fn is_there(error: &Error) -> bool {
    matches!(error.kind.as_ref(), ErrorKind::Command(error) if error.code == NAMESPACE_EXISTS)
}
