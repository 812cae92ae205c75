//! Signing up, logging in, tokens and the reset of a password.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use socialhub_tests::support::{Answer, Client, Profile, Server, client::PASSWORD, eventually};

use crate::redis_stores::server::Server as RedisServer;

/// A key of the test's own, so that it can make tokens.
const SECRET: &str = "a key of the test's own, 32 bytes and more";

fn token(header: &Value, claims: &Value, secret: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(header), part(claims));
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    format!(
        "{text}.{}",
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    )
}

#[expect(clippy::disallowed_methods, reason = "a test makes tokens of the past")]
fn seconds_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

#[tokio::test]
async fn sign_up_names_every_bad_field() {
    let server = Server::start().await;
    let client = server.client();
    let bad = json!({ "name": "", "email": "nobody", "username": "a b", "password": "short" });
    client
        .post("/auth/signup", bad)
        .await
        .expect_fields(&["name", "email", "username", "password"]);
    client
        .post("/auth/signup", json!({}))
        .await
        .expect_fields(&["name", "email", "username", "password"]);
    let wrong = json!({ "name": 1, "email": [], "username": {}, "password": null });
    client
        .post("/auth/signup", wrong)
        .await
        .expect_fields(&["name", "email", "username", "password"]);
    let long = json!({ "name": "n".repeat(101), "email": "a@example.com", "username": "u".repeat(31), "password": "p".repeat(73) });
    client
        .post("/auth/signup", long)
        .await
        .expect_fields(&["name", "username", "password"]);
}

#[tokio::test]
async fn names_and_addresses_are_unique_whatever_the_case() {
    let server = Server::start().await;
    let client = server.client();
    let person = client.sign_up("Case").await;
    let again = |username: &str, email: &str| json!({ "name": "x", "email": email, "username": username, "password": PASSWORD });
    let taken = again(&person.username.to_uppercase(), "other@example.com");
    client
        .post("/auth/signup", taken)
        .await
        .expect_problem(400, "User already exists");
    let taken = again("somebodyelse", &format!("{}@EXAMPLE.com", person.username));
    client
        .post("/auth/signup", taken)
        .await
        .expect_problem(400, "User already exists");
}

#[tokio::test]
async fn logging_in_takes_name_or_address_and_tells_nothing_else() {
    let server = Server::start().await;
    let client = server.client();
    let person = client.sign_up("login").await;
    for identifier in [
        person.username.clone(),
        format!("{}@example.com", person.username),
    ] {
        let answer = client
            .post(
                "/auth/login",
                json!({ "identifier": identifier, "password": PASSWORD }),
            )
            .await;
        assert_eq!(answer.expect_status(200).text("/user/id"), person.id);
    }
    let wrong = json!({ "identifier": person.username, "password": "not this one" });
    client
        .post("/auth/login", wrong)
        .await
        .expect_problem(401, "Invalid credentials");
    let nobody = json!({ "identifier": "nobody", "password": PASSWORD });
    client
        .post("/auth/login", nobody)
        .await
        .expect_problem(401, "Invalid credentials");
    client
        .post("/auth/login", json!({}))
        .await
        .expect_fields(&["identifier", "password"]);
}

#[tokio::test]
async fn only_a_good_token_opens_the_door() {
    let server = Server::start_with(&["--rate-limits", "off", "--jwt-secret", SECRET]).await;
    let client = server.client();
    let person = client.sign_up("token").await;
    let now = seconds_now();
    let claims = |exp: u64| json!({ "id": person.id, "username": person.username, "iat": now - 100, "exp": exp, "ver": 1 });
    let good_header = json!({ "alg": "HS256", "typ": "JWT" });

    let good = token(&good_header, &claims(now + 60), SECRET);
    let answer = client
        .with_token("", "", &good)
        .get("/auth/verify-user")
        .await
        .expect_status(200);
    assert_eq!(answer.at("/valid"), true);
    let payload: Value = serde_json::from_str(answer.header("x-user-payload")).unwrap();
    assert_eq!(
        payload,
        json!({ "id": person.id, "username": person.username })
    );

    let unsigned = token(&json!({ "alg": "none" }), &claims(now + 60), SECRET);
    let bad_tokens = [
        ("expired", token(&good_header, &claims(now - 90), SECRET)),
        (
            "of another key",
            token(&good_header, &claims(now + 60), &SECRET.to_uppercase()),
        ),
        ("alg none, signed", unsigned.clone()),
        (
            "alg none, unsigned",
            format!("{}.", unsigned.rsplit_once('.').unwrap().0),
        ),
        (
            "another algorithm",
            token(
                &json!({ "alg": "HS512", "typ": "JWT" }),
                &claims(now + 60),
                SECRET,
            ),
        ),
        ("without claims", token(&good_header, &json!({}), SECRET)),
        (
            "of an older epoch",
            token(
                &good_header,
                &json!({ "id": person.id, "username": "x", "iat": 1, "exp": now + 60, "ver": 0 }),
                SECRET,
            ),
        ),
        ("tampered", good.replace('.', ".e")),
        ("nonsense", "nonsense".to_owned()),
    ];
    for (what, token) in bad_tokens {
        let bearer = client.with_token("", "", &token);
        let answer = bearer.get("/auth/verify-user").await;
        assert_eq!(
            (answer.status, answer.at("/valid")),
            (401, &json!(false)),
            "{what}"
        );
        bearer
            .get("/api/feed/")
            .await
            .expect_problem(401, "Unauthorized");
    }
    client
        .get("/api/feed/")
        .await
        .expect_problem(401, "Unauthorized");
    let forged = client
        .request(reqwest::Method::GET, "/api/feed/")
        .header("x-user-payload", payload.to_string());
    client
        .send(forged)
        .await
        .expect_problem(401, "Unauthorized");
}

#[tokio::test]
async fn everything_but_the_public_routes_needs_a_token() {
    let server = Server::start().await;
    let client = server.client();
    let id = "0190b5f0-0000-7000-8000-000000000000";
    for path in [
        "/auth/me".to_owned(),
        format!("/users/profile/{id}"),
        "/users/search?q=a".to_owned(),
        format!("/users/followers/{id}"),
        format!("/users/following/{id}"),
        format!("/posts/{id}"),
        format!("/posts/user/{id}"),
        format!("/posts/{id}/comments"),
        "/api/feed/".to_owned(),
        "/api/feed/trending".to_owned(),
        "/api/feed/stream".to_owned(),
        "/notify/notifications".to_owned(),
        "/notify/stream".to_owned(),
        "/chat/rooms/r/messages".to_owned(),
    ] {
        client.get(&path).await.expect_problem(401, "Unauthorized");
    }
    for path in [
        format!("/users/follow/{id}"),
        "/posts/".to_owned(),
        format!("/posts/{id}/like"),
        format!("/posts/{id}/comment"),
    ] {
        client
            .post(&path, json!({}))
            .await
            .expect_problem(401, "Unauthorized");
    }
}

/// The code in the newest mail to an address.
async fn mailed_code(server: &Server, address: &str) -> String {
    let folder = server.data_dir().join("mail");
    eventually("a mail with a code was written", || async {
        let mut mails: Vec<_> = std::fs::read_dir(&folder)
            .ok()?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .collect();
        mails.sort();
        let text = mails
            .iter()
            .rev()
            .filter_map(|path| std::fs::read_to_string(path).ok())
            .find(|text| text.contains(address))?;
        let (_, body) = text
            .split_once("\r\n\r\n")
            .or_else(|| text.split_once("\n\n"))?;
        body.split(|c: char| !c.is_ascii_digit())
            .find(|word| word.len() == 6)
            .map(ToOwned::to_owned)
    })
    .await
}

pub(crate) async fn request_code(
    server: &Server,
    client: &Client,
    person: &Client,
) -> (String, String) {
    let email = format!("{}@example.com", person.username);
    client
        .post("/auth/request-reset", json!({ "email": email }))
        .await
        .expect_status(200);
    (mailed_code(server, &email).await, email)
}

#[tokio::test]
async fn a_reset_ends_every_older_token() {
    let mut server = Server::start().await;
    let client = server.client();
    let person = client.sign_up("reset").await;
    let (otp, email) = request_code(&server, &client, &person).await;

    let answer = client
        .post("/auth/verify-otp", json!({ "email": email, "otp": otp }))
        .await
        .expect_status(200);
    assert_eq!(answer.at("/valid"), true);
    let reset = json!({ "email": email, "otp": otp, "newPassword": "another one 42" });
    client
        .post("/auth/reset-password", reset.clone())
        .await
        .expect_status(200);
    person
        .get("/auth/me")
        .await
        .expect_problem(401, "Unauthorized");
    assert_eq!(
        client.post("/auth/reset-password", reset).await.status,
        400,
        "a code is good once"
    );

    let old = json!({ "identifier": email, "password": PASSWORD });
    client
        .post("/auth/login", old)
        .await
        .expect_problem(401, "Invalid credentials");
    let new = json!({ "identifier": email, "password": "another one 42" });
    let answer = client.post("/auth/login", new).await.expect_status(200);
    let back = client.with_token(&person.id, &person.username, answer.text("/token"));
    back.get("/auth/me").await.expect_status(200);

    server.restart().await;
    person
        .get("/auth/me")
        .await
        .expect_problem(401, "Unauthorized");
    back.get("/auth/me").await.expect_status(200);
    assert!(
        !server.log().contains(&otp) && !server.log().contains(&email),
        "secrets in the log"
    );
}

#[tokio::test]
async fn the_fifth_wrong_try_burns_the_code() {
    let server = Server::start().await;
    let client = server.client();
    let person = client.sign_up("burn").await;
    let (otp, email) = request_code(&server, &client, &person).await;
    let wrong = if otp == "000000" { "000001" } else { "000000" };
    for _ in 0..5 {
        let answer = client
            .post("/auth/verify-otp", json!({ "email": email, "otp": wrong }))
            .await;
        assert_eq!(answer.status, 400);
    }
    let answer = client
        .post("/auth/verify-otp", json!({ "email": email, "otp": otp }))
        .await;
    assert_eq!(answer.status, 400, "burnt");
}

#[tokio::test]
async fn asking_for_a_reset_tells_nobody_who_is_here() {
    let server = Server::start().await;
    let client = server.client();
    let person = client.sign_up("known").await;
    let known = client
        .post(
            "/auth/request-reset",
            json!({ "email": format!("{}@example.com", person.username) }),
        )
        .await;
    let unknown = client
        .post(
            "/auth/request-reset",
            json!({ "email": "nobody@example.com" }),
        )
        .await;
    assert_eq!((known.status, &known.json), (200, &unknown.json));
    client
        .post("/auth/request-reset", json!({ "email": "no address" }))
        .await
        .expect_fields(&["email"]);
}

#[tokio::test]
async fn tries_are_limited_and_the_answer_says_when_to_come_back() {
    let server = Server::start_with(&["--rate-limit-per-account", "3"]).await;
    let client = server.client();
    let try_it = json!({ "identifier": "somebody", "password": "guessing 123" });
    let mut last = client.post("/auth/login", try_it.clone()).await;
    for _ in 0..10 {
        last = client.post("/auth/login", try_it.clone()).await;
    }
    let limited = last.expect_status(429);
    assert!(limited.header("retry-after").parse::<u64>().unwrap() >= 1);
}

/// Everything that needs a one-time code, for somebody who is here and somebody who is not: refused alike, soon, and with
/// nothing done.
async fn no_codes(server: &Server, email: &str) {
    let client = server.client();
    let later = |answer: Answer| {
        let mut answer = answer.expect_problem(503, "Temporarily unavailable");
        assert!(answer.header("retry-after").parse::<u64>().is_ok());
        answer.json["requestId"].take();
        answer.json
    };
    let begun = Instant::now();
    let mut told = Vec::new();
    for email in [email, "nobody@example.com"] {
        let wish = json!({ "email": email });
        let tried = json!({ "email": email, "otp": "123456" });
        let reset = json!({ "email": email, "otp": "123456", "newPassword": "another one 42" });
        told.push([
            later(client.post_as_is("/auth/request-reset", &wish).await),
            later(client.post_as_is("/auth/verify-otp", &tried).await),
            later(client.post_as_is("/auth/reset-password", &reset).await),
        ]);
    }
    assert_eq!(told[0], told[1], "it tells who is here");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(20), "six refusals took {took:?}");
    let mails = std::fs::read_dir(server.data_dir().join("mail"));
    assert_eq!(mails.unwrap().count(), 0, "a mail whose code is no good");
}

#[tokio::test]
async fn without_redis_nobody_is_promised_a_code() {
    if Profile::chosen() == Profile::Embedded {
        // Its codes are in the process.
        return;
    }
    let mut redis = RedisServer::start().await;
    let mut environment = Profile::chosen().environment().await;
    environment.push(("REDIS_URL".to_owned(), redis.url()));
    // With limits, which are counted in Redis, too.
    let server = Server::start_in(&["--rate-limit-per-account", "1000"], environment).await;
    let client = server.client();
    let person = client.sign_up("promised").await;
    let email = format!("{}@example.com", person.username);
    redis.signal("STOP");
    no_codes(&server, &email).await;
    redis.signal("CONT");
    redis.stop();
    no_codes(&server, &email).await;
    redis.start_again().await;
    let wish = json!({ "email": email });
    eventually("a code can be asked for again", || async {
        let asked = client.post("/auth/request-reset", wish.clone()).await;
        (asked.status == 200).then_some(())
    })
    .await;
    let otp = mailed_code(&server, &email).await;
    let reset = json!({ "email": email, "otp": otp, "newPassword": "another one 42" });
    let answer = client.post("/auth/reset-password", reset).await;
    answer.expect_status(200);
}
