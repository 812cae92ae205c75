//! One-time codes in the memory of the process.
//!
//! They live five minutes, so a restart costs somebody a second mail and nothing else. Neither code nor address is
//! kept: both go through an HMAC whose key is made at start and never leaves the process.

use std::collections::{HashMap, VecDeque};

use async_trait::async_trait;
use hmac::{Hmac, Mac};
use parking_lot::Mutex;
use rand::Rng;
use sha2::Sha256;
use socialhub_commands::ports::{OtpStore, OtpVerdict, PortError};
use socialhub_domain::Timestamp;

/// Milliseconds a code is good for.
const LIFETIME: i64 = 5 * 60 * 1000;

/// Wrong tries that burn a code.
const MAX_WRONG: u8 = 5;

/// Codes kept at once; beyond them the oldest goes.
const CAPACITY: usize = 100_000;

type Digest = [u8; 32];

struct Entry {
    code: Digest,
    expires: Timestamp,
    wrong: u8,
    /// Which `put` made it, so that the queue's line of an older code does not evict a newer one.
    ticket: u64,
}

#[derive(Default)]
struct Codes {
    by_address: HashMap<Digest, Entry>,
    oldest_first: VecDeque<(u64, Digest)>,
    next_ticket: u64,
}

/// One-time codes, bounded in number, gone with the process.
pub struct MemoryOtps {
    key: [u8; 32],
    capacity: usize,
    codes: Mutex<Codes>,
}

impl Default for MemoryOtps {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryOtps {
    /// An empty store.
    pub fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    /// An empty store for at most `capacity` codes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            key: rand::rng().random(),
            capacity: capacity.max(1),
            codes: Mutex::default(),
        }
    }

    fn mac(&self, parts: &[&str]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes a key of any length");
        for part in parts {
            mac.update(part.as_bytes());
            mac.update(&[0]);
        }
        mac
    }

    fn address(&self, email: &str) -> Digest {
        self.mac(&[email]).finalize().into_bytes().into()
    }
}

impl Codes {
    /// Drops what is too old or too much, oldest first.
    fn evict(&mut self, capacity: usize, now: Timestamp) {
        while let Some(&(ticket, address)) = self.oldest_first.front() {
            let current = self.by_address.get(&address);
            let superseded = current.is_none_or(|entry| entry.ticket != ticket);
            let expired = current.is_some_and(|entry| entry.expires <= now);
            if !superseded && !expired && self.oldest_first.len() <= capacity {
                break;
            }
            self.oldest_first.pop_front();
            if !superseded {
                self.by_address.remove(&address);
            }
        }
    }
}

#[async_trait]
impl OtpStore for MemoryOtps {
    async fn put(&self, email: &str, otp: &str, now: Timestamp) -> Result<(), PortError> {
        let address = self.address(email);
        let code = self.mac(&[email, otp]).finalize().into_bytes().into();
        let mut codes = self.codes.lock();
        let ticket = codes.next_ticket;
        codes.next_ticket += 1;
        let entry = Entry {
            code,
            expires: Timestamp(now.0 + LIFETIME),
            wrong: 0,
            ticket,
        };
        codes.by_address.insert(address, entry);
        codes.oldest_first.push_back((ticket, address));
        codes.evict(self.capacity, now);
        Ok(())
    }

    async fn check(&self, email: &str, otp: &str, now: Timestamp) -> Result<OtpVerdict, PortError> {
        let address = self.address(email);
        // Computed in every case, so that an unknown address takes as long as a known one.
        let tried = self.mac(&[email, otp]);
        let mut codes = self.codes.lock();
        let Some(entry) = codes.by_address.get_mut(&address) else {
            return Ok(OtpVerdict::Bad);
        };
        let fresh = entry.expires > now;
        // `verify_slice` compares in constant time.
        if fresh && tried.verify_slice(&entry.code).is_ok() {
            return Ok(OtpVerdict::Good);
        }
        entry.wrong += 1;
        if !fresh || entry.wrong >= MAX_WRONG {
            codes.by_address.remove(&address);
        }
        Ok(OtpVerdict::Bad)
    }

    async fn use_up(&self, email: &str, otp: &str) -> Result<bool, PortError> {
        let address = self.address(email);
        let used = self.mac(&[email, otp]);
        let mut codes = self.codes.lock();
        let there = codes.by_address.get(&address);
        let is_it = there.is_some_and(|entry| used.verify_slice(&entry.code).is_ok());
        if is_it {
            codes.by_address.remove(&address);
        }
        Ok(is_it)
    }

    async fn burn(&self, email: &str) -> Result<(), PortError> {
        let address = self.address(email);
        self.codes.lock().by_address.remove(&address);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);
    const EMAIL: &str = "john@example.com";

    async fn check(otps: &MemoryOtps, email: &str, otp: &str, now: Timestamp) -> bool {
        otps.check(email, otp, now).await.unwrap() == OtpVerdict::Good
    }

    #[tokio::test]
    async fn a_code_is_good_for_its_address_for_five_minutes() {
        let otps = MemoryOtps::new();
        otps.put(EMAIL, "012345", NOW).await.unwrap();
        let last = Timestamp(NOW.0 + LIFETIME - 1);
        assert!(check(&otps, EMAIL, "012345", last).await);
        assert!(check(&otps, EMAIL, "012345", last).await);
        assert!(!check(&otps, "jane@example.com", "012345", NOW).await);
        assert!(!check(&otps, EMAIL, "012345", Timestamp(last.0 + 1)).await);
        // Too old once is gone for good, even should the clock be set back.
        assert!(!check(&otps, EMAIL, "012345", NOW).await);
    }

    #[tokio::test]
    async fn the_fifth_wrong_try_burns_it() {
        let otps = MemoryOtps::new();
        otps.put(EMAIL, "012345", NOW).await.unwrap();
        for _ in 0..4 {
            assert!(!check(&otps, EMAIL, "000000", NOW).await);
        }
        assert!(check(&otps, EMAIL, "012345", NOW).await);
        assert!(!check(&otps, EMAIL, "000000", NOW).await);
        assert!(!check(&otps, EMAIL, "012345", NOW).await);
    }

    #[tokio::test]
    async fn a_new_code_replaces_the_old_one() {
        let otps = MemoryOtps::new();
        otps.put(EMAIL, "111111", NOW).await.unwrap();
        otps.put(EMAIL, "222222", NOW).await.unwrap();
        assert!(!check(&otps, EMAIL, "111111", NOW).await);
        assert!(check(&otps, EMAIL, "222222", NOW).await);
    }

    #[tokio::test]
    async fn a_used_code_is_gone() {
        let otps = MemoryOtps::new();
        otps.put(EMAIL, "111111", NOW).await.unwrap();
        assert!(!otps.use_up(EMAIL, "222222").await.unwrap());
        assert!(otps.use_up(EMAIL, "111111").await.unwrap());
        assert!(!otps.use_up(EMAIL, "111111").await.unwrap());
        assert!(!check(&otps, EMAIL, "111111", NOW).await);
        otps.put(EMAIL, "111111", NOW).await.unwrap();
        otps.burn(EMAIL).await.unwrap();
        otps.burn(EMAIL).await.unwrap();
        assert!(!check(&otps, EMAIL, "111111", NOW).await);
    }

    #[tokio::test]
    async fn the_oldest_makes_room() {
        let otps = MemoryOtps::with_capacity(2);
        for email in ["a@x", "b@x", "a@x", "c@x"] {
            otps.put(email, "111111", NOW).await.unwrap();
        }
        assert!(!check(&otps, "b@x", "111111", NOW).await);
        assert!(check(&otps, "a@x", "111111", NOW).await);
        assert!(check(&otps, "c@x", "111111", NOW).await);
        let codes = otps.codes.lock();
        assert_eq!((codes.by_address.len(), codes.oldest_first.len()), (2, 2));
    }

    #[tokio::test]
    async fn what_is_too_old_takes_no_room() {
        let otps = MemoryOtps::new();
        for n in 0..100 {
            let email = format!("{n}@x");
            otps.put(&email, "111111", NOW).await.unwrap();
        }
        let later = Timestamp(NOW.0 + LIFETIME);
        otps.put(EMAIL, "111111", later).await.unwrap();
        assert_eq!(otps.codes.lock().by_address.len(), 1);
    }
}
