//! The event log on Postgres: the contract, and what only a log on a server can be asked.

use std::{sync::Arc, time::Duration};

use cqrs_es::{
    EventStore,
    persist::{PersistedEventRepository, PersistedEventStore},
};
use futures::future::join_all;
use postgres_es::PostgresEventRepository;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use socialhub_domain::{StreamId, Timestamp, UserId};
use socialhub_event_log::{
    Append, AppendError, Appended, EventLog, Frontier, FrontierReader, MemoryEventLog,
    PartitionEnd, Quiet, RelayStore, SideWrite, StoredAnswer,
};
use socialhub_infra::postgres::{
    connect::OpenError,
    event_log::{PgEventLog, PgLogSettings},
    relay_store::PgRelayStore,
};
use socialhub_tests::{
    contract::event_log::{
        Log, TestResult, all, append, assert_dense, id, post_stream, sign_up, store_answer,
    },
    event_log_contract, people_contract, process_reports_contract,
    support::{eventually, postgres::Database, proxy::Proxy},
};
use sqlx::{Connection, Executor, PgConnection};
use tokio::runtime::Handle;

use crate::event_log::{ClockAt, Post, Step, commands, step};

/// Held by every append until its commit; see `append_events`.
const APPEND_LOCK: &str = "SELECT pg_advisory_lock(8316291640277037)";

async fn migrated() -> Database {
    let database = Database::create().await;
    PgEventLog::migrate(database.url()).await.unwrap();
    database
}

#[tokio::test]
async fn sessions_of_a_time_in_which_nothing_could_be_written_are_not_kept() -> TestResult {
    let database = migrated().await;
    database.forbid_writing().await;
    let log = open_at(database.url(), 0).await;
    let lease = PgRelayStore::connect(database.url()).await?;
    let post = post_stream();
    for _ in 0..2 {
        let refused = log.append(append(&post, 0, 1)).await;
        assert!(
            matches!(refused, Err(AppendError::Unavailable(_))),
            "{refused:?}"
        );
        assert!(lease.acquire("a").await.is_err());
    }
    let refused = PgEventLog::migrate(database.url()).await;
    assert!(
        matches!(refused, Err(OpenError::Unreachable(_))),
        "{refused:?}"
    );

    database.allow_writing().await;
    log.append(append(&post, 0, 1)).await?;
    assert!(lease.acquire("a").await?.is_some());
    PgEventLog::migrate(database.url()).await?;
    Ok(())
}

async fn open_at(url: &str, now: i64) -> PgEventLog {
    PgEventLog::connect(url, Arc::new(ClockAt(Timestamp(now))))
        .await
        .unwrap()
}

fn lazy(url: &str, deadline: Duration) -> PgEventLog {
    let settings = PgLogSettings {
        deadline,
        ..PgLogSettings::default()
    };
    PgEventLog::lazy(url, Arc::new(ClockAt(Timestamp(0))), settings).unwrap()
}

async fn postgres() -> (Arc<dyn Log>, Database) {
    let database = migrated().await;
    (Arc::new(open_at(database.url(), 0).await), database)
}

event_log_contract!(postgres => postgres().await);

mod people {
    use super::*;

    async fn store() -> (Arc<PgEventLog>, Database) {
        let database = migrated().await;
        (Arc::new(open_at(database.url(), 0).await), database)
    }

    people_contract!(postgres => store().await);
    process_reports_contract!(processes => store().await);
}

/// What an outcome says, whatever the positions: commands that share nothing may be written in any order.
fn without_positions(outcome: Result<Appended, AppendError>) -> String {
    match outcome {
        Ok(appended) => format!("version {}", appended.version),
        Err(AppendError::AnswerExists(answer)) => format!("answer {}", answer.body),
        Err(other) => format!("{other:?}"),
    }
}

/// Commands sent at once are decided as the log in memory decides them one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_decided_as_if_one_after_the_other() {
    let database = migrated().await;
    let log = open_at(database.url(), 0).await;
    let mut runner = TestRunner::new(Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = tokio::task::block_in_place(|| {
        runner.run(&prop::collection::vec(step(), 0..60), |steps| {
            Handle::current().block_on(async {
                let empty = "TRUNCATE events, commands, credentials, answers";
                database.execute(empty).await;
                decide_both(&log, &steps).await;
            });
            Ok(())
        })
    });
    outcome.unwrap();
}

async fn decide_both(postgres: &PgEventLog, steps: &[Step]) {
    let memory = MemoryEventLog::new();
    let commands = commands(steps);
    // Polled in this order, so that they wait in this order.
    let outcomes = join_all(commands.iter().cloned().map(|one| postgres.append(one))).await;
    for (command, outcome) in commands.into_iter().zip(outcomes) {
        let nothing = command.events.is_empty() && command.side.is_empty();
        let expected = memory.append(command).await;
        // A command that neither wrote nor stored anything is not remembered, and its repeat stands at the new version.
        if !(nothing && outcome.is_ok()) {
            assert_eq!(without_positions(outcome), without_positions(expected));
        }
    }
    let events = all(postgres).await.unwrap();
    assert_dense(&events);
    for event in memory.events() {
        let stream = postgres.read_stream(&event.stream).await.unwrap();
        let ours = &stream[usize::try_from(event.sequence).unwrap() - 1];
        assert_eq!(ours.event_id, event.event_id);
    }
    assert_eq!(events.len(), memory.events().len());
}

#[tokio::test]
async fn postgres_es_reads_the_table() -> TestResult {
    let database = migrated().await;
    let log = open_at(database.url(), 0).await;
    let stream = post_stream();
    let mut command = append(&stream, 0, 3);
    command.metadata.correlation_id = Some("request".to_owned());
    log.append(append(&post_stream(), 0, 1)).await?;
    log.append(command.clone()).await?;

    let pool = postgres_es::default_postgress_pool(database.url()).await;
    let repository = PostgresEventRepository::new(pool);
    let read = repository.get_events::<Post>(&stream.aggregate_id).await?;
    let ours = log.read_stream(&stream).await?;
    assert_eq!(read.len(), 3);
    for ((theirs, ours), sequence) in read.iter().zip(&ours).zip(1..) {
        assert_eq!(theirs.sequence, sequence);
        assert_eq!(theirs.aggregate_type, "post");
        assert_eq!(theirs.aggregate_id, stream.aggregate_id);
        assert_eq!(theirs.event_type, ours.event_type);
        assert_eq!(theirs.event_version, ours.event_version.to_string());
        let payload: serde_json::Value = serde_json::from_str(&ours.payload)?;
        assert_eq!(theirs.payload, payload);
        assert_eq!(theirs.metadata["eventId"], ours.event_id.to_string());
        assert_eq!(theirs.metadata["correlationId"], "request");
    }
    let store = PersistedEventStore::<_, Post>::new_event_store(repository);
    let context = store.load_aggregate(&stream.aggregate_id).await?;
    assert_eq!(context.aggregate.events, 3);
    Ok(())
}

#[tokio::test]
async fn several_migrate_at_once_and_a_strange_schema_is_refused() -> TestResult {
    let database = Database::create().await;
    let url = database.url();
    let clock = || Arc::new(ClockAt(Timestamp(0)));
    let older = PgEventLog::connect(url, clock()).await;
    assert!(matches!(older, Err(OpenError::Older { found: 0, .. })));
    for outcome in join_all((0..4).map(|_| PgEventLog::migrate(url))).await {
        outcome?;
    }
    PgEventLog::connect(url, clock()).await?.close().await;
    database
        .execute("UPDATE schema_versions SET version = 99")
        .await;
    let newer = PgEventLog::connect(url, clock()).await;
    assert!(matches!(newer, Err(OpenError::Newer { found: 99, .. })));
    let newer = PgEventLog::migrate(url).await;
    assert!(matches!(newer, Err(OpenError::Newer { found: 99, .. })));
    let address = PgEventLog::connect("nonsense", clock()).await;
    assert!(matches!(address, Err(OpenError::Address(_))));
    Ok(())
}

#[tokio::test]
async fn closing_commits_what_waits_and_another_opens_it_whole() -> TestResult {
    let database = migrated().await;
    let log = open_at(database.url(), 0).await;
    let commands: Vec<Append> = (0..100).map(|_| append(&post_stream(), 0, 1)).collect();
    let mut outcomes: Vec<_> = commands
        .iter()
        .cloned()
        .map(|command| log.append(command))
        .collect();
    for outcome in &mut outcomes {
        // One poll puts the command into the queue.
        let _ = futures::poll!(outcome);
    }
    log.close().await;
    let mut told = Vec::new();
    for outcome in outcomes {
        told.push(outcome.await?);
    }
    let refused = log.append(append(&post_stream(), 0, 1)).await;
    assert!(matches!(refused, Err(AppendError::Unavailable(_))));
    assert_eq!(log.head().await?, 100);

    let other = open_at(database.url(), 0).await;
    assert_eq!(*other.watch_head().borrow(), 100);
    assert_eq!(all(&other).await?, all(&log).await?);
    assert_eq!(other.append(commands[7].clone()).await?, told[7]);
    Ok(())
}

#[tokio::test]
async fn answers_and_commands_are_forgotten_after_a_day() -> TestResult {
    let database = migrated().await;
    let log = open_at(database.url(), 1).await;
    for key in 0..100 {
        let mut command = append(&post_stream(), 0, 0);
        command.side = vec![store_answer(&key.to_string(), "done", 1)];
        log.append(command).await?;
    }
    for (now, rows) in [
        (StoredAnswer::LIFETIME_MS, 100),
        // In steps of 64.
        (StoredAnswer::LIFETIME_MS + 1, 36),
    ] {
        let log = open_at(database.url(), now).await;
        log.append(append(&post_stream(), 0, 1)).await?;
        assert_eq!(database.number("SELECT count(*) FROM answers").await, rows);
        assert_eq!(database.number("SELECT count(*) FROM commands").await, rows);
        if rows == 36 {
            // There was more, so the next commit goes on.
            log.append(append(&post_stream(), 0, 1)).await?;
            assert_eq!(database.number("SELECT count(*) FROM answers").await, 0);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_command_that_the_database_chokes_on_fails_alone() -> TestResult {
    let database = migrated().await;
    let choke = "CREATE FUNCTION choke() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'choked'; END $$;
         CREATE TRIGGER choke BEFORE INSERT ON events FOR EACH ROW
             WHEN (NEW.aggregate_id = 'bad') EXECUTE FUNCTION choke()";
    database.execute(choke).await;
    let log = open_at(database.url(), 0).await;
    let stream = |n: usize| match n {
        13 => StreamId::new("post", "bad"),
        _ => post_stream(),
    };
    let commands = (0..40).map(|n| log.append(append(&stream(n), 0, 1)));
    for (n, outcome) in join_all(commands).await.into_iter().enumerate() {
        let refused = matches!(outcome, Err(AppendError::Unavailable(_)));
        assert_eq!(refused, n == 13, "{n}: {outcome:?}");
    }
    let mut nul = sign_up("nul\0", "nul@example.org");
    nul.stream = post_stream();
    let outcome = log.append(nul).await;
    assert!(matches!(outcome, Err(AppendError::Unavailable(_))));
    assert_dense(&all(&log).await?);
    assert_eq!(log.head().await?, 39);
    Ok(())
}

#[tokio::test]
async fn another_instance_is_woken_and_learns_epochs_in_order() -> TestResult {
    let database = migrated().await;
    let writer = open_at(database.url(), 0).await;
    let reader = open_at(database.url(), 0).await;
    let mut watched = reader.watch_head();
    let mut people = Vec::new();
    for n in 0..4 {
        let command = sign_up(&format!("name{n}"), &format!("{n}@example.org"));
        let SideWrite::InsertCredentials(new) = &command.side[0] else {
            return Err("a sign-up without credentials".into());
        };
        people.push(new.user_id);
        writer.append(command).await?;
    }
    let seen = watched.wait_for(|head| *head == 4);
    tokio::time::timeout(Duration::from_secs(10), seen).await??;

    let reset = |user: UserId| {
        writer.append(Append {
            side: vec![SideWrite::ResetPassword {
                user_id: user,
                password_hash: "hash".to_owned(),
            }],
            ..append(&StreamId::new("user", user), 0, 0)
        })
    };
    assert_eq!(reader.epochs_since(0).await?, (Vec::new(), 0));
    reset(people[1]).await?;
    reset(people[0]).await?;
    let (changed, cursor) = reader.epochs_since(0).await?;
    assert_eq!(changed, [(people[1], 2), (people[0], 2)]);
    assert_eq!(reader.epochs_since(cursor).await?, (Vec::new(), cursor));
    for outcome in join_all([reset(people[1]), reset(people[1]), reset(people[2])]).await {
        outcome?;
    }
    let (mut changed, cursor) = reader.epochs_since(cursor).await?;
    changed.sort_unstable_by_key(|(user, _)| people.iter().position(|one| one == user));
    assert_eq!(changed, [(people[1], 4), (people[2], 2)]);
    assert_eq!(reader.epochs_since(cursor).await?, (Vec::new(), cursor));
    Ok(())
}

/// A log that grew before the server ever looked at its statistics: a fresh cluster's, or one that was just imported. How
/// many entries of the positions' index are read says whether a new command was sought by walking down the log.
#[tokio::test]
async fn a_log_that_was_never_analyzed_is_not_scanned() -> TestResult {
    const EVENTS: i64 = 20_000;
    let database = migrated().await;
    let mut connection = PgConnection::connect(database.url()).await?;
    let fill = "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
             position, event_id, command_id, recorded_at)
         SELECT 'other', n::text, 1, 'other', '1', '{}', '{}', n, gen_random_uuid(), gen_random_uuid(), 0
         FROM generate_series(1, $1) AS n";
    connection
        .execute("ALTER TABLE events SET (autovacuum_enabled = off)")
        .await?;
    sqlx::query(fill)
        .bind(EVENTS)
        .execute(&mut connection)
        .await?;
    let log = open_at(database.url(), 0).await;
    for _ in 0..10 {
        log.append(append(&post_stream(), 0, 1)).await?;
    }
    log.close().await;
    // What was read is told with a delay, and at the latest when a connection ends.
    let sql = "SELECT sum(idx_scan)::bigint, sum(idx_tup_read) FILTER (WHERE indexrelname = 'events_position_key')::bigint
         FROM pg_stat_user_indexes WHERE relname = 'events'";
    let read = eventually("the server tells what was read", async || {
        let (scans, read): (i64, i64) = sqlx::query_as(sql)
            .fetch_one(&mut PgConnection::connect(database.url()).await.ok()?)
            .await
            .ok()?;
        (scans >= 20).then_some(read)
    })
    .await;
    assert!(read < EVENTS / 10, "{read} entries were read");
    Ok(())
}

#[tokio::test]
async fn a_persons_last_position_is_found() -> TestResult {
    let database = migrated().await;
    let log = open_at(database.url(), 0).await;
    let (ada, bob) = (UserId(id()), UserId(id()));
    for who in [Some(ada), Some(bob), Some(ada), None] {
        let mut command = append(&post_stream(), 0, 2);
        command.metadata.actor = who;
        log.append(command).await?;
    }
    assert_eq!(log.last_position_of(ada).await?, 6);
    assert_eq!(log.last_position_of(bob).await?, 4);
    assert_eq!(log.last_position_of(UserId(id())).await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_lock_that_is_held_refuses_but_does_not_hang() -> TestResult {
    let database = migrated().await;
    let log = open_at(database.url(), 0).await;
    let mut stuck = database.connect().await;
    sqlx::query(APPEND_LOCK).execute(&mut stuck).await?;
    let outcome = log.append(append(&post_stream(), 0, 1)).await;
    assert!(matches!(outcome, Err(AppendError::Unavailable(_))));
    assert_eq!(log.head().await?, 0);
    drop(stuck);
    eventually("the lock is free again", async || {
        log.append(append(&post_stream(), 0, 1)).await.ok()
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_killed_backend_is_noticed_by_nobody() -> TestResult {
    let database = migrated().await;
    let log = open_at(database.url(), 0).await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = 'socialhub-log' AND datname = current_database()";
    let stream = post_stream();
    for version in 0..10 {
        // Before the append while idle, and again at some moment of it.
        database.execute(kill).await;
        let (outcome, ()) = tokio::join!(
            log.append(append(&stream, version, 1)),
            database.execute(kill)
        );
        assert_eq!(outcome?.version, version + 1);
        assert_eq!(log.read_stream(&stream).await?.len() as u64, version + 1);
        assert_eq!(log.head().await?, version + 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_lost_is_found_out() -> TestResult {
    let database = migrated().await;
    let proxy = Proxy::to(database.url(), u64::MAX).await;
    let log = lazy(&proxy.through(database.url()), Duration::from_secs(10));
    log.append(append(&post_stream(), 0, 1)).await?;
    for round in 1..5 {
        proxy.deafen();
        let commands = (0..20).map(|_| log.append(append(&post_stream(), 0, 1)));
        let (outcomes, ()) = tokio::join!(join_all(commands), async {
            // Carried out, at least a part of it, and not heard of.
            eventually("an append", async || {
                let head = database.number("SELECT max(position) FROM events").await;
                (head > 20 * (round - 1) + 1).then_some(())
            })
            .await;
            proxy.cut();
        });
        for outcome in outcomes {
            outcome?;
        }
    }
    let events = all(&log).await?;
    assert_eq!(events.len(), 81);
    assert_dense(&events);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_cannot_be_found_out_in_time_is_unknown() -> TestResult {
    let database = migrated().await;
    let proxy = Proxy::to(database.url(), u64::MAX).await;
    let log = lazy(&proxy.through(database.url()), Duration::from_secs(4));
    let heard = append(&post_stream(), 0, 1);
    log.append(heard).await?;

    proxy.deafen();
    let command = append(&post_stream(), 0, 1);
    let sent = log.append(command.clone());
    let waiting = async {
        eventually("the append", async || {
            let head = database.number("SELECT max(position) FROM events").await;
            (head == 2).then_some(())
        })
        .await;
        // Behind a call that does not come back: never sent.
        log.append(append(&post_stream(), 0, 1)).await
    };
    let (sent, waiting) = tokio::join!(sent, waiting);
    assert!(matches!(sent, Err(AppendError::OutcomeUnknown)), "{sent:?}");
    assert!(
        matches!(waiting, Err(AppendError::Unavailable(_))),
        "{waiting:?}"
    );

    proxy.shut();
    eventually("the lost connection is noticed", async || {
        let refused = log.append(append(&post_stream(), 0, 1)).await;
        let reason = refused.unwrap_err().to_string();
        reason.contains("could not append").then_some(())
    })
    .await;
    assert!(log.head().await.is_err());
    proxy.cut();
    // The same command gives the truth.
    let truth = log.append(command).await?;
    assert_eq!((truth.position, truth.version), (2, 1));
    assert_eq!(log.head().await?, 2);
    Ok(())
}

#[tokio::test]
async fn a_process_starts_before_its_database() -> TestResult {
    let database = Database::create().await;
    let log = lazy(database.url(), Duration::from_secs(10));
    let too_early = log.append(append(&post_stream(), 0, 1)).await;
    assert!(matches!(too_early, Err(AppendError::Unavailable(_))));
    assert!(log.read_stream(&post_stream()).await.is_err());
    PgEventLog::migrate(database.url()).await?;
    assert_eq!(log.append(append(&post_stream(), 0, 1)).await?.position, 1);
    assert_eq!(log.read_stream(&post_stream()).await?, []);
    Ok(())
}

#[tokio::test]
async fn the_relays_lease_has_one_holder() -> TestResult {
    let database = migrated().await;
    let store = PgRelayStore::connect(database.url()).await?;
    let other = PgRelayStore::connect(database.url()).await?;
    assert_eq!(store.holder().await?, None);
    assert_eq!(store.frontier().await?, Frontier::default());

    let first = store.acquire("a").await?.ok_or("not free")?;
    assert_eq!(other.acquire("b").await?, None);
    assert!(store.renew("a", &first).await?);
    assert!(!other.renew("b", &first).await?);
    let (owner, epoch, age) = other.holder().await?.ok_or("no holder")?;
    assert_eq!((owner.as_str(), epoch), ("a", first.epoch));
    assert!((0.0..5.0).contains(&age));
    let frontier = Frontier {
        position: 7,
        partitions: [("POST_TOPIC".to_owned(), 3)].into(),
        ends: vec![PartitionEnd {
            topic: "POST_TOPIC".to_owned(),
            partition: 2,
            offset: 9,
            position: 6,
            event_id: id(),
            quiet: vec![Quiet { after: 2, next: 6 }],
        }],
    };
    assert!(store.save(&first, &frontier).await?);
    assert_eq!(other.frontier().await?, frontier);

    // As if it had not been renewed for that long.
    let grow_old =
        |s: u32| format!("UPDATE relay_lease SET renewed = renewed - interval '{s} seconds'");
    assert!(store.renew("a", &first).await?);
    database.execute(&grow_old(1)).await;
    assert_eq!(other.acquire("b").await?, None);
    database.execute(&grow_old(5)).await;
    let second = other.acquire("b").await?.ok_or("not taken over")?;
    assert!(second.epoch > first.epoch);
    // The old leader is back and does not know.
    assert!(!store.renew("a", &first).await?);
    assert!(!store.save(&first, &Frontier::default()).await?);
    store.release("a", &first).await?;
    assert_eq!(other.frontier().await?, frontier);
    assert!(other.save(&second, &Frontier::default()).await?);
    other.release("b", &second).await?;
    assert_eq!(store.holder().await?, None);
    // Many want it, one gets it.
    let names: Vec<String> = (0..8).map(|n| format!("process {n}")).collect();
    let outcomes = join_all(names.iter().map(|name| store.acquire(name))).await;
    let mut got = 0;
    for outcome in outcomes {
        got += usize::from(outcome?.is_some());
    }
    assert_eq!(got, 1);
    Ok(())
}
