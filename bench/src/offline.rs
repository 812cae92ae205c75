//! Measurements without a server: filling a log with the standard mix, and projecting it.
//!
//! The mix is written through the same appender that the server uses, so that the log is one that the server could
//! have written; only passwords and addresses are missing, so nobody of it can log in.

use std::{
    collections::{HashMap, HashSet},
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use futures::future::try_join_all;
use serde::Serialize;
use socialhub_domain::{Clock, Event, IdGenerator, StreamId};
use socialhub_event_log::{Append, EventLog, Metadata, NewEvent, PersonKeys, Position, SealedLog};
use socialhub_infra::{
    clock::{RandomIds, SystemClock},
    security::AesGcmCipher,
    sqlite::{
        connection::open_reader,
        counters::SqliteCounters,
        event_log::SqliteEventLog,
        feed::SqliteFeed,
        model::SqliteModel,
        notifications::SqliteNotifications,
        wiring::{open_model, replay_model},
    },
};
use socialhub_projections::{
    GenerationId, ModelName,
    runtime::{
        LogTail, Pace, ProjectorTask,
        rebuild::{Progress, rebuild},
    },
};
use tokio_util::sync::CancellationToken;

use crate::{
    client::BenchError,
    mix::{NETWORK, standard_mix},
    plain_copy,
    process::mib,
};

/// Appends that are under way at once: what a group commit can gather.
const IN_FLIGHT: usize = 1000;

/// Fills a log.
#[derive(Debug, Args)]
pub struct MixArgs {
    /// Events of the mix; the network of 210,000 events comes before it.
    #[arg(long, default_value_t = 100_000)]
    events: usize,
    /// The data folder; it must not have an event log yet.
    #[arg(long)]
    data_dir: PathBuf,
    /// The same seed gives the same events.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Which way events come to the read models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// `replay rebuild --all`: a new generation, filled in bulk.
    Rebuild,
    /// The server's own projectors, catching up with a log that they have not seen.
    CatchUp,
}

/// A read model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Model {
    Feed,
    Notifications,
    Counters,
}

impl Model {
    const ALL: [Self; 3] = [Self::Feed, Self::Notifications, Self::Counters];

    /// What its files are called.
    const fn name(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::Notifications => "notifications",
            Self::Counters => "counters",
        }
    }
}

/// Projects a log.
#[derive(Debug, Args)]
pub struct ProjectionsArgs {
    /// A data folder with an event log. Its read models are left alone: new ones are made beside them and removed.
    #[arg(long)]
    data_dir: PathBuf,
    /// One way only; both when left out.
    #[arg(long, value_enum)]
    way: Option<Way>,
    /// Only these models, separated by commas; all when left out.
    #[arg(long, value_enum, value_delimiter = ',')]
    models: Vec<Model>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What projecting a log came to.
#[derive(Debug, Serialize)]
struct Projected {
    way: &'static str,
    events: Position,
    rows: u64,
    seconds: f64,
    events_per_second: f64,
    rows_per_second: f64,
    peak_rss_mib: f64,
    peak_anonymous_mib: f64,
    /// Of a rebuild of one model: its rows a second divided by those of a plain `INSERT … SELECT` of the same rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

/// What the user can see to.
pub(crate) fn usage(error: impl Display) -> BenchError {
    BenchError::Usage(error.to_string())
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, BenchError> {
    // As the server has it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    Ok(runtime)
}

/// Fills a fresh data folder's log with the standard mix.
///
/// # Errors
/// When there is a log already, or it cannot be written.
pub fn mix(args: &MixArgs) -> Result<(), BenchError> {
    fs::create_dir_all(&args.data_dir)?;
    let path = args.data_dir.join("events.db");
    if path.exists() {
        let what = format!("{} is there already: choose a fresh folder", path.display());
        return Err(BenchError::Usage(what));
    }
    let log = SqliteEventLog::open(&path, Arc::new(SystemClock)).map_err(usage)?;
    let log = Arc::new(log);
    let begin = Instant::now();
    runtime()?.block_on(fill(&sealed(&log), args.seed, args.events))?;
    log.close();
    let (count, seconds) = (NETWORK + args.events, begin.elapsed().as_secs_f64());
    println!(
        "{count} events ({NETWORK} of the network, {} of the mix, seed {}) appended in {seconds:.1} s, {:.0}/s",
        args.events,
        args.seed,
        count as f64 / seconds
    );
    Ok(())
}

/// The log as the server writes and reads it: with what is personal sealed.
pub(crate) fn sealed<L: EventLog + PersonKeys + 'static>(log: &Arc<L>) -> SealedLog {
    SealedLog::new(log.clone(), log.clone(), Arc::new(AesGcmCipher))
}

/// Appends the standard mix to an empty log.
pub(crate) async fn fill(log: &dyn EventLog, seed: u64, events: usize) -> Result<(), BenchError> {
    let mut versions = HashMap::new();
    let mut waiting: Vec<Append> = Vec::with_capacity(IN_FLIGHT);
    let mut streams = HashSet::new();
    for (stream, event) in standard_mix(seed, events) {
        // Those of a batch may wait for keys and overtake each other, so no stream is in it twice.
        if waiting.len() == IN_FLIGHT || streams.contains(&stream) {
            streams.clear();
            try_join_all(waiting.drain(..).map(|append| log.append(append)))
                .await
                .map_err(usage)?;
        }
        streams.insert(stream.clone());
        waiting.push(append_of(stream, event, &mut versions));
    }
    try_join_all(waiting.drain(..).map(|append| log.append(append)))
        .await
        .map_err(usage)?;
    Ok(())
}

fn append_of(stream: StreamId, event: Event, versions: &mut HashMap<StreamId, u64>) -> Append {
    let version = versions.entry(stream.clone()).or_default();
    let expected_version = *version;
    *version += 1;
    let command_id = RandomIds.next_id();
    let metadata = Metadata {
        actor: None,
        occurred_at: event.timestamp(),
        correlation_id: None,
        causation_id: Some(command_id),
        traceparent: None,
    };
    Append {
        command_id,
        stream,
        expected_version,
        events: vec![NewEvent {
            event_id: RandomIds.next_id(),
            event,
            payload: None,
        }],
        metadata,
        side: Vec::new(),
    }
}

/// Measures rebuild and catch-up of all read models.
///
/// # Errors
/// When the log or a model cannot be read or written.
pub fn projections(args: &ProjectionsArgs) -> Result<(), BenchError> {
    let ways = match args.way {
        Some(way) => vec![way],
        None => vec![Way::Rebuild, Way::CatchUp],
    };
    let models = match args.models.as_slice() {
        [] => Model::ALL.to_vec(),
        some => some.to_vec(),
    };
    let mut found = Vec::new();
    for way in ways {
        found.push(runtime()?.block_on(project(&args.data_dir, way, &models))?);
    }
    if args.json {
        let json = serde_json::to_string_pretty(&found);
        println!("{}", json.map_err(usage)?);
        return Ok(());
    }
    println!(
        "| way | events | rows | s | events/s | rows/s | peak RSS MiB | of it anonymous | rows/s to INSERT … SELECT |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for p in found {
        let ratio = p.ratio.map(|ratio| format!("{ratio:.2}"));
        println!(
            "| {} | {} | {} | {:.1} | {:.0} | {:.0} | {:.1} | {:.1} | {} |",
            p.way,
            p.events,
            p.rows,
            p.seconds,
            p.events_per_second,
            p.rows_per_second,
            p.peak_rss_mib,
            p.peak_anonymous_mib,
            ratio.unwrap_or_default()
        );
    }
    Ok(())
}

async fn project(data_dir: &Path, way: Way, models: &[Model]) -> Result<Projected, BenchError> {
    let log = SqliteEventLog::open_read_only(&data_dir.join("events.db")).map_err(usage)?;
    let log: Arc<dyn EventLog> = Arc::new(sealed(&Arc::new(log)));
    let events = log.head().await.map_err(usage)?;
    let scratch = tempfile::tempdir_in(data_dir)?;
    let watch = MemoryWatch::start();
    let begin = Instant::now();
    let (name, generation) = match way {
        Way::Rebuild => {
            rebuild_some(&log, scratch.path(), models).await?;
            ("rebuild", 2)
        }
        Way::CatchUp => {
            catch_up(&log, scratch.path(), events, models).await?;
            ("catch-up", 1)
        }
    };
    let seconds = begin.elapsed().as_secs_f64();
    let (peak_rss_mib, peak_anonymous_mib) = watch.stop().await;
    let rows = count_rows(scratch.path(), generation, models).map_err(usage)?;
    let rows_per_second = rows as f64 / seconds;
    let ratio = match (way, models) {
        // Several are written side by side, and would be copied one after the other.
        (Way::Rebuild, [model]) => {
            let from = file_of(scratch.path(), *model, generation);
            let copied = plain_copy::copy(&from, &scratch.path().join("copy")).map_err(usage)?;
            Some(rows_per_second / copied.per_second())
        }
        _ => None,
    };
    Ok(Projected {
        way: name,
        events,
        rows,
        seconds,
        events_per_second: events as f64 / seconds,
        rows_per_second,
        peak_rss_mib,
        peak_anonymous_mib,
        ratio,
    })
}

async fn rebuild_some(
    log: &Arc<dyn EventLog>,
    folder: &Path,
    models: &[Model],
) -> Result<(), BenchError> {
    let mut fillings = Vec::new();
    for model in models {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let model = match model {
            Model::Feed => replay_model::<SqliteFeed>(folder, clock),
            Model::Notifications => replay_model::<SqliteNotifications>(folder, clock),
            Model::Counters => replay_model::<SqliteCounters>(folder, clock),
        };
        let model = model.map_err(usage)?;
        fillings.push(model.begin_rebuild(log).await.map_err(usage)?);
    }
    let stop = CancellationToken::new();
    for (_, outcome) in rebuild(log, fillings, Pace::Full, Arc::new(Silent), stop).await {
        let report = outcome.map_err(usage)?;
        if report.parked > 0 {
            return Err(usage(format!("{} events were parked", report.parked)));
        }
    }
    Ok(())
}

/// Progress that nobody looks at.
struct Silent;

impl Progress for Silent {
    fn began(&self, _: ModelName, _: GenerationId, _: Position, _: Position) {}
    fn moved(&self, _: ModelName, _: Position, _: Position) {}
    fn ended(&self, _: ModelName) {}
}

async fn catch_up(
    log: &Arc<dyn EventLog>,
    folder: &Path,
    head: Position,
    models: &[Model],
) -> Result<(), BenchError> {
    let stop = CancellationToken::new();
    let tail = LogTail::start(log.clone(), stop.clone());
    let start = |model: &Model| match model {
        Model::Feed => start_projector::<SqliteFeed>(folder, &tail, &stop),
        Model::Notifications => start_projector::<SqliteNotifications>(folder, &tail, &stop),
        Model::Counters => start_projector::<SqliteCounters>(folder, &tail, &stop),
    };
    let projectors: Vec<_> = models.iter().map(start).collect::<Result<_, _>>()?;
    for projector in &projectors {
        let position = projector.position();
        let mut moved = position.watch();
        moved.wait_for(|at| *at >= head).await.map_err(usage)?;
    }
    stop.cancel();
    for projector in projectors {
        projector.task.await.map_err(usage)?;
    }
    Ok(())
}

fn start_projector<M: SqliteModel>(
    folder: &Path,
    tail: &Arc<LogTail>,
    stop: &CancellationToken,
) -> Result<ProjectorTask, BenchError> {
    let model = open_model::<M>(folder, 1, Arc::new(SystemClock), tail).map_err(usage)?;
    Ok(model.projector.spawn(stop.clone()))
}

fn file_of(folder: &Path, model: Model, generation: u32) -> PathBuf {
    folder.join(format!("{}.{generation}.db", model.name()))
}

/// Rows of all tables of some models of a generation.
fn count_rows(folder: &Path, generation: u32, models: &[Model]) -> Result<u64, rusqlite::Error> {
    let mut rows = 0;
    for model in models {
        let file = open_reader(&file_of(folder, *model, generation))?;
        let tables: Vec<String> = file
            .prepare("SELECT name FROM sqlite_master WHERE type = 'table'")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for table in tables {
            let sql = format!("SELECT count(*) FROM \"{table}\"");
            rows += file.query_row(&sql, [], |row| row.get::<_, u64>(0))?;
        }
    }
    Ok(rows)
}

/// Looks at this process's memory ten times a second and remembers the most it saw.
pub(crate) struct MemoryWatch {
    stop: CancellationToken,
    watching: tokio::task::JoinHandle<(f64, f64)>,
}

impl MemoryWatch {
    pub(crate) fn start() -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let watching = tokio::spawn(async move {
            let (mut rss, mut anonymous) = (0_f64, 0_f64);
            loop {
                let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
                rss = rss.max(mib(&status, "VmRSS:"));
                anonymous = anonymous.max(mib(&status, "RssAnon:"));
                tokio::select! {
                    () = stopped.cancelled() => return (rss, anonymous),
                    () = tokio::time::sleep(Duration::from_millis(100)) => {}
                }
            }
        });
        Self { stop, watching }
    }

    pub(crate) async fn stop(self) -> (f64, f64) {
        self.stop.cancel();
        self.watching.await.unwrap_or_default()
    }
}

/// The first events of the mix in a fresh data folder.
#[cfg(test)]
pub(crate) fn fill_for_tests(folder: &Path, events: usize) {
    let log = folder.join("events.db");
    let store = Arc::new(SqliteEventLog::open(&log, Arc::new(SystemClock)).unwrap());
    let log = sealed(&store);
    let mut versions = HashMap::new();
    runtime().unwrap().block_on(async {
        for (stream, event) in standard_mix(1, 0).take(events) {
            log.append(append_of(stream, event, &mut versions))
                .await
                .unwrap();
        }
    });
    store.close();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filled_log_can_be_projected_both_ways() {
        let folder = tempfile::tempdir().unwrap();
        fill_for_tests(folder.path(), 50);
        let runtime = runtime().unwrap();
        for way in [Way::Rebuild, Way::CatchUp] {
            let project = project(folder.path(), way, &Model::ALL);
            let found = runtime.block_on(project).unwrap();
            assert_eq!(found.events, 50);
            assert!(found.rows >= 50, "{found:?}");
        }
        let feed = project(folder.path(), Way::Rebuild, &[Model::Feed]);
        let feed = runtime.block_on(feed).unwrap();
        assert!(feed.ratio.is_some_and(|ratio| ratio > 0.0), "{feed:?}");
        // The models were made in a folder of their own, which is gone.
        let mut left = fs::read_dir(folder.path()).unwrap();
        // What SQLite keeps beside the log may go away while we look.
        assert!(!left.any(|entry| entry.unwrap().path().is_dir()));
    }
}
