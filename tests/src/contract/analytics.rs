//! The contract of a store of objects: [`Objects`], which the commits of the analytics consumer rest on.
//!
//! Each case gets an empty store. [`crate::objects_contract`] stamps a test for each case and adapter.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use socialhub_domain::Clock;
use socialhub_infra::clock::SystemClock;
use socialhub_projections::analytics::{Created, Objects};

/// Stamps the suite: `objects_contract!(local => expression; …)`. Each expression makes a fresh, empty store and answers it
/// with whatever must live as long as the test.
#[macro_export]
macro_rules! objects_contract {
    (@stamp $factory:expr; $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let (store, _keep) = $factory;
                $crate::contract::analytics::$case(store).await;
            }
        )+
    };
    ($($adapter:ident => $factory:expr);+ $(;)?) => {
        $(
            mod $adapter {
                use super::*;
                $crate::objects_contract!(@stamp $factory;
                    what_was_put_comes_back,
                    what_is_there_is_not_made_again,
                    a_listing_shows_what_is_below_a_folder,
                    what_is_removed_is_gone,
                );
            }
        )+
    };
}

/// Bytes come back, the last ones that were put.
pub async fn what_was_put_comes_back(objects: Arc<dyn Objects>) {
    let name = "events/date=2026-01-01/type=post.liked/POST_TOPIC-1-ab.parquet";
    assert_eq!(objects.get(name).await.unwrap(), None);
    for content in [vec![0; 3_000_000], b"short".to_vec(), Vec::new()] {
        objects.put(name, content.clone().into()).await.unwrap();
        assert_eq!(objects.get(name).await.unwrap(), Some(content.into()));
    }
    assert!(objects.address(name).ends_with(name));
}

/// The first one stays.
pub async fn what_is_there_is_not_made_again(objects: Arc<dyn Objects>) {
    let name = "_commits/POST_TOPIC-1/1.json";
    let create =
        |content: &'static str| objects.create(name, Bytes::from_static(content.as_bytes()));
    assert_eq!(create("one").await.unwrap(), Created::Made);
    for again in ["one", "two"] {
        assert_eq!(create(again).await.unwrap(), Created::Exists);
    }
    assert_eq!(objects.get(name).await.unwrap().unwrap(), "one");
    objects.remove(&[name.to_owned()]).await.unwrap();
    assert_eq!(create("two").await.unwrap(), Created::Made);
    assert_eq!(objects.get(name).await.unwrap().unwrap(), "two");
}

/// Of many at once exactly one makes the object, and it holds what that one brought.
pub async fn of_many_one_makes_it(objects: Arc<dyn Objects>) {
    for round in 0..20 {
        let name = format!("_commits/POST_TOPIC-1/{round}.json");
        let rivals = (0..8).map(|nth| {
            let (objects, name) = (Arc::clone(&objects), name.clone());
            tokio::spawn(async move { objects.create(&name, nth.to_string().into()).await })
        });
        let made: Vec<usize> = join_all(rivals)
            .await
            .into_iter()
            .enumerate()
            .filter(|(_, made)| matches!(made, Ok(Ok(Created::Made))))
            .map(|(nth, _)| nth)
            .collect();
        let [winner] = made.as_slice() else {
            panic!("{made:?} made {name}");
        };
        let content = objects.get(&name).await.unwrap().unwrap();
        assert_eq!(content, winner.to_string());
    }
}

/// At any depth, by name; neighbours whose names begin alike are not below it.
pub async fn a_listing_shows_what_is_below_a_folder(objects: Arc<dyn Objects>) {
    assert!(objects.list("a").await.unwrap().is_empty());
    let before = SystemClock.now();
    for name in ["a/2", "a/b=c/d", "a/1", "ab/1", "b"] {
        objects.put(name, Bytes::from_static(b"x")).await.unwrap();
    }
    let listed = objects.list("a").await.unwrap();
    let names: Vec<&str> = listed.iter().map(|object| object.name.as_str()).collect();
    assert_eq!(names, ["a/1", "a/2", "a/b=c/d"]);
    for object in listed {
        // Stores keep seconds.
        let age = object.written.0 - before.0;
        assert!((-1_500..60_000).contains(&age), "{age}");
    }
}

/// What is not there is removed, too.
pub async fn what_is_removed_is_gone(objects: Arc<dyn Objects>) {
    for name in ["a/1", "a/2", "a/3"] {
        objects.put(name, Bytes::from_static(b"x")).await.unwrap();
    }
    let names = ["a/1", "a/none", "a/3"].map(str::to_owned);
    for _ in 0..2 {
        objects.remove(&names).await.unwrap();
        let listed = objects.list("a").await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].name, "a/2");
    }
}
