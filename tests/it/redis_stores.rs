//! What lives in Redis: the contract of a read model, and what only a server that several processes share, and that may
//! lose what it holds, can be asked.

mod faults;
pub(crate) mod server;
mod shared;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use socialhub_domain::{Clock, Event, PostId, Timestamp, event::Visibility};
use socialhub_event_log::Position;
use socialhub_infra::{
    redis::{RedisCounterReader, RedisGenerations},
    sqlite::{
        counters::{SqliteCounterReader, SqliteCounters},
        generations::SqliteGenerations,
    },
};
use socialhub_projections::{
    Checkpoint, GenerationId, PageRequest, Projection, ReadModelStore, Source, StoreError,
    counters::{CounterFold, CounterReader, Counters, PersonCounts, PostCounts, TrendingPost},
    page::PageStart,
    projection::Projected,
    runtime::{Generations, WriteMode},
    source_position,
    store::WriteBatch,
    verify::{ModelFold, ModelRow},
};
use socialhub_tests::{
    contract::{
        history::{Log, PEOPLE, POSTS, created, history, post, user},
        read_model::{Subject, contents},
    },
    read_model_contract,
    support::{
        eventually,
        proxy::Proxy,
        servers::{patient_redis, redis_url},
    },
};
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

    async fn mark_as_anothers(&self, id: GenerationId) {
        let mark =
            format!("return redis.call('HSET', KEYS[1] .. ':{id}:state', 'made_by', 'another')");
        // The field was there.
        assert_eq!(ask(self, &mark).await, 0);
    }

    async fn check_reads(&self, _log: &Log, rows: &[ModelRow]) {
        // Each history begins anew, below what was served of the one before: as after a restart.
        check_reader(&self.generations().reader(), rows).await;
    }
}

read_model_contract!(many_writers: counters => Place::new(&redis_url()));

fn field(row: Option<&ModelRow>, name: &str) -> u64 {
    let value = row.map_or(0, |row| row.value.read()[name].as_i64().unwrap());
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
        .filter_map(|row| {
            Some((
                row.value.read()["log2Score"].as_f64()?,
                row.key.parse().unwrap(),
            ))
        })
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
        let page = reader.trending(&request).await.unwrap().unwrap();
        let numbered = PageRequest {
            limit,
            start: PageStart::Page(number),
        };
        assert_eq!(reader.trending(&numbered).await.unwrap().unwrap(), page);
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
            partitions: None,
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
    let held = contents(generations, id).await.unwrap();
    assert_eq!(held.differences_from(&fold(log)), []);
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
        // A busy server may not have answered in time: then nothing is known, and it is looked again.
        let found = match store.checkpoints().await {
            Err(StoreError::Unavailable(_)) => continue,
            found => found.unwrap(),
        };
        let at = source_position(&found, &source);
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
                Ok(()) | Err(StoreError::Moved | StoreError::Unavailable(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Asks a place something by a script with its catalogue as key.
async fn ask(place: &Place, script: &str) -> u32 {
    let client = redis::Client::open(place.url.as_str()).unwrap();
    let mut connection = patient_redis(&client).await.unwrap();
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

/// In bytes: far less than what is said to all parts of the batch below, and more than openings differ by.
const A_FEW_ANSWERS: u64 = 100;

fn through(place: &Place, proxy: &Proxy) -> Arc<RedisGenerations> {
    generations_at(&proxy.through(&place.url), &place.prefix)
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
    // No answer comes any more after a few of the parts, as if the writer had ended there.
    let opened = Proxy::to(&place.url, u64::MAX).await;
    drop(open_current(&through(&place, &opened)).await);
    let cut_off = Proxy::to(&place.url, opened.carried() + A_FEW_ANSWERS).await;
    let writer = open_current(&through(&place, &cut_off)).await;
    let cut = writer.apply(batch(&source, 1_000, &log[1_000..])).await;
    assert!(matches!(cut, Err(StoreError::Unavailable(_))), "{cut:?}");

    assert!(is_half_written(&place).await);
    let found = generations.current_checkpoints().await.unwrap();
    assert_eq!(source_position(&found, &source), 1_000, "no checkpoint yet");
    let id = generations.refresh().await.unwrap();
    assert!(matches!(
        contents(&*generations, id).await,
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

/// Whoever goes on from the log leaves out what the checkpoints of partitions cover.
#[tokio::test]
async fn what_came_by_partitions_is_continued_from_the_log() {
    let place = Place::new(&redis_url());
    let generations = place.generations();
    begin(&generations).await;
    let log = history(5, 200);
    let store = open_current(&generations).await;
    let source = Source::partition("ALL", 0);
    store.apply(batch(&source, 0, &log[..50])).await.unwrap();
    let mut rest = batch(&Source::log(), 0, &log);
    let covered = log[49].0;
    rest.projected
        .retain(|projected| projected.position > covered);
    store.apply(rest).await.unwrap();
    assert_equals_fold(&generations, &log).await;
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
            place
                .reader
                .trending(&request)
                .await
                .unwrap()
                .unwrap()
                .items,
            place
                .reader
                .trending(&PageRequest::first(5))
                .await
                .unwrap()
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
