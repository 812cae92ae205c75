//! A model that is missing from Redis is filled from the log, without anybody asking for it.

use std::{sync::Arc, time::Duration};

use socialhub_domain::Clock;
use socialhub_event_log::{EventLog, FrontierReader, Position};
use socialhub_projections::{
    GenerationId, ModelName, StoreError,
    counters::Counters,
    runtime::{Filler, Filling, Generations, Pace, Progress, RebuildError, rebuild::rebuild},
};
use tokio_util::sync::CancellationToken;

use super::RedisGenerations;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The log's lines tell how it goes.
struct Quiet;

impl Progress for Quiet {
    fn began(&self, model: ModelName, generation: GenerationId, _: Position, to: Position) {
        tracing::info!(%model, %generation, to, "a missing model is filled from the log");
    }

    fn moved(&self, _: ModelName, _: Position, _: Position) {}

    fn ended(&self, _: ModelName) {}
}

/// Fills the counters from the log whenever Redis holds none: at the first start, and after it was emptied. Runs until
/// `stop` is cancelled, in every process that projects them; one of them does the work.
pub async fn keep_filled(
    generations: Arc<RedisGenerations>,
    log: Arc<dyn EventLog>,
    frontier: Arc<dyn FrontierReader>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let mut told = None;
    while !stop.is_cancelled() {
        // An outage is the projector's to report.
        if let Ok(true) = generations.needs_filling().await {
            match fill(&generations, &log, &frontier, &clock, &stop).await {
                Ok(()) | Err(RebuildError::AlreadyRunning(_) | RebuildError::Interrupted) => {}
                Err(error) => {
                    let error = error.to_string();
                    if told.as_ref() != Some(&error) {
                        tracing::warn!(
                            error,
                            "the counters are missing from Redis and could not be filled; trying again"
                        );
                    }
                    told = Some(error);
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn fill(
    generations: &Arc<RedisGenerations>,
    log: &Arc<dyn EventLog>,
    frontier: &Arc<dyn FrontierReader>,
    clock: &Arc<dyn Clock>,
    stop: &CancellationToken,
) -> Result<(), RebuildError> {
    let port = Arc::clone(generations) as Arc<dyn Generations<Counters>>;
    let frontier = Some(Arc::clone(frontier));
    let filler = Filler::begin(port, Arc::clone(log), frontier, Arc::clone(clock)).await?;
    if !generations.needs_filling().await? {
        // Another process was quicker.
        Box::new(filler).leave().await;
        return Ok(());
    }
    let filling: Vec<Box<dyn Filling>> = vec![Box::new(filler)];
    let outcomes = rebuild(log, filling, Pace::Gentle, Arc::new(Quiet), stop.clone()).await;
    match outcomes.into_iter().next() {
        Some((_, outcome)) => outcome.map(|report| {
            tracing::info!(
                generation = %report.generation,
                position = report.position,
                seconds = report.seconds,
                "the counters are in Redis again"
            );
        }),
        None => Err(StoreError::Unavailable("nothing was filled".to_owned()).into()),
    }
}
