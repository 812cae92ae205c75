//! The distributed profile: Postgres, Kafka, MongoDB and Redis behind the ports.
//!
//! Everything but the event log connects when it is used, so a process starts, and does what it can, while a server is
//! away. Without the log nothing can be done, so it is waited for.

mod servers;
pub mod transfer;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use socialhub_api::{
    Positions,
    readiness::{NotReady, Readiness},
};
use socialhub_commands::ports::{PortError, Tokens};
use socialhub_domain::{Clock, IdGenerator, UserId, topic::Topic};
use socialhub_event_log::{
    EventLog, Firehose, FrontierReader, LogError, Position, Relay, RelaySettings,
};
use socialhub_infra::{
    clock::RandomIds,
    kafka::{KafkaPublisher, KafkaSettings, KafkaSources},
    media::Media,
    mongo::{MongoAddressError, MongoGenerations, MongoNotificationReader},
    postgres::{
        chat_log::PgChatLog,
        connect::OpenError,
        event_log::PgEventLog,
        feed::{PgFeed, PgFeedReader},
        model::PgGenerations,
        relay_store::PgRelayStore,
    },
    redis::{
        LastPositions, RedisFault, RedisGenerations, RedisLastWrites, RedisLimits, RedisLink,
        RedisOtps, keep_filled,
    },
    redis_chat::{self, RedisBus},
    security::{JwtTokens, derive_key},
};
use socialhub_projections::{
    Checkpoint, ModelPosition, Projection, ReadError, StoreError,
    analytics::AnalyticsConsumer,
    counters::{CounterFold, Counters},
    feed::{Feed, FeedFold},
    notifications::{NotificationFold, Notifications},
    runtime::{
        CheckpointReader, Control, Generations, LeftOutTally, ModelControl, PartitionProjector,
        StorePosition, Turns,
    },
    status::{DUE_AFTER, due},
    verify::ModelFold,
};
use socialhub_replay_tools::{RelayControl, ReplayTarget};
use tokio_util::sync::CancellationToken;

use super::{
    Background, Erasing, Parts, Roles,
    adapters::{MediaRemover, Workers},
    analytics,
    figures::Figures,
    mailer, media,
    past::SqlitePast,
    place, sealed, text,
};
use crate::config::{Config, Servers};

/// Between two looks for raised token epochs: older tokens must be refused everywhere within a second.
const EPOCHS_EVERY: Duration = Duration::from_millis(400);
/// Between two tries to reach the event log at the start.
const CONNECT_EVERY: Duration = Duration::from_secs(1);

/// The stores of the three read models.
pub struct Stores {
    /// The feed, on Postgres.
    pub feed: Arc<PgGenerations<PgFeed>>,
    /// Notifications, on MongoDB.
    pub notifications: Arc<MongoGenerations>,
    /// Counters, on Redis.
    pub counters: Arc<RedisGenerations>,
}

impl Stores {
    /// Opens them; they connect when they are used.
    ///
    /// # Errors
    /// When an address is none.
    fn open(
        servers: &Servers,
        notifications: Arc<MongoGenerations>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let feed = PgGenerations::open(&servers.read_model_url, clock.clone())
            .map_err(|error| format!("READ_MODEL_URL: {error}"))?;
        let prefix = prefix(servers);
        let counters = RedisGenerations::open(&servers.redis_url, &prefix, clock.clone())
            .map_err(|error| format!("REDIS_URL: {error}"))?;
        Ok(Self {
            feed,
            notifications,
            counters,
        })
    }
}

/// The stores, once the servers behind their addresses can be looked up.
async fn stores(servers: &Servers, clock: &Arc<dyn Clock>) -> Result<Stores, String> {
    let (setting, url) = ("MONGODB_URL", &servers.mongodb_url);
    let away = |error: &MongoAddressError| matches!(error, MongoAddressError::NotFound(_));
    let notifications = answered(setting, url, away, || mongo(servers, clock)).await?;
    Stores::open(servers, notifications, clock)
}

/// Notifications, on MongoDB. An address that names servers makes no connection; one that names a record of servers is looked
/// up.
async fn mongo(
    servers: &Servers,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<MongoGenerations>, MongoAddressError> {
    let (url, database) = mongo_database(&servers.mongodb_url);
    MongoGenerations::open(url, database, clock.clone()).await
}

/// The database that the address names, `socialhub` when it names none.
fn mongo_database(url: &str) -> (&str, &str) {
    let path = url
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('/'))
        .map(|(_, path)| path.split('?').next().unwrap_or_default());
    let database = path.filter(|name| !name.is_empty()).unwrap_or("socialhub");
    (url, database)
}

/// What the keys in Redis begin with.
fn prefix(servers: &Servers) -> String {
    if servers.namespace.is_empty() {
        "socialhub".to_owned()
    } else {
        format!("socialhub:{}", servers.namespace)
    }
}

/// Connects and starts what the roles ask for.
///
/// # Errors
/// A line for the operator.
pub async fn start(
    config: &Config,
    servers: &Servers,
    roles: &Roles,
    clock: Arc<dyn Clock>,
) -> Result<(Parts, Background), String> {
    if *roles == Roles::all() {
        migrate(servers).await?;
    }
    let (setting, url) = ("DATABASE_URL", &servers.database_url);
    let log = opened(setting, url, || PgEventLog::connect(url, clock.clone())).await?;
    let log = Arc::new(log);
    servers::let_in(servers).await?;
    let mut background = Background::default();
    let tokens = tokens(config, servers, &log, &background.stop).await?;
    let sealed = sealed(&log);
    let relay_store = Arc::new(PgRelayStore::lazy(&servers.database_url).map_err(text)?);
    let stores = stores(servers, &clock).await?;
    let frontier: Arc<dyn FrontierReader> = relay_store.clone();
    let positions = positions(&stores, &relay_store, &log, &background.last);
    let media = media(config)?;
    let mut workers = Workers::new(sealed.clone(), clock.clone());
    let mut left_out = Vec::new();
    let mut workshop = Workshop {
        servers,
        store: log.clone(),
        log: sealed.clone(),
        frontier: relay_store,
        clock: clock.clone(),
        media: media.clone(),
        turns: Turns::default(),
        workers: &mut workers,
        left_out: &mut left_out,
        background: &mut background,
    };
    if roles.relay {
        workshop.relay()?;
    }
    for name in &roles.projections {
        workshop.project(name, &stores)?;
    }
    if roles.analytics {
        workshop.analytics(config)?;
    }
    let closing = log.clone();
    background.close = Some(Box::pin(async move { closing.close().await }));

    let link = RedisLink::new(&servers.redis_url).map_err(|error| format!("REDIS_URL: {error}"))?;
    let prefix = prefix(servers);
    let secret = secret(config, b"socialhub codes and limits in redis");
    let bus = RedisBus::start(&servers.redis_url, &prefix, redis_chat::LEASE)
        .map_err(|error| format!("REDIS_URL: {error}"))?;
    let (setting, url) = servers::chat(servers);
    let chat_log = PgChatLog::lazy(url).map_err(|error| format!("{setting}: {error}"))?;
    workers.further.push(Arc::new(RedisPolicy(link.clone())));
    let looks = servers::looks(servers, kafka(servers), &stores, &link);
    background
        .tasks
        .extend(looks.map(|look| tokio::spawn(look.until_it_answers(background.stop.clone()))));
    let models = controls(&stores, &clock, &frontier);
    let figures = Figures {
        log: sealed.clone(),
        clock: clock.clone(),
        models: roles.watched(&models),
        relay: workers.relay.clone(),
    };
    figures.spawn(&mut background);
    let processes = log.clone();
    let parts = Parts {
        credentials: log.clone(),
        tokens,
        otps: Arc::new(RedisOtps::new(link.clone(), &prefix, secret)),
        mailer: mailer(config)?,
        media,
        feed: Arc::new(PgFeedReader::new(stores.feed.clone())),
        notifications: Arc::new(MongoNotificationReader::new(stores.notifications.clone())),
        counters: Arc::new(stores.counters.reader()),
        positions,
        last_writes: Arc::new(RedisLastWrites::new(
            link.clone(),
            &prefix,
            Arc::new(FromTheLog {
                log: log.clone(),
                head: log.watch_head(),
            }),
        )),
        shared_limits: Some(Arc::new(RedisLimits::new(link, &prefix, secret))),
        chat_log: Arc::new(chat_log),
        chat_bus: bus.clone(),
        presence: bus,
        readiness: Arc::new(workers),
        firehose: Firehose::new(log.clone()),
        erasing: Erasing {
            store: log.clone(),
            keys: log,
            sealed: sealed.clone(),
            models,
            further: Vec::new(),
        },
        processes,
        left_out,
        log: sealed,
        clock,
    };
    Ok((parts, background))
}

/// Brings the databases up to date.
///
/// # Errors
/// A line for the operator.
pub async fn migrate(servers: &Servers) -> Result<(), String> {
    let url = &servers.database_url;
    opened("DATABASE_URL", url, || PgEventLog::migrate(url)).await?;
    let (setting, url) = servers::chat(servers);
    opened(setting, url, || PgChatLog::migrate(url)).await
}

/// Opens a database, once it answers. `setting` is what says where it is.
async fn opened<T, F>(
    setting: &'static str,
    url: &str,
    open: impl FnMut() -> F,
) -> Result<T, String>
where
    F: Future<Output = Result<T, OpenError>>,
{
    let away = |error: &OpenError| matches!(error, OpenError::Unreachable(_));
    answered(setting, url, away, open).await
}

/// Asks until the database answers: it may go away between any two steps of a start. `away` says which errors pass by
/// themselves.
async fn answered<T, E, F>(
    setting: &'static str,
    url: &str,
    away: impl Fn(&E) -> bool,
    mut ask: impl FnMut() -> F,
) -> Result<T, String>
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if away(&error) => {
                let server = place(url);
                tracing::warn!(setting, server, %error, "waiting for the database");
                tokio::time::sleep(CONNECT_EVERY).await;
            }
            Err(error) => return Err(format!("{setting}: {error}")),
        }
    }
}

/// A key for one purpose, the same in all processes.
fn secret(config: &Config, purpose: &[u8]) -> [u8; 32] {
    let shared = config.jwt_secret.as_deref().unwrap_or_default();
    derive_key(shared.as_bytes(), purpose)
}

async fn tokens(
    config: &Config,
    servers: &Servers,
    log: &Arc<PgEventLog>,
    stop: &CancellationToken,
) -> Result<Arc<JwtTokens>, String> {
    let secret = config.jwt_secret.as_deref().unwrap_or_default();
    let (setting, url) = ("DATABASE_URL", &servers.database_url);
    let away = |error: &LogError| matches!(error, LogError::Unavailable(_));
    let epochs = answered(setting, url, away, || log.epochs_since(0)).await;
    let (raised, mut cursor) = epochs?;
    let tokens = Arc::new(JwtTokens::new(secret.as_bytes(), raised));
    let (log, stop, told) = (log.clone(), stop.clone(), tokens.clone());
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(EPOCHS_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            // While the log is away the last known epochs hold.
            if let Ok((raised, next)) = log.epochs_since(cursor).await {
                cursor = next;
                for (user, epoch) in raised {
                    told.raise_epoch(user, epoch);
                }
            }
        }
    });
    Ok(tokens)
}

fn positions(
    stores: &Stores,
    frontier: &Arc<PgRelayStore>,
    log: &Arc<PgEventLog>,
    stop: &CancellationToken,
) -> Positions {
    fn position<P: Projection>(
        checkpoints: impl CheckpointReader + 'static,
        frontier: &Arc<PgRelayStore>,
        log: &Arc<PgEventLog>,
        stop: &CancellationToken,
    ) -> Arc<dyn ModelPosition> {
        let frontier: Arc<dyn FrontierReader> = frontier.clone();
        let head = log.watch_head();
        let checkpoints = Arc::new(checkpoints);
        StorePosition::start(
            P::NAME,
            P::TOPICS,
            checkpoints,
            frontier,
            head,
            stop.clone(),
        )
    }
    Positions {
        feed: position::<Feed>(FeedAt(stores.feed.clone()), frontier, log, stop),
        notifications: position::<Notifications>(
            NotificationsAt(stores.notifications.clone()),
            frontier,
            log,
            stop,
        ),
        counters: position::<Counters>(CountersAt(stores.counters.clone()), frontier, log, stop),
        due: due(log.watch_head(), DUE_AFTER, stop.clone()),
    }
}

struct FeedAt(Arc<PgGenerations<PgFeed>>);
struct NotificationsAt(Arc<MongoGenerations>);
struct CountersAt(Arc<RedisGenerations>);

#[expect(clippy::needless_pass_by_value, reason = "made for `map_err`")]
fn unread(error: StoreError) -> ReadError {
    ReadError(error.to_string())
}

#[async_trait]
impl CheckpointReader for FeedAt {
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, ReadError> {
        self.0.current_checkpoints().await.map_err(unread)
    }
}

#[async_trait]
impl CheckpointReader for NotificationsAt {
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, ReadError> {
        self.0.current_checkpoints().await
    }
}

#[async_trait]
impl CheckpointReader for CountersAt {
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, ReadError> {
        self.0.current_checkpoints().await.map_err(unread)
    }
}

/// Whether Redis may throw away what must stay. One that is away is another matter, which a service bears.
struct RedisPolicy(RedisLink);

#[async_trait]
impl Readiness for RedisPolicy {
    async fn not_ready(&self) -> Vec<NotReady> {
        match self.0.check_server().await {
            Err(error @ RedisFault::Unsafe(_)) => vec![NotReady {
                name: "redis".to_owned(),
                reason: format!("REDIS_URL: {error}"),
            }],
            _ => Vec::new(),
        }
    }
}

/// What a person wrote last, when Redis cannot say.
struct FromTheLog {
    log: Arc<PgEventLog>,
    head: tokio::sync::watch::Receiver<Position>,
}

#[async_trait]
impl LastPositions for FromTheLog {
    async fn last_position_of(&self, actor: UserId) -> Result<Position, PortError> {
        let position = self.log.last_position_of(actor).await;
        position.map_err(|error| PortError(error.to_string()))
    }

    async fn ends_before(&self, position: Position) -> bool {
        // What this process knows of the head may be a moment old.
        position > *self.head.borrow() && self.log.head().await.is_ok_and(|head| position > head)
    }
}

fn kafka(servers: &Servers) -> KafkaSettings {
    let namespace = &servers.namespace;
    let mut settings = KafkaSettings::new(&servers.kafka_brokers);
    settings.partitions = servers.kafka_partitions;
    settings.retention = servers.kafka_retention;
    if !namespace.is_empty() {
        settings.topic_prefix = format!("{namespace}.");
        settings.transactional_id = format!("{namespace}.{}", settings.transactional_id);
    }
    settings
}

/// What the relay and the projectors of a process are made of.
struct Workshop<'a> {
    servers: &'a Servers,
    /// The log as the database holds it.
    store: Arc<PgEventLog>,
    /// The log as it is read: opened.
    log: Arc<dyn EventLog>,
    frontier: Arc<PgRelayStore>,
    clock: Arc<dyn Clock>,
    media: Arc<dyn Media>,
    /// Of all that this process projects.
    turns: Turns,
    workers: &'a mut Workers,
    /// What the consumers leave out.
    left_out: &'a mut Vec<Arc<LeftOutTally>>,
    background: &'a mut Background,
}

impl Workshop<'_> {
    fn relay(&mut self) -> Result<(), String> {
        self.store.follow_closely();
        let publisher = KafkaPublisher::new(kafka(self.servers)).map_err(text)?;
        let relay = Relay::new(
            self.log.clone(),
            self.frontier.clone(),
            Arc::new(publisher),
            format!("relay-{}", RandomIds.next_id()),
            RelaySettings::default(),
        );
        let running = relay.spawn(self.background.stop.clone());
        self.workers.relay = Some(running.status);
        self.background.tasks.push(running.task);
        Ok(())
    }

    fn analytics(&mut self, config: &Config) -> Result<(), String> {
        let group = self.group("analytics-group");
        let sources = self.sources(&group, &Topic::ALL, "analytics".to_owned());
        let consumer = AnalyticsConsumer::new(
            analytics::ports(config, self.clock.clone())?,
            analytics::limits(config),
            sources,
            self.log.clone(),
            self.frontier.clone(),
        );
        let running = consumer.spawn(self.background.stop.clone());
        self.workers.analytics = Some(running.status);
        self.background.tasks.push(running.task);
        Ok(())
    }

    /// What a part of this process reads as a member of a group.
    fn sources(&mut self, group: &str, topics: &[Topic], part: String) -> Arc<KafkaSources> {
        let left_out = Arc::new(LeftOutTally::new(part, self.clock.clone()));
        self.left_out.push(left_out.clone());
        let settings = kafka(self.servers);
        Arc::new(KafkaSources::new(settings, group, topics, left_out))
    }

    /// A group's name among those of other installations.
    fn group(&self, name: &str) -> String {
        let namespace = &self.servers.namespace;
        if namespace.is_empty() {
            name.to_owned()
        } else {
            format!("{namespace}.{name}")
        }
    }

    fn project(&mut self, name: &str, stores: &Stores) -> Result<(), String> {
        match name {
            "feed" => {
                let remover = Arc::new(MediaRemover::new(self.media.clone()));
                let projector = self.projector::<Feed>(stores.feed.clone(), "feed-group");
                self.run(projector.with_reactor(remover));
            }
            "notifications" => {
                let stores = stores.notifications.clone();
                let projector = self.projector::<Notifications>(stores, "notification-group");
                self.run(projector);
            }
            "counters" => {
                let stores = stores.counters.clone();
                // An emptied Redis is filled again from the log before it is believed.
                self.background.tasks.push(tokio::spawn(keep_filled(
                    stores.clone(),
                    self.log.clone(),
                    self.frontier.clone(),
                    self.clock.clone(),
                    self.background.stop.clone(),
                )));
                let projector = self.projector::<Counters>(stores, "counter-group");
                self.run(projector);
            }
            other => return Err(format!("there is no read model `{other}`")),
        }
        Ok(())
    }

    fn projector<P: Projection>(
        &mut self,
        generations: Arc<dyn Generations<P>>,
        group: &str,
    ) -> PartitionProjector<P> {
        let group = self.group(group);
        let sources = self.sources(&group, P::TOPICS, format!("projection {}", P::NAME));
        PartitionProjector::new(
            generations,
            sources,
            self.log.clone(),
            self.frontier.clone(),
            self.clock.clone(),
        )
        .in_turn_with(&self.turns)
    }

    fn run<P: Projection>(&mut self, projector: PartitionProjector<P>) {
        let running = projector.spawn(self.background.stop.clone());
        self.workers.projectors.push(running.status);
        self.background.tasks.push(running.task);
    }
}

/// The read models under an operator's hands.
fn controls(
    stores: &Stores,
    clock: &Arc<dyn Clock>,
    frontier: &Arc<dyn FrontierReader>,
) -> Vec<Arc<dyn ModelControl>> {
    fn control<P: Projection, F: ModelFold>(
        generations: Arc<dyn Generations<P>>,
        clock: &Arc<dyn Clock>,
        frontier: &Arc<dyn FrontierReader>,
    ) -> Arc<dyn ModelControl> {
        let control = Control::<P, F>::new(generations, clock.clone());
        Arc::new(control.with_frontier(frontier.clone()))
    }
    vec![
        control::<Feed, FeedFold>(stores.feed.clone(), clock, frontier),
        control::<Notifications, NotificationFold>(stores.notifications.clone(), clock, frontier),
        control::<Counters, CounterFold>(stores.counters.clone(), clock, frontier),
    ]
}

/// What the replay command line works on.
///
/// # Errors
/// A line for the operator.
pub async fn replay(
    config: &Arc<Config>,
    servers: &Servers,
    clock: Arc<dyn Clock>,
) -> Result<ReplayTarget, String> {
    let log = PgEventLog::connect(&servers.database_url, clock.clone())
        .await
        .map_err(|error| format!("DATABASE_URL: {error}"))?;
    log.follow_closely();
    let relay_store = Arc::new(PgRelayStore::lazy(&servers.database_url).map_err(text)?);
    let frontier: Arc<dyn FrontierReader> = relay_store.clone();
    let notifications = mongo(servers, &clock).await;
    let notifications = notifications.map_err(|error| format!("MONGODB_URL: {error}"))?;
    let stores = Stores::open(servers, notifications, &clock)?;
    let models = controls(&stores, &clock, &frontier);
    let relay = RelayControl {
        store: relay_store,
        publisher: Arc::new(KafkaPublisher::new(kafka(servers)).map_err(text)?),
        owner: format!("replay-{}", RandomIds.next_id()),
    };
    let erasures = Arc::new(log);
    let log = sealed(&erasures);
    let past = SqlitePast {
        log: log.clone(),
        config: Arc::clone(config),
        clock: clock.clone(),
    };
    Ok(ReplayTarget {
        log,
        processes: erasures.clone(),
        erasures,
        analytics: Some(analytics::objects(config)?),
        models,
        clock,
        past: Arc::new(past),
        relay: Some(relay),
    })
}
