//! One-time codes that every instance of the service sees.
//!
//! Neither code nor address is kept: both go through an HMAC whose key the instances share and Redis never sees.

use std::sync::LazyLock;

use async_trait::async_trait;
use hmac::{Hmac, Mac};
use redis::{Script, Value};
use sha2::Sha256;
use socialhub_commands::ports::{OtpStore, OtpVerdict, PortError};
use socialhub_domain::Timestamp;

use crate::redis::link::{RedisFault, RedisLink};

/// Milliseconds a code is good for.
const LIFETIME: i64 = 5 * 60 * 1000;

/// Wrong tries that burn a code.
const MAX_WRONG: u8 = 5;

/// KEYS: the address's key. ARGV: code, when it runs out, time to live.
static PUT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('DEL', KEYS[1])
         redis.call('HSET', KEYS[1], 'code', ARGV[1], 'expires', ARGV[2], 'wrong', 0)
         return redis.call('PEXPIRE', KEYS[1], ARGV[3])",
    )
});

/// KEYS: the address's key. ARGV: code, now, wrong tries that burn it.
static CHECK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local found = redis.call('HMGET', KEYS[1], 'code', 'expires')
         if not found[1] then
             return 0
         end
         local fresh = tonumber(found[2]) > tonumber(ARGV[2])
         if fresh and found[1] == ARGV[1] then
             return 1
         end
         if redis.call('HINCRBY', KEYS[1], 'wrong', 1) >= tonumber(ARGV[3]) or not fresh then
             redis.call('DEL', KEYS[1])
         end
         return 0",
    )
});

/// KEYS: the address's key. ARGV: code.
static USE_UP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('HGET', KEYS[1], 'code') ~= ARGV[1] then
             return 0
         end
         return redis.call('DEL', KEYS[1])",
    )
});

/// One-time codes in Redis: hashed, five minutes, burnt by the fifth wrong try. A try is checked and counted in one step,
/// so that many at once are no more tries than one after the other.
#[derive(Clone)]
pub struct RedisOtps {
    link: RedisLink,
    prefix: String,
    secret: [u8; 32],
}

impl RedisOtps {
    /// Codes under keys that begin with `prefix`. All instances need the same secret.
    pub fn new(link: RedisLink, prefix: &str, secret: [u8; 32]) -> Self {
        Self {
            link,
            prefix: prefix.to_owned(),
            secret,
        }
    }

    fn digest(&self, parts: &[&str]) -> String {
        digest(&self.secret, parts)
    }

    fn key(&self, email: &str) -> String {
        format!("{}:otp:{}", self.prefix, self.digest(&["address", email]))
    }

    fn code(&self, email: &str, otp: &str) -> String {
        self.digest(&["code", email, otp])
    }
}

/// A keyed hash of some texts, in hexadecimal.
pub(super) fn digest(secret: &[u8; 32], parts: &[&str]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part.as_bytes());
        mac.update(&[0]);
    }
    let digest = mac.finalize().into_bytes();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn port_error(fault: &RedisFault) -> PortError {
    PortError(fault.to_string())
}

#[async_trait]
impl OtpStore for RedisOtps {
    async fn put(&self, email: &str, otp: &str, now: Timestamp) -> Result<(), PortError> {
        let mut script = PUT.prepare_invoke();
        script
            .key(self.key(email))
            .arg(self.code(email, otp))
            .arg(now.0.saturating_add(LIFETIME))
            .arg(LIFETIME);
        let put: Result<Value, _> = self.link.invoke(&script).await;
        put.map(|_| ()).map_err(|fault| port_error(&fault))
    }

    async fn check(&self, email: &str, otp: &str, now: Timestamp) -> Result<OtpVerdict, PortError> {
        let mut script = CHECK.prepare_invoke();
        script
            .key(self.key(email))
            .arg(self.code(email, otp))
            .arg(now.0)
            .arg(MAX_WRONG);
        match self.link.invoke(&script).await {
            Ok(1) => Ok(OtpVerdict::Good),
            Ok(_) => Ok(OtpVerdict::Bad),
            Err(fault) => Err(port_error(&fault)),
        }
    }

    async fn use_up(&self, email: &str, otp: &str) -> Result<bool, PortError> {
        let mut script = USE_UP.prepare_invoke();
        script.key(self.key(email)).arg(self.code(email, otp));
        let used: Result<u8, _> = self.link.invoke(&script).await;
        used.map(|used| used == 1)
            .map_err(|fault| port_error(&fault))
    }

    async fn burn(&self, email: &str) -> Result<(), PortError> {
        let mut forget = redis::cmd("DEL");
        forget.arg(self.key(email));
        let forgotten: Result<Value, _> = self.link.query(&forget).await;
        forgotten.map(|_| ()).map_err(|fault| port_error(&fault))
    }
}
