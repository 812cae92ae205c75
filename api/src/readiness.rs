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

/// How far a part of the program is that follows the event log.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PartFigures {
    /// The part, e.g. `relay` or `projection feed`.
    pub name: String,
    /// How it fares, in a word.
    pub state: String,
    /// The generation that it writes, of a projection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// How far it is.
    pub position: u64,
    /// How many events it is behind.
    pub lag_events: u64,
    /// For how long it is behind.
    pub lag_seconds: f64,
    /// Events a second in the last fifteen seconds; of analytics, put into files in the last five minutes.
    pub rate: f64,
    /// How many events are parked with it, of a projection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked: Option<u64>,
    /// How many sequences these are of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked_sequences: Option<u64>,
    /// What went wrong last, while it has not gone well since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Knows whether the program can serve.
#[async_trait]
pub trait Readiness: Send + Sync {
    /// Every part that is not ready; empty when all are.
    async fn not_ready(&self) -> Vec<NotReady>;

    /// How far each part is that follows the log; none in a program that follows none.
    fn figures(&self) -> Vec<PartFigures> {
        Vec::new()
    }
}
