//! Where the relay keeps who leads and how far it is.
//!
//! Of several relay processes one publishes. Which one is a row, the lease: its holder renews it, and when it has not
//! done so for a while, by the clock of the store, another takes it over in a higher epoch. What the relay has published
//! is saved only in the epoch that holds the lease, so a leader that was away and does not know it yet changes nothing.

use async_trait::async_trait;

use crate::{
    frontier::{Frontier, FrontierReader},
    port::LogError,
};

/// The right to publish, until it is renewed too late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Rises with each change of the holder.
    pub epoch: i64,
}

/// The relay's own state beside the log.
///
/// `owner` names a process, not a machine: two processes must never go by the same name.
#[async_trait]
pub trait RelayStore: FrontierReader {
    /// Takes the lease when it is free or was not renewed in time; none while another holds it. A holder that asks again
    /// gets a new epoch: it may be a process that has begun anew.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn acquire(&self, owner: &str) -> Result<Option<Lease>, LogError>;

    /// Keeps the lease; `false` when it is lost.
    ///
    /// # Errors
    /// When the store cannot answer: the lease may have been renewed or not.
    async fn renew(&self, owner: &str, lease: &Lease) -> Result<bool, LogError>;

    /// Gives the lease back, so that another need not wait; does nothing when it is lost already.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn release(&self, owner: &str, lease: &Lease) -> Result<(), LogError>;

    /// Saves how far the relay has published; `false`, and nothing saved, when another leads.
    ///
    /// # Errors
    /// When the store cannot answer: the frontier may have been saved or not.
    async fn save(&self, lease: &Lease, frontier: &Frontier) -> Result<bool, LogError>;

    /// Who holds the lease, in which epoch, and how many seconds ago it was renewed; none when it is free.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn holder(&self) -> Result<Option<(String, i64, f64)>, LogError>;
}
