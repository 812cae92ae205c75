//! `replay tail`.

use std::io::Write;

use clap::Args;
use socialhub_event_log::Position;
use tokio_util::sync::CancellationToken;

use crate::{ReplayError, ReplayTarget, Verdict, show};

/// How many events one read brings.
const READ_LIMIT: usize = 500;
/// How many events are shown when no position is given.
const LAST: u64 = 10;

/// Options of `tail`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Show what comes after this position; without it, the last 10 events
    #[arg(long)]
    after: Option<Position>,
    /// Go on showing new events as they come
    #[arg(long, short)]
    follow: bool,
    /// Print JSON, one line for each event
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(
    options: &Options,
    target: &ReplayTarget,
    out: &mut (dyn Write + Send),
    stop: CancellationToken,
) -> Result<Verdict, ReplayError> {
    let mut head = target.log.watch_head();
    let mut after = begin(options, target.log.head().await?)?;
    while !stop.is_cancelled() {
        head.mark_unchanged();
        let events = target.log.read_all(after, READ_LIMIT).await?;
        for event in &events {
            show::event(out, event, options.json)?;
            after = event.position;
        }
        out.flush()?;
        if !events.is_empty() {
            continue;
        }
        if !options.follow {
            break;
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = head.changed() => if changed.is_err() { break },
        }
    }
    Ok(Verdict::Clean)
}

/// The position after which to begin.
fn begin(options: &Options, head: Position) -> Result<Position, ReplayError> {
    match options.after {
        None => Ok(head.saturating_sub(LAST)),
        Some(after) if after <= head => Ok(after),
        Some(after) if options.follow => {
            eprintln!("The log ends at position {head}: waiting for what comes after {after}.");
            Ok(after)
        }
        Some(asked) => Err(ReplayError::PastTheHead { asked, head }),
    }
}
