//! The two ambient facts a decision may depend on, as ports: time and identity.

use uuid::Uuid;

use crate::ids::Timestamp;

/// Where the time comes from. The only implementation that reads the machine's clock lives in `infra`.
pub trait Clock: Send + Sync {
    /// The present moment, in milliseconds since the Unix epoch.
    fn now(&self) -> Timestamp;
}

/// Where new random ids come from (UUIDv7, so that they sort by the time they were made).
pub trait IdGenerator: Send + Sync {
    /// A fresh id, never handed out before.
    fn next_id(&self) -> Uuid;
}
