//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use socialhub_domain::IdGenerator;
use socialhub_infra::clock::RandomIds;

use crate::{
    archive,
    client::{BenchError, Target},
    limits::{self, Limits},
    load::Shape,
    offline, people, process,
    report::Report,
    rows::{Bench, LimitKind, Row, needs},
    sealing,
};

/// Measures a running server against the limits of the machine.
///
/// Start the server with RATE_LIMITS=off, or the figures mean nothing.
#[derive(Debug, Parser)]
#[command(
    name = "socialhub-bench",
    version,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fills the event log of a fresh data folder with the standard mix. The server must not be running.
    Mix(offline::MixArgs),
    /// Measures how fast the read models are rebuilt from the log of a data folder, and the memory that takes.
    Projections(offline::ProjectionsArgs),
    /// Measures how fast the log of a data folder is exported and imported, and the memory that takes.
    Export(archive::ArchiveArgs),
    /// Measures the relay, the projectors and the rebuilds of the distributed profile, each by itself.
    #[cfg(feature = "distributed")]
    Stages(crate::stages::StagesArgs),
    /// Append with personal fields sealed and as they are, and compare: no server needed
    Sealing(sealing::SealingArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Where the server is.
    #[arg(long, default_value = "http://localhost:8080")]
    url: String,
    /// Rows to measure, separated by commas; all but feed-big when left out.
    #[arg(long, value_enum, value_delimiter = ',')]
    rows: Vec<Row>,
    /// Seconds of each run that count (one more goes before).
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Runs of each row; the one in the middle is shown.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Connections of most rows.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// People to sign up at the start, a bcrypt hash each; at least one a connection.
    #[arg(long, default_value_t = 128)]
    people: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Where durable commits are measured: a folder on the disk that the server's data is on.
    #[arg(long, default_value = ".")]
    limit_dir: PathBuf,
    /// Also start this server binary by itself and measure start time and idle memory.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// The data folder to start that binary on; an empty one when left out. No other server may be using it.
    #[arg(long, requires = "binary")]
    data_dir: Option<PathBuf>,
    /// The program that rebuilds the server's read models while `beside-rebuild` is measured; it finds the same servers or
    /// data folder in its environment as the server does.
    #[arg(long)]
    rebuild_with: Option<PathBuf>,
    /// For `beside-rebuild` on a large log: kill the rebuild after so many seconds, if it has not ended by then
    #[arg(long)]
    rebuild_seconds: Option<usize>,
    /// Commands a second beside which `beside-rebuild` and the `visible-…` rows measure: fewer than the server can carry
    /// out, so that what is added shows.
    #[arg(long, default_value_t = 500)]
    commands_per_second: u32,
    /// The server with the notifications, to compare their pages with what it does at most.
    #[cfg(feature = "distributed")]
    #[arg(long, env = "MONGODB_URL", hide_env_values = true)]
    mongodb_url: Option<String>,
    /// Only measure the binary, no rows.
    #[arg(long, requires = "binary")]
    binary_only: bool,
}

/// Runs the program.
///
/// # Errors
/// What stopped it.
pub fn run() -> Result<(), BenchError> {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Mix(args)) => offline::mix(&args),
        Some(Command::Projections(args)) => offline::projections(&args),
        Some(Command::Export(args)) => archive::measure(&args),
        #[cfg(feature = "distributed")]
        Some(Command::Stages(args)) => tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?
            .block_on(crate::stages::stages(&args)),
        Some(Command::Sealing(args)) => sealing::sealing(&args),
        None => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(measure(cli.run)),
    }
}

async fn measure(args: RunArgs) -> Result<(), BenchError> {
    let mut report = Report::default();
    if !args.binary_only {
        measure_rows(&args, &mut report).await?;
    }
    if let Some(binary) = &args.binary {
        eprintln!("starting {}", binary.display());
        report.process = Some(process::measure(binary, args.data_dir).await?);
    }
    if args.json {
        let json = serde_json::to_string_pretty(&report);
        println!("{}", json.map_err(|e| BenchError::Usage(e.to_string()))?);
    } else {
        println!("{}", report.table());
    }
    Ok(())
}

async fn measure_rows(args: &RunArgs, report: &mut Report) -> Result<(), BenchError> {
    let rows: &[Row] = if args.rows.is_empty() {
        &Row::USUAL
    } else {
        &args.rows
    };
    let target = Target::parse(&args.url)?;
    report.limits = measure_limits(args, rows).await?;
    let people = args.people.max(args.connections).max(64);
    eprintln!("signing up {people} people");
    // The random end of a UUIDv7: different for every call.
    let id = RandomIds.next_id().simple().to_string();
    let prefix = format!("b{}", &id[24..]);
    let mut everybody = people::sign_up(&target, &prefix, people + 1).await?;
    let Some(watcher) = everybody.pop() else {
        return Err(BenchError::Usage("nobody signed up".to_owned()));
    };
    let bench = Bench {
        shape: Shape {
            connections: args.connections.max(1),
            warm_up: Duration::from_secs(1),
            measured: Duration::from_secs(args.seconds.max(1)),
        },
        runs: args.runs.max(1),
        people: everybody,
        watcher,
        prefix,
        target,
        rebuild_with: args.rebuild_with.clone(),
        rebuild_seconds: args.rebuild_seconds,
        commands_per_second: args.commands_per_second,
    };
    for row in rows {
        eprintln!("measuring {row:?}");
        let measured = bench.measure(*row, &report.limits).await?;
        eprintln!("  {:.1}/s", measured.summary.rate);
        report.rows.push(measured);
    }
    Ok(())
}

async fn measure_limits(args: &RunArgs, rows: &[Row]) -> Result<Limits, BenchError> {
    let mut found = Limits::default();
    if needs(rows, LimitKind::Bcrypt) {
        eprintln!("limit: bcrypt");
        found.bcrypt_hashes = Some(limits::bcrypt_hashes()?);
    }
    if needs(rows, LimitKind::SingleCommits) {
        eprintln!("limit: durable commits");
        found.single_commits = Some(limits::durable_rows(&args.limit_dir, 1)?);
        found.batched_rows = Some(limits::durable_rows(&args.limit_dir, 100)?);
    }
    if needs(rows, LimitKind::BareRoute) || needs(rows, LimitKind::BarePage) {
        eprintln!("limit: bare routes");
        let (small, page) = limits::bare_routes(args.connections.max(1)).await?;
        (found.bare_route, found.bare_page) = (Some(small), Some(page));
    }
    #[cfg(feature = "distributed")]
    if let Some(url) = args.mongodb_url.as_ref()
        && needs(rows, LimitKind::IndexedFind)
    {
        eprintln!("limit: an indexed find");
        let (each, page) = (crate::rows::NOTIFICATIONS, crate::rows::PAGE);
        let clients = args.connections.clamp(1, crate::rows::LISTS);
        let finds = crate::documents::indexed_finds(url, each, page, clients);
        found.indexed_finds = Some(finds.await.map_err(offline::usage)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        let rows = ["x", "--rows", "verify,hot-like"];
        assert_eq!(
            Cli::try_parse_from(rows).unwrap().run.rows,
            [Row::Verify, Row::HotLike]
        );
    }
}
