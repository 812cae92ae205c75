//! The database's server vanishes without a word and another one takes its place: the programs go on.

use serde_json::{Value, json};
use socialhub_tests::support::{Client, Profile, Server, eventually, proxy::Proxy};

/// Whether a list shows something.
async fn shows(client: &Client, path: &str, list: &str, wanted: &str) -> Option<()> {
    let page = client.get(path).await;
    let found = page.status == 200 && page.list(list).iter().any(|item| holds(item, wanted));
    found.then_some(())
}

fn holds(item: &Value, wanted: &str) -> bool {
    item.to_string().contains(wanted)
}

/// Writes a post, follows, and waits until everybody has seen it.
async fn life_goes_on(author: &Client, reader: &Client, fan: &Client, content: &str) {
    let post = eventually("a post is written", async || {
        let body = json!({ "content": content });
        let answer = author.try_post_with_key("/posts/", content, &body).await?;
        (answer.status == 201).then(|| answer.text("/post/id").to_owned())
    })
    .await;
    eventually("somebody follows", async || {
        let path = format!("/users/follow/{}", author.id);
        (fan.post(&path, Value::Null).await.status == 200).then_some(())
    })
    .await;
    eventually("it is in the feed", || {
        shows(reader, "/api/feed/", "/posts", &post)
    })
    .await;
    let (path, list) = ("/notify/notifications", "/notifications");
    eventually("the author is told of the post", || {
        shows(author, path, list, &post)
    })
    .await;
    eventually("and of the follower", || shows(author, path, list, &fan.id)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_go_on_when_the_database_vanishes_and_another_takes_its_place() {
    let mut environment = Profile::Distributed.environment().await;
    let setting = environment
        .iter_mut()
        .find(|(name, _)| name == "DATABASE_URL");
    let (_, url) = setting.unwrap();
    let proxy = Proxy::to(url, u64::MAX).await;
    *url = proxy.through(url);
    let server = Server::start_in(&["--rate-limits", "off"], environment).await;
    let other = server.another().await;
    let author = server.client().sign_up("author").await;
    let reader = other.client().sign_up("reader").await;
    let follow = format!("/users/follow/{}", author.id);
    reader.post(&follow, Value::Null).await.expect_status(200);
    let fans = [
        other.client().sign_up("fan").await,
        other.client().sign_up("fan").await,
        other.client().sign_up("fan").await,
    ];
    life_goes_on(&author, &reader, &fans[0], "before").await;
    // More than once: what is left of the first time must not be in the way of the second.
    for (fan, content) in fans[1..].iter().zip(["after", "again"]) {
        proxy.fail_over();
        life_goes_on(&author, &reader, fan, content).await;
    }
}

/// So many times the database goes away while a program starts: each time at another step.
const STEPS: u64 = 24;

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_starts_waits_for_the_database_at_each_of_its_steps() {
    let mut environment = Profile::Distributed.environment().await;
    let at = environment
        .iter()
        .position(|(name, _)| name == "DATABASE_URL")
        .unwrap();
    let url = environment[at].1.clone();
    // How much the database says until a program has started: a program whose schema is there, as most find it.
    let mut whole = 0;
    for _ in 0..2 {
        let proxy = Proxy::to(&url, u64::MAX).await;
        environment[at].1 = proxy.through(&url);
        let mut server = Server::prepare(&[], environment.clone());
        server.begin();
        eventually("the program runs", async || runs(&server)).await;
        whole = proxy.carried();
    }
    for step in 0..STEPS {
        let proxy = Proxy::holding(&url, whole * step / STEPS).await;
        environment[at].1 = proxy.through(&url);
        let mut server = Server::prepare(&[], environment.clone());
        server.begin();
        proxy.held().await;
        proxy.shut();
        eventually("it says what it waits for, or has started", async || {
            let waits = server.log().contains("waiting for");
            runs(&server).or(waits.then_some(()))
        })
        .await;
        proxy.cut();
        eventually("the program runs", async || runs(&server)).await;
        assert!(server.stop().await, "{}", server.log());
    }
}

/// Whether it has started. It must not have given up.
fn runs(server: &Server) -> Option<()> {
    let log = server.log();
    assert!(!log.contains("socialhub: "), "it ended");
    log.contains("running roles=").then_some(())
}
