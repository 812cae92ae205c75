//! The counters when Redis is away, emptied, damaged, full or back in time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use socialhub_domain::{Event, StreamId};
use socialhub_event_log::{
    Append, EventLog, MemoryEventLog, MemoryRelayStore, Metadata, NewEvent, Position,
};
use socialhub_infra::redis::{RedisFault, RedisGenerations, RedisLink, keep_filled};
use socialhub_projections::{
    PageRequest, Source, StoreError,
    counters::{CounterFold, CounterReader, Counters},
    runtime::{Control, Generations, LogTail, ModelControl, Projector},
    source_position,
};
use socialhub_tests::{
    contract::history::{history, post, user},
    support::{Profile, Server as Program, eventually, servers::redis_url},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Place, assert_equals_fold, batch, begin, clock, event_id, open_current, server::Server, write,
};

/// A log that holds a history.
async fn event_log(events: &[(Position, Event)]) -> Arc<dyn EventLog> {
    let log = MemoryEventLog::new();
    append(&log, events).await;
    Arc::new(log)
}

async fn append(log: &dyn EventLog, events: &[(Position, Event)]) {
    for (position, event) in events {
        let append = Append {
            command_id: Uuid::from_u128(u128::from(*position)),
            stream: StreamId::new("post", Uuid::from_u128(u128::from(*position))),
            expected_version: 0,
            events: vec![NewEvent {
                event_id: event_id(*position),
                event: event.clone(),
                payload: None,
            }],
            metadata: Metadata::default(),
            side: Vec::new(),
        };
        log.append(append).await.unwrap();
    }
}

/// Keeps a place filled from a log until it is dropped.
struct Keeper(CancellationToken);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn keep(generations: &Arc<RedisGenerations>, log: &Arc<dyn EventLog>) -> Keeper {
    let stop = CancellationToken::new();
    tokio::spawn(keep_filled(
        Arc::clone(generations),
        Arc::clone(log),
        Arc::new(MemoryRelayStore::new(Duration::from_secs(5))),
        clock(),
        stop.clone(),
    ));
    Keeper(stop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_redis_serves_no_zeros_and_is_filled_again() {
    let server = Server::start().await;
    let place = Place::new(&server.url());
    let events = history(31, 1_500);
    let log = event_log(&events).await;
    let generations = place.generations();
    // Never filled: not a zero either.
    assert_eq!(place.reader.post_counts(&[post(0)]).await.unwrap(), None);
    let request = PageRequest::first(3);
    assert_eq!(place.reader.trending(&request).await.unwrap(), None);
    assert!(generations.needs_filling().await.unwrap());
    assert_eq!(generations.current_checkpoints().await.unwrap(), []);

    let (one, two) = (keep(&generations, &log), keep(&place.generations(), &log));
    let served = || async { place.reader.post_counts(&[post(0)]).await.unwrap() };
    let counts = eventually("counts", &served).await;
    assert_equals_fold(&generations, &events).await;
    let first = generations.refresh().await.unwrap();
    assert_eq!(first.0, 1);
    let store = open_current(&generations).await;
    let mut pointer = generations.current();
    pointer.borrow_and_update();

    server.run(&["FLUSHALL"]).await;
    // Another process may use the number again: that, too, is another generation.
    pointer.changed().await.unwrap();
    eventually("counts again", || async {
        let found = served().await?;
        assert_eq!(found, counts, "whatever is answered meanwhile is no zero");
        Some(())
    })
    .await;
    let late = store.apply(batch(&Source::log(), 0, &events)).await;
    assert!(matches!(late, Err(StoreError::Unusable(_))), "{late:?}");
    let control = Control::<Counters, CounterFold>::new(generations.clone(), clock());
    let report = control.verify(&log, &Default::default()).await.unwrap();
    assert!(report.is_clean(), "{:?}", report.differences);
    drop((one, two));
}

/// A live projector loses its generation, and has another one without anybody's help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projector_goes_on_after_redis_was_emptied_and_restarted() {
    let mut server = Server::start().await;
    let place = Place::new(&server.url());
    let events = history(37, 4_500);
    let log = event_log(&events[..500]).await;
    let generations = place.generations();
    let _keeper = keep(&generations, &log);
    let stop = CancellationToken::new();
    let tail = LogTail::start(Arc::clone(&log), stop.clone());
    let port = Arc::clone(&generations) as Arc<dyn Generations<Counters>>;
    let live = Projector::new(port, tail, clock()).spawn(stop.clone());
    let reached = async |head: usize| {
        eventually("the projector is at the head", || async {
            let found = generations.current_checkpoints().await.ok()?;
            (source_position(&found, &Source::log()) == head as Position).then_some(())
        })
        .await;
    };
    reached(500).await;
    append(&*log, &events[500..900]).await;
    server.run(&["FLUSHALL"]).await;
    append(&*log, &events[900..1_300]).await;
    reached(1_300).await;
    assert_equals_fold(&generations, &events[..1_300]).await;

    // Nothing was saved: it comes back empty.
    server.stop();
    append(&*log, &events[1_300..1_600]).await;
    server.start_again().await;
    append(&*log, &events[1_600..2_000]).await;
    reached(2_000).await;
    append(&*log, &events[2_000..]).await;
    reached(events.len()).await;
    let control = Control::<Counters, CounterFold>::new(generations.clone(), clock());
    assert!(
        control
            .verify(&log, &Default::default())
            .await
            .unwrap()
            .is_clean()
    );
    stop.cancel();
    live.task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_dump_is_not_served_as_if_it_were_current() {
    let mut server = Server::start().await;
    let place = Place::new(&server.url());
    let generations = place.generations();
    begin(&generations).await;
    let log = history(32, 1_500);
    let store = open_current(&generations).await;
    write(&store, &log[..400]).await;
    server.run(&["SAVE"]).await;
    write(&store, &log[400..800]).await;
    let ids = [post(0), post(1)];
    let counts = place.reader.post_counts(&ids).await.unwrap();
    assert!(counts.is_some());
    // It has answered nothing yet, but its process has said how far the model is.
    let told = generations.reader();
    let seen = generations.current_checkpoints().await.unwrap();
    assert_eq!(source_position(&seen, &Source::log()), 800);

    server.stop();
    let away = Instant::now();
    assert_eq!(place.reader.post_counts(&ids).await.unwrap(), None);
    assert!(away.elapsed() < Duration::from_secs(3));
    assert!(matches!(
        store.apply(batch(&Source::log(), 800, &log[800..])).await,
        Err(StoreError::Unavailable(_))
    ));
    server.start_again().await;

    // The writer that believes it is ahead is told, and finds the place to go on from.
    let refused = eventually("Redis is asked again", || async {
        match store.apply(batch(&Source::log(), 800, &log[800..])).await {
            Err(StoreError::Unavailable(_)) => None,
            other => Some(other),
        }
    })
    .await;
    assert!(matches!(refused, Err(StoreError::Moved)), "{refused:?}");
    eventually("Redis is read again", || async {
        generations.current_checkpoints().await.ok()
    })
    .await;
    // Whoever has seen nothing cannot know: so Redis answers.
    let unknowing = place.generations().reader();
    assert!(unknowing.post_counts(&ids).await.unwrap().is_some());
    assert_eq!(told.post_counts(&ids).await.unwrap(), None);
    let reader = &place.reader;
    assert_eq!(reader.post_counts(&ids).await.unwrap(), None);
    assert_eq!(reader.person_counts(user(0)).await.unwrap(), None);
    let request = PageRequest::first(3);
    assert_eq!(reader.trending(&request).await.unwrap(), None);

    let at = source_position(&store.checkpoints().await.unwrap(), &Source::log());
    assert_eq!(at, 400);
    write(&store, &log[400..700]).await;
    assert_eq!(
        reader.post_counts(&ids).await.unwrap(),
        None,
        "not yet there"
    );
    write(&store, &log[700..800]).await;
    // Its connection may rest for a moment after the outage.
    eventually("counts are served again", || async {
        let served = reader.post_counts(&ids).await.unwrap();
        assert!(served.is_none() || served == counts, "{served:?}");
        served
    })
    .await;
    assert_equals_fold(&generations, &log[..800]).await;
}

#[tokio::test]
async fn a_part_that_is_lost_is_noticed() {
    let server = Server::start().await;
    let place = Place::new(&server.url());
    let generations = place.generations();
    begin(&generations).await;
    let log = history(33, 300);
    let store = open_current(&generations).await;
    write(&store, &log[..200]).await;
    assert!(place.reader.person_counts(user(0)).await.unwrap().is_some());
    server
        .run(&["DEL", &format!("{}:counters:1:people", place.prefix)])
        .await;
    assert_eq!(place.reader.person_counts(user(0)).await.unwrap(), None);
    let refused = store.apply(batch(&Source::log(), 200, &log[200..])).await;
    match refused {
        Err(StoreError::Unusable(reason)) => assert!(reason.contains("replay rebuild counters")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_evicts_is_refused() {
    let server = Server::start().await;
    let link = RedisLink::new(&server.url()).unwrap();
    link.check_server().await.unwrap();
    server
        .run(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"])
        .await;
    link.check_server().await.unwrap();
    server
        .run(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"])
        .await;
    let refused = link.check_server().await.unwrap_err();
    assert!(matches!(refused, RedisFault::Unsafe(_)), "{refused:?}");
    assert!(refused.to_string().contains("noeviction"));
}

#[tokio::test]
async fn nobody_counts_on_a_server_that_evicts_until_it_no_longer_does() {
    let redis = Server::start().await;
    let policy = async |policy: &str| {
        redis
            .run(&["CONFIG", "SET", "maxmemory-policy", policy])
            .await;
    };
    let mut environment = Profile::Distributed.environment().await;
    for (name, value) in &mut environment {
        if name == "REDIS_URL" {
            *value = redis.url();
        }
    }
    let server = Program::start_in(&["--rate-limits", "off"], environment).await;
    let ready = async || server.client().get_as_is("/readyz").await;
    policy("allkeys-lru").await;
    let told = ready().await.expect_status(503).json.to_string();
    assert!(
        told.contains("REDIS_URL") && told.contains("noeviction"),
        "{told}"
    );
    // Nor does a rebuild, which throws nothing away.
    let rebuild = ["replay", "rebuild", "counters"];
    let output = server.command(&rebuild).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("noeviction"),
        "{said}"
    );
    policy("noeviction").await;
    eventually("it is ready again", || async {
        (ready().await.status == 200).then_some(())
    })
    .await;
    let output = server.command(&rebuild).await;
    assert!(output.status.success(), "{output:?}");
    server.verify_all().await;
}

#[tokio::test]
async fn a_full_memory_writes_nothing_and_is_no_rejection() {
    let server = Server::start().await;
    let place = Place::new(&server.url());
    let generations = place.generations();
    begin(&generations).await;
    let log = history(34, 600);
    let store = open_current(&generations).await;
    write(&store, &log[..300]).await;
    server.run(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let refused = store.apply(batch(&Source::log(), 300, &log[300..])).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    assert_equals_fold(&generations, &log[..300]).await;
    server.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    write(&store, &log[300..]).await;
    assert_equals_fold(&generations, &log).await;
}

#[tokio::test]
async fn a_program_starts_while_redis_is_away() {
    let mut server = Server::start().await;
    server.stop();
    let place = Place::new(&server.url());
    let generations = place.generations();
    let pointer = generations.current();
    assert!(matches!(
        generations.refresh().await,
        Err(StoreError::Unavailable(_))
    ));
    assert_eq!(place.reader.person_counts(user(0)).await.unwrap(), None);
    let log = event_log(&history(35, 50)).await;
    let _keeper = keep(&generations, &log);
    server.start_again().await;
    let served = || async { place.reader.person_counts(user(0)).await.unwrap() };
    eventually("counts", served).await;
    // Whoever fills looks at the pointer after the switch, and others may have been served by then.
    eventually("the pointer", || async {
        (pointer.borrow().0 == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn verifying_waits_for_no_pause_of_the_writers() {
    let place = Place::new(&redis_url());
    let generations = place.generations();
    begin(&generations).await;
    let events = history(36, 4_000);
    let log = event_log(&events).await;
    let writing = {
        let (generations, events) = (place.generations(), events.clone());
        tokio::spawn(async move {
            let store = open_current(&generations).await;
            for event in events.chunks(3) {
                let after = event[0].0 - 1;
                eventually("the batch goes in", || async {
                    let next = batch(&Source::log(), after, event);
                    store.apply(next).await.ok()
                })
                .await;
            }
        })
    };
    let control = Control::<Counters, CounterFold>::new(generations.clone(), clock());
    let mut verified = 0;
    while !writing.is_finished() {
        let report = control.verify(&log, &Default::default()).await.unwrap();
        assert!(report.is_clean(), "{:?}", report.differences);
        verified += 1;
    }
    writing.await.unwrap();
    assert!(verified > 1);
    assert!(
        control
            .verify(&log, &Default::default())
            .await
            .unwrap()
            .is_clean()
    );
}
