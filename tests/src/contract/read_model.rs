//! The contract of a read model's store: [`Generations`] and [`ReadModelStore`].
//!
//! [`crate::read_model_contract`] stamps a test for each case and adapter. A [`Subject`] is a fresh, empty place that the
//! model lives in; every [`Subject::open`] stands for another process. The last cases fill generations with random legal
//! histories, through several writers at once that repeat themselves, race each other for a source and vanish in the
//! middle, and compare what the store then holds with the plain fold of the log.

mod mending;
mod racing;

use std::{future::Future, sync::Arc, time::Duration};

use socialhub_domain::{
    Event, Timestamp,
    event::{UserErased, UserProfileUpdated, UserRegistered},
};
use socialhub_event_log::Position;
use socialhub_projections::{
    Checkpoint, GenerationId, ParkedLetter, Projection, ReadModelStore, Source, StoreError,
    projection::Projected,
    record::SequenceKey,
    runtime::{Claim, Generation, GenerationState, Generations, Snapshot, WriteMode},
    source_position,
    store::{Attempts, ParkedSequence, WriteBatch},
    verify::{
        Difference, ModelFold, ModelRow, RowSink,
        gathered::{Compared, Gathered},
        sort,
    },
};
use uuid::Uuid;

use super::history::{Log, as_read_afterwards, followed, unfollowed, user, username};
use crate::support::{eventually, server::PATIENCE};

pub use mending::what_differs_is_mended_and_nothing_else;
pub use racing::{
    a_rebuild_beside_writers_loses_nothing, any_history_equals_its_fold,
    any_history_fills_a_generation, partitions_in_any_order_equal_the_fold,
};

/// A read model under test, in a fresh place of its own.
pub trait Subject: Send + Sync + Sized + 'static {
    /// Its projection.
    type Projection: Projection;
    /// Its plain fold.
    type Fold: ModelFold;
    /// Whether a generation may have several writers, each with partitions of its own. Otherwise it has one, fed by the
    /// log.
    const MANY_WRITERS: bool;
    /// How many random histories a case goes through.
    const HISTORIES: u64 = 16;

    /// Opens the model's generations as another process would. The first call makes the first generation.
    fn open(&self) -> impl Future<Output = Arc<dyn Generations<Self::Projection>>> + Send;

    /// Makes a generation look as if another program had begun it.
    fn mark_as_anothers(&self, id: GenerationId) -> impl Future<Output = ()> + Send;

    /// Compares what the model's readers answer, and what rows say beyond their values, with the events that the current
    /// generation was filled with: all of them, however they arrived.
    fn check_reads(&self, log: &Log, rows: &[ModelRow]) -> impl Future<Output = ()> + Send {
        let _ = (log, rows);
        async {}
    }
}

/// Stamps the suite: `read_model_contract!(many_writers: name => expression)` or `one_writer: …`. The expression makes a
/// fresh [`Subject`].
#[macro_export]
macro_rules! read_model_contract {
    (@stamp $factory:expr; $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::contract::read_model::$case(&$factory).await;
            }
        )+
    };
    (@any $factory:expr) => {
        $crate::read_model_contract!(@stamp $factory;
            a_new_model_has_one_empty_current_generation,
            a_batch_and_its_checkpoint_go_in_together,
            a_repeated_batch_changes_nothing,
            letters_go_in_with_their_batch,
            a_parked_event_is_applied_past_the_checkpoint,
            who_is_forgotten_stays_so_whatever_is_retried_later,
            attempts_are_remembered_until_a_clean_stop,
            the_last_writers_end_is_remembered,
            a_closed_store_writes_nothing,
            one_claim_at_a_time,
            a_fence_keeps_writers_out_until_it_falls,
            a_switch_retires_the_old_generation,
            a_previous_generation_can_be_caught_up_and_come_back,
            a_dropped_generation_is_gone,
            what_another_program_began_is_told_apart,
            what_differs_is_mended_and_nothing_else,
            any_history_equals_its_fold,
            any_history_fills_a_generation,
        );
    };
    (many_writers: $adapter:ident => $factory:expr) => {
        mod $adapter {
            use super::*;
            $crate::read_model_contract!(@any $factory);
            $crate::read_model_contract!(@stamp $factory;
                a_batch_from_another_place_is_refused,
                what_was_filled_from_the_log_counts_for_every_partition,
                attempts_and_ends_are_kept_by_source,
                attempts_may_be_told_by_two_at_once,
                a_switch_carries_offsets,
                partitions_in_any_order_equal_the_fold,
                a_rebuild_beside_writers_loses_nothing,
            );
        }
    };
    (one_writer: $adapter:ident => $factory:expr) => {
        mod $adapter {
            use super::*;
            $crate::read_model_contract!(@any $factory);
            $crate::read_model_contract!(@stamp $factory;
                a_second_writer_is_refused,
            );
        }
    };
}

type Store<S> = Arc<dyn ReadModelStore<<S as Subject>::Projection>>;
type Gens<S> = Arc<dyn Generations<<S as Subject>::Projection>>;
type Batch<S> = WriteBatch<<<S as Subject>::Projection as Projection>::Change>;

/// The event id that stands for a position.
fn event_id(position: Position) -> Uuid {
    Uuid::from_u128(u128::from(position) << 32 | 7)
}

/// Events that every model makes something of, all of one sequence.
fn follows(count: u8) -> Log {
    (1..=count)
        .map(|n| (Position::from(n), followed(n, 0, Timestamp(i64::from(n)))))
        .collect()
}

/// The source that [`follows`] comes from.
fn main_source<S: Subject>() -> Source {
    if S::MANY_WRITERS {
        Source::partition("USER_TOPIC", 0)
    } else {
        Source::log()
    }
}

/// A batch of events of a source that leads to the last of them; `offset` is that one's.
fn batch<S: Subject>(
    source: &Source,
    after: Position,
    events: &[(Position, Event)],
    offset: i64,
) -> Batch<S> {
    let last = events.last().map_or(after, |event| event.0);
    let projected = events
        .iter()
        .map(|(position, event)| Projected {
            position: *position,
            changes: S::Projection::project(*position, event),
        })
        .filter(|projected| !projected.changes.is_empty())
        .collect();
    let has_offsets = *source != Source::log();
    WriteBatch {
        projected,
        parked: Vec::new(),
        after,
        checkpoint: Checkpoint {
            source: source.clone(),
            position: last,
            event_id: event_id(last),
            next_offset: has_offsets.then_some(offset + 1),
            partitions: None,
        },
    }
}

fn letter(position: Position, key: &str) -> ParkedLetter {
    ParkedLetter {
        position,
        event_id: event_id(position),
        topic: "USER_TOPIC".to_owned(),
        key: key.to_owned(),
        raw: "{\"eventType\":\"what\"}".to_owned(),
        reason: "nobody knows".to_owned(),
        attempts: 1,
        parked_at: Timestamp(5),
    }
}

fn sequence(first: Position, key: &str, is_tried: bool, events: u64) -> ParkedSequence {
    ParkedSequence {
        sequence: SequenceKey {
            topic: "USER_TOPIC".to_owned(),
            key: key.to_owned(),
        },
        first,
        is_tried,
        events,
    }
}

/// Does what may be refused for the moment until it is not.
async fn patiently<T, F, C>(mut call: C) -> Result<T, StoreError>
where
    C: FnMut() -> F,
    F: Future<Output = Result<T, StoreError>>,
{
    let give_up = tokio::time::Instant::now() + PATIENCE;
    loop {
        match call().await {
            Err(StoreError::Unavailable(_)) if tokio::time::Instant::now() < give_up => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other => return other,
        }
    }
}

async fn current<S: Subject>(generations: &Gens<S>) -> GenerationId {
    patiently(|| generations.refresh()).await.unwrap()
}

async fn open<S: Subject>(generations: &Gens<S>, id: GenerationId, mode: WriteMode) -> Store<S> {
    patiently(|| generations.open(id, mode)).await.unwrap()
}

async fn open_current<S: Subject>(subject: &S) -> (Gens<S>, GenerationId, Store<S>) {
    let generations = subject.open().await;
    let id = current::<S>(&generations).await;
    let store = open::<S>(&generations, id, WriteMode::Live).await;
    (generations, id, store)
}

async fn claim<S: Subject>(generations: &Gens<S>) -> Claim {
    eventually("the right to change generations", || async {
        generations.claim().await.unwrap()
    })
    .await
}

async fn described<S: Subject>(generations: &Gens<S>, id: GenerationId) -> Generation {
    let all = generations.list().await.unwrap();
    all.into_iter().find(|found| found.id == id).unwrap()
}

/// What a generation held at one moment.
#[derive(Debug, Clone)]
pub struct Contents {
    /// How far it was, and what was set aside.
    pub snapshot: Snapshot,
    /// Its rows, in the order in which they were read.
    pub rows: Vec<ModelRow>,
    derived: &'static [&'static str],
}

impl Contents {
    /// Everything that is not as a fold says, which is the same whether rows are kept or only their sums.
    pub fn differences_from<F: ModelFold>(&self, fold: &F) -> Vec<Difference> {
        let gather = |gathered: Gathered<F>| {
            let mut gathered = gathered.without(self.derived);
            let rows = self.rows.iter().cloned();
            rows.for_each(|row| gathered.take(row));
            gathered.compare(fold)
        };
        let Compared::Exactly(differences) = gather(Gathered::keeping_all()) else {
            panic!("all was kept");
        };
        match gather(Gathered::keeping_none()) {
            Compared::Exactly(found) => assert_eq!(found, differences),
            Compared::Roughly(parts) => {
                let found = gather(Gathered::keeping_parts(parts));
                assert_eq!(found, Compared::Exactly(differences.clone()));
            }
        }
        differences
    }
}

/// Reads everything that a generation holds.
///
/// # Errors
/// [`StoreError`].
pub async fn contents<P: Projection>(
    generations: &dyn Generations<P>,
    id: GenerationId,
) -> Result<Contents, StoreError> {
    let mut rows = Vec::new();
    let snapshot = generations.snapshot(id, &mut rows).await?;
    Ok(Contents {
        snapshot,
        rows,
        derived: generations.derived(),
    })
}

/// Compares a generation with the fold of a log; answers its rows, sorted.
async fn assert_equals_fold<S: Subject>(
    generations: &Gens<S>,
    id: GenerationId,
    log: &Log,
    hint: &str,
) -> Vec<ModelRow> {
    let held = contents(&**generations, id).await.unwrap();
    let mut fold = S::Fold::default();
    for (position, event) in as_read_afterwards(log) {
        fold.apply(position, &event);
    }
    assert_eq!(held.differences_from(&fold), [], "{hint}");
    let mut rows = held.rows;
    sort(&mut rows);
    let once = rows.is_sorted_by(|a, b| (a.table, &a.key) < (b.table, &b.key));
    assert!(once, "{hint}: each row comes once");
    rows
}

/// The first generation is there and current, and knows nothing.
pub async fn a_new_model_has_one_empty_current_generation<S: Subject>(subject: &S) {
    let (first, second) = tokio::join!(subject.open(), subject.open());
    let id = current::<S>(&first).await;
    assert_eq!(current::<S>(&second).await, id);
    assert_eq!(*first.current().borrow(), id);
    let all = first.list().await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].id, all[0].state), (id, GenerationState::Current));
    assert!(!all[0].has_writer && all[0].checkpoints.is_empty() && all[0].parked == 0);
    assert_eq!(contents(&*first, id).await.unwrap().rows, []);
    let store = open::<S>(&first, id, WriteMode::Live).await;
    assert_eq!(store.checkpoints().await.unwrap(), []);
    assert!(described::<S>(&second, id).await.has_writer);
    store.close().await;
    let second = &second;
    eventually("nobody writes it", || async move {
        (!described::<S>(second, id).await.has_writer).then_some(())
    })
    .await;
}

/// Effects and checkpoint are there after a batch, for another process too.
pub async fn a_batch_and_its_checkpoint_go_in_together<S: Subject>(subject: &S) {
    let (_, id, store) = open_current(subject).await;
    let (log, source) = (follows(5), main_source::<S>());
    store
        .apply(batch::<S>(&source, 0, &log[..2], 1))
        .await
        .unwrap();
    store
        .apply(batch::<S>(&source, 2, &log[2..], 4))
        .await
        .unwrap();
    let expected = batch::<S>(&source, 2, &log[2..], 4).checkpoint;
    assert_eq!(store.checkpoints().await.unwrap(), [expected]);
    let other = subject.open().await;
    let stored = store.checkpoints().await.unwrap();
    assert_eq!(described::<S>(&other, id).await.checkpoints, stored);
    let snapshot = contents(&*other, id).await.unwrap().snapshot;
    assert_eq!(snapshot.checkpoints, stored);
    assert_equals_fold::<S>(&other, id, &log, "two batches").await;
}

/// A batch that is there already succeeds and leaves everything as it is.
pub async fn a_repeated_batch_changes_nothing<S: Subject>(subject: &S) {
    let (generations, id, store) = open_current(subject).await;
    let (log, source) = (follows(5), main_source::<S>());
    store
        .apply(batch::<S>(&source, 0, &log[..3], 2))
        .await
        .unwrap();
    let mut before = contents(&*generations, id).await.unwrap();
    sort(&mut before.rows);
    for events in [&log[..3], &log[..2]] {
        let mut again = batch::<S>(&source, 0, events, 9);
        again.parked.push(letter(1, "a"));
        store.apply(again).await.unwrap();
        let mut after = contents(&*generations, id).await.unwrap();
        sort(&mut after.rows);
        assert_eq!(after.rows, before.rows);
        assert_eq!(after.snapshot.checkpoints, before.snapshot.checkpoints);
        assert_eq!(after.snapshot.parked, []);
    }
    store
        .apply(batch::<S>(&source, 3, &log[3..], 4))
        .await
        .unwrap();
    assert_equals_fold::<S>(&generations, id, &log, "after repeats").await;
}

/// Another writer has moved the checkpoint: nothing of the batch goes in, letters neither.
pub async fn a_batch_from_another_place_is_refused<S: Subject>(subject: &S) {
    let (generations, id, store) = open_current(subject).await;
    let (_, _, other) = open_current(subject).await;
    let (log, source) = (follows(6), main_source::<S>());
    store
        .apply(batch::<S>(&source, 0, &log[..2], 1))
        .await
        .unwrap();
    for after in [0, 1, 4] {
        let mut wrong = batch::<S>(&source, after, &log[2..], 5);
        wrong.parked.push(letter(3, "a"));
        let refused = other.apply(wrong).await;
        assert!(matches!(refused, Err(StoreError::Moved)), "{refused:?}");
    }
    let (before, rest) = log.split_at(2);
    assert_equals_fold::<S>(&generations, id, &before.to_vec(), "after refusals").await;
    assert_eq!(other.parked().await.unwrap(), []);
    other.apply(batch::<S>(&source, 2, rest, 5)).await.unwrap();
    // Of another source nothing has moved.
    let elsewhere = Source::partition("USER_TOPIC", 1);
    let distant = vec![(9, followed(1, 2, Timestamp(1)))];
    store
        .apply(batch::<S>(&elsewhere, 0, &distant, 0))
        .await
        .unwrap();
    assert_eq!(store.checkpoints().await.unwrap().len(), 2);
}

/// A rebuild's position is the floor of every partition.
pub async fn what_was_filled_from_the_log_counts_for_every_partition<S: Subject>(subject: &S) {
    let (generations, id, store) = open_current(subject).await;
    let (log, source) = (follows(8), main_source::<S>());
    store
        .apply(batch::<S>(&Source::log(), 0, &log[..5], 0))
        .await
        .unwrap();
    store
        .apply(batch::<S>(&source, 0, &log[..4], 3))
        .await
        .unwrap();
    let below = contents(&*generations, id)
        .await
        .unwrap()
        .snapshot
        .checkpoints;
    assert_eq!(source_position(&below, &source), 5);
    assert_eq!(
        source_position(&below, &Source::partition("POST_TOPIC", 7)),
        5
    );
    let refused = store.apply(batch::<S>(&source, 4, &log[5..], 7)).await;
    assert!(matches!(refused, Err(StoreError::Moved)), "{refused:?}");
    store
        .apply(batch::<S>(&source, 5, &log[5..], 7))
        .await
        .unwrap();
    assert_equals_fold::<S>(&generations, id, &log, "log, then partition").await;
}

/// Letters commit with the batch, and are listed by position.
pub async fn letters_go_in_with_their_batch<S: Subject>(subject: &S) {
    let (generations, id, store) = open_current(subject).await;
    let (log, source) = (follows(4), main_source::<S>());
    let mut with_letters = batch::<S>(&source, 0, &log[..2], 5);
    let behind_another = ParkedLetter {
        attempts: 0,
        ..letter(4, "b")
    };
    with_letters.parked = vec![letter(3, "a"), behind_another, letter(6, "a")];
    with_letters.checkpoint.position = 6;
    with_letters.checkpoint.event_id = event_id(6);
    store.apply(with_letters.clone()).await.unwrap();
    assert_eq!(store.parked().await.unwrap(), with_letters.parked);
    assert_eq!(generations.letters(id).await.unwrap(), with_letters.parked);
    assert_eq!(described::<S>(&generations, id).await.parked, 3);
    assert_eq!(
        store.parked_sequences().await.unwrap(),
        [sequence(3, "a", true, 2), sequence(4, "b", false, 1)]
    );
    assert_eq!(
        contents(&*generations, id).await.unwrap().snapshot.parked,
        with_letters.parked
    );
    store.discard_parked(4).await.unwrap();
    assert_eq!(
        store.parked().await.unwrap(),
        [letter(3, "a"), letter(6, "a")]
    );
    assert_eq!(
        store.parked_sequences().await.unwrap(),
        [sequence(3, "a", true, 2)]
    );
    // The batch again: no letter comes back.
    store.apply(with_letters).await.unwrap();
    assert_eq!(store.parked().await.unwrap().len(), 2);
}

/// A retry has its effect although the checkpoint is beyond it, and takes its letter along.
pub async fn a_parked_event_is_applied_past_the_checkpoint<S: Subject>(subject: &S) {
    let (generations, id, store) = open_current(subject).await;
    let (log, source) = (follows(4), main_source::<S>());
    let mut first = batch::<S>(&source, 0, &[log[0].clone(), log[2].clone()], 2);
    first.parked.push(letter(2, "a"));
    store.apply(first).await.unwrap();
    let (position, event) = &log[1];
    let retried = Projected {
        position: *position,
        changes: S::Projection::project(*position, event),
    };
    store.apply_parked(retried.clone()).await.unwrap();
    assert_eq!(store.parked().await.unwrap(), []);
    // Whoever comes second finds no letter, and changes nothing.
    store.apply_parked(retried).await.unwrap();
    let (beyond, event) = (9, &log[1].1);
    let never_parked = Projected {
        position: beyond,
        changes: S::Projection::project(beyond, event),
    };
    store.apply_parked(never_parked).await.unwrap();
    store
        .apply(batch::<S>(&source, 3, &log[3..], 3))
        .await
        .unwrap();
    assert_equals_fold::<S>(&generations, id, &log, "a retried letter").await;
}

/// An erasure does not wait behind what is parked of its person, which is retried after it: in clear, when the keys are not
/// destroyed yet.
pub async fn who_is_forgotten_stays_so_whatever_is_retried_later<S: Subject>(subject: &S) {
    let (generations, id, store) = open_current(subject).await;
    let (log, source) = (a_short_life(), main_source::<S>());
    let (erasure, before) = log.split_last().unwrap();
    let mut overtaking = batch::<S>(&source, 0, std::slice::from_ref(erasure), 0);
    overtaking.parked = before.iter().map(|(at, _)| letter(*at, "a")).collect();
    store.apply(overtaking).await.unwrap();
    for (position, event) in before {
        let retried = Projected {
            position: *position,
            changes: S::Projection::project(*position, event),
        };
        if !retried.changes.is_empty() {
            store.apply_parked(retried).await.unwrap();
        }
    }
    assert_equals_fold::<S>(&generations, id, &log, "retried after the erasure").await;
}

/// Everything of one person that is in one sequence with their erasure, which is its end.
fn a_short_life() -> Log {
    let at = |position: Position| Timestamp(position as i64);
    let registered = Event::UserRegistered(UserRegistered {
        user_id: user(1),
        username: username(1),
        name: "Eve".to_owned(),
        timestamp: at(1),
    });
    let changed = Event::UserProfileUpdated(UserProfileUpdated {
        user_id: user(1),
        name: Some("Eve the Second".to_owned()),
        bio: Some("of the garden".to_owned()),
        avatar: None,
        timestamp: at(4),
    });
    let erased = Event::UserErased(UserErased {
        user_id: user(1),
        timestamp: at(6),
    });
    vec![
        (1, registered),
        (2, followed(1, 0, at(2))),
        (3, followed(1, 2, at(3))),
        (4, changed),
        (5, unfollowed(1, 2, at(5))),
        (6, erased),
    ]
}

/// Attempts survive the store, each word of them takes the place of the one before; a clean stop forgets them.
pub async fn attempts_are_remembered_until_a_clean_stop<S: Subject>(subject: &S) {
    let (generations, id, store) = open_current(subject).await;
    let source = main_source::<S>();
    assert_eq!(store.attempts(&source).await.unwrap(), Attempts::new());
    let mut tried = Attempts::from([(7, 1), (8, 1), (u64::from(u32::MAX) + 1, 1)]);
    store.set_attempts(&source, &tried).await.unwrap();
    store.close().await;
    let store = open::<S>(&generations, id, WriteMode::Live).await;
    assert_eq!(store.attempts(&source).await.unwrap(), tried);
    tried.remove(&7);
    tried.insert(8, 2);
    for _ in 0..2 {
        store.set_attempts(&source, &tried).await.unwrap();
        assert_eq!(store.attempts(&source).await.unwrap(), tried);
    }
    store.set_stopped_cleanly(&source, false).await.unwrap();
    assert_eq!(store.attempts(&source).await.unwrap(), tried);
    store.set_stopped_cleanly(&source, true).await.unwrap();
    assert_eq!(store.attempts(&source).await.unwrap(), Attempts::new());
    store.set_attempts(&source, &Attempts::new()).await.unwrap();
    assert_eq!(store.attempts(&source).await.unwrap(), Attempts::new());
}

/// Whether the last writer ended well is yes at first, and then what was said last.
pub async fn the_last_writers_end_is_remembered<S: Subject>(subject: &S) {
    let (generations, id, store) = open_current(subject).await;
    let source = main_source::<S>();
    assert!(store.stopped_cleanly(&source).await.unwrap());
    store.set_stopped_cleanly(&source, false).await.unwrap();
    store.close().await;
    let store = open::<S>(&generations, id, WriteMode::Live).await;
    assert!(!store.stopped_cleanly(&source).await.unwrap());
    store.set_stopped_cleanly(&source, true).await.unwrap();
    assert!(store.stopped_cleanly(&source).await.unwrap());
}

/// What one source's writers leave behind says nothing about another's.
pub async fn attempts_and_ends_are_kept_by_source<S: Subject>(subject: &S) {
    let (_, _, store) = open_current(subject).await;
    let (one, two) = (
        Source::partition("USER_TOPIC", 0),
        Source::partition("POST_TOPIC", 0),
    );
    let (at_one, at_two) = (Attempts::from([(7, 2)]), Attempts::from([(7, 1), (9, 1)]));
    store.set_attempts(&one, &at_one).await.unwrap();
    store.set_attempts(&two, &at_two).await.unwrap();
    assert_eq!(store.attempts(&one).await.unwrap(), at_one);
    assert_eq!(store.attempts(&two).await.unwrap(), at_two);
    store.set_stopped_cleanly(&one, false).await.unwrap();
    store.set_stopped_cleanly(&two, true).await.unwrap();
    assert!(!store.stopped_cleanly(&one).await.unwrap());
    assert!(store.stopped_cleanly(&two).await.unwrap());
    assert_eq!(store.attempts(&one).await.unwrap(), at_one);
    assert_eq!(store.attempts(&two).await.unwrap(), Attempts::new());
}

/// Whoever had a partition before may not know yet that it is another's: neither keeps the other from its work.
pub async fn attempts_may_be_told_by_two_at_once<S: Subject>(subject: &S) {
    let (generations, id, one) = open_current(subject).await;
    let other = open::<S>(&generations, id, WriteMode::Live).await;
    let source = Source::partition("POST_TOPIC", 0);
    let of = |from: u64, tries| {
        (from..from + 64)
            .map(|position| (position, tries))
            .collect()
    };
    let (ours, theirs): (Attempts, Attempts) = (of(1, 1), of(33, 2));
    // They may get into each other's way, as long as the next try is another one.
    let tell = async |store: &dyn ReadModelStore<S::Projection>, attempts: &Attempts| loop {
        match store.set_attempts(&source, attempts).await {
            Err(StoreError::Unavailable(_)) => tokio::task::yield_now().await,
            told => return told.unwrap(),
        }
    };
    for _ in 0..10 {
        tokio::join!(
            tell(&*one, &ours),
            tell(&*other, &theirs),
            tell(&*one, &theirs),
            tell(&*other, &ours),
        );
        let empty = Attempts::new();
        one.set_attempts(&source, &empty).await.unwrap();
        assert_eq!(other.attempts(&source).await.unwrap(), empty);
    }
}

/// After the end of a writer its calls fail, but for another end.
pub async fn a_closed_store_writes_nothing<S: Subject>(subject: &S) {
    let (generations, id, store) = open_current(subject).await;
    store.close().await;
    store.close().await;
    let late = batch::<S>(&main_source::<S>(), 0, &follows(1), 0);
    assert!(store.apply(late).await.is_err());
    let store = open::<S>(&generations, id, WriteMode::Live).await;
    assert_eq!(store.checkpoints().await.unwrap(), []);
}

/// Two processes cannot both write a generation with one writer.
pub async fn a_second_writer_is_refused<S: Subject>(subject: &S) {
    let (generations, id, store) = open_current(subject).await;
    let other = subject.open().await;
    let refused = other.open(id, WriteMode::Live).await.err();
    assert!(
        matches!(refused, Some(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    assert!(described::<S>(&generations, id).await.has_writer);
    store.close().await;
    open::<S>(&other, id, WriteMode::Live).await.close().await;
}

/// The right to change generations has one holder over all processes.
pub async fn one_claim_at_a_time<S: Subject>(subject: &S) {
    let (one, two) = (subject.open().await, subject.open().await);
    let held = one.claim().await.unwrap().unwrap();
    assert!(two.claim().await.unwrap().is_none());
    assert!(one.claim().await.unwrap().is_none());
    drop(held);
    claim::<S>(&two).await;
}

/// While a fence stands, no batch goes in; when it falls without a switch, writing goes on.
pub async fn a_fence_keeps_writers_out_until_it_falls<S: Subject>(subject: &S) {
    let (generations, id, store) = open_current(subject).await;
    let (log, source) = (follows(4), main_source::<S>());
    store
        .apply(batch::<S>(&source, 0, &log[..2], 1))
        .await
        .unwrap();
    let other = subject.open().await;
    let held = claim::<S>(&other).await;
    let fence = other.fence(&held).await.unwrap();
    assert_eq!(fence.position(), 2);
    let (again, next) = (Arc::clone(&store), batch::<S>(&source, 2, &log[2..], 3));
    let mut writing = tokio::spawn(async move { patiently(|| again.apply(next.clone())).await });
    let early = tokio::time::timeout(Duration::from_millis(300), &mut writing).await;
    assert!(early.is_err(), "a batch went through a fence: {early:?}");
    assert_eq!(
        contents(&*generations, id)
            .await
            .unwrap()
            .snapshot
            .checkpoints[0]
            .position,
        2
    );
    drop(fence);
    writing.await.unwrap().unwrap();
    assert_equals_fold::<S>(&generations, id, &log, "after a fence").await;
}

/// Fills a new generation from the log and makes it current. Answers the new and the old generation.
async fn replace<S: Subject>(generations: &Gens<S>, log: &Log) -> (GenerationId, GenerationId) {
    let held = claim::<S>(generations).await;
    let new = generations.create(&held).await.unwrap();
    let store = open::<S>(generations, new, WriteMode::Bulk).await;
    if !log.is_empty() {
        let all = batch::<S>(&Source::log(), 0, log, 0);
        patiently(|| store.apply(all.clone())).await.unwrap();
    }
    store.close().await;
    let old = current::<S>(generations).await;
    let fence = generations.fence(&held).await.unwrap();
    fence.switch(new).await.unwrap();
    (new, old)
}

/// What another program has half built holds its mistakes: whoever goes on with it must know.
pub async fn what_another_program_began_is_told_apart<S: Subject>(subject: &S) {
    let generations = subject.open().await;
    let held = claim::<S>(&generations).await;
    let (ours, anothers) = (
        generations.create(&held).await.unwrap(),
        generations.create(&held).await.unwrap(),
    );
    subject.mark_as_anothers(anothers).await;
    for (id, is_ours) in [(ours, true), (anothers, false)] {
        let found = described::<S>(&generations, id).await;
        assert_eq!(found.state, GenerationState::Building);
        assert_eq!(found.is_of_this_program, is_ours, "{found:?}");
    }
}

/// After a switch everybody reads and writes the new generation, and the old one's writers are told.
pub async fn a_switch_retires_the_old_generation<S: Subject>(subject: &S) {
    let (generations, old, store) = open_current(subject).await;
    let (log, source) = (follows(4), main_source::<S>());
    store
        .apply(batch::<S>(&source, 0, &log[..3], 2))
        .await
        .unwrap();
    let elsewhere = subject.open().await;
    let mut pointer = elsewhere.current();
    let (new, replaced) = replace::<S>(&generations, &log[..3].to_vec()).await;
    assert_eq!(replaced, old);
    assert_eq!(current::<S>(&generations).await, new);
    let moved = tokio::time::timeout(PATIENCE, pointer.wait_for(|id| *id == new)).await;
    assert_eq!(*moved.unwrap().unwrap(), new);
    let listed = elsewhere.list().await.unwrap();
    assert!(listed.iter().all(|found| found.is_of_this_program));
    let states: Vec<_> = listed.iter().map(|found| (found.id, found.state)).collect();
    assert_eq!(
        states,
        [
            (old, GenerationState::Previous),
            (new, GenerationState::Current)
        ]
    );
    let late = store.apply(batch::<S>(&source, 3, &log[3..], 3)).await;
    assert!(matches!(late, Err(StoreError::Unusable(_))), "{late:?}");
    let changes = S::Projection::project(4, &log[3].1);
    let late = Projected {
        position: 4,
        changes,
    };
    assert!(store.apply_parked(late).await.is_err());
    let store = open::<S>(&elsewhere, new, WriteMode::Live).await;
    store
        .apply(batch::<S>(&source, 3, &log[3..], 3))
        .await
        .unwrap();
    assert_equals_fold::<S>(&generations, new, &log, "the new generation").await;
    assert_equals_fold::<S>(&generations, old, &log[..3].to_vec(), "the old one").await;
}

/// Partitions are read on from where the old generation was, what lies below the log's position being skipped.
pub async fn a_switch_carries_offsets<S: Subject>(subject: &S) {
    let (generations, _, store) = open_current(subject).await;
    let (log, source) = (follows(4), main_source::<S>());
    store
        .apply(batch::<S>(&source, 0, &log[..3], 41))
        .await
        .unwrap();
    let (new, _) = replace::<S>(&generations, &log).await;
    let store = open::<S>(&generations, new, WriteMode::Live).await;
    let checkpoints = store.checkpoints().await.unwrap();
    assert_eq!(source_position(&checkpoints, &source), 4);
    let carried = checkpoints.iter().find(|found| found.source == source);
    assert_eq!(carried.and_then(|found| found.next_offset), Some(42));
    let next = vec![(5, followed(5, 0, Timestamp(5)))];
    store
        .apply(batch::<S>(&source, 4, &next, 43))
        .await
        .unwrap();
    let whole = [log, next].concat();
    assert_equals_fold::<S>(&generations, new, &whole, "carried offsets").await;
}

/// A rollback writes a previous generation before it becomes current again.
pub async fn a_previous_generation_can_be_caught_up_and_come_back<S: Subject>(subject: &S) {
    let generations = subject.open().await;
    let log = follows(5);
    let (first, empty) = replace::<S>(&generations, &log[..2].to_vec()).await;
    let held = claim::<S>(&generations).await;
    generations.drop_generation(&held, empty).await.unwrap();
    drop(held);
    let (second, _) = replace::<S>(&generations, &log[..4].to_vec()).await;
    let held = claim::<S>(&generations).await;
    let store = open::<S>(&generations, first, WriteMode::Bulk).await;
    let missing = batch::<S>(&Source::log(), 2, &log[2..4], 0);
    store.apply(missing).await.unwrap();
    store.close().await;
    let fence = generations.fence(&held).await.unwrap();
    assert_eq!(fence.position(), 4);
    fence.switch(first).await.unwrap();
    assert_eq!(current::<S>(&generations).await, first);
    let store = open::<S>(&generations, first, WriteMode::Live).await;
    store
        .apply(batch::<S>(&main_source::<S>(), 4, &log[4..], 4))
        .await
        .unwrap();
    assert_equals_fold::<S>(&generations, first, &log, "rolled back").await;
    assert_eq!(
        described::<S>(&generations, second).await.state,
        GenerationState::Previous
    );
}

/// A generation that is not current can be removed, and its number is not given again.
pub async fn a_dropped_generation_is_gone<S: Subject>(subject: &S) {
    let generations = subject.open().await;
    let id = current::<S>(&generations).await;
    let held = claim::<S>(&generations).await;
    assert!(generations.drop_generation(&held, id).await.is_err());
    let new = generations.create(&held).await.unwrap();
    assert_eq!(
        described::<S>(&generations, new).await.state,
        GenerationState::Building
    );
    generations.drop_generation(&held, new).await.unwrap();
    let known: Vec<_> = generations.list().await.unwrap();
    assert_eq!(known.iter().map(|found| found.id).collect::<Vec<_>>(), [id]);
    let next = generations.create(&held).await.unwrap();
    assert!(next > new, "{next} comes after {new}");
    let fence = generations.fence(&held).await.unwrap();
    assert!(fence.switch(new).await.is_err());
    assert_eq!(current::<S>(&generations).await, id);
}
