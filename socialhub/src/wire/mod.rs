//! Wiring: which adapter stands behind which port, and what runs beside the requests.
//!
//! A process plays [`Roles`]: it serves some services, relays, projects some read models. In the embedded profile it
//! plays them all; in the distributed profile all or some. [`Parts`] are the adapters that the chosen profile has put
//! behind the ports; what is built on them is the same for both.

mod adapters;
pub mod analytics;
#[cfg(feature = "distributed")]
mod distributed;
mod embedded;
mod erasing;
mod figures;
mod heartbeat;
mod looks;
mod past;
mod program;
mod replay;
mod transfer;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::future::BoxFuture;
use metrics_exporter_prometheus::PrometheusHandle;
use socialhub_api::{LastWrites, Positions, Readiness, Service, SharedLimits};
use socialhub_chat::{ChatBus, ChatLog, PresenceStore};
use socialhub_commands::ports::{Mailer, OtpStore};
use socialhub_domain::{Clock, upcast};
use socialhub_event_log::{
    CredentialsReader, Erasable, ErasureStore, EventLog, Firehose, PersonKeys, ProcessReports,
    SealedLog,
};
use socialhub_infra::{
    clock::SystemClock,
    mail::EmlMailer,
    media::{Media, MediaLimits, open_media},
    security::{AesGcmCipher, JwtTokens, load_or_create_secret},
};
use socialhub_projections::{
    ModelName, Projection,
    counters::{CounterReader, Counters},
    feed::{Feed, FeedReader},
    notifications::{NotificationReader, Notifications},
    runtime::{LeftOutTally, ModelControl},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::{program::Program, replay::replay};
use crate::config::{Config, Profile};

/// The read models that queries are answered from.
const MODELS: [ModelName; 3] = [Feed::NAME, Notifications::NAME, Counters::NAME];

/// What a process does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    /// The services it serves.
    pub services: Vec<Service>,
    /// Whether it publishes the log.
    pub relay: bool,
    /// The read models it projects.
    pub projections: Vec<String>,
    /// Whether it writes files of all events.
    pub analytics: bool,
}

impl Roles {
    /// Everything in one process.
    pub fn all() -> Self {
        Self {
            services: Service::ALL.to_vec(),
            relay: true,
            projections: MODELS.map(|model| model.0.to_owned()).to_vec(),
            analytics: false,
        }
    }

    /// Some services.
    pub fn services(services: Vec<Service>) -> Self {
        Self {
            services,
            relay: false,
            projections: Vec::new(),
            analytics: false,
        }
    }

    /// The relay alone.
    pub fn relay() -> Self {
        Self {
            relay: true,
            ..Self::services(Vec::new())
        }
    }

    /// The projectors of some read models.
    pub fn projections(projections: Vec<String>) -> Self {
        Self {
            projections,
            ..Self::services(Vec::new())
        }
    }

    /// The analytics consumer alone.
    pub fn analytics() -> Self {
        Self {
            analytics: true,
            ..Self::services(Vec::new())
        }
    }

    /// Those of some models whose generations it watches: that it projects, or all where it relays, so that somebody sees
    /// also a model that nobody projects.
    #[cfg(feature = "distributed")]
    fn watched(&self, models: &[Arc<dyn ModelControl>]) -> Vec<Arc<dyn ModelControl>> {
        let is_watched = |model: &&Arc<dyn ModelControl>| {
            let name = model.name().0;
            self.relay || self.projections.iter().any(|projected| projected == name)
        };
        models.iter().filter(is_watched).cloned().collect()
    }

    /// The port it listens on unless told otherwise.
    pub fn port(&self) -> u16 {
        match self.services.as_slice() {
            [one] => one.port(),
            _ => 8080,
        }
    }
}

/// For a log line.
impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services = self.services.iter().map(ToString::to_string);
        let relay = self.relay.then(|| "relay".to_owned());
        let projections = self
            .projections
            .iter()
            .map(|name| format!("project {name}"));
        let analytics = self.analytics.then(|| "analytics".to_owned());
        let names: Vec<String> = services
            .chain(relay)
            .chain(projections)
            .chain(analytics)
            .collect();
        f.write_str(&names.join(", "))
    }
}

/// The adapters behind the ports.
struct Parts {
    clock: Arc<dyn Clock>,
    /// Sealed: what is personal is opened for whoever reads it here.
    log: Arc<dyn EventLog>,
    firehose: Firehose,
    credentials: Arc<dyn CredentialsReader>,
    tokens: Arc<JwtTokens>,
    otps: Arc<dyn OtpStore>,
    mailer: Arc<dyn Mailer>,
    media: Arc<dyn Media>,
    feed: Arc<dyn FeedReader>,
    notifications: Arc<dyn NotificationReader>,
    counters: Arc<dyn CounterReader>,
    positions: Positions,
    last_writes: Arc<dyn LastWrites>,
    shared_limits: Option<Arc<dyn SharedLimits>>,
    chat_log: Arc<dyn ChatLog>,
    chat_bus: Arc<dyn ChatBus>,
    presence: Arc<dyn PresenceStore>,
    readiness: Arc<dyn Readiness>,
    processes: Arc<dyn ProcessReports>,
    /// What this process's consumers have left out of the topics.
    left_out: Vec<Arc<LeftOutTally>>,
    erasing: Erasing,
}

/// What an erasure needs that nothing else does.
struct Erasing {
    store: Arc<dyn ErasureStore>,
    keys: Arc<dyn PersonKeys>,
    sealed: Arc<SealedLog>,
    models: Vec<Arc<dyn ModelControl>>,
    /// Places of the chosen profile alone, asked after all others.
    further: Vec<Arc<dyn Erasable>>,
}

/// What runs beside the requests, and how it is ended.
#[derive(Default)]
struct Background {
    /// Ends it.
    stop: CancellationToken,
    /// Ends after `stop` was cancelled.
    tasks: Vec<JoinHandle<()>>,
    /// Ends what the tasks read from; after them.
    last: CancellationToken,
    /// Closes the event log, at the very end.
    close: Option<BoxFuture<'static, ()>>,
}

impl Background {
    /// Runs something that never ends by itself.
    fn until_stopped(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.push(tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        }));
    }
}

/// Starts everything but the listening sockets.
///
/// # Errors
/// A line for the operator.
pub async fn start(
    config: &Config,
    roles: &Roles,
    metrics: PrometheusHandle,
) -> Result<Program, String> {
    upcast::check().map_err(text)?;
    std::fs::create_dir_all(&config.data_dir)
        .map_err(|error| format!("DATA_DIR: {}: {error}", config.data_dir.display()))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // Before anything is at work: what is done since then is this process's doing.
    let began = clock.now();
    let (parts, background) = match &config.profile {
        Profile::Embedded { log_file } => embedded::start(config, log_file, clock).await?,
        #[cfg(feature = "distributed")]
        Profile::Distributed(servers) => distributed::start(config, servers, roles, clock).await?,
        #[cfg(not(feature = "distributed"))]
        Profile::Distributed(_) => return Err(left_out()),
    };
    program::assemble(config, roles, parts, background, metrics, began)
}

/// Why a build without the adapters does not run the distributed profile. Its configuration is refused already.
#[cfg(not(feature = "distributed"))]
fn left_out() -> String {
    "this build has no adapters of the distributed profile: build it with `--features distributed`"
        .to_owned()
}

/// Brings the databases of the distributed profile up to date.
///
/// # Errors
/// A line for the operator.
#[cfg_attr(
    not(feature = "distributed"),
    expect(clippy::unused_async, reason = "awaits where the adapters are")
)]
pub async fn migrate(config: &Config) -> Result<(), String> {
    match &config.profile {
        Profile::Embedded { .. } => Err(
            "DATABASE_URL: files of SQLite are brought up to date when they are opened".to_owned(),
        ),
        #[cfg(feature = "distributed")]
        Profile::Distributed(servers) => distributed::migrate(servers).await,
        #[cfg(not(feature = "distributed"))]
        Profile::Distributed(_) => Err(left_out()),
    }
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}

/// The log with what is personal in it sealed.
fn sealed<L: EventLog + PersonKeys + 'static>(log: &Arc<L>) -> Arc<SealedLog> {
    let sealed = SealedLog::new(log.clone(), log.clone(), Arc::new(AesGcmCipher));
    Arc::new(sealed)
}

fn media(config: &Config) -> Result<Arc<dyn Media>, String> {
    let url = config.media_url.as_deref();
    open_media(url, &config.data_dir, MediaLimits::default())
        .map_err(|error| format!("MEDIA_URL: {error}"))
}

fn mailer(config: &Config) -> Result<Arc<dyn Mailer>, String> {
    if let Some(url) = &config.smtp_url {
        return smtp(url, &config.mail_from);
    }
    let mailer = EmlMailer::new(config.data_dir.join("mail")).map_err(text)?;
    Ok(Arc::new(mailer))
}

#[cfg(feature = "distributed")]
fn smtp(url: &str, from: &str) -> Result<Arc<dyn Mailer>, String> {
    let mailer = socialhub_infra::mail::SmtpMailer::open(url, from);
    Ok(Arc::new(
        mailer.map_err(|error| format!("SMTP_URL: {error}"))?,
    ))
}

#[cfg(not(feature = "distributed"))]
fn smtp(_: &str, _: &str) -> Result<Arc<dyn Mailer>, String> {
    Err(format!("SMTP_URL: {}", left_out()))
}

/// The host of an address, and what is looked for there: without who looks, and their password.
fn place(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    rest.rsplit_once('@').map_or(rest, |(_, place)| place)
}

/// A secret kept in the data folder, made at the first start.
fn secret_in(data_dir: &Path, name: &str) -> Result<String, String> {
    let made = std::fs::create_dir_all(data_dir.join("secrets")).map_err(text);
    made.and_then(|()| load_or_create_secret(&secret_file(data_dir, name)).map_err(text))
        .map_err(|error| format!("the secret `{name}`: {error}"))
}

/// Where such a secret is.
fn secret_file(data_dir: &Path, name: &str) -> PathBuf {
    data_dir.join("secrets").join(name)
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn a_place_says_where_and_not_who() {
        for (url, wanted) in [
            (
                "postgres://ada:se@cret@db:5432/social?sslmode=disable",
                "db:5432/social",
            ),
            ("redis://:secret@cache:6379/0", "cache:6379/0"),
            ("mongodb://a:b@one:1,two:2/x?replicaSet=r", "one:1,two:2/x"),
            ("mongodb://localhost", "localhost"),
            (
                "s3://key:secret@bucket/files?endpoint=http://host",
                "bucket/files",
            ),
            (
                "postgres:///social?host=/run&user=x&password=secret",
                "/social",
            ),
        ] {
            assert_eq!(place(url), wanted);
        }
    }
}
