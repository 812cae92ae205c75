//! The store of one generation, as one of its writers sees it.
//!
//! A batch is its effects, then its letters, then its checkpoint; several batches of different partitions are all their
//! effects, then all their letters, then all their checkpoints. Whatever breaks off in between is repeated from the old
//! checkpoint and comes to the same, and so does a batch that two processes write at once, both believing that a partition
//! is theirs. That is why it is enough to look before the effects whether another writer has moved the checkpoint.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use async_trait::async_trait;
use mongodb::bson::{Document, oid::ObjectId};
use parking_lot::Mutex;
use socialhub_event_log::Position;
use socialhub_projections::{
    Checkpoint, GenerationId, ParkedLetter, ReadModelStore, Source, StoreError,
    notifications::{NotificationChange, Notifications},
    projection::Projected,
    runtime::Breather,
    source_position,
    store::{Attempts, ParkedSequence, WriteBatch},
};
use tokio_util::sync::CancellationToken;

use super::{ahead::Reach, tables::Tables, writer::Effects};
use crate::{
    gathering::{Gathering, WriteTogether},
    mongo::{catalogue::BEAT_EVERY, generations::Shared},
};

type Batch = WriteBatch<NotificationChange>;

/// How many groups of batches are written side by side: one is at work at the server while what the other brought is looked
/// through here.
const GROUPS: usize = 2;

/// What a generation was when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mongo) enum Role {
    /// The current one: not written while a fence stands around it, nor once another is current.
    Current,
    /// Being filled, or caught up, to become the current one.
    Aside,
}

/// The store of one generation of the `notifications`.
pub(in crate::mongo) struct MongoNotificationStore {
    shared: Arc<Shared>,
    tables: Tables,
    id: GenerationId,
    role: Role,
    /// The name under which it says that it is there.
    writer: String,
    closed: AtomicBool,
    gathering: Gathering<NotificationChange>,
    /// The version of the catalogue under which it last wrote.
    catalogue: AtomicI64,
    /// How far it has seen each source.
    seen: Mutex<HashMap<Source, Position>>,
    /// What finds checkpoints that may be removed.
    outdated: Mutex<Vec<Document>>,
    /// Ends the task that says so.
    gone: CancellationToken,
}

impl MongoNotificationStore {
    pub(in crate::mongo) async fn open(
        shared: Arc<Shared>,
        id: GenerationId,
        role: Role,
    ) -> Result<Self, StoreError> {
        let tables = shared.tables(id);
        tables.prepare().await?;
        let writer = format!("writer/{}", ObjectId::new().to_hex());
        tables.writer_is_here(&writer, shared.now()).await?;
        let gone = CancellationToken::new();
        let store = Self {
            shared: Arc::clone(&shared),
            tables: tables.clone(),
            id,
            role,
            writer: writer.clone(),
            closed: AtomicBool::new(false),
            gathering: Gathering::new(GROUPS),
            catalogue: AtomicI64::default(),
            seen: Mutex::default(),
            outdated: Mutex::default(),
            gone: gone.clone(),
        };
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = gone.cancelled() => return,
                    () = tokio::time::sleep(BEAT_EVERY * 3) => {}
                }
                if let Err(error) = tables.writer_is_here(&writer, shared.now()).await {
                    tracing::debug!(?error, "a writer cannot say that it is there");
                }
            }
        });
        Ok(store)
    }

    /// Whether this may still be written.
    async fn admit(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Unavailable("the writer was closed".to_owned()));
        }
        let catalogues = &self.shared.catalogues;
        let newest = catalogues.newest().await?;
        let unusable = |reason: &str| Err(StoreError::Unusable(reason.to_owned()));
        let Some(newest) = newest.filter(|newest| newest.entry(self.id).is_some()) else {
            return unusable("the generation is no longer there");
        };
        if self.catalogue.swap(newest.version, Ordering::AcqRel) != newest.version {
            // Somebody may have repaired this generation.
            self.start_afresh();
        }
        match self.role {
            Role::Aside if newest.current == self.id.0 => {
                unusable("the generation has become current")
            }
            Role::Aside => Ok(()),
            Role::Current if newest.current != self.id.0 => {
                unusable("another generation has become current")
            }
            Role::Current => match &newest.fence {
                Some(holder) if catalogues.stands(holder).await? => Err(StoreError::Unavailable(
                    "another generation is about to become current".to_owned(),
                )),
                Some(holder) => self.lift(holder).await,
                None => Ok(()),
            },
        }
    }

    /// Takes a fence away whose holder is dead, so that the holder, should it only have slept, cannot switch any more.
    async fn lift(&self, holder: &str) -> Result<(), StoreError> {
        let now = self.shared.now();
        let lifted = self.shared.catalogues.change(now, |catalogue| {
            if catalogue.fence.as_deref() == Some(holder) {
                catalogue.fence = None;
                return Ok(());
            }
            Err(StoreError::Unavailable(
                "the fence is another by now".to_owned(),
            ))
        });
        lifted.await
    }
}

#[async_trait]
impl WriteTogether<NotificationChange> for MongoNotificationStore {
    /// How far announcements reach is said while it is asked whether they may be written: if not, that says nothing.
    async fn write_together(&self, group: &[Arc<Batch>]) -> Vec<Result<(), StoreError>> {
        let all: Vec<&Batch> = group.iter().map(|batch| &**batch).collect();
        let effects = effects_of(&all);
        let reach = effects.reach();
        let admitted = tokio::try_join!(self.admit(), self.stored(), async {
            Ok(self.tables.will_reach(reach.as_ref()).await?)
        },);
        let stored = match admitted {
            Ok(((), stored, ())) => stored,
            Err(error) => return group.iter().map(|_| Err(error.clone())).collect(),
        };
        let known = all.iter().map(|batch| known_outcome(batch, &stored));
        let known: Vec<_> = known.collect();
        let due = all.iter().zip(&known).filter(|(_, known)| known.is_none());
        let due: Vec<&Batch> = due.map(|(batch, _)| *batch).collect();
        let effects = if due.len() == all.len() {
            effects
        } else {
            effects_of(&due)
        };
        let (written, ()) = tokio::join!(self.write(effects, reach, &due), self.tidy());
        if written.is_err() {
            // It may be another server that answers next, or one that was restored.
            self.start_afresh();
        }
        let outcomes = known.into_iter();
        let outcomes = outcomes.map(|known| known.unwrap_or_else(|| written.clone()));
        outcomes.collect()
    }
}

/// The effects of batches, in the order of the log.
fn effects_of(batches: &[&Batch]) -> Effects {
    let mut records: Vec<_> = batches.iter().flat_map(|batch| &batch.projected).collect();
    records.sort_by_key(|projected| projected.position);
    Effects::of(records)
}

impl MongoNotificationStore {
    /// All effects, then all letters, then all checkpoints.
    async fn write(
        &self,
        effects: Effects,
        reach: Option<Reach>,
        batches: &[&Batch],
    ) -> Result<(), StoreError> {
        let first = |batch: &&Batch| {
            let first = batch.projected.first();
            first.map_or(batch.checkpoint.position, |first| first.position)
        };
        let Some(first) = batches.iter().map(first).min() else {
            return Ok(());
        };
        let written = effects.write_reaching(reach, &self.tables).await;
        written.map_err(|fault| fault.of_batch(first))?;
        let parked = batches.iter().flat_map(|batch| &batch.parked);
        self.tables.park(parked).await?;
        let checkpoints: Vec<_> = batches.iter().map(|batch| &batch.checkpoint).collect();
        let outdated = self.tables.move_checkpoints(&checkpoints).await?;
        self.saw(checkpoints);
        self.outdated.lock().extend(outdated);
        Ok(())
    }

    /// The checkpoints. If the store went back in time, what is known of it is forgotten: it may not be so any more.
    async fn stored(&self) -> Result<Vec<Checkpoint>, StoreError> {
        // Whoever writes side by side moves them while they are looked up: what was known before counts.
        let seen = self.seen.lock().clone();
        let stored = self.tables.checkpoints().await?;
        let mut known = seen.iter();
        if known.any(|(source, seen)| source_position(&stored, source) < *seen) {
            self.start_afresh();
        }
        self.saw(&stored);
        Ok(stored)
    }

    fn saw<'c>(&self, checkpoints: impl IntoIterator<Item = &'c Checkpoint>) {
        let mut seen = self.seen.lock();
        for checkpoint in checkpoints {
            let highest = seen.entry(checkpoint.source.clone()).or_default();
            *highest = (*highest).max(checkpoint.position);
        }
    }

    /// Forgets what is known of the store without looking.
    fn start_afresh(&self) {
        self.tables.start_afresh();
        self.seen.lock().clear();
        self.outdated.lock().clear();
    }

    /// Removes the checkpoints that earlier groups have gone beyond. Those that stay go with the next ones of their sources.
    async fn tidy(&self) {
        let outdated = std::mem::take(&mut *self.outdated.lock());
        if let Err(error) = self.tables.remove_checkpoints(outdated).await {
            tracing::debug!(?error, "outdated checkpoints stay");
        }
    }
}

/// What becomes of a batch that is not to be written.
fn known_outcome(batch: &Batch, stored: &[Checkpoint]) -> Option<Result<(), StoreError>> {
    let stored = source_position(stored, &batch.checkpoint.source);
    if batch.checkpoint.position <= stored {
        return Some(Ok(()));
    }
    // Another writer that moves it after this look has handled the same records, or parked them: then a letter is kept of
    // what was applied, and retrying it changes nothing.
    (batch.after != stored).then_some(Err(StoreError::Moved))
}

impl Drop for MongoNotificationStore {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

#[async_trait]
impl ReadModelStore<Notifications> for MongoNotificationStore {
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        Ok(self.tables.checkpoints().await?)
    }

    async fn apply(&self, batch: WriteBatch<NotificationChange>) -> Result<(), StoreError> {
        self.gathering.write(batch, self).await
    }

    async fn parked(&self) -> Result<Vec<ParkedLetter>, StoreError> {
        Ok(self.tables.letters().await?)
    }

    async fn parked_sequences(&self) -> Result<Vec<ParkedSequence>, StoreError> {
        Ok(self.tables.parked_sequences().await?)
    }

    async fn apply_parked(
        &self,
        projected: Projected<NotificationChange>,
    ) -> Result<(), StoreError> {
        self.admit().await?;
        self.stored().await?;
        let position = projected.position;
        // Gone already: it was applied, or discarded.
        if !self.tables.has_letter(position).await? {
            return Ok(());
        }
        let written = Effects::of(&[projected]).write(&self.tables).await;
        written.map_err(|fault| fault.of_batch(position))?;
        Ok(self.tables.remove_letter(position).await?)
    }

    async fn discard_parked(&self, position: Position) -> Result<(), StoreError> {
        self.admit().await?;
        Ok(self.tables.remove_letter(position).await?)
    }

    async fn set_attempts(&self, source: &Source, attempts: &Attempts) -> Result<(), StoreError> {
        Ok(self.tables.set_attempts(source, attempts).await?)
    }

    async fn attempts(&self, source: &Source) -> Result<Attempts, StoreError> {
        Ok(self.tables.attempts(source).await?)
    }

    async fn stopped_cleanly(&self, source: &Source) -> Result<bool, StoreError> {
        Ok(self.tables.stopped_cleanly(source).await?)
    }

    async fn set_stopped_cleanly(&self, source: &Source, clean: bool) -> Result<(), StoreError> {
        Ok(self.tables.set_stopped_cleanly(source, clean).await?)
    }

    fn make_room(&self, breather: Option<Arc<Breather>>) -> bool {
        self.tables.access.make_room(breather);
        true
    }

    async fn close(&self) {
        self.gone.cancel();
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Err(error) = self.tables.writer_has_left(&self.writer).await {
            tracing::debug!(?error, "a writer could not say that it left");
        }
    }
}
