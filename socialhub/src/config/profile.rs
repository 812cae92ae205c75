//! The two profiles. The address of the event log chooses; what else is needed follows from it, so that there are two
//! ways to run the program and not as many as there are combinations of servers.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{ConfigError, Settings, bad};

/// Which adapters stand behind the ports.
#[derive(Debug, Clone)]
pub enum Profile {
    /// SQLite and the process itself.
    Embedded {
        /// The event log's file.
        log_file: PathBuf,
    },
    /// Postgres, Kafka, MongoDB and Redis.
    #[cfg_attr(
        not(feature = "distributed"),
        expect(dead_code, reason = "read by the adapters that this build leaves out")
    )]
    Distributed(Box<Servers>),
}

/// Where the servers of the distributed profile are.
#[derive(Clone)]
#[cfg_attr(
    not(feature = "distributed"),
    expect(dead_code, reason = "read by the adapters that this build leaves out")
)]
pub struct Servers {
    /// The event log, credentials, stored answers.
    pub database_url: String,
    /// The feed's read model.
    pub read_model_url: String,
    /// The chat's messages.
    pub chat_database_url: String,
    /// Kafka.
    pub kafka_brokers: String,
    /// Partitions of topics that are made.
    pub kafka_partitions: i32,
    /// How long records stay in topics that are made.
    pub kafka_retention: Duration,
    /// Notifications.
    pub mongodb_url: String,
    /// Counters and what processes share.
    pub redis_url: String,
    /// Put before the names of topics, groups and keys.
    pub namespace: String,
}

/// The longest that records may stay in topics, in seconds.
const YEAR: u64 = 365 * 24 * 60 * 60;

/// Addresses hold passwords.
impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Servers").finish_non_exhaustive()
    }
}

/// The profile that the settings choose.
///
/// # Errors
/// [`ConfigError`], naming the setting.
pub fn choose(settings: &Settings, data_dir: &Path) -> Result<Profile, ConfigError> {
    let url = settings.database_url.as_deref();
    if url.is_some_and(|url| url.starts_with("postgres:") || url.starts_with("postgresql:")) {
        return servers(settings).map(|servers| Profile::Distributed(Box::new(servers)));
    }
    let servers = [
        ("READ_MODEL_URL", &settings.read_model_url),
        ("CHAT_DATABASE_URL", &settings.chat_database_url),
        ("KAFKA_BROKERS", &settings.kafka_brokers),
        ("MONGODB_URL", &settings.mongodb_url),
        ("REDIS_URL", &settings.redis_url),
        ("NAMESPACE", &settings.namespace),
    ];
    if let Some((setting, _)) = servers.into_iter().find(|(_, value)| value.is_some()) {
        return Err(bad(setting, "goes with a log on Postgres (DATABASE_URL)"));
    }
    log_file(url, data_dir).map(|log_file| Profile::Embedded { log_file })
}

fn servers(settings: &Settings) -> Result<Servers, ConfigError> {
    if !cfg!(feature = "distributed") {
        return Err(bad(
            "DATABASE_URL",
            "this build has no Postgres adapter: build it with `--features distributed`",
        ));
    }
    let needed = |setting: &'static str, value: &Option<String>, schemes: &[&str]| match value {
        None => Err(bad(setting, "is needed with a log on Postgres")),
        Some(url) if schemes.iter().any(|scheme| url.starts_with(scheme)) => Ok(url.clone()),
        Some(_) => Err(bad(
            setting,
            format!("must start with {}", schemes.join(" or ")),
        )),
    };
    let postgres = &["postgres:", "postgresql:"];
    let database_url = needed("DATABASE_URL", &settings.database_url, postgres)?;
    let or_the_log = |setting: &'static str, value: &Option<String>| match value {
        None => Ok(database_url.clone()),
        Some(_) => needed(setting, value, postgres),
    };
    let kafka_partitions = settings.kafka_partitions.unwrap_or(6);
    if !(1..=1_000).contains(&kafka_partitions) {
        return Err(bad("KAFKA_PARTITIONS", "must be 1 to 1000"));
    }
    // 7 days, the usual of brokers.
    let retention = settings.kafka_retention_seconds.unwrap_or(604_800);
    if !(1..=YEAR).contains(&retention) {
        return Err(bad("KAFKA_RETENTION_SECONDS", "must be 1 to 31536000"));
    }
    let namespace = settings.namespace.clone().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if namespace.len() > 64 || !namespace.chars().all(plain) {
        return Err(bad(
            "NAMESPACE",
            "must be up to 64 letters, digits, `-`, `_` and `.`",
        ));
    }
    Ok(Servers {
        read_model_url: or_the_log("READ_MODEL_URL", &settings.read_model_url)?,
        chat_database_url: or_the_log("CHAT_DATABASE_URL", &settings.chat_database_url)?,
        kafka_brokers: brokers(needed("KAFKA_BROKERS", &settings.kafka_brokers, &[""])?)?,
        kafka_partitions,
        kafka_retention: Duration::from_secs(retention),
        mongodb_url: needed(
            "MONGODB_URL",
            &settings.mongodb_url,
            &["mongodb:", "mongodb+srv:"],
        )?,
        redis_url: needed("REDIS_URL", &settings.redis_url, &["redis:", "rediss:"])?,
        namespace,
        database_url,
    })
}

/// Brokers, each by its name.
fn brokers(list: String) -> Result<String, ConfigError> {
    let is_broker = |broker: &str| {
        let broker = broker.trim();
        !broker.is_empty() && !broker.starts_with(':') && !broker.contains(char::is_whitespace)
    };
    if list.split(',').all(is_broker) {
        Ok(list)
    } else {
        Err(bad(
            "KAFKA_BROKERS",
            "must be one or more HOST:PORT, separated by commas",
        ))
    }
}

fn log_file(url: Option<&str>, data_dir: &Path) -> Result<PathBuf, ConfigError> {
    let Some(url) = url else {
        return Ok(data_dir.join("events.db"));
    };
    let Some(path) = url.strip_prefix("sqlite:") else {
        return Err(bad(
            "DATABASE_URL",
            "must start with `sqlite:` or `postgres:`",
        ));
    };
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() {
        return Err(bad("DATABASE_URL", "names no file"));
    }
    Ok(path.into())
}
