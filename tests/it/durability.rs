//! SIGKILL in the middle of writes: every acknowledged command is there, once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use socialhub_tests::support::{Client, Server, eventually};
use tokio::time::sleep;

/// Between two tries of what was put off.
const BREATH: Duration = Duration::from_millis(50);

/// What those who write share with the test.
#[derive(Default)]
struct Writing {
    /// They shall stop.
    stop: AtomicBool,
    /// How many posts were acknowledged.
    acknowledged: AtomicUsize,
}

impl Writing {
    /// Waits until so many posts were acknowledged. Whether the read model has them does not matter: beside writers that take
    /// no breath it may be behind for as long as they write.
    async fn comes_to(&self, posts: usize) {
        eventually("some posts were written", || async {
            (self.acknowledged.load(Ordering::Relaxed) >= posts).then_some(())
        })
        .await;
    }
}

/// Writes posts, each under its own key, until told to stop; answers the ids that were acknowledged and the one key
/// whose answer never came.
async fn write_until(
    client: Client,
    who: usize,
    writing: Arc<Writing>,
) -> (Vec<String>, Option<(String, Value)>) {
    let mut acknowledged = Vec::new();
    let mut index = 0;
    while !writing.stop.load(Ordering::Relaxed) {
        let (key, body) = (
            format!("w{who}-{index}"),
            json!({ "content": format!("post {index} of {who}") }),
        );
        match client.try_post_with_key("/posts/", &key, &body).await {
            Some(answer) if answer.status == 201 => {
                acknowledged.push(answer.text("/post/id").to_owned());
                writing.acknowledged.fetch_add(1, Ordering::Relaxed);
                index += 1;
            }
            // Nothing was done; a busy database may say so.
            Some(answer) if answer.is_put_off() => sleep(BREATH).await,
            _ => return (acknowledged, Some((key, body))),
        }
    }
    (acknowledged, None)
}

/// A person's posts, once nobody writes any more and the read model is no longer behind: where a group deals out partitions,
/// a killed member is missed after its session only.
async fn all_posts(reader: &Client, author: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut next = format!("/posts/user/{author}?limit=100");
    loop {
        let page = eventually("the posts are not stale", || async {
            let page = reader.get_as_is(&next).await.expect_status(200);
            (!page.is_stale()).then_some(page)
        })
        .await;
        ids.extend(
            page.list("/posts")
                .iter()
                .map(|post| post["id"].as_str().unwrap().to_owned()),
        );
        match page.at("/nextCursor").as_str() {
            Some(cursor) => next = format!("/posts/user/{author}?limit=100&cursor={cursor}"),
            None => return ids,
        }
    }
}

#[tokio::test]
async fn a_kill_in_the_middle_of_writes_loses_and_doubles_nothing() {
    let mut server = Server::start().await;
    let mut people = Vec::new();
    for _ in 0..4 {
        people.push(server.client().sign_up("killed").await);
    }
    let mut acknowledged: Vec<Vec<String>> = vec![Vec::new(); people.len()];
    for round in 0..3 {
        let writing = Arc::new(Writing::default());
        let tasks: Vec<_> = people
            .iter()
            .enumerate()
            .map(|(who, person)| {
                tokio::spawn(write_until(
                    person.clone(),
                    round * 10 + who,
                    Arc::clone(&writing),
                ))
            })
            .collect();
        writing.comes_to(80).await;
        server.kill();
        writing.stop.store(true, Ordering::Relaxed);
        let mut unanswered = Vec::new();
        for (who, task) in tasks.into_iter().enumerate() {
            let (ids, open) = task.await.unwrap();
            acknowledged[who].extend(ids);
            unanswered.extend(open.map(|request| (who, request)));
        }
        server.restart().await;
        for (who, (key, body)) in unanswered {
            // Asking again with the same key gives the one true answer, applied once.
            let ask = async || {
                eventually("the post is answered", || async {
                    let answer = people[who].try_post_with_key("/posts/", &key, &body).await;
                    let answer = answer.filter(|answer| !answer.is_put_off())?;
                    Some(answer.expect_status(201))
                })
                .await
            };
            let (first, again) = (ask().await, ask().await);
            assert_eq!(first.json, again.json);
            acknowledged[who].push(first.text("/post/id").to_owned());
        }
        for (who, person) in people.iter().enumerate() {
            let mut found = all_posts(person, &person.id).await;
            let mut wanted = acknowledged[who].clone();
            found.sort();
            wanted.sort();
            assert_eq!(found, wanted, "posts of {who} after round {round}");
        }
        server.verify_all().await;
    }
}

#[tokio::test]
async fn a_term_signal_drains_and_ends_with_success() {
    let mut server = Server::start().await;
    let me = server.client().sign_up("drain").await;
    let writing = Arc::new(Writing::default());
    let writer = tokio::spawn(write_until(me.clone(), 0, Arc::clone(&writing)));
    writing.comes_to(10).await;
    assert!(server.stop().await, "{}", server.log());
    writing.stop.store(true, Ordering::Relaxed);
    let (acknowledged, _) = writer.await.unwrap();
    server.restart().await;
    let found = all_posts(&me, &me.id).await;
    assert!(acknowledged.iter().all(|id| found.contains(id)));
    server.verify_all().await;
}
