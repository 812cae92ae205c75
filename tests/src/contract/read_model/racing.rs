//! Random legal histories, through writers at once that repeat themselves, race each other for a source and vanish in the
//! middle.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};
use socialhub_domain::Event;
use socialhub_event_log::{Position, frontier::partition_for};
use socialhub_projections::{
    GenerationId, Projection, Source, StoreError, runtime::WriteMode, source_position,
};

use super::{
    Batch, Gens, Store, Subject, assert_equals_fold, batch, claim, current, described, open,
    patiently, replace,
};
use crate::contract::history::{Log, history};

/// How many partitions each topic has.
const PARTITIONS: i32 = 2;

/// The records of one source, in its order: offsets are their places in the list.
type Records = Arc<Vec<(Position, Event)>>;

/// Takes a log apart as the broker would.
fn by_source<S: Subject>(log: &Log) -> BTreeMap<Source, Records> {
    let mut sources: BTreeMap<Source, Log> = BTreeMap::new();
    for (position, event) in log {
        let topic = event.topic();
        if S::Projection::TOPICS.contains(&topic) {
            let partition = partition_for(event.key().to_string().as_bytes(), PARTITIONS);
            sources
                .entry(Source::partition(topic.name(), partition))
                .or_default()
                .push((*position, event.clone()));
        }
    }
    let shared = sources.into_iter();
    shared
        .map(|(source, records)| (source, Arc::new(records)))
        .collect()
}

/// A writer of one source that does what writers do, and what goes wrong with them.
struct Writer<S: Subject> {
    generations: Gens<S>,
    id: GenerationId,
    source: Source,
    records: Records,
    mode: WriteMode,
    rng: StdRng,
    /// The store that all writers of its process use; none: it opens one of its own.
    shared: Option<Store<S>>,
}

/// What became of one batch of a [`Writer`].
enum Tried {
    Went,
    /// Somebody else was there, or nobody knows: look where it stands.
    Look,
}

impl<S: Subject> Writer<S> {
    /// Writes until the source's last record is in.
    async fn run(mut self) {
        let mut store = self.store().await;
        let end = self.records.last().map_or(0, |record| record.0);
        let mut at = self.look(&store).await;
        while at < end {
            let first = self.records.partition_point(|record| record.0 <= at);
            let size = self.rng.random_range(1..self.largest());
            let last = (first + size).min(self.records.len());
            let next = batch::<S>(
                &self.source,
                at,
                &self.records[first..last],
                last as i64 - 1,
            );
            let position = next.checkpoint.position;
            at = match self.write(&store, next).await {
                Tried::Went => position,
                Tried::Look => self.look(&store).await,
            };
            if self.rng.random_bool(0.05) {
                self.close(&store).await;
                store = self.store().await;
                at = self.look(&store).await;
            }
        }
        self.close(&store).await;
    }

    /// How many records a batch may have. Those of a rebuild are large: one event is in a batch with what it is about.
    fn largest(&self) -> usize {
        match self.mode {
            WriteMode::Live => 25,
            WriteMode::Bulk => 200,
        }
    }

    async fn store(&self) -> Store<S> {
        match &self.shared {
            Some(shared) => Arc::clone(shared),
            None => open::<S>(&self.generations, self.id, self.mode).await,
        }
    }

    async fn close(&self, store: &Store<S>) {
        if self.shared.is_none() {
            store.close().await;
        }
    }

    async fn look(&self, store: &Store<S>) -> Position {
        let checkpoints = patiently(|| store.checkpoints()).await.unwrap();
        source_position(&checkpoints, &self.source)
    }

    async fn write(&mut self, store: &Store<S>, next: Batch<S>) -> Tried {
        if self.rng.random_bool(0.15) {
            // Vanishes at some moment of the call; what it had begun may or may not go in.
            let (store, next) = (Arc::clone(store), next);
            let doomed = tokio::spawn(async move { store.apply(next).await });
            // Any moment will do: the shorter, the earlier in the call.
            let moment = Duration::from_micros(self.rng.random_range(0..4_000));
            tokio::time::sleep(moment).await;
            doomed.abort();
            let _ = doomed.await;
            return Tried::Look;
        }
        match patiently(|| store.apply(next.clone())).await {
            Ok(()) => {}
            Err(StoreError::Moved) => return Tried::Look,
            Err(error) => panic!("{}: {error}", self.source),
        }
        if self.rng.random_bool(0.2) {
            // The answer was lost, so it is sent again.
            patiently(|| store.apply(next.clone())).await.unwrap();
        }
        Tried::Went
    }
}

/// Makes an empty generation current and removes the one before, as if the place were fresh.
pub(super) async fn start_over<S: Subject>(generations: &Gens<S>) -> GenerationId {
    let (new, old) = replace::<S>(generations, &Vec::new()).await;
    let held = claim::<S>(generations).await;
    patiently(|| generations.drop_generation(&held, old))
        .await
        .unwrap();
    new
}

/// Lets tasks run side by side; a panic in one is the test's.
async fn all_of(tasks: Vec<tokio::task::JoinHandle<()>>) {
    for outcome in join_all(tasks).await {
        if let Err(error) = outcome {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

async fn assert_as_the_log_says<S: Subject>(
    subject: &S,
    generations: &Gens<S>,
    id: GenerationId,
    log: &Log,
    seed: u64,
) {
    let rows = assert_equals_fold::<S>(generations, id, log, &format!("history {seed}")).await;
    subject.check_reads(log, &rows).await;
}

/// Random histories in the order of the log, with repeats and restarts.
pub async fn any_history_equals_its_fold<S: Subject>(subject: &S) {
    let generations = subject.open().await;
    for seed in 1..=S::HISTORIES {
        let id = start_over::<S>(&generations).await;
        let mut rng = StdRng::seed_from_u64(seed ^ 0xfeed);
        let log = history(seed, rng.random_range(1..260));
        let writer = Writer::<S> {
            generations: Arc::clone(&generations),
            id,
            source: Source::log(),
            records: Arc::new(log.clone()),
            mode: WriteMode::Live,
            rng,
            shared: None,
        };
        all_of(vec![tokio::spawn(writer.run())]).await;
        assert_as_the_log_says(subject, &generations, id, &log, seed).await;
    }
}

/// Random histories, each filled into a new generation as a rebuild does, with restarts, that then becomes current.
pub async fn any_history_fills_a_generation<S: Subject>(subject: &S) {
    let generations = subject.open().await;
    for seed in 1..=S::HISTORIES {
        let held = claim::<S>(&generations).await;
        let id = generations.create(&held).await.unwrap();
        let log = history(seed + 1_300, 260);
        let writer = Writer::<S> {
            generations: Arc::clone(&generations),
            id,
            source: Source::log(),
            records: Arc::new(log.clone()),
            mode: WriteMode::Bulk,
            rng: StdRng::seed_from_u64(seed),
            shared: None,
        };
        all_of(vec![tokio::spawn(writer.run())]).await;
        let old = current::<S>(&generations).await;
        let fence = generations.fence(&held).await.unwrap();
        fence.switch(id).await.unwrap();
        patiently(|| generations.drop_generation(&held, old))
            .await
            .unwrap();
        assert_as_the_log_says(subject, &generations, id, &log, seed).await;
    }
}

/// Two writers for each source of a generation, each in a process of its own, write a log to its end. Those of the first
/// process share a store, as those of a projector do; the others have one each.
async fn race<S: Subject>(processes: &[Gens<S>], id: GenerationId, log: &Log, seed: u64) {
    let store = open::<S>(&processes[0], id, WriteMode::Live).await;
    let writers = rivals::<S>(processes, id, log, seed, &store);
    let writing = writers.into_iter().map(|writer| tokio::spawn(writer.run()));
    all_of(writing.collect()).await;
    store.close().await;
}

/// The writers of a race; `shared` is the store of the first process.
fn rivals<S: Subject>(
    processes: &[Gens<S>],
    id: GenerationId,
    log: &Log,
    seed: u64,
    shared: &Store<S>,
) -> Vec<Writer<S>> {
    let mut writers = Vec::new();
    for (index, (source, records)) in (0..).zip(by_source::<S>(log)) {
        for (rival, generations) in (0..).zip(processes) {
            writers.push(Writer {
                generations: Arc::clone(generations),
                id,
                source: source.clone(),
                records: Arc::clone(&records),
                mode: WriteMode::Live,
                rng: StdRng::seed_from_u64(seed * 1_000 + index * 10 + rival),
                shared: (rival == 0).then(|| Arc::clone(shared)),
            });
        }
    }
    writers
}

/// Random histories, taken apart into partitions, each written by two processes that race for it.
pub async fn partitions_in_any_order_equal_the_fold<S: Subject>(subject: &S) {
    let processes = [subject.open().await, subject.open().await];
    for seed in 1..=S::HISTORIES {
        let id = start_over::<S>(&processes[0]).await;
        let log = history(seed + 500, 260);
        race::<S>(&processes, id, &log, seed).await;
        let ends = by_source::<S>(&log);
        let found = described::<S>(&processes[1], id).await.checkpoints;
        for (source, records) in &ends {
            let end = records.last().map_or(0, |record| record.0);
            assert_eq!(source_position(&found, source), end, "{source} of {seed}");
        }
        assert_as_the_log_says(subject, &processes[0], id, &log, seed).await;
    }
}

/// A generation filled from the first half of the log takes the place of one whose partitions were somewhere in it; its
/// writers then bring the rest.
pub async fn a_rebuild_beside_writers_loses_nothing<S: Subject>(subject: &S) {
    let processes = [subject.open().await, subject.open().await];
    for seed in 1..=S::HISTORIES / 4 {
        let old = start_over::<S>(&processes[0]).await;
        let log = history(seed + 900, 260);
        let half = log[..log.len() / 2].to_vec();
        race::<S>(&processes, old, &half, seed).await;
        let (new, _) = replace::<S>(&processes[0], &half).await;
        race::<S>(&processes, new, &log, seed).await;
        assert_as_the_log_says(subject, &processes[0], new, &log, seed).await;
        let held = claim::<S>(&processes[0]).await;
        patiently(|| processes[0].drop_generation(&held, old))
            .await
            .unwrap();
    }
}
