//! The embedded profile: SQLite, the file system and the process itself behind every port.

use std::{path::Path, sync::Arc};

use socialhub_api::{Positions, RecentWrites};
use socialhub_chat::{NoBus, NoPresence};
use socialhub_domain::Clock;
use socialhub_event_log::{CredentialsReader, EventLog};
use socialhub_infra::{
    security::{JwtTokens, MemoryOtps},
    sqlite::{
        chat_log::SqliteChatLog,
        counters::{SqliteCounterReader, SqliteCounters},
        event_log::SqliteEventLog,
        feed::{SqliteFeed, SqliteFeedReader},
        model::SqliteModel,
        notifications::{SqliteNotificationReader, SqliteNotifications},
        wiring::{OpenModel, open_model},
    },
};
use socialhub_projections::runtime::LogTail;

use super::{
    Background, Parts,
    adapters::{MediaRemover, Workers},
    mailer, media, secret_in, text,
};
use crate::config::Config;

/// Threads that read each read model.
const READER_THREADS: usize = 2;

/// Opens the files and starts the projectors.
///
/// # Errors
/// A line for the operator.
pub async fn start(
    config: &Config,
    log_file: &Path,
    clock: Arc<dyn Clock>,
) -> Result<(Parts, Background), String> {
    let log = Arc::new(SqliteEventLog::open(log_file, Arc::clone(&clock)).map_err(text)?);
    let tokens = tokens(config, &log).await?;
    let media = media(config)?;
    let mut background = Background::default();

    let tail = LogTail::start(log.clone(), background.last.clone());
    let feed: OpenModel<SqliteFeed> = open(config, &clock, &tail)?;
    let notifications: OpenModel<SqliteNotifications> = open(config, &clock, &tail)?;
    let counters: OpenModel<SqliteCounters> = open(config, &clock, &tail)?;
    let positions = Positions {
        feed: feed.position(),
        notifications: notifications.position(),
        counters: counters.position(),
    };
    let feed_reader = Arc::new(SqliteFeedReader::new(feed.readers.clone()));
    let notification_reader =
        Arc::new(SqliteNotificationReader::new(notifications.readers.clone()));
    let counter_reader = Arc::new(SqliteCounterReader::new(counters.readers.clone()));
    let mut workers = Workers::new(log.clone());
    workers.projectors = vec![
        feed.projector.status(),
        notifications.projector.status(),
        counters.projector.status(),
    ];
    let remover = Arc::new(MediaRemover::new(media.clone()));
    let stop = &background.stop;
    background.tasks = vec![
        feed.projector
            .with_reactor(remover)
            .spawn(stop.clone())
            .task,
        notifications.projector.spawn(stop.clone()).task,
        counters.projector.spawn(stop.clone()).task,
    ];
    let closing = log.clone();
    // Drains the queue and brings the WAL into the file.
    background.close = Some(Box::pin(async move {
        let _ = tokio::task::spawn_blocking(move || closing.close()).await;
    }));

    let chat_log = SqliteChatLog::open(&config.data_dir.join("chat.db"))
        .map_err(|error| format!("the chat log: {error}"))?;
    let head = log.head().await.map_err(text)?;
    let parts = Parts {
        credentials: log.clone(),
        tokens,
        otps: Arc::new(MemoryOtps::new()),
        mailer: mailer(config)?,
        media,
        feed: feed_reader,
        notifications: notification_reader,
        counters: counter_reader,
        positions,
        last_writes: Arc::new(RecentWrites::new(head)),
        shared_limits: None,
        chat_log: Arc::new(chat_log),
        chat_bus: Arc::new(NoBus),
        presence: Arc::new(NoPresence),
        readiness: Arc::new(workers),
        log,
        clock,
    };
    Ok((parts, background))
}

fn open<M: SqliteModel>(
    config: &Config,
    clock: &Arc<dyn Clock>,
    tail: &Arc<LogTail>,
) -> Result<OpenModel<M>, String> {
    let folder = config.data_dir.join("read-models");
    open_model(&folder, READER_THREADS, clock.clone(), tail)
        .map_err(|error| format!("read models: {error}"))
}

async fn tokens(config: &Config, log: &SqliteEventLog) -> Result<Arc<JwtTokens>, String> {
    let secret = match &config.jwt_secret {
        Some(secret) => secret.clone(),
        None => secret_in(&config.data_dir, "jwt")?,
    };
    let raised = log.raised_epochs().await.map_err(text)?;
    Ok(Arc::new(JwtTokens::new(secret.as_bytes(), raised)))
}
