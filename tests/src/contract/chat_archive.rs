//! The contract of the chat log as rows: [`ChatArchive`].
//!
//! [`crate::chat_archive_contract`] stamps a test for each case and adapter.

use std::sync::Arc;

use async_trait::async_trait;
use socialhub_chat::{
    ChatArchive, ChatArchiveError, ChatLog, ChatUser, Direction, HistoryQuery, Known, Message,
    MessageName, NewMessage, RoomId,
};
use socialhub_domain::{Timestamp, UserId};
use uuid::Uuid;

/// An empty place for a chat log.
#[async_trait]
pub trait ChatPlace: Send + Sync {
    /// The log as a server opens it.
    async fn log(&self) -> Arc<dyn ChatLog>;

    /// The log for copying.
    async fn archive(&self) -> Arc<dyn ChatArchive>;
}

/// Stamps the suite: `chat_archive_contract!(sqlite => expression)`. Each expression makes a fresh [`ChatPlace`].
#[macro_export]
macro_rules! chat_archive_contract {
    (@stamp $place:expr; $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::contract::chat_archive::$case(&$place, &$place).await
            }
        )+
    };
    ($($adapter:ident => $place:expr);+ $(;)?) => {
        $(
            mod $adapter {
                use super::*;
                $crate::chat_archive_contract!(@stamp $place;
                    a_copy_is_the_same_chat,
                    messages_that_do_not_follow_are_refused_whole,
                    what_is_there_is_compared,
                    the_erased_are_erased_in_an_older_copy,
                    of_many_messages_those_of_the_erased_are_gone,
                );
            }
        )+
    };
}

/// Rooms whose names are in another order than they were made in.
const ROOMS: [&str; 4] = ["b", "dm:x", "B", "é"];

fn message(n: u64, name: Option<String>) -> NewMessage {
    NewMessage {
        id: Uuid::from_u128(u128::from(n) + 1),
        room: RoomId::parse(ROOMS[usize::try_from(n % 4).unwrap()]).unwrap(),
        user: ChatUser {
            id: UserId(Uuid::from_u128(u128::from(n % 3))),
            username: format!("user\u{0}{}", n % 3).into(),
        },
        text: format!("text {n}\u{0}é"),
        client_id: name,
        at: Timestamp(i64::try_from(n).unwrap()),
    }
}

/// Every other message has a name.
fn named(n: u64) -> NewMessage {
    message(n, n.is_multiple_of(2).then(|| format!("name {n}")))
}

async fn fill(place: &dyn ChatPlace) {
    let messages = (0..60).map(named).collect();
    place.log().await.append(messages).await.unwrap();
}

async fn rows(archive: &dyn ChatArchive, page: usize) -> (Vec<Message>, Vec<MessageName>) {
    let (mut messages, mut names) = (Vec::<Message>::new(), Vec::<MessageName>::new());
    loop {
        let after = messages.last().map(|last| (last.room_id.clone(), last.seq));
        let next = archive.read_messages(after, page).await.unwrap();
        assert!(next.len() <= page);
        if next.is_empty() {
            break;
        }
        messages.extend(next);
    }
    loop {
        let after = names.last();
        let after = after.map(|last| (last.room_id.clone(), last.user_id, last.client_id.clone()));
        let next = archive.read_names(after, page).await.unwrap();
        if next.is_empty() {
            break;
        }
        names.extend(next);
    }
    (messages, names)
}

/// Pages written elsewhere are the same chat, names included; it goes on where the first one stood.
pub async fn a_copy_is_the_same_chat(source: &dyn ChatPlace, target: &dyn ChatPlace) {
    fill(source).await;
    let from = source.archive().await;
    let (messages, names) = rows(&*from, 1_000).await;
    assert_eq!((messages.len(), names.len()), (60, 30));
    assert!(
        messages.is_sorted_by(|a, b| (a.room_id.as_str(), a.seq) < (b.room_id.as_str(), b.seq))
    );
    assert_eq!(rows(&*from, 7).await, (messages.clone(), names.clone()));
    let to = target.archive().await;
    for page in names.chunks(8) {
        let new = to.write_names(page.to_vec()).await.unwrap();
        assert_eq!(new, page.len() as u64);
    }
    for page in messages.chunks(8) {
        let new = to.write_messages(page.to_vec(), Known::Same).await.unwrap();
        assert_eq!(new, page.len() as u64);
    }
    assert_eq!(rows(&*to, 7).await, (messages, names));
    let log = target.log().await;
    let again = log
        .append(vec![named(58), message(60, None)])
        .await
        .unwrap();
    assert!(again[0].duplicate && !again[1].duplicate);
    let room = RoomId::parse(ROOMS[0]).unwrap();
    let query = HistoryQuery {
        after: 14,
        before: None,
        direction: Direction::Oldest,
        limit: 10,
    };
    let (old, new) = (source.log().await, log.read(&room, query).await.unwrap());
    assert_eq!(
        old.read(&room, query).await.unwrap().messages[..],
        new.messages[..1]
    );
    assert_eq!(new.last_seq, 16);
}

/// A hole in a room leaves nothing, whatever good messages come before it.
pub async fn messages_that_do_not_follow_are_refused_whole(
    source: &dyn ChatPlace,
    target: &dyn ChatPlace,
) {
    fill(source).await;
    let (messages, _) = rows(&*source.archive().await, 1_000).await;
    let to = target.archive().await;
    let mut hole = messages.clone();
    hole.remove(20);
    let refused = to.write_messages(hole, Known::Same).await;
    assert!(
        matches!(
            refused,
            Err(ChatArchiveError::Gap {
                last: 5,
                seq: 7,
                ..
            })
        ),
        "{refused:?}"
    );
    let mut zero = messages[..1].to_vec();
    zero[0].seq = 0;
    let refused = to.write_messages(zero, Known::Same).await;
    assert!(matches!(refused, Err(ChatArchiveError::Gap { .. })));
    assert!(rows(&*to, 1_000).await.0.is_empty());
}

/// What is written again is left alone when it is the same, and refused when it is not.
pub async fn what_is_there_is_compared(source: &dyn ChatPlace, target: &dyn ChatPlace) {
    fill(source).await;
    let (messages, names) = rows(&*source.archive().await, 1_000).await;
    let to = target.archive().await;
    assert_eq!(
        to.write_messages(messages[..40].to_vec(), Known::Same)
            .await
            .unwrap(),
        40
    );
    assert_eq!(
        to.write_messages(messages.clone(), Known::Same)
            .await
            .unwrap(),
        20
    );
    assert_eq!(to.write_names(names[..10].to_vec()).await.unwrap(), 10);
    assert_eq!(to.write_names(names.clone()).await.unwrap(), 20);
    let mut other = messages.clone();
    other[33].message = "other words".to_owned();
    let compared = to.compare_messages(other.clone(), Known::Older).await;
    assert!(matches!(compared, Err(ChatArchiveError::Other { .. })));
    let refused = to.write_messages(other, Known::Older).await;
    let (room, seq) = (&messages[33].room_id, messages[33].seq);
    assert!(
        matches!(&refused, Err(ChatArchiveError::Other { room: r, seq: s }) if r == room && *s == seq),
        "{refused:?}"
    );
    let mut other = names.clone();
    other[3].seq += 1;
    let compared = to.compare_names(other.clone()).await;
    assert!(matches!(compared, Err(ChatArchiveError::Other { .. })));
    let refused = to.write_names(other).await;
    assert!(
        matches!(refused, Err(ChatArchiveError::Other { .. })),
        "{refused:?}"
    );
    to.compare_messages(messages.clone(), Known::Same)
        .await
        .unwrap();
    to.compare_names(names.clone()).await.unwrap();
    assert_eq!(rows(&*to, 1_000).await, (messages, names));
}

/// Whoever was erased since an older copy is erased in it, too, and whoever is erased here stays so.
pub async fn the_erased_are_erased_in_an_older_copy(
    source: &dyn ChatPlace,
    target: &dyn ChatPlace,
) {
    fill(source).await;
    let (from, to) = (source.archive().await, target.archive().await);
    let (old, old_names) = rows(&*from, 1_000).await;
    to.write_names(old_names.clone()).await.unwrap();
    to.write_messages(old[..40].to_vec(), Known::Same)
        .await
        .unwrap();
    let eve = UserId(Uuid::from_u128(1));
    source.log().await.erase(eve).await.unwrap();
    let (new, names) = rows(&*from, 1_000).await;
    let strict = to.compare_messages(new.clone(), Known::Same).await;
    assert!(matches!(strict, Err(ChatArchiveError::Other { .. })));
    to.compare_messages(new.clone(), Known::Older)
        .await
        .unwrap();
    let hers = old.iter().filter(|message| message.user_id == eve);
    let there = hers.clone().filter(|message| old[..40].contains(message));
    let changed = 20 + there.count() as u64;
    assert_eq!(to.write_names(names.clone()).await.unwrap(), 0);
    let written = to.write_messages(new.clone(), Known::Older).await;
    assert_eq!(written.unwrap(), changed);
    assert_eq!(rows(&*to, 1_000).await, (new.clone(), names.clone()));
    // What was exported before all of hers was erased brings nothing back.
    let again = to.write_messages(old.clone(), Known::Same).await;
    assert_eq!(again.unwrap(), 0);
    target.log().await.erase(eve).await.unwrap();
    assert_eq!(to.write_names(old_names).await.unwrap(), 0);
    let room = old[0].room_id.clone();
    let in_room = old.iter().filter(|message| message.room_id == room);
    let late = Message {
        id: Uuid::from_u128(1_000),
        seq: in_room.count() as u64 + 1,
        room_id: room,
        user_id: eve,
        username: "eve".into(),
        message: "late".to_owned(),
        timestamp: Timestamp(1),
    };
    let written = to.write_messages(vec![late.clone()], Known::Older).await;
    assert_eq!(written.unwrap(), 1);
    let (all, left) = rows(&*to, 1_000).await;
    let kept = all.iter().find(|message| message.id == late.id).unwrap();
    assert_eq!((&*kept.username, &*kept.message), ("[erased]", "[erased]"));
    assert_eq!(left, names);
}

/// Somebody's messages are erased in pieces: here are more than one holds, in several rooms, and more come in between.
pub async fn of_many_messages_those_of_the_erased_are_gone(
    place: &dyn ChatPlace,
    _: &dyn ChatPlace,
) {
    let log = place.log().await;
    let all: Vec<NewMessage> = (0..7_500).map(named).collect();
    for batch in all.chunks(500) {
        log.append(batch.to_vec()).await.unwrap();
    }
    let archive = place.archive().await;
    let before = rows(&*archive, 10_000).await;
    let eve = UserId(Uuid::from_u128(1));
    let late = (7_500..7_800).map(|n| log.append(vec![named(n)]));
    let (erased, late) = tokio::join!(log.erase(eve), futures::future::join_all(late));
    erased.unwrap();
    let late = late
        .into_iter()
        .all(|placed| placed.is_ok_and(|placed| !placed[0].duplicate));
    assert!(late);
    let (messages, names) = rows(&*archive, 10_000).await;
    assert_eq!(messages.len(), 7_800);
    for message in &messages {
        let gone = (&*message.username, &*message.message) == ("[erased]", "[erased]");
        assert_eq!(gone, message.user_id == eve, "{message:?}");
    }
    assert!(names.iter().all(|name| name.user_id != eve));
    let others = |(messages, names): &(Vec<Message>, Vec<MessageName>)| {
        let messages = messages.iter().filter(|message| message.user_id != eve);
        let old = |message: &&Message| message.timestamp.0 < 7_500;
        let messages: Vec<Message> = messages.filter(old).cloned().collect();
        let old = |name: &&MessageName| {
            let nth: u64 = name.client_id.trim_start_matches("name ").parse().unwrap();
            name.user_id != eve && nth < 7_500
        };
        let names: Vec<MessageName> = names.iter().filter(old).cloned().collect();
        (messages, names)
    };
    assert_eq!(others(&(messages, names)), others(&before));
}
