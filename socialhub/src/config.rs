//! Configuration: flags over environment over file over defaults, each setting documented once, here.
//!
//! `docs/configuration.md` is generated from this module (`socialhub config reference`); a test fails when it drifts.
//! A key that the file has and this module does not is refused, with the key's name.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use serde::Deserialize;
use socialhub_api::TrustedProxies;

/// Where the configuration file is looked for when no flag names one.
const DEFAULT_FILE: &str = "socialhub.toml";

/// A switch that reads well on a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Every setting, as flag, environment variable and key of the file. What is left out has its default.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Address and port to listen on [default: 127.0.0.1:8080]
    #[arg(long, env = "LISTEN", global = true, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,

    /// Folder for databases, media, mail and secrets; made if it is not there [default: ./data]
    #[arg(long, env = "DATA_DIR", global = true, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,

    /// The event log, `sqlite:FILE`; its kind chooses the profile [default: sqlite:DATA_DIR/events.db]
    #[arg(
        long,
        env = "DATABASE_URL",
        global = true,
        value_name = "URL",
        hide_env_values = true
    )]
    pub database_url: Option<String>,

    /// Key that tokens are signed with, at least 32 bytes [default: made and kept in the data folder]
    #[arg(
        long,
        env = "JWT_SECRET",
        global = true,
        value_name = "SECRET",
        hide_env_values = true
    )]
    pub jwt_secret: Option<String>,

    /// File that holds the key that tokens are signed with
    #[arg(long, env = "JWT_SECRET_FILE", global = true, value_name = "FILE")]
    pub jwt_secret_file: Option<PathBuf>,

    /// Token for what only an operator may do; when it is set, `/metrics` wants it [default: none]
    #[arg(
        long,
        env = "OPERATOR_TOKEN",
        global = true,
        value_name = "SECRET",
        hide_env_values = true
    )]
    pub operator_token: Option<String>,

    /// File that holds the operator's token
    #[arg(long, env = "OPERATOR_TOKEN_FILE", global = true, value_name = "FILE")]
    pub operator_token_file: Option<PathBuf>,

    /// Origins that browsers may call from, separated by commas [default: http://localhost:5173]
    #[arg(
        long,
        env = "CORS_ORIGINS",
        global = true,
        value_name = "ORIGINS",
        value_delimiter = ','
    )]
    pub cors_origins: Option<Vec<String>>,

    /// Limits per address and per account [default: on]
    #[arg(long, env = "RATE_LIMITS", global = true, value_name = "ON/OFF")]
    pub rate_limits: Option<Switch>,

    /// Requests an address may make a second, over time [default: 200]
    #[arg(
        long,
        env = "RATE_LIMIT_PER_ADDRESS",
        global = true,
        value_name = "PER_SECOND"
    )]
    pub rate_limit_per_address: Option<u32>,

    /// Logins and resets an account may see tried a minute, over time [default: 10]
    #[arg(
        long,
        env = "RATE_LIMIT_PER_ACCOUNT",
        global = true,
        value_name = "PER_MINUTE"
    )]
    pub rate_limit_per_account: Option<u32>,

    /// Proxies whose `X-Forwarded-For` is believed, addresses or networks, separated by commas [default: loopback]
    #[arg(long, env = "TRUSTED_PROXIES", global = true, value_name = "ADDRESSES")]
    pub trusted_proxies: Option<String>,

    /// Threads that hash passwords [default: one for each core]
    #[arg(long, env = "PASSWORD_THREADS", global = true, value_name = "COUNT")]
    pub password_threads: Option<usize>,

    /// Password checks that may wait before further ones are answered 503 [default: 512]
    #[arg(long, env = "PASSWORD_QUEUE", global = true, value_name = "COUNT")]
    pub password_queue: Option<usize>,

    /// Connections served at once; further ones wait [default: 10000]
    #[arg(long, env = "MAX_CONNECTIONS", global = true, value_name = "COUNT")]
    pub max_connections: Option<usize>,

    /// Seconds a stop may take to finish what is under way [default: 20]
    #[arg(long, env = "SHUTDOWN_SECONDS", global = true, value_name = "SECONDS")]
    pub shutdown_seconds: Option<u64>,

    /// What is logged: `error`, `warn`, `info`, `debug`, or a filter like `info,socialhub_infra=debug` [default: info]
    #[arg(long, env = "LOG", global = true, value_name = "FILTER")]
    pub log: Option<String>,

    /// How log lines look [default: text]
    #[arg(long, env = "LOG_FORMAT", global = true, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// What the program runs with, after every source was asked.
#[derive(Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The data folder.
    pub data_dir: PathBuf,
    /// The event log's file.
    pub log_file: PathBuf,
    /// The key for tokens, if one is given.
    pub jwt_secret: Option<String>,
    /// The operator's token, if one is given.
    pub operator_token: Option<String>,
    /// Origins that browsers may call from.
    pub cors_origins: Vec<String>,
    /// Whether there are rate limits.
    pub rate_limits: bool,
    /// Requests an address may make a second.
    pub rate_limit_per_address: u32,
    /// Attempts on an account a minute.
    pub rate_limit_per_account: u32,
    /// Proxies to believe.
    pub trusted_proxies: TrustedProxies,
    /// Threads that hash passwords.
    pub password_threads: usize,
    /// Password checks that may wait.
    pub password_queue: usize,
    /// Connections served at once.
    pub max_connections: usize,
    /// How long a stop may take.
    pub shutdown_seconds: u64,
    /// What is logged.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// Why the configuration cannot be used. Each message names the setting.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file has an unknown key or a bad value.
    #[error("{path}: {reason}")]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        reason: String,
    },
    /// A setting has a value that cannot be used.
    #[error("{setting}: {reason}")]
    BadValue {
        /// The setting's variable.
        setting: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// Reads the file (the one named, or `socialhub.toml` if there is one) and puts flags and environment over it.
///
/// # Errors
/// [`ConfigError`].
pub fn load(flags: Settings, file: Option<&Path>) -> Result<Config, ConfigError> {
    let from_file = match file {
        Some(path) => read_file(path)?,
        None if Path::new(DEFAULT_FILE).exists() => read_file(Path::new(DEFAULT_FILE))?,
        None => Settings::default(),
    };
    resolve(over(flags, from_file))
}

fn read_file(path: &Path) -> Result<Settings, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let bad = |error: toml::de::Error| ConfigError::BadFile {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    toml::from_str(&text).map_err(bad)
}

/// `first` where it says something, else `second`.
fn over(first: Settings, second: Settings) -> Settings {
    macro_rules! merge {
        ($($field:ident),* $(,)?) => { Settings { $( $field: first.$field.or(second.$field), )* } };
    }
    merge!(
        listen,
        data_dir,
        database_url,
        jwt_secret,
        jwt_secret_file,
        operator_token,
        operator_token_file,
        cors_origins,
        rate_limits,
        rate_limit_per_address,
        rate_limit_per_account,
        trusted_proxies,
        password_threads,
        password_queue,
        max_connections,
        shutdown_seconds,
        log,
        log_format,
    )
}

fn resolve(settings: Settings) -> Result<Config, ConfigError> {
    let data_dir = settings.data_dir.unwrap_or_else(|| PathBuf::from("./data"));
    let jwt_secret = secret("JWT_SECRET", settings.jwt_secret, settings.jwt_secret_file)?;
    if jwt_secret.as_ref().is_some_and(|key| key.len() < 32) {
        return Err(bad("JWT_SECRET", "must have at least 32 bytes"));
    }
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    Ok(Config {
        listen: settings
            .listen
            .unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))),
        log_file: log_file(settings.database_url.as_deref(), &data_dir)?,
        jwt_secret,
        operator_token: secret(
            "OPERATOR_TOKEN",
            settings.operator_token,
            settings.operator_token_file,
        )?,
        cors_origins: origins(settings.cors_origins)?,
        rate_limits: settings.rate_limits.unwrap_or(Switch::On) == Switch::On,
        rate_limit_per_address: at_least_one(
            "RATE_LIMIT_PER_ADDRESS",
            settings.rate_limit_per_address,
            200,
        )?,
        rate_limit_per_account: at_least_one(
            "RATE_LIMIT_PER_ACCOUNT",
            settings.rate_limit_per_account,
            10,
        )?,
        trusted_proxies: match settings.trusted_proxies {
            Some(text) => text
                .parse()
                .map_err(|error| bad("TRUSTED_PROXIES", format!("{error}")))?,
            None => TrustedProxies::default(),
        },
        password_threads: at_least_one("PASSWORD_THREADS", settings.password_threads, cores)?,
        password_queue: at_least_one("PASSWORD_QUEUE", settings.password_queue, 512)?,
        max_connections: at_least_one("MAX_CONNECTIONS", settings.max_connections, 10_000)?,
        shutdown_seconds: settings.shutdown_seconds.unwrap_or(20),
        log: settings.log.unwrap_or_else(|| "info".to_owned()),
        log_format: settings.log_format.unwrap_or(LogFormat::Text),
        data_dir,
    })
}

fn bad(setting: &'static str, reason: impl Into<String>) -> ConfigError {
    ConfigError::BadValue {
        setting,
        reason: reason.into(),
    }
}

fn at_least_one<T: PartialOrd + From<u8>>(
    setting: &'static str,
    value: Option<T>,
    default: T,
) -> Result<T, ConfigError> {
    match value {
        Some(value) if value < T::from(1) => Err(bad(setting, "must be at least 1")),
        Some(value) => Ok(value),
        None => Ok(default),
    }
}

fn secret(
    setting: &'static str,
    value: Option<String>,
    file: Option<PathBuf>,
) -> Result<Option<String>, ConfigError> {
    match (value, file) {
        (Some(_), Some(_)) => Err(bad(
            setting,
            format!("given twice: as {setting} and as {setting}_FILE"),
        )),
        (None, Some(path)) => match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(source) => Err(ConfigError::Unreadable { path, source }),
        },
        (value, None) => Ok(value),
    }
}

fn log_file(url: Option<&str>, data_dir: &Path) -> Result<PathBuf, ConfigError> {
    let Some(url) = url else {
        return Ok(data_dir.join("events.db"));
    };
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return if path.is_empty() {
            Err(bad("DATABASE_URL", "names no file"))
        } else {
            Ok(path.into())
        };
    }
    if url.starts_with("postgres:") || url.starts_with("postgresql:") {
        return Err(bad(
            "DATABASE_URL",
            "this build has no Postgres adapter (feature `distributed`)",
        ));
    }
    Err(bad("DATABASE_URL", "must start with `sqlite:`"))
}

fn origins(list: Option<Vec<String>>) -> Result<Vec<String>, ConfigError> {
    let list = list.unwrap_or_else(|| vec!["http://localhost:5173".to_owned()]);
    let is_origin = |text: &String| {
        text.split_once("://").is_some_and(|(scheme, host)| {
            matches!(scheme, "http" | "https")
                && !host.is_empty()
                && !host.contains(['/', '*', ' '])
        })
    };
    match list
        .iter()
        .find(|text| !text.is_empty() && !is_origin(text))
    {
        Some(text) => Err(bad(
            "CORS_ORIGINS",
            format!("`{text}` is not an origin like https://example.org"),
        )),
        None => Ok(list.into_iter().filter(|text| !text.is_empty()).collect()),
    }
}

/// The reference page of all settings, as Markdown.
pub fn reference(command: &clap::Command) -> String {
    let mut page = String::from(
        "# Configuration\n\nFlags win over environment variables, these over the file (`--config FILE`, else \
         `socialhub.toml` where the program starts, if there is one), this over the defaults. In the file a key is the \
         flag's name with underscores. Unknown keys are refused. Secrets can be given as a file, too.\n\nThis page is \
         made by `socialhub config reference`.\n\n| flag | variable | key in the file | what it is |\n|---|---|---|---|\n",
    );
    for argument in command.get_arguments() {
        let (Some(long), Some(variable)) = (argument.get_long(), argument.get_env()) else {
            continue;
        };
        let key = if long == "config" {
            "–".to_owned()
        } else {
            format!("`{}`", long.replace('-', "_"))
        };
        let help = argument
            .get_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        page.push_str(&format!(
            "| `--{long}` | `{}` | {key} | {help} |\n",
            variable.to_string_lossy()
        ));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file: Settings = toml::from_str("listen = '127.0.0.1:1'\nrate_limits = 'off'").unwrap();
        let flags = Settings {
            listen: Some("127.0.0.1:2".parse().unwrap()),
            ..Settings::default()
        };
        let config = resolve(over(flags, file)).unwrap();
        assert_eq!(config.listen.port(), 2);
        assert!(!config.rate_limits);
        assert_eq!(config.data_dir, Path::new("./data"));
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = toml::from_str::<Settings>("lissen = '127.0.0.1:1'")
            .unwrap_err()
            .to_string();
        assert!(error.contains("lissen"), "{error}");
    }

    #[test]
    fn bad_values_name_their_setting() {
        let refused = |settings: Settings| resolve(settings).err().unwrap().to_string();
        let postgres = Settings {
            database_url: Some("postgres://x".into()),
            ..Settings::default()
        };
        assert!(refused(postgres).starts_with("DATABASE_URL: "));
        let short = Settings {
            jwt_secret: Some("short".into()),
            ..Settings::default()
        };
        assert!(refused(short).starts_with("JWT_SECRET: "));
        let origin = Settings {
            cors_origins: Some(vec!["localhost".into()]),
            ..Settings::default()
        };
        assert!(refused(origin).starts_with("CORS_ORIGINS: "));
        let none = Settings {
            max_connections: Some(0),
            ..Settings::default()
        };
        assert!(refused(none).starts_with("MAX_CONNECTIONS: "));
    }
}
