//! MongoDB adapters: the notifications read model.
//!
//! Written for what MongoDB and FerretDB 1.24 both do: no transactions, no change streams, and nothing that leans on an
//! update being atomic. Only an insert under a unique `_id` is, on both, so everything that several processes may write at
//! once is an insert that finds out whether it was the first. Whatever else a document says is derived from such facts by
//! whoever wrote last (`docs/decisions/0008-notifications-on-mongodb.md`).
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use socialhub_domain::Clock;
//! # use socialhub_infra::mongo::{MongoGenerations, MongoNotificationReader, replay_model};
//! # async fn wire(clock: Arc<dyn Clock>) -> Result<(), socialhub_infra::mongo::MongoAddressError> {
//! // Connects when it is first needed: the process starts while the server is away.
//! let generations = MongoGenerations::open("mongodb://127.0.0.1:27017/", "socialhub", clock).await?;
//! let reader = MongoNotificationReader::new(Arc::clone(&generations));
//! let control = replay_model(generations);
//! # let _ = (reader, control);
//! # Ok(())
//! # }
//! ```

mod access;
mod catalogue;
mod connection;
mod fence;
mod generations;
mod notifications;
mod sizes;

use std::sync::Arc;

use socialhub_projections::{
    notifications::{NotificationFold, Notifications},
    runtime::{Control, ModelControl},
};

pub use self::{
    connection::MongoAddressError, generations::MongoGenerations,
    notifications::MongoNotificationReader,
};

/// The model under the replay command line.
pub fn replay_model(generations: Arc<MongoGenerations>) -> Arc<dyn ModelControl> {
    let clock = generations.clock();
    Arc::new(Control::<Notifications, NotificationFold>::new(
        generations,
        clock,
    ))
}
