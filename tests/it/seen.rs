//! What an operator sees of a cluster: in `replay status`, in the metrics, in the log.

use std::process::Command;

use serde_json::Value;
use socialhub_domain::topic::Topic;
use socialhub_infra::kafka::KafkaSettings;
use socialhub_tests::support::{
    Client, Profile, Server, eventually, profile::OPERATOR_TOKEN, servers,
};

use crate::kafka::topic;

/// A server of the distributed profile, all roles in one process.
async fn cluster() -> Server {
    let environment = Profile::Distributed.environment().await;
    Server::start_in(&["--rate-limits", "off"], environment).await
}

/// What `/metrics` gives, line by line.
async fn metrics(server: &Server) -> Vec<(String, f64)> {
    let request = server
        .client()
        .request(reqwest::Method::GET, "/metrics")
        .header("authorization", format!("Bearer {OPERATOR_TOKEN}"));
    let answer = server.client().send(request).await.expect_status(200);
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    let line = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(line).collect()
}

/// The sum of a metric over all lines that name all of some labels.
fn sum(metrics: &[(String, f64)], name: &str, labels: &[&str]) -> f64 {
    let named = metrics.iter().filter(|(line, _)| {
        line.split('{').next() == Some(name) && labels.iter().all(|label| line.contains(label))
    });
    named.map(|(_, value)| value).sum()
}

/// What nobody but the relay should write, and the relay never would: no JSON, none of ours, half of one, and one about
/// somebody who was never there.
const NONSENSE: [&str; 5] = [
    "no json",
    "{}",
    r#"{"eventType":"post.exploded","data":{}}"#,
    r#"{"eventType":"post.liked","data":{"postId":"00000000-0000-0000-0000-000000000001"}}"#,
    r#"{"eventType":"post.deleted","data":{"postId":"00000000-0000-0000-0000-000000000001",
        "userId":"00000000-0000-0000-0000-000000000002","timestamp":5}}"#,
];

/// How many more of them come at once.
const FLOOD: usize = 3_000;

fn write_nonsense(settings: &KafkaSettings) {
    for nonsense in NONSENSE {
        topic::produce(settings, Topic::Post, 0, nonsense, &[]);
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "no json\n".repeat(FLOOD)).unwrap();
    let name = settings.topic(Topic::Post.name());
    let written = Command::new("kcat")
        .args(["-b", &settings.brokers, "-t", &name, "-P", "-p", "0", "-l"])
        .arg(file.path())
        .status();
    assert!(written.unwrap().success());
}

/// What a consumer of the first process has left out of the posts' topic.
fn left_out<'s>(status: &'s Value, consumer: &str) -> Option<&'s Value> {
    let sums = status["processes"][0]["leftOut"].as_array()?;
    sums.iter()
        .find(|sum| sum["consumer"] == consumer && sum["topic"] == "POST_TOPIC")
}

async fn write_and_see(server: &Server, me: &Client) {
    me.write_post("goes on", "public").await;
    server.caught_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_the_relay_has_not_written_are_counted_and_stop_nothing() {
    let server = cluster().await;
    let me = server.client().sign_up("foreign").await;
    write_and_see(&server, &me).await;
    let settings = KafkaSettings {
        topic_prefix: format!("{}.", server.setting("NAMESPACE")),
        ..KafkaSettings::new(&servers::kafka_brokers())
    };
    let written = tokio::task::spawn_blocking(move || write_nonsense(&settings));
    written.await.unwrap();
    let all = (NONSENSE.len() + FLOOD) as u64;
    let consumers = MODELS.map(|model| format!("projection {model}"));
    let status = eventually("the status counts what was left out", async || {
        let status = server.status().await;
        let counted = consumers.iter().all(|consumer| {
            let sum = left_out(&status, consumer);
            sum.is_some_and(|sum| sum["records"].as_u64() >= Some(all))
        });
        counted.then_some(status)
    })
    .await;
    let figures = metrics(&server).await;
    for consumer in &consumers {
        let found = left_out(&status, consumer).unwrap();
        assert_eq!(found["partition"], 0);
        assert!(found["offset"].as_u64() >= Some(all - 1), "{found}");
        let reason = found["reason"].as_str().unwrap();
        assert!(reason.contains("`socialhub-position`"), "{reason}");
        let counted = sum(
            &figures,
            "socialhub_projection_foreign_records_total",
            &[&format!("\"{consumer}\""), "\"POST_TOPIC\""],
        );
        assert_eq!(counted, found["records"].as_f64().unwrap(), "{consumer}");
    }
    let listed = server.succeed(&["replay", "status"]).await;
    let line = "records of POST_TOPIC that the relay has not written, the last at";
    assert_eq!(listed.matches(line).count(), MODELS.len(), "{listed}");
    // A flood of them is not one of lines.
    let log = server.log();
    let lines = log
        .matches("records that the relay has not written")
        .count();
    assert!((MODELS.len()..50).contains(&lines), "{lines} lines: {log}");

    write_and_see(&server, &me).await;
    server.client().get("/readyz").await.expect_status(200);
    let parked = sum(&figures, "socialhub_projection_parked", &[]);
    assert!(parked.abs() < f64::EPSILON, "{parked} are parked");
    server.verify_all().await;
}

/// The read models.
const MODELS: [&str; 3] = ["feed", "notifications", "counters"];
