//! Many writers in several processes on one Postgres log, and everything that may go wrong around them.

use std::{
    collections::{HashMap, HashSet},
    env,
    error::Error,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::{join_all, try_join_all};
use socialhub_domain::StreamId;
use socialhub_event_log::{Append, AppendError, Appended, EventLog, RecordedEvent};
use socialhub_infra::{clock::SystemClock, postgres::event_log::PgEventLog};
use socialhub_tests::{
    contract::event_log::{TestResult, append, assert_dense, post_stream},
    support::{eventually, postgres::Database},
};
use sqlx::{Connection, Executor};
use tokio::{sync::watch, task::JoinHandle};
use uuid::Uuid;

/// Tells the test binary that it is a writer of the stress test, and where the log is.
const CHILD_URL: &str = "SOCIALHUB_TEST_CHILD_URL";

const PROCESSES: usize = 3;
const WRITERS: usize = 16;
const LASTING: Duration = Duration::from_secs(7);

type Failure = Box<dyn Error + Send + Sync>;

/// Opens the log, though the killer may be at work.
async fn open(url: &str) -> PgEventLog {
    eventually("the log opens", async || {
        let log = PgEventLog::connect(url, Arc::new(SystemClock)).await;
        log.ok()
    })
    .await
}

/// What a writer was told of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Appended, its last event at this position.
    At(u64),
    /// Certainly not applied.
    Not,
    /// The outcome is not known.
    Unknown,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_skipped_lost_or_doubled_whatever_fails() -> TestResult {
    let database = Arc::new(Database::create().await);
    PgEventLog::migrate(database.url()).await?;
    database
        .execute("CREATE TABLE foreigners (id bigint)")
        .await;
    let (stop, stopped) = watch::channel(false);
    let tail = tokio::spawn(tail(Arc::clone(&database), stopped.clone()));
    let around: Vec<JoinHandle<usize>> = vec![
        tokio::spawn(foreigner(Arc::clone(&database), stopped.clone(), "COMMIT")),
        tokio::spawn(foreigner(
            Arc::clone(&database),
            stopped.clone(),
            "ROLLBACK",
        )),
        tokio::spawn(killer(Arc::clone(&database), stopped)),
    ];

    let children = (0..PROCESSES).map(|_| {
        let url = database.url().to_owned();
        tokio::task::spawn_blocking(move || child(&url))
    });
    let mut told = HashMap::new();
    for child in try_join_all(children).await? {
        told.extend(child?);
    }
    stop.send_replace(true);
    let mut did = Vec::new();
    for task in around {
        did.push(task.await?);
    }
    assert!(did.iter().all(|times| *times > 5), "{did:?}");

    let seen = tail.await??;
    let log = open(database.url()).await;
    assert_eq!(seen, log.read_all(0, usize::MAX).await?);
    assert_dense(&seen);
    let count = |what: fn(&Told) -> bool| told.values().filter(|told| what(told)).count();
    println!(
        "{} events; told: {} applied, {} not, {} unknown; around: {did:?}",
        seen.len(),
        count(|told| matches!(told, Told::At(_))),
        count(|told| *told == Told::Not),
        count(|told| *told == Told::Unknown),
    );
    assert!(count(|told| matches!(told, Told::At(_))) > 500);
    check(&seen, &told);
    Ok(())
}

/// Every command that was acknowledged is there once and where it was said to be, and none that was refused.
fn check(seen: &[RecordedEvent], told: &HashMap<Uuid, Told>) {
    let mut ids = HashSet::new();
    let mut by_command: HashMap<Uuid, Vec<&RecordedEvent>> = HashMap::new();
    for event in seen {
        assert!(ids.insert(event.event_id), "{event:?} is there twice");
        // The writers note the command's id as the cause.
        let command = event.metadata.causation_id.unwrap();
        by_command.entry(command).or_default().push(event);
    }
    for (command, told) in told {
        let events = by_command.remove(command).unwrap_or_default();
        match told {
            Told::At(position) => {
                let last = events.last().unwrap();
                assert_eq!(last.position, *position);
                assert!(events.iter().all(|event| event.stream == last.stream));
                let first = events[0].position;
                assert_eq!(last.position - first + 1, events.len() as u64);
            }
            Told::Not => assert!(events.is_empty(), "{command} was refused: {events:?}"),
            Told::Unknown => {}
        }
    }
    assert!(by_command.is_empty(), "appended by nobody: {by_command:?}");
}

/// Reads on from where it was until all is quiet: positions must follow one another.
async fn tail(
    database: Arc<Database>,
    stopped: watch::Receiver<bool>,
) -> Result<Vec<RecordedEvent>, Failure> {
    let log = open(database.url()).await;
    let mut head = log.watch_head();
    let mut seen: Vec<RecordedEvent> = Vec::new();
    loop {
        let quiet = *stopped.borrow();
        let at = seen.len() as u64;
        // Whoever cuts connections may cut so many that it gives up.
        let Ok(page) = log.read_all(at, 500).await else {
            continue;
        };
        if page.is_empty() {
            if quiet {
                return Ok(seen);
            }
            let risen = head.wait_for(|head| *head > at);
            // In time to see that all is quiet.
            if let Ok(risen) = tokio::time::timeout(Duration::from_millis(200), risen).await {
                risen?;
            }
        }
        for event in page {
            assert_eq!(event.position, seen.len() as u64 + 1);
            seen.push(event);
        }
    }
}

/// Transactions of others in the same database, begun before many appends and ended after them.
async fn foreigner(
    database: Arc<Database>,
    mut stopped: watch::Receiver<bool>,
    end: &'static str,
) -> usize {
    let mut connection = database.connect().await;
    let mut times = 0;
    while !*stopped.borrow() {
        let begin = "BEGIN; INSERT INTO foreigners VALUES (1); SELECT count(*) FROM events";
        connection.execute(begin).await.unwrap();
        // Held open for a while, or until all ends.
        let ended = stopped.wait_for(|stopped| *stopped);
        let _ = tokio::time::timeout(Duration::from_millis(300), ended).await;
        connection.execute(end).await.unwrap();
        times += 1;
    }
    connection.close().await.unwrap();
    times
}

/// Ends a connection of the log every now and then, most often one that is busy.
async fn killer(database: Arc<Database>, mut stopped: watch::Receiver<bool>) -> usize {
    let mut connection = database.connect().await;
    let mut times = 0;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = 'socialhub-log' AND datname = current_database()
         ORDER BY state = 'active' DESC, random() LIMIT 1";
    loop {
        let ended = stopped.wait_for(|stopped| *stopped);
        if tokio::time::timeout(Duration::from_millis(150), ended)
            .await
            .is_ok()
        {
            connection.close().await.unwrap();
            return times;
        }
        let killed = sqlx::query(kill).execute(&mut connection).await.unwrap();
        times += usize::try_from(killed.rows_affected()).unwrap();
    }
}

/// Runs a writing process to its end and answers what it was told.
fn child(url: &str) -> Result<Vec<(Uuid, Told)>, Failure> {
    let mut child = Command::new(env::current_exe()?)
        .args([
            "--exact",
            "postgres_stress::child_that_writes",
            "--nocapture",
        ])
        .env(CHILD_URL, url)
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(child.stdout.take().ok_or("no output")?);
    let mut told = Vec::new();
    for line in output.lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let (command, outcome) = match words[..] {
            ["at", command, position] => (command, Told::At(position.parse()?)),
            ["not", command] => (command, Told::Not),
            ["unknown", command] => (command, Told::Unknown),
            _ => continue,
        };
        told.push((command.parse()?, outcome));
    }
    assert!(child.wait()?.success(), "a writing process failed");
    Ok(told)
}

/// Not a test of its own: [`nothing_is_skipped_lost_or_doubled_whatever_fails`] runs it in other processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_writes() -> TestResult {
    let Ok(url) = env::var(CHILD_URL) else {
        return Ok(());
    };
    let log = Arc::new(open(&url).await);
    let end = Instant::now() + LASTING;
    let writers = (0..WRITERS).map(|writer| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let mut round = 0;
            while Instant::now() < end {
                write(&log, writer, round).await?;
                round += 1;
            }
            Ok::<_, Failure>(())
        })
    });
    for outcome in try_join_all(writers).await? {
        outcome?;
    }
    Ok(())
}

/// One command: on a stream of its own, or on one that all processes fight for.
async fn write(log: &PgEventLog, writer: usize, round: usize) -> Result<(), Failure> {
    let mut command = if (writer + round).is_multiple_of(4) {
        let stream = StreamId::new("post", format!("hot-{}", round % 3));
        // Its connection may be killed again and again.
        let Ok(events) = log.read_stream(&stream).await else {
            return Ok(());
        };
        append(&stream, events.len() as u64, 1)
    } else {
        append(&post_stream(), 0, 1 + round % 3)
    };
    command.metadata.causation_id = Some(command.command_id);
    let id = command.command_id;
    let again = round.is_multiple_of(5).then(|| command.clone());
    let outcome = log.append(command).await;
    if let (Ok(first), Some(again)) = (&outcome, again) {
        assert_eq!(&repeat(log, again).await?, first);
    }
    // In one piece: lines of several threads must not mix.
    match outcome {
        Ok(appended) => println!("at {id} {}", appended.position),
        Err(AppendError::OutcomeUnknown) => println!("unknown {id}"),
        Err(AppendError::Unavailable(_) | AppendError::VersionConflict { .. }) => {
            println!("not {id}");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Sends a command again until it is answered.
async fn repeat(log: &PgEventLog, command: Append) -> Result<Appended, AppendError> {
    loop {
        match log.append(command.clone()).await {
            Err(AppendError::Unavailable(_) | AppendError::OutcomeUnknown) => {}
            outcome => return outcome,
        }
    }
}

/// Not a test: prints how fast appends are. `cargo test … --release -- --ignored --nocapture measure`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; docs/decisions/0007-append-on-postgres.md tells what it found"]
async fn measure_appends() -> TestResult {
    for callers in [1, 16, 100, 256] {
        for processes in [1, 2] {
            let database = Database::create().await;
            PgEventLog::migrate(database.url()).await?;
            let mut logs = Vec::new();
            for _ in 0..processes {
                logs.push(Arc::new(open(database.url()).await));
            }
            // Connections, plans and the first pages.
            join_all(
                logs.iter()
                    .map(|log| log.append(append(&post_stream(), 0, 1))),
            )
            .await;
            let begin = Instant::now();
            let end = begin + Duration::from_secs(4);
            let tasks = (0..callers).map(|caller: usize| {
                let log = Arc::clone(&logs[caller % logs.len()]);
                tokio::spawn(async move {
                    let mut slowest = Vec::new();
                    while Instant::now() < end {
                        let sent = Instant::now();
                        log.append(append(&post_stream(), 0, 1)).await?;
                        slowest.push(sent.elapsed());
                    }
                    Ok::<_, AppendError>(slowest)
                })
            });
            let mut times = Vec::new();
            for outcome in try_join_all(tasks).await? {
                times.extend(outcome?);
            }
            times.sort_unstable();
            println!(
                "{callers:>4} callers, {processes} logs: {:>6.0}/s, p50 {:?}, p99 {:?}",
                times.len() as f64 / begin.elapsed().as_secs_f64(),
                times[times.len() / 2],
                times[times.len() * 99 / 100],
            );
        }
    }
    Ok(())
}
