//! The `feed` read model: the contract of its stores, and what its readers answer, on SQLite and on Postgres.

use std::sync::Arc;

use socialhub_domain::{PostId, UserId};
use socialhub_event_log::Position;
use socialhub_infra::{
    clock::SystemClock,
    sqlite::{
        feed::{SqliteFeed, SqliteFeedReader},
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
};
use tempfile::TempDir;

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
