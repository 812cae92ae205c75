//! Nothing a client sends gives a 5xx or stops the process.

use reqwest::Method;
use serde_json::{Value, json};
use socialhub_tests::support::{Client, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Sends bytes and reads until the server closes, as it must after each of the requests sent this way.
async fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", server.port()))
        .await
        .unwrap();
    // The server may answer and close before it has read everything. The sending half stays open: closing it means
    // "I am gone", and a request of somebody who is gone needs no answer.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn send_body(client: &Client, path: &str, content_type: &str, body: Vec<u8>) -> u16 {
    let request = client
        .request(Method::POST, path)
        .header("content-type", content_type)
        .body(body);
    client.send(request).await.status
}

#[tokio::test]
async fn bodies_that_are_no_good_json() {
    let server = Server::start().await;
    let me = server.client().sign_up("badjson").await;
    for (body, status) in [
        (b"{".to_vec(), 400),
        (b"".to_vec(), 400),
        (b"[]".to_vec(), 400),
        (b"null".to_vec(), 400),
        (b"\"text\"".to_vec(), 400),
        (b"{\"content\": \"\xff\xfe\"}".to_vec(), 400),
        (b"{\"content\": \"\\ud800\"}".to_vec(), 400),
        (vec![b'['; 100_000], 400),
        (b"{\"content\": \"a\", \"content\": \"b\"}".to_vec(), 400),
    ] {
        let text = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        let got = send_body(&me, "/posts/", "application/json", body).await;
        assert!(
            got == status || got == 201 && text.contains("\"a\""),
            "{text}: {got}"
        );
    }
    assert_eq!(
        send_body(&me, "/posts/", "text/plain", b"hello".to_vec()).await,
        415
    );
    assert_eq!(
        send_body(&me, "/posts/", "multipart/form-data", b"hello".to_vec()).await,
        400
    );
    assert_eq!(
        send_body(
            &me,
            "/posts/",
            "multipart/form-data; boundary=b",
            b"hello".to_vec()
        )
        .await,
        400
    );
    assert_eq!(
        send_body(
            &me,
            "/auth/login",
            "application/json",
            vec![b' '; 3_000_000]
        )
        .await,
        413
    );
    me.get("/livez").await.expect_status(200);
}

#[tokio::test]
async fn ids_of_the_wrong_form_and_unknown_routes() {
    let server = Server::start().await;
    let me = server.client().sign_up("badids").await;
    for id in [
        "x",
        "123",
        "%00",
        "%ff",
        "..%2f",
        "0190b5f000007000800000000000000",
        &"a".repeat(3000),
        "😀",
    ] {
        for path in [
            format!("/posts/{id}"),
            format!("/users/profile/{id}"),
            format!("/posts/user/{id}"),
            format!("/posts/{id}/comments"),
        ] {
            let status = me.get(&path).await.status;
            assert!([400, 404].contains(&status), "{path}: {status}");
        }
        for path in [format!("/posts/{id}/like"), format!("/users/follow/{id}")] {
            let status = me.post(&path, json!({})).await.status;
            assert!([400, 404].contains(&status), "{path}: {status}");
        }
        let status = me
            .patch(&format!("/notify/notifications/{id}/read"), Value::Null)
            .await
            .status;
        assert!([400, 404].contains(&status), "{id}: {status}");
    }
    me.get("/no/such/route").await.expect_status(404);
    let answer = me.put("/auth/login", json!({})).await;
    assert_eq!(answer.status, 405);
}

#[tokio::test]
async fn wrong_types_in_every_field_of_every_command() {
    let server = Server::start().await;
    let me = server.client().sign_up("types").await;
    let post = me.write_post("x", "public").await;
    let values = [
        json!(null),
        json!(1),
        json!(1e300),
        json!([]),
        json!({}),
        json!(true),
        json!("\u{0}"),
        json!(""),
    ];
    let commands = [
        (
            Method::POST,
            "/auth/signup".to_owned(),
            vec!["name", "email", "username", "password"],
        ),
        (
            Method::POST,
            "/auth/login".to_owned(),
            vec!["identifier", "password"],
        ),
        (
            Method::POST,
            "/auth/request-reset".to_owned(),
            vec!["email"],
        ),
        (
            Method::POST,
            "/auth/verify-otp".to_owned(),
            vec!["email", "otp"],
        ),
        (
            Method::POST,
            "/auth/reset-password".to_owned(),
            vec!["email", "otp", "newPassword"],
        ),
        (
            Method::PATCH,
            "/users/profile".to_owned(),
            vec!["name", "bio", "avatar"],
        ),
        (
            Method::POST,
            "/posts/".to_owned(),
            vec!["content", "visibility"],
        ),
        (
            Method::POST,
            format!("/posts/{post}/comment"),
            vec!["comment"],
        ),
        (
            Method::PUT,
            format!("/users/follow/{}", me.id),
            vec!["notify"],
        ),
    ];
    for (method, path, fields) in &commands {
        for field in fields {
            for value in &values {
                let body = json!({ *field: value });
                let answer = me.send(me.request(method.clone(), path).json(&body)).await;
                assert!(
                    answer.status < 500,
                    "{method} {path} {body}: {} {}",
                    answer.status,
                    answer.json
                );
                if answer.status == 400 {
                    assert!(!answer.text("/error").is_empty(), "{}", answer.json);
                }
            }
        }
    }
    server.caught_up().await;
    server.verify_all().await;
}

#[tokio::test]
async fn headers_twice_too_long_and_malformed() {
    let server = Server::start().await;
    let me = server.client().sign_up("headers").await;
    let twice = format!(
        "GET /auth/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {0}\r\nAuthorization: Bearer {0}\r\nConnection: close\r\n\r\n",
        me.token
    );
    let answer = raw(&server, twice.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    let long = format!(
        "GET /auth/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        "x".repeat(200_000)
    );
    let answer = raw(&server, long.as_bytes()).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    for text in [
        "nonsense\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET /\u{0} HTTP/1.1\r\nHost: x\r\n\r\n",
        "\u{16}\u{3}\u{1}",
    ] {
        let answer = raw(&server, text.as_bytes()).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{text:?}: {answer}"
        );
    }
    let conflict =
        "POST /posts/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello";
    let answer = raw(&server, conflict.as_bytes()).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    let request = me
        .request(Method::GET, "/auth/me")
        .header("x-request-id", "a".repeat(5000));
    me.send(request).await.expect_status(200);
    let request = me
        .request(Method::GET, "/api/feed/")
        .header("x-min-position", "not a number");
    me.send(request).await.expect_status(400);
    me.get("/livez").await.expect_status(200);
}

#[tokio::test]
async fn browsers_are_answered_by_origin() {
    let server = Server::start().await;
    let client = server.client();
    let preflight = |origin: &str| {
        let request = client
            .request(Method::OPTIONS, "/posts/")
            .header("origin", origin);
        request
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization,content-type",
            )
    };
    let good = client.send(preflight("http://localhost:5173")).await;
    assert!((200..300).contains(&good.status));
    assert_eq!(
        good.header("access-control-allow-origin"),
        "http://localhost:5173"
    );
    assert_eq!(good.header("access-control-allow-credentials"), "true");
    let bad = client.send(preflight("http://evil.example")).await;
    assert_eq!(bad.header("access-control-allow-origin"), "");
    let request = client
        .request(Method::GET, "/livez")
        .header("origin", "http://localhost:5173");
    assert_eq!(
        client
            .send(request)
            .await
            .header("access-control-allow-origin"),
        "http://localhost:5173"
    );
}
