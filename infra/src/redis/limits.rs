//! Rate limits that all instances share.

use std::{sync::LazyLock, time::Duration};

use async_trait::async_trait;
use redis::Script;
use socialhub_api::{Allowance, LimitsUnavailable, SharedLimits};

use crate::redis::{link::RedisLink, otp::digest};

/// The moment at which the allowance will be full again, moved on by one interval a try (the generic cell rate
/// algorithm). KEYS: the counter. ARGV: microseconds of an interval, tries at once. Answers microseconds to wait.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
         local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
         local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
         local full = math.max(tonumber(redis.call('GET', KEYS[1]) or '0') or 0, now)
         local wait = full - now - (burst - 1) * interval
         if wait > 0 then
             return math.ceil(wait)
         end
         full = full + interval
         redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
         return 0",
    )
});

/// Limits counted in Redis, on its clock. What is limited (an address, an account's name) is kept as a keyed hash only,
/// and no longer than until its allowance is full again.
#[derive(Clone)]
pub struct RedisLimits {
    link: RedisLink,
    prefix: String,
    secret: [u8; 32],
}

impl RedisLimits {
    /// Limits under keys that begin with `prefix`. All instances need the same secret.
    pub fn new(link: RedisLink, prefix: &str, secret: [u8; 32]) -> Self {
        Self {
            link,
            prefix: prefix.to_owned(),
            secret,
        }
    }
}

#[async_trait]
impl SharedLimits for RedisLimits {
    async fn take(
        &self,
        bucket: &str,
        key: &str,
        allowance: Allowance,
    ) -> Result<Option<Duration>, LimitsUnavailable> {
        let hashed = digest(&self.secret, &["limit", bucket, key]);
        let interval = u64::try_from(allowance.interval.as_micros()).unwrap_or(u64::MAX);
        let mut script = TAKE.prepare_invoke();
        script
            .key(format!("{}:limit:{bucket}:{hashed}", self.prefix))
            .arg(interval.max(1))
            .arg(allowance.burst.max(1));
        let wait: u64 = self
            .link
            .invoke(&script)
            .await
            .map_err(|fault| LimitsUnavailable(fault.to_string()))?;
        Ok((wait > 0).then(|| Duration::from_micros(wait)))
    }
}
