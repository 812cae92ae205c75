//! The replay command line on the stores of the chosen profile.

use std::{path::Path, process::ExitCode, sync::Arc};

use socialhub_domain::{Clock, upcast};
use socialhub_infra::{
    clock::SystemClock, process_file::ProcessFile, sqlite::event_log::SqliteEventLog,
};
use socialhub_replay_tools::{Options, ReplayTarget};
use tokio_util::sync::CancellationToken;

use super::{past::SqlitePast, sealed, text};
use crate::{
    config::{Config, Profile},
    serve::{second_signal, wait_for_signal},
};

/// Runs a command of `socialhub replay`, beside running processes or without any.
///
/// # Errors
/// A line for the operator.
pub async fn replay(config: Config, options: Options) -> Result<ExitCode, String> {
    upcast::check().map_err(text)?;
    let stop = CancellationToken::new();
    let interrupted = stop.clone();
    tokio::spawn(async move {
        if wait_for_signal().await.is_ok() {
            interrupted.cancel();
        }
        // Whoever says it again does not want to wait for anything: as if killed, which every command can bear.
        if second_signal().await.is_ok() {
            std::process::exit(130);
        }
    });
    let options = match options.transfer() {
        Ok(command) => return super::transfer::transfer(config, command, stop).await,
        Err(options) => options,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let config = Arc::new(config);
    let target = match &config.profile {
        Profile::Embedded { log_file } => embedded(&config, log_file, clock)?,
        #[cfg(feature = "distributed")]
        Profile::Distributed(servers) => {
            super::distributed::replay(&config, servers, clock).await?
        }
        #[cfg(not(feature = "distributed"))]
        Profile::Distributed(_) => return Err(super::left_out()),
    };
    let verdict = socialhub_replay_tools::run(options, &target, &mut std::io::stdout(), stop).await;
    verdict.map(ExitCode::from).map_err(text)
}

/// Why nothing can be read.
pub fn no_log(log_file: &Path) -> String {
    format!("DATA_DIR: there is no event log at {}", log_file.display())
}

fn embedded(
    config: &Arc<Config>,
    log_file: &Path,
    clock: Arc<dyn Clock>,
) -> Result<ReplayTarget, String> {
    if !log_file.exists() {
        return Err(no_log(log_file));
    }
    let log = Arc::new(SqliteEventLog::open_read_only(log_file).map_err(text)?);
    let folder = config.data_dir.join("read-models");
    let erasures = log.clone();
    let log = sealed(&log);
    let models = super::embedded::models(&folder, &clock)?;
    let past = SqlitePast {
        log: log.clone(),
        config: Arc::clone(config),
        clock: clock.clone(),
    };
    Ok(ReplayTarget {
        log,
        processes: Arc::new(ProcessFile::of(&config.data_dir)),
        erasures,
        analytics: None,
        models,
        clock,
        past: Arc::new(past),
        relay: None,
    })
}
