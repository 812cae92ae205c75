//! The embedded profile: SQLite, the file system and the process itself behind every port.

use std::{path::Path, sync::Arc};

use socialhub_api::{Positions, RecentWrites};
use socialhub_chat::{NoBus, NoPresence};
use socialhub_domain::Clock;
use socialhub_event_log::{CredentialsReader, EventLog, Firehose};
use socialhub_infra::{
    process_file::ProcessFile,
    security::{JwtTokens, MemoryOtps},
    sqlite::{
        chat_log::SqliteChatLog,
        counters::{SqliteCounterReader, SqliteCounters},
        event_log::SqliteEventLog,
        feed::{SqliteFeed, SqliteFeedReader},
        model::SqliteModel,
        notifications::{SqliteNotificationReader, SqliteNotifications},
        wiring::{OpenModel, WalErasure, open_model, replay_model},
    },
};
use socialhub_projections::{
    ModelName, Projection,
    counters::Counters,
    feed::Feed,
    notifications::Notifications,
    runtime::{LogTail, ModelControl},
    status::{DUE_AFTER, due},
};

use super::{
    Background, Erasing, MODELS, Parts,
    adapters::{MediaRemover, Workers},
    figures::Figures,
    mailer, media, sealed, secret_in, text,
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

    let sealed = sealed(&log);
    let tail = LogTail::start(sealed.clone(), background.last.clone());
    let folder = config.data_dir.join("read-models");
    let feed: OpenModel<SqliteFeed> = open(&folder, &clock, &tail)?;
    let notifications: OpenModel<SqliteNotifications> = open(&folder, &clock, &tail)?;
    let counters: OpenModel<SqliteCounters> = open(&folder, &clock, &tail)?;
    let positions = Positions {
        feed: feed.position(),
        notifications: notifications.position(),
        counters: counters.position(),
        due: due(log.watch_head(), DUE_AFTER, background.last.clone()),
    };
    let feed_reader = Arc::new(SqliteFeedReader::new(feed.readers.clone()));
    let notification_reader =
        Arc::new(SqliteNotificationReader::new(notifications.readers.clone()));
    let counter_reader = Arc::new(SqliteCounterReader::new(counters.readers.clone()));
    let mut workers = Workers::new(sealed.clone(), clock.clone());
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
    let figures = Figures {
        log: sealed.clone(),
        clock: clock.clone(),
        models: models(&folder, &clock)?,
        relay: None,
    };
    figures.spawn(&mut background);
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
        firehose: Firehose::new(log.clone()),
        erasing: Erasing {
            store: log.clone(),
            keys: log,
            sealed: sealed.clone(),
            models: models(&folder, &clock)?,
            further: vec![Arc::new(WalErasure::new(folder))],
        },
        processes: Arc::new(ProcessFile::of(&config.data_dir)),
        left_out: Vec::new(),
        log: sealed,
        clock,
    };
    Ok((parts, background))
}

/// The read models under an operator's hands; the server and `replay` have them in common.
///
/// # Errors
/// A line for the operator.
pub fn models(folder: &Path, clock: &Arc<dyn Clock>) -> Result<Vec<Arc<dyn ModelControl>>, String> {
    let models = MODELS.into_iter();
    models.map(|name| model(folder, name, clock)).collect()
}

/// One of them, in SQLite files in a folder.
///
/// # Errors
/// A line for the operator.
pub fn model(
    folder: &Path,
    name: ModelName,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn ModelControl>, String> {
    let clock = Arc::clone(clock);
    let opened = match name {
        Feed::NAME => replay_model::<SqliteFeed>(folder, clock),
        Notifications::NAME => replay_model::<SqliteNotifications>(folder, clock),
        Counters::NAME => replay_model::<SqliteCounters>(folder, clock),
        other => return Err(format!("{other} cannot be kept in SQLite files")),
    };
    opened.map_err(text)
}

fn open<M: SqliteModel>(
    folder: &Path,
    clock: &Arc<dyn Clock>,
    tail: &Arc<LogTail>,
) -> Result<OpenModel<M>, String> {
    open_model(folder, READER_THREADS, clock.clone(), tail)
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
