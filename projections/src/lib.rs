//! The read side: what each read model makes of an event, the runtime that feeds events to them, and the ports their
//! stores implement.
//!
//! A projection is a pure function from a public event to changes of its own tables ([`Projection`]); its store
//! ([`ReadModelStore`]) writes a batch of changes and the checkpoint in one atomic step; the [`runtime`] decides what is
//! delivered, parked and retried. Reactors, which act on the world, are another trait and have no way into rebuilds.
//! This crate must never import a driver, a web framework, or the write side (`commands`).

pub mod analytics;
pub mod counters;
pub mod feed;
pub mod notifications;
pub mod page;
pub mod projection;
pub mod reactor;
pub mod record;
pub mod runtime;
pub mod status;
pub mod store;
pub mod verify;

pub use page::{Page, PageRequest};
pub use projection::Projection;
pub use record::PublicRecord;
pub use status::{Freshness, ModelPosition, ProjectionStatus, ProjectorState, StatusReport};
pub use store::{
    Checkpoint, GenerationId, ModelName, ParkedLetter, ReadError, ReadModelStore, Source,
    StoreError, source_position,
};
