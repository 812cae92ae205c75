//! Rate limits per client address and per account.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

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

/// The limits at work; all pass when they are switched off.
pub(crate) struct Limiter(Option<Limits>);

struct Limits {
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

fn account_quota(limits: &RateLimits) -> Quota {
    let pause = Duration::from_secs(u64::from(limits.account_seconds.max(1)));
    Quota::with_period(pause)
        .unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN))
        .allow_burst(at_least_one(limits.account_burst))
}

impl Limiter {
    pub(crate) fn new(limits: Option<&RateLimits>) -> Self {
        Self(limits.map(|limits| Limits {
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
    pub(crate) fn credentials(&self, address: Option<IpAddr>) -> Result<(), ApiError> {
        match (&self.0, address) {
            (Some(limits), Some(address)) => limits.check(
                &limits.credentials,
                &address,
                "too many sign-ups, logins or resets from this address",
            ),
            _ => Ok(()),
        }
    }

    /// One try at something (`what`) with an account, by the e-mail address or username it is tried with.
    pub(crate) fn account(&self, what: &str, identifier: &str) -> Result<(), ApiError> {
        let Some(limits) = &self.0 else {
            return Ok(());
        };
        let key = limits
            .hasher
            .hash_one((what, identifier.trim().to_lowercase()));
        limits.check(&limits.accounts, &key, "too many tries for this account")
    }
}

impl Limits {
    fn check<K: std::hash::Hash + Eq + Clone>(
        &self,
        limiter: &Keyed<K>,
        key: &K,
        detail: &'static str,
    ) -> Result<(), ApiError> {
        limiter.check_key(key).map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            ApiError::too_many(wait.as_secs() + 1, detail)
        })
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
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_burst_passes_and_the_next_is_told_when() {
        let limiter = Limiter::new(Some(&RateLimits {
            requests: Rate {
                per_second: 1,
                burst: 3,
            },
            ..RateLimits::default()
        }));
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        for _ in 0..3 {
            assert!(limiter.request(address).is_ok());
        }
        assert!(limiter.request(address).is_err());
        assert!(limiter.request(IpAddr::V4(Ipv4Addr::BROADCAST)).is_ok());
    }

    #[test]
    fn accounts_are_the_same_whatever_the_case() {
        let limiter = Limiter::new(Some(&RateLimits {
            account_burst: 1,
            ..RateLimits::default()
        }));
        assert!(limiter.account("login", "Ada@example.org").is_ok());
        assert!(limiter.account("login", " ada@EXAMPLE.org").is_err());
        assert!(
            Limiter::new(None)
                .account("login", "ada@example.org")
                .is_ok()
        );
    }
}
