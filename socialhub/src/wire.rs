//! Wiring: which adapter stands behind which port, and what runs beside the requests.

mod adapters;

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use socialhub_api::{ApiState, Positions, Rate, RateLimits, RecentWrites, Settings as ApiSettings};
use socialhub_chat::{Chat, ChatDeps, ChatLimits, NoBus, NoPresence};
use socialhub_commands::{Commands, Ports, ports::Tokens};
use socialhub_domain::{Clock, upcast};
use socialhub_event_log::{CredentialsReader, EventLog};
use socialhub_infra::{
    clock::{RandomIds, SystemClock},
    mail::EmlMailer,
    media::{LocalMedia, MediaLimits},
    security::{BcryptPool, JwtTokens, MemoryOtps, OsSecrets, load_or_create_secret},
    sqlite::{
        chat_log::SqliteChatLog,
        counters::{SqliteCounterReader, SqliteCounters},
        event_log::SqliteEventLog,
        feed::{SqliteFeed, SqliteFeedReader},
        notifications::{SqliteNotificationReader, SqliteNotifications},
        wiring::{OpenModel, open_model, replay_model},
    },
};
use socialhub_projections::runtime::{LogTail, ProjectorTask};
use socialhub_replay_tools::{Options as ReplayOptions, ReplayTarget};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    serve::wait_for_signal,
    wire::adapters::{ChatTokens, Likes, MediaRemover, Models, Owners, sweep_media},
};

/// bcrypt's cost: 2^10 rounds, as the contract's clients expect of a login's time.
const BCRYPT_COST: u32 = 10;
/// Threads that read each read model.
const READER_THREADS: usize = 2;

/// The running program, but for its socket.
pub struct Program {
    router: Router,
    chat: Chat,
    commands: Arc<Commands>,
    projectors: Vec<ProjectorTask>,
    log: Arc<SqliteEventLog>,
    /// Ends streams of server-sent events.
    streams: CancellationToken,
    /// Ends projectors and what runs beside the requests.
    background: CancellationToken,
    /// Ends the tail of the log; after the projectors, which read from it.
    tail: CancellationToken,
}

/// Starts everything but the listening socket.
///
/// # Errors
/// A line for the operator.
pub async fn start(config: &Config, metrics: PrometheusHandle) -> Result<Program, String> {
    upcast::check().map_err(|error| error.to_string())?;
    let folder = &config.data_dir;
    std::fs::create_dir_all(folder)
        .map_err(|error| format!("DATA_DIR: {}: {error}", folder.display()))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let log = Arc::new(SqliteEventLog::open(&config.log_file, Arc::clone(&clock)).map_err(text)?);
    let tokens = tokens(config, &log).await?;
    let media =
        Arc::new(LocalMedia::open(folder.join("media"), MediaLimits::default()).map_err(text)?);
    let (streams, background, tail) =
        <(CancellationToken, CancellationToken, CancellationToken)>::default();

    let following = LogTail::start(log.clone(), tail.clone());
    let open = |error| format!("read models: {error}");
    let models_dir = folder.join("read-models");
    let feed: OpenModel<SqliteFeed> =
        open_model(&models_dir, READER_THREADS, clock.clone(), &following).map_err(open)?;
    let notifications: OpenModel<SqliteNotifications> =
        open_model(&models_dir, READER_THREADS, clock.clone(), &following).map_err(open)?;
    let counters: OpenModel<SqliteCounters> =
        open_model(&models_dir, READER_THREADS, clock.clone(), &following).map_err(open)?;
    let positions = Positions {
        feed: feed.position(),
        notifications: notifications.position(),
        counters: counters.position(),
    };
    let feed_reader = Arc::new(SqliteFeedReader::new(feed.readers.clone()));
    let notification_reader =
        Arc::new(SqliteNotificationReader::new(notifications.readers.clone()));
    let counter_reader = Arc::new(SqliteCounterReader::new(counters.readers.clone()));

    let commands = Arc::new(Commands::new(Ports {
        log: log.clone(),
        credentials: log.clone(),
        hasher: Arc::new(hasher(config)?),
        tokens: tokens.clone(),
        mailer: Arc::new(EmlMailer::new(folder.join("mail")).map_err(text)?),
        otps: Arc::new(MemoryOtps::new()),
        secrets: Arc::new(OsSecrets),
        media: media.clone(),
        notifications: Arc::new(Owners::new(
            notification_reader.clone(),
            positions.notifications.clone(),
        )),
        like_counts: Arc::new(Likes(counter_reader.clone())),
        clock: clock.clone(),
        ids: Arc::new(RandomIds),
    }));
    let chat = chat(folder, tokens.clone(), clock.clone())?;
    let head = log.head().await.map_err(text)?;
    let remover = Arc::new(MediaRemover::new(media.clone()));
    let statuses = vec![
        feed.projector.status(),
        notifications.projector.status(),
        counters.projector.status(),
    ];
    let projectors = vec![
        feed.projector
            .with_reactor(remover)
            .spawn(background.clone()),
        notifications.projector.spawn(background.clone()),
        counters.projector.spawn(background.clone()),
    ];
    tokio::spawn(sweep_media(
        media.clone(),
        log.clone(),
        clock.clone(),
        background.clone(),
    ));

    let api = ApiState {
        commands: commands.clone(),
        feed: feed_reader,
        notifications: notification_reader,
        counters: counter_reader,
        positions,
        tokens,
        clock,
        ids: Arc::new(RandomIds),
        media,
        last_writes: Arc::new(RecentWrites::new(head)),
        readiness: Arc::new(Models::new(statuses, log.clone())),
        metrics: Arc::new(move || metrics.render()),
        shutdown: streams.clone(),
        settings: api_settings(config)?,
    };
    let router = socialhub_api::router_with(api, chat.router());
    Ok(Program {
        router,
        chat,
        commands,
        projectors,
        log,
        streams,
        background,
        tail,
    })
}

impl Program {
    /// Every route.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Ends event streams and chat sockets; what was taken is finished and acknowledged first.
    pub async fn end_streams(&self, patience: Duration) {
        self.streams.cancel();
        self.chat.shutdown(patience).await;
    }

    /// Stops what runs beside the requests, in order: mails, projectors, the tail, the log.
    pub async fn stop(self) {
        self.commands.drain().await;
        self.background.cancel();
        for projector in self.projectors {
            let _ = projector.task.await;
        }
        self.tail.cancel();
        // Drains the queue and brings the WAL into the file: takes a moment, on a thread that may block.
        let log = self.log;
        let _ = tokio::task::spawn_blocking(move || log.close()).await;
    }
}

/// Runs a command of `socialhub replay` on the data folder, beside a running server or without one.
///
/// # Errors
/// A line for the operator.
pub async fn replay(config: Config, options: ReplayOptions) -> Result<ExitCode, String> {
    upcast::check().map_err(text)?;
    if !config.log_file.exists() {
        return Err(format!(
            "DATA_DIR: there is no event log at {}",
            config.log_file.display()
        ));
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let log = Arc::new(SqliteEventLog::open_read_only(&config.log_file).map_err(text)?);
    let folder = config.data_dir.join("read-models");
    let models = vec![
        replay_model::<SqliteFeed>(&folder, clock.clone()).map_err(text)?,
        replay_model::<SqliteNotifications>(&folder, clock.clone()).map_err(text)?,
        replay_model::<SqliteCounters>(&folder, clock).map_err(text)?,
    ];
    let stop = CancellationToken::new();
    let interrupted = stop.clone();
    tokio::spawn(async move {
        if wait_for_signal().await.is_ok() {
            interrupted.cancel();
        }
    });
    let target = ReplayTarget { log, models };
    let verdict = socialhub_replay_tools::run(options, &target, &mut std::io::stdout(), stop).await;
    verdict.map(ExitCode::from).map_err(text)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn hasher(config: &Config) -> Result<BcryptPool, String> {
    BcryptPool::start(config.password_threads, config.password_queue, BCRYPT_COST)
        .map_err(|error| format!("cannot start the password pool: {error}"))
}

async fn tokens(config: &Config, log: &SqliteEventLog) -> Result<Arc<JwtTokens>, String> {
    let secret = match &config.jwt_secret {
        Some(secret) => secret.clone(),
        None => secret_in(&config.data_dir, "jwt")?,
    };
    let raised = log.raised_epochs().await.map_err(text)?;
    Ok(Arc::new(JwtTokens::new(secret.as_bytes(), raised)))
}

/// A secret kept in the data folder, made at the first start.
fn secret_in(data_dir: &Path, name: &str) -> Result<String, String> {
    let folder = data_dir.join("secrets");
    let made = std::fs::create_dir_all(&folder).map_err(text);
    made.and_then(|()| load_or_create_secret(&folder.join(name)).map_err(text))
        .map_err(|error| format!("the secret `{name}`: {error}"))
}

fn chat(folder: &Path, tokens: Arc<dyn Tokens>, clock: Arc<dyn Clock>) -> Result<Chat, String> {
    let log = SqliteChatLog::open(&folder.join("chat.db"))
        .map_err(|error| format!("the chat log: {error}"))?;
    Ok(Chat::start(ChatDeps {
        log: Arc::new(log),
        tokens: Arc::new(ChatTokens::new(tokens, clock.clone())),
        bus: Arc::new(NoBus),
        presence: Arc::new(NoPresence),
        clock,
        ids: Arc::new(RandomIds),
        gateway_secret: None,
        limits: ChatLimits::default(),
    }))
}

fn api_settings(config: &Config) -> Result<ApiSettings, String> {
    // The key must outlive a restart, so it is never one of the process alone.
    let key = secret_in(&config.data_dir, "signing")?;
    let mut signing_key = [0; 32];
    for (slot, byte) in signing_key.iter_mut().zip(key.bytes()) {
        *slot = byte;
    }
    let limits = RateLimits::default();
    let per_address = config.rate_limit_per_address;
    let rate_limits = RateLimits {
        requests: Rate {
            per_second: per_address,
            burst: per_address.saturating_mul(5),
        },
        account_seconds: (60 / config.rate_limit_per_account).max(1),
        account_burst: config.rate_limit_per_account,
        ..limits
    };
    Ok(ApiSettings {
        cors_origins: config.cors_origins.clone(),
        rate_limits: config.rate_limits.then_some(rate_limits),
        trusted_proxies: config.trusted_proxies.clone(),
        operator_token: config.operator_token.clone(),
        ..ApiSettings::new(signing_key)
    })
}
