//! Every setting by flag, variable and key of the file, with its one description.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum};
use serde::Deserialize;

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
    /// Address and port to listen on [default: 127.0.0.1:8080; a single service: its own port]
    #[arg(long, env = "LISTEN", global = true, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,

    /// Address and port for `/livez`, `/readyz` and `/metrics` alone [default: none]
    #[arg(long, env = "METRICS_LISTEN", global = true, value_name = "ADDRESS")]
    pub metrics_listen: Option<SocketAddr>,

    /// Folder for databases, media, mail and secrets; made if it is not there [default: ./data]
    #[arg(long, env = "DATA_DIR", global = true, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,

    /// The event log, `sqlite:FILE` or `postgres://…`: this chooses the profile [default: sqlite:DATA_DIR/events.db]
    #[arg(
        long,
        env = "DATABASE_URL",
        global = true,
        value_name = "URL",
        hide_env_values = true
    )]
    pub database_url: Option<String>,

    /// Database of the feed's read model, when it is not the log's [default: as the log]
    #[arg(
        long,
        env = "READ_MODEL_URL",
        global = true,
        value_name = "URL",
        hide_env_values = true
    )]
    pub read_model_url: Option<String>,

    /// Database of the chat's messages, when it is not the log's [default: as the log]
    #[arg(
        long,
        env = "CHAT_DATABASE_URL",
        global = true,
        value_name = "URL",
        hide_env_values = true
    )]
    pub chat_database_url: Option<String>,

    /// Kafka brokers, `host:port` separated by commas; needed with a log on Postgres
    #[arg(long, env = "KAFKA_BROKERS", global = true, value_name = "BROKERS")]
    pub kafka_brokers: Option<String>,

    /// Partitions of topics that the relay makes [default: 6]
    #[arg(long, env = "KAFKA_PARTITIONS", global = true, value_name = "COUNT")]
    pub kafka_partitions: Option<i32>,

    /// Seconds that records stay in topics, which the relay sees to; an erasure is complete there after them [default: 604800]
    #[arg(
        long,
        env = "KAFKA_RETENTION_SECONDS",
        global = true,
        value_name = "SECONDS"
    )]
    pub kafka_retention_seconds: Option<u64>,

    /// MongoDB with the notifications, `mongodb://host:port/database`; needed with a log on Postgres
    #[arg(
        long,
        env = "MONGODB_URL",
        global = true,
        value_name = "URL",
        hide_env_values = true
    )]
    pub mongodb_url: Option<String>,

    /// Redis with the counters and what processes share, `redis://host:port/number`; needed with a log on Postgres
    #[arg(
        long,
        env = "REDIS_URL",
        global = true,
        value_name = "URL",
        hide_env_values = true
    )]
    pub redis_url: Option<String>,

    /// Put before the names of topics, groups and keys, so that several installations can share servers [default: none]
    #[arg(long, env = "NAMESPACE", global = true, value_name = "NAME")]
    pub namespace: Option<String>,

    /// Where uploaded files are: a folder, `s3://bucket/prefix`, `cloudinary://key:secret@cloud` [default: DATA_DIR/media]
    #[arg(
        long,
        env = "MEDIA_URL",
        global = true,
        value_name = "URL",
        hide_env_values = true
    )]
    pub media_url: Option<String>,

    /// Where the analytics consumer keeps its files: a folder or `s3://bucket/prefix` [default: DATA_DIR/analytics]
    #[arg(
        long,
        env = "ANALYTICS_URL",
        global = true,
        value_name = "URL",
        hide_env_values = true
    )]
    pub analytics_url: Option<String>,

    /// Seconds the analytics consumer holds an event at most before it is in a file [default: 60]
    #[arg(
        long,
        env = "ANALYTICS_FLUSH_SECONDS",
        global = true,
        value_name = "SECONDS"
    )]
    pub analytics_flush_seconds: Option<u64>,

    /// Mail server, `smtps://user:password@host:port`, `smtp+starttls://…` or, unencrypted, `smtp://…` [default: files in DATA_DIR/mail]
    #[arg(
        long,
        env = "SMTP_URL",
        global = true,
        value_name = "URL",
        hide_env_values = true
    )]
    pub smtp_url: Option<String>,

    /// Whom mails come from: an address, with a name before it if wanted [default: SocialHub, no-reply at localhost]
    #[arg(long, env = "MAIL_FROM", global = true, value_name = "ADDRESS")]
    pub mail_from: Option<String>,

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

    /// Token for what only an operator may do, at least 16 bytes; `/metrics` wants it when it is set, `/events/stream` always [default: none]
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

    /// What the gateway proves itself with, at least 16 bytes, so that its word about who asks is believed
    #[arg(
        long,
        env = "GATEWAY_SECRET",
        global = true,
        value_name = "SECRET",
        hide_env_values = true
    )]
    pub gateway_secret: Option<String>,

    /// File that holds the gateway's secret
    #[arg(long, env = "GATEWAY_SECRET_FILE", global = true, value_name = "FILE")]
    pub gateway_secret_file: Option<PathBuf>,

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

    /// Cost of a password's hash (bcrypt), 4 to 14: one more doubles the time of a login; less than 10 is for tests alone [default: 10]
    #[arg(long, env = "PASSWORD_COST", global = true, value_name = "COST")]
    pub password_cost: Option<u32>,

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

impl Settings {
    /// These where they say something, else the others.
    #[must_use]
    pub fn over(self, other: Self) -> Self {
        macro_rules! merge {
            ($($field:ident),* $(,)?) => { Self { $( $field: self.$field.or(other.$field), )* } };
        }
        merge!(
            listen,
            metrics_listen,
            data_dir,
            database_url,
            read_model_url,
            chat_database_url,
            kafka_brokers,
            kafka_partitions,
            kafka_retention_seconds,
            mongodb_url,
            redis_url,
            namespace,
            media_url,
            analytics_url,
            analytics_flush_seconds,
            smtp_url,
            mail_from,
            jwt_secret,
            jwt_secret_file,
            operator_token,
            operator_token_file,
            gateway_secret,
            gateway_secret_file,
            cors_origins,
            rate_limits,
            rate_limit_per_address,
            rate_limit_per_account,
            trusted_proxies,
            password_threads,
            password_queue,
            password_cost,
            max_connections,
            shutdown_seconds,
            log,
            log_format,
        )
    }
}
