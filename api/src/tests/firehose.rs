//! The firehose.

use std::sync::atomic::Ordering;

use axum::{body::Body, response::Response};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use socialhub_domain::{
    Event, PostId, StreamId, Timestamp, UserId,
    event::{PostCreated, PostDeleted, Visibility},
};
use socialhub_event_log::{Append, EventLog, Metadata, NewEvent};
use uuid::Uuid;

use super::fakes::{ADA, World, body, header, refused, settings};
use crate::Settings;

const TOKEN: &str = "the operator of these tests";

fn world() -> World {
    World::with(Settings {
        operator_token: Some(TOKEN.to_owned()),
        firehoses: 2,
        ..settings()
    })
}

async fn ask(world: &World, path: &str, token: &str, last: Option<&str>) -> Response {
    let mut request = Request::get(path);
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    world.send(request.body(Body::empty()).unwrap()).await
}

async fn open(world: &World, query: &str) -> Response {
    let response = ask(world, &format!("/events/stream{query}"), TOKEN, None).await;
    assert_eq!(response.status(), StatusCode::OK);
    response
}

/// The next piece of the stream; none at its end.
async fn next(response: &mut Response) -> Option<String> {
    let frame = response.body_mut().frame().await?;
    let data = frame.unwrap().into_data().unwrap();
    Some(String::from_utf8(data.to_vec()).unwrap())
}

/// The ids of a piece, and the data that came with each.
fn events(piece: &str) -> Vec<(u64, Option<Value>)> {
    let field = |event: &str, name: &str| {
        let line = event.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::to_owned)
    };
    piece
        .split_terminator("\n\n")
        .map(|event| {
            let data = field(event, "data: ").map(|data| serde_json::from_str(&data).unwrap());
            (field(event, "id: ").unwrap().parse().unwrap(), data)
        })
        .collect()
}

fn created(number: u64) -> Event {
    Event::PostCreated(PostCreated {
        post_id: PostId(Uuid::from_u128(number.into())),
        user_id: ADA,
        username: "ada".to_owned(),
        content: "written by Ada".to_owned(),
        visibility: Visibility::Public,
        media: Vec::new(),
        timestamp: Timestamp(5),
    })
}

fn deleted(number: u64) -> Event {
    Event::PostDeleted(PostDeleted {
        post_id: PostId(Uuid::from_u128(number.into())),
        user_id: UserId(Uuid::from_u128(1)),
        timestamp: Timestamp(6),
    })
}

/// Appends events, each of a stream of its own.
async fn append(world: &World, events: impl IntoIterator<Item = Event>) {
    for event in events {
        let id = u128::from(world.log.head().await.unwrap()) + 1;
        let append = Append {
            command_id: Uuid::from_u128(id),
            stream: StreamId::new("post", id),
            expected_version: 0,
            events: vec![NewEvent {
                event_id: Uuid::from_u128(id),
                event,
                payload: None,
            }],
            metadata: Metadata {
                occurred_at: Timestamp(1_700_000_000_123),
                ..Metadata::default()
            },
            side: Vec::new(),
        };
        world.log.append(append).await.unwrap();
    }
}

#[tokio::test]
async fn it_is_the_operators_alone() {
    let world = world();
    for token in ["", "ada", "the operator of these test"] {
        refused(
            ask(&world, "/events/stream", token, None).await,
            401,
            "Unauthorized",
        )
        .await;
    }
    let nobodys = World::new();
    let response = ask(&nobodys, "/events/stream", TOKEN, None).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let detail = body(response).await["detail"].clone();
    assert!(detail.as_str().unwrap().contains("OPERATOR_TOKEN"));
}

#[tokio::test]
async fn what_was_and_what_is_to_come_are_one_stream() {
    let world = world();
    append(&world, [created(1), deleted(1)]).await;
    let mut stream = open(&world, "").await;
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-store"),
        ("x-accel-buffering", "no"),
    ] {
        assert_eq!(header(&stream, name), value);
    }
    assert_eq!(next(&mut stream).await.unwrap(), "retry: 2000\nid: 0\n\n");
    let piece = next(&mut stream).await.unwrap();
    assert!(piece.starts_with("id: 1\nevent: post.created\ndata: {"));
    assert!(!piece.contains("username") && !piece.contains("written by"));
    let told = events(&piece);
    assert_eq!(told.len(), 2);
    let first = told[0].1.as_ref().unwrap();
    let wanted = serde_json::json!({
        "position": 1,
        "eventId": Uuid::from_u128(1),
        "type": "post.created",
        "version": 2,
        "stream": "post/1",
        "sequence": 1,
        "occurredAt": "2023-11-14T22:13:20.123Z",
        "payload": {
            "postId": Uuid::from_u128(1),
            "userId": ADA,
            "visibility": "public",
            "timestamp": 5,
        },
    });
    assert_eq!(first, &wanted);
    append(&world, [created(2)]).await;
    assert_eq!(events(&next(&mut stream).await.unwrap())[0].0, 3);
    let mut later = open(&world, "?after=2").await;
    assert_eq!(events(&next(&mut later).await.unwrap())[0].0, 2);
    assert_eq!(events(&next(&mut later).await.unwrap())[0].0, 3);
}

#[tokio::test]
async fn a_last_id_counts_before_the_address() {
    let world = world();
    append(&world, (1..=5).map(created)).await;
    let mut stream = ask(&world, "/events/stream?after=1", TOKEN, Some("4")).await;
    next(&mut stream).await.unwrap();
    assert_eq!(events(&next(&mut stream).await.unwrap())[0].0, 5);
    let mut stream = ask(&world, "/events/stream?after=4", TOKEN, Some("")).await;
    next(&mut stream).await.unwrap();
    assert_eq!(events(&next(&mut stream).await.unwrap())[0].0, 5);
}

#[tokio::test]
async fn the_cursor_moves_over_what_was_not_asked_for() {
    let world = world();
    append(&world, (1..=600).map(created)).await;
    append(&world, [deleted(7)]).await;
    append(&world, (1..=3).map(created)).await;
    let mut stream = open(&world, "?types=post.deleted,comment.deleted").await;
    let mut ids = Vec::new();
    let mut told = Vec::new();
    while ids.last() != Some(&604) {
        for (id, data) in events(&next(&mut stream).await.unwrap()) {
            ids.push(id);
            told.extend(data.map(|data| data["position"].as_u64().unwrap()));
        }
    }
    assert_eq!(ids, [0, 256, 512, 601, 604]);
    assert_eq!(told, [601]);
    append(&world, [created(9)]).await;
    assert_eq!(next(&mut stream).await.unwrap(), "id: 605\n\n");
}

#[tokio::test]
async fn bad_input_is_named() {
    let world = world();
    append(&world, [created(1)]).await;
    for (query, last, wanted) in [
        ("?after=", None, &["after"][..]),
        ("?after=-1", None, &["after"]),
        ("?after=%2B1", None, &["after"]),
        ("?after=x", None, &["after"]),
        ("?after=1.0", None, &["after"]),
        ("?after=99999999999999999999", None, &["after"]),
        ("?after=0&after=1", None, &["after"]),
        ("?after=2", None, &["after"]),
        ("", Some("x"), &["Last-Event-ID"]),
        ("", Some("2"), &["Last-Event-ID"]),
        ("?types=", None, &["types"]),
        ("?types=post.created,", None, &["types"]),
        ("?types=post.exploded", None, &["types"]),
        ("?types=post.created&types=post.deleted", None, &["types"]),
        ("?after=x&types=y", None, &["after", "types"]),
    ] {
        let response = ask(&world, &format!("/events/stream{query}"), TOKEN, last).await;
        let fields = refused(response, 400, "Validation failed").await;
        assert_eq!(fields, wanted, "{query}");
    }
    let response = ask(&world, "/events/stream?after=2", TOKEN, None).await;
    let problem = body(response).await;
    assert_eq!(
        problem["errors"][0]["message"],
        "is past the end of the log, which is at position 1"
    );
}

#[tokio::test]
async fn who_does_not_read_has_nothing_read_for_them() {
    let world = world();
    append(&world, (1..=2_000).map(created)).await;
    let reads = || world.read_log.reads.load(Ordering::Relaxed);
    let mut stream = open(&world, "").await;
    next(&mut stream).await.unwrap();
    assert_eq!(reads(), 0);
    let piece = next(&mut stream).await.unwrap();
    assert_eq!((reads(), events(&piece).len()), (1, 256));
    // Another one is not held up by that.
    let mut other = open(&world, "?after=1999").await;
    next(&mut other).await.unwrap();
    assert_eq!(events(&next(&mut other).await.unwrap())[0].0, 2_000);
}

#[tokio::test]
async fn streams_are_counted() {
    let world = world();
    let first = open(&world, "").await;
    let _second = open(&world, "").await;
    let third = ask(&world, "/events/stream", TOKEN, None).await;
    assert_eq!(header(&third, "retry-after"), "5");
    refused(third, 503, "Temporarily unavailable").await;
    drop(first);
    open(&world, "").await;
}

#[tokio::test]
async fn streams_end_with_the_log_and_with_the_program() {
    let world = world();
    let mut stream = open(&world, "").await;
    next(&mut stream).await.unwrap();
    world.read_log.away.store(true, Ordering::Relaxed);
    assert_eq!(next(&mut stream).await, None);
    let response = ask(&world, "/events/stream", TOKEN, None).await;
    refused(response, 503, "Temporarily unavailable").await;
    world.read_log.away.store(false, Ordering::Relaxed);
    let mut stream = open(&world, "").await;
    next(&mut stream).await.unwrap();
    world.shutdown.cancel();
    assert_eq!(next(&mut stream).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_says_that_it_lives() {
    let world = world();
    let mut stream = open(&world, "").await;
    next(&mut stream).await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap(), ": keep-alive\n\n");
}
