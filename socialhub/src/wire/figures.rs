//! What `replay status` finds out of generations and the relay, as metrics.

use std::{sync::Arc, time::Duration};

use socialhub_domain::Clock;
use socialhub_event_log::{EventLog, LogError, Position, RelayStatus, behind_for};
use socialhub_projections::runtime::{Generation, GenerationState, ModelControl, RebuildError};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Background;

/// How often it is looked at. Listing generations asks the store for their size.
const EVERY: Duration = Duration::from_secs(10);
/// How often the relay is: one read of the log, and only while it is behind.
const RELAY_EVERY: Duration = Duration::from_secs(1);

/// In each state there is one generation, or the newest counts: so the labels stay few however often a model is rebuilt.
const STATES: [GenerationState; 3] = [
    GenerationState::Current,
    GenerationState::Previous,
    GenerationState::Building,
];

/// What is looked at.
pub struct Figures {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The models to look at.
    pub models: Vec<Arc<dyn ModelControl>>,
    /// Its relay, if it has one.
    pub relay: Option<Arc<RelayStatus>>,
}

/// What the metrics say of a generation: zeros when there is none.
#[derive(Default)]
struct Row {
    generation: u32,
    position: Position,
    lag_events: u64,
    lag_seconds: f64,
    parked: u64,
    parked_sequences: u64,
    bytes: u64,
    has_writer: bool,
}

impl Figures {
    /// Publishes them beside everything else. A store that is long in answering holds up nothing but its own model.
    pub fn spawn(self, background: &mut Background) {
        let figures = Arc::new(self);
        for model in &figures.models {
            let (figures, model) = (Arc::clone(&figures), Arc::clone(model));
            let publish = async move {
                let mut ticks = ticking(EVERY);
                loop {
                    ticks.tick().await;
                    if let Err(error) = figures.look_at(&*model).await {
                        // Its projector says what is wrong; what was known stays.
                        tracing::debug!(model = %model.name(), %error, "the generations were not looked at");
                    }
                }
            };
            background.until_stopped(publish);
        }
        if let Some(relay) = figures.relay.clone() {
            background.until_stopped(async move {
                let mut ticks = ticking(RELAY_EVERY);
                loop {
                    ticks.tick().await;
                    figures.look_at_relay(&relay).await;
                }
            });
        }
    }

    async fn look_at(&self, model: &dyn ModelControl) -> Result<(), RebuildError> {
        let generations = model.generations().await?;
        let mut rows = Vec::new();
        for state in STATES {
            let in_state = generations.iter().filter(|found| found.state == state);
            let row = match in_state.max_by_key(|found| found.id) {
                Some(generation) => self.row(model, generation).await?,
                None => Row::default(),
            };
            rows.push((row, state));
        }
        // At once, so that nobody sees a switch half done.
        for (row, state) in rows {
            row.publish(model.name().0, state);
        }
        Ok(())
    }

    async fn row(
        &self,
        model: &dyn ModelControl,
        generation: &Generation,
    ) -> Result<Row, RebuildError> {
        let position = model.place(generation).await?;
        // Read after the position, so that nothing seems to be ahead of the log.
        let lag_events = self.log.head().await?.saturating_sub(position);
        Ok(Row {
            generation: generation.id.0,
            position,
            lag_events,
            lag_seconds: self.lag_seconds(position, lag_events).await?,
            parked: generation.parked,
            parked_sequences: model.parked_sequences(generation).await?,
            bytes: generation.bytes,
            has_writer: generation.has_writer,
        })
    }

    async fn lag_seconds(&self, position: Position, behind: u64) -> Result<f64, LogError> {
        match behind {
            0 => Ok(0.0),
            _ => behind_for(&*self.log, position, self.clock.now()).await,
        }
    }

    async fn look_at_relay(&self, relay: &RelayStatus) {
        let report = relay.report();
        // While the log cannot be read, the relay says so.
        if let Ok(seconds) = self.lag_seconds(report.position, report.lag_events).await {
            relay.behind_for(seconds);
        }
    }
}

fn ticking(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

impl Row {
    fn publish(&self, model: &'static str, state: GenerationState) {
        let state = state.to_string();
        let set = |name: &'static str, value: f64| {
            metrics::gauge!(name, "model" => model, "state" => state.clone()).set(value);
        };
        set("socialhub_generation", f64::from(self.generation));
        set("socialhub_generation_position", self.position as f64);
        set("socialhub_generation_lag_events", self.lag_events as f64);
        set("socialhub_generation_lag_seconds", self.lag_seconds);
        set("socialhub_generation_parked", self.parked as f64);
        set(
            "socialhub_generation_parked_sequences",
            self.parked_sequences as f64,
        );
        set("socialhub_generation_bytes", self.bytes as f64);
        let has_writer = if self.has_writer { 1.0 } else { 0.0 };
        set("socialhub_generation_has_writer", has_writer);
    }
}
