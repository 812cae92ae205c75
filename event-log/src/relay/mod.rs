//! The relay: publishes the log to the topics, in order, once.
//!
//! There is no dual write: the log is the outbox. Of several relay processes one leads; it reads the log, publishes it in
//! transactions, and saves how far it is after each. Three things keep two leaders apart, each where the others cannot:
//! a leader that cannot renew its lease stops by itself; a new leader shuts the old one out at the broker before it
//! looks at the topics; and the frontier is saved only in the epoch of the lease. A leader asks for its lease once more
//! after it has shut out the others: one that slept in between finds that it leads no longer before it publishes.

mod align;
mod lead;
mod port;
mod rewind;
mod status;

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

pub use port::{Outgoing, PartitionTail, PublishError, Publisher, TailRecord};
pub use rewind::{RewindError, Rewound, divided_anew, rewind};
pub use status::{RelayReport, RelayState, RelayStatus};

use crate::{port::EventLog, relay_store::RelayStore};

/// How the relay paces itself.
#[derive(Debug, Clone)]
pub struct RelaySettings {
    /// How many events one transaction holds at most.
    pub batch: usize,
    /// Between two reads of a log that grows: a transaction costs the brokers, the database and every projector the same
    /// whether it holds one event or many. An event that comes after a pause is not held up.
    pub gather: Gather,
    /// How long a lease lasts in the store.
    pub lease: Duration,
    /// How often it is renewed.
    pub renew_every: Duration,
    /// How often the log is looked at when nothing wakes the relay.
    pub poll_every: Duration,
    /// How often a process that does not lead, or refuses to, looks again.
    pub retry_every: Duration,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            batch: 2_000,
            gather: Gather {
                least: Duration::from_millis(50),
                each: Duration::from_millis(5),
                most: Duration::from_millis(100),
            },
            lease: Duration::from_secs(5),
            renew_every: Duration::from_secs(1),
            poll_every: Duration::from_millis(500),
            retry_every: Duration::from_millis(500),
        }
    }
}

/// How long the relay gathers events: the longer, the more came the last time.
///
/// While events come faster than one in each `each`, the pauses grow to `most`; while they come slower, they shrink to
/// `least`. So of a log that few write to is told at once, and one that many write to costs the servers few transactions.
#[derive(Debug, Clone, Copy)]
pub struct Gather {
    /// The shortest pause.
    pub least: Duration,
    /// What each event of the last batch adds.
    pub each: Duration,
    /// The longest pause.
    pub most: Duration,
}

impl Gather {
    /// The pause after the begin of a batch that held so many events.
    fn after(&self, events: usize) -> Duration {
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        self.each
            .saturating_mul(events)
            .clamp(self.least, self.most)
    }
}

/// A relay process, not yet started.
pub struct Relay {
    log: Arc<dyn EventLog>,
    store: Arc<dyn RelayStore>,
    publisher: Arc<dyn Publisher>,
    owner: String,
    settings: RelaySettings,
    status: Arc<RelayStatus>,
}

/// A relay that runs.
pub struct RelayTask {
    /// How it fares.
    pub status: Arc<RelayStatus>,
    /// Ends after `stop` was cancelled and the batch in hand was saved; the lease is given back.
    pub task: JoinHandle<()>,
}

/// Why a leader no longer leads.
enum Ended {
    /// The program stops.
    Stopped,
    /// The lease is lost, or about to be.
    Lost,
    /// Log and topics do not fit together.
    Refused(String),
}

impl Relay {
    /// A relay; `owner` names this process among all.
    pub fn new(
        log: Arc<dyn EventLog>,
        store: Arc<dyn RelayStore>,
        publisher: Arc<dyn Publisher>,
        owner: String,
        settings: RelaySettings,
    ) -> Self {
        let status = Arc::new(RelayStatus::new(log.watch_head()));
        Self {
            log,
            store,
            publisher,
            owner,
            settings,
            status,
        }
    }

    /// How it fares; also before it is started.
    pub fn status(&self) -> Arc<RelayStatus> {
        Arc::clone(&self.status)
    }

    /// Starts it; it runs until `stop` is cancelled.
    pub fn spawn(self, stop: CancellationToken) -> RelayTask {
        let status = self.status();
        let task = tokio::spawn(async move { self.run(&stop).await });
        RelayTask { status, task }
    }

    async fn run(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let asked = Instant::now();
            let pause = match self.store.acquire(&self.owner).await {
                Ok(Some(lease)) => {
                    tracing::info!(owner = self.owner, epoch = lease.epoch, "leading");
                    match self.lead(lease, asked, stop).await {
                        Ended::Stopped => break,
                        Ended::Lost => {
                            tracing::warn!(
                                owner = self.owner,
                                epoch = lease.epoch,
                                "the lease is lost"
                            );
                            self.status.enter(RelayState::Following);
                            Duration::ZERO
                        }
                        Ended::Refused(error) => {
                            tracing::error!(error, "the relay refuses to publish");
                            self.status.failing(RelayState::Refusing, &error);
                            // Another may be of another opinion, for example after an upgrade.
                            self.settings.retry_every * 2
                        }
                    }
                }
                Ok(None) => {
                    if self.status.report().state != RelayState::Refusing {
                        self.status.enter(RelayState::Following);
                    }
                    self.settings.retry_every
                }
                Err(error) => {
                    tracing::warn!(%error, "the lease cannot be asked for");
                    self.status.failing(RelayState::Stuck, &error.to_string());
                    self.settings.retry_every
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.status.enter(RelayState::Stopped);
    }
}

#[cfg(test)]
mod tests;
