//! The stages of the distributed profile by themselves: the relay and each projector as a process of its own, working off
//! a log that is there already; then the rebuild and the proof of each model, and a copy of the log. Beside them, in the
//! same run, what the same servers do with the same rows and documents when nobody has to find out what they are.
//!
//! Where the servers are is said by the environment, as it is to the processes themselves.

mod peers;

use std::{
    fs,
    io::{Read as _, Seek as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use serde::{Deserialize, Serialize};
use socialhub_event_log::{EventLog, Position};
use socialhub_infra::{clock::SystemClock, postgres::event_log::PgEventLog};
use tokio::time::sleep;

use crate::{
    client::{BenchError, Target},
    offline::{fill, sealed, usage},
    process::{Running, mib, until_ready},
};

/// The read models.
const MODELS: [&str; 3] = ["feed", "notifications", "counters"];
/// Between two looks at a process's metrics.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A stage that has not moved for so long does not work.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures the relay, the projectors and the rebuilds of the distributed profile.
#[derive(Debug, Args)]
pub struct StagesArgs {
    /// The program, built with the feature `distributed`.
    #[arg(long)]
    binary: PathBuf,
    /// The event log; filled with the standard mix when it is empty.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// The database of the feed, when it is not the log's.
    #[arg(long, env = "READ_MODEL_URL", hide_env_values = true)]
    read_model_url: Option<String>,
    /// The server with the notifications.
    #[arg(long, env = "MONGODB_URL", hide_env_values = true)]
    mongodb_url: String,
    /// Events of the mix; the network of 210,000 events comes before it.
    #[arg(long, default_value_t = 100_000)]
    events: usize,
    /// The same seed gives the same events.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What a stage came to.
#[derive(Debug, Serialize)]
struct Measured {
    stage: String,
    count: u64,
    unit: &'static str,
    seconds: f64,
    per_second: f64,
    /// The most memory that the process held.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_mib: Option<f64>,
    /// Its rate divided by that of what it is compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

impl Measured {
    fn new(stage: impl Into<String>, unit: &'static str, count: u64, seconds: f64) -> Self {
        Self {
            stage: stage.into(),
            count,
            unit,
            seconds,
            per_second: count as f64 / seconds,
            peak_mib: None,
            ratio: None,
        }
    }

    fn events(stage: impl Into<String>, count: Position, ran: &Ran) -> Self {
        Self {
            peak_mib: Some(ran.peak_mib),
            ..Self::new(stage, "events", count, ran.seconds)
        }
    }
}

/// Fills the log if it is empty, then measures stage after stage.
///
/// # Errors
/// When a server does not answer or a process ends.
pub async fn stages(args: &StagesArgs) -> Result<(), BenchError> {
    let mut found = Found::default();
    let (head, filled) = prepare(args).await?;
    found.stages.extend(filled);
    eprintln!("measuring the relay");
    let relay = ["socialhub_relay_position"];
    // Without it there is nothing for the others.
    found
        .stages
        .push(work_off(&args.binary, &["relay"], &[], &relay, head).await?);
    for model in MODELS {
        eprintln!("measuring the projector of {model}");
        // Its position stays where it is until each partition has brought something.
        let metrics = [
            format!("socialhub_projection_last_position{{model=\"{model}\"}}"),
            format!("socialhub_projection_events_total{{model=\"{model}\"}}"),
        ];
        found.note(work_off(&args.binary, &["project", model], &[], &metrics, head).await);
    }
    eprintln!("measuring the analytics consumer");
    let files = tempfile::tempdir()?;
    // What is left at the end is written after a second.
    let settings = [
        ("ANALYTICS_URL", files.path().display().to_string()),
        ("ANALYTICS_FLUSH_SECONDS", "1".to_owned()),
    ];
    let rows = ["socialhub_analytics_rows_total"];
    found.note(work_off(&args.binary, &["analytics"], &settings, &rows, head).await);
    for model in MODELS {
        eprintln!("measuring the rebuild of {model}");
        found.note(rebuild(&args.binary, model).await);
    }
    eprintln!("measuring what they are compared with");
    found.compare(args).await;
    for model in MODELS {
        eprintln!("measuring the proof of {model}");
        found.note(verify(&args.binary, model, head).await);
    }
    eprintln!("measuring a copy of the log");
    if let Err(error) = copy(args, head, &mut found).await {
        found.note(Err(error));
    }
    print(&found.stages, args.json)?;
    found.failed.map_or(Ok(()), Err)
}

/// The stages that came to their end, and the first one's failure that did not.
#[derive(Default)]
struct Found {
    stages: Vec<Measured>,
    failed: Option<BenchError>,
}

impl Found {
    fn note(&mut self, stage: Result<Measured, BenchError>) {
        match stage {
            Ok(measured) => self.stages.push(measured),
            Err(error) => {
                eprintln!("{error}");
                self.failed.get_or_insert(error);
            }
        }
    }

    fn seconds_of(&self, stage: &str) -> Option<f64> {
        let found = self.stages.iter().find(|measured| measured.stage == stage);
        found.map(|measured| measured.seconds)
    }

    /// Adds what the same servers do without events, and the ratios to it.
    async fn compare(&mut self, args: &StagesArgs) {
        let url = args.read_model_url.as_ref().unwrap_or(&args.database_url);
        let rows = async {
            let mut rows = peers::FeedRows::newest(url).await?;
            Ok::<_, BenchError>((rows.rows, rows.copy().await?))
        };
        match rows.await {
            Ok((rows, peer)) => {
                let seconds = self.seconds_of("rebuild feed");
                self.stages.extend(seconds.map(|seconds| {
                    let mut ours = Measured::new("rebuild feed, its rows", "rows", rows, seconds);
                    ours.ratio = Some(ours.per_second / peer.per_second);
                    ours
                }));
                self.stages.push(peer);
            }
            Err(error) => self.note(Err(error)),
        }
        let documents = async {
            let documents = peers::documents(&args.mongodb_url).await?;
            let indexed = peers::indexed_inserts(&args.mongodb_url).await?;
            let plain = peers::plain_inserts(&args.mongodb_url).await?;
            Ok::<_, BenchError>((documents, indexed, plain))
        };
        match documents.await {
            Ok((documents, peer, plain)) => {
                let seconds = self.seconds_of("rebuild notifications");
                self.stages.extend(seconds.map(|seconds| {
                    let stage = "rebuild notifications, its documents";
                    Measured::new(stage, "documents", documents, seconds)
                }));
                let ours = self.stages.iter_mut();
                for ours in ours.filter(|ours| ours.stage.contains(" notifications")) {
                    ours.ratio = Some(ours.per_second / peer.per_second);
                }
                self.stages.extend([peer, plain]);
            }
            Err(error) => self.note(Err(error)),
        }
    }
}

fn print(found: &[Measured], json: bool) -> Result<(), BenchError> {
    if json {
        println!("{}", serde_json::to_string_pretty(found).map_err(usage)?);
        return Ok(());
    }
    println!("| stage | | s | a second | peak MiB | ratio to its peer |");
    println!("|---|---|---|---|---|---|");
    for stage in found {
        let peak = stage.peak_mib.map(|mib| format!("{mib:.0}"));
        let ratio = stage.ratio.map(|ratio| format!("{ratio:.2}"));
        println!(
            "| {} | {} {} | {:.1} | {:.0} | {} | {} |",
            stage.stage,
            stage.count,
            stage.unit,
            stage.seconds,
            stage.per_second,
            peak.unwrap_or_default(),
            ratio.unwrap_or_default()
        );
    }
    Ok(())
}

/// Where the log ends, and how fast it was filled if it was.
async fn prepare(args: &StagesArgs) -> Result<(Position, Option<Measured>), BenchError> {
    PgEventLog::migrate(&args.database_url)
        .await
        .map_err(usage)?;
    let log = PgEventLog::connect(&args.database_url, Arc::new(SystemClock)).await;
    let log = Arc::new(log.map_err(usage)?);
    let mut head = log.head().await.map_err(usage)?;
    let mut filled = None;
    if head == 0 {
        // Counters that are missing beside a log are filled from it, not from the topics: they must be there, and empty.
        for role in [&["relay"] as &[&str], &["project", "counters"]] {
            let (mut process, target) = start(&args.binary, role, &[])?;
            until_ready(&mut process, &target, &role.join(" ")).await?;
        }
        eprintln!("filling the log");
        let begin = Instant::now();
        fill(&sealed(&log), args.seed, args.events).await?;
        let seconds = begin.elapsed().as_secs_f64();
        head = log.head().await.map_err(usage)?;
        filled = Some(Measured::new("append", "events", head, seconds));
    }
    log.close().await;
    Ok((head, filled))
}

/// Runs a process until its position, which is the first of some metrics, is the log's head. What counts is the time from
/// the first step on that any of them tells of: before it, a projector waits for its group to be formed.
async fn work_off(
    binary: &Path,
    role: &[&str],
    settings: &[(&str, String)],
    metrics: &[impl AsRef<str>],
    head: Position,
) -> Result<Measured, BenchError> {
    let (mut process, target) = start(binary, role, settings)?;
    let started = Instant::now();
    let mut moved = started;
    let (mut first, mut last): (Option<(Instant, Position)>, Position) = (None, 0);
    let mut peak_mib = 0.0;
    loop {
        peak_mib = peak_of(&process).unwrap_or(peak_mib);
        if let Some(status) = process.0.try_wait()? {
            return Err(usage(format!("{} ended: {status}", role.join(" "))));
        }
        let told = gauges(&target, metrics).await;
        let now = told.first().copied().flatten().unwrap_or(0);
        let furthest = told.into_iter().flatten().max().unwrap_or(0);
        if furthest > last {
            (moved, last) = (Instant::now(), furthest);
            // Whoever has come to the end before it was looked at first is measured from its start on.
            first.get_or_insert(if now >= head {
                (started, 0)
            } else {
                (moved, furthest)
            });
        }
        if let Some((begin, from)) = first.filter(|_| now >= head) {
            let seconds = begin.elapsed().as_secs_f64();
            let ran = Ran { seconds, peak_mib };
            return Ok(Measured::events(role.join(" "), head - from, &ran));
        }
        if moved.elapsed() > PATIENCE {
            let what = format!("{} stays at {last} of {head}", role.join(" "));
            return Err(usage(what));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Starts a process, and says where its metrics are.
fn start(
    binary: &Path,
    role: &[&str],
    settings: &[(&str, String)],
) -> Result<(Running, Target), BenchError> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let authority = format!("127.0.0.1:{port}");
    let child = Command::new(binary)
        .args(role)
        .envs(settings.iter().cloned())
        .env("METRICS_LISTEN", &authority)
        .env("LOG", "warn")
        .stdout(Stdio::null())
        .spawn()?;
    Ok((Running(child), Target { authority }))
}

/// Gauges of a process, none for those that it has not set; nothing while it does not answer.
async fn gauges(target: &Target, metrics: &[impl AsRef<str>]) -> Vec<Option<Position>> {
    let asked = async {
        let mut connection = target.connect().await.ok()?;
        let request = target.request("GET", "/metrics", None, None);
        let answer = connection.send(&request).await.ok()?;
        let text = std::str::from_utf8(answer.body).ok()?;
        let told = metrics.iter().map(|metric| gauge(text, metric.as_ref()));
        Some(told.collect())
    };
    asked.await.unwrap_or_default()
}

fn gauge(text: &str, metric: &str) -> Option<Position> {
    let line = text.lines().find_map(|line| line.strip_prefix(metric))?;
    let value: f64 = line.trim().parse().ok()?;
    Some(value as Position)
}

/// What `replay rebuild` reports.
#[derive(Deserialize)]
struct Rebuilt {
    from: Position,
    position: Position,
    seconds: f64,
}

async fn rebuild(binary: &Path, model: &str) -> Result<Measured, BenchError> {
    let (mut ran, said) = run(binary, &["replay", "rebuild", model, "--json"], &[]).await?;
    let line = said.lines().next().unwrap_or_default();
    let rebuilt: Rebuilt = serde_json::from_str(line).map_err(usage)?;
    // Without the start of the process.
    ran.seconds = rebuilt.seconds;
    let events = rebuilt.position - rebuilt.from;
    Ok(Measured::events(format!("rebuild {model}"), events, &ran))
}

async fn verify(binary: &Path, model: &str, head: Position) -> Result<Measured, BenchError> {
    let (ran, _) = run(binary, &["replay", "verify", model], &[]).await?;
    Ok(Measured::events(format!("verify {model}"), head, &ran))
}

/// The log as an export, and the export as a log in a database of its own.
async fn copy(args: &StagesArgs, head: Position, found: &mut Found) -> Result<(), BenchError> {
    let folder = tempfile::tempdir()?;
    let place = folder.path().join("export").display().to_string();
    let (ran, _) = run(&args.binary, &["replay", "export", &place, "--all"], &[]).await?;
    found.stages.push(Measured::events("export", head, &ran));
    let beside = peers::Beside::make(&args.database_url).await?;
    let settings = [("DATABASE_URL", beside.url.clone())];
    let imported = run(&args.binary, &["replay", "import", &place], &settings).await;
    beside.remove().await?;
    let (ran, _) = imported?;
    found.stages.push(Measured::events("import", head, &ran));
    Ok(())
}

/// A command that ran to its end.
struct Ran {
    seconds: f64,
    peak_mib: f64,
}

/// Runs a command to its end; answers what it printed, too.
async fn run(
    binary: &Path,
    arguments: &[&str],
    settings: &[(&str, String)],
) -> Result<(Ran, String), BenchError> {
    // A pipe would hold up whoever fills it.
    let mut said = tempfile::tempfile()?;
    let begin = Instant::now();
    let child = Command::new(binary)
        .args(arguments)
        .envs(settings.iter().cloned())
        .env("LOG", "warn")
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .spawn()?;
    let (mut process, mut peak_mib) = (Running(child), 0.0);
    let status = loop {
        peak_mib = peak_of(&process).unwrap_or(peak_mib);
        if let Some(status) = process.0.try_wait()? {
            break status;
        }
        sleep(LOOK_EVERY).await;
    };
    let seconds = begin.elapsed().as_secs_f64();
    let mut text = String::new();
    said.rewind()?;
    said.read_to_string(&mut text)?;
    if !status.success() {
        return Err(usage(format!("{}: {status}\n{text}", arguments.join(" "))));
    }
    Ok((Ran { seconds, peak_mib }, text))
}

/// The most memory that a process has held so far; none when it has ended.
fn peak_of(process: &Running) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.0.id())).ok()?;
    Some(mib(&status, "VmHWM:")).filter(|peak| *peak > 0.0)
}

#[cfg(test)]
mod tests {
    use super::gauge;

    #[test]
    fn a_gauge_is_found_among_the_metrics() {
        let text = "# TYPE a gauge\na_position{model=\"feed\"} 17\na_position{model=\"counters\"} 1210000\nb 3\n";
        assert_eq!(
            gauge(text, "a_position{model=\"counters\"}"),
            Some(1_210_000)
        );
        assert_eq!(gauge(text, "b"), Some(3));
        assert_eq!(gauge(text, "c"), None);
    }
}
