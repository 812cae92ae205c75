//! Batches of several writers of one store, written together.
//!
//! Each partition has a writer of its own, so a projector at work brings its store a dozen small batches side by side, and
//! each costs much the same whatever it holds. Here those that come while others are being written wait, and are then
//! written as one: how many are gathered follows from how busy the store is, and a lone batch never waits.
//!
//! What a group of them meets says nothing of any single one. So after a fault, a panic too, each is handed in again and
//! written alone, and so is what comes in the time after it: a batch that a store cannot take must not keep those of other
//! sources out.

use std::{mem, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use socialhub_projections::{StoreError, store::WriteBatch};
use tokio::{
    sync::{Semaphore, oneshot},
    time::Instant,
};

/// How many records are written together. So many come together only when there is much to catch up with.
const MOST: usize = 16_384;

/// For how long each is written alone after a fault: longer than whoever failed waits before it tries again.
const ALONE: Duration = Duration::from_secs(10);

/// A store that can write several batches as one.
#[async_trait]
pub(crate) trait WriteTogether<C>: Sync {
    /// Writes batches, of different sources but for a moment after one has changed hands; answers the outcome of each.
    async fn write_together(&self, group: &[Arc<WriteBatch<C>>]) -> Vec<Result<(), StoreError>>;
}

/// A batch that waits, and who waits for it.
struct Waiting<C> {
    batch: Arc<WriteBatch<C>>,
    written: oneshot::Sender<Result<(), StoreError>>,
}

/// Says that something has failed, unless it comes to its end.
struct Attempt<'a> {
    failed: &'a Mutex<Option<Instant>>,
    well: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.well {
            *self.failed.lock() = Some(Instant::now());
        }
    }
}

/// Where the batches of one store gather.
pub(crate) struct Gathering<C> {
    waiting: Mutex<Vec<Waiting<C>>>,
    /// When something last went wrong.
    failed: Mutex<Option<Instant>>,
    /// Whose turn it is to write for all.
    turns: Semaphore,
}

impl<C> Gathering<C> {
    /// A gathering of which so many groups are written side by side.
    pub(crate) fn new(side_by_side: usize) -> Self {
        Self {
            waiting: Mutex::new(Vec::new()),
            failed: Mutex::new(None),
            turns: Semaphore::new(side_by_side),
        }
    }

    /// Has a batch written, alone or with others.
    ///
    /// When whoever writes it is broken off, it is handed in again: writing a batch twice is writing it once.
    ///
    /// # Errors
    /// The batch's outcome.
    pub(crate) async fn write(
        &self,
        batch: WriteBatch<C>,
        store: &impl WriteTogether<C>,
    ) -> Result<(), StoreError> {
        let batch = Arc::new(batch);
        loop {
            if self.has_failed_lately() {
                let mut outcomes = self.write_group(&[Arc::clone(&batch)], store).await;
                let unknown =
                    || StoreError::Unavailable("nobody knows what became of it".to_owned());
                return outcomes.pop().unwrap_or_else(|| Err(unknown()));
            }
            let (tell, mut written) = oneshot::channel();
            self.waiting.lock().push(Waiting {
                batch: Arc::clone(&batch),
                written: tell,
            });
            let turn = self.turns.acquire();
            let outcome = tokio::select! {
                biased;
                outcome = &mut written => outcome,
                turn = turn => {
                    self.write_all(store).await;
                    drop(turn);
                    written.await
                }
            };
            if let Ok(outcome) = outcome {
                return outcome;
            }
        }
    }

    fn has_failed_lately(&self) -> bool {
        self.failed.lock().is_some_and(|at| at.elapsed() < ALONE)
    }

    async fn write_group(
        &self,
        group: &[Arc<WriteBatch<C>>],
        store: &impl WriteTogether<C>,
    ) -> Vec<Result<(), StoreError>> {
        let mut attempt = Attempt {
            failed: &self.failed,
            well: false,
        };
        let outcomes = store.write_together(group).await;
        attempt.well = !outcomes.iter().any(is_fault);
        outcomes
    }

    /// Writes what waits.
    async fn write_all(&self, store: &impl WriteTogether<C>) {
        let mut waiting = mem::take(&mut *self.waiting.lock());
        waiting.retain(|one| !one.written.is_closed());
        while !waiting.is_empty() {
            let rest = waiting.split_off(first_group(&waiting));
            let group = mem::replace(&mut waiting, rest);
            let batches: Vec<_> = group.iter().map(|one| Arc::clone(&one.batch)).collect();
            let outcomes = self.write_group(&batches, store).await;
            let is_group = batches.len() > 1;
            for (one, outcome) in group.into_iter().zip(outcomes) {
                if is_group && is_fault(&outcome) {
                    // Without an answer it is handed in again, alone.
                    continue;
                }
                // Who has gone meanwhile does not want to know.
                let _ = one.written.send(outcome);
            }
        }
    }
}

/// Whether something went wrong that may be another batch's doing.
fn is_fault(outcome: &Result<(), StoreError>) -> bool {
    !matches!(outcome, Ok(()) | Err(StoreError::Moved))
}

/// How many of those that wait are written together.
fn first_group<C>(waiting: &[Waiting<C>]) -> usize {
    let mut records = 0;
    let fits = waiting.iter().take_while(|one| {
        records += one.batch.projected.len() + one.batch.parked.len();
        records <= MOST
    });
    fits.count().max(1)
}

#[cfg(test)]
mod tests {
    use socialhub_projections::{Checkpoint, Source};
    use tokio::sync::watch;
    use uuid::Uuid;

    use super::*;

    /// Writes when it is let, and remembers what was written together.
    struct Slow {
        let_go: watch::Sender<bool>,
        begun: watch::Sender<usize>,
        groups: Mutex<Vec<Vec<i32>>>,
    }

    impl Slow {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                let_go: watch::Sender::new(false),
                begun: watch::Sender::new(0),
                groups: Mutex::default(),
            })
        }

        async fn has_begun(&self, groups: usize) {
            let mut begun = self.begun.subscribe();
            at_once(begun.wait_for(|begun| *begun >= groups))
                .await
                .unwrap();
        }
    }

    #[async_trait]
    impl WriteTogether<()> for Slow {
        async fn write_together(
            &self,
            group: &[Arc<WriteBatch<()>>],
        ) -> Vec<Result<(), StoreError>> {
            self.begun.send_modify(|begun| *begun += 1);
            let mut let_go = self.let_go.subscribe();
            let_go.wait_for(|let_go| *let_go).await.unwrap();
            let sources = group.iter().map(|batch| batch.checkpoint.source.partition);
            let sources: Vec<i32> = sources.collect();
            self.groups.lock().push(sources.clone());
            let away = sources.contains(&99);
            let outcome = |partition: &i32| match partition {
                _ if away => Err(StoreError::Unavailable("not now".to_owned())),
                13 => Err(StoreError::Moved),
                _ => Ok(()),
            };
            sources.iter().map(outcome).collect()
        }
    }

    fn batch(partition: i32) -> WriteBatch<()> {
        WriteBatch {
            projected: Vec::new(),
            parked: Vec::new(),
            after: 0,
            checkpoint: Checkpoint {
                source: Source::partition("USER_TOPIC", partition),
                position: 1,
                event_id: Uuid::nil(),
                next_offset: None,
                partitions: None,
            },
        }
    }

    type Outcome = tokio::task::JoinHandle<Result<(), StoreError>>;

    /// Waits for what should come at once.
    async fn at_once<T>(coming: impl Future<Output = T>) -> T {
        let came = tokio::time::timeout(Duration::from_secs(10), coming).await;
        came.expect("it never comes")
    }

    /// Hands a batch in, and waits until it is there.
    async fn hand_in(gathering: &Arc<Gathering<()>>, store: &Arc<Slow>, partition: i32) -> Outcome {
        let before = gathering.waiting.lock().len();
        let (begun, gathering_of_it) = (*store.begun.borrow(), Arc::clone(gathering));
        let store_of_it = Arc::clone(store);
        let writing =
            tokio::spawn(
                async move { gathering_of_it.write(batch(partition), &*store_of_it).await },
            );
        at_once(async {
            while gathering.waiting.lock().len() == before && *store.begun.borrow() == begun {
                tokio::task::yield_now().await;
            }
        })
        .await;
        writing
    }

    #[tokio::test]
    async fn what_comes_while_others_are_written_is_written_together() {
        let (gathering, store) = (Arc::new(Gathering::new(1)), Slow::new());
        let first = hand_in(&gathering, &store, 0).await;
        store.has_begun(1).await;
        let mut others = Vec::new();
        for partition in [1, 13, 2] {
            others.push(hand_in(&gathering, &store, partition).await);
        }
        store.let_go.send_replace(true);
        at_once(first).await.unwrap().unwrap();
        let mut outcomes = Vec::new();
        for other in others {
            outcomes.push(at_once(other).await.unwrap().is_ok());
        }
        assert_eq!(outcomes, [true, false, true]);
        assert_eq!(*store.groups.lock(), [vec![0], vec![1, 13, 2]]);
    }

    #[tokio::test]
    async fn what_was_taken_by_somebody_who_is_broken_off_is_written_all_the_same() {
        let (gathering, store) = (Arc::new(Gathering::new(1)), Slow::new());
        let first = hand_in(&gathering, &store, 0).await;
        store.has_begun(1).await;
        let second = hand_in(&gathering, &store, 1).await;
        let third = hand_in(&gathering, &store, 2).await;
        // The second takes what the third has brought, and is gone, too.
        first.abort();
        store.has_begun(2).await;
        second.abort();
        store.let_go.send_replace(true);
        at_once(third).await.unwrap().unwrap();
        assert_eq!(*store.groups.lock(), [vec![2]]);
    }

    #[tokio::test]
    async fn after_a_fault_each_is_written_alone() {
        let (gathering, store) = (Arc::new(Gathering::new(1)), Slow::new());
        let first = hand_in(&gathering, &store, 0).await;
        store.has_begun(1).await;
        let lucky = hand_in(&gathering, &store, 1).await;
        let to_blame = hand_in(&gathering, &store, 99).await;
        store.let_go.send_replace(true);
        at_once(first).await.unwrap().unwrap();
        at_once(lucky).await.unwrap().unwrap();
        assert!(is_fault(&at_once(to_blame).await.unwrap()));
        let mut groups = store.groups.lock().clone();
        groups.sort();
        assert_eq!(groups, [vec![0], vec![1], vec![1, 99], vec![99]]);
        // Side by side, too.
        store.let_go.send_replace(false);
        let again = [2, 3].map(|partition| hand_in(&gathering, &store, partition));
        let again = futures::future::join_all(again).await;
        store.has_begun(6).await;
        store.let_go.send_replace(true);
        for one in again {
            at_once(one).await.unwrap().unwrap();
        }
    }
}
