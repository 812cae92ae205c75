//! `socialhub replay export`, `import` and `migrate`: what was taken is given back, and nothing else is taken for it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use futures::SinkExt;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use socialhub_tests::support::{
    Client, Profile, Server, binary, client::PASSWORD, eventually, printed,
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    auth::request_code,
    chat_cluster::person,
    erasure::{erase, erased_everywhere, search},
    media::png,
};

const FLAGS: [&str; 2] = ["--rate-limits", "off"];

/// Posts of a log whose export has many files.
const MANY: usize = 1_500;

/// A folder for exports.
struct Exports(tempfile::TempDir);

impl Exports {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}

async fn fresh(profile: Profile) -> Server {
    Server::prepare(&FLAGS, profile.environment().await)
}

/// Says something in a room, under a name, and answers the acknowledgement.
async fn say(server: &Server, who: &Client, room: &str, text: &str, name: &str) -> Value {
    let address = ([127, 0, 0, 1], server.port()).into();
    let auth = json!({ "token": who.token });
    let mut socket = person::connect(address, auth, &[]).await.unwrap();
    let say = json!(["send_message", { "roomId": room, "message": text, "clientId": name }]);
    let join = json!(["join_room", { "roomId": room }]);
    let packets = [format!("420{join}"), format!("421{say}")];
    for packet in packets {
        socket.send(Message::text(packet)).await.unwrap();
    }
    loop {
        let packet = futures::StreamExt::next(&mut socket)
            .await
            .unwrap()
            .unwrap();
        let Some(answer) = packet.to_text().unwrap().strip_prefix("431") else {
            continue;
        };
        let answer: Value = serde_json::from_str(answer).unwrap();
        assert_eq!(answer[0]["ok"], true, "{answer}");
        return answer[0].clone();
    }
}

/// A small network with a bit of everything.
struct Network {
    ada: Client,
    bob: Client,
    post: String,
    picture: String,
}

async fn network(server: &Server) -> Network {
    let (ada, bob) = (
        server.client().sign_up("ada").await,
        server.client().sign_up("bob").await,
    );
    let follow = format!("/users/follow/{}", ada.id);
    bob.post(&follow, json!({ "notify": true }))
        .await
        .expect_status(200);
    let post = ada.write_post("hello \u{1F600} \"quoted\"", "public").await;
    ada.write_post("only mine", "private").await;
    let form = |content: &'static str| {
        let file = Part::bytes(png(70_000)).file_name("a.png");
        Form::new()
            .text("content", content)
            .text("visibility", "public")
            .part("files", file)
    };
    let pictured = ada
        .post_form("/posts/", form("a picture"))
        .await
        .expect_status(201);
    let gone = ada
        .post_form("/posts/", form("gone"))
        .await
        .expect_status(201);
    let gone = gone.text("/post/id").to_owned();
    let deleted = ada.delete(&format!("/posts/{gone}")).await;
    deleted.expect_status(204);
    bob.put(&format!("/posts/{post}/like"), Value::Null)
        .await
        .expect_status(200);
    let comment = json!({ "comment": "well said" });
    bob.post(&format!("/posts/{post}/comment"), comment)
        .await
        .expect_status(201);
    for nth in 0..3 {
        let name = format!("n{nth}");
        say(server, &bob, "room", &format!("words {nth}"), &name).await;
    }
    say(server, &ada, "another", "alone", "n0").await;
    Network {
        picture: pictured.text("/post/media/0/url").to_owned(),
        ada,
        bob,
        post,
    }
}

impl Network {
    /// Everything that can be asked, once the read models are where the person's own last write is.
    async fn answers(&self) -> BTreeMap<String, Value> {
        let paths = [
            format!("/users/profile/{}", self.ada.id),
            format!("/users/profile/{}", self.bob.id),
            format!("/users/followers/{}", self.ada.id),
            format!("/users/search?q={}", self.ada.username),
            format!("/posts/{}", self.post),
            format!("/posts/{}/comments", self.post),
            format!("/posts/user/{}", self.ada.id),
            "/api/feed/".to_owned(),
            "/api/feed/trending".to_owned(),
            "/notify/notifications".to_owned(),
            "/chat/rooms/room/messages".to_owned(),
            "/chat/rooms/another/messages".to_owned(),
        ];
        let mut answers = BTreeMap::new();
        for (who, person) in [("ada", &self.ada), ("bob", &self.bob)] {
            for path in &paths {
                let answer = person.get(path).await.expect_status(200);
                answers.insert(format!("{who}: {path}"), answer.json.clone());
            }
        }
        answers
    }

    /// The same people on another server, logged in with their old passwords.
    async fn on(&self, server: &Server) -> Self {
        let mut people = Vec::new();
        for person in [&self.ada, &self.bob] {
            let login = json!({ "identifier": person.username, "password": PASSWORD });
            let answer = server.client().post("/auth/login", login).await;
            let answer = answer.expect_status(200);
            let client = server.client();
            people.push(client.with_token(&person.id, &person.username, answer.text("/token")));
        }
        let bob = people.pop().unwrap();
        Self {
            ada: people.pop().unwrap(),
            bob,
            post: self.post.clone(),
            picture: self.picture.clone(),
        }
    }
}

/// What was there, with nothing more and nothing less.
async fn is_all_there(server: &Server, old: &Network, answers: &BTreeMap<String, Value>) {
    server.caught_up().await;
    let restored = old.on(server).await;
    assert_eq!(restored.answers().await, *answers);
    let picture = restored.bob.get(&restored.picture).await.expect_status(200);
    assert_eq!(picture.bytes, png(70_000));
    // The same name is the same message, a new one comes after it.
    let again = say(server, &restored.bob, "room", "words 1", "n1").await;
    assert_eq!(again["seq"], 2, "{again}");
    let next = say(server, &restored.bob, "room", "words 3", "n3").await;
    assert_eq!(next["seq"], 4, "{next}");
    server.verify_all().await;
    // And it goes on.
    let post = restored.ada.write_post("after", "public").await;
    restored
        .ada
        .get(&format!("/posts/{post}"))
        .await
        .expect_status(200);
}

#[tokio::test]
async fn a_backup_of_a_running_server_restores_to_the_same_answers() {
    let profile = Profile::chosen();
    let mut server = fresh(profile).await;
    server.restart().await;
    let network = network(&server).await;
    server.caught_up().await;
    let answers = network.answers().await;
    let exports = Exports::new();
    let folder = exports.name("backup");
    let said = server
        .succeed(&["replay", "export", &folder, "--all", "--json"])
        .await;
    let said: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    let seal = said["seal"].as_str().unwrap();
    let lines = |nth: usize| said["parts"][nth]["lines"].as_u64().unwrap();
    assert_eq!(lines(0), said["position"].as_u64().unwrap());
    let others: Vec<u64> = (1..6).map(lines).collect();
    assert_eq!(others, [2, 2, 4, 4, 1], "{said}");

    let mut other = fresh(profile).await;
    let check = ["replay", "import", &folder, "--check", "--seal", seal];
    other.succeed(&check).await;
    assert!(!other.data_dir().exists(), "a check made something");
    other
        .succeed(&["replay", "import", &folder, "--seal", seal])
        .await;
    let again = other
        .succeed(&["replay", "import", &folder, "--json"])
        .await;
    let again: Value = serde_json::from_str(again.lines().next().unwrap()).unwrap();
    for nth in 0..6 {
        assert_eq!(again["parts"][nth]["new"], 0, "{again}");
    }
    if profile == Profile::Embedded {
        other.succeed(&["replay", "rebuild", "--all"]).await;
        other.verify_all().await;
        let keys = |server: &Server| server.data_dir().join("secrets/jwt");
        fs::create_dir_all(keys(&other).parent().unwrap()).unwrap();
        fs::copy(keys(&server), keys(&other)).unwrap();
    }
    other.restart().await;
    // With the old key the old tokens are good.
    let me = other
        .client()
        .with_token(&network.ada.id, "", &network.ada.token);
    me.get("/auth/verify-user").await.expect_status(200);
    is_all_there(&other, &network, &answers).await;
    me.get("/auth/me").await.expect_status(200);
    let refused = other.fail(&["replay", "import", &folder]).await;
    assert!(
        refused.contains("must be empty") || refused.contains("stop that one first"),
        "{refused}"
    );
}

#[tokio::test]
async fn an_old_token_stays_refused_after_a_restore() {
    let mut server = fresh(Profile::Embedded).await;
    server.restart().await;
    let person = server.client().sign_up("resets").await;
    let (otp, email) = request_code(&server, &server.client(), &person).await;
    let reset = json!({ "email": email, "otp": otp, "newPassword": "another one 42" });
    let client = server.client();
    client
        .post("/auth/reset-password", reset)
        .await
        .expect_status(200);
    let exports = Exports::new();
    let folder = exports.name("backup");
    server
        .succeed(&["replay", "export", &folder, "--all"])
        .await;
    let mut other = fresh(Profile::Embedded).await;
    other.succeed(&["replay", "import", &folder]).await;
    fs::create_dir_all(other.data_dir().join("secrets")).unwrap();
    let key = "secrets/jwt";
    fs::copy(server.data_dir().join(key), other.data_dir().join(key)).unwrap();
    other.restart().await;
    let old = other.client().with_token(&person.id, "", &person.token);
    assert_eq!(old.get("/auth/me").await.status, 401);
    let login = json!({ "identifier": person.username, "password": "another one 42" });
    other
        .client()
        .post("/auth/login", login)
        .await
        .expect_status(200);
}

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

/// A stopped embedded server whose export has many files.
/// A server that does not run, with many posts. They are written once for all tests of this process.
async fn many_posts() -> Server {
    static WRITTEN: tokio::sync::OnceCell<PathBuf> = tokio::sync::OnceCell::const_new();
    let written = WRITTEN.get_or_init(write_many_posts).await;
    let server = fresh(Profile::Embedded).await;
    copy_all(written, &server.data_dir());
    server
}

/// Answers the folder that they are in: one that each run makes anew.
async fn write_many_posts() -> PathBuf {
    let mut server = fresh(Profile::Embedded).await;
    server.restart().await;
    let me = server.client().sign_up("many").await;
    // Words that do not compress to nothing.
    let words = |nth: usize| {
        (0..900)
            .map(|n| format!("{:08x} ", (n + nth * 7_919) * 2_654_435_761_usize))
            .collect::<String>()
    };
    let posts = (0..MANY).map(|nth| {
        let me = me.clone();
        async move { me.write_post(&words(nth)[..8_000], "public").await }
    });
    let posts = futures::StreamExt::buffer_unordered(futures::stream::iter(posts), 16);
    let posts: Vec<String> = futures::StreamExt::collect(posts).await;
    assert_eq!(posts.len(), MANY);
    assert!(server.stop().await, "{}", server.log());
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("many-posts");
    if kept.exists() {
        fs::remove_dir_all(&kept).unwrap();
    }
    copy_all(&server.data_dir(), &kept);
    kept
}

/// Copies a folder with all that is below it.
fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy_all(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// What somebody does to a good export.
type Harm = fn(&Path);

/// What is done, and what the message names.
const HARMS: [(&str, Harm, &str); 10] = [
    (
        "cut short",
        |f| {
            change(&f.join("events-000003.jsonl.zst"), |b| {
                b.truncate(b.len() / 2);
            });
        },
        "events-000003.jsonl.zst: it was cut short",
    ),
    (
        "emptied",
        |f| change(&f.join("events-000002.jsonl.zst"), Vec::clear),
        "events-000002.jsonl.zst: it was cut short",
    ),
    (
        "longer",
        |f| change(&f.join("events-000002.jsonl.zst"), |b| b.push(0)),
        "events-000002.jsonl.zst",
    ),
    (
        "one bit",
        |f| change(&f.join("credentials-000001.jsonl.zst"), |b| b[20] ^= 1),
        "credentials-000001.jsonl.zst: its SHA-256",
    ),
    (
        "dropped",
        |f| fs::remove_file(f.join("events-000002.jsonl.zst")).unwrap(),
        "events-000002.jsonl.zst: it is missing",
    ),
    (
        "swapped",
        |f| {
            let [a, b, c] = ["events-000001.jsonl.zst", "events-000002.jsonl.zst", "x"]
                .map(|name| f.join(name));
            fs::rename(&a, &c).unwrap();
            fs::rename(&b, &a).unwrap();
            fs::rename(&c, &b).unwrap();
        },
        "events-000001.jsonl.zst",
    ),
    (
        "a file left out of the manifest",
        |f| {
            edit(f, |page| {
                page["parts"][0]["files"].as_array_mut().unwrap().remove(1);
            });
        },
        "manifest.json",
    ),
    (
        "a count changed",
        |f| edit(f, |page| page["log"]["lastPosition"] = 3.into()),
        "manifest.json: it is not as it was",
    ),
    (
        "a name from elsewhere",
        |f| {
            edit(f, |page| {
                page["parts"][0]["files"][0]["file"] = "../x.jsonl.zst".into();
            });
        },
        "manifest.json",
    ),
    (
        "another format",
        |f| edit(f, |page| page["version"] = 2.into()),
        "manifest.json: it has the format version 2",
    ),
];

fn edit(folder: &Path, edit: impl FnOnce(&mut Value)) {
    change(&folder.join("manifest.json"), |bytes| {
        let mut page = serde_json::from_slice(bytes).unwrap();
        edit(&mut page);
        *bytes = serde_json::to_vec(&page).unwrap();
    });
}

#[tokio::test]
async fn an_export_that_was_tampered_with_is_refused_by_name() {
    let server = many_posts().await;
    let exports = Exports::new();
    let good = exports.name("good");
    let export = ["replay", "export", &good, "--all", "--file-size", "1"];
    server.succeed(&export).await;
    assert!(
        exports
            .path("good")
            .join("events-000003.jsonl.zst")
            .exists()
    );
    let target = fresh(Profile::Embedded).await;
    for (what, harm, named) in HARMS {
        let bad = exports.path(what);
        copy_all(&exports.path("good"), &bad);
        harm(&bad);
        let said = target
            .fail(&["replay", "import", bad.to_str().unwrap()])
            .await;
        assert!(said.contains(named), "{what}: {said}");
        assert!(!target.data_dir().exists(), "{what}: something was written");
    }
    let nothing = target
        .fail(&["replay", "import", &exports.name("nowhere")])
        .await;
    assert!(nothing.contains("is no export"), "{nothing}");
    let other = target
        .fail(&["replay", "import", &good, "--seal", "00"])
        .await;
    assert!(other.contains("not 00"), "{other}");
    target
        .succeed(&["replay", "import", &good, "--check"])
        .await;
}

#[tokio::test]
async fn an_event_that_is_no_json_is_kept_in_a_data_folder_and_refused_by_a_database() {
    use sqlx::{Connection, PgConnection};
    let server = many_posts().await;
    let log = rusqlite::Connection::open(server.data_dir().join("events.db")).unwrap();
    let broken = log.execute("UPDATE events SET payload = '{\"by' WHERE position = 5", []);
    assert_eq!(broken.unwrap(), 1);
    drop(log);
    let exports = Exports::new();
    let folder = exports.name("broken");
    let says = "the data of event 5 are no JSON";
    let exported = server.fail(&["replay", "export", &folder, "--all"]).await;
    assert!(exported.contains(says), "{exported}");

    let target = fresh(Profile::Embedded).await;
    let import = ["replay", "import", &folder];
    let checked = target.fail(&["replay", "import", &folder, "--check"]).await;
    assert_eq!(checked.matches(says).count(), 1, "{checked}");
    let imported = target.fail(&import).await;
    assert!(imported.contains(says), "{imported}");
    let again = target.succeed(&import).await;
    let there = format!("events: 0, and {} were there", MANY + 1);
    assert!(again.contains(&there), "{again}");
    let copy = exports.name("copy");
    let copied = target.fail(&["replay", "export", &copy, "--all"]).await;
    assert!(copied.contains(says), "{copied}");

    let target = fresh(Profile::Distributed).await;
    let from = format!("sqlite:{}", server.data_dir().display());
    let to = target.setting("DATABASE_URL").to_owned();
    let migrate = ["replay", "migrate", "--from", &from, "--to", &to];
    for bring in [&import[..], &migrate[..]] {
        let refused = target.fail(bring).await;
        assert!(refused.contains(says), "{refused}");
        assert!(refused.contains("into a data folder"), "{refused}");
    }
    let mut connection = PgConnection::connect(&to).await.unwrap();
    let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM events");
    assert_eq!(count.fetch_one(&mut connection).await.unwrap(), 0);
}

#[tokio::test]
async fn a_file_of_media_that_was_changed_is_refused_by_name() {
    let mut server = fresh(Profile::Embedded).await;
    server.restart().await;
    let network = network(&server).await;
    let exports = Exports::new();
    let folder = exports.name("backup");
    server
        .succeed(&["replay", "export", &folder, "--all"])
        .await;
    let picture = exports
        .path("backup")
        .join(network.picture.trim_start_matches('/'));
    let bytes = fs::read(&picture).unwrap();
    let target = fresh(Profile::Embedded).await;
    for (what, harm) in [("changed", 1), ("gone", 0)] {
        match harm {
            0 => fs::remove_file(&picture).unwrap(),
            _ => change(&picture, |bytes| bytes[100] ^= 1),
        }
        let said = target.fail(&["replay", "import", &folder]).await;
        assert!(said.contains(&network.picture), "{what}: {said}");
        assert!(!target.data_dir().exists());
    }
    fs::write(&picture, bytes).unwrap();
    target.succeed(&["replay", "import", &folder]).await;
    // A file that the server lost is told, once, and does not keep the rest from being saved.
    let file = Part::bytes(png(70_000)).file_name("b.png");
    let form = Form::new().text("content", "another").part("files", file);
    let posted = network.ada.post_form("/posts/", form).await;
    let lost = posted.expect_status(201).text("/post/id").to_owned();
    assert!(server.stop().await);
    let shards = fs::read_dir(server.data_dir().join("media")).unwrap();
    for file in shards.flat_map(|shard| fs::read_dir(shard.unwrap().path()).unwrap()) {
        let path = file.unwrap().path();
        if path.to_str().unwrap().contains(&lost) {
            fs::remove_file(path).unwrap();
        }
    }
    let one = exports.name("one");
    let said = server.fail(&["replay", "export", &one, "--all"]).await;
    let told = format!("/media/{lost}/0.png is missing");
    assert_eq!(said.matches(&told).count(), 1, "{said}");
    assert!(!said.contains(&network.picture), "{said}");
    for shard in fs::read_dir(server.data_dir().join("media")).unwrap() {
        let _ = fs::remove_dir_all(shard.unwrap().path());
    }
    let other = exports.name("other");
    let said = server.fail(&["replay", "export", &other, "--all"]).await;
    assert!(
        said.contains(&format!("{} is missing", network.picture)),
        "{said}"
    );
    target
        .succeed(&["replay", "import", &other, "--check"])
        .await;
}

#[tokio::test]
async fn what_does_not_belong_there_is_refused_and_nothing_is_touched() {
    let mut server = fresh(Profile::Embedded).await;
    server.restart().await;
    let exports = Exports::new();
    let (backup, part, foreign) = (
        exports.name("backup"),
        exports.name("part"),
        exports.name("foreign"),
    );
    let me = server.client().sign_up("first").await;
    server.succeed(&["replay", "export", &part, "--all"]).await;
    me.write_post("second", "public").await;
    server
        .succeed(&["replay", "export", &backup, "--all"])
        .await;

    // Positions, folders, options.
    let past = server
        .fail(&["replay", "export", &exports.name("x"), "--to", "99"])
        .await;
    assert!(
        past.contains("there is no position 99: the log ends at 2"),
        "{past}"
    );
    assert!(!exports.path("x").exists());
    server
        .fail(&["replay", "export", &exports.name("x"), "--to", "0"])
        .await;
    let finished = server.fail(&["replay", "export", &backup]).await;
    assert!(finished.contains("choose another folder"), "{finished}");
    fs::create_dir(exports.path("full")).unwrap();
    fs::write(exports.path("full").join("note"), "mine").unwrap();
    let full = server
        .fail(&["replay", "export", &exports.name("full")])
        .await;
    assert!(full.contains("is not empty"), "{full}");
    let nobody = fresh(Profile::Embedded).await;
    let none = nobody.fail(&["replay", "export", &exports.name("x")]).await;
    assert!(none.contains("there is no event log"), "{none}");
    server
        .succeed(&[
            "replay",
            "export",
            &exports.name("to"),
            "--to",
            "1",
            "--all",
        ])
        .await;

    // Logs.
    let running = server.fail(&["replay", "import", &backup]).await;
    assert!(running.contains("stop that one first"), "{running}");
    assert!(server.stop().await);
    let shorter = server.fail(&["replay", "import", &part]).await;
    assert!(
        shorter.contains("the target's log has 2 events, what is copied has 1"),
        "{shorter}"
    );
    let mut other = fresh(Profile::Embedded).await;
    other.restart().await;
    let stranger = other.client().sign_up("stranger").await;
    assert!(other.stop().await);
    other
        .succeed(&["replay", "export", &foreign, "--all"])
        .await;
    let refused = other.fail(&["replay", "import", &backup]).await;
    assert!(refused.contains("another event at position 1"), "{refused}");
    other.verify_all().await;
    other.restart().await;
    other
        .client()
        .with_token(&stranger.id, "", &stranger.token)
        .get("/auth/me")
        .await
        .expect_status(200);

    // The beginning of the same log is gone on with.
    let third = fresh(Profile::Embedded).await;
    third.succeed(&["replay", "import", &part]).await;
    let said = third.succeed(&["replay", "import", &backup]).await;
    assert!(said.contains("events: 1, and 1 were there"), "{said}");
}

/// Starts a command whose output is kept.
fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn send(child: &Child, signal: &str) {
    let mut kill = Command::new("kill");
    kill.args([&format!("-{signal}"), &child.id().to_string()]);
    assert!(kill.status().unwrap().success());
}

async fn ended(child: Child) -> Output {
    let wait = tokio::task::spawn_blocking(move || child.wait_with_output());
    wait.await.unwrap().unwrap()
}

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

async fn words(server: &Server, who: &Client) -> Vec<String> {
    let login = json!({ "identifier": who.username, "password": PASSWORD });
    let answer = server.client().post("/auth/login", login).await;
    let token = answer.expect_status(200).text("/token").to_owned();
    let client = server.client().with_token(&who.id, &who.username, &token);
    words_of(&client, "room").await
}

async fn words_of(who: &Client, room: &str) -> Vec<String> {
    let said = who.get(&format!("/chat/rooms/{room}/messages")).await;
    let said = said.expect_status(200);
    let words = said.list("/messages").iter();
    words
        .map(|message| message["message"].as_str().unwrap().to_owned())
        .collect()
}

/// The chat log is not in the log's database: the mark is there before its first row.
#[tokio::test]
async fn a_killed_import_that_brings_chat_alone_is_gone_on_with() {
    let exports = Exports::new();
    let folder = exports.name("backup");
    let (_server, me, mut target) = twins(&exports).await;
    let open = |file: &str| rusqlite::Connection::open(target.data_dir().join(file)).unwrap();
    let (chat, log) = (open("chat.db"), open("events.db"));
    chat.execute_batch("DELETE FROM client_ids; DELETE FROM messages; DELETE FROM rooms")
        .unwrap();
    // The import waits with its first row for as long as this is held.
    chat.execute_batch("BEGIN IMMEDIATE").unwrap();
    let child = start(target.prepare_command(&["replay", "import", &folder]));
    eventually("the log is marked", || async {
        let marks = log.query_row("SELECT count(*) FROM unfinished_copy", [], |row| row.get(0));
        (marks == Ok(1)).then_some(())
    })
    .await;
    send(&child, "KILL");
    assert!(!ended(child).await.status.success());
    drop((chat, log));
    is_half_and_refused(&target, &folder, &[&["serve", "--listen", "127.0.0.1:0"]]).await;
    let said = target.succeed(&["replay", "import", &folder]).await;
    assert!(said.contains("chat-messages: 3\n"), "{said}");
    target.restart().await;
    assert_eq!(words(&target, &me).await.len(), 3);
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

/// Waits until so many sessions wait for the lock of appends.
async fn waiting(connection: &mut sqlx::PgConnection, wanted: i64) {
    waiting_for(connection, "advisory", wanted).await;
}

/// Waits until so many sessions wait for a lock of some kind.
async fn waiting_for(connection: &mut sqlx::PgConnection, kind: &str, wanted: i64) {
    let sql = "SELECT count(*) FROM pg_stat_activity
         WHERE wait_event_type = 'Lock' AND wait_event = $1 AND datname = current_database()";
    let connection = tokio::sync::Mutex::new(connection);
    eventually("somebody waits for the lock", || async {
        let waiting: i64 = sqlx::query_scalar(sql)
            .bind(kind)
            .fetch_one(&mut **connection.lock().await)
            .await
            .unwrap();
        (waiting == wanted).then_some(())
    })
    .await;
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

/// The embedded profile's data goes to the servers, and everybody finds everything there.
#[tokio::test]
async fn a_team_moves_from_the_embedded_to_the_distributed_profile() {
    let mut old = fresh(Profile::Embedded).await;
    old.restart().await;
    let network = network(&old).await;
    old.caught_up().await;
    let answers = network.answers().await;
    let mut new = fresh(Profile::Distributed).await;
    let from = format!("sqlite:{}", old.data_dir().display());
    let to = new.setting("DATABASE_URL").to_owned();
    let migrate = ["replay", "migrate", "--from", &from, "--to", &to];
    let running = new.fail(&migrate).await;
    assert!(running.contains("stop that one first"), "{running}");
    assert!(old.stop().await);
    for (wrong, says) in [
        (
            [
                "replay",
                "migrate",
                "--from",
                "sqlite:/nowhere",
                "--to",
                &to,
            ],
            "there is no event log",
        ),
        (
            ["replay", "migrate", "--from", "postgres://x/y", "--to", &to],
            "--from: must be `sqlite:`",
        ),
        (
            ["replay", "migrate", "--from", &from, "--to", "sqlite:x"],
            "--to: must start with",
        ),
    ] {
        let said = new.fail(&wrong).await;
        assert!(said.contains(says), "{said}");
    }
    kill_in_the_middle_of_moving(&new, &migrate).await;
    let said = new.succeed(&migrate).await;
    assert!(said.contains("JWT_SECRET_FILE="), "{said}");
    let again = new.succeed(&migrate).await;
    assert!(again.contains("media: 0, and 1 were there"), "{again}");
    new.restart().await;
    is_all_there(&new, &network, &answers).await;
    // What has gone on elsewhere cannot be written over.
    let refused = new.fail(&migrate).await;
    assert!(refused.contains("must be empty"), "{refused}");
}

/// Kills a move before its first event is written, and when the log is written and the chat is not.
async fn kill_in_the_middle_of_moving(new: &Server, migrate: &[&str]) {
    use sqlx::{Connection, Executor, PgConnection};
    let connect = || PgConnection::connect(new.setting("DATABASE_URL"));
    let (mut holding, mut looking) = (connect().await.unwrap(), connect().await.unwrap());
    for (hold, waits_for, arrived) in [
        (
            "SELECT pg_advisory_lock(8316291640277037)",
            "advisory",
            false,
        ),
        (
            "BEGIN; LOCK TABLE chat_messages IN SHARE MODE",
            "relation",
            true,
        ),
    ] {
        holding.execute(hold).await.unwrap();
        let child = start(new.prepare_command(migrate));
        waiting_for(&mut looking, waits_for, 1).await;
        send(&child, "KILL");
        assert!(!ended(child).await.status.success());
        drop(std::mem::replace(&mut holding, connect().await.unwrap()));
        let events: i64 = sqlx::query_scalar("SELECT count(*) FROM events")
            .fetch_one(&mut looking)
            .await
            .unwrap();
        assert_eq!(events > 0, arrived, "{events}");
        if arrived {
            let refused = new.fail(&["serve", "--listen", "127.0.0.1:0"]).await;
            assert!(refused.contains("run it again"), "{refused}");
        }
    }
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
