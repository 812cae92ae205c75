//! Which erasures have work left, as the log's store shows it.

use std::io::Write;

use serde::Serialize;
use socialhub_domain::{Timestamp, UserId};
use socialhub_event_log::{ErasureStore, EventLog, LogError, Position};

use crate::ReplayError;

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ErasuresView {
    /// How many stand in the log and are not complete.
    pending: usize,
    /// People whose keys are destroyed and of whose erasure the log does not say anything yet.
    unsaid: usize,
    /// Of those that stand in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest: Option<OldestView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct OldestView {
    user_id: UserId,
    position: Position,
    since: Timestamp,
    seconds: f64,
}

pub(crate) async fn view(
    log: &dyn EventLog,
    store: &dyn ErasureStore,
    now: Timestamp,
) -> Result<ErasuresView, LogError> {
    let pending = store.pending(0).await?;
    let oldest = match pending.first() {
        None => None,
        Some(first) => {
            let said = log.read_all(first.position - 1, 1).await?;
            said.first().map(|event| {
                let since = event.metadata.occurred_at;
                OldestView {
                    user_id: first.user_id,
                    position: first.position,
                    since,
                    seconds: (now.0 - since.0).max(0) as f64 / 1000.0,
                }
            })
        }
    };
    Ok(ErasuresView {
        pending: pending.len(),
        unsaid: store.unsaid().await?.len(),
        oldest,
    })
}

/// Nothing when nothing is left to do.
pub(crate) fn print(view: &ErasuresView, out: &mut (dyn Write + Send)) -> Result<(), ReplayError> {
    if let Some(oldest) = &view.oldest {
        writeln!(
            out,
            "Erasures that are not complete: {}. The oldest was asked for {:.1} s ago, at position {}, by {}.",
            view.pending, oldest.seconds, oldest.position, oldest.user_id
        )?;
    }
    if view.unsaid > 0 {
        writeln!(
            out,
            "People without a key of whose erasure the log says nothing: {}. The next server to start erases them again.",
            view.unsaid
        )?;
    }
    if view.pending > 0 || view.unsaid > 0 {
        writeln!(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use socialhub_domain::{
        StreamId,
        event::{Event, UserErased, UserRegistered},
        testing::id,
    };
    use socialhub_event_log::{Append, MemoryEventLog, Metadata, NewEvent, PersonKeys};

    use super::*;

    async fn append(log: &MemoryEventLog, user: UserId, at: i64, event: impl Into<Event>) {
        let append = Append {
            command_id: id(1_000 + u128::from(at.unsigned_abs())),
            stream: StreamId::new("user", user),
            expected_version: 0,
            events: vec![NewEvent {
                event_id: id(2_000 + u128::from(at.unsigned_abs())),
                event: event.into(),
                payload: None,
            }],
            metadata: Metadata {
                occurred_at: Timestamp(at),
                ..Metadata::default()
            },
            side: Vec::new(),
        };
        log.append(append).await.unwrap();
    }

    async fn look(log: &MemoryEventLog) -> (ErasuresView, String) {
        let view = view(log, log, Timestamp(10_000)).await.unwrap();
        let mut out = Vec::new();
        print(&view, &mut out).unwrap();
        (view, String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn the_oldest_that_is_not_complete_counts() {
        let log = Arc::new(MemoryEventLog::new());
        assert_eq!(look(&log).await.1, "");
        for (user, at) in [(1, 2_000), (2, 4_000), (3, 7_000)] {
            let user_id = UserId(id(user));
            let timestamp = Timestamp(at);
            append(&log, user_id, at, UserErased { user_id, timestamp }).await;
        }
        let first = log.pending(0).await.unwrap().remove(0);
        log.complete(&first, Timestamp(5_000)).await.unwrap();
        let (view, said) = look(&log).await;
        let oldest = OldestView {
            user_id: UserId(id(2)),
            position: 2,
            since: Timestamp(4_000),
            seconds: 6.0,
        };
        assert_eq!((view.pending, view.unsaid), (2, 0));
        assert_eq!(view.oldest, Some(oldest));
        assert!(
            said.contains("not complete: 2. The oldest was asked for 6.0 s ago"),
            "{said}"
        );
    }

    #[tokio::test]
    async fn who_has_no_key_and_is_not_erased_in_the_log_is_told() {
        let log = Arc::new(MemoryEventLog::new());
        let user_id = UserId(id(1));
        let registered = UserRegistered {
            user_id,
            username: "eve".to_owned(),
            name: "Eve".to_owned(),
            timestamp: Timestamp(1),
        };
        append(&log, user_id, 1, registered).await;
        log.destroy(user_id, 70).await.unwrap();
        let (view, said) = look(&log).await;
        assert_eq!((view.pending, view.unsaid, view.oldest), (0, 1, None));
        assert!(said.contains("the log says nothing: 1."), "{said}");
    }
}
