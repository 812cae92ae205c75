//! Watching the head of a log that other processes write too.
//!
//! By looking, not by LISTEN: a NOTIFY in every append would take a lock of the whole server in each commit, while one
//! look is a step down an index, and only processes that watch (a relay, a rebuild) look at all.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use socialhub_event_log::Position;
use sqlx::PgPool;
use tokio::sync::{Notify, watch};

use super::{appender::raise, queries};

/// Between two looks while the log grows.
const SHORTEST: Duration = Duration::from_millis(10);
/// And while it does not.
const LONGEST: Duration = Duration::from_millis(50);

/// Looks until the log is dropped, and only while somebody watches.
#[derive(Debug)]
pub(super) struct Follower {
    watched: Arc<Notify>,
}

impl Follower {
    pub(super) fn start(pool: PgPool, told: &Arc<watch::Sender<Position>>) -> Self {
        let watched = Arc::new(Notify::new());
        tokio::spawn(follow(pool, Arc::downgrade(told), Arc::clone(&watched)));
        Self { watched }
    }

    /// Somebody watches now.
    pub(super) fn wake(&self) {
        self.watched.notify_one();
    }
}

/// Lets the task notice that the log is gone.
impl Drop for Follower {
    fn drop(&mut self) {
        self.watched.notify_one();
    }
}

async fn follow(pool: PgPool, told: Weak<watch::Sender<Position>>, watched: Arc<Notify>) {
    let mut pause = SHORTEST;
    while let Some(sender) = told.upgrade() {
        let watching = sender.receiver_count() > 0;
        drop(sender);
        if !watching {
            watched.notified().await;
            continue;
        }
        let head = queries::head(&pool).await;
        let Some(sender) = told.upgrade() else {
            return;
        };
        let before = *sender.borrow();
        match head {
            Ok(head) => {
                raise(&sender, head);
                pause = if head > before {
                    SHORTEST
                } else {
                    LONGEST.min(pause * 2)
                };
            }
            Err(error) => {
                tracing::debug!(%error, "cannot look at the event log's head");
                pause = LONGEST;
            }
        }
        drop(sender);
        tokio::time::sleep(pause).await;
    }
}
