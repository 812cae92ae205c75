//! Two feed projectors share the partitions, and what one leaves the other takes; and both go over to another generation.

use reqwest::Method;
use serde_json::Value;
use socialhub_tests::support::{
    Client, Turn, printed,
    server::PATIENCE,
    stack::{Member, Stack},
};
use tokio::time::timeout;

use super::{all_is_well, eventually, load::Load, read_at, write};
use crate::seen::generation;

/// How many events a projector has handled since it started.
async fn handled(stack: &Stack, member: &Member) -> f64 {
    let operator = Client::new(&member.address("metrics"));
    let operator = operator.with_token("", "", stack.setting("OPERATOR_TOKEN"));
    let request = operator.request(Method::GET, "/metrics");
    let page = operator.send(request).await.expect_status(200);
    let text = String::from_utf8(page.bytes).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("socialhub_projection_events_total{model=\"feed\""))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

async fn works(stack: &Stack, member: &Member) {
    let before = handled(stack, member).await;
    let what = format!("{} handles events:\n{}", member.name, member.tail());
    eventually(&what, || async {
        (handled(stack, member).await > before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_feed_projectors_share_the_work_and_a_kill_of_one_moves_it() {
    let stack = Turn::begin().await;
    let client = stack.client();
    let load = Load::start(&client).await;
    // Not one of the load: what those write is counted.
    let author = client.sign_up("sharer").await;
    let members = stack.members("project-feed").await;
    assert_eq!(members.len(), 2);
    for member in &members {
        works(&stack, member).await;
    }
    for (killed, left) in [(0, 1), (1, 0)] {
        let (killed, left) = (&members[killed], &members[left]);
        stack.kill(&killed.name).await;
        let (mut posts, mut last) = (Vec::new(), String::new());
        // More than the partitions, so that some are in those of the one that is gone.
        for index in 0..24 {
            let (post, position) = write(&author, &format!("share {index}")).await;
            posts.push(post);
            last = position;
        }
        let what = format!("all posts are in the feed without {}", killed.name);
        eventually(&what, || async {
            let page = read_at(load.reader(), "/api/feed/?limit=1", &last).await;
            page.expect_status(200).has_reached(&last).then_some(())
        })
        .await;
        for post in &posts {
            let path = format!("/posts/{post}");
            load.reader()
                .get_after(&path, &last)
                .await
                .expect_status(200);
        }
        works(&stack, left).await;
        stack.start(&killed.name).await;
        works(&stack, killed).await;
    }
    hand_over(&stack, &members).await;
    all_is_well(&stack, load).await;
}

/// Every model is rebuilt under load while one of the projectors is killed and comes back; then one is taken back. Both
/// times both projectors of the feed go over to the other generation.
async fn hand_over(stack: &Stack, members: &[Member]) {
    let old = current(stack).await;
    let kill = async {
        stack.kill(&members[0].name).await;
        stack.start(&members[0].name).await;
    };
    // The log has what every other test of the stack wrote. A rebuild that makes room for commands keeps twice the pace at which
    // a log grows, so it could take as long as all of these did; how it rests is not what this is about.
    let rebuild = ["replay", "rebuild", "--all", "--full-speed"];
    let rebuild = timeout(PATIENCE, stack.command(&rebuild));
    let (rebuilt, ()) = tokio::join!(rebuild, kill);
    let rebuilt = rebuilt.expect("the rebuild comes to its end beside the load");
    assert!(rebuilt.status.success(), "{}", printed(&rebuilt));
    let new = current(stack).await;
    assert_ne!(new, old);
    all_work_on(stack, members, &new).await;
    let back = stack.command(&["replay", "rollback", "feed"]).await;
    assert!(back.status.success(), "{}", printed(&back));
    assert_eq!(current(stack).await, old);
    all_work_on(stack, members, &old).await;
}

/// The feed's generation that is current.
async fn current(stack: &Stack) -> Value {
    let output = stack.command(&["replay", "status", "--json"]).await;
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    generation(&status, "feed", "current")["generation"].clone()
}

/// Waits until every projector writes a generation, and handles events.
async fn all_work_on(stack: &Stack, members: &[Member], generation: &Value) {
    for member in members {
        let what = format!("{} writes generation {generation}", member.name);
        eventually(&what, || async {
            let ready = Client::new(&member.address("metrics")).get("/readyz").await;
            let part = &ready.json["parts"][0];
            (part["generation"] == *generation).then_some(())
        })
        .await;
        works(stack, member).await;
    }
}
