//! The port that `/readyz` asks.

use async_trait::async_trait;
use serde::Serialize;
use utoipa::ToSchema;

/// A part of the program that cannot do its work yet, or no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NotReady {
    /// The part, e.g. `event log` or `projection feed`.
    pub name: String,
    /// Why, in words for an operator; no secrets.
    pub reason: String,
}

/// Knows whether the program can serve.
#[async_trait]
pub trait Readiness: Send + Sync {
    /// Every part that is not ready; empty when all are.
    async fn not_ready(&self) -> Vec<NotReady>;
}
