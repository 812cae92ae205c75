//! What the API can be set to. The binary fills this in from flags, environment and file.

use std::time::Duration;

use crate::address::TrustedProxies;

/// How often something may happen: `per_second` in the long run, `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Per second in the long run, at least 1.
    pub per_second: u32,
    /// At once, at least 1.
    pub burst: u32,
}

/// The rate limits: generous for a person, in the way of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimits {
    /// All requests of one client address.
    pub requests: Rate,
    /// Requests of one client address that cost a password hash or a mail: sign-up, login and the reset.
    pub credentials: Rate,
    /// Seconds until one more try is given back to one account (login, reset), whatever the address.
    pub account_seconds: u32,
    /// Tries of one account at once.
    pub account_burst: u32,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            requests: Rate {
                per_second: 200,
                burst: 1_000,
            },
            credentials: Rate {
                per_second: 2,
                burst: 100,
            },
            account_seconds: 6,
            account_burst: 10,
        }
    }
}

/// Settings of the API.
#[derive(Clone)]
pub struct Settings {
    /// Origins whose pages may call with credentials, e.g. `http://localhost:5173`.
    pub cors_origins: Vec<String>,
    /// Rate limits; none switches them off.
    pub rate_limits: Option<RateLimits>,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: TrustedProxies,
    /// Whoever brings it as bearer token is the operator. When set, `/metrics` wants it; when not, `/events/stream` is
    /// nobody's.
    pub operator_token: Option<String>,
    /// What the gateway proves itself with: only from whom brings it `x-user-payload` is believed.
    pub gateway_secret: Option<String>,
    /// Signs cursors and media addresses and keys the hashes of passwords in idempotency fingerprints. Keep it across
    /// restarts, else cursors and stored fingerprints stop fitting.
    pub signing_key: [u8; 32],
    /// How long a request may take, once its body is here.
    pub request_timeout: Duration,
    /// How long an upload may take as a whole.
    pub upload_timeout: Duration,
    /// How long a body may pause.
    pub body_timeout: Duration,
    /// How long a read waits for its read models (read your own writes, `X-Min-Position`).
    pub read_wait: Duration,
    /// Requests at work at once; more are answered 503 with `Retry-After`.
    pub concurrency: usize,
    /// The largest JSON body, in bytes.
    pub json_limit: usize,
    /// Open event streams of one person; more are answered 429.
    pub streams_per_user: usize,
    /// Open streams of all events; more are answered 503.
    pub firehoses: usize,
}

impl Settings {
    /// The defaults, with the key to sign with.
    #[must_use]
    pub fn new(signing_key: [u8; 32]) -> Self {
        Self {
            cors_origins: vec!["http://localhost:5173".to_owned()],
            rate_limits: Some(RateLimits::default()),
            trusted_proxies: TrustedProxies::default(),
            operator_token: None,
            gateway_secret: None,
            signing_key,
            request_timeout: Duration::from_secs(30),
            upload_timeout: Duration::from_secs(15 * 60),
            body_timeout: Duration::from_secs(20),
            read_wait: Duration::from_secs(2),
            concurrency: 4_096,
            json_limit: 256 * 1024,
            streams_per_user: 10,
            firehoses: 16,
        }
    }
}
