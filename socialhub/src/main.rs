//! The SocialHub binary: configuration, wiring, lifecycle. The only crate that names `infra`; every rule lives
//! elsewhere.

mod config;
mod contract;
mod demo;
mod doctor;
mod healthcheck;
mod serve;
mod server;
mod telemetry;
mod wire;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand};
use config::{Config, Profile, Settings};
use socialhub_api::Service;
use wire::Roles;

// The default allocator keeps what bursts of requests took; this one gives it back and is faster under threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A social network's backend, event-sourced, in one program.
///
/// Without a command it serves: everything on one address, data in one folder, no other server needed.
#[derive(Debug, Parser)]
#[command(name = "socialhub", version, propagate_version = true)]
struct Cli {
    /// Configuration file (TOML); without it, `socialhub.toml` is read if it is there
    #[arg(long, env = "SOCIALHUB_CONFIG", global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    settings: Settings,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve everything in one process (what happens without a command, too)
    Serve,
    /// Serve some services alone: auth, users, posts, notifications, feed, chat (distributed profile)
    Service {
        /// Their names
        #[arg(required = true)]
        names: Vec<Service>,
    },
    /// Publish the event log to Kafka (distributed profile)
    Relay,
    /// Project read models alone: feed, notifications, counters (distributed profile)
    Project {
        /// Their names
        #[arg(required = true, value_parser = ["feed", "notifications", "counters"])]
        names: Vec<String>,
    },
    /// Write every event into Parquet files, for questions of all kinds (distributed profile)
    Analytics {
        #[command(subcommand)]
        command: Option<AnalyticsCommand>,
    },
    /// Rebuild, verify and look at read models and the log
    Replay(socialhub_replay_tools::Options),
    /// Fill a running server with a small network, through its public API
    Demo(demo::Options),
    /// Check the configuration, the data folder and everything in it, and say what is wrong
    Doctor,
    /// Ask a process whether it is ready, e.g. at http://127.0.0.1:9100/readyz
    Healthcheck {
        /// Its address
        url: String,
    },
    /// Bring the databases of the distributed profile up to date; before its processes are started
    Migrate,
    /// Print the OpenAPI document
    Openapi,
    /// Print the AsyncAPI document: the topics and chat
    Asyncapi,
    /// Write the JSON Schemas of the events, or hold somebody's copies against them
    Schemas(contract::SchemaOptions),
    /// Print a reference of all settings
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum AnalyticsCommand {
    /// Print the files that count, one a line
    Files {
        /// One JSON object a line, with rows, bytes and positions
        #[arg(long)]
        json: bool,
    },
    /// Print SQL that makes them the view `events` in DuckDB
    View,
    /// Merge small files, beside a running consumer or without one
    Compact,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// The reference page, as Markdown
    Reference,
}

fn main() -> ExitCode {
    socialhub_infra::tls::install();
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("socialhub: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, String> {
    match cli.command.unwrap_or(Command::Serve) {
        Command::Openapi => {
            let document = socialhub_api::document()
                .to_pretty_json()
                .map_err(|error| error.to_string())?;
            println!("{document}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Asyncapi => contract::print_asyncapi(),
        Command::Schemas(options) => contract::schemas(&options),
        Command::Config(ConfigCommand::Reference) => {
            print!("{}", config::reference(&Cli::command()));
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo(options) => in_runtime(async {
            demo::run(options)
                .await
                .map(|()| ExitCode::SUCCESS)
                .map_err(|error| error.to_string())
        }),
        Command::Migrate => {
            let config = distributed(cli.settings, cli.config.as_deref())?;
            in_runtime(async { wire::migrate(&config).await.map(|()| ExitCode::SUCCESS) })
        }
        Command::Healthcheck { url } => in_runtime(healthcheck::run(&url)),
        Command::Doctor => doctor::run(&load(cli.settings, cli.config.as_deref())?),
        Command::Serve => {
            let config = load(cli.settings, cli.config.as_deref())?;
            play(config, Roles::all())
        }
        Command::Service { names } => {
            let config = distributed(cli.settings, cli.config.as_deref())?;
            play(config, Roles::services(names))
        }
        Command::Relay => {
            let config = distributed(cli.settings, cli.config.as_deref())?;
            play(config, Roles::relay())
        }
        Command::Project { names } => {
            let config = distributed(cli.settings, cli.config.as_deref())?;
            play(config, Roles::projections(names))
        }
        Command::Analytics { command: None } => {
            let config = distributed(cli.settings, cli.config.as_deref())?;
            play(config, Roles::analytics())
        }
        Command::Analytics {
            command: Some(command),
        } => {
            let config = load(cli.settings, cli.config.as_deref())?;
            in_runtime(wire::analytics::run(&config, &command))
        }
        Command::Replay(options) => {
            let config = load(cli.settings, cli.config.as_deref())?;
            in_runtime(wire::replay(config, options))
        }
    }
}

fn play(config: Config, roles: Roles) -> Result<ExitCode, String> {
    in_runtime(async { serve::run(config, roles).await.map(|()| ExitCode::SUCCESS) })
}

/// The configuration of a process that plays some roles only. On SQLite one process plays them all.
fn distributed(settings: Settings, file: Option<&Path>) -> Result<Config, String> {
    let config = load(settings, file)?;
    match config.profile {
        Profile::Distributed(_) => Ok(config),
        Profile::Embedded { .. } => Err(
            "DATABASE_URL: a log on SQLite belongs to one process: use `socialhub serve`, or a log on Postgres"
                .to_owned(),
        ),
    }
}

fn load(settings: Settings, file: Option<&Path>) -> Result<Config, String> {
    let config = config::load(settings, file).map_err(|error| error.to_string())?;
    telemetry::start_logging(&config)?;
    Ok(config)
}

fn in_runtime(work: impl Future<Output = Result<ExitCode, String>>) -> Result<ExitCode, String> {
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    let outcome = runtime.block_on(work);
    // The process ends now, and with it the runtime's threads. Taken apart before, it would let MongoDB's client panic, which
    // ends its sessions in a task of its own and finds its pool gone. What had to be closed, `work` has closed.
    std::mem::forget(runtime);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_reference_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        let page = std::fs::read_to_string(path).unwrap();
        let wanted = config::reference(&Cli::command());
        assert_eq!(
            page, wanted,
            "write it anew: socialhub config reference > docs/configuration.md"
        );
    }
}
