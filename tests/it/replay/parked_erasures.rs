//! Erasures and parked events: whatever is wrong with an event of somebody, they are forgotten.

use std::collections::BTreeMap;

use serde_json::Value;
use socialhub_tests::support::{Client, Server, client::PASSWORD, eventually};

use super::{letters::reject_rows, repair::seen};
use crate::erasure::{erase, erased_everywhere, post_with_file, search};

/// A server with somebody whose post another reads.
struct World {
    server: Server,
    eve: Client,
    bob: Client,
    post: String,
}

impl World {
    async fn new() -> Self {
        let server = Server::start().await;
        let (eve, bob) = (
            server.client().sign_up("eve").await,
            server.client().sign_up("bob").await,
        );
        let post = eve.write_post("unmistakable", "public").await;
        seen(&bob).await;
        Self {
            server,
            eve,
            bob,
            post,
        }
    }

    async fn read_post(&self) -> [String; 2] {
        let read = self.bob.get(&format!("/posts/{}", self.post)).await;
        let text = |at| read.text(at).to_owned();
        [text("/post/username"), text("/post/content")]
    }

    async fn retry(&mut self) {
        assert!(self.server.stop().await, "{}", self.server.log());
        let retry = ["replay", "dead-letters", "retry", "feed"];
        self.server.succeed(&retry).await;
        self.server.restart().await;
    }
}

#[tokio::test]
async fn an_erasure_does_not_wait_behind_a_parked_event() {
    let mut world = World::new().await;
    reject_rows(&world.server, "follows", true).await;
    let follow = format!("/users/follow/{}", world.bob.id);
    world.eve.post(&follow, Value::Null).await;
    seen(&world.eve).await;
    let listed = ["replay", "dead-letters", "list", "feed", "--json"];
    let listed = world.server.succeed(&listed).await;
    assert!(listed.contains("user.followed"), "{listed}");

    erase(&world.eve, PASSWORD).await.expect_status(204);
    erased_everywhere(&world.server, &world.eve.id).await;
    assert_eq!(world.read_post().await, ["[erased]", "[erased]"]);

    // What was set aside still counts.
    reject_rows(&world.server, "follows", false).await;
    world.retry().await;
    world.server.verify_all().await;
    assert_eq!(world.read_post().await, ["[erased]", "[erased]"]);
    let profile = world
        .bob
        .get(&format!("/users/profile/{}", world.bob.id))
        .await;
    assert_eq!(profile.at("/user/followersCount"), 1, "{}", profile.json);
}

#[tokio::test]
async fn an_erasure_that_is_parked_itself_is_not_complete() {
    let mut world = World::new().await;
    reject_rows(&world.server, "erased", true).await;
    erase(&world.eve, PASSWORD).await.expect_status(204);
    let server = &world.server;
    eventually("what holds it up is said", || async {
        let said = server.log().contains("has parked the erasure");
        said.then_some(())
    })
    .await;
    let pending = server.status().await["erasures"]["pending"].clone();
    assert_eq!(pending, 1);

    reject_rows(server, "erased", false).await;
    world.retry().await;
    erased_everywhere(&world.server, &world.eve.id).await;
    assert_eq!(world.read_post().await, ["[erased]", "[erased]"]);
    world.server.verify_all().await;
}

/// The feed does not know the post, and its file goes all the same.
#[tokio::test]
async fn the_file_of_a_parked_post_is_gone_when_the_erasure_is_complete() {
    let world = World::new().await;
    reject_rows(&world.server, "posts", true).await;
    post_with_file(&world.eve).await;
    eventually("the post is parked", || async {
        let listed = ["replay", "dead-letters", "list", "feed", "--json"];
        let listed = world.server.succeed(&listed).await;
        listed.contains("post.created").then_some(())
    })
    .await;
    let in_the_file = ["qlorfile".to_owned()];
    let found = search(&world.server, &in_the_file).await;
    assert!(!found.is_empty(), "the file is nowhere");
    erase(&world.eve, PASSWORD).await.expect_status(204);
    erased_everywhere(&world.server, &world.eve.id).await;
    assert_eq!(search(&world.server, &in_the_file).await, BTreeMap::new());
}
