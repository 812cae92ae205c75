//! The seed's own walk ("Testing the Flow"), request by request, on the gateway's paths.

use serde_json::{Value, json};
use socialhub_tests::support::{Client, Server};

#[tokio::test]
async fn the_seeds_walk_works_to_the_letter() {
    let server = Server::start().await;
    walk(&server.client()).await;
    server.verify_all().await;
}

/// The walk, wherever the client leads; nobody may have walked there before.
pub async fn walk(client: &Client) {
    let sign_up = json!({
        "name": "Test User", "email": "test@example.com", "username": "testuser", "password": "Password123!"
    });
    let answer = client
        .post("/auth/signup", sign_up.clone())
        .await
        .expect_status(201);
    assert_eq!(answer.text("/message"), "User created");
    assert_eq!(answer.text("/token").split('.').count(), 3);

    client
        .post("/auth/signup", sign_up)
        .await
        .expect_problem(400, "User already exists");

    let log_in = json!({ "identifier": "test@example.com", "password": "Password123!" });
    let answer = client.post("/auth/login", log_in).await.expect_status(200);
    let me = client.with_token(answer.text("/user/id"), "testuser", answer.text("/token"));

    let answer = me
        .post(
            "/posts/",
            json!({ "content": "My first post!", "visibility": "public" }),
        )
        .await;
    let answer = answer.expect_status(201);
    assert_eq!(answer.text("/message"), "Post created");
    let post = answer.text("/post/id").to_owned();
    assert!(!answer.header("x-position").is_empty());

    let other = client.sign_up("walker").await;
    let answer = me
        .get(&format!("/users/profile/{}", other.id))
        .await
        .expect_status(200);
    assert_eq!(answer.text("/user/username"), other.username);

    let answer = me
        .post(&format!("/users/follow/{}", other.id), Value::Null)
        .await
        .expect_status(200);
    assert_eq!(answer.text("/message"), "Followed successfully");
    assert_eq!(answer.at("/follow/isActive"), true);

    // No waiting anywhere: a person reads their own writes.
    let answer = me.get("/notify/notifications").await.expect_status(200);
    assert_eq!(answer.text("/notifications/0/message"), "Your post is live");
    assert_eq!(answer.text("/notifications/0/metadata/postId"), post);

    let answer = other
        .post(&format!("/posts/{post}/like"), Value::Null)
        .await
        .expect_status(200);
    assert_eq!(answer.at("/liked"), true);
    let answer = other
        .get(&format!("/posts/{post}"))
        .await
        .expect_status(200);
    assert_eq!(answer.at("/post/likeCount"), 1);
    assert_eq!(answer.at("/post/likedByMe"), true);
    let answer = other
        .post(&format!("/posts/{post}/like"), Value::Null)
        .await
        .expect_status(200);
    assert_eq!(answer.at("/liked"), false);

    let answer = other
        .post(
            &format!("/posts/{post}/comment"),
            json!({ "comment": "Hello!" }),
        )
        .await;
    assert_eq!(
        answer.expect_status(201).text("/comment/username"),
        other.username
    );
    let answer = other
        .get(&format!("/posts/{post}/comments"))
        .await
        .expect_status(200);
    assert_eq!(answer.text("/comments/0/comment"), "Hello!");

    let theirs = other.write_post("From the other side", "public").await;
    let position = other
        .get(&format!("/posts/{theirs}"))
        .await
        .header("x-position")
        .to_owned();
    let answer = me.get_after("/api/feed/?page=1&limit=10", &position).await;
    let answer = answer.expect_status(200);
    assert_eq!(answer.text("/posts/0/content"), "From the other side");
    assert_eq!(answer.text("/posts/0/user/username"), other.username);
    assert_eq!(
        answer.at("/posts/0/_count"),
        &json!({ "likes": 0, "comments": 0 })
    );
}

#[tokio::test]
async fn every_service_path_answers_like_its_gateway_path() {
    let server = Server::start().await;
    answers_alike(&server.client()).await;
}

/// Asks on both paths of each route.
pub async fn answers_alike(client: &Client) {
    let me = client.sign_up("twice").await;
    let post = me.write_post("seen from both sides", "public").await;
    let pairs = [
        ("/auth/me".to_owned(), "/api/v1/auth/me".to_owned()),
        (
            "/auth/verify-user".to_owned(),
            "/api/v1/auth/verify-user".to_owned(),
        ),
        (
            format!("/users/profile/{}", me.id),
            format!("/api/v1/users/profile/{}", me.id),
        ),
        (
            format!("/users/followers/{}", me.id),
            format!("/api/v1/users/followers/{}", me.id),
        ),
        (format!("/posts/{post}"), format!("/api/v1/posts/{post}")),
        (
            format!("/posts/user/{}", me.id),
            format!("/api/v1/posts/user/{}", me.id),
        ),
        ("/api/feed/".to_owned(), "/feed".to_owned()),
        ("/api/feed/trending".to_owned(), "/feed/trending".to_owned()),
    ];
    for (gateway, service) in pairs {
        let (left, right) = (me.get(&gateway).await, me.get(&service).await);
        assert_eq!(
            (left.status, &left.json),
            (200, &right.json),
            "{gateway} and {service}"
        );
    }
}
