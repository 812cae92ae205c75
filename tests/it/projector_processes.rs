//! Projectors in processes of their own: what they do with published events that cannot be read, or that are about nothing,
//! and what is seen when one is away.

use serde_json::{Value, json};
use socialhub_tests::support::{
    Client, Process, Profile, Server, client::PASSWORD, eventually, printed,
};

use crate::{
    erasure::erase,
    hung_projectors::{start, start_services},
    replay::{
        MODELS,
        damage::lines,
        letters::{self, SHAPE},
    },
    seen::generation,
};

/// The servers and the services, without whoever publishes and projects.
struct Site {
    server: Server,
    _services: Process,
}

impl Site {
    async fn begin() -> Self {
        let mut environment = Profile::Distributed.environment().await;
        environment.push(("RATE_LIMITS".to_owned(), "off".to_owned()));
        let server = Server::prepare(&[], environment);
        server.succeed(&["migrate"]).await;
        let site = Self {
            _services: start_services(&server),
            server,
        };
        eventually("the services answer", || async {
            site.server.client().try_get("/livez").await
        })
        .await;
        site
    }

    /// The positions of the events of a kind.
    async fn positions(&self, kind: &str) -> Vec<u64> {
        let tail = self.server.succeed(&["replay", "tail", "--json"]).await;
        let events = lines(&tail);
        let of_kind = events.iter().filter(|event| event["eventType"] == kind);
        of_kind
            .map(|event| event["position"].as_u64().unwrap())
            .collect()
    }

    /// The positions of a model's dead letters.
    async fn parked(&self, model: &str) -> Vec<u64> {
        letters::parked(&self.server, model).await
    }
}

async fn like(client: &Client, post: &str) {
    let path = format!("/posts/{post}/like");
    client.put(&path, Value::Null).await.expect_status(200);
}

async fn comment(client: &Client, post: &str) {
    let path = format!("/posts/{post}/comment");
    let comment = json!({ "comment": "well" });
    client.post(&path, comment).await.expect_status(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_and_cannot_be_read_is_parked_and_stops_nobody() {
    let site = Site::begin().await;
    let server = &site.server;
    let (anna, bert) = (
        server.client().sign_up("anna").await,
        server.client().sign_up("bert").await,
    );
    let [one, two, gone] = [
        anna.write_post("one", "public").await,
        anna.write_post("two", "public").await,
        anna.write_post("three", "public").await,
    ];
    for post in [&one, &gone] {
        like(&bert, post).await;
    }
    comment(&bert, &one).await;
    like(&bert, &two).await;
    let (likes, comments) = (
        site.positions("post.liked").await,
        site.positions("post.commented").await,
    );
    // Nobody has published anything yet: what is spoilt now comes to the projectors by the topics alone.
    letters::spoil_in_postgres(server, likes[0], SHAPE, true).await;
    let nothing = "00000000-0000-0000-0000-000000000001";
    letters::spoil_in_postgres(server, likes[1], ["payload", &gone, nothing], true).await;

    let _relay = start(server, &["relay"]);
    let projectors = MODELS.map(|model| (model, start(server, &["project", model])));
    server.caught_up().await;
    for (model, projector) in &projectors {
        assert_eq!(
            site.parked(model).await,
            [likes[0], comments[0]],
            "{model}: the comment is of the same post"
        );
        let parked = format!("socialhub_projection_parked{{model=\"{model}\"}}");
        eventually("the metrics count them", || async {
            (projector.metric(&parked).await == 2.0).then_some(())
        })
        .await;
    }
    let reader = &anna;
    let likes_of = |post: String| async move {
        let path = format!("/posts/{post}");
        let found = reader.get(&path).await.expect_status(200);
        found.at("/post/likeCount").clone()
    };
    assert_eq!(likes_of(one.clone()).await, 0);
    assert_eq!(likes_of(two.clone()).await, 1, "others go on");
    assert_eq!(likes_of(gone.clone()).await, 0);
    server.verify_all().await;

    // Readable again: tried again in order, beside the projectors.
    letters::spoil_in_postgres(server, likes[0], SHAPE, false).await;
    for model in MODELS {
        let retry = ["replay", "dead-letters", "retry", model];
        server.succeed(&retry).await;
        assert!(site.parked(model).await.is_empty(), "{model}");
    }
    assert_eq!(likes_of(one).await, 1);
    server.verify_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_its_projector_says_so_and_catches_up_with_the_next() {
    let site = Site::begin().await;
    let server = &site.server;
    let me = server.client().sign_up("anna").await;
    let stranger = server.client().sign_up("bert").await;
    let _relay = start(server, &["relay"]);
    let mut projectors = MODELS.map(|model| start(server, &["project", model]));
    server.caught_up().await;
    let feed = &mut projectors[0];
    feed.kill();
    let post = me.write_post("unseen", "public").await;
    eventually("a stranger is told that the list is behind", || async {
        let list = format!("/posts/user/{}", me.id);
        let page = stranger.get_as_is(&list).await.expect_status(200);
        assert!(page.list("/posts").is_empty(), "nobody can have written it");
        page.is_stale().then_some(())
    })
    .await;
    let status = server.status().await;
    assert_eq!(generation(&status, "feed", "current")["lagEvents"], 1);
    eventually("the others go on", || async {
        let path = format!("/posts/{post}/like");
        me.put(&path, Value::Null).await.expect_status(200);
        let notifications = "/notify/notifications";
        let page = me.get_as_is(notifications).await.expect_status(200);
        (!page.is_stale()).then_some(())
    })
    .await;
    *feed = start(server, &["project", "feed"]);
    server.caught_up().await;
    let list = format!("/posts/user/{}", me.id);
    let page = stranger.get(&list).await.expect_status(200);
    assert_eq!(page.list("/posts").len(), 1);
    server.verify_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_has_not_come_to_an_erasure_is_not_judged() {
    let site = Site::begin().await;
    let server = &site.server;
    let me = server.client().sign_up("anna").await;
    me.write_post("to be forgotten", "public").await;
    let _relay = start(server, &["relay"]);
    let mut projectors = MODELS.map(|model| start(server, &["project", model]));
    server.caught_up().await;
    let feed = &mut projectors[0];
    feed.kill();
    erase(&me, PASSWORD).await.expect_status(204);
    let erased = site.positions("user.erased").await[0];
    // The key goes a moment later; from then on the log reads without the name, which the model still has. Neither is wrong.
    let why = format!("it has not come to the erasure at position {erased}");
    eventually("the model is not judged", || async {
        let output = server.command(&["replay", "verify", "feed"]).await;
        let said = printed(&output);
        assert!(!said.contains("person"), "no difference is told: {said}");
        (!output.status.success() && said.contains(&why)).then_some(())
    })
    .await;
    *feed = start(server, &["project", "feed"]);
    server.caught_up().await;
    server.verify_all().await;
}
