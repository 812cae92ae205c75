//! Rewinding the relay, so that the next one publishes anew.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::{
    event::Position,
    frontier::Frontier,
    port::{EventLog, LogError},
    relay::{
        align::home_of,
        port::{PartitionTail, PublishError, Publisher},
    },
    relay_store::{Lease, RelayStore},
};

/// How many events one read brings.
const PAGE: usize = 4_096;
/// How long the lease is waited for: until one has run out whose holder was killed a moment ago. A relay that refuses to
/// publish gives it back again and again.
const PATIENCE: Duration = Duration::from_secs(7);
const ASK_EVERY: Duration = Duration::from_millis(100);

/// What a rewind did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewound {
    /// From where the next relay goes on.
    pub frontier: Frontier,
    /// Whether the records that the topics held were removed.
    pub emptied: bool,
}

/// Why the relay was not rewound.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    /// A relay leads: it must be stopped first.
    #[error("a relay is leading ({0}): stop it first")]
    Running(String),
    /// The log does not go that far.
    #[error("the log ends at position {head}: nothing can be published from {to} on")]
    Beyond {
        /// What was asked for.
        to: Position,
        /// Where the log ends.
        head: Position,
    },
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The broker failed.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Rewinds the relay, so that the next one publishes everything after a position anew: what brings topics and log
/// together after one of them went back in time, and what fills topics with another partition count.
///
/// Rewound to the beginning, or when the topics hold what the log does not, or in other partitions, their records are
/// removed: whoever reads them from the start must not meet events that never happened.
///
/// # Errors
/// [`RewindError`]; no other relay position is saved.
pub async fn rewind(
    log: &Arc<dyn EventLog>,
    store: &dyn RelayStore,
    publisher: &dyn Publisher,
    owner: &str,
    to: Position,
) -> Result<Rewound, RewindError> {
    let head = log.head().await?;
    if to > head {
        return Err(RewindError::Beyond { to, head });
    }
    let lease = take_lease(store, owner).await?;
    let rewinding = Rewinding {
        log,
        store,
        publisher,
        owner,
        lease,
    };
    let outcome = rewinding.rewind(to).await;
    store.release(owner, &lease).await?;
    outcome
}

/// Whether topics have other numbers of partitions than when the relay published to them: then no projector can go on
/// where it was.
///
/// # Errors
/// [`RewindError`].
pub async fn divided_anew(
    store: &dyn RelayStore,
    publisher: &dyn Publisher,
) -> Result<bool, RewindError> {
    let counts = publisher.topics().await?;
    Ok(differ(store, &counts).await?)
}

async fn differ(store: &dyn RelayStore, counts: &BTreeMap<String, i32>) -> Result<bool, LogError> {
    let before = store.frontier().await?.partitions;
    Ok(!before.is_empty() && before != *counts)
}

async fn take_lease(store: &dyn RelayStore, owner: &str) -> Result<Lease, RewindError> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(lease) = store.acquire(owner).await? {
            return Ok(lease);
        }
        if Instant::now() >= give_up {
            let holder = store.holder().await?.map(|(owner, ..)| owner);
            return Err(RewindError::Running(holder.unwrap_or_default()));
        }
        sleep(ASK_EVERY).await;
    }
}

struct Rewinding<'a> {
    log: &'a Arc<dyn EventLog>,
    store: &'a dyn RelayStore,
    publisher: &'a dyn Publisher,
    owner: &'a str,
    lease: Lease,
}

impl Rewinding<'_> {
    async fn rewind(&self, to: Position) -> Result<Rewound, RewindError> {
        let counts = self.publisher.topics().await?;
        let last = self.last_of_each(&counts, to).await?;
        self.publisher.begin().await?;
        let mut tails = self.publisher.tails(&counts).await?;
        let divided_anew = differ(self.store, &counts).await?;
        let emptied = to == 0 || divided_anew || !self.log_holds(&tails).await?;
        // Everybody else is shut out; if we took long, another may lead by now.
        self.keep().await?;
        if emptied {
            self.publisher.clear(&counts).await?;
            tails = self.publisher.tails(&counts).await?;
        }
        let frontier = Frontier::rewound(to, counts, &tails, |topic, partition| {
            let found = last.get(&(topic.to_owned(), partition));
            found.copied().unwrap_or(0)
        });
        if !self.store.save(&self.lease, &frontier).await? {
            return Err(self.lost());
        }
        Ok(Rewound { frontier, emptied })
    }

    /// The last event of each partition up to a position.
    async fn last_of_each(
        &self,
        counts: &BTreeMap<String, i32>,
        to: Position,
    ) -> Result<HashMap<(String, i32), Position>, RewindError> {
        let mut last = HashMap::new();
        let mut after = 0;
        while after < to {
            let events = self.log.read_all(after, PAGE).await?;
            let Some(end) = events.last() else { break };
            after = end.position;
            for event in events.iter().filter(|event| event.position <= to) {
                let (topic, partition) = home_of(event, counts);
                last.insert((topic.name().to_owned(), partition), event.position);
            }
            self.keep().await?;
        }
        Ok(last)
    }

    /// Whether the log holds the last record of each partition at its place.
    async fn log_holds(&self, tails: &[PartitionTail]) -> Result<bool, RewindError> {
        for last in tails.iter().filter_map(|tail| tail.last.as_ref()) {
            let after = last.position.saturating_sub(1);
            let found = self.log.read_all(after, 1).await?;
            let same = found.first().is_some_and(|event| {
                event.position == last.position && event.event_id == last.event_id
            });
            if !same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn keep(&self) -> Result<(), RewindError> {
        if self.store.renew(self.owner, &self.lease).await? {
            Ok(())
        } else {
            Err(self.lost())
        }
    }

    fn lost(&self) -> RewindError {
        RewindError::Running("another one has taken over meanwhile".to_owned())
    }
}
