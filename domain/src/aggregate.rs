//! What an aggregate is here: a pure decider.
//!
//! `decide` looks at the state and a command and answers with events or a refusal; `evolve` folds an event into the
//! state. Neither does IO, and both get time and ids from the command. A thin generic adapter in `commands` makes each
//! one a `cqrs_es::Aggregate`.

use std::fmt;

use serde::Serialize;

use crate::event::Event;

/// A pure decider over one small stream (the functional shape of an aggregate: decide, evolve, initial state).
pub trait Aggregate: Send + Sync + 'static {
    /// The stored name of the aggregate's type, first part of its streams' names.
    const TYPE: &'static str;
    /// What `decide` needs to know of the past; `Default` is the state before the first event. Serializes for people to
    /// look at; it is stored nowhere.
    type State: Default + Clone + PartialEq + fmt::Debug + Serialize + Send + Sync + 'static;
    /// What may be asked of the aggregate.
    type Command: Clone + fmt::Debug + Send + Sync + 'static;
    /// Why a command was refused.
    type Error: std::error::Error + Clone + PartialEq + Send + Sync + 'static;

    /// Answers a command with the events that follow from it; no events means that nothing changes.
    ///
    /// # Errors
    /// The aggregate's own reasons to refuse.
    fn decide(state: &Self::State, command: Self::Command) -> Result<Vec<Event>, Self::Error>;

    /// Folds an event of this aggregate into its state. Events of other aggregates leave it as it is.
    fn evolve(state: &mut Self::State, event: &Event);

    /// The state after the given events.
    fn replay<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self::State {
        let mut state = Self::State::default();
        for event in events {
            Self::evolve(&mut state, event);
        }
        state
    }
}
