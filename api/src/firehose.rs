//! The firehose: the event log as one stream of server-sent events, what was and what is to come under one cursor.
//!
//! There is no hand-over from the archive to the present where an event could be lost: both are read from the log, by
//! position, and a new head only wakes the reader up. A stream holds one batch, and reads the next when the client has
//! taken it: who reads slowly waits for nobody and nobody waits for them.

use std::{collections::BTreeSet, convert::Infallible, fmt::Write, sync::Arc, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::stream;
use http::{
    HeaderValue,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use serde::Serialize;
use serde_json::value::RawValue;
use socialhub_domain::event::CATALOGUE;
use socialhub_event_log::{Firehose, LogError, Position, PublicEvent};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    error::{ApiError, BadField},
    state::App,
    stream::{KEEP_ALIVE, PACE, RETRY},
    views::Time,
};

/// Events of one read of the log.
const BATCH: usize = 256;
/// When somebody whom there is no place for may ask again.
const FULL_RETRY: Duration = Duration::from_secs(5);
/// What an event of a type that this program does not know is called on the wire.
const UNKNOWN: &str = "unknown";

/// Counts the open streams.
pub(crate) struct OpenFirehoses(Arc<Semaphore>);

/// One open stream; dropping it makes room for another.
struct Place(#[expect(dead_code, reason = "held for its end")] OwnedSemaphorePermit);

impl OpenFirehoses {
    pub(crate) fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most)))
    }

    fn open(&self) -> Result<Place, ApiError> {
        let Ok(permit) = Arc::clone(&self.0).try_acquire_owned() else {
            return Err(ApiError::unavailable("too many open streams of all events")
                .detail("too many streams of all events are open")
                .retry_after(FULL_RETRY.as_secs()));
        };
        metrics::gauge!("socialhub_firehose_streams").increment(1.0);
        Ok(Place(permit))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::gauge!("socialhub_firehose_streams").decrement(1.0);
    }
}

/// Where a stream begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    /// What says so, for an error that names it.
    pub field: &'static str,
    /// The position to begin after.
    pub after: Position,
}

/// Which events are told.
#[derive(Debug, Clone)]
pub(crate) enum Types {
    /// All, also those of a type that this program does not know.
    All,
    /// Those of these types.
    These(BTreeSet<&'static str>),
}

impl Types {
    fn contain(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(types) => types.contains(name),
        }
    }
}

/// One event, as the data of a server-sent event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FirehoseEvent<'a> {
    /// Its place in the log, from 1, without gaps.
    position: u64,
    /// Its own id, the same for ever; tells a repeat.
    event_id: Uuid,
    /// The type, e.g. `post.created`.
    #[serde(rename = "type")]
    event_type: &'a str,
    /// The version of the payload's shape.
    version: u32,
    /// The stream it belongs to, `type/id`.
    stream: String,
    /// Its place in the stream, from 1.
    sequence: u64,
    /// When it happened.
    occurred_at: Time,
    /// The data but for its personal fields; null when this version of the program cannot read the event.
    #[schema(value_type = Option<Object>)]
    payload: Option<&'a RawValue>,
}

impl<'a> From<&'a PublicEvent> for FirehoseEvent<'a> {
    fn from(event: &'a PublicEvent) -> Self {
        Self {
            position: event.position,
            event_id: event.event_id,
            event_type: &event.event_type,
            version: event.version,
            stream: event.stream.to_string(),
            sequence: event.sequence,
            occurred_at: Time(event.occurred_at),
            payload: event.payload.as_deref(),
        }
    }
}

/// Answers with a stream.
pub(crate) async fn open(app: App, start: Start, types: Types) -> Result<Response, ApiError> {
    let place = app.firehoses.open()?;
    let firehose = app.api.firehose.clone();
    let head = firehose.head().await.map_err(unavailable)?;
    if start.after > head {
        let message = format!("is past the end of the log, which is at position {head}");
        let field = start.field.to_owned();
        return Err(ApiError::invalid(vec![BadField { field, message }]));
    }
    let reading = Reading {
        head: firehose.watch_head(),
        shutdown: app.api.shutdown.clone(),
        firehose,
        types,
        after: start.after,
        greeted: false,
        more: true,
        asked: None,
        _place: place,
    };
    let pieces = stream::unfold(reading, |mut reading| async move {
        let piece = reading.next().await?;
        Some((Ok::<_, Infallible>(piece), reading))
    });
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would otherwise collect events before it passes them on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

#[expect(clippy::needless_pass_by_value, reason = "made for `map_err`")]
fn unavailable(error: LogError) -> ApiError {
    ApiError::unavailable(error.to_string())
}

/// The state of one stream.
struct Reading {
    firehose: Firehose,
    head: watch::Receiver<Position>,
    shutdown: CancellationToken,
    types: Types,
    /// Everything up to here was read, and told if it was asked for.
    after: Position,
    greeted: bool,
    /// Whether there may be more without waiting.
    more: bool,
    asked: Option<Instant>,
    _place: Place,
}

/// What ended a wait.
enum Woken {
    /// The log has grown, or may have.
    Log,
    /// Nothing has happened for so long that the client should hear of us.
    Silence,
    /// The program stops.
    End,
}

impl Reading {
    /// The next piece of the stream; none at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.greeted {
            // An id without data: a client that loses the connection before the first event resumes where it began.
            self.greeted = true;
            let retry = RETRY.as_millis();
            return Some(format!("retry: {retry}\nid: {}\n\n", self.after).into());
        }
        loop {
            if !self.more {
                match self.wake().await {
                    Woken::Log => {}
                    Woken::Silence => return Some(Bytes::from_static(b": keep-alive\n\n")),
                    Woken::End => return None,
                }
            }
            match self.read().await {
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) => return Some(piece),
                Some(Err(error)) => {
                    // The client comes back with the last id that it has.
                    tracing::warn!(after = self.after, %error, "a stream of all events ended");
                    return None;
                }
                None => return None,
            }
        }
    }

    async fn wake(&mut self) -> Woken {
        let paced = async {
            // A busy log does not cost a read per commit and stream.
            if let Some(asked) = self.asked {
                tokio::time::sleep_until(asked + PACE).await;
            }
            self.head.changed().await
        };
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Woken::End,
            changed = paced => changed.map_or(Woken::End, |()| Woken::Log),
            () = tokio::time::sleep(KEEP_ALIVE) => Woken::Silence,
        }
    }

    /// The next events, if there are any; none when the program stops.
    async fn read(&mut self) -> Option<Result<Bytes, LogError>> {
        self.head.mark_unchanged();
        self.asked = Some(Instant::now());
        let events = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return None,
            events = self.firehose.read(self.after, BATCH) => events,
        };
        Some(events.and_then(|events| self.tell(&events)))
    }

    fn tell(&mut self, events: &[PublicEvent]) -> Result<Bytes, LogError> {
        self.more = events.len() >= BATCH;
        let mut piece = String::new();
        let (mut told, mut count) = (self.after, 0);
        for event in events {
            self.after = event.position;
            if self.types.contain(&event.event_type) {
                write_event(&mut piece, event)?;
                told = event.position;
                count += 1;
            }
        }
        if told < self.after {
            // An id without data moves the client's cursor over what it did not ask for.
            let _ = write!(piece, "id: {}\n\n", self.after);
        }
        metrics::counter!("socialhub_firehose_events_total").increment(count);
        Ok(piece.into())
    }
}

/// Writes an event. One that cannot be written must not be passed over.
fn write_event(piece: &mut String, event: &PublicEvent) -> Result<(), LogError> {
    let position = event.position;
    // JSON has no line break in it, which would end the field.
    let data = serde_json::to_string(&FirehoseEvent::from(event)).map_err(|error| {
        let reason = error.to_string();
        LogError::Damaged { position, reason }
    })?;
    // Nor has a name of the catalogue; of others nobody knows.
    let known = CATALOGUE.iter().find(|(name, _)| *name == event.event_type);
    let name = known.map_or(UNKNOWN, |(name, _)| name);
    let _ = write!(piece, "id: {position}\nevent: {name}\ndata: {data}\n\n");
    Ok(())
}
