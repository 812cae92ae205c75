//! Turns: commands on one stream go one after the other within this process.
//!
//! Nothing depends on it (the log refuses what was decided on an old version), but 500 likes of one impatient person
//! then cost one try each, not 500. Streams share nothing: each has a queue of its own, gone when nobody waits.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

/// Whose turn it is, for each key somebody works on. Keys are kept as hashes: two that collide only wait for another.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    hasher: RandomState,
    queues: Mutex<HashMap<u64, Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// How many hold or wait for the turn.
    people: usize,
}

/// A place in a queue; leaves it when dropped, also while still waiting.
struct Place {
    turns: Arc<Turns>,
    key: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queues = self.turns.queues.lock();
        if let Some(queue) = queues.get_mut(&self.key) {
            queue.people -= 1;
            if queue.people == 0 {
                queues.remove(&self.key);
            }
        }
    }
}

/// The turn: others wait until it is dropped.
pub(crate) struct Turn {
    // Declared first, so that the turn passes on before the place is given up.
    _guard: OwnedMutexGuard<()>,
    _place: Place,
}

impl Turns {
    /// Waits for the turn at a key, first come, first served.
    pub(crate) async fn wait(self: &Arc<Self>, key: &impl Hash) -> Turn {
        let key = self.hasher.hash_one(key);
        let turn = {
            let mut queues = self.queues.lock();
            let queue = queues.entry(key).or_default();
            queue.people += 1;
            queue.turn.clone()
        };
        let place = Place {
            turns: self.clone(),
            key,
        };
        Turn {
            _guard: turn.lock_owned().await,
            _place: place,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn one_at_a_time_and_nothing_left_behind() {
        let turns = Arc::new(Turns::default());
        let inside = Arc::new(AtomicUsize::new(0));
        let visits = (0..100).map(|_| {
            let (turns, inside) = (turns.clone(), inside.clone());
            tokio::spawn(async move {
                let _turn = turns.wait(&"key").await;
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
            })
        });
        for visit in visits.collect::<Vec<_>>() {
            visit.await.unwrap();
        }
        assert!(turns.queues.lock().is_empty());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_leaves_the_queue() {
        let turns = Arc::new(Turns::default());
        let held = turns.wait(&1).await;
        let waiting = tokio::spawn({
            let turns = turns.clone();
            async move { drop(turns.wait(&1).await) }
        });
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        drop(held);
        assert!(turns.queues.lock().is_empty());
    }
}
