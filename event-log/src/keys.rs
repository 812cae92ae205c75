//! The keys of people: what is personal in the log can be read as long as its person's key is there.
//!
//! A person without a key gets one when something of theirs is first written. A destroyed key leaves a mark that it was
//! there, so that "erased" and "never had one" are told apart: a sealed field of the erased is a tombstone, a sealed field
//! without any key is a fault. Every adapter passes the contract suite in `tests/src/contract/people.rs`.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use socialhub_domain::UserId;
use tokio::time::Instant;

use crate::{event::Position, port::LogError};

/// The bytes of a key.
pub const KEY_BYTES: usize = 32;

/// The key of one person.
#[derive(Clone, PartialEq, Eq)]
pub struct PersonKey(pub [u8; KEY_BYTES]);

/// Shows nothing of it.
impl fmt::Debug for PersonKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PersonKey(…)")
    }
}

/// What there is of a person's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyState {
    /// The key.
    Present(PersonKey),
    /// It was destroyed.
    Erased,
}

/// A person's key as it is stored, for exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Whose.
    pub user_id: UserId,
    /// The key; none once it is destroyed.
    pub key: Option<PersonKey>,
    /// Where the `user.erased` stands that it was destroyed for.
    pub erased_at: Option<Position>,
}

impl KeyRecord {
    /// What there is of the key.
    pub fn state(&self) -> KeyState {
        match (&self.key, self.erased_at) {
            (Some(key), None) => KeyState::Present(key.clone()),
            _ => KeyState::Erased,
        }
    }
}

/// Keeps the keys. Durable when a call returns.
#[async_trait]
pub trait PersonKeys: Send + Sync {
    /// The keys of some people; who never had one is left out.
    ///
    /// # Errors
    /// When the store cannot answer: this says nothing of whether a key is there.
    async fn find(&self, people: &[UserId]) -> Result<HashMap<UserId, KeyState>, LogError>;

    /// Keeps the offered key of everybody who has none yet, and answers what stands for each: the offered key, the one
    /// that was there before, or that it was destroyed. The erased get no other.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn obtain(
        &self,
        offered: Vec<(UserId, PersonKey)>,
    ) -> Result<HashMap<UserId, KeyState>, LogError>;

    /// Destroys a person's key, and leaves a mark also of one that never was. Again is no fault.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn destroy(&self, user_id: UserId, position: Position) -> Result<(), LogError>;

    /// At most `limit` records after a person, by id: for exports, which keep keys apart from events.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn page(&self, after: Option<UserId>, limit: usize) -> Result<Vec<KeyRecord>, LogError>;

    /// Brings records back. A mark replaces a key; a key replaces nothing, so nobody who is erased here comes back.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn restore(&self, records: Vec<KeyRecord>) -> Result<(), LogError>;
}

/// How long a process may go on using a key that was destroyed, at most.
pub const CACHE_LIFE: Duration = Duration::from_secs(60);

/// After which the older half of the cache is dropped. What is put in stays for two of these at most, and was read from
/// the store a few seconds earlier at most: less than [`CACHE_LIFE`] together.
const HALF_LIFE: Duration = Duration::from_secs(25);

/// How many keys a half holds at most; about 5 MB.
const HALF_SIZE: usize = 50_000;

/// The keys a process has used lately, in two halves by age: no clock a key, no list of the oldest.
#[derive(Debug)]
pub(crate) struct KeyCache(Mutex<Halves>);

#[derive(Debug)]
struct Halves {
    young: HashMap<UserId, KeyState>,
    old: HashMap<UserId, KeyState>,
    turned: Instant,
}

impl KeyCache {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Halves {
            young: HashMap::new(),
            old: HashMap::new(),
            turned: Instant::now(),
        }))
    }

    /// What is known of some people, and who is not known.
    pub(crate) fn find(
        &self,
        people: &HashSet<UserId>,
    ) -> (HashMap<UserId, KeyState>, Vec<UserId>) {
        let mut halves = self.0.lock();
        halves.turn();
        let (mut known, mut unknown) = (HashMap::with_capacity(people.len()), Vec::new());
        for user in people {
            match halves.young.get(user).or_else(|| halves.old.get(user)) {
                Some(state) => {
                    known.insert(*user, state.clone());
                }
                None => unknown.push(*user),
            }
        }
        (known, unknown)
    }

    pub(crate) fn put(&self, found: &HashMap<UserId, KeyState>) {
        let mut halves = self.0.lock();
        halves.turn();
        for (user, state) in found {
            if halves.young.len() >= HALF_SIZE {
                halves.push_down();
            }
            halves.young.insert(*user, state.clone());
        }
    }

    pub(crate) fn forget(&self, user: UserId) {
        let mut halves = self.0.lock();
        halves.young.remove(&user);
        halves.old.remove(&user);
    }
}

impl Halves {
    fn turn(&mut self) {
        let age = self.turned.elapsed();
        if age >= 2 * HALF_LIFE {
            self.young.clear();
        }
        if age >= HALF_LIFE {
            self.push_down();
        }
    }

    fn push_down(&mut self) {
        self.old = std::mem::take(&mut self.young);
        self.turned = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use socialhub_domain::testing::id;

    use super::*;

    fn user(n: u128) -> UserId {
        UserId(id(n))
    }

    fn key(n: u128) -> HashMap<UserId, KeyState> {
        HashMap::from([(user(n), KeyState::Present(PersonKey([7; KEY_BYTES])))])
    }

    fn knows(cache: &KeyCache, n: u128) -> bool {
        cache.find(&HashSet::from([user(n)])).1.is_empty()
    }

    #[tokio::test(start_paused = true)]
    async fn no_key_outlives_the_cache_however_often_it_is_used() {
        let cache = KeyCache::new();
        // Whenever it was put in, and however busy the cache is, it is gone in time.
        for offset in [0, 1, 24, 25, 26, 49] {
            tokio::time::advance(Duration::from_secs(offset)).await;
            cache.put(&key(1));
            let put = Instant::now();
            while knows(&cache, 1) {
                tokio::time::advance(Duration::from_secs(1)).await;
                cache.put(&key(2));
                assert!(put.elapsed() <= 2 * HALF_LIFE, "{:?}", put.elapsed());
            }
            assert!(put.elapsed() >= HALF_LIFE || offset > 0);
        }
        assert!(2 * HALF_LIFE < CACHE_LIFE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_cache_forgets_too() {
        let cache = KeyCache::new();
        cache.put(&key(1));
        tokio::time::advance(2 * HALF_LIFE).await;
        assert!(!knows(&cache, 1));
    }

    #[tokio::test]
    async fn it_never_grows_beyond_its_bound() {
        let cache = KeyCache::new();
        for n in 0..3 * HALF_SIZE as u128 {
            cache.put(&key(n));
        }
        let halves = cache.0.lock();
        assert!(halves.young.len() + halves.old.len() <= 2 * HALF_SIZE);
    }

    #[tokio::test]
    async fn what_is_forgotten_is_asked_for_again() {
        let cache = KeyCache::new();
        cache.put(&key(1));
        cache.put(&key(2));
        cache.forget(user(1));
        assert!(!knows(&cache, 1) && knows(&cache, 2));
    }
}
