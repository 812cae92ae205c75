//! Turns of the records that are tried one by one after an unclean stop.
//!
//! What takes a process down takes down whatever else it has in hand, of all its models and partitions. So a record that
//! was in hand when a process ended before has the whole process to itself: nothing else is counted as tried when it does
//! so again, and in the end it alone is parked. Those that were never tried are tried side by side.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock},
    time::timeout,
};

/// How long a turn is waited for at most: a store that hangs must not keep the others.
const PATIENCE: Duration = Duration::from_secs(5);

/// The turns of everything that one process writes. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Turns(Arc<RwLock<()>>);

/// A turn, until it is dropped.
pub(super) enum Turn {
    SideBySide {
        _turn: OwnedRwLockReadGuard<()>,
    },
    Alone {
        _turn: OwnedRwLockWriteGuard<()>,
    },
    /// Somebody has had theirs for too long.
    Anyway,
}

impl Turns {
    /// Waits for a turn; alone, when the record was tried before.
    pub(super) async fn next(&self, was_tried: bool) -> Turn {
        let turns = Arc::clone(&self.0);
        let turn = async {
            if was_tried {
                let _turn = turns.write_owned().await;
                Turn::Alone { _turn }
            } else {
                let _turn = turns.read_owned().await;
                Turn::SideBySide { _turn }
            }
        };
        timeout(PATIENCE, turn).await.unwrap_or(Turn::Anyway)
    }
}
