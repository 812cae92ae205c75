//! The distributed profile on the full stack: every process on its own, real servers, nginx in front, and what can fail
//! failing under load. `./stack` starts it (`tests/src/support/stack.rs`); the tests take turns on it.

mod gateway;
mod hangs;
mod kills;
pub(crate) mod load;
mod outages;
mod shares;
mod talk;
mod topics;

use reqwest::Method;
use serde_json::{Value, json};
use socialhub_tests::support::{Answer, Client, eventually, stack::Stack};

use load::Load;

/// A post of somebody and the position it was written at.
async fn write(author: &Client, content: &str) -> (String, String) {
    let answer = author.post("/posts/", json!({ "content": content })).await;
    let answer = answer.expect_status(201);
    (
        answer.text("/post/id").to_owned(),
        answer.header("x-position").to_owned(),
    )
}

/// GET of a page that must know of a position. Whether it does is for [`Answer::has_reached`] to say beside a load: `X-Stale`
/// also means that a model lacks what others wrote more than two seconds ago, and on a slow machine every model always does.
async fn read_at(reader: &Client, path: &str, position: &str) -> Answer {
    let request = reader
        .request(Method::GET, path)
        .header("x-min-position", position);
    reader.send(request).await
}

/// Waits until a fresh post is in its author's list, notifications and trending: until everything moves again.
pub(crate) async fn everything_moves(author: &Client) {
    let (_, position) = eventually("a post is accepted", || async {
        let body = json!({ "content": "moves" });
        let answer = author.post("/posts/", body).await;
        let id = answer.at("/post/id").as_str()?.to_owned();
        Some((id, answer.header("x-position").to_owned()))
    })
    .await;
    let pages = [
        format!("/posts/user/{}", author.id),
        "/notify/notifications".to_owned(),
        "/api/feed/trending".to_owned(),
    ];
    for path in pages {
        eventually(&format!("{path} is up to date"), || async {
            let answer = read_at(author, &path, &position).await;
            (answer.status == 200 && answer.has_reached(&position)).then_some(())
        })
        .await;
    }
}

/// Ends the load, and proves that everything acknowledged is there once and every read model is right.
async fn all_is_well(stack: &Stack, load: Load) {
    let done = load.end().await;
    stack.converges().await;
    done.check().await;
}

/// Follows somebody.
async fn follow(follower: &Client, followed: &Client) {
    let path = format!("/users/follow/{}", followed.id);
    follower.post(&path, Value::Null).await.expect_status(200);
}
