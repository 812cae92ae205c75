//! `replay inspect --as-of` and `replay as-of`: what a stream and the read models were.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use socialhub_tests::support::{Client, Server, binary};

use super::{damage::lines, printed, repair::seen, succeed};

async fn events(server: &Server) -> Vec<Value> {
    lines(&succeed(server, &["replay", "tail", "--after", "0", "--json"]).await)
}

async fn refused(server: &Server, arguments: &[&str], reason: &str) {
    let output = server.command(arguments).await;
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    assert!(
        printed(&output).contains(reason),
        "{arguments:?}: {}",
        printed(&output)
    );
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
        let shown = succeed(&server, &["replay", "inspect", &stream, "--as-of", &moment]).await;
        assert!(
            shown.contains("first") && !shown.contains("second"),
            "{moment}: {shown}"
        );
        assert!(shown.contains("at version 2, as of position"), "{shown}");
    }
    let inspect = |moment: &'static str| ["replay", "inspect", &*stream, "--as-of", moment];
    refused(&server, &inspect("99999"), "the log ends at position").await;
    refused(&server, &inspect("2020-01-01T00:00:00Z"), "had no events").await;
    refused(&server, &inspect("2999-01-01T00:00:00Z"), "still to come").await;
    let nonsense = server.command(&inspect("yesterday")).await;
    assert!(!nonsense.status.success() && printed(&nonsense).contains("RFC 3339"));
}

/// A server of the past, ended when it is dropped.
struct Past(Child, String);

impl Past {
    fn serve(server: &Server, arguments: &[&str]) -> Self {
        let mut child = Command::new(binary())
            .args(arguments)
            .arg("--data-dir")
            .arg(server.data_dir())
            .envs(server.environment().iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = Vec::new();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some((_, rest)) = line.split_once("for reading only: ") {
                let url = rest.split(' ').next().unwrap().to_owned();
                return Self(child, url);
            }
            told.push(line);
        }
        panic!("it does not serve: {told:?}");
    }

    fn client(&self) -> Client {
        Client::new(&self.1)
    }
}

impl Drop for Past {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn models_are_built_and_served_as_they_were() {
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
    fan.put(&format!("/posts/{early}/like"), Value::Null)
        .await
        .expect_status(200);
    let then = events(&server).await;
    let position = then.last().unwrap()["position"].to_string();
    // Times are told apart by the millisecond.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let late = me.write_post("late", "public").await;
    me.delete(&format!("/posts/{early}"))
        .await
        .expect_status(204);
    fan.delete(&format!("/users/unfollow/{}", me.id))
        .await
        .expect_status(200);
    for who in [&me, &fan] {
        seen(who).await;
    }

    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("past").display().to_string();
    let time = rfc3339(&then.last().unwrap()["metadata"]["occurredAt"]);
    let build = ["replay", "as-of", "--all", "--into", &into, "--at"];
    let at = |moment: &str| {
        [&build[..], &[moment]]
            .concat()
            .iter()
            .map(|s| (*s).to_owned())
            .collect::<Vec<_>>()
    };
    let said = succeed(
        &server,
        &at(&time).iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .await;
    assert!(
        said.contains(&format!("feed: as of position {position}")),
        "{said}"
    );
    let file = rusqlite::Connection::open(folder.path().join("past/feed.1.db")).unwrap();
    let contents: String = file
        .query_row("SELECT group_concat(content) FROM posts", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(contents, "early");
    drop(file);
    let again = [&build[..], &["1"]].concat();
    refused(&server, &again, "name a new folder").await;

    let serve = [
        &build[..],
        &[&position, "--serve", "0", "--as", &fan.username],
    ]
    .concat();
    let past = Past::serve(&server, &serve);
    let client = past.client();
    let post = client
        .get(&format!("/posts/{early}"))
        .await
        .expect_status(200);
    assert_eq!(post.text("/post/content"), "early");
    assert_eq!(
        (post.at("/post/likeCount"), post.at("/post/likedByMe")),
        (&json!(1), &json!(true))
    );
    assert_eq!(post.header("x-position"), position);
    client
        .get(&format!("/posts/{late}"))
        .await
        .expect_status(404);
    let feed = client.get("/api/feed/").await.expect_status(200);
    assert_eq!(
        (feed.list("/posts").len(), feed.text("/posts/0/content")),
        (1, "early")
    );
    let trending = client.get("/api/feed/trending").await.expect_status(200);
    assert_eq!(trending.text("/posts/0/id"), early);
    let profile = client
        .get(&format!("/users/profile/{}", me.id))
        .await
        .expect_status(200);
    assert_eq!(
        (
            profile.at("/user/followersCount"),
            profile.at("/user/postsCount")
        ),
        (&json!(1), &json!(1))
    );
    let told = client.get("/notify/notifications").await.expect_status(200);
    assert_eq!(told.text("/notifications/0/metadata/postId"), early);
    let refused = client
        .put(&format!("/posts/{early}/like"), Value::Null)
        .await;
    assert_eq!(
        (refused.status, refused.header("content-type")),
        (405, "application/problem+json")
    );
    drop(past);

    let nobody = [&build[..], &[&position, "--serve", "0", "--as", "nobody"]].concat();
    super::past::refused(&server, &nobody, "nobody was called").await;
    me.get(&format!("/posts/{late}")).await.expect_status(200);
    server.verify_all().await;
}
