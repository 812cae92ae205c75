//! Two hundred of the same at once come out exactly once.

use futures::{StreamExt, future::join_all, stream};
use serde_json::{Value, json};
use socialhub_tests::support::{Answer, Client, Server, client::PASSWORD};

fn count(answers: &[Answer], status: u16) -> usize {
    answers
        .iter()
        .filter(|answer| answer.status == status)
        .count()
}

async fn two_hundred<F: Future<Output = Answer>>(make: impl Fn(usize) -> F) -> Vec<Answer> {
    join_all((0..200).map(make)).await
}

#[tokio::test]
async fn two_hundred_follows_of_one_person_by_one_person_are_one() {
    let server = Server::start().await;
    let (a, b) = (
        server.client().sign_up("ca").await,
        server.client().sign_up("cb").await,
    );
    let path = format!("/users/follow/{}", b.id);
    let answers = two_hundred(|_| a.post(&path, Value::Null)).await;
    assert_eq!((count(&answers, 200), count(&answers, 400)), (1, 199));
    let profile = a.get(&format!("/users/profile/{}", b.id)).await;
    assert_eq!(profile.at("/user/followersCount"), 1);
    let list = b.get("/notify/notifications").await;
    assert!(list.list("/notifications").len() <= 1);
    server.verify_all().await;
}

#[tokio::test]
async fn two_hundred_likes_of_one_post_by_one_person_are_one() {
    let server = Server::start().await;
    let me = server.client().sign_up("likes").await;
    let post = me.write_post("hot", "public").await;
    let path = format!("/posts/{post}/like");
    let answers = two_hundred(|_| me.put(&path, Value::Null)).await;
    assert_eq!(count(&answers, 200), 200);
    assert_eq!(
        me.get(&format!("/posts/{post}"))
            .await
            .at("/post/likeCount"),
        1
    );
    server.verify_all().await;
}

#[tokio::test]
async fn five_hundred_toggles_by_one_person_end_where_they_began() {
    let server = Server::start().await;
    let me = server.client().sign_up("toggles").await;
    let post = me.write_post("on and off", "public").await;
    let path = format!("/posts/{post}/like");
    // They wait for each other: as many at once as a busy machine gets through before the deadline of a request.
    let answers: Vec<_> = stream::iter((0..500).map(|_| me.post(&path, Value::Null)))
        .buffer_unordered(30)
        .collect()
        .await;
    assert_eq!(count(&answers, 200), 500);
    let on = answers
        .iter()
        .filter(|answer| answer.at("/liked") == true)
        .count();
    assert_eq!(on, 250, "every other one switches it on");
    let seen = me.get(&format!("/posts/{post}")).await;
    assert_eq!(
        (seen.at("/post/likeCount"), seen.at("/post/likedByMe")),
        (&json!(0), &json!(false))
    );
    server.verify_all().await;
}

#[tokio::test]
async fn two_hundred_sign_ups_of_one_name_are_one_person() {
    let server = Server::start().await;
    let client = server.client();
    let body = |index: usize| json!({ "name": "Same", "email": format!("same{index}@example.com"), "username": "same", "password": PASSWORD });
    let answers = two_hundred(|index| client.post("/auth/signup", body(index))).await;
    // Hashing is slow on purpose: on a busy machine some are told to come back later, and that is no second person.
    let put_off = count(&answers, 503) + count(&answers, 504);
    assert_eq!(
        (count(&answers, 201), count(&answers, 400) + put_off),
        (1, 199)
    );
    let winner = answers.iter().find(|answer| answer.status == 201).unwrap();
    let log_in = client
        .post(
            "/auth/login",
            json!({ "identifier": "SAME", "password": PASSWORD }),
        )
        .await
        .expect_status(200);
    assert_eq!(log_in.text("/user/id"), winner.text("/user/id"));
    server.verify_all().await;
}

async fn keyed(client: &Client, path: &str, key: &str, body: Value) -> Answer {
    client.try_post_with_key(path, key, &body).await.unwrap()
}

#[tokio::test]
async fn the_same_key_gives_the_same_answer_and_other_content_none() {
    let server = Server::start().await;
    let me = server.client().sign_up("keys").await;
    let body = json!({ "content": "once", "visibility": "public" });
    let first = keyed(&me, "/posts/", "k1", body.clone())
        .await
        .expect_status(201);
    let again = keyed(
        &me,
        "/posts",
        "k1",
        json!({ "visibility": "public", "content": "once" }),
    )
    .await
    .expect_status(201);
    assert_eq!(
        (&first.json, first.header("x-position")),
        (&again.json, again.header("x-position"))
    );
    keyed(&me, "/posts/", "k1", json!({ "content": "twice" }))
        .await
        .expect_status(422);
    let other = server.client().sign_up("otherkeys").await;
    keyed(&other, "/posts/", "k1", json!({ "content": "theirs" }))
        .await
        .expect_status(201);
    keyed(&me, "/posts/", &"k".repeat(256), body.clone())
        .await
        .expect_status(400);

    let answers = two_hundred(|_| keyed(&me, "/posts/", "k2", body.clone())).await;
    assert_eq!(count(&answers, 201) + count(&answers, 409), 200);
    let mut ids: Vec<_> = answers
        .iter()
        .filter(|a| a.status == 201)
        .map(|a| a.text("/post/id"))
        .collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    // The projector of a server that has just started may still be on its way to its partitions.
    server.caught_up().await;
    let list = me.get(&format!("/posts/user/{}", me.id)).await;
    assert_eq!(list.list("/posts").len(), 2);

    let toggle = format!("/posts/{}/like", ids[0]);
    for _ in 0..3 {
        assert_eq!(
            keyed(&me, &toggle, "t1", json!({}))
                .await
                .expect_status(200)
                .at("/liked"),
            true
        );
    }
}

#[tokio::test]
async fn a_sign_up_with_a_key_gives_the_person_again_with_a_token_that_works() {
    let server = Server::start().await;
    let client = server.client();
    let body = json!({ "name": "K", "email": "keyed@example.com", "username": "keyed", "password": PASSWORD });
    let first = keyed(&client, "/auth/signup", "s1", body.clone())
        .await
        .expect_status(201);
    let again = keyed(&client, "/auth/signup", "s1", body)
        .await
        .expect_status(201);
    assert_eq!(first.at("/user"), again.at("/user"));
    let back = client.with_token(again.text("/user/id"), "keyed", again.text("/token"));
    back.get("/auth/me").await.expect_status(200);
}
