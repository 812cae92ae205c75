//! Stores that go back in time, emptied or restored from an older copy: noticed, never served as if current, and brought
//! together again by the commands that the messages name.

use std::process::Stdio;

use mongodb::bson::{Document, doc};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use serde_json::{Value, json};
use socialhub_domain::topic::Topic;
use socialhub_infra::kafka::KafkaSettings;
use socialhub_tests::support::{Client, Profile, Server, eventually, printed, servers};
use sqlx::{Connection, Executor, PgConnection};

use crate::{
    kafka::topic,
    replay::outage::{LOG, cut_off_from, run},
    seen::{metrics, sum},
};

/// A server of the distributed profile, and the names of its databases.
struct Site {
    server: Server,
    log: String,
    models: String,
}

impl Site {
    async fn start() -> Self {
        let mut environment = Profile::Distributed.environment().await;
        let (_, url) = environment
            .iter()
            .find(|(key, _)| key == "DATABASE_URL")
            .unwrap();
        let (base, log) = url.rsplit_once('/').unwrap();
        let (log, models) = (log.to_owned(), format!("{log}_models"));
        let models_url = format!("{base}/{models}");
        sql(&format!("CREATE DATABASE {models}")).await;
        environment.push(("READ_MODEL_URL".to_owned(), models_url));
        let server = Server::start_in(&["--rate-limits", "off"], environment).await;
        Self {
            server,
            log,
            models,
        }
    }

    async fn stop(&mut self) {
        assert!(self.server.stop().await, "{}", self.server.log());
    }

    async fn succeed(&self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        self.server.succeed(&words).await
    }

    async fn fail(&self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        self.server.fail(&words).await
    }

    /// Waits until relay and models are at the log's head and run.
    async fn settle(&self) {
        let settled = eventually("relay and models are at the head", async || {
            let status = self.server.status().await;
            let relay = status["relay"]["state"] == "leading" && status["relay"]["lagEvents"] == 0;
            let mut models = status["models"].as_array().unwrap().iter();
            let models = models.all(|model| {
                let current = current(model);
                current["activity"] == "running" && current["lagEvents"] == 0
            });
            (relay && models).then_some(status)
        });
        settled.await;
    }

    /// Every event of the log is on its topic once.
    async fn assert_topics_hold_the_log(&self) {
        let head = self.server.status().await["head"].as_u64().unwrap();
        let mut positions = self.published().await;
        positions.sort_unstable();
        assert_eq!(positions, (1..=head).collect::<Vec<_>>());
    }

    /// The positions of the records that are on the topics.
    async fn published(&self) -> Vec<u64> {
        let namespace = self.server.setting("NAMESPACE");
        let settings = KafkaSettings {
            topic_prefix: format!("{namespace}."),
            ..KafkaSettings::new(&servers::kafka_brokers())
        };
        let records = tokio::task::spawn_blocking(move || topic::read(&settings))
            .await
            .unwrap();
        records.values().flatten().map(|it| it.position).collect()
    }

    /// What `/readyz` says while it is not ready: each part's name and reason.
    async fn not_ready(&self, parts: &[&str]) -> String {
        let client = self.server.client();
        eventually("/readyz names what refuses", async || {
            let answer = client.try_get("/readyz").await?;
            let text = answer.json.to_string();
            let all = parts.iter().all(|part| text.contains(part));
            (answer.status == 503 && all).then_some(text)
        })
        .await
    }
}

pub(crate) fn current(model: &Value) -> &Value {
    let mut generations = model["generations"].as_array().unwrap().iter();
    let found = generations.find(|generation| generation["state"] == "current");
    found.unwrap_or(&Value::Null)
}

async fn sql(statement: &str) {
    let mut connection = PgConnection::connect(&servers::postgres_url())
        .await
        .unwrap();
    connection.execute(statement).await.unwrap();
    connection.close().await.unwrap();
}

/// Copies a database that nobody uses.
async fn copy(name: &str) {
    let leave = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname";
    sql(&format!("{leave} = '{name}'")).await;
    sql(&format!("CREATE DATABASE {name}_copy TEMPLATE {name}")).await;
}

/// Puts the copy in the database's place.
async fn restore(name: &str) {
    sql(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
    sql(&format!("ALTER DATABASE {name}_copy RENAME TO {name}")).await;
}

async fn write_posts(author: &Client, count: usize, words: &str) {
    for index in 0..count {
        let post = author
            .write_post(&format!("{words} {index}"), "public")
            .await;
        author
            .put(&format!("/posts/{post}/like"), Value::Null)
            .await
            .expect_status(200);
    }
}

/// How many posts a person's profile shows, and whether it says that it may be old.
async fn posts_of(client: &Client, id: &str) -> (u64, bool) {
    let answer = client
        .get_as_is(&format!("/users/profile/{id}"))
        .await
        .expect_status(200);
    let count = answer.at("/user/postsCount").as_u64().unwrap();
    (count, answer.is_stale())
}

async fn contents(client: &Client, id: &str) -> Vec<String> {
    let page = client
        .get(&format!("/posts/user/{id}?limit=100"))
        .await
        .expect_status(200);
    let content = |post: &Value| post["content"].as_str().unwrap().to_owned();
    page.list("/posts").iter().map(content).collect()
}

/// The keys of a site in Redis.
struct Keys {
    connection: redis::aio::MultiplexedConnection,
    pattern: String,
}

impl Keys {
    async fn of(site: &Site) -> Self {
        let client = redis::Client::open(site.server.setting("REDIS_URL")).unwrap();
        let namespace = site.server.setting("NAMESPACE");
        Self {
            connection: servers::patient_redis(&client).await.unwrap(),
            pattern: format!("socialhub:{namespace}:*"),
        }
    }

    async fn all(&self) -> Vec<String> {
        let mut keys = redis::cmd("KEYS");
        keys.arg(&self.pattern);
        // As many as are wanted are one connection.
        let mut connection = self.connection.clone();
        keys.query_async(&mut connection).await.unwrap()
    }

    async fn dump(&mut self) -> Vec<(String, Vec<u8>)> {
        let mut dump = Vec::new();
        for key in self.all().await {
            let mut ask = redis::cmd("DUMP");
            ask.arg(&key);
            let value: Option<Vec<u8>> = ask.query_async(&mut self.connection).await.unwrap();
            dump.extend(value.map(|value| (key, value)));
        }
        dump
    }

    /// Removes every key and puts those of a dump in their place, all at once.
    async fn become_as(&mut self, dump: &[(String, Vec<u8>)]) {
        let keys = self.all().await;
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        for key in keys {
            pipeline.cmd("DEL").arg(key);
        }
        for (key, value) in dump {
            pipeline.cmd("RESTORE").arg(key).arg(0).arg(value);
        }
        let _: redis::Value = pipeline.query_async(&mut self.connection).await.unwrap();
    }
}

#[tokio::test]
async fn an_emptied_redis_serves_no_zeros_and_is_filled_by_itself() {
    let mut site = Site::start().await;
    let me = site.server.client().sign_up("emptied").await;
    write_posts(&me, 4, "kept").await;
    site.settle().await;
    let mut keys = Keys::of(&site).await;
    for stopped in [false, true] {
        if stopped {
            site.stop().await;
            keys.become_as(&[]).await;
            site.server.restart().await;
        } else {
            keys.become_as(&[]).await;
        }
        eventually("the counters are in Redis again", async || {
            assert_eq!(posts_of(&me, &me.id).await.0, 4, "stopped: {stopped}");
            let held = keys.all().await;
            held.iter()
                .any(|key| key.ends_with(":people"))
                .then_some(())
        })
        .await;
        site.settle().await;
        assert_eq!(posts_of(&me, &me.id).await, (4, false));
        site.server.verify_all().await;
    }
}

#[tokio::test]
async fn an_old_dump_of_redis_is_not_served_as_if_it_were_current_and_catches_up() {
    let mut site = Site::start().await;
    let me = site.server.client().sign_up("dumped").await;
    write_posts(&me, 2, "before the dump").await;
    site.settle().await;
    let mut keys = Keys::of(&site).await;
    let dump = keys.dump().await;
    write_posts(&me, 3, "after the dump").await;
    site.settle().await;
    for stopped in [false, true] {
        if stopped {
            site.stop().await;
            keys.become_as(&dump).await;
            site.server.restart().await;
        } else {
            keys.become_as(&dump).await;
        }
        eventually("the counters have caught up", async || {
            let (count, stale) = posts_of(&me, &me.id).await;
            assert!(
                count == 5 || stale,
                "{count} as if current, stopped: {stopped}"
            );
            let status = site.server.status().await;
            let counters = status["models"].as_array().unwrap().iter();
            let mut counters = counters.filter(|model| model["model"] == "counters");
            let counters = current(counters.next().unwrap());
            (counters["lagEvents"] == 0).then_some(())
        })
        .await;
        site.settle().await;
        assert_eq!(posts_of(&me, &me.id).await, (5, false));
        site.server.verify_all().await;
    }
}

#[tokio::test]
async fn an_older_feed_catches_up() {
    let mut site = Site::start().await;
    let me = site.server.client().sign_up("olderfeed").await;
    // Has written nothing that is missing, so nothing is waited for.
    let reader = site.server.client().sign_up("olderfeedreader").await;
    write_posts(&me, 2, "before").await;
    site.settle().await;
    site.stop().await;
    copy(&site.models).await;
    site.server.restart().await;
    write_posts(&me, 3, "after").await;
    site.settle().await;
    site.stop().await;
    restore(&site.models).await;
    site.server.begin();
    eventually("the feed has caught up", async || {
        let profile = format!("/posts/user/{}?limit=100", me.id);
        for who in [&reader, &me] {
            let page = who.try_get(&profile).await;
            let page = page.filter(|page| page.status == 200)?;
            let stale = page.is_stale();
            let count = page.list("/posts").len();
            assert!(count == 5 || stale, "{count} as if current");
            (count == 5).then_some(())?;
        }
        Some(())
    })
    .await;
    site.settle().await;
    site.server.verify_all().await;
}

#[tokio::test]
async fn a_feed_whose_database_is_made_anew_beside_it_is_filled_again() {
    let site = Site::start().await;
    let me = site.server.client().sign_up("anewfeed").await;
    write_posts(&me, 4, "kept").await;
    site.settle().await;
    sql(&format!("DROP DATABASE {} WITH (FORCE)", site.models)).await;
    sql(&format!("CREATE DATABASE {}", site.models)).await;
    eventually("the feed is there again", async || {
        let path = format!("/posts/user/{}", me.id);
        let page = me.try_get(&path).await?;
        let count = match page.status {
            200 => page.list("/posts").len(),
            404 | 503 => 0,
            other => panic!("{other}: {}", page.json),
        };
        (count == 4).then_some(())
    })
    .await;
    site.settle().await;
    site.server.verify_all().await;
}

type Collections = Vec<(String, Vec<Document>)>;

async fn mongo(site: &Site) -> mongodb::Database {
    let url = site.server.setting("MONGODB_URL");
    let client = mongodb::Client::with_uri_str(url).await.unwrap();
    client.default_database().unwrap()
}

async fn documents(database: &mongodb::Database) -> Collections {
    use futures::TryStreamExt as _;
    let mut collections = Vec::new();
    for name in database.list_collection_names().await.unwrap() {
        let found = database.collection::<Document>(&name).find(doc! {}).await;
        let found = found.unwrap().try_collect().await.unwrap();
        collections.push((name, found));
    }
    collections
}

async fn put_back(database: &mongodb::Database, collections: &Collections) {
    for name in database.list_collection_names().await.unwrap() {
        let collection = database.collection::<Document>(&name);
        collection.delete_many(doc! {}).await.unwrap();
        let older = collections.iter().find(|(known, _)| *known == name);
        if let Some((_, documents)) = older.filter(|(_, documents)| !documents.is_empty()) {
            collection.insert_many(documents).await.unwrap();
        }
    }
}

#[tokio::test]
async fn older_notifications_catch_up() {
    let mut site = Site::start().await;
    let me = site.server.client().sign_up("oldermongo").await;
    // Writes nothing that is missing, so nothing is waited for.
    let reader = site.server.client().sign_up("oldermongoreader").await;
    let posts = [
        reader.write_post("one", "public").await,
        reader.write_post("two", "public").await,
    ];
    write_posts(&me, 2, "before").await;
    site.settle().await;
    site.stop().await;
    let database = mongo(&site).await;
    let older = documents(&database).await;
    site.server.restart().await;
    write_posts(&me, 3, "after").await;
    for post in posts {
        let like = me.put(&format!("/posts/{post}/like"), Value::Null).await;
        like.expect_status(200);
    }
    site.settle().await;
    site.stop().await;
    put_back(&database, &older).await;
    site.server.begin();
    eventually("the notifications have caught up", async || {
        for (who, all) in [(&reader, 4), (&me, 5)] {
            let page = who.try_get("/notify/notifications?limit=100").await;
            let page = page.filter(|page| page.status == 200)?;
            let stale = page.is_stale();
            let count = page.list("/notifications").len();
            assert!(count == all || stale, "{count} as if current");
            (count == all).then_some(())?;
        }
        Some(())
    })
    .await;
    site.settle().await;
    site.server.verify_all().await;
}

const WORKERS: [&str; 4] = [
    "\"relay\"",
    "\"projection feed\"",
    "\"projection notifications\"",
    "\"projection counters\"",
];

/// A log that was restored from an older copy, with a person who was there before; the server is stopped.
async fn older_log() -> (Site, Client) {
    let mut site = Site::start().await;
    let me = site.server.client().sign_up("olderlog").await;
    write_posts(&me, 2, "before").await;
    site.settle().await;
    site.stop().await;
    copy(&site.log).await;
    site.server.restart().await;
    write_posts(&me, 4, "lost").await;
    site.settle().await;
    site.stop().await;
    restore(&site.log).await;
    (site, me)
}

async fn assert_realigned(site: &Site, me: &Client) {
    site.settle().await;
    site.server.verify_all().await;
    write_posts(me, 3, "anew").await;
    site.settle().await;
    site.server.verify_all().await;
    site.assert_topics_hold_the_log().await;
    let contents = contents(me, &me.id).await;
    assert_eq!(contents.len(), 5, "{contents:?}");
    assert!(
        !contents.iter().any(|words| words.starts_with("lost")),
        "{contents:?}"
    );
    assert_eq!(posts_of(me, &me.id).await, (5, false));
}

#[tokio::test]
async fn an_older_log_is_refused_until_its_topics_and_models_are_realigned() {
    let (mut site, me) = older_log().await;
    site.server.begin();
    site.not_ready(&WORKERS).await;
    site.not_ready(&[
        "socialhub replay republish",
        "socialhub replay rebuild feed",
        "socialhub replay rebuild notifications",
        "socialhub replay rebuild counters",
    ])
    .await;
    // While it looks at the topics it leads for a moment, before it refuses.
    let status = eventually("the relay refuses", || async {
        let status = site.server.status().await;
        (status["relay"]["state"] != "leading").then_some(status)
    })
    .await;
    for model in status["models"].as_array().unwrap() {
        assert_eq!(current(model)["activity"], "aheadOfLog", "{status}");
    }
    site.stop().await;
    let unconfirmed = site.fail("replay republish").await;
    assert!(unconfirmed.contains("--yes"), "{unconfirmed}");
    let said = site.succeed("replay republish --yes").await;
    assert!(said.contains("were removed"), "{said}");
    for model in ["feed", "notifications", "counters"] {
        site.succeed(&format!("replay rebuild {model}")).await;
    }
    site.server.restart().await;
    assert_realigned(&site, &me).await;
}

#[tokio::test]
async fn models_that_are_rebuilt_before_the_topics_are_realigned_take_nothing_lost_from_them() {
    let (mut site, me) = older_log().await;
    site.server.begin();
    site.not_ready(&WORKERS).await;
    site.succeed("replay rebuild --all").await;
    // A relay that refuses does not keep others from the lease.
    site.succeed("replay republish --yes").await;
    eventually("it is ready", async || {
        let answer = site.server.client().try_get("/readyz").await?;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_realigned(&site, &me).await;
}

#[tokio::test]
async fn topics_that_lost_their_records_are_noticed_and_filled_again() {
    let mut site = Site::start().await;
    let me = site.server.client().sign_up("losttopics").await;
    write_posts(&me, 4, "published").await;
    site.settle().await;
    let refused = site.fail("replay republish --yes").await;
    assert!(refused.contains("stop it first"), "{refused}");
    site.stop().await;
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", servers::kafka_brokers())
        .create()
        .unwrap();
    let namespace = site.server.setting("NAMESPACE");
    let names = Topic::ALL.map(|topic| format!("{namespace}.{}", topic.name()));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let deleted = admin.delete_topics(&names, &AdminOptions::new()).await;
    assert!(deleted.unwrap().iter().all(Result::is_ok));
    site.server.begin();
    site.not_ready(&["\"relay\"", "socialhub replay republish"])
        .await;
    site.stop().await;
    republish_and_go_on(&mut site, &me).await;
    assert_eq!(contents(&me, &me.id).await.len(), 6);
}

/// Publishes everything anew, and goes on.
async fn republish_and_go_on(site: &mut Site, me: &Client) {
    site.succeed("replay republish --yes").await;
    site.server.restart().await;
    site.settle().await;
    write_posts(me, 2, "published later").await;
    site.settle().await;
    site.server.verify_all().await;
    site.assert_topics_hold_the_log().await;
}

/// Kills a rewinding between its two steps: the topics are empty, the relay's position is where it was.
async fn kill_between_topics_and_position(site: &Site, republish: &[&str]) {
    let mut log = PgConnection::connect(site.server.setting(LOG))
        .await
        .unwrap();
    // Whoever moves the position waits.
    let hold = "BEGIN; LOCK TABLE relay_state IN SHARE MODE";
    log.execute(hold).await.unwrap();
    let mut command = site.server.prepare_command(republish);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut rewinding = command.spawn().unwrap();
    eventually("the topics are empty", async || {
        site.published().await.is_empty().then_some(())
    })
    .await;
    rewinding.kill().unwrap();
    rewinding.wait().unwrap();
    // Its session knows nothing of that yet.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock'";
    log.execute(end).await.unwrap();
    log.execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn a_rewinding_that_is_killed_or_cut_off_is_made_good_by_the_next_one() {
    let mut site = Site::start().await;
    let me = site.server.client().sign_up("halfway").await;
    write_posts(&me, 6, "published").await;
    site.settle().await;
    site.stop().await;
    let republish = ["replay", "republish", "--yes"];
    kill_between_topics_and_position(&site, &republish).await;
    // For who goes on from there nothing is lost: it is as if the records had become too old.
    site.server.restart().await;
    write_posts(&me, 1, "published in between").await;
    site.settle().await;
    site.server.verify_all().await;
    site.stop().await;
    let told = site.succeed("replay republish --yes --json").await;
    let told: Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    assert_eq!((&told["from"], &told["emptied"]), (&json!(0), &json!(true)));

    let (alone, whole) = run(&site.server, LOG, &republish, u64::MAX).await;
    assert!(alone.status.success(), "{}", printed(&alone));
    // Past the connection, and before the end: how much is said varies a little.
    cut_off_from(&site.server, LOG, &republish, whole * 4 / 5).await;
    republish_and_go_on(&mut site, &me).await;
}

#[tokio::test]
async fn topics_that_are_divided_anew_are_refused_until_the_models_are_rebuilt() {
    let mut site = Site::start().await;
    let me = site.server.client().sign_up("divided").await;
    write_posts(&me, 12, "before").await;
    site.settle().await;
    let before: usize = site.server.setting("KAFKA_PARTITIONS").parse().unwrap();
    let prefix = format!("{}.", site.server.setting("NAMESPACE"));
    topic::divide(&servers::kafka_brokers(), &prefix, before * 2 + 1).await;
    // Not under a projector at work.
    let refused = site.fail("replay republish --yes").await;
    assert!(
        refused.contains("a relay is leading") || refused.contains("stop all projectors first"),
        "{refused}"
    );
    site.stop().await;
    site.server.begin();
    site.not_ready(&["partitions but had"]).await;
    eventually("the relay's last report says why", async || {
        let status = site.server.status().await;
        let why = status["relay"]["lastError"]["error"].as_str()?;
        why.contains("partitions but had").then_some(())
    })
    .await;
    eventually(
        "the metrics say that it fails, and since when",
        async || {
            let figures = metrics(&site.server).await;
            let of_relay = |name| sum(&figures, name, &["part=\"relay\""]);
            let when = of_relay("socialhub_part_last_error_timestamp_seconds");
            (of_relay("socialhub_part_failing") > 0.0 && when > 0.0).then_some(())
        },
    )
    .await;
    let refused = site.fail("replay republish --yes").await;
    assert!(refused.contains("stop all projectors first"), "{refused}");
    site.stop().await;
    let said = site.succeed("replay republish --yes").await;
    assert!(
        said.contains("were removed") && said.contains("other numbers of partitions"),
        "{said}"
    );

    // Who starts too soon changes nothing.
    site.server.begin();
    let models = ["feed", "notifications", "counters"];
    let rebuilds = models.map(|model| format!("socialhub replay rebuild {model}"));
    site.not_ready(&rebuilds.each_ref().map(String::as_str))
        .await;
    site.stop().await;
    site.succeed("replay rebuild --all").await;
    site.server.restart().await;
    site.settle().await;
    write_posts(&me, 12, "after").await;
    site.settle().await;
    site.server.verify_all().await;
    assert_eq!(posts_of(&me, &me.id).await, (24, false));
    for model in models {
        let refused = site.fail(&format!("replay rollback {model}")).await;
        assert!(
            refused.contains("partitions when this was written"),
            "{refused}"
        );
    }
    site.settle().await;
    site.server.verify_all().await;
}

#[tokio::test]
async fn a_worker_that_hangs_or_is_dead_does_not_look_healthy() {
    let mut site = Site::start().await;
    let me = site.server.client().sign_up("hanging").await;
    write_posts(&me, 1, "first").await;
    site.settle().await;
    let listed = site.succeed("replay status --sources").await;
    assert!(
        listed.contains("POST_TOPIC-") && listed.contains("leading"),
        "{listed}"
    );
    signal(site.server.pid(), "-STOP");
    eventually("the relay is seen to hang", async || {
        let status = site.server.status().await;
        let silent = status["processes"][0]["state"] == "silent";
        // Nothing is left to be done, so only its silence tells.
        let mut models = status["models"].as_array().unwrap().iter();
        let hang = models.all(|model| current(model)["activity"] != "running");
        (status["relay"]["state"] == "notRenewed" && silent && hang).then_some(())
    })
    .await;
    signal(site.server.pid(), "-CONT");
    site.settle().await;
    eventually("it is heard of again", async || {
        let status = site.server.status().await;
        (status["processes"][0]["state"] == "ready").then_some(())
    })
    .await;
    site.server.kill();
    eventually("nothing is said to run", async || {
        let status = site.server.status().await;
        let mut models = status["models"].as_array().unwrap().iter();
        let dead = models.all(|model| current(model)["activity"] == "notRunning");
        let silent = status["processes"][0]["state"] == "silent";
        (dead && silent && status["relay"]["state"] == "notRenewed").then_some(())
    })
    .await;
}

pub(crate) fn signal(pid: u32, signal: &str) {
    let sent = std::process::Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(sent.unwrap().success());
}
