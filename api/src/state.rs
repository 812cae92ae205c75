//! What the handlers work with.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use socialhub_commands::{Commands, ports::Tokens};
use socialhub_domain::{Clock, IdGenerator, StreamId, UserId};
use socialhub_event_log::Firehose;
use socialhub_projections::{
    Freshness, ModelPosition, ReadError, counters::ports::CounterReader, feed::ports::FeedReader,
    notifications::ports::NotificationReader,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    error::ApiError,
    firehose::OpenFirehoses,
    limits::{Limiter, SharedLimits},
    media::MediaReader,
    metrics::RequestMetrics,
    readiness::Readiness,
    recent::LastWrites,
    settings::Settings,
    sign::Signer,
    stream::OpenStreams,
};

/// Where each read model is.
#[derive(Clone)]
pub struct Positions {
    /// Posts, people, comments and feeds.
    pub feed: Arc<dyn ModelPosition>,
    /// Notifications.
    pub notifications: Arc<dyn ModelPosition>,
    /// Counters and trending.
    pub counters: Arc<dyn ModelPosition>,
    /// What all of them should have by now: a read of one that has less says so, also to who asked for nothing.
    pub due: watch::Receiver<u64>,
}

/// Everything the API needs; wired once by the binary.
#[derive(Clone)]
pub struct ApiState {
    /// The write side.
    pub commands: Arc<Commands>,
    /// Reads posts, people, comments and feeds.
    pub feed: Arc<dyn FeedReader>,
    /// Reads notifications.
    pub notifications: Arc<dyn NotificationReader>,
    /// Reads counters and trending.
    pub counters: Arc<dyn CounterReader>,
    /// Reads every event, without anything personal.
    pub firehose: Firehose,
    /// Where the three models are.
    pub positions: Positions,
    /// Checks bearer tokens.
    pub tokens: Arc<dyn Tokens>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ids of requests.
    pub ids: Arc<dyn IdGenerator>,
    /// Reads uploaded files.
    pub media: Arc<dyn MediaReader>,
    /// What each person wrote last.
    pub last_writes: Arc<dyn LastWrites>,
    /// Limits that all instances count together; none: each counts for itself.
    pub shared_limits: Option<Arc<dyn SharedLimits>>,
    /// What `/readyz` asks.
    pub readiness: Arc<dyn Readiness>,
    /// Renders `/metrics`, in Prometheus' text format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Ends the event streams when the program stops.
    pub shutdown: CancellationToken,
    /// Settings.
    pub settings: Settings,
}

/// The state as handlers see it.
pub(crate) type App = Arc<Shared>;

/// The wiring and what the API keeps itself.
pub(crate) struct Shared {
    pub api: ApiState,
    pub limiter: Limiter,
    pub signer: Signer,
    pub streams: OpenStreams,
    pub firehoses: OpenFirehoses,
    pub in_flight: AtomicUsize,
    pub request_metrics: RequestMetrics,
    pub models: Models,
}

/// The read models a query may use.
pub(crate) struct Models {
    pub feed: Model,
    pub notifications: Model,
    pub counters: Model,
}

/// One read model's position.
pub(crate) struct Model {
    position: Arc<dyn ModelPosition>,
    due: watch::Receiver<u64>,
}

impl Model {
    fn new(position: Arc<dyn ModelPosition>, due: &watch::Receiver<u64>) -> Self {
        let due = due.clone();
        Self { position, due }
    }

    /// A receiver of its own, for a stream.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.position.watch()
    }

    /// How far the model is.
    pub(crate) async fn reached(&self) -> Result<u64, ApiError> {
        Ok(self.position.position().await?)
    }

    async fn wait_for(&self, wanted: u64, limit: Duration) -> Result<Freshness, ApiError> {
        let position = self.position.known();
        let mut freshness = Freshness {
            position,
            stale: false,
        };
        if position < wanted {
            freshness = self.position.wait_for(wanted, limit).await?;
        }
        let due = *self.due.borrow();
        if freshness.position < due {
            // What this process knows may be of long ago. A store that does not say where it is says nothing else, either:
            // what is answered instead is not the model's.
            if let Ok(position) = self.position.position().await {
                freshness.position = freshness.position.max(position);
                freshness.stale |= freshness.position < due;
            }
        }
        Ok(freshness)
    }
}

/// What was looked up, and how far the model was that has it or not.
pub(crate) struct LookedUp<T>(Freshness, Option<T>);

impl<T> LookedUp<T> {
    /// A 404 with the contract's short message when it is not there. It says so when the model was behind.
    pub(crate) fn or_missing(self, error: &'static str) -> Result<(Freshness, T), ApiError> {
        let Self(freshness, found) = self;
        let found = found.ok_or_else(|| ApiError::not_found(error).seen_at(freshness))?;
        Ok((freshness, found))
    }
}

impl Shared {
    pub(crate) fn new(api: ApiState) -> Self {
        let positions = api.positions.clone();
        Self {
            limiter: Limiter::new(api.settings.rate_limits.as_ref(), api.shared_limits.clone()),
            signer: Signer::new(&api.settings.signing_key),
            streams: OpenStreams::new(api.settings.streams_per_user),
            firehoses: OpenFirehoses::new(api.settings.firehoses),
            in_flight: AtomicUsize::new(0),
            request_metrics: RequestMetrics::default(),
            models: Models {
                feed: Model::new(positions.feed, &positions.due),
                notifications: Model::new(positions.notifications, &positions.due),
                counters: Model::new(positions.counters, &positions.due),
            },
            api,
        }
    }

    /// Waits until the models have seen what the viewer wrote last, and the position the client asked for. For what nobody
    /// asked for it does not wait, but says when they lack what they should have by now.
    pub(crate) async fn settle(
        &self,
        models: &[&Model],
        viewer: Option<UserId>,
        asked: Option<u64>,
    ) -> Result<Freshness, ApiError> {
        let own = match viewer {
            Some(viewer) => self.api.last_writes.last(viewer).await,
            None => 0,
        };
        let wanted = own.max(asked.unwrap_or(0));
        let limit = self.api.settings.read_wait;
        let started = tokio::time::Instant::now();
        let mut all = Freshness {
            position: u64::MAX,
            stale: false,
        };
        for model in models {
            let left = limit.saturating_sub(started.elapsed());
            let one = model.wait_for(wanted, left).await?;
            all.position = all.position.min(one.position);
            all.stale |= one.stale;
        }
        Ok(all)
    }

    /// Looks something up that is told by one stream. A model that does not have it while the log does is only behind:
    /// then it is waited for, so that nobody is told "not found" about what somebody else has just made.
    pub(crate) async fn look_up<T, F>(
        &self,
        models: &[&Model],
        viewer: Option<UserId>,
        asked: Option<u64>,
        stream: StreamId,
        read: impl Fn() -> F + Send,
    ) -> Result<LookedUp<T>, ApiError>
    where
        T: Send,
        F: Future<Output = Result<Option<T>, ReadError>> + Send,
    {
        let freshness = self.settle(models, viewer, asked).await?;
        if let Some(found) = read().await? {
            return Ok(LookedUp(freshness, Some(found)));
        }
        // Without the log, what the model says is all there is.
        let written = self.api.commands.last_written(&stream).await.ok().flatten();
        match written {
            Some(position) if position > freshness.position => {
                let freshness = self
                    .settle(models, viewer, asked.max(Some(position)))
                    .await?;
                Ok(LookedUp(freshness, read().await?))
            }
            _ => Ok(LookedUp(freshness, None)),
        }
    }
}
