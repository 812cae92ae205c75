//! `socialhub replay`, on a stopped server's folder and beside a running one.

mod away;
pub(crate) mod damage;
mod damaged;
mod full_stores;
mod killed_on_files;
mod kills;
pub(crate) mod letters;
mod on_terminal;
pub(crate) mod outage;
mod parked_erasures;
mod past;
mod rebuilds;
mod repair;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use socialhub_tests::support::{Client, Profile, Server, eventually, printed, servers};
use sqlx::{Connection, Executor, PgConnection};

use crate::realign::{current, signal};

pub(crate) const MODELS: [&str; 3] = ["feed", "notifications", "counters"];

#[tokio::test]
async fn a_rebuild_while_commands_keep_arriving_ends_equal() {
    let server = Server::start().await;
    let (me, fan) = (
        server.client().sign_up("busy").await,
        server.client().sign_up("busyfan").await,
    );
    fan.post(
        &format!("/users/follow/{}", me.id),
        json!({ "notify": true }),
    )
    .await
    .expect_status(200);
    for index in 0..30 {
        me.write_post(&format!("before {index}"), "public").await;
    }
    server.caught_up().await;
    let writer = me.clone();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let busy = tokio::spawn(async move {
        let mut written = 30;
        while stopped.try_recv().is_err() {
            let post = writer
                .write_post(&format!("during {written}"), "public")
                .await;
            writer
                .put(&format!("/posts/{post}/like"), Value::Null)
                .await
                .expect_status(200);
            written += 1;
        }
        written
    });
    let (leave, left) = tokio::sync::oneshot::channel::<()>();
    let reading = tokio::spawn(read_on(me.clone(), fan.clone(), left));
    for _ in 0..2 {
        server.succeed(&["replay", "rebuild", "--all"]).await;
    }
    // It has ended by itself if it saw something wrong.
    let _ = leave.send(());
    let looks = reading.await.unwrap();
    assert!(looks > 2, "nobody looked");
    stop.send(()).unwrap();
    let written = busy.await.unwrap();
    let profile = me
        .get(&format!("/users/profile/{}", me.id))
        .await
        .expect_status(200);
    assert_eq!(profile.at("/user/postsCount"), written);
    let last = me.write_post("after", "public").await;
    let seen = me.get(&format!("/posts/{last}")).await.expect_status(200);
    let feed = fan.get_after("/api/feed/", seen.header("x-position")).await;
    assert_eq!(feed.text("/posts/0/content"), "after");
    server.verify_all().await;
}

/// The number at the end of a post's words: who is busy counts.
fn number_of(content: &str) -> u64 {
    content.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Looks at every model while they are rebuilt: nobody sees a part of one. Answers how often it looked at all.
async fn read_on(
    author: Client,
    fan: Client,
    mut left: tokio::sync::oneshot::Receiver<()>,
) -> usize {
    let profile = format!("/users/profile/{}", author.id);
    let (mut posts, mut seen_posts, mut looks) = (30, BTreeSet::new(), 0);
    while left.try_recv().is_err() {
        let seen = author.get_as_is(&profile).await.expect_status(200);
        let count = seen.at("/user/postsCount").as_u64().unwrap();
        assert!(count >= posts, "{count} posts, and {posts} before");
        posts = count;
        let feed = fan
            .get_as_is("/api/feed/?limit=20")
            .await
            .expect_status(200);
        let numbers: Vec<u64> = feed
            .list("/posts")
            .iter()
            .map(|post| number_of(post["content"].as_str().unwrap()))
            .collect();
        assert_eq!(numbers.len(), 20);
        // Of several partitions a later post may be there before an earlier one; but what was seen stays.
        let lost = seen_posts.range(numbers[19]..);
        let lost: Vec<_> = lost.filter(|seen| !numbers.contains(seen)).collect();
        assert!(lost.is_empty(), "{lost:?} not in {numbers:?}");
        seen_posts.extend(&numbers);
        assert!(numbers.is_sorted_by(|one, next| one > next), "{numbers:?}");
        // On MongoDB a batch may land behind a fence, and come a moment later; and the server may be busy.
        let listed = fan.get_as_is("/notify/notifications?limit=1").await;
        if listed.status == 200 {
            let unread = listed.at("/unreadCount").as_u64().unwrap();
            assert!(unread >= 30, "{unread} notifications, and 30 before it all");
        } else {
            assert_eq!(listed.status, 503);
        }
        looks += 1;
    }
    looks
}

#[tokio::test]
async fn a_stopped_servers_folder_can_be_rebuilt_verified_and_read() {
    let mut server = Server::start().await;
    let me = server.client().sign_up("stopped").await;
    let post = me.write_post("kept", "public").await;
    assert!(server.stop().await, "{}", server.log());
    for model in MODELS {
        server.succeed(&["replay", "rebuild", model]).await;
        server.succeed(&["replay", "verify", model]).await;
    }
    let status = server.status().await;
    assert!(status.to_string().contains("\"feed\""), "{status}");
    let stream = server
        .succeed(&["replay", "inspect", &format!("post/{post}")])
        .await;
    assert!(
        stream.contains("post.created") && stream.contains("kept"),
        "{stream}"
    );
    let tail = server.succeed(&["replay", "tail"]).await;
    assert!(
        tail.contains("user.registered") && tail.contains("post.created"),
        "{tail}"
    );
    server.restart().await;
    me.get(&format!("/posts/{post}")).await.expect_status(200);
    server.verify_all().await;
}

/// The distributed profile's is among those whose stores go back in time.
#[tokio::test]
async fn a_program_that_hangs_or_is_dead_does_not_look_healthy() {
    let mut server = Server::start_in(&[], Profile::Embedded.environment().await).await;
    let me = server.client().sign_up("hanging").await;
    me.write_post("seen", "public").await;
    server.caught_up().await;
    let all = async |server: &Server, wanted: &str| {
        let status = server.status().await;
        let models = status["models"].as_array().unwrap();
        assert_eq!(models.len(), MODELS.len());
        let mut each = models.iter();
        each.all(|model| current(model)["activity"] == wanted)
            .then_some(())
    };
    eventually("all run", async || all(&server, "running").await).await;
    signal(server.pid(), "-STOP");
    // Nothing is left to be done, so only its silence tells.
    eventually("it is seen to hang", async || all(&server, "silent").await).await;
    let told = server.succeed(&["replay", "status"]).await;
    assert!(told.contains("it hangs, or was killed"), "{told}");
    signal(server.pid(), "-CONT");
    eventually("it is heard of again", async || {
        all(&server, "running").await
    })
    .await;
    server.kill();
    eventually("nothing is said to run", async || {
        all(&server, "notRunning").await
    })
    .await;
}

/// Changes a row of a read model behind the program's back.
async fn damage(server: &Server, model: &str) {
    match (Profile::chosen(), model) {
        (Profile::Embedded, "feed") => {
            damage_file(server, model, "UPDATE posts SET content = 'false words'");
        }
        (Profile::Embedded, "notifications") => {
            damage_file(server, model, "DELETE FROM notification");
        }
        (Profile::Embedded, _) => {
            damage_file(server, model, "UPDATE post_counter SET likes = likes + 1");
        }
        (Profile::Distributed, "feed") => damage_postgres(server).await,
        (Profile::Distributed, "notifications") => damage_mongodb(server).await,
        (Profile::Distributed, _) => damage_redis(server).await,
    }
}

fn damage_file(server: &Server, model: &str, statement: &str) {
    let folder = server.data_dir().join("read-models");
    let file = std::fs::read_dir(&folder)
        .unwrap()
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with(&format!("{model}."))
                && name.ends_with(".db")
                && name.matches('.').count() == 2
        });
    let connection = rusqlite::Connection::open(file.unwrap()).unwrap();
    assert!(
        connection.execute(statement, []).unwrap() > 0,
        "{statement} touched nothing"
    );
}

async fn damage_postgres(server: &Server) {
    let url = server.setting("DATABASE_URL");
    let mut connection = PgConnection::connect(url).await.unwrap();
    let found = "SELECT id FROM read_models.generations WHERE model = 'feed' AND state = 'current'";
    let id: i32 = sqlx::query_scalar(found)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let statement = format!("UPDATE feed_{id}.posts SET content = 'false words'");
    let done = connection.execute(statement.as_str()).await.unwrap();
    assert!(done.rows_affected() > 0);
}

async fn damage_mongodb(server: &Server) {
    let url = server.setting("MONGODB_URL");
    let client = mongodb::Client::with_uri_str(url).await.unwrap();
    let database = client.default_database().unwrap();
    let mut removed = 0;
    for name in database.list_collection_names().await.unwrap() {
        if name.starts_with("notifications_") {
            let collection = database.collection::<mongodb::bson::Document>(&name);
            let every = mongodb::bson::doc! {};
            removed += collection.delete_many(every).await.unwrap().deleted_count;
        }
    }
    assert!(removed > 0);
}

async fn damage_redis(server: &Server) {
    let client = redis::Client::open(server.setting("REDIS_URL")).unwrap();
    let mut connection = servers::patient_redis(&client).await.unwrap();
    let keys = format!(
        "socialhub:{}:counters:*:trending",
        server.setting("NAMESPACE")
    );
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg(keys)
        .query_async(&mut connection)
        .await
        .unwrap();
    for key in &keys {
        let _: () = redis::cmd("ZREMRANGEBYRANK")
            .arg((key, 0, -1))
            .query_async(&mut connection)
            .await
            .unwrap();
    }
    assert!(!keys.is_empty());
}

#[tokio::test]
async fn verify_finds_what_was_changed_by_hand_and_a_rebuild_mends_it() {
    let mut server = Server::start().await;
    let me = server.client().sign_up("damaged").await;
    let post = me.write_post("true words", "public").await;
    me.put(&format!("/posts/{post}/like"), Value::Null)
        .await
        .expect_status(200);
    repair::seen(&me).await;
    assert!(server.stop().await);
    server.verify_all().await;
    for model in ["feed", "notifications", "counters"] {
        damage(&server, model).await;
        let output = server.command(&["replay", "verify", model]).await;
        assert!(!output.status.success(), "{model}: {}", printed(&output));
        assert!(
            printed(&output).contains(&post[..8]) || model == "notifications",
            "{}",
            printed(&output)
        );
        server.succeed(&["replay", "rebuild", model]).await;
        server.succeed(&["replay", "verify", model]).await;
    }
}

#[tokio::test]
async fn nonsense_is_refused_with_a_message_and_a_code() {
    let mut server = Server::start().await;
    assert!(server.stop().await);
    for arguments in [
        &["replay", "rebuild", "nosuchmodel"][..],
        &["replay", "verify", "nosuchmodel"],
        &["replay", "inspect", "nonsense"],
        &[
            "replay",
            "inspect",
            "post/0190b5f0-0000-7000-8000-000000000000",
        ],
        &["replay", "rebuild"],
        &["replay", "repair", "nosuchmodel"],
        &["replay", "repair"],
        &["replay", "dead-letters", "show", "feed", "1"],
        &["replay", "dead-letters", "retry", "feed", "--position", "1"],
        &["replay", "dead-letters", "discard", "feed", "1", "--yes"],
        &["replay", "as-of", "--all", "--at", "99", "--into", "past"],
        &["replay", "as-of", "--all", "--at", "0", "--into", "past"],
        &[
            "replay",
            "as-of",
            "nosuchmodel",
            "--at",
            "1",
            "--into",
            "past",
        ],
        &[
            "replay", "as-of", "feed", "--at", "1", "--into", "past", "--serve", "80",
        ],
        &["replay", "nosuchcommand"],
    ] {
        let output = server.command(arguments).await;
        assert!(
            !output.status.success() && !output.stderr.is_empty(),
            "{arguments:?}: {}",
            printed(&output)
        );
        assert!(
            !printed(&output).contains("panicked"),
            "{}",
            printed(&output)
        );
    }
}
