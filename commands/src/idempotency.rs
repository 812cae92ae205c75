//! Idempotency keys: the same key and content, the same answer, however often and from wherever it is asked.
//!
//! There is no claim row. The answer commits inside the append of the command's events, and the log refuses a second
//! one under the same key; whoever loses reads the winner's. Only while the same process still runs a key is a second
//! request told so (409).

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use socialhub_domain::Timestamp;
use socialhub_event_log::{AnswerKey, SideWrite, StoredAnswer};

use crate::{CommandContext, CommandError, Commands, Done};

/// The keys this process works on.
#[derive(Debug, Default)]
pub(crate) struct Running(Mutex<HashSet<AnswerKey>>);

/// A key being worked on; free again when dropped.
struct Claim {
    running: Arc<Running>,
    key: AnswerKey,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.running.0.lock().remove(&self.key);
    }
}

impl Running {
    fn claim(self: &Arc<Self>, key: AnswerKey) -> Result<Claim, CommandError> {
        if self.0.lock().insert(key.clone()) {
            Ok(Claim {
                running: self.clone(),
                key,
            })
        } else {
            Err(CommandError::StillRunning)
        }
    }
}

/// The winner's answer, if it was to the same content.
pub(crate) fn replay<R: DeserializeOwned>(
    ctx: &CommandContext,
    stored: &StoredAnswer,
) -> Result<Done<R>, CommandError> {
    let asked = ctx.idempotency.as_ref().map(|key| key.fingerprint);
    if asked != Some(stored.fingerprint) {
        return Err(CommandError::KeyReused);
    }
    let result = serde_json::from_str(&stored.body)
        .map_err(|error| CommandError::Internal(format!("a stored answer is damaged: {error}")))?;
    Ok(Done {
        result,
        position: stored.position,
        replayed: true,
    })
}

/// The row that keeps the answer, if the client sent a key.
pub(crate) fn answer<R: Serialize>(
    ctx: &CommandContext,
    result: &R,
    now: Timestamp,
) -> Result<Option<SideWrite>, CommandError> {
    let Some(key) = &ctx.idempotency else {
        return Ok(None);
    };
    let body = serde_json::to_string(result)
        .map_err(|error| CommandError::Internal(format!("an answer does not encode: {error}")))?;
    Ok(Some(SideWrite::StoreAnswer {
        key: ctx.answer_key(key),
        answer: StoredAnswer {
            fingerprint: key.fingerprint,
            body,
            position: 0,
            stored_at: now,
        },
    }))
}

impl Commands {
    /// Runs a command under the client's key, or as it is without one.
    ///
    /// Outermost, before any precondition: a replay must not depend on what changed since.
    pub(crate) async fn idempotent<R: DeserializeOwned>(
        &self,
        ctx: &CommandContext,
        run: impl Future<Output = Result<Done<R>, CommandError>> + Send,
    ) -> Result<Done<R>, CommandError> {
        let Some(key) = &ctx.idempotency else {
            return run.await;
        };
        let claim = self.running.claim(ctx.answer_key(key))?;
        if let Some(stored) = self.stored_answer(&claim.key).await? {
            return replay(ctx, &stored);
        }
        match run.await {
            // Another process, or a request that was cut off here, may have been faster with the same key: then this
            // refusal only says that it was done.
            Err(refusal) if refusal.is_refusal() => match self.stored_answer(&claim.key).await {
                Ok(Some(stored)) => replay(ctx, &stored),
                _ => Err(refusal),
            },
            other => other,
        }
    }

    async fn stored_answer(&self, key: &AnswerKey) -> Result<Option<StoredAnswer>, CommandError> {
        let now = self.ports.clock.now();
        Ok(self.ports.credentials.find_answer(key, now).await?)
    }
}
