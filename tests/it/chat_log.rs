//! The contract of the chat log on SQLite and Postgres.

use std::sync::Arc;

use async_trait::async_trait;
use socialhub_chat::ChatLog;
use socialhub_infra::{postgres::chat_log::PgChatLog, sqlite::chat_log::SqliteChatLog};
use socialhub_tests::{
    chat_log_contract, contract::chat_log::ChatStore, support::postgres::Database,
};
use tempfile::TempDir;
use tokio::sync::Mutex;

/// One file has one writer: every instance is a clone of it.
struct Sqlite {
    folder: TempDir,
    log: Mutex<Option<SqliteChatLog>>,
}

#[async_trait]
impl ChatStore for Sqlite {
    async fn instance(&self) -> Arc<dyn ChatLog> {
        let path = self.folder.path().join("chat.db");
        let mut log = self.log.lock().await;
        let log = log.get_or_insert_with(|| SqliteChatLog::open(&path).unwrap());
        Arc::new(log.clone())
    }

    async fn restart(&self) {
        *self.log.lock().await = None;
    }
}

fn sqlite() -> Sqlite {
    Sqlite {
        folder: tempfile::tempdir().unwrap(),
        log: Mutex::new(None),
    }
}

struct Postgres(Database);

#[async_trait]
impl ChatStore for Postgres {
    async fn instance(&self) -> Arc<dyn ChatLog> {
        Arc::new(PgChatLog::connect(self.0.url()).await.unwrap())
    }

    async fn restart(&self) {}
}

async fn postgres() -> Postgres {
    let database = Database::create().await;
    PgChatLog::migrate(database.url()).await.unwrap();
    Postgres(database)
}

chat_log_contract!(sqlite => sqlite(); postgres => postgres().await);
