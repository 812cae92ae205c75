//! Read your own writes: what each person wrote last in this process.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use socialhub_domain::UserId;

/// A position of the event log.
type Position = u64;

/// Remembers the position each person wrote last: what a read of theirs must have seen. It may answer too much, never too
/// little; and it answers always, if need be from the event log.
#[async_trait]
pub trait LastWrites: Send + Sync {
    /// A command of this person ended with the log at this position. Done before the command is answered.
    async fn record(&self, user: UserId, position: Position);

    /// What a read of this person must have seen.
    async fn last(&self, user: UserId) -> Position;
}

/// Maps do not share a lock between unrelated people.
const SHARDS: usize = 16;
/// People remembered per shard: 16 × 8,192 people in all, about 5 MB at most.
const PEOPLE_PER_SHARD: usize = 8_192;

/// The last position each person wrote at, bounded in memory.
///
/// It never answers too little: somebody it does not know (any more) gets a position at or above their last write. At
/// the start that is the log's head, later the highest position among those forgotten.
pub struct RecentWrites {
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
}

struct Shard {
    people: HashMap<UserId, Position>,
    floor: Position,
}

impl RecentWrites {
    /// Nobody has written since the log's head, `head`.
    #[must_use]
    pub fn new(head: Position) -> Self {
        let shard = || {
            Mutex::new(Shard {
                people: HashMap::new(),
                floor: head,
            })
        };
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| shard()).collect(),
        }
    }

    fn shard(&self, user: UserId) -> &Mutex<Shard> {
        let hash = self.hasher.hash_one(user);
        &self.shards[usize::from(hash.to_le_bytes()[0]) % SHARDS]
    }

    /// A command of this person ended with the log at this position.
    pub fn record(&self, user: UserId, position: Position) {
        let mut shard = self.shard(user).lock();
        if shard.people.len() >= PEOPLE_PER_SHARD && !shard.people.contains_key(&user) {
            shard.forget();
        }
        match shard.people.entry(user) {
            Entry::Occupied(mut last) => {
                let last = last.get_mut();
                *last = position.max(*last);
            }
            Entry::Vacant(new) => {
                new.insert(position);
            }
        }
    }

    /// What a read of this person must have seen.
    #[must_use]
    pub fn last(&self, user: UserId) -> Position {
        let shard = self.shard(user).lock();
        shard.people.get(&user).copied().unwrap_or(shard.floor)
    }
}

impl Shard {
    /// Forgets everybody. Their reads wait for the last of them from now on, which read models reach in a moment.
    fn forget(&mut self) {
        let highest = self.people.values().copied().max().unwrap_or(self.floor);
        self.floor = self.floor.max(highest);
        self.people.clear();
    }
}

#[async_trait]
impl LastWrites for RecentWrites {
    async fn record(&self, user: UserId, position: Position) {
        Self::record(self, user, position);
    }

    async fn last(&self, user: UserId) -> Position {
        Self::last(self, user)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn user(number: u128) -> UserId {
        UserId(Uuid::from_u128(number))
    }

    #[test]
    fn strangers_are_bound_by_the_head_at_start() {
        let recent = RecentWrites::new(7);
        assert_eq!(recent.last(user(1)), 7);
    }

    #[test]
    fn positions_never_go_back() {
        let recent = RecentWrites::new(0);
        recent.record(user(1), 9);
        recent.record(user(1), 4);
        assert_eq!(recent.last(user(1)), 9);
    }

    #[test]
    fn memory_is_bounded_and_nobody_waits_for_too_little() {
        let recent = RecentWrites::new(0);
        let people = (SHARDS * PEOPLE_PER_SHARD * 2) as u64;
        for number in 1..=people {
            recent.record(user(u128::from(number)), number);
        }
        let kept: usize = recent
            .shards
            .iter()
            .map(|shard| shard.lock().people.len())
            .sum();
        assert!(kept <= SHARDS * PEOPLE_PER_SHARD);
        for number in 1..=people {
            assert!(recent.last(user(u128::from(number))) >= number);
        }
    }
}
