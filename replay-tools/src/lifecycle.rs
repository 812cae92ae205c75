//! `replay rollback` and `replay prune`.

use std::io::Write;

use clap::Args;
use serde_json::json;
use socialhub_projections::GenerationId;
use tokio_util::sync::CancellationToken;

use crate::{
    ReplayError, ReplayTarget, Selection, Verdict,
    rebuild::{Begun, Room, report, verdict},
    show,
};

/// Options of `rollback`.
#[derive(Debug, Args)]
pub(crate) struct RollbackOptions {
    #[command(flatten)]
    selection: Selection,
    /// The previous generation to go back to, where there are several
    #[arg(long, value_name = "GENERATION", requires = "name")]
    to: Option<u32>,
    #[command(flatten)]
    room: Room,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// Options of `prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneOptions {
    #[command(flatten)]
    selection: Selection,
    /// Really remove them
    #[arg(long)]
    yes: bool,
    /// Print JSON, one line for each model
    #[arg(long)]
    json: bool,
}

pub(crate) async fn roll_back(
    options: &RollbackOptions,
    target: &ReplayTarget,
    out: &mut (dyn Write + Send),
    stop: CancellationToken,
) -> Result<Verdict, ReplayError> {
    let mut begun = Begun::default();
    for model in target.select(&options.selection)? {
        let rollback = model.begin_rollback(&target.log, options.to.map(GenerationId));
        begun.add(model.name(), rollback.await);
    }
    let outcomes = begun.fill(target, options.room.pace(), stop).await;
    report(&outcomes, options.json, out)?;
    Ok(verdict(&outcomes))
}

pub(crate) async fn prune(
    options: &PruneOptions,
    target: &ReplayTarget,
    out: &mut (dyn Write + Send),
) -> Result<Verdict, ReplayError> {
    let models = target.select(&options.selection)?;
    if !options.yes {
        return Err(ReplayError::NotConfirmed("prune"));
    }
    let mut verdict = Verdict::Clean;
    for model in models {
        let dropped = match model.prune().await {
            Ok(dropped) => dropped,
            Err(error) => {
                // The other models are still worth it.
                show::cannot(out, model.name(), "pruned", &error, options.json)?;
                verdict = Verdict::Wrong;
                continue;
            }
        };
        match dropped.as_slice() {
            dropped if options.json => {
                let line = json!({ "model": model.name(), "removed": dropped });
                show::json_line(out, &line)?;
            }
            [] => writeln!(out, "{}: nothing to remove.", model.name())?,
            dropped => {
                for generation in dropped {
                    writeln!(
                        out,
                        "{}: generation {generation} was removed.",
                        model.name()
                    )?;
                }
            }
        }
    }
    Ok(verdict)
}
