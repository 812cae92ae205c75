//! Pages, cursors, and how fresh reads are.

use std::{sync::atomic::Ordering, time::Duration};

use axum::body::Body;
use http::{Method, StatusCode};
use serde_json::Value;
use uuid::Uuid;

use super::fakes::{POSTS, World, body, header, refused, settings, signed};
use crate::Settings;

#[tokio::test]
async fn cursors_walk_a_list_once() {
    let world = World::new();
    let mut path = "/api/feed/?limit=20".to_owned();
    let mut seen = Vec::new();
    loop {
        let response = world.get(&path).await;
        assert_eq!(response.status(), StatusCode::OK);
        let link = header(&response, "link").to_owned();
        let page = body(response).await;
        let posts = page["posts"].as_array().unwrap();
        seen.extend(posts.iter().map(|post| post["content"].clone()));
        let Some(cursor) = page["nextCursor"].as_str() else {
            assert_eq!(link, "");
            break;
        };
        path = link
            .trim_start_matches('<')
            .trim_end_matches(">; rel=\"next\"")
            .to_owned();
        assert!(path.contains("limit=20") && path.ends_with(cursor));
    }
    let all: Vec<_> = (0..POSTS).map(|number| format!("post {number}")).collect();
    assert_eq!(seen, all);
}

#[tokio::test]
async fn a_feed_post_has_both_shapes() {
    let world = World::new();
    let page = body(world.get("/feed?limit=1&page=2").await).await;
    insta::assert_json_snapshot!(page["posts"][0], @r#"
    {
      "_count": {
        "comments": 88,
        "likes": 77
      },
      "avatar": null,
      "commentCount": 88,
      "content": "post 1",
      "createdAt": "2023-11-14T22:13:20.007Z",
      "id": "00000000-0000-0000-0000-000000000001",
      "likeCount": 77,
      "likedByMe": true,
      "media": [],
      "mediaUrls": [],
      "user": {
        "avatar": null,
        "username": "ada"
      },
      "userId": "00000000-0000-0000-0000-000000000ada",
      "username": "ada",
      "visibility": "public"
    }
    "#);
}

#[tokio::test]
async fn without_counters_trending_ranks_recent_posts_and_says_so() {
    let world = World::new();
    *world.readers.no_counters.lock() = true;
    let first = world.get("/feed/trending?limit=1").await;
    assert_eq!(first.headers()["x-stale"], "true");
    let first = body(first).await;
    let numbers = |page: &Value| -> Vec<u128> {
        let posts = page["posts"].as_array().unwrap().iter();
        posts
            .map(|post| {
                post["id"]
                    .as_str()
                    .unwrap()
                    .parse::<Uuid>()
                    .unwrap()
                    .as_u128()
            })
            .collect()
    };
    assert_eq!(numbers(&first), [4]);
    let cursor = first["nextCursor"].as_str().unwrap();
    let rest = body(world.get(&format!("/feed/trending?cursor={cursor}")).await).await;
    assert_eq!(numbers(&rest), [5, 3, 1]);
}

#[tokio::test]
async fn tampered_and_foreign_cursors_are_refused() {
    let world = World::new();
    let page = body(world.get("/feed").await).await;
    let cursor = page["nextCursor"].as_str().unwrap();
    let other = "/posts/user/00000000-0000-0000-0000-000000000001";
    let flipped = format!("{}A", &cursor[..cursor.len() - 1]);
    for path in [
        format!("{other}?cursor={cursor}"),
        format!("/feed?cursor={flipped}x"),
        "/feed?cursor=MTIz".to_owned(),
        format!("/feed?cursor={cursor}&page=1"),
    ] {
        let fields = refused(world.get(&path).await, 400, "Validation failed").await;
        assert_eq!(fields, ["cursor"], "{path}");
    }
    let fields = refused(
        world.get("/feed?limit=0&cursor=x").await,
        400,
        "Validation failed",
    )
    .await;
    assert_eq!(fields, ["limit", "cursor"]);
}

#[tokio::test]
async fn search_cursors_belong_to_their_query() {
    let world = World::new();
    let page = body(world.get("/users/search?q=al").await).await;
    let cursor = page["nextCursor"].as_str().unwrap();
    let same = world
        .get(&format!("/users/search?q=al&cursor={cursor}"))
        .await;
    assert_eq!(same.status(), StatusCode::OK);
    let other = world
        .get(&format!("/users/search?q=bo&cursor={cursor}"))
        .await;
    assert_eq!(refused(other, 400, "Validation failed").await, ["cursor"]);
    let none = world.get("/users/search").await;
    assert_eq!(refused(none, 400, "Validation failed").await, ["q"]);
}

fn at_least(position: &str) -> http::Request<Body> {
    let request = signed(Method::GET, "/feed").header("x-min-position", position);
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn reads_wait_for_what_was_asked_and_say_when_it_was_not_reached() {
    let world = World::with(Settings {
        read_wait: Duration::from_millis(20),
        ..settings()
    });
    world.model.position.send_replace(5);
    let fresh = world.send(at_least("5")).await;
    assert_eq!(header(&fresh, "x-position"), "5");
    assert_eq!(header(&fresh, "x-stale"), "");
    let stale = world.send(at_least("9")).await;
    assert_eq!(stale.status(), StatusCode::OK);
    assert_eq!(header(&stale, "x-position"), "5");
    assert_eq!(header(&stale, "x-stale"), "true");
    for bad in ["-1", "x", "1.5", "99999999999999999999999"] {
        let fields = refused(world.send(at_least(bad)).await, 400, "Validation failed").await;
        assert_eq!(fields, ["X-Min-Position"]);
    }
}

#[tokio::test]
async fn who_asks_for_nothing_is_told_that_a_model_lacks_what_it_should_have_and_does_not_wait() {
    let world = World::new();
    world.model.position.send_replace(5);
    world.due.send_replace(5);
    let fresh = world.get("/feed").await;
    assert_eq!(header(&fresh, "x-stale"), "");
    world.due.send_replace(6);
    let stale = world.get("/feed").await;
    assert_eq!(stale.status(), StatusCode::OK);
    assert_eq!(header(&stale, "x-position"), "5");
    assert_eq!(header(&stale, "x-stale"), "true");
    assert_eq!(world.model.waiting.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_a_model_that_is_behind_does_not_have_may_be_there() {
    let world = World::with(Settings {
        read_wait: Duration::from_millis(20),
        ..settings()
    });
    let path = format!("/posts/{}", socialhub_domain::testing::id(77));
    let known = world.get(&path).await;
    assert_eq!(known.status(), StatusCode::NOT_FOUND);
    assert_eq!(header(&known, "x-stale"), "");
    let request = signed(Method::GET, &path).header("x-min-position", "9");
    let unknown = world.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    assert_eq!(header(&unknown, "x-stale"), "true");
}

#[tokio::test]
async fn people_read_what_they_wrote() {
    let world = World::new();
    let written = world.post("/posts", r#"{"content": "hello"}"#).await;
    assert_eq!(header(&written, "x-position"), "1");
    let reading = world.get("/feed");
    let moving = async { world.model.position.send_replace(1) };
    // The read waits: it is polled first, and can only end after the model moved.
    let (read, _) = futures::join!(reading, moving);
    assert_eq!(header(&read, "x-position"), "1");
    assert_eq!(header(&read, "x-stale"), "");
}
