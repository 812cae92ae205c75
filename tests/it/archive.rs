//! The contracts of log and chat log as rows, on SQLite and Postgres.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use socialhub_chat::{ChatArchive, ChatLog};
use socialhub_domain::Timestamp;
use socialhub_event_log::LogArchive;
use socialhub_infra::{
    postgres::{
        chat_archive::PgChatArchive,
        chat_log::PgChatLog,
        event_log::{PgEventLog, PgLogArchive},
    },
    sqlite::{
        chat_archive::SqliteChatArchive,
        chat_log::SqliteChatLog,
        event_log::{OpenError, SqliteEventLog, SqliteLogArchive},
    },
};
use socialhub_tests::{
    chat_archive_contract,
    contract::{archive::LogPlace, chat_archive::ChatPlace, people::People},
    log_archive_contract,
    support::{eventually, postgres::Database},
};
use tempfile::TempDir;

use crate::event_log::ClockAt;

/// Whoever had it open may be letting go of it on another thread.
async fn alone<T>(open: impl Fn() -> Result<T, OpenError>) -> T {
    let opened = eventually("nobody else has the log", async || match open() {
        Err(OpenError::Locked { .. }) => None,
        other => Some(other),
    });
    opened.await.unwrap()
}

/// A folder of its own.
struct Folder(TempDir);

impl Folder {
    fn make() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("a.db")
    }
}

#[async_trait]
impl LogPlace for Folder {
    async fn log(&self) -> Arc<dyn People> {
        let clock = Arc::new(ClockAt(Timestamp(0)));
        let open = || SqliteEventLog::open(&self.file(), clock.clone());
        Arc::new(alone(open).await)
    }

    async fn archive(&self) -> Arc<dyn LogArchive> {
        Arc::new(alone(|| SqliteLogArchive::open(&self.file())).await)
    }

    async fn refusal(&self) -> Option<String> {
        let clock = Arc::new(ClockAt(Timestamp(0)));
        let serving = SqliteEventLog::open(&self.file(), clock).err();
        let reading = SqliteEventLog::open_read_only(&self.file()).err();
        assert_eq!(serving.is_some(), reading.is_some());
        serving.map(|error| error.to_string())
    }
}

#[async_trait]
impl ChatPlace for Folder {
    async fn log(&self) -> Arc<dyn ChatLog> {
        Arc::new(SqliteChatLog::open(&self.file()).unwrap())
    }

    async fn archive(&self) -> Arc<dyn ChatArchive> {
        Arc::new(SqliteChatArchive::open(&self.file()).unwrap())
    }
}

/// A database of its own.
struct Server(Database);

impl Server {
    async fn make() -> Self {
        let database = Database::create().await;
        PgEventLog::migrate(database.url()).await.unwrap();
        PgChatLog::migrate(database.url()).await.unwrap();
        Self(database)
    }
}

#[async_trait]
impl LogPlace for Server {
    async fn log(&self) -> Arc<dyn People> {
        let clock = Arc::new(ClockAt(Timestamp(0)));
        Arc::new(PgEventLog::connect(self.0.url(), clock).await.unwrap())
    }

    async fn archive(&self) -> Arc<dyn LogArchive> {
        Arc::new(PgLogArchive::connect(self.0.url()).await.unwrap())
    }

    async fn refusal(&self) -> Option<String> {
        let clock = Arc::new(ClockAt(Timestamp(0)));
        let refused = PgEventLog::connect(self.0.url(), clock).await.err();
        refused.map(|error| error.to_string())
    }
}

#[async_trait]
impl ChatPlace for Server {
    async fn log(&self) -> Arc<dyn ChatLog> {
        Arc::new(PgChatLog::connect(self.0.url()).await.unwrap())
    }

    async fn archive(&self) -> Arc<dyn ChatArchive> {
        Arc::new(PgChatArchive::connect(self.0.url()).await.unwrap())
    }
}

log_archive_contract!(sqlite_log => Folder::make(); postgres_log => Server::make().await);
chat_archive_contract!(sqlite_chat => Folder::make(); postgres_chat => Server::make().await);

#[tokio::test]
async fn a_file_that_is_served_can_be_read_and_not_written() {
    let folder = Folder::make();
    let log = LogPlace::log(&folder).await;
    let refused = SqliteLogArchive::open(&folder.file()).unwrap_err();
    assert!(refused.to_string().contains("stop that one first"));
    let reading = SqliteLogArchive::open_read_only(&folder.file()).unwrap();
    assert_eq!(reading.head().await.unwrap(), 0);
    drop(log);
    let archive = LogPlace::archive(&folder).await;
    let clock = Arc::new(ClockAt(Timestamp(0)));
    assert!(SqliteEventLog::open(&folder.file(), clock).is_err());
    drop(archive);
}
