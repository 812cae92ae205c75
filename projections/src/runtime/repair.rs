//! Repairing a generation: what a verification found is made what the log says, and nothing else is touched.
//!
//! Rows are not written from the fold, which knows what a model shows and not how its store keeps it. Instead a second
//! generation, the *workshop*, is filled with the same events by the code that every projection is written by; then, behind
//! a fence, the differing entities are copied from it. The fence makes both stand at the same events, so no older truth
//! overwrites a newer one, and whatever a store keeps beside what is verified comes along.
//!
//! A workshop leaves out what the repaired generation has not handled or has parked, so no rebuild may go on with one
//! that was left behind. It is known by its source, which is not the log's.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use socialhub_domain::Clock;
use socialhub_event_log::{EventLog, FrontierReader, Position};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    projection::Projection,
    record::PublicRecord,
    runtime::{
        check::VerifyReport,
        generations::{Claim, Generation, GenerationState, Generations, WriteMode},
        handled::Handled,
        pace::{Pace, Pacer},
        rebuild::{Progress, RebuildError, Silent, claim},
        writer::{BatchWriter, Entry},
    },
    status::reached,
    store::{GenerationId, Source, StoreError},
    verify::Entity,
};

/// With more differences than this a rebuild is the shorter way, and holds nobody up.
pub const MOST: usize = 10_000;
/// Some partitions may be so many events ahead of others: what lies between is applied behind the fence, while nobody
/// writes.
const SPREAD: u64 = 50_000;
/// How long a batch that is half written is waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two tries.
const BETWEEN: Duration = Duration::from_millis(250);
/// The source that a workshop is filled from.
const WORKSHOP: &str = "repair";

/// A repair of a model.
pub(super) struct Repair<'a, P: Projection> {
    pub(super) generations: Arc<dyn Generations<P>>,
    pub(super) log: Arc<dyn EventLog>,
    /// There when models are written by partitions.
    pub(super) frontier: Option<Arc<dyn FrontierReader>>,
    pub(super) clock: Arc<dyn Clock>,
    /// Is told how far the workshop is filled: all but the end of a repair.
    pub(super) progress: &'a dyn Progress,
}

/// Whether a generation is a workshop that a repair left behind.
pub(super) fn is_workshop(generations: &[Generation], id: GenerationId) -> bool {
    let found = generations.iter().find(|generation| generation.id == id);
    found.is_some_and(|generation| {
        let mut sources = generation.checkpoints.iter();
        sources.any(|checkpoint| checkpoint.source.name == WORKSHOP)
    })
}

/// Removes the workshops that killed repairs left behind.
pub(super) async fn drop_workshops<P: Projection>(
    generations: &dyn Generations<P>,
    claim: &Claim,
    existing: &[Generation],
) -> Result<(), RebuildError> {
    for generation in existing {
        if is_workshop(existing, generation.id) {
            generations.drop_generation(claim, generation.id).await?;
        }
    }
    Ok(())
}

impl<P: Projection> Repair<'_, P> {
    /// Makes everything that differs what the log says.
    pub(super) async fn run(
        &self,
        found: &VerifyReport,
        stop: &CancellationToken,
    ) -> Result<(), RebuildError> {
        let entities: Vec<Entity> = found.differences.iter().map(Entity::from).collect();
        if let Some(position) = found.unreadable.first() {
            return Err(beyond::<P>(&format!(
                "the event at position {position} cannot be read and is not parked"
            )));
        }
        if entities.len() > MOST {
            return Err(beyond::<P>(&format!(
                "{} things differ, and more than {MOST} are not repaired one by one",
                entities.len()
            )));
        }
        self.refuse_spread().await?;
        let claim = claim(&*self.generations).await?;
        let existing = self.generations.list().await?;
        drop_workshops(&*self.generations, &claim, &existing).await?;
        if current(&existing)?.id != found.generation {
            return Err(changed::<P>("another generation is current"));
        }
        let mut give_up = None;
        loop {
            let id = self.generations.create(&claim).await?;
            let outcome = self.in_workshop(&claim, id, &entities, stop).await;
            self.progress.ended(P::NAME);
            let dropped = self.generations.drop_generation(&claim, id).await;
            match outcome {
                // A batch is half written; meanwhile the workshop has left behind what is handled next.
                Err(RebuildError::Store(StoreError::Unavailable(reason)))
                    if Instant::now()
                        < *give_up.get_or_insert_with(|| Instant::now() + PATIENCE) =>
                {
                    tracing::info!(model = %P::NAME, reason, "not repaired yet; trying again");
                    sleep(BETWEEN).await;
                }
                outcome => {
                    outcome?;
                    if let Err(error) = dropped {
                        tracing::warn!(model = %P::NAME, %error, "what the repair was made with stays; the next one, or `socialhub replay prune`, removes it");
                    }
                    return Ok(());
                }
            }
        }
    }

    async fn in_workshop(
        &self,
        claim: &Claim,
        id: GenerationId,
        entities: &[Entity],
        stop: &CancellationToken,
    ) -> Result<(), RebuildError> {
        let store = self.generations.open(id, WriteMode::Bulk).await?;
        let source = Source {
            name: WORKSHOP.to_owned(),
            partition: 0,
        };
        let clock = Arc::clone(&self.clock);
        let opened = BatchWriter::open(
            Arc::clone(&store),
            clock,
            &self.log,
            WriteMode::Bulk,
            source,
        )
        .await;
        let outcome = match opened {
            Ok(mut writer) => self.mend(claim, id, &mut writer, entities, stop).await,
            Err(error) => Err(error.into()),
        };
        store.close().await;
        outcome
    }

    async fn mend(
        &self,
        claim: &Claim,
        id: GenerationId,
        writer: &mut BatchWriter<P>,
        entities: &[Entity],
        stop: &CancellationToken,
    ) -> Result<(), RebuildError> {
        // Where it is, then what is parked: what was handled by then is parked by then, or never.
        let place = self.place().await?;
        let parked = self.parked().await?;
        let pace = Pace::Gentle;
        self.progress.began(P::NAME, id, writer.position(), place);
        self.fill(writer, place, &parked, |_| true, pace, stop)
            .await?;
        let fence = self.generations.fence(claim).await?;
        self.catch_up(writer, place, &parked, stop).await?;
        Ok(fence.mend(id, entities).await?)
    }

    /// Brings the workshop to where the fenced generation is.
    async fn catch_up(
        &self,
        writer: &mut BatchWriter<P>,
        place: Position,
        parked_then: &BTreeSet<Position>,
        stop: &CancellationToken,
    ) -> Result<(), RebuildError> {
        let handled = self.handled().await?;
        let parked = self.parked().await?;
        if !parked.range(..=place).eq(parked_then.range(..=place)) {
            return Err(changed::<P>("parked events were retried or discarded"));
        }
        let is_handled = |record: &PublicRecord| record.position <= handled.upto(&record.sequence);
        // Nobody writes meanwhile.
        let pace = Pace::Full;
        self.fill(writer, handled.last(), &parked, is_handled, pace, stop)
            .await?;
        if writer.letters().events > 0 {
            return Err(beyond::<P>(
                "its store rejects an event that is not parked with it",
            ));
        }
        Ok(())
    }

    /// Applies what the repaired generation has applied, up to a position.
    async fn fill(
        &self,
        writer: &mut BatchWriter<P>,
        upto: Position,
        parked: &BTreeSet<Position>,
        is_handled: impl Fn(&PublicRecord) -> bool,
        pace: Pace,
        stop: &CancellationToken,
    ) -> Result<(), RebuildError> {
        let mut pacer = Pacer::begin(&self.log, pace).await?;
        writer.make_room(Some(pacer.breather(stop)));
        while writer.position() < upto {
            let place = writer.position();
            let chunk = pacer.read(place, upto - place, stop).await?;
            if stop.is_cancelled() {
                return Err(RebuildError::Interrupted);
            }
            if chunk.records().is_empty() {
                return Ok(());
            }
            let entries: Vec<Entry<'_>> = chunk
                .records()
                .iter()
                .map(|record| Entry {
                    held: parked.contains(&record.position) || !is_handled(record),
                    ..Entry::from(record)
                })
                .collect();
            writer.write(&entries, &Silent(P::NAME), stop).await?;
            self.progress.moved(P::NAME, writer.position(), upto);
        }
        Ok(())
    }

    async fn refuse_spread(&self) -> Result<(), RebuildError> {
        let place = self.place().await?;
        let handled = self.handled().await?;
        if handled.last().saturating_sub(place) > SPREAD {
            return Err(beyond::<P>(&format!(
                "one of its partitions is at position {place}, another at {}: repair it when the slower one has come on",
                handled.last()
            )));
        }
        Ok(())
    }

    /// Up to where the repaired generation has handled everything.
    async fn place(&self) -> Result<Position, RebuildError> {
        let existing = self.generations.list().await?;
        let generation = current(&existing)?;
        match &self.frontier {
            None => Ok(generation.position()),
            Some(frontier) => {
                let frontier = frontier.frontier().await?;
                Ok(reached(&generation.checkpoints, P::TOPICS, &frontier))
            }
        }
    }

    /// What the repaired generation has handled, event by event.
    async fn handled(&self) -> Result<Handled, RebuildError> {
        let existing = self.generations.list().await?;
        let checkpoints = &current(&existing)?.checkpoints;
        Ok(Handled::by(P::NAME, checkpoints, self.frontier.as_ref()).await?)
    }

    async fn parked(&self) -> Result<BTreeSet<Position>, RebuildError> {
        let id = self.generations.refresh().await?;
        let letters = self.generations.letters(id).await?;
        Ok(letters.iter().map(|letter| letter.position).collect())
    }
}

fn current(generations: &[Generation]) -> Result<&Generation, StoreError> {
    generations
        .iter()
        .find(|generation| generation.state == GenerationState::Current)
        .ok_or_else(|| StoreError::Unusable("no generation is current".to_owned()))
}

fn beyond<P: Projection>(reason: &str) -> RebuildError {
    RebuildError::BeyondRepair {
        model: P::NAME,
        reason: reason.to_owned(),
    }
}

fn changed<P: Projection>(what: &str) -> RebuildError {
    RebuildError::Changed {
        model: P::NAME,
        what: what.to_owned(),
    }
}
