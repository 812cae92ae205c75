//! What one socket may ask for, and the bucket that counts it.

use std::time::{Duration, Instant};

/// Bytes of a history at most, as it goes out: the newest messages that fit. A thousand of the longest messages do as long as
/// they are of ASCII letters; beyond that `recovered` says that there were more, as it does beyond a thousand.
pub(crate) const HISTORY_BYTES: usize = 5 * 1024 * 1024;

/// Bytes that acknowledgements may take beyond [`ChatLimits::outbox_bytes`]: who is behind may still be answered.
pub(crate) const ANSWER_BYTES: usize = 1024 * 1024;

/// The bounds of the service. The defaults suit people and their programs; a bound that is hit is answered with 429.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatLimits {
    /// Events a socket may send per second, in the long run.
    pub events_per_second: f64,
    /// Events a socket may send at once after a pause.
    pub burst: f64,
    /// Refused events after which the socket is disconnected; ten are forgiven every second.
    pub refusals: u32,
    /// Events of one socket that may wait for their acknowledgement.
    pub waiting: usize,
    /// Rooms one socket may be in.
    pub rooms: usize,
    /// The largest packet or polling body from a client, in bytes.
    pub payload: u64,
    /// Open sockets of the whole process.
    pub sockets: usize,
    /// Events of all sockets that may wait.
    pub queue: usize,
    /// Packets that may wait to be written to one socket. One that reads more slowly is fed from the log.
    pub outbox: usize,
    /// Bytes that may wait to be written to one socket, likewise.
    pub outbox_bytes: usize,
    /// How long a client may take nothing of what waits for it; then it is cut off.
    pub patience: Duration,
    /// Open sockets of one person.
    pub sockets_of_one: usize,
    /// Histories one person may ask for at once after a pause, over all their sockets: joining a room asks for one.
    pub histories: f64,
    /// Histories one person may ask for per second, in the long run.
    pub histories_per_second: f64,
    /// How often tokens of open sockets are checked again.
    pub recheck: Duration,
}

impl Default for ChatLimits {
    fn default() -> Self {
        Self {
            events_per_second: 500.0,
            burst: 2_000.0,
            refusals: 1_000,
            waiting: 1_024,
            rooms: 100,
            payload: 64 * 1024,
            sockets: 10_000,
            queue: 8_192,
            outbox: 1_024,
            outbox_bytes: 8 * 1024 * 1024,
            // As long as the heartbeat leaves one who does not answer.
            patience: Duration::from_secs(45),
            sockets_of_one: 32,
            histories: 1_000.0,
            histories_per_second: 20.0,
            recheck: Duration::from_secs(1),
        }
    }
}

/// Refusals forgiven per second.
const FORGIVEN: f64 = 10.0;

/// A token bucket: so many at once, then so many per second.
#[derive(Debug)]
pub(crate) struct Bucket {
    size: f64,
    per_second: f64,
    left: f64,
    filled: Instant,
}

impl Bucket {
    fn new(size: f64, per_second: f64) -> Self {
        Self {
            size,
            per_second,
            left: size,
            filled: Instant::now(),
        }
    }

    /// The events of a socket.
    pub(crate) fn of_events(limits: &ChatLimits) -> Self {
        Self::new(limits.burst, limits.events_per_second)
    }

    /// The histories of a person.
    pub(crate) fn of_histories(limits: &ChatLimits) -> Self {
        Self::new(limits.histories, limits.histories_per_second)
    }

    /// The refusals of a socket.
    pub(crate) fn of_refusals(limits: &ChatLimits) -> Self {
        Self::new(f64::from(limits.refusals), FORGIVEN)
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.left = (self.left + elapsed * self.per_second).min(self.size);
    }

    /// Whether nothing of it is taken.
    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.left >= self.size
    }

    /// Takes so much, if it is there.
    pub(crate) fn take(&mut self, cost: f64, now: Instant) -> bool {
        self.fill(now);
        let enough = self.left >= cost;
        if enough {
            self.left -= cost;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let mut bucket = Bucket::new(2.0, 10.0);
        let start = Instant::now();
        assert!(bucket.take(1.0, start));
        assert!(bucket.take(1.0, start));
        assert!(!bucket.take(1.0, start + Duration::from_millis(50)));
        assert!(bucket.take(1.0, start + Duration::from_millis(200)));
    }
}
