//! The event log: the contract on memory and SQLite, and what only a durable log can be asked.

use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use cqrs_es::{
    Aggregate, DomainEvent, EventStore,
    event_sink::EventSink,
    persist::{PersistedEventRepository, PersistedEventStore},
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use socialhub_domain::{Clock, StreamId, Timestamp, UserId};
use socialhub_event_log::{
    Append, AppendError, ErasureStore, EventLog, MemoryEventLog, Position, StoredAnswer,
};
use socialhub_infra::sqlite::event_log::{OpenError, SqliteEventLog};
use socialhub_tests::{
    contract::{
        event_log::{
            Log, TestResult, all, append, assert_dense, post_stream, sign_up, store_answer,
        },
        people::erase,
    },
    event_log_contract, people_contract, process_reports_contract,
};
use sqlite_es::SqliteEventRepository;
use tempfile::TempDir;

/// Tells the test binary that it is the child of the test that kills it, and where its log is.
const CHILD_LOG: &str = "SOCIALHUB_TEST_CHILD_LOG";

/// A clock that stands still.
pub(super) struct ClockAt(pub(super) Timestamp);

impl Clock for ClockAt {
    fn now(&self) -> Timestamp {
        self.0
    }
}

fn try_open(path: &Path, now: i64) -> Result<SqliteEventLog, OpenError> {
    SqliteEventLog::open(path, Arc::new(ClockAt(Timestamp(now))))
}

fn open(path: &Path) -> SqliteEventLog {
    try_open(path, 0).expect("a log in a fresh folder")
}

fn memory() -> (Arc<dyn Log>, ()) {
    (Arc::new(MemoryEventLog::new()), ())
}

fn sqlite() -> (Arc<dyn Log>, TempDir) {
    let folder = tempfile::tempdir().expect("a folder for the log");
    (Arc::new(open(&folder.path().join("log.db"))), folder)
}

event_log_contract!(memory => memory(); sqlite => sqlite());

mod people {
    use super::*;

    fn memory() -> (Arc<MemoryEventLog>, ()) {
        (Arc::new(MemoryEventLog::new()), ())
    }

    fn sqlite() -> (Arc<SqliteEventLog>, TempDir) {
        let folder = tempfile::tempdir().expect("a folder for the log");
        (Arc::new(open(&folder.path().join("log.db"))), folder)
    }

    people_contract!(memory => memory(); sqlite => sqlite());
}

/// A reader that began before may still hold what was overwritten in the write-ahead log.
#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_is_complete_when_the_write_ahead_log_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let log = open(&path);
    let signed_up = sign_up("eve", "eve@example.com");
    let user: UserId = signed_up.stream.aggregate_id.parse().unwrap();
    log.append(signed_up).await.unwrap();
    log.append(erase(user, 1)).await.unwrap();
    let reader = rusqlite::Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
    let sql = "SELECT count(*) FROM events";
    assert_eq!(reader.query_row(sql, [], count).unwrap(), 2);

    let pending = log.pending(0).await.unwrap().remove(0);
    assert!(log.complete(&pending, Timestamp(1)).await.is_err());
    assert_eq!(log.pending(0).await.unwrap().len(), 1);
    reader.execute_batch("COMMIT").unwrap();
    log.complete(&pending, Timestamp(2)).await.unwrap();
    assert!(log.pending(0).await.unwrap().is_empty());
    for name in ["log.db", "log.db-wal"] {
        let file = std::fs::read(folder.path().join(name)).unwrap();
        let text = String::from_utf8_lossy(&file);
        assert!(!text.contains("eve@example.com"), "{name}");
    }
}

mod processes {
    use socialhub_event_log::MemoryProcessReports;
    use socialhub_infra::process_file::ProcessFile;

    use super::*;

    fn file() -> (Arc<ProcessFile>, TempDir) {
        let folder = tempfile::tempdir().expect("a folder for the report");
        (Arc::new(ProcessFile::of(folder.path())), folder)
    }

    process_reports_contract!(
        memory => (Arc::new(MemoryProcessReports::default()), ());
        file => file();
    );
}

/// What is done to both logs; small numbers, so that commands meet.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Append {
        stream: u8,
        expected: u64,
        events: usize,
        key: Option<u8>,
        at: i64,
    },
    SignUp {
        username: u8,
        email: u8,
    },
    Again {
        back: usize,
    },
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let key = prop::option::of(0..3_u8);
    // Times on both sides of an answer's life.
    let at = prop::sample::select(vec![0, StoredAnswer::LIFETIME_MS]);
    prop_oneof![
        6 => (0..3_u8, 0..4_u64, 0..3_usize, key, at).prop_map(
            |(stream, expected, events, key, at)| Step::Append { stream, expected, events, key, at }
        ),
        1 => (0..3_u8, 0..3_u8).prop_map(|(username, email)| Step::SignUp { username, email }),
        1 => (1..5_usize).prop_map(|back| Step::Again { back }),
    ]
}

/// Turns steps into commands; a step of the past is sent again with its old command id.
pub(super) fn commands(steps: &[Step]) -> Vec<Append> {
    let mut commands: Vec<Append> = Vec::new();
    for step in steps {
        let command = match step {
            Step::Append {
                stream,
                expected,
                events,
                key,
                at,
            } => {
                let stream = StreamId::new("post", stream);
                let body = format!("{stream} {expected}");
                let store = |key: &u8| store_answer(&key.to_string(), &body, *at);
                Append {
                    side: key.iter().map(store).collect(),
                    ..append(&stream, *expected, *events)
                }
            }
            Step::SignUp { username, email } => {
                sign_up(&format!("name{username}"), &format!("{email}@example.org"))
            }
            Step::Again { back } => match commands.len().checked_sub(*back) {
                Some(index) => commands[index].clone(),
                None => continue,
            },
        };
        commands.push(command);
    }
    commands
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is done, one command after the other, both adapters answer alike and hold the same events.
    #[test]
    fn memory_and_sqlite_agree(steps in prop::collection::vec(step(), 0..60)) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let ((memory, ()), (sqlite, _folder)) = (memory(), sqlite());
            for command in commands(&steps) {
                let expected = memory.append(command.clone()).await;
                // A command that neither wrote nor stored anything is not remembered, and its repeat stands at the new head.
                let nothing = command.events.is_empty() && command.side.is_empty();
                let actual = sqlite.append(command).await;
                if !(nothing && actual.is_ok()) {
                    assert_eq!(format!("{expected:?}"), format!("{actual:?}"));
                }
            }
            assert_eq!(all(&*memory).await.unwrap(), all(&*sqlite).await.unwrap());
        });
    }
}

#[tokio::test]
async fn a_closed_log_is_whole_when_opened_again() -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    let log = open(&path);
    let command = append(&post_stream(), 0, 2);
    let first = log.append(command.clone()).await?;
    log.append(sign_up("Ada", "ada@example.org")).await?;
    let events = all(&log).await?;
    log.close();
    let refused = log.append(append(&post_stream(), 0, 1)).await;
    assert!(matches!(refused, Err(AppendError::Unavailable(_))));
    drop(log);
    let log = open(&path);
    assert_eq!(*log.watch_head().borrow(), 3);
    assert_eq!(all(&log).await?, events);
    assert_eq!(log.append(command).await?, first);
    let outcome = log.append(sign_up("ADA", "other@example.org")).await;
    assert!(matches!(outcome, Err(AppendError::CredentialsTaken(_))));
    assert_eq!(log.append(append(&post_stream(), 0, 1)).await?.position, 4);
    Ok(())
}

#[tokio::test]
async fn closing_commits_what_waits() -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    let log = open(&path);
    let waiting: Vec<_> = (0..100).map(|_| append(&post_stream(), 0, 1)).collect();
    let mut outcomes = Vec::new();
    for command in waiting {
        let mut outcome = log.append(command);
        // One poll puts the command into the queue; it may be answered already.
        match futures::poll!(&mut outcome) {
            std::task::Poll::Ready(done) => {
                done?;
            }
            std::task::Poll::Pending => outcomes.push(outcome),
        }
    }
    log.close();
    for outcome in outcomes {
        outcome.await?;
    }
    drop(log);
    assert_eq!(open(&path).head().await?, 100);
    Ok(())
}

#[tokio::test]
async fn a_second_writer_is_refused_and_readers_follow_the_first() -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    assert!(SqliteEventLog::open_read_only(&path).is_err());
    let writer = open(&path);
    writer.append(append(&post_stream(), 0, 1)).await?;
    let second = try_open(&path, 0);
    assert!(matches!(second, Err(OpenError::Locked { .. })));

    let reader = SqliteEventLog::open_read_only(&path)?;
    let mut watched = reader.watch_head();
    assert_eq!(*watched.borrow(), 1);
    assert!(matches!(
        reader.append(append(&post_stream(), 0, 1)).await,
        Err(AppendError::Unavailable(_))
    ));
    writer.append(append(&post_stream(), 0, 2)).await?;
    assert_eq!(reader.head().await?, 3);
    assert_eq!(all(&reader).await?, all(&writer).await?);
    let seen = watched.wait_for(|head| *head == 3);
    tokio::time::timeout(Duration::from_secs(10), seen).await??;

    drop(writer);
    assert_eq!(all(&reader).await?.len(), 3);
    open(&path).append(append(&post_stream(), 0, 1)).await?;
    assert_eq!(reader.head().await?, 4);
    Ok(())
}

#[tokio::test]
async fn answers_are_forgotten_after_a_day() -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    let log = open(&path);
    for key in ["old", "older"] {
        let mut command = append(&post_stream(), 0, 0);
        command.side = vec![store_answer(key, "done", 1)];
        log.append(command).await?;
    }
    drop(log);
    for (now, rows) in [
        (StoredAnswer::LIFETIME_MS, 2),
        (StoredAnswer::LIFETIME_MS + 1, 0),
    ] {
        let log = try_open(&path, now)?;
        log.append(append(&post_stream(), 0, 1)).await?;
        drop(log);
        let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        let file = rusqlite::Connection::open(&path)?;
        assert_eq!(
            file.query_row("SELECT count(*) FROM answers", [], count)?,
            rows
        );
    }
    Ok(())
}

#[test]
fn a_file_of_a_newer_program_is_refused() -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    drop(open(&path));
    rusqlite::Connection::open(&path)?.pragma_update(None, "user_version", 99)?;
    let newer = try_open(&path, 0);
    assert!(matches!(newer, Err(OpenError::Newer { found: 99, .. })));
    let newer = SqliteEventLog::open_read_only(&path);
    assert!(matches!(newer, Err(OpenError::Newer { found: 99, .. })));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill() -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    let mut acknowledged = Vec::new();
    for _round in 0..3 {
        acknowledged.extend(kill_while_writing(&path)?);
        let log = open(&path);
        let events = all(&log).await?;
        assert_dense(&events);
        for (position, event_id) in &acknowledged {
            let index = usize::try_from(*position)? - 1;
            assert_eq!(&events[index].event_id.to_string(), event_id);
        }
        let ids: std::collections::HashSet<_> = events.iter().map(|event| event.event_id).collect();
        assert_eq!(ids.len(), events.len());
        assert_eq!(*log.watch_head().borrow(), events.len() as Position);
    }
    Ok(())
}

/// Lets another process write the log until it has acknowledged something, kills it, and answers what it acknowledged:
/// positions and event ids.
fn kill_while_writing(
    path: &Path,
) -> Result<Vec<(Position, String)>, Box<dyn std::error::Error + Send + Sync>> {
    let mut child = Command::new(env::current_exe()?)
        .args(["--exact", "event_log::child_that_is_killed", "--nocapture"])
        .env(CHILD_LOG, path)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
    let (mut acknowledged, mut line) = (Vec::new(), String::new());
    while output.read_line(&mut line)? > 0 {
        let words: Vec<&str> = line.trim_end_matches('\n').split(' ').collect();
        // The last line may have been cut off by the kill.
        if let (["ack", position, event_id], true) = (&words[..], line.ends_with('\n')) {
            acknowledged.push((position.parse()?, (*event_id).to_owned()));
            if acknowledged.len() == 500 {
                child.kill()?;
            }
        }
        line.clear();
    }
    assert!(!child.wait()?.success(), "the child ended by itself");
    assert!(acknowledged.len() >= 500);
    Ok(acknowledged)
}

/// Not a test of its own: [`what_was_acknowledged_survives_a_kill`] runs it in another process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_is_killed() -> TestResult {
    let Ok(path) = env::var(CHILD_LOG) else {
        return Ok(());
    };
    let log = Arc::new(open(Path::new(&path)));
    let writers = (0..32).map(|_| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            loop {
                let command = append(&post_stream(), 0, 2);
                let last = command.events[1].event_id;
                let appended = log.append(command).await?;
                println!("ack {} {last}", appended.position);
            }
            #[expect(unreachable_code, reason = "gives the loop its type")]
            Ok::<_, AppendError>(())
        })
    });
    for outcome in futures::future::try_join_all(writers).await? {
        outcome?;
    }
    Ok(())
}

/// The smallest aggregate cqrs-es can load: it counts the events of a post.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Post {
    pub(super) events: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct AnyEvent(serde_json::Value);

impl DomainEvent for AnyEvent {
    fn event_type(&self) -> String {
        String::new()
    }

    fn event_version(&self) -> String {
        String::new()
    }
}

impl Aggregate for Post {
    const TYPE: &'static str = "post";
    type Command = ();
    type Event = AnyEvent;
    type Error = std::convert::Infallible;
    type Services = ();

    async fn handle(
        &mut self,
        (): (),
        (): &(),
        _sink: &EventSink<Self>,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    fn apply(&mut self, _event: AnyEvent) {
        self.events += 1;
    }
}

#[tokio::test]
async fn sqlite_es_reads_the_table() -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    let log = open(&path);
    let stream = post_stream();
    let mut command = append(&stream, 0, 3);
    command.metadata.correlation_id = Some("request".to_owned());
    log.append(append(&post_stream(), 0, 1)).await?;
    log.append(command.clone()).await?;

    let pool = sqlite_es::default_sqlite_pool(&format!("sqlite://{}", path.display())).await;
    let repository = SqliteEventRepository::new(pool);
    let read = repository.get_events::<Post>(&stream.aggregate_id).await?;
    let ours = log.read_stream(&stream).await?;
    assert_eq!(read.len(), 3);
    for ((theirs, ours), sequence) in read.iter().zip(&ours).zip(1..) {
        assert_eq!(theirs.sequence, sequence);
        assert_eq!(theirs.aggregate_type, "post");
        assert_eq!(theirs.aggregate_id, stream.aggregate_id);
        assert_eq!(theirs.event_type, ours.event_type);
        assert_eq!(theirs.event_version, ours.event_version.to_string());
        assert_eq!(
            theirs.payload,
            serde_json::from_str::<serde_json::Value>(&ours.payload)?
        );
        assert_eq!(theirs.metadata["eventId"], ours.event_id.to_string());
        assert_eq!(theirs.metadata["correlationId"], "request");
    }
    let store = PersistedEventStore::<_, Post>::new_event_store(repository);
    let context = store.load_aggregate(&stream.aggregate_id).await?;
    assert_eq!(context.aggregate.events, 3);
    Ok(())
}
