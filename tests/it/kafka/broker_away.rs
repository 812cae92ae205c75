//! A broker that is restarted, and one that is away for longer than every timeout of the clients. On a broker of its own.

use std::time::Duration;

use socialhub_event_log::RelayState;
use socialhub_infra::kafka::KafkaSettings;

use super::{LEASE, Model, World, own_servers::OwnServers, until};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_reordered() {
    let servers = OwnServers::up();
    let mut world = World::on(&servers.setting("KAFKA_BROKERS"));
    world.settings = KafkaSettings {
        message_timeout: Duration::from_secs(3),
        transaction_timeout: Duration::from_secs(4),
        request_timeout: Duration::from_secs(2),
        ..world.settings
    };
    let (relay, stop) = world.relay("a");
    let model = Model::new();
    let (_projector, _stop) = world.projector(&model, "group");
    world.append(500).await;
    world.projected(&model).await;

    // A restart, while events come in.
    servers.stop("kafka");
    world.append(300).await;
    servers.start("kafka");
    world.published().await;
    world.projected(&model).await;
    world.assert_published_once();

    // Away for longer than messages, transactions, requests and the lease last.
    servers.stop("kafka");
    let gone = tokio::time::Instant::now();
    world.append(300).await;
    until("every timeout has passed", || {
        gone.elapsed() > Duration::from_secs(12).max(LEASE * 3)
    })
    .await;
    // Between two tries it may be about to lead again.
    until("it says that it is stuck", || {
        let report = relay.status.report();
        report.state == RelayState::Stuck && report.last_error.is_some() && report.lag_events == 300
    })
    .await;
    servers.start("kafka");
    world.append(100).await;
    world.published().await;
    world.projected(&model).await;
    world.assert_published_once();
    stop.cancel();
    relay.task.await.unwrap();
}
