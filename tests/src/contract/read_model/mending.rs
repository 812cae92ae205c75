//! Repairs: random histories in which the current generation has missed some events and taken in others that never were.

use rand::{Rng, SeedableRng, rngs::StdRng};
use socialhub_domain::Timestamp;
use socialhub_projections::{
    GenerationId, Source,
    runtime::{Claim, WriteMode},
    verify::{Entity, ModelFold, ModelRow},
};

use super::{
    Contents, Gens, Subject, assert_equals_fold, batch, claim, contents, current, open, patiently,
    racing::start_over,
};
use crate::contract::history::{Log, PEOPLE, followed, history};

/// How much of a history comes after the repair.
const AFTER: usize = 60;

/// A history as a damaged generation has it: some events are missing, and some never happened.
fn damaged(log: &Log, rng: &mut StdRng) -> Log {
    let mut damaged = Vec::with_capacity(log.len());
    for (position, event) in log {
        match rng.random_range(0..20) {
            0..=2 => {}
            3 => {
                let (follower, author) = (rng.random_range(0..PEOPLE), PEOPLE + 1);
                damaged.push((*position, followed(follower, author, Timestamp(7))));
            }
            _ => damaged.push((*position, event.clone())),
        }
    }
    damaged
}

/// Writes events to an empty generation, as if they were all of a log.
async fn write<S: Subject>(
    generations: &Gens<S>,
    id: GenerationId,
    mode: WriteMode,
    events: &Log,
    log: &Log,
) {
    let store = open::<S>(generations, id, mode).await;
    let mut all = batch::<S>(&Source::log(), 0, events, 0);
    all.checkpoint = batch::<S>(&Source::log(), 0, log, 0).checkpoint;
    patiently(|| store.apply(all.clone())).await.unwrap();
    store.close().await;
}

fn differing<S: Subject>(log: &Log, model: &Contents) -> Vec<Entity> {
    let mut fold = S::Fold::default();
    for (position, event) in log {
        fold.apply(*position, event);
    }
    let differences = model.differences_from(&fold);
    differences.iter().map(Entity::from).collect()
}

async fn look<S: Subject>(generations: &Gens<S>, id: GenerationId) -> Contents {
    contents(&**generations, id).await.unwrap()
}

/// Mends all that differs but for one thing, then that. What did not differ stays as it was.
async fn mend<S: Subject>(
    generations: &Gens<S>,
    held: &Claim,
    id: GenerationId,
    log: &Log,
    hint: &str,
) {
    let workshop = generations.create(held).await.unwrap();
    write::<S>(generations, workshop, WriteMode::Bulk, log, log).await;
    let before = look::<S>(generations, id).await;
    let found = differing::<S>(log, &before);
    let (last, others) = found
        .split_last()
        .unwrap_or_else(|| panic!("{hint}: no damage shows"));
    let fence = generations.fence(held).await.unwrap();
    fence.mend(workshop, others).await.unwrap();
    let between = look::<S>(generations, id).await;
    let left = differing::<S>(log, &between);
    assert!(left.iter().all(|one| one == last), "{hint}: left: {left:?}");
    let differed = |row: &ModelRow| {
        found
            .iter()
            .any(|one| (one.table, &one.key) == (row.table, &row.key))
    };
    for row in before.rows.iter().filter(|row| !differed(row)) {
        let now = between
            .rows
            .iter()
            .find(|now| (now.table, &now.key) == (row.table, &row.key));
        assert_eq!(now, Some(row), "{hint}: touched");
    }
    let fence = generations.fence(held).await.unwrap();
    fence
        .mend(workshop, std::slice::from_ref(last))
        .await
        .unwrap();
    assert_equals_fold::<S>(generations, id, log, hint).await;
    generations.drop_generation(held, workshop).await.unwrap();
}

/// What differs is made what another generation has, and nothing else; a store that is open meanwhile notices, and what
/// comes afterwards goes on from there.
pub async fn what_differs_is_mended_and_nothing_else<S: Subject>(subject: &S) {
    let generations = subject.open().await;
    for seed in 1..=S::HISTORIES.div_ceil(2) {
        start_over::<S>(&generations).await;
        let id = current::<S>(&generations).await;
        let whole = history(seed + 300, 260);
        let (log, rest) = whole.split_at(whole.len().saturating_sub(AFTER));
        let log = log.to_vec();
        let wrong = damaged(&log, &mut StdRng::seed_from_u64(seed));
        write::<S>(&generations, id, WriteMode::Live, &wrong, &log).await;
        // What it keeps in memory, if anything, is of the damaged model.
        let store = open::<S>(&generations, id, WriteMode::Live).await;
        let (touching, rest) = rest.split_at(rest.len() / 2);
        let next = batch::<S>(&Source::log(), log.len() as u64, touching, 0);
        patiently(|| store.apply(next.clone())).await.unwrap();
        let log = [log, touching.to_vec()].concat();

        let held = claim::<S>(&generations).await;
        mend::<S>(&generations, &held, id, &log, &format!("history {seed}")).await;
        drop(held);

        let next = batch::<S>(&Source::log(), log.len() as u64, rest, 0);
        patiently(|| store.apply(next.clone())).await.unwrap();
        store.close().await;
        let hint = format!("history {seed}, afterwards");
        assert_equals_fold::<S>(&generations, id, &whole, &hint).await;
    }
}
