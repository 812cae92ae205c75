//! The write side: one file a use case. Each loads an aggregate, lets the domain decide, commits, and retries from a
//! fresh load when somebody else was faster.
//!
//! This crate also says what it needs of the outside (hashing, tokens, mail, media, one-time codes) as ports. It must
//! never import a driver, a web framework, or the read side: what a command must ask of a read model is a port here
//! that the binary wires to a reader.

pub mod comment;
pub mod context;
pub mod cqrs;
pub mod create_post;
pub mod delete_post;
pub mod erase;
pub mod error;
mod executor;
pub mod follow;
mod idempotency;
pub mod log_in;
pub mod notifications;
pub mod ports;
pub mod react;
pub mod reset_password;
pub mod sign_up;
mod turns;
pub mod update_profile;
mod visibility;
mod written;

use std::sync::Arc;

pub use context::{Actor, CommandContext, Done, IdempotencyKey};
pub use error::{CommandError, FieldError};
pub use socialhub_domain::limits;
use socialhub_domain::{Clock, IdGenerator};
use socialhub_event_log::{CredentialsReader, EventLog};
use tokio::sync::Semaphore;

/// Everything the use cases need; wired once by the binary.
#[derive(Clone)]
pub struct Ports {
    /// The event log.
    pub log: Arc<dyn EventLog>,
    /// What lies beside it.
    pub credentials: Arc<dyn CredentialsReader>,
    /// Password hashing.
    pub hasher: Arc<dyn ports::PasswordHasher>,
    /// JWTs.
    pub tokens: Arc<dyn ports::Tokens>,
    /// Mail.
    pub mailer: Arc<dyn ports::Mailer>,
    /// One-time codes.
    pub otps: Arc<dyn ports::OtpStore>,
    /// Secrets.
    pub secrets: Arc<dyn ports::Secrets>,
    /// Uploaded files.
    pub media: Arc<dyn ports::MediaStore>,
    /// The notifications model, as far as commands need it.
    pub notifications: Arc<dyn ports::NotificationLookup>,
    /// The counters, as far as commands need them.
    pub like_counts: Arc<dyn ports::LikeCountLookup>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ids.
    pub ids: Arc<dyn IdGenerator>,
}

/// How many mails may be on their way at once; a request for another is refused with 503.
const MAX_BACKGROUND_JOBS: usize = 64;

/// The write side: every use case is a method, each in a file of its own. Cheap to clone.
#[derive(Clone)]
pub struct Commands {
    ports: Ports,
    store: cqrs::LogStore,
    turns: Arc<turns::Turns>,
    running: Arc<idempotency::Running>,
    background: Arc<Semaphore>,
}

impl Commands {
    /// The write side over the given ports.
    pub fn new(ports: Ports) -> Self {
        Self {
            store: cqrs::LogStore::new(ports.log.clone(), ports.ids.clone()),
            ports,
            turns: Arc::default(),
            running: Arc::default(),
            background: Arc::new(Semaphore::new(MAX_BACKGROUND_JOBS)),
        }
    }

    /// Waits until every mail that was begun is handed over; for an orderly stop, and for tests.
    pub async fn drain(&self) {
        let all = u32::try_from(MAX_BACKGROUND_JOBS).unwrap_or(u32::MAX);
        // Fails only when the semaphore is closed, which it never is.
        drop(self.background.acquire_many(all).await);
    }
}
