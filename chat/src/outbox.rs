//! How much waits to be written to one client, in bytes.
//!
//! The Socket.IO library bounds what waits for a client by the number of packets, and says nothing about what of it has
//! gone out. So everything that is given to it is counted here, and everything that leaves by the client's connection is
//! taken off again. Only bodies are counted, not what stands around them: so the count never grows by mistake, and is
//! nothing when nothing waits.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use socketioxide::socket::Sid;
use tokio_util::sync::CancellationToken;

use crate::{frame::Full, people::Seat};

/// What waits for one client. It lives as long as the client's connection, however often that is made anew.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: AtomicUsize,
    /// How often something has left.
    moves: AtomicU64,
    seen: Mutex<Option<Seen>>,
    cut: CancellationToken,
    /// What the person behind it holds while it is there.
    seat: Mutex<Option<Seat>>,
}

/// An outbox where something waited, when it was last looked at.
#[derive(Debug, Clone, Copy)]
struct Seen {
    moves: u64,
    since: Instant,
}

impl Outbox {
    /// Counts what is about to be given to the library, unless more than `most` would wait then. What is larger than that
    /// by itself goes when nothing waits.
    ///
    /// # Errors
    /// [`Full`], and nothing is counted.
    pub(crate) fn take(&self, bytes: usize, most: usize) -> Result<(), Full> {
        let add = |waiting: usize| fits(waiting, bytes, most).then_some(waiting + bytes);
        let taken = self
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        taken.map(|_| ()).map_err(|_| Full)
    }

    /// Whether so much would be taken now.
    pub(crate) fn has_room(&self, bytes: usize, most: usize) -> bool {
        fits(self.waiting.load(Ordering::Acquire), bytes, most)
    }

    /// Takes off what was not given to the library after all.
    pub(crate) fn give_back(&self, bytes: usize) {
        let less = |waiting: usize| Some(waiting.saturating_sub(bytes));
        let _ = self
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// Takes off what has left.
    pub(crate) fn left(&self, bytes: usize) {
        self.moves.fetch_add(1, Ordering::Relaxed);
        self.give_back(bytes);
    }

    /// Keeps what the person holds until this ends.
    pub(crate) fn keep(&self, seat: Seat) {
        *self.seat.lock() = Some(seat);
    }

    /// Ends what is kept.
    pub(crate) fn vacate(&self) {
        self.seat.lock().take();
    }

    /// Ends the client's connection, whatever waits.
    pub(crate) fn cut(&self) {
        self.cut.cancel();
    }

    pub(crate) fn cutting(&self) -> &CancellationToken {
        &self.cut
    }

    /// Whether something waits of which nothing has left for so long.
    fn is_stuck(&self, now: Instant, patience: Duration) -> bool {
        let mut seen = self.seen.lock();
        if self.waiting.load(Ordering::Acquire) == 0 {
            *seen = None;
            return false;
        }
        let moves = self.moves.load(Ordering::Relaxed);
        match *seen {
            Some(before) if before.moves == moves => {
                now.saturating_duration_since(before.since) >= patience
            }
            _ => {
                *seen = Some(Seen { moves, since: now });
                false
            }
        }
    }
}

fn fits(waiting: usize, bytes: usize, most: usize) -> bool {
    waiting == 0 || waiting.saturating_add(bytes) <= most
}

/// The outboxes of the clients that were let in, as long as their connections live.
#[derive(Debug, Default)]
pub(crate) struct Outboxes(Mutex<HashMap<Sid, Weak<Outbox>>>);

impl Outboxes {
    pub(crate) fn add(&self, client: Sid, outbox: &Arc<Outbox>) {
        self.0.lock().insert(client, Arc::downgrade(outbox));
    }

    pub(crate) fn find(&self, client: Sid) -> Option<Arc<Outbox>> {
        self.0.lock().get(&client).and_then(Weak::upgrade)
    }

    /// Ends the connections of those who take nothing for so long, also of those whose socket has ended.
    pub(crate) fn sweep(&self, now: Instant, patience: Duration) {
        let mut living = Vec::new();
        self.0.lock().retain(|_, outbox| {
            let outbox = outbox.upgrade();
            let lives = outbox.is_some();
            living.extend(outbox);
            lives
        });
        // The last reference may be one of these: it must not end under the lock.
        for outbox in living {
            if !outbox.cutting().is_cancelled() && outbox.is_stuck(now, patience) {
                tracing::info!("a chat client that took nothing of what waits for it was cut off");
                outbox.cut();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_what_is_larger_goes_alone() {
        let outbox = Outbox::default();
        assert_eq!(outbox.take(150, 100), Ok(()));
        assert_eq!(outbox.take(1, 100), Err(Full));
        outbox.left(100);
        assert_eq!(outbox.take(50, 100), Ok(()));
        assert!(!outbox.has_room(1, 100));
        assert_eq!(outbox.take(1, 101), Ok(()));
        // What stands around the bodies left, too.
        outbox.left(110);
        assert!(outbox.has_room(100, 100));
    }

    #[test]
    fn a_client_that_takes_nothing_is_cut_and_a_slow_one_is_not() {
        let (stuck, slow, idle) = (Arc::default(), Arc::default(), Arc::default());
        let outboxes = Outboxes::default();
        for outbox in [&stuck, &slow, &idle] {
            outboxes.add(Sid::new(), outbox);
        }
        for outbox in [&stuck, &slow] {
            Outbox::take(outbox, 100, 100).unwrap();
        }
        let (start, patience) = (Instant::now(), Duration::from_secs(45));
        outboxes.sweep(start, patience);
        slow.left(1);
        outboxes.sweep(start + patience, patience);
        let cut = [&stuck, &slow, &idle].map(|outbox| outbox.cutting().is_cancelled());
        assert_eq!(cut, [true, false, false]);
        drop(slow);
        outboxes.sweep(start + patience, patience);
        assert_eq!(outboxes.0.lock().len(), 2);
    }
}
