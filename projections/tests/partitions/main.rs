//! Several processes project one model from partitions, and everything goes wrong that can: each event has its effect
//! once, in the order of its sequence.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, with its place"
)]

mod analytics_member;
mod store;
mod switches;
mod topics;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::json;
use socialhub_domain::{
    Clock, StreamId, Timestamp, UserId, event::UserProfileUpdated, topic::Topic,
};
use socialhub_event_log::{
    Append, EventLog, FrontierReader, MemoryEventLog, Metadata, NewEvent, Position,
};
use socialhub_projections::{
    Checkpoint, GenerationId, ModelPosition, ParkedLetter, Projection, ProjectorState,
    PublicRecord, Source, StoreError,
    reactor::Reactor,
    runtime::{
        Filler, Filling, Generations, Pace, Pacer, PartitionProjector, ProjectorTask, RebuildError,
        RebuildReport, StorePosition, VerifyReport, check::verify, writer::CAREFUL_BATCH,
    },
    verify::{Difference, ModelRow},
};
use store::{Look, Model, StoreFault, Toy, ToyFold};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use topics::{Joins, Member, Topics, partitions};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(300);

struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp(1)
    }
}

struct Process {
    member: Arc<Member>,
    task: ProjectorTask,
    stop: CancellationToken,
    dead: Arc<AtomicBool>,
}

struct World {
    log: Arc<MemoryEventLog>,
    topics: Arc<Topics>,
    model: Arc<Model>,
    processes: Vec<Process>,
    reacted: Arc<Reacted>,
}

#[derive(Default)]
struct Reacted(Mutex<Vec<Position>>);

#[async_trait]
impl Reactor for Reacted {
    async fn react(&self, records: &[PublicRecord]) {
        self.0
            .lock()
            .extend(records.iter().map(|record| record.position));
    }
}

impl World {
    fn new(processes: usize) -> Self {
        let log = Arc::new(MemoryEventLog::new());
        let mut world = Self {
            topics: Topics::new(Arc::clone(&log)),
            log,
            model: Model::new(),
            processes: Vec::new(),
            reacted: Arc::default(),
        };
        for _ in 0..processes {
            let process = world.start();
            world.processes.push(process);
        }
        world
    }

    fn log(&self) -> Arc<dyn EventLog> {
        Arc::clone(&self.log) as Arc<dyn EventLog>
    }

    fn frontier(&self) -> Arc<dyn FrontierReader> {
        Arc::clone(&self.topics.relay) as Arc<dyn FrontierReader>
    }

    fn start(&self) -> Process {
        let (dead, stop) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
        let member = Member::new(&self.topics);
        let projector = PartitionProjector::new(
            self.model.seen_by(Arc::clone(&dead)) as Arc<dyn Generations<Toy>>,
            Arc::new(Joins(Arc::clone(&member))),
            self.log(),
            self.frontier(),
            Arc::new(FixedClock),
        );
        let projector = projector.with_reactor(Arc::clone(&self.reacted) as Arc<dyn Reactor>);
        Process {
            member,
            task: projector.spawn(stop.clone()),
            stop,
            dead,
        }
    }

    async fn append(&self, count: usize) {
        for _ in 0..count {
            let nth = self.log.head().await.unwrap() + 1;
            let id = Uuid::from_u128(u128::from(nth));
            let event = UserProfileUpdated {
                user_id: UserId(Uuid::from_u128(u128::from(nth * nth % 11))),
                name: None,
                bio: None,
                avatar: None,
                timestamp: Timestamp(nth as i64),
            };
            let append = Append {
                command_id: id,
                stream: StreamId::new("user", nth),
                expected_version: 0,
                events: vec![NewEvent {
                    event_id: id,
                    event: event.into(),
                    payload: None,
                }],
                metadata: Metadata::default(),
                side: Vec::new(),
            };
            self.log.append(append).await.unwrap();
        }
    }

    /// Deals the partitions out anew, after everybody has let go of theirs.
    async fn rebalance(&self, seed: usize) {
        for process in &self.processes {
            process.member.revoke().await;
        }
        self.assign(seed).await;
    }

    /// The first process gets all partitions, once it can have them, and all that is in them.
    async fn deliver_to_one(&self) {
        let member = &self.processes[0].member;
        while !member.is_idle() {
            sleep(Duration::from_millis(1)).await;
        }
        self.rebalance(0).await;
        member.deliver(usize::MAX);
    }

    /// Deals the partitions out; who had one is not told.
    async fn assign(&self, seed: usize) {
        let mut dealt: BTreeMap<usize, Vec<_>> = BTreeMap::new();
        for (nth, source) in partitions().enumerate() {
            let to = (nth * (seed / 7 + 1) + seed) % self.processes.len();
            dealt.entry(to).or_default().push(source);
        }
        for (to, sources) in dealt {
            self.processes[to].member.assign(sources).await;
        }
    }

    /// A process ends as by SIGKILL: nothing it does reaches the store any more.
    fn kill(&mut self, nth: usize) {
        let nth = nth % self.processes.len();
        let started = self.start();
        let killed = std::mem::replace(&mut self.processes[nth], started);
        killed.dead.store(true, Ordering::SeqCst);
        killed.task.task.abort();
    }

    async fn begin_rebuild(&self) -> Filler<Toy> {
        let generations = self.model.seen_by(Arc::default());
        let filler = Filler::begin(
            generations as Arc<dyn Generations<Toy>>,
            self.log(),
            Some(self.frontier()),
            Arc::new(FixedClock),
        );
        filler.await.unwrap()
    }

    async fn rebuild(&self) {
        self.finish(self.begin_rebuild().await).await;
    }

    async fn roll_back(&self) {
        let generations = self.model.seen_by(Arc::default());
        let filler = Filler::roll_back(
            generations as Arc<dyn Generations<Toy>>,
            self.log(),
            Some(self.frontier()),
            Arc::new(FixedClock),
            None,
        );
        match filler.await {
            Ok(filler) => self.finish(filler).await,
            Err(RebuildError::NothingToRollBackTo(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Whenever one looks, the model is what its checkpoints say.
    async fn verify(&self) {
        let generations = self.model.seen_by(Arc::default());
        let (log, frontier) = (self.log(), self.frontier());
        let report =
            verify::<Toy, ToyFold>(&*generations, &log, Some(&frontier), &Default::default()).await;
        let report = report.unwrap();
        assert!(report.is_clean(), "{report:?}");
    }

    async fn finish(&self, filler: Filler<Toy>) {
        let before = self.log.head().await.unwrap();
        let report = self.try_to_finish(filler).await;
        assert!(report.unwrap().position >= before);
    }

    async fn try_to_finish(&self, filler: Filler<Toy>) -> Result<RebuildReport, RebuildError> {
        let pacer = Pacer::begin(&self.log(), Pace::Gentle).await.unwrap();
        Box::new(filler)
            .finish(pacer, &CancellationToken::new())
            .await
    }

    /// Everything is published, dealt out and delivered, until the model has it all.
    async fn settle(&self) {
        self.topics.publish(usize::MAX).await;
        let head = self.log.head().await.unwrap();
        self.rebalance(0).await;
        let settled = async {
            loop {
                for process in &self.processes {
                    process.member.deliver(10);
                }
                sleep(Duration::from_millis(20)).await;
                if self.position() >= head {
                    return;
                }
                // A source was opened anew: its group deals out again.
                if self
                    .processes
                    .iter()
                    .any(|process| process.member.is_idle())
                {
                    self.rebalance(0).await;
                }
            }
        };
        if timeout(PATIENCE, settled).await.is_err() {
            let reports: Vec<_> = self
                .processes
                .iter()
                .map(|process| process.task.status.report(&FixedClock))
                .collect();
            panic!(
                "never settled at {head}: {:?} {reports:?}",
                self.model.checkpoints()
            );
        }
        self.assert_whole();
    }

    fn position(&self) -> Position {
        let frontier = self.topics.relay.saved();
        socialhub_projections::status::reached(&self.model.checkpoints(), Toy::TOPICS, &frontier)
    }

    #[track_caller]
    fn assert_whole(&self) {
        let mut wanted: BTreeMap<String, Vec<Position>> = BTreeMap::new();
        for event in self.log.events() {
            let key = event.decode().unwrap().key().to_string();
            wanted.entry(key).or_default().push(event.position);
        }
        assert_eq!(self.model.rows(), wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn partitions_are_shared_and_handed_over() {
    let mut world = World::new(2);
    world.append(50).await;
    world.topics.publish(50).await;
    world.rebalance(0).await;
    world.settle().await;
    world.kill(1);
    world.append(20).await;
    world.settle().await;
    let mut reacted = world.reacted.0.lock().clone();
    reacted.sort_unstable();
    reacted.dedup();
    assert_eq!(reacted.len(), 70);
    for process in world.processes {
        process.stop.cancel();
        process.task.task.await.unwrap();
        assert_eq!(
            process.task.status.report(&FixedClock).state,
            ProjectorState::Stopped
        );
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_not_been_dealt_partitions_yet_is_starting_and_who_gets_none_runs() {
    let world = World::new(2);
    let states = || {
        let of = |process: &Process| process.task.status.report(&FixedClock).state;
        world.processes.iter().map(of).collect::<Vec<_>>()
    };
    for process in &world.processes {
        while process.task.status.report(&FixedClock).generation.is_none() {
            sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(states(), [ProjectorState::Starting; 2]);
    world.processes[0].member.assign(Vec::new()).await;
    assert_eq!(
        states(),
        [ProjectorState::Running, ProjectorState::Starting]
    );
    world.processes[1]
        .member
        .assign(partitions().collect())
        .await;
    assert_eq!(states(), [ProjectorState::Running; 2]);
}

#[tokio::test(start_paused = true)]
async fn what_the_topic_lost_comes_from_the_log() {
    let world = World::new(1);
    world.append(60).await;
    world.topics.publish(60).await;
    for source in partitions() {
        world.topics.truncate(&source, 5);
    }
    world.settle().await;
    // A partition that was emptied brings nothing at all.
    world.append(30).await;
    world.topics.publish(30).await;
    for source in partitions() {
        world.topics.truncate(&source, usize::MAX);
    }
    world.settle().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_parked_behind_a_letter_that_is_gone_is_applied() {
    let mut world = World::new(0);
    let event = |nth: u128| Uuid::from_u128(nth);
    let person = Uuid::from_u128(1);
    world.model.park(ParkedLetter {
        position: 0,
        event_id: event(0),
        topic: Topic::User.name().to_owned(),
        key: person.to_string(),
        raw: String::new(),
        reason: "it was not readable".to_owned(),
        attempts: 1,
        parked_at: Timestamp(1),
    });
    *world.model.leaving.lock() = Some(0);
    let process = world.start();
    world.processes.push(process);
    world.append(30).await;
    world.settle().await;
    assert_eq!(*world.model.leaving.lock(), None, "more was parked");
    assert_eq!(world.model.letters(), Vec::<Position>::new());
    world.append(30).await;
    world.settle().await;
    assert_eq!(world.model.letters(), Vec::<Position>::new());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_emptied_while_it_is_written_is_filled_again() {
    let world = World::new(1);
    world.append(40).await;
    world.settle().await;
    world.model.empty();
    world.append(40).await;
    world.topics.publish(40).await;
    world.processes[0].member.deliver(40);
    sleep(Duration::from_millis(20)).await;
    world.settle().await;
    assert!(*world.model.moved.lock() > 0);
}

#[tokio::test(start_paused = true)]
async fn going_back_to_a_generation_that_partitions_fed_applies_nothing_twice() {
    let world = World::new(2);
    world.append(40).await;
    world.settle().await;
    world.rebuild().await;
    world.append(20).await;
    world.settle().await;
    world.roll_back().await;
    world.settle().await;
    world.append(20).await;
    world.roll_back().await;
    world.settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_of_another_log_is_refused() {
    let world = World::new(1);
    world.append(9).await;
    world.settle().await;
    let mut other = World::new(0);
    other.model = Arc::clone(&world.model);
    other.append(3).await;
    let process = other.start();
    let error = refusal(&process).await;
    assert!(error.contains("socialhub replay rebuild toy"), "{error}");
}

/// Why a process refuses to go on, when it does.
async fn refusal(process: &Process) -> String {
    let status = Arc::clone(&process.task.status);
    let refused = async {
        while status.report(&FixedClock).state != ProjectorState::Dead {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, refused).await.unwrap();
    status.report(&FixedClock).last_error.unwrap()
}

#[tokio::test(start_paused = true)]
async fn partitions_of_topics_that_were_divided_anew_are_not_taken_on() {
    let world = World::new(1);
    world.append(9).await;
    world.settle().await;
    let before = world.model.checkpoints();
    let mut frontier = world.topics.relay.saved();
    frontier
        .partitions
        .values_mut()
        .for_each(|count| *count += 1);
    world.topics.relay.restore(frontier);
    // Nothing is delivered: being dealt the partitions is enough.
    world.rebalance(0).await;
    let error = refusal(&world.processes[0]).await;
    assert!(error.contains("socialhub replay rebuild toy"), "{error}");
    assert_eq!(world.model.checkpoints(), before);
}

#[tokio::test(start_paused = true)]
async fn who_refused_goes_on_by_itself_when_what_was_wrong_is_right_again() {
    let world = World::new(1);
    world.append(9).await;
    world.settle().await;
    let right = world.topics.relay.saved();
    let mut wrong = right.clone();
    wrong.partitions.values_mut().for_each(|count| *count += 1);
    world.topics.relay.restore(wrong);
    world.rebalance(0).await;
    refusal(&world.processes[0]).await;
    world.topics.relay.restore(right);
    world.append(3).await;
    world.settle().await;
    let report = world.processes[0].task.status.report(&FixedClock);
    assert_eq!(report.state, ProjectorState::Running, "{report:?}");
    assert_eq!(report.last_error, None);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_takes_the_process_down_is_parked_and_nothing_else_that_was_in_hand() {
    let (mut world, deadly, mut deaths) = (World::new(1), 5, 0);
    world.append(40).await;
    *world.model.deadly.lock() = Some(deadly);
    world.topics.publish(40).await;
    while world.model.letters().is_empty() {
        let process = &world.processes[0];
        if process.dead.load(Ordering::SeqCst) {
            deaths += 1;
            world.kill(0);
            continue;
        }
        if process.member.is_idle() {
            world.rebalance(0).await;
        }
        world.processes[0].member.deliver(10);
        sleep(Duration::from_millis(20)).await;
    }
    // The first time it was one of many, then it was tried three times.
    assert_eq!(deaths, 4);
    while world.position() < 40 {
        world.processes[0].member.deliver(10);
        sleep(Duration::from_millis(20)).await;
    }
    // Those of the same key wait behind it.
    let same = |nth: &u64| nth * nth % 11 == deadly * deadly % 11;
    let waiting: Vec<_> = (deadly..=40).filter(same).collect();
    assert_eq!(world.model.letters(), waiting);
}

#[tokio::test(start_paused = true)]
async fn after_a_kill_records_are_tried_many_at_a_time_and_those_in_hand_by_themselves() {
    let mut world = World::new(1);
    world.append(1_000).await;
    world.topics.publish(1_000).await;
    for in_hand in [None, Some(1)] {
        *world.model.deadly.lock() = in_hand;
        world.deliver_to_one().await;
        while in_hand.is_some() && !world.processes[0].dead.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(1)).await;
        }
        world.kill(0);
    }
    *world.model.deadly.lock() = None;
    world.model.batches.lock().clear();
    world.deliver_to_one().await;
    while world.position() < 1_000 {
        sleep(Duration::from_millis(1)).await;
    }
    let batches = world.model.batches.lock().clone();
    let partitions = partitions().count();
    let alone = batches.iter().filter(|records| **records == 1).count();
    let in_hand = CAREFUL_BATCH..=partitions * CAREFUL_BATCH;
    assert!(in_hand.contains(&alone), "{batches:?}");
    let together = batches.len() - alone;
    let most = 1_000 / CAREFUL_BATCH + partitions;
    assert!(together <= most, "{batches:?}");
    assert!(world.model.letters().is_empty());
}

/// What a look at a store without transactions sees: how far it has come, and whether the row of the second event is
/// there as a whole.
fn look(position: u64, whole: bool) -> Look {
    let key = |nth: u64| Uuid::from_u128(u128::from(nth * nth % 11)).to_string();
    let row = |nth, value| ModelRow {
        table: "person",
        key: key(nth),
        value,
        position: nth,
    };
    let second = if whole { json!([2]) } else { json!("half") };
    let checkpoint = Checkpoint {
        source: Source::log(),
        position,
        event_id: Uuid::from_u128(u128::from(position)),
        next_offset: None,
        partitions: None,
    };
    let rows = vec![row(1, json!([1]).into()), row(2, second.into())];
    (vec![checkpoint], rows)
}

/// Looks at a model of a log of so many events; answers how many looks were not needed, too.
async fn looked_at(events: usize, looks: impl IntoIterator<Item = Look>) -> (VerifyReport, usize) {
    looked_at_beside(None, events, looks).await
}

/// Beside a writer that comes after so many looks; none: that is there from the beginning.
async fn looked_at_beside(
    comes: Option<usize>,
    events: usize,
    looks: impl IntoIterator<Item = Look>,
) -> (VerifyReport, usize) {
    let (report, left) = look_at(World::new(0), comes, events, looks).await;
    (report.unwrap(), left)
}

async fn look_at(
    world: World,
    comes: Option<usize>,
    events: usize,
    looks: impl IntoIterator<Item = Look>,
) -> (Result<VerifyReport, RebuildError>, usize) {
    world.append(events).await;
    let looks: VecDeque<_> = looks.into_iter().collect();
    let comes = comes.map_or(usize::MAX, |after| looks.len() - after);
    *world.model.writer_comes.lock() = comes;
    *world.model.looks.lock() = looks;
    let (generations, log) = (world.model.seen_by(Arc::default()), world.log());
    let report = verify::<Toy, ToyFold>(&*generations, &log, None, &Default::default()).await;
    let left = world.model.looks.lock().len();
    (report, left)
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_half_written_is_waited_for_however_long_a_look_takes() {
    let looks = [look(1, false), look(1, false), look(2, true), look(2, true)];
    let (report, left) = looked_at(2, looks).await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(left, 1);
}

/// A look at a generation that is removed in the middle of it, since another one has become current.
fn removed() -> Look {
    (Vec::new(), Vec::new())
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_is_replaced_in_the_middle_is_not_judged_but_the_one_that_is_current_then()
 {
    for moments in [false, true] {
        let world = World::new(0);
        *world.model.one_moment.lock() = moments;
        let looks = [look(1, false), removed(), look(2, true)];
        let looks = looks.into_iter().skip(usize::from(moments));
        let (report, left) = look_at(world, None, 2, looks).await;
        let report = report.unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(
            (report.generation, report.rows, left),
            (GenerationId(2), 2, 0)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn where_generations_keep_being_replaced_none_is_judged() {
    let looks = [removed(), removed(), removed(), look(2, true)];
    let (report, left) = look_at(World::new(0), None, 2, looks).await;
    assert!(
        matches!(report, Err(RebuildError::Changed { .. })),
        "{report:?}"
    );
    assert_eq!(left, 1);
}

/// A look at a model that holds more than is kept of it, all of it invented but for the first two rows.
fn large_look(invented: u128) -> Look {
    let (checkpoints, mut rows) = look(2, true);
    rows.extend((0..invented).map(|nth| ModelRow {
        table: "person",
        key: Uuid::from_u128(1_000 + nth).to_string(),
        value: json!("invented").into(),
        position: 1,
    }));
    (checkpoints, rows)
}

#[tokio::test(start_paused = true)]
async fn of_a_large_model_what_differs_is_named_by_the_looks_after_the_first() {
    let (report, left) = looked_at(2, [0, 0, 0, 0].map(|_| large_look(100_001))).await;
    assert_eq!(left, 0);
    assert_eq!((report.rows, report.position), (100_003, 2));
    assert_eq!(report.differences.len(), 100_001);
    let invented = |found: &Difference| found.found == Some(json!("invented"));
    assert!(report.differences.iter().all(invented));
}

#[tokio::test(start_paused = true)]
async fn a_large_model_that_is_seen_at_one_moment_is_looked_at_twice() {
    let world = World::new(0);
    *world.model.one_moment.lock() = true;
    let earlier = || {
        let (mut checkpoints, rows) = large_look(100_001);
        checkpoints[0].position = 1;
        checkpoints[0].event_id = Uuid::from_u128(1);
        (checkpoints, rows)
    };
    let looks = [earlier(), large_look(100_001), large_look(0)];
    let (report, left) = look_at(world, None, 2, looks).await;
    // What is only in the rest was not compared up to where the second look was.
    let report = report.unwrap();
    assert_eq!((left, report.position), (1, 1));
    assert_eq!(report.differences.len(), 100_001);
}

#[tokio::test(start_paused = true)]
async fn what_differs_in_the_first_look_at_a_large_model_only_was_being_written() {
    let (report, left) = looked_at(2, [large_look(100_001), look(2, true)]).await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.rows, left), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_stays_half_written_differs_in_the_end() {
    let looks = [
        look(1, false),
        look(1, false),
        look(1, false),
        look(1, false),
    ];
    let (report, left) = looked_at(2, looks).await;
    assert_eq!(report.differences.len(), 1, "{report:?}");
    assert_eq!(left, 1);
}

#[tokio::test(start_paused = true)]
async fn who_comes_on_has_more_time_to_write_what_is_half_written() {
    // It comes to the second event when three looks have been, and is not done with it yet.
    let looks = [
        look(0, false),
        look(0, false),
        look(1, false),
        look(2, true),
        look(2, true),
    ];
    let (report, left) = looked_at(2, looks).await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(left, 1);
}

#[tokio::test(start_paused = true)]
async fn however_others_come_on_a_batch_that_stays_half_written_differs_in_the_end() {
    // The second event is never handled; which of the others were, changes with each look.
    let looks = (0..100).map(|nth| look(nth % 2, false));
    let (report, left) = looked_at(2, looks).await;
    assert_eq!(report.differences.len(), 1, "{report:?}");
    assert!((80..95).contains(&left), "{left}");
}

#[tokio::test(start_paused = true)]
async fn what_was_under_way_at_the_first_look_is_waited_for_also_where_no_row_tells_of_it() {
    // What is half taken away has the position of what brought it.
    let looks = [
        look(2, false),
        look(3, false),
        look(4, false),
        look(5, true),
        look(5, true),
    ];
    let (report, left) = looked_at(5, looks).await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(left, 1);
}

#[tokio::test(start_paused = true)]
async fn who_comes_during_a_look_may_be_in_the_middle_of_what_it_shows_half() {
    let looks = [look(1, false), look(2, true), look(2, true)];
    let (report, _) = looked_at_beside(Some(1), 2, looks).await;
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn who_writes_without_seeming_to_be_there_is_known_by_the_checkpoints() {
    let looks = [look(1, false), look(2, true)];
    let (report, _) = looked_at_beside(Some(2), 2, looks).await;
    assert!(report.is_clean(), "{report:?}");
    let looks = [look(1, false), look(1, false), look(2, true)];
    let (report, left) = looked_at_beside(Some(3), 2, looks).await;
    assert_eq!((report.differences.len(), left), (1, 1), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn who_leaves_during_a_look_may_have_completed_what_it_shows_half() {
    let (report, _) = looked_at(2, [look(1, false)]).await;
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn other_processes_wait_for_the_model() {
    let world = World::new(1);
    world.append(10).await;
    let position = StorePosition::start(
        Toy::NAME,
        Toy::TOPICS,
        Arc::clone(&world.model) as Arc<_>,
        world.frontier(),
        world.log.watch_head(),
        CancellationToken::new(),
    );
    assert_eq!(position.position().await.unwrap(), 0);
    let limit = Duration::from_secs(30);
    // Nothing moves: known to be stuck after a second.
    let freshness = position.wait_for(10, limit).await.unwrap();
    assert!(freshness.stale);
    let freshness = position.wait_for(10, limit).await.unwrap();
    assert!(freshness.stale);
    world.settle().await;
    let mut moved = position.watch();
    timeout(PATIENCE, moved.wait_for(|position| *position == 10))
        .await
        .unwrap()
        .unwrap();
    let freshness = position.wait_for(10, limit).await.unwrap();
    assert_eq!((freshness.position, freshness.stale), (10, false));
    world.append(5).await;
    let (freshness, ()) = tokio::join!(position.wait_for(15, limit), world.settle());
    assert!(!freshness.unwrap().stale);
}

#[tokio::test(start_paused = true)]
async fn who_begins_to_watch_a_model_nobody_asked_for_is_told() {
    let world = World::new(1);
    let position = StorePosition::start(
        Toy::NAME,
        Toy::TOPICS,
        Arc::clone(&world.model) as Arc<_>,
        world.frontier(),
        world.log.watch_head(),
        CancellationToken::new(),
    );
    // Long enough to be asked for no more; nothing is known of what happens meanwhile.
    sleep(Duration::from_secs(60)).await;
    world.append(10).await;
    world.settle().await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(position.known(), 0);
    let mut moved = position.watch();
    timeout(PATIENCE, moved.wait_for(|position| *position == 10))
        .await
        .unwrap()
        .unwrap();
    drop(moved);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(position.position().await.unwrap(), 10);
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Publish(usize),
    Deliver(usize),
    /// Records come again, or are lost.
    Shift(i64),
    Truncate(usize),
    Rebalance(usize),
    /// Partitions are dealt out while others still believe to have them.
    Zombies(usize),
    Kill(usize),
    Rebuild,
    RollBack,
    Verify,
    Store(StoreFault),
    Sleep(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..30_usize).prop_map(Step::Append),
        4 => (1..40_usize).prop_map(Step::Publish),
        6 => (1..12_usize).prop_map(Step::Deliver),
        2 => (-12..12_i64).prop_map(Step::Shift),
        1 => (1..9_usize).prop_map(Step::Truncate),
        2 => (0..40_usize).prop_map(Step::Rebalance),
        2 => (0..40_usize).prop_map(Step::Zombies),
        1 => (0..3_usize).prop_map(Step::Kill),
        1 => Just(Step::Rebuild),
        1 => Just(Step::RollBack),
        2 => Just(Step::Verify),
        2 => prop_oneof![Just(StoreFault::Unavailable), Just(StoreFault::AnswerLost)].prop_map(Step::Store),
        2 => (0..60_u64).prop_map(Step::Sleep),
    ]
}

async fn play(steps: Vec<Step>) {
    let mut world = World::new(3);
    world.rebalance(1).await;
    for step in steps {
        match step {
            Step::Append(count) => world.append(count).await,
            Step::Publish(count) => world.topics.publish(count).await,
            Step::Deliver(limit) => {
                for process in &world.processes {
                    process.member.deliver(limit);
                }
            }
            Step::Shift(by) => {
                for process in &world.processes {
                    process.member.shift(by);
                }
            }
            Step::Truncate(count) => {
                for source in partitions() {
                    world.topics.truncate(&source, count);
                }
            }
            Step::Rebalance(seed) => world.rebalance(seed).await,
            Step::Zombies(seed) => world.assign(seed).await,
            Step::Kill(nth) => world.kill(nth),
            Step::Rebuild => world.rebuild().await,
            Step::RollBack => world.roll_back().await,
            Step::Verify => world.verify().await,
            Step::Store(fault) => world.model.faults.lock().push(fault),
            Step::Sleep(millis) => sleep(Duration::from_millis(millis)).await,
        }
    }
    world.settle().await;
    world.verify().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn each_event_has_its_effect_once(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(play(steps));
    }
}
