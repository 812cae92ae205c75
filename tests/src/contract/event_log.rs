//! The contract of the event log: [`EventLog`] and [`CredentialsReader`].
//!
//! Each case gets an empty log. [`crate::event_log_contract`] stamps a test for each case and adapter. The cases of
//! concurrency spawn far more callers than there are threads, so that an adapter that commits in groups meets conflicts
//! within one group.

use std::{collections::HashSet, error::Error, sync::Arc, time::Duration};

use futures::future::try_join_all;
use socialhub_domain::{
    IdGenerator, PostId, StreamId, Timestamp, UserId, event::PostDeleted, event::UserRegistered,
};
use socialhub_event_log::{
    AnswerKey, Append, AppendError, Appended, CredentialField, Credentials, CredentialsReader,
    EventLog, Metadata, NewEvent, Position, RecordedEvent, SideWrite, StoredAnswer,
};
use socialhub_infra::clock::RandomIds;
use uuid::Uuid;

/// What a case answers; an error fails the test with its message.
pub type TestResult = Result<(), Failure>;

/// Whatever went wrong.
pub type Failure = Box<dyn Error + Send + Sync>;

/// A log under test.
pub trait Log: EventLog + CredentialsReader + 'static {}

impl<T: EventLog + CredentialsReader + 'static> Log for T {}

/// How many callers a case of concurrency has.
const CALLERS: usize = 64;

/// Stamps the suite: `event_log_contract!(memory => expression; sqlite => expression)`. Each expression makes a fresh,
/// empty log and answers a pair: an `Arc<dyn Log>`, and whatever must live as long as the test.
#[macro_export]
macro_rules! event_log_contract {
    (@stamp $factory:expr; $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() -> $crate::contract::event_log::TestResult {
                let (log, _keep) = $factory;
                $crate::contract::event_log::$case(log).await
            }
        )+
    };
    ($($adapter:ident => $factory:expr);+ $(;)?) => {
        $(
            mod $adapter {
                use super::*;
                $crate::event_log_contract!(@stamp $factory;
                    an_empty_log_reads_as_empty,
                    what_was_appended_is_read_back,
                    positions_are_dense_and_in_order,
                    streams_are_read_in_the_order_asked,
                    a_wrong_version_is_refused,
                    of_callers_on_one_stream_one_wins_each_version,
                    callers_on_different_streams_all_succeed,
                    a_losing_command_leaves_nothing,
                    a_repeated_command_changes_nothing,
                    a_repeated_command_without_events_changes_nothing,
                    a_command_sent_many_times_at_once_happens_once,
                    a_command_without_events_answers_the_head,
                    credentials_are_unique_whatever_the_case,
                    credentials_are_found_whatever_the_case,
                    of_sign_ups_with_one_name_one_wins,
                    a_reset_raises_the_epoch,
                    a_reset_of_nobody_is_refused,
                    an_answer_stands_for_a_day,
                    losers_of_an_idempotency_key_see_the_winners_answer,
                    events_and_side_rows_commit_together,
                    a_tailing_reader_sees_no_gap,
                    the_watched_head_is_told,
                );
            }
        )+
    };
}

/// A fresh id.
pub fn id() -> Uuid {
    RandomIds.next_id()
}

/// The stream of a fresh post.
pub fn post_stream() -> StreamId {
    StreamId::new("post", id())
}

/// An event to append; nothing in the log looks at what it says.
pub fn new_event() -> NewEvent {
    let event = PostDeleted {
        post_id: PostId(id()),
        user_id: UserId(id()),
        timestamp: Timestamp(1_700_000_000_123),
    };
    NewEvent {
        event_id: id(),
        event: event.into(),
        payload: None,
    }
}

/// A command of `events` events on a stream.
pub fn append(stream: &StreamId, expected_version: u64, events: usize) -> Append {
    Append {
        command_id: id(),
        stream: stream.clone(),
        expected_version,
        events: std::iter::repeat_with(new_event).take(events).collect(),
        metadata: Metadata {
            occurred_at: Timestamp(1_700_000_000_456),
            ..Metadata::default()
        },
        side: Vec::new(),
    }
}

/// A sign-up: an event on a new user's stream and their credentials.
pub fn sign_up(username: &str, email: &str) -> Append {
    let user_id = UserId(id());
    let event = UserRegistered {
        user_id,
        username: username.to_owned(),
        name: "Name".to_owned(),
        timestamp: Timestamp(1),
    };
    Append {
        events: vec![NewEvent {
            event_id: id(),
            event: event.into(),
            payload: None,
        }],
        side: vec![SideWrite::InsertCredentials(Credentials {
            user_id,
            username: username.to_owned(),
            email: email.to_owned(),
            password_hash: "first hash".to_owned(),
            token_epoch: 1,
        })],
        ..append(&StreamId::new("user", user_id), 0, 0)
    }
}

fn answer_key(key: &str) -> AnswerKey {
    AnswerKey {
        owner: "anonymous".to_owned(),
        route: "POST /posts".to_owned(),
        key: key.to_owned(),
    }
}

fn answer(body: &str, stored_at: i64) -> StoredAnswer {
    StoredAnswer {
        fingerprint: [7; 32],
        body: body.to_owned(),
        position: 0,
        stored_at: Timestamp(stored_at),
    }
}

/// A row that keeps an answer under a key of nobody in particular.
pub fn store_answer(key: &str, body: &str, stored_at: i64) -> SideWrite {
    SideWrite::StoreAnswer {
        key: answer_key(key),
        answer: answer(body, stored_at),
    }
}

/// The whole log.
pub async fn all(log: &dyn Log) -> Result<Vec<RecordedEvent>, Box<dyn Error + Send + Sync>> {
    Ok(log.read_all(0, usize::MAX).await?)
}

/// That positions run from 1 without gaps, and sequences likewise in each stream.
pub fn assert_dense(events: &[RecordedEvent]) {
    let mut versions = std::collections::HashMap::new();
    for (event, position) in events.iter().zip(1..) {
        assert_eq!(event.position, position);
        let version = versions.entry(&event.stream).or_insert(0);
        *version += 1;
        assert_eq!(event.sequence, *version, "in {}", event.stream);
    }
}

/// The outcomes of commands sent at the same time, in the order given.
async fn at_once(
    log: &Arc<dyn Log>,
    commands: Vec<Append>,
) -> Result<Vec<Result<Appended, AppendError>>, tokio::task::JoinError> {
    let send = |command| {
        let log = Arc::clone(log);
        tokio::spawn(async move { log.append(command).await })
    };
    try_join_all(commands.into_iter().map(send)).await
}

/// Nothing is there yet.
///
/// # Errors
/// When the log cannot answer; likewise below.
pub async fn an_empty_log_reads_as_empty(log: Arc<dyn Log>) -> TestResult {
    assert_eq!(log.head().await?, 0);
    assert_eq!(*log.watch_head().borrow(), 0);
    assert_eq!(log.read_all(0, 10).await?, []);
    assert_eq!(log.read_all(99, 10).await?, []);
    assert_eq!(log.read_stream(&post_stream()).await?, []);
    assert!(log.find_by_identifier("nobody").await?.is_none());
    assert!(log.find_by_id(UserId(id())).await?.is_none());
    assert!(log.raised_epochs().await?.is_empty());
    let found = log.find_answer(&answer_key("none"), Timestamp(0)).await?;
    assert!(found.is_none());
    Ok(())
}

/// Every field comes back as it went in.
///
/// # Errors
/// As above.
pub async fn what_was_appended_is_read_back(log: Arc<dyn Log>) -> TestResult {
    let mut full = append(&post_stream(), 0, 2);
    full.metadata = Metadata {
        actor: Some(UserId(id())),
        occurred_at: Timestamp(-5),
        correlation_id: Some("a \"quoted\" \u{1F980} id\n".to_owned()),
        causation_id: Some(full.command_id),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    };
    let bare = append(&post_stream(), 0, 1);
    for command in [&full, &bare] {
        log.append(command.clone()).await?;
        let stored = log.read_stream(&command.stream).await?;
        assert_eq!(stored.len(), command.events.len());
        for (event, new) in stored.iter().zip(&command.events) {
            assert_eq!(event.event_id, new.event_id);
            assert_eq!(event.stream, command.stream);
            assert_eq!(event.event_type, new.event.event_type());
            assert_eq!(event.event_version, new.event.event_version());
            assert_eq!(event.metadata, command.metadata);
            assert_eq!(event.decode()?, new.event);
        }
    }
    Ok(())
}

/// Positions run from 1 over all streams, in the order of the appends; pages of the log are its slices.
///
/// # Errors
/// As above.
pub async fn positions_are_dense_and_in_order(log: Arc<dyn Log>) -> TestResult {
    let mut expected = Vec::new();
    for events in [1, 3, 2, 1] {
        let command = append(&post_stream(), 0, events);
        let ids: Vec<Uuid> = command.events.iter().map(|event| event.event_id).collect();
        expected.extend(ids);
        let appended = log.append(command).await?;
        assert_eq!(appended.position, expected.len() as Position);
        assert_eq!(appended.version, events as u64);
        assert_eq!(log.head().await?, appended.position);
    }
    let events = all(&*log).await?;
    assert_dense(&events);
    let ids: Vec<Uuid> = events.iter().map(|event| event.event_id).collect();
    assert_eq!(ids, expected);
    for (after, limit) in [(0, 0), (0, 3), (2, 3), (6, 100), (7, 100), (u64::MAX, 1)] {
        let page = log.read_all(after, limit).await?;
        let from = usize::try_from(after).unwrap_or(usize::MAX).min(7);
        assert_eq!(page, events[from..7.min(from + limit)]);
    }
    Ok(())
}

/// Several streams in one call: in the order asked, empty where there is none.
///
/// # Errors
/// As above.
pub async fn streams_are_read_in_the_order_asked(log: Arc<dyn Log>) -> TestResult {
    let (one, two, none) = (post_stream(), post_stream(), post_stream());
    log.append(append(&one, 0, 1)).await?;
    log.append(append(&two, 0, 2)).await?;
    log.append(append(&one, 1, 1)).await?;
    let asked = [two.clone(), none, one.clone(), two.clone()];
    let read = log.read_streams(&asked).await?;
    let (one, two) = (log.read_stream(&one).await?, log.read_stream(&two).await?);
    assert_eq!(read, [two.clone(), Vec::new(), one, two]);
    assert!(log.read_streams(&[]).await?.is_empty());
    Ok(())
}

/// Too old and too new a version are both conflicts and tell the actual one.
///
/// # Errors
/// As above.
pub async fn a_wrong_version_is_refused(log: Arc<dyn Log>) -> TestResult {
    let stream = post_stream();
    log.append(append(&stream, 0, 2)).await?;
    for wrong in [0, 1, 3, u64::MAX] {
        match log.append(append(&stream, wrong, 1)).await {
            Err(AppendError::VersionConflict { expected, actual }) => {
                assert_eq!((expected, actual), (wrong, 2));
            }
            other => return Err(format!("expected a conflict, got {other:?}").into()),
        }
    }
    assert_eq!(log.head().await?, 2);
    assert_eq!(log.append(append(&stream, 2, 1)).await?.version, 3);
    Ok(())
}

/// Many callers race for each version of one stream: exactly one gets it.
///
/// # Errors
/// As above.
pub async fn of_callers_on_one_stream_one_wins_each_version(log: Arc<dyn Log>) -> TestResult {
    let stream = post_stream();
    for version in 0..10 {
        let commands = (0..CALLERS).map(|_| append(&stream, version, 1));
        let outcomes = at_once(&log, commands.collect()).await?;
        let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(won, 1, "at version {version}");
        for outcome in outcomes {
            match outcome {
                Ok(appended) => assert_eq!(appended.version, version + 1),
                Err(AppendError::VersionConflict { actual, .. }) => assert_eq!(actual, version + 1),
                Err(error) => return Err(error.into()),
            }
        }
    }
    let events = all(&*log).await?;
    assert_eq!(events.len(), 10);
    assert_dense(&events);
    Ok(())
}

/// Callers that share nothing never hinder one another.
///
/// # Errors
/// As above.
pub async fn callers_on_different_streams_all_succeed(log: Arc<dyn Log>) -> TestResult {
    let caller = |_| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let stream = post_stream();
            let mut positions = Vec::new();
            for version in 0..10 {
                let appended = log.append(append(&stream, version, 1)).await?;
                assert_eq!(appended.version, version + 1);
                positions.push(appended.position);
            }
            assert!(positions.is_sorted());
            Ok::<_, AppendError>(positions)
        })
    };
    let mut told = HashSet::new();
    for positions in try_join_all((0..CALLERS).map(caller)).await? {
        told.extend(positions?);
    }
    let events = all(&*log).await?;
    assert_dense(&events);
    let stored: HashSet<Position> = events.iter().map(|event| event.position).collect();
    assert_eq!(told, stored);
    Ok(())
}

/// Commands of several events and side rows race: the losers leave neither events nor rows.
///
/// # Errors
/// As above.
pub async fn a_losing_command_leaves_nothing(log: Arc<dyn Log>) -> TestResult {
    let stream = post_stream();
    let command = |caller: usize| Append {
        side: [
            sign_up(&format!("name{caller}"), &format!("{caller}@example.org")).side,
            vec![store_answer(&caller.to_string(), "done", 1)],
        ]
        .concat(),
        ..append(&stream, 0, 3)
    };
    let outcomes = at_once(&log, (0..CALLERS).map(command).collect()).await?;
    assert_eq!(log.head().await?, 3);
    assert_eq!(log.read_stream(&stream).await?.len(), 3);
    for (caller, outcome) in outcomes.iter().enumerate() {
        let key = answer_key(&caller.to_string());
        let answer = log.find_answer(&key, Timestamp(1)).await?;
        let person = log.find_by_identifier(&format!("name{caller}")).await?;
        assert_eq!(answer.is_some(), outcome.is_ok());
        assert_eq!(person.is_some(), outcome.is_ok());
    }
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    Ok(())
}

/// The same command id again answers what the first one did, whatever it asks for and whatever came between.
///
/// # Errors
/// As above.
pub async fn a_repeated_command_changes_nothing(log: Arc<dyn Log>) -> TestResult {
    let stream = post_stream();
    let mut command = append(&stream, 0, 2);
    command.side = vec![store_answer("key", "done", 1)];
    let first = log.append(command.clone()).await?;
    log.append(append(&stream, 2, 1)).await?;
    let decided_anew = Append {
        command_id: command.command_id,
        ..append(&stream, 3, 1)
    };
    for again in [command, decided_anew] {
        assert_eq!(log.append(again).await?, first);
    }
    assert_eq!(log.head().await?, 3);
    Ok(())
}

/// Likewise for a command that only wrote side rows.
///
/// # Errors
/// As above.
pub async fn a_repeated_command_without_events_changes_nothing(log: Arc<dyn Log>) -> TestResult {
    let person = sign_up("Ada", "ada@example.org");
    log.append(person.clone()).await?;
    let user = log
        .find_by_identifier("ada")
        .await?
        .ok_or("no Ada")?
        .user_id;
    let reset = Append {
        side: vec![SideWrite::ResetPassword {
            user_id: user,
            password_hash: "second hash".to_owned(),
        }],
        ..append(&person.stream, 0, 0)
    };
    let first = log.append(reset.clone()).await?;
    log.append(append(&post_stream(), 0, 1)).await?;
    assert_eq!(log.append(reset).await?, first);
    let ada = log.find_by_id(user).await?.ok_or("no Ada")?;
    assert_eq!(ada.token_epoch, 2);
    Ok(())
}

/// Likewise when the repeats overtake one another.
///
/// # Errors
/// As above.
pub async fn a_command_sent_many_times_at_once_happens_once(log: Arc<dyn Log>) -> TestResult {
    let command = append(&post_stream(), 0, 2);
    let outcomes = at_once(&log, vec![command; CALLERS]).await?;
    for outcome in outcomes {
        let did = Appended {
            position: 2,
            version: 2,
        };
        assert_eq!(outcome?, did);
    }
    assert_eq!(log.head().await?, 2);
    Ok(())
}

/// A command that changes nothing in its stream is not checked against its version and stands at the head.
///
/// # Errors
/// As above.
pub async fn a_command_without_events_answers_the_head(log: Arc<dyn Log>) -> TestResult {
    let stream = post_stream();
    log.append(append(&stream, 0, 2)).await?;
    log.append(append(&post_stream(), 0, 3)).await?;
    let mut command = append(&stream, 77, 0);
    let stands = Appended {
        position: 5,
        version: 2,
    };
    assert_eq!(log.append(command.clone()).await?, stands);
    command.command_id = id();
    command.side = vec![store_answer("key", "nothing to do", 1)];
    assert_eq!(log.append(command).await?, stands);
    let answer = log.find_answer(&answer_key("key"), Timestamp(1)).await?;
    assert_eq!(answer.ok_or("no answer")?.position, 5);
    Ok(())
}

/// Username and e-mail are unique in any case, and the refusal says which is taken.
///
/// # Errors
/// As above.
pub async fn credentials_are_unique_whatever_the_case(log: Arc<dyn Log>) -> TestResult {
    log.append(sign_up("Zoë", "Zoe@Example.org")).await?;
    let cases = [
        ("ZOË", "other@example.org", CredentialField::Username),
        ("other", "zoe@EXAMPLE.ORG", CredentialField::Email),
        ("zoë", "zoe@example.org", CredentialField::Username),
    ];
    for (username, email, taken) in cases {
        match log.append(sign_up(username, email)).await {
            Err(AppendError::CredentialsTaken(field)) => assert_eq!(field, taken),
            other => return Err(format!("expected a refusal, got {other:?}").into()),
        }
    }
    assert_eq!(log.head().await?, 1);
    log.append(sign_up("Zoe", "other@example.org")).await?;
    Ok(())
}

/// By username, e-mail and id; as they were spelt.
///
/// # Errors
/// As above.
pub async fn credentials_are_found_whatever_the_case(log: Arc<dyn Log>) -> TestResult {
    let command = sign_up("AdaL", "Ada@Example.org");
    let SideWrite::InsertCredentials(ada) = &command.side[0] else {
        return Err("a sign-up without credentials".into());
    };
    log.append(command.clone()).await?;
    for identifier in ["AdaL", "adal", "ada@example.org", "ADA@EXAMPLE.ORG"] {
        let found = log.find_by_identifier(identifier).await?;
        assert_eq!(found.as_ref(), Some(ada), "by {identifier}");
    }
    assert_eq!(log.find_by_id(ada.user_id).await?.as_ref(), Some(ada));
    assert!(log.find_by_identifier("ada").await?.is_none());
    Ok(())
}

/// Many sign up under one name, and many with one address: one each gets through.
///
/// # Errors
/// As above.
pub async fn of_sign_ups_with_one_name_one_wins(log: Arc<dyn Log>) -> TestResult {
    let one_name = |n| sign_up("Same", &format!("{n}@example.org"));
    let one_email = |n| sign_up(&format!("name{n}"), "same@example.org");
    for commands in [
        (0..CALLERS).map(one_name).collect::<Vec<_>>(),
        (0..CALLERS).map(one_email).collect(),
    ] {
        let outcomes = at_once(&log, commands).await?;
        let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(won, 1);
        let taken =
            |outcome: &&Result<_, _>| matches!(outcome, Err(AppendError::CredentialsTaken(_)));
        assert_eq!(outcomes.iter().filter(taken).count(), CALLERS - 1);
    }
    assert_eq!(log.head().await?, 2);
    Ok(())
}

/// A reset changes the hash and raises the epoch by one, each time.
///
/// # Errors
/// As above.
pub async fn a_reset_raises_the_epoch(log: Arc<dyn Log>) -> TestResult {
    log.append(sign_up("other", "other@example.org")).await?;
    log.append(sign_up("Ada", "ada@example.org")).await?;
    let user = log
        .find_by_identifier("ada")
        .await?
        .ok_or("no Ada")?
        .user_id;
    assert!(log.raised_epochs().await?.is_empty());
    for epoch in 2..4 {
        let hash = format!("hash {epoch}");
        let reset = SideWrite::ResetPassword {
            user_id: user,
            password_hash: hash.clone(),
        };
        log.append(Append {
            side: vec![reset],
            ..append(&StreamId::new("user", user), 1, 0)
        })
        .await?;
        let ada = log.find_by_id(user).await?.ok_or("no Ada")?;
        assert_eq!((ada.token_epoch, ada.password_hash), (epoch, hash));
        assert_eq!(log.raised_epochs().await?, [(user, epoch)]);
    }
    Ok(())
}

/// A reset of somebody without credentials must not be acknowledged.
///
/// # Errors
/// As above.
pub async fn a_reset_of_nobody_is_refused(log: Arc<dyn Log>) -> TestResult {
    let reset = SideWrite::ResetPassword {
        user_id: UserId(id()),
        password_hash: "hash".to_owned(),
    };
    let command = Append {
        side: vec![reset],
        ..append(&post_stream(), 0, 1)
    };
    let outcome = log.append(command).await;
    assert!(matches!(outcome, Err(AppendError::NoCredentials)));
    assert_eq!(log.head().await?, 0);
    Ok(())
}

/// A stored answer is found with its position and guards its key for 24 hours; then the key is free.
///
/// # Errors
/// As above.
pub async fn an_answer_stands_for_a_day(log: Arc<dyn Log>) -> TestResult {
    let command = |body: &str, at| Append {
        side: vec![store_answer("key", body, at)],
        ..append(&post_stream(), 0, 2)
    };
    let day = StoredAnswer::LIFETIME_MS;
    log.append(append(&post_stream(), 0, 1)).await?;
    log.append(command("first", 1_000)).await?;
    let first = StoredAnswer {
        position: 3,
        ..answer("first", 1_000)
    };
    let key = answer_key("key");
    let found = log.find_answer(&key, Timestamp(day + 999)).await?;
    assert_eq!(found.as_ref(), Some(&first));
    assert!(
        log.find_answer(&key, Timestamp(day + 1_000))
            .await?
            .is_none()
    );
    match log.append(command("second", day + 999)).await {
        Err(AppendError::AnswerExists(stored)) => assert_eq!(*stored, first),
        other => return Err(format!("expected the first answer, got {other:?}").into()),
    }
    assert_eq!(log.head().await?, 3);
    log.append(command("third", day + 1_000)).await?;
    let found = log.find_answer(&key, Timestamp(day + 1_000)).await?;
    assert_eq!(found.ok_or("no answer")?.body, "third");
    for other in [
        AnswerKey {
            owner: "else".to_owned(),
            ..key.clone()
        },
        AnswerKey {
            route: "POST /else".to_owned(),
            ..key.clone()
        },
        AnswerKey {
            key: "KEY".to_owned(),
            ..key
        },
    ] {
        assert!(
            log.find_answer(&other, Timestamp(day + 1_000))
                .await?
                .is_none()
        );
    }
    Ok(())
}

/// Many at once under one key: one is carried out, all others are told its answer, though their version is old too.
///
/// # Errors
/// As above.
pub async fn losers_of_an_idempotency_key_see_the_winners_answer(log: Arc<dyn Log>) -> TestResult {
    let stream = post_stream();
    let command = |caller: usize| Append {
        side: vec![store_answer("key", &caller.to_string(), 1)],
        ..append(&stream, 0, 1)
    };
    let outcomes = at_once(&log, (0..CALLERS).map(command).collect()).await?;
    let winner = outcomes.iter().position(Result::is_ok).ok_or("no winner")?;
    for (caller, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(_) => assert_eq!(caller, winner),
            Err(AppendError::AnswerExists(stored)) => {
                assert_eq!((stored.body, stored.position), (winner.to_string(), 1));
            }
            Err(error) => return Err(error.into()),
        }
    }
    assert_eq!(log.head().await?, 1);
    Ok(())
}

/// What refuses one part of a command refuses all of it.
///
/// # Errors
/// As above.
pub async fn events_and_side_rows_commit_together(log: Arc<dyn Log>) -> TestResult {
    log.append(sign_up("Ada", "ada@example.org")).await?;
    let stream = post_stream();
    log.append(append(&stream, 0, 1)).await?;
    let mut old_version = sign_up("Bob", "bob@example.org");
    old_version.stream = stream;
    let mut taken = sign_up("ada", "other@example.org");
    taken.side.insert(0, store_answer("key", "done", 1));
    for refused in [old_version, taken] {
        assert!(log.append(refused).await.is_err());
    }
    assert_eq!(log.head().await?, 2);
    assert!(log.find_by_identifier("bob").await?.is_none());
    assert!(log.find_by_identifier("other@example.org").await?.is_none());
    let answer = log.find_answer(&answer_key("key"), Timestamp(1)).await?;
    assert!(answer.is_none());
    Ok(())
}

/// Who reads on from where they were never meets a gap or an older event, while many write.
///
/// # Errors
/// As above.
pub async fn a_tailing_reader_sees_no_gap(log: Arc<dyn Log>) -> TestResult {
    let total: Position = 64 * 10 * 2;
    let writer = |_| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            for _ in 0..10 {
                log.append(append(&post_stream(), 0, 2)).await?;
            }
            Ok::<_, AppendError>(())
        })
    };
    let writers: Vec<_> = (0..64).map(writer).collect();
    let mut head = log.watch_head();
    let mut seen = Vec::new();
    while (seen.len() as Position) < total {
        let at = seen.len() as Position;
        let page = log.read_all(at, 37).await?;
        if page.is_empty() {
            head.wait_for(|head| *head > at).await?;
        }
        for event in page {
            seen.push(event);
            assert_eq!(
                seen.last().map(|event| event.position),
                Some(seen.len() as Position)
            );
        }
    }
    for outcome in try_join_all(writers).await? {
        outcome?;
    }
    assert_dense(&seen);
    assert_eq!(seen, all(&*log).await?);
    Ok(())
}

/// Who was answered finds their position in the watched head; who waits for it is woken.
///
/// # Errors
/// As above.
pub async fn the_watched_head_is_told(log: Arc<dyn Log>) -> TestResult {
    let mut watched = log.watch_head();
    let waiting =
        tokio::spawn(async move { watched.wait_for(|head| *head >= 3).await.map(|_| ()) });
    for position in 1..=3 {
        let appended = log.append(append(&post_stream(), 0, 1)).await?;
        assert_eq!(appended.position, position);
        assert!(*log.watch_head().borrow() >= position);
    }
    tokio::time::timeout(Duration::from_secs(10), waiting).await???;
    Ok(())
}
