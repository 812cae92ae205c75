//! The replay command line, as a library: `socialhub replay status|rebuild|verify|repair|inspect|as-of|tail|rollback|
//! prune|dead-letters|republish|export|import|migrate`.
//!
//! The commands work on the log and on each model's [`ModelControl`], which the binary wires; they know no driver. They
//! run with the server stopped, and as a second process beside it. One file a command, each with `Options` and `run`.
//! This crate must never import `infra`, the write side or a web framework.
//!
//! ```no_run
//! # async fn replay(
//! #     options: socialhub_replay_tools::Options, log: std::sync::Arc<dyn socialhub_event_log::EventLog>,
//!     feed: std::sync::Arc<dyn socialhub_projections::runtime::ModelControl>,
//! #     erasures: std::sync::Arc<dyn socialhub_event_log::ErasureStore>,
//! #     clock: std::sync::Arc<dyn socialhub_domain::Clock>,
//! #     past: std::sync::Arc<dyn socialhub_replay_tools::PastModels>,
//! #     processes: std::sync::Arc<dyn socialhub_event_log::ProcessReports>,
//! # ) -> std::process::ExitCode {
//! let models = vec![feed];
//! let target = socialhub_replay_tools::ReplayTarget { log, processes, erasures, models, clock, past, relay: None, analytics: None };
//! let stop = tokio_util::sync::CancellationToken::new(); // cancel it on Ctrl-C
//! let mut out = std::io::stdout();
//! match socialhub_replay_tools::run(options, &target, &mut out, stop).await {
//!     Ok(verdict) => verdict.into(),
//!     Err(error) => {
//!         eprintln!("{error}");
//!         std::process::ExitCode::FAILURE
//!     }
//! }
//! # }
//! ```

mod analytics;
mod as_of;
mod erasures;
mod how_far;
mod inspect;
mod letters;
mod lifecycle;
mod moment;
mod processes;
mod progress;
mod rebuild;
mod relay;
mod repair;
mod republish;
mod show;
mod status;
mod tail;
pub mod transfer;
mod verify;

use std::{io, io::Write, process::ExitCode, sync::Arc};

use clap::{Args, Subcommand};
use socialhub_domain::{Clock, StreamId};
use socialhub_event_log::{
    ErasureStore, EventLog, LogError, Position, ProcessReports, PublishError, Publisher,
    RelayStore, RewindError,
};
use socialhub_projections::{
    ModelName, StoreError,
    analytics::Objects,
    runtime::{ModelControl, RebuildError},
};
use tokio_util::sync::CancellationToken;

pub use as_of::{PastModels, Serving};
pub use processes::SILENT_AFTER;

/// What the commands work on.
pub struct ReplayTarget {
    /// The log. Opened for reading is enough.
    pub log: Arc<dyn EventLog>,
    /// What the processes on the log say of themselves.
    pub processes: Arc<dyn ProcessReports>,
    /// What is left to do for the erased.
    pub erasures: Arc<dyn ErasureStore>,
    /// Every read model.
    pub models: Vec<Arc<dyn ModelControl>>,
    /// What the age of events is reckoned by.
    pub clock: Arc<dyn Clock>,
    /// Where models of the past are kept.
    pub past: Arc<dyn PastModels>,
    /// The relay, where the log is published.
    pub relay: Option<RelayControl>,
    /// The files of the analytics consumer, where there may be one.
    pub analytics: Option<Arc<dyn Objects>>,
}

/// The relay under an operator's hands.
pub struct RelayControl {
    /// Its lease and how far it is.
    pub store: Arc<dyn RelayStore>,
    /// The topics.
    pub publisher: Arc<dyn Publisher>,
    /// What the lease names this process by; no other process may have the same name.
    pub owner: String,
}

/// Rebuild, verify and look into the read models and the event log.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show each read model (generations, positions, lag, parked events), the relay, and erasures that are not complete
    Status(status::Options),
    /// Fill a read model anew from the log, beside the current one, then switch to it
    Rebuild(rebuild::Options),
    /// Fold the log and compare every row of a read model with it; exit code 1 when something differs
    Verify(verify::Options),
    /// Make what `verify` finds what the log says, and touch nothing else
    Repair(repair::Options),
    /// Show a stream's events and the state they add up to
    Inspect(inspect::Options),
    /// Build read models as of a moment in SQLite files of their own, and answer queries from them
    AsOf(as_of::Options),
    /// Show the events of the log
    Tail(tail::Options),
    /// Go back to the generation before the last rebuild, after catching it up
    Rollback(lifecycle::RollbackOptions),
    /// Remove every generation but the current one
    Prune(lifecycle::PruneOptions),
    /// List, retry or discard the events that were set aside
    DeadLetters(letters::Options),
    #[command(flatten)]
    Transfer(transfer::Transfer),
    /// Let the relay publish the log anew: what realigns log and topics after one of them went back in time
    Republish(republish::Options),
}

impl Options {
    /// The command that copies everything, if it is one of these: they work on [`transfer::Part`]s, not on a
    /// [`ReplayTarget`], and go to a function of their own.
    ///
    /// # Errors
    /// The options, when it is another command.
    pub fn transfer(self) -> Result<transfer::Transfer, Self> {
        match self.command {
            Command::Transfer(transfer) => Ok(transfer),
            command => Err(Self { command }),
        }
    }
}

/// Which read models a command is for.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Selection {
    /// The read model's name, as `status` shows it
    name: Option<String>,
    /// Every read model
    #[arg(long)]
    all: bool,
}

/// How a command came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All is well.
    Clean,
    /// Something is not as it should be, and has been printed.
    Wrong,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Clean => Self::SUCCESS,
            Verdict::Wrong => Self::FAILURE,
        }
    }
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// There is no such model.
    #[error("there is no read model {name:?}; there are: {known}")]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A letter that must not be forgotten.
    #[error(
        "{model}: the event at position {position} erases a person: it is not discarded, their data would stay. Find out why \
         it was set aside, then run `socialhub replay dead-letters retry {model}`"
    )]
    Erasure {
        /// The model that has it.
        model: ModelName,
        /// The event.
        position: Position,
    },
    /// The text is not a stream's name.
    #[error("{0:?} is not a stream: expected TYPE/ID, for example post/0198c1c2-…")]
    NotAStream(String),
    /// Nothing was ever written to the stream.
    #[error("the stream {0} has no events")]
    NoSuchStream(StreamId),
    /// The stream began later.
    #[error("the stream {stream} had no events at position {as_of}: it begins at position {first}")]
    NotBegun {
        /// The stream.
        stream: StreamId,
        /// The position asked for.
        as_of: Position,
        /// Where it begins.
        first: Position,
    },
    /// The log is not that long.
    #[error("the log ends at position {head}: there is no position {asked} yet")]
    PastTheHead {
        /// The position asked for.
        asked: Position,
        /// The log's last.
        head: Position,
    },
    /// A time that is still to come.
    #[error("{0} is still to come: nobody knows what the log will say then")]
    NotYet(String),
    /// Nothing had happened.
    #[error("nothing had happened by then: the log begins later")]
    BeforeTheLog,
    /// The models of the past cannot be built or served.
    #[error("{0}")]
    Past(String),
    /// No event was set aside there.
    #[error(
        "no event at position {position} is parked with {model}; `socialhub replay dead-letters list {model}` shows those that are"
    )]
    NotParked {
        /// The model.
        model: ModelName,
        /// The position asked for.
        position: Position,
    },
    /// A command that loses something was not confirmed.
    #[error("{0} cannot be undone; say --yes to do it")]
    NotConfirmed(&'static str),
    /// The topics are divided anew, and a projector is at work.
    #[error(
        "the topics have other numbers of partitions than before, and a projector writes `{0}`: stop all projectors first"
    )]
    Projecting(ModelName),
    /// The command goes to a function of [`transfer`].
    #[error("this command works on parts")]
    WantsParts,
    /// There are no topics.
    #[error("nothing is published in the embedded profile")]
    NotPublished,
    /// What waited behind a letter was not tried.
    #[error(
        "the event at position {position} was discarded, and what waited behind it is still parked: {reason}; when the store \
         answers, run `socialhub replay dead-letters retry {model}`"
    )]
    DiscardedAlone {
        /// The model.
        model: ModelName,
        /// The letter's position.
        position: Position,
        /// What went wrong then.
        reason: String,
    },
    /// The relay was not rewound.
    #[error("{0}{advice}", advice = advice_on_rewind(.0))]
    Rewind(#[from] RewindError),
    /// The log cannot be read.
    #[error("{0}{advice}", advice = advice_on_log(.0))]
    Log(#[from] LogError),
    /// A model failed.
    #[error("{0}{advice}", advice = advice(.0))]
    Model(#[from] RebuildError),
    /// Somebody ended a retry between two letters.
    #[error(
        "interrupted: what was applied stays applied, and `socialhub replay dead-letters retry {0}` goes on with the rest"
    )]
    LettersLeft(ModelName),
    /// Somebody ended it while it was only reading.
    #[error("interrupted: nothing was changed")]
    Interrupted,
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    /// Something cannot be shown as JSON.
    #[error("cannot show as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// What to do when something went away in the middle, to be said after the error.
pub(crate) fn advice(error: &RebuildError) -> &'static str {
    match error {
        RebuildError::Log(error) => advice_on_log(error),
        RebuildError::Store(StoreError::Unavailable(_)) => AGAIN,
        _ => "",
    }
}

fn advice_on_log(error: &LogError) -> &'static str {
    match error {
        LogError::Unavailable(_) => AGAIN,
        // It says itself what to do.
        LogError::NoKey { .. } | LogError::Damaged { .. } => "",
    }
}

fn advice_on_rewind(error: &RewindError) -> &'static str {
    match error {
        RewindError::Log(error) => advice_on_log(error),
        RewindError::Publish(PublishError::Failed(_)) => {
            "; see that the broker answers, then run the same command again"
        }
        _ => "",
    }
}

const AGAIN: &str = "; see that the store answers and has room, on its disk and in its memory, then run the same command again";

/// Runs a command. Results go to `out`, progress and remarks to standard error. Cancelling `stop` ends a rebuild
/// (which can be resumed), a followed tail, and whatever only reads.
///
/// # Errors
/// [`ReplayError`]. Somebody who closes `out` early, as `head` does, is not an error.
pub async fn run(
    options: Options,
    target: &ReplayTarget,
    out: &mut (dyn Write + Send),
    stop: CancellationToken,
) -> Result<Verdict, ReplayError> {
    let done = match options.command {
        Command::Status(options) => reading(&stop, status::run(&options, target, out)).await,
        Command::Rebuild(options) => rebuild::run(&options, target, out, stop).await,
        Command::Verify(options) => reading(&stop, verify::run(&options, target, out)).await,
        Command::Repair(options) => repair::run(&options, target, out, stop).await,
        Command::Inspect(options) => reading(&stop, inspect::run(&options, target, out)).await,
        Command::AsOf(options) => as_of::run(&options, target, out, stop).await,
        Command::Tail(options) => tail::run(&options, target, out, stop).await,
        Command::Rollback(options) => lifecycle::roll_back(&options, target, out, stop).await,
        Command::Prune(options) => lifecycle::prune(&options, target, out).await,
        Command::DeadLetters(options) => letters::run(options, target, out, &stop).await,
        Command::Transfer(_) => Err(ReplayError::WantsParts),
        Command::Republish(options) => republish::run(&options, target, out).await,
    };
    match done {
        Err(ReplayError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(Verdict::Clean)
        }
        other => other,
    }
}

/// Does what changes nothing, so that it can be left at any place.
pub(crate) async fn reading<T>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, ReplayError>>,
) -> Result<T, ReplayError> {
    tokio::select! {
        () = stop.cancelled() => Err(ReplayError::Interrupted),
        done = work => done,
    }
}

impl ReplayTarget {
    fn select(&self, selection: &Selection) -> Result<Vec<&Arc<dyn ModelControl>>, ReplayError> {
        match &selection.name {
            None => Ok(self.models.iter().collect()),
            Some(name) => self.model(name).map(|model| vec![model]),
        }
    }

    fn model(&self, name: &str) -> Result<&Arc<dyn ModelControl>, ReplayError> {
        let found = self.models.iter().find(|model| model.name().0 == name);
        found.ok_or_else(|| ReplayError::UnknownModel {
            name: name.to_owned(),
            known: self
                .models
                .iter()
                .map(|model| model.name().0)
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    struct Midnight;

    struct NoPast;

    #[async_trait::async_trait]
    impl PastModels for NoPast {
        fn open(&self, _: &Path, _: ModelName) -> Result<Arc<dyn ModelControl>, String> {
            Err("there is none".to_owned())
        }

        fn file(&self, folder: &Path, _: ModelName) -> PathBuf {
            folder.to_owned()
        }

        async fn serve(&self, _: Serving, _: CancellationToken) -> Result<(), String> {
            Err("there is none".to_owned())
        }
    }

    impl Clock for Midnight {
        fn now(&self) -> socialhub_domain::Timestamp {
            socialhub_domain::Timestamp(0)
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_model_or_all_of_them_must_be_named() {
        for good in [
            "rebuild feed",
            "rebuild --all",
            "verify counters --json",
            "repair --all --dry-run",
            "as-of --all --at 2026-01-01T00:00:00Z --into x --serve 80 --as me",
            "status",
        ] {
            let words = ["replay"].into_iter().chain(good.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{good}");
        }
        for bad in [
            "rebuild",
            "rebuild feed --all",
            "verify",
            "dead-letters retry",
            "tail --after x",
            "as-of feed",
            "as-of feed --at yesterday --into x",
            "as-of --all --at 1 --into x --serve 80",
            "as-of feed --at 1 --into x --serve 80 --as me",
        ] {
            let words = ["replay"].into_iter().chain(bad.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn what_is_not_there_is_said() {
        let log = Arc::new(socialhub_event_log::memory::MemoryEventLog::new());
        let target = ReplayTarget {
            log: log.clone(),
            erasures: log,
            processes: Arc::new(socialhub_event_log::MemoryProcessReports::default()),
            models: Vec::new(),
            clock: Arc::new(Midnight),
            past: Arc::new(NoPast),
            relay: None,
            analytics: None,
        };
        let run_line = async |line: &str| {
            let words = ["replay"].into_iter().chain(line.split(' '));
            let cli = Cli::try_parse_from(words).unwrap();
            let mut out = Vec::new();
            let done = run(cli.options, &target, &mut out, CancellationToken::new()).await;
            done.map(|verdict| (verdict, String::from_utf8(out).unwrap()))
        };
        let unknown = run_line("rebuild feed").await.unwrap_err();
        assert!(unknown.to_string().contains("no read model \"feed\""));
        let stream = run_line("inspect nonsense").await.unwrap_err();
        assert!(stream.to_string().contains("TYPE/ID"));
        let nothing = run_line("inspect post/1").await.unwrap_err();
        assert!(nothing.to_string().contains("has no events"));
        let past = run_line("as-of --all --at 0 --into x").await.unwrap_err();
        assert!(past.to_string().contains("nothing had happened"));
        let late = run_line("as-of --all --at 7 --into x").await.unwrap_err();
        assert!(late.to_string().contains("ends at position 0"));
        let future = run_line("inspect post/1 --as-of 2026-01-01T00:00:00Z").await;
        assert!(future.unwrap_err().to_string().contains("has no events"));
        let future = run_line("as-of --all --at 2026-01-01T00:00:00Z --into x").await;
        assert!(future.unwrap_err().to_string().contains("is still to come"));
        let prune = run_line("prune --all").await.unwrap_err();
        assert!(prune.to_string().contains("--yes"));
        let republish = run_line("republish --yes").await.unwrap_err();
        assert_eq!(
            republish.to_string(),
            "nothing is published in the embedded profile"
        );
        assert_eq!(run_line("tail").await.unwrap().1, "");
        assert_eq!(run_line("tail --after 0").await.unwrap().1, "");
        let late = run_line("tail --after 7").await.unwrap_err();
        assert!(late.to_string().contains("ends at position 0"));
    }
}
