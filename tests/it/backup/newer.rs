//! What came after a backup, and what an older one may not bring back.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};
use socialhub_tests::support::{Client, Profile, Server, client::PASSWORD, eventually};

use super::{Exports, broken_off::words_of, ended, fresh, network::say, send, start};
use crate::{
    auth::request_code,
    erasure::{erase, erased_everywhere, search},
};

pub(crate) const OTHER_PASSWORD: &str = "another one 42";

async fn log_in(server: &Server, name: &str, password: &str) -> u16 {
    let login = json!({ "identifier": name, "password": password });
    server.client().post("/auth/login", login).await.status
}

/// Gives somebody another password, which ends their tokens.
pub(crate) async fn reset_password(server: &Server, who: &Client) {
    let client = server.client();
    let (otp, email) = request_code(server, &client, who).await;
    let reset = json!({ "email": email, "otp": otp, "newPassword": OTHER_PASSWORD });
    client
        .post("/auth/reset-password", reset)
        .await
        .expect_status(200);
}

/// What happened between two backups: a password was reset, somebody was erased, somebody else took the name, and all went on.
async fn time_passes(server: &Server, ada: &Client, eve: &Client) -> Client {
    reset_password(server, ada).await;
    erase(eve, PASSWORD).await.expect_status(204);
    erased_everywhere(server, &eve.id).await;
    let sign_up = json!({
        "name": "An heir", "email": format!("{}@example.com", eve.username), "username": eve.username,
        "password": PASSWORD,
    });
    let anonymous = server.client();
    let answer = anonymous.post("/auth/signup", sign_up).await;
    let answer = answer.expect_status(201);
    let heir = anonymous.with_token(
        answer.text("/user/id"),
        &eve.username,
        answer.text("/token"),
    );
    heir.write_post("from the heir", "public").await;
    say(server, &heir, "room", "words of the heir", "n0").await;
    heir
}

#[tokio::test]
async fn keys_that_are_older_than_the_events_are_refused_and_an_empty_model_proves_nothing() {
    let mut server = fresh(Profile::Embedded).await;
    server.restart().await;
    let exports = Exports::new();
    let [older, newer] = ["older", "newer"].map(|name| exports.name(name));
    server.client().sign_up("first").await;
    server.succeed(&["replay", "export", &older, "--all"]).await;
    let second = server.client().sign_up("second").await;
    server.succeed(&["replay", "export", &newer, "--all"]).await;

    let target = fresh(Profile::Embedded).await;
    let mixed = ["replay", "import", &newer, "--keys", &older];
    let named = format!(
        "the keys have none of the person {}, which the event at position 2 needs",
        second.id
    );
    for import in [&mixed[..], &[&mixed[..], &["--check"]].concat()] {
        let said = target.fail(import).await;
        assert!(said.contains(&named), "{said}");
        assert!(!target.data_dir().exists(), "{said}");
    }
    target
        .succeed(&["replay", "import", &older, "--keys", &newer])
        .await;
    target.succeed(&["replay", "import", &newer]).await;
    let verify = ["replay", "verify", "--all"];
    let said = target.fail(&verify).await;
    let nothing = "feed: it has come to none of the log's 2 events, so nothing was compared";
    assert!(said.contains(nothing), "{said}");
    let said = target.fail(&[&verify[..], &["--json"]].concat()).await;
    let first: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["behind"], &first["differences"]),
        (&json!(2), &json!(0))
    );
    target.succeed(&["replay", "rebuild", "--all"]).await;
    target.verify_all().await;
}

/// As the page on backups has it: no backup but the newest has keys, and those lie elsewhere.
#[tokio::test]
async fn keys_that_are_kept_apart_are_asked_for_and_taken() {
    let mut server = fresh(Profile::Embedded).await;
    server.restart().await;
    let exports = Exports::new();
    let [backup, apart] = ["backup", "apart"].map(|name| exports.name(name));
    server.client().sign_up("first").await;
    server
        .succeed(&["replay", "export", &backup, "--all"])
        .await;
    let keys = "keys-000001.jsonl.zst";
    let at = |name: &str, file: &str| exports.path(name).join(file);
    fs::create_dir(&apart).unwrap();
    fs::rename(at("backup", keys), at("apart", keys)).unwrap();
    let page = "manifest.json";
    fs::copy(at("backup", page), at("apart", page)).unwrap();

    let target = fresh(Profile::Embedded).await;
    let import = ["replay", "import", &backup];
    for import in [&import[..], &[&import[..], &["--check"]].concat()] {
        let said = target.fail(import).await;
        assert!(said.contains(&format!("{keys}: it is missing")), "{said}");
        assert!(said.contains("with --keys FOLDER"), "{said}");
        assert!(!said.contains("another copy"), "{said}");
        assert!(!target.data_dir().exists(), "{said}");
    }
    target
        .succeed(&["replay", "import", &backup, "--keys", &apart])
        .await;
}

#[tokio::test]
async fn a_newer_backup_goes_over_an_older_one_whatever_happened_between() {
    let profile = Profile::chosen();
    let server = Server::start().await;
    let anonymous = server.client();
    let (ada, eve) = (
        anonymous.sign_up("ada").await,
        anonymous.sign_up("eve").await,
    );
    let post = eve.write_post("qlorpost", "public").await;
    say(&server, &ada, "room", "hello", "n0").await;
    say(&server, &eve, "room", "qlorchat", "qlorname").await;
    let words = ["qlorpost", "qlorchat", "qlorname"].map(str::to_owned);
    let exports = Exports::new();
    let (older, newer) = (exports.name("older"), exports.name("newer"));
    server.succeed(&["replay", "export", &older, "--all"]).await;
    let mut target = fresh(profile).await;
    target.succeed(&["replay", "import", &older]).await;
    target.restart().await;
    target.caught_up().await;
    assert!(!search(&target, &words).await.is_empty());
    assert!(target.stop().await, "{}", target.log());
    target.is_alone().await;

    let heir = time_passes(&server, &ada, &eve).await;
    server.succeed(&["replay", "export", &newer, "--all"]).await;
    let import = ["replay", "import", &newer, "--json"];
    if profile == Profile::Embedded {
        kill_in_the_middle(&target, &import).await;
    }
    target.succeed(&import).await;
    let again = target.succeed(&import).await;
    let again: Value = serde_json::from_str(again.lines().next().unwrap()).unwrap();
    for nth in 0..6 {
        assert_eq!(again["parts"][nth]["new"], 0, "{again}");
    }
    let refused = target.fail(&["replay", "import", &older]).await;
    assert!(refused.contains("the target's log has"), "{refused}");

    target.restart().await;
    erased_everywhere(&target, &eve.id).await;
    target.caught_up().await;
    assert_eq!(log_in(&target, &ada.username, OTHER_PASSWORD).await, 200);
    assert_eq!(log_in(&target, &ada.username, PASSWORD).await, 401);
    let login = json!({ "identifier": heir.username, "password": PASSWORD });
    let answer = target.client().post("/auth/login", login).await;
    let answer = answer.expect_status(200);
    assert_eq!(answer.text("/user/id"), heir.id);
    let there = target.client();
    let there = there.with_token(&heir.id, &heir.username, answer.text("/token"));
    let seen = there
        .get(&format!("/posts/{post}"))
        .await
        .expect_status(200);
    assert_eq!(seen.text("/post/content"), "[erased]");
    let said = words_of(&there, "room").await;
    assert_eq!(said, ["hello", "[erased]", "words of the heir"]);
    assert_eq!(search(&target, &words).await, BTreeMap::new());
    target.verify_all().await;
}

/// Kills an import when the log is written and the chat is not.
async fn kill_in_the_middle(target: &Server, import: &[&str]) {
    let open = |file: &str| rusqlite::Connection::open(target.data_dir().join(file)).unwrap();
    let (chat, log) = (open("chat.db"), open("events.db"));
    chat.execute_batch("BEGIN IMMEDIATE").unwrap();
    let child = start(target.prepare_command(import));
    eventually("the credentials are written", || async {
        let sql = "SELECT count(*) FROM credentials AS c JOIN events AS e ON e.aggregate_id <> ''
             WHERE c.token_epoch > 1 AND e.event_type = 'user.erased'";
        let written = log.query_row(sql, [], |row| row.get(0));
        (written == Ok(1)).then_some(())
    })
    .await;
    send(&child, "KILL");
    assert!(!ended(child).await.status.success());
}

#[tokio::test]
async fn a_backup_that_is_not_newer_does_not_bring_an_old_password_back() {
    let server = Server::start().await;
    let ada = server.client().sign_up("ada").await;
    let exports = Exports::new();
    let folder = exports.name("backup");
    server
        .succeed(&["replay", "export", &folder, "--all"])
        .await;
    let mut target = fresh(Profile::chosen()).await;
    target.succeed(&["replay", "import", &folder]).await;
    target.restart().await;
    reset_password(&target, &ada).await;
    say_once(&server, &ada, &exports).await;
    assert!(target.stop().await, "{}", target.log());
    target.is_alone().await;
    for name in ["backup", "chat"] {
        let refused = target
            .fail(&["replay", "import", &exports.name(name)])
            .await;
        assert!(
            refused.contains("other credentials") && refused.contains("nothing in it was changed"),
            "{refused}"
        );
    }
    target.restart().await;
    assert_eq!(log_in(&target, &ada.username, OTHER_PASSWORD).await, 200);
    assert_eq!(log_in(&target, &ada.username, PASSWORD).await, 401);
}

/// An export of the same events, with something new in the chat.
async fn say_once(server: &Server, who: &Client, exports: &Exports) {
    say(server, who, "room", "new", "n0").await;
    let folder = exports.name("chat");
    let export = ["replay", "export", &folder, "--all"];
    server.succeed(&export).await;
}
