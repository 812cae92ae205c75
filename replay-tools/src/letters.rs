//! `replay dead-letters`.

use std::{collections::HashSet, io::Write, sync::Arc};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{json, value::RawValue};
use socialhub_domain::{EventData, Timestamp, event::UserErased};
use socialhub_event_log::{EventLog, Position, RecordedEvent};
use socialhub_projections::{ModelName, ParkedLetter, record::SequenceKey, runtime::ModelControl};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{ReplayError, ReplayTarget, Selection, Verdict, reading, show};

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
    /// Apply them again, in order; on SQLite the server must be stopped
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
    /// Forget one for good and apply what waits behind it: the model will differ from the log; on SQLite the server must be
    /// stopped
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

async fn list(
    selection: &Selection,
    target: &ReplayTarget,
    json: bool,
    out: &mut (dyn Write + Send),
) -> Result<Verdict, ReplayError> {
    let mut verdict = Verdict::Clean;
    for model in target.select(selection)? {
        match model.letters().await {
            Ok(letters) => {
                for letter in letters {
                    print(model.name(), &letter, json, out)?;
                }
            }
            Err(error) => {
                // The other models are still worth a look.
                show::cannot(out, model.name(), "read", &error, json)?;
                verdict = Verdict::Wrong;
            }
        }
    }
    Ok(verdict)
}

pub(crate) async fn run(
    options: Options,
    target: &ReplayTarget,
    out: &mut (dyn Write + Send),
    stop: &CancellationToken,
) -> Result<Verdict, ReplayError> {
    match options.command {
        Command::List { selection, json } => {
            reading(stop, list(&selection, target, json, out)).await
        }
        Command::Show {
            name,
            position,
            json,
        } => {
            let model = target.model(&name)?;
            reading(stop, show(&**model, target, position, json, out)).await
        }
        Command::Retry {
            name,
            position,
            json,
        } => {
            let model = target.model(&name)?;
            retry(
                &**model,
                &target.log,
                position,
                stop,
                &mut Said { out, json },
            )
            .await
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
            discard(
                &**model,
                &target.log,
                position,
                stop,
                &mut Said { out, json },
            )
            .await
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
    log: &Arc<dyn EventLog>,
    position: Position,
    stop: &CancellationToken,
    said: &mut Said<'_>,
) -> Result<Verdict, ReplayError> {
    let letters = model.letters().await?;
    let letter = parked_at(model, &letters, position)?;
    let events = log.read_all(position.saturating_sub(1), 1).await?;
    let erases =
        |event: &RecordedEvent| event.position == position && event.event_type == UserErased::TYPE;
    if events.iter().any(erases) {
        return Err(ReplayError::Erasure {
            model: model.name(),
            position,
        });
    }
    model.discard_letter(position).await?;
    said.say(model.name(), position, &Fate::Discarded)?;
    if sequence_of(letter, &letters).any(|other| other.position < position) {
        for waiting in sequence_of(letter, &letters).filter(|other| other.position > position) {
            said.say(model.name(), waiting.position, &Fate::StaysBehind)?;
        }
        return Ok(Verdict::Clean);
    }
    let behind = Some(HashSet::from([letter.sequence()]));
    let applied = apply_all(model, log, behind, stop, said).await;
    applied.map_err(|error| {
        let reason = match error {
            ReplayError::Log(error) => error.to_string(),
            ReplayError::Model(error) => error.to_string(),
            ReplayError::LettersLeft(_) => "interrupted".to_owned(),
            other => return other,
        };
        ReplayError::DiscardedAlone {
            model: model.name(),
            position,
            reason,
        }
    })
}

/// Tries a letter again and says what became of it.
async fn apply(
    model: &dyn ModelControl,
    log: &Arc<dyn EventLog>,
    position: Position,
    said: &mut Said<'_>,
) -> Result<Verdict, ReplayError> {
    let (fate, verdict) = match model.retry_letter(log, position).await {
        Ok(()) => (Fate::Applied, Verdict::Clean),
        Err(error) => {
            // Where nobody answers, it says nothing of this letter, and the next one would fare no better.
            let letters = model.letters().await?;
            log.head().await?;
            // A projector was quicker.
            if !letters.iter().any(|letter| letter.position == position) {
                said.say(model.name(), position, &Fate::Applied)?;
                return Ok(Verdict::Clean);
            }
            (Fate::StaysParked(error.to_string()), Verdict::Wrong)
        }
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

/// All of them, or only one, which must be the first of its sequence.
async fn retry(
    model: &dyn ModelControl,
    log: &Arc<dyn EventLog>,
    only: Option<Position>,
    stop: &CancellationToken,
    said: &mut Said<'_>,
) -> Result<Verdict, ReplayError> {
    let Some(only) = only else {
        return apply_all(model, log, None, stop, said).await;
    };
    let letters = model.letters().await?;
    let letter = parked_at(model, &letters, only)?;
    if sequence_of(letter, &letters).any(|other| other.position < only) {
        said.say(model.name(), only, &Fate::StaysBehind)?;
        return Ok(Verdict::Wrong);
    }
    apply(model, log, only, said).await
}

/// Applies the letters of some sequences, or of all, in order of position; when one of a sequence fails again, the later
/// ones of that sequence stay behind it. A projector that runs meanwhile parks what comes behind a letter that it still
/// knows of: so what was touched is read again until nothing is left of it that waits for nothing.
async fn apply_all(
    model: &dyn ModelControl,
    log: &Arc<dyn EventLog>,
    mut wanted: Option<HashSet<SequenceKey>>,
    stop: &CancellationToken,
    said: &mut Said<'_>,
) -> Result<Verdict, ReplayError> {
    let mut verdict = Verdict::Clean;
    loop {
        let (mut touched, mut blocked) = (HashSet::new(), HashSet::new());
        for letter in model.letters().await? {
            let sequence = letter.sequence();
            let is_wanted = |wanted: &HashSet<SequenceKey>| wanted.contains(&sequence);
            if !wanted.as_ref().is_none_or(is_wanted) {
                continue;
            }
            // Those that were applied stay so; the next retry goes on.
            if stop.is_cancelled() {
                return Err(ReplayError::LettersLeft(model.name()));
            }
            if blocked.contains(&sequence) {
                said.say(model.name(), letter.position, &Fate::StaysBehind)?;
            } else if apply(model, log, letter.position, said).await? == Verdict::Wrong {
                verdict = Verdict::Wrong;
                touched.remove(&sequence);
                blocked.insert(sequence);
            } else {
                touched.insert(sequence);
            }
        }
        if touched.is_empty() {
            return Ok(verdict);
        }
        wanted = Some(touched);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{
            Mutex,
            atomic::{AtomicBool, Ordering},
        },
    };

    use async_trait::async_trait;
    use socialhub_domain::{StreamId, UserId, testing::id};
    use socialhub_event_log::{Append, MemoryEventLog, Metadata, NewEvent};
    use socialhub_projections::{
        GenerationId, StoreError,
        runtime::{Filling, Generation, Progress, RebuildError, VerifyCourse, VerifyReport},
    };
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// A model whose projector parks a letter while another is applied.
    #[derive(Default)]
    struct Busy {
        letters: Mutex<BTreeMap<Position, &'static str>>,
        /// What is parked, and where, while the letter at a position is applied.
        arriving: BTreeMap<Position, (Position, &'static str)>,
        failing: Vec<Position>,
        /// The letter at whose turn the store goes away.
        away_at: Option<Position>,
        /// The letter at whose turn somebody interrupts.
        interrupted_at: Option<Position>,
        stop: CancellationToken,
        is_away: AtomicBool,
    }

    fn away() -> RebuildError {
        StoreError::Unavailable("gone".to_owned()).into()
    }

    impl Busy {
        fn left(&self) -> Vec<Position> {
            self.letters.lock().unwrap().keys().copied().collect()
        }
    }

    #[async_trait]
    impl ModelControl for Busy {
        fn name(&self) -> ModelName {
            ModelName("feed")
        }

        async fn letters_of(&self, _: GenerationId) -> Result<Vec<ParkedLetter>, RebuildError> {
            self.letters().await
        }

        async fn letters(&self) -> Result<Vec<ParkedLetter>, RebuildError> {
            if self.is_away.load(Ordering::Relaxed) {
                return Err(away());
            }
            let letters = self.letters.lock().unwrap();
            let letters = letters.iter().map(|(position, key)| ParkedLetter {
                position: *position,
                event_id: id(u128::from(*position)),
                topic: "POST_TOPIC".to_owned(),
                key: (*key).to_owned(),
                raw: "{}".to_owned(),
                reason: "not now".to_owned(),
                attempts: 1,
                parked_at: Timestamp(0),
            });
            Ok(letters.collect())
        }

        async fn retry_letter(
            &self,
            _: &Arc<dyn EventLog>,
            position: Position,
        ) -> Result<(), RebuildError> {
            if self.away_at == Some(position) {
                self.is_away.store(true, Ordering::Relaxed);
                return Err(away());
            }
            if self.interrupted_at == Some(position) {
                self.stop.cancel();
            }
            let mut letters = self.letters.lock().unwrap();
            if let Some((at, key)) = self.arriving.get(&position) {
                letters.insert(*at, *key);
            }
            if self.failing.contains(&position) {
                return Err(RebuildError::Interrupted);
            }
            letters.remove(&position);
            Ok(())
        }

        async fn discard_letter(&self, position: Position) -> Result<(), RebuildError> {
            self.letters.lock().unwrap().remove(&position);
            Ok(())
        }

        async fn generations(&self) -> Result<Vec<Generation>, RebuildError> {
            unreachable!()
        }

        async fn place(&self, _: &Generation) -> Result<Position, RebuildError> {
            unreachable!()
        }

        async fn begin_rebuild(
            &self,
            _: &Arc<dyn EventLog>,
        ) -> Result<Box<dyn Filling>, RebuildError> {
            unreachable!()
        }

        async fn begin_rollback(
            &self,
            _: &Arc<dyn EventLog>,
            _: Option<GenerationId>,
        ) -> Result<Box<dyn Filling>, RebuildError> {
            unreachable!()
        }

        async fn prune(&self) -> Result<Vec<GenerationId>, RebuildError> {
            unreachable!()
        }

        async fn sweep(&self) -> Result<(), RebuildError> {
            unreachable!()
        }

        async fn verify(
            &self,
            _: &Arc<dyn EventLog>,
            _: &VerifyCourse,
        ) -> Result<VerifyReport, RebuildError> {
            unreachable!()
        }

        async fn repair(
            &self,
            _: &Arc<dyn EventLog>,
            _: &VerifyReport,
            _: &dyn Progress,
            _: &CancellationToken,
        ) -> Result<(), RebuildError> {
            unreachable!()
        }

        async fn fill(
            &self,
            _: &Arc<dyn EventLog>,
            _: Position,
            _: &dyn Progress,
            _: &CancellationToken,
        ) -> Result<(), RebuildError> {
            unreachable!()
        }
    }

    /// What became of letters; `discarded` is one that is discarded, else all are tried again.
    async fn outcome(model: &Busy, discarded: Option<Position>) -> (Verdict, Vec<String>) {
        let log: Arc<dyn EventLog> = Arc::new(MemoryEventLog::new());
        let mut out = Vec::new();
        let mut said = Said {
            out: &mut out,
            json: false,
        };
        let verdict = match discarded {
            Some(position) => discard(model, &log, position, &model.stop, &mut said).await,
            None => retry(model, &log, None, &model.stop, &mut said).await,
        };
        let said = String::from_utf8(out).unwrap();
        let words = |line: &str| {
            let numbers = line.split(|c: char| !c.is_ascii_digit());
            let position = numbers.into_iter().find(|word| !word.is_empty());
            let word = ["applied", "discarded", "stays parked", "stays behind"];
            let word = word.into_iter().find(|word| line.contains(word));
            format!("{} {}", position.unwrap(), word.unwrap())
        };
        (verdict.unwrap(), said.lines().map(words).collect())
    }

    #[tokio::test]
    async fn what_is_parked_meanwhile_behind_what_was_applied_is_applied_too() {
        let model = Busy {
            letters: Mutex::new(BTreeMap::from([(1, "a"), (2, "a"), (3, "b")])),
            // Behind the first of its sequence, then behind that, and behind one that fails.
            arriving: BTreeMap::from([(1, (7, "a")), (7, (8, "a")), (3, (9, "b"))]),
            failing: vec![3],
            ..Busy::default()
        };
        let (verdict, said) = outcome(&model, None).await;
        assert_eq!(
            said,
            [
                "1 applied",
                "2 applied",
                "3 stays parked",
                "7 applied",
                "8 applied"
            ]
        );
        assert_eq!(verdict, Verdict::Wrong);
        assert_eq!(model.left(), [3, 9]);
    }

    #[tokio::test]
    async fn what_is_parked_meanwhile_behind_what_was_discarded_is_applied_too() {
        let model = Busy {
            letters: Mutex::new(BTreeMap::from([(1, "a"), (2, "a"), (3, "b")])),
            arriving: BTreeMap::from([(2, (7, "a"))]),
            ..Busy::default()
        };
        let (verdict, said) = outcome(&model, Some(1)).await;
        assert_eq!(said, ["1 discarded", "2 applied", "7 applied"]);
        assert_eq!(verdict, Verdict::Clean);
        assert_eq!(model.left(), [3]);
    }

    #[tokio::test]
    async fn a_store_that_goes_away_is_no_letters_fault() {
        let busy = || Busy {
            letters: Mutex::new(BTreeMap::from([(1, "a"), (2, "a"), (3, "b")])),
            away_at: Some(2),
            ..Busy::default()
        };
        let log: Arc<dyn EventLog> = Arc::new(MemoryEventLog::new());
        let model = busy();
        let mut out = Vec::new();
        let mut said = Said {
            out: &mut out,
            json: false,
        };
        let failed = retry(&model, &log, None, &model.stop, &mut said)
            .await
            .unwrap_err();
        assert!(failed.to_string().contains("run the same command again"));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "feed: position 1 was applied.\n"
        );
        assert_eq!(model.left(), [2, 3]);

        // The same command would not find the letter any more.
        let model = busy();
        let mut said = Said {
            out: &mut Vec::new(),
            json: false,
        };
        let failed = discard(&model, &log, 1, &model.stop, &mut said)
            .await
            .unwrap_err();
        let said = failed.to_string();
        assert!(
            said.contains("run `socialhub replay dead-letters retry feed`"),
            "{said}"
        );
        assert!(!said.contains("same command"), "{said}");
        assert_eq!(model.left(), [2, 3]);
    }

    #[tokio::test]
    async fn whoever_is_interrupted_leaves_letters_to_the_next_one() {
        let busy = |interrupted_at| Busy {
            letters: Mutex::new(BTreeMap::from([(1, "a"), (2, "a"), (3, "a")])),
            interrupted_at: Some(interrupted_at),
            ..Busy::default()
        };
        let log: Arc<dyn EventLog> = Arc::new(MemoryEventLog::new());
        let mut said = Said {
            out: &mut Vec::new(),
            json: false,
        };
        let retried = busy(1);
        let left = retry(&retried, &log, None, &retried.stop, &mut said).await;
        assert!(matches!(left, Err(ReplayError::LettersLeft(_))));
        assert_eq!(retried.left(), [2, 3]);

        let discarded = busy(2);
        let left = discard(&discarded, &log, 1, &discarded.stop, &mut said).await;
        assert!(matches!(
            left,
            Err(ReplayError::DiscardedAlone { position: 1, .. })
        ));
        assert_eq!(discarded.left(), [3]);
    }

    #[tokio::test]
    async fn an_erasure_is_not_discarded() {
        let user_id = UserId(id(1));
        let erased = UserErased {
            user_id,
            timestamp: Timestamp(1),
        };
        let log = MemoryEventLog::new();
        let append = Append {
            command_id: id(2),
            stream: StreamId::new("user", user_id),
            expected_version: 0,
            events: vec![NewEvent {
                event_id: id(3),
                event: erased.into(),
                payload: None,
            }],
            metadata: Metadata::default(),
            side: Vec::new(),
        };
        log.append(append).await.unwrap();
        let log: Arc<dyn EventLog> = Arc::new(log);
        let model = Busy {
            letters: Mutex::new(BTreeMap::from([(1, "a")])),
            ..Busy::default()
        };
        let mut said = Said {
            out: &mut Vec::new(),
            json: false,
        };
        let refused = discard(&model, &log, 1, &model.stop, &mut said).await;
        assert!(matches!(
            refused,
            Err(ReplayError::Erasure { position: 1, .. })
        ));
        assert_eq!(model.left(), [1]);
    }
}
