//! Each event in the files once, while processes are killed, stopped and joined by others.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use socialhub_domain::{IdGenerator, Timestamp};
use socialhub_infra::{
    analytics::{ParquetRows, open_analytics},
    clock::{RandomIds, SystemClock},
};
use socialhub_projections::{
    Source,
    analytics::{Limits, PartitionWriter, Ports, Row},
};
use socialhub_tests::support::{eventually, s3_server::S3Server};
use tokio_util::sync::CancellationToken;

use super::{known, world::World};

/// The same events again and again: of another life each time, as far as the log is concerned.
async fn append_some(world: &World, count: usize) {
    let events = known::events();
    let some = events.iter().cycle().take(count);
    world.append(some.map(known::Known::event).collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_it_writes_each_event_once() {
    let world = World::new().await;
    append_some(&world, 2_000).await;
    let _relay = world.start(&["relay"]);
    let mut written = 0;
    for round in 0..8_u64 {
        let mut consumer = world.start(&["analytics"]);
        // At another moment each time: while it joins, while it writes, while it waits.
        let rows = "socialhub_analytics_rows_total";
        if round % 2 == 0 {
            eventually("it has written something", || async {
                (consumer.metric(rows).await > 0.0).then_some(())
            })
            .await;
            written += 1;
        } else {
            eventually("it has partitions", || async {
                let name = "socialhub_analytics_held_seconds";
                (consumer.metric(name).await > 0.0).then_some(())
            })
            .await;
        }
        append_some(&world, 500).await;
        tokio::time::sleep(Duration::from_millis(round * 150)).await;
        consumer.kill();
    }
    assert!(written > 3);
    let _consumer = world.start(&["analytics"]);
    world.assert_exact().await;
}

/// What `replay status` says of the files.
fn told(world: &World) -> Value {
    let output = world.run(&["replay", "status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    status["analytics"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_how_fast_events_come_into_files() {
    let world = World::new().await;
    append_some(&world, 1_000).await;
    let _relay = world.start(&["relay"]);
    let before = Instant::now();
    let mut consumer = world.start(&["analytics"]);
    world.assert_exact().await;
    let told_then = eventually("it has been heard of for a second", || async {
        let told = told(&world);
        told["rate"].is_number().then_some(told)
    })
    .await;
    let longest = before.elapsed().as_secs_f64();
    assert_eq!(told_then["lagEvents"], 0, "{told_then}");
    assert_eq!(told_then["filesAt"], world.url(), "{told_then}");
    // All were written since it began, which is at least a second ago, and less than this test.
    let over = 1_000.0 / told_then["rate"].as_f64().unwrap();
    assert!(
        (1.0..=longest + 0.1).contains(&over),
        "{over} s of {longest}: {told_then}"
    );
    let words = world.run(&["replay", "status"]);
    let words = String::from_utf8(words.stdout).unwrap();
    let line = words.lines().find(|line| line.starts_with("analytics:"));
    assert!(line.unwrap().contains(" events/s, "), "{words}");

    let part = &consumer.readyz().await["parts"][0];
    assert_eq!(part["name"], "analytics", "{part}");
    assert!(part["rate"].as_f64().unwrap() > 0.0, "{part}");

    consumer.stop();
    // At once, or when it was not heard of for a while: a busy database may not have heard its last word.
    let told = eventually("it is not running", || async {
        let told = told(&world);
        (told["state"] == "notRunning").then_some(told)
    })
    .await;
    assert_eq!(told.get("rate"), None, "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_slept_while_others_had_its_partitions_does_no_harm() {
    let world = World::new().await;
    append_some(&world, 1_000).await;
    let _relay = world.start(&["relay"]);
    let sleeper = world.start(&["analytics"]);
    world.assert_exact().await;
    for _ in 0..2 {
        // It holds rows that are in no file yet.
        append_some(&world, 1_000).await;
        eventually("it holds rows", || async {
            (sleeper.metric("socialhub_analytics_held_seconds").await > 0.0).then_some(())
        })
        .await;
        sleeper.signal("STOP");
        let mut other = world.start(&["analytics"]);
        append_some(&world, 500).await;
        world.assert_exact().await;
        sleeper.signal("CONT");
        append_some(&world, 500).await;
        world.assert_exact().await;
        other.stop();
        append_some(&world, 500).await;
        world.assert_exact().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_come_and_go_and_share_the_partitions() {
    let server = S3Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_files_at(folder, server.url("lake")).await;
    let _relay = world.start(&["relay"]);
    let mut consumers = Vec::new();
    for round in 0..4 {
        consumers.push(world.start(&["analytics"]));
        append_some(&world, 700).await;
        if round == 2 {
            consumers.remove(0).stop();
        }
        world.run(&["analytics", "compact"]);
    }
    consumers[0].kill();
    append_some(&world, 300).await;
    world.assert_exact().await;
    world.run(&["analytics", "compact"]);
    world.assert_exact().await;
}

/// Two files of a day that is over in each of two partitions.
async fn write_small_files(world: &World) {
    let ports = Ports {
        objects: open_analytics(Some(world.url()), Path::new("unused")).unwrap(),
        format: Arc::new(ParquetRows::new().unwrap()),
        clock: Arc::new(SystemClock),
        ids: Arc::new(RandomIds),
    };
    for partition in 0..2 {
        let source = Source::partition("POST_TOPIC", partition);
        let opened = PartitionWriter::open(ports.clone(), source, Limits::default());
        let mut writer = opened.await.unwrap();
        for position in 1..=2 {
            assert!(writer.push(like(position, partition)));
            writer.flush(&CancellationToken::new()).await.unwrap();
        }
    }
}

fn like(position: u64, partition: i32) -> Row {
    Row {
        position,
        event_id: RandomIds.next_id(),
        event_type: "post.liked".to_owned(),
        version: 1,
        topic: "POST_TOPIC".to_owned(),
        partition,
        offset: None,
        key: String::new(),
        occurred_at: Some(Timestamp(0)),
        actor_id: None,
        target_id: None,
        post_id: None,
        comment_id: None,
        payload: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_told_and_everything_else_is_merged() {
    let world = World::new().await;
    write_small_files(&world).await;
    let mut files = world.files();
    assert_eq!(files.len(), 4);
    files.retain(|file| file.to_str().unwrap().contains("POST_TOPIC-0-"));
    let damaged = &files[0];
    let bytes = std::fs::read(damaged).unwrap();
    std::fs::write(damaged, "no Parquet").unwrap();

    let compact = ["analytics", "compact"];
    let said = world.fail(&compact);
    let name = damaged.file_name().unwrap().to_str().unwrap();
    for told in [
        name,
        "POST_TOPIC-0: 2 files, now 2",
        "POST_TOPIC-1: 2 files, now 1",
    ] {
        assert!(said.contains(told), "{told}: {said}");
    }
    std::fs::write(damaged, bytes).unwrap();
    let said = String::from_utf8(world.run(&compact).stdout).unwrap();
    assert!(said.contains("POST_TOPIC-0: 2 files, now 1"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn begun_anew_it_writes_everything_there_ever_was() {
    let world = World::new().await;
    append_some(&world, 600).await;
    let _relay = world.start(&["relay"]);
    let mut consumer = world.start(&["analytics"]);
    world.assert_exact().await;
    consumer.stop();
    std::fs::remove_dir_all(world.url()).unwrap();
    world.forget_topics().await;
    append_some(&world, 100).await;
    let _consumer = world.start(&["analytics"]);
    world.assert_exact().await;
    let from_the_log = world.rows().await;
    let from_the_log = from_the_log.iter().filter(|row| row.offset.is_none());
    assert_eq!(from_the_log.count(), 600);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_another_log_are_left_alone() {
    let world = World::new().await;
    append_some(&world, 200).await;
    let _relay = world.start(&["relay"]);
    let mut consumer = world.start(&["analytics"]);
    world.assert_exact().await;
    consumer.stop();
    let other = World::with_files_at(tempfile::tempdir().unwrap(), world.url().to_owned()).await;
    append_some(&other, 300).await;
    let _relay = other.start(&["relay"]);
    let refusing = other.start(&["analytics"]);
    let reason = eventually("it says why it is not ready", || async {
        refusing
            .not_ready()
            .await
            .filter(|text| text.contains("does not hold"))
    })
    .await;
    assert!(reason.contains("docs/analytics.md"), "{reason}");
    world.assert_exact().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_are_divided_anew_need_a_new_folder() {
    let world = World::new().await;
    append_some(&world, 300).await;
    let mut relay = world.start(&["relay"]);
    let mut consumer = world.start(&["analytics"]);
    world.assert_exact().await;
    consumer.stop();
    relay.stop();
    world.divide_topics().await;
    world.run(&["replay", "republish", "--yes"]);
    let _relay = world.start(&["relay"]);
    let refusing = world.start(&["analytics"]);
    let reason = eventually("it says why it is not ready", || async {
        refusing
            .not_ready()
            .await
            .filter(|text| text.contains("another number of partitions"))
    })
    .await;
    assert!(reason.contains("docs/analytics.md"), "{reason}");
    world.assert_exact().await;
}
