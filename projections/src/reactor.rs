//! Reactors: what acts on the world after a projection's commit. They are not projections: nothing replays them, and a
//! rebuild cannot be given one.

use async_trait::async_trait;

use crate::record::PublicRecord;

/// Acts on the world (a push to an open connection, removing a file) after a model has committed a record.
#[async_trait]
pub trait Reactor: Send + Sync {
    /// Told of records the live generation has committed, in order. At most once: what is lost in a crash is not
    /// repeated, so a reactor that must not miss anything also looks for itself at start.
    async fn react(&self, records: &[PublicRecord]);
}
