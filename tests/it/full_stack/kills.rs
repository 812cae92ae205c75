//! SIGKILL and SIGSTOP of each process of ours under load: nothing acknowledged is lost or done twice.

use socialhub_tests::support::{Turn, stack::Stack};

use super::{all_is_well, eventually, everything_moves, load::Load, read_at, talk::Talk, write};

/// Everything of ours, in the order it is killed.
const SERVICES: [&str; 10] = [
    "relay",
    "project-feed",
    "project-notifications",
    "project-counters",
    "post-service",
    "users-service",
    "feed-service",
    "notification-service",
    "chat-service",
    "auth-service",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_or_a_hang_of_any_process_under_load_loses_and_doubles_nothing() {
    let stack = Turn::begin().await;
    let client = stack.client();
    let load = Load::start(&client).await;
    let talk = Talk::start(stack.url(), &client).await;
    load.goes_on(20).await;
    for service in SERVICES {
        for member in stack.members(service).await {
            stack.kill(&member.name).await;
            // Another instance answers, or nobody notices.
            load.goes_on(8).await;
            stack.start(&member.name).await;
            load.goes_on(8).await;
            stack.signal(&member.name, "STOP").await;
            load.goes_on(4).await;
            stack.signal(&member.name, "CONT").await;
            load.goes_on(8).await;
            talk.goes_on().await;
        }
    }
    for service in ["post-service", "users-service"] {
        kill_all(&stack, service, &load).await;
    }
    // Not one of the load: what those write is counted.
    everything_moves(&client.sign_up("afterwards").await).await;
    talk.end().await;
    all_is_well(&stack, load).await;
}

/// Every instance of a service at once: its commands are refused or left open, until one is back.
async fn kill_all(stack: &Stack, service: &str, load: &Load) {
    let members = stack.members(service).await;
    for member in &members {
        stack.kill(&member.name).await;
    }
    load.is_refused(4).await;
    for member in &members {
        stack.start(&member.name).await;
    }
    load.goes_on(8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_hangs_is_replaced_and_cannot_speak_any_more() {
    let stack = Turn::begin().await;
    let client = stack.client();
    let load = Load::start(&client).await;
    let author = client.sign_up("meanwhile").await;
    // One of them leads; each hangs once, so the one that leads does, too.
    for member in stack.members("relay").await {
        load.goes_on(10).await;
        stack.signal(&member.name, "STOP").await;
        let (_, position) = write(&author, "told by another").await;
        let path = format!("/posts/user/{}", author.id);
        let what = format!("the log is told on while {} hangs", member.name);
        eventually(&what, || async {
            let page = read_at(&author, &path, &position).await;
            // Busy, as it may be for a moment.
            if page.status == 503 {
                return None;
            }
            page.expect_status(200).has_reached(&position).then_some(())
        })
        .await;
        stack.signal(&member.name, "CONT").await;
    }
    load.goes_on(10).await;
    all_is_well(&stack, load).await;
}
