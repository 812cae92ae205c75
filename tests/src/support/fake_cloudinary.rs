//! Cloudinary as far as we use it: it checks the signature of each call by the documented rule, written down here a
//! second time, and keeps files in memory.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Form, Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Multipart, Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use socialhub_domain::Clock;
use socialhub_infra::clock::SystemClock;
use tokio::{net::TcpListener, task::JoinSet};

const CLOUD: &str = "test-cloud";
const KEY: &str = "123456";
const SECRET: &str = "cloud/secret";
/// How far a signature's time may be from now.
const SIGNED_FOR: i64 = 3_600;
/// The most a page of a listing has here, so that there is a second one.
const PAGE: usize = 2;

/// A running fake; ends with this value.
pub struct FakeCloudinary {
    cloud: Arc<Cloud>,
    endpoint: String,
    _server: JoinSet<()>,
}

#[derive(Default)]
struct Cloud {
    files: Mutex<BTreeMap<String, File>>,
    ignores_ranges: AtomicBool,
}

#[derive(Clone)]
struct File {
    content: Bytes,
    created: DateTime<Utc>,
}

type Fields = BTreeMap<String, String>;

impl FakeCloudinary {
    /// Starts it on a free port.
    pub async fn start() -> Self {
        let cloud = Arc::new(Cloud::default());
        let routes = Router::new()
            .route("/v1_1/{cloud}/raw/upload", post(upload))
            .route("/v1_1/{cloud}/raw/destroy", post(destroy))
            .route("/v1_1/{cloud}/resources/raw/authenticated", get(list))
            .route(
                "/{cloud}/raw/authenticated/{signature}/v1/{*id}",
                get(deliver),
            )
            .layer(DefaultBodyLimit::disable())
            .with_state(cloud.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self {
            cloud,
            endpoint,
            _server: server,
        }
    }

    /// An address for `MEDIA_URL` with the right keys.
    pub fn url(&self) -> String {
        self.url_with("cloud%2Fsecret")
    }

    /// The same with another secret.
    pub fn url_with(&self, secret: &str) -> String {
        format!(
            "cloudinary://{KEY}:{secret}@{CLOUD}?endpoint={}",
            self.endpoint
        )
    }

    /// How many files there are.
    pub fn stored(&self) -> usize {
        self.cloud.files.lock().unwrap().len()
    }

    /// From now on answers every request for a part with the whole, as a cache on the way may.
    pub fn ignore_ranges(&self) {
        self.cloud.ignores_ranges.store(true, Ordering::Relaxed);
    }
}

type Refused = (StatusCode, Json<Value>);

fn refused(status: StatusCode, message: &str) -> Refused {
    (status, Json(json!({"error": {"message": message}})))
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_millis(SystemClock.now().0).unwrap()
}

/// Every field but these four is signed, in the order of the names.
fn is_signed(fields: &Fields) -> bool {
    let unsigned = ["api_key", "file", "resource_type", "signature"];
    let signed: Vec<String> = fields
        .iter()
        .filter(|(name, _)| !unsigned.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let digest = Sha256::digest(signed.join("&") + SECRET);
    let wanted = format!("{digest:x}");
    let time: i64 = fields["timestamp"].parse().unwrap_or(0);
    fields.get("api_key").is_some_and(|key| key == KEY)
        && fields.get("signature") == Some(&wanted)
        && (time - now().timestamp()).abs() < SIGNED_FOR
}

fn check(cloud: &str, fields: &Fields) -> Result<String, Refused> {
    if cloud != CLOUD || !fields.contains_key("timestamp") || !is_signed(fields) {
        return Err(refused(StatusCode::UNAUTHORIZED, "Invalid Signature"));
    }
    if fields.get("type").map(String::as_str) != Some("authenticated") {
        return Err(refused(StatusCode::BAD_REQUEST, "anybody could read it"));
    }
    let id = fields.get("public_id").cloned();
    id.ok_or_else(|| refused(StatusCode::BAD_REQUEST, "Missing public_id"))
}

async fn upload(
    State(state): State<Arc<Cloud>>,
    Path(cloud): Path<String>,
    mut form: Multipart,
) -> Result<Json<Value>, Refused> {
    let broken = |_| refused(StatusCode::BAD_REQUEST, "broken off");
    let (mut fields, mut file) = (Fields::new(), None);
    while let Some(field) = form.next_field().await.map_err(broken)? {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" {
            file = Some(field.bytes().await.map_err(broken)?);
        } else {
            fields.insert(name, field.text().await.map_err(broken)?);
        }
    }
    let id = check(&cloud, &fields)?;
    let file = file.ok_or_else(|| refused(StatusCode::BAD_REQUEST, "Missing file"))?;
    let file = File {
        content: file,
        created: now(),
    };
    let answer = described(&id, &file);
    state.files.lock().unwrap().insert(id, file);
    Ok(Json(answer))
}

fn described(id: &str, file: &File) -> Value {
    json!({
        "public_id": id, "resource_type": "raw", "type": "authenticated", "bytes": file.content.len(), "created_at": file.created.to_rfc3339(),
    })
}

async fn destroy(
    State(state): State<Arc<Cloud>>,
    Path(cloud): Path<String>,
    Form(fields): Form<Fields>,
) -> Result<Json<Value>, Refused> {
    let id = check(&cloud, &fields)?;
    let removed = state.files.lock().unwrap().remove(&id).is_some();
    let result = if removed { "ok" } else { "not found" };
    Ok(Json(json!({ "result": result })))
}

async fn list(
    State(state): State<Arc<Cloud>>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let login = general_purpose::STANDARD.encode(format!("{KEY}:{SECRET}"));
    let given = headers.get(header::AUTHORIZATION);
    if given.is_none_or(|given| given != &format!("Basic {login}")) {
        return refused(StatusCode::UNAUTHORIZED, "unknown api_key").into_response();
    }
    let prefix = &query["prefix"];
    let files = state.files.lock().unwrap();
    let from = match query.get("next_cursor") {
        Some(last) => Bound::Excluded(last.clone()),
        None => Bound::Unbounded,
    };
    let mut page: Vec<_> = files
        .range((from, Bound::Unbounded))
        .filter(|(id, _)| id.starts_with(prefix))
        .take(PAGE + 1)
        .collect();
    let more = page.len() > PAGE;
    page.truncate(PAGE);
    let next = page.last().filter(|_| more).map(|(id, _)| *id);
    let resources: Vec<_> = page.iter().map(|(id, file)| described(id, file)).collect();
    let mut body = json!({ "resources": resources });
    if let Some(next) = next {
        body["next_cursor"] = json!(next);
    }
    Json(body).into_response()
}

async fn deliver(
    State(state): State<Arc<Cloud>>,
    Path((cloud, signature, id)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let digest = Sha256::digest(format!("{id}{SECRET}"));
    let wanted = &general_purpose::URL_SAFE.encode(digest)[..32];
    if cloud != CLOUD || signature != format!("s--{wanted}--") {
        return refused(StatusCode::UNAUTHORIZED, "Invalid Signature").into_response();
    }
    let Some(File { content: file, .. }) = state.files.lock().unwrap().get(&id).cloned() else {
        return refused(StatusCode::NOT_FOUND, "Resource not found").into_response();
    };
    let etag = (header::ETAG, format!("\"{:x}\"", Sha256::digest(&file)));
    let range = headers.get(header::RANGE).map(|range| part(range, &file));
    match range.filter(|_| !state.ignores_ranges.load(Ordering::Relaxed)) {
        None => ([etag], file).into_response(),
        Some(Some((first, last))) => {
            let range = format!("bytes {first}-{last}/{}", file.len());
            let headers = [etag, (header::CONTENT_RANGE, range)];
            let part = file.slice(first..=last);
            (StatusCode::PARTIAL_CONTENT, headers, part).into_response()
        }
        Some(None) => refused(StatusCode::RANGE_NOT_SATISFIABLE, "no such part").into_response(),
    }
}

fn part(range: &header::HeaderValue, file: &Bytes) -> Option<(usize, usize)> {
    let (first, last) = range
        .to_str()
        .ok()?
        .strip_prefix("bytes=")?
        .split_once('-')?;
    let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    (first < file.len()).then(|| (first, last.min(file.len() - 1)))
}
