//! The contract of read models' stores on SQLite, for those that no other file holds against a second adapter.

use std::{fs, marker::PhantomData, path::Path, sync::Arc};

use socialhub_infra::{
    clock::SystemClock,
    sqlite::{
        counters::SqliteCounters, generations::SqliteGenerations, model::SqliteModel,
        notifications::SqliteNotifications,
    },
};
use socialhub_projections::{GenerationId, Projection, runtime::Generations};
use socialhub_tests::{contract::read_model::Subject, read_model_contract};
use tempfile::TempDir;

/// Makes a generation in a folder look as if another program had begun it.
pub fn mark_as_anothers<P: Projection>(folder: &Path, id: GenerationId) {
    let file = folder.join(format!("{}.{id}.db", P::NAME));
    let file = rusqlite::Connection::open(file).unwrap();
    let mark = "UPDATE state SET value = 'another' WHERE name = 'made_by'";
    assert_eq!(file.execute(mark, []).unwrap(), 1);
}

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

    async fn mark_as_anothers(&self, id: GenerationId) {
        mark_as_anothers::<M::Projection>(self.folder.path(), id);
    }
}

read_model_contract!(one_writer: sqlite_notifications => OnSqlite::<SqliteNotifications>::new());
read_model_contract!(one_writer: sqlite_counters => OnSqlite::<SqliteCounters>::new());

#[tokio::test]
async fn what_a_removal_that_was_broken_off_has_left_is_swept_away() {
    let subject = OnSqlite::<SqliteNotifications>::new();
    let generations = subject.open().await;
    let held = generations.claim().await.unwrap().expect("nobody else");
    let id = generations.create(&held).await.unwrap();
    generations.drop_generation(&held, id).await.unwrap();
    let file = |id| subject.folder.path().join(format!("notifications.{id}.db"));
    // As if killed before the file was gone: the catalogue knows nothing of it.
    fs::write(file(id.0), "somebody's name").unwrap();
    generations.sweep().await.unwrap();
    assert!(!file(id.0).exists());
    assert!(file(1).exists(), "the current one stays");
}
