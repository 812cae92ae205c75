//! Rebuilding: a new generation is filled from the log while the current one goes on, then takes its place.
//!
//! Many models are filled at once: the log is read and decoded once and every record goes to all of them, through
//! bounded queues, so memory does not grow with the log. A rebuild that is killed leaves its generation behind in the
//! state `building`; the next one goes on with it. The last mile is written behind a fence, so that readers never see
//! an older position than before.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::{OptionFuture, join_all};
use serde::Serialize;
use socialhub_domain::{Clock, Timestamp};
use socialhub_event_log::{EventLog, FrontierReader, LogError, Position};
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    projection::Projection,
    record::PublicRecord,
    runtime::{
        generations::{Claim, Fence, Generation, GenerationState, Generations, WriteMode},
        handled::Handled,
        pace::{Breather, Learnt, Pace, Pacer},
        repair::{drop_workshops, is_workshop},
        tail::{Chunk, read_chunk},
        writer::{BULK_BATCH, BatchWriter, Entry, MAX_BATCH, Observer, WriteError},
    },
    store::{GenerationId, ModelName, Parked, ReadModelStore, Source, StoreError},
};

/// How many chunks may wait for a model that is slower than the others.
const AHEAD: usize = 1;
/// The last mile is begun when no more than this is missing.
const LAST_MILE: u64 = MAX_BATCH as u64;
/// How often the way up to the last mile is gone before giving up on a log that grows faster.
const ROUNDS: u32 = 100;
/// For how long it is looked where the pointer is when a store has not said whether it has moved it.
const LOOK_FOR_SWITCH: Duration = Duration::from_secs(5);
/// For so long a claim outlives its holder's last word where it does not fall with a connection or a process.
const CLAIM_IS_SAFE: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Why a generation was not built, switched to or checked.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Another rebuild, rollback or prune of the model is at work.
    #[error(
        "another rebuild of {0} is running, or something else that changes its generations: a rollback, a repair, or an erasure \
         that removes outdated ones; run it again when that is done"
    )]
    AlreadyRunning(ModelName),
    /// There is no previous generation.
    #[error("{0} has no previous generation to go back to")]
    NothingToRollBackTo(ModelName),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The model's store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Interrupted; what was built so far is kept and the next rebuild goes on with it.
    #[error("interrupted; run it again to go on where it stopped")]
    Interrupted,
    /// What differs cannot be made right by itself.
    #[error("{model} cannot be repaired: {reason}; run `socialhub replay rebuild {model}`")]
    BeyondRepair {
        /// The model.
        model: ModelName,
        /// Why.
        reason: String,
    },
    /// The model is not what it was when it was looked at.
    #[error("{model} has changed meanwhile: {what}; run it again")]
    Changed {
        /// The model.
        model: ModelName,
        /// What has.
        what: String,
    },
    /// There are several previous generations.
    #[error(
        "{model} has several previous generations ({known}), because older ones could not be removed after a rebuild: name the one \
         to go back to with --to"
    )]
    WhichPrevious {
        /// The model.
        model: ModelName,
        /// Their numbers.
        known: String,
    },
    /// There is no previous generation of that number.
    #[error("{model} has no previous generation {wanted}; there are: {known}")]
    NoSuchPrevious {
        /// The model.
        model: ModelName,
        /// The number.
        wanted: GenerationId,
        /// Those that there are.
        known: String,
    },
    /// Somebody else has made current what was being filled. That takes a claim that was lost: by a process that was suspended for
    /// a while, say.
    #[error(
        "{model}: another rebuild has finished generation {generation} while this one was held up: there is nothing left to do"
    )]
    Overtaken {
        /// The model.
        model: ModelName,
        /// The generation.
        generation: GenerationId,
    },
    /// The store went away at the switch.
    #[error(
        "{model}: whether generation {generation} is current is not known: {reason}; see that the store answers, and look at \
         `socialhub replay status` before you run anything again"
    )]
    MayBeCurrent {
        /// The model.
        model: ModelName,
        /// The generation that was to become current.
        generation: GenerationId,
        /// What the store said.
        reason: StoreError,
    },
    /// New events come in faster than the model can be filled.
    #[error("the log grows faster than {0} can be filled")]
    Outrun(ModelName),
}

impl From<WriteError> for RebuildError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Store(error) => Self::Store(error),
            WriteError::Stopped => Self::Interrupted,
        }
    }
}

/// What a rebuild did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RebuildReport {
    /// The model.
    pub model: ModelName,
    /// The generation that is current now.
    pub generation: GenerationId,
    /// The generation that was current before, and is kept.
    pub replaced: GenerationId,
    /// The position from which it was filled: not 0 when an interrupted rebuild was resumed.
    pub from: Position,
    /// How far it had read when it became current.
    pub position: Position,
    /// How many events are parked with it.
    pub parked: u64,
    /// How long it took.
    pub seconds: f64,
    /// For how long of that it made room for those who wrote the log meanwhile.
    pub rested_seconds: f64,
    /// Older generations that were removed.
    pub dropped: Vec<GenerationId>,
}

/// Who is told how a rebuild goes.
pub trait Progress: Send + Sync {
    /// A model is going to be filled from one position to another.
    fn began(&self, model: ModelName, generation: GenerationId, from: Position, to: Position);
    /// It has got this far. While others write, where it ends moves on.
    fn moved(&self, model: ModelName, position: Position, to: Position);
    /// It has ended, well or not.
    fn ended(&self, model: ModelName);
}

/// One generation of some model being filled. Obtained from [`Filler::begin`] or [`Filler::roll_back`].
#[async_trait]
pub trait Filling: Send {
    /// The model.
    fn model(&self) -> ModelName;
    /// The generation that is being filled.
    fn generation(&self) -> GenerationId;
    /// How far it has read.
    fn position(&self) -> Position;

    /// From now on it rests between the parts of what it writes.
    fn make_room(&mut self, breather: Arc<Breather>);

    /// Writes records that follow on its position; what lies below is left out.
    ///
    /// # Errors
    /// [`RebuildError`]; what was written stays.
    async fn write(
        &mut self,
        records: &[PublicRecord],
        stop: &CancellationToken,
    ) -> Result<(), RebuildError>;

    /// Catches up with the current generation, at the pace it was filled at, and takes its place.
    ///
    /// # Errors
    /// [`RebuildError`]; the current generation stays current.
    async fn finish(
        self: Box<Self>,
        pacer: Pacer,
        stop: &CancellationToken,
    ) -> Result<RebuildReport, RebuildError>;

    /// Lets go of the generation without taking the current one's place.
    async fn leave(self: Box<Self>);
}

/// A generation of one model being filled.
pub struct Filler<P: Projection> {
    generations: Arc<dyn Generations<P>>,
    log: Arc<dyn EventLog>,
    claim: Claim,
    id: GenerationId,
    current: watch::Receiver<GenerationId>,
    /// When it looked at the pointer itself.
    looked: Instant,
    replaced: GenerationId,
    from: Position,
    writer: BatchWriter<P>,
    /// What it holds beyond that, from partitions it was fed by when it was current.
    handled: Handled,
    /// There when models are written by partitions.
    frontier: Option<Arc<dyn FrontierReader>>,
    prune: bool,
    started: Instant,
    rested: Duration,
}

/// Nobody looks on while a generation is filled; failures are logged.
pub(super) struct Silent(pub(super) ModelName);

impl Observer for Silent {
    fn committed(&self, _: Position, _: Parked, _: Option<Timestamp>) {}

    fn failing(&self, error: &StoreError) {
        tracing::warn!(model = %self.0, %error, "the new generation cannot be written; trying again");
    }
}

impl<P: Projection> Filler<P> {
    /// Begins a rebuild, or goes on with one that was killed. `frontier` is the relay's, where models are written by
    /// partitions.
    ///
    /// # Errors
    /// [`RebuildError::AlreadyRunning`] while another one is at work.
    pub async fn begin(
        generations: Arc<dyn Generations<P>>,
        log: Arc<dyn EventLog>,
        frontier: Option<Arc<dyn FrontierReader>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RebuildError> {
        let claim = claim(&*generations).await?;
        let existing = generations.list().await?;
        drop_workshops(&*generations, &claim, &existing).await?;
        let (ours, others): (Vec<_>, Vec<_>) = existing
            .iter()
            .filter(|found| {
                found.state == GenerationState::Building && !is_workshop(&existing, found.id)
            })
            .partition(|found| found.is_of_this_program && found.broken.is_none());
        for half_built in others {
            let reason = half_built
                .broken
                .as_deref()
                .unwrap_or("another program began it");
            tracing::info!(model = %P::NAME, generation = %half_built.id, reason, "a half-built generation is thrown away");
            generations.drop_generation(&claim, half_built.id).await?;
        }
        for half_built in ours.iter().map(|found| found.id) {
            match open(&generations, &log, &clock, half_built).await {
                Ok(opened) => {
                    let filler = Self::over(generations, log, claim, half_built, opened, frontier);
                    return Ok(filler.await?.pruning());
                }
                // Of another log, say: of no use.
                Err(RebuildError::Store(StoreError::Unusable(reason))) => {
                    tracing::info!(model = %P::NAME, generation = %half_built, reason, "a half-built generation is thrown away");
                    generations.drop_generation(&claim, half_built).await?;
                }
                Err(error) => return Err(error),
            }
        }
        let id = generations.create(&claim).await?;
        let writer = open(&generations, &log, &clock, id).await?;
        let filler = Self::over(generations, log, claim, id, writer, frontier);
        Ok(filler.await?.pruning())
    }

    /// Begins to go back to the previous generation, to `wanted` where there are several: catches it up first.
    ///
    /// # Errors
    /// [`RebuildError::NothingToRollBackTo`], [`RebuildError::WhichPrevious`], [`RebuildError::NoSuchPrevious`];
    /// [`RebuildError::AlreadyRunning`].
    pub async fn roll_back(
        generations: Arc<dyn Generations<P>>,
        log: Arc<dyn EventLog>,
        frontier: Option<Arc<dyn FrontierReader>>,
        clock: Arc<dyn Clock>,
        wanted: Option<GenerationId>,
    ) -> Result<Self, RebuildError> {
        let claim = claim(&*generations).await?;
        let existing = generations.list().await?;
        let previous: Vec<_> = in_state(&existing, GenerationState::Previous).collect();
        let id = choose(P::NAME, &previous, wanted)?;
        let writer = open(&generations, &log, &clock, id).await?;
        Self::over(generations, log, claim, id, writer, frontier).await
    }

    async fn over(
        generations: Arc<dyn Generations<P>>,
        log: Arc<dyn EventLog>,
        claim: Claim,
        id: GenerationId,
        writer: BatchWriter<P>,
        frontier: Option<Arc<dyn FrontierReader>>,
    ) -> Result<Self, RebuildError> {
        let checkpoints = writer.checkpoints().await?;
        Ok(Self {
            replaced: generations.refresh().await?,
            current: generations.current(),
            looked: Instant::now(),
            handled: Handled::by(P::NAME, &checkpoints, frontier.as_ref()).await?,
            frontier,
            generations,
            log,
            claim,
            id,
            from: writer.position(),
            writer,
            prune: false,
            started: Instant::now(),
            rested: Duration::ZERO,
        })
    }

    /// Removes older generations in the end.
    fn pruning(mut self) -> Self {
        self.prune = true;
        self
    }

    /// Reads and writes until the generation has reached a position, at a pace.
    async fn fill_to(
        &mut self,
        target: Position,
        pacer: &mut Pacer,
        stop: &CancellationToken,
    ) -> Result<(), RebuildError> {
        while self.writer.position() < target {
            let place = self.writer.position();
            let chunk = pacer.read(place, target - place, stop).await?;
            if stop.is_cancelled() {
                return Err(RebuildError::Interrupted);
            }
            if chunk.records().is_empty() {
                return Ok(());
            }
            self.write(chunk.records(), stop).await?;
        }
        Ok(())
    }

    /// Gets within the last mile of the head, with nobody held up.
    async fn come_near(
        &mut self,
        pacer: &mut Pacer,
        stop: &CancellationToken,
    ) -> Result<(), RebuildError> {
        for _ in 0..ROUNDS {
            let head = self.log.head().await?;
            if is_near(self.writer.position(), head) {
                return self.fill_to(head, pacer, stop).await;
            }
            self.fill_to(head, pacer, stop).await?;
        }
        Err(RebuildError::Outrun(P::NAME))
    }

    /// Catches up with the current generation, the last steps behind a fence.
    async fn catch_up(
        &mut self,
        mut pacer: Pacer,
        stop: &CancellationToken,
    ) -> Result<Box<dyn Fence>, RebuildError> {
        self.come_near(&mut pacer, stop).await?;
        let fence = self.generations.fence(&self.claim).await?;
        // From now on the pointer stands still.
        if self.generations.refresh().await? == self.id {
            return Err(self.overtaken());
        }
        // Read behind the fence: whatever a partition has brought to the fenced generation is in the log by now.
        let head = self.log.head().await?;
        let target = if self.frontier.is_some() {
            head
        } else {
            // A generation filled from a log that had more than this one has is replaced all the same.
            fence.position().min(head)
        };
        // Whoever is fenced off has waited long enough.
        pacer.hurry();
        self.writer.make_room(None);
        self.fill_to(target, &mut pacer, stop).await?;
        self.rested = pacer.rested();
        Ok(fence)
    }

    /// Whether its projectors write it already. Whoever was held up for so long that the claim may have fallen looks by itself:
    /// what follows the pointer was held up, too.
    async fn is_overtaken(&mut self) -> bool {
        if self.looked.elapsed() >= CLAIM_IS_SAFE
            && let Ok(current) = self.generations.refresh().await
        {
            self.looked = Instant::now();
            return current == self.id;
        }
        *self.current.borrow() == self.id
    }

    fn overtaken(&self) -> RebuildError {
        RebuildError::Overtaken {
            model: P::NAME,
            generation: self.id,
        }
    }

    async fn take_over(
        mut self,
        pacer: Pacer,
        stop: &CancellationToken,
    ) -> Result<RebuildReport, RebuildError> {
        let caught_up = self.catch_up(pacer, stop).await;
        let (position, parked) = (self.writer.position(), self.writer.letters().events);
        // The generation must be free before it is current: its next writer comes at once.
        let closed = self.writer.close().await;
        let fence = caught_up?;
        closed?;
        match fence.switch(self.id).await {
            Ok(()) => {
                if let Err(error) = self.generations.refresh().await {
                    tracing::debug!(model = %P::NAME, %error, "the switch is made; readers see it when they look");
                }
            }
            Err(error @ StoreError::Unavailable(_)) => {
                look_for_switch(&*self.generations, self.id, error).await?;
            }
            Err(error) => return Err(error.into()),
        }
        let dropped = if self.prune {
            prune_after_switch(&*self.generations, &self.claim, self.replaced).await
        } else {
            Vec::new()
        };
        Ok(RebuildReport {
            model: P::NAME,
            generation: self.id,
            replaced: self.replaced,
            from: self.from,
            position,
            parked,
            seconds: self.started.elapsed().as_secs_f64(),
            rested_seconds: self.rested.as_secs_f64(),
            dropped,
        })
    }
}

/// Finds out what became of a switch to which there was no answer: only that may have been lost. Whoever were told to do it
/// once more after it was made would take it back.
async fn look_for_switch<P: Projection>(
    generations: &dyn Generations<P>,
    to: GenerationId,
    lost: StoreError,
) -> Result<(), RebuildError> {
    let until = Instant::now() + LOOK_FOR_SWITCH;
    loop {
        let current = generations.refresh().await;
        match current {
            Ok(current) if current == to => return Ok(()),
            // The store may still be at it.
            _ if Instant::now() < until => sleep(LOOK_AGAIN).await,
            Ok(_) => return Err(lost.into()),
            Err(_) => {
                return Err(RebuildError::MayBeCurrent {
                    model: P::NAME,
                    generation: to,
                    reason: lost,
                });
            }
        }
    }
}

/// What was left is removed, if that can be done now: the switch is made, and whatever stays the next rebuild removes.
async fn prune_after_switch<P: Projection>(
    generations: &dyn Generations<P>,
    claim: &Claim,
    keep: GenerationId,
) -> Vec<GenerationId> {
    let pruned = prune_beside(generations, claim, Some(keep)).await;
    pruned.unwrap_or_else(|error| {
        tracing::warn!(model = %P::NAME, %error, "older generations stay; `socialhub replay prune` removes them");
        Vec::new()
    })
}

pub(super) async fn claim<P: Projection>(
    generations: &dyn Generations<P>,
) -> Result<Claim, RebuildError> {
    generations
        .claim()
        .await?
        .ok_or(RebuildError::AlreadyRunning(P::NAME))
}

async fn open<P: Projection>(
    generations: &Arc<dyn Generations<P>>,
    log: &Arc<dyn EventLog>,
    clock: &Arc<dyn Clock>,
    id: GenerationId,
) -> Result<BatchWriter<P>, RebuildError> {
    let store = generations.open(id, WriteMode::Bulk).await?;
    let (writer, clock) = (Arc::clone(&store), Arc::clone(clock));
    match BatchWriter::open(writer, clock, log, WriteMode::Bulk, Source::log()).await {
        Ok(writer) => Ok(writer),
        Err(error) => {
            store.close().await;
            Err(error.into())
        }
    }
}

fn in_state(
    generations: &[Generation],
    state: GenerationState,
) -> impl DoubleEndedIterator<Item = GenerationId> + '_ {
    generations
        .iter()
        .filter(move |generation| generation.state == state)
        .map(|generation| generation.id)
}

/// The generation to go back to. Which of several was current last is not known in every store.
fn choose(
    model: ModelName,
    previous: &[GenerationId],
    wanted: Option<GenerationId>,
) -> Result<GenerationId, RebuildError> {
    let known = || {
        let numbers: Vec<String> = previous.iter().map(ToString::to_string).collect();
        numbers.join(", ")
    };
    match (previous, wanted) {
        ([], _) => Err(RebuildError::NothingToRollBackTo(model)),
        (_, Some(wanted)) if previous.contains(&wanted) => Ok(wanted),
        (_, Some(wanted)) => Err(RebuildError::NoSuchPrevious {
            model,
            wanted,
            known: known(),
        }),
        ([one], None) => Ok(*one),
        (_, None) => Err(RebuildError::WhichPrevious {
            model,
            known: known(),
        }),
    }
}

/// Removes every previous generation but one to keep.
async fn prune_beside<P: Projection>(
    generations: &dyn Generations<P>,
    claim: &Claim,
    keep: Option<GenerationId>,
) -> Result<Vec<GenerationId>, RebuildError> {
    let existing = generations.list().await?;
    let mut dropped = Vec::new();
    for id in in_state(&existing, GenerationState::Previous) {
        if Some(id) != keep {
            generations.drop_generation(claim, id).await?;
            dropped.push(id);
        }
    }
    Ok(dropped)
}

/// Removes every generation but the current one, half-built ones included.
///
/// # Errors
/// [`RebuildError::AlreadyRunning`] while a rebuild is at work.
pub async fn prune<P: Projection>(
    generations: &dyn Generations<P>,
) -> Result<Vec<GenerationId>, RebuildError> {
    let claim = claim(generations).await?;
    let mut dropped = prune_beside(generations, &claim, None).await?;
    for id in in_state(&generations.list().await?, GenerationState::Building) {
        generations.drop_generation(&claim, id).await?;
        dropped.push(id);
    }
    generations.sweep().await?;
    Ok(dropped)
}

#[async_trait]
impl<P: Projection> Filling for Filler<P> {
    fn model(&self) -> ModelName {
        P::NAME
    }

    fn generation(&self) -> GenerationId {
        self.id
    }

    fn position(&self) -> Position {
        self.writer.position()
    }

    fn make_room(&mut self, breather: Arc<Breather>) {
        self.writer.make_room(Some(breather));
    }

    async fn write(
        &mut self,
        records: &[PublicRecord],
        stop: &CancellationToken,
    ) -> Result<(), RebuildError> {
        if self.is_overtaken().await {
            return Err(self.overtaken());
        }
        let entries: Vec<Entry<'_>> = records
            .iter()
            .map(|record| Entry {
                held: record.position <= self.handled.upto(&record.sequence),
                ..Entry::from(record)
            })
            .collect();
        self.writer.write(&entries, &Silent(P::NAME), stop).await?;
        Ok(())
    }

    async fn finish(
        self: Box<Self>,
        pacer: Pacer,
        stop: &CancellationToken,
    ) -> Result<RebuildReport, RebuildError> {
        self.take_over(pacer, stop).await
    }

    async fn leave(self: Box<Self>) {
        // Half-built it stays, to be resumed.
        if let Err(error) = self.writer.close().await {
            tracing::warn!(model = %P::NAME, %error, "the half-built generation was not closed cleanly");
        }
    }
}

/// A piece of the log on its way to a model.
#[derive(Clone)]
struct Piece {
    chunk: Chunk,
    /// What its reader has learnt so far.
    learnt: Learnt,
    /// Set while others write the log: the models write it one after the other, each with its rests, so that all together
    /// are no more at work than one alone would be.
    in_turn: bool,
    /// Held until it is written.
    _at_work: mpsc::Sender<()>,
}

/// Fills the given generations from the log, each on its own task, and lets each take its place when it is done.
///
/// # Errors
/// Each model has its own outcome; one that fails does not hold up the others.
pub async fn rebuild(
    log: &Arc<dyn EventLog>,
    fillings: Vec<Box<dyn Filling>>,
    pace: Pace,
    progress: Arc<dyn Progress>,
    stop: CancellationToken,
) -> Vec<(ModelName, Result<RebuildReport, RebuildError>)> {
    let mut pacer = match Pacer::begin(log, pace).await {
        Ok(pacer) => pacer,
        Err(error) => return refuse_all(fillings, &error).await,
    };
    let (from, head) = (first_position(&fillings), pacer.head());
    let turn = Arc::new(Semaphore::new(1));
    let (mut senders, mut tasks) = (Vec::new(), Vec::new());
    for mut filling in fillings {
        let breather = pacer.breather(&stop);
        filling.make_room(Arc::clone(&breather));
        let (sender, receiver) = mpsc::channel(AHEAD);
        progress.began(
            filling.model(),
            filling.generation(),
            filling.position(),
            head,
        );
        let (model, progress) = (filling.model(), Arc::clone(&progress));
        let (pacer, stop) = (pacer.of_one(breather), stop.clone());
        let turn = Arc::clone(&turn);
        let task = tokio::spawn(async move {
            let outcome = fill_one(filling, receiver, pacer, &turn, &*progress, &stop).await;
            progress.ended(model);
            outcome
        });
        senders.push(sender);
        tasks.push(async move { (model, task.await) });
    }
    let read = feed(pacer, from.unwrap_or(head), senders, &stop);
    let (read, outcomes) = tokio::join!(read, join_all(tasks));
    if let Err(error) = read {
        tracing::warn!(%error, "the log could not be read to its end");
    }
    outcomes
        .into_iter()
        .map(|(model, outcome)| {
            let panicked = || StoreError::Unusable("the rebuild panicked".to_owned()).into();
            (model, outcome.unwrap_or_else(|_| Err(panicked())))
        })
        .collect()
}

fn first_position(fillings: &[Box<dyn Filling>]) -> Option<Position> {
    fillings.iter().map(|filling| filling.position()).min()
}

/// Fills a store that nobody else writes with the events up to a position, and closes it.
///
/// # Errors
/// [`RebuildError`]; what was written stays.
pub async fn fill<P: Projection>(
    store: Arc<dyn ReadModelStore<P>>,
    log: &Arc<dyn EventLog>,
    clock: Arc<dyn Clock>,
    upto: Position,
    progress: &dyn Progress,
    stop: &CancellationToken,
) -> Result<(), RebuildError> {
    let mut writer = BatchWriter::open(store, clock, log, WriteMode::Bulk, Source::log()).await?;
    while writer.position() < upto {
        if stop.is_cancelled() {
            writer.close().await?;
            return Err(RebuildError::Interrupted);
        }
        let missing = usize::try_from(upto - writer.position()).unwrap_or(BULK_BATCH);
        let chunk = read_chunk(log, writer.position(), missing.min(BULK_BATCH)).await?;
        if chunk.records().is_empty() {
            break;
        }
        let entries: Vec<Entry<'_>> = chunk.records().iter().map(Entry::from).collect();
        writer.write(&entries, &Silent(P::NAME), stop).await?;
        progress.moved(P::NAME, writer.position(), upto);
    }
    Ok(writer.close().await?)
}

async fn refuse_all(
    fillings: Vec<Box<dyn Filling>>,
    error: &LogError,
) -> Vec<(ModelName, Result<RebuildReport, RebuildError>)> {
    let mut outcomes = Vec::new();
    for filling in fillings {
        outcomes.push((filling.model(), Err(error.clone().into())));
        filling.leave().await;
    }
    outcomes
}

/// Reads and decodes the log once and hands it to every model, until they are within the last mile of its head. A model
/// that has failed is left out.
async fn feed(
    mut pacer: Pacer,
    from: Position,
    mut senders: Vec<mpsc::Sender<Piece>>,
    stop: &CancellationToken,
) -> Result<(), LogError> {
    let (mut after, mut target) = (from, pacer.head());
    for _ in 0..ROUNDS {
        while after < target {
            let chunk = pacer.read(after, target - after, stop).await?;
            let last = chunk.last_position();
            let Some(last) = last.filter(|_| !stop.is_cancelled()) else {
                return Ok(());
            };
            after = last;
            let (at_work, mut all_done) = mpsc::channel(1);
            let piece = Piece {
                chunk,
                learnt: pacer.learnt(),
                in_turn: pacer.is_careful(),
                _at_work: at_work,
            };
            hand_out(piece, &mut senders).await;
            if senders.is_empty() {
                return Ok(());
            }
            if pacer.is_careful() {
                // Nothing is ever sent: it ends when nobody has the piece any more.
                let _: Option<()> = all_done.recv().await;
            }
        }
        target = pacer.look().await?;
        if is_near(after, target) {
            break;
        }
    }
    Ok(())
}

/// Gives a piece to every model that takes it.
async fn hand_out(piece: Piece, senders: &mut Vec<mpsc::Sender<Piece>>) {
    let sent = join_all(senders.iter().map(|sender| sender.send(piece.clone()))).await;
    let mut sent = sent.into_iter();
    senders.retain(|_| sent.next().is_some_and(|outcome| outcome.is_ok()));
}

fn is_near(position: Position, head: Position) -> bool {
    head.saturating_sub(position) <= LAST_MILE
}

async fn fill_one(
    mut filling: Box<dyn Filling>,
    mut pieces: mpsc::Receiver<Piece>,
    mut pacer: Pacer,
    turn: &Semaphore,
    progress: &dyn Progress,
    stop: &CancellationToken,
) -> Result<RebuildReport, RebuildError> {
    loop {
        let piece = tokio::select! {
            biased;
            () = stop.cancelled() => {
                filling.leave().await;
                return Err(RebuildError::Interrupted);
            }
            piece = pieces.recv() => piece,
        };
        let Some(piece) = piece else {
            return finish_in_turn(filling, pacer, turn, stop).await;
        };
        let written = write_in_turn(&mut *filling, &piece, turn, stop).await;
        if let Err(error) = written {
            filling.leave().await;
            return Err(error);
        }
        pacer.learn(piece.learnt);
        progress.moved(filling.model(), filling.position(), pacer.head());
    }
}

/// Waits for the turn to write, if there is one to wait for.
async fn turn_of<'t>(
    turn: Option<&'t Semaphore>,
    stop: &CancellationToken,
) -> Result<Option<SemaphorePermit<'t>>, RebuildError> {
    let turn = OptionFuture::from(turn.map(Semaphore::acquire));
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(RebuildError::Interrupted),
        // It is never closed.
        turn = turn => Ok(turn.and_then(Result::ok)),
    }
}

/// Writes a piece, in its turn if it has one.
async fn write_in_turn(
    filling: &mut dyn Filling,
    piece: &Piece,
    turn: &Semaphore,
    stop: &CancellationToken,
) -> Result<(), RebuildError> {
    let _turn = turn_of(piece.in_turn.then_some(turn), stop).await?;
    filling.write(piece.chunk.records(), stop).await
}

/// Lets a filled generation take its place. What is missing, after a fault of the log's reader too, is read by the filling
/// itself. Where others write, the models do also this one after the other: the last steps of each are made without a rest.
async fn finish_in_turn(
    filling: Box<dyn Filling>,
    pacer: Pacer,
    turn: &Semaphore,
    stop: &CancellationToken,
) -> Result<RebuildReport, RebuildError> {
    let _turn = match turn_of(pacer.is_careful().then_some(turn), stop).await {
        Ok(turn) => turn,
        Err(error) => {
            filling.leave().await;
            return Err(error);
        }
    };
    filling.finish(pacer, stop).await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use socialhub_event_log::MemoryEventLog;
    use tokio::time::sleep;

    use super::*;
    use crate::runtime::{pace::SHORTEST, tail::tests::append_to};

    /// Who writes at a moment, and how many did so at most.
    #[derive(Default)]
    struct AtWork {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    impl AtWork {
        async fn stroke(&self) {
            let others = self.now.fetch_add(1, Ordering::SeqCst);
            self.most.fetch_max(others + 1, Ordering::SeqCst);
            sleep(Duration::from_millis(10)).await;
            self.now.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Takes its time for each piece.
    struct Slow {
        model: ModelName,
        position: Position,
        at_work: Arc<AtWork>,
    }

    #[async_trait]
    impl Filling for Slow {
        fn model(&self) -> ModelName {
            self.model
        }

        fn generation(&self) -> GenerationId {
            GenerationId(2)
        }

        fn position(&self) -> Position {
            self.position
        }

        fn make_room(&mut self, _: Arc<Breather>) {}

        async fn write(
            &mut self,
            records: &[PublicRecord],
            _: &CancellationToken,
        ) -> Result<(), RebuildError> {
            self.at_work.stroke().await;
            self.position = records.last().map_or(0, |record| record.position);
            Ok(())
        }

        async fn finish(
            self: Box<Self>,
            _: Pacer,
            _: &CancellationToken,
        ) -> Result<RebuildReport, RebuildError> {
            self.at_work.stroke().await;
            Ok(RebuildReport {
                model: self.model,
                generation: self.generation(),
                replaced: GenerationId(1),
                from: 0,
                position: self.position,
                parked: 0,
                seconds: 0.0,
                rested_seconds: 0.0,
                dropped: Vec::new(),
            })
        }

        async fn leave(self: Box<Self>) {}
    }

    struct Nobody;

    impl Progress for Nobody {
        fn began(&self, _: ModelName, _: GenerationId, _: Position, _: Position) {}
        fn moved(&self, _: ModelName, _: Position, _: Position) {}
        fn ended(&self, _: ModelName) {}
    }

    /// How many of two models were written or took their places at once at most, before it was known that nobody else writes the log.
    async fn at_once(pace: Pace) -> usize {
        let log: Arc<dyn EventLog> = Arc::new(MemoryEventLog::new());
        let length = 5 * SHORTEST as Position;
        append_to(&*log, 0, length.into(), 1).await;
        let at_work: Arc<AtWork> = Arc::default();
        let fillings = ["one", "other"].map(|name| -> Box<dyn Filling> {
            Box::new(Slow {
                model: ModelName(name),
                position: 0,
                at_work: Arc::clone(&at_work),
            })
        });
        let stop = CancellationToken::new();
        let outcomes = rebuild(&log, fillings.into(), pace, Arc::new(Nobody), stop).await;
        assert_eq!(outcomes.len(), 2);
        for (_, outcome) in outcomes {
            // The last mile is the filling's own.
            assert!(outcome.unwrap().position >= length - LAST_MILE);
        }
        at_work.most.load(Ordering::SeqCst)
    }

    #[tokio::test(start_paused = true)]
    async fn models_are_written_one_after_the_other_while_others_may_write_the_log() {
        assert_eq!(at_once(Pace::Gentle).await, 1);
        assert_eq!(at_once(Pace::Full).await, 2);
    }
}
