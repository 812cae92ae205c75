//! Configuration: flags over environment over file over defaults, each setting documented once, here.
//!
//! `docs/configuration.md` is generated from this module (`socialhub config reference`); a test fails when it drifts.
//! A key that the file has and this module does not is refused, with the key's name.

mod profile;
mod settings;

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use socialhub_api::TrustedProxies;

#[cfg(feature = "distributed")]
pub use self::profile::Servers;
pub use self::{
    profile::Profile,
    settings::{LogFormat, Settings, Switch},
};

/// Where the configuration file is looked for when no flag names one.
const DEFAULT_FILE: &str = "socialhub.toml";
/// bcrypt's cost: 2^10 rounds, as the contract's clients expect of a login's time.
pub const USUAL_COST: u32 = 10;
/// The least that bcrypt takes, and what makes a login take about a second.
const PASSWORD_COSTS: RangeInclusive<u32> = 4..=14;

/// What the program runs with, after every source was asked.
#[derive(Clone)]
pub struct Config {
    /// Where to listen, if it was said.
    listen: Option<SocketAddr>,
    /// Where liveness, readiness and metrics are served alone.
    pub metrics_listen: Option<SocketAddr>,
    /// The data folder.
    pub data_dir: PathBuf,
    /// Which adapters stand behind the ports.
    pub profile: Profile,
    /// Where uploaded files are, if not in the data folder.
    pub media_url: Option<String>,
    /// Where the analytics consumer keeps its files, if not in the data folder.
    #[cfg_attr(
        not(feature = "distributed"),
        expect(dead_code, reason = "read by the adapters that this build leaves out")
    )]
    pub analytics_url: Option<String>,
    /// How long it holds an event at most.
    #[cfg_attr(
        not(feature = "distributed"),
        expect(dead_code, reason = "read by the adapters that this build leaves out")
    )]
    pub analytics_flush_seconds: u64,
    /// The mail server, if there is one.
    pub smtp_url: Option<String>,
    /// Whom mails come from.
    pub mail_from: String,
    /// The key for tokens, if one is given.
    pub jwt_secret: Option<String>,
    /// The operator's token, if one is given.
    pub operator_token: Option<String>,
    /// The gateway's secret, if one is given.
    pub gateway_secret: Option<String>,
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
    /// bcrypt's cost.
    pub password_cost: u32,
    /// Connections served at once.
    pub max_connections: usize,
    /// How long a stop may take.
    pub shutdown_seconds: u64,
    /// What is logged.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
}

impl Config {
    /// Where to listen: what was said, else this port of the loopback.
    pub fn listen_or(&self, port: u16) -> SocketAddr {
        self.listen
            .unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }
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
    resolve(flags.over(from_file))
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

fn resolve(settings: Settings) -> Result<Config, ConfigError> {
    let data_dir = settings
        .data_dir
        .clone()
        .unwrap_or_else(|| PathBuf::from("./data"));
    let profile = profile::choose(&settings, &data_dir)?;
    let secrets = Secrets::read(&settings, &profile)?;
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    Ok(Config {
        listen: settings.listen,
        metrics_listen: settings.metrics_listen,
        profile,
        media_url: settings.media_url,
        analytics_url: settings.analytics_url,
        analytics_flush_seconds: at_least_one(
            "ANALYTICS_FLUSH_SECONDS",
            settings.analytics_flush_seconds,
            60,
        )?,
        smtp_url: settings.smtp_url,
        mail_from: settings
            .mail_from
            .unwrap_or_else(|| "SocialHub <no-reply@localhost>".to_owned()),
        jwt_secret: secrets.jwt,
        operator_token: secrets.operator,
        gateway_secret: secrets.gateway,
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
        password_cost: password_cost(settings.password_cost)?,
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

fn password_cost(cost: Option<u32>) -> Result<u32, ConfigError> {
    let cost = cost.unwrap_or(USUAL_COST);
    match PASSWORD_COSTS.contains(&cost) {
        true => Ok(cost),
        false => Err(bad("PASSWORD_COST", "must be from 4 to 14")),
    }
}

struct Secrets {
    jwt: Option<String>,
    operator: Option<String>,
    gateway: Option<String>,
}

impl Secrets {
    /// What several processes must agree on cannot be made by each of them: with servers, all three are needed.
    fn read(settings: &Settings, profile: &Profile) -> Result<Self, ConfigError> {
        let shared = matches!(profile, Profile::Distributed(_));
        let read = |setting: &'static str, value: &Option<String>, file: &Option<PathBuf>| {
            let found = secret(setting, value.clone(), file.clone())?;
            match &found {
                None if shared => Err(bad(setting, "is needed with a log on Postgres")),
                Some(text) if text.is_empty() => Err(bad(setting, "is empty")),
                _ => Ok(found),
            }
        };
        let secrets = Self {
            jwt: read(
                "JWT_SECRET",
                &settings.jwt_secret,
                &settings.jwt_secret_file,
            )?,
            operator: read(
                "OPERATOR_TOKEN",
                &settings.operator_token,
                &settings.operator_token_file,
            )?,
            gateway: read(
                "GATEWAY_SECRET",
                &settings.gateway_secret,
                &settings.gateway_secret_file,
            )?,
        };
        let short = |secret: &Option<String>, least| {
            secret.as_ref().is_some_and(|secret| secret.len() < least)
        };
        if short(&secrets.jwt, 32) {
            return Err(bad("JWT_SECRET", "must have at least 32 bytes"));
        }
        if short(&secrets.gateway, 16) {
            return Err(bad("GATEWAY_SECRET", "must have at least 16 bytes"));
        }
        if short(&secrets.operator, 16) {
            return Err(bad("OPERATOR_TOKEN", "must have at least 16 bytes"));
        }
        Ok(secrets)
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
        let config = resolve(flags.over(file)).unwrap();
        assert_eq!(config.listen_or(8080).port(), 2);
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
        // Without the adapters the address is refused, with them what it needs besides is asked for.
        let missing = if cfg!(feature = "distributed") {
            "KAFKA_BROKERS: "
        } else {
            "DATABASE_URL: "
        };
        let message = refused(postgres);
        assert!(message.starts_with(missing), "{message}");
        for brokers in ["", " ", "one:9092,,two:9092", ":9092"] {
            let no_broker = Settings {
                database_url: Some("postgres://x".into()),
                mongodb_url: Some("mongodb://x".into()),
                redis_url: Some("redis://x".into()),
                kafka_brokers: Some(brokers.to_owned()),
                ..Settings::default()
            };
            assert!(refused(no_broker).starts_with(missing), "{brokers:?}");
        }
        let lonely = Settings {
            redis_url: Some("redis://x".into()),
            ..Settings::default()
        };
        assert!(refused(lonely).starts_with("REDIS_URL: "));
        let short = Settings {
            jwt_secret: Some("short".into()),
            ..Settings::default()
        };
        assert!(refused(short).starts_with("JWT_SECRET: "));
        let guessable = Settings {
            operator_token: Some("fifteen letters".into()),
            ..Settings::default()
        };
        assert!(refused(guessable).starts_with("OPERATOR_TOKEN: "));
        let open = Settings {
            gateway_secret: Some("fifteen letters".into()),
            ..Settings::default()
        };
        assert!(refused(open).starts_with("GATEWAY_SECRET: "));
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
