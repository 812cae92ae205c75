//! The port of a model's generations: several stores of one read model side by side, one of them current.
//!
//! A rebuild fills a new generation while the current one goes on, then moves the pointer. The pointer is kept with the
//! model, so every process that serves or projects it follows a move within a second. Moving it goes through a
//! [`Fence`]: while it stands, nobody can write the current generation, and when it falls after a move, whoever still
//! holds the old generation is refused with [`StoreError::Unusable`] and looks where the pointer went.

use std::{any::Any, fmt, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use socialhub_domain::Timestamp;
use socialhub_event_log::Position;
use tokio::sync::watch;

use crate::{
    projection::Projection,
    store::{Checkpoint, GenerationId, ParkedLetter, ReadModelStore, Source, StoreError},
    verify::{Entity, RowSink},
};

/// What a generation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GenerationState {
    /// Being filled by a rebuild, or left half-filled by one that was killed.
    Building,
    /// The one that readers use and the projector writes.
    Current,
    /// Was current before; kept so that a rebuild can be taken back.
    Previous,
}

impl fmt::Display for GenerationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Building => "building",
            Self::Current => "current",
            Self::Previous => "previous",
        })
    }
}

/// One generation as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its number.
    pub id: GenerationId,
    /// What it is for.
    pub state: GenerationState,
    /// When it was begun.
    pub created_at: Timestamp,
    /// How far it has read; empty for a new one.
    pub checkpoints: Vec<Checkpoint>,
    /// How many events are parked with it.
    pub parked: u64,
    /// Whether some process holds it for writing.
    pub has_writer: bool,
    /// Bytes on disk.
    pub bytes: u64,
    /// Whether it was begun by a program of the very same code: what another one wrote into it may be what is to be mended.
    pub is_of_this_program: bool,
    /// Why nothing of it can be read, where it is beyond reading: it can be replaced or removed, and nothing else.
    pub broken: Option<String>,
}

impl Generation {
    /// How far it has read the log; 0 when it has read nothing.
    pub fn position(&self) -> Position {
        log_position(&self.checkpoints)
    }
}

/// How far a list of checkpoints says the log has been read.
pub fn log_position(checkpoints: &[Checkpoint]) -> Position {
    let log = Source::log();
    checkpoints
        .iter()
        .find(|checkpoint| checkpoint.source == log)
        .map_or(0, |checkpoint| checkpoint.position)
}

/// How a generation is going to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// Small transactions as events arrive; little memory.
    Live,
    /// Large transactions, nobody reads yet; a larger cache.
    Bulk,
}

/// The right to change which generations there are: one holder at a time over all processes, given back when dropped
/// or when its process ends in whatever way.
pub struct Claim(Box<dyn Any + Send + Sync>);

impl Claim {
    /// Wraps what gives the right back when it is dropped.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self(Box::new(guard))
    }

    /// What gives the right back, for the store that wrapped it.
    pub fn guard<G: Any>(&self) -> Option<&G> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claim")
    }
}

/// Keeps everybody from writing the current generation until it is dropped or the pointer has moved.
#[async_trait]
pub trait Fence: Send {
    /// How far the fenced generation has read the log. It cannot move while the fence stands.
    fn position(&self) -> Position;

    /// Makes another generation current and the fenced one previous, and takes the fence away: its writers, if it has
    /// any, find their store unusable from now on. Who follows the pointer sees it when they look the next time.
    ///
    /// The offsets from which the fenced generation goes on reading partitions become those of the other one, too, in
    /// the same step: what lies between them and the position it was filled to is skipped there.
    ///
    /// # Errors
    /// [`StoreError`]. The pointer has not moved, unless it is [`StoreError::Unavailable`]: then it may have, and only the answer
    /// was lost.
    async fn switch(self: Box<Self>, to: GenerationId) -> Result<(), StoreError>;

    /// Makes some entities of the fenced generation what they are in another one, which has handled the same events, and
    /// takes the fence away. What the other does not have, the fenced one does not have afterwards.
    ///
    /// A store with transactions does it in one. Writers go on as if nothing had happened; what they keep in memory of
    /// these entities they read anew.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] also while a batch is half written, so that the two have not handled the same events.
    /// Where there are no transactions, some entities may have been made right already.
    async fn mend(
        self: Box<Self>,
        from: GenerationId,
        entities: &[Entity],
    ) -> Result<(), StoreError>;
}

/// How far a generation was at the moment at which its rows were read.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// How far it had read.
    pub checkpoints: Vec<Checkpoint>,
    /// Letters: their events have not been applied.
    pub parked: Vec<ParkedLetter>,
}

/// All generations of one read model.
#[async_trait]
pub trait Generations<P: Projection>: Send + Sync {
    /// The current generation, followed: a move by any process shows within a second, and the readers of this process
    /// have moved by the time it does.
    fn current(&self) -> watch::Receiver<GenerationId>;

    /// Looks at the pointer now.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn refresh(&self) -> Result<GenerationId, StoreError>;

    /// Every generation, by number, those that are beyond reading included.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list(&self) -> Result<Vec<Generation>, StoreError>;

    /// Opens a generation for writing. A store with one writer refuses a second one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while another process writes such a store; [`StoreError::Unusable`] when it was made by
    /// another version of the program.
    async fn open(
        &self,
        id: GenerationId,
        mode: WriteMode,
    ) -> Result<Arc<dyn ReadModelStore<P>>, StoreError>;

    /// The right to build, switch and drop generations; none while another holds it.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn claim(&self) -> Result<Option<Claim>, StoreError>;

    /// A new, empty generation in the state [`GenerationState::Building`].
    ///
    /// # Errors
    /// [`StoreError`].
    async fn create(&self, claim: &Claim) -> Result<GenerationId, StoreError>;

    /// Removes a generation that is not current, with everything in it.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn drop_generation(&self, claim: &Claim, id: GenerationId) -> Result<(), StoreError>;

    /// Removes what is left of generations whose removal was broken off. Where one goes in a single step, there is never
    /// anything left.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn sweep(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Stops all writing to the current generation.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when its writer does not let go in time.
    async fn fence(&self, claim: &Claim) -> Result<Box<dyn Fence>, StoreError>;

    /// Hands over every row of a generation as it was at one moment, and says which moment that was.
    ///
    /// # Errors
    /// [`StoreError`]; then some rows may have been handed over.
    async fn snapshot(
        &self,
        id: GenerationId,
        rows: &mut dyn RowSink,
    ) -> Result<Snapshot, StoreError>;

    /// Whether the store has no transactions: effects are written first and their checkpoint after them, so that a batch
    /// under way, or cut off, shows in the rows and not in the checkpoints.
    fn writes_effects_first(&self) -> bool {
        false
    }

    /// The kinds of rows that the store keeps nowhere, because it works them out of others when it is asked: there is
    /// nothing to compare.
    fn derived(&self) -> &'static [&'static str] {
        &[]
    }

    /// The letters of a generation, by position, without opening it for writing.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn letters(&self, id: GenerationId) -> Result<Vec<ParkedLetter>, StoreError>;
}
