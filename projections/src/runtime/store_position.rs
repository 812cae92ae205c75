//! Where a model is that other processes write: asked from its store.
//!
//! One task a model and process asks, however many wait: often while somebody waits, less often for streams, which wake
//! on what it finds, now and then while there are queries, and not at all when nobody has asked for a while: a service
//! that serves one model does not ask for the others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use socialhub_domain::Topic;
use socialhub_event_log::{FrontierReader, Position};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    status::{self, Freshness, ModelPosition, reached},
    store::{Checkpoint, ModelName, ReadError},
};

/// How often the store is asked while somebody waits.
const WAITED_FOR: Duration = Duration::from_millis(5);
/// How often while somebody watches and the model moves, or should.
const MOVING: Duration = Duration::from_millis(50);
/// How often otherwise.
const IDLE: Duration = Duration::from_millis(250);
/// Nobody has used the position for this long: it is not kept up to date any more.
const UNUSED: Duration = Duration::from_secs(5);
/// How long a model that has moved counts as moving.
const LATELY: Duration = Duration::from_secs(2);

/// Reads the checkpoints of a model's current generation.
#[async_trait]
pub trait CheckpointReader: Send + Sync {
    /// Every checkpoint; none for a generation that has read nothing.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, ReadError>;
}

/// A function that asks will do.
#[async_trait]
impl<F, A> CheckpointReader for F
where
    F: Fn() -> A + Send + Sync,
    A: Future<Output = Result<Vec<Checkpoint>, ReadError>> + Send,
{
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, ReadError> {
        self().await
    }
}

/// The place of a model that is written by other processes.
pub struct StorePosition {
    model: ModelName,
    topics: &'static [Topic],
    checkpoints: Arc<dyn CheckpointReader>,
    frontier: Arc<dyn FrontierReader>,
    head: watch::Receiver<Position>,
    position: watch::Sender<Position>,
    waiting: AtomicUsize,
    wake: Notify,
    seen: Mutex<Seen>,
}

struct Seen {
    /// When somebody last wanted to know.
    used: Instant,
    /// Why the store did not answer last; none when it did.
    error: Option<ReadError>,
    /// Whether what is known is kept up to date.
    asked: bool,
    /// Since when the model has had work without moving.
    behind_since: Option<Instant>,
    moved_at: Option<Instant>,
}

/// Counts somebody who waits.
struct Waiting<'a>(&'a StorePosition);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl StorePosition {
    /// Starts asking where a model is, until `stop` is cancelled. `topics` are those of its projection, `head` is the
    /// log's. Must be called within a tokio runtime.
    pub fn start(
        model: ModelName,
        topics: &'static [Topic],
        checkpoints: Arc<dyn CheckpointReader>,
        frontier: Arc<dyn FrontierReader>,
        head: watch::Receiver<Position>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let position = Arc::new(Self {
            model,
            topics,
            checkpoints,
            frontier,
            head,
            position: watch::Sender::new(0),
            waiting: AtomicUsize::new(0),
            wake: Notify::new(),
            seen: Mutex::new(Seen {
                used: Instant::now(),
                error: None,
                asked: false,
                behind_since: None,
                moved_at: None,
            }),
        });
        let asking = Arc::clone(&position);
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = asking.ask_on() => {}
            }
        });
        position
    }

    /// The model's name.
    pub fn model(&self) -> ModelName {
        self.model
    }

    async fn ask_on(&self) {
        loop {
            // An error is remembered and told to whoever asks.
            let _ = self.ask().await;
            match self.pace() {
                Some(pace) => tokio::select! {
                    () = sleep(pace) => {}
                    () = self.wake.notified() => {}
                },
                None => self.wake.notified().await,
            }
        }
    }

    /// Somebody wants to know.
    fn touch(&self) {
        let mut seen = self.seen.lock();
        seen.used = Instant::now();
        if !seen.asked {
            self.wake.notify_one();
        }
    }

    /// How long until the store is asked again; none when nobody wants to know, until somebody touches it.
    ///
    /// Decided and noted under one lock: whoever begins to watch either is seen here, or sees that nobody asks.
    fn pace(&self) -> Option<Duration> {
        let mut seen = self.seen.lock();
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return Some(WAITED_FOR);
        }
        if self.position.receiver_count() == 0 {
            if seen.used.elapsed() < UNUSED {
                return Some(IDLE);
            }
            // What was seen so far says nothing of later.
            (seen.asked, seen.error, seen.behind_since) = (false, None, None);
            return None;
        }
        let lately = seen.moved_at.is_some_and(|at| at.elapsed() < LATELY);
        Some(if lately || seen.behind_since.is_some() {
            MOVING
        } else {
            IDLE
        })
    }

    async fn ask(&self) -> Result<Position, ReadError> {
        let answer = self.look_up().await;
        let position = match answer {
            Ok(position) => position,
            Err(error) => {
                tracing::debug!(model = %self.model, %error, "the model's place is not known");
                self.seen.lock().error = Some(error.clone());
                self.observe_head();
                return Err(error);
            }
        };
        let moved = self.position.send_if_modified(|known| {
            let moved = *known != position;
            *known = position;
            moved
        });
        {
            let mut seen = self.seen.lock();
            (seen.error, seen.asked) = (None, true);
            if moved {
                seen.moved_at = Some(Instant::now());
                seen.behind_since = None;
            }
        }
        self.observe_head();
        Ok(position)
    }

    async fn look_up(&self) -> Result<Position, ReadError> {
        // The frontier after the checkpoints: what was handled is on it.
        let checkpoints = self.checkpoints.checkpoints().await?;
        let frontier = self.frontier.frontier().await;
        let frontier = frontier.map_err(|error| ReadError(error.to_string()))?;
        Ok(reached(&checkpoints, self.topics, &frontier))
    }

    /// Takes note of work: from here on the model is expected to move.
    fn observe_head(&self) {
        let behind = *self.head.borrow() > *self.position.borrow();
        let mut seen = self.seen.lock();
        if !behind {
            seen.behind_since = None;
        } else if seen.behind_since.is_none() {
            seen.behind_since = Some(Instant::now());
        }
    }

    fn given_up_at(&self) -> Option<Instant> {
        self.seen
            .lock()
            .behind_since
            .map(|since| since + status::GIVEN_UP_AFTER)
    }
}

#[async_trait]
impl ModelPosition for StorePosition {
    async fn position(&self) -> Result<Position, ReadError> {
        self.touch();
        let (asked, error) = {
            let seen = self.seen.lock();
            (seen.asked, seen.error.clone())
        };
        match error {
            Some(error) => Err(error),
            None if asked => Ok(*self.position.borrow()),
            None => self.ask().await,
        }
    }

    async fn wait_for(&self, wanted: Position, limit: Duration) -> Result<Freshness, ReadError> {
        self.touch();
        let mut moved = self.position.subscribe();
        let deadline = Instant::now() + limit;
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(self);
        loop {
            let position = *moved.borrow_and_update();
            let stale = position < wanted;
            if !stale {
                return Ok(Freshness { position, stale });
            }
            self.observe_head();
            let until = self.given_up_at().map_or(deadline, |at| at.min(deadline));
            if until <= Instant::now() {
                return Ok(Freshness { position, stale });
            }
            self.wake.notify_one();
            tokio::select! {
                // Never an error: the sender is ours.
                _ = moved.changed() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    fn known(&self) -> Position {
        self.touch();
        *self.position.borrow()
    }

    fn watch(&self) -> watch::Receiver<Position> {
        let receiver = self.position.subscribe();
        self.touch();
        receiver
    }
}
