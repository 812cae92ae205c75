//! Bad bodies: each a clear 4xx naming what is bad.

use std::{convert::Infallible, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, StatusCode};

use super::fakes::{World, refused, settings, signed};
use crate::Settings;

#[tokio::test]
async fn every_bad_field_is_named_at_once() {
    let world = World::new();
    let wrong = r#"{"name": 5, "email": "x", "password": "short"}"#;
    let fields = refused(
        world.post("/auth/signup", wrong).await,
        400,
        "Validation failed",
    )
    .await;
    assert_eq!(fields, ["name", "email", "username", "password"]);
    let fields = refused(
        world.post("/auth/login", "{}").await,
        400,
        "Validation failed",
    )
    .await;
    assert_eq!(fields, ["identifier", "password"]);
    let wrong = r#"{"content": "", "visibility": "nobody"}"#;
    let fields = refused(world.post("/posts/", wrong).await, 400, "Validation failed").await;
    assert_eq!(fields, ["content", "visibility"]);
    let wrong = r#"{"name": null, "bio": 7, "avatar": "javascript:alert(1)"}"#;
    let response = world.json(Method::PATCH, "/users/profile", wrong).await;
    let fields = refused(response, 400, "Validation failed").await;
    assert_eq!(fields, ["name", "bio", "avatar"]);
}

#[tokio::test]
async fn what_is_not_a_json_object_is_refused() {
    let world = World::new();
    let deep = "[".repeat(10_000);
    for bad in [
        "",
        "{",
        "null",
        "[]",
        "\"x\"",
        "{\"a\":1}{",
        &deep,
        r#"{"content":"\ud800"}"#,
    ] {
        let fields = refused(world.post("/posts", bad).await, 400, "Validation failed").await;
        assert_eq!(fields, ["body"], "{bad}");
    }
    let request = signed(Method::POST, "/posts").header("content-type", "application/json");
    let request = request
        .body(Body::from(&b"{\"content\":\"\xff\"}"[..]))
        .unwrap();
    let fields = refused(world.send(request).await, 400, "Validation failed").await;
    assert_eq!(fields, ["body"]);
}

#[tokio::test]
async fn nul_characters_do_not_get_in() {
    let world = World::new();
    let nul = r#"{"content": "a\u0000b"}"#;
    let fields = refused(world.post("/posts", nul).await, 400, "Validation failed").await;
    assert_eq!(fields, ["content"]);
    let response = world.get("/users/search?q=a%00").await;
    assert_eq!(refused(response, 400, "Validation failed").await, ["q"]);
}

#[tokio::test]
async fn other_types_and_huge_bodies_are_refused() {
    let world = World::new();
    let request = signed(Method::POST, "/posts").header("content-type", "text/plain");
    let response = world.send(request.body(Body::from("hello")).unwrap()).await;
    refused(response, 415, "Unsupported media type").await;
    let request = signed(Method::POST, "/auth/login")
        .body(Body::from("{}"))
        .unwrap();
    refused(world.send(request).await, 415, "Unsupported media type").await;
    let huge = format!("{{\"content\":\"{}\"}}", "x".repeat(300 * 1024));
    refused(world.post("/posts", &huge).await, 413, "Too large").await;
}

#[tokio::test]
async fn ids_that_are_none_are_named() {
    let world = World::new();
    for (method, path, field) in [
        (Method::GET, "/users/profile/123", "userId"),
        (Method::POST, "/users/follow/..%2f..", "userId"),
        (Method::GET, "/posts/%ff", "postId"),
        (Method::DELETE, "/posts/x", "postId"),
        (Method::PATCH, "/notify/notifications/x/read", "id"),
        (
            Method::DELETE,
            "/posts/00000000-0000-0000-0000-000000000001/comments/x",
            "commentId",
        ),
    ] {
        let response = world.json(method, path, "{}").await;
        let fields = refused(response, 400, "Validation failed").await;
        assert_eq!(fields, [field], "{path}");
    }
}

#[tokio::test]
async fn a_follow_needs_no_body_but_a_good_one() {
    let world = World::new();
    let path = "/users/follow/00000000-0000-0000-0000-000000000001";
    let request = signed(Method::POST, path).body(Body::empty()).unwrap();
    refused(world.send(request).await, 404, "User not found").await;
    let response = world.post(path, r#"{"notify": "yes"}"#).await;
    assert_eq!(
        refused(response, 400, "Validation failed").await,
        ["notify"]
    );
    let response = world.json(Method::PUT, path, "{}").await;
    assert_eq!(
        refused(response, 400, "Validation failed").await,
        ["notify"]
    );
}

/// A form with these parts, each a disposition and a content.
fn form(parts: &[(String, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (disposition, content) in parts {
        body.extend_from_slice(
            format!("--XX\r\nContent-Disposition: form-data; {disposition}\r\n\r\n").as_bytes(),
        );
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--XX--\r\n");
    body
}

fn file(content: &[u8]) -> (String, &[u8]) {
    (r#"name="files"; filename="a.png""#.to_owned(), content)
}

fn field<'a>(name: &str, content: &'a str) -> (String, &'a [u8]) {
    (format!("name=\"{name}\""), content.as_bytes())
}

async fn send_form(world: &World, bytes: Vec<u8>) -> axum::response::Response {
    let request = signed(Method::POST, "/posts/")
        .header("content-type", "multipart/form-data; boundary=XX")
        .body(Body::from(bytes))
        .unwrap();
    world.send(request).await
}

#[tokio::test]
async fn files_are_kept_in_their_order_with_the_post() {
    let world = World::new();
    let parts = [file(b"one"), field("content", "hello"), file(b"three")];
    let response = send_form(&world, form(&parts)).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let post = super::fakes::body(response).await["post"].clone();
    assert_eq!(post["content"], "hello");
    let urls = post["mediaUrls"].as_array().unwrap();
    assert!(urls[0].as_str().unwrap().ends_with("/0.png"));
    assert_eq!(post["media"][1]["size"], 5);
    assert_eq!(world.outside.files.lock().len(), 2);
}

/// The framework would stop at 2 MB.
#[tokio::test]
async fn files_of_many_megabytes_get_through() {
    let world = World::new();
    let big = vec![7; 5 * 1024 * 1024];
    let response = send_form(&world, form(&[file(&big), file(&big), file(&big)])).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let sizes: Vec<_> = world.outside.files.lock().values().map(Vec::len).collect();
    assert_eq!(sizes, [big.len(); 3]);
}

#[tokio::test]
async fn a_refused_form_leaves_no_file() {
    let world = World::new();
    let eleven: Vec<_> = (0..11).map(|_| file(b"x")).collect();
    let mut broken = form(&[file(b"one"), file(b"two")]);
    broken.truncate(broken.len() - 20);
    let long = "x".repeat(70 * 1024);
    for (bytes, status, error) in [
        (form(&eleven), 413, "Too large"),
        (
            form(&[file(b"ok"), file(b"MZ program")]),
            415,
            "Unsupported media type",
        ),
        (
            form(&[file(b"ok"), field("visibility", "nobody")]),
            400,
            "Validation failed",
        ),
        (
            form(&[file(b"ok"), field("content", &long)]),
            413,
            "Too large",
        ),
        (
            form(&[field("content", "a"), field("content", "b")]),
            400,
            "Validation failed",
        ),
        (form(&[field("content", " ")]), 400, "Validation failed"),
        (broken, 400, "Validation failed"),
    ] {
        refused(send_form(&world, bytes).await, status, error).await;
        // The draft removes its files on a task of its own.
        while !world.outside.files.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(world.log.events().is_empty());
    }
}

/// The sweeper takes files that are an hour old and of no post: no form may still be on its way then.
#[tokio::test]
async fn a_form_that_never_ends_is_given_up() {
    let world = World::with(Settings {
        upload_timeout: Duration::from_millis(200),
        ..settings()
    });
    let mut start = form(&[file(b"one"), file(b"two")]);
    start.truncate(start.len() - 20);
    let drip = stream::once(async move { Ok::<_, Infallible>(Bytes::from(start)) }).chain(
        stream::repeat(()).then(|()| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(Bytes::from_static(b"x"))
        }),
    );
    let request = signed(Method::POST, "/posts/")
        .header("content-type", "multipart/form-data; boundary=XX")
        .body(Body::from_stream(drip))
        .unwrap();
    let response = world.send(request).await;
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    let gone = async {
        while !world.outside.files.lock().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let patience = Duration::from_secs(60);
    tokio::time::timeout(patience, gone)
        .await
        .expect("its files go");
}

#[tokio::test]
async fn a_form_without_a_boundary_is_refused() {
    let world = World::new();
    let request = signed(Method::POST, "/posts").header("content-type", "multipart/form-data");
    let response = world.send(request.body(Body::from("x")).unwrap()).await;
    assert_eq!(refused(response, 400, "Validation failed").await, ["body"]);
}
