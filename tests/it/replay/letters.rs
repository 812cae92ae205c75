//! `replay dead-letters`: an event that a store rejects, and what waits behind it.

use serde_json::{Value, json};
use socialhub_tests::support::{Profile, Server, eventually};
use sqlx::{Connection, Executor, PgConnection};

use super::{damage::lines, repair::seen};

/// Lets the feed's store reject likes, or take them again.
async fn reject_likes(server: &Server, reject: bool) {
    reject_rows(server, "likes", reject).await;
}

/// Lets the feed's store reject new rows of a table, or take them again.
pub async fn reject_rows(server: &Server, table: &str, reject: bool) {
    if Profile::chosen() == Profile::Embedded {
        let file = server.data_dir().join("read-models/feed.1.db");
        let feed = rusqlite::Connection::open(file).unwrap();
        feed.busy_timeout(std::time::Duration::from_secs(10))
            .unwrap();
        let statement = if reject {
            format!(
                "CREATE TRIGGER rejected BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'not now'); END"
            )
        } else {
            "DROP TRIGGER rejected".to_owned()
        };
        return feed.execute_batch(&statement).unwrap();
    }
    let mut feed = PgConnection::connect(server.setting("DATABASE_URL"))
        .await
        .unwrap();
    let statement = if reject {
        format!(
            "SET search_path TO feed_1;
             CREATE FUNCTION rejected() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '23514'; END $$;
             CREATE TRIGGER rejected BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION rejected()"
        )
    } else {
        format!("DROP TRIGGER rejected ON feed_1.{table}")
    };
    feed.execute(statement.as_str()).await.unwrap();
}

struct World {
    server: Server,
    /// The event of a like.
    like: u64,
    /// The events after it in its sequence.
    behind: [u64; 2],
}

impl World {
    async fn new() -> Self {
        let mut server = Server::start().await;
        let me = server.client().sign_up("letters").await;
        let post = me.write_post("post", "public").await;
        seen(&me).await;
        reject_likes(&server, true).await;
        let at = format!("/posts/{post}");
        me.put(&format!("{at}/like"), Value::Null)
            .await
            .expect_status(200);
        let comment = format!("{at}/comment");
        for text in ["one", "two"] {
            me.post(&comment, json!({ "comment": text }))
                .await
                .expect_status(201);
        }
        seen(&me).await;
        assert!(server.stop().await, "{}", server.log());
        let tail = lines(&server.succeed(&["replay", "tail", "--json"]).await);
        let of = |kind: &str| -> Vec<&Value> {
            tail.iter()
                .filter(|event| event["eventType"] == kind)
                .collect()
        };
        let position = |event: &Value| event["position"].as_u64().unwrap();
        let like = of("post.liked")[0];
        let comments = of("post.commented");
        Self {
            like: position(like),
            behind: [position(comments[0]), position(comments[1])],
            server,
        }
    }

    async fn parked(&self) -> Vec<u64> {
        parked(&self.server, "feed").await
    }
}

/// The positions of a model's dead letters.
pub async fn parked(server: &Server, model: &str) -> Vec<u64> {
    let listed = ["replay", "dead-letters", "list", model, "--json"];
    let letters = lines(&server.succeed(&listed).await);
    letters
        .iter()
        .map(|letter| letter["position"].as_u64().unwrap())
        .collect()
}

#[tokio::test]
async fn a_parked_event_is_shown_with_what_waits_and_retried_in_order() {
    let world = World::new().await;
    let (server, like, [first, second]) = (&world.server, world.like, world.behind);
    assert_eq!(world.parked().await, [like, first, second]);
    let position = like.to_string();
    let show = ["replay", "dead-letters", "show", "feed", &position];
    let shown = server.succeed(&show).await;
    for part in [
        "post.liked",
        "tried once",
        "its sequence is POST_TOPIC",
        &format!("behind it wait positions {first}, {second}"),
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let shown = server
        .succeed(&[&show[..4], &[&first.to_string(), "--json"]].concat())
        .await;
    let shown = &lines(&shown)[0];
    assert_eq!(
        (&shown["behind"], &shown["waiting"]),
        (&json!(like), &json!([second]))
    );
    assert_eq!(shown["attempts"], 0);

    let retry = ["replay", "dead-letters", "retry", "feed"];
    let failed = server.fail(&retry).await;
    assert!(
        failed.contains(&format!("position {first} stays behind")),
        "{failed}"
    );
    reject_likes(server, false).await;
    let waiting = first.to_string();
    let single = [&retry[..], &["--position", &waiting]].concat();
    assert!(
        server
            .fail(&single)
            .await
            .contains("stays behind an earlier one")
    );
    let as_json = lines(&server.fail(&[&single[..], &["--json"]].concat()).await);
    assert_eq!(
        as_json,
        [json!({ "model": "feed", "position": first, "outcome": "behind", "error": null })]
    );
    let said = server.succeed(&retry).await;
    let places: Vec<usize> = [like, first, second]
        .iter()
        .map(|position| {
            said.find(&format!("position {position} was applied"))
                .unwrap()
        })
        .collect();
    assert!(places.is_sorted(), "{said}");
    assert_eq!(world.parked().await, Vec::<u64>::new());
    server.verify_all().await;
}

#[tokio::test]
async fn a_discarded_event_lets_go_of_what_waits_and_a_repair_brings_it_back() {
    let world = World::new().await;
    let (server, like, [first, second]) = (&world.server, world.like, world.behind);
    let position = like.to_string();
    let discard = ["replay", "dead-letters", "discard", "feed", &position];
    assert!(server.fail(&discard).await.contains("--yes"));
    // Behind another it only goes away itself.
    let later = second.to_string();
    let said = server
        .succeed(&["replay", "dead-letters", "discard", "feed", &later, "--yes"])
        .await;
    assert!(!said.contains("applied"), "{said}");
    let told = lines(
        &server
            .succeed(&[&discard[..], &["--yes", "--json"]].concat())
            .await,
    );
    let outcomes: Vec<_> = told
        .iter()
        .map(|line| (&line["position"], &line["outcome"]))
        .collect();
    assert_eq!(
        outcomes,
        [
            (&json!(like), &json!("discarded")),
            (&json!(first), &json!("applied"))
        ]
    );
    assert_eq!(world.parked().await, Vec::<u64>::new());
    reject_likes(server, false).await;
    let verify = server.fail(&["replay", "verify", "feed"]).await;
    assert!(
        verify.contains(&format!("event at position {like}")),
        "{verify}"
    );
    assert!(
        verify.contains(&format!("event at position {second}")),
        "{verify}"
    );
    server.succeed(&["replay", "repair", "feed"]).await;
    server.verify_all().await;
}

/// What makes an event unreadable: the column of its row, what stands there, and what is put in its place.
type Spoil<'s> = [&'s str; 3];
pub const SHAPE: Spoil<'static> = ["payload", "\"timestamp\":", "\"timestamp\":-0.5,\"was\":"];
/// A sealed field that does not open.
const SEAL: Spoil<'static> = ["payload", "{\"sealed\":\"", "{\"sealed\":\"AAAA"];
/// What says who and when.
const METADATA: Spoil<'static> = ["metadata", "\"occurredAt\":", "\"once\":"];

/// Makes an event of the log unreadable, or readable again, by hand.
async fn spoil(server: &Server, position: u64, how: Spoil<'_>, spoilt: bool) {
    if Profile::chosen() == Profile::Embedded {
        let [column, from, to] = replaced(how, spoilt);
        let log = rusqlite::Connection::open(server.data_dir().join("events.db")).unwrap();
        let sql =
            format!("UPDATE events SET {column} = replace({column}, ?1, ?2) WHERE position = ?3");
        let position = i64::try_from(position).unwrap();
        log.execute(&sql, rusqlite::params![from, to, position])
            .unwrap();
        return;
    }
    spoil_in_postgres(server, position, how, spoilt).await;
}

/// The column, what stands in it, and what is to stand there.
fn replaced([column, good, bad]: Spoil<'_>, spoilt: bool) -> Spoil<'_> {
    if spoilt {
        [column, good, bad]
    } else {
        [column, bad, good]
    }
}

/// The same in a log on Postgres, whatever the profile of the tests.
pub async fn spoil_in_postgres(server: &Server, position: u64, how: Spoil<'_>, spoilt: bool) {
    let [column, from, to] = replaced(how, spoilt);
    let mut log = PgConnection::connect(server.setting("DATABASE_URL"))
        .await
        .unwrap();
    let sql = format!(
        "UPDATE events SET {column} = replace({column}::text, $1, $2)::json WHERE position = $3"
    );
    let updated = sqlx::query(&sql)
        .bind(from)
        .bind(to)
        .bind(i64::try_from(position).unwrap());
    updated.execute(&mut log).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_read_holds_up_the_later_events_of_its_sequence() {
    let world = World::new().await;
    let (server, like, [first, second]) = (&world.server, world.like, world.behind);
    reject_likes(server, false).await;
    spoil(server, like, SHAPE, true).await;
    // The like is an event of its liker's own stream; the comments after it are of the same post.
    server.succeed(&["replay", "rebuild", "feed"]).await;
    assert_eq!(world.parked().await, [like, first, second]);
    let position = like.to_string();
    let show = ["replay", "dead-letters", "show", "feed", &position];
    let shown = server.succeed(&show).await;
    assert!(shown.contains("its sequence is POST_TOPIC"), "{shown}");
    spoil(server, like, SHAPE, false).await;
    server
        .succeed(&["replay", "dead-letters", "retry", "feed"])
        .await;
    assert_eq!(world.parked().await, Vec::<u64>::new());
    server.verify_all().await;
}

/// Lets the server begin with read models that have seen nothing, and the relay with topics.
pub async fn restart_from_nothing(server: &mut Server) {
    if Profile::chosen() == Profile::Embedded {
        std::fs::remove_dir_all(server.data_dir().join("read-models")).unwrap();
    } else {
        server.succeed(&["replay", "republish", "--yes"]).await;
        server.succeed(&["replay", "rebuild", "--all"]).await;
    }
    server.restart().await;
}

#[tokio::test]
async fn a_sealed_field_that_does_not_open_holds_up_nothing_else() {
    let mut server = Server::start().await;
    let (me, fan) = (
        server.client().sign_up("sealed").await,
        server.client().sign_up("sealedfan").await,
    );
    let [post, other] = [
        me.write_post("one", "public").await,
        me.write_post("two", "public").await,
    ];
    let like = format!("/posts/{post}/like");
    fan.put(&like, Value::Null).await.expect_status(200);
    assert!(server.stop().await, "{}", server.log());
    let tail = lines(&server.succeed(&["replay", "tail", "--json"]).await);
    let liked = tail.iter().find(|event| event["eventType"] == "post.liked");
    let position = liked.unwrap()["position"].as_u64().unwrap();
    spoil(&server, position, SEAL, true).await;
    restart_from_nothing(&mut server).await;

    // All others go on, and who needs the event is told that it is not their fault.
    fan.put(&format!("/posts/{other}/like"), Value::Null)
        .await
        .expect_status(200);
    fan.put(&like, Value::Null).await.expect_status(500);
    // The answer may be here before what the process has printed.
    eventually("the log says why", async || {
        let said = server.log().contains("`likerUsername` does not open");
        said.then_some(())
    })
    .await;
    server.caught_up().await;
    let read = me.get(&format!("/posts/{other}")).await.expect_status(200);
    assert_eq!(read.at("/post/likeCount"), 1);
    for model in ["feed", "notifications", "counters"] {
        assert_eq!(parked(&server, model).await, [position], "{model}");
    }
    server.verify_all().await;
    let place = position.to_string();
    let show = ["replay", "dead-letters", "show", "feed", &place];
    let shown = server.succeed(&show).await;
    assert!(shown.contains("`likerUsername` does not open"), "{shown}");
    let tail = server.succeed(&["replay", "tail", "--after", "0"]).await;
    assert!(tail.contains("\"sealed\":\"AAAA"), "{tail}");

    assert!(server.stop().await, "{}", server.log());
    server.succeed(&["replay", "rebuild", "--all"]).await;
    server.verify_all().await;
    let past = server.data_dir().join("past");
    let past = past.to_str().unwrap();
    server
        .succeed(&["replay", "as-of", "--all", "--at", &place, "--into", past])
        .await;
    spoil(&server, position, SEAL, false).await;
    for model in ["feed", "notifications", "counters"] {
        let retry = ["replay", "dead-letters", "retry", model];
        server.succeed(&retry).await;
        assert_eq!(parked(&server, model).await, Vec::<u64>::new(), "{model}");
    }
    server.verify_all().await;
    server.restart().await;
    fan.put(&like, Value::Null).await.expect_status(200);
    let read = me.get(&format!("/posts/{post}")).await.expect_status(200);
    assert_eq!(read.at("/post/likeCount"), 1);
}

#[tokio::test]
async fn damaged_metadata_hold_up_nothing_but_their_own_sequence() {
    let mut server = Server::start().await;
    let (me, fan) = (
        server.client().sign_up("marked").await,
        server.client().sign_up("markedfan").await,
    );
    let [post, other] = [
        me.write_post("one", "public").await,
        me.write_post("two", "public").await,
    ];
    let like = format!("/posts/{post}/like");
    fan.put(&like, Value::Null).await.expect_status(200);
    fan.post(
        &format!("/posts/{post}/comment"),
        json!({ "comment": "behind it" }),
    )
    .await
    .expect_status(201);
    assert!(server.stop().await, "{}", server.log());
    let tail = lines(&server.succeed(&["replay", "tail", "--json"]).await);
    let position = |kind: &str| {
        let found = tail.iter().find(|event| event["eventType"] == kind);
        found.unwrap()["position"].as_u64().unwrap()
    };
    let (liked, commented) = (position("post.liked"), position("post.commented"));
    spoil(&server, liked, METADATA, true).await;
    restart_from_nothing(&mut server).await;

    // All others go on: relay, projectors, and whoever reads the log.
    fan.put(&format!("/posts/{other}/like"), Value::Null)
        .await
        .expect_status(200);
    fan.put(&like, Value::Null).await.expect_status(500);
    eventually("the log says why", async || {
        let said = server.log().contains("its metadata are damaged");
        said.then_some(())
    })
    .await;
    server.caught_up().await;
    let read = me.get(&format!("/posts/{other}")).await.expect_status(200);
    assert_eq!(read.at("/post/likeCount"), 1);
    for model in ["feed", "notifications", "counters"] {
        assert_eq!(parked(&server, model).await, [liked, commented], "{model}");
    }
    server.verify_all().await;
    let place = liked.to_string();
    let show = ["replay", "dead-letters", "show", "feed", &place];
    let shown = server.succeed(&show).await;
    assert!(shown.contains("its metadata are damaged"), "{shown}");
    let tail = lines(&server.succeed(&["replay", "tail", "--json"]).await);
    assert!(tail.iter().any(|event| event["position"] == liked));

    assert!(server.stop().await, "{}", server.log());
    server.succeed(&["replay", "rebuild", "--all"]).await;
    server.verify_all().await;
    spoil(&server, liked, METADATA, false).await;
    for model in ["feed", "notifications", "counters"] {
        let retry = ["replay", "dead-letters", "retry", model];
        server.succeed(&retry).await;
        assert_eq!(parked(&server, model).await, Vec::<u64>::new(), "{model}");
    }
    server.verify_all().await;
}

#[tokio::test]
async fn a_model_that_fails_keeps_no_other_from_being_listed_or_pruned() {
    if Profile::chosen() != Profile::Embedded {
        return;
    }
    let world = World::new().await;
    let (server, like) = (&world.server, world.like);
    reject_likes(server, false).await;
    spoil(server, like, SEAL, true).await;
    server.succeed(&["replay", "rebuild", "--all"]).await;
    let read_models = server.data_dir().join("read-models");
    let prune = ["replay", "prune", "--all", "--yes"];
    let held = std::fs::File::open(read_models.join("feed.lock")).unwrap();
    held.lock().unwrap();
    let said = server.fail(&prune).await;
    assert!(said.contains("feed: cannot be pruned"), "{said}");
    for model in ["notifications", "counters"] {
        let pruned = format!("{model}: generation 1 was removed");
        assert!(said.contains(&pruned), "{said}");
    }
    drop(held);
    let break_file = |name: &str| {
        let file = read_models.join(name);
        assert!(file.exists());
        std::fs::write(file, "no database").unwrap();
    };
    break_file("feed.1.db");
    let pruned = server.succeed(&prune).await;
    assert!(
        pruned.contains("feed: generation 1 was removed"),
        "{pruned}"
    );
    break_file("feed.2.db");
    let status = server.fail(&["replay", "status"]).await;
    assert!(
        status.contains("cannot be read: file is not a database"),
        "{status}"
    );
    let list = ["replay", "dead-letters", "list", "--all"];
    let said = server.fail(&list).await;
    assert!(said.contains("feed: cannot be read"), "{said}");
    assert!(said.contains(&format!("position {like}")), "{said}");
    let said = server.fail(&[&list[..], &["--json"]].concat()).await;
    let listed = lines(&said);
    assert!(listed[0]["error"].is_string(), "{said}");
    let position = |letter: &&Value| letter["position"] == like;
    assert_eq!(listed.iter().filter(position).count(), 2, "{said}");
}
