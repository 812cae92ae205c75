//! Small bridges: a port of one side, answered by what the other side has.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::FutureExt;
use socialhub_api::readiness::{NotReady, PartFigures, Readiness};
use socialhub_chat::{ChatUser, TokenCheck};
use socialhub_commands::ports::{LikeCountLookup, NotificationLookup, PortError, Tokens};
use socialhub_domain::{
    Aggregate, Clock, Event, NotificationId, PostId, StreamId, Timestamp, UserId, post::Post,
    user::User,
};
use socialhub_event_log::{EventLog, Position, RecordedEvent, RelayState, RelayStatus};
use socialhub_infra::media::Media;
use socialhub_projections::{
    ModelPosition, PublicRecord,
    analytics::AnalyticsStatus,
    counters::CounterReader,
    feed::FeedReader,
    notifications::NotificationReader,
    reactor::Reactor,
    status::{ProjectionStatus, STARTING, is_starting},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Between two looks for files that no post names.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// How old a file must be before it may be swept: long past any upload that is under way.
const SWEEP_AGE_MS: i64 = 3_600_000;

/// Whose a notification is, answered by the read model.
pub struct Owners {
    reader: Arc<dyn NotificationReader>,
    position: Arc<dyn ModelPosition>,
}

impl Owners {
    /// Asks this reader.
    pub fn new(reader: Arc<dyn NotificationReader>, position: Arc<dyn ModelPosition>) -> Self {
        Self { reader, position }
    }
}

#[async_trait]
impl NotificationLookup for Owners {
    async fn owner(&self, id: NotificationId) -> Result<Option<UserId>, PortError> {
        self.reader
            .owner(id)
            .await
            .map_err(|error| PortError(error.to_string()))
    }

    async fn position(&self) -> Result<Position, PortError> {
        self.position
            .position()
            .await
            .map_err(|error| PortError(error.to_string()))
    }
}

/// A post's likes, answered by the counters or, where these are away or not to be trusted, by the feed's model: both count
/// the same events.
pub struct Likes {
    /// Asked first.
    pub counters: Arc<dyn CounterReader>,
    /// Asked when they do not know.
    pub feed: Arc<dyn FeedReader>,
}

#[async_trait]
impl LikeCountLookup for Likes {
    async fn like_count(&self, post: PostId, viewer: UserId) -> Result<u64, PortError> {
        let counts = match self.counters.post_counts(&[post]).await {
            Ok(counts) => counts,
            Err(error) => {
                tracing::warn!(%error, "the counters cannot be read: the feed's model answers");
                None
            }
        };
        if let Some(counts) = counts.and_then(|counts| counts.first().copied()) {
            return Ok(counts.likes);
        }
        let found = self.feed.post(post, viewer).await;
        let found = found.map_err(|error| PortError(error.to_string()))?;
        Ok(found.map_or(0, |post| post.like_count))
    }
}

/// Who a chat client is, answered by the tokens of the API.
pub struct ChatTokens {
    tokens: Arc<dyn Tokens>,
    clock: Arc<dyn Clock>,
}

impl ChatTokens {
    /// Checks with these tokens.
    pub fn new(tokens: Arc<dyn Tokens>, clock: Arc<dyn Clock>) -> Self {
        Self { tokens, clock }
    }
}

impl TokenCheck for ChatTokens {
    fn check(&self, token: &str) -> Option<ChatUser> {
        let actor = self.tokens.verify(token, self.clock.now()).ok()?;
        Some(ChatUser {
            id: actor.id,
            username: actor.username.into(),
        })
    }

    fn is_erased(&self, user: UserId) -> bool {
        self.tokens.is_erased(user)
    }
}

/// What `/readyz` says: the log answers, and every projector, relay and analytics consumer of this process runs. What other processes do
/// is theirs to say: a service goes on while a projector is away.
pub struct Workers {
    log: Arc<dyn EventLog>,
    clock: Arc<dyn Clock>,
    /// This process's projectors.
    pub projectors: Vec<Arc<ProjectionStatus>>,
    /// This process's relay, if it has one.
    pub relay: Option<Arc<RelayStatus>>,
    /// This process's analytics consumer, if it has one.
    pub analytics: Option<Arc<AnalyticsStatus>>,
    /// What else must be as it should.
    pub further: Vec<Arc<dyn Readiness>>,
}

impl Workers {
    /// None yet, on this log.
    pub fn new(log: Arc<dyn EventLog>, clock: Arc<dyn Clock>) -> Self {
        Self {
            log,
            clock,
            projectors: Vec::new(),
            relay: None,
            analytics: None,
            further: Vec::new(),
        }
    }
}

/// What is wrong with a projector, if something is.
fn trouble(status: &ProjectionStatus) -> Option<String> {
    if status.is_starting() {
        let keeps_from_it = status.last_error();
        return Some(
            keeps_from_it.map_or(STARTING.to_owned(), |error| format!("{STARTING}: {error}")),
        );
    }
    let stands = || "has work and does not move: see `socialhub replay status`".to_owned();
    status
        .is_stuck()
        .then(|| status.last_error().unwrap_or_else(stands))
}

#[async_trait]
impl Readiness for Workers {
    async fn not_ready(&self) -> Vec<NotReady> {
        let mut parts = Vec::new();
        if let Err(error) = self.log.head().await {
            parts.push(NotReady {
                name: "event log".to_owned(),
                reason: error.to_string(),
            });
        }
        for status in &self.projectors {
            if let Some(reason) = trouble(status) {
                let name = format!("projection {}", status.model());
                parts.push(NotReady { name, reason });
            }
        }
        if let Some(report) = self.relay.as_ref().map(|status| status.report())
            && !matches!(report.state, RelayState::Leading | RelayState::Following)
        {
            parts.push(NotReady {
                name: "relay".to_owned(),
                reason: report.last_error.unwrap_or_else(|| STARTING.to_owned()),
            });
        }
        let analytics = self.analytics.as_ref();
        if let Some(reason) = analytics.and_then(|status| status.trouble()) {
            let name = "analytics".to_owned();
            parts.push(NotReady { name, reason });
        }
        for further in &self.further {
            parts.extend(further.not_ready().await);
        }
        parts
    }

    fn figures(&self) -> Vec<PartFigures> {
        let projections = self.projectors.iter().map(|status| {
            let report = status.report(&*self.clock);
            PartFigures {
                name: format!("projection {}", report.model),
                state: report.state.word().to_owned(),
                generation: report.generation.map(|generation| generation.0),
                position: report.position,
                lag_events: report.lag_events,
                lag_seconds: report.lag_seconds,
                rate: report.rate,
                parked: Some(report.parked.events),
                parked_sequences: Some(report.parked.sequences),
                last_error: report.last_error,
            }
        });
        let relay = self.relay.as_ref().map(|status| {
            let report = status.report();
            PartFigures {
                name: "relay".to_owned(),
                state: report.state.word().to_owned(),
                generation: None,
                position: report.position,
                lag_events: report.lag_events,
                lag_seconds: report.lag_seconds,
                rate: report.rate,
                parked: None,
                parked_sequences: None,
                last_error: report.last_error,
            }
        });
        let analytics = self.analytics.as_ref().map(|status| {
            let (trouble, lag) = (status.trouble(), status.lag());
            PartFigures {
                name: "analytics".to_owned(),
                state: match &trouble {
                    None => "running",
                    Some(trouble) if is_starting(trouble) => "starting",
                    Some(_) => "failing",
                }
                .to_owned(),
                generation: None,
                position: lag.position,
                lag_events: lag.events,
                lag_seconds: lag.seconds,
                rate: status.rate(),
                parked: None,
                parked_sequences: None,
                last_error: trouble,
            }
        });
        projections.chain(relay).chain(analytics).collect()
    }
}

/// Removes the files of a post when its deletion has reached the feed. What a crash makes it miss, the sweeper finds.
pub struct MediaRemover {
    deleted: mpsc::Sender<PostId>,
}

impl MediaRemover {
    /// Starts removing in the background.
    pub fn new(media: Arc<dyn Media>) -> Self {
        let (deleted, mut posts) = mpsc::channel(1024);
        tokio::spawn(async move {
            while let Some(post) = posts.recv().await {
                if let Err(error) = media.remove_post(post).await {
                    tracing::warn!(%post, %error, "files of a deleted post could not be removed; the sweeper will");
                }
            }
        });
        Self { deleted }
    }
}

#[async_trait]
impl Reactor for MediaRemover {
    async fn react(&self, records: &[PublicRecord]) {
        for record in records {
            if let Ok(Event::PostDeleted(deleted)) = &record.event {
                // A full queue is no loss: the sweeper comes by.
                let _ = self.deleted.try_send(deleted.post_id);
            }
        }
    }
}

/// Every ten minutes, removes files that are an hour old and that no post in the log names.
pub async fn sweep_media(
    media: Arc<dyn Media>,
    log: Arc<dyn EventLog>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let older_than = Timestamp(clock.now().0 - SWEEP_AGE_MS);
        let asked = Arc::clone(&log);
        let exists = move |post| post_exists(Arc::clone(&asked), post).boxed();
        match media.sweep(older_than, &exists).await {
            Ok(swept) if swept.staged + swept.posts > 0 => {
                tracing::info!(
                    staged = swept.staged,
                    posts = swept.posts,
                    "swept files that nothing names"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "media could not be swept"),
        }
    }
}

/// Whether the log has the post, and neither its deletion nor its author's erasure. When the log cannot say, the files
/// stay.
async fn post_exists(log: Arc<dyn EventLog>, post: PostId) -> bool {
    let Some(written) = state::<Post>(&*log, &Post::stream(post)).await else {
        return true;
    };
    let Some(written) = written.filter(|written| !written.deleted) else {
        return false;
    };
    let author = state::<User>(&*log, &User::stream(written.author)).await;
    !author.flatten().is_some_and(|person| person.erased)
}

/// The state of a stream; none when the log cannot say.
async fn state<A: Aggregate>(log: &dyn EventLog, stream: &StreamId) -> Option<A::State> {
    let recorded = log.read_stream(stream).await.ok()?;
    let events: Result<Vec<Event>, _> = recorded.iter().map(RecordedEvent::decode).collect();
    Some(A::replay(&events.ok()?))
}
