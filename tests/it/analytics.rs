//! The analytics consumer: its stores, and the program on a real broker.

mod crashes;
mod known;
mod questions;
mod world;

use std::{path::Path, sync::Arc};

use socialhub_infra::analytics::open_analytics;
use socialhub_projections::analytics::{MemoryObjects, Objects};
use socialhub_tests::{contract, objects_contract, support::s3_server::S3Server};
use tempfile::TempDir;

fn open(url: &str) -> Arc<dyn Objects> {
    open_analytics(Some(url), Path::new("unused")).unwrap()
}

fn memory() -> (Arc<dyn Objects>, ()) {
    (Arc::new(MemoryObjects::default()), ())
}

fn local() -> (Arc<dyn Objects>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (open(folder.path().to_str().unwrap()), folder)
}

async fn s3() -> (Arc<dyn Objects>, S3Server) {
    let server = S3Server::start().await;
    (open(&server.url("some/prefix")), server)
}

objects_contract!(local => local(); s3 => s3().await);

// The server of the tests looks before it writes, and another may write in between: S3 itself does not allow that.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_one_makes_it() {
    let ((memory, ()), (local, _folder)) = (memory(), local());
    contract::analytics::of_many_one_makes_it(memory).await;
    contract::analytics::of_many_one_makes_it(local).await;
}

#[tokio::test]
async fn in_memory_it_is_the_same() {
    let store = || memory().0;
    contract::analytics::what_was_put_comes_back(store()).await;
    contract::analytics::what_is_there_is_not_made_again(store()).await;
    contract::analytics::what_is_removed_is_gone(store()).await;
}
