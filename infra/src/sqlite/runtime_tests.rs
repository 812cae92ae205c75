//! The projection runtime on SQLite generations, with a toy model whose effect shows every repeat: it counts.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::{Connection, Transaction};
use serde_json::json;
use socialhub_domain::{
    Clock, Event, StreamId, Timestamp, UserId,
    event::{UserProfileUpdated, UserRegistered},
    topic::Topic,
};
use socialhub_event_log::{
    Append, AppendError, Appended, EventLog, LogError, Metadata, NewEvent, Position, RecordedEvent,
    memory::MemoryEventLog,
};
use socialhub_projections::{
    Checkpoint, GenerationId, ModelName, ModelPosition, ParkedLetter, Projection, ProjectionStatus,
    ProjectorState, PublicRecord, ReadModelStore, Source, StoreError,
    projection::Projected,
    reactor::Reactor,
    runtime::{
        Claim, Control, Fence, Filler, Filling, Generation, GenerationState, Generations, LogTail,
        ModelControl, Pace, Progress, Projector, ProjectorTask, RebuildError, Snapshot, WriteMode,
        rebuild::rebuild,
    },
    store::{Attempts, ParkedSequence, WriteBatch},
    verify::{Entity, ModelFold, ModelRow, RowSink},
};
use tempfile::TempDir;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::sqlite::{
    generations::SqliteGenerations,
    model::{SqliteModel, copy_rows},
    wiring::open_model,
};

const PATIENCE: Duration = Duration::from_secs(60);

struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_000)
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(FixedClock)
}

/// Counts the events of each person.
struct Toy;

impl Projection for Toy {
    const NAME: ModelName = ModelName("toy");
    const TOPICS: &'static [Topic] = &[Topic::User];
    type Change = (UserId, String);

    fn project(_: Position, event: &Event) -> Vec<Self::Change> {
        match event {
            Event::UserRegistered(data) => vec![(data.user_id, data.username.clone())],
            Event::UserProfileUpdated(data) => {
                let bio = data.bio.clone().unwrap_or_default();
                assert_ne!(bio, "panic", "this event is poison");
                vec![(data.user_id, bio)]
            }
            _ => Vec::new(),
        }
    }
}

struct SqliteToy;

impl SqliteModel for SqliteToy {
    type Projection = Toy;
    type Fold = ToyFold;
    const SCHEMA: &'static str = "
        CREATE TABLE IF NOT EXISTS tally (
            id TEXT PRIMARY KEY, n INTEGER NOT NULL, last TEXT NOT NULL CHECK (last <> 'reject'),
            position INTEGER NOT NULL);";

    fn open(_: &Connection) -> rusqlite::Result<Self> {
        Ok(Self)
    }

    fn apply(
        &mut self,
        transaction: &Transaction<'_>,
        batch: &[Projected<(UserId, String)>],
    ) -> rusqlite::Result<()> {
        let mut statement = transaction.prepare_cached(
            "INSERT INTO tally (id, n, last, position) VALUES (?1, 1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET n = n + 1, last = excluded.last, position = excluded.position",
        )?;
        for projected in batch {
            for (id, text) in &projected.changes {
                statement.execute((id.to_string(), text, projected.position as i64))?;
            }
        }
        Ok(())
    }

    fn rolled_back(&mut self) {}

    fn rows(connection: &Connection, rows: &mut dyn RowSink) -> rusqlite::Result<()> {
        let mut query = connection.prepare("SELECT id, n, last, position FROM tally")?;
        let found = query.query_map([], |row| {
            Ok(ModelRow {
                table: "tally",
                key: row.get(0)?,
                value: json!({ "n": row.get::<_, i64>(1)?, "last": row.get::<_, String>(2)? })
                    .into(),
                position: row.get::<_, i64>(3)? as u64,
            })
        })?;
        for row in found {
            rows.take(row?);
        }
        Ok(())
    }

    const KINDS: &'static [&'static str] = &["tally"];

    fn mend(connection: &Connection, entity: &Entity) -> rusqlite::Result<()> {
        copy_rows(connection, "tally", "id = ?1", &[&entity.key])
    }
}

#[derive(Default)]
struct ToyFold(BTreeMap<String, (i64, String, Position)>);

impl ModelFold for ToyFold {
    type Accounts = ();

    fn apply(&mut self, position: Position, event: &Event) {
        for (id, text) in Toy::project(position, event) {
            let entry = self.0.entry(id.to_string()).or_default();
            *entry = (entry.0 + 1, text, position);
        }
    }

    fn each_row(&self, (): &(), row: &mut dyn FnMut(ModelRow)) {
        let rows = self.0.iter().map(|(key, (n, last, position))| ModelRow {
            table: "tally",
            key: key.clone(),
            value: json!({ "n": n, "last": last }).into(),
            position: *position,
        });
        rows.for_each(row);
    }
}

/// A log in memory some of whose events cannot be decoded.
struct ToyLog {
    inner: MemoryEventLog,
    broken: Mutex<HashSet<Position>>,
    versions: Mutex<BTreeMap<UserId, u64>>,
    salt: u128,
}

#[async_trait]
impl EventLog for ToyLog {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        self.inner.append(append).await
    }

    async fn read_stream(&self, stream: &StreamId) -> Result<Vec<RecordedEvent>, LogError> {
        self.inner.read_stream(stream).await
    }

    async fn read_streams(
        &self,
        streams: &[StreamId],
    ) -> Result<Vec<Vec<RecordedEvent>>, LogError> {
        self.inner.read_streams(streams).await
    }

    async fn read_all(
        &self,
        after: Position,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, LogError> {
        let mut events = self.inner.read_all(after, limit).await?;
        let broken = self.broken.lock();
        for event in &mut events {
            if broken.contains(&event.position) {
                "{".clone_into(&mut event.payload);
            }
        }
        Ok(events)
    }

    async fn head(&self) -> Result<Position, LogError> {
        self.inner.head().await
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.inner.watch_head()
    }
}

fn person(number: u128) -> UserId {
    UserId(Uuid::from_u128(number))
}

impl ToyLog {
    fn new(salt: u128) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryEventLog::new(),
            broken: Mutex::default(),
            versions: Mutex::default(),
            salt,
        })
    }

    /// Appends an event of a person that carries a text; answers its position.
    async fn say(&self, who: u128, text: &str) -> Position {
        let user_id = person(who);
        let version = *self.versions.lock().get(&user_id).unwrap_or(&0);
        let event = if version == 0 {
            Event::UserRegistered(UserRegistered {
                user_id,
                username: text.to_owned(),
                name: String::new(),
                timestamp: Timestamp(1),
            })
        } else {
            Event::UserProfileUpdated(UserProfileUpdated {
                user_id,
                name: None,
                bio: Some(text.to_owned()),
                avatar: None,
                timestamp: Timestamp(1),
            })
        };
        let id = Uuid::from_u128((self.salt << 96) | (who << 64) | u128::from(version) | 1 << 63);
        let appended = self
            .append(Append {
                command_id: id,
                stream: StreamId::new("user", user_id),
                expected_version: version,
                events: vec![NewEvent {
                    event_id: id,
                    event,
                    payload: None,
                }],
                metadata: Metadata::default(),
                side: Vec::new(),
            })
            .await
            .unwrap();
        self.versions.lock().insert(user_id, version + 1);
        appended.position
    }

    /// Events of a few people in turn.
    async fn chatter(&self, count: u128) -> Position {
        let mut last = 0;
        for number in 0..count {
            last = self.say(1 + number % 7, &format!("text {number}")).await;
        }
        last
    }
}

/// A folder, a log, and what runs on them.
struct World {
    folder: TempDir,
    toy: Arc<ToyLog>,
    log: Arc<dyn EventLog>,
}

impl World {
    fn new() -> Self {
        let toy = ToyLog::new(1);
        Self {
            folder: TempDir::new().unwrap(),
            log: Arc::clone(&toy) as Arc<dyn EventLog>,
            toy,
        }
    }

    /// As another process would open them.
    fn generations(&self) -> Arc<SqliteGenerations<SqliteToy>> {
        SqliteGenerations::open(self.folder.path(), clock()).unwrap()
    }

    fn control(&self) -> Control<Toy, ToyFold> {
        Control::new(self.generations(), clock())
    }

    fn start(&self, generations: Arc<dyn Generations<Toy>>) -> Live {
        self.start_with(generations, &[])
    }

    fn start_with(
        &self,
        generations: Arc<dyn Generations<Toy>>,
        reactors: &[Arc<dyn Reactor>],
    ) -> Live {
        let stop = CancellationToken::new();
        let tail = LogTail::start(Arc::clone(&self.log), CancellationToken::new());
        let mut projector = Projector::new(generations, tail, clock());
        for reactor in reactors {
            projector = projector.with_reactor(Arc::clone(reactor));
        }
        Live {
            task: projector.spawn(stop.clone()),
            stop,
        }
    }

    async fn rebuild(&self) -> Result<(), RebuildError> {
        let filling = self.control().begin_rebuild(&self.log).await?;
        self.finish(filling).await
    }

    async fn finish(&self, filling: Box<dyn Filling>) -> Result<(), RebuildError> {
        let stop = CancellationToken::new();
        let mut outcomes = rebuild(
            &self.log,
            vec![filling],
            Pace::Gentle,
            Arc::new(Quiet),
            stop,
        )
        .await;
        outcomes.pop().unwrap().1.map(|_| ())
    }

    async fn assert_clean(&self) {
        let report = self
            .control()
            .verify(&self.log, &Default::default())
            .await
            .unwrap();
        assert!(report.is_clean(), "{:?}", report.differences);
    }
}

struct Quiet;

impl Progress for Quiet {
    fn began(&self, _: ModelName, _: GenerationId, _: Position, _: Position) {}
    fn moved(&self, _: ModelName, _: Position, _: Position) {}
    fn ended(&self, _: ModelName) {}
}

struct Live {
    task: ProjectorTask,
    stop: CancellationToken,
}

impl Live {
    async fn reach(&self, wanted: Position) {
        let mut position = self.task.status.watch();
        timeout(PATIENCE, position.wait_for(|position| *position >= wanted))
            .await
            .expect("the projector gets there")
            .unwrap();
    }

    fn state(&self) -> ProjectorState {
        self.task.status.report(&FixedClock).state
    }

    /// There is nothing to watch for a projector that refuses: looks again each time the scheduler comes round.
    async fn refused(&self) -> String {
        timeout(PATIENCE, async {
            while self.state() != ProjectorState::Dead {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the projector refuses");
        self.task.status.report(&FixedClock).last_error.unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task.task).await.unwrap().unwrap();
    }

    /// As a kill does: nothing is written any more, nobody says goodbye.
    async fn kill(self) {
        self.task.task.abort();
        let _ = self.task.task.await;
    }
}

#[tokio::test]
async fn follows_the_log_and_goes_on_where_it_stopped() {
    let world = World::new();
    world.toy.chatter(50).await;
    let live = world.start(world.generations());
    live.reach(50).await;
    let head = world.toy.chatter(20).await;
    live.reach(head).await;
    live.stop().await;
    world.assert_clean().await;
    let head = world.toy.chatter(5).await;
    let live = world.start(world.generations());
    live.reach(head).await;
    world.assert_clean().await;
}

#[tokio::test]
async fn a_model_is_where_its_file_is_before_its_projector_starts() {
    let world = World::new();
    let head = world.toy.chatter(20).await;
    let live = world.start(world.generations());
    live.reach(head).await;
    live.stop().await;
    let open = |log: &Arc<dyn EventLog>| {
        let tail = LogTail::start(Arc::clone(log), CancellationToken::new());
        open_model::<SqliteToy>(world.folder.path(), 1, clock(), &tail).unwrap()
    };
    let position = open(&world.log).position().position().await.unwrap();
    assert_eq!(position, head);
    // A log that is behind its model has lost events, or is another: the model does not count.
    let other: Arc<dyn EventLog> = ToyLog::new(2);
    assert_eq!(open(&other).position().position().await.unwrap(), 0);
}

#[tokio::test]
async fn a_kill_at_any_moment_repeats_nothing() {
    let world = World::new();
    let mut head = 0;
    for _ in 0..20 {
        let generations = world.generations();
        let live = world.start(generations);
        head = world.toy.chatter(30).await;
        tokio::task::yield_now().await;
        live.kill().await;
    }
    let live = world.start(world.generations());
    live.reach(head).await;
    world.assert_clean().await;
}

/// Generations whose stores fail from a given call on: before it takes effect, or after.
struct Crashing {
    inner: Arc<SqliteGenerations<SqliteToy>>,
    countdown: Arc<AtomicUsize>,
    after: bool,
}

struct CrashingStore {
    inner: Arc<dyn ReadModelStore<Toy>>,
    countdown: Arc<AtomicUsize>,
    after: bool,
}

impl CrashingStore {
    async fn step<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let left = self.countdown.load(Ordering::SeqCst);
        let crash = || Err(StoreError::Unusable("crash".to_owned()));
        if left == 0 {
            return crash();
        }
        self.countdown.store(left - 1, Ordering::SeqCst);
        if left > 1 {
            return call.await;
        }
        if self.after {
            let _ = call.await;
        }
        crash()
    }
}

#[async_trait]
impl ReadModelStore<Toy> for CrashingStore {
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        self.step(self.inner.checkpoints()).await
    }
    async fn apply(&self, batch: WriteBatch<(UserId, String)>) -> Result<(), StoreError> {
        self.step(self.inner.apply(batch)).await
    }
    async fn parked(&self) -> Result<Vec<ParkedLetter>, StoreError> {
        self.step(self.inner.parked()).await
    }
    async fn parked_sequences(&self) -> Result<Vec<ParkedSequence>, StoreError> {
        self.step(self.inner.parked_sequences()).await
    }
    async fn apply_parked(&self, projected: Projected<(UserId, String)>) -> Result<(), StoreError> {
        self.step(self.inner.apply_parked(projected)).await
    }
    async fn discard_parked(&self, position: Position) -> Result<(), StoreError> {
        self.step(self.inner.discard_parked(position)).await
    }
    async fn set_attempts(&self, source: &Source, attempts: &Attempts) -> Result<(), StoreError> {
        self.step(self.inner.set_attempts(source, attempts)).await
    }
    async fn attempts(&self, source: &Source) -> Result<Attempts, StoreError> {
        self.step(self.inner.attempts(source)).await
    }
    async fn stopped_cleanly(&self, source: &Source) -> Result<bool, StoreError> {
        self.step(self.inner.stopped_cleanly(source)).await
    }
    async fn set_stopped_cleanly(&self, source: &Source, clean: bool) -> Result<(), StoreError> {
        self.step(self.inner.set_stopped_cleanly(source, clean))
            .await
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl Generations<Toy> for Crashing {
    fn current(&self) -> watch::Receiver<GenerationId> {
        self.inner.current()
    }
    async fn refresh(&self) -> Result<GenerationId, StoreError> {
        self.inner.refresh().await
    }
    async fn list(&self) -> Result<Vec<Generation>, StoreError> {
        self.inner.list().await
    }
    async fn open(
        &self,
        id: GenerationId,
        mode: WriteMode,
    ) -> Result<Arc<dyn ReadModelStore<Toy>>, StoreError> {
        Ok(Arc::new(CrashingStore {
            inner: self.inner.open(id, mode).await?,
            countdown: Arc::clone(&self.countdown),
            after: self.after,
        }))
    }
    async fn claim(&self) -> Result<Option<Claim>, StoreError> {
        self.inner.claim().await
    }
    async fn create(&self, claim: &Claim) -> Result<GenerationId, StoreError> {
        self.inner.create(claim).await
    }
    async fn drop_generation(&self, claim: &Claim, id: GenerationId) -> Result<(), StoreError> {
        self.inner.drop_generation(claim, id).await
    }
    async fn fence(&self, claim: &Claim) -> Result<Box<dyn Fence>, StoreError> {
        self.inner.fence(claim).await
    }
    async fn snapshot(
        &self,
        id: GenerationId,
        rows: &mut dyn RowSink,
    ) -> Result<Snapshot, StoreError> {
        self.inner.snapshot(id, rows).await
    }
    async fn letters(&self, id: GenerationId) -> Result<Vec<ParkedLetter>, StoreError> {
        self.inner.letters(id).await
    }
}

#[tokio::test]
async fn a_crash_between_any_two_steps_is_not_seen_in_the_model() {
    for step in 1..24 {
        for after in [false, true] {
            let world = World::new();
            world.toy.chatter(4).await;
            world.toy.say(1, "reject").await;
            let head = world.toy.chatter(4).await;
            for countdown in [step, step / 2 + 1] {
                let crashing = Crashing {
                    inner: world.generations(),
                    countdown: Arc::new(AtomicUsize::new(countdown)),
                    after,
                };
                let live = world.start(Arc::new(crashing));
                // Either it crashes or it gets there before it would.
                tokio::select! {
                    _ = live.refused() => {}
                    () = live.reach(head) => {}
                }
                live.kill().await;
            }
            let live = world.start(world.generations());
            live.reach(head).await;
            live.stop().await;
            world.assert_clean().await;
            let parked = parked_positions(&world).await;
            assert_eq!(parked, [5, 6], "after a crash at step {step}, {after}");
        }
    }
}

async fn parked_positions(world: &World) -> Vec<Position> {
    let letters = world.control().letters().await.unwrap();
    letters.iter().map(|letter| letter.position).collect()
}

#[tokio::test]
async fn what_cannot_be_applied_is_parked_with_what_follows_it_and_the_rest_moves_on() {
    let world = World::new();
    world.toy.chatter(14).await;
    let rejected = world.toy.say(2, "reject").await;
    let panicking = world.toy.say(3, "panic").await;
    let unreadable = world.toy.say(4, "unreadable").await;
    world.toy.broken.lock().insert(unreadable);
    let behind = world.toy.say(2, "behind").await;
    let head = world.toy.say(5, "moves on").await;
    let live = world.start(world.generations());
    live.reach(head).await;
    let later = world.toy.say(3, "behind, too").await;
    live.reach(later).await;
    let parked = live.task.status.report(&FixedClock).parked;
    assert_eq!((parked.events, parked.sequences), (5, 3));
    live.stop().await;
    assert_eq!(
        parked_positions(&world).await,
        [rejected, panicking, unreadable, behind, later]
    );
    let letters = world.control().letters().await.unwrap();
    assert!(letters[0].reason.contains("CHECK constraint"));
    assert!(letters[1].reason.contains("panicked"));
    assert_eq!(letters[2].raw, "no JSON, of length 1");
    assert!(letters[3].reason.contains(&format!("position {rejected}")));
    world.assert_clean().await;
}

#[tokio::test]
async fn a_letter_can_be_tried_again_or_given_up() {
    let world = World::new();
    world.toy.chatter(7).await;
    let unreadable = world.toy.say(4, "unreadable").await;
    world.toy.broken.lock().insert(unreadable);
    let rejected = world.toy.say(2, "reject").await;
    let live = world.start(world.generations());
    live.reach(rejected).await;
    let control = world.control();
    // The projector has the generation.
    assert!(control.discard_letter(rejected).await.is_err());
    live.stop().await;
    assert!(control.retry_letter(&world.log, unreadable).await.is_err());
    world.toy.broken.lock().clear();
    control.retry_letter(&world.log, unreadable).await.unwrap();
    assert!(control.retry_letter(&world.log, rejected).await.is_err());
    world.assert_clean().await;
    control.discard_letter(rejected).await.unwrap();
    assert!(parked_positions(&world).await.is_empty());
}

#[tokio::test]
async fn an_event_that_takes_the_process_down_is_parked_in_the_end() {
    let world = World::new();
    let head = world.toy.chatter(9).await;
    let generations = world.generations();
    let current = *generations.current().borrow();
    let store = generations.open(current, WriteMode::Live).await.unwrap();
    store
        .set_stopped_cleanly(&Source::log(), false)
        .await
        .unwrap();
    let tried = Attempts::from([(2, 2), (3, 3), (4, 1)]);
    store.set_attempts(&Source::log(), &tried).await.unwrap();
    store.close().await;
    let live = world.start(generations);
    live.reach(head).await;
    live.stop().await;
    // Position 3 is person 3's; they have no other event among the first nine.
    assert_eq!(parked_positions(&world).await, [3]);
    world.assert_clean().await;
    let generations = world.generations();
    let store = generations.open(current, WriteMode::Live).await.unwrap();
    assert!(store.stopped_cleanly(&Source::log()).await.unwrap());
    let tried = store.attempts(&Source::log()).await.unwrap();
    assert!(tried.is_empty(), "{tried:?}");
}

#[tokio::test]
async fn a_duplicate_batch_changes_nothing() {
    let world = World::new();
    let head = world.toy.chatter(10).await;
    let live = world.start(world.generations());
    live.reach(head).await;
    live.stop().await;
    let generations = world.generations();
    let current = *generations.current().borrow();
    let store = generations.open(current, WriteMode::Live).await.unwrap();
    let checkpoint = store.checkpoints().await.unwrap().remove(0);
    let projected = |position| Projected {
        position,
        changes: vec![(person(1), "again".to_owned())],
    };
    let batch = WriteBatch {
        projected: vec![projected(9), projected(10)],
        parked: Vec::new(),
        after: 0,
        checkpoint,
    };
    store.apply(batch).await.unwrap();
    store.close().await;
    world.assert_clean().await;
}

#[tokio::test]
async fn nobody_waits_for_a_model_that_does_not_move() {
    let (head, told) = watch::channel(10);
    let status = ProjectionStatus::new(Toy::NAME, told);
    let freshness = timeout(PATIENCE, status.wait_for(10, Duration::from_secs(3600)))
        .await
        .expect("it is given up after a second")
        .unwrap();
    assert!(freshness.stale);
    // Known by now: answers at once, with a limit that would not let it wait either.
    let freshness = status
        .wait_for(10, Duration::from_secs(3600))
        .await
        .unwrap();
    assert!(freshness.stale);
    assert!(!status.wait_for(0, Duration::ZERO).await.unwrap().stale);
    drop(head);
}

#[tokio::test]
async fn whoever_waits_is_woken_by_the_commit() {
    let world = World::new();
    let live = world.start(world.generations());
    let position = live.task.position();
    let waiting = tokio::spawn(async move { position.wait_for(3, PATIENCE).await.unwrap() });
    world.toy.chatter(3).await;
    let freshness = waiting.await.unwrap();
    assert!(!freshness.stale && freshness.position >= 3);
    live.stop().await;
}

#[derive(Default)]
struct Told(Mutex<Vec<Position>>);

#[async_trait]
impl Reactor for Told {
    async fn react(&self, records: &[PublicRecord]) {
        self.0
            .lock()
            .extend(records.iter().map(|record| record.position));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rebuild_by_another_process_goes_unnoticed_by_readers_and_ends_equal() {
    let world = World::new();
    let first = world.toy.chatter(500).await;
    let generations = world.generations();
    let readers = generations.readers(1).unwrap();
    let told = Arc::new(Told::default());
    let live = world.start_with(generations, &[Arc::clone(&told) as Arc<dyn Reactor>]);
    live.reach(first).await;
    let stop = CancellationToken::new();
    let appending = tokio::spawn({
        let (toy, stop) = (Arc::clone(&world.toy), stop.clone());
        async move {
            while !stop.is_cancelled() {
                toy.chatter(3).await;
                tokio::task::yield_now().await;
            }
        }
    });
    let looking = tokio::spawn({
        let (readers, stop) = (readers.clone(), stop.clone());
        async move {
            let mut seen = 0;
            while !stop.is_cancelled() {
                let found = read_position(&readers).await;
                assert!(found >= seen, "readers went back from {seen} to {found}");
                seen = found;
            }
        }
    });
    for round in 0..3 {
        world.rebuild().await.unwrap();
        let next = GenerationId(round + 2);
        let mut current = world.generations().current();
        timeout(PATIENCE, current.wait_for(|current| *current == next))
            .await
            .unwrap()
            .unwrap();
        let mark = world.log.head().await.unwrap();
        live.reach(mark).await;
        world.assert_clean().await;
    }
    stop.cancel();
    appending.await.unwrap();
    looking.await.unwrap();
    let head = world.log.head().await.unwrap();
    live.reach(head).await;
    assert_eq!(
        live.task.status.report(&FixedClock).generation,
        Some(GenerationId(4))
    );
    assert!(readers.current().path().ends_with("toy.4.db"));
    live.stop().await;
    world.assert_clean().await;
    let told = told.0.lock().clone();
    assert!(
        told.into_iter().eq(1..=head),
        "reactors hear of everything once, in order"
    );
    let kept: Vec<_> = world.generations().list().await.unwrap();
    let kept: Vec<_> = kept.iter().map(|found| (found.id.0, found.state)).collect();
    assert_eq!(
        kept,
        [
            (3, GenerationState::Previous),
            (4, GenerationState::Current)
        ]
    );
}

async fn read_position(readers: &crate::sqlite::generations::CurrentReaders) -> i64 {
    let query = |connection: &mut Connection| {
        connection.query_row(
            "SELECT coalesce(max(position), 0) FROM checkpoint",
            [],
            |row| row.get(0),
        )
    };
    readers.current().run(query).await.unwrap()
}

#[tokio::test]
async fn a_killed_rebuild_is_resumed_and_one_at_a_time_is_allowed() {
    let world = World::new();
    let head = world.toy.chatter(100).await;
    let filling = half_build(&world, 40).await;
    assert!(matches!(
        world.rebuild().await,
        Err(RebuildError::AlreadyRunning(_))
    ));
    // Killed: no word of goodbye, the locks fall with the process.
    drop(filling);
    let resumed = wait_for_claim(&world).await;
    assert_eq!(
        (resumed.generation(), resumed.position()),
        (GenerationId(2), 40)
    );
    world.finish(resumed).await.unwrap();
    world.assert_clean().await;
    let current = world.generations();
    let current = current.list().await.unwrap();
    assert_eq!(current[1].position(), head);
    assert_eq!(current[1].state, GenerationState::Current);
}

/// The writer's thread of a dropped filling gives its lock back a moment later.
async fn wait_for_claim(world: &World) -> Box<dyn Filling> {
    timeout(PATIENCE, async {
        loop {
            match world.control().begin_rebuild(&world.log).await {
                Ok(filling) => return filling,
                Err(RebuildError::Store(StoreError::Unavailable(_))) => {}
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_rebuild_can_be_taken_back() {
    let world = World::new();
    world.toy.chatter(20).await;
    let live = world.start(world.generations());
    live.reach(20).await;
    world.rebuild().await.unwrap();
    let head = world.toy.chatter(20).await;
    live.reach(head).await;
    let back = world
        .control()
        .begin_rollback(&world.log, None)
        .await
        .unwrap();
    world.finish(back).await.unwrap();
    let head = world.toy.chatter(5).await;
    live.reach(head).await;
    assert_eq!(*world.generations().current().borrow(), GenerationId(1));
    world.assert_clean().await;
    live.stop().await;
    assert_eq!(world.control().prune().await.unwrap(), [GenerationId(2)]);
}

#[tokio::test]
async fn a_store_of_another_log_is_refused_until_it_is_rebuilt() {
    let mut world = World::new();
    world.toy.chatter(30).await;
    let live = world.start(world.generations());
    live.reach(30).await;
    live.stop().await;
    world.toy = ToyLog::new(2);
    world.log = Arc::clone(&world.toy) as Arc<dyn EventLog>;
    let head = world.toy.chatter(10).await;
    let live = world.start(world.generations());
    let refusal = live.refused().await;
    assert!(
        refusal.contains("socialhub replay rebuild toy"),
        "{refusal}"
    );
    world.rebuild().await.unwrap();
    let later = world.toy.chatter(3).await;
    assert!(later > head);
    let status = &live.task.status;
    timeout(PATIENCE, async {
        while status.report(&FixedClock).position != later {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the projector comes back to life");
    live.stop().await;
    world.assert_clean().await;
}

/// Begins a rebuild and writes the first so many events. Dropped, it ends as by a kill.
async fn half_build(world: &World, events: usize) -> Filler<Toy> {
    let mut filling = Filler::begin(world.generations(), Arc::clone(&world.log), None, clock())
        .await
        .unwrap();
    let part = world.log.read_all(0, events).await.unwrap();
    let part: Vec<PublicRecord> = part.iter().map(PublicRecord::from_log).collect();
    filling
        .write(&part, &CancellationToken::new())
        .await
        .unwrap();
    filling
}

#[tokio::test]
async fn what_another_program_left_half_built_is_not_gone_on_with() {
    let world = World::new();
    world.toy.chatter(100).await;
    let left = half_build(&world, 40).await.generation();
    // Whatever that program did wrong is in these rows.
    let file = Connection::open(world.folder.path().join(format!("toy.{left}.db"))).unwrap();
    let other = "UPDATE state SET value = 'another' WHERE name = 'made_by'";
    assert_eq!(file.execute(other, []).unwrap(), 1);
    drop(file);
    let fresh = wait_for_claim(&world).await;
    assert_eq!((fresh.generation().0, fresh.position()), (left.0 + 1, 0));
    world.finish(fresh).await.unwrap();
    world.assert_clean().await;
    let listed = world.generations().list().await.unwrap();
    assert!(listed.iter().all(|generation| generation.id != left));
}

#[tokio::test]
async fn a_file_that_cannot_be_read_keeps_nobody_from_replacing_it() {
    let file = |world: &World, id: u32| world.folder.path().join(format!("toy.{id}.db"));
    let world = World::new();
    world.toy.chatter(30).await;
    let live = world.start(world.generations());
    live.reach(30).await;
    live.stop().await;
    // The current one is damaged, and the disk was full when another one was begun.
    fs::write(file(&world, 1), "no database at all".repeat(1_000)).unwrap();
    let catalogue = Connection::open(world.folder.path().join("toy.db")).unwrap();
    catalogue
        .execute(
            "INSERT INTO generation (state, created_at) VALUES ('building', 1)",
            [],
        )
        .unwrap();
    drop(catalogue);
    fs::write(file(&world, 2), "").unwrap();
    let broken: Vec<_> = world
        .generations()
        .list()
        .await
        .unwrap()
        .into_iter()
        .map(|generation| generation.broken)
        .collect();
    let [Some(current), Some(begun)] = &*broken else {
        panic!("{broken:?}");
    };
    assert!(current.contains("not a database"), "{current}");
    assert!(begun.contains("no such table"), "{begun}");
    let told = world
        .control()
        .verify(&world.log, &Default::default())
        .await;
    let told = told.unwrap_err().to_string();
    assert!(
        told.contains("run `socialhub replay rebuild toy`"),
        "{told}"
    );

    world.rebuild().await.unwrap();
    world.assert_clean().await;
    let live = world.start(world.generations());
    let head = world.toy.chatter(3).await;
    live.reach(head).await;
    live.stop().await;
    world.assert_clean().await;
    assert_eq!(world.control().prune().await.unwrap(), [GenerationId(1)]);
}

#[tokio::test]
async fn which_of_several_generations_to_go_back_to_is_asked() {
    let world = World::new();
    world.toy.chatter(10).await;
    world.rebuild().await.unwrap();
    world.rebuild().await.unwrap();
    // As if the oldest could not have been removed.
    let left = half_build(&world, 5).await.generation();
    let catalogue = Connection::open(world.folder.path().join("toy.db")).unwrap();
    catalogue
        .execute(
            "UPDATE generation SET state = 'previous' WHERE id = ?1",
            [left.0],
        )
        .unwrap();
    let control = world.control();
    let back = |to| control.begin_rollback(&world.log, to);
    let which = timeout(PATIENCE, async {
        loop {
            match back(None).await {
                Err(RebuildError::AlreadyRunning(_)) => {}
                other => return other,
            }
        }
    });
    let which = which.await.unwrap().map(|_| ()).unwrap_err();
    assert!(
        matches!(which, RebuildError::WhichPrevious { .. }),
        "{which}"
    );
    let none = back(Some(GenerationId(9))).await.map(|_| ()).unwrap_err();
    assert!(
        matches!(none, RebuildError::NoSuchPrevious { .. }),
        "{none}"
    );
    let chosen = back(Some(GenerationId(2))).await.unwrap();
    world.finish(chosen).await.unwrap();
    assert_eq!(*world.generations().current().borrow(), GenerationId(2));
    world.assert_clean().await;
}
