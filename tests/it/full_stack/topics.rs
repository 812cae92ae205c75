//! The topics as `kcat` reads them: a Kafka client that nobody here wrote.

use std::{collections::HashMap, process::Command};

use serde_json::{Value, json};
use socialhub_tests::support::Turn;

use super::{all_is_well, eventually, follow, load::Load, write};

/// A record of a topic.
struct Record {
    partition: u64,
    key: String,
    value: Value,
    headers: HashMap<String, String>,
}

impl Record {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> u64 {
        self.header(name).parse().unwrap()
    }
}

/// Everything that a topic holds and that was committed.
async fn read(brokers: &str, topic: &str) -> Vec<Record> {
    let mut kcat = Command::new("kcat");
    kcat.args(["-b", brokers, "-t", topic, "-C", "-e", "-q", "-J"])
        .args(["-o", "beginning", "-X", "isolation.level=read_committed"]);
    let output = tokio::task::spawn_blocking(move || kcat.output());
    let output = output.await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kcat: {said}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(record).collect()
}

fn record(line: &str) -> Record {
    let envelope: Value = serde_json::from_str(line).unwrap();
    let flat: Vec<_> = envelope["headers"]
        .as_array()
        .unwrap_or_else(|| panic!("no headers: {line}"))
        .iter()
        .map(|one| one.as_str().unwrap_or_default().to_owned())
        .collect();
    let pairs = flat
        .chunks(2)
        .map(|pair| (pair[0].clone(), pair[1].clone()));
    let value = envelope["payload"].as_str().unwrap();
    Record {
        partition: envelope["partition"].as_u64().unwrap(),
        key: envelope["key"].as_str().unwrap().to_owned(),
        value: serde_json::from_str(value).unwrap_or_else(|_| panic!("no JSON: {line}")),
        headers: pairs.collect(),
    }
}

/// In each partition positions rise, and each record names the one before it: nothing is missing, nothing is there twice.
fn check_chain(topic: &str, records: &[Record]) {
    let (mut last, mut ids) = (HashMap::new(), HashMap::new());
    for record in records {
        let place = format!("{topic}/{}", record.partition);
        let position = record.number("socialhub-position");
        let before = last.insert(record.partition, position).unwrap_or(0);
        assert!(position > before, "{place}: {position} after {before}");
        let named = record.number("socialhub-prev");
        assert_eq!(named, before, "{place}: hole before {position}");
        let id = record.header("ce_id").to_owned();
        assert!(!id.is_empty(), "{place}: {position} has no id");
        let other = ids.insert(id, position);
        assert_eq!(other, None, "{place}: {position} is there twice");
        assert_eq!(record.header("ce_specversion"), "1.0");
        assert_eq!(record.header("ce_type"), record.value["eventType"]);
        assert!(!record.header("ce_source").is_empty() && !record.header("ce_time").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kcat_reads_the_seeds_json_in_order_and_without_a_hole() {
    let stack = Turn::begin().await;
    let client = stack.client();
    let load = Load::start(&client).await;
    let (me, fan) = (client.sign_up("told").await, client.sign_up("teller").await);
    follow(&fan, &me).await;
    let (post, _) = write(&me, "told to the world").await;
    let comment = json!({ "comment": "read by kcat" });
    let path = format!("/posts/{post}/comment");
    fan.post(&path, comment).await.expect_status(201);
    let path = format!("/posts/{post}/like");
    fan.post(&path, Value::Null).await.expect_status(200);
    load.goes_on(40).await;
    let brokers = stack.setting("KAFKA_BROKERS").to_owned();
    let posts = eventually("the like is on its topic", || async {
        let records = read(&brokers, "POST_TOPIC").await;
        let mut of_mine = records.iter().filter(|record| record.key == post);
        of_mine
            .any(|record| record.header("ce_type") == "post.liked")
            .then_some(records)
    })
    .await;
    let users = read(&brokers, "USER_TOPIC").await;
    check_chain("POST_TOPIC", &posts);
    check_chain("USER_TOPIC", &users);

    let mine: Vec<_> = posts.iter().filter(|record| record.key == post).collect();
    let types: Vec<_> = mine.iter().map(|record| record.header("ce_type")).collect();
    assert_eq!(types, ["post.created", "post.commented", "post.liked"]);
    let data = &mine[0].value["data"];
    assert_eq!(data["postId"], post.as_str());
    assert_eq!(data["userId"], me.id.as_str());
    assert_eq!(data["content"], "told to the world");
    assert!(data["timestamp"].is_i64(), "{data}");
    let data = &mine[1].value["data"];
    assert_eq!(data["commenterUsername"], fan.username.as_str());
    assert_eq!(data["postAuthorId"], me.id.as_str());
    let data = &mine[2].value["data"];
    assert_eq!(data["likerId"], fan.id.as_str());
    assert_eq!(data["likerUsername"], fan.username.as_str());
    let followed = users
        .iter()
        .find(|record| record.key == me.id && record.value["eventType"] == "user.followed");
    let data = &followed.unwrap().value["data"];
    assert_eq!(data["followerId"], fan.id.as_str());
    assert_eq!(data["followerUsername"], fan.username.as_str());
    // What nobody may read there.
    for record in users.iter().chain(&posts) {
        assert!(!record.value.to_string().contains("@example.com"));
    }
    all_is_well(&stack, load).await;
}
