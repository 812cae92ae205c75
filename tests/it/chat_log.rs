//! The contract of the chat log on SQLite and Postgres.

use std::sync::Arc;

use async_trait::async_trait;
use socialhub_chat::{ChatLog, ChatUser, NewMessage, RoomId};
use socialhub_domain::{Timestamp, UserId};
use socialhub_infra::{postgres::chat_log::PgChatLog, sqlite::chat_log::SqliteChatLog};
use socialhub_tests::{
    chat_log_contract,
    contract::chat_log::ChatStore,
    support::{eventually, postgres::Database},
};
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;
use tokio::sync::Mutex;
use uuid::Uuid;

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

fn message_of(user: UserId) -> NewMessage {
    NewMessage {
        id: Uuid::from_u128(8),
        room: RoomId::parse("room").unwrap(),
        user: ChatUser {
            id: user,
            username: "eve".into(),
        },
        text: "words".to_owned(),
        client_id: Some("name".to_owned()),
        at: Timestamp(1),
    }
}

#[tokio::test]
async fn a_session_of_a_time_in_which_nothing_could_be_written_is_not_kept() {
    let store = postgres().await;
    let message = message_of(UserId(Uuid::from_u128(7)));
    store.0.forbid_writing().await;
    let log = store.instance().await;
    log.append(vec![message.clone()]).await.unwrap_err();
    store.0.allow_writing().await;
    log.append(vec![message]).await.unwrap();
}

/// A message that waits for the lock under which an erasure is noted comes after it.
#[tokio::test]
async fn a_message_beside_the_note_of_an_erasure_is_a_tombstone() {
    let store = postgres().await;
    let log = store.instance().await;
    let connect = || PgConnection::connect(store.0.url());
    let (mut eraser, looking) = (connect().await.unwrap(), connect().await.unwrap());
    let eve = UserId(Uuid::from_u128(7));
    let message = message_of(eve);
    let lock = "BEGIN; LOCK TABLE chat_messages IN SHARE ROW EXCLUSIVE MODE";
    eraser.execute(lock).await.unwrap();
    let sent = tokio::spawn(async move { log.append(vec![message]).await });
    let looking = Mutex::new(looking);
    eventually("the message waits for the lock", || async {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
             AND application_name = 'socialhub-chat' AND datname = current_database()";
        let mut looking = looking.lock().await;
        let waiting = sqlx::query_scalar(sql).fetch_one(&mut *looking);
        let waiting: i64 = waiting.await.unwrap();
        (waiting == 1).then_some(())
    })
    .await;
    let note = sqlx::query("INSERT INTO chat_erased (user_id) VALUES ($1)").bind(eve.0);
    note.execute(&mut eraser).await.unwrap();
    eraser.execute("COMMIT").await.unwrap();
    let placed = sent.await.unwrap().unwrap().remove(0);
    assert_eq!(placed.message.message, "[erased]");
    let names = "SELECT count(*) FROM chat_client_ids";
    let names: i64 = sqlx::query_scalar(names)
        .fetch_one(&mut eraser)
        .await
        .unwrap();
    assert_eq!(names, 0);
}
