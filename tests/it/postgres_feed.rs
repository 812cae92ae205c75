//! The `feed` read model: the contract of its stores, and what its readers answer, on SQLite and on Postgres.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
};

use socialhub_domain::{PostId, UserId};
use socialhub_event_log::Position;
use socialhub_infra::{
    clock::SystemClock,
    postgres::{
        feed::{PgFeed, PgFeedReader},
        model::PgGenerations,
    },
    sqlite::{
        feed::{FeedLimits, SqliteFeed, SqliteFeedReader},
        generations::SqliteGenerations,
    },
};
use socialhub_projections::{
    Checkpoint, Page, PageRequest, Projection, Source,
    feed::{Feed, FeedChange, FeedFold, FeedReader},
    page::PageStart,
    projection::Projected,
    runtime::{Generations, WriteMode},
    store::WriteBatch,
    verify::{ModelFold, ModelRow},
};
use socialhub_tests::{
    contract::{
        history::{Log, PEOPLE, POSTS, post, user},
        read_model::Subject,
    },
    read_model_contract,
    support::servers::postgres_url,
};
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

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
    assert_eq!(exact(rows), exact(&fold_of(log).into_rows()));
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
    let last = log.last().map_or(0, |entry| entry.0);
    let projected = log.iter().map(|(position, event)| Projected {
        position: *position,
        changes: Feed::project(*position, event),
    });
    WriteBatch {
        projected: projected.collect(),
        parked: Vec::new(),
        after: 0,
        checkpoint: Checkpoint {
            source: Source::log(),
            position: last,
            event_id: Uuid::from_u128(u128::from(last)),
            next_offset: None,
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
        let name = format!("feed_{}", Uuid::new_v4().simple());
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
