//! What every answer has: request ids, CORS, problem bodies, tokens, limits.

use std::net::SocketAddr;

use axum::{body::Body, extract::ConnectInfo};
use http::{Method, Request, StatusCode};

use super::fakes::{World, body, header, refused, settings, signed};
use crate::{Rate, RateLimits, Settings};

#[tokio::test]
async fn unknown_routes_and_methods_are_problems() {
    let world = World::new();
    assert!(
        refused(world.get("/nowhere").await, 404, "Not found")
            .await
            .is_empty()
    );
    let response = world.json(Method::DELETE, "/auth/login", "{}").await;
    assert!(header(&response, "allow").contains("POST"));
    refused(response, 405, "Method not allowed").await;
}

#[tokio::test]
async fn request_ids_are_echoed_when_plain_and_made_otherwise() {
    let world = World::new();
    let ask = |id: &str| {
        let request = Request::get("/livez").header("x-request-id", id);
        request.body(Body::empty()).unwrap()
    };
    let echoed = world.send(ask("trace-1:a/b")).await;
    assert_eq!(header(&echoed, "x-request-id"), "trace-1:a/b");
    for bad in ["with space", "<script>", "", &"x".repeat(129)] {
        let made = world.send(ask(bad)).await;
        assert_eq!(header(&made, "x-request-id").len(), 36, "{bad}");
    }
    let response = world.get("/nowhere").await;
    let id = header(&response, "x-request-id").to_owned();
    assert_eq!(body(response).await["requestId"], id);
}

#[tokio::test]
async fn configured_origins_may_call_with_credentials_and_others_may_not() {
    let world = World::new();
    let preflight = |origin: &str| {
        Request::options("/posts/")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .body(Body::empty())
            .unwrap()
    };
    let good = world.send(preflight("http://localhost:5173")).await;
    assert_eq!(good.status(), StatusCode::NO_CONTENT);
    assert_eq!(
        header(&good, "access-control-allow-origin"),
        "http://localhost:5173"
    );
    assert_eq!(header(&good, "access-control-allow-credentials"), "true");
    assert!(header(&good, "access-control-allow-headers").contains("idempotency-key"));
    let bad = world.send(preflight("http://evil.example")).await;
    assert_eq!(header(&bad, "access-control-allow-origin"), "");
    let request = signed(Method::GET, "/nowhere").header("origin", "http://localhost:5173");
    let refusal = world.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(
        header(&refusal, "access-control-allow-origin"),
        "http://localhost:5173"
    );
    assert_eq!(header(&refusal, "vary"), "origin");
}

#[tokio::test]
async fn a_token_is_needed_and_only_one_counts() {
    let world = World::new();
    for path in [
        "/feed",
        "/api/v1/users/search?q=a",
        "/notify/stream",
        "/auth/me",
    ] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        refused(world.send(request).await, 401, "Unauthorized").await;
        let request = signed(Method::GET, path).header("authorization", "Bearer ada");
        refused(
            world.send(request.body(Body::empty()).unwrap()).await,
            401,
            "Unauthorized",
        )
        .await;
    }
    let request = Request::get("/auth/me")
        .header("x-user-payload", r#"{"id":"x","username":"ada"}"#)
        .body(Body::empty())
        .unwrap();
    refused(world.send(request).await, 401, "Unauthorized").await;
}

#[tokio::test]
async fn verify_user_tells_whose_token_it_is() {
    let world = World::new();
    let good = world.get("/api/v1/auth/verify-user").await;
    assert_eq!(good.status(), StatusCode::OK);
    assert_eq!(
        header(&good, "x-user-payload"),
        r#"{"id":"00000000-0000-0000-0000-000000000ada","username":"ada"}"#
    );
    assert_eq!(body(good).await, serde_json::json!({"valid": true}));
    let request = Request::get("/auth/verify-user").header("authorization", "Bearer eve");
    let bad = world.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(bad.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(header(&bad, "x-user-payload"), "");
    assert_eq!(body(bad).await, serde_json::json!({"valid": false}));
}

#[tokio::test]
async fn a_fault_is_told_without_its_cause() {
    let world = World::new();
    let request = Request::get("/feed").header("authorization", "Bearer boom");
    let response = world.send(request.body(Body::empty()).unwrap()).await;
    let text = body(response).await.to_string();
    assert!(text.contains("Internal server error") && !text.contains("secret"));
    *world.readers.broken.lock() = true;
    let response = world
        .get("/posts/00000000-0000-0000-0000-000000000001")
        .await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&response, "retry-after"), "1");
    assert!(!body(response).await.to_string().contains("secret"));
}

fn from(address: [u8; 4]) -> Request<Body> {
    let mut request = signed(Method::GET, "/feed").body(Body::empty()).unwrap();
    let peer = SocketAddr::from((address, 4_000));
    request.extensions_mut().insert(ConnectInfo(peer));
    request
}

#[tokio::test]
async fn one_address_is_limited_and_told_when_to_come_back() {
    let limits = RateLimits {
        requests: Rate {
            per_second: 1,
            burst: 2,
        },
        ..RateLimits::default()
    };
    let world = World::with(Settings {
        rate_limits: Some(limits),
        ..settings()
    });
    for _ in 0..2 {
        assert_eq!(
            world.send(from([10, 0, 0, 1])).await.status(),
            StatusCode::OK
        );
    }
    let limited = world.send(from([10, 0, 0, 1])).await;
    assert!(header(&limited, "retry-after").parse::<u64>().unwrap() >= 1);
    refused(limited, 429, "Too many requests").await;
    assert_eq!(
        world.send(from([10, 0, 0, 2])).await.status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn more_than_can_be_worked_on_is_shed_but_probes_are_answered() {
    let world = World::with(Settings {
        concurrency: 0,
        ..settings()
    });
    let response = world.get("/feed").await;
    assert_eq!(header(&response, "retry-after"), "1");
    refused(response, 503, "Temporarily unavailable").await;
    assert_eq!(world.get("/livez").await.status(), StatusCode::OK);
}

/// The gateway's secret in front, its word about a person is believed; without it, or with another, it is not looked at.
#[tokio::test]
async fn only_the_gateway_is_believed_about_who_asks() {
    let world = World::with(Settings {
        gateway_secret: Some("between the gateway and us".to_owned()),
        ..settings()
    });
    let ask = |secret: &str, payload: &str, path: &str| {
        let request = Request::get(path)
            .header("x-gateway-secret", secret)
            .header("x-user-payload", payload);
        request.body(Body::empty()).unwrap()
    };
    let secret = "between the gateway and us";
    let ada = r#"{"id":"00000000-0000-0000-0000-000000000ada","username":"ada"}"#;
    let profile = "/users/profile/00000000-0000-0000-0000-000000000ada";
    let believed = world.send(ask(secret, ada, profile)).await;
    assert_eq!(believed.status(), StatusCode::OK);
    for (secret, payload) in [("guessed", ada), ("", ada), (secret, "{}"), (secret, "")] {
        let response = world.send(ask(secret, payload, profile)).await;
        refused(response, 401, "Unauthorized").await;
    }
    let question = signed(Method::GET, "/api/v1/auth/verify-user")
        .header("x-gateway-secret", secret)
        .header("x-gateway-check", "1");
    let short = world.send(question.body(Body::empty()).unwrap()).await;
    assert_eq!(short.status(), StatusCode::NO_CONTENT);
    assert_eq!(header(&short, "x-user-payload"), ada);
}
