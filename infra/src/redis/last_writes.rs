//! Read your own writes over several instances: what each person wrote last, in Redis, and in the log when in doubt.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::{Script, Value};
use socialhub_api::LastWrites;
use socialhub_commands::ports::PortError;
use socialhub_domain::UserId;
use socialhub_event_log::Position;

use crate::redis::link::{RedisFault, RedisLink};

/// Milliseconds a position is kept; every read model is far beyond it by then, or known to be stuck.
const KEPT: u64 = 10 * 60 * 1000;

/// People whose positions this process keeps for Redis while it is away.
const MOST_OWED: usize = 65_536;

/// Positions never go back. KEYS: the person's key. ARGV: position, time to live. The moment is kept, too.
static RAISE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
         local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
         local known = string.match(redis.call('GET', KEYS[1]) or '', '^%d+')
         local position = math.max(tonumber(ARGV[1]), tonumber(known or '0'))
         redis.call('SET', KEYS[1], string.format('%.0f %.0f', position, now), 'PX', ARGV[2])
         return 1",
    )
});

/// Removes what is still as it was read: a position that the log does not have. KEYS: the person's key. ARGV: the text.
static FORGET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
         return 1",
    )
});

/// Asks the event log.
#[async_trait]
pub trait LastPositions: Send + Sync {
    /// The highest position of an event whose actor is this person; 0 when there is none.
    ///
    /// # Errors
    /// When the log cannot answer.
    async fn last_position_of(&self, user: UserId) -> Result<Position, PortError>;

    /// Whether the log ends before a position that was noted: then it went back in time.
    async fn ends_before(&self, _position: Position) -> bool {
        false
    }
}

/// [`LastWrites`] in Redis.
///
/// It never answers too little. While Redis was away, some instance may have failed to note a write; so a position in
/// Redis is believed only when it was noted after this process last connected, and the log is asked for all others and
/// noted anew: one look a person after each interruption. When the log does not answer either, the reader is told to
/// wait for what never comes, and gets what there is, marked as stale.
///
/// What remains: an instance that alone is cut off from Redis. It keeps what it owes Redis and its own reads know it;
/// another instance may, until that is paid, answer with an older position.
#[derive(Clone)]
pub struct RedisLastWrites {
    shared: Arc<Shared>,
}

struct Shared {
    link: RedisLink,
    prefix: String,
    log: Arc<dyn LastPositions>,
    owed: Mutex<Owed>,
    /// Held by who pays.
    paying: tokio::sync::Mutex<()>,
}

/// What could not be noted.
#[derive(Default)]
struct Owed {
    people: HashMap<UserId, Position>,
    /// At least what everybody wrote whose position was dropped for lack of room.
    floor: Position,
}

impl Owed {
    fn add(&mut self, user: UserId, position: Position) {
        if self.people.len() >= MOST_OWED && !self.people.contains_key(&user) {
            let highest = self.people.values().copied().max().unwrap_or(0);
            self.floor = self.floor.max(highest);
            self.people.clear();
        }
        let known = self.people.entry(user).or_default();
        *known = position.max(*known);
    }

    fn of(&self, user: UserId) -> Position {
        let known = self.people.get(&user).copied().unwrap_or(0);
        known.max(self.floor)
    }
}

impl fmt::Debug for RedisLastWrites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisLastWrites")
    }
}

impl RedisLastWrites {
    /// Positions under keys that begin with `prefix`; `log` is asked when in doubt.
    pub fn new(link: RedisLink, prefix: &str, log: Arc<dyn LastPositions>) -> Self {
        Self {
            shared: Arc::new(Shared {
                link,
                prefix: prefix.to_owned(),
                log,
                owed: Mutex::default(),
                paying: tokio::sync::Mutex::default(),
            }),
        }
    }
}

impl Shared {
    fn key(&self, user: UserId) -> String {
        format!("{}:last-write:{user}", self.prefix)
    }

    async fn raise(&self, user: UserId, position: Position) -> Result<(), RedisFault> {
        let mut script = RAISE.prepare_invoke();
        script.key(self.key(user)).arg(position).arg(KEPT);
        self.link.invoke::<Value>(&script).await.map(|_| ())
    }

    /// What Redis says, if it can be believed.
    async fn noted(&self, user: UserId) -> Result<Option<Position>, RedisFault> {
        let mut ask = redis::cmd("GET");
        ask.arg(self.key(user));
        let answer = self.link.query_since::<Option<String>>(&ask).await?;
        let Some(text) = answer.value else {
            return Ok(None);
        };
        let noted = text.split_once(' ').and_then(|(position, moment)| {
            Some((position.parse().ok()?, moment.parse::<u64>().ok()?))
        });
        let Some((position, moment)) = noted else {
            return Ok(None);
        };
        if self.log.ends_before(position).await {
            let mut script = FORGET.prepare_invoke();
            script.key(self.key(user)).arg(&text);
            self.link.invoke::<Value>(&script).await?;
            return Ok(None);
        }
        // In the very millisecond of the connection it may have been noted before it.
        Ok((moment > answer.since).then_some(position))
    }

    /// Notes what could not be noted before. One does, whoever else would: several would all pay for the same people.
    async fn pay(&self) {
        let Ok(_one) = self.paying.try_lock() else {
            return;
        };
        loop {
            let people = self.owed.lock().people.clone();
            if people.is_empty() {
                return;
            }
            for (user, position) in people {
                if self.raise(user, position).await.is_err() {
                    return;
                }
                let mut owed = self.owed.lock();
                if owed.people.get(&user) == Some(&position) {
                    owed.people.remove(&user);
                }
            }
        }
    }
}

impl RedisLastWrites {
    /// Redis has just answered: what it is owed can be paid now, with nobody waiting for it.
    fn pay_later(&self) {
        if !self.shared.owed.lock().people.is_empty() {
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move { shared.pay().await });
        }
    }
}

#[async_trait]
impl LastWrites for RedisLastWrites {
    async fn record(&self, user: UserId, position: Position) {
        match self.shared.raise(user, position).await {
            Ok(()) => self.pay_later(),
            Err(error) => {
                tracing::debug!(%error, "the position of a write is not in Redis");
                self.shared.owed.lock().add(user, position);
            }
        }
    }

    async fn last(&self, user: UserId) -> Position {
        let noted = self.shared.noted(user).await;
        if noted.is_ok() {
            self.pay_later();
        }
        let own = self.shared.owed.lock().of(user);
        if let Ok(Some(position)) = noted {
            return position.max(own);
        }
        match self.shared.log.last_position_of(user).await {
            Ok(position) => {
                if noted.is_ok() {
                    self.record(user, position).await;
                }
                position.max(own)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot tell what a person wrote last");
                Position::MAX
            }
        }
    }
}
