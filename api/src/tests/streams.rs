//! Event streams.

use std::sync::atomic::Ordering;

use axum::{body::Body, response::Response};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use socialhub_domain::PostId;
use socialhub_projections::feed::ports::FeedItem;
use uuid::Uuid;

use super::fakes::{World, header, refused, settings, signed};
use crate::Settings;

async fn open(world: &World, last: Option<&str>) -> Response {
    let mut request = signed(Method::GET, "/api/feed/stream");
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    world.send(request.body(Body::empty()).unwrap()).await
}

/// The next piece of the stream; none at its end.
async fn next(response: &mut Response) -> Option<String> {
    let frame = response.body_mut().frame().await?;
    let data = frame.unwrap().into_data().unwrap();
    Some(String::from_utf8(data.to_vec()).unwrap())
}

fn id(event: &str) -> String {
    let line = event.lines().find(|line| line.starts_with("id: ")).unwrap();
    line.trim_start_matches("id: ").to_owned()
}

fn publish(world: &World, position: u64) {
    let item = FeedItem {
        post_id: PostId(Uuid::from_u128(u128::from(position))),
        position,
    };
    world.readers.new_posts.lock().push(item);
    world.model.position.send_replace(position);
}

#[tokio::test]
async fn new_posts_arrive_and_an_id_resumes_after_its_event() {
    let world = World::new();
    world.model.position.send_replace(10);
    publish(&world, 11);
    let mut stream = open(&world, None).await;
    assert_eq!(header(&stream, "content-type"), "text/event-stream");
    let start = id(&next(&mut stream).await.unwrap());
    publish(&world, 12);
    let event = next(&mut stream).await.unwrap();
    assert!(event.contains(r#"data: {"postId":"00000000-0000-0000-0000-00000000000c"}"#));
    publish(&world, 13);
    drop(stream);
    let mut resumed = open(&world, Some(&id(&event))).await;
    next(&mut resumed).await.unwrap();
    assert!(next(&mut resumed).await.unwrap().contains("0d\"}"));
    let mut from_start = open(&world, Some(&start)).await;
    next(&mut from_start).await.unwrap();
    assert!(next(&mut from_start).await.unwrap().contains("0c\"}"));
}

#[tokio::test]
async fn ids_are_checked() {
    let world = World::new();
    let mut stream = open(&world, None).await;
    let start = id(&next(&mut stream).await.unwrap());
    let request = signed(Method::GET, "/notify/stream").header("last-event-id", &start);
    let other = world.send(request.body(Body::empty()).unwrap()).await;
    for response in [open(&world, Some("12")).await, other] {
        let fields = refused(response, 400, "Validation failed").await;
        assert_eq!(fields, ["Last-Event-ID"]);
    }
}

#[tokio::test]
async fn many_commits_cost_few_queries() {
    let world = World::new();
    let mut stream = open(&world, None).await;
    next(&mut stream).await.unwrap();
    for position in 1..=1_000 {
        world.model.position.send_replace(position);
    }
    publish(&world, 1_001);
    next(&mut stream).await.unwrap();
    assert_eq!(world.readers.stream_queries.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_outlives_an_outage_of_its_read_model() {
    let world = World::new();
    let mut stream = open(&world, None).await;
    next(&mut stream).await.unwrap();
    *world.readers.broken.lock() = true;
    publish(&world, 1);
    // Each comment is a quarter of a minute in which nothing else was told.
    for _ in 0..2 {
        assert_eq!(next(&mut stream).await.unwrap(), ": keep-alive\n\n");
    }
    let queries = world.readers.stream_queries.load(Ordering::Relaxed);
    assert!((10..=20).contains(&queries), "{queries} in half a minute");
    *world.readers.broken.lock() = false;
    assert!(next(&mut stream).await.unwrap().contains("01\"}"));
    *world.readers.broken.lock() = true;
    publish(&world, 2);
    world.shutdown.cancel();
    assert_eq!(next(&mut stream).await, None);
}

#[tokio::test]
async fn a_persons_streams_are_counted() {
    let world = World::with(Settings {
        streams_per_user: 2,
        ..settings()
    });
    let first = open(&world, None).await;
    let _second = open(&world, None).await;
    let third = open(&world, None).await;
    assert_ne!(header(&third, "retry-after"), "");
    refused(third, 429, "Too many requests").await;
    drop(first);
    assert_eq!(open(&world, None).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn streams_end_with_the_program_and_with_their_token() {
    let world = World::new();
    let mut stream = open(&world, None).await;
    next(&mut stream).await.unwrap();
    world.tokens.revoked.lock().insert("ada".to_owned());
    publish(&world, 1);
    assert_eq!(next(&mut stream).await, None);
    world.tokens.revoked.lock().clear();
    let mut stream = open(&world, None).await;
    next(&mut stream).await.unwrap();
    world.shutdown.cancel();
    assert_eq!(next(&mut stream).await, None);
}
