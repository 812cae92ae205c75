//! The REST API: handlers that translate between HTTP and the use cases of `commands` and the readers of
//! `projections`.
//!
//! Handlers decide nothing: rules live in `domain`, use cases in `commands`. Every route is a file in
//! `routes/<service>/`; [`mod@router`] mounts each on its gateway path and its service path. One layer around all of them
//! (`edge`) does what every answer needs. This crate must never import a driver.
//!
//! # How to add a route
//! Write the handler with its `#[utoipa::path]` in `routes/<service>/<verb>.rs`, name it in that service's `mount`, and
//! accept the changed snapshot of the OpenAPI document.

pub mod address;
mod cors;
mod edge;
pub mod error;
mod extract;
mod firehose;
mod limits;
pub mod media;
mod metrics;
pub mod openapi;
pub mod readiness;
pub mod recent;
mod respond;
pub mod router;
mod routes;
pub mod service;
pub mod settings;
mod sign;
pub mod state;
mod stream;
#[cfg(test)]
mod tests;
mod views;

pub use address::TrustedProxies;
pub use error::ApiError;
pub use limits::{Allowance, LimitsUnavailable, SharedLimits};
pub use media::{ByteRange, MediaError, MediaReader, OpenMedia};
pub use openapi::document;
pub use readiness::{NotReady, Readiness};
pub use recent::{LastWrites, RecentWrites};
pub use router::{operations, router, router_with};
pub use service::{Service, UnknownService};
pub use settings::{Rate, RateLimits, Settings};
pub use state::{ApiState, Positions};
