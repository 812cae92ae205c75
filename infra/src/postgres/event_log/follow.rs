//! Watching the head of a log that other processes write too.
//!
//! By looking, not by LISTEN: a NOTIFY in every append would take a lock of the whole server in each commit, while one
//! look is a step down an index, and only processes that watch look at all. Who hands events on looks closely; for others
//! the head only tells how far behind a model is.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use socialhub_event_log::Position;
use tokio::sync::{Notify, watch};

use super::{appender::raise, queries};
use crate::postgres::pool::Pool;

/// Between two looks while the log grows, and while it does not.
struct Pace {
    shortest: Duration,
    longest: Duration,
}

const CLOSELY: Pace = Pace {
    shortest: Duration::from_millis(10),
    longest: Duration::from_millis(50),
};

const NOW_AND_THEN: Pace = Pace {
    shortest: Duration::from_millis(200),
    longest: Duration::from_millis(250),
};

/// Looks until the log is dropped, and only while somebody watches.
#[derive(Debug)]
pub(super) struct Follower {
    watched: Arc<Notify>,
    closely: Arc<AtomicBool>,
}

impl Follower {
    pub(super) fn start(pool: Pool, told: &Arc<watch::Sender<Position>>) -> Self {
        let (watched, closely) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let following = follow(
            pool,
            Arc::downgrade(told),
            Arc::clone(&watched),
            Arc::clone(&closely),
        );
        tokio::spawn(following);
        Self { watched, closely }
    }

    /// From now on news must be known at once.
    pub(super) fn closely(&self) {
        self.closely.store(true, Ordering::Relaxed);
        self.watched.notify_one();
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

async fn follow(
    pool: Pool,
    told: Weak<watch::Sender<Position>>,
    watched: Arc<Notify>,
    closely: Arc<AtomicBool>,
) {
    let mut pause = CLOSELY.shortest;
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
        let pace = if closely.load(Ordering::Relaxed) {
            CLOSELY
        } else {
            NOW_AND_THEN
        };
        match head {
            Ok(head) => {
                raise(&sender, head);
                pause = if head > before {
                    pace.shortest
                } else {
                    (pause * 2).clamp(pace.shortest, pace.longest)
                };
            }
            Err(error) => {
                tracing::debug!(%error, "cannot look at the event log's head");
                pause = pace.longest;
            }
        }
        drop(sender);
        tokio::time::sleep(pause).await;
    }
}
