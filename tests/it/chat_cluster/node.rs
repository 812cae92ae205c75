//! An instance of the chat in a runtime of its own, so that it can be killed; and the log that all of them share.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::serve::ListenerExt;
use socialhub_chat::{
    Appended, Chat, ChatBus, ChatDeps, ChatLimits, ChatLog, ChatLogError, ChatUser, Direction,
    Frame, History, HistoryQuery, Inbox, MemoryChatLog, Message, NewMessage, RoomId, Sign,
    TokenCheck,
};
use socialhub_domain::UserId;
use socialhub_infra::{
    clock::{RandomIds, SystemClock},
    postgres::chat_log::PgChatLog,
    redis_chat::RedisBus,
};
use socialhub_tests::support::postgres::Database;
use tokio::{net::TcpListener, runtime::Runtime};

/// How long a killed instance's people stay.
pub const LEASE: Duration = Duration::from_secs(2);
/// What a gateway would prove itself with.
pub const SECRET: &str = "between us";

/// The log that all instances of a cluster share.
pub struct SharedLog {
    place: Place,
    /// Reads of a room so far.
    pub reads: Arc<AtomicU64>,
    _database: Option<Database>,
}

#[derive(Clone)]
enum Place {
    Memory(Arc<SlowLog>),
    /// Its address.
    Postgres(String),
}

impl SharedLog {
    /// In the memory of this process.
    pub fn memory() -> Self {
        Self::at(Place::Memory(Arc::default()))
    }

    /// In a fresh database, to which each instance makes its own connections, as processes do.
    pub async fn postgres() -> Self {
        let database = Database::create().await;
        let log = Self::in_database(database.url()).await;
        Self {
            _database: Some(database),
            ..log
        }
    }

    /// In a database that is the test's to end.
    pub async fn in_database(url: &str) -> Self {
        PgChatLog::migrate(url).await.unwrap();
        Self::at(Place::Postgres(url.to_owned()))
    }

    fn at(place: Place) -> Self {
        Self {
            place,
            reads: Arc::default(),
            _database: None,
        }
    }

    /// Opens it for one instance, in whose runtime this is called.
    fn open(&self) -> impl Future<Output = Arc<dyn ChatLog>> + Send + 'static {
        let (place, reads) = (self.place.clone(), self.reads.clone());
        async move {
            let inner: Arc<dyn ChatLog> = match place {
                Place::Memory(log) => log,
                Place::Postgres(url) => Arc::new(PgChatLog::connect(&url).await.unwrap()),
            };
            Arc::new(CountedLog { inner, reads }) as Arc<dyn ChatLog>
        }
    }

    /// What is kept of a room, as somebody finds it who comes after all.
    pub async fn kept(&self, room: &str) -> Vec<Message> {
        let query = HistoryQuery {
            after: 0,
            before: None,
            direction: Direction::Oldest,
            limit: 1_000_000,
        };
        let room = RoomId::parse(room).unwrap();
        self.open().await.read(&room, query).await.unwrap().messages
    }
}

/// A log that counts what it is asked.
struct CountedLog {
    inner: Arc<dyn ChatLog>,
    reads: Arc<AtomicU64>,
}

#[async_trait]
impl ChatLog for CountedLog {
    async fn append(&self, batch: Vec<NewMessage>) -> Result<Vec<Appended>, ChatLogError> {
        self.inner.append(batch).await
    }

    async fn read(&self, room: &RoomId, query: HistoryQuery) -> Result<History, ChatLogError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.read(room, query).await
    }

    async fn erase(&self, user: UserId) -> Result<(), ChatLogError> {
        self.inner.erase(user).await
    }

    async fn last_seqs(&self, rooms: &[RoomId]) -> Result<Vec<u64>, ChatLogError> {
        self.inner.last_seqs(rooms).await
    }
}

/// A log in memory that takes a moment, before and after it commits, so that instances learn of each other's messages in
/// any order.
#[derive(Default)]
struct SlowLog {
    inner: MemoryChatLog,
    turns: AtomicU64,
}

impl SlowLog {
    async fn dawdle(&self) {
        let turn = self.turns.fetch_add(7, Ordering::Relaxed) % 4;
        tokio::time::sleep(Duration::from_millis(turn)).await;
    }
}

#[async_trait]
impl ChatLog for SlowLog {
    async fn append(&self, batch: Vec<NewMessage>) -> Result<Vec<Appended>, ChatLogError> {
        self.dawdle().await;
        let outcome = self.inner.append(batch).await;
        self.dawdle().await;
        outcome
    }

    async fn read(&self, room: &RoomId, query: HistoryQuery) -> Result<History, ChatLogError> {
        self.inner.read(room, query).await
    }

    async fn erase(&self, user: UserId) -> Result<(), ChatLogError> {
        self.inner.erase(user).await
    }

    async fn last_seqs(&self, rooms: &[RoomId]) -> Result<Vec<u64>, ChatLogError> {
        self.inner.last_seqs(rooms).await
    }
}

/// Tokens are `id:name`.
struct Anybody;

impl TokenCheck for Anybody {
    fn check(&self, token: &str) -> Option<ChatUser> {
        let (id, name) = token.split_once(':')?;
        Some(ChatUser {
            id: id.parse().ok()?,
            username: name.into(),
        })
    }
}

/// A bus that drops every other hint.
struct Lossy {
    bus: Arc<RedisBus>,
    hints: AtomicU64,
}

impl ChatBus for Lossy {
    fn attach(&self, inbox: Inbox) {
        self.bus.attach(inbox);
    }

    fn announce(&self, room: &RoomId, messages: Vec<Arc<Frame>>) {
        if self.hints.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            self.bus.announce(room, messages);
        }
    }

    fn signal(&self, room: &RoomId, sign: Sign, user: &ChatUser) {
        self.bus.signal(room, sign, user);
    }
}

/// A running instance.
pub struct Node {
    runtime: Option<Runtime>,
    chat: Chat,
    pub address: SocketAddr,
}

impl Node {
    pub async fn start(log: &SharedLog, redis: &str, prefix: &str) -> Self {
        Self::start_with(log, redis, prefix, false).await
    }

    pub async fn start_lossy(log: &SharedLog, redis: &str, prefix: &str) -> Self {
        Self::start_with(log, redis, prefix, true).await
    }

    async fn start_with(log: &SharedLog, redis: &str, prefix: &str, lossy: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let presence = RedisBus::start(redis, prefix, LEASE).unwrap();
        let bus: Arc<dyn ChatBus> = if lossy {
            Arc::new(Lossy {
                bus: presence.clone(),
                hints: AtomicU64::new(0),
            })
        } else {
            presence.clone()
        };
        let log = log.open();
        let deps = |log| ChatDeps {
            log,
            tokens: Arc::new(Anybody),
            bus,
            presence,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            gateway_secret: Some(SECRET.into()),
            limits: ChatLimits::default(),
        };
        let serving = runtime.spawn(async move {
            let chat = Chat::start(deps(log.await));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
            let router = chat.router();
            tokio::spawn(async move { axum::serve(listener, router).await });
            (chat, address)
        });
        let (chat, address) = serving.await.unwrap();
        Self {
            runtime: Some(runtime),
            chat,
            address,
        }
    }

    /// Ends it in good order.
    pub async fn stop(mut self) {
        let chat = self.chat.clone();
        let runtime = self.runtime.as_ref().unwrap();
        let ended = runtime.spawn(async move { chat.shutdown(Duration::from_secs(5)).await });
        ended.await.unwrap();
        self.kill();
    }

    /// Ends it at once: nothing of it runs on.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
