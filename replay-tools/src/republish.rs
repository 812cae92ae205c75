//! `replay republish`.

use std::io::Write;

use clap::Args;
use serde_json::json;
use socialhub_event_log::{Position, divided_anew, rewind};

use crate::{ReplayError, ReplayTarget, Verdict, show};

/// Options of `republish`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Publish what comes after this position
    #[arg(long, value_name = "POSITION", default_value_t = 0)]
    from: Position,
    /// Really do it: readers of the topics get these events once more
    #[arg(long)]
    yes: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(
    options: &Options,
    target: &ReplayTarget,
    out: &mut (dyn Write + Send),
) -> Result<Verdict, ReplayError> {
    let relay = target.relay.as_ref().ok_or(ReplayError::NotPublished)?;
    if !options.yes {
        return Err(ReplayError::NotConfirmed("publishing events anew"));
    }
    let divided = divided_anew(&*relay.store, &*relay.publisher).await?;
    if divided {
        stopped(target).await?;
    }
    let rewound = rewind(
        &target.log,
        &*relay.store,
        &*relay.publisher,
        &relay.owner,
        options.from,
    )
    .await?;
    let head = target.log.head().await?;
    let from = rewound.frontier.position;
    let events = head.saturating_sub(from);
    if options.json {
        let line = json!({ "from": from, "head": head, "events": events, "emptied": rewound.emptied, "dividedAnew": divided });
        show::json_line(out, &line)?;
        return Ok(Verdict::Clean);
    }
    let records = if rewound.emptied {
        "The topics' records were removed"
    } else {
        "The topics keep their records"
    };
    writeln!(
        out,
        "{records}. The next relay publishes {events} events, from position {} to {head}; start it now.",
        from + 1
    )?;
    if divided {
        writeln!(
            out,
            "The topics have other numbers of partitions than before. Run `socialhub replay rebuild --all` before any \
             projector starts, and give the analytics consumer a new folder (docs/analytics.md)."
        )?;
    }
    Ok(Verdict::Clean)
}

/// A projector at work would read topics that are divided in another way under it.
async fn stopped(target: &ReplayTarget) -> Result<(), ReplayError> {
    for model in &target.models {
        let mut generations = model.generations().await?.into_iter();
        if generations.any(|generation| generation.has_writer) {
            return Err(ReplayError::Projecting(model.name()));
        }
    }
    Ok(())
}
