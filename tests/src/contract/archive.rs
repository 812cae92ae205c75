//! The contract of the log as rows: [`LogArchive`].
//!
//! [`crate::log_archive_contract`] stamps a test for each case and adapter.

use std::sync::Arc;

use async_trait::async_trait;
use socialhub_domain::{
    PostId, StreamId, Timestamp, UserId,
    event::{PostCreated, Visibility},
};
use socialhub_event_log::{
    Append, ArchiveError, Credentials, ERASED_EPOCH, EventLog, EventRow, KeyRecord, LogArchive,
    NewEvent, Over, PersonKey, Position, SealedLog, SideWrite, UnfinishedCopy, is_sealed,
    open_rows,
};
use socialhub_infra::security::AesGcmCipher;
use uuid::Uuid;

use super::{
    event_log::{TestResult, all, append, id, post_stream, sign_up},
    people::{People, erase},
};

/// An empty place for a log.
#[async_trait]
pub trait LogPlace: Send + Sync {
    /// The log as a server opens it. Nobody else has it open.
    async fn log(&self) -> Arc<dyn People>;

    /// The log for copying. Nobody else has it open.
    async fn archive(&self) -> Arc<dyn LogArchive>;

    /// Why a server cannot open the log, if it cannot, nor whoever only reads it.
    async fn refusal(&self) -> Option<String>;
}

/// Stamps the suite: `log_archive_contract!(sqlite => expression)`. Each expression makes a fresh [`LogPlace`].
#[macro_export]
macro_rules! log_archive_contract {
    (@stamp $place:expr; $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() -> $crate::contract::event_log::TestResult {
                $crate::contract::archive::$case(&$place, &$place).await
            }
        )+
    };
    ($($adapter:ident => $place:expr);+ $(;)?) => {
        $(
            mod $adapter {
                use super::*;
                $crate::log_archive_contract!(@stamp $place;
                    a_copy_is_the_same_log,
                    rows_that_do_not_follow_are_refused_whole,
                    a_payload_keeps_its_bytes,
                    credentials_are_written_once,
                    what_is_newer_is_brought_over_what_is_older,
                    credentials_belong_to_the_log_that_ends_there,
                    keys_are_written_once_and_marks_stay,
                    who_is_being_erased_is_copied_without_a_key,
                    half_a_copy_is_known_and_not_opened,
                    rows_are_opened_with_the_keys_beside_them,
                );
            }
        )+
    };
}

fn user_of(command: &Append) -> UserId {
    UserId(command.stream.aggregate_id.parse().unwrap())
}

fn reset(user: UserId) -> Append {
    let side = SideWrite::ResetPassword {
        user_id: user,
        password_hash: "second hash".to_owned(),
    };
    Append {
        side: vec![side],
        ..append(&StreamId::new("user", user), 1, 0)
    }
}

/// A log with streams and people, one of whom has changed their password. Answers a command of it, and her.
async fn fill(
    place: &dyn LogPlace,
) -> Result<(Append, UserId), Box<dyn std::error::Error + Send + Sync>> {
    let log = place.log().await;
    let (stream, ada) = (post_stream(), sign_up("Ada", "Ada@example.org"));
    log.append(ada.clone()).await?;
    let command = append(&stream, 0, 2);
    log.append(command.clone()).await?;
    for nth in 0..20 {
        let name = format!("user{nth}");
        log.append(sign_up(&name, &format!("{name}@example.org")))
            .await?;
    }
    log.append(append(&stream, 2, 3)).await?;
    log.append(reset(user_of(&ada))).await?;
    Ok((command, user_of(&ada)))
}

async fn copy(from: &dyn LogArchive, to: &dyn LogArchive, page: usize) -> Result<(), ArchiveError> {
    loop {
        let rows = from.read_rows(to.head().await?, page).await?;
        if rows.is_empty() {
            break;
        }
        to.write_rows(rows).await?;
    }
    let mut after = None;
    loop {
        let rows = from.read_credentials(after, Position::MAX, page).await?;
        let Some(last) = rows.last() else {
            return Ok(());
        };
        after = Some(last.user_id);
        to.write_credentials(rows, Over::Same).await?;
    }
}

/// Pages of rows and credentials, written elsewhere, are the same log: its events and people, and what it knows of
/// commands. It goes on where the first one stood.
///
/// # Errors
/// What fails the test.
pub async fn a_copy_is_the_same_log(source: &dyn LogPlace, target: &dyn LogPlace) -> TestResult {
    let (command, ada) = fill(source).await?;
    let events = all(&*source.log().await).await?;
    {
        let (from, to) = (source.archive().await, target.archive().await);
        copy(&*from, &*to, 3).await?;
        assert_eq!(to.head().await?, events.len() as u64);
        let whole = from.read_rows(0, usize::MAX).await?;
        assert_eq!(to.read_rows(0, usize::MAX).await?, whole);
        let stream = &command.stream;
        let rows = to
            .read_stream_rows(&stream.aggregate_type, &stream.aggregate_id)
            .await?;
        let sequences: Vec<u64> = rows.iter().map(|row| row.sequence).collect();
        assert_eq!(sequences, [1, 2, 3, 4, 5]);
    }
    let log = target.log().await;
    assert_eq!(all(&*log).await?, events);
    let found = log.find_by_identifier("ada@EXAMPLE.org").await?;
    let found = found.ok_or("no Ada")?;
    assert_eq!((found.user_id, found.token_epoch), (ada, 2));
    assert_eq!(found.password_hash, "second hash");
    assert_eq!(log.raised_epochs().await?, [(ada, 2)]);
    // A repeat of an old command changes nothing, a new one comes next.
    assert_eq!(log.append(command.clone()).await?.position, 3);
    let next = log.append(append(&command.stream, 5, 1)).await?;
    assert_eq!(next.position, events.len() as u64 + 1);
    log.append(reset(ada)).await?;
    assert_eq!(log.raised_epochs().await?, [(ada, 3)]);
    Ok(())
}

/// Gaps, repeats and holes in streams leave nothing, whatever good rows come before them.
///
/// # Errors
/// What fails the test.
pub async fn rows_that_do_not_follow_are_refused_whole(
    source: &dyn LogPlace,
    target: &dyn LogPlace,
) -> TestResult {
    fill(source).await?;
    let rows = source.archive().await.read_rows(0, usize::MAX).await?;
    let to = target.archive().await;
    let without = |left_out: usize| {
        let mut rows = rows.clone();
        rows.remove(left_out);
        rows
    };
    let gap = to.write_rows(without(5)).await;
    assert!(
        matches!(gap, Err(ArchiveError::Gap { head: 5, found: 7 })),
        "{gap:?}"
    );
    let late = to.write_rows(rows[1..].to_vec()).await;
    assert!(matches!(late, Err(ArchiveError::Gap { head: 0, found: 2 })));
    // Without the first event of a stream, and with positions that hide it.
    let mut hidden = without(1);
    for (row, position) in hidden.iter_mut().zip(1..) {
        row.position = position;
    }
    let hole = to.write_rows(hidden).await;
    assert!(
        matches!(hole, Err(ArchiveError::Stream { position: 2, .. })),
        "{hole:?}"
    );
    let twice = [
        rows[0].clone(),
        EventRow {
            position: 2,
            ..rows[0].clone()
        },
    ];
    let twice = to.write_rows(twice.to_vec()).await;
    assert!(
        matches!(twice, Err(ArchiveError::Stream { position: 2, .. })),
        "{twice:?}"
    );
    assert_eq!(to.head().await?, 0);
    to.write_rows(rows[..4].to_vec()).await?;
    let again = to.write_rows(rows[3..].to_vec()).await;
    assert!(matches!(
        again,
        Err(ArchiveError::Gap { head: 4, found: 4 })
    ));
    to.write_rows(rows[4..].to_vec()).await?;
    assert_eq!(to.read_rows(0, usize::MAX).await?, rows);
    // A log lives on with what cannot be read in it, and so does its copy.
    let head = to.head().await?;
    let odd = EventRow {
        position: head + 1,
        event_id: Uuid::from_u128(1),
        command_id: Uuid::from_u128(1),
        stream_id: Uuid::from_u128(1).to_string(),
        sequence: 1,
        metadata: "{}".to_owned(),
        ..rows[0].clone()
    };
    to.write_rows(vec![odd.clone()]).await?;
    assert_eq!(to.read_rows(head, usize::MAX).await?, [odd]);
    Ok(())
}

/// Not only the same JSON: the same text.
///
/// # Errors
/// What fails the test.
pub async fn a_payload_keeps_its_bytes(source: &dyn LogPlace, target: &dyn LogPlace) -> TestResult {
    fill(source).await?;
    let mut rows = source.archive().await.read_rows(0, 1).await?;
    let payload = "{ \"b\" :\t1.50, \"a\":1e3,\n\"b\":\"\\u0000\\u00e9\u{e9}\" }";
    payload.clone_into(&mut rows[0].payload);
    let to = target.archive().await;
    to.write_rows(rows.clone()).await?;
    assert_eq!(to.read_rows(0, 10).await?, rows);
    Ok(())
}

/// The same ones again are left alone; others of the same person or name are refused, and nothing is left.
///
/// # Errors
/// What fails the test.
pub async fn credentials_are_written_once(
    source: &dyn LogPlace,
    target: &dyn LogPlace,
) -> TestResult {
    fill(source).await?;
    let from = source.archive().await;
    let people = from.read_credentials(None, Position::MAX, 100).await?;
    assert_eq!(people.len(), 21);
    let to = target.archive().await;
    to.write_rows(from.read_rows(0, usize::MAX).await?).await?;
    assert_eq!(
        to.write_credentials(people[..5].to_vec(), Over::Same)
            .await?,
        5
    );
    assert_eq!(to.write_credentials(people.clone(), Over::Same).await?, 16);
    let stranger = |like: &Credentials| Credentials {
        user_id: UserId(id()),
        username: "stranger".to_owned(),
        email: "stranger@example.org".to_owned(),
        ..like.clone()
    };
    let first = &people[0];
    for other in [
        Credentials {
            password_hash: "other".to_owned(),
            ..first.clone()
        },
        Credentials {
            username: first.username.to_uppercase(),
            ..stranger(first)
        },
        Credentials {
            email: first.email.to_uppercase(),
            ..stranger(first)
        },
    ] {
        let wanted = other.user_id;
        let refused = to.compare_credentials(vec![stranger(first), other.clone()]);
        let refused = refused.await;
        assert!(matches!(refused, Err(ArchiveError::OtherCredentials(user)) if user == wanted));
        let page = vec![stranger(first), other];
        let refused = to.write_credentials(page, Over::Same).await;
        assert!(matches!(refused, Err(ArchiveError::OtherCredentials(user)) if user == wanted));
    }
    to.compare_credentials(people.clone()).await?;
    assert_eq!(to.read_credentials(None, Position::MAX, 100).await?, people);
    Ok(())
}

/// Over an older copy newer credentials win, and those of the erased go with the event: their names are free.
///
/// # Errors
/// What fails the test.
pub async fn what_is_newer_is_brought_over_what_is_older(
    source: &dyn LogPlace,
    target: &dyn LogPlace,
) -> TestResult {
    let (_, ada) = fill(source).await?;
    let old = {
        let (from, to) = (source.archive().await, target.archive().await);
        copy(&*from, &*to, 100).await?;
        from.read_credentials(None, Position::MAX, 100).await?
    };
    let eve = old.iter().find(|person| person.user_id != ada);
    let eve = eve.ok_or("there is nobody else")?.clone();
    let heir = sign_up(&eve.username, &eve.email);
    let heir_id = user_of(&heir);
    {
        let log = source.log().await;
        log.append(reset(ada)).await?;
        log.append(erase(eve.user_id, 1)).await?;
        log.append(heir).await?;
    }
    let (from, to) = (source.archive().await, target.archive().await);
    let (head, rows) = (to.head().await?, from.read_rows(0, usize::MAX).await?);
    to.write_rows(rows[usize::try_from(head)?..].to_vec())
        .await?;
    let left = to.read_credentials(None, Position::MAX, 100).await?;
    assert!(left.iter().all(|person| person.user_id != eve.user_id));
    let new = from.read_credentials(None, Position::MAX, 100).await?;
    let same = to.write_credentials(new.clone(), Over::Same).await;
    assert!(matches!(same, Err(ArchiveError::OtherCredentials(user)) if user == ada));
    assert_eq!(to.write_credentials(new.clone(), Over::Older).await?, 2);
    assert_eq!(to.write_credentials(new.clone(), Over::Older).await?, 0);
    assert_eq!(to.read_credentials(None, Position::MAX, 100).await?, new);
    assert!(new.iter().any(|person| person.user_id == heir_id));
    drop((from, to));
    let restored = target.log().await;
    assert_eq!(restored.pending(0).await?.len(), 1);
    let raised = restored.raised_epochs().await?;
    assert!(raised.contains(&(eve.user_id, ERASED_EPOCH)), "{raised:?}");
    assert!(
        raised
            .iter()
            .any(|(user, epoch)| *user == ada && *epoch > 1)
    );
    Ok(())
}

/// Whoever registered later is not of a log that ends earlier.
///
/// # Errors
/// What fails the test.
pub async fn credentials_belong_to_the_log_that_ends_there(
    source: &dyn LogPlace,
    _: &dyn LogPlace,
) -> TestResult {
    let (_, ada) = fill(source).await?;
    let from = source.archive().await;
    assert!(from.read_credentials(None, 0, 100).await?.is_empty());
    let first = from.read_credentials(None, 3, 100).await?;
    assert_eq!(
        first.iter().map(|row| row.user_id).collect::<Vec<_>>(),
        [ada]
    );
    let mut after = None;
    let mut found = Vec::new();
    loop {
        let page = from.read_credentials(after, 13, 4).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.user_id);
        found.extend(page);
    }
    assert_eq!(found.len(), 11);
    assert!(found.is_sorted_by_key(|row| row.user_id));
    Ok(())
}

/// A key is written once, another one is refused and nothing is left of its page, and a mark stays whatever comes.
///
/// # Errors
/// What fails the test.
pub async fn keys_are_written_once_and_marks_stay(
    _: &dyn LogPlace,
    target: &dyn LogPlace,
) -> TestResult {
    let to = target.archive().await;
    let people: [UserId; 4] = std::array::from_fn(|_| UserId(id()));
    let key = |user_id: UserId, byte: u8| KeyRecord {
        user_id,
        key: Some(PersonKey([byte; 32])),
        erased_at: None,
    };
    let mark = |user_id: UserId| KeyRecord {
        user_id,
        key: None,
        erased_at: Some(7),
    };
    let [ada, bob, eve, more] = people;
    let mut first = vec![key(ada, 1), key(bob, 2), mark(eve)];
    assert_eq!(to.write_keys(first.clone()).await?, 3);
    assert_eq!(to.write_keys(first.clone()).await?, 0);
    let other = to.write_keys(vec![key(more, 4), key(bob, 3)]).await;
    assert!(matches!(other, Err(ArchiveError::OtherKey(user)) if user == bob));
    assert_eq!(to.write_keys(vec![mark(bob), key(eve, 5)]).await?, 1);
    first[1] = mark(bob);
    first.sort_by_key(|record| record.user_id);
    assert_eq!(to.read_keys(None, 10).await?, first);
    assert_eq!(to.read_keys(None, 2).await?, first[..2]);
    assert_eq!(to.read_keys(Some(first[1].user_id), 2).await?, first[2..]);
    let found = to.find_keys(&people).await?;
    let expected = first.iter().map(|record| (record.user_id, record.state()));
    assert_eq!(found, expected.collect());
    Ok(())
}

/// The credentials are gone with the event: with a key alone nobody could ask to be forgotten.
///
/// # Errors
/// What fails the test.
pub async fn who_is_being_erased_is_copied_without_a_key(
    _: &dyn LogPlace,
    target: &dyn LogPlace,
) -> TestResult {
    let (erased, staying) = (UserId(id()), UserId(id()));
    let key = |user_id: UserId| KeyRecord {
        user_id,
        key: Some(PersonKey([1; 32])),
        erased_at: None,
    };
    {
        let archive = target.archive().await;
        let keys = vec![key(erased), key(staying)];
        assert_eq!(archive.write_keys(keys).await?, 2);
    }
    target.log().await.append(erase(erased, 0)).await?;
    let archive = target.archive().await;
    let read = archive.read_keys(None, 10).await?;
    let mark = KeyRecord {
        user_id: erased,
        key: None,
        erased_at: Some(1),
    };
    let mut expected = vec![mark, key(staying)];
    expected.sort_by_key(|record| record.user_id);
    assert_eq!(read, expected);
    Ok(())
}

/// From the first row to the end of the copy the log is not whole; who finds everything there leaves no mark.
///
/// # Errors
/// What fails the test.
pub async fn half_a_copy_is_known_and_not_opened(
    source: &dyn LogPlace,
    target: &dyn LogPlace,
) -> TestResult {
    fill(source).await?;
    let from = source.archive().await;
    let rows = from.read_rows(0, usize::MAX).await?;
    let people = from.read_credentials(None, Position::MAX, 100).await?;
    let copy = |id: &str| UnfinishedCopy {
        id: id.to_owned(),
        command: format!("copy {id}"),
    };
    {
        let to = target.archive().await;
        to.begin_copy(copy("one")).await?;
        assert_eq!(to.unfinished_copy().await?, None);
        to.write_rows(rows[1..3].to_vec()).await.unwrap_err();
        assert_eq!(to.unfinished_copy().await?, None, "nothing was written");
        to.write_rows(rows[..3].to_vec()).await?;
        assert_eq!(to.unfinished_copy().await?, Some(copy("one")));
    }
    let refusal = target.refusal().await.ok_or("half a log was opened")?;
    assert!(refusal.contains("not whole: `copy one`"), "{refusal}");
    {
        let to = target.archive().await;
        let other = to.begin_copy(copy("two")).await;
        assert!(matches!(other, Err(ArchiveError::OtherCopy(found)) if found == copy("one")));
        to.begin_copy(copy("one")).await?;
        to.write_rows(rows[3..].to_vec()).await?;
        to.write_credentials(people.clone(), Over::Same).await?;
        assert_eq!(to.unfinished_copy().await?, Some(copy("one")));
        to.end_copy().await?;
        assert_eq!(to.unfinished_copy().await?, None);
        // Nothing new: nothing can be half.
        to.begin_copy(copy("two")).await?;
        assert_eq!(to.write_credentials(people.clone(), Over::Same).await?, 0);
        assert_eq!(to.unfinished_copy().await?, None);
        let more = KeyRecord {
            user_id: people[0].user_id,
            key: Some(PersonKey([1; 32])),
            erased_at: None,
        };
        to.write_keys(vec![more]).await?;
        assert_eq!(to.unfinished_copy().await?, Some(copy("two")));
        to.end_copy().await?;
        // Before something is written elsewhere.
        to.mark_copy().await?;
        assert_eq!(to.unfinished_copy().await?, None, "no copy is under way");
        to.begin_copy(copy("three")).await?;
        to.mark_copy().await?;
        assert_eq!(to.unfinished_copy().await?, Some(copy("three")));
        to.mark_copy().await?;
        to.end_copy().await?;
    }
    assert_eq!(target.refusal().await, None);
    Ok(())
}

/// What a log sealed can be read from its rows, as long as the keys are there.
///
/// # Errors
/// What fails the test.
pub async fn rows_are_opened_with_the_keys_beside_them(
    source: &dyn LogPlace,
    target: &dyn LogPlace,
) -> TestResult {
    let author = UserId(id());
    let post = PostCreated {
        post_id: PostId(id()),
        user_id: author,
        username: "ada".to_owned(),
        content: "what nobody else says".to_owned(),
        visibility: Visibility::Public,
        media: Vec::new(),
        timestamp: Timestamp(5),
    };
    let command = Append {
        events: vec![NewEvent {
            event_id: id(),
            event: post.into(),
            payload: None,
        }],
        ..append(&post_stream(), 0, 1)
    };
    {
        let log = source.log().await;
        SealedLog::new(log.clone(), log, Arc::new(AesGcmCipher))
            .append(command)
            .await?;
    }
    let from = source.archive().await;
    let rows = from.read_rows(0, 10).await?;
    assert!(is_sealed(&rows[0]) && !rows[0].payload.contains("nobody else"));
    let to = target.archive().await;
    to.write_rows(rows.clone()).await?;
    let open = async |rows: &[EventRow]| {
        let mut rows = rows.to_vec();
        open_rows(&*to, &AesGcmCipher, &mut rows).await?;
        Ok::<_, ArchiveError>(rows[0].payload.clone())
    };
    let without = open(&rows).await;
    assert!(
        matches!(without, Err(ArchiveError::NoKey { position: 1, user_id }) if user_id == author)
    );
    to.write_keys(from.read_keys(None, 10).await?).await?;
    assert!(open(&rows).await?.contains("nobody else"));
    let mut moved = rows.clone();
    moved[0].event_id = id();
    // What does not open stays as it is.
    assert_eq!(open(&moved).await?, rows[0].payload);
    let mark = KeyRecord {
        user_id: author,
        key: None,
        erased_at: Some(2),
    };
    to.write_keys(vec![mark]).await?;
    assert!(open(&rows).await?.contains("[erased]"));
    Ok(())
}
