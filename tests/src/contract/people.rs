//! The contract of what a log's store keeps of people: [`PersonKeys`], [`ErasureStore`], and the log sealed with those
//! keys ([`SealedLog`]).
//!
//! [`crate::people_contract`] stamps a test for each case and adapter. Each case gets an empty store.

use std::{collections::HashMap, sync::Arc};

use futures::future::try_join_all;
use socialhub_domain::{
    PostId, StreamId, Timestamp, UserId,
    event::{Media, PostCommented, PostCreated, UserErased, Visibility},
    personal::ERASED_TEXT,
};
use socialhub_event_log::{
    Append, AppendError, ERASED_EPOCH, ErasureStore, EventLog, FieldCipher, KeyRecord, KeyState,
    NewEvent, PendingErasure, PersonKey, PersonKeys, Position, SealedLog, SideWrite,
};
use socialhub_infra::security::AesGcmCipher;

use crate::contract::event_log::{Log, TestResult, append, id, sign_up, store_answer};

/// A store under test.
pub trait People: Log + PersonKeys + ErasureStore {}

impl<T: Log + PersonKeys + ErasureStore> People for T {}

/// Stamps the suite: `people_contract!(memory => expression; sqlite => expression)`. Each expression makes a fresh, empty
/// store and answers a pair: an `Arc` of it, and whatever must live as long as the test.
#[macro_export]
macro_rules! people_contract {
    (@stamp $factory:expr; $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() -> $crate::contract::event_log::TestResult {
                let (store, _keep) = $factory;
                $crate::contract::people::$case(store).await
            }
        )+
    };
    ($($adapter:ident => $factory:expr);+ $(;)?) => {
        $(
            mod $adapter {
                use super::*;
                $crate::people_contract!(@stamp $factory;
                    the_first_offered_key_stands,
                    of_keys_offered_at_once_one_stands,
                    a_destroyed_key_never_comes_back,
                    keys_are_paged_and_restored,
                    an_erasure_takes_credentials_and_answers_along,
                    of_many_answers_those_that_name_the_erased_are_forgotten,
                    an_erasure_that_was_not_asked_for_here_is_pending,
                    nobody_acts_after_their_erasure,
                    who_has_no_key_and_is_not_erased_in_the_log_is_told,
                    what_is_personal_stands_sealed_and_reads_as_it_was,
                    the_erased_read_as_tombstones_and_nobody_else_does,
                );
            }
        )+
    };
}

fn user() -> UserId {
    UserId(id())
}

fn new_key() -> PersonKey {
    AesGcmCipher.new_key()
}

async fn state(
    store: &dyn PersonKeys,
    user: UserId,
) -> Result<Option<KeyState>, super::event_log::Failure> {
    Ok(store.find(&[user]).await?.remove(&user))
}

/// What is offered is kept, unless there is a key already.
///
/// # Errors
/// When the store cannot answer.
pub async fn the_first_offered_key_stands<S: People>(store: Arc<S>) -> TestResult {
    let (ada, bob, nobody) = (user(), user(), user());
    let (first, second, other) = (new_key(), new_key(), new_key());
    assert!(store.find(&[ada, bob]).await?.is_empty());
    let standing = store.obtain(vec![(ada, first.clone())]).await?;
    assert_eq!(
        standing,
        HashMap::from([(ada, KeyState::Present(first.clone()))])
    );
    let standing = store
        .obtain(vec![(ada, second), (bob, other.clone())])
        .await?;
    let expected = HashMap::from([
        (ada, KeyState::Present(first)),
        (bob, KeyState::Present(other)),
    ]);
    assert_eq!(standing, expected);
    assert_eq!(store.find(&[bob, nobody, ada]).await?, expected);
    Ok(())
}

/// All who offer at once are answered the same key.
///
/// # Errors
/// When the store cannot answer.
pub async fn of_keys_offered_at_once_one_stands<S: People>(store: Arc<S>) -> TestResult {
    let ada = user();
    let offers = (0..16).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.obtain(vec![(ada, new_key())]).await })
    });
    let standing = try_join_all(offers).await?;
    let stands = state(&*store, ada).await?;
    for answer in standing {
        assert_eq!(answer?.remove(&ada), stands);
    }
    Ok(())
}

/// Neither an offer nor a backup brings a destroyed key back, and a key that never was leaves a mark, too.
///
/// # Errors
/// When the store cannot answer.
pub async fn a_destroyed_key_never_comes_back<S: People>(store: Arc<S>) -> TestResult {
    let (ada, bob, never) = (user(), user(), user());
    let key = new_key();
    store
        .obtain(vec![(ada, key.clone()), (bob, new_key())])
        .await?;
    store.destroy(ada, 7).await?;
    store.destroy(ada, 9).await?;
    store.destroy(never, 8).await?;
    for erased in [ada, never] {
        assert_eq!(state(&*store, erased).await?, Some(KeyState::Erased));
        let offered = store.obtain(vec![(erased, new_key())]).await?;
        assert_eq!(offered[&erased], KeyState::Erased);
        let back = KeyRecord {
            user_id: erased,
            key: Some(key.clone()),
            erased_at: None,
        };
        store.restore(vec![back]).await?;
        assert_eq!(state(&*store, erased).await?, Some(KeyState::Erased));
    }
    assert!(matches!(
        state(&*store, bob).await?,
        Some(KeyState::Present(_))
    ));
    let records = store.page(None, 10).await?;
    let marks: HashMap<_, _> = records.iter().map(|r| (r.user_id, r.erased_at)).collect();
    assert_eq!(
        marks,
        HashMap::from([(ada, Some(7)), (bob, None), (never, Some(8))])
    );
    Ok(())
}

/// Records come by id, page by page; a mark replaces a key, a key replaces nothing.
///
/// # Errors
/// When the store cannot answer.
pub async fn keys_are_paged_and_restored<S: People>(store: Arc<S>) -> TestResult {
    let people: Vec<UserId> = std::iter::repeat_with(user).take(5).collect();
    let record = |user: &UserId| KeyRecord {
        user_id: *user,
        key: Some(new_key()),
        erased_at: None,
    };
    let mut records: Vec<KeyRecord> = people.iter().map(record).collect();
    records[2].key = None;
    records[2].erased_at = Some(3);
    store.restore(records.clone()).await?;
    records.sort_by_key(|record| record.user_id);
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.page(after, 2).await?;
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 2);
        after = Some(last.user_id);
        found.extend(page);
    }
    assert_eq!(found, records);
    // A mark replaces a key, a key replaces nothing.
    let (first, last) = (found[0].clone(), found[4].clone());
    let erased = KeyRecord {
        key: None,
        erased_at: Some(11),
        ..first
    };
    let other = KeyRecord {
        key: Some(new_key()),
        ..last.clone()
    };
    store.restore(vec![erased.clone(), other]).await?;
    let found = store.page(None, 10).await?;
    assert_eq!((&found[0], &found[4]), (&erased, &last));
    Ok(())
}

/// The command that erases somebody.
pub fn erase(user_id: UserId, version: u64) -> Append {
    let event = UserErased {
        user_id,
        timestamp: Timestamp(9),
    };
    Append {
        events: vec![NewEvent {
            event_id: id(),
            event: event.into(),
            payload: None,
        }],
        side: vec![SideWrite::Erase { user_id }],
        ..append(&StreamId::new("user", user_id), version, 0)
    }
}

fn user_of(append: &Append) -> UserId {
    append
        .stream
        .aggregate_id
        .parse()
        .expect("a person's stream")
}

/// What commits with `user.erased`, and what is left to do after it.
///
/// # Errors
/// When the store cannot answer.
pub async fn an_erasure_takes_credentials_and_answers_along<S: People>(
    store: Arc<S>,
) -> TestResult {
    let mut ada = sign_up("ada", "ada@example.org");
    let id = user_of(&ada);
    let theirs = format!("{{\"id\":\"{id}\"}}");
    ada.side.push(store_answer("anonymous one", &theirs, 5));
    store.append(ada).await?;
    let mut bob = sign_up("bob", "bob@example.org");
    bob.side.push(store_answer("another's", "{}", 5));
    store.append(bob).await?;
    let own = SideWrite::StoreAnswer {
        key: answer_key(&id.to_string(), "own"),
        answer: stored("{}"),
    };
    let like = append(&StreamId::new("reset", super::event_log::id()), 0, 0);
    store
        .append(Append {
            side: vec![own],
            ..like
        })
        .await?;
    assert!(store.pending(0).await?.is_empty());
    assert_eq!(store.last_erased(Position::MAX).await?, 0);

    let position = store.append(erase(id, 1)).await?.position;
    assert_eq!(store.find_by_id(id).await?, None);
    assert_eq!(store.find_by_identifier("ADA").await?, None);
    assert_eq!(store.find_by_identifier("ada@example.org").await?, None);
    assert!(store.find_by_identifier("bob").await?.is_some());
    assert_eq!(store.raised_epochs().await?, [(id, ERASED_EPOCH)]);
    let find = async |owner: &str, key: &str| {
        store
            .find_answer(&answer_key(owner, key), Timestamp(6))
            .await
    };
    assert_eq!(find(&id.to_string(), "own").await?, None);
    let pending = PendingErasure {
        user_id: id,
        position,
        username: Some("ada".to_owned()),
        email: Some("ada@example.org".to_owned()),
    };
    assert_eq!(store.pending(0).await?, std::slice::from_ref(&pending));
    assert!(store.pending(position).await?.is_empty());

    // Once more is no fault and forgets nothing of what is to be done.
    let again = Append {
        events: Vec::new(),
        ..erase(id, 2)
    };
    store.append(again).await?;
    assert_eq!(store.pending(0).await?, std::slice::from_ref(&pending));
    // Name and address are free at once.
    store.append(sign_up("ADA", "ada@example.org")).await?;
    assert_eq!(store.last_erased(Position::MAX).await?, position);
    assert_eq!(store.last_erased(position + 1).await?, position);
    assert_eq!(store.last_erased(position).await?, 0);

    assert!(find("anonymous", "anonymous one").await?.is_some());
    store.forget_answers(id).await?;
    assert_eq!(find("anonymous", "anonymous one").await?, None);
    assert!(find("anonymous", "another's").await?.is_some());
    store.complete(&pending, Timestamp(12)).await?;
    assert!(store.pending(0).await?.is_empty());
    assert_eq!(store.raised_epochs().await?, [(id, ERASED_EPOCH)]);
    Ok(())
}

/// Answers are looked through in pieces: here are more than one holds, and commands that come in between.
///
/// # Errors
/// When the store cannot answer.
pub async fn of_many_answers_those_that_name_the_erased_are_forgotten<S: People>(
    store: Arc<S>,
) -> TestResult {
    let eve = user();
    let names_her = |nth: usize| nth.is_multiple_of(3) || nth == MANY - 1;
    let store_one = |nth: usize, body: String| {
        let side = vec![store_answer(&format!("answer {nth}"), &body, 5)];
        let command = append(&StreamId::new("answers", id()), 0, 0);
        let store = Arc::clone(&store);
        async move { store.append(Append { side, ..command }).await }
    };
    let answers = (0..MANY).map(|nth| {
        let named = if names_her(nth) { eve } else { user() };
        store_one(nth, format!("{{\"id\":\"{named}\"}}"))
    });
    for done in futures::future::join_all(answers).await {
        done?;
    }
    let later = (MANY..MANY + 20).map(|nth| store_one(nth, "{}".to_owned()));
    let (forgotten, later) =
        tokio::join!(store.forget_answers(eve), futures::future::join_all(later));
    forgotten?;
    for done in later {
        done?;
    }
    for nth in 0..MANY + 20 {
        let key = answer_key("anonymous", &format!("answer {nth}"));
        let found = store.find_answer(&key, Timestamp(6)).await?;
        assert_eq!(found.is_none(), nth < MANY && names_her(nth), "{nth}");
    }
    Ok(())
}

/// More than an adapter looks at in one piece, and not a multiple of it.
const MANY: usize = 2_345;

fn answer_key(owner: &str, key: &str) -> socialhub_event_log::AnswerKey {
    socialhub_event_log::AnswerKey {
        owner: owner.to_owned(),
        route: "POST /posts".to_owned(),
        key: key.to_owned(),
    }
}

fn stored(body: &str) -> socialhub_event_log::StoredAnswer {
    socialhub_event_log::StoredAnswer {
        fingerprint: [7; 32],
        body: body.to_owned(),
        position: 0,
        stored_at: Timestamp(5),
    }
}

/// The log says who is erased, also without the row that commits with it.
///
/// # Errors
/// When the store cannot answer.
pub async fn an_erasure_that_was_not_asked_for_here_is_pending<S: People>(
    store: Arc<S>,
) -> TestResult {
    let id = user();
    let imported = Append {
        side: Vec::new(),
        ..erase(id, 0)
    };
    let position = store.append(imported).await?.position;
    let pending = PendingErasure {
        user_id: id,
        position,
        username: None,
        email: None,
    };
    assert_eq!(store.pending(0).await?, std::slice::from_ref(&pending));
    store.complete(&pending, Timestamp(12)).await?;
    assert!(store.pending(0).await?.is_empty());
    assert_eq!(store.raised_epochs().await?, [(id, ERASED_EPOCH)]);
    Ok(())
}

/// A command of somebody on a stream of its own, whose answer is kept.
fn acts(actor: UserId, key: &str) -> Append {
    let answer = SideWrite::StoreAnswer {
        key: answer_key(&actor.to_string(), key),
        answer: stored("{\"content\":\"in clear\"}"),
    };
    let mut command = append(&StreamId::new("post", id()), 0, 1);
    command.metadata.actor = Some(actor);
    command.side.push(answer);
    command
}

/// A command that comes to the log after `user.erased`, or with a key that is destroyed, writes nothing; also when both
/// come at once. What was done before answers as it did.
///
/// # Errors
/// When the store cannot answer.
pub async fn nobody_acts_after_their_erasure<S: People>(store: Arc<S>) -> TestResult {
    let (ada, bob) = (user(), user());
    let first = acts(ada, "first");
    let done = store.append(first.clone()).await?;
    store.append(erase(ada, 0)).await?;
    let refused = |outcome| matches!(outcome, Err(AppendError::ActorErased));
    assert!(refused(store.append(acts(ada, "second")).await));
    let mut without_events = acts(ada, "third");
    without_events.events.clear();
    assert!(refused(store.append(without_events).await));
    assert_eq!(store.append(first).await?, done);
    // By an import, that is, before the erasure is noted here.
    store.destroy(bob, 1).await?;
    assert!(refused(store.append(acts(bob, "first")).await));
    store.append(acts(user(), "another's")).await?;

    let eve = user();
    let commands = (0..32).map(|nth| match nth {
        16 => erase(eve, 0),
        _ => acts(eve, &format!("command {nth}")),
    });
    let commands: Vec<_> = commands
        .map(|command| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.append(command).await })
        })
        .collect();
    for (nth, outcome) in try_join_all(commands).await?.into_iter().enumerate() {
        assert!(outcome.is_ok() || (nth != 16 && refused(outcome)), "{nth}");
        // Of those that came before it none is kept, either.
        let key = answer_key(&eve.to_string(), &format!("command {nth}"));
        assert_eq!(store.find_answer(&key, Timestamp(6)).await?, None);
    }
    let events = store.read_all(0, 100).await?;
    let of_eve = |event: &&socialhub_event_log::RecordedEvent| {
        event.metadata.actor == Some(eve) || event.stream.aggregate_id == eve.to_string()
    };
    let last = events.iter().rfind(of_eve).ok_or("nothing of hers")?;
    assert_eq!(last.event_type, "user.erased");
    Ok(())
}

/// After the return of an older log: the keys know more.
///
/// # Errors
/// When the store cannot answer.
pub async fn who_has_no_key_and_is_not_erased_in_the_log_is_told<S: People>(
    store: Arc<S>,
) -> TestResult {
    let (ada, bob, stranger) = (user(), user(), user());
    for person in [ada, bob] {
        store
            .append(append(&StreamId::new("user", person), 0, 1))
            .await?;
    }
    store.obtain(vec![(bob, new_key())]).await?;
    store.destroy(ada, 70).await?;
    store.destroy(stranger, 80).await?;
    assert_eq!(store.unsaid().await?, [ada]);
    assert_eq!(store.strangers().await?, [stranger]);
    store.append(erase(ada, 1)).await?;
    assert!(store.unsaid().await?.is_empty());
    assert_eq!(store.strangers().await?, [stranger]);
    Ok(())
}

const SECRETS: [&str; 4] = [
    "\"quoted\" näme",
    "a {\"sealed\":\"text\"}",
    "/media/x/0",
    "what bob says",
];

/// A post of one person with a comment of another.
fn post_and_comment(author: UserId, commenter: UserId) -> Append {
    let post_id = PostId(id());
    let post = PostCreated {
        post_id,
        user_id: author,
        username: SECRETS[0].to_owned(),
        content: SECRETS[1].to_owned(),
        visibility: Visibility::Public,
        media: vec![Media {
            url: SECRETS[2].to_owned(),
            content_type: "image/png".to_owned(),
            size: 3,
        }],
        timestamp: Timestamp(5),
    };
    let comment = PostCommented {
        post_id,
        comment_id: socialhub_domain::CommentId(id()),
        post_author_id: author,
        commenter_id: commenter,
        commenter_username: "bob".to_owned(),
        comment: SECRETS[3].to_owned(),
        timestamp: Timestamp(6),
    };
    let events = [post.into(), comment.into()];
    let new = |event| NewEvent {
        event_id: id(),
        event,
        payload: None,
    };
    Append {
        events: events.map(new).to_vec(),
        ..append(&StreamId::new("post", post_id), 0, 0)
    }
}

fn sealed<S: People>(store: &Arc<S>) -> SealedLog {
    SealedLog::new(store.clone(), store.clone(), Arc::new(AesGcmCipher))
}

/// No personal text stands in the store, and whoever reads it through the seal sees what was written.
///
/// # Errors
/// When the store cannot answer.
pub async fn what_is_personal_stands_sealed_and_reads_as_it_was<S: People>(
    store: Arc<S>,
) -> TestResult {
    let log = sealed(&store);
    let (ada, bob) = (user(), user());
    let command = post_and_comment(ada, bob);
    let (stream, events) = (command.stream.clone(), command.events.clone());
    log.append(command.clone()).await?;
    log.append(command).await?;

    let raw = store.read_all(0, 10).await?;
    assert_eq!(raw.len(), 2);
    for event in &raw {
        for secret in SECRETS.iter().chain(&["bob\""]) {
            assert!(!event.payload.contains(secret), "{}", event.payload);
        }
    }
    assert!(
        raw[0].payload.contains(&ada.to_string()),
        "ids are pseudonyms and stay"
    );
    // Another process, with nothing in its cache.
    for log in [log, sealed(&store)] {
        let read = log.read_all(0, 10).await?;
        assert_eq!(read, log.read_stream(&stream).await?);
        assert_eq!(
            vec![read.clone()],
            log.read_streams(std::slice::from_ref(&stream)).await?
        );
        for (read, new) in read.iter().zip(&events) {
            assert_eq!(read.decode()?, new.event);
        }
    }
    Ok(())
}

/// Without the key the fields of one person are tombstones; those of others in the same events stay.
///
/// # Errors
/// When the store cannot answer.
pub async fn the_erased_read_as_tombstones_and_nobody_else_does<S: People>(
    store: Arc<S>,
) -> TestResult {
    let log = sealed(&store);
    let (ada, bob) = (user(), user());
    let command = post_and_comment(ada, bob);
    let clear: Vec<_> = command.events.iter().map(|new| new.event.clone()).collect();
    log.append(command).await?;
    store.destroy(ada, 3).await?;
    let expected: Vec<_> = clear
        .iter()
        .map(|event| socialhub_domain::personal::redacted(event, |user| user == ada))
        .collect();
    let read = async |log: &SealedLog| -> Result<Vec<_>, super::event_log::Failure> {
        let read = log.read_all(0, 10).await?;
        Ok(read
            .iter()
            .map(|event| event.decode().expect("it reads"))
            .collect())
    };
    assert_eq!(read(&sealed(&store)).await?, expected);
    // The process that used the key a moment ago forgets it when it is told, or in time.
    log.forget(ada);
    assert_eq!(read(&log).await?, expected);

    // What a request under way still writes of hers is a tombstone from the start.
    log.append(post_and_comment(ada, bob)).await?;
    let raw = store.read_all(2, 1).await?;
    assert!(raw[0].payload.contains(ERASED_TEXT), "{}", raw[0].payload);
    assert!(!raw[0].payload.contains("sealed"), "{}", raw[0].payload);
    // A log that is asked for something else is not concerned.
    let refused = log.append(append(&StreamId::new("post", id()), 1, 1)).await;
    assert!(matches!(refused, Err(AppendError::VersionConflict { .. })));
    Ok(())
}
