//! `replay repair` beside a busy server, and what the tests of damage begin with.

use serde_json::{Value, json};
use socialhub_tests::support::{Client, Server, eventually, printed};

use super::damage::{lines, one_of};

/// Waits until the models have seen everything that a person wrote.
pub async fn seen(client: &Client) {
    for path in ["/api/feed/", "/notify/notifications", "/api/feed/trending"] {
        eventually("the models are up to date", || async {
            let answer = client.get_as_is(path).await.expect_status(200);
            (!answer.headers.contains_key("x-stale")).then_some(())
        })
        .await;
    }
}

async fn comment(client: &Client, post: &str, text: &str) -> String {
    let path = format!("/posts/{post}/comment");
    let answer = client
        .post(&path, json!({ "comment": text }))
        .await
        .expect_status(201);
    answer.text("/comment/id").to_owned()
}

async fn put(client: &Client, path: &str) {
    client.put(path, Value::Null).await.expect_status(200);
}

/// Something of every kind that the models keep.
pub async fn busy_life(server: &Server) -> [Client; 3] {
    let anonymous = server.client();
    let (anna, bert, cora) = (
        anonymous.sign_up("anna").await,
        anonymous.sign_up("bert").await,
        anonymous.sign_up("cora").await,
    );
    let notify = json!({ "notify": true });
    let follow = |of: &Client| format!("/users/follow/{}", of.id);
    bert.post(&follow(&anna), notify.clone())
        .await
        .expect_status(200);
    cora.post(&follow(&anna), notify.clone())
        .await
        .expect_status(200);
    bert.post(&follow(&cora), notify).await.expect_status(200);
    bert.delete(&format!("/users/unfollow/{}", cora.id))
        .await
        .expect_status(200);
    anna.patch(
        "/users/profile",
        json!({ "bio": "sings", "name": "Anna A" }),
    )
    .await
    .expect_status(200);

    let post = anna.write_post("one", "public").await;
    anna.write_post("two", "followers").await;
    anna.write_post("three", "private").await;
    let deleted = anna.write_post("four", "public").await;
    for who in [&bert, &cora] {
        put(who, &format!("/posts/{post}/like")).await;
    }
    cora.delete(&format!("/posts/{post}/like"))
        .await
        .expect_status(200);
    put(&cora, &format!("/posts/{deleted}/like")).await;
    comment(&bert, &post, "well").await;
    let gone = comment(&cora, &post, "hm").await;
    let path = format!("/posts/{post}/comments/{gone}");
    let removed = cora.delete(&path).await;
    assert!(removed.status < 300, "{removed:?}");
    anna.delete(&format!("/posts/{deleted}"))
        .await
        .expect_status(204);

    for who in [&anna, &bert, &cora] {
        seen(who).await;
    }
    put_marks(&anna, &bert).await;
    let last = anna.write_post("five", "public").await;
    put(&cora, &format!("/posts/{last}/like")).await;
    for who in [&anna, &bert, &cora] {
        seen(who).await;
    }
    [anna, bert, cora]
}

/// One reads a notification and removes another; one reads everything.
async fn put_marks(one: &Client, other: &Client) {
    let listed = one.get("/notify/notifications").await.expect_status(200);
    let id = |index: usize| {
        listed
            .text(&format!("/notifications/{index}/id"))
            .to_owned()
    };
    let read = format!("/notify/notifications/{}/read", id(0));
    one.patch(&read, Value::Null).await.expect_status(200);
    let removed = format!("/notify/notifications/{}", id(1));
    one.delete(&removed).await.expect_status(204);
    let all = "/notify/notifications/read-all";
    other.patch(all, Value::Null).await.expect_status(200);
}

/// The differences that `verify` prints, and the generation that it looked at.
pub async fn differences(server: &Server, model: &str) -> (Vec<Value>, u64) {
    let output = server.command(&["replay", "verify", model, "--json"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = lines(&text);
    let summary = lines
        .pop()
        .unwrap_or_else(|| panic!("{}", printed(&output)));
    assert_eq!(output.status.success(), lines.is_empty(), "{text}");
    let generation = summary["generation"].as_u64();
    (
        lines,
        generation.unwrap_or_else(|| panic!("{}", printed(&output))),
    )
}

/// The damage that a running projector would make worse: it counts on from what it finds.
#[tokio::test]
async fn a_repair_beside_a_busy_server_ends_right() {
    let server = Server::start().await;
    let [anna, bert, cora] = busy_life(&server).await;
    let writer = anna.clone();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let busy = tokio::spawn(async move {
        while stopped.try_recv().is_err() {
            let post = writer.write_post("and on", "public").await;
            put(&writer, &format!("/posts/{post}/like")).await;
        }
    });
    for (model, kind) in [
        ("feed", "tally"),
        ("counters", "person"),
        ("notifications", "notification"),
    ] {
        let (false_ones, generation) = differences(&server, model).await;
        assert!(false_ones.is_empty(), "{false_ones:?}");
        one_of(model, kind).inflict(&server, generation).await;
        // Something that goes on from the damage, and may be kept in memory.
        bert.delete(&format!("/users/unfollow/{}", anna.id))
            .await
            .expect_status(200);
        let again = format!("/users/follow/{}", anna.id);
        bert.post(&again, Value::Null).await.expect_status(200);
        seen(&bert).await;
        let repaired = server.succeed(&["replay", "repair", model]).await;
        assert!(!repaired.contains("nothing repaired"), "{repaired}");
    }
    stop.send(()).unwrap();
    busy.await.unwrap();
    for who in [&anna, &bert, &cora] {
        seen(who).await;
    }
    server.verify_all().await;
    let profile = bert
        .get(&format!("/users/profile/{}", anna.id))
        .await
        .expect_status(200);
    assert_eq!(profile.at("/user/followersCount"), 2);
}
