//! The outside world of these tests, and how they talk to the router.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, body::Body, response::Response};
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, StatusCode, header::AUTHORIZATION};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::Value;
use socialhub_commands::{
    Actor, Commands, Ports,
    ports::{
        BadToken, LikeCountLookup, Mailer, MediaStore, NotificationLookup, OtpStore, OtpVerdict,
        PasswordHasher, PortError, Secrets, StagedFile, Tokens, Upload, UploadError,
    },
};
use socialhub_domain::{
    Clock, IdGenerator, NotificationId, PostId, StreamId, Timestamp, UserId, event::Visibility,
};
use socialhub_event_log::{
    Append, AppendError, Appended, EventLog, Firehose, LogError, Position, RecordedEvent,
    memory::MemoryEventLog,
};
use socialhub_projections::{
    Freshness, ModelPosition, Page, PageRequest, ReadError,
    counters::ports::{CounterReader, PersonCounts, PostCounts, TrendingPost},
    feed::ports::{
        CommentView, FeedItem, FeedReader, FollowEntry, PersonSummary, PostView, Profile,
        RecentPost,
    },
    notifications::ports::{NotificationPage, NotificationReader, NotificationView},
    page::PageStart,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;

use crate::{
    ApiState, ByteRange, MediaError, MediaReader, NotReady, OpenMedia, Positions, Readiness,
    RecentWrites, Service, Settings, router,
};

/// The person whose token is `ada`.
pub(super) const ADA: UserId = UserId(Uuid::from_u128(0xada));

pub(super) struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp(1_700_000_000_123)
    }
}

#[derive(Default)]
pub(super) struct Counting(AtomicU64);

impl IdGenerator for Counting {
    fn next_id(&self) -> Uuid {
        Uuid::from_u128(0x1000 + u128::from(self.0.fetch_add(1, Ordering::Relaxed)))
    }
}

/// Tokens are usernames: `ada` is good until it is in `revoked`; `boom` panics.
#[derive(Default)]
pub(super) struct Names {
    pub revoked: Mutex<HashSet<String>>,
}

impl Tokens for Names {
    fn issue(&self, actor: &Actor, _: u64, _: Timestamp) -> String {
        actor.username.clone()
    }

    fn verify(&self, token: &str, _: Timestamp) -> Result<Actor, BadToken> {
        assert_ne!(token, "boom", "secret details of a fault");
        if token != "ada" || self.revoked.lock().contains(token) {
            return Err(BadToken);
        }
        Ok(Actor {
            id: ADA,
            username: token.to_owned(),
        })
    }

    fn raise_epoch(&self, _: UserId, _: u64) {}
}

/// Files by post and index.
type Files = Arc<Mutex<HashMap<(PostId, usize), Vec<u8>>>>;

/// Everything the write side asks for and these tests do not care about; files are kept in memory.
#[derive(Default)]
pub(super) struct Outside {
    pub files: Files,
}

#[async_trait]
impl PasswordHasher for Outside {
    async fn hash(&self, password: String) -> Result<String, PortError> {
        Ok(password)
    }

    async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, PortError> {
        Ok(hash == Some(password))
    }
}

#[async_trait]
impl Mailer for Outside {
    async fn send(&self, _: &str, _: &str, _: &str) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait]
impl OtpStore for Outside {
    async fn put(&self, _: &str, _: &str, _: Timestamp) -> Result<(), PortError> {
        Ok(())
    }

    async fn check(&self, _: &str, _: &str, _: Timestamp) -> Result<OtpVerdict, PortError> {
        Ok(OtpVerdict::Bad)
    }

    async fn use_up(&self, _: &str, _: &str) -> Result<bool, PortError> {
        Ok(false)
    }

    async fn burn(&self, _: &str) -> Result<(), PortError> {
        Ok(())
    }
}

impl Secrets for Outside {
    fn otp(&self) -> String {
        "123456".to_owned()
    }
}

#[async_trait]
impl NotificationLookup for Outside {
    async fn owner(&self, _: NotificationId) -> Result<Option<UserId>, PortError> {
        Ok(None)
    }

    async fn position(&self) -> Result<u64, PortError> {
        Ok(0)
    }
}

#[async_trait]
impl LikeCountLookup for Outside {
    async fn like_count(&self, _: PostId, _: UserId) -> Result<u64, PortError> {
        Ok(41)
    }
}

struct MemoryUpload {
    files: Files,
    key: (PostId, usize),
    bytes: Vec<u8>,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), UploadError> {
        self.bytes.extend_from_slice(&chunk);
        if self.bytes.starts_with(b"MZ") {
            return Err(UploadError::UnsupportedType("not a picture".to_owned()));
        }
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<StagedFile, UploadError> {
        let (post, index) = self.key;
        let size = self.bytes.len() as u64;
        let mut sha256 = [0; 32];
        sha256[0] = self.bytes.first().copied().unwrap_or_default();
        self.files.lock().insert(self.key, self.bytes);
        Ok(StagedFile {
            url: format!("/media/{post}/{index}.png"),
            content_type: "image/png".to_owned(),
            size,
            sha256,
        })
    }
}

#[async_trait]
impl MediaStore for Outside {
    async fn begin(&self, post: PostId, index: usize) -> Result<Box<dyn Upload>, UploadError> {
        Ok(Box::new(MemoryUpload {
            files: Arc::clone(&self.files),
            key: (post, index),
            bytes: Vec::new(),
        }))
    }

    async fn remove_post(&self, post: PostId) -> Result<(), PortError> {
        self.files.lock().retain(|(owner, _), _| *owner != post);
        Ok(())
    }
}

/// A read model whose position the test moves.
pub(super) struct Model {
    pub position: watch::Sender<u64>,
    /// How many requests have waited for it.
    pub waiting: AtomicUsize,
}

#[async_trait]
impl ModelPosition for Model {
    async fn position(&self) -> Result<u64, ReadError> {
        Ok(*self.position.borrow())
    }

    async fn wait_for(&self, wanted: u64, limit: Duration) -> Result<Freshness, ReadError> {
        let mut seen = self.position.subscribe();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let reached = seen.wait_for(|position| *position >= wanted);
        let stale = tokio::time::timeout(limit, reached).await.is_err();
        let position = *self.position.borrow();
        Ok(Freshness { position, stale })
    }

    fn known(&self) -> u64 {
        *self.position.borrow()
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.position.subscribe()
    }
}

/// Readers of made-up content: 45 posts in every list, and what streams are told.
#[derive(Default)]
pub(super) struct Readers {
    pub visibility: Mutex<HashMap<PostId, (Visibility, UserId)>>,
    pub new_posts: Mutex<Vec<FeedItem>>,
    pub stream_queries: AtomicUsize,
    pub broken: Mutex<bool>,
    /// Whether the store of the counters is away.
    pub no_counters: Mutex<bool>,
}

/// How many posts every list has.
pub(super) const POSTS: u64 = 45;

fn post(number: u64) -> PostView {
    PostView {
        id: PostId(Uuid::from_u128(u128::from(number))),
        user_id: ADA,
        username: "ada".to_owned(),
        avatar: None,
        content: format!("post {number}"),
        visibility: Visibility::Public,
        media: Vec::new(),
        like_count: 1,
        comment_count: 2,
        liked_by_me: true,
        created_at: Timestamp(1_700_000_000_007),
        position: number,
    }
}

fn page(request: &PageRequest) -> Page<PostView> {
    let skip = match &request.start {
        PageStart::Page(_) => request.offset(),
        PageStart::After(key) => key.parse().unwrap(),
    };
    let end = POSTS.min(skip.saturating_add(request.limit as u64));
    Page {
        items: (skip..end).map(post).collect(),
        next: (end < POSTS).then(|| end.to_string()),
    }
}

#[async_trait]
impl FeedReader for Readers {
    async fn profile(&self, id: UserId, _: UserId) -> Result<Option<Profile>, ReadError> {
        Ok((id == ADA).then(|| Profile {
            id,
            name: "Ada".to_owned(),
            username: "ada".to_owned(),
            avatar: None,
            bio: None,
            followers_count: 1,
            following_count: 2,
            posts_count: 3,
            created_at: Timestamp(0),
            is_following: false,
        }))
    }

    async fn search(&self, _: &str, _: &PageRequest) -> Result<Page<PersonSummary>, ReadError> {
        Ok(Page {
            items: Vec::new(),
            next: Some("more".to_owned()),
        })
    }

    async fn recent(&self, limit: usize) -> Result<Vec<RecentPost>, ReadError> {
        let recent = |number| {
            let post = post(number);
            RecentPost {
                post_id: post.id,
                // The fourth is liked most.
                like_count: if number == 4 { 9 } else { number % 2 },
                comment_count: 0,
                created_at: post.created_at,
            }
        };
        Ok((0..6).map(recent).take(limit).collect())
    }

    async fn followers(
        &self,
        _: UserId,
        _: &PageRequest,
    ) -> Result<Option<Page<FollowEntry>>, ReadError> {
        Ok(None)
    }

    async fn following(
        &self,
        _: UserId,
        _: &PageRequest,
    ) -> Result<Option<Page<FollowEntry>>, ReadError> {
        Ok(None)
    }

    async fn post(&self, id: PostId, _: UserId) -> Result<Option<PostView>, ReadError> {
        if *self.broken.lock() {
            return Err(ReadError("disk on fire at /secret/path".to_owned()));
        }
        Ok((id.0.as_u128() < u128::from(POSTS)).then(|| PostView { id, ..post(1) }))
    }

    async fn posts(&self, ids: &[PostId], _: UserId) -> Result<Vec<PostView>, ReadError> {
        Ok(ids
            .iter()
            .map(|id| PostView { id: *id, ..post(1) })
            .collect())
    }

    async fn posts_of(
        &self,
        _: UserId,
        _: UserId,
        request: &PageRequest,
    ) -> Result<Option<Page<PostView>>, ReadError> {
        Ok(Some(page(request)))
    }

    async fn comments(
        &self,
        _: PostId,
        _: UserId,
        _: &PageRequest,
    ) -> Result<Option<Page<CommentView>>, ReadError> {
        Ok(None)
    }

    async fn home(&self, _: UserId, request: &PageRequest) -> Result<Page<PostView>, ReadError> {
        Ok(page(request))
    }

    async fn home_after(
        &self,
        _: UserId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<FeedItem>, ReadError> {
        self.stream_queries.fetch_add(1, Ordering::Relaxed);
        if *self.broken.lock() {
            return Err(ReadError("the store is away".to_owned()));
        }
        let posts = self.new_posts.lock();
        let new = posts.iter().filter(|item| item.position > after);
        Ok(new.take(limit).copied().collect())
    }

    async fn all_posts_of(&self, _: UserId, _: u64, _: usize) -> Result<Vec<FeedItem>, ReadError> {
        Ok(Vec::new())
    }

    async fn post_for_media(
        &self,
        id: PostId,
        viewer: Option<UserId>,
    ) -> Result<Option<Visibility>, ReadError> {
        let known = self.visibility.lock().get(&id).copied();
        Ok(known
            .filter(|(visibility, owner)| {
                *visibility == Visibility::Public || viewer == Some(*owner)
            })
            .map(|(visibility, _)| visibility))
    }
}

#[async_trait]
impl NotificationReader for Readers {
    async fn list(
        &self,
        _: UserId,
        _: bool,
        _: &PageRequest,
    ) -> Result<NotificationPage, ReadError> {
        Ok(NotificationPage {
            page: Page {
                items: Vec::new(),
                next: None,
            },
            unread_count: 3,
        })
    }

    async fn owner(&self, _: NotificationId) -> Result<Option<UserId>, ReadError> {
        Ok(None)
    }

    async fn after(&self, _: UserId, _: u64, _: usize) -> Result<Vec<NotificationView>, ReadError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl CounterReader for Readers {
    async fn post_counts(&self, ids: &[PostId]) -> Result<Option<Vec<PostCounts>>, ReadError> {
        let counts = PostCounts {
            likes: 77,
            comments: 88,
        };
        Ok(Some(vec![counts; ids.len()]))
    }

    async fn person_counts(&self, _: UserId) -> Result<Option<PersonCounts>, ReadError> {
        Ok(None)
    }

    async fn trending(&self, _: &PageRequest) -> Result<Option<Page<TrendingPost>>, ReadError> {
        let empty = Page {
            items: Vec::new(),
            next: None,
        };
        Ok((!*self.no_counters.lock()).then_some(empty))
    }
}

/// One file of ten bytes in every post.
pub(super) struct TenBytes;

#[async_trait]
impl MediaReader for TenBytes {
    async fn open(
        &self,
        _: PostId,
        name: &str,
        range: Option<ByteRange>,
    ) -> Result<OpenMedia, MediaError> {
        let content_type = match name {
            "0.png" => "image/png",
            "0.html" => "text/html",
            _ => return Err(MediaError::NotFound),
        };
        let bytes = b"0123456789";
        let range = range
            .map(|range| {
                range
                    .resolve(10)
                    .ok_or(MediaError::RangeNotSatisfiable { size: 10 })
            })
            .transpose()?;
        let (first, last) = range.unwrap_or((0, 9));
        let part = &bytes[usize::try_from(first).unwrap()..=usize::try_from(last).unwrap()];
        let chunk = Ok(Bytes::copy_from_slice(part));
        Ok(OpenMedia {
            content_type: content_type.to_owned(),
            size: 10,
            etag: "v1".to_owned(),
            range,
            body: futures::stream::iter([chunk]).boxed(),
        })
    }
}

#[derive(Default)]
pub(super) struct Probe(pub Mutex<Vec<NotReady>>);

#[async_trait]
impl Readiness for Probe {
    async fn not_ready(&self) -> Vec<NotReady> {
        self.0.lock().clone()
    }
}

/// A router and the strings behind it.
pub(super) struct World {
    pub router: Router,
    pub model: Arc<Model>,
    /// What the models should have by now.
    pub due: watch::Sender<u64>,
    pub readers: Arc<Readers>,
    pub outside: Arc<Outside>,
    pub log: Arc<MemoryEventLog>,
    pub read_log: Arc<ReadLog>,
    pub tokens: Arc<Names>,
    pub probe: Arc<Probe>,
    pub shutdown: CancellationToken,
}

/// The log as the firehose reads it: counts the reads, and fails them when asked to.
pub(super) struct ReadLog {
    log: Arc<MemoryEventLog>,
    pub reads: AtomicUsize,
    pub away: AtomicBool,
}

#[async_trait]
impl EventLog for ReadLog {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        self.log.append(append).await
    }

    async fn read_stream(&self, stream: &StreamId) -> Result<Vec<RecordedEvent>, LogError> {
        self.log.read_stream(stream).await
    }

    async fn read_streams(
        &self,
        streams: &[StreamId],
    ) -> Result<Vec<Vec<RecordedEvent>>, LogError> {
        self.log.read_streams(streams).await
    }

    async fn read_all(
        &self,
        after: Position,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, LogError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) {
            return Err(LogError::Unavailable("away".to_owned()));
        }
        self.log.read_all(after, limit).await
    }

    async fn head(&self) -> Result<Position, LogError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(LogError::Unavailable("away".to_owned()));
        }
        self.log.head().await
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.log.watch_head()
    }
}

/// Settings for tests: no rate limits.
pub(super) fn settings() -> Settings {
    Settings {
        rate_limits: None,
        ..Settings::new([9; 32])
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(settings())
    }

    pub(super) fn with(settings: Settings) -> Self {
        let outside = Arc::new(Outside::default());
        let log = Arc::new(MemoryEventLog::new());
        let read_log = Arc::new(ReadLog {
            log: log.clone(),
            reads: AtomicUsize::new(0),
            away: AtomicBool::new(false),
        });
        let tokens = Arc::new(Names::default());
        let ids = Arc::new(Counting::default());
        let readers = Arc::new(Readers::default());
        let model = Arc::new(Model {
            position: watch::Sender::new(0),
            waiting: AtomicUsize::new(0),
        });
        let due = watch::Sender::new(0);
        let probe = Arc::new(Probe::default());
        let shutdown = CancellationToken::new();
        let commands = Commands::new(Ports {
            log: log.clone(),
            credentials: log.clone(),
            hasher: outside.clone(),
            tokens: tokens.clone(),
            mailer: outside.clone(),
            otps: outside.clone(),
            secrets: outside.clone(),
            media: outside.clone(),
            notifications: outside.clone(),
            like_counts: outside.clone(),
            clock: Arc::new(Fixed),
            ids: ids.clone(),
        });
        let state = ApiState {
            commands: Arc::new(commands),
            feed: readers.clone(),
            notifications: readers.clone(),
            counters: readers.clone(),
            firehose: Firehose::new(read_log.clone()),
            positions: Positions {
                feed: model.clone(),
                notifications: model.clone(),
                counters: model.clone(),
                due: due.subscribe(),
            },
            tokens: tokens.clone(),
            clock: Arc::new(Fixed),
            ids,
            media: Arc::new(TenBytes),
            last_writes: Arc::new(RecentWrites::new(0)),
            shared_limits: None,
            readiness: probe.clone(),
            metrics: Arc::new(|| "up 1\n".to_owned()),
            shutdown: shutdown.clone(),
            settings,
        };
        let router = router(state, &Service::ALL);
        Self {
            router,
            model,
            due,
            readers,
            outside,
            log,
            read_log,
            tokens,
            probe,
            shutdown,
        }
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> Response {
        self.send(signed(Method::GET, path).body(Body::empty()).unwrap())
            .await
    }

    pub(super) async fn json(&self, method: Method, path: &str, body: &str) -> Response {
        let request = signed(method, path).header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_owned())).unwrap())
            .await
    }

    pub(super) async fn post(&self, path: &str, body: &str) -> Response {
        self.json(Method::POST, path, body).await
    }
}

/// A request by Ada.
pub(super) fn signed(method: Method, path: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header(AUTHORIZATION, "Bearer ada")
}

pub(super) async fn body(response: Response) -> Value {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap()
}

/// A header as text; empty when it is not there.
pub(super) fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

/// Checks that an answer is a problem of this status and short message; answers the bad fields it names.
#[track_caller]
pub(super) fn problem(
    status: StatusCode,
    kind: &str,
    body: &Value,
    wanted: u16,
    error: &str,
) -> Vec<String> {
    assert_eq!(status.as_u16(), wanted, "{body}");
    assert_eq!(kind, "application/problem+json");
    assert_eq!(body["status"], wanted);
    assert_eq!(body["error"], error);
    assert!(!body["requestId"].as_str().unwrap().is_empty());
    let errors = body["errors"].as_array().unwrap();
    errors
        .iter()
        .map(|one| one["field"].as_str().unwrap().to_owned())
        .collect()
}

/// The same for a whole answer.
pub(super) async fn refused(response: Response, wanted: u16, error: &str) -> Vec<String> {
    let status = response.status();
    let kind = header(&response, "content-type").to_owned();
    let length = header(&response, "content-length").to_owned();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    // A length left over from before the body was written would break the connection.
    assert_eq!(length, bytes.len().to_string());
    let body = serde_json::from_slice(&bytes).unwrap();
    problem(status, &kind, &body, wanted, error)
}
