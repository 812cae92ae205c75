//! What an operator may do with a read model, whatever its projection: the face that the replay command line sees.

use std::{collections::HashSet, marker::PhantomData, sync::Arc};

use async_trait::async_trait;
use socialhub_domain::Clock;
use socialhub_event_log::{EventLog, FrontierReader, Position};
use tokio_util::sync::CancellationToken;

use crate::{
    projection::Projection,
    runtime::{
        check::{VerifyReport, verify},
        course::VerifyCourse,
        generations::{Generation, Generations, WriteMode},
        rebuild::{Filler, Filling, Progress, RebuildError, fill, prune},
        repair::Repair,
        tail::read_chunk,
        writer::project,
    },
    status::reached,
    store::{GenerationId, ModelName, ParkedLetter, ReadModelStore, StoreError},
    verify::ModelFold,
};

/// A read model under an operator's hands.
#[async_trait]
pub trait ModelControl: Send + Sync {
    /// The model's name.
    fn name(&self) -> ModelName;

    /// Its generations, by number.
    ///
    /// # Errors
    /// [`RebuildError`].
    async fn generations(&self) -> Result<Vec<Generation>, RebuildError>;

    /// How far a generation has seen the log, whether it reads the log or partitions.
    ///
    /// # Errors
    /// When the relay's frontier cannot be read.
    async fn place(&self, generation: &Generation) -> Result<Position, RebuildError>;

    /// Begins a rebuild, or goes on with one that was killed; see [`crate::runtime::rebuild::rebuild`].
    ///
    /// # Errors
    /// [`RebuildError`].
    async fn begin_rebuild(
        &self,
        log: &Arc<dyn EventLog>,
    ) -> Result<Box<dyn Filling>, RebuildError>;

    /// Begins to go back to the previous generation, to a certain one where there are several; finished like a rebuild.
    ///
    /// # Errors
    /// [`RebuildError`].
    async fn begin_rollback(
        &self,
        log: &Arc<dyn EventLog>,
        to: Option<GenerationId>,
    ) -> Result<Box<dyn Filling>, RebuildError>;

    /// Removes every generation but the current one.
    ///
    /// # Errors
    /// [`RebuildError`].
    async fn prune(&self) -> Result<Vec<GenerationId>, RebuildError>;

    /// Removes what is left of generations whose removal was broken off; no entry of theirs is in [`Self::generations`] any
    /// more.
    ///
    /// # Errors
    /// [`RebuildError`].
    async fn sweep(&self) -> Result<(), RebuildError>;

    /// Compares the current generation with the log.
    ///
    /// # Errors
    /// [`RebuildError`].
    async fn verify(
        &self,
        log: &Arc<dyn EventLog>,
        course: &VerifyCourse,
    ) -> Result<VerifyReport, RebuildError>;

    /// Makes what a verification found what the log says, beside a running projector. Verify once more afterwards.
    ///
    /// # Errors
    /// [`RebuildError`].
    async fn repair(
        &self,
        log: &Arc<dyn EventLog>,
        found: &VerifyReport,
        progress: &dyn Progress,
        stop: &CancellationToken,
    ) -> Result<(), RebuildError>;

    /// Fills the current generation, which nobody else writes, with the events up to a position.
    ///
    /// # Errors
    /// [`RebuildError`].
    async fn fill(
        &self,
        log: &Arc<dyn EventLog>,
        upto: Position,
        progress: &dyn Progress,
        stop: &CancellationToken,
    ) -> Result<(), RebuildError>;

    /// The letters of a generation.
    ///
    /// # Errors
    /// [`RebuildError`].
    async fn letters_of(&self, id: GenerationId) -> Result<Vec<ParkedLetter>, RebuildError>;

    /// How many sequences wait behind letters of a generation.
    ///
    /// # Errors
    /// [`RebuildError`].
    async fn parked_sequences(&self, generation: &Generation) -> Result<u64, RebuildError> {
        if generation.parked == 0 {
            return Ok(0);
        }
        let letters = self.letters_of(generation.id).await?;
        let sequences = letters.iter().map(ParkedLetter::sequence);
        Ok(sequences.collect::<HashSet<_>>().len() as u64)
    }

    /// The letters of the current generation.
    ///
    /// # Errors
    /// [`RebuildError`].
    async fn letters(&self) -> Result<Vec<ParkedLetter>, RebuildError>;

    /// Tries the letter at a position again. Where a generation has one writer, on SQLite, no projector may run.
    ///
    /// # Errors
    /// [`RebuildError`]; the letter stays.
    async fn retry_letter(
        &self,
        log: &Arc<dyn EventLog>,
        position: Position,
    ) -> Result<(), RebuildError>;

    /// Forgets the letter at a position. Where a generation has one writer, on SQLite, no projector may run.
    ///
    /// # Errors
    /// [`RebuildError`]; the letter stays.
    async fn discard_letter(&self, position: Position) -> Result<(), RebuildError>;
}

/// [`ModelControl`] for any projection with its fold.
pub struct Control<P: Projection, F> {
    generations: Arc<dyn Generations<P>>,
    frontier: Option<Arc<dyn FrontierReader>>,
    clock: Arc<dyn Clock>,
    fold: PhantomData<fn() -> F>,
}

impl<P: Projection, F: ModelFold> Control<P, F> {
    /// Control over the generations of a model.
    pub fn new(generations: Arc<dyn Generations<P>>, clock: Arc<dyn Clock>) -> Self {
        Self {
            generations,
            frontier: None,
            clock,
            fold: PhantomData,
        }
    }

    /// For a model that is written by partitions: the relay's frontier says which events are in which.
    #[must_use]
    pub fn with_frontier(mut self, frontier: Arc<dyn FrontierReader>) -> Self {
        self.frontier = Some(frontier);
        self
    }

    async fn current(&self) -> Result<GenerationId, RebuildError> {
        match self.generations.refresh().await? {
            GenerationId(0) => {
                Err(StoreError::Unusable("no generation is current".to_owned()).into())
            }
            current => Ok(current),
        }
    }

    async fn open_current(&self) -> Result<Arc<dyn ReadModelStore<P>>, RebuildError> {
        let id = self.current().await?;
        Ok(self.generations.open(id, WriteMode::Live).await?)
    }
}

/// Reads the event of a letter from the log, where it may be readable by now, and applies it.
pub(super) async fn retry<P: Projection>(
    store: &dyn ReadModelStore<P>,
    log: &Arc<dyn EventLog>,
    position: Position,
) -> Result<(), RebuildError> {
    let rejected = |reason: &str| StoreError::Rejected {
        position,
        reason: reason.to_owned(),
    };
    let chunk = read_chunk(log, position.saturating_sub(1), 1).await?;
    let record = chunk
        .records()
        .first()
        .filter(|record| record.position == position)
        .ok_or_else(|| rejected("the log has no event there"))?;
    let projected = project::<P>(record).map_err(|unfit| rejected(&unfit.to_string()))?;
    Ok(store.apply_parked(projected).await?)
}

#[async_trait]
impl<P: Projection, F: ModelFold> ModelControl for Control<P, F> {
    fn name(&self) -> ModelName {
        P::NAME
    }

    async fn generations(&self) -> Result<Vec<Generation>, RebuildError> {
        Ok(self.generations.list().await?)
    }

    async fn place(&self, generation: &Generation) -> Result<Position, RebuildError> {
        match &self.frontier {
            None => Ok(generation.position()),
            Some(frontier) => {
                let frontier = frontier.frontier().await?;
                Ok(reached(&generation.checkpoints, P::TOPICS, &frontier))
            }
        }
    }

    async fn begin_rebuild(
        &self,
        log: &Arc<dyn EventLog>,
    ) -> Result<Box<dyn Filling>, RebuildError> {
        let (generations, clock) = (Arc::clone(&self.generations), Arc::clone(&self.clock));
        Ok(Box::new(
            Filler::begin(generations, Arc::clone(log), self.frontier.clone(), clock).await?,
        ))
    }

    async fn begin_rollback(
        &self,
        log: &Arc<dyn EventLog>,
        to: Option<GenerationId>,
    ) -> Result<Box<dyn Filling>, RebuildError> {
        let (generations, clock) = (Arc::clone(&self.generations), Arc::clone(&self.clock));
        let (log, frontier) = (Arc::clone(log), self.frontier.clone());
        Ok(Box::new(
            Filler::roll_back(generations, log, frontier, clock, to).await?,
        ))
    }

    async fn prune(&self) -> Result<Vec<GenerationId>, RebuildError> {
        prune(&*self.generations).await
    }

    async fn sweep(&self) -> Result<(), RebuildError> {
        Ok(self.generations.sweep().await?)
    }

    async fn verify(
        &self,
        log: &Arc<dyn EventLog>,
        course: &VerifyCourse,
    ) -> Result<VerifyReport, RebuildError> {
        verify::<P, F>(&*self.generations, log, self.frontier.as_ref(), course).await
    }

    async fn repair(
        &self,
        log: &Arc<dyn EventLog>,
        found: &VerifyReport,
        progress: &dyn Progress,
        stop: &CancellationToken,
    ) -> Result<(), RebuildError> {
        let repair = Repair {
            progress,
            generations: Arc::clone(&self.generations),
            log: Arc::clone(log),
            frontier: self.frontier.clone(),
            clock: Arc::clone(&self.clock),
        };
        repair.run(found, stop).await
    }

    async fn fill(
        &self,
        log: &Arc<dyn EventLog>,
        upto: Position,
        progress: &dyn Progress,
        stop: &CancellationToken,
    ) -> Result<(), RebuildError> {
        let id = self.current().await?;
        let store = self.generations.open(id, WriteMode::Bulk).await?;
        progress.began(P::NAME, id, 0, upto);
        let filled = fill(store, log, Arc::clone(&self.clock), upto, progress, stop).await;
        progress.ended(P::NAME);
        filled
    }

    async fn letters_of(&self, id: GenerationId) -> Result<Vec<ParkedLetter>, RebuildError> {
        Ok(self.generations.letters(id).await?)
    }

    async fn letters(&self) -> Result<Vec<ParkedLetter>, RebuildError> {
        Ok(self.generations.letters(self.current().await?).await?)
    }

    async fn retry_letter(
        &self,
        log: &Arc<dyn EventLog>,
        position: Position,
    ) -> Result<(), RebuildError> {
        let store = self.open_current().await?;
        let outcome = retry(&*store, log, position).await;
        store.close().await;
        outcome
    }

    async fn discard_letter(&self, position: Position) -> Result<(), RebuildError> {
        let store = self.open_current().await?;
        let outcome = store.discard_parked(position).await;
        store.close().await;
        Ok(outcome?)
    }
}
