//! Event streams (SSE): what is new in a feed or among notifications, as it becomes visible.
//!
//! A stream sleeps on its read model's position. However many commits pass while it is asked or paced, it makes one
//! query for all of them: a busy log does not cost a query per commit and stream.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    mem,
    sync::Arc,
    time::Duration,
};

use axum::response::{
    IntoResponse, Response, Sse,
    sse::{Event, KeepAlive},
};
use futures::stream;
use http::{HeaderMap, HeaderValue, header::CACHE_CONTROL};
use parking_lot::Mutex;
use serde::Serialize;
use socialhub_domain::UserId;
use socialhub_projections::ReadError;
use tokio::{sync::watch, time::Instant};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    error::ApiError,
    extract::auth::{bearer, verify},
    state::{App, Model},
};

/// Items of one query.
const BATCH: usize = 100;
/// A stream asks its read model at most this often.
pub(crate) const PACE: Duration = Duration::from_millis(50);
/// A comment goes out this often, so that proxies keep the connection and the server notices a lost one.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// An idle stream looks this often whether its token is still good.
const RECHECK: Duration = Duration::from_secs(15);
/// What a browser waits before it connects again, and a stream before it asks again a read model that did not answer.
pub(crate) const RETRY: Duration = Duration::from_secs(2);

/// Counts each person's open streams.
pub(crate) struct OpenStreams {
    most: usize,
    open: Arc<Mutex<HashMap<UserId, usize>>>,
}

/// One open stream; dropping it counts it out.
struct Slot {
    user: UserId,
    open: Arc<Mutex<HashMap<UserId, usize>>>,
}

impl OpenStreams {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            open: Arc::default(),
        }
    }

    fn open(&self, user: UserId) -> Result<Slot, ApiError> {
        let mut open = self.open.lock();
        let count = open.entry(user).or_default();
        if *count >= self.most {
            return Err(ApiError::too_many(
                KEEP_ALIVE.as_secs(),
                "too many open streams of this person",
            ));
        }
        *count += 1;
        Ok(Slot {
            user,
            open: Arc::clone(&self.open),
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        if let Some(count) = open.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.user);
            }
        }
    }
}

/// What a stream tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    /// New posts of one's feed.
    Feed,
    /// One's notifications.
    Notifications,
}

impl Topic {
    fn kind(self) -> &'static str {
        match self {
            Self::Feed => "feed-stream",
            Self::Notifications => "notification-stream",
        }
    }

    fn model(self, app: &App) -> &Model {
        match self {
            Self::Feed => &app.models.feed,
            Self::Notifications => &app.models.notifications,
        }
    }
}

/// A new post in one's feed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewPost {
    /// The post.
    pub post_id: Uuid,
}

/// One item: its position and its JSON.
type Item = (u64, String);

/// The state of one stream.
struct Tail {
    app: App,
    topic: Topic,
    viewer: UserId,
    /// The request's headers, for the token: a stream must not outlive it.
    headers: HeaderMap,
    /// Everything up to here was sent or is in `pending`.
    after: u64,
    seen: watch::Receiver<u64>,
    pending: VecDeque<Item>,
    /// Whether there may be more without waiting.
    more: bool,
    /// The read model is not asked before this.
    next_at: Option<Instant>,
    /// Whether the read model did not answer when it was last asked.
    away: bool,
    greeted: bool,
    _slot: Slot,
}

/// Answers with a stream.
pub(crate) async fn open(
    app: App,
    topic: Topic,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let viewer = verify(&app, headers)?.id;
    let model = topic.model(&app);
    let after = match resume(&app, topic, viewer, headers)? {
        Some(after) => after,
        None => model.reached().await?,
    };
    let tail = Tail {
        seen: model.watch(),
        _slot: app.streams.open(viewer)?,
        headers: token_only(headers),
        topic,
        viewer,
        after,
        pending: VecDeque::new(),
        more: true,
        next_at: None,
        away: false,
        greeted: false,
        app,
    };
    let events = stream::unfold(tail, |mut tail| async move {
        let event = tail.next().await?;
        Some((Ok::<_, Infallible>(event), tail))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive");
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would otherwise collect events before it passes them on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn token_only(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    if let Some(value) = headers.get(http::header::AUTHORIZATION) {
        kept.insert(http::header::AUTHORIZATION, value.clone());
    }
    debug_assert_eq!(bearer(&kept), bearer(headers));
    kept
}

/// Where `Last-Event-ID` says that the client stopped; none when it sends none.
fn resume(
    app: &App,
    topic: Topic,
    viewer: UserId,
    headers: &HeaderMap,
) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get("last-event-id").filter(|id| !id.is_empty()) else {
        return Ok(None);
    };
    value
        .to_str()
        .ok()
        .and_then(|id| {
            app.signer
                .unseal(topic.kind(), &viewer.to_string(), id)?
                .parse()
                .ok()
        })
        .map(Some)
        .ok_or_else(|| ApiError::bad_field("Last-Event-ID", "is not an id of this stream"))
}

impl Tail {
    /// The next event; none when the stream ends.
    async fn next(&mut self) -> Option<Event> {
        if !self.greeted {
            // An id without data: a client that loses the connection before anything happened resumes here.
            self.greeted = true;
            return Some(Event::default().id(self.id(self.after)).retry(RETRY));
        }
        loop {
            if let Some((position, data)) = self.pending.pop_front() {
                return Some(Event::default().id(self.id(position)).data(data));
            }
            if !self.more && !self.wake().await {
                return None;
            }
            if !self.pace().await || verify(&self.app, &self.headers).is_err() {
                return None;
            }
            let shutdown = self.app.api.shutdown.clone();
            match shutdown.run_until_cancelled(self.ask()).await {
                Some(Ok(())) => self.away = false,
                Some(Err(error)) => self.put_off(&error),
                None => return None,
            }
        }
    }

    fn id(&self, position: u64) -> String {
        let viewer = self.viewer.to_string();
        self.app
            .signer
            .seal(self.topic.kind(), &viewer, &position.to_string())
    }

    /// Waits for the read model to move, or for the time to look at the token again. No when the program stops.
    async fn wake(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.app.api.shutdown.cancelled() => false,
            changed = self.seen.changed() => changed.is_ok(),
            () = tokio::time::sleep(RECHECK) => true,
        }
    }

    /// Keeps a stream of a busy log from asking all the time. No when the program stops.
    async fn pace(&mut self) -> bool {
        let Some(next_at) = self.next_at else {
            return true;
        };
        tokio::select! {
            biased;
            () = self.app.api.shutdown.cancelled() => false,
            () = tokio::time::sleep_until(next_at) => true,
        }
    }

    /// The read model is asked again in a while. The client stays: sent away, it would come back as soon, to ask for the same.
    fn put_off(&mut self, error: &ReadError) {
        if !mem::replace(&mut self.away, true) {
            tracing::warn!(stream = self.topic.kind(), %error, "an event stream waits for its read model");
        }
        self.more = true;
        self.next_at = Some(Instant::now() + RETRY);
    }

    /// Fetches what is new, if the read model has moved.
    async fn ask(&mut self) -> Result<(), ReadError> {
        let seen = *self.seen.borrow_and_update();
        if seen <= self.after {
            self.more = false;
            return Ok(());
        }
        self.next_at = Some(Instant::now() + PACE);
        let items = self.fetch().await?;
        self.more = items.len() >= BATCH;
        let last = items.last().map_or(self.after, |(position, _)| *position);
        // A short batch says that there is nothing else up to where the model was before the query.
        self.after = if self.more { last } else { last.max(seen) };
        self.pending.extend(items);
        Ok(())
    }

    async fn fetch(&self) -> Result<Vec<Item>, ReadError> {
        let api = &self.app.api;
        match self.topic {
            Topic::Feed => {
                let posts = api.feed.home_after(self.viewer, self.after, BATCH).await?;
                Ok(posts
                    .into_iter()
                    .map(|item| {
                        let post_id = item.post_id.0;
                        (item.position, to_json(&NewPost { post_id }))
                    })
                    .collect())
            }
            Topic::Notifications => {
                let reader = &api.notifications;
                let notifications = reader.after(self.viewer, self.after, BATCH).await?;
                Ok(notifications
                    .into_iter()
                    .map(|view| {
                        let position = view.position;
                        let body = crate::routes::notify::NotificationBody::from(view);
                        (position, to_json(&body))
                    })
                    .collect())
            }
        }
    }
}

fn to_json<T: Serialize>(item: &T) -> String {
    serde_json::to_string(item).unwrap_or_default()
}
