//! What clients see through nginx.

use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::json;
use socialhub_tests::support::{Client, Turn};

use super::{eventually, write};
use crate::{chat::official_suite, firehose::Hose, flow, media::png, social::streams_tell};

#[tokio::test]
async fn the_seeds_walk_works_through_the_gateway() {
    let stack = Turn::begin().await;
    flow::walk(&stack.client()).await;
    flow::answers_alike(&stack.client()).await;
    stack.converges().await;
}

#[tokio::test]
async fn nobody_is_somebody_else_by_a_header() {
    let stack = Turn::begin().await;
    let client = stack.client();
    let (victim, eve) = (client.sign_up("victim").await, client.sign_up("eve").await);
    let payload = json!({ "id": victim.id, "username": victim.username }).to_string();
    let secret = stack.setting("GATEWAY_SECRET");
    let forged = |who: &Client, method: Method, path: &str| {
        who.request(method, path)
            .header("x-user-payload", &payload)
            .header("x-gateway-secret", secret)
            .header("x-gateway-check", "1")
    };
    // Without a token nobody, even who knows the secret: the gateway overwrites it all.
    let paths = [
        "/auth/me".to_owned(),
        format!("/users/profile/{}", victim.id),
        format!("/posts/user/{}", victim.id),
        "/notify/notifications".to_owned(),
        "/api/feed/".to_owned(),
        "/api/v1/feed".to_owned(),
        "/chat/rooms/lobby/messages".to_owned(),
    ];
    for path in &paths {
        let answer = client.send(forged(&client, Method::GET, path)).await;
        answer.expect_problem(401, "Unauthorized");
        let answer = client.get(path).await;
        answer.expect_problem(401, "Unauthorized");
    }
    // With one's own token oneself.
    let body = json!({ "content": "who wrote this?" });
    let request = forged(&eve, Method::POST, "/posts/").json(&body);
    let post = eve.send(request).await.expect_status(201);
    assert_eq!(post.text("/post/userId"), eve.id);
    let me = eve.send(forged(&eve, Method::GET, "/auth/me")).await;
    assert_eq!(me.expect_status(200).text("/user/id"), eve.id);
    let asked = eve
        .send(forged(&eve, Method::GET, "/auth/verify-user"))
        .await;
    let asked = asked.expect_status(200);
    assert_eq!(asked.at("/valid"), true, "callers get their body");
    assert!(asked.header("x-user-payload").contains(&eve.id));
    // A service believes the gateway's word only with the secret, and then without a token.
    let posts = &stack.members("post-service").await[0];
    let direct = Client::new(&posts.address("listen"));
    let path = format!("/api/v1/posts/user/{}", victim.id);
    let lone = direct
        .request(Method::GET, &path)
        .header("x-user-payload", &payload);
    direct.send(lone).await.expect_problem(401, "Unauthorized");
    let known = direct.send(forged(&direct, Method::GET, &path)).await;
    known.expect_status(200);
}

#[tokio::test]
async fn browsers_get_their_preflight_and_uploads_come_through() {
    let stack = Turn::begin().await;
    let client = stack.client();
    let origin = "http://localhost:5173";
    for path in [
        "/posts/",
        "/auth/login",
        "/api/feed/",
        "/notify/notifications",
    ] {
        let request = client
            .request(Method::OPTIONS, path)
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization,content-type",
            );
        let answer = client.send(request).await;
        assert!(answer.status < 300, "{path}: {answer:?}");
        assert_eq!(
            answer.header("access-control-allow-origin"),
            origin,
            "{path}"
        );
        assert_eq!(answer.header("access-control-allow-credentials"), "true");
    }
    let me = client.sign_up("uploader").await;
    let picture = png(50 * 1024);
    let part = Part::bytes(picture.clone()).file_name("picture.png");
    let form = Form::new()
        .text("content", "with a picture")
        .part("files", part);
    let answer = me.post_form("/posts/", form).await.expect_status(201);
    let url = answer.text("/post/media/0/url").to_owned();
    let path = url.find("/media/").map(|start| &url[start..]).unwrap();
    // Whether everybody may see it is known to the read model, for which only its author's requests wait.
    let served = eventually("the picture is served", || async {
        let answer = client.get(path).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(served.header("content-type"), "image/png");
    assert_eq!(served.header("x-content-type-options"), "nosniff");
    assert!(served.bytes == picture, "other bytes than those uploaded");
    // Too much for any route is refused by name, not by a cut connection.
    let body = json!({ "content": "x".repeat(2 << 20) });
    let answer = me.post("/users/follow/x", body).await;
    assert_eq!(answer.status, 413, "{answer:?}");
}

#[tokio::test]
async fn streams_and_chat_come_through_the_gateway() {
    let stack = Turn::begin().await;
    streams_tell(&stack.client()).await;
    official_suite(stack.url()).await;
    // The operator's token goes through, although it is nobody's.
    let operator = stack
        .client()
        .with_token("", "", stack.setting("OPERATOR_TOKEN"));
    let author = stack.client().sign_up("hosed").await;
    let mut hose = Hose::open(&operator, "?types=post.created", None).await;
    let (_, position) = write(&author, "told to the operator").await;
    let position = position.parse().unwrap();
    let told = hose.up_to(position).await;
    assert_eq!(told.last().unwrap()["position"], position);
    let answer = author.get("/events/stream").await;
    answer.expect_problem(401, "Unauthorized");
}
