//! A client of the public contract.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use reqwest::{Method, RequestBuilder, header::HeaderMap, multipart::Form};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::server::PATIENCE;

/// A client, anonymous or somebody's.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    /// The person's id; empty when anonymous.
    pub id: String,
    /// The person's username; empty when anonymous.
    pub username: String,
    /// Their token; empty when anonymous.
    pub token: String,
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as JSON; `Null` when it is not JSON.
    pub json: Value,
    /// The body.
    pub bytes: Vec<u8>,
}

/// The password of everybody who signs up here.
pub const PASSWORD: &str = "Password123!";

static NAMES: AtomicU64 = AtomicU64::new(0);

/// A username nobody in this run has.
pub fn fresh_name(stem: &str) -> String {
    format!("{stem}{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

impl Client {
    /// An anonymous client.
    pub fn new(base: &str) -> Self {
        socialhub_infra::tls::install();
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            // Nobody here speaks TLS, and to read a system's certificates takes long in a debug build.
            .tls_certs_only([])
            .build()
            .unwrap();
        Self {
            http,
            base: base.to_owned(),
            id: String::new(),
            username: String::new(),
            token: String::new(),
        }
    }

    /// Signs somebody new up and answers their client.
    pub async fn sign_up(&self, stem: &str) -> Self {
        let username = fresh_name(stem);
        let body = json!({
            "name": format!("{stem} the tester"),
            "email": format!("{username}@example.com"),
            "username": username,
            "password": PASSWORD,
        });
        let answer = self.post("/auth/signup", body).await.expect_status(201);
        self.with_token(answer.text("/user/id"), &username, answer.text("/token"))
    }

    /// The same server with somebody's token.
    pub fn with_token(&self, id: &str, username: &str, token: &str) -> Self {
        let mut other = self.clone();
        (other.id, other.username, other.token) =
            (id.to_owned(), username.to_owned(), token.to_owned());
        other
    }

    /// Somebody whom another server knows, logged in on this client's with their old password.
    pub async fn log_in_as(&self, person: &Self) -> Self {
        let login = json!({ "identifier": person.username, "password": PASSWORD });
        let answer = self.post("/auth/login", login).await.expect_status(200);
        self.with_token(&person.id, &person.username, answer.text("/token"))
    }

    /// A request with the person's token, for the test to add to.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        if self.token.is_empty() {
            request
        } else {
            request.bearer_auth(&self.token)
        }
    }

    /// Sends a request.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        read(request.send().await.unwrap()).await
    }

    /// GET, or none when nobody answers.
    pub async fn try_get(&self, path: &str) -> Option<Answer> {
        Some(read(self.request(Method::GET, path).send().await.ok()?).await)
    }

    /// GET. An answer that says that its read model is behind (`X-Stale`), or that there will be one later, is asked for
    /// again for a while, as a patient client does; then it is answered as it is.
    pub async fn get(&self, path: &str) -> Answer {
        let request = || self.request(Method::GET, path);
        self.send_until(request, |answer| !answer.is_stale()).await
    }

    /// The same, of what has happened up to a position; what others have written since may be missing.
    pub async fn get_after(&self, path: &str, position: &str) -> Answer {
        let request = || {
            let request = self.request(Method::GET, path);
            request.header("x-min-position", position)
        };
        let enough = |answer: &Answer| !answer.is_stale() || answer.has_reached(position);
        self.send_until(request, enough).await
    }

    async fn send_until(
        &self,
        request: impl Fn() -> RequestBuilder,
        enough: impl Fn(&Answer) -> bool,
    ) -> Answer {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let answer = self.send(request()).await;
            let later = answer.is_put_off();
            if !later && enough(&answer) || Instant::now() > give_up {
                return answer;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// GET, however far behind the read model is, and if there is no answer now.
    pub async fn get_as_is(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// POST of JSON; `Null` sends no body. As with all commands here, one that was put off is sent again for a while: nothing
    /// was done.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.with_body(Method::POST, path, body).await
    }

    /// PUT of JSON.
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.with_body(Method::PUT, path, body).await
    }

    /// PATCH of JSON.
    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.with_body(Method::PATCH, path, body).await
    }

    /// POST of JSON, for who wants to know whether it is put off.
    pub async fn post_as_is(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        self.with_body(Method::DELETE, path, Value::Null).await
    }

    /// POST of JSON under an idempotency key; none when the connection broke.
    pub async fn try_post_with_key(&self, path: &str, key: &str, body: &Value) -> Option<Answer> {
        let request = self
            .request(Method::POST, path)
            .header("idempotency-key", key)
            .json(body);
        Some(read(request.send().await.ok()?).await)
    }

    /// POST of a form with files.
    pub async fn post_form(&self, path: &str, form: Form) -> Answer {
        self.send(self.request(Method::POST, path).multipart(form))
            .await
    }

    /// Writes a post and answers its id.
    pub async fn write_post(&self, content: &str, visibility: &str) -> String {
        let body = json!({ "content": content, "visibility": visibility });
        self.post("/posts/", body)
            .await
            .expect_status(201)
            .text("/post/id")
            .to_owned()
    }

    async fn with_body(&self, method: Method, path: &str, body: Value) -> Answer {
        let request = || {
            let request = self.request(method.clone(), path);
            if body.is_null() {
                request
            } else {
                request.json(&body)
            }
        };
        self.send_until(request, |_| true).await
    }
}

async fn read(response: reqwest::Response) -> Answer {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.bytes().await.unwrap_or_default().to_vec();
    Answer {
        status,
        headers,
        json: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        bytes,
    }
}

impl Answer {
    /// Fails the test unless the status is this.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    pub fn expect_status(self, status: u16) -> Self {
        let body = String::from_utf8_lossy(&self.bytes);
        assert_eq!(self.status, status, "{body}");
        self
    }

    /// A text in the body, by JSON pointer.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn text(&self, pointer: &str) -> &str {
        self.at(pointer)
            .as_str()
            .unwrap_or_else(|| panic!("no text at {pointer}: {}", self.json))
    }

    /// A value in the body, by JSON pointer; `Null` when there is none.
    pub fn at(&self, pointer: &str) -> &Value {
        self.json.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// A list in the body.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn list(&self, pointer: &str) -> &Vec<Value> {
        self.at(pointer)
            .as_array()
            .unwrap_or_else(|| panic!("no list at {pointer}: {}", self.json))
    }

    /// A header, empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Whether it says that nothing was done and when to ask again.
    pub fn is_put_off(&self) -> bool {
        self.status == 503 && self.header("retry-after").parse::<u64>().is_ok()
    }

    /// Whether it says that its read model is behind what was asked for.
    pub fn is_stale(&self) -> bool {
        self.header("x-stale") == "true"
    }

    /// Whether its read model has come to a position, an `X-Position` of another answer.
    ///
    /// # Panics
    /// When that is not a position.
    #[track_caller]
    pub fn has_reached(&self, position: &str) -> bool {
        let wanted: u64 = position.parse().unwrap();
        let reached = self.header("x-position").parse();
        reached.is_ok_and(|reached: u64| reached >= wanted)
    }

    /// Fails the test unless this is a problem (RFC 9457) of the given status with the seed's short message.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn expect_problem(self, status: u16, error: &str) -> Self {
        let answer = self.expect_status(status);
        assert!(
            answer
                .header("content-type")
                .starts_with("application/problem+json"),
            "{:?}",
            answer.headers
        );
        assert_eq!(answer.text("/error"), error, "{}", answer.json);
        assert_eq!(answer.at("/status"), status, "{}", answer.json);
        assert_eq!(answer.text("/requestId"), answer.header("x-request-id"));
        answer
    }

    /// Fails the test unless this is a 400 that names exactly these fields.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn expect_fields(self, fields: &[&str]) -> Self {
        let answer = self.expect_status(400);
        let mut named: Vec<_> = answer
            .list("/errors")
            .iter()
            .map(|error| error["field"].as_str().unwrap())
            .collect();
        named.sort_unstable();
        named.dedup();
        let mut wanted = fields.to_vec();
        wanted.sort_unstable();
        assert_eq!(named, wanted, "{}", answer.json);
        answer
    }
}
