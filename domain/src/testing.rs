//! A given/when/then harness for deciders: the only way the aggregates are tested.
//!
//! ```
//! # use socialhub_domain::{Timestamp, UserId, testing::given, user::{User, UserCommand, UserError}};
//! let update = UserCommand::UpdateProfile { name: None, bio: None, avatar: None, at: Timestamp(1) };
//! given::<User>([]).when(update).then_error(UserError::NotFound);
//! ```

use uuid::Uuid;

use crate::{Aggregate, Event};

/// A readable id for tests: the number stands at its end.
pub const fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// What happened before.
#[derive(Debug)]
pub struct Given<A: Aggregate> {
    state: A::State,
}

/// What the decider answered.
#[derive(Debug)]
pub struct Outcome<A: Aggregate> {
    state: A::State,
    answer: Result<Vec<Event>, A::Error>,
}

/// Begins with the events of the past.
pub fn given<A: Aggregate>(events: impl IntoIterator<Item = Event>) -> Given<A> {
    let mut state = A::State::default();
    for event in events {
        A::evolve(&mut state, &event);
    }
    Given { state }
}

impl<A: Aggregate> Given<A> {
    /// Carries out a command that must be accepted, as part of the past.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    #[must_use]
    pub fn and(mut self, command: A::Command) -> Self {
        match A::decide(&self.state, command) {
            Ok(events) => {
                for event in &events {
                    A::evolve(&mut self.state, event);
                }
                self
            }
            Err(error) => panic!("refused although it is part of the past: {error}"),
        }
    }

    /// Asks the decider.
    #[must_use]
    pub fn when(self, command: A::Command) -> Outcome<A> {
        let answer = A::decide(&self.state, command);
        Outcome {
            state: self.state,
            answer,
        }
    }
}

impl<A: Aggregate> Outcome<A> {
    /// Expects exactly these events; goes on with them as part of the past.
    ///
    /// # Panics
    /// When the decider refused or answered with others.
    #[track_caller]
    pub fn then<E: Into<Event>>(self, expected: impl IntoIterator<Item = E>) -> Given<A> {
        let expected: Vec<Event> = expected.into_iter().map(Into::into).collect();
        match &self.answer {
            Ok(events) => assert_eq!(events, &expected),
            Err(error) => panic!("expected {expected:?}, but it was refused: {error}"),
        }
        let mut state = self.state;
        for event in &expected {
            A::evolve(&mut state, event);
        }
        Given { state }
    }

    /// Expects that nothing changes.
    ///
    /// # Panics
    /// When the decider refused or answered with events.
    #[track_caller]
    pub fn then_nothing(self) -> Given<A> {
        self.then::<Event>([])
    }

    /// Expects a refusal.
    ///
    /// # Panics
    /// When the decider accepted, or refused for another reason.
    #[track_caller]
    pub fn then_error(self, expected: impl std::borrow::Borrow<A::Error>) {
        let expected = expected.borrow();
        match self.answer {
            Ok(events) => panic!("expected a refusal ({expected}), but it answered {events:?}"),
            Err(error) => assert_eq!(&error, expected),
        }
    }
}
