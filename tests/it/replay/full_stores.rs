//! A store that is full in the middle of a rebuild: it is said, what is served is not touched, and the same command goes on
//! when there is room.
//!
//! Postgres, and the one beneath the server of the notifications, refuse as they do on a full disk, by triggers: the tests'
//! servers have no small disk. Redis really is full.

use std::process::Output;

use serde_json::Value;
use socialhub_tests::support::{Profile, Server, eventually, printed, servers};
use sqlx::{Connection, Executor, PgConnection};

use super::{
    outage::{run, small_world_in},
    rebuilds::Held,
};
use crate::{
    redis_stores::server::Server as RedisServer,
    seen::{generation, metrics, sum},
};

/// What Postgres says when its disk is full.
const DISK: &str = "No space left on device";

/// What refuses rows as a full disk does.
const REFUSE: &str = "CREATE OR REPLACE FUNCTION public.full_disk() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$";

/// Lets tables refuse rows. `tables`: their names, as a query.
fn refuse_rows(tables: &str) -> String {
    format!(
        "DO $$ DECLARE one text; BEGIN FOR one IN {tables} LOOP
             EXECUTE format('CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON %s
                 FOR EACH STATEMENT EXECUTE FUNCTION public.full_disk()', one);
         END LOOP; END $$"
    )
}

/// Tables of a schema, with it, as they are written in a statement.
fn tables_of(schema: &str) -> String {
    format!(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = '{schema}'"
    )
}

/// There is room again in those of a schema that were full.
fn make_room(schema: &str) -> String {
    format!(
        "DO $$ DECLARE one text; BEGIN
         FOR one IN SELECT tgrelid::regclass::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
             WHERE tgname = 'full_disk' AND c.relnamespace = '\"{schema}\"'::regnamespace
         LOOP EXECUTE format('DROP TRIGGER full_disk ON %s', one); END LOOP; END $$"
    )
}

async fn execute(url: &str, statements: &[&str]) {
    let mut database = PgConnection::connect(url).await.unwrap();
    // Whoever writes these tables may be held up by the test itself.
    database.execute("SET lock_timeout = '20s'").await.unwrap();
    for statement in statements {
        database.execute(*statement).await.unwrap();
    }
}

/// `why`: what the store says of it.
fn assert_told(model: &str, output: &Output, why: &str) {
    let said = printed(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    for part in [
        &format!("{model}: not switched: "),
        why,
        "has room, on its disk and in its memory",
        "run the same command again",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// The right to go on, and an end that is right.
async fn goes_on(server: &Server, model: &str) {
    let rebuilt = server.succeed(&["replay", "rebuild", model]).await;
    // A full store is no event's fault.
    assert!(rebuilt.contains("; 0 parked; "), "{rebuilt}");
    server.verify_all().await;
}

#[tokio::test]
async fn a_feed_whose_disk_is_full_is_told_and_filled_when_there_is_room() {
    if Profile::chosen() == Profile::Embedded {
        // Its files are those of `outage`.
        return;
    }
    let server = small_world_in(Profile::Distributed.environment().await).await;
    let (rebuild, setting) = (["replay", "rebuild", "feed"], "DATABASE_URL");
    let (alone, whole) = run(&server, setting, &rebuild, u64::MAX).await;
    assert!(alone.status.success(), "{}", printed(&alone));
    let held = Held::begin(&server, "feed", setting, whole / 2).await;
    let url = server.setting(setting);
    execute(url, &[REFUSE, &refuse_rows(&tables_of("feed_3"))]).await;
    assert_told("feed", &held.goes_on().await, DISK);
    server.verify_all().await;
    execute(url, &[&make_room("feed_3")]).await;
    goes_on(&server, "feed").await;
}

#[tokio::test]
async fn notifications_whose_disk_is_full_are_told_and_filled_when_there_is_room() {
    if Profile::chosen() == Profile::Embedded {
        return;
    }
    let server = small_world_in(Profile::Distributed.environment().await).await;
    // The server of the notifications keeps each of its databases in a schema of this one. A table that comes to be there
    // is full from its beginning on.
    let postgres = servers::postgres_url();
    let (postgres, _) = postgres.rsplit_once('/').unwrap();
    let beneath = format!("{postgres}/ferretdb");
    let schema = server.setting("NAMESPACE");
    let new = format!(
        "SELECT object_identity FROM pg_event_trigger_ddl_commands()
         WHERE schema_name = '{schema}' AND object_type = 'table' AND object_identity LIKE '%notifications%'"
    );
    let body = refuse_rows(&new).replace("DO $$", "").replace("$$", "");
    let when_made = format!(
        "CREATE FUNCTION public.refuse_{schema}() RETURNS event_trigger LANGUAGE plpgsql AS $$ {body} $$"
    );
    let watch = format!(
        "CREATE EVENT TRIGGER refuse_{schema} ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
         EXECUTE FUNCTION public.refuse_{schema}()"
    );
    execute(&beneath, &[REFUSE, &when_made, &watch]).await;
    let told = server
        .command(&["replay", "rebuild", "notifications"])
        .await;
    let verified = server.command(&["replay", "verify", "--all"]).await;
    // First of all: other tests make tables in that database, too.
    let no_more =
        format!("DROP EVENT TRIGGER refuse_{schema}; DROP FUNCTION public.refuse_{schema}");
    execute(&beneath, &[&no_more, &make_room(schema)]).await;
    assert_told("notifications", &told, DISK);
    assert!(verified.status.success(), "{}", printed(&verified));
    goes_on(&server, "notifications").await;
}

/// What `replay status`, `/readyz` and the metrics say of a model that cannot be written.
async fn stuck_projector_is_told(server: &Server, model: &str, why: &str) {
    let told = |current: &Value| {
        current["activity"] == "stuck"
            && current["lastError"]["now"] == true
            && current["lastError"]["error"].to_string().contains(why)
            && current["lagEvents"].as_u64() > Some(0)
            && current["lagSeconds"].as_f64() > Some(0.0)
    };
    eventually("the status says that it is stuck", || async {
        let status = server.status().await;
        told(generation(&status, model, "current")).then_some(())
    })
    .await;
    let part = format!("projection {model}");
    eventually("probes and metrics say that it is stuck", || async {
        let ready = server.client().get("/readyz").await;
        let missing = ready.json["notReady"].to_string();
        let figures = metrics(server).await;
        let of = [format!("model=\"{model}\""), "state=\"stuck\"".to_owned()];
        let stuck = sum(
            &figures,
            "socialhub_projection_state",
            &of.each_ref().map(String::as_str),
        );
        let failing = sum(
            &figures,
            "socialhub_part_failing",
            &[&format!("part=\"{part}\"")],
        );
        let all = ready.status == 503
            && missing.contains(&part)
            && missing.contains(why)
            && stuck == 1.0
            && failing == 1.0;
        all.then_some(())
    })
    .await;
}

#[tokio::test]
async fn counters_whose_memory_is_full_are_told_and_filled_when_there_is_room() {
    if Profile::chosen() == Profile::Embedded {
        return;
    }
    let redis = RedisServer::start().await;
    let mut environment = Profile::Distributed.environment().await;
    let places = environment.iter_mut().filter(|(key, _)| key == "REDIS_URL");
    places.for_each(|(_, value)| *value = redis.url());
    let server = small_world_in(environment).await;
    let (rebuild, setting) = (["replay", "rebuild", "counters"], "REDIS_URL");
    let (alone, whole) = run(&server, setting, &rebuild, u64::MAX).await;
    assert!(alone.status.success(), "{}", printed(&alone));
    let me = server.client().sign_up("full").await;
    let held = Held::begin(&server, "counters", setting, whole / 2).await;
    redis.run(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let held_up = held.goes_on().await;
    if printed(&held_up).contains("OOM") {
        assert_told("counters", &held_up, "OOM");
    } else {
        // Its store was silent for too long on a busy machine. The next one finds it full.
        let said = printed(&held_up);
        assert!(said.contains("run the same command again"), "{said}");
        let full = server.command(&rebuild).await;
        assert_told("counters", &full, "OOM");
    }
    // Who follows the log writes there, too, and says so, in all places.
    me.write_post("not counted yet", "public").await;
    stuck_projector_is_told(&server, "counters", "OOM").await;
    redis.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    server.caught_up().await;
    server.verify_all().await;
    goes_on(&server, "counters").await;
}
