//! Projectors of one group on real topics.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
};
use socialhub_domain::topic::Topic;
use socialhub_event_log::{FrontierReader, RelayTask};
use socialhub_infra::kafka::{KafkaSettings, KafkaSource};
use socialhub_projections::{
    GenerationId, Projection,
    runtime::{Delivery, Filler, Filling, Generations, Pace, Pacer, PartitionedSource, Start},
};
use socialhub_tests::support::eventually;
use tokio_util::sync::CancellationToken;

use super::{FixedClock, Model, Toy, World, left_out, topic, until};

/// Tells the test binary that it is a member of a group that is going to be killed: brokers, prefix, group.
const CHILD: &str = "SOCIALHUB_TEST_GROUP_MEMBER";

/// Not a test of its own: a member of the group that a test kills.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_killed() {
    let Ok(names) = env::var(CHILD) else { return };
    let names: Vec<&str> = names.split(' ').collect();
    let settings = KafkaSettings {
        topic_prefix: names[1].to_owned(),
        session_timeout: Duration::from_secs(6),
        ..KafkaSettings::new(names[0])
    };
    let mut source =
        KafkaSource::join(&settings, names[2], Toy::TOPICS, Arc::new(left_out())).unwrap();
    loop {
        match source.next().await.unwrap() {
            Delivery::Assigned(sources, answer) => {
                println!("member of {}", sources.len());
                let beginning = |source| (source, Start::Beginning);
                answer.give(sources.into_iter().map(beginning).collect());
            }
            Delivery::Revoked(_, answer) => answer.give(()),
            Delivery::Records(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_share_of_a_killed_member_goes_to_the_others() {
    let world = World::new();
    world.append(200).await;
    let (_relay, _stop) = world.relay("a");
    world.published().await;
    let model = Model::new();
    let (_projector, _stop) = world.projector(&model, "shared");
    world.projected(&model).await;
    let prefix = &world.settings.topic_prefix;
    let mut member = Command::new(env::current_exe().unwrap())
        .args(["a_member_that_is_killed", "--nocapture"])
        .env(
            CHILD,
            format!("{} {prefix} {prefix}shared", world.settings.brokers),
        )
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(member.stdout.take().unwrap()).lines();
    let told = tokio::task::spawn_blocking(move || {
        let mut lines = lines.map_while(Result::ok);
        lines.find_map(|line| {
            let (_, count) = line.split_once("member of ")?;
            count
                .trim()
                .parse::<usize>()
                .ok()
                .filter(|count| *count > 0)
        })
    });
    let share = told.await.unwrap().unwrap();
    assert!(share < 3, "the other one keeps some");
    world.append(200).await;
    world.published().await;
    member.kill().unwrap();
    member.wait().unwrap();
    world.projected(&model).await;
}

/// As with a client that has lost an answer it waits for: the brokers answer, and nothing is dealt out.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_dealt_nothing_joins_anew() {
    let world = World::new();
    world.append(50).await;
    let (_relay, _stop) = world.relay("a");
    world.published().await;
    let group = format!("{}held-up", world.settings.topic_prefix);
    // A member that says it is alive and takes part in nothing any more, so that nobody is dealt anything.
    let idle = idle_member(&world, &group).await;
    let impatient = KafkaSettings {
        join_within: Duration::from_millis(500),
        ..world.settings.clone()
    };
    let mut source =
        KafkaSource::join(&impatient, &group, Toy::TOPICS, Arc::new(left_out())).unwrap();
    let given_up = source.next().await.err().unwrap().to_string();
    assert!(given_up.contains("joining it anew"), "{given_up}");
    let model = Model::new();
    let (_projector, _stop) = world.projector(&model, "held-up");
    drop(idle);
    world.projected(&model).await;
}

/// Somebody who has all partitions of a group, and does not poll any more.
async fn idle_member(world: &World, group: &str) -> BaseConsumer {
    let (brokers, group) = (world.settings.brokers.clone(), group.to_owned());
    let topics: Vec<String> = Toy::TOPICS
        .iter()
        .map(|topic| world.settings.topic(topic.name()))
        .collect();
    let joined = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", group)
            .set("partition.assignment.strategy", "roundrobin")
            .create()
            .unwrap();
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).unwrap();
        while consumer.assignment().unwrap().count() == 0 {
            // What is read does not matter.
            let _ = consumer.poll(Duration::from_millis(50));
        }
        consumer
    });
    joined.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_projectors_share_and_hand_over() {
    let world = World::new();
    let (_relay, _stop) = world.relay("a");
    let model = Model::new();
    let (first, stop_first) = world.projector(&model, "two");
    world.append(300).await;
    let (_second, _stop_second) = world.projector(&model, "two");
    world.append(300).await;
    world.projected(&model).await;
    stop_first.cancel();
    first.task.await.unwrap();
    world.append(100).await;
    world.projected(&model).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_more_than_there_are_partitions_is_there_all_the_same() {
    let world = World::new();
    let (_relay, _stop) = world.relay("a");
    world.append(10).await;
    world.published().await;
    let model = Model::new();
    let members: Vec<_> = (0..4).map(|_| world.projector(&model, "many")).collect();
    eventually("each has joined", || async {
        let starting = members
            .iter()
            .any(|(member, _)| member.status.is_starting());
        (!starting).then_some(())
    })
    .await;
    world.projected(&model).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_and_what_comes_twice_has_no_effect() {
    let world = World::new();
    world.append(50).await;
    let (relay, ending) = world.relay("a");
    world.published().await;
    let model = Model::new();
    let (_projector, _stop) = world.projector(&model, "foreign");
    world.projected(&model).await;
    for record in topic::kcat(&world.settings, Topic::User) {
        let headers: Vec<String> = record["headers"]
            .as_array()
            .unwrap()
            .chunks(2)
            .map(|pair| {
                format!(
                    "{}={}",
                    pair[0].as_str().unwrap(),
                    pair[1].as_str().unwrap()
                )
            })
            .collect();
        let partition = record["partition"].as_i64().unwrap() as i32;
        let text = |field: &str| record[field].as_str().unwrap();
        // Where it belongs, and where a producer with a division of its own would put it.
        for place in [partition, (partition + 1) % 3] {
            let (key, payload) = (text("key"), text("payload"));
            topic::produce(&world.settings, Topic::User, place, key, payload, &headers);
        }
    }
    for partition in 0..3 {
        for nonsense in [
            "no json",
            "{}",
            "{\"eventType\":\"user.cloned\",\"data\":{}}",
        ] {
            topic::produce(
                &world.settings,
                Topic::User,
                partition,
                "somebody",
                nonsense,
                &[],
            );
        }
    }
    world.append(50).await;
    world.projected(&model).await;
    until("what others wrote is counted", || {
        let sums = world.left_out.sums();
        sums.first().is_some_and(|sum| sum.records >= 59)
    })
    .await;
    let sum = &world.left_out.sums()[0];
    assert_eq!(sum.topic, Topic::User.name());
    assert!(sum.reason.contains("`socialhub-position`"), "{sum:?}");
    // Nor do they hide from a relay that begins now where the topics end.
    world.assert_leads_anew(relay, &ending).await;
    world.projected(&model).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_removed_is_read_from_the_log() {
    let world = World::new();
    world.append(100).await;
    let (relay, ending) = world.relay("a");
    world.published().await;
    let model = Model::new();
    let (projector, stop) = world.projector(&model, "aged");
    world.projected(&model).await;
    stop.cancel();
    projector.task.await.unwrap();
    world.append(100).await;
    world.published().await;
    // Everything published so far is gone; the checkpoints' offsets are, too.
    let mut ends = TopicPartitionList::new();
    for partition in 0..3 {
        let name = world.settings.topic(Topic::User.name());
        ends.add_partition_offset(&name, partition, Offset::End)
            .unwrap();
    }
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &world.settings.brokers)
        .create()
        .unwrap();
    admin
        .delete_records(&ends, &AdminOptions::new())
        .await
        .unwrap();
    let (_projector, _stop) = world.projector(&model, "aged");
    world.projected(&model).await;
    world.append(100).await;
    world.projected(&model).await;
    // A relay that begins now finds empty partitions, and age as the reason.
    world.assert_leads_anew(relay, &ending).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_generation_reads_on_in_a_group_of_its_own() {
    let world = World::new();
    world.append(100).await;
    let (_relay, _stop) = world.relay("a");
    world.published().await;
    let model = Model::new();
    let (projector, _stop) = world.projector(&model, "generations");
    world.projected(&model).await;
    world.append(50).await;
    let filler = Filler::begin(
        model.seen_by(Arc::default()) as Arc<dyn Generations<Toy>>,
        world.log(),
        Some(Arc::clone(&world.store) as Arc<dyn FrontierReader>),
        Arc::new(FixedClock),
    );
    let filler = Box::new(filler.await.unwrap());
    let pacer = Pacer::begin(&world.log(), Pace::Gentle).await.unwrap();
    filler
        .finish(pacer, &CancellationToken::new())
        .await
        .unwrap();
    until("the new generation is projected", || {
        projector.status.report(&FixedClock).generation == Some(GenerationId(2))
    })
    .await;
    world.append(50).await;
    world.projected(&model).await;
}

impl World {
    /// Ends a relay, and lets one begin that finds the topics as they are.
    async fn assert_leads_anew(&self, before: RelayTask, ending: &CancellationToken) {
        // Two of one name would take the lease from each other for ever.
        ending.cancel();
        before.task.await.unwrap();
        let (relay, _stop) = self.relay("a");
        until("it leads", || {
            relay.status.report().state == socialhub_event_log::RelayState::Leading
        })
        .await;
        self.append(10).await;
        self.published().await;
        relay.task.abort();
    }
}
