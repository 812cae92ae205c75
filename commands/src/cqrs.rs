//! The seam to `cqrs_es`: every decider of the domain as its `Aggregate`, the event log as its `EventStore`.
//!
//! The context that goes from load to commit carries what `cqrs_es` has no place for: the version that was loaded, the
//! command's id, typed metadata, and the side rows that commit with the events. Snapshots are not used: streams are
//! small.

use std::{collections::HashMap, sync::Arc};

use cqrs_es::{AggregateError, DomainEvent, EventEnvelope, EventStore, event_sink::EventSink};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use socialhub_domain::{Aggregate, Event, IdGenerator, StreamId};
use socialhub_event_log::{
    Append, AppendError, Appended, EventLog, LogError, Metadata, NewEvent, Position, RecordedEvent,
    SideWrite,
};
use uuid::Uuid;

/// Envelope metadata: the event's position in the log.
pub const POSITION: &str = "position";
/// Envelope metadata: the event's own id.
pub const EVENT_ID: &str = "event_id";

/// An event of the catalogue as `cqrs_es` wants it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fact(pub Event);

impl DomainEvent for Fact {
    fn event_type(&self) -> String {
        self.0.event_type().to_owned()
    }

    fn event_version(&self) -> String {
        self.0.event_version().to_string()
    }
}

/// A decider's state as a `cqrs_es` aggregate.
#[derive(Debug)]
pub struct Folded<A: Aggregate> {
    /// The state so far.
    pub state: A::State,
}

impl<A: Aggregate> Default for Folded<A> {
    fn default() -> Self {
        Self {
            state: A::State::default(),
        }
    }
}

/// Demanded by `cqrs_es` for snapshots, which we do not keep.
impl<A: Aggregate> Serialize for Folded<A> {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("states are folded, never stored"))
    }
}

/// Demanded by `cqrs_es` for snapshots, which we do not keep.
impl<'de, A: Aggregate> Deserialize<'de> for Folded<A> {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("states are folded, never stored"))
    }
}

impl<A: Aggregate> cqrs_es::Aggregate for Folded<A> {
    const TYPE: &'static str = A::TYPE;
    type Command = A::Command;
    type Event = Fact;
    type Error = A::Error;
    type Services = ();

    async fn handle(
        &mut self,
        command: A::Command,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), A::Error> {
        for event in A::decide(&self.state, command)? {
            sink.write(Fact(event), self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: Fact) {
        A::evolve(&mut self.state, &event.0);
    }
}

/// What goes from load to commit.
#[derive(Debug)]
pub struct Context<A: Aggregate> {
    /// The aggregate as loaded.
    pub folded: Folded<A>,
    /// Its stream.
    pub stream: StreamId,
    /// How many events it was folded from.
    pub version: u64,
    /// The position of the last of them; 0 for none.
    pub position: Position,
    /// The command's id: the same for every try of one command.
    pub command_id: Uuid,
    /// Who and what causes the events.
    pub metadata: Metadata,
    /// Rows to commit with the events.
    pub side: Vec<SideWrite>,
}

impl<A: Aggregate> cqrs_es::AggregateContext<Folded<A>> for Context<A> {
    fn aggregate(&mut self) -> &mut Folded<A> {
        &mut self.folded
    }
}

/// Folds a stream; the first event that cannot be read is named.
pub(crate) fn fold<A: Aggregate>(events: &[RecordedEvent]) -> Result<A::State, LogError> {
    let mut state = A::State::default();
    for recorded in events {
        let event = recorded.decode().map_err(|error| LogError::Damaged {
            position: recorded.position,
            reason: error.to_string(),
        })?;
        A::evolve(&mut state, &event);
    }
    Ok(state)
}

/// The event log as a `cqrs_es` event store.
#[derive(Clone)]
pub struct LogStore {
    log: Arc<dyn EventLog>,
    ids: Arc<dyn IdGenerator>,
}

impl LogStore {
    /// A store over the log; event and command ids come from `ids`.
    pub fn new(log: Arc<dyn EventLog>, ids: Arc<dyn IdGenerator>) -> Self {
        Self { log, ids }
    }

    /// The context of a stream that was read already.
    ///
    /// # Errors
    /// [`LogError::Damaged`] when an event cannot be read.
    pub fn context<A: Aggregate>(
        &self,
        stream: StreamId,
        events: &[RecordedEvent],
    ) -> Result<Context<A>, LogError> {
        Ok(Context {
            folded: Folded {
                state: fold::<A>(events)?,
            },
            stream,
            version: events.len() as u64,
            position: events.last().map_or(0, |last| last.position),
            command_id: self.ids.next_id(),
            metadata: Metadata::default(),
            side: Vec::new(),
        })
    }

    /// Commits the side rows of a command that changes nothing else; `cqrs_es` knows no such commit.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn commit_side_rows<A: Aggregate>(
        &self,
        context: Context<A>,
    ) -> Result<Appended, AppendError> {
        self.append(Vec::new(), context).await
    }

    async fn append<A: Aggregate>(
        &self,
        events: Vec<NewEvent>,
        context: Context<A>,
    ) -> Result<Appended, AppendError> {
        let append = Append {
            command_id: context.command_id,
            stream: context.stream,
            expected_version: context.version,
            events,
            metadata: context.metadata,
            side: context.side,
        };
        self.log.append(append).await
    }
}

fn unreadable<E: std::error::Error>(error: LogError) -> AggregateError<E> {
    match error {
        LogError::Unavailable(_) | LogError::NoKey { .. } => {
            AggregateError::DatabaseConnectionError(Box::new(error))
        }
        LogError::Damaged { .. } => AggregateError::DeserializationError(Box::new(error)),
    }
}

fn not_appended<E: std::error::Error>(error: AppendError) -> AggregateError<E> {
    match error {
        AppendError::VersionConflict { .. } => AggregateError::AggregateConflict,
        other => AggregateError::DatabaseConnectionError(Box::new(other)),
    }
}

impl<A: Aggregate> EventStore<Folded<A>> for LogStore {
    type AC = Context<A>;

    async fn load_events(
        &self,
        aggregate_id: &str,
    ) -> Result<Vec<EventEnvelope<Folded<A>>>, AggregateError<A::Error>> {
        let stream = StreamId::new(A::TYPE, aggregate_id);
        let events = self.log.read_stream(&stream).await.map_err(unreadable)?;
        let envelope = |recorded: RecordedEvent| {
            let event = recorded.decode();
            let event =
                event.map_err(|error| AggregateError::DeserializationError(Box::new(error)))?;
            Ok(EventEnvelope {
                sequence: sequence(recorded.sequence),
                payload: Fact(event),
                metadata: marks(recorded.position, recorded.event_id, HashMap::new()),
                aggregate_id: recorded.stream.aggregate_id,
            })
        };
        events.into_iter().map(envelope).collect()
    }

    async fn load_aggregate(
        &self,
        aggregate_id: &str,
    ) -> Result<Context<A>, AggregateError<A::Error>> {
        let stream = StreamId::new(A::TYPE, aggregate_id);
        let events = self.log.read_stream(&stream).await.map_err(unreadable)?;
        self.context(stream, &events).map_err(unreadable)
    }

    /// Hands over to the appender. What stands in `metadata` goes into the envelopes only: what the log keeps is the
    /// context's typed metadata.
    async fn commit(
        &self,
        events: Vec<Fact>,
        context: Context<A>,
        metadata: HashMap<String, String>,
    ) -> Result<Vec<EventEnvelope<Folded<A>>>, AggregateError<A::Error>> {
        let loaded = context.version;
        let aggregate_id = context.stream.aggregate_id.clone();
        let new_event = |fact: &Fact| NewEvent {
            event_id: self.ids.next_id(),
            event: fact.0.clone(),
            payload: None,
        };
        let new: Vec<NewEvent> = events.iter().map(new_event).collect();
        let event_ids: Vec<Uuid> = new.iter().map(|event| event.event_id).collect();
        let appended = self.append(new, context).await.map_err(not_appended)?;
        let before = appended.position.saturating_sub(events.len() as u64);
        let envelope = |(nth, (fact, event_id)): (u64, (Fact, Uuid))| EventEnvelope {
            aggregate_id: aggregate_id.clone(),
            sequence: sequence(loaded + nth),
            payload: fact,
            metadata: marks(before + nth, event_id, metadata.clone()),
        };
        let committed = events.into_iter().zip(event_ids);
        Ok((1..).zip(committed).map(envelope).collect())
    }
}

/// A sequence number as `cqrs_es` counts. Streams are far shorter than any `usize`.
fn sequence(sequence: u64) -> usize {
    usize::try_from(sequence).unwrap_or(usize::MAX)
}

fn marks(
    position: Position,
    event_id: Uuid,
    mut metadata: HashMap<String, String>,
) -> HashMap<String, String> {
    metadata.insert(POSITION.to_owned(), position.to_string());
    metadata.insert(EVENT_ID.to_owned(), event_id.to_string());
    metadata
}

/// The position of the last of the committed events.
pub fn position_of<A: Aggregate>(committed: &[EventEnvelope<Folded<A>>]) -> Option<Position> {
    committed.last()?.metadata.get(POSITION)?.parse().ok()
}
