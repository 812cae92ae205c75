//! The contract of read models' stores on SQLite, for those that no other file holds against a second adapter.

use std::{marker::PhantomData, sync::Arc};

use socialhub_infra::{
    clock::SystemClock,
    sqlite::{
        counters::SqliteCounters, generations::SqliteGenerations, model::SqliteModel,
        notifications::SqliteNotifications,
    },
};
use socialhub_projections::runtime::Generations;
use socialhub_tests::{contract::read_model::Subject, read_model_contract};
use tempfile::TempDir;

/// A folder of its own.
struct OnSqlite<M> {
    folder: TempDir,
    model: PhantomData<fn() -> M>,
}

impl<M> OnSqlite<M> {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            model: PhantomData,
        }
    }
}

impl<M: SqliteModel> Subject for OnSqlite<M> {
    type Projection = M::Projection;
    type Fold = M::Fold;
    const MANY_WRITERS: bool = false;

    async fn open(&self) -> Arc<dyn Generations<M::Projection>> {
        SqliteGenerations::<M>::open(self.folder.path(), Arc::new(SystemClock)).unwrap()
    }
}

read_model_contract!(one_writer: sqlite_notifications => OnSqlite::<SqliteNotifications>::new());
read_model_contract!(one_writer: sqlite_counters => OnSqlite::<SqliteCounters>::new());
