//! Who is in which room: a hash for each room, with a field for each instance that has people there.
//!
//! What an instance wrote counts while its lease lasts. All leases are in one sorted set, so that an instance renews one
//! entry however many rooms it has people in; what is left of one that ended is taken out by whoever meets it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, LazyLock},
    time::Duration,
};

use parking_lot::Mutex;
use redis::{Script, ScriptInvocation};
use socialhub_chat::{ChatUser, Inbox, PresenceError, RoomPeople};
use socialhub_domain::UserId;
use tokio::time::MissedTickBehavior;

use super::wire::{Kind, Names, SignalOut, text};
use crate::redis::{RedisFault, RedisLink};

/// How long a room's hash is kept that nobody writes to. Every instance writes to each of its rooms well within it.
const KEPT: Duration = Duration::from_secs(300);

/// Renews the lease of the instance in `ARGV[1]`, by the server's clock; `gone` is 1 when it had none. Then `names` has
/// the instances with a lease.
const RENEW: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. now)
local gone = redis.call('ZSCORE', KEYS[1], ARGV[1]) and 0 or 1
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local names = redis.call('ZRANGE', KEYS[1], 0, -1)
";

/// For each room in `KEYS`: three arguments, the people of this instance (nothing for nobody), and the channel and the
/// text that tell the others of a change. Answers `gone`, `names`, and the people of the other instances.
const EXCHANGE: &str = "
local alive = {}
for _, name in ipairs(names) do alive[name] = true end
local answer = {}
for i = 2, #KEYS do
    local key, at = KEYS[i], 4 + (i - 2) * 3
    local people = ARGV[at]
    local before = redis.call('HGET', key, ARGV[1])
    if people == '' then
        redis.call('HDEL', key, ARGV[1])
    else
        redis.call('HSET', key, ARGV[1], people)
        redis.call('PEXPIRE', key, ARGV[3])
    end
    if (before or '') ~= people then redis.call('PUBLISH', ARGV[at + 1], ARGV[at + 2]) end
    local others, all = {}, redis.call('HGETALL', key)
    for j = 1, #all, 2 do
        if not alive[all[j]] then
            redis.call('HDEL', key, all[j])
        elseif all[j] ~= ARGV[1] then
            others[#others + 1] = all[j + 1]
        end
    end
    answer[#answer + 1] = others
end
return {gone, names, answer}
";

static RENEWING: LazyLock<Script> =
    LazyLock::new(|| Script::new(&format!("{RENEW} return {{gone, names}}")));
static EXCHANGING: LazyLock<Script> = LazyLock::new(|| Script::new(&format!("{RENEW}{EXCHANGE}")));

fn begin<'a>(script: &'a Script, names: &Names, lease: Duration) -> ScriptInvocation<'a> {
    let mut invocation = script.prepare_invoke();
    invocation
        .key(names.instances())
        .arg(&names.instance)
        .arg(millis(lease))
        .arg(millis(KEPT));
    invocation
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::needless_pass_by_value, reason = "made for `map_err`")]
fn failed(error: RedisFault) -> PresenceError {
    PresenceError(error.to_string())
}

/// What the store answered.
pub(super) struct Exchanged {
    /// Whether this instance had no lease: what it wrote before may have been taken out.
    pub(super) gone: bool,
    /// The instances with a lease.
    pub(super) alive: HashSet<String>,
    /// Who is elsewhere, room by room.
    pub(super) elsewhere: Vec<Vec<ChatUser>>,
}

/// Writes who is here and reads who is elsewhere.
pub(super) async fn exchange(
    link: &RedisLink,
    names: &Names,
    lease: Duration,
    here: &[RoomPeople],
) -> Result<Exchanged, PresenceError> {
    let mut invocation = begin(&EXCHANGING, names, lease);
    for RoomPeople { room, people } in here {
        let people = match &people[..] {
            [] => String::new(),
            people => text(&people),
        };
        let notice = SignalOut {
            from: &names.instance,
            room_id: room,
            kind: Kind::Presence,
            user: None,
        };
        invocation
            .key(names.presence(room))
            .arg(people)
            .arg(names.signal(room))
            .arg(text(&notice));
    }
    let (gone, alive, lists): (u8, HashSet<String>, Vec<Vec<String>>) =
        link.invoke(&invocation).await.map_err(failed)?;
    Ok(Exchanged {
        gone: gone == 1,
        alive,
        elsewhere: lists.iter().map(|lists| together(lists)).collect(),
    })
}

/// The people of several instances, each once, by name.
fn together(lists: &[String]) -> Vec<ChatUser> {
    let mut people = BTreeMap::new();
    for list in lists {
        let list: Vec<ChatUser> = serde_json::from_str(list).unwrap_or_default();
        people.extend(
            list.into_iter()
                .map(|one| ((one.username.clone(), one.id), one)),
        );
    }
    people.into_values().collect()
}

/// Takes the fields with a person in them, which dead instances left, out of a room; answers whether one of a living
/// instance has them.
const ERASE: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local here, all = 0, redis.call('HGETALL', KEYS[2])
for j = 1, #all, 2 do
    if string.find(all[j + 1], ARGV[1], 1, true) then
        local lease = redis.call('ZSCORE', KEYS[1], all[j])
        if lease and tonumber(lease) >= now then
            here = 1
        else
            redis.call('HDEL', KEYS[2], all[j])
        end
    end
end
return here
";

static ERASING: LazyLock<Script> = LazyLock::new(|| Script::new(ERASE));

/// Removes what dead instances left of a person, in every room.
pub(super) async fn erase(
    link: &RedisLink,
    names: &Names,
    user: UserId,
) -> Result<(), PresenceError> {
    let (mut cursor, mut here) = (0_u64, false);
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor)
            .arg("MATCH")
            .arg(names.all_presence())
            .arg("COUNT")
            .arg(1_000);
        let (next, rooms): (u64, Vec<String>) = link.query(&scan).await.map_err(failed)?;
        for room in rooms {
            let mut invocation = ERASING.prepare_invoke();
            invocation
                .key(names.instances())
                .key(room)
                .arg(user.to_string());
            let found: u8 = link.invoke(&invocation).await.map_err(failed)?;
            here |= found == 1;
        }
        if next == 0 {
            break;
        }
        cursor = next;
    }
    if here {
        return Err(PresenceError("they are still connected".to_owned()));
    }
    Ok(())
}

/// Ends the lease of this instance.
pub(super) async fn leave(link: &RedisLink, names: &Names) {
    let mut command = redis::cmd("ZREM");
    command.arg(names.instances()).arg(&names.instance);
    let outcome: Result<(), _> = link.query(&command).await;
    if let Err(error) = outcome {
        tracing::debug!(%error, "the chat's lease could not be ended; it runs out");
    }
}

/// The task that keeps the lease, and watches those of the others.
pub(super) struct Renewer {
    pub(super) link: RedisLink,
    pub(super) names: Arc<Names>,
    pub(super) lease: Duration,
    pub(super) inbox: Inbox,
    pub(super) known: Known,
}

/// The instances whose people may be known here. One that comes and goes between two renewals is learnt of with them.
pub(super) type Known = Arc<Mutex<HashSet<String>>>;

impl Renewer {
    pub(super) async fn run(self) {
        let mut tick = tokio::time::interval(self.lease / 5);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let invocation = begin(&RENEWING, &self.names, self.lease);
            match self.link.invoke::<(u8, HashSet<String>)>(&invocation).await {
                Ok((gone, alive)) => {
                    let known = std::mem::replace(&mut *self.known.lock(), alive.clone());
                    // Its people were taken out with it, or those of another are to be.
                    if gone == 1 || !known.is_subset(&alive) {
                        self.inbox.presence_is_stale();
                    }
                }
                Err(error) => tracing::debug!(%error, "the chat's lease could not be renewed"),
            }
        }
    }
}
