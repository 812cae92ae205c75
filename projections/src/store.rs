//! The port of a read model's store.
//!
//! The checkpoint lives in the model's own store and is written atomically with the effects. A store holds several
//! generations of its model side by side: one is current (readers use it), others are being filled or kept for rollback.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use socialhub_domain::Timestamp;
use socialhub_event_log::Position;
use uuid::Uuid;

use crate::{
    projection::{Projected, Projection},
    record::SequenceKey,
    runtime::Breather,
};

/// A read model's name, as the command line spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ModelName(pub &'static str);

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Where records come from and are ordered: the log as a whole, or one partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Source {
    /// `log`, or a topic's name.
    pub name: String,
    /// 0 for the log.
    pub partition: i32,
}

impl Source {
    /// The log itself, tailed in process, or read by a rebuild.
    pub fn log() -> Self {
        Self {
            name: "log".to_owned(),
            partition: 0,
        }
    }

    /// One partition of a topic.
    pub fn partition(topic: &str, partition: i32) -> Self {
        Self {
            name: topic.to_owned(),
            partition,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::log() {
            f.write_str("log")
        } else {
            write!(f, "{}-{}", self.name, self.partition)
        }
    }
}

/// How far a model has read one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The source.
    pub source: Source,
    /// The position of the last record handled (applied, skipped or parked).
    pub position: Position,
    /// That record's event id: compared with the log at start, to notice a store that went back in time.
    pub event_id: Uuid,
    /// The offset after it, where the source has offsets.
    pub next_offset: Option<i64>,
    /// Into how many partitions the topic was divided then; none for the log, or when the relay had not said. Divided anew,
    /// a key may be in another partition, and no checkpoint says any more which events were handled.
    pub partitions: Option<i32>,
}

/// How far a model has handled what comes from a source: as its own checkpoint says, and at least as far as the log was
/// read, since a rebuild fills a generation from the log with what all sources bring.
pub fn source_position(checkpoints: &[Checkpoint], source: &Source) -> Position {
    let log = Source::log();
    checkpoints
        .iter()
        .filter(|checkpoint| checkpoint.source == *source || checkpoint.source == log)
        .map(|checkpoint| checkpoint.position)
        .max()
        .unwrap_or(0)
}

/// One generation of a read model, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GenerationId(pub u32);

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An event set aside with the model, so that everything else can move on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedLetter {
    /// The event's position.
    pub position: Position,
    /// The event's id.
    pub event_id: Uuid,
    /// The topic of its sequence.
    pub topic: String,
    /// The key of its sequence.
    pub key: String,
    /// The public JSON, or the raw text when it cannot be read.
    pub raw: String,
    /// Why it was parked; for a later event of a parked sequence: behind which position.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was parked.
    pub parked_at: Timestamp,
}

impl ParkedLetter {
    /// What its event is ordered by.
    pub fn sequence(&self) -> SequenceKey {
        SequenceKey {
            topic: self.topic.clone(),
            key: self.key.clone(),
        }
    }
}

/// How much is parked with a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Parked {
    /// Events.
    #[serde(rename = "parked")]
    pub events: u64,
    /// The sequences that they are of: what comes later of these waits behind them.
    #[serde(rename = "parkedSequences")]
    pub sequences: u64,
}

impl Parked {
    /// What these sequences have.
    pub fn of(sequences: &[ParkedSequence]) -> Self {
        Self {
            events: sequences.iter().map(|sequence| sequence.events).sum(),
            sequences: sequences.len() as u64,
        }
    }
}

/// A sequence that is parked: how much of it, and from where on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedSequence {
    /// Which one.
    pub sequence: SequenceKey,
    /// The position of its first letter.
    pub first: Position,
    /// Whether the first was tried. One that was not waits behind another, which is there no more.
    pub is_tried: bool,
    /// How many letters it has.
    pub events: u64,
}

impl ParkedSequence {
    /// The sequences of letters, of which position, sequence and attempts are given; those that begin earlier go first.
    pub fn of(letters: impl IntoIterator<Item = (Position, SequenceKey, u32)>) -> Vec<Self> {
        let mut found: HashMap<SequenceKey, Self> = HashMap::new();
        for (position, sequence, attempts) in letters {
            let entry = found.entry(sequence.clone()).or_insert(Self {
                sequence,
                first: Position::MAX,
                is_tried: false,
                events: 0,
            });
            entry.events += 1;
            if position < entry.first {
                (entry.first, entry.is_tried) = (position, attempts > 0);
            }
        }
        let mut found: Vec<_> = found.into_values().collect();
        found.sort_by_key(|sequence| sequence.first);
        found
    }
}

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store cannot answer now; nothing of the batch was written; try again.
    #[error("the read model's store is unavailable: {0}")]
    Unavailable(String),
    /// This batch will never go in; the runtime finds out which record is at fault and parks it.
    #[error("the read model rejects position {position}: {reason}")]
    Rejected {
        /// The record at fault, or the first of the batch when the store cannot tell.
        position: Position,
        /// What it says.
        reason: String,
    },
    /// Another writer has moved the source's checkpoint: nothing was written; read where it stands and go on from there.
    #[error("another writer has moved the checkpoint")]
    Moved,
    /// The store is not as the program left it (wrong schema, went back in time, two writers).
    #[error("the read model's store is not usable: {0}")]
    Unusable(String),
}

/// Why a read model could not be read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the read model cannot be read: {0}")]
pub struct ReadError(pub String);

/// What one atomic write brings: changes, letters to park, and the checkpoint they lead to.
#[derive(Debug, Clone)]
pub struct WriteBatch<C> {
    /// Changes, positions rising. Records at or below the stored checkpoint were taken out by the runtime, and the
    /// store checks once more under its own lock.
    pub projected: Vec<Projected<C>>,
    /// Letters to park in the same transaction.
    pub parked: Vec<ParkedLetter>,
    /// Where the writer believes the source to stand before this batch ([`source_position`]).
    pub after: Position,
    /// Where the source stands after this batch.
    pub checkpoint: Checkpoint,
}

/// How often records have been tried, by their positions.
pub type Attempts = BTreeMap<Position, u32>;

/// The store of one generation of a read model, as a writer of it sees it.
///
/// In process there is one writer, fed by the log. In a cluster there is one for each partition, in whatever process the
/// partition is assigned to; for a moment two may believe that a partition is theirs. Whatever is kept for a source
/// (checkpoint, attempts, the word that its last writer ended well) is therefore kept by source.
#[async_trait]
pub trait ReadModelStore<P: Projection>: Send + Sync {
    /// Every checkpoint; none for a new generation.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError>;

    /// Writes a batch, its letters and its checkpoint in one step, or nothing.
    ///
    /// A batch whose checkpoint is at or below the stored one changes nothing and succeeds (a duplicate delivery, or the
    /// repeat of a commit whose answer was lost). Otherwise a store that can have several writers refuses a batch whose
    /// `after` is not what is stored, with [`StoreError::Moved`]: the other writer may have parked something this one
    /// does not know of. A store with one writer leaves out records at or below the stored checkpoint.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was written.
    async fn apply(&self, batch: WriteBatch<P::Change>) -> Result<(), StoreError>;

    /// Every parked letter, by position. There may be many, and each has its event with it.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn parked(&self) -> Result<Vec<ParkedLetter>, StoreError>;

    /// The sequences that are parked, without what their letters hold.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn parked_sequences(&self) -> Result<Vec<ParkedSequence>, StoreError>;

    /// Applies a parked event regardless of the checkpoint and removes its letter in the same step. Without its letter it was
    /// applied before, and nothing changes.
    ///
    /// # Errors
    /// [`StoreError`]; the letter stays.
    async fn apply_parked(&self, projected: Projected<P::Change>) -> Result<(), StoreError>;

    /// Removes a letter without applying it.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn discard_parked(&self, position: Position) -> Result<(), StoreError>;

    /// Records how often each record of a source has been tried, in place of what was recorded before. Used only after an
    /// unclean stop, before a record is tried, so that an event that crashes the process is parked too.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn set_attempts(&self, source: &Source, attempts: &Attempts) -> Result<(), StoreError>;

    /// What was recorded last; nothing after a clean stop.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn attempts(&self, source: &Source) -> Result<Attempts, StoreError>;

    /// Whether the last writer of a source ended cleanly; the answer before the first writer is yes.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn stopped_cleanly(&self, source: &Source) -> Result<bool, StoreError>;

    /// Sets what [`ReadModelStore::stopped_cleanly`] will say; `true` also forgets the source's recorded attempts.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn set_stopped_cleanly(&self, source: &Source, clean: bool) -> Result<(), StoreError>;

    /// From now on the store makes room for others, or no longer. One that takes many operations for a batch then does one at a
    /// time and rests after each, and answers that it does. One that writes a batch in a few has nothing to do here: whoever
    /// hands in batches makes them small, and rests between them.
    fn make_room(&self, _breather: Option<Arc<Breather>>) -> bool {
        false
    }

    /// Ends the writer: when this returns, another may open the generation. Later calls fail; a repeat does nothing.
    async fn close(&self) {}
}
