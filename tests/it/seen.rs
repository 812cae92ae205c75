//! What an operator sees of a cluster: in `replay status`, in the metrics, in the log.

use std::process::Command;

use serde_json::{Value, json};
use socialhub_domain::topic::Topic;
use socialhub_infra::kafka::KafkaSettings;
use socialhub_tests::support::{
    Client, Profile, Server, eventually, profile::OPERATOR_TOKEN, servers,
};

use crate::{
    kafka::topic,
    replay::{MODELS, letters},
};

/// A server of the distributed profile, all roles in one process.
async fn cluster() -> Server {
    let environment = Profile::Distributed.environment().await;
    Server::start_in(&["--rate-limits", "off"], environment).await
}

/// What `/metrics` gives, line by line.
pub(crate) async fn metrics(server: &Server) -> Vec<(String, f64)> {
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
pub(crate) fn sum(metrics: &[(String, f64)], name: &str, labels: &[&str]) -> f64 {
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
        topic::produce(settings, Topic::Post, 0, "somebody", nonsense, &[]);
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

/// What the status says of a model's generation in a state.
pub(crate) fn generation<'s>(status: &'s Value, model: &str, state: &str) -> &'s Value {
    let mut models = status["models"].as_array().unwrap().iter();
    let model = models.find(|found| found["model"] == model).unwrap();
    let mut generations = model["generations"].as_array().unwrap().iter();
    generations.find(|found| found["state"] == state).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_readiness_say_what_the_status_says() {
    let server = Server::start().await;
    let me = server.client().sign_up("figures").await;
    write_and_see(&server, &me).await;
    eventually("each part has a rate", || async {
        me.write_post("moves everybody", "public").await;
        let rates = rates(&server).await;
        rates.iter().all(|rate| *rate > 0.0).then_some(())
    })
    .await;
    server.succeed(&["replay", "rebuild", "--all"]).await;
    write_and_see(&server, &me).await;
    let status = server.status().await;
    let figures = eventually("the metrics have come to what the status says", || async {
        let figures = metrics(&server).await;
        let equal = MODELS.iter().all(|model| {
            let current = generation(&status, model, "current");
            let labels = [format!("model=\"{model}\""), "state=\"current\"".to_owned()];
            let labels = labels.each_ref().map(String::as_str);
            let found = |name| sum(&figures, name, &labels);
            found("socialhub_generation") == current["generation"].as_f64().unwrap()
                && found("socialhub_generation_position") == current["position"].as_f64().unwrap()
                && found("socialhub_generation_lag_events") == 0.0
        });
        // Who was not at their work yet when they were asked first is by now.
        let failing = sum(&figures, "socialhub_part_failing", &[]);
        (equal && failing == 0.0).then_some(figures)
    })
    .await;
    for model in MODELS {
        let of = format!("model=\"{model}\"");
        let found = |name, state: &str| sum(&figures, name, &[&of, &format!("state=\"{state}\"")]);
        let previous = generation(&status, model, "previous");
        assert_eq!(
            found("socialhub_generation", "previous"),
            previous["generation"]
        );
        assert_eq!(found("socialhub_generation", "building"), 0.0);
        assert_eq!(
            found("socialhub_projection_state", "running"),
            1.0,
            "{model}"
        );
        assert_eq!(found("socialhub_projection_state", "stuck"), 0.0, "{model}");
        let current = generation(&status, model, "current");
        let number = sum(&figures, "socialhub_projection_generation", &[&of]);
        assert_eq!(number, current["generation"], "{model}");
    }
    let ready = server.client().get("/readyz").await.expect_status(200);
    for model in MODELS {
        let part = part(&ready.json, &format!("projection {model}"));
        let current = generation(&status, model, "current");
        for figure in ["generation", "position", "lagEvents"] {
            assert_eq!(part[figure], current[figure], "{model}: {figure}");
        }
        assert_eq!(part["state"], "running");
    }
    if Profile::chosen() == Profile::Distributed {
        let relay = part(&ready.json, "relay");
        assert_eq!(relay["state"], "leading");
        assert_eq!(relay["position"], status["relay"]["position"]);
        assert_eq!(
            sum(&figures, "socialhub_relay_state", &["\"leading\""]),
            1.0
        );
        assert_eq!(sum(&figures, "socialhub_relay_lag_seconds", &[]), 0.0);
    }
    eventually("nothing moves any more", || async {
        let rates = rates(&server).await;
        rates.iter().all(|rate| *rate == 0.0).then_some(())
    })
    .await;
}

/// How fast each part moves that follows the log, as `/readyz` says.
async fn rates(server: &Server) -> Vec<f64> {
    // Also of one that is not ready for a moment.
    let ready = server.client().get("/readyz").await;
    let parts = ready.json["parts"].as_array().unwrap();
    let rates: Vec<f64> = parts
        .iter()
        .map(|part| part["rate"].as_f64().unwrap())
        .collect();
    assert!(rates.len() >= MODELS.len(), "{parts:?}");
    rates
}

/// What `/readyz` says of a part.
fn part<'r>(ready: &'r Value, name: &str) -> &'r Value {
    let mut parts = ready["parts"].as_array().unwrap().iter();
    parts.find(|part| part["name"] == name).unwrap()
}

/// A model whose store rejects what comes: parked, counted, and named in all three places.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_and_what_failed_last_is_in_the_metrics() {
    let server = Server::start().await;
    let me = server.client().sign_up("parked").await;
    let post = me.write_post("liked", "public").await;
    server.caught_up().await;
    letters::reject_rows(&server, "likes", true).await;
    me.put(&format!("/posts/{post}/like"), Value::Null)
        .await
        .expect_status(200);
    // It waits behind the like.
    me.post(
        &format!("/posts/{post}/comment"),
        json!({ "comment": "waits" }),
    )
    .await
    .expect_status(201);
    let model = "model=\"feed\"";
    eventually("the metrics count what is parked", || async {
        let figures = metrics(&server).await;
        let found = |name, labels: &[&str]| sum(&figures, name, labels);
        let current = [model, "state=\"current\""];
        let counted = found("socialhub_projection_parked", &[model]) == 2.0
            && found("socialhub_projection_parked_sequences", &[model]) == 1.0
            && found("socialhub_generation_parked", &current) == 2.0
            && found("socialhub_generation_parked_sequences", &current) == 1.0;
        counted.then_some(())
    })
    .await;
    let status = server.status().await;
    let current = generation(&status, "feed", "current");
    assert_eq!(
        (&current["parked"], &current["parkedSequences"]),
        (&json!(2), &json!(1))
    );
    let listed = server.succeed(&["replay", "status"]).await;
    assert!(listed.contains("; parked in one sequence"), "{listed}");
    let ready = server.client().get("/readyz").await.expect_status(200);
    let feed = part(&ready.json, "projection feed");
    assert_eq!(
        (&feed["parked"], &feed["parkedSequences"]),
        (&json!(2), &json!(1))
    );
}
