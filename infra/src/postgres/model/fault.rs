//! What an error of Postgres means for the batch that met it.

use socialhub_event_log::Position;
use socialhub_projections::StoreError;

use crate::postgres::connect::{code_of, passes};

enum Fault {
    /// Not now.
    Unavailable,
    /// Never again with these tables or this program.
    Unusable,
    /// Not this batch.
    Rejected,
}

fn classify(error: &sqlx::Error) -> Fault {
    match error {
        sqlx::Error::Database(_) if passes(error) => Fault::Unavailable,
        sqlx::Error::Database(told) => told.code().map_or(Fault::Unusable, |code| by_code(&code)),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => Fault::Unavailable,
        _ => Fault::Unusable,
    }
}

/// By the class of the SQLSTATE, its first two characters.
fn by_code(code: &str) -> Fault {
    match code.get(..2).unwrap_or_default() {
        // A value that does not fit, a broken constraint, a row beyond a limit: the event's fault.
        "22" | "23" | "54" => Fault::Rejected,
        // A role or database that is not there (yet); plans out of date.
        "28" | "3D" | "0A" => Fault::Unavailable,
        // Missing tables and the like: parking every event there is would help nobody.
        _ => Fault::Unusable,
    }
}

/// The error of a batch whose first record is at `position`.
pub(super) fn of_batch(error: &sqlx::Error, position: Position) -> StoreError {
    match classify(error) {
        Fault::Rejected => StoreError::Rejected {
            position,
            reason: refusal(error),
        },
        _ => outside(error),
    }
}

/// Why the event was refused. It is kept with the event, where nothing personal may be: of a value that does not fit, the
/// server quotes the text.
fn refusal(error: &sqlx::Error) -> String {
    match code_of(error) {
        Some(code) if code.starts_with("22") => format!("a value does not fit (SQLSTATE {code})"),
        _ => error.to_string(),
    }
}

/// The error of a call that has no record to blame.
pub(super) fn outside(error: &sqlx::Error) -> StoreError {
    if matches!(error, sqlx::Error::PoolClosed) {
        return StoreError::Unusable("it has been closed".to_owned());
    }
    let reason = error.to_string();
    match classify(error) {
        Fault::Unavailable => StoreError::Unavailable(reason),
        Fault::Unusable | Fault::Rejected => StoreError::Unusable(reason),
    }
}

/// Whether a query failed because what it names does not exist.
pub(super) fn is_missing(error: &sqlx::Error) -> bool {
    matches!(code_of(error).as_deref(), Some("42P01" | "3F000"))
}

/// Whether a transaction was given up because another one waited for it, and it for that.
pub(super) fn is_deadlock(error: &sqlx::Error) -> bool {
    code_of(error).as_deref() == Some("40P01")
}
