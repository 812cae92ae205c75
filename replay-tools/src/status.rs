//! `replay status`.

use std::io::Write;

use clap::Args;
use serde::Serialize;
use socialhub_domain::Timestamp;
use socialhub_event_log::Position;
use socialhub_projections::{
    GenerationId, ModelName,
    runtime::{Generation, GenerationState, ModelControl},
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
    fn new(generation: &Generation, head: Position) -> Self {
        let position = generation.position();
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
    let mut models = Vec::new();
    for model in &target.models {
        models.push((&**model, model.generations().await?));
    }
    // Read after the positions, so that no model seems to be ahead of the log.
    let head = target.log.head().await?;
    let view = StatusView {
        head,
        models: models
            .iter()
            .map(|(model, generations)| view(*model, generations, head))
            .collect(),
    };
    if options.json {
        show::json_line(out, &view)?;
    } else {
        print(&view, out)?;
    }
    Ok(Verdict::Clean)
}

fn view(model: &dyn ModelControl, generations: &[Generation], head: Position) -> ModelView {
    ModelView {
        model: model.name(),
        generations: generations
            .iter()
            .map(|generation| GenerationView::new(generation, head))
            .collect(),
    }
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
