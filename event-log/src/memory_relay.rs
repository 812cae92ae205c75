//! The relay's lease and frontier in memory, for tests: same promises, no durability.

use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    frontier::{Frontier, FrontierReader},
    port::LogError,
    relay_store::{Lease, RelayStore},
};

/// Lease and frontier as long as the value lives. Other relays of the same process share it through an `Arc`.
#[derive(Debug)]
pub struct MemoryRelayStore {
    lifetime: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    holder: Option<Holder>,
    epoch: i64,
    frontier: Frontier,
    /// What a test asked the next calls of `save` to fail with.
    failures: Vec<String>,
}

#[derive(Debug)]
struct Holder {
    owner: String,
    renewed: Instant,
}

impl MemoryRelayStore {
    /// A store whose lease may be taken over when it was not renewed for `lifetime`.
    pub fn new(lifetime: Duration) -> Self {
        Self {
            lifetime,
            state: Mutex::default(),
        }
    }

    /// The next call of `save` that no earlier one speaks for fails and saves nothing.
    pub fn fail_next_save(&self, reason: &str) {
        self.state.lock().failures.push(reason.to_owned());
    }

    /// No further call of `save` fails.
    pub fn heal(&self) {
        self.state.lock().failures.clear();
    }

    /// Replaces the frontier, as a restored dump would.
    pub fn restore(&self, frontier: Frontier) {
        self.state.lock().frontier = frontier;
    }

    /// What is saved.
    pub fn saved(&self) -> Frontier {
        self.state.lock().frontier.clone()
    }
}

impl State {
    fn holds(&self, owner: &str, lease: &Lease) -> bool {
        self.epoch == lease.epoch
            && self
                .holder
                .as_ref()
                .is_some_and(|holder| holder.owner == owner)
    }
}

#[async_trait]
impl FrontierReader for MemoryRelayStore {
    async fn frontier(&self) -> Result<Frontier, LogError> {
        Ok(self.saved())
    }
}

#[async_trait]
impl RelayStore for MemoryRelayStore {
    async fn acquire(&self, owner: &str) -> Result<Option<Lease>, LogError> {
        let mut state = self.state.lock();
        let free = state.holder.as_ref().is_none_or(|holder| {
            holder.owner == owner || holder.renewed.elapsed() >= self.lifetime
        });
        if !free {
            return Ok(None);
        }
        state.epoch += 1;
        state.holder = Some(Holder {
            owner: owner.to_owned(),
            renewed: Instant::now(),
        });
        Ok(Some(Lease { epoch: state.epoch }))
    }

    async fn renew(&self, owner: &str, lease: &Lease) -> Result<bool, LogError> {
        let mut state = self.state.lock();
        let holds = state.holds(owner, lease);
        if let Some(holder) = state.holder.as_mut().filter(|_| holds) {
            holder.renewed = Instant::now();
        }
        Ok(holds)
    }

    async fn release(&self, owner: &str, lease: &Lease) -> Result<(), LogError> {
        let mut state = self.state.lock();
        if state.holds(owner, lease) {
            state.holder = None;
        }
        Ok(())
    }

    async fn save(&self, lease: &Lease, frontier: &Frontier) -> Result<bool, LogError> {
        let mut state = self.state.lock();
        if let Some(reason) = state.failures.pop() {
            return Err(LogError::Unavailable(reason));
        }
        let leads = state.epoch == lease.epoch && state.holder.is_some();
        if leads {
            state.frontier = frontier.clone();
        }
        Ok(leads)
    }

    async fn holder(&self) -> Result<Option<(String, i64, f64)>, LogError> {
        let state = self.state.lock();
        Ok(state.holder.as_ref().map(|holder| {
            let age = holder.renewed.elapsed().as_secs_f64();
            (holder.owner.clone(), state.epoch, age)
        }))
    }
}
