//! `replay inspect --as-of` and `replay as-of`: what a stream and the read models were.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use serde_json::{Value, json};
use socialhub_tests::support::{
    Client, Server, binary,
    client::{PASSWORD, fresh_name},
    eventually, printed,
};

use super::{damage::lines, repair::seen};
use crate::erasure::{erase, erased_everywhere};

async fn events(server: &Server) -> Vec<Value> {
    lines(
        &server
            .succeed(&["replay", "tail", "--after", "0", "--json"])
            .await,
    )
}

async fn refused(server: &Server, arguments: &[&str], reason: &str) {
    let said = server.fail(arguments).await;
    assert!(said.contains(reason), "{arguments:?}: {said}");
}

/// An RFC 3339 time of the milliseconds in an event.
fn rfc3339(millis: &Value) -> String {
    let time = chrono::DateTime::from_timestamp_millis(millis.as_i64().unwrap()).unwrap();
    time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

#[tokio::test]
async fn a_stream_is_shown_as_it_was() {
    let server = Server::start().await;
    let me = server.client().sign_up("then").await;
    for bio in ["first", "second"] {
        me.patch("/users/profile", json!({ "bio": bio }))
            .await
            .expect_status(200);
    }
    let stream = format!("user/{}", me.id);
    let log = events(&server).await;
    let mine: Vec<&Value> = log
        .iter()
        .filter(|event| event["stream"] == stream.as_str())
        .collect();
    assert_eq!(mine.len(), 3);
    let (position, time) = (
        &mine[1]["position"],
        rfc3339(&mine[1]["metadata"]["occurredAt"]),
    );
    for moment in [position.to_string(), time] {
        let shown = server
            .succeed(&["replay", "inspect", &stream, "--as-of", &moment])
            .await;
        assert!(
            shown.contains("first") && !shown.contains("second"),
            "{moment}: {shown}"
        );
        assert!(shown.contains("at version 2, as of position"), "{shown}");
        assert!(shown.contains("\"bio\": \"first\""), "{shown}");
        let inspect = ["replay", "inspect", &stream, "--as-of", &moment, "--json"];
        let told = lines(&server.succeed(&inspect).await);
        let state = &told.last().unwrap()["state"];
        assert_eq!(
            (&state["bio"], &state["id"]),
            (&json!("first"), &json!(me.id))
        );
    }
    let inspect = |moment: &'static str| ["replay", "inspect", &*stream, "--as-of", moment];
    refused(&server, &inspect("99999"), "the log ends at position").await;
    refused(&server, &inspect("2020-01-01T00:00:00Z"), "had no events").await;
    refused(&server, &inspect("2999-01-01T00:00:00Z"), "still to come").await;
    let nonsense = server.command(&inspect("yesterday")).await;
    assert!(!nonsense.status.success() && printed(&nonsense).contains("RFC 3339"));
}

/// A server of the past, ended when it is dropped.
struct Past {
    process: Child,
    /// What it says after its address.
    told: Box<dyn Iterator<Item = String> + Send>,
    client: Client,
}

impl Past {
    fn serve(server: &Server, arguments: &[&str]) -> Self {
        let process = Command::new(binary())
            .args(arguments)
            .arg("--data-dir")
            .arg(server.data_dir())
            .envs(server.environment().iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut past = Self {
            process,
            told: Box::new(std::iter::empty()),
            client: Client::new(""),
        };
        let lines = BufReader::new(past.process.stderr.take().unwrap()).lines();
        past.told = Box::new(lines.map_while(Result::ok));
        let address = past.told.find_map(|line| address(&line));
        past.client = Client::new(&address.expect("it does not serve"));
        past
    }
}

impl Drop for Past {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where it says that it serves.
fn address(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("for reading only: ")?;
    rest.split(' ').next().map(str::to_owned)
}

/// What happened until a moment that is looked back on, and what happened afterwards.
struct Story {
    server: Server,
    me: Client,
    fan: Client,
    early: String,
    late: String,
    position: String,
    time: String,
}

impl Story {
    async fn new() -> Self {
        let server = Server::start().await;
        let (me, fan) = (
            server.client().sign_up("once").await,
            server.client().sign_up("fan").await,
        );
        let follow = format!("/users/follow/{}", me.id);
        fan.post(&follow, json!({ "notify": true }))
            .await
            .expect_status(200);
        let early = me.write_post("early", "public").await;
        let path = format!("/posts/{early}");
        fan.put(&format!("{path}/like"), Value::Null)
            .await
            .expect_status(200);
        let then = events(&server).await;
        let last = then.last().unwrap();
        let (position, time) = (
            last["position"].to_string(),
            rfc3339(&last["metadata"]["occurredAt"]),
        );
        // Times are told apart by the millisecond.
        let (clock, next) = (Instant::now(), Duration::from_millis(2));
        eventually("another millisecond", || async {
            (clock.elapsed() > next).then_some(())
        })
        .await;
        let late = me.write_post("late", "public").await;
        me.delete(&path).await.expect_status(204);
        let unfollow = format!("/users/unfollow/{}", me.id);
        fan.delete(&unfollow).await.expect_status(200);
        for who in [&me, &fan] {
            seen(who).await;
        }
        Self {
            server,
            me,
            fan,
            early,
            late,
            position,
            time,
        }
    }

    /// Everything is as it was then.
    async fn check(&self, client: &Client) {
        let early = format!("/posts/{}", self.early);
        let post = client.get(&early).await.expect_status(200);
        assert_eq!(post.text("/post/content"), "early");
        assert_eq!(
            (post.at("/post/likeCount"), post.at("/post/likedByMe")),
            (&json!(1), &json!(true))
        );
        assert_eq!(post.header("x-position"), self.position);
        let late = format!("/posts/{}", self.late);
        client.get(&late).await.expect_status(404);
        let feed = client.get("/api/feed/").await.expect_status(200);
        assert_eq!(
            (feed.list("/posts").len(), feed.text("/posts/0/content")),
            (1, "early")
        );
        let trending = client.get("/api/feed/trending").await.expect_status(200);
        assert_eq!(trending.text("/posts/0/id"), self.early);
        let profile = format!("/users/profile/{}", self.me.id);
        let profile = client.get(&profile).await.expect_status(200);
        let counts = ["/user/followersCount", "/user/postsCount"].map(|count| profile.at(count));
        assert_eq!(counts, [&json!(1), &json!(1)]);
        let told = client.get("/notify/notifications").await.expect_status(200);
        assert_eq!(told.text("/notifications/0/metadata/postId"), self.early);
        let refused = client.put(&format!("{early}/like"), Value::Null).await;
        assert_eq!(
            (refused.status, refused.header("content-type")),
            (405, "application/problem+json")
        );
    }
}

#[tokio::test]
async fn models_are_built_and_served_as_they_were() {
    let story = Story::new().await;
    let (server, position) = (&story.server, &*story.position);
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("past").display().to_string();
    let build = ["replay", "as-of", "--all", "--into", &into, "--at"];
    let said = server.succeed(&[&build[..], &[&story.time]].concat()).await;
    assert!(
        said.contains(&format!("feed: as of position {position}")),
        "{said}"
    );
    let file = rusqlite::Connection::open(folder.path().join("past/feed.1.db")).unwrap();
    let contents = "SELECT group_concat(content) FROM posts";
    let contents: String = file.query_row(contents, [], |row| row.get(0)).unwrap();
    assert_eq!(contents, "early");
    drop(file);
    refused(server, &[&build[..], &["1"]].concat(), "name a new folder").await;

    let serve = [position, "--serve", "0", "--as", &story.fan.username];
    let past = Past::serve(server, &[&build[..], &serve].concat());
    story.check(&past.client).await;
    drop(past);

    let nobody = [position, "--serve", "0", "--as", "nobody"];
    refused(server, &[&build[..], &nobody].concat(), "nobody was called").await;
    let late = format!("/posts/{}", story.late);
    story.me.get(&late).await.expect_status(200);
    server.verify_all().await;
}

/// Signs up more people than a search finds at once, who are all called by a name.
async fn many_are_called(server: &Server, name: &str) {
    let anonymous = &server.client();
    let sign_ups = (0..=100).map(|_| async move {
        let username = fresh_name("abe");
        let email = format!("{username}@example.com");
        let sign_up = json!({
            "name": name, "email": email, "username": username, "password": PASSWORD,
        });
        let answer = anonymous.post("/auth/signup", sign_up).await;
        answer.expect_status(201)
    });
    let answers = stream::iter(sign_ups).buffer_unordered(16);
    assert_eq!(answers.count().await, 101);
}

#[tokio::test]
async fn the_past_is_seen_as_somebody_after_whose_name_many_are_called() {
    let server = Server::start().await;
    let zoe = server.client().sign_up("zoe").await;
    many_are_called(&server, &zoe.username).await;
    let head = events(&server).await.last().unwrap()["position"].to_string();
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("past").display().to_string();
    let build = ["replay", "as-of", "--all", "--into", &into, "--at", &head];
    let serve = ["--serve", "0", "--as", &zoe.username];
    let past = Past::serve(&server, &[&build[..], &serve].concat());
    let profile = format!("/users/profile/{}", zoe.id);
    past.client.get(&profile).await.expect_status(200);
}

/// Nobody but its owner may look into a folder or a file.
fn is_private(path: &Path) {
    let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let wanted = if path.is_dir() { 0o700 } else { 0o600 };
    assert_eq!(mode, wanted, "{}", path.display());
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            is_private(&entry.unwrap().path());
        }
    }
}

#[tokio::test]
async fn a_folder_of_the_past_is_of_no_use_after_an_erasure_or_with_another_log() {
    let (server, other) = (Server::start().await, Server::start().await);
    let (eve, bob) = (
        server.client().sign_up("eve").await,
        server.client().sign_up("bob").await,
    );
    other.client().sign_up("stranger").await;
    other.client().sign_up("another").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("past");
    // Whoever made the folder may have let others in.
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let into = path.display().to_string();
    let build = ["replay", "as-of", "--all", "--at", "2", "--into", &into];
    server.succeed(&build).await;
    is_private(&path);
    server.succeed(&build).await;
    refused(&other, &build, "was built from another log").await;

    erase(&eve, PASSWORD).await.expect_status(204);
    erased_everywhere(&server, &eve.id).await;
    let serve = [&build[..], &["--serve", "0", "--as", &bob.username]].concat();
    let said = server.fail(&serve).await;
    assert!(
        said.contains("shows what is gone since: remove it, then build it again"),
        "{said}"
    );
    fs::remove_dir_all(&path).unwrap();
    let mut past = Past::serve(&server, &serve);
    let found = past.client.get(&format!("/users/profile/{}", eve.id)).await;
    assert_eq!(found.expect_status(200).text("/user/username"), "[erased]");
    is_private(&path);
    // Nor does it go on after one.
    erase(&bob, PASSWORD).await.expect_status(204);
    eventually("the past is not served any more", || {
        let ended = past.process.try_wait().unwrap();
        async move { ended.map(|status| assert_eq!(status.code(), Some(1))) }
    })
    .await;
    let told: Vec<String> = past.told.by_ref().collect();
    let told = told.concat();
    let is_said = ["under way", "shows what is gone since"].map(|reason| told.contains(reason));
    assert!(is_said.contains(&true), "{told}");
}
