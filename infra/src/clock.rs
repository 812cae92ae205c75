//! The machine's clock and random ids: the one place where time and randomness enter.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use socialhub_domain::{Clock, IdGenerator, Timestamp};
use uuid::Uuid;

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one adapter that reads the clock"
    )]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}

/// UUIDv7 from the machine's clock and randomness; monotonic within the process.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomIds;

impl IdGenerator for RandomIds {
    #[expect(clippy::disallowed_methods, reason = "the one adapter that makes ids")]
    fn next_id(&self) -> Uuid {
        Uuid::now_v7()
    }
}
