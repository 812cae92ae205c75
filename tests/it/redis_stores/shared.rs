//! What instances share: one-time codes, limits, and what each person wrote last.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::future::join_all;
use socialhub_api::{Allowance, LastWrites, SharedLimits};
use socialhub_commands::ports::{OtpStore, OtpVerdict, PortError};
use socialhub_domain::{Timestamp, UserId};
use socialhub_event_log::Position;
use socialhub_infra::redis::{LastPositions, RedisLastWrites, RedisLimits, RedisLink, RedisOtps};
use socialhub_tests::{
    contract::history::user,
    support::{
        eventually,
        servers::{patient_redis, redis_url},
    },
};

use super::{prefix, server::Server};

const EMAIL: &str = "john@example.com";
const NOW: Timestamp = Timestamp(1_000_000);

async fn good(otps: &RedisOtps, email: &str, otp: &str, now: i64) -> bool {
    otps.check(email, otp, Timestamp(now)).await.unwrap() == OtpVerdict::Good
}

fn otps() -> (RedisOtps, RedisOtps) {
    let prefix = prefix();
    let one = || RedisOtps::new(RedisLink::new(&redis_url()).unwrap(), &prefix, [7; 32]);
    (one(), one())
}

#[tokio::test]
async fn a_code_is_good_for_its_address_on_every_instance_for_five_minutes() {
    let (one, two) = otps();
    one.put(EMAIL, "012345", NOW).await.unwrap();
    let last = NOW.0 + 5 * 60 * 1000 - 1;
    assert!(good(&two, EMAIL, "012345", last).await);
    assert!(!good(&two, "jane@example.com", "012345", NOW.0).await);
    assert!(!good(&two, EMAIL, "012345", last + 1).await);
    assert!(!good(&one, EMAIL, "012345", NOW.0).await, "gone for good");
    one.put(EMAIL, "111111", NOW).await.unwrap();
    two.put(EMAIL, "222222", NOW).await.unwrap();
    assert!(!good(&one, EMAIL, "111111", NOW.0).await);
    assert!(good(&one, EMAIL, "222222", NOW.0).await);
    two.burn(EMAIL).await.unwrap();
    two.burn(EMAIL).await.unwrap();
    assert!(!good(&one, EMAIL, "222222", NOW.0).await);
}

/// Two instances may both have found it good before either uses it up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_is_used_up_once_by_whichever_instance() {
    let (one, two) = otps();
    one.put(EMAIL, "012345", NOW).await.unwrap();
    assert!(!two.use_up(EMAIL, "999999").await.unwrap());
    let uses = (0..20).map(|n| {
        let otps = if n % 2 == 0 { one.clone() } else { two.clone() };
        async move { otps.use_up(EMAIL, "012345").await.unwrap() }
    });
    let used = join_all(uses).await;
    assert_eq!(used.iter().filter(|used| **used).count(), 1, "{used:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_wrong_tries_at_once_are_no_more_than_five() {
    let (one, two) = otps();
    for wrong in [4, 5, 40] {
        one.put(EMAIL, "012345", NOW).await.unwrap();
        let tries = (0..wrong).map(|n| {
            let otps = if n % 2 == 0 { one.clone() } else { two.clone() };
            async move { good(&otps, EMAIL, "999999", NOW.0).await }
        });
        let found = join_all(tries).await;
        assert!(!found.contains(&true));
        assert_eq!(good(&one, EMAIL, "012345", NOW.0).await, wrong < 5);
    }
}

#[tokio::test]
async fn redis_holds_neither_code_nor_address_nor_for_long() {
    let server = Server::start().await;
    let link = RedisLink::new(&server.url()).unwrap();
    let otps = RedisOtps::new(link.clone(), "p", [7; 32]);
    otps.put(EMAIL, "012345", NOW).await.unwrap();
    let limits = RedisLimits::new(link, "p", [7; 32]);
    limits
        .take("account", EMAIL, allowance(2, SHORT))
        .await
        .unwrap();
    server.run(&["SAVE"]).await;
    let dump = std::fs::read(server.folder.path().join("dump.rdb")).unwrap();
    let dump = String::from_utf8_lossy(&dump);
    assert!(dump.contains("p:otp:"));
    assert!(!dump.contains("john") && !dump.contains("012345"));
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = patient_redis(&client).await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg("p:*")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(keys.len(), 2);
    for key in keys {
        let left: i64 = redis::cmd("PTTL")
            .arg(&key)
            .query_async(&mut connection)
            .await
            .unwrap();
        assert!((1..=300_000).contains(&left), "{key}: {left}");
    }
}

/// Longer than it takes to use one up.
const INTERVAL: Duration = Duration::from_secs(30);
/// Nobody waits for long.
const SHORT: Duration = Duration::from_millis(400);

fn allowance(burst: u32, interval: Duration) -> Allowance {
    Allowance { burst, interval }
}

#[tokio::test]
async fn an_allowance_is_shared_and_comes_back() {
    let prefix = prefix();
    let one = || RedisLimits::new(RedisLink::new(&redis_url()).unwrap(), &prefix, [7; 32]);
    let (one, two) = (one(), one());
    let take = async |limits: &RedisLimits, key: &str| {
        let allowance = allowance(3, INTERVAL);
        limits.take("account", key, allowance).await.unwrap()
    };
    let tries = join_all((0..20).map(|n| {
        let limits = if n % 2 == 0 { &one } else { &two };
        take(limits, "ada")
    }))
    .await;
    let passed = tries.iter().filter(|wait| wait.is_none()).count();
    assert_eq!(passed, 3);
    let longest = tries.iter().flatten().max().unwrap();
    assert!(*longest <= INTERVAL);
    assert_eq!(take(&two, "bob").await, None);
    // After the time it was told, it passes.
    let soon = async || {
        let taken = one.take("account", "eve", allowance(1, SHORT)).await;
        taken.unwrap()
    };
    let wait = loop {
        if let Some(wait) = soon().await {
            break wait;
        }
    };
    assert!(wait <= SHORT);
    tokio::time::sleep(wait).await;
    assert_eq!(soon().await, None);
}

#[tokio::test]
async fn limits_say_so_at_once_while_redis_is_away() {
    let mut server = Server::start().await;
    let link = RedisLink::new(&server.url()).unwrap();
    let limits = RedisLimits::new(link, "p", [7; 32]);
    server.stop();
    let began = Instant::now();
    for _ in 0..100 {
        assert!(
            limits
                .take("account", "ada", allowance(1, SHORT))
                .await
                .is_err()
        );
    }
    assert!(began.elapsed() < Duration::from_secs(2));
    server.start_again().await;
    eventually("limits are shared again", || async {
        limits
            .take("account", "ada", allowance(1, SHORT))
            .await
            .ok()
    })
    .await;
}

/// The log as [`RedisLastWrites`] asks it.
#[derive(Default)]
struct Asked {
    positions: Mutex<HashMap<UserId, Position>>,
    asked: AtomicU64,
    away: AtomicBool,
}

#[async_trait]
impl LastPositions for Asked {
    async fn last_position_of(&self, user: UserId) -> Result<Position, PortError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) {
            return Err(PortError("away".to_owned()));
        }
        Ok(self
            .positions
            .lock()
            .unwrap()
            .get(&user)
            .copied()
            .unwrap_or(0))
    }
}

impl Asked {
    /// A command of somebody: in the log, then noted.
    async fn command(&self, writes: &RedisLastWrites, user: UserId, position: Position) {
        self.positions.lock().unwrap().insert(user, position);
        writes.record(user, position).await;
    }

    fn times(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn the_last_write_is_known_to_every_instance() {
    let log = Arc::new(Asked::default());
    let prefix = prefix();
    let one = || {
        let link = RedisLink::new(&redis_url()).unwrap();
        RedisLastWrites::new(link, &prefix, log.clone())
    };
    let (one, two) = (one(), one());
    // Both are connected.
    assert_eq!((one.last(user(0)).await, two.last(user(0)).await), (0, 0));
    tokio::time::sleep(Duration::from_millis(2)).await;
    log.command(&one, user(1), 9).await;
    one.record(user(1), 4).await;
    let before = log.times();
    assert_eq!((one.last(user(1)).await, two.last(user(1)).await), (9, 9));
    assert_eq!(log.times(), before, "Redis knows");
}

#[tokio::test]
async fn an_interruption_makes_nobody_miss_their_own_write() {
    let mut server = Server::start().await;
    let log = Arc::new(Asked::default());
    let one = || RedisLastWrites::new(RedisLink::new(&server.url()).unwrap(), "p", log.clone());
    let (one, two) = (one(), one());
    assert_eq!((one.last(user(0)).await, two.last(user(0)).await), (0, 0));
    log.command(&one, user(1), 5).await;
    server.run(&["SAVE"]).await;
    server.stop();
    let began = Instant::now();
    for position in 6..200 {
        log.command(&one, user(1), position).await;
        assert_eq!(one.last(user(1)).await, position);
        assert_eq!(two.last(user(1)).await, position);
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    // It comes back with what it knew.
    server.start_again().await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        assert_eq!(two.last(user(1)).await, 199);
    }
    let asked = log.times();
    for _ in 0..100 {
        assert_eq!(two.last(user(1)).await, 199);
    }
    assert_eq!(log.times(), asked, "once a person is enough");
    log.away.store(true, Ordering::Relaxed);
    assert_eq!(two.last(user(1)).await, 199);
    assert_eq!(two.last(user(2)).await, Position::MAX, "rather too much");
}

/// What a server is owed is paid once, however many find it back at the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_noted_is_noted_once() {
    const OWED: u8 = 150;
    const AT_ONCE: u8 = 64;
    let mut server = Server::start().await;
    let log = Arc::new(Asked::default());
    let one = RedisLastWrites::new(RedisLink::new(&server.url()).unwrap(), "p", log);
    one.record(user(0), 1).await;
    server.stop();
    for person in 0..OWED {
        one.record(user(person), 2).await;
    }
    server.start_again().await;
    let noting = (OWED..OWED + AT_ONCE).map(|person| one.record(user(person), 3));
    join_all(noting).await;
    let people = (OWED + AT_ONCE).to_string();
    eventually("everybody's position is there", || async {
        // What came while it was not known to be back is owed, too: somebody has to find it back.
        one.record(user(0), 2).await;
        (server.tell(&["DBSIZE"]).await == people).then_some(())
    })
    .await;
    let told = server.tell(&["INFO", "commandstats"]).await;
    let calls = told.split_once("cmdstat_evalsha:calls=").unwrap().1;
    let calls: u64 = calls.split(',').next().unwrap().parse().unwrap();
    // And a few for those who looked, and for the script, which the server did not know.
    assert!(calls < 2 * u64::from(OWED + AT_ONCE), "{calls} calls");
}

#[test]
fn an_address_that_is_none_is_refused() {
    assert!(RedisLink::new("http://example.org").is_err());
}
