//! Copies that are killed, interrupted or out of room, and gone on with.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use socialhub_tests::support::{
    Client, Profile, Server, binary, client::PASSWORD, eventually, printed,
};

use super::{Exports, MANY, ended, fresh, many_posts, network::say, send, start, waiting};

/// A folder for an export that does not come beyond its second file: the third one is a pipe.
fn folder_with_a_pipe(folder: &Path) -> PathBuf {
    fs::create_dir(folder).unwrap();
    let pipe = folder.join("events-000003.jsonl.zst.partial");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    pipe
}

async fn there_is(file: PathBuf) {
    eventually("a file is there", || async { file.exists().then_some(()) }).await;
}

#[tokio::test]
async fn an_interrupted_export_is_gone_on_with() {
    let server = many_posts().await;
    let exports = Exports::new();
    for signal in ["KILL", "INT"] {
        let folder = exports.path(signal);
        let name = exports.name(signal);
        let export = [
            "replay",
            "export",
            &name,
            "--all",
            "--file-size",
            // A file takes some pages: between two of them the signal is seen.
            "3",
            "--json",
        ];
        let pipe = folder_with_a_pipe(&folder);
        let child = start(server.prepare_command(&export));
        there_is(folder.join("events-000002.jsonl.zst")).await;
        if signal == "INT" {
            // It has begun the third file, and is in the middle of a page when the signal comes.
            let mut reading = tokio::task::spawn_blocking(move || fs::File::open(pipe))
                .await
                .unwrap()
                .unwrap();
            send(&child, signal);
            let drain = move || std::io::copy(&mut reading, &mut std::io::sink());
            tokio::task::spawn_blocking(drain).await.unwrap().unwrap();
        } else {
            send(&child, signal);
        }
        let output = ended(child).await;
        assert!(!output.status.success(), "{}", printed(&output));
        if signal == "INT" {
            let said = printed(&output);
            assert!(
                said.contains("interrupted; run the same command again"),
                "{said}"
            );
        }
        assert!(!folder.join("manifest.json").exists());
        let other = fresh(Profile::Embedded).await;
        let said = other.fail(&["replay", "import", &name]).await;
        assert!(said.contains("run the export again to finish it"), "{said}");
        let without = server.fail(&["replay", "export", &name]).await;
        assert!(without.contains("was begun with --all"), "{without}");
        for (option, value, begun) in [("--media", "name", "copy"), ("--file-size", "4", "3")] {
            let other = ["replay", "export", &name, "--all", option, value];
            let said = server.fail(&other).await;
            for choice in [begun, value] {
                assert!(said.contains(&format!("with {option} {choice}")), "{said}");
            }
        }
        let written = |file: &str| fs::metadata(folder.join(file)).unwrap().modified().unwrap();
        let first = written("events-000001.jsonl.zst");
        let said = server.succeed(&export).await;
        let said: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
        assert_eq!(said["resumed"], true);
        assert_eq!(said["parts"][0]["lines"], MANY + 1);
        assert_eq!(
            first,
            written("events-000001.jsonl.zst"),
            "it was written again"
        );
        other.succeed(&["replay", "import", &name, "--check"]).await;
    }
}

/// Holds the log's file as soon as it has events, between two commits of whoever writes it. Answers how many it has.
fn hold(log: &Path) -> Option<(rusqlite::Connection, i64)> {
    let held = || -> rusqlite::Result<(rusqlite::Connection, i64)> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
        let connection = rusqlite::Connection::open_with_flags(log, flags)?;
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let count = connection.query_row("SELECT count(*) FROM events", [], |row| row.get(0))?;
        Ok((connection, count))
    };
    held().ok().filter(|(_, count)| *count > 0)
}

#[tokio::test]
async fn a_killed_import_is_gone_on_with() {
    let server = many_posts().await;
    let exports = Exports::new();
    let folder = exports.name("backup");
    server
        .succeed(&["replay", "export", &folder, "--all"])
        .await;
    let target = fresh(Profile::Embedded).await;
    let import = ["replay", "import", &folder];
    let log = target.data_dir().join("events.db");
    let mut child = start(target.prepare_command(&import));
    let (held, arrived) = loop {
        if let Some(held) = hold(&log) {
            break held;
        }
        if child.try_wait().unwrap().is_some() {
            panic!("it ended by itself: {:?}", ended(child).await);
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    };
    send(&child, "KILL");
    let output = ended(child).await;
    drop(held);
    assert!(
        arrived <= MANY as i64 && !output.status.success(),
        "{arrived}"
    );
    is_half_and_refused(&target, &folder, &[&["serve", "--listen", "127.0.0.1:0"]]).await;
    // Another export cannot end what this one has begun.
    let other = exports.name("other");
    server
        .succeed(&["replay", "export", &other, "--all", "--file-size", "3"])
        .await;
    let refused = target.fail(&["replay", "import", &other]).await;
    assert!(
        refused.contains(&folder) && refused.contains("run it again"),
        "{refused}"
    );
    let said = target.succeed(&import).await;
    assert!(
        said.contains(&format!("and {arrived} were there")),
        "{said}"
    );
    target.succeed(&["replay", "rebuild", "--all"]).await;
    target.verify_all().await;
}

/// Two servers with the same log, and the chat of one of them.
async fn twins(exports: &Exports) -> (Server, Client, Server) {
    let mut server = fresh(Profile::Embedded).await;
    server.restart().await;
    let me = server.client().sign_up("talks").await;
    for nth in 0..3 {
        let name = format!("n{nth}");
        say(&server, &me, "room", &format!("words {nth}"), &name).await;
    }
    let folder = exports.name("backup");
    let export = ["replay", "export", &folder, "--all"];
    server.succeed(&export).await;
    let twin = fresh(Profile::Embedded).await;
    twin.succeed(&["replay", "import", &folder]).await;
    (server, me, twin)
}

pub(super) async fn words(server: &Server, who: &Client) -> Vec<String> {
    let login = json!({ "identifier": who.username, "password": PASSWORD });
    let answer = server.client().post("/auth/login", login).await;
    let token = answer.expect_status(200).text("/token").to_owned();
    let client = server.client().with_token(&who.id, &who.username, &token);
    words_of(&client, "room").await
}

pub(super) async fn words_of(who: &Client, room: &str) -> Vec<String> {
    let said = who.get(&format!("/chat/rooms/{room}/messages")).await;
    let said = said.expect_status(200);
    let words = said.list("/messages").iter();
    words
        .map(|message| message["message"].as_str().unwrap().to_owned())
        .collect()
}

/// Takes the chat away and kills an import that brings it again, before its first row.
async fn kill_before_the_chat(target: &Server, import: &[&str]) {
    let open = |file: &str| rusqlite::Connection::open(target.data_dir().join(file)).unwrap();
    let (chat, log) = (open("chat.db"), open("events.db"));
    chat.execute_batch("DELETE FROM client_ids; DELETE FROM messages; DELETE FROM rooms")
        .unwrap();
    // The import waits with its first row for as long as this is held.
    chat.execute_batch("BEGIN IMMEDIATE").unwrap();
    let child = start(target.prepare_command(import));
    eventually("the log is marked", || async {
        let marks = log.query_row("SELECT count(*) FROM unfinished_copy", [], |row| row.get(0));
        (marks == Ok(1)).then_some(())
    })
    .await;
    send(&child, "KILL");
    assert!(!ended(child).await.status.success());
}

/// The chat log is not in the log's database: the mark is there before its first row.
#[tokio::test]
async fn a_killed_import_that_brings_chat_alone_is_gone_on_with() {
    let exports = Exports::new();
    let folder = exports.name("backup");
    let (_server, me, mut target) = twins(&exports).await;
    kill_before_the_chat(&target, &["replay", "import", &folder]).await;
    is_half_and_refused(&target, &folder, &[&["serve", "--listen", "127.0.0.1:0"]]).await;
    let said = target.succeed(&["replay", "import", &folder]).await;
    assert!(said.contains("chat-messages: 3\n"), "{said}");
    target.restart().await;
    assert_eq!(words(&target, &me).await.len(), 3);
}

/// With older keys somebody would come back whom the newer ones know as erased.
#[tokio::test]
async fn a_killed_import_is_not_ended_with_other_keys() {
    let exports = Exports::new();
    let (folder, keys) = (exports.name("backup"), exports.name("keys"));
    let (server, _me, target) = twins(&exports).await;
    server.succeed(&["replay", "export", &keys, "--all"]).await;
    let import = ["replay", "import", &folder, "--keys", &keys];
    kill_before_the_chat(&target, &import).await;
    let refused = target.fail(&import[..3]).await;
    let command = format!("`socialhub replay import {folder} --keys {keys}`");
    assert!(
        refused.contains(&command) && refused.contains("run it again"),
        "{refused}"
    );
    let said = target.succeed(&import).await;
    assert!(said.contains("chat-messages: 3\n"), "{said}");
}

#[tokio::test]
async fn a_chat_that_cannot_be_brought_leaves_a_whole_log_as_it_was() {
    let exports = Exports::new();
    let (server, me, mut target) = twins(&exports).await;
    target.restart().await;
    let login = json!({ "identifier": me.username, "password": PASSWORD });
    let answer = target.client().post("/auth/login", login).await;
    let token = answer.expect_status(200).text("/token").to_owned();
    let there = target.client().with_token(&me.id, &me.username, &token);
    say(&target, &there, "room", "said here", "n3").await;
    // Its name would be new: it is not written either.
    say(&server, &me, "room", "said there", "n4").await;
    assert!(target.stop().await, "{}", target.log());
    let other = exports.name("other");
    server.succeed(&["replay", "export", &other, "--all"]).await;
    let said = target.fail(&["replay", "import", &other]).await;
    assert!(
        said.contains("the room room has another message 4"),
        "{said}"
    );
    target.restart().await;
    let words = words(&target, &me).await;
    assert_eq!(words.len(), 4);
    assert!(words.contains(&"said here".to_owned()), "{words:?}");
}

/// Nothing works on the half of a log that an import has left, and all say what to do.
async fn is_half_and_refused(target: &Server, folder: &str, servers: &[&[&str]]) {
    let elsewhere = Exports::new();
    let export = elsewhere.name("half");
    let tools: [&[&str]; 5] = [
        &["replay", "status"],
        &["replay", "rebuild", "--all"],
        &["replay", "verify", "--all"],
        &["replay", "tail", "--json"],
        &["replay", "export", &export, "--all"],
    ];
    for command in servers.iter().chain(&tools) {
        let said = target.fail(command).await;
        let lines: Vec<_> = said
            .lines()
            .filter(|line| line.contains("not whole"))
            .collect();
        let [line] = lines[..] else {
            panic!("{command:?}: {said}");
        };
        assert!(
            line.contains(&format!(
                "`socialhub replay import {folder}` was interrupted"
            )) && line.contains("run it again, to its end"),
            "{command:?}: {said}"
        );
    }
}

/// The same on Postgres, where every process of the cluster refuses.
#[tokio::test]
async fn a_killed_import_into_a_database_is_gone_on_with() {
    use sqlx::{Connection, Executor, PgConnection};
    let server = many_posts().await;
    let exports = Exports::new();
    let folder = exports.name("backup");
    server
        .succeed(&["replay", "export", &folder, "--all"])
        .await;
    let target = fresh(Profile::Distributed).await;
    let connect = || PgConnection::connect(target.setting("DATABASE_URL"));
    let (mut first, mut second, mut looking) = (
        connect().await.unwrap(),
        connect().await.unwrap(),
        connect().await.unwrap(),
    );
    // The lock of appends is handed on in the order in which it was asked for: to us, to the import for its first rows, and
    // to us again.
    let lock = "SELECT pg_advisory_lock(8316291640277037)";
    first.execute(lock).await.unwrap();
    let import = ["replay", "import", &folder];
    let child = start(target.prepare_command(&import));
    waiting(&mut looking, 1).await;
    let again = tokio::spawn(async move {
        second.execute(lock).await.unwrap();
        second
    });
    waiting(&mut looking, 2).await;
    drop(first);
    let second = again.await.unwrap();
    send(&child, "KILL");
    assert!(!ended(child).await.status.success());
    drop(second);
    let arrived: i64 = sqlx::query_scalar("SELECT count(*) FROM events")
        .fetch_one(&mut looking)
        .await
        .unwrap();
    assert!((1..=MANY as i64).contains(&arrived), "{arrived}");
    let servers: [&[&str]; 4] = [
        &["serve", "--listen", "127.0.0.1:0"],
        &["service", "feed", "--listen", "127.0.0.1:0"],
        &["relay"],
        &["project", "feed"],
    ];
    is_half_and_refused(&target, &folder, &servers).await;
    let said = target.succeed(&import).await;
    assert!(
        said.contains(&format!("and {arrived} were there")),
        "{said}"
    );
    target.succeed(&["replay", "rebuild", "--all"]).await;
    target.verify_all().await;
}

#[tokio::test]
async fn a_full_disk_is_told_and_the_export_goes_on_when_there_is_room() {
    let server = many_posts().await;
    let exports = Exports::new();
    let folder = exports.name("backup");
    let export = ["replay", "export", &folder, "--all"];
    // No file may become greater than this: 512 bytes each.
    let limited = r#"trap '' XFSZ; ulimit -f 1000; exec "$@""#;
    let mut command = Command::new("sh");
    command
        .args(["-c", limited, "sh"])
        .arg(binary())
        .args(export)
        .arg("--data-dir")
        .arg(server.data_dir())
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let said = printed(&output);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("cannot write") && said.contains("events-000001.jsonl.zst"),
        "{said}"
    );
    assert!(said.contains("run the same command again"), "{said}");
    assert!(!exports.path("backup").join("manifest.json").exists());
    server.verify_all().await;
    server.succeed(&export).await;
    fresh(Profile::Embedded)
        .await
        .succeed(&["replay", "import", &folder, "--check"])
        .await;
}

/// While an import writes to Postgres, its connections are cut.
#[tokio::test]
async fn a_database_that_goes_away_is_told_and_the_import_goes_on_when_it_is_back() {
    let server = many_posts().await;
    let exports = Exports::new();
    let folder = exports.name("backup");
    server
        .succeed(&["replay", "export", &folder, "--all"])
        .await;
    let target = fresh(Profile::Distributed).await;
    let import = ["replay", "import", &folder];
    let mut connection = {
        use sqlx::Connection;
        sqlx::PgConnection::connect(target.setting("DATABASE_URL"))
            .await
            .unwrap()
    };
    // Holds every append up, so that the import is in the middle of one when it is cut off.
    let lock = "SELECT pg_advisory_lock(8316291640277037)";
    sqlx::query(lock).execute(&mut connection).await.unwrap();
    let child = start(target.prepare_command(&import));
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = 'socialhub-archive' AND wait_event_type = 'Lock' AND datname = current_database()";
    let connection = tokio::sync::Mutex::new(connection);
    eventually("the import waits and is cut off", || async {
        let cut: Vec<bool> = sqlx::query_scalar(cut)
            .fetch_all(&mut *connection.lock().await)
            .await
            .unwrap();
        (!cut.is_empty()).then_some(())
    })
    .await;
    let output = ended(child).await;
    let said = printed(&output);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("events: the event log is unavailable"),
        "{said}"
    );
    assert!(
        said.contains("run the same command again to go on"),
        "{said}"
    );
    drop(connection);
    target.succeed(&import).await;
    target.succeed(&["replay", "rebuild", "--all"]).await;
    target.verify_all().await;
}
