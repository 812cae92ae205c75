//! The contract of the chat log: [`ChatLog`].
//!
//! [`crate::chat_log_contract`] stamps a test for each case and adapter.

use std::{cell::Cell, collections::HashSet, sync::Arc};

use async_trait::async_trait;
use futures::future::try_join_all;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use socialhub_chat::{
    ChatLog, ChatUser, Direction, HistoryQuery, MemoryChatLog, Message, NewMessage, RoomId,
};
use socialhub_domain::{Timestamp, UserId, personal::ERASED_TEXT};
use tokio::runtime::Handle;
use uuid::Uuid;

/// Where messages are kept, and instances of the adapter on it.
#[async_trait]
pub trait ChatStore: Send + Sync {
    /// An instance beside those that are there; for a store with one writer, the same one.
    async fn instance(&self) -> Arc<dyn ChatLog>;

    /// Forgets all instances: those to come begin anew with what is kept.
    async fn restart(&self);
}

/// Stamps the suite: `chat_log_contract!(sqlite => expression)`. Each expression makes a fresh, empty [`ChatStore`].
#[macro_export]
macro_rules! chat_log_contract {
    (@stamp $store:expr; $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::contract::chat_log::$case(&$store).await
            }
        )+
    };
    ($($adapter:ident => $store:expr);+ $(;)?) => {
        $(
            mod $adapter {
                use super::*;
                $crate::chat_log_contract!(@stamp $store;
                    it_behaves_as_the_log_in_memory,
                    concurrent_batches_get_dense_numbers_and_each_client_id_once,
                    instances_that_share_rooms_agree_on_one_order,
                    a_reader_sees_no_hole_and_no_change,
                    what_the_erased_wrote_is_gone_and_numbers_stay,
                );
            }
        )+
    };
}

fn room(case: u32, n: u8) -> RoomId {
    RoomId::parse(&format!("case-{case}-room-{n}")).unwrap()
}

fn new_message(id: u128, room: RoomId, user: u8, client_id: Option<String>) -> NewMessage {
    NewMessage {
        id: Uuid::from_u128(id),
        room,
        user: ChatUser {
            id: UserId(Uuid::from_u128(u128::from(user))),
            username: format!("user\u{0}{user}").into(),
        },
        text: format!("text {id}\u{0}é"),
        client_id,
        at: Timestamp(i64::try_from(id).unwrap()),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<(u8, u8, Option<u8>)>),
    Read(u8, HistoryQuery),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let one = (0..3u8, 0..3u8, prop::option::of(0..6u8));
    let query = (
        0..20u64,
        prop::option::of(0..25u64),
        any::<bool>(),
        0..12usize,
    );
    prop_oneof![
        6 => prop::collection::vec(one, 0..8).prop_map(Step::Append),
        4 => (0..4u8, query).prop_map(|(room, (after, before, newest, limit))| {
            let direction = if newest { Direction::Newest } else { Direction::Oldest };
            Step::Read(room, HistoryQuery { after, before, direction, limit })
        }),
        1 => Just(Step::Restart),
    ]
}

async fn play(store: &dyn ChatStore, case: u32, steps: Vec<Step>) {
    let memory = MemoryChatLog::default();
    let mut log = store.instance().await;
    let mut id = 0;
    for step in steps {
        match step {
            Step::Append(some) => {
                let mut batch = Vec::new();
                for (n, user, client_id) in some {
                    id += 1;
                    let client_id = client_id.map(|n| format!("c\u{0}{n}"));
                    batch.push(new_message(id, room(case, n), user, client_id));
                }
                let expected = memory.append(batch.clone()).await;
                assert_eq!(log.append(batch).await, expected);
            }
            Step::Read(n, query) => {
                let expected = memory.read(&room(case, n), query).await;
                assert_eq!(log.read(&room(case, n), query).await, expected);
            }
            Step::Restart => {
                drop(log);
                store.restart().await;
                log = store.instance().await;
            }
        }
    }
}

/// Whatever is done, one after the other, it answers like the log in memory.
///
/// # Panics
/// When it does not; likewise below.
#[expect(
    clippy::unused_async,
    reason = "stamped like the other cases, which wait"
)]
pub async fn it_behaves_as_the_log_in_memory(store: &dyn ChatStore) {
    let mut runner = TestRunner::new(Config {
        cases: 40,
        failure_persistence: None,
        ..Config::default()
    });
    // Each case has rooms of its own.
    let case = Cell::new(0);
    let outcome = tokio::task::block_in_place(|| {
        runner.run(&prop::collection::vec(step(), 1..40), |steps| {
            case.set(case.get() + 1);
            Handle::current().block_on(play(store, case.get(), steps));
            Ok(())
        })
    });
    outcome.unwrap();
}

/// Many at once in one room: numbers without holes, and a name that all give to a message makes it one message.
///
/// # Panics
/// As above.
pub async fn concurrent_batches_get_dense_numbers_and_each_client_id_once(store: &dyn ChatStore) {
    let instances = [store.instance().await, store.instance().await];
    let tasks = (0..40u128).map(|task| {
        let log = Arc::clone(&instances[usize::from(task % 2 == 0)]);
        tokio::spawn(async move {
            let name = |n| (n == 0).then(|| "the same".to_owned());
            let batch = (0..5).map(|n| new_message(task * 10 + n, room(0, 0), 0, name(n)));
            log.append(batch.collect()).await.unwrap()
        })
    });
    let outcomes = try_join_all(tasks).await.unwrap();
    let (repeats, placed): (Vec<_>, Vec<_>) = outcomes
        .into_iter()
        .flatten()
        .partition(|one| one.duplicate);
    let mut seqs: Vec<u64> = placed.iter().map(|one| one.message.seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=161).collect::<Vec<u64>>());
    assert_eq!(repeats.len(), 39);
    let ids: HashSet<Uuid> = repeats.iter().map(|one| one.message.id).collect();
    assert_eq!(ids.len(), 1);
}

/// Batches that name several rooms in any order, from several instances: nobody waits in a ring, and what each was told is
/// what stands there.
///
/// # Panics
/// As above.
pub async fn instances_that_share_rooms_agree_on_one_order(store: &dyn ChatStore) {
    let logs = futures::future::join_all((0..4).map(|_| store.instance())).await;
    let senders = (0..32u128).map(|sender| {
        let log = Arc::clone(&logs[usize::try_from(sender % 4).unwrap()]);
        tokio::spawn(async move {
            let mut told = Vec::new();
            for round in 0..10u128 {
                let id = sender * 1_000 + round * 10;
                let mut rooms = [0, 1, 2, 3, 4];
                rooms.rotate_left(usize::try_from(sender + round).unwrap() % 5);
                let batch = (0..)
                    .zip(rooms)
                    .map(|(n, r)| new_message(id + n, room(1, r), 0, None));
                told.extend(log.append(batch.collect()).await.unwrap());
            }
            told
        })
    });
    let told: Vec<Message> = try_join_all(senders)
        .await
        .unwrap()
        .into_iter()
        .flatten()
        .map(|one| one.message)
        .collect();
    let log = store.instance().await;
    for n in 0..5 {
        let stands = whole(&*log, &room(1, n)).await;
        assert_eq!(stands.len(), 320);
        assert!((1..).zip(&stands).all(|(seq, message)| message.seq == seq));
        let mut told: Vec<&Message> = told
            .iter()
            .filter(|message| message.room_id == room(1, n))
            .collect();
        told.sort_unstable_by_key(|message| message.seq);
        assert!(told.into_iter().eq(&stands));
    }
}

async fn whole(log: &dyn ChatLog, room: &RoomId) -> Vec<Message> {
    let query = HistoryQuery {
        after: 0,
        before: None,
        direction: Direction::Oldest,
        limit: 10_000,
    };
    log.read(room, query).await.unwrap().messages
}

/// Who reads on from where they were, while others write, misses nothing; the last seq belongs to the page.
///
/// # Panics
/// As above.
pub async fn a_reader_sees_no_hole_and_no_change(store: &dyn ChatStore) {
    const TOTAL: u64 = 3 * 60;
    let writers: Vec<_> = futures::future::join_all((0..3u128).map(|_| store.instance()))
        .await
        .into_iter()
        .zip(0u128..)
        .map(|(log, writer)| {
            tokio::spawn(async move {
                for n in 0..60 {
                    let message = new_message(writer * 1_000 + n, room(2, 0), 0, None);
                    log.append(vec![message]).await.unwrap();
                }
            })
        })
        .collect();
    let log = store.instance().await;
    let mut seen: Vec<Message> = Vec::new();
    while (seen.len() as u64) < TOTAL {
        let query = HistoryQuery {
            after: seen.len() as u64,
            before: None,
            direction: Direction::Oldest,
            limit: 7,
        };
        let page = log.read(&room(2, 0), query).await.unwrap();
        for message in page.messages {
            seen.push(message);
            assert_eq!(seen.last().map(|last| last.seq), Some(seen.len() as u64));
        }
        assert!(page.last_seq >= seen.len() as u64);
        let newest = HistoryQuery {
            after: 0,
            direction: Direction::Newest,
            limit: 1,
            ..query
        };
        let newest = log.read(&room(2, 0), newest).await.unwrap();
        let last = newest.messages.last().map_or(0, |message| message.seq);
        assert_eq!(newest.last_seq, last);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(whole(&*log, &room(2, 0)).await, seen);
}

/// What the erased wrote shows tombstones, also what still comes of theirs; others' messages and all numbers stay.
pub async fn what_the_erased_wrote_is_gone_and_numbers_stay(store: &impl ChatStore) {
    let log = store.instance().await;
    let room = room(9, 1);
    let send = async |id: u128, user: u8| {
        let message = new_message(id, room.clone(), user, Some(format!("client {id}")));
        log.append(vec![message]).await.unwrap().remove(0).message
    };
    let sent = [send(1, 1).await, send(2, 2).await, send(3, 1).await];
    let erased = sent[0].user_id;
    for _ in 0..2 {
        log.erase(erased).await.unwrap();
    }
    // Nobody is told what it said, and their own name for it is not kept: the same one again is another message.
    for seq in [4, 5] {
        let late = send(4, 1).await;
        assert_eq!((late.seq, &*late.message), (seq, ERASED_TEXT));
        assert_eq!(&*late.username, ERASED_TEXT);
    }
    send(5, 2).await;
    store.restart().await;
    let query = HistoryQuery {
        after: 0,
        before: None,
        direction: Direction::Oldest,
        limit: 10,
    };
    let history = store.instance().await.read(&room, query).await.unwrap();
    let seqs: Vec<u64> = history.messages.iter().map(|message| message.seq).collect();
    assert_eq!((seqs, history.last_seq), (vec![1, 2, 3, 4, 5, 6], 6));
    for message in &history.messages {
        let gone = message.user_id == erased;
        assert_eq!(&*message.username == ERASED_TEXT, gone, "{message:?}");
        assert_eq!(message.message == ERASED_TEXT, gone, "{message:?}");
    }
    assert_eq!(history.messages[1], sent[1]);
}
