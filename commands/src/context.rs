//! What every use case is called with, and what it answers.

use serde::{Deserialize, Serialize};
use socialhub_domain::{Timestamp, UserId};
use socialhub_event_log::{AnswerKey, Metadata, Position};
use uuid::Uuid;

use crate::CommandError;

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The person.
    pub id: UserId,
    /// Their username, from the verified token.
    pub username: String,
}

/// A client's `Idempotency-Key`, with what it was sent for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The command's route, e.g. `POST /posts`.
    pub route: &'static str,
    /// The client's key, 1 to 255 characters.
    pub key: String,
    /// SHA-256 of the decoded fields and files.
    pub fingerprint: [u8; 32],
}

/// The circumstances of one command.
#[derive(Debug, Clone, Default)]
pub struct CommandContext {
    /// Who acts; none before login.
    pub actor: Option<Actor>,
    /// The request's id, kept with the events as correlation id.
    pub request_id: String,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
    /// The client's key, if it sent one.
    pub idempotency: Option<IdempotencyKey>,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done<T> {
    /// The use case's result.
    pub result: T,
    /// Where the log stood after it: `X-Position`.
    pub position: Position,
    /// Whether this is the stored answer to an earlier request with the same `Idempotency-Key`.
    pub replayed: bool,
}

impl CommandContext {
    /// Who acts.
    ///
    /// # Errors
    /// 401 when nobody is logged in.
    pub(crate) fn actor(&self) -> Result<&Actor, CommandError> {
        self.actor.as_ref().ok_or(CommandError::UNAUTHORIZED)
    }

    /// What the events of this command are marked with.
    pub(crate) fn metadata(&self, command_id: Uuid, now: Timestamp) -> Metadata {
        Metadata {
            actor: self.actor.as_ref().map(|actor| actor.id),
            occurred_at: now,
            correlation_id: (!self.request_id.is_empty()).then(|| self.request_id.clone()),
            causation_id: Some(command_id),
            traceparent: self.traceparent.clone(),
        }
    }

    /// The scope of the client's key: whose, for which route.
    pub(crate) fn answer_key(&self, key: &IdempotencyKey) -> AnswerKey {
        let owner = self.actor.as_ref();
        AnswerKey {
            owner: owner.map_or_else(|| "anonymous".to_owned(), |actor| actor.id.to_string()),
            route: key.route.to_owned(),
            key: key.key.clone(),
        }
    }
}
