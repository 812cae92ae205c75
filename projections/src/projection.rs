//! What a projection is.

use std::fmt;

use socialhub_domain::{Event, topic::Topic};
use socialhub_event_log::Position;

use crate::store::ModelName;

/// A pure function from an event to changes of one read model.
///
/// Order between streams is not promised: an implementation accepts any interleaving of streams, references to what it
/// has not seen yet, and events about what is deleted already.
pub trait Projection: Send + Sync + 'static {
    /// The read model's name.
    const NAME: ModelName;
    /// The topics with events that it makes something of; others need not be read for it.
    const TOPICS: &'static [Topic];
    /// What an event does to the model, as data.
    type Change: fmt::Debug + Clone + Send + Sync + 'static;

    /// The changes that follow from an event at a position; none when the event is of no interest.
    fn project(position: Position, event: &Event) -> Vec<Self::Change>;
}

/// The changes of one event, as a store receives them.
#[derive(Debug, Clone)]
pub struct Projected<C> {
    /// The event's position: stored with every row it touches.
    pub position: Position,
    /// What to change.
    pub changes: Vec<C>,
}
