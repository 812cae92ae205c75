//! What one socket may ask for, and the bucket that counts it.

use std::time::{Duration, Instant};

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

    /// The refusals of a socket.
    pub(crate) fn of_refusals(limits: &ChatLimits) -> Self {
        Self::new(f64::from(limits.refusals), FORGIVEN)
    }

    /// Takes so much, if it is there.
    pub(crate) fn take(&mut self, cost: f64, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.left = (self.left + elapsed * self.per_second).min(self.size);
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
