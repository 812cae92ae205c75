//! Serving files.

use std::sync::atomic::Ordering;

use axum::{body::Body, response::Response};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use socialhub_domain::{PostId, event::Visibility};
use uuid::Uuid;

use super::fakes::{ADA, World, body, header, refused, signed};

const POST: PostId = PostId(Uuid::from_u128(5));

fn world(visibility: Visibility) -> World {
    let world = World::new();
    world
        .readers
        .visibility
        .lock()
        .insert(POST, (visibility, ADA));
    world
}

async fn anonymous(world: &World, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    world.send(request.body(Body::empty()).unwrap()).await
}

async fn text(response: Response) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_public_file_is_anybodys_and_cached() {
    let world = world(Visibility::Public);
    let path = format!("/media/{POST}/0.png");
    let response = anonymous(&world, &path, &[]).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "content-type"), "image/png");
    assert_eq!(header(&response, "x-content-type-options"), "nosniff");
    assert!(header(&response, "cache-control").starts_with("public"));
    assert_eq!(header(&response, "content-length"), "10");
    assert_eq!(header(&response, "content-disposition"), "");
    assert_eq!(text(response).await, "0123456789");
    let known = anonymous(&world, &path, &[("if-none-match", "\"v0\", W/\"v1\"")]).await;
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    let active = anonymous(&world, &format!("/media/{POST}/0.html"), &[]).await;
    assert_eq!(header(&active, "content-disposition"), "attachment");
    assert!(header(&active, "content-security-policy").contains("sandbox"));
}

#[tokio::test]
async fn parts_are_served() {
    let world = world(Visibility::Public);
    let path = format!("/media/{POST}/0.png");
    for (range, wanted, content) in [
        ("bytes=2-4", "bytes 2-4/10", "234"),
        ("bytes=8-", "bytes 8-9/10", "89"),
        ("bytes=-3", "bytes 7-9/10", "789"),
        ("bytes=5-500", "bytes 5-9/10", "56789"),
    ] {
        let response = anonymous(&world, &path, &[("range", range)]).await;
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(header(&response, "content-range"), wanted);
        assert_eq!(text(response).await, content);
    }
    let outside = anonymous(&world, &path, &[("range", "bytes=10-")]).await;
    assert_eq!(header(&outside, "content-range"), "bytes */10");
    refused(outside, 416, "Range not satisfiable").await;
    for ignored in [
        &[("range", "bytes=9-1")][..],
        &[("range", "bytes=0-1"), ("if-range", "\"v0\"")],
    ] {
        let response = anonymous(&world, &path, ignored).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn strange_names_are_not_found() {
    let world = world(Visibility::Public);
    for name in [
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e",
        "0..png",
        "0.PNG",
        "1.png",
        "a%00",
        "%ff",
    ] {
        let response = anonymous(&world, &format!("/media/{POST}/{name}"), &[]).await;
        refused(response, 404, "Media not found").await;
    }
    let response = anonymous(&world, "/media/x/0.png", &[]).await;
    refused(response, 404, "Media not found").await;
}

#[tokio::test]
async fn another_files_needs_a_token_or_a_signed_address() {
    let world = world(Visibility::Private);
    let path = format!("/media/{POST}/0.png");
    refused(anonymous(&world, &path, &[]).await, 404, "Media not found").await;
    let own = world.get(&path).await;
    assert_eq!(header(&own, "cache-control"), "private, no-cache");
}

#[tokio::test]
async fn signed_addresses_come_with_the_post_and_cannot_be_changed() {
    let world = World::new();
    let boundary = "--XX\r\nContent-Disposition: form-data; name=";
    let form = format!(
        "{boundary}\"visibility\"\r\n\r\nprivate\r\n{boundary}\"files\"; filename=\"a\"\r\n\r\nx\r\n--XX--\r\n"
    );
    let request = signed(Method::POST, "/posts")
        .header("content-type", "multipart/form-data; boundary=XX")
        .body(Body::from(form))
        .unwrap();
    let post = body(world.send(request).await).await["post"].clone();
    world.model.position.send_replace(1);
    let url = post["mediaUrls"][0].as_str().unwrap().to_owned();
    let id: PostId = post["id"].as_str().unwrap().parse().unwrap();
    world
        .readers
        .visibility
        .lock()
        .insert(id, (Visibility::Private, ADA));
    assert!(url.contains("&sig="));
    let good = anonymous(&world, &url, &[]).await;
    assert_eq!(good.status(), StatusCode::OK);
    for bad in [
        url.replace("exp=17", "exp=18"),
        url.replace("viewer=00", "viewer=10"),
        format!("{url}x"),
    ] {
        assert_ne!(bad, url);
        refused(anonymous(&world, &bad, &[]).await, 404, "Media not found").await;
    }
    world.readers.visibility.lock().clear();
    refused(anonymous(&world, &url, &[]).await, 404, "Media not found").await;
}

/// What the log has and the model does not is only behind: nobody is told that it is not there.
#[tokio::test]
async fn a_file_of_a_post_that_the_model_has_not_seen_yet_is_waited_for() {
    let world = World::new();
    let created = world
        .post("/posts/", r#"{"content":"a","visibility":"public"}"#)
        .await;
    assert_eq!(header(&created, "x-position"), "1");
    let post = PostId(
        body(created).await["post"]["id"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap(),
    );
    let path = format!("/media/{post}/0.png");
    let asked = anonymous(&world, &path, &[]);
    let caught_up = async {
        // The model catches up once the request is waiting for it.
        while world.model.waiting.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let seen = (Visibility::Public, ADA);
        world.readers.visibility.lock().insert(post, seen);
        world.model.position.send_replace(1);
    };
    let (response, ()) = tokio::join!(asked, caught_up);
    assert_eq!(response.status(), StatusCode::OK);
}
