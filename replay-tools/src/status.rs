//! `replay status`.

use std::io::Write;

use clap::Args;
use serde::Serialize;
use socialhub_domain::Timestamp;
use socialhub_event_log::Position;
use socialhub_projections::{
    GenerationId, ModelName,
    runtime::{Generation, GenerationState, ModelControl, RebuildError},
};

use crate::{ReplayError, ReplayTarget, Verdict, show};

/// Options of `status`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusView {
    head: Position,
    models: Vec<ModelView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ModelView {
    model: ModelName,
    generations: Vec<GenerationView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GenerationView {
    generation: GenerationId,
    state: GenerationState,
    created_at: Timestamp,
    position: Position,
    lag_events: u64,
    parked: u64,
    has_writer: bool,
    bytes: u64,
}

impl GenerationView {
    fn new(generation: &Generation, position: Position, head: Position) -> Self {
        Self {
            generation: generation.id,
            state: generation.state,
            created_at: generation.created_at,
            position,
            lag_events: head.saturating_sub(position),
            parked: generation.parked,
            has_writer: generation.has_writer,
            bytes: generation.bytes,
        }
    }

    /// What is going on with it, in words.
    fn activity(&self) -> &'static str {
        match (self.state, self.has_writer) {
            (GenerationState::Current, true) => "running",
            (GenerationState::Current, false) => "not running",
            (GenerationState::Building, true) => "being filled",
            (GenerationState::Building, false) => "left half-built; rebuild goes on with it",
            (GenerationState::Previous, true) => "being caught up",
            (GenerationState::Previous, false) => "kept for rollback",
        }
    }
}

pub(crate) async fn run(
    options: &Options,
    target: &ReplayTarget,
    out: &mut (dyn Write + Send),
) -> Result<Verdict, ReplayError> {
    let mut found = Vec::new();
    for model in &target.models {
        found.push((model.name(), places(&**model).await?));
    }
    // Read after the positions, so that no model seems to be ahead of the log.
    let head = target.log.head().await?;
    let models = found.iter().map(|(model, places)| ModelView {
        model: *model,
        generations: places
            .iter()
            .map(|(generation, position)| GenerationView::new(generation, *position, head))
            .collect(),
    });
    let view = StatusView {
        head,
        models: models.collect(),
    };
    if options.json {
        show::json_line(out, &view)?;
    } else {
        print(&view, out)?;
    }
    Ok(Verdict::Clean)
}

async fn places(model: &dyn ModelControl) -> Result<Vec<(Generation, Position)>, RebuildError> {
    let mut places = Vec::new();
    for generation in model.generations().await? {
        let position = model.place(&generation).await?;
        places.push((generation, position));
    }
    Ok(places)
}

fn print(view: &StatusView, out: &mut (dyn Write + Send)) -> Result<(), ReplayError> {
    writeln!(out, "The log is at position {}.\n", view.head)?;
    writeln!(
        out,
        "{:<14} {:>3}  {:<9} {:>10} {:>8} {:>7} {:>10}  activity",
        "model", "gen", "state", "position", "behind", "parked", "size"
    )?;
    for model in &view.models {
        for generation in &model.generations {
            writeln!(
                out,
                "{:<14} {:>3}  {:<9} {:>10} {:>8} {:>7} {:>10}  {}",
                model.model.0,
                generation.generation.0,
                generation.state.to_string(),
                generation.position,
                generation.lag_events,
                generation.parked,
                show::size(generation.bytes),
                generation.activity(),
            )?;
        }
    }
    Ok(())
}
