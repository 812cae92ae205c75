//! Each server away for a while under load: what the design's table "Failing well" says still works does, and then
//! everything converges.

use serde_json::{Value, json};
use socialhub_tests::support::{Client, Turn, client::PASSWORD, printed};

use super::{
    all_is_well, eventually, everything_moves, follow,
    load::{Load, ids},
    read_at,
    talk::Talk,
    write,
};
use crate::social::{hear, open_stream};

/// Commands that must be answered while a server is away.
const ENOUGH: u64 = 24;

/// A post with one like and one comment, which the read models know.
async fn known_post(author: &Client, fan: &Client) -> String {
    let (post, _) = write(author, "well known").await;
    let like = format!("/posts/{post}/like");
    fan.put(&like, Value::Null).await.expect_status(200);
    eventually("the like is counted", || async {
        let seen = fan.get_as_is(&format!("/posts/{post}")).await;
        (seen.at("/post/likeCount") == 1).then_some(())
    })
    .await;
    post
}

/// What must work whichever of Kafka, Redis and MongoDB is away.
async fn commands_and_reads_work(client: &Client, me: &Client, post: &str) {
    let log_in = json!({ "identifier": me.username, "password": PASSWORD });
    client.post("/auth/login", log_in).await.expect_status(200);
    let newcomer = client.sign_up("newcomer").await;
    follow(&newcomer, me).await;
    write(me, "written meanwhile").await;
    let seen = me
        .get_as_is(&format!("/posts/{post}"))
        .await
        .expect_status(200);
    assert_eq!(seen.at("/post/likeCount"), 1, "{}", seen.json);
    for path in [
        "/auth/verify-user".to_owned(),
        format!("/users/profile/{}", me.id),
        format!("/users/followers/{}", me.id),
        format!("/posts/user/{}", me.id),
        format!("/posts/{post}/comments"),
        "/api/feed/".to_owned(),
    ] {
        let answer = me.get_as_is(&path).await;
        let body = String::from_utf8_lossy(&answer.bytes);
        assert_eq!(answer.status, 200, "{path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_commands_work_and_reads_say_that_they_are_behind() {
    let stack = Turn::begin().await;
    let client = stack.client();
    let load = Load::start(&client).await;
    let (me, fan) = (client.sign_up("away").await, client.sign_up("fan").await);
    let post = known_post(&me, &fan).await;
    stack.kill("kafka").await;
    load.goes_on(ENOUGH).await;
    commands_and_reads_work(&client, &me, &post).await;
    me.get_as_is("/api/feed/trending").await.expect_status(200);
    let (_, position) = write(&me, "not to be seen yet").await;
    for path in [
        format!("/posts/user/{}", me.id),
        "/notify/notifications".to_owned(),
    ] {
        let page = read_at(&me, &path, &position).await.expect_status(200);
        assert!(page.is_stale(), "{path}: {}", page.json);
    }
    load.goes_on(ENOUGH).await;
    stack.start("kafka").await;
    everything_moves(&me).await;
    all_is_well(&stack, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_everything_works_and_counts_come_from_postgres() {
    let stack = Turn::begin().await;
    let client = stack.client();
    let load = Load::start(&client).await;
    let (me, fan) = (client.sign_up("away").await, client.sign_up("fan").await);
    let post = known_post(&me, &fan).await;
    let talk = Talk::start(stack.url(), &client).await;
    stack.kill("redis").await;
    load.goes_on(ENOUGH).await;
    talk.goes_on().await;
    commands_and_reads_work(&client, &me, &post).await;
    me.get_as_is("/notify/notifications")
        .await
        .expect_status(200);
    // Scores are in Redis alone: recent posts are ranked by what the feed model knows of them.
    let list = me.get_as_is("/api/feed/trending").await.expect_status(200);
    assert!(list.is_stale());
    // On which page is the load's to say: its posts are liked more.
    let ranked = ids(&me, "/api/feed/trending?limit=100", "posts").await;
    assert!(ranked.contains(&post), "{ranked:?}");
    // Their own writes, too: where the last one was is known without Redis.
    let (mine, _) = write(&me, "read at once").await;
    let list = me.get_as_is(&format!("/posts/user/{}", me.id)).await;
    let list = list.expect_status(200);
    assert!(list.is_stale() || list.text("/posts/0/id") == mine);
    load.goes_on(ENOUGH).await;
    stack.start("redis").await;
    everything_moves(&me).await;
    talk.goes_on().await;
    talk.end().await;
    all_is_well(&stack, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_mongodb_only_the_list_of_notifications_is_missing() {
    let stack = Turn::begin().await;
    let client = stack.client();
    let load = Load::start(&client).await;
    let (me, fan) = (client.sign_up("away").await, client.sign_up("fan").await);
    let post = known_post(&me, &fan).await;
    let notifications = open_stream(&me, "/notify/stream", None).await;
    stack.kill("mongodb").await;
    load.goes_on(ENOUGH).await;
    commands_and_reads_work(&client, &me, &post).await;
    me.get_as_is("/api/feed/trending").await.expect_status(200);
    let list = me
        .get_as_is("/notify/notifications")
        .await
        .expect_status(503);
    assert!(list.is_put_off(), "{list:?}");
    let told = stack.command(&["replay", "status", "--json"]).await;
    assert_eq!(told.status.code(), Some(1), "{}", printed(&told));
    let status: Value = serde_json::from_slice(&told.stdout).unwrap();
    for model in status["models"].as_array().unwrap() {
        let away = model["model"] == "notifications";
        assert_eq!(model["unavailable"].is_string(), away, "{model}");
        assert_eq!(model["generations"] == json!([]), away, "{model}");
    }
    let (_, position) = write(&me, "in the feed model at once").await;
    let path = format!("/posts/user/{}", me.id);
    eventually("the feed model goes on", || async {
        let page = read_at(&me, &path, &position).await.expect_status(200);
        page.has_reached(&position).then_some(())
    })
    .await;
    load.goes_on(ENOUGH).await;
    stack.start("mongodb").await;
    everything_moves(&me).await;
    // Whoever listened all the time hears of what comes after.
    let comment = json!({ "comment": "back again" });
    fan.post(&format!("/posts/{post}/comment"), comment)
        .await
        .expect_status(201);
    hear(notifications, "commented on your post").await;
    all_is_well(&stack, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_tokens_are_known_and_no_command_is_half_done() {
    let stack = Turn::begin().await;
    let client = stack.client();
    let load = Load::start(&client).await;
    let me = client.sign_up("away").await;
    me.get_as_is("/auth/verify-user").await.expect_status(200);
    let talk = Talk::start(stack.url(), &client).await;
    load.goes_on(ENOUGH).await;
    stack.kill("postgres").await;
    load.is_refused(4).await;
    let known = me.get_as_is("/auth/verify-user").await.expect_status(200);
    assert_eq!(known.at("/valid"), true);
    let stranger = client.with_token("", "", "no token at all");
    stranger
        .get_as_is("/auth/verify-user")
        .await
        .expect_status(401);
    // Sent while Postgres is away for certain: nothing may be left of it but the wish.
    let body = json!({ "content": "once, later" });
    let refusal = me.try_post_with_key("/posts/", "while-away", &body).await;
    let refusal = refusal.unwrap().expect_status(503);
    assert!(refusal.is_put_off(), "{refusal:?}");
    let path = format!("/users/follow/{}", load.person().id);
    let refusal = me.post_as_is(&path, &json!({})).await.expect_status(503);
    assert!(refusal.is_put_off(), "{refusal:?}");
    stack.start("postgres").await;
    let first = eventually("the post is accepted", || async {
        let answer = me.try_post_with_key("/posts/", "while-away", &body).await?;
        (answer.status == 201).then_some(answer)
    })
    .await;
    let again = me.try_post_with_key("/posts/", "while-away", &body).await;
    assert_eq!(again.unwrap().expect_status(201).json, first.json);
    let (list, position) = (format!("/posts/user/{}", me.id), first.header("x-position"));
    let mine = eventually("the list is up to date", || async {
        let page = read_at(&me, &list, position).await;
        (page.status == 200 && page.has_reached(position)).then_some(page)
    })
    .await;
    assert_eq!(mine.list("/posts").len(), 1, "{}", mine.json);
    load.goes_on(ENOUGH).await;
    talk.goes_on().await;
    talk.end().await;
    everything_moves(&me).await;
    all_is_well(&stack, load).await;
}
