//! `replay dead-letters`.

use std::{collections::HashSet, io::Write};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::value::RawValue;
use socialhub_domain::Timestamp;
use socialhub_event_log::Position;
use socialhub_projections::{ModelName, ParkedLetter, runtime::ModelControl};
use uuid::Uuid;

use crate::{ReplayError, ReplayTarget, Selection, Verdict, show};

/// Options of `dead-letters`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the events that were set aside, with the reason
    List {
        #[command(flatten)]
        selection: Selection,
        /// Print JSON, one line for each event
        #[arg(long)]
        json: bool,
    },
    /// Apply them again, in order; the server must be stopped
    Retry {
        /// The read model's name
        name: String,
        /// Only the event at this position
        #[arg(long)]
        position: Option<Position>,
    },
    /// Forget one for good: the model will differ from the log; the server must be stopped
    Discard {
        /// The read model's name
        name: String,
        /// The event's position
        position: Position,
        /// Really forget it
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LetterView<'a> {
    model: ModelName,
    position: Position,
    event_id: Uuid,
    topic: &'a str,
    key: &'a str,
    reason: &'a str,
    attempts: u32,
    parked_at: Timestamp,
    raw: Box<RawValue>,
}

pub(crate) async fn run(
    options: Options,
    target: &ReplayTarget,
    out: &mut (dyn Write + Send),
) -> Result<Verdict, ReplayError> {
    match options.command {
        Command::List { selection, json } => {
            for model in target.select(&selection)? {
                for letter in model.letters().await? {
                    print(model.name(), &letter, json, out)?;
                }
            }
            Ok(Verdict::Clean)
        }
        Command::Retry { name, position } => {
            retry(&**target.model(&name)?, target, position, out).await
        }
        Command::Discard {
            name,
            position,
            yes,
        } => {
            let model = target.model(&name)?;
            if !yes {
                return Err(ReplayError::NotConfirmed("discarding an event"));
            }
            model.discard_letter(position).await?;
            writeln!(
                out,
                "{name}: the event at position {position} was discarded."
            )?;
            Ok(Verdict::Clean)
        }
    }
}

fn print(
    model: ModelName,
    letter: &ParkedLetter,
    json: bool,
    out: &mut (dyn Write + Send),
) -> Result<(), ReplayError> {
    if json {
        let view = LetterView {
            model,
            position: letter.position,
            event_id: letter.event_id,
            topic: &letter.topic,
            key: &letter.key,
            reason: &letter.reason,
            attempts: letter.attempts,
            parked_at: letter.parked_at,
            raw: show::raw(&letter.raw)?,
        };
        return show::json_line(out, &view);
    }
    Ok(writeln!(
        out,
        "{model}: position {}, {} {}, parked {} after {} attempts: {}\n  {}",
        letter.position,
        letter.topic,
        letter.key,
        show::time(letter.parked_at),
        letter.attempts,
        letter.reason,
        letter.raw,
    )?)
}

/// In order of position; when one of a sequence fails again, the later ones of that sequence stay behind it.
async fn retry(
    model: &dyn ModelControl,
    target: &ReplayTarget,
    only: Option<Position>,
    out: &mut (dyn Write + Send),
) -> Result<Verdict, ReplayError> {
    let mut blocked = HashSet::new();
    let mut verdict = Verdict::Clean;
    for letter in model.letters().await? {
        if only.is_some_and(|only| only != letter.position) {
            blocked.insert((letter.topic, letter.key));
            continue;
        }
        let position = letter.position;
        let sequence = (letter.topic, letter.key);
        if blocked.contains(&sequence) {
            writeln!(
                out,
                "{}: position {position} stays behind an earlier one.",
                model.name()
            )?;
            verdict = Verdict::Wrong;
            continue;
        }
        match model.retry_letter(&target.log, position).await {
            Ok(()) => writeln!(out, "{}: position {position} was applied.", model.name())?,
            Err(error) => {
                writeln!(
                    out,
                    "{}: position {position} stays parked: {error}",
                    model.name()
                )?;
                blocked.insert(sequence);
                verdict = Verdict::Wrong;
            }
        }
    }
    Ok(verdict)
}
