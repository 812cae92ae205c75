//! Copying to and from the distributed profile.

use std::{path::PathBuf, sync::Arc};

use socialhub_event_log::HeardOf;
use socialhub_infra::postgres::{
    chat_archive::PgChatArchive, chat_log::PgChatLog, connect::OpenError, event_log::PgEventLog,
    event_log::PgLogArchive,
};
use socialhub_replay_tools::{
    SILENT_AFTER, Verdict,
    transfer::{Both, Logs, MigrateOptions, media::Contents, migrate},
};
use tokio_util::sync::CancellationToken;

use super::super::{
    secret_file, text,
    transfer::{Side, embedded_alone, media_files},
};
use crate::config::{Config, Profile, Servers};

/// The stores of the configured servers, as they are: a backup that is taken before an upgrade must not be its first step.
///
/// # Errors
/// A line for the operator.
pub async fn open_as_they_are(config: &Config, servers: &Servers) -> Result<Side, String> {
    open_at(config, &servers.database_url, &servers.chat_database_url).await
}

/// The stores of the configured servers, brought up to date.
///
/// # Errors
/// A line for the operator.
pub async fn open(config: &Config, servers: &Servers) -> Result<Side, String> {
    open_up_to_date(config, &servers.database_url, &servers.chat_database_url).await
}

async fn open_up_to_date(config: &Config, log_url: &str, chat_url: &str) -> Result<Side, String> {
    PgEventLog::migrate(log_url)
        .await
        .map_err(|error| log_failed(&error))?;
    let log = open_log(log_url).await?;
    refuse_beside(&log.processes().await.map_err(text)?)?;
    PgChatLog::migrate(chat_url)
        .await
        .map_err(|error| chat_failed(&error))?;
    beside(log, config, chat_url).await
}

/// What is brought into a log must not come between what somebody writes there, and a server looks only when it starts
/// whether people are to be erased again.
fn refuse_beside(processes: &[HeardOf]) -> Result<(), String> {
    let is_running = |heard: &&HeardOf| heard.seconds_ago <= SILENT_AFTER;
    match processes.iter().find(is_running) {
        None => Ok(()),
        Some(heard) => Err(format!(
            "DATABASE_URL: {} ({}) was heard of {:.0} s ago: stop every process on that log first; of one that was killed \
             nothing is to be heard for {SILENT_AFTER:.0} s",
            heard.report.process, heard.report.roles, heard.seconds_ago
        )),
    }
}

fn log_failed(error: &OpenError) -> String {
    format!("DATABASE_URL: {error}")
}

fn chat_failed(error: &OpenError) -> String {
    format!("CHAT_DATABASE_URL: {error}")
}

/// A server that is away is not waited for, as a server of ours does it: somebody looks on.
async fn open_at(config: &Config, log_url: &str, chat_url: &str) -> Result<Side, String> {
    beside(open_log(log_url).await?, config, chat_url).await
}

async fn open_log(url: &str) -> Result<PgLogArchive, String> {
    PgLogArchive::connect(url)
        .await
        .map_err(|error| log_failed(&error))
}

/// A log, and what belongs to it elsewhere.
async fn beside(log: PgLogArchive, config: &Config, chat_url: &str) -> Result<Side, String> {
    let chat = PgChatArchive::connect(chat_url)
        .await
        .map_err(|error| chat_failed(&error))?;
    Ok(Side {
        log: Arc::new(log),
        chat: Arc::new(chat),
        media: media_files(config.media_url.as_deref(), &config.data_dir)?,
    })
}

/// Moves a data folder to the servers.
///
/// # Errors
/// A line for the operator.
pub async fn run(
    config: &Config,
    options: &MigrateOptions,
    stop: CancellationToken,
) -> Result<Verdict, String> {
    let folder = source_folder(&options.from)?;
    let log_file = folder.join("events.db");
    if !log_file.exists() {
        return Err(format!(
            "--from: there is no event log at {}",
            log_file.display()
        ));
    }
    let (log_url, chat_url) = target(config, options)?;
    let source = embedded_alone(&folder, &log_file, options.media_from.as_deref())?;
    let target = open_up_to_date(config, &log_url, &chat_url).await?;
    let last = source.log.head().await.map_err(text)?;
    // The files are taken from where they are when they are written.
    let from = source.parts(last, Some(Contents::Elsewhere));
    let to = target.parts(last, Some(Contents::In(Arc::clone(&source.media))));
    let parts: Vec<Both> = from
        .into_iter()
        .zip(to)
        .enumerate()
        .map(|(nth, (source, target))| Both {
            source,
            target,
            // The events, which come first, end where the log does.
            last: if nth == 0 {
                last.to_string()
            } else {
                String::new()
            },
        })
        .collect();
    let mut out = std::io::stdout();
    let logs = Logs {
        source: source.log,
        target: target.log,
    };
    let verdict = migrate(options, &logs, &parts, &mut out, stop)
        .await
        .map_err(text)?;
    if !options.json {
        say_what_is_next(config, &folder);
    }
    Ok(verdict)
}

fn source_folder(url: &str) -> Result<PathBuf, String> {
    let path = url
        .strip_prefix("sqlite:")
        .ok_or("--from: must be `sqlite:` and the data folder of the embedded profile")?;
    let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
    // The log's own file names its folder, too.
    match path.file_name() {
        Some(name) if name == "events.db" => Ok(path.with_file_name("")),
        _ => Ok(path),
    }
}

/// The addresses of the log and of the chat log.
fn target(config: &Config, options: &MigrateOptions) -> Result<(String, String), String> {
    let servers = match &config.profile {
        Profile::Distributed(servers) => Some(servers),
        Profile::Embedded { .. } => None,
    };
    let postgres = |url: &str| url.starts_with("postgres:") || url.starts_with("postgresql:");
    match (&options.to, servers) {
        (Some(to), _) if !postgres(to) => Err("--to: must start with `postgres:`".to_owned()),
        (Some(to), Some(servers)) if *to == servers.database_url => {
            Ok((to.clone(), servers.chat_database_url.clone()))
        }
        (Some(to), _) => Ok((to.clone(), to.clone())),
        (None, Some(servers)) => Ok((
            servers.database_url.clone(),
            servers.chat_database_url.clone(),
        )),
        (None, None) => Err("--to: is needed, or DATABASE_URL".to_owned()),
    }
}

fn say_what_is_next(config: &Config, folder: &std::path::Path) {
    let media = match &config.media_url {
        Some(_) => "the store that MEDIA_URL names".to_owned(),
        None => format!(
            "{}; all services must find it there, or set MEDIA_URL and run this again",
            config.data_dir.join("media").display()
        ),
    };
    println!(
        "Media are in {media}.\nNext: start the cluster with JWT_SECRET_FILE={}, or everybody has to log in again; the relay \
         publishes the log and the projectors build their models; `socialhub replay status` until nothing is behind; \
         `socialhub replay verify --all`. Do not start the old server again: what it took would be lost. Keep its folder until \
         you have seen that all is there.",
        secret_file(folder, "jwt").display()
    );
}
