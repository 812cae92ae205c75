//! The `feed` read model: the contract of its stores, and what its readers answer, on SQLite and on Postgres.

use std::{
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use socialhub_domain::{
    Event, PostId, StreamId, Timestamp, UserId,
    event::{UserRegistered, Visibility},
};
use socialhub_event_log::{EventLog, MemoryEventLog, Position};
use socialhub_infra::{
    clock::SystemClock,
    postgres::{
        feed::{PgFeed, PgFeedReader, pg_feed_control},
        model::PgGenerations,
    },
    sqlite::{
        feed::{FeedLimits, SqliteFeed, SqliteFeedReader},
        generations::SqliteGenerations,
    },
};
use socialhub_projections::{
    Checkpoint, GenerationId, ModelName, Page, PageRequest, ParkedLetter, Projection, Source,
    StoreError,
    feed::{Feed, FeedChange, FeedFold, FeedReader},
    page::PageStart,
    projection::Projected,
    runtime::{
        Filling, Generations, LogTail, Pace, Progress, Projector, WriteMode, rebuild::rebuild,
    },
    source_position,
    store::WriteBatch,
    verify::{ModelFold, ModelRow},
};
use socialhub_tests::{
    contract::{
        event_log::{append, id},
        history::{Log, PEOPLE, POSTS, created, followed, history, post, unfollowed, user},
        read_model::{Subject, partitions_in_any_order_equal_the_fold},
    },
    read_model_contract,
    support::{eventually, server::PATIENCE, servers::postgres_url},
};
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::sqlite_models::mark_as_anothers;

/// The whole home feed, page by page: by keys, or by numbers.
async fn whole_home(
    reader: &dyn FeedReader,
    viewer: UserId,
    limit: usize,
    by_key: bool,
) -> Vec<(Position, PostId)> {
    let mut found = Vec::new();
    let mut page = PageRequest::first(limit);
    for number in 2.. {
        let answer = reader.home(viewer, &page).await.unwrap();
        assert!(answer.items.len() == limit || answer.next.is_none());
        found.extend(answer.items.iter().map(|item| (item.position, item.id)));
        let Some(next) = answer.next else { break };
        page.start = if by_key {
            PageStart::After(next)
        } else {
            PageStart::Page(number)
        };
    }
    found
}

fn fold_of(log: &Log) -> FeedFold {
    let mut fold = FeedFold::default();
    for (position, event) in log {
        fold.apply(*position, event);
    }
    fold
}

/// Every page of everybody's feed is what the pull query would give.
async fn check_homes(reader: &dyn FeedReader, log: &Log) {
    let fold = fold_of(log);
    for viewer in (0..PEOPLE).map(user) {
        let expected = fold.home(viewer);
        for limit in [2, 100] {
            assert_eq!(whole_home(reader, viewer, limit, true).await, expected);
            assert_eq!(whole_home(reader, viewer, limit, false).await, expected);
        }
        let end = log.len() as Position;
        for after in (0..=end).step_by(13) {
            let found = reader.home_after(viewer, after, 3).await.unwrap();
            let found: Vec<_> = found.iter().map(|f| (f.position, f.post_id)).collect();
            let newer = expected.iter().rev().filter(|item| item.0 > after);
            assert_eq!(found, newer.take(3).copied().collect::<Vec<_>>());
        }
    }
}

/// Rows that every store must have exactly so, positions included.
fn exact(rows: &[ModelRow]) -> Vec<ModelRow> {
    let kept = rows
        .iter()
        .filter(|row| !["timeline", "horizon", "merged"].contains(&row.table));
    kept.cloned().collect()
}

fn check_positions(log: &Log, rows: &[ModelRow]) {
    assert_eq!(exact(rows), exact(&fold_of(log).rows()));
}

/// Every page of a list, by keys, and the second by its number.
async fn pages<T, F>(limit: usize, ask: impl Fn(PageRequest) -> F) -> Vec<Option<Page<T>>>
where
    F: Future<Output = Option<Page<T>>>,
{
    let second = PageRequest {
        limit,
        start: PageStart::Page(2),
    };
    let mut pages = vec![ask(second).await];
    let mut request = PageRequest::first(limit);
    loop {
        let page = ask(request.clone()).await;
        let next = page.as_ref().and_then(|page| page.next.clone());
        pages.push(page);
        let Some(next) = next else { return pages };
        request.start = PageStart::After(next);
    }
}

/// Two readers over models of the same events give the same answers to everything that can be asked.
async fn compare_readers(left: &dyn FeedReader, right: &dyn FeedReader, viewer: UserId) {
    compare_people(left, right, viewer).await;
    compare_posts(left, right, viewer).await;
}

/// Asks both readers the same.
macro_rules! assert_same {
    ($left:expr, $right:expr, |$reader:ident| $ask:expr, $($hint:tt)+) => {{
        let ask = async |$reader: &dyn FeedReader| $ask;
        assert_eq!(ask($left).await, ask($right).await, $($hint)+);
    }};
}

async fn compare_people(left: &dyn FeedReader, right: &dyn FeedReader, viewer: UserId) {
    for text in ["", "u", "USER", "user3", "the", "name", "name 2", "x", "%"] {
        assert_same!(
            left,
            right,
            |reader| pages(2, async |page| Some(
                reader.search(text, &page).await.unwrap()
            ))
            .await,
            "search for {text:?}"
        );
    }
    // One more than there are: nobody has that id.
    for id in (0..=PEOPLE).map(user) {
        assert_same!(
            left,
            right,
            |reader| reader.profile(id, viewer).await.unwrap(),
            "profile of {id}"
        );
        for limit in [1, 4] {
            assert_same!(
                left,
                right,
                |reader| pages(limit, async |page| reader
                    .followers(id, &page)
                    .await
                    .unwrap())
                .await,
                "followers of {id}"
            );
            assert_same!(
                left,
                right,
                |reader| pages(limit, async |page| reader
                    .following(id, &page)
                    .await
                    .unwrap())
                .await,
                "whom {id} follows"
            );
            assert_same!(
                left,
                right,
                |reader| pages(limit, async |page| {
                    reader.posts_of(id, viewer, &page).await.unwrap()
                })
                .await,
                "posts of {id} for {viewer}"
            );
        }
    }
}

async fn compare_posts(left: &dyn FeedReader, right: &dyn FeedReader, viewer: UserId) {
    for limit in [1, 7, 1_000] {
        assert_same!(
            left,
            right,
            |reader| reader.recent(limit).await.unwrap(),
            "the {limit} newest public posts"
        );
    }
    for id in (0..=POSTS).map(post) {
        assert_same!(
            left,
            right,
            |reader| reader.post(id, viewer).await.unwrap(),
            "post {id} for {viewer}"
        );
        for viewer in [None, Some(viewer)] {
            assert_same!(
                left,
                right,
                |reader| reader.post_for_media(id, viewer).await.unwrap(),
                "media of {id} for {viewer:?}"
            );
        }
        assert_same!(
            left,
            right,
            |reader| pages(2, async |page| reader
                .comments(id, viewer, &page)
                .await
                .unwrap())
            .await,
            "comments on {id} for {viewer}"
        );
    }
    let ids: Vec<PostId> = [7, 3, 3, POSTS, 0, 11].map(post).to_vec();
    assert_same!(
        left,
        right,
        |reader| reader.posts(&ids, viewer).await.unwrap(),
        "posts by their ids"
    );
    assert_same!(
        left,
        right,
        |reader| pages(3, async |page| Some(
            reader.home(viewer, &page).await.unwrap()
        ))
        .await,
        "home of {viewer}"
    );
}

/// A batch that brings a whole log.
fn whole(log: &Log) -> WriteBatch<FeedChange> {
    part(0, log)
}

/// A batch that brings what follows on a position.
fn part(after: Position, events: &[(Position, Event)]) -> WriteBatch<FeedChange> {
    let last = events.last().map_or(after, |entry| entry.0);
    let projected = events.iter().map(|(position, event)| Projected {
        position: *position,
        changes: Feed::project(*position, event),
    });
    WriteBatch {
        projected: projected.collect(),
        parked: Vec::new(),
        after,
        checkpoint: Checkpoint {
            source: Source::log(),
            position: last,
            event_id: Uuid::from_u128(u128::from(last)),
            next_offset: None,
            partitions: None,
        },
    }
}

struct OnSqlite(TempDir);

impl OnSqlite {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn generations(&self) -> Arc<SqliteGenerations<SqliteFeed>> {
        SqliteGenerations::open(self.0.path(), Arc::new(SystemClock)).unwrap()
    }

    /// A reader of a model that was filled from a log.
    async fn filled(&self, log: &Log) -> SqliteFeedReader {
        let generations = self.generations();
        let id = generations.refresh().await.unwrap();
        let store = generations.open(id, WriteMode::Live).await.unwrap();
        if !log.is_empty() {
            store.apply(whole(log)).await.unwrap();
        }
        store.close().await;
        SqliteFeedReader::new(generations.readers(1).unwrap())
    }
}

impl Subject for OnSqlite {
    type Projection = Feed;
    type Fold = FeedFold;
    const MANY_WRITERS: bool = false;

    async fn open(&self) -> Arc<dyn Generations<Feed>> {
        self.generations()
    }

    async fn mark_as_anothers(&self, id: GenerationId) {
        mark_as_anothers::<Feed>(self.0.path(), id);
    }

    async fn check_reads(&self, log: &Log, rows: &[ModelRow]) {
        check_positions(log, rows);
        let reader = SqliteFeedReader::new(self.generations().readers(1).unwrap());
        check_homes(&reader, log).await;
    }
}

read_model_contract!(one_writer: sqlite_feed => OnSqlite::new());

/// Bounds so small that every history goes through them.
const SMALL: FeedLimits = FeedLimits {
    fanout_limit: 2,
    timeline_rows: 3,
    trim_every: 2,
};

/// A database of its own, removed at the end.
struct OnPostgres {
    url: String,
    name: String,
    limits: FeedLimits,
    /// What the process that reads has open; it outlives many generations.
    reading: OnceLock<Arc<PgGenerations<PgFeed>>>,
}

impl OnPostgres {
    async fn new(limits: FeedLimits) -> Self {
        let name = format!("feed_{}", id().simple());
        let mut server = PgConnection::connect(&postgres_url()).await.unwrap();
        let create = format!("CREATE DATABASE {name}");
        server.execute(&*create).await.unwrap();
        let (server, _) = postgres_url()
            .rsplit_once('/')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        Self {
            url: format!("{server}/{name}"),
            name,
            limits,
            reading: OnceLock::new(),
        }
    }

    fn generations(&self) -> Arc<PgGenerations<PgFeed>> {
        let model = PgFeed::with_limits(self.limits);
        PgGenerations::with_model(&self.url, model, Arc::new(SystemClock)).unwrap()
    }
}

impl Drop for OnPostgres {
    fn drop(&mut self) {
        // Not on the test's runtime, which may be gone already.
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let removed = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut server = PgConnection::connect(&postgres_url()).await.unwrap();
                server.execute(&*drop).await.unwrap();
            });
        });
        let _ = removed.join();
    }
}

impl Subject for OnPostgres {
    type Projection = Feed;
    type Fold = FeedFold;
    const MANY_WRITERS: bool = true;

    async fn open(&self) -> Arc<dyn Generations<Feed>> {
        self.generations()
    }

    async fn mark_as_anothers(&self, id: GenerationId) {
        let mut session = PgConnection::connect(&self.url).await.unwrap();
        let mark = format!("COMMENT ON SCHEMA feed_{id} IS 'another'");
        session.execute(&*mark).await.unwrap();
    }

    async fn check_reads(&self, log: &Log, rows: &[ModelRow]) {
        check_positions(log, rows);
        let generations = self.reading.get_or_init(|| self.generations());
        generations.refresh().await.unwrap();
        let reader = PgFeedReader::new(Arc::clone(generations));
        check_homes(&reader, log).await;
        let beside = OnSqlite::new();
        let model = beside.filled(log).await;
        let viewer = u8::try_from(log.len() % usize::from(PEOPLE)).unwrap();
        compare_readers(&reader, &model, user(viewer)).await;
    }
}

read_model_contract!(many_writers: postgres_feed => OnPostgres::new(SMALL).await);

/// An author of too many followers loses them and writes a post, all in one batch of a rebuild: who stays has the post once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_again_has_the_posts_of_the_same_batch_once() {
    const WRITTEN: Timestamp = Timestamp(7);
    let place = OnPostgres::new(SMALL).await;
    let events = [
        followed(1, 0, WRITTEN),
        followed(2, 0, WRITTEN),
        followed(3, 0, WRITTEN),
        unfollowed(1, 0, WRITTEN),
        created(0, 0, Visibility::Public, WRITTEN),
        unfollowed(2, 0, WRITTEN),
    ];
    let log: Log = (1..).zip(events).collect();
    let generations = place.generations();
    let held = generations.claim().await.unwrap().unwrap();
    let new = generations.create(&held).await.unwrap();
    let store = generations.open(new, WriteMode::Bulk).await.unwrap();
    store.apply(part(0, &log[..3])).await.unwrap();
    store.apply(part(3, &log[3..])).await.unwrap();
    store.close().await;
    generations
        .fence(&held)
        .await
        .unwrap()
        .switch(new)
        .await
        .unwrap();
    check_homes(&PgFeedReader::new(place.generations()), &log).await;
    assert_eq!(fold_of(&log).home(user(3)).len(), 1);
}

/// A place whose writers lose their connections all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_connections_lose_and_double_nothing() {
    let subject = OnPostgres::new(SMALL).await;
    let url = subject.url.clone();
    let killed = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&killed);
    let killer = tokio::spawn(async move {
        let mut server = PgConnection::connect(&url).await.unwrap();
        loop {
            let kill = sqlx::query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'socialhub-feed-writer'
                 ORDER BY random() LIMIT 1",
            );
            let done = server.execute(kill).await.unwrap();
            count.fetch_add(done.rows_affected(), Ordering::Relaxed);
            // Seldom enough that a slow machine gets batches in between, at whatever moment of one.
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    });
    partitions_in_any_order_equal_the_fold(&subject).await;
    killer.abort();
    assert!(killed.load(Ordering::Relaxed) > 3);
}

/// The claim's lock goes with its connection: whoever lost both changes nothing while another has it, and takes it again
/// when nobody has.
#[tokio::test]
async fn a_claim_whose_connection_broke_is_not_taken_for_held() {
    let place = OnPostgres::new(SMALL).await;
    let (mine, others) = (place.generations(), place.generations());
    let held = mine.claim().await.unwrap().expect("nobody else");
    assert!(others.claim().await.unwrap().is_none());
    let mut server = PgConnection::connect(&place.url).await.unwrap();
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_locks
               WHERE locktype = 'advisory' AND granted AND database =
                   (SELECT oid FROM pg_database WHERE datname = current_database())";
    let cut = server.execute(cut).await.unwrap();
    assert_eq!(cut.rows_affected(), 1);
    let taken = eventually("another can claim it", || async {
        others.claim().await.unwrap()
    })
    .await;
    for refusal in [
        mine.create(&held).await.map(drop),
        mine.fence(&held).await.map(drop),
        mine.drop_generation(&held, GenerationId(9)).await,
    ] {
        let error = refusal.unwrap_err().to_string();
        assert!(error.contains("somebody else"), "{error}");
    }
    assert_eq!(mine.list().await.unwrap().len(), 1);
    drop(taken);
    eventually("it is taken again", || async {
        mine.create(&held).await.ok()
    })
    .await;
    assert!(others.claim().await.unwrap().is_none());
}

fn registered(username: &str) -> (Position, Event) {
    let event = Event::UserRegistered(UserRegistered {
        user_id: user(0),
        username: username.to_owned(),
        name: "Zero".to_owned(),
        timestamp: Timestamp(1),
    });
    (1, event)
}

#[tokio::test]
async fn what_postgres_cannot_hold_is_rejected_and_its_letter_goes_in() {
    let place = OnPostgres::new(SMALL).await;
    let generations = place.generations();
    let id = generations.refresh().await.unwrap();
    let store = generations.open(id, WriteMode::Live).await.unwrap();
    let mut batch = whole(&vec![registered("nul\0")]);
    let refused = store.apply(batch.clone()).await;
    assert!(
        matches!(refused, Err(StoreError::Rejected { position: 1, .. })),
        "{refused:?}"
    );
    assert_eq!(store.checkpoints().await.unwrap(), []);
    batch.projected.clear();
    batch.parked.push(ParkedLetter {
        position: 1,
        event_id: Uuid::nil(),
        topic: "USER_TOPIC".to_owned(),
        key: "k".to_owned(),
        raw: "nul\0".to_owned(),
        reason: "\0".to_owned(),
        attempts: 1,
        parked_at: Timestamp(1),
    });
    store.apply(batch).await.unwrap();
    assert_eq!(store.parked().await.unwrap()[0].raw, "nul\u{fffd}");
    let reader = PgFeedReader::new(generations);
    let nobody = reader.search("nul\0", &PageRequest::first(2)).await;
    assert_eq!(nobody.unwrap().items, []);
}

#[tokio::test]
async fn a_process_starts_while_the_server_is_away_and_goes_on_when_it_is_there() {
    let place = OnPostgres::new(SMALL).await;
    let late = format!("{}_late", place.name);
    let url = place.url.replace(&place.name, &late);
    let generations = PgGenerations::<PgFeed>::open(&url, Arc::new(SystemClock)).unwrap();
    let reader = PgFeedReader::new(Arc::clone(&generations));
    let mut pointer = generations.current();
    assert_eq!(*pointer.borrow(), GenerationId(0));
    let away = generations.open(GenerationId(0), WriteMode::Live).await;
    assert!(matches!(away.err(), Some(StoreError::Unavailable(_))));
    assert!(reader.profile(user(0), user(1)).await.is_err());

    let mut server = PgConnection::connect(&place.url).await.unwrap();
    let create = format!("CREATE DATABASE {late}");
    server.execute(&*create).await.unwrap();
    let moved = pointer.wait_for(|id| *id == GenerationId(1));
    let moved = tokio::time::timeout(PATIENCE, moved).await;
    assert!(moved.is_ok_and(|moved| moved.is_ok()));
    assert_eq!(reader.profile(user(0), user(1)).await.unwrap(), None);
    assert_eq!(generations.current_checkpoints().await.unwrap(), []);
    drop((reader, generations));
    let remove = format!("DROP DATABASE {late} WITH (FORCE)");
    server.execute(&*remove).await.unwrap();
}

/// A log in memory that holds a history, each event in a stream of its own.
async fn log_of(history: &Log) -> Arc<dyn EventLog> {
    let log = MemoryEventLog::new();
    for (_, event) in history {
        let mut one = append(&StreamId::new("any", id()), 0, 1);
        one.events[0].event = event.clone();
        log.append(one).await.unwrap();
    }
    Arc::new(log)
}

struct Quiet;

impl Progress for Quiet {
    fn began(&self, _: ModelName, _: GenerationId, _: Position, _: Position) {}
    fn moved(&self, _: ModelName, _: Position, _: Position) {}
    fn ended(&self, _: ModelName) {}
}

async fn finish(log: &Arc<dyn EventLog>, filling: Box<dyn Filling>) -> GenerationId {
    let stop = CancellationToken::new();
    let mut outcomes = rebuild(log, vec![filling], Pace::Gentle, Arc::new(Quiet), stop).await;
    outcomes.pop().unwrap().1.unwrap().generation
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_rebuilds_rolls_back_and_verifies_beside_the_projector() {
    let place = OnPostgres::new(FeedLimits::default()).await;
    let events = history(77, 400);
    let log = log_of(&events).await;
    let generations = place.generations();
    let stop = CancellationToken::new();
    let tail = LogTail::start(Arc::clone(&log), CancellationToken::new());
    let running = Projector::new(
        Arc::clone(&generations) as Arc<dyn Generations<Feed>>,
        tail,
        Arc::new(SystemClock),
    )
    .spawn(stop.clone());
    let projected = || async {
        let head = log.head().await.unwrap();
        let checkpoints = generations.current_checkpoints().await.ok()?;
        (source_position(&checkpoints, &Source::log()) == head).then_some(())
    };
    eventually("the projector is at the head", projected).await;
    let control = pg_feed_control(&place.url, Arc::new(SystemClock)).unwrap();
    let clean = async || {
        let report = control.verify(&log, &Default::default()).await.unwrap();
        assert!(report.is_clean(), "{:?}", report.differences);
        report.generation
    };
    let first = clean().await;
    let second = finish(&log, control.begin_rebuild(&log).await.unwrap()).await;
    assert_eq!(clean().await, second);
    log.append(append(&StreamId::new("any", id()), 0, 1))
        .await
        .unwrap();
    eventually("the projector is at the head again", projected).await;
    assert_eq!(clean().await, second);
    let back = finish(&log, control.begin_rollback(&log, None).await.unwrap()).await;
    assert_eq!((back, clean().await), (first, first));
    check_homes(&PgFeedReader::new(Arc::clone(&generations)), &events).await;
    assert_eq!(control.prune().await.unwrap(), [second]);
    stop.cancel();
    running.task.await.unwrap();
}

/// A rebuild whose host hangs with the fence up: the server ends its session, and everybody goes on.
#[tokio::test]
async fn a_fence_of_somebody_who_hangs_falls() {
    let place = OnPostgres::new(SMALL).await;
    let generations = place.generations();
    generations.refresh().await.unwrap();
    let claim = generations.claim().await.unwrap().unwrap();
    let _fence = generations.fence(&claim).await.unwrap();
    let url = place.url.clone();
    let held = async || -> i64 {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let sql = "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND state = 'idle in transaction'";
        sqlx::query_scalar(sql)
            .fetch_one(&mut connection)
            .await
            .unwrap()
    };
    assert_eq!(held().await, 1);
    let told = std::time::Instant::now();
    while held().await > 0 {
        assert!(told.elapsed() < Duration::from_secs(90), "it is still held");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(
        told.elapsed() > Duration::from_secs(30),
        "a rebuild has no time for its last mile"
    );
}
