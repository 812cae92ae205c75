//! Chat as the official Socket.IO client sees it (`tests/js`, needs `npm ci` there), and what survives a kill.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::json;
use socialhub_tests::support::{Client, Profile, Server, eventually, printed, server::PATIENCE};
use sqlx::{Connection, PgConnection};

use crate::auth::request_code;

/// The folder of the JavaScript tests, with what they need installed.
pub(crate) fn scripts() -> &'static Path {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/js"));
    assert!(
        folder.join("node_modules/socket.io-client").exists(),
        "run `npm ci` in {} first",
        folder.display()
    );
    folder
}

#[tokio::test]
async fn the_official_client_passes_its_suite() {
    let server = Server::start().await;
    official_suite(&server.url()).await;
}

/// Runs the suite of the official client against an address.
pub async fn official_suite(url: &str) {
    let mut suite = Command::new("node");
    suite
        .args(["--test", "--test-reporter=spec"])
        // All of it; a test that waits for ever shall not be waited for.
        .arg(format!("--test-timeout={}", 3 * PATIENCE.as_millis()))
        .arg("chat.test.js")
        .current_dir(scripts())
        .env("BASE_URL", url)
        .env_remove("PLAIN_TOKENS");
    let output = tokio::task::spawn_blocking(move || suite.output())
        .await
        .unwrap()
        .unwrap();
    assert!(output.status.success(), "{}", printed(&output));
}

/// A client that speaks without a pause; what was acknowledged to it, `seq` by id.
struct Speaker {
    process: Child,
    acknowledged: Arc<Mutex<HashMap<String, u64>>>,
}

impl Speaker {
    fn start(server: &Server, person: &Client, room: &str) -> Self {
        let mut process = Command::new("node")
            .args(["speak.js", &server.url(), &person.token, room])
            .current_dir(scripts())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let acknowledged: Arc<Mutex<HashMap<String, u64>>> = Arc::default();
        let heard = Arc::clone(&acknowledged);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let (seq, id) = line.split_once(' ').unwrap();
                let seq = seq.parse().unwrap();
                heard.lock().unwrap().insert(id.to_owned(), seq);
            }
        });
        Self {
            process,
            acknowledged,
        }
    }

    async fn has_said(&self, count: usize) {
        eventually("the messages are acknowledged", || async {
            (self.acknowledged.lock().unwrap().len() >= count).then_some(())
        })
        .await;
    }

    async fn end(mut self) -> HashMap<String, u64> {
        tokio::task::spawn_blocking(move || {
            self.process.wait().unwrap();
            std::mem::take(&mut *self.acknowledged.lock().unwrap())
        })
        .await
        .unwrap()
    }
}

/// A room's messages, `(seq, id)`, from the first on.
pub(crate) async fn history(reader: &Client, room: &str) -> Vec<(u64, String)> {
    let base = format!("/chat/rooms/{room}/messages?limit=100");
    let mut messages = Vec::new();
    let mut next = format!("{base}&after=0");
    loop {
        let page = reader.get(&next).await.expect_status(200);
        messages.extend(page.list("/messages").iter().map(|message| {
            let seq = message["seq"].as_u64().unwrap();
            (seq, message["id"].as_str().unwrap().to_owned())
        }));
        match page.at("/nextCursor").as_str() {
            Some(cursor) => next = format!("{base}&cursor={cursor}"),
            None => return messages,
        }
    }
}

/// What was acknowledged is in the history, which has every number once.
pub(crate) fn check(acknowledged: &HashMap<String, u64>, history: &[(u64, String)]) {
    let dense = history.iter().zip(1..).all(|((seq, _), n)| *seq == n);
    assert!(dense, "the numbers have holes");
    let kept: HashMap<_, _> = history.iter().map(|(seq, id)| (id, seq)).collect();
    assert_eq!(kept.len(), history.len(), "a message is there twice");
    for (id, seq) in acknowledged {
        assert_eq!(kept.get(id), Some(&seq), "an acknowledged message is lost");
    }
}

#[tokio::test]
async fn a_kill_loses_no_acknowledged_message() {
    let mut server = Server::start().await;
    let person = server.client().sign_up("speaker").await;
    let mut acknowledged = HashMap::new();
    for round in 1..=3 {
        let speaker = Speaker::start(&server, &person, "killed");
        speaker.has_said(100 * round).await;
        server.kill();
        acknowledged.extend(speaker.end().await);
        server.restart().await;
        check(&acknowledged, &history(&person, "killed").await);
    }
}

#[tokio::test]
async fn a_shutdown_ends_the_sockets_and_loses_nothing() {
    let mut server = Server::start().await;
    let person = server.client().sign_up("speaker").await;
    let speaker = Speaker::start(&server, &person, "stopped");
    speaker.has_said(100).await;
    assert!(server.stop().await, "it ends well while sockets are open");
    let acknowledged = speaker.end().await;
    server.restart().await;
    check(&acknowledged, &history(&person, "stopped").await);
}

#[tokio::test]
async fn a_reset_of_the_password_ends_the_sockets_of_older_tokens() {
    let server = Server::start().await;
    let client = server.client();
    let person = client.sign_up("careful").await;
    let speaker = Speaker::start(&server, &person, "revoked");
    speaker.has_said(10).await;
    let (otp, email) = request_code(&server, &client, &person).await;
    let reset = json!({ "email": email, "otp": otp, "newPassword": "another one 42" });
    client
        .post("/auth/reset-password", reset)
        .await
        .expect_status(200);
    let ended = tokio::time::timeout(PATIENCE, speaker.end()).await;
    assert!(ended.is_ok(), "the socket of a revoked token stayed open");
}

/// The chat log in a database of its own: what is said is there, survives a kill, and is nowhere else.
#[tokio::test]
async fn chat_can_have_a_database_of_its_own() {
    if Profile::chosen() == Profile::Embedded {
        return;
    }
    let mut environment = Profile::Distributed.environment().await;
    let other = Server::prepare(&[], Profile::Distributed.environment().await);
    let own = other.setting("DATABASE_URL");
    environment.push(("CHAT_DATABASE_URL".to_owned(), own.to_owned()));
    let mut server = Server::start_in(&["--rate-limits", "off"], environment).await;
    let person = server.client().sign_up("speaker").await;
    let speaker = Speaker::start(&server, &person, "apart");
    speaker.has_said(100).await;
    server.kill();
    let acknowledged = speaker.end().await;
    server.restart().await;
    check(&acknowledged, &history(&person, "apart").await);
    assert!(said_in(own).await >= 100);
    assert_eq!(said_in(server.setting("DATABASE_URL")).await, 0);
}

/// How many messages a database holds.
async fn said_in(database: &str) -> i64 {
    let mut connection = PgConnection::connect(database).await.unwrap();
    let there = "SELECT to_regclass('chat_messages') IS NOT NULL";
    let there: bool = sqlx::query_scalar(there)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    if !there {
        return 0;
    }
    let count = sqlx::query_scalar("SELECT count(*) FROM chat_messages");
    count.fetch_one(&mut connection).await.unwrap()
}
