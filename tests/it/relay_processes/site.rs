//! A log, topics that nobody else uses, writers, and two relay processes.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use socialhub_domain::{
    Event, NotificationId, PostId, StreamId, Timestamp, UserId,
    event::{NotificationRead, PostDeleted, UserProfileUpdated},
    topic::Topic,
};
use socialhub_event_log::{
    Append, AppendError, EventLog, FrontierReader, Metadata, NewEvent, Position, WireHeaders,
    WireRecord,
};
use socialhub_infra::{
    clock::SystemClock,
    kafka::KafkaSettings,
    postgres::{event_log::PgEventLog, relay_store::PgRelayStore},
};
use socialhub_tests::{
    contract::event_log::id,
    support::{Profile, binary, eventually, printed},
};
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::kafka::topic;

const WRITERS: usize = 3;
/// Between two commands of a writer: enough for several in each transaction, and time for the relay to take breath.
const PACE: Duration = Duration::from_millis(10);
/// Keys per topic.
const KEYS: u64 = 40;

/// See the module.
pub struct Site {
    relays: Vec<RelayProcess>,
    environment: Vec<(String, String)>,
    folder: TempDir,
    writers: Writers,
    log: PgEventLog,
    store: PgRelayStore,
    settings: KafkaSettings,
}

/// While it lives, no relay can save how far it is.
pub struct HeldSaves {
    connection: PgConnection,
    /// How far the relay had saved that it is.
    pub saved: Position,
}

impl Site {
    /// A fresh one whose topics are on these brokers.
    pub async fn start(brokers: &str) -> Self {
        let mut environment = Profile::Distributed.environment().await;
        for (name, value) in &mut environment {
            if name == "KAFKA_BROKERS" {
                brokers.clone_into(value);
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let migrated = command(&["migrate"], &environment, &folder).output();
        let migrated = migrated.unwrap();
        assert!(migrated.status.success(), "{}", printed(&migrated));
        let url = setting(&environment, "DATABASE_URL");
        let namespace = setting(&environment, "NAMESPACE");
        let mut site = Self {
            relays: Vec::new(),
            writers: Writers::start(url).await,
            log: open(url).await,
            store: PgRelayStore::connect(url).await.unwrap(),
            settings: KafkaSettings {
                topic_prefix: format!("{namespace}."),
                ..KafkaSettings::new(brokers)
            },
            environment,
            folder,
        };
        for _ in 0..2 {
            site.relays.push(site.launch());
        }
        site
    }

    fn launch(&self) -> RelayProcess {
        RelayProcess::start(command(&["relay"], &self.environment, &self.folder))
    }

    /// A connection to the log's database.
    async fn database(&self) -> PgConnection {
        let url = setting(&self.environment, "DATABASE_URL");
        PgConnection::connect(url).await.unwrap()
    }

    /// The one text that a query answers.
    async fn ask(&self, query: &str) -> String {
        let mut database = self.database().await;
        let answer = sqlx::query_scalar(query).fetch_one(&mut database).await;
        database.close().await.unwrap();
        answer.unwrap()
    }

    /// Which of the relays holds the lease, when one does that runs or hangs.
    pub async fn leader(&self) -> usize {
        eventually("one of the relays leads", async || {
            let owner = self
                .ask("SELECT coalesce(owner, '') FROM relay_lease")
                .await;
            let leads = |relay: &RelayProcess| !owner.is_empty() && relay.says(&owner);
            self.relays.iter().position(leads)
        })
        .await
    }

    /// Waits until an event that is appended now, and with it all before it, is told and known to be told.
    pub async fn told_on(&self) {
        let position = append(&self.log, 0, 1).await;
        eventually("the log is told on", || async {
            (self.saved().await >= position).then_some(())
        })
        .await;
    }

    async fn saved(&self) -> Position {
        // Asked again and again: a busy database may be late with an answer.
        eventually("the frontier is told", || async {
            Some(self.store.frontier().await.ok()?.position)
        })
        .await
    }

    /// How many events are not known to be told.
    pub async fn behind(&self) -> u64 {
        let saved = self.saved().await;
        self.log.head().await.unwrap() - saved
    }

    /// Kills a relay at once (SIGKILL).
    pub fn kill(&mut self, relay: usize) {
        self.relays[relay].kill();
    }

    /// Starts a relay again that has ended.
    pub fn restart(&mut self, relay: usize) {
        self.relays[relay] = self.launch();
    }

    /// Asks a relay to end (SIGTERM), and waits until it has.
    pub async fn stop(&mut self, relay: usize) {
        self.signal(relay, "-TERM");
        let process = &mut self.relays[relay].process;
        let ended = eventually("the relay ends", || {
            let ended = process.try_wait().unwrap();
            async move { ended }
        });
        assert!(ended.await.success());
    }

    /// Sends a relay a signal.
    pub fn signal(&self, relay: usize, signal: &str) {
        let pid = self.relays[relay].process.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Lets a relay go on that hung until another took over, and waits until it has found out: it has lost the lease as often
    /// as it has led.
    pub async fn wakes_as_follower(&self, relay: usize) {
        self.signal(relay, "-CONT");
        let relay_log = &self.relays[relay];
        eventually("it finds that it does not lead", || async {
            let led = relay_log.count("leading owner=");
            (relay_log.count("the lease is lost") == led).then_some(())
        })
        .await;
        assert_ne!(self.leader().await, relay);
    }

    /// Lets no relay save how far it is.
    pub async fn hold_saves(&self) -> HeldSaves {
        let mut connection = self.database().await;
        let hold = "BEGIN; SELECT FROM relay_state FOR UPDATE";
        connection.execute(hold).await.unwrap();
        HeldSaves {
            connection,
            saved: self.saved().await,
        }
    }

    /// Waits until something later than this is on the topics.
    pub async fn published_beyond(&self, saved: Position) {
        eventually("the next batch is on the topics", || async {
            let records = self.read_topics().await;
            let last = records.values().filter_map(|records| records.last());
            let last = last.map(|headers| headers.position).max();
            last.is_some_and(|last| last > saved).then_some(())
        })
        .await;
    }

    /// Lets relays save again, after the server has given up what those wanted to save who no longer run.
    pub async fn free_saves(&self, held: HeldSaves) {
        let waiting = "SELECT count(*)::text FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'";
        eventually("nobody waits to save any more", async || {
            (self.ask(waiting).await == "0").then_some(())
        })
        .await;
        assert_eq!(
            self.saved().await,
            held.saved,
            "it was published, not saved"
        );
        held.connection.close().await.unwrap();
    }

    /// Lets the writers end, and compares the topics with the log.
    pub async fn end(mut self) {
        let appended = self.writers.end().await;
        assert!(appended > 500, "{appended} events are no load");
        self.told_on().await;
        let log = self.log.read_all(0, usize::MAX).await.unwrap();
        assert!(log.len() as u64 > appended);
        let frontier = self.store.frontier().await.unwrap();
        let mut wanted: BTreeMap<_, Vec<WireHeaders>> = BTreeMap::new();
        for topic in Topic::ALL {
            for partition in 0..frontier.partitions[topic.name()] {
                wanted.insert((topic.name().to_owned(), partition), Vec::new());
            }
        }
        for event in &log {
            let mut record = WireRecord::of(event, 0).unwrap();
            let topic = record.topic.name();
            let partition = frontier.partition_of(topic, &record.key).unwrap();
            let before = wanted.get_mut(&(topic.to_owned(), partition)).unwrap();
            record.headers.previous = before.last().map_or(0, |headers| headers.position);
            before.push(record.headers);
        }
        assert!(wanted.values().all(|records| records.len() > 50));
        let found = self.read_topics().await;
        assert!(found.keys().eq(wanted.keys()), "{:?}", found.keys());
        for (place, wanted) in &wanted {
            assert_same(place, &found[place], wanted);
        }
    }

    /// The committed records of every partition.
    async fn read_topics(&self) -> BTreeMap<(String, i32), Vec<WireHeaders>> {
        let settings = self.settings.clone();
        let read = tokio::task::spawn_blocking(move || topic::read(&settings));
        read.await.unwrap()
    }
}

/// Tells the first difference, and not all of two long lists.
fn assert_same(place: &(String, i32), found: &[WireHeaders], wanted: &[WireHeaders]) {
    for (nth, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert_eq!(found, wanted, "{place:?}, record {nth}");
    }
    assert_eq!(found.len(), wanted.len(), "{place:?}");
}

fn setting<'a>(environment: &'a [(String, String)], name: &str) -> &'a str {
    let found = environment.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value.as_str()).unwrap()
}

fn command(arguments: &[&str], environment: &[(String, String)], folder: &TempDir) -> Command {
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .envs(environment.iter().cloned())
        .current_dir(folder.path())
        .stdin(Stdio::null());
    command
}

/// A `socialhub relay` process.
struct RelayProcess {
    process: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl RelayProcess {
    fn start(mut command: Command) -> Self {
        let mut process = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        Self { process, log }
    }

    /// How many lines of its log hold this.
    fn count(&self, text: &str) -> usize {
        let log = self.log.lock().unwrap();
        log.iter().filter(|line| line.contains(text)).count()
    }

    fn says(&self, text: &str) -> bool {
        self.count(text) > 0
    }

    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log.lock().unwrap().join("\n");
            eprintln!("--- a relay's log ---\n{log}");
        }
    }
}

/// Append without a pause, each over connections of its own, as processes do.
struct Writers {
    over: Arc<AtomicBool>,
    writing: Vec<JoinHandle<u64>>,
}

impl Writers {
    async fn start(url: &str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut writing = Vec::new();
        for _ in 0..WRITERS {
            let (log, over) = (open(url).await, Arc::clone(&over));
            writing.push(tokio::spawn(async move {
                let mut appended = 0;
                while !over.load(Ordering::Relaxed) {
                    let events = 1 + appended % 4;
                    append(&log, appended, events).await;
                    appended += events;
                    tokio::time::sleep(PACE).await;
                }
                appended
            }));
        }
        Self { over, writing }
    }

    /// How many events they appended.
    async fn end(&mut self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        let mut appended = 0;
        for writing in self.writing.drain(..) {
            appended += writing.await.unwrap();
        }
        appended
    }
}

async fn open(url: &str) -> PgEventLog {
    let log = PgEventLog::connect(url, Arc::new(SystemClock)).await;
    log.unwrap()
}

/// One command's events, on a stream of its own; the last one's position.
async fn append(log: &PgEventLog, first: u64, count: u64) -> Position {
    let stream = id();
    let events = (first..first + count).map(|nth| NewEvent {
        event_id: id(),
        event: event(nth),
        payload: None,
    });
    let command = Append {
        command_id: id(),
        stream: StreamId::new("user", stream),
        expected_version: 0,
        events: events.collect(),
        metadata: Metadata {
            occurred_at: Timestamp(1_700_000_000_000),
            ..Metadata::default()
        },
        side: Vec::new(),
    };
    loop {
        match log.append(command.clone()).await {
            // It may have been done: under its id it is done once.
            Err(AppendError::Unavailable(_) | AppendError::OutcomeUnknown) => {}
            outcome => return outcome.unwrap().position,
        }
    }
}

/// An event of each topic in turn.
fn event(nth: u64) -> Event {
    let key = Uuid::from_u128(u128::from(nth / 3 % KEYS));
    let timestamp = Timestamp(1_700_000_000_000);
    match nth % 3 {
        0 => Event::from(UserProfileUpdated {
            user_id: UserId(key),
            name: Some(format!("number {nth}")),
            bio: None,
            avatar: None,
            timestamp,
        }),
        1 => Event::from(PostDeleted {
            post_id: PostId(key),
            user_id: UserId(key),
            timestamp,
        }),
        _ => Event::from(NotificationRead {
            notification_id: NotificationId(id()),
            user_id: UserId(key),
            timestamp,
        }),
    }
}
