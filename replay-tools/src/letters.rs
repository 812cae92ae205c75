//! `replay dead-letters`.

use std::{collections::HashSet, io::Write};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{json, value::RawValue};
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
    /// Show one: the event, why and since when it is set aside, and which events wait behind it
    Show {
        /// The read model's name
        name: String,
        /// The event's position
        position: Position,
        /// Print JSON
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
        /// Print JSON, one line for each event
        #[arg(long)]
        json: bool,
    },
    /// Forget one for good and apply what waits behind it: the model will differ from the log; the server must be stopped
    Discard {
        /// The read model's name
        name: String,
        /// The event's position
        position: Position,
        /// Really forget it
        #[arg(long)]
        yes: bool,
        /// Print JSON, one line for each event
        #[arg(long)]
        json: bool,
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
        Command::Show {
            name,
            position,
            json,
        } => show(&**target.model(&name)?, target, position, json, out).await,
        Command::Retry {
            name,
            position,
            json,
        } => {
            let model = target.model(&name)?;
            retry(&**model, target, position, &mut Said { out, json }).await
        }
        Command::Discard {
            name,
            position,
            yes,
            json,
        } => {
            let model = target.model(&name)?;
            if !yes {
                return Err(ReplayError::NotConfirmed("discarding an event"));
            }
            discard(&**model, target, position, &mut Said { out, json }).await
        }
    }
}

/// What became of a letter.
enum Fate {
    Discarded,
    Applied,
    StaysParked(String),
    StaysBehind,
}

/// Says what became of letters, one line each.
struct Said<'a> {
    out: &'a mut (dyn Write + Send),
    json: bool,
}

impl Said<'_> {
    fn say(
        &mut self,
        model: ModelName,
        position: Position,
        fate: &Fate,
    ) -> Result<(), ReplayError> {
        let (word, error) = match fate {
            Fate::Discarded => ("discarded", None),
            Fate::Applied => ("applied", None),
            Fate::StaysParked(error) => ("parked", Some(error)),
            Fate::StaysBehind => ("behind", None),
        };
        if self.json {
            let line =
                json!({ "model": model, "position": position, "outcome": word, "error": error });
            return show::json_line(self.out, &line);
        }
        let text = match fate {
            Fate::Discarded => format!("the event at position {position} was discarded."),
            Fate::Applied => format!("position {position} was applied."),
            Fate::StaysParked(error) => format!("position {position} stays parked: {error}"),
            Fate::StaysBehind => format!("position {position} stays behind an earlier one."),
        };
        Ok(writeln!(self.out, "{model}: {text}")?)
    }
}

/// A letter with everything there is to know about it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    #[serde(flatten)]
    letter: LetterView<'a>,
    /// The position of the letter before it in its sequence, if there is one.
    behind: Option<Position>,
    /// The positions of those that wait behind it.
    waiting: Vec<Position>,
}

async fn show(
    model: &dyn ModelControl,
    target: &ReplayTarget,
    position: Position,
    json: bool,
    out: &mut (dyn Write + Send),
) -> Result<Verdict, ReplayError> {
    let letters = model.letters().await?;
    let letter = parked_at(model, &letters, position)?;
    let sequence: Vec<Position> = sequence_of(letter, &letters)
        .map(|other| other.position)
        .collect();
    let shown = Shown {
        letter: view(model.name(), letter)?,
        behind: sequence.iter().rfind(|other| **other < position).copied(),
        waiting: sequence
            .iter()
            .filter(|other| **other > position)
            .copied()
            .collect(),
    };
    if json {
        show::json_line(out, &shown)?;
        return Ok(Verdict::Clean);
    }
    // The log has the event whole; a letter of another log has only what was kept with it.
    let recorded = target.log.read_all(position.saturating_sub(1), 1).await?;
    let recorded = recorded
        .into_iter()
        .find(|event| event.event_id == letter.event_id);
    match &recorded {
        Some(event) => show::event_with_data(out, event)?,
        None => writeln!(
            out,
            "the log does not hold event {} at position {position}; what was kept of it:\n{}",
            letter.event_id,
            show::pretty(&letter.raw)
        )?,
    }
    explain(&shown, out)?;
    Ok(Verdict::Clean)
}

fn explain(shown: &Shown<'_>, out: &mut (dyn Write + Send)) -> Result<(), ReplayError> {
    let letter = &shown.letter;
    let times = match letter.attempts {
        0 => "never tried".to_owned(),
        1 => "tried once".to_owned(),
        many => format!("tried {many} times"),
    };
    writeln!(
        out,
        "\nparked with {} since {}, {times}: {}",
        letter.model,
        show::time(letter.parked_at),
        letter.reason
    )?;
    writeln!(out, "its sequence is {} {}", letter.topic, letter.key)?;
    if let Some(behind) = shown.behind {
        writeln!(out, "it waits behind position {behind}")?;
    }
    match shown.waiting.as_slice() {
        [] => writeln!(out, "nothing waits behind it")?,
        waiting => {
            let waiting: Vec<String> = waiting.iter().map(ToString::to_string).collect();
            writeln!(out, "behind it wait positions {}", waiting.join(", "))?;
        }
    }
    Ok(())
}

fn parked_at<'a>(
    model: &dyn ModelControl,
    letters: &'a [ParkedLetter],
    position: Position,
) -> Result<&'a ParkedLetter, ReplayError> {
    letters
        .iter()
        .find(|letter| letter.position == position)
        .ok_or_else(|| ReplayError::NotParked {
            model: model.name(),
            position,
        })
}

/// The letters of a letter's sequence, itself included, by position.
fn sequence_of<'a>(
    letter: &'a ParkedLetter,
    letters: &'a [ParkedLetter],
) -> impl Iterator<Item = &'a ParkedLetter> {
    letters
        .iter()
        .filter(|other| other.topic == letter.topic && other.key == letter.key)
}

/// Forgets a letter. What waited behind it has nothing to wait for any more, unless an earlier one is there.
async fn discard(
    model: &dyn ModelControl,
    target: &ReplayTarget,
    position: Position,
    said: &mut Said<'_>,
) -> Result<Verdict, ReplayError> {
    let letters = model.letters().await?;
    let letter = parked_at(model, &letters, position)?;
    model.discard_letter(position).await?;
    said.say(model.name(), position, &Fate::Discarded)?;
    let mut verdict = Verdict::Clean;
    let mut blocked = sequence_of(letter, &letters).any(|other| other.position < position);
    for waiting in sequence_of(letter, &letters).filter(|other| other.position > position) {
        if blocked {
            said.say(model.name(), waiting.position, &Fate::StaysBehind)?;
        } else if apply(model, target, waiting.position, said).await? == Verdict::Wrong {
            (blocked, verdict) = (true, Verdict::Wrong);
        }
    }
    Ok(verdict)
}

/// Tries a letter again and says what became of it.
async fn apply(
    model: &dyn ModelControl,
    target: &ReplayTarget,
    position: Position,
    said: &mut Said<'_>,
) -> Result<Verdict, ReplayError> {
    let (fate, verdict) = match model.retry_letter(&target.log, position).await {
        Ok(()) => (Fate::Applied, Verdict::Clean),
        Err(error) => (Fate::StaysParked(error.to_string()), Verdict::Wrong),
    };
    said.say(model.name(), position, &fate)?;
    Ok(verdict)
}

fn view(model: ModelName, letter: &ParkedLetter) -> Result<LetterView<'_>, ReplayError> {
    Ok(LetterView {
        model,
        position: letter.position,
        event_id: letter.event_id,
        topic: &letter.topic,
        key: &letter.key,
        reason: &letter.reason,
        attempts: letter.attempts,
        parked_at: letter.parked_at,
        raw: show::raw(&letter.raw)?,
    })
}

fn print(
    model: ModelName,
    letter: &ParkedLetter,
    json: bool,
    out: &mut (dyn Write + Send),
) -> Result<(), ReplayError> {
    if json {
        return show::json_line(out, &view(model, letter)?);
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
    said: &mut Said<'_>,
) -> Result<Verdict, ReplayError> {
    let mut blocked = HashSet::new();
    let mut verdict = Verdict::Clean;
    let letters = model.letters().await?;
    if let Some(only) = only {
        parked_at(model, &letters, only)?;
    }
    for letter in letters {
        let position = letter.position;
        let sequence = (letter.topic, letter.key);
        if only.is_some_and(|only| only != position) {
            blocked.insert(sequence);
        } else if blocked.contains(&sequence) {
            said.say(model.name(), position, &Fate::StaysBehind)?;
            verdict = Verdict::Wrong;
        } else if apply(model, target, position, said).await? == Verdict::Wrong {
            blocked.insert(sequence);
            verdict = Verdict::Wrong;
        }
    }
    Ok(verdict)
}
