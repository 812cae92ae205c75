//! The consumer of all topics: a member of a group, each of its partitions followed by itself.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use socialhub_domain::topic::Topic;
use socialhub_event_log::{
    EventLog, Frontier, FrontierReader, LogError, Position, Track, behind_for,
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Limits,
    partition::{Failure, Partition, Shared, check_divisions},
    writer::Ports,
};
use crate::{
    runtime::{
        partitions::check_topics,
        source::{Answer, Delivery, PartitionedSource, Records, Sources, Start},
        tail::Backoff,
    },
    status::STARTING,
    store::{GenerationId, Source},
};

/// How long partitions that are taken away have for writing what they hold. After that the commits decide.
const HANDOVER: Duration = Duration::from_secs(8);
/// How often the frontier is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How much longer than asked for rows may be held before somebody is told.
const SLACK: Duration = Duration::from_secs(60);
/// Topics that were read for this long have not failed at once.
const STEADY: Duration = Duration::from_secs(10);

/// Over how long a rate is told: files come at intervals.
pub const RATE_OVER: Duration = Duration::from_secs(300);

/// How the consumer fares.
#[derive(Debug)]
pub struct AnalyticsStatus {
    patience: Duration,
    trouble: Mutex<Option<String>>,
    /// Since when nothing is dealt out to this process; none while something is, which may be that it gets nothing.
    undealt: Mutex<Option<Instant>>,
    /// Since when each partition's oldest row waits.
    waiting: Mutex<HashMap<Source, Instant>>,
    /// How far each partition of this process is in files.
    written: Mutex<HashMap<Source, Position>>,
    /// Rows that this process has written.
    rows: Mutex<Track>,
    lag: Mutex<AnalyticsLag>,
}

/// How far everything is in files that is one process's to write.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AnalyticsLag {
    /// Up to here it is.
    pub position: Position,
    /// How many events are after that.
    pub events: u64,
    /// How old the first of them is; 0 when there is none.
    pub seconds: f64,
}

impl AnalyticsStatus {
    fn new(limits: &Limits) -> Self {
        Self {
            patience: limits.age + SLACK,
            trouble: Mutex::new(Some(STARTING.to_owned())),
            undealt: Mutex::new(Some(Instant::now())),
            waiting: Mutex::default(),
            written: Mutex::default(),
            rows: Mutex::new(Track::begin(RATE_OVER, Instant::now(), 0)),
            lag: Mutex::default(),
        }
    }

    /// What is wrong, if something is.
    pub fn trouble(&self) -> Option<String> {
        if let Some(trouble) = self.trouble.lock().clone() {
            return Some(trouble);
        }
        let undealt = self.undealt.lock().map(|since| since.elapsed());
        if let Some(undealt) = undealt.filter(|undealt| *undealt > self.patience) {
            let seconds = undealt.as_secs();
            return Some(format!("no partitions have been dealt out for {seconds} s"));
        }
        let waiting = self.waiting.lock();
        let oldest = waiting.values().map(Instant::elapsed).max()?;
        (oldest > self.patience).then(|| format!("rows wait for {} s", oldest.as_secs()))
    }

    /// How far everything is in files that is this process's to write; what other processes have is theirs to say.
    pub fn lag(&self) -> AnalyticsLag {
        *self.lag.lock()
    }

    /// Rows a second that this process has put into files lately.
    pub fn rate(&self) -> f64 {
        self.rows.lock().per_second(Instant::now())
    }

    /// A partition is this process's to write, and in files up to a position.
    fn took(&self, source: &Source, position: Position) {
        self.written.lock().insert(source.clone(), position);
    }

    /// It is in files up to there, with so many rows that were in none before. It may have been given away meanwhile.
    pub(super) fn wrote(&self, source: &Source, position: Position, rows: usize) {
        if let Some(written) = self.written.lock().get_mut(source) {
            *written = position;
        }
        self.rows.lock().advance(Instant::now(), rows as u64);
    }

    fn let_go(&self, source: &Source) {
        self.written.lock().remove(source);
        self.waiting.lock().remove(source);
    }

    /// As far as the partition that lacks most; the relay, if none lacks anything.
    fn reached(&self, frontier: &Frontier) -> Position {
        let written = self.written.lock();
        let behind = written.iter().filter_map(|(source, position)| {
            let end = frontier.end(&source.name, source.partition)?;
            end.seen(*position)
        });
        behind.min().unwrap_or(frontier.position)
    }

    fn lags(&self, lag: AnalyticsLag) {
        *self.lag.lock() = lag;
        metrics::gauge!("socialhub_analytics_last_position").set(lag.position as f64);
        metrics::gauge!("socialhub_analytics_lag_events").set(lag.events as f64);
        metrics::gauge!("socialhub_analytics_lag_seconds").set(lag.seconds);
    }

    fn failing(&self, trouble: String) {
        self.nothing_is_dealt();
        *self.trouble.lock() = Some(trouble);
    }

    /// Until partitions are dealt out again, nothing is known of what is this process's to write.
    fn nothing_is_dealt(&self) {
        self.undealt.lock().get_or_insert_with(Instant::now);
    }

    fn is_dealt(&self) -> bool {
        self.undealt.lock().is_none()
    }

    /// The group has dealt out partitions. Whoever comes when all are dealt out waits for one, and that is well.
    fn at_work(&self) {
        *self.undealt.lock() = None;
        *self.trouble.lock() = None;
    }

    pub(super) fn waits(&self, source: &Source, since: Option<Instant>) {
        let is_ours = self.written.lock().contains_key(source);
        let mut waiting = self.waiting.lock();
        match since.filter(|_| is_ours) {
            Some(since) => waiting.insert(source.clone(), since),
            None => waiting.remove(source),
        };
        let oldest = waiting.values().map(Instant::elapsed).max();
        metrics::gauge!("socialhub_analytics_held_seconds")
            .set(oldest.unwrap_or_default().as_secs_f64());
    }
}

/// A running consumer.
pub struct AnalyticsTask {
    /// How it fares.
    pub status: Arc<AnalyticsStatus>,
    /// Ends after its stop was cancelled.
    pub task: JoinHandle<()>,
}

/// The consumer, not yet started.
pub struct AnalyticsConsumer {
    ports: Ports,
    limits: Limits,
    sources: Arc<dyn Sources>,
    log: Arc<dyn EventLog>,
    frontier: Arc<dyn FrontierReader>,
}

impl AnalyticsConsumer {
    /// A consumer of whatever partitions are dealt to this process. The log is asked for what the topics do not have any
    /// more.
    pub fn new(
        ports: Ports,
        limits: Limits,
        sources: Arc<dyn Sources>,
        log: Arc<dyn EventLog>,
        frontier: Arc<dyn FrontierReader>,
    ) -> Self {
        Self {
            ports,
            limits,
            sources,
            log,
            frontier,
        }
    }

    /// Starts it. It runs until `stop` is cancelled, writes what it holds and leaves the group.
    pub fn spawn(self, stop: CancellationToken) -> AnalyticsTask {
        let status = Arc::new(AnalyticsStatus::new(&self.limits));
        let shared = Arc::new(Shared {
            ports: self.ports,
            limits: self.limits,
            log: self.log,
            frontier_reader: self.frontier,
            frontier: watch::Sender::new(Frontier::default()),
            status: Arc::clone(&status),
            partitions: AtomicUsize::new(0),
            merging: Semaphore::new(1),
        });
        let task = tokio::spawn(run(shared, self.sources, stop));
        AnalyticsTask { status, task }
    }
}

async fn run(shared: Arc<Shared>, sources: Arc<dyn Sources>, stop: CancellationToken) {
    let mut backoff = Backoff::new();
    while !stop.is_cancelled() {
        let began = Instant::now();
        let Err(failure) = consume(&shared, &*sources, &stop).await else {
            return;
        };
        match failure {
            Failure::Retry(error) => {
                tracing::warn!(error, "the analytics consumer tries again");
                shared.status.failing(error);
                if began.elapsed() > STEADY {
                    backoff.reset();
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = backoff.wait() => {}
                }
            }
            Failure::Refuse(error) => {
                tracing::error!(error, "the analytics consumer refuses to go on");
                shared.status.failing(error);
                stop.cancelled().await;
            }
        }
    }
}

/// Reads the topics until there is a reason not to.
async fn consume(
    shared: &Arc<Shared>,
    sources: &dyn Sources,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let ready = async {
        let frontier = shared.frontier_reader.frontier().await;
        let frontier = frontier.map_err(|error| error.to_string())?;
        check_topics(&shared.log, sources, &frontier, &Topic::ALL).await?;
        shared.frontier.send_replace(frontier);
        sources
            .open(GenerationId(1))
            .map_err(|error| error.to_string())
    };
    let mut source = tokio::select! {
        ready = ready => ready.map_err(Failure::Retry)?,
        () = stop.cancelled() => return Ok(()),
    };
    let (done, finished) = mpsc::unbounded_channel();
    let mut mine = Mine {
        shared: Arc::clone(shared),
        stop: stop.child_token(),
        followers: HashMap::new(),
        failed: mpsc::unbounded_channel(),
        done,
        finished,
    };
    let looking = tokio::spawn(look(Arc::clone(shared)));
    let outcome = mine.follow(&mut *source).await;
    looking.abort();
    mine.stop.cancel();
    mine.let_go(None).await;
    while let Ok(failure) = mine.failed.1.try_recv() {
        failure.tell();
    }
    mine.tell(&mut *source);
    source.close().await;
    outcome
}

/// Keeps the frontier in sight.
async fn look(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // While it cannot be read, nothing more is known to be missing.
        if let Ok(frontier) = shared.frontier_reader.frontier().await {
            // What is nobody's yet is not known to be written.
            if shared.status.is_dealt()
                && let Ok(lag) = lag(&shared, &frontier).await
            {
                shared.status.lags(lag);
            }
            shared.frontier.send_replace(frontier);
        }
    }
}

async fn lag(shared: &Shared, frontier: &Frontier) -> Result<AnalyticsLag, LogError> {
    let position = shared.status.reached(frontier);
    let events = shared.log.head().await?.saturating_sub(position);
    let seconds = match events {
        0 => 0.0,
        _ => behind_for(&*shared.log, position, shared.ports.clock.now()).await?,
    };
    Ok(AnalyticsLag {
        position,
        events,
        seconds,
    })
}

/// What became of a partition that was followed. One whose task broke is read again, by a new one.
async fn followed(
    run: impl Future<Output = Result<(), Failure>> + Send + 'static,
) -> Result<(), Failure> {
    match tokio::spawn(run).await {
        Ok(outcome) => outcome,
        // The program ends.
        Err(ended) if ended.is_cancelled() => Ok(()),
        Err(broke) => Err(Failure::Retry(format!(
            "a partition was not followed: {broke}"
        ))),
    }
}

struct Follower {
    records: mpsc::UnboundedSender<Records>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The partitions of this process.
struct Mine {
    shared: Arc<Shared>,
    /// Cancelled when the program stops, or everything begins anew.
    stop: CancellationToken,
    followers: HashMap<Source, Follower>,
    failed: (
        mpsc::UnboundedSender<Failure>,
        mpsc::UnboundedReceiver<Failure>,
    ),
    done: mpsc::UnboundedSender<(Source, i64)>,
    finished: mpsc::UnboundedReceiver<(Source, i64)>,
}

impl Mine {
    async fn follow(&mut self, source: &mut dyn PartitionedSource) -> Result<(), Failure> {
        let stop = self.stop.clone();
        loop {
            let delivery = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(failure) = self.failed.1.recv() => return Err(failure),
                Some((partition, offset)) = self.finished.recv() => {
                    source.commit(&partition, offset);
                    continue;
                }
                delivery = source.next() => delivery,
            };
            match delivery.map_err(|error| Failure::Retry(error.to_string()))? {
                Delivery::Records(records) => {
                    // What comes late for a partition that was taken away is read by whoever has it.
                    if let Some(follower) = self.followers.get(&records.source) {
                        // Its task may have failed: that is told apart.
                        let _ = follower.records.send(records);
                    }
                }
                Delivery::Revoked(sources, answer) => {
                    self.shared.status.nothing_is_dealt();
                    self.let_go(Some(&sources)).await;
                    self.tell(source);
                    answer.give(());
                }
                Delivery::Assigned(sources, answer) => {
                    tokio::select! {
                        taken = self.take_on(sources, answer) => taken?,
                        () = stop.cancelled() => return Ok(()),
                    }
                }
            }
        }
    }

    /// Tells the group what has been finished.
    fn tell(&mut self, source: &mut dyn PartitionedSource) {
        while let Ok((partition, offset)) = self.finished.try_recv() {
            source.commit(&partition, offset);
        }
    }

    async fn take_on(
        &mut self,
        sources: Vec<Source>,
        answer: Answer<Vec<(Source, Start)>>,
    ) -> Result<(), Failure> {
        if sources.is_empty() {
            answer.give(Vec::new());
            self.shared.status.at_work();
            return Ok(());
        }
        check_divisions(&self.shared).await?;
        let mut starts = Vec::new();
        for source in sources {
            let stop = self.stop.child_token();
            let (shared, done) = (Arc::clone(&self.shared), self.done.clone());
            let partition = Partition::open(shared, source.clone(), stop.clone(), done).await?;
            self.shared.status.took(&source, partition.position());
            let start = partition.next_offset().map_or(Start::Beginning, Start::At);
            starts.push((source.clone(), start));
            let (records, received) = mpsc::unbounded_channel();
            let failed = self.failed.0.clone();
            let task = tokio::spawn(async move {
                if let Err(failure) = followed(partition.run(received)).await
                    && let Err(unheard) = failed.send(failure)
                {
                    unheard.0.tell();
                }
            });
            let follower = Follower {
                records,
                stop,
                task,
            };
            self.followers.insert(source, follower);
        }
        self.count();
        answer.give(starts);
        self.shared.status.at_work();
        Ok(())
    }

    fn count(&self) {
        let partitions = &self.shared.partitions;
        partitions.store(self.followers.len(), Ordering::Relaxed);
    }

    /// Ends some partitions, or all; waits a while for what they hold to be written.
    async fn let_go(&mut self, sources: Option<&[Source]>) {
        let leaving: Vec<Source> = match sources {
            Some(sources) => sources.to_vec(),
            None => self.followers.keys().cloned().collect(),
        };
        let leaving: Vec<(Source, Follower)> = leaving
            .into_iter()
            .filter_map(|source| self.followers.remove_entry(&source))
            .collect();
        for (source, follower) in &leaving {
            self.shared.status.let_go(source);
            follower.stop.cancel();
        }
        self.count();
        let ended = async {
            for (_, follower) in leaving {
                // What went wrong it has told by itself.
                let _ = follower.task.await;
            }
        };
        if timeout(HANDOVER, ended).await.is_err() {
            tracing::warn!(
                "files take long: their partitions are given away before they are written"
            );
        }
    }
}
