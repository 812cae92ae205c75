//! The live projector of one read model that is fed by partitions, some of which are this process's.
//!
//! Several processes project one model side by side; a consumer group deals the partitions out among them. Each partition
//! has a writer of its own, with its own checkpoint in the model's store, and they work at the same time. A partition
//! that was taken away and does not know it yet does no harm: the store refuses a batch that does not follow on what it
//! has. Like its embedded sibling it follows the pointer to another generation, each of which has a group of its own.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use socialhub_domain::{Clock, topic::Topic};
use socialhub_event_log::{EventLog, Frontier, FrontierReader};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    projection::Projection,
    reactor::Reactor,
    runtime::{
        abreast::Abreast,
        careful::Turns,
        division,
        generations::{Generations, WriteMode},
        live::{End, ProjectorTask, first_waiting, spawn, store_failed, until_next},
        partition::{Partition, open_writer},
        source::{Answer, Delivery, PartitionedSource, Records, Sources, Start},
        tail::Backoff,
        writer::{WriteError, check_alignment},
    },
    status::{ProjectionStatus, reached},
    store::{Checkpoint, GenerationId, Parked, ReadModelStore, Source, StoreError},
};

/// How often the model's place as a whole is looked up.
const LOCATE_EVERY: Duration = Duration::from_millis(250);
/// How long the batch in hand may hold up whoever gets the partition next. After that its writer is left to the store.
const HANDOVER: Duration = Duration::from_secs(5);
/// A generation that was written for this long has not failed at once.
const STEADY: Duration = Duration::from_secs(10);

/// What the writers of all partitions share.
pub(super) struct Shared<P: Projection> {
    pub(super) generations: Arc<dyn Generations<P>>,
    pub(super) log: Arc<dyn EventLog>,
    pub(super) frontier_reader: Arc<dyn FrontierReader>,
    /// The frontier as it was a moment ago.
    pub(super) frontier: watch::Sender<Frontier>,
    /// What the store said a moment ago.
    pub(super) stored: watch::Sender<Vec<Checkpoint>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) reactors: Vec<Arc<dyn Reactor>>,
    pub(super) status: Arc<ProjectionStatus>,
    pub(super) turns: Turns,
    pub(super) abreast: Arc<Abreast>,
}

/// The projector of one read model that is fed by partitions, not yet started.
pub struct PartitionProjector<P: Projection> {
    generations: Arc<dyn Generations<P>>,
    sources: Arc<dyn Sources>,
    log: Arc<dyn EventLog>,
    frontier: Arc<dyn FrontierReader>,
    clock: Arc<dyn Clock>,
    reactors: Vec<Arc<dyn Reactor>>,
    status: Arc<ProjectionStatus>,
    turns: Turns,
}

impl<P: Projection> PartitionProjector<P> {
    /// A projector of the current generation, fed by whatever partitions are dealt to this process. The log is asked for
    /// what the topics do not have any more.
    pub fn new(
        generations: Arc<dyn Generations<P>>,
        sources: Arc<dyn Sources>,
        log: Arc<dyn EventLog>,
        frontier: Arc<dyn FrontierReader>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let status = Arc::new(ProjectionStatus::of_group(P::NAME, log.watch_head()));
        Self {
            generations,
            sources,
            log,
            frontier,
            clock,
            reactors: Vec::new(),
            status,
            turns: Turns::default(),
        }
    }

    /// Shares turns with whatever else this process projects: what takes it down takes down all of them.
    #[must_use]
    pub fn in_turn_with(mut self, turns: &Turns) -> Self {
        self.turns = turns.clone();
        self
    }

    /// Adds a reactor: it is told of every record of this process's partitions after its commit, in order within each.
    /// It is waited for, so it must be quick.
    #[must_use]
    pub fn with_reactor(mut self, reactor: Arc<dyn Reactor>) -> Self {
        self.reactors.push(reactor);
        self
    }

    /// How the model fares, and waiting for it; also before it is started.
    pub fn status(&self) -> Arc<ProjectionStatus> {
        Arc::clone(&self.status)
    }

    /// Starts it. It runs until `stop` is cancelled, finishes the batches in hand, ends cleanly and leaves the group.
    pub fn spawn(self, stop: CancellationToken) -> ProjectorTask {
        let (status, clock) = (self.status(), Arc::clone(&self.clock));
        let head = self.log.watch_head();
        let shared = Arc::new(Shared {
            generations: self.generations,
            log: self.log,
            frontier_reader: self.frontier,
            frontier: watch::Sender::new(Frontier::default()),
            stored: watch::Sender::default(),
            clock: self.clock,
            reactors: self.reactors,
            status: Arc::clone(&status),
            turns: self.turns,
            abreast: Arc::default(),
        });
        let run = run(shared, self.sources, stop.clone());
        spawn(status, clock, head, stop, run)
    }
}

async fn run<P: Projection>(
    shared: Arc<Shared<P>>,
    sources: Arc<dyn Sources>,
    stop: CancellationToken,
) {
    let mut current = shared.generations.current();
    let mut backoff = Backoff::new();
    loop {
        let generation = *current.borrow_and_update();
        let began = Instant::now();
        let end = project(&shared, &*sources, generation, &mut current, &stop).await;
        if began.elapsed() > STEADY {
            backoff.reset();
        }
        if matches!(end, End::Refuse(_)) {
            // Whatever its store says, nothing of it counts.
            shared.status.located(0, Parked::default());
        }
        if until_next::<P>(end, &shared.status, &mut current, &mut backoff, &stop)
            .await
            .is_break()
        {
            return;
        }
    }
}

/// Writes one generation until there is a reason to let go of it.
async fn project<P: Projection>(
    shared: &Arc<Shared<P>>,
    sources: &dyn Sources,
    id: GenerationId,
    current: &mut watch::Receiver<GenerationId>,
    stop: &CancellationToken,
) -> End {
    let store = match shared.generations.open(id, WriteMode::Live).await {
        Ok(store) => store,
        Err(error) => return store_failed(&*shared.generations, id, error).await,
    };
    if let Err(error) = look_over(shared, id, &store).await {
        store.close().await;
        return store_failed(&*shared.generations, id, error).await;
    }
    let checked = tokio::select! {
        checked = check_published(shared, sources) => checked.map_err(End::Retry),
        () = stop.cancelled() => Err(End::Stop),
    };
    if let Err(end) = checked {
        store.close().await;
        return end;
    }
    let source = match sources.open(id) {
        Ok(source) => source,
        Err(error) => {
            store.close().await;
            return End::Retry(error.to_string());
        }
    };
    tracing::info!(model = %P::NAME, generation = %id, "projecting");
    let (done, finished) = mpsc::unbounded_channel();
    let mut assigned = Assigned {
        shared: Arc::clone(shared),
        store: Arc::clone(&store),
        stop: stop.child_token(),
        writers: HashMap::new(),
        failed: mpsc::unbounded_channel(),
        done,
        finished,
    };
    let locating = tokio::spawn(locate(Arc::clone(shared), Arc::clone(&store)));
    let (source, ended) = assigned.follow(source, current).await;
    assigned.stop.cancel();
    assigned.let_go(None).await;
    locating.abort();
    source.close().await;
    store.close().await;
    match ended {
        Ended::With(end) => end,
        Ended::Store(error) => store_failed(&*shared.generations, id, error).await,
    }
}

/// Checks that the store fits the log before anything is written to it, and says where it stands.
async fn look_over<P: Projection>(
    shared: &Shared<P>,
    id: GenerationId,
    store: &Arc<dyn ReadModelStore<P>>,
) -> Result<(), StoreError> {
    let checkpoints = store.checkpoints().await?;
    check_alignment(P::NAME, &checkpoints, &shared.log).await?;
    let frontier = shared
        .frontier_reader
        .frontier()
        .await
        .map_err(|error| StoreError::Unavailable(error.to_string()))?;
    division::check(P::NAME, &checkpoints, &frontier)?;
    let parked = Parked::of(&store.parked_sequences().await?);
    let position = reached(&checkpoints, P::TOPICS, &frontier);
    let waiting = first_waiting(&shared.log, position).await;
    shared.status.opened(id, position, parked, waiting);
    shared.frontier.send_replace(frontier);
    shared.stored.send_replace(checkpoints);
    Ok(())
}

async fn check_published<P: Projection>(
    shared: &Shared<P>,
    sources: &dyn Sources,
) -> Result<(), String> {
    let frontier = shared.frontier.borrow().clone();
    check_topics(&shared.log, sources, &frontier, P::TOPICS).await
}

/// Checks that the log holds the last record of each partition. After the log went back in time the topics hold events
/// that never happened: nothing is read from them until somebody has seen to that, which may be while this one waits.
pub(crate) async fn check_topics(
    log: &Arc<dyn EventLog>,
    sources: &dyn Sources,
    frontier: &Frontier,
    topics: &[Topic],
) -> Result<(), String> {
    let mut partitions = frontier.partitions.clone();
    partitions.retain(|name, _| topics.iter().any(|topic| topic.name() == name));
    let tails = sources.tails(&partitions).await;
    for tail in tails.map_err(|error| error.to_string())? {
        let Some(last) = tail.last else { continue };
        let after = last.position.saturating_sub(1);
        let found = log.read_all(after, 1).await;
        let found = found.map_err(|error| error.to_string())?;
        let held = found.first().is_some_and(|event| {
            event.position == last.position && event.event_id == last.event_id
        });
        if !held {
            return Err(format!(
                "{}-{} holds event {} of position {}, which the log does not hold: the log went back in time, or it is \
                 another one; run `socialhub replay republish`",
                tail.topic, tail.partition, last.event_id, last.position
            ));
        }
    }
    Ok(())
}

/// Says where the model as a whole is, which depends on the partitions of other processes, too.
async fn locate<P: Projection>(shared: Arc<Shared<P>>, store: Arc<dyn ReadModelStore<P>>) {
    let mut ticks = tokio::time::interval(LOCATE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut letters = Parked::default();
    for nth in 0_u64.. {
        ticks.tick().await;
        // The frontier after the checkpoints: it may only be too far, never behind what was handled.
        let (Ok(checkpoints), Ok(frontier)) = (
            store.checkpoints().await,
            shared.frontier_reader.frontier().await,
        ) else {
            // Whoever writes says what is wrong.
            continue;
        };
        if nth % 8 == 0
            && let Ok(parked) = store.parked_sequences().await
        {
            letters = Parked::of(&parked);
        }
        let position = reached(&checkpoints, P::TOPICS, &frontier);
        shared.status.located(position, letters);
        shared.frontier.send_replace(frontier);
        shared.stored.send_replace(checkpoints);
    }
}

/// Why a generation is no longer followed.
enum Ended {
    With(End),
    Store(StoreError),
}

struct Writer {
    records: mpsc::UnboundedSender<Records>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The partitions of this process and their writers.
struct Assigned<P: Projection> {
    shared: Arc<Shared<P>>,
    store: Arc<dyn ReadModelStore<P>>,
    /// Cancelled when the program stops, or this generation is let go of.
    stop: CancellationToken,
    writers: HashMap<Source, Writer>,
    failed: (
        mpsc::UnboundedSender<StoreError>,
        mpsc::UnboundedReceiver<StoreError>,
    ),
    done: mpsc::UnboundedSender<(Source, i64)>,
    finished: mpsc::UnboundedReceiver<(Source, i64)>,
}

impl<P: Projection> Assigned<P> {
    async fn follow(
        &mut self,
        mut source: Box<dyn PartitionedSource>,
        current: &mut watch::Receiver<GenerationId>,
    ) -> (Box<dyn PartitionedSource>, Ended) {
        let stop = self.stop.clone();
        loop {
            let delivery = tokio::select! {
                biased;
                () = stop.cancelled() => return (source, Ended::With(End::Stop)),
                moved = current.changed() => {
                    let end = if moved.is_ok() { End::Moved } else { End::Stop };
                    return (source, Ended::With(end));
                }
                Some(error) = self.failed.1.recv() => return (source, Ended::Store(error)),
                Some((partition, offset)) = self.finished.recv() => {
                    source.commit(&partition, offset);
                    continue;
                }
                delivery = source.next() => delivery,
            };
            match delivery {
                Ok(Delivery::Records(records)) => self.hand_over(records),
                Ok(Delivery::Revoked(sources, answer)) => {
                    self.let_go(Some(&sources)).await;
                    answer.give(());
                }
                Ok(Delivery::Assigned(sources, answer)) => {
                    let taken = tokio::select! {
                        taken = self.take_on(sources, answer) => taken,
                        // A store that does not answer must not keep us from another generation.
                        moved = current.changed() => {
                            let end = if moved.is_ok() { End::Moved } else { End::Stop };
                            return (source, Ended::With(end));
                        }
                    };
                    match taken {
                        Ok(()) => {}
                        Err(WriteError::Stopped) => return (source, Ended::With(End::Stop)),
                        Err(WriteError::Store(error)) => return (source, Ended::Store(error)),
                    }
                }
                Err(error) => return (source, Ended::With(End::Retry(error.to_string()))),
            }
        }
    }

    fn hand_over(&self, records: Records) {
        // What is not ours any more is dropped: whoever has it reads it from the store's checkpoint on.
        if let Some(writer) = self.writers.get(&records.source) {
            let _ = writer.records.send(records);
        }
    }

    async fn take_on(
        &mut self,
        sources: Vec<Source>,
        answer: Answer<Vec<(Source, Start)>>,
    ) -> Result<(), WriteError> {
        let names: Vec<String> = sources.iter().map(ToString::to_string).collect();
        tracing::info!(model = %P::NAME, partitions = names.join(" "), "assigned");
        let mut starts = Vec::new();
        for source in sources {
            let stop = self.stop.child_token();
            let writer = open_writer(&self.shared, &self.store, &source, &stop).await?;
            let start = writer.next_offset().map_or(Start::Beginning, Start::At);
            starts.push((source.clone(), start));
            let (records, received) = mpsc::unbounded_channel();
            let partition = Partition {
                place: self.shared.abreast.join(&source, writer.position()),
                shared: Arc::clone(&self.shared),
                store: Arc::clone(&self.store),
                source: source.clone(),
                writer,
                stop: stop.clone(),
                done: self.done.clone(),
            };
            let failed = self.failed.0.clone();
            let task = tokio::spawn(async move {
                // A partition that nobody writes would stand still until the group deals it out again.
                let error = match AssertUnwindSafe(partition.run(received))
                    .catch_unwind()
                    .await
                {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => error,
                    Err(_) => StoreError::Unavailable("a partition's writer panicked".to_owned()),
                };
                // The projector may have ended.
                let _ = failed.send(error);
            });
            let writer = Writer {
                records,
                stop,
                task,
            };
            self.writers.insert(source, writer);
        }
        answer.give(starts);
        self.shared.status.dealt();
        Ok(())
    }

    /// Ends writers, all of them or some; waits a while for the batches in hand.
    async fn let_go(&mut self, sources: Option<&[Source]>) {
        let leaving: Vec<Source> = match sources {
            Some(sources) => sources.to_vec(),
            None => self.writers.keys().cloned().collect(),
        };
        let leaving: Vec<Writer> = leaving
            .iter()
            .filter_map(|source| self.writers.remove(source))
            .collect();
        for writer in &leaving {
            writer.stop.cancel();
        }
        let ended = async {
            for writer in leaving {
                // A panic of one is told by its missing end: the next writer tries the events one by one.
                let _ = writer.task.await;
            }
        };
        if timeout(HANDOVER, ended).await.is_err() {
            tracing::warn!(model = %P::NAME, "a batch takes long: its partition is given away before it has ended");
        }
    }
}
