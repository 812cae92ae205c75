//! What is built on the parts, the same for both profiles: the write side, the API, the chat; and its orderly end.

use std::{sync::Arc, time::Duration};

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use socialhub_api::{
    ApiState, Rate, RateLimits, Readiness, Service, Settings as ApiSettings, operations,
};
use socialhub_chat::{Chat, ChatDeps, ChatLimits};
use socialhub_commands::{Commands, Ports};
use socialhub_domain::Timestamp;
use socialhub_event_log::{AnswerErasure, Erasable, Eraser, KeyErasure};
use socialhub_infra::{
    clock::RandomIds,
    security::{BcryptPool, OsSecrets},
};
use tokio_util::sync::CancellationToken;

use super::{
    Background, Erasing, Parts, Roles,
    adapters::{ChatTokens, Likes, Owners, sweep_media},
    erasing::{
        ChatErasure, CodeErasure, MailErasure, MediaErasure, ModelErasure, PresenceErasure,
        TokenErasure,
    },
    heartbeat::beat,
    looks::looks,
    secret_in,
};
use crate::config::{Config, Profile};

/// The running program, but for its sockets.
pub struct Program {
    services: Option<Services>,
    readiness: Arc<dyn Readiness>,
    metrics: PrometheusHandle,
    /// Ends streams of server-sent events.
    streams: CancellationToken,
    background: Background,
}

/// What answers requests.
struct Services {
    router: Router,
    chat: Option<Chat>,
    commands: Arc<Commands>,
}

/// Builds the program from its parts.
///
/// # Errors
/// A line for the operator.
pub fn assemble(
    config: &Config,
    roles: &Roles,
    parts: Parts,
    mut background: Background,
    metrics: PrometheusHandle,
    began: Timestamp,
) -> Result<Program, String> {
    let streams = CancellationToken::new();
    let readiness = Arc::clone(&parts.readiness);
    background.tasks.push(tokio::spawn(beat(
        parts.processes.clone(),
        readiness.clone(),
        parts.left_out.clone(),
        roles.clone(),
        began,
        parts.clock.clone(),
        background.stop.clone(),
    )));
    for (look, failed) in looks(config, roles, &parts) {
        let looking = look.once(failed, background.stop.clone());
        background.tasks.push(tokio::spawn(looking));
    }
    let services = if roles.services.is_empty() {
        None
    } else {
        if roles.services.contains(&Service::Posts) {
            background.tasks.push(tokio::spawn(sweep_media(
                parts.media.clone(),
                parts.log.clone(),
                parts.clock.clone(),
                background.stop.clone(),
            )));
        }
        if roles.services.contains(&Service::Auth) {
            let stop = background.stop.clone();
            background
                .tasks
                .push(tokio::spawn(eraser(&parts).run(stop)));
        }
        let services = services(config, roles, parts, metrics.clone(), streams.clone())?;
        Some(services)
    };
    Ok(Program {
        services,
        readiness,
        metrics,
        streams,
        background,
    })
}

/// Completes erasures, beside the service that credentials, codes and mails belong to.
fn eraser(parts: &Parts) -> Eraser {
    let Erasing {
        store,
        keys,
        sealed,
        models,
        further,
    } = &parts.erasing;
    let models = Arc::new(ModelErasure(models.clone()));
    let media = MediaErasure::new(
        parts.media.clone(),
        parts.feed.clone(),
        parts.log.clone(),
        models.clone(),
    );
    let places: Vec<Arc<dyn Erasable>> = vec![
        Arc::new(TokenErasure(parts.tokens.clone())),
        Arc::new(KeyErasure::new(keys.clone(), sealed.clone())),
        Arc::new(AnswerErasure(store.clone())),
        Arc::new(ChatErasure(parts.chat_log.clone())),
        Arc::new(PresenceErasure(parts.presence.clone())),
        Arc::new(MailErasure(parts.mailer.clone())),
        Arc::new(CodeErasure(parts.otps.clone())),
        models,
        Arc::new(media),
    ];
    Eraser::new(
        parts.log.clone(),
        store.clone(),
        places,
        further.clone(),
        parts.clock.clone(),
        Arc::new(RandomIds),
    )
}

fn services(
    config: &Config,
    roles: &Roles,
    parts: Parts,
    metrics: PrometheusHandle,
    streams: CancellationToken,
) -> Result<Services, String> {
    let commands = Arc::new(Commands::new(Ports {
        log: parts.log,
        credentials: parts.credentials,
        hasher: Arc::new(hasher(config)?),
        tokens: parts.tokens.clone(),
        mailer: parts.mailer,
        otps: parts.otps,
        secrets: Arc::new(OsSecrets),
        media: parts.media.clone(),
        notifications: Arc::new(Owners::new(
            parts.notifications.clone(),
            parts.positions.notifications.clone(),
        )),
        like_counts: Arc::new(Likes {
            counters: parts.counters.clone(),
            feed: parts.feed.clone(),
        }),
        clock: parts.clock.clone(),
        ids: Arc::new(RandomIds),
    }));
    let chat = roles.services.contains(&Service::Chat).then(|| {
        Chat::start(ChatDeps {
            log: parts.chat_log,
            tokens: Arc::new(ChatTokens::new(parts.tokens.clone(), parts.clock.clone())),
            bus: parts.chat_bus,
            presence: parts.presence,
            gateway_secret: config.gateway_secret.as_deref().map(Into::into),
            clock: parts.clock.clone(),
            ids: Arc::new(RandomIds),
            limits: ChatLimits::default(),
        })
    });
    let api = ApiState {
        commands: commands.clone(),
        feed: parts.feed,
        notifications: parts.notifications,
        counters: parts.counters,
        firehose: parts.firehose,
        positions: parts.positions,
        tokens: parts.tokens,
        clock: parts.clock,
        ids: Arc::new(RandomIds),
        media: parts.media,
        last_writes: parts.last_writes,
        shared_limits: parts.shared_limits,
        readiness: parts.readiness,
        metrics: Arc::new(move || metrics.render()),
        shutdown: streams,
        settings: api_settings(config)?,
    };
    let others = chat.as_ref().map(Chat::router).unwrap_or_default();
    Ok(Services {
        router: socialhub_api::router_with(api, &roles.services, others),
        chat,
        commands,
    })
}

impl Program {
    /// Every route of the services; none when the process serves none.
    pub fn router(&self) -> Option<Router> {
        self.services
            .as_ref()
            .map(|services| services.router.clone())
    }

    /// Liveness, readiness and metrics alone.
    pub fn operations(&self) -> Router {
        let metrics = self.metrics.clone();
        operations(
            Arc::clone(&self.readiness),
            Arc::new(move || metrics.render()),
        )
    }

    /// Ends event streams and chat sockets; what was taken is finished and acknowledged first.
    pub async fn end_streams(&self, patience: Duration) {
        self.streams.cancel();
        if let Some(chat) = self.services.as_ref().and_then(|it| it.chat.as_ref()) {
            chat.shutdown(patience).await;
        }
    }

    /// Stops what runs beside the requests, in order: mails, projectors and relay, what they read from, the log.
    pub async fn stop(self) {
        if let Some(services) = &self.services {
            services.commands.drain().await;
        }
        let background = self.background;
        background.stop.cancel();
        for task in background.tasks {
            let _ = task.await;
        }
        background.last.cancel();
        if let Some(close) = background.close {
            close.await;
        }
    }
}

fn hasher(config: &Config) -> Result<BcryptPool, String> {
    BcryptPool::start(
        config.password_threads,
        config.password_queue,
        config.password_cost,
    )
    .map_err(|error| format!("cannot start the password pool: {error}"))
}

fn api_settings(config: &Config) -> Result<ApiSettings, String> {
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
        gateway_secret: config.gateway_secret.clone(),
        ..ApiSettings::new(signing_key(config)?)
    })
}

/// What cursors and media addresses are signed with. It must outlive a restart and be the same in every process: with
/// servers it is derived from the one secret they share, else kept in the data folder.
fn signing_key(config: &Config) -> Result<[u8; 32], String> {
    let shared = match (&config.profile, &config.jwt_secret) {
        (Profile::Distributed(_), Some(secret)) => Some(secret),
        _ => None,
    };
    if let Some(secret) = shared {
        return Ok(socialhub_infra::security::derive_key(
            secret.as_bytes(),
            b"socialhub cursors and media addresses",
        ));
    }
    let key = secret_in(&config.data_dir, "signing")?;
    let mut signing_key = [0; 32];
    for (slot, byte) in signing_key.iter_mut().zip(key.bytes()) {
        *slot = byte;
    }
    Ok(signing_key)
}
