//! A log on Postgres, a relay that publishes it, and analytics consumers to start and to kill.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
};

use futures::future::join_all;
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use reqwest::Method;
use socialhub_domain::{Event, IdGenerator, StreamId, Timestamp, topic::Topic};
use socialhub_event_log::{Append, EventLog, Metadata, NewEvent};
use socialhub_infra::{
    analytics::{ParquetRows, open_analytics},
    clock::{RandomIds, SystemClock},
    postgres::event_log::PgEventLog,
};
use socialhub_projections::analytics::{CommitLog, Row, RowFormat};
use socialhub_tests::support::{Client, Profile, binary, eventually, free_port, running};
use tempfile::TempDir;

use crate::kafka::topic;

/// Servers of a test's own corner, and where the files go.
pub struct World {
    pub log: Arc<PgEventLog>,
    environment: Vec<(String, String)>,
    folder: TempDir,
    url: String,
}

/// A process that is killed when the test is over.
pub struct Process {
    child: Mutex<Child>,
    metrics: u16,
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        // It may have ended.
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Process {
    /// Kills it at once (SIGKILL).
    pub fn kill(&mut self) {
        let child = self.child.get_mut();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.lock().id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Asks it to stop, and waits for it.
    pub fn stop(&mut self) {
        self.signal("TERM");
        assert!(self.child.get_mut().wait().unwrap().success());
    }

    /// What it says when it is asked whether it is ready and is not.
    pub async fn not_ready(&self) -> Option<String> {
        running(&mut self.child.lock());
        let client = Client::new(&format!("http://127.0.0.1:{}", self.metrics));
        let request = client.request(Method::GET, "/readyz");
        let answer = request.send().await.ok()?;
        if answer.status().is_success() {
            return None;
        }
        answer.text().await.ok()
    }

    /// A metric of it; 0 while it has none or does not answer.
    pub async fn metric(&self, name: &str) -> f64 {
        running(&mut self.child.lock());
        let client = Client::new(&format!("http://127.0.0.1:{}", self.metrics));
        let request = client.request(Method::GET, "/metrics");
        let Ok(answer) = request.send().await else {
            return 0.0;
        };
        let text = answer.text().await.unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok())
            .unwrap_or(0.0)
    }
}

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().join("lake").display().to_string();
        Self::with_files_at(folder, url).await
    }

    /// One whose files go somewhere else.
    pub async fn with_files_at(folder: TempDir, url: String) -> Self {
        let environment = Profile::Distributed.environment().await;
        let find = |wanted: &str| {
            let found = environment.iter().find(|(name, _)| name == wanted);
            found.unwrap().1.clone()
        };
        let database = find("DATABASE_URL");
        PgEventLog::migrate(&database).await.unwrap();
        let log = PgEventLog::connect(&database, Arc::new(SystemClock));
        Self {
            log: Arc::new(log.await.unwrap()),
            environment,
            folder,
            url,
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Appends events, each at its time, in this order.
    pub async fn append(&self, events: Vec<(Event, Timestamp)>) {
        for some in events.chunks(500) {
            let appends = some.iter().map(|(event, at)| {
                let id = RandomIds.next_id();
                self.log.append(Append {
                    command_id: id,
                    stream: StreamId::new("test", id),
                    expected_version: 0,
                    events: vec![NewEvent {
                        event_id: id,
                        event: event.clone(),
                        payload: None,
                    }],
                    metadata: Metadata {
                        occurred_at: *at,
                        ..Metadata::default()
                    },
                    side: Vec::new(),
                })
            });
            for appended in join_all(appends).await {
                appended.unwrap();
            }
        }
    }

    fn command(&self, arguments: &[&str], data: &Path) -> Command {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .envs(self.environment.clone())
            .env("DATA_DIR", data)
            .env("ANALYTICS_URL", &self.url)
            .env("ANALYTICS_FLUSH_SECONDS", "1")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Starts a process.
    pub fn start(&self, arguments: &[&str]) -> Process {
        let metrics = free_port();
        let data = self.folder.path().join(format!("data-{metrics}"));
        let child = self
            .command(arguments, &data)
            .env("METRICS_LISTEN", format!("127.0.0.1:{metrics}"))
            .env("LOG", "warn,socialhub_projections=info")
            .spawn()
            .unwrap();
        Process {
            child: Mutex::new(child),
            metrics,
        }
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let data = self.folder.path().join("data");
        let output = self.command(arguments, &data).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        output
    }

    /// The rows of the files that count.
    pub async fn rows(&self) -> Vec<Row> {
        let objects = open_analytics(Some(&self.url), Path::new("unused")).unwrap();
        let format = ParquetRows::new().unwrap();
        let mut rows = Vec::new();
        for source in CommitLog::partitions(&*objects).await.unwrap() {
            let state = CommitLog::new(source).load(&*objects).await.unwrap();
            for file in state.files.keys() {
                let bytes = objects.get(file).await.unwrap().unwrap();
                rows.extend(format.decode(bytes).unwrap());
            }
        }
        rows
    }

    /// Waits until as many rows as the log has events are in files, then compares them one by one.
    pub async fn assert_exact(&self) {
        let head = self.log.head().await.unwrap();
        eventually("every event is in a file", || async {
            let rows = self.rows().await;
            (rows.len() as u64 >= head).then_some(())
        })
        .await;
        let mut found = BTreeMap::new();
        for row in self.rows().await {
            found
                .entry(row.position)
                .or_insert_with(Vec::new)
                .push(row.event_id);
        }
        let mut wanted = BTreeMap::new();
        while (wanted.len() as u64) < head {
            let events = self.log.read_all(wanted.len() as u64, 1000).await.unwrap();
            wanted.extend(
                events
                    .iter()
                    .map(|event| (event.position, vec![event.event_id])),
            );
        }
        assert!(found == wanted, "not every event is there once");
    }

    fn setting(&self, wanted: &str) -> String {
        let found = self.environment.iter().find(|(name, _)| name == wanted);
        found.unwrap().1.clone()
    }

    /// Divides every topic into twice as many partitions.
    pub async fn divide_topics(&self) {
        let prefix = format!("{}.", self.setting("NAMESPACE"));
        let count: usize = self.setting("KAFKA_PARTITIONS").parse().unwrap();
        topic::divide(&self.setting("KAFKA_BROKERS"), &prefix, count * 2).await;
    }

    /// Deletes everything that the topics hold, as their retention would.
    pub async fn forget_topics(&self) {
        let (namespace, partitions) = (self.setting("NAMESPACE"), self.setting("KAFKA_PARTITIONS"));
        let mut ends = TopicPartitionList::new();
        for topic in Topic::ALL {
            let name = format!("{namespace}.{}", topic.name());
            for partition in 0..partitions.parse().unwrap() {
                ends.add_partition_offset(&name, partition, Offset::End)
                    .unwrap();
            }
        }
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", self.setting("KAFKA_BROKERS"))
            .create()
            .unwrap();
        admin
            .delete_records(&ends, &AdminOptions::new())
            .await
            .unwrap();
    }

    /// Every file of rows in the folder, also such as do not count.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut folders = vec![PathBuf::from(&self.url).join("events")];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|ending| ending == "parquet") {
                    files.push(path);
                }
            }
        }
        files
    }
}
