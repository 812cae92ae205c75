//! Events of an older version in a log that lives: whoever reads it sees today's, and everything built from it is the same.

use serde_json::{Value, json};
use socialhub_infra::kafka::KafkaSettings;
use socialhub_tests::support::{Client, Profile, Server, servers};
use sqlx::{Connection, Executor, PgConnection};

use crate::{
    firehose::{self, Hose},
    kafka::topic,
    replay::{damage::lines, letters::restart_from_nothing},
};

/// The types that have two versions, and what the first one did not have.
const YOUNGER: [(&str, [&str; 2]); 2] = [
    ("post.created", ["visibility", "media"]),
    ("user.followed", ["notify", "notify"]),
];

/// Makes the events of a log as they were written before a version. Sealed fields stay as they are: what they are bound to
/// is not the version.
async fn grow_old(server: &Server) {
    for (event_type, [one, other]) in YOUNGER {
        if Profile::chosen() == Profile::Embedded {
            let log = rusqlite::Connection::open(server.data_dir().join("events.db")).unwrap();
            let sql = format!(
                "UPDATE events SET event_version = 1, payload = json_remove(payload, '$.{one}', '$.{other}')
                 WHERE event_type = '{event_type}'"
            );
            assert!(log.execute(&sql, []).unwrap() > 0, "{event_type}");
            continue;
        }
        let mut log = PgConnection::connect(server.setting("DATABASE_URL"))
            .await
            .unwrap();
        let sql = format!(
            "UPDATE events SET event_version = 1, payload = (payload::jsonb - '{one}' - '{other}')::json
             WHERE event_type = '{event_type}'"
        );
        let grown = log.execute(sql.as_str()).await.unwrap();
        assert!(grown.rows_affected() > 0, "{event_type}");
    }
}

/// What people see.
async fn answers(ada: &Client, bob: &Client, post: &str) -> Vec<Value> {
    let mut found = Vec::new();
    for (who, path) in [
        (bob, "/api/feed/".to_owned()),
        (bob, format!("/posts/{post}")),
        (bob, format!("/users/profile/{}", ada.id)),
        (ada, format!("/posts/user/{}", ada.id)),
    ] {
        found.push(who.get(&path).await.expect_status(200).json);
    }
    found
}

/// The versions of the events of a type, as the firehose tells them.
async fn told_versions(server: &Server, event_type: &str) -> Vec<u64> {
    let head = server.status().await["head"].as_u64().unwrap();
    let operator = firehose::operator(server);
    let mut hose = Hose::open(&operator, &format!("?after=0&types={event_type}"), None).await;
    let told = hose.up_to(head).await;
    let version = |event: &Value| event["version"].as_u64().unwrap();
    told.iter().map(version).collect()
}

/// The versions of the events of a type on the topics.
async fn published_versions(server: &Server, event_type: &'static str) -> Vec<u32> {
    let settings = KafkaSettings {
        topic_prefix: format!("{}.", server.setting("NAMESPACE")),
        ..KafkaSettings::new(&servers::kafka_brokers())
    };
    let records = tokio::task::spawn_blocking(move || topic::read(&settings)).await;
    let records = records.unwrap();
    let of_type = records.values().flatten();
    let of_type = of_type.filter(|headers| headers.event_type == event_type);
    of_type.map(|headers| headers.version).collect()
}

#[tokio::test]
async fn a_log_of_older_versions_is_read_rebuilt_and_gone_on_with() {
    let mut server = firehose::server().await;
    let (ada, bob) = (
        server.client().sign_up("ada").await,
        server.client().sign_up("bob").await,
    );
    let follow = format!("/users/follow/{}", ada.id);
    bob.post(&follow, Value::Null).await.expect_status(200);
    let post = ada.write_post("the first", "public").await;
    ada.write_post("the second", "public").await;
    bob.put(&format!("/posts/{post}/like"), Value::Null)
        .await
        .expect_status(200);
    server.caught_up().await;
    let before = answers(&ada, &bob, &post).await;
    assert!(server.stop().await, "{}", server.log());
    grow_old(&server).await;
    let tail = lines(
        &server
            .succeed(&["replay", "tail", "--after", "0", "--json"])
            .await,
    );
    for (event_type, _) in YOUNGER {
        let of_type = tail.iter().filter(|event| event["eventType"] == event_type);
        let versions: Vec<&Value> = of_type.map(|event| &event["eventVersion"]).collect();
        assert!(!versions.is_empty() && versions.iter().all(|version| **version == 1));
    }
    server.succeed(&["replay", "verify", "--all"]).await;
    restart_from_nothing(&mut server).await;
    server.caught_up().await;
    assert_eq!(answers(&ada, &bob, &post).await, before);
    server.verify_all().await;
    for (event_type, _) in YOUNGER {
        let told = told_versions(&server, event_type).await;
        assert!(!told.is_empty() && told.iter().all(|version| *version == 2));
        if Profile::chosen() == Profile::Distributed {
            let published = published_versions(&server, event_type).await;
            assert_eq!(published.len(), told.len(), "{event_type}");
            assert!(published.iter().all(|version| *version == 2));
        }
    }

    // Who decides by them goes on from them.
    bob.delete(&format!("/posts/{post}/like"))
        .await
        .expect_status(200);
    bob.delete(&format!("/users/unfollow/{}", ada.id))
        .await
        .expect_status(200);
    let asked = bob.post(&follow, json!({ "notify": true })).await;
    asked.expect_status(200);
    server.caught_up().await;
    let read = bob.get(&format!("/posts/{post}")).await.expect_status(200);
    assert_eq!(read.at("/post/likeCount"), 0);
    server.verify_all().await;
    server.succeed(&["replay", "rebuild", "--all"]).await;
    server.verify_all().await;
    a_copy_holds_the_same(&server, &ada, &post).await;
}

/// An export keeps each event in the version that it was written in.
async fn a_copy_holds_the_same(server: &Server, ada: &Client, post: &str) {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("export");
    let place = place.to_str().unwrap();
    let export = ["replay", "export", place, "--all"];
    server.succeed(&export).await;
    let mut copy = Server::prepare(
        &["--rate-limits", "off"],
        Profile::Embedded.environment().await,
    );
    copy.succeed(&["replay", "import", place]).await;
    let tail = async |server: &Server| {
        let all = lines(
            &server
                .succeed(&["replay", "tail", "--after", "0", "--json"])
                .await,
        );
        let of = |event: &Value| [&event["eventId"], &event["eventVersion"]].map(Clone::clone);
        all.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(tail(&copy).await, tail(server).await);
    copy.restart().await;
    copy.caught_up().await;
    copy.verify_all().await;
    let ada = copy.client().log_in_as(ada).await;
    let seen = ada.get(&format!("/posts/{post}")).await;
    let seen = seen.expect_status(200);
    assert_eq!(seen.text("/post/userId"), ada.id);
    assert_eq!(seen.text("/post/visibility"), "public");
}
