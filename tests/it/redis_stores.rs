//! What lives in Redis: the contract of a read model, and what only a server that several processes share, and that may
//! lose what it holds, can be asked.

use std::{
    collections::HashMap,
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use rand::{Rng, SeedableRng, rngs::StdRng};
use socialhub_api::{Allowance, LastWrites, SharedLimits};
use socialhub_commands::ports::{OtpStore, OtpVerdict, PortError};
use socialhub_domain::{Clock, Event, PostId, StreamId, Timestamp, UserId, event::Visibility};
use socialhub_event_log::{Append, EventLog, MemoryEventLog, Metadata, NewEvent, Position};
use socialhub_infra::{
    redis::{
        LastPositions, RedisCounterReader, RedisFault, RedisGenerations, RedisLastWrites,
        RedisLimits, RedisLink, RedisOtps, keep_filled,
    },
    sqlite::{
        counters::{SqliteCounterReader, SqliteCounters},
        generations::SqliteGenerations,
    },
};
use socialhub_projections::{
    Checkpoint, PageRequest, Projection, ReadModelStore, Source, StoreError,
    counters::{CounterFold, CounterReader, Counters, PersonCounts, PostCounts, TrendingPost},
    page::PageStart,
    projection::Projected,
    runtime::{Control, Generations, ModelControl, WriteMode},
    source_position,
    store::WriteBatch,
    verify::{ModelFold, ModelRow},
};
use socialhub_tests::{
    contract::{
        history::{Log, PEOPLE, POSTS, created, history, post, user},
        read_model::Subject,
    },
    read_model_contract,
    support::{eventually, servers::redis_url},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

struct ClockAt(Timestamp);

impl Clock for ClockAt {
    fn now(&self) -> Timestamp {
        self.0
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(ClockAt(Timestamp(1_800_000_000_000)))
}

/// A prefix that no other test has.
fn prefix() -> String {
    format!("test:{:032x}", rand::random::<u128>())
}

/// Counters on a server, under a prefix of their own.
struct Place {
    url: String,
    prefix: String,
    reader: RedisCounterReader,
}

fn generations_at(url: &str, prefix: &str) -> Arc<RedisGenerations> {
    RedisGenerations::open(url, prefix, clock()).unwrap()
}

impl Place {
    fn new(url: &str) -> Self {
        let prefix = prefix();
        let reader = generations_at(url, &prefix).reader();
        let url = url.to_owned();
        Self {
            url,
            prefix,
            reader,
        }
    }

    fn generations(&self) -> Arc<RedisGenerations> {
        generations_at(&self.url, &self.prefix)
    }
}

/// Makes the first generation as [`keep_filled`] would with an empty log.
async fn begin(generations: &RedisGenerations) {
    eventually("a first generation", || async {
        if !generations.needs_filling().await.unwrap() {
            return Some(());
        }
        let claim = generations.claim().await.unwrap()?;
        if !generations.needs_filling().await.unwrap() {
            return Some(());
        }
        let id = generations.create(&claim).await.unwrap();
        let fence = generations.fence(&claim).await.unwrap();
        fence.switch(id).await.unwrap();
        Some(())
    })
    .await;
}

impl Subject for Place {
    type Projection = Counters;
    type Fold = CounterFold;
    const MANY_WRITERS: bool = true;

    async fn open(&self) -> Arc<dyn Generations<Counters>> {
        let generations = self.generations();
        begin(&generations).await;
        generations
    }

    async fn check_reads(&self, _log: &Log, rows: &[ModelRow]) {
        // Each history begins anew, below what was served of the one before: as after a restart.
        check_reader(&self.generations().reader(), rows).await;
    }
}

read_model_contract!(many_writers: counters => Place::new(&redis_url()));

fn field(row: Option<&ModelRow>, name: &str) -> u64 {
    let value = row.map_or(0, |row| row.value[name].as_i64().unwrap());
    u64::try_from(value).unwrap_or(0)
}

async fn check_reader(reader: &dyn CounterReader, rows: &[ModelRow]) {
    let find = |table: &str, key: Uuid| {
        rows.iter()
            .find(|row| row.table == table && row.key == key.to_string())
    };
    let ids: Vec<PostId> = (0..POSTS + 2).map(post).collect();
    let expected: Vec<_> = ids
        .iter()
        .map(|id| {
            let row = find("post", id.0);
            PostCounts {
                likes: field(row, "likes"),
                comments: field(row, "comments"),
            }
        })
        .collect();
    assert_eq!(reader.post_counts(&ids).await.unwrap(), Some(expected));
    assert_eq!(reader.post_counts(&[]).await.unwrap(), Some(Vec::new()));
    for id in (0..PEOPLE + 1).map(user) {
        let row = find("person", id.0);
        let expected = PersonCounts {
            followers: field(row, "followers"),
            following: field(row, "following"),
            posts: field(row, "posts"),
        };
        assert_eq!(reader.person_counts(id).await.unwrap(), Some(expected));
    }
    let mut ranked: Vec<(f64, PostId)> = rows
        .iter()
        .filter_map(|row| Some((row.value["log2Score"].as_f64()?, row.key.parse().unwrap())))
        .collect();
    ranked.sort_by(|a, b| b.partial_cmp(a).unwrap());
    for limit in [1, 3, 50] {
        let found = pages(reader, limit).await;
        let found: Vec<_> = found
            .iter()
            .map(|item| (item.log2_score, item.post_id))
            .collect();
        assert_eq!(found, ranked);
    }
}

/// The whole list page by page, by key, each compared with the same page by number.
async fn pages(reader: &dyn CounterReader, limit: usize) -> Vec<TrendingPost> {
    let mut found = Vec::new();
    let mut request = PageRequest::first(limit);
    for number in 1.. {
        let page = reader.trending(&request).await.unwrap();
        let numbered = PageRequest {
            limit,
            start: PageStart::Page(number),
        };
        assert_eq!(reader.trending(&numbered).await.unwrap(), page);
        found.extend(page.items);
        match page.next {
            Some(next) => request.start = PageStart::After(next),
            None => break,
        }
    }
    found
}

fn event_id(position: Position) -> Uuid {
    Uuid::from_u128(u128::from(position) << 16 | 3)
}

/// A batch that brings some of a log.
fn batch(
    source: &Source,
    after: Position,
    events: &[(Position, Event)],
) -> WriteBatch<<Counters as Projection>::Change> {
    let last = events.last().map_or(after, |event| event.0);
    WriteBatch {
        projected: events
            .iter()
            .map(|(position, event)| Projected {
                position: *position,
                changes: Counters::project(*position, event),
            })
            .filter(|projected| !projected.changes.is_empty())
            .collect(),
        parked: Vec::new(),
        after,
        checkpoint: Checkpoint {
            source: source.clone(),
            position: last,
            event_id: event_id(last),
            next_offset: None,
        },
    }
}

type Store = Arc<dyn ReadModelStore<Counters>>;

async fn open_current(generations: &RedisGenerations) -> Store {
    let id = generations.refresh().await.unwrap();
    generations.open(id, WriteMode::Live).await.unwrap()
}

async fn write(store: &Store, log: &[(Position, Event)]) {
    write_up_to(store, &Source::log(), log).await;
}

async fn write_up_to(store: &Store, source: &Source, log: &[(Position, Event)]) {
    let after = log.first().map_or(0, |event| event.0 - 1);
    store.apply(batch(source, after, log)).await.unwrap();
}

fn fold(log: &[(Position, Event)]) -> CounterFold {
    let mut fold = CounterFold::default();
    for (position, event) in log {
        fold.apply(*position, event);
    }
    fold
}

async fn assert_equals_fold(generations: &RedisGenerations, log: &[(Position, Event)]) {
    let id = generations.refresh().await.unwrap();
    let rows = generations.snapshot(id).await.unwrap().model.rows;
    assert_eq!(fold(log).differences(rows), []);
}

/// Batches of many parts, written by rivals that overlap, vanish in the middle and repeat themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_large_batches_go_in_once() {
    for seed in 0..4_u64 {
        let place = Place::new(&redis_url());
        let generations = place.generations();
        begin(&generations).await;
        let log = Arc::new(history(seed + 77, 20_000));
        let rivals = [1, 2, 3].map(|rival| {
            let (generations, log) = (place.generations(), Arc::clone(&log));
            let mut rng = StdRng::seed_from_u64(seed * 10 + rival);
            tokio::spawn(async move { rival_writer(&generations, &log, &mut rng).await })
        });
        for rival in rivals {
            rival.await.unwrap();
        }
        assert_equals_fold(&generations, &log).await;
    }
}

async fn rival_writer(generations: &RedisGenerations, log: &Log, rng: &mut StdRng) {
    let source = Source::partition("ALL", 0);
    let store = open_current(generations).await;
    let end = log.len() as Position;
    loop {
        let at = source_position(&store.checkpoints().await.unwrap(), &source);
        if at >= end {
            return;
        }
        let size = rng.random_range(300..9_000);
        let upto = (at as usize + size).min(log.len());
        let next = batch(&source, at, &log[at as usize..upto]);
        let (writer, moment) = (Arc::clone(&store), rng.random_range(0..30_000));
        let writing = tokio::spawn(async move { writer.apply(next).await });
        if rng.random_bool(0.4) {
            // Any moment of the call will do.
            tokio::time::sleep(Duration::from_micros(moment)).await;
            writing.abort();
            let _ = writing.await;
        } else {
            match writing.await.unwrap() {
                Ok(()) | Err(StoreError::Moved) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Asks a place something by a script with its catalogue as key.
async fn ask(place: &Place, script: &str) -> u32 {
    let client = redis::Client::open(place.url.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("EVAL")
        .arg(script)
        .arg(1)
        .arg(format!("{}:counters", place.prefix))
        .query_async(&mut connection)
        .await
        .unwrap()
}

async fn is_half_written(place: &Place) -> bool {
    ask(
        place,
        "for _, field in ipairs(redis.call('HKEYS', KEYS[1] .. ':1:state')) do
             if string.sub(field, 1, 2) == 'p:' then
                 return 1
             end
         end
         return 0",
    )
    .await
        == 1
}

/// The process ends in the middle of a batch: its successor starts it again and nothing counts twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_was_cut_off_is_ended_by_the_next_writer() {
    let place = Place::new(&redis_url());
    let generations = place.generations();
    begin(&generations).await;
    let source = Source::partition("ALL", 0);
    let log = history(4, 90_000);
    let store = open_current(&generations).await;
    write_up_to(&store, &source, &log[..1_000]).await;
    let next = batch(&source, 1_000, &log[1_000..]);
    let writing = tokio::spawn(async move { store.apply(next).await });
    eventually("a batch is half written", || async {
        is_half_written(&place).await.then_some(())
    })
    .await;
    // No part goes in any more, as if its writer had ended.
    let stopped = "redis.call('SET', KEYS[1] .. ':fence', 'x 1') return 1";
    ask(&place, stopped).await;
    let cut = writing.await.unwrap();
    assert!(matches!(cut, Err(StoreError::Unavailable(_))), "{cut:?}");
    ask(&place, "return redis.call('DEL', KEYS[1] .. ':fence')").await;

    assert!(is_half_written(&place).await);
    let found = generations.current_checkpoints().await.unwrap();
    assert_eq!(source_position(&found, &source), 1_000, "no checkpoint yet");
    let id = generations.refresh().await.unwrap();
    assert!(matches!(
        generations.snapshot(id).await,
        Err(StoreError::Unavailable(_))
    ));
    let (at, after) = (1_000, 1_000);
    // First less than what was begun, and then more.
    let store = open_current(&generations).await;
    store
        .apply(batch(&source, after, &log[at..at + 100]))
        .await
        .unwrap();
    let after = after + 100;
    store
        .apply(batch(&source, after, &log[at + 100..]))
        .await
        .unwrap();
    assert!(!is_half_written(&place).await);
    assert_equals_fold(&generations, &log).await;
}

/// A command that ends right after it gave its rights back keeps nobody waiting.
#[test]
fn rights_are_given_back_although_the_program_ends() {
    let place = Place::new(&redis_url());
    for _ in 0..3 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let generations = place.generations();
            let claim = generations.claim().await.unwrap().expect("nobody has it");
            assert!(generations.claim().await.unwrap().is_none());
            let began = Instant::now();
            let fence = generations.fence(&claim).await.unwrap();
            assert!(began.elapsed() < Duration::from_secs(5));
            drop((fence, claim));
        });
    }
}

/// What a partition has brought would be counted again by who reads the log from a lower place.
#[tokio::test]
async fn what_came_by_partitions_is_not_continued_from_the_log() {
    let place = Place::new(&redis_url());
    let generations = place.generations();
    begin(&generations).await;
    let log = history(5, 200);
    let store = open_current(&generations).await;
    let source = Source::partition("ALL", 0);
    store.apply(batch(&source, 0, &log[..50])).await.unwrap();
    let refused = store.apply(batch(&Source::log(), 0, &log)).await;
    match refused {
        Err(StoreError::Unusable(reason)) => assert!(reason.contains("replay rebuild counters")),
        other => panic!("{other:?}"),
    }
    assert_equals_fold(&generations, &log[..50]).await;
}

#[tokio::test]
async fn the_same_history_reads_the_same_from_redis_and_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = SqliteGenerations::<SqliteCounters>::open(folder.path(), clock()).unwrap();
    let sqlite_reader = SqliteCounterReader::new(sqlite.readers(1).unwrap());
    let place = Place::new(&redis_url());
    let generations = place.generations();
    begin(&generations).await;
    let store = open_current(&generations).await;
    let id = sqlite.refresh().await.unwrap();
    let sqlite_store = sqlite.open(id, WriteMode::Live).await.unwrap();
    let log = history(4_711, 2_500);
    for part in log.chunks(700) {
        write(&store, part).await;
        write(&sqlite_store, part).await;
        let ids: Vec<_> = (0..POSTS + 2).map(post).collect();
        assert_eq!(
            place.reader.post_counts(&ids).await.unwrap(),
            sqlite_reader.post_counts(&ids).await.unwrap()
        );
        for id in (0..PEOPLE).map(user) {
            assert_eq!(
                place.reader.person_counts(id).await.unwrap(),
                sqlite_reader.person_counts(id).await.unwrap()
            );
        }
        for limit in [1, 4, 100] {
            let (found, expected) = (
                pages(&place.reader, limit).await,
                pages(&sqlite_reader, limit).await,
            );
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                let (a, b) = (found.log2_score, expected.log2_score);
                assert!((a - b).abs() <= 1e-9 * a.abs().max(1.0), "{a} and {b}");
                assert_eq!(found.post_id, expected.post_id);
            }
        }
    }
    for key in [
        "",
        "x",
        "7ff8000000000000:",
        "zz:00000000-0000-0000-0000-000000000000",
    ] {
        let request = PageRequest {
            limit: 5,
            start: PageStart::After(key.to_owned()),
        };
        assert_eq!(
            place.reader.trending(&request).await.unwrap().items,
            place
                .reader
                .trending(&PageRequest::first(5))
                .await
                .unwrap()
                .items
        );
    }
}

#[tokio::test]
async fn equal_scores_come_newest_post_first_on_every_page() {
    let place = Place::new(&redis_url());
    let generations = place.generations();
    begin(&generations).await;
    let at = Timestamp(1_800_000_000_000);
    let mut log: Log = Vec::new();
    for n in 0..20 {
        log.push((u64::from(n) * 2 + 1, created(n, 0, Visibility::Public, at)));
        let event = socialhub_domain::event::PostLiked {
            post_id: post(n),
            post_author_id: user(0),
            liker_id: user(1),
            liker_username: "User1".to_owned(),
            timestamp: at,
        };
        log.push((u64::from(n) * 2 + 2, event.into()));
    }
    write(&open_current(&generations).await, &log).await;
    let expected: Vec<_> = (0..20).rev().map(post).collect();
    for limit in [1, 3, 20] {
        let found: Vec<_> = pages(&place.reader, limit)
            .await
            .iter()
            .map(|item| item.post_id)
            .collect();
        assert_eq!(found, expected);
    }
}

/// A Redis server of this test alone.
struct Server {
    folder: TempDir,
    port: u16,
    process: Child,
}

fn start(folder: &TempDir, port: u16) -> Child {
    let log = std::fs::File::create(folder.path().join("redis.log")).unwrap();
    Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--save",
            "",
            "--bind",
            "127.0.0.1",
            "--dir",
        ])
        .arg(folder.path())
        .stdout(Stdio::from(log))
        .spawn()
        .expect("redis-server is installed")
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let folder = tempfile::tempdir().unwrap();
        let process = start(&folder, port);
        let server = Self {
            folder,
            port,
            process,
        };
        server.answers().await;
        server
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    async fn answers(&self) {
        eventually("Redis answers", || async {
            self.try_run(&["PING"]).await.ok()
        })
        .await;
    }

    async fn try_run(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await
    }

    async fn run(&self, words: &[&str]) {
        self.try_run(words).await.unwrap();
    }

    /// Kills it: what is not in its dump is lost.
    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    async fn start_again(&mut self) {
        self.process = start(&self.folder, self.port);
        self.answers().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A log that holds a history.
async fn event_log(events: &[(Position, Event)]) -> Arc<dyn EventLog> {
    let log = MemoryEventLog::new();
    append(&log, events).await;
    Arc::new(log)
}

async fn append(log: &dyn EventLog, events: &[(Position, Event)]) {
    for (position, event) in events {
        let append = Append {
            command_id: Uuid::from_u128(u128::from(*position)),
            stream: StreamId::new("post", Uuid::from_u128(u128::from(*position))),
            expected_version: 0,
            events: vec![NewEvent {
                event_id: event_id(*position),
                event: event.clone(),
            }],
            metadata: Metadata::default(),
            side: Vec::new(),
        };
        log.append(append).await.unwrap();
    }
}

/// Keeps a place filled from a log until it is dropped.
struct Keeper(CancellationToken);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn keep(generations: &Arc<RedisGenerations>, log: &Arc<dyn EventLog>) -> Keeper {
    let stop = CancellationToken::new();
    tokio::spawn(keep_filled(
        Arc::clone(generations),
        Arc::clone(log),
        clock(),
        stop.clone(),
    ));
    Keeper(stop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_redis_serves_no_zeros_and_is_filled_again() {
    let server = Server::start().await;
    let place = Place::new(&server.url());
    let events = history(31, 1_500);
    let log = event_log(&events).await;
    let generations = place.generations();
    // Never filled: not a zero either.
    assert_eq!(place.reader.post_counts(&[post(0)]).await.unwrap(), None);
    assert!(place.reader.trending(&PageRequest::first(3)).await.is_err());
    assert!(generations.needs_filling().await.unwrap());
    assert_eq!(generations.current_checkpoints().await.unwrap(), []);

    let (one, two) = (keep(&generations, &log), keep(&place.generations(), &log));
    let served = || async { place.reader.post_counts(&[post(0)]).await.unwrap() };
    let counts = eventually("counts", &served).await;
    assert_equals_fold(&generations, &events).await;
    let first = generations.refresh().await.unwrap();
    assert_eq!(first.0, 1);
    let store = open_current(&generations).await;
    let mut pointer = generations.current();
    pointer.borrow_and_update();

    server.run(&["FLUSHALL"]).await;
    // Another process may use the number again: that, too, is another generation.
    pointer.changed().await.unwrap();
    eventually("counts again", || async {
        let found = served().await?;
        assert_eq!(found, counts, "whatever is answered meanwhile is no zero");
        Some(())
    })
    .await;
    let late = store.apply(batch(&Source::log(), 0, &events)).await;
    assert!(matches!(late, Err(StoreError::Unusable(_))), "{late:?}");
    let control = Control::<Counters, CounterFold>::new(generations.clone(), clock());
    let report = control.verify(&log).await.unwrap();
    assert!(report.is_clean(), "{:?}", report.differences);
    drop((one, two));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_dump_is_not_served_as_if_it_were_current() {
    let mut server = Server::start().await;
    let place = Place::new(&server.url());
    let generations = place.generations();
    begin(&generations).await;
    let log = history(32, 1_500);
    let store = open_current(&generations).await;
    write(&store, &log[..400]).await;
    server.run(&["SAVE"]).await;
    write(&store, &log[400..800]).await;
    let ids = [post(0), post(1)];
    let counts = place.reader.post_counts(&ids).await.unwrap();
    assert!(counts.is_some());

    server.stop();
    let away = Instant::now();
    assert_eq!(place.reader.post_counts(&ids).await.unwrap(), None);
    assert!(away.elapsed() < Duration::from_secs(3));
    assert!(matches!(
        store.apply(batch(&Source::log(), 800, &log[800..])).await,
        Err(StoreError::Unavailable(_))
    ));
    server.start_again().await;

    // The writer that believes it is ahead is told, and finds the place to go on from.
    let refused = eventually("Redis is asked again", || async {
        match store.apply(batch(&Source::log(), 800, &log[800..])).await {
            Err(StoreError::Unavailable(_)) => None,
            other => Some(other),
        }
    })
    .await;
    assert!(matches!(refused, Err(StoreError::Moved)), "{refused:?}");
    eventually("Redis is read again", || async {
        generations.current_checkpoints().await.ok()
    })
    .await;
    let reader = &place.reader;
    assert_eq!(reader.post_counts(&ids).await.unwrap(), None);
    assert_eq!(reader.person_counts(user(0)).await.unwrap(), None);
    let refused = reader.trending(&PageRequest::first(3)).await.unwrap_err();
    assert!(refused.to_string().contains("back in time"), "{refused}");

    let at = source_position(&store.checkpoints().await.unwrap(), &Source::log());
    assert_eq!(at, 400);
    write(&store, &log[400..700]).await;
    assert_eq!(
        reader.post_counts(&ids).await.unwrap(),
        None,
        "not yet there"
    );
    write(&store, &log[700..800]).await;
    assert_eq!(reader.post_counts(&ids).await.unwrap(), counts);
    assert_equals_fold(&generations, &log[..800]).await;
}

#[tokio::test]
async fn a_part_that_is_lost_is_noticed() {
    let server = Server::start().await;
    let place = Place::new(&server.url());
    let generations = place.generations();
    begin(&generations).await;
    let log = history(33, 300);
    let store = open_current(&generations).await;
    write(&store, &log[..200]).await;
    assert!(place.reader.person_counts(user(0)).await.unwrap().is_some());
    server
        .run(&["DEL", &format!("{}:counters:1:people", place.prefix)])
        .await;
    assert_eq!(place.reader.person_counts(user(0)).await.unwrap(), None);
    let refused = store.apply(batch(&Source::log(), 200, &log[200..])).await;
    match refused {
        Err(StoreError::Unusable(reason)) => assert!(reason.contains("replay rebuild counters")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_evicts_is_refused() {
    let server = Server::start().await;
    let link = RedisLink::new(&server.url()).unwrap();
    link.check_server().await.unwrap();
    server
        .run(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"])
        .await;
    link.check_server().await.unwrap();
    server
        .run(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"])
        .await;
    let refused = link.check_server().await.unwrap_err();
    assert!(matches!(refused, RedisFault::Unsafe(_)), "{refused:?}");
    assert!(refused.to_string().contains("noeviction"));
}

#[tokio::test]
async fn a_full_memory_writes_nothing_and_is_no_rejection() {
    let server = Server::start().await;
    let place = Place::new(&server.url());
    let generations = place.generations();
    begin(&generations).await;
    let log = history(34, 600);
    let store = open_current(&generations).await;
    write(&store, &log[..300]).await;
    server.run(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let refused = store.apply(batch(&Source::log(), 300, &log[300..])).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    assert_equals_fold(&generations, &log[..300]).await;
    server.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    write(&store, &log[300..]).await;
    assert_equals_fold(&generations, &log).await;
}

#[tokio::test]
async fn a_program_starts_while_redis_is_away() {
    let mut server = Server::start().await;
    server.stop();
    let place = Place::new(&server.url());
    let generations = place.generations();
    let pointer = generations.current();
    assert!(matches!(
        generations.refresh().await,
        Err(StoreError::Unavailable(_))
    ));
    assert_eq!(place.reader.person_counts(user(0)).await.unwrap(), None);
    let log = event_log(&history(35, 50)).await;
    let _keeper = keep(&generations, &log);
    server.start_again().await;
    let served = || async { place.reader.person_counts(user(0)).await.unwrap() };
    eventually("counts", served).await;
    assert_eq!(pointer.borrow().0, 1);
}

#[tokio::test]
async fn verifying_waits_for_no_pause_of_the_writers() {
    let place = Place::new(&redis_url());
    let generations = place.generations();
    begin(&generations).await;
    let events = history(36, 4_000);
    let log = event_log(&events).await;
    let writing = {
        let (generations, events) = (place.generations(), events.clone());
        tokio::spawn(async move {
            let store = open_current(&generations).await;
            for event in events.chunks(3) {
                let after = event[0].0 - 1;
                eventually("the batch goes in", || async {
                    let next = batch(&Source::log(), after, event);
                    store.apply(next).await.ok()
                })
                .await;
            }
        })
    };
    let control = Control::<Counters, CounterFold>::new(generations.clone(), clock());
    let mut verified = 0;
    while !writing.is_finished() {
        let report = control.verify(&log).await.unwrap();
        assert!(report.is_clean(), "{:?}", report.differences);
        verified += 1;
    }
    writing.await.unwrap();
    assert!(verified > 1);
    assert!(control.verify(&log).await.unwrap().is_clean());
}

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_wrong_tries_at_once_are_no_more_than_five() {
    let (one, two) = otps();
    for wrong in [4, 5, 40] {
        one.put(EMAIL, "012345", NOW).await.unwrap();
        let tries = (0..wrong).map(|n| {
            let otps = if n % 2 == 0 { one.clone() } else { two.clone() };
            async move { good(&otps, EMAIL, "999999", NOW.0).await }
        });
        let found = futures::future::join_all(tries).await;
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
    limits.take("account", EMAIL, allowance(2)).await.unwrap();
    server.run(&["SAVE"]).await;
    let dump = std::fs::read(server.folder.path().join("dump.rdb")).unwrap();
    let dump = String::from_utf8_lossy(&dump);
    assert!(dump.contains("p:otp:"));
    assert!(!dump.contains("john") && !dump.contains("012345"));
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
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

fn allowance(burst: u32) -> Allowance {
    Allowance {
        burst,
        interval: Duration::from_millis(400),
    }
}

#[tokio::test]
async fn an_allowance_is_shared_and_comes_back() {
    let prefix = prefix();
    let one = || RedisLimits::new(RedisLink::new(&redis_url()).unwrap(), &prefix, [7; 32]);
    let (one, two) = (one(), one());
    let take = async |limits: &RedisLimits, key: &str| {
        limits.take("account", key, allowance(3)).await.unwrap()
    };
    let tries = futures::future::join_all((0..20).map(|n| {
        let limits = if n % 2 == 0 { &one } else { &two };
        take(limits, "ada")
    }))
    .await;
    let passed = tries.iter().filter(|wait| wait.is_none()).count();
    assert_eq!(passed, 3);
    let longest = tries.iter().flatten().max().unwrap();
    assert!(*longest <= Duration::from_millis(400));
    assert_eq!(take(&two, "bob").await, None);
    // After the time it was told, it passes.
    tokio::time::sleep(take(&one, "ada").await.unwrap()).await;
    assert_eq!(take(&one, "ada").await, None);
}

#[tokio::test]
async fn limits_say_so_at_once_while_redis_is_away() {
    let mut server = Server::start().await;
    let link = RedisLink::new(&server.url()).unwrap();
    let limits = RedisLimits::new(link, "p", [7; 32]);
    server.stop();
    let began = Instant::now();
    for _ in 0..100 {
        assert!(limits.take("account", "ada", allowance(1)).await.is_err());
    }
    assert!(began.elapsed() < Duration::from_secs(2));
    server.start_again().await;
    eventually("limits are shared again", || async {
        limits.take("account", "ada", allowance(1)).await.ok()
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

#[test]
fn an_address_that_is_none_is_refused() {
    assert!(RedisLink::new("http://example.org").is_err());
}
