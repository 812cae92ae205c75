//! The stages of the distributed profile by themselves: the relay and each projector as a process of its own, working off
//! a log that is there already; then the rebuild of each model.
//!
//! Where the servers are is said by the environment, as it is to the processes themselves.

use std::{
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
    process::{Running, until_ready},
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
    events: Position,
    seconds: f64,
    events_per_second: f64,
}

impl Measured {
    fn new(stage: String, events: Position, seconds: f64) -> Self {
        Self {
            stage,
            events,
            seconds,
            events_per_second: events as f64 / seconds,
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
    let relay = "socialhub_relay_position";
    // Without it there is nothing for the others.
    found
        .stages
        .push(work_off(&args.binary, &["relay"], &[], relay, head).await?);
    for model in MODELS {
        eprintln!("measuring the projector of {model}");
        let metric = format!("socialhub_projection_last_position{{model=\"{model}\"}}");
        found.note(work_off(&args.binary, &["project", model], &[], &metric, head).await);
    }
    eprintln!("measuring the analytics consumer");
    let files = tempfile::tempdir()?;
    // What is left at the end is written after a second.
    let settings = [
        ("ANALYTICS_URL", files.path().display().to_string()),
        ("ANALYTICS_FLUSH_SECONDS", "1".to_owned()),
    ];
    let rows = "socialhub_analytics_rows_total";
    found.note(work_off(&args.binary, &["analytics"], &settings, rows, head).await);
    for model in MODELS {
        eprintln!("measuring the rebuild of {model}");
        found.note(rebuild(&args.binary, model));
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
}

fn print(found: &[Measured], json: bool) -> Result<(), BenchError> {
    if json {
        println!("{}", serde_json::to_string_pretty(found).map_err(usage)?);
        return Ok(());
    }
    println!("| stage | events | s | events/s |");
    println!("|---|---|---|---|");
    for stage in found {
        println!(
            "| {} | {} | {:.1} | {:.0} |",
            stage.stage, stage.events, stage.seconds, stage.events_per_second
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
        filled = Some(Measured::new("append".to_owned(), head, seconds));
    }
    log.close().await;
    Ok((head, filled))
}

/// Runs a process until its position is the log's head. What counts is the time from its first step on: before it, a
/// projector waits for its group to be formed.
async fn work_off(
    binary: &Path,
    role: &[&str],
    settings: &[(&str, String)],
    metric: &str,
    head: Position,
) -> Result<Measured, BenchError> {
    let (mut process, target) = start(binary, role, settings)?;
    let mut moved = Instant::now();
    let (mut first, mut last): (Option<(Instant, Position)>, Position) = (None, 0);
    loop {
        if let Some(status) = process.0.try_wait()? {
            return Err(usage(format!("{} ended: {status}", role.join(" "))));
        }
        let now = position(&target, metric).await.unwrap_or(0);
        if now > last {
            (moved, last) = (Instant::now(), now);
            first.get_or_insert((moved, now));
        }
        if let Some((begin, from)) = first.filter(|_| now >= head) {
            let seconds = begin.elapsed().as_secs_f64();
            return Ok(Measured::new(role.join(" "), head - from, seconds));
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

/// A gauge of a process; none while it does not answer or has not set it.
async fn position(target: &Target, metric: &str) -> Option<Position> {
    let mut connection = target.connect().await.ok()?;
    let request = target.request("GET", "/metrics", None, None);
    let answer = connection.send(&request).await.ok()?;
    let text = std::str::from_utf8(answer.body).ok()?;
    gauge(text, metric)
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

fn rebuild(binary: &Path, model: &str) -> Result<Measured, BenchError> {
    let output = Command::new(binary)
        .args(["replay", "rebuild", model, "--json"])
        .env("LOG", "warn")
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(usage(format!("the rebuild of {model}: {}", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    let rebuilt: Rebuilt = serde_json::from_str(line).map_err(usage)?;
    let events = rebuilt.position - rebuilt.from;
    Ok(Measured::new(
        format!("rebuild {model}"),
        events,
        rebuilt.seconds,
    ))
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
