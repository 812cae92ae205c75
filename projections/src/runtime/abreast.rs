//! Keeping the partitions of a process abreast while there is much to catch up with.
//!
//! The topics of a model are read side by side, each as fast as it goes, so one with few records soon brings events that are
//! hours ahead of another's in the log. That is right, too, but dear: whatever comes ahead of what it is about has to be
//! noted, looked for and changed later. So a partition that is far ahead of another one that still has something to bring
//! waits for it (Apache Flink calls it watermark alignment). Partitions that have brought all that was published are not
//! waited for, nor those that stand still: one that is stuck must not keep the others.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use socialhub_event_log::{Frontier, Position};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    runtime::writer::{BULK_BATCH, WriteError},
    store::Source,
};

/// How many events a partition may be ahead of another: as many as a rebuild takes at once.
const AHEAD: Position = BULK_BATCH as Position;
/// Whoever has not moved for so long is not waited for: longer than a store takes for a batch when it is hard at work.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the partitions of one process are.
#[derive(Debug, Default)]
pub(super) struct Abreast {
    places: Mutex<HashMap<Source, Where>>,
    /// Told when one has moved, or has gone.
    moved: watch::Sender<()>,
}

#[derive(Debug, Clone, Copy)]
struct Where {
    /// The last position that was written.
    reached: Position,
    /// The first position of what is to be written next, if that has come.
    in_hand: Option<Position>,
    since: Instant,
}

impl Where {
    /// Nothing below it will come from here; none when nothing is to come.
    fn floor(self, end: Position) -> Option<Position> {
        let to_come = (self.reached < end).then_some(self.reached + 1);
        self.in_hand.or(to_come)
    }
}

/// The place of one partition among those of its process, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    all: Arc<Abreast>,
    source: Source,
}

/// How far a partition may go.
#[derive(Debug, Clone, Copy)]
struct Bound {
    upto: Position,
    /// When that changes by itself.
    until: Instant,
}

impl Abreast {
    /// Gives a partition a place at the position that it has reached.
    pub(super) fn join(self: &Arc<Self>, source: &Source, reached: Position) -> Place {
        let place = Place {
            all: Arc::clone(self),
            source: source.clone(),
        };
        place.has_reached(reached);
        place
    }

    /// How far a partition may go for the others that are known to have something to bring; none when there are none.
    fn bound(&self, own: &Source, frontier: &Frontier, now: Instant) -> Option<Bound> {
        let places = self.places.lock();
        let others = places.iter().filter(|(source, _)| *source != own);
        let bounds = others.filter_map(|(source, place)| {
            let end = frontier.end(&source.name, source.partition);
            let floor = place.floor(end.map_or(0, |end| end.position))?;
            Some(Bound {
                upto: floor.saturating_add(AHEAD),
                until: place.since + PATIENCE,
            })
        });
        let standing = bounds.filter(|bound| bound.until > now);
        standing.min_by_key(|bound| bound.upto)
    }
}

impl Place {
    fn set(&self, place: Where) {
        self.all.places.lock().insert(self.source.clone(), place);
        self.all.moved.send_replace(());
    }

    /// Everything up to a position is written.
    pub(super) fn has_reached(&self, position: Position) {
        self.set(Where {
            reached: position,
            in_hand: None,
            since: Instant::now(),
        });
    }

    /// Waits until a record at a position may be written; answers up to where those behind it may.
    ///
    /// # Errors
    /// When `stop` is cancelled meanwhile.
    pub(super) async fn turn(
        &self,
        first: Position,
        frontier: &watch::Sender<Frontier>,
        stop: &CancellationToken,
    ) -> Result<Position, WriteError> {
        let mut moved = self.all.moved.subscribe();
        let here = || Where {
            reached: first.saturating_sub(1),
            in_hand: Some(first),
            since: Instant::now(),
        };
        self.set(here());
        loop {
            moved.borrow_and_update();
            let now = Instant::now();
            let bound = self.all.bound(&self.source, &frontier.borrow(), now);
            let Some(Bound { until, .. }) = bound.filter(|bound| bound.upto < first) else {
                // Whoever has waited for long has not been standing still.
                self.set(here());
                return Ok(bound.map_or(Position::MAX, |bound| bound.upto));
            };
            tokio::select! {
                () = stop.cancelled() => return Err(WriteError::Stopped),
                _ = timeout_at(until, moved.changed()) => {}
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.places.lock().remove(&self.source);
        self.all.moved.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, poll};
    use socialhub_event_log::PartitionEnd;
    use uuid::Uuid;

    use super::*;

    const FAR: Position = 10 * AHEAD;

    /// Two partitions of a process, and how far they were published.
    struct World {
        few: Place,
        many: Place,
        frontier: watch::Sender<Frontier>,
        stop: CancellationToken,
    }

    impl World {
        fn published_to(end_of_many: Position) -> Self {
            let all: Arc<Abreast> = Arc::default();
            let ends = [("FEW", FAR), ("MANY", end_of_many)];
            let ends = ends.map(|(topic, position)| PartitionEnd {
                topic: topic.to_owned(),
                partition: 0,
                offset: 0,
                position,
                event_id: Uuid::nil(),
                quiet: Vec::new(),
            });
            Self {
                few: all.join(&Source::partition("FEW", 0), 0),
                many: all.join(&Source::partition("MANY", 0), 0),
                frontier: watch::Sender::new(Frontier {
                    ends: ends.to_vec(),
                    ..Frontier::default()
                }),
                stop: CancellationToken::new(),
            }
        }

        async fn turn(&self, place: &Place, first: Position) -> Option<Position> {
            place.turn(first, &self.frontier, &self.stop).await.ok()
        }
    }

    #[tokio::test]
    async fn whoever_is_far_ahead_waits_for_those_with_something_to_bring() {
        let world = World::published_to(FAR);
        assert_eq!(world.turn(&world.few, 1).await, Some(1 + AHEAD));
        world.few.has_reached(AHEAD);
        let mut ahead = std::pin::pin!(world.turn(&world.few, FAR));
        assert!(poll!(&mut ahead).is_pending());
        // Whoever is behind goes on, with what came as without.
        assert_eq!(world.turn(&world.many, 7).await, Some(FAR + AHEAD));
        assert!(poll!(&mut ahead).is_pending());
        world.many.has_reached(FAR - AHEAD - 2);
        assert!(poll!(&mut ahead).is_pending());
        world.many.has_reached(FAR - AHEAD - 1);
        assert_eq!(ahead.await, Some(FAR));
    }

    #[tokio::test]
    async fn what_has_come_tells_how_far_the_next_is() {
        let world = World::published_to(FAR);
        let mut ahead = std::pin::pin!(world.turn(&world.few, FAR));
        assert!(poll!(&mut ahead).is_pending());
        // Nothing lies between, so they do not wait for each other.
        assert_eq!(world.turn(&world.many, FAR - 1).await, Some(FAR + AHEAD));
        assert_eq!(ahead.await, Some(FAR - 1 + AHEAD));
    }

    #[tokio::test]
    async fn nobody_waits_for_whoever_has_brought_everything() {
        let world = World::published_to(AHEAD);
        world.many.has_reached(AHEAD);
        assert_eq!(world.turn(&world.few, FAR).await, Some(Position::MAX));
    }

    #[tokio::test]
    async fn nobody_waits_for_whoever_has_gone() {
        let world = World::published_to(FAR);
        let World {
            few,
            many,
            frontier,
            stop,
        } = world;
        let mut ahead = std::pin::pin!(few.turn(FAR, &frontier, &stop));
        assert!(poll!(&mut ahead).is_pending());
        drop(many);
        assert_eq!(ahead.await.ok(), Some(Position::MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stands_still_is_not_waited_for_until_it_moves_again() {
        let world = World::published_to(FAR);
        let begun = Instant::now();
        assert_eq!(world.turn(&world.few, FAR).await, Some(Position::MAX));
        assert!(begun.elapsed() >= PATIENCE);
        world.few.has_reached(FAR);
        // Nothing of its own has kept it: it is not waited for any longer than before.
        assert_eq!(
            world.turn(&world.few, FAR + 1).now_or_never(),
            Some(Some(Position::MAX))
        );
        world.many.has_reached(1);
        let mut ahead = std::pin::pin!(world.turn(&world.few, FAR + 1));
        assert!(poll!(&mut ahead).is_pending());
    }

    #[tokio::test]
    async fn a_stop_ends_the_wait() {
        let world = World::published_to(FAR);
        let mut ahead = std::pin::pin!(world.turn(&world.few, FAR));
        assert!(poll!(&mut ahead).is_pending());
        world.stop.cancel();
        assert_eq!(ahead.await, None);
    }
}
