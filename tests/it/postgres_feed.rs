//! The `feed` read model: the contract of its stores, and what its readers answer, on SQLite and on Postgres.

use std::sync::Arc;

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
    PageRequest,
    feed::{Feed, FeedFold, FeedReader},
    page::PageStart,
    runtime::Generations,
    verify::{ModelFold, ModelRow},
};
use socialhub_tests::{
    contract::{
        history::{Log, PEOPLE, user},
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
        for limit in [1, 3, 100] {
            assert_eq!(whole_home(reader, viewer, limit, true).await, expected);
            assert_eq!(whole_home(reader, viewer, limit, false).await, expected);
        }
        let end = log.len() as Position;
        for after in (0..=end).step_by(9) {
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

struct OnSqlite(TempDir);

impl OnSqlite {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn generations(&self) -> Arc<SqliteGenerations<SqliteFeed>> {
        SqliteGenerations::open(self.0.path(), Arc::new(SystemClock)).unwrap()
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
        check_homes(&PgFeedReader::new(self.generations()), log).await;
    }
}

read_model_contract!(many_writers: postgres_feed => OnPostgres::new(SMALL).await);
