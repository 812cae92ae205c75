//! A log on Postgres, a relay that publishes it, and analytics consumers to start and to kill.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
};

use futures::future::join_all;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use socialhub_domain::{Event, IdGenerator, StreamId, Timestamp, topic::Topic};
use socialhub_event_log::{Append, EventLog, Metadata, NewEvent};
use socialhub_infra::{
    analytics::{ParquetRows, open_analytics},
    clock::{RandomIds, SystemClock},
    postgres::event_log::PgEventLog,
};
use socialhub_projections::analytics::{CommitLog, Row, RowFormat};
use socialhub_tests::support::{Process, Profile, binary, eventually, free_port, printed};
use tempfile::TempDir;

use crate::kafka::topic;

/// Servers of a test's own corner, and where the files go.
pub struct World {
    pub log: Arc<PgEventLog>,
    environment: Vec<(String, String)>,
    folder: TempDir,
    url: String,
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
        let mut command = self.command(arguments, &data);
        command.env("LOG", "warn,socialhub_projections=info");
        Process::start(command, metrics)
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let output = self.output(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        output
    }

    /// Runs a command that must find something wrong; answers everything it printed.
    pub fn fail(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let said = printed(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        said
    }

    fn output(&self, arguments: &[&str]) -> Output {
        let data = self.folder.path().join("data");
        self.command(arguments, &data).output().unwrap()
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
