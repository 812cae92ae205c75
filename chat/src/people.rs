//! What one person asks for on this instance, over all their sockets.

use std::{collections::HashMap, sync::Arc, time::Instant};

use parking_lot::Mutex;
use socialhub_domain::UserId;

use crate::limits::{Bucket, ChatLimits};

/// Everybody who has a socket here, or had one a moment ago.
#[derive(Debug, Default)]
pub(crate) struct People(Mutex<HashMap<UserId, Person>>);

#[derive(Debug)]
struct Person {
    sockets: usize,
    histories: Bucket,
}

/// Counts as one of a person's sockets while it lives.
#[derive(Debug)]
pub(crate) struct Seat {
    people: Arc<People>,
    user: UserId,
}

impl People {
    /// A place for one more socket of a person; nothing when they have too many.
    pub(crate) fn seat(self: &Arc<Self>, user: UserId, limits: &ChatLimits) -> Option<Seat> {
        let mut people = self.0.lock();
        let person = people.entry(user).or_insert_with(|| Person {
            sockets: 0,
            histories: Bucket::of_histories(limits),
        });
        if person.sockets >= limits.sockets_of_one {
            return None;
        }
        person.sockets += 1;
        let people = self.clone();
        Some(Seat { people, user })
    }

    /// Counts a history that a person asks for; whether they may.
    pub(crate) fn admit_history(&self, user: UserId) -> bool {
        let mut people = self.0.lock();
        let person = people.get_mut(&user);
        person.is_some_and(|person| person.histories.take(1.0, Instant::now()))
    }

    /// Forgets who has no socket any more, and nothing to be remembered for: else whoever came anew could ask anew.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut people = self.0.lock();
        people.retain(|_, person| person.sockets > 0 || !person.histories.is_full(now));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(person) = self.people.0.lock().get_mut(&self.user) {
            person.sockets -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;

    #[test]
    fn sockets_and_histories_are_counted_over_all_sockets_of_a_person() {
        let limits = ChatLimits {
            sockets_of_one: 2,
            histories: 3.0,
            histories_per_second: 1.0,
            ..ChatLimits::default()
        };
        let people = Arc::new(People::default());
        let (ann, eve) = (UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let first = people.seat(eve, &limits);
        let second = people.seat(eve, &limits);
        assert!(first.is_some() && second.is_some());
        assert!(people.seat(eve, &limits).is_none());
        let other = people.seat(ann, &limits);
        assert!(other.is_some());
        let asked = [0; 4].map(|_| people.admit_history(eve));
        assert_eq!(asked, [true, true, true, false]);
        assert!(people.admit_history(ann));
        // Coming anew gives nobody more.
        drop((first, second));
        people.sweep(Instant::now());
        let again = people.seat(eve, &limits);
        assert!(again.is_some() && !people.admit_history(eve));
        drop((again, other));
        people.sweep(Instant::now() + Duration::from_secs(10));
        assert!(people.0.lock().is_empty());
    }
}
