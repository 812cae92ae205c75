//! The relay as it is run: two `socialhub relay` processes on the log in Postgres and a real broker, while others append
//! without a pause. Whatever becomes of the processes and the broker, each partition holds its events of the log, in
//! order, each once, and each names the one before it. The design allows no duplicate: records of a transaction that was
//! given up are there, but nobody sees them who reads what is committed.

mod site;

use std::time::Duration;

use socialhub_tests::support::{eventually, servers};

use crate::kafka::own_servers::OwnServers;
use site::Site;

/// Longer than everything that a relay waits for: records 20 s and the transaction's end 5 s, transactions 30 s, requests
/// 10 s, the lease 5 s.
const LONGER_THAN_ANY_TIMEOUT: Duration = Duration::from_secs(36);

#[tokio::test(flavor = "multi_thread")]
async fn kills_leave_no_hole_and_double_nothing() {
    let mut site = Site::start(&servers::kafka_brokers()).await;
    site.told_on().await;
    // Wherever it is: between two batches, in a transaction, about to save.
    for _ in 0..3 {
        let leader = site.leader().await;
        site.kill(leader);
        site.restart(leader);
        site.told_on().await;
    }
    // Where it matters most: what it published is on the topics, and nothing says so.
    for _ in 0..2 {
        let leader = site.leader().await;
        let held = site.hold_saves().await;
        site.published_beyond(held.saved).await;
        site.kill(leader);
        site.free_saves(held).await;
        site.restart(leader);
        site.told_on().await;
    }
    // Nobody is left to take over.
    site.kill(0);
    site.kill(1);
    site.restart(0);
    site.restart(1);
    site.told_on().await;
    // In good order the lease is given back.
    let leader = site.leader().await;
    site.stop(leader).await;
    site.told_on().await;
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_that_hang_are_replaced_and_say_nothing_when_they_wake() {
    let site = Site::start(&servers::kafka_brokers()).await;
    site.told_on().await;
    // Each of them hangs twice.
    for _ in 0..2 {
        let leader = site.leader().await;
        site.signal(leader, "-STOP");
        site.told_on().await;
        let other = site.leader().await;
        assert_ne!(other, leader, "it was told on by another");
        site.wakes_as_follower(leader).await;
        site.told_on().await;
        // With what it published on the topics, and about to save it.
        let held = site.hold_saves().await;
        site.published_beyond(held.saved).await;
        site.signal(other, "-STOP");
        site.free_saves(held).await;
        site.told_on().await;
        assert_eq!(site.leader().await, leader);
        site.wakes_as_follower(other).await;
        site.told_on().await;
    }
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_restarted_killed_and_long_away_costs_nothing() {
    let servers = OwnServers::up();
    let site = Site::start(&servers.setting("KAFKA_BROKERS")).await;
    site.told_on().await;
    servers.stop("kafka");
    servers.start("kafka");
    site.told_on().await;
    servers.kill("kafka");
    servers.start("kafka");
    site.told_on().await;

    servers.kill("kafka");
    let gone = tokio::time::Instant::now();
    eventually("every timeout has passed", || async {
        (gone.elapsed() > LONGER_THAN_ANY_TIMEOUT).then_some(())
    })
    .await;
    let behind = site.behind().await;
    assert!(behind > 100, "{behind} events are still to be told");
    servers.start("kafka");
    site.told_on().await;
    site.end().await;
}
