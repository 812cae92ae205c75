//! Rate limits per client address and per account.
//!
//! The limits on sign-ups, logins and resets, and those of an account, can be counted for all instances together: they
//! guard secrets, and a guesser must not gain tries by the number of instances. The limit on all requests of an address
//! stays in the process: it guards the process itself, is asked on every request, and must not cost a round trip.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::DefaultKeyedStateStore,
};

use crate::{
    error::ApiError,
    settings::{Rate, RateLimits},
};

type Keyed<K> = RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock>;

/// Keys whose allowance is full again are forgotten each time so many checks have passed: memory follows the number
/// of recent clients.
const CHECKS_PER_SWEEP: u32 = 16_384;

/// How often something may happen: `burst` times at once, and once more after each interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Times at once.
    pub burst: u32,
    /// Until one more is given back.
    pub interval: Duration,
}

/// The shared limits cannot be asked; each instance counts for itself meanwhile.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the shared limits are unavailable: {0}")]
pub struct LimitsUnavailable(pub String);

/// Limits that all instances count together.
#[async_trait]
pub trait SharedLimits: Send + Sync {
    /// Takes one from the allowance of `key` in a `bucket`; answers how long to wait when there is none left.
    ///
    /// # Errors
    /// [`LimitsUnavailable`], soon: a request waits for the answer.
    async fn take(
        &self,
        bucket: &str,
        key: &str,
        allowance: Allowance,
    ) -> Result<Option<Duration>, LimitsUnavailable>;
}

/// The limits at work; all pass when they are switched off.
pub(crate) struct Limiter(Option<Limits>);

struct Limits {
    shared: Option<Arc<dyn SharedLimits>>,
    settings: RateLimits,
    requests: Keyed<IpAddr>,
    credentials: Keyed<IpAddr>,
    accounts: Keyed<u64>,
    hasher: RandomState,
    clock: DefaultClock,
    checks: AtomicU32,
}

fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}

fn quota(rate: Rate) -> Quota {
    Quota::per_second(at_least_one(rate.per_second)).allow_burst(at_least_one(rate.burst))
}

impl From<Rate> for Allowance {
    fn from(rate: Rate) -> Self {
        Self {
            burst: rate.burst.max(1),
            interval: Duration::from_secs(1) / rate.per_second.max(1),
        }
    }
}

fn account_allowance(limits: &RateLimits) -> Allowance {
    Allowance {
        burst: limits.account_burst.max(1),
        interval: Duration::from_secs(u64::from(limits.account_seconds.max(1))),
    }
}

fn account_quota(limits: &RateLimits) -> Quota {
    let Allowance { burst, interval } = account_allowance(limits);
    Quota::with_period(interval)
        .unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN))
        .allow_burst(at_least_one(burst))
}

impl Limiter {
    pub(crate) fn new(limits: Option<&RateLimits>, shared: Option<Arc<dyn SharedLimits>>) -> Self {
        Self(limits.map(|limits| Limits {
            shared,
            settings: *limits,
            requests: RateLimiter::keyed(quota(limits.requests)),
            credentials: RateLimiter::keyed(quota(limits.credentials)),
            accounts: RateLimiter::keyed(account_quota(limits)),
            hasher: RandomState::new(),
            clock: DefaultClock::default(),
            checks: AtomicU32::new(0),
        }))
    }

    /// One request of an address.
    pub(crate) fn request(&self, address: IpAddr) -> Result<(), ApiError> {
        let Some(limits) = &self.0 else {
            return Ok(());
        };
        limits.sweep_at_times();
        limits.check(
            &limits.requests,
            &address,
            "too many requests from this address",
        )
    }

    /// One request of an address that costs a password hash or a mail.
    pub(crate) async fn credentials(&self, address: Option<IpAddr>) -> Result<(), ApiError> {
        let (Some(limits), Some(address)) = (&self.0, address) else {
            return Ok(());
        };
        let detail = "too many sign-ups, logins or resets from this address";
        let allowance = limits.settings.credentials.into();
        let key = address.to_string();
        match limits.take("credentials", &key, allowance, detail).await {
            Some(verdict) => verdict,
            None => limits.check(&limits.credentials, &address, detail),
        }
    }

    /// One try at something (`what`) with an account, by the e-mail address or username it is tried with.
    pub(crate) async fn account(&self, what: &str, identifier: &str) -> Result<(), ApiError> {
        let Some(limits) = &self.0 else {
            return Ok(());
        };
        let detail = "too many tries for this account";
        let identifier = identifier.trim().to_lowercase();
        let allowance = account_allowance(&limits.settings);
        let key = format!("{what}:{identifier}");
        match limits.take("account", &key, allowance, detail).await {
            Some(verdict) => verdict,
            None => {
                let key = limits.hasher.hash_one((what, identifier));
                limits.check(&limits.accounts, &key, detail)
            }
        }
    }
}

fn too_many(wait: Duration, detail: &'static str) -> ApiError {
    ApiError::too_many(wait.as_secs() + 1, detail)
}

impl Limits {
    /// Asks the shared limits; none when there are none or they do not answer.
    async fn take(
        &self,
        bucket: &str,
        key: &str,
        allowance: Allowance,
        detail: &'static str,
    ) -> Option<Result<(), ApiError>> {
        match self.shared.as_ref()?.take(bucket, key, allowance).await {
            Ok(None) => Some(Ok(())),
            Ok(Some(wait)) => Some(Err(too_many(wait, detail))),
            Err(error) => {
                tracing::debug!(%error, "limits are counted in this process alone");
                None
            }
        }
    }

    fn check<K: std::hash::Hash + Eq + Clone>(
        &self,
        limiter: &Keyed<K>,
        key: &K,
        detail: &'static str,
    ) -> Result<(), ApiError> {
        limiter
            .check_key(key)
            .map_err(|not_until| too_many(not_until.wait_time_from(self.clock.now()), detail))
    }

    fn sweep_at_times(&self) {
        let check = self.checks.fetch_add(1, Ordering::Relaxed);
        if check % CHECKS_PER_SWEEP == CHECKS_PER_SWEEP - 1 {
            self.requests.retain_recent();
            self.credentials.retain_recent();
            self.accounts.retain_recent();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, net::Ipv4Addr};

    use parking_lot::Mutex;

    use super::*;

    /// One try each, or no answer at all.
    struct Once(bool, Mutex<HashSet<String>>);

    #[async_trait]
    impl SharedLimits for Once {
        async fn take(
            &self,
            bucket: &str,
            key: &str,
            _: Allowance,
        ) -> Result<Option<Duration>, LimitsUnavailable> {
            if !self.0 {
                return Err(LimitsUnavailable("away".to_owned()));
            }
            let first = self.1.lock().insert(format!("{bucket}/{key}"));
            Ok((!first).then_some(Duration::from_secs(7)))
        }
    }

    fn shared(answers: bool) -> Option<Arc<dyn SharedLimits>> {
        Some(Arc::new(Once(answers, Mutex::default())))
    }

    fn limits(change: impl FnOnce(&mut RateLimits)) -> RateLimits {
        let mut limits = RateLimits::default();
        change(&mut limits);
        limits
    }

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_burst_passes_and_the_next_is_told_when() {
        let limits = limits(|limits| {
            limits.requests = Rate {
                per_second: 1,
                burst: 3,
            };
        });
        let limiter = Limiter::new(Some(&limits), None);
        for _ in 0..3 {
            assert!(limiter.request(HERE).is_ok());
        }
        assert!(limiter.request(HERE).is_err());
        assert!(limiter.request(IpAddr::V4(Ipv4Addr::BROADCAST)).is_ok());
    }

    #[tokio::test]
    async fn accounts_are_the_same_whatever_the_case() {
        let limits = limits(|limits| limits.account_burst = 1);
        for shared in [None, shared(true), shared(false)] {
            let limiter = Limiter::new(Some(&limits), shared);
            assert!(limiter.account("login", "Ada@example.org").await.is_ok());
            assert!(limiter.account("login", " ada@EXAMPLE.org").await.is_err());
            assert!(limiter.account("otp", "ada@example.org").await.is_ok());
        }
        let off = Limiter::new(None, shared(true));
        for _ in 0..3 {
            assert!(off.account("login", "ada@example.org").await.is_ok());
        }
    }

    #[tokio::test]
    async fn what_all_instances_count_together_counts() {
        let shared = shared(true);
        let instances = [1, 2].map(|_| Limiter::new(Some(&RateLimits::default()), shared.clone()));
        assert!(instances[0].credentials(Some(HERE)).await.is_ok());
        assert!(instances[1].credentials(Some(HERE)).await.is_err());
        assert!(instances[1].credentials(None).await.is_ok());
    }

    #[tokio::test]
    async fn an_instance_counts_alone_while_the_others_cannot_be_asked() {
        let limits = limits(|limits| {
            limits.credentials = Rate {
                per_second: 1,
                burst: 2,
            };
        });
        let limiter = Limiter::new(Some(&limits), shared(false));
        assert!(limiter.credentials(Some(HERE)).await.is_ok());
        assert!(limiter.credentials(Some(HERE)).await.is_ok());
        assert!(limiter.credentials(Some(HERE)).await.is_err());
    }
}
