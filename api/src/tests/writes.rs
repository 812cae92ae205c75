//! Commands: answers, positions and idempotency keys.

use axum::{body::Body, response::Response};
use http::{Method, StatusCode};

use super::fakes::{World, body, header, refused, signed};

const SIGN_UP: &str =
    r#"{"name":"Bob","email":"bob@example.org","username":"bob","password":"password1"}"#;

async fn keyed(world: &World, path: &str, key: &str, json: &str) -> Response {
    let request = signed(Method::POST, path)
        .header("content-type", "application/json")
        .header("idempotency-key", key)
        .body(Body::from(json.to_owned()))
        .unwrap();
    world.send(request).await
}

#[tokio::test]
async fn a_sign_up_answers_as_the_contract_says() {
    let world = World::new();
    let response = world.post("/api/v1/auth/signup", SIGN_UP).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(header(&response, "x-position"), "1");
    let mut answer = body(response).await;
    assert_eq!(answer["user"]["id"].as_str().unwrap().len(), 36);
    answer["user"]["id"] = "…".into();
    insta::assert_json_snapshot!(answer, @r#"
    {
      "message": "User created",
      "token": "bob",
      "user": {
        "id": "…",
        "name": "Bob",
        "username": "bob"
      }
    }
    "#);
    let again = world.post("/auth/signup", SIGN_UP).await;
    refused(again, 400, "User already exists").await;
    let login = r#"{"identifier":"BOB@example.org","password":"wrong password"}"#;
    let response = world.post("/auth/login", login).await;
    refused(response, 401, "Invalid credentials").await;
}

#[tokio::test]
async fn a_repeated_key_gives_the_stored_answer_and_other_content_is_refused() {
    let world = World::new();
    let one = r#"{"content": "once", "visibility": "public"}"#;
    let first = keyed(&world, "/posts/", "k-1", one).await;
    assert_eq!(header(&first, "idempotent-replayed"), "");
    let first = body(first).await;
    // Other white space and order, and the default left out: the same fields.
    let again = keyed(&world, "/api/v1/posts", "k-1", r#"{"content":"once"}"#).await;
    assert_eq!(again.status(), StatusCode::CREATED);
    assert_eq!(header(&again, "idempotent-replayed"), "true");
    assert_eq!(body(again).await, first);
    let other = keyed(&world, "/posts", "k-1", r#"{"content":"twice"}"#).await;
    assert_eq!(other.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(world.log.events().len(), 1);
}

#[tokio::test]
async fn keys_have_a_form() {
    let world = World::new();
    for bad in ["", "with space", "tab\there", &"k".repeat(256)] {
        let response = keyed(&world, "/posts", bad, r#"{"content":"x"}"#).await;
        let fields = refused(response, 400, "Validation failed").await;
        assert_eq!(fields, ["Idempotency-Key"]);
    }
    let login = r#"{"identifier":"nobody","password":"password1"}"#;
    let ignored = keyed(&world, "/auth/login", "with space", login).await;
    refused(ignored, 401, "Invalid credentials").await;
}

#[tokio::test]
async fn a_like_is_answered_at_once_with_the_count_there_is() {
    let world = World::new();
    let post = body(world.post("/posts", r#"{"content":"x"}"#).await).await;
    let path = format!("/posts/{}/like", post["post"]["id"].as_str().unwrap());
    for (method, liked) in [
        (Method::POST, true),
        (Method::PUT, true),
        (Method::DELETE, false),
        (Method::DELETE, false),
        (Method::POST, true),
    ] {
        let request = signed(method, &path).body(Body::empty()).unwrap();
        let answer = body(world.send(request).await).await;
        assert_eq!(answer["liked"], liked);
        assert!(answer["likeCount"].is_u64());
    }
}

#[tokio::test]
async fn comments_and_deletions_answer_as_the_contract_says() {
    let world = World::new();
    let post = body(world.post("/posts", r#"{"content":"x"}"#).await).await;
    let path = format!("/posts/{}", post["post"]["id"].as_str().unwrap());
    let response = world
        .post(&format!("{path}/comment"), r#"{"comment":"nice"}"#)
        .await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let comment = body(response).await["comment"].clone();
    assert_eq!(comment["comment"], "nice");
    assert_eq!(comment["createdAt"], "2023-11-14T22:13:20.123Z");
    let gone = format!("{path}/comments/{}", comment["id"].as_str().unwrap());
    for path in [gone, path.clone()] {
        let request = signed(Method::DELETE, &path).body(Body::empty()).unwrap();
        let response = world.send(request).await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert_ne!(header(&response, "x-position"), "");
    }
    let request = signed(Method::DELETE, &path).body(Body::empty()).unwrap();
    refused(world.send(request).await, 404, "Post not found").await;
}
