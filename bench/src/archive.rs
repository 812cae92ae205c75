//! How fast a log is exported and imported, without a server: the commands' own code on a data folder.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use clap::{Args, Parser};
use serde::Serialize;
use socialhub_domain::Clock;
use socialhub_event_log::{LogArchive, Position};
use socialhub_infra::{clock::SystemClock, sqlite::event_log::SqliteLogArchive};
use socialhub_replay_tools::transfer::{
    CredentialsLines, EventLines, Events, ExportOptions, ImportOptions, KeyLines, Lines, Part,
    PeoplesCredentials, PeoplesKeys, Target, export, import,
};
use tokio_util::sync::CancellationToken;

use crate::{
    client::BenchError,
    offline::{MemoryWatch, runtime, usage},
};

/// Exports and imports a log.
#[derive(Debug, Args)]
pub struct ArchiveArgs {
    /// A data folder with an event log. It is left alone: export and import go to a folder in it that is removed.
    #[arg(long)]
    data_dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The options of the two commands, read as their command lines are.
#[derive(Parser)]
struct ExportLine {
    #[command(flatten)]
    options: ExportOptions,
}

#[derive(Parser)]
struct ImportLine {
    #[command(flatten)]
    options: ImportOptions,
}

/// What copying a log came to.
#[derive(Debug, Serialize)]
struct Copied {
    way: &'static str,
    events: Position,
    seconds: f64,
    events_per_second: f64,
    bytes: u64,
    peak_rss_mib: f64,
    peak_anonymous_mib: f64,
}

/// Measures an export, a check of it, and an import.
///
/// # Errors
/// When the log cannot be read or the folder not be written.
pub fn measure(args: &ArchiveArgs) -> Result<(), BenchError> {
    let found = runtime()?.block_on(copy(&args.data_dir))?;
    if args.json {
        let json = serde_json::to_string_pretty(&found);
        println!("{}", json.map_err(usage)?);
        return Ok(());
    }
    println!("| way | events | s | events/s | MiB | peak RSS MiB | of it anonymous |");
    println!("|---|---|---|---|---|---|---|");
    for c in found {
        println!(
            "| {} | {} | {:.1} | {:.0} | {:.1} | {:.1} | {:.1} |",
            c.way,
            c.events,
            c.seconds,
            c.events_per_second,
            c.bytes as f64 / f64::from(1 << 20),
            c.peak_rss_mib,
            c.peak_anonymous_mib
        );
    }
    Ok(())
}

async fn copy(data_dir: &Path) -> Result<Vec<Copied>, BenchError> {
    let log = SqliteLogArchive::open_read_only(&data_dir.join("events.db")).map_err(usage)?;
    let log: Arc<dyn LogArchive> = Arc::new(log);
    let events = log.head().await.map_err(usage)?;
    let scratch = tempfile::tempdir_in(data_dir)?;
    let folder = scratch.path().join("export");
    let mut found = Vec::new();
    for way in ["export", "check", "import"] {
        let watch = MemoryWatch::start();
        let begin = Instant::now();
        match way {
            "export" => run_export(&log, &folder).await?,
            "check" => run_import(&folder, &["--check"], scratch.path()).await?,
            _ => run_import(&folder, &[], scratch.path()).await?,
        }
        let seconds = begin.elapsed().as_secs_f64();
        let (peak_rss_mib, peak_anonymous_mib) = watch.stop().await;
        found.push(Copied {
            way,
            events,
            seconds,
            events_per_second: events as f64 / seconds,
            bytes: size_of(&folder)?,
            peak_rss_mib,
            peak_anonymous_mib,
        });
    }
    Ok(found)
}

fn size_of(folder: &Path) -> Result<u64, BenchError> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}

fn parts(log: &Arc<dyn LogArchive>, last: Position) -> Vec<Arc<dyn Part>> {
    vec![
        Arc::new(Events::new(Arc::clone(log), last)),
        Arc::new(PeoplesKeys::new(Arc::clone(log))),
        Arc::new(PeoplesCredentials::new(Arc::clone(log), last)),
    ]
}

async fn run_export(log: &Arc<dyn LogArchive>, folder: &Path) -> Result<(), BenchError> {
    let line = ExportLine::parse_from(["export".as_ref(), folder.as_os_str()]);
    let parts = |last| parts(log, last);
    let (now, stop) = (SystemClock.now(), CancellationToken::new());
    export(
        &line.options,
        &**log,
        parts,
        None,
        now,
        &mut std::io::sink(),
        stop,
    )
    .await
    .map_err(usage)?;
    Ok(())
}

async fn run_import(folder: &Path, flags: &[&str], scratch: &Path) -> Result<(), BenchError> {
    let words = ["import"].iter().chain(flags).map(OsStr::new);
    let line = ImportLine::parse_from(words.chain([folder.as_os_str()]));
    let lines: [Arc<dyn Lines>; 3] = [
        Arc::new(EventLines::default()),
        Arc::new(KeyLines::default()),
        Arc::new(CredentialsLines),
    ];
    let open = || async {
        let log = SqliteLogArchive::open(&scratch.join("imported.db"));
        let log: Arc<dyn LogArchive> = Arc::new(log.map_err(|error| error.to_string())?);
        let parts = parts(&log, Position::MAX);
        Ok(Target { log, parts })
    };
    let stop = CancellationToken::new();
    import(&line.options, &lines, open, &mut std::io::sink(), stop)
        .await
        .map_err(usage)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::fill_for_tests;

    #[test]
    fn a_filled_log_can_be_copied() {
        let folder = tempfile::tempdir().unwrap();
        fill_for_tests(folder.path(), 60);
        let found = runtime().unwrap().block_on(copy(folder.path())).unwrap();
        assert_eq!(found.len(), 3);
        assert!(
            found
                .iter()
                .all(|copied| copied.events == 60 && copied.bytes > 1_000)
        );
    }
}
