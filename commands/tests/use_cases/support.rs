//! Fake ports, and a small world of people over the event log in memory.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use socialhub_commands::{
    Actor, CommandContext, CommandError, Commands, Done, IdempotencyKey, Ports,
    create_post::{CreatePost, CreatedPost},
    ports::{
        BadToken, LikeCountLookup, Mailer, MediaStore, NotificationLookup, OtpStore, OtpVerdict,
        PasswordHasher, PortError, Secrets, StagedFile, Tokens, Upload, UploadError,
    },
    sign_up::{Authenticated, SignUp},
};
use socialhub_domain::{
    Clock, IdGenerator, NotificationId, PostId, StreamId, Timestamp, UserId, event::Visibility,
};
use socialhub_event_log::{
    Append, AppendError, Appended, EventLog, LogError, MemoryEventLog, Position, RecordedEvent,
};
use tokio::sync::Semaphore;
use uuid::Uuid;

/// The code every fake mail carries.
pub const OTP: &str = "271828";

/// Time that moves by a millisecond whenever somebody looks.
#[derive(Default)]
pub struct FakeClock(AtomicI64);

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1, Ordering::SeqCst))
    }
}

#[derive(Default)]
struct FakeIds(AtomicU64);

impl IdGenerator for FakeIds {
    fn next_id(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.0.fetch_add(1, Ordering::SeqCst)) + 1)
    }
}

/// Hashes by writing `hash of` before the password; counts its work.
#[derive(Default)]
pub struct FakeHasher {
    pub hashed: AtomicUsize,
    pub verified: AtomicUsize,
}

#[async_trait]
impl PasswordHasher for FakeHasher {
    async fn hash(&self, password: String) -> Result<String, PortError> {
        self.hashed.fetch_add(1, Ordering::SeqCst);
        // As slow as the real one, in a small way: others come in between.
        tokio::task::yield_now().await;
        Ok(format!("hash of {password}"))
    }

    async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, PortError> {
        self.verified.fetch_add(1, Ordering::SeqCst);
        Ok(hash == Some(format!("hash of {password}")))
    }
}

/// Tokens that say what they are made of: `<user>@<epoch>`.
#[derive(Default)]
pub struct FakeTokens {
    pub raised: Mutex<Vec<(UserId, u64)>>,
}

impl Tokens for FakeTokens {
    fn issue(&self, actor: &Actor, epoch: u64, _: Timestamp) -> String {
        format!("{}@{epoch}", actor.id)
    }

    fn verify(&self, _: &str, _: Timestamp) -> Result<Actor, BadToken> {
        Err(BadToken)
    }

    fn raise_epoch(&self, user: UserId, epoch: u64) {
        self.raised.lock().push((user, epoch));
    }
}

/// Keeps what was sent.
#[derive(Default)]
pub struct FakeMailer {
    pub sent: Mutex<Vec<(String, String)>>,
}

#[async_trait]
impl Mailer for FakeMailer {
    async fn send(&self, to: &str, _: &str, text: &str) -> Result<(), PortError> {
        self.sent.lock().push((to.to_owned(), text.to_owned()));
        Ok(())
    }
}

/// Codes with their wrong tries; burnt by the fifth.
#[derive(Default)]
pub struct FakeOtps {
    kept: Mutex<HashMap<String, (String, u32)>>,
    /// Whether it is away.
    pub down: AtomicBool,
}

impl FakeOtps {
    fn answers(&self) -> Result<(), PortError> {
        if self.down.load(Ordering::Relaxed) {
            return Err(PortError("down".to_owned()));
        }
        Ok(())
    }

    /// How many codes it keeps.
    pub fn count(&self) -> usize {
        self.kept.lock().len()
    }
}

#[async_trait]
impl OtpStore for FakeOtps {
    async fn put(&self, email: &str, otp: &str, _: Timestamp) -> Result<(), PortError> {
        self.answers()?;
        self.kept
            .lock()
            .insert(email.to_owned(), (otp.to_owned(), 0));
        Ok(())
    }

    async fn check(&self, email: &str, otp: &str, _: Timestamp) -> Result<OtpVerdict, PortError> {
        self.answers()?;
        let mut kept = self.kept.lock();
        let Some((good, wrong)) = kept.get_mut(email) else {
            return Ok(OtpVerdict::Bad);
        };
        if good == otp {
            return Ok(OtpVerdict::Good);
        }
        *wrong += 1;
        if *wrong == 5 {
            kept.remove(email);
        }
        Ok(OtpVerdict::Bad)
    }

    async fn use_up(&self, email: &str, otp: &str) -> Result<bool, PortError> {
        self.answers()?;
        let mut kept = self.kept.lock();
        let is_it = kept.get(email).is_some_and(|(good, _)| good == otp);
        if is_it {
            kept.remove(email);
        }
        Ok(is_it)
    }

    async fn burn(&self, email: &str) -> Result<(), PortError> {
        self.kept.lock().remove(email);
        Ok(())
    }
}

struct FakeSecrets;

impl Secrets for FakeSecrets {
    fn otp(&self) -> String {
        OTP.to_owned()
    }
}

/// Counts the files of each post; wakes whoever waits for a removal.
#[derive(Default)]
pub struct FakeMedia {
    files: Arc<Mutex<HashMap<PostId, usize>>>,
    changed: tokio::sync::Notify,
}

impl FakeMedia {
    /// How many files there are of all posts.
    pub fn count(&self) -> usize {
        self.files.lock().values().sum()
    }

    /// Waits until there are no files.
    pub async fn emptied(&self) {
        loop {
            let changed = self.changed.notified();
            if self.count() == 0 {
                return;
            }
            changed.await;
        }
    }
}

struct FakeUpload {
    files: Arc<Mutex<HashMap<PostId, usize>>>,
    post: PostId,
    index: usize,
    size: u64,
}

#[async_trait]
impl Upload for FakeUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), UploadError> {
        self.size += chunk.len() as u64;
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<StagedFile, UploadError> {
        *self.files.lock().entry(self.post).or_default() += 1;
        Ok(StagedFile {
            url: format!("/media/{}/{}", self.post, self.index),
            content_type: "image/png".into(),
            size: self.size,
            sha256: [0; 32],
        })
    }
}

#[async_trait]
impl MediaStore for FakeMedia {
    async fn begin(&self, post: PostId, index: usize) -> Result<Box<dyn Upload>, UploadError> {
        Ok(Box::new(FakeUpload {
            files: self.files.clone(),
            post,
            index,
            size: 0,
        }))
    }

    async fn remove_post(&self, post: PostId) -> Result<(), PortError> {
        self.files.lock().remove(&post);
        self.changed.notify_waiters();
        Ok(())
    }
}

/// Whose notifications there are.
#[derive(Default)]
pub struct FakeNotifications {
    pub owners: Mutex<HashMap<NotificationId, UserId>>,
    pub position: AtomicU64,
}

#[async_trait]
impl NotificationLookup for FakeNotifications {
    async fn owner(&self, id: NotificationId) -> Result<Option<UserId>, PortError> {
        Ok(self.owners.lock().get(&id).copied())
    }

    async fn position(&self) -> Result<Position, PortError> {
        Ok(self.position.load(Ordering::SeqCst))
    }
}

/// Answers 7, when it lets somebody through.
pub struct FakeCounts {
    pub down: AtomicBool,
    /// A permit for each that may pass; plenty at first.
    pub gate: Semaphore,
    pub waiting: tokio::sync::watch::Sender<usize>,
}

impl FakeCounts {
    /// From now on nobody passes.
    pub fn shut(&self) {
        self.gate.forget_permits(usize::MAX);
    }

    /// Lets everybody pass again.
    pub fn open(&self) {
        self.gate.add_permits(1_000_000);
    }
}

#[async_trait]
impl LikeCountLookup for FakeCounts {
    async fn like_count(&self, _: PostId, _: UserId) -> Result<u64, PortError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(PortError("counters are down".into()));
        }
        self.waiting.send_modify(|waiting| *waiting += 1);
        let passed = self.gate.acquire().await;
        passed.map_err(|_| PortError("closed".into()))?.forget();
        self.waiting.send_modify(|waiting| *waiting -= 1);
        Ok(7)
    }
}

/// A log whose answers to appends are slow: what it was sent stands before it says so.
pub struct SlowToAnswer {
    log: Arc<MemoryEventLog>,
    committed: Semaphore,
    answers: Semaphore,
}

impl SlowToAnswer {
    pub fn new(log: Arc<MemoryEventLog>) -> Self {
        Self {
            log,
            committed: Semaphore::new(0),
            answers: Semaphore::new(0),
        }
    }

    /// Waits until an append has committed that was not waited for yet.
    pub async fn committed(&self) {
        self.committed
            .acquire()
            .await
            .expect("never closed")
            .forget();
    }

    /// Lets it answer an append.
    pub fn answer(&self) {
        self.answers.add_permits(1);
    }
}

#[async_trait]
impl EventLog for SlowToAnswer {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let outcome = self.log.append(append).await;
        self.committed.add_permits(1);
        self.answers.acquire().await.expect("never closed").forget();
        outcome
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
        self.log.read_all(after, limit).await
    }

    async fn head(&self) -> Result<Position, LogError> {
        self.log.head().await
    }

    fn watch_head(&self) -> tokio::sync::watch::Receiver<Position> {
        self.log.watch_head()
    }
}

/// The write side with everything around it in reach.
pub struct World {
    pub log: Arc<MemoryEventLog>,
    pub commands: Commands,
    pub ports: Ports,
    pub hasher: Arc<FakeHasher>,
    pub tokens: Arc<FakeTokens>,
    pub mailer: Arc<FakeMailer>,
    pub otps: Arc<FakeOtps>,
    pub media: Arc<FakeMedia>,
    pub notifications: Arc<FakeNotifications>,
    pub counts: Arc<FakeCounts>,
}

impl World {
    pub fn new() -> Self {
        let log = Arc::new(MemoryEventLog::new());
        let hasher = Arc::new(FakeHasher::default());
        let tokens = Arc::new(FakeTokens::default());
        let mailer = Arc::new(FakeMailer::default());
        let otps = Arc::new(FakeOtps::default());
        let media = Arc::new(FakeMedia::default());
        let notifications = Arc::new(FakeNotifications::default());
        let counts = Arc::new(FakeCounts {
            down: AtomicBool::new(false),
            gate: Semaphore::new(1_000_000),
            waiting: tokio::sync::watch::Sender::new(0),
        });
        let ports = Ports {
            log: log.clone(),
            credentials: log.clone(),
            hasher: hasher.clone(),
            tokens: tokens.clone(),
            mailer: mailer.clone(),
            otps: otps.clone(),
            secrets: Arc::new(FakeSecrets),
            media: media.clone(),
            notifications: notifications.clone(),
            like_counts: counts.clone(),
            clock: Arc::new(FakeClock::default()),
            ids: Arc::new(FakeIds::default()),
        };
        Self {
            log,
            commands: Commands::new(ports.clone()),
            ports,
            hasher,
            tokens,
            mailer,
            otps,
            media,
            notifications,
            counts,
        }
    }

    /// The write side of another process over the same log.
    pub fn another_process(&self) -> Commands {
        Commands::new(self.ports.clone())
    }

    /// The write side over the same log when it is slow to answer.
    pub fn over_a_slow_log(&self) -> (Commands, Arc<SlowToAnswer>) {
        let log = Arc::new(SlowToAnswer::new(self.log.clone()));
        let ports = Ports {
            log: log.clone(),
            ..self.ports.clone()
        };
        (Commands::new(ports), log)
    }

    pub async fn sign_up(&self, username: &str) -> Result<Done<Authenticated>, CommandError> {
        let ctx = CommandContext::default();
        self.commands.sign_up(&ctx, new_person(username)).await
    }

    /// Signs somebody up who can be.
    pub async fn person(&self, username: &str) -> Actor {
        let done = self.sign_up(username).await.expect("can sign up");
        Actor {
            id: done.result.user.id,
            username: username.to_owned(),
        }
    }

    pub async fn post(&self, author: &Actor, visibility: Visibility) -> CreatedPost {
        let input = CreatePost {
            content: "Hello".into(),
            visibility,
        };
        let draft = self.commands.draft_post();
        let done = self.commands.create_post(&by(author), draft, input).await;
        done.expect("can be written").result
    }

    /// The types of all events, in order.
    pub fn event_types(&self) -> Vec<String> {
        let events = self.log.events();
        events.into_iter().map(|event| event.event_type).collect()
    }

    /// How many events of a type there are.
    pub fn count(&self, event_type: &str) -> usize {
        let types = self.event_types();
        types.iter().filter(|name| *name == event_type).count()
    }
}

pub fn new_person(username: &str) -> SignUp {
    SignUp {
        name: format!("The {username}"),
        email: format!("{username}@example.org"),
        username: username.to_owned(),
        password: "correct horse".into(),
    }
}

/// A request of somebody.
pub fn by(actor: &Actor) -> CommandContext {
    CommandContext {
        actor: Some(actor.clone()),
        request_id: "request-1".into(),
        ..CommandContext::default()
    }
}

impl WithKey for CommandContext {
    fn with_key(mut self, key: &str, content: u8) -> Self {
        self.idempotency = Some(IdempotencyKey {
            route: "POST /somewhere",
            key: key.to_owned(),
            fingerprint: [content; 32],
        });
        self
    }
}

/// A request that carries an `Idempotency-Key`.
pub trait WithKey {
    /// Under `key`, with a content that is told apart by a number.
    fn with_key(self, key: &str, content: u8) -> Self;
}

/// The names of the bad fields.
#[track_caller]
pub fn bad_fields<T>(outcome: Result<T, CommandError>) -> HashSet<String> {
    match outcome {
        Err(CommandError::Invalid(errors)) => errors.into_iter().map(|error| error.field).collect(),
        Err(other) => panic!("expected bad fields, found: {other}"),
        Ok(_) => panic!("expected bad fields, but it was accepted"),
    }
}

/// The message of a refusal, with its kind.
#[track_caller]
pub fn refusal<T>(outcome: Result<T, CommandError>) -> (u16, String) {
    let Err(error) = outcome else {
        panic!("expected a refusal, but it was accepted");
    };
    let status = match &error {
        CommandError::Invalid(_) | CommandError::Refused(_) => 400,
        CommandError::Unauthenticated(_) => 401,
        CommandError::Forbidden(_) => 403,
        CommandError::NotFound(_) => 404,
        CommandError::StillRunning | CommandError::Contended => 409,
        CommandError::TooLarge(_) => 413,
        CommandError::UnsupportedMedia(_) => 415,
        CommandError::KeyReused => 422,
        CommandError::Internal(_) => 500,
        CommandError::Unavailable(_) => 503,
        CommandError::OutcomeUnknown => 504,
    };
    (status, error.to_string())
}
