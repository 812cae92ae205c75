//! The process that completes erasures: driven by `user.erased` in the log, it asks every place that holds something of
//! the person to erase it, until all have.
//!
//! A log that was brought back from a copy may be older than the keys beside it: of whom a key was destroyed since, the log
//! says nothing. Those are erased again first.
//!
//! What is left to do is read from the log's store, so a killed process loses nothing: the next one begins again. Each
//! place erases idempotently, so it does no harm when several processes do it at once.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use socialhub_domain::{Clock, EventData, IdGenerator, StreamId, UserId, event::UserErased};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    erasure::{ErasureStore, PendingErasure},
    event::{Metadata, NewEvent, Position},
    keys::PersonKeys,
    port::{Append, EventLog, LogError},
    sealing::SealedLog,
    side::SideWrite,
};

/// Why a place has not erased somebody: it cannot now, or must wait for another.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct NotErased(pub String);

impl From<LogError> for NotErased {
    fn from(error: LogError) -> Self {
        Self(error.to_string())
    }
}

/// A place that holds something of people.
#[async_trait]
pub trait Erasable: Send + Sync {
    /// What it is called in log lines.
    fn name(&self) -> &'static str;

    /// Erases what it holds of somebody. Again, and for somebody of whom it holds nothing, is no fault.
    ///
    /// # Errors
    /// [`NotErased`]; it is asked again.
    async fn erase(&self, erasure: &PendingErasure) -> Result<(), NotErased>;
}

/// Between two looks at what is left to do. Nobody waits for it: the person was answered before.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// After one could not be completed: somebody who reads a file for long keeps it from that, and all the others.
const COMPLETE_AGAIN: Duration = Duration::from_secs(5);

/// Completes erasures.
pub struct Eraser {
    log: Arc<dyn EventLog>,
    store: Arc<dyn ErasureStore>,
    /// Asked in this order, each whatever becomes of the others.
    places: Vec<Arc<dyn Erasable>>,
    /// Asked when all others are done: they clear away what those left behind.
    afterwards: Vec<Arc<dyn Erasable>>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGenerator>,
    /// Whether everybody without a key is erased in the log, too. Nobody loses a key before that but by an import.
    all_said: bool,
    /// Whether something may be left of those of whom the log has nothing.
    strangers_left: bool,
    /// Before that it is not tried to complete another one: to try may hold up whoever writes.
    complete_after: Option<Instant>,
    /// What was erased already, by this process, of somebody who is not yet erased everywhere.
    done: HashSet<(UserId, &'static str)>,
    /// Everything up to here is complete.
    complete_upto: Position,
}

impl Eraser {
    /// An eraser of these places; `afterwards` are asked only when all others are done.
    pub fn new(
        log: Arc<dyn EventLog>,
        store: Arc<dyn ErasureStore>,
        places: Vec<Arc<dyn Erasable>>,
        afterwards: Vec<Arc<dyn Erasable>>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdGenerator>,
    ) -> Self {
        Self {
            log,
            store,
            places,
            afterwards,
            clock,
            ids,
            all_said: false,
            strangers_left: true,
            complete_after: None,
            done: HashSet::new(),
            complete_upto: 0,
        }
    }

    /// Works until it is stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let head = self.log.watch_head();
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut looked_at, mut left) = (None, 0);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let now = *head.borrow();
            if left == 0 && looked_at == Some(now) {
                continue;
            }
            match self.pass().await {
                Ok(open) => {
                    left = open;
                    looked_at = Some(now);
                    metrics::gauge!("socialhub_erasures_pending").set(left as f64);
                }
                Err(error) => tracing::debug!(%error, "cannot look for erasures"),
            }
        }
    }

    /// Tries everything that is left once; answers how many are not complete.
    ///
    /// # Errors
    /// When the store cannot say what is left.
    pub async fn pass(&mut self) -> Result<usize, LogError> {
        if !self.all_said {
            self.erase_again().await?;
            self.all_said = true;
        }
        // Before the look: what comes after it is found next time.
        let head = self.log.head().await?;
        let pending = self.store.pending(self.complete_upto).await?;
        let mut first_open = None;
        let mut open = 0;
        for erasure in &pending {
            if !self.try_one(erasure).await {
                open += 1;
                first_open.get_or_insert(erasure.position);
            }
        }
        self.complete_upto = first_open.map_or(head, |position| position - 1);
        if self.strangers_left {
            self.strangers_left = !self.erase_strangers().await?;
        }
        Ok(open + usize::from(self.strangers_left))
    }

    /// Appends `user.erased` for those whose key was destroyed for one that this log does not have.
    async fn erase_again(&self) -> Result<(), LogError> {
        for user_id in self.store.unsaid().await? {
            let stream = StreamId::new("user", user_id);
            let history = self.log.read_stream(&stream).await?;
            if history
                .iter()
                .any(|event| event.event_type == UserErased::TYPE)
            {
                // Another process was faster.
                continue;
            }
            let timestamp = self.clock.now();
            let metadata = Metadata {
                occurred_at: timestamp,
                ..Metadata::default()
            };
            let append = Append {
                command_id: self.ids.next_id(),
                expected_version: history.len() as u64,
                stream,
                events: vec![NewEvent {
                    event_id: self.ids.next_id(),
                    event: UserErased { user_id, timestamp }.into(),
                    payload: None,
                }],
                metadata,
                side: vec![SideWrite::Erase { user_id }],
            };
            // Also refused when another process was faster just now: the next look shows that it was.
            self.log
                .append(append)
                .await
                .map_err(|error| LogError::Unavailable(error.to_string()))?;
            tracing::info!(user = %user_id, "erased again: their key was destroyed before this log was brought back");
        }
        Ok(())
    }

    /// Erases those of whom this log has nothing, which is older than they are: chats and files may be younger. Answers
    /// whether that is complete.
    async fn erase_strangers(&mut self) -> Result<bool, LogError> {
        let mut complete = true;
        let strangers = self.store.strangers().await?;
        for user_id in strangers.iter().copied() {
            let erasure = PendingErasure {
                user_id,
                position: 0,
                username: None,
                email: None,
            };
            complete &= self.try_everywhere(&erasure).await;
        }
        if complete {
            self.done.retain(|(user, _)| !strangers.contains(user));
        }
        Ok(complete)
    }

    async fn try_all(&mut self, places: &[Arc<dyn Erasable>], erasure: &PendingErasure) -> bool {
        let mut all = true;
        for place in places {
            let step = (erasure.user_id, place.name());
            if self.done.contains(&step) {
                continue;
            }
            match place.erase(erasure).await {
                Ok(()) => {
                    self.done.insert(step);
                }
                Err(error) => {
                    all = false;
                    let user = erasure.user_id;
                    tracing::info!(%user, place = place.name(), %error, "not erased yet");
                }
            }
        }
        all
    }

    /// Answers whether nothing of them is left in any place.
    async fn try_everywhere(&mut self, erasure: &PendingErasure) -> bool {
        let (places, afterwards) = (self.places.clone(), self.afterwards.clone());
        self.try_all(&places, erasure).await && self.try_all(&afterwards, erasure).await
    }

    async fn try_one(&mut self, erasure: &PendingErasure) -> bool {
        if !self.try_everywhere(erasure).await {
            return false;
        }
        let now = Instant::now();
        if self.complete_after.is_some_and(|after| now < after) {
            return false;
        }
        match self.store.complete(erasure, self.clock.now()).await {
            Ok(()) => {
                self.done.retain(|(user, _)| *user != erasure.user_id);
                tracing::info!(
                    user = %erasure.user_id,
                    position = erasure.position,
                    "the erasure is complete"
                );
                true
            }
            Err(error) => {
                tracing::info!(user = %erasure.user_id, %error, "the erasure is not complete yet");
                self.complete_after = Some(now + COMPLETE_AGAIN);
                false
            }
        }
    }
}

/// The key: with it everything personal in the log.
pub struct KeyErasure {
    keys: Arc<dyn PersonKeys>,
    sealed: Arc<SealedLog>,
}

impl KeyErasure {
    /// Destroys keys here, and forgets them in this process at once.
    pub fn new(keys: Arc<dyn PersonKeys>, sealed: Arc<SealedLog>) -> Self {
        Self { keys, sealed }
    }
}

#[async_trait]
impl Erasable for KeyErasure {
    fn name(&self) -> &'static str {
        "key"
    }

    async fn erase(&self, erasure: &PendingErasure) -> Result<(), NotErased> {
        self.keys.destroy(erasure.user_id, erasure.position).await?;
        self.sealed.forget(erasure.user_id);
        Ok(())
    }
}

/// Stored answers, also those of others, that name the person.
pub struct AnswerErasure(pub Arc<dyn ErasureStore>);

#[async_trait]
impl Erasable for AnswerErasure {
    fn name(&self) -> &'static str {
        "stored answers"
    }

    async fn erase(&self, erasure: &PendingErasure) -> Result<(), NotErased> {
        Ok(self.0.forget_answers(erasure.user_id).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use parking_lot::Mutex;
    use socialhub_domain::{Timestamp, event::UserRegistered, testing::id};
    use uuid::Uuid;

    use super::*;
    use crate::MemoryEventLog;

    struct Noon;

    impl Clock for Noon {
        fn now(&self) -> Timestamp {
            Timestamp(12)
        }
    }

    struct Counting(AtomicU32);

    impl IdGenerator for Counting {
        fn next_id(&self) -> Uuid {
            id(1_000 + u128::from(self.0.fetch_add(1, Ordering::Relaxed)))
        }
    }

    /// Fails so often, then succeeds; notes each success.
    struct Place {
        name: &'static str,
        failures: AtomicU32,
        done: Arc<Mutex<Vec<&'static str>>>,
    }

    #[async_trait]
    impl Erasable for Place {
        fn name(&self) -> &'static str {
            self.name
        }

        async fn erase(&self, _: &PendingErasure) -> Result<(), NotErased> {
            let left = self.failures.load(Ordering::Relaxed);
            if left > 0 {
                self.failures.store(left - 1, Ordering::Relaxed);
                return Err(NotErased("not yet".to_owned()));
            }
            self.done.lock().push(self.name);
            Ok(())
        }
    }

    async fn erased(log: &MemoryEventLog, user: u128) {
        let event = UserErased {
            user_id: UserId(id(user)),
            timestamp: Timestamp(1),
        };
        let append = Append {
            command_id: id(100 + user),
            stream: StreamId::new("user", id(user)),
            expected_version: 0,
            events: vec![NewEvent {
                event_id: id(200 + user),
                event: event.into(),
                payload: None,
            }],
            metadata: Metadata::default(),
            side: Vec::new(),
        };
        log.append(append).await.unwrap();
    }

    #[tokio::test]
    async fn each_place_is_asked_until_it_is_done_and_the_last_ones_when_all_are() {
        let log = Arc::new(MemoryEventLog::new());
        let done = Arc::new(Mutex::new(Vec::new()));
        let place = |name, failures| -> Arc<dyn Erasable> {
            Arc::new(Place {
                name,
                failures: AtomicU32::new(failures),
                done: done.clone(),
            })
        };
        let mut eraser = Eraser::new(
            log.clone(),
            log.clone(),
            vec![place("slow", 2), place("quick", 0)],
            vec![place("last", 1)],
            Arc::new(Noon),
            Arc::new(Counting(AtomicU32::new(0))),
        );
        assert_eq!(eraser.pass().await.unwrap(), 0);
        erased(&log, 1).await;
        for _ in 0..3 {
            assert_eq!(eraser.pass().await.unwrap(), 1);
        }
        assert_eq!(eraser.pass().await.unwrap(), 0);
        assert_eq!(*done.lock(), ["quick", "slow", "last"]);
        // A completed one is not looked at again, a later one is.
        assert_eq!(eraser.pass().await.unwrap(), 0);
        erased(&log, 2).await;
        assert_eq!(eraser.pass().await.unwrap(), 0);
        assert_eq!(done.lock().len(), 6);
    }

    #[tokio::test]
    async fn who_has_no_key_any_more_is_erased_again_in_an_older_log() {
        let log = Arc::new(MemoryEventLog::new());
        let user_id = UserId(id(1));
        let registered = UserRegistered {
            user_id,
            username: "eve".to_owned(),
            name: "Eve".to_owned(),
            timestamp: Timestamp(1),
        };
        let append = Append {
            command_id: id(100),
            stream: StreamId::new("user", user_id),
            expected_version: 0,
            events: vec![NewEvent {
                event_id: id(200),
                event: registered.into(),
                payload: None,
            }],
            metadata: Metadata::default(),
            side: Vec::new(),
        };
        log.append(append).await.unwrap();
        // The mark of another log, further on, and that of somebody who is not of this one.
        log.destroy(user_id, 70).await.unwrap();
        log.destroy(UserId(id(2)), 80).await.unwrap();
        let done = Arc::new(Mutex::new(Vec::new()));
        let place: Arc<dyn Erasable> = Arc::new(Place {
            name: "place",
            failures: AtomicU32::new(1),
            done: done.clone(),
        });
        let mut eraser = Eraser::new(
            log.clone(),
            log.clone(),
            vec![place],
            Vec::new(),
            Arc::new(Noon),
            Arc::new(Counting(AtomicU32::new(0))),
        );
        // The place has nothing of the first, yet; of the other one something may have been brought back elsewhere.
        assert_eq!(eraser.pass().await.unwrap(), 1);
        assert_eq!(*done.lock(), ["place"]);
        assert_eq!(eraser.pass().await.unwrap(), 0);
        assert_eq!(*done.lock(), ["place", "place"]);
        assert_eq!(eraser.pass().await.unwrap(), 0);
        assert_eq!(done.lock().len(), 2);
        let events = log.read_all(0, 10).await.unwrap();
        let types: Vec<&str> = events.iter().map(|event| &*event.event_type).collect();
        assert_eq!(types, ["user.registered", "user.erased"]);
        assert!(log.unsaid().await.unwrap().is_empty());
    }
}
