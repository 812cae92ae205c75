//! Making room: what fills a generation beside a log that somebody writes works in short strokes and rests between them.
//!
//! A rebuild can take all that a machine has, and whoever sends a command meanwhile waits behind it. So the log's head is
//! looked at while a generation is filled. As long as it stands still, nobody waits, and the log is read in large pieces
//! without a rest. While it moves, pieces are small, and each is followed by a rest that is a multiple of the time it took:
//! on a machine that is busy a piece takes longer, and so does its rest. Who writes a piece rests within it, too, after each
//! small part, or after each operation where the store takes many ([`Breather`]): seconds of work in one go would be seconds
//! in which everybody waits, however long the rest is. In all, rests never let the log grow half as fast as the generation is
//! filled: what a piece takes longer than its share of the time is taken from the rests of the next ones. Where that leaves no
//! time to rest, pieces grow, because a store does more in a larger one; and where even the largest take too long in small
//! parts, some are written in large ones.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use socialhub_event_log::{EventLog, LogError, Position};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::runtime::{
    tail::{Chunk, read_chunk},
    writer::BULK_BATCH,
};

/// Events of the smallest piece while others write, and of a part of a larger one. The largest has as many as when nobody does.
pub(super) const SHORTEST: usize = 1_024;
/// How much longer a rest is than the work before it.
const REST: u32 = 4;
/// How many times faster than the log grows a generation is filled at least: what is missing is halved while it is filled, or
/// better. More would be sooner done, and take from commands what time a busy machine has left.
const LEAD: f64 = 2.0;
/// How much longer than its share a piece may have taken, at most, and still be made up for.
const MOST_OWED: Duration = Duration::from_secs(120);
/// The longest rest after one operation.
const LONGEST_BREATH: Duration = Duration::from_secs(2);
/// How often it is looked whether others write.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How much room is made for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// As much as they need.
    #[default]
    Gentle,
    /// None: as fast as it goes.
    Full,
}

/// Lets whoever writes one model rest between the parts of a piece, for as many times as long as each took as the piece may.
#[derive(Debug)]
pub struct Breather {
    times: Arc<Times>,
    /// Ends its rests.
    stop: CancellationToken,
    /// For how long it has rested since that was last asked.
    rested: Mutex<Duration>,
}

/// What is allowed to whoever writes.
#[derive(Debug, Default)]
struct Times(Mutex<Allowed>);

#[derive(Debug, Default, Clone, Copy)]
struct Allowed {
    /// Whether others write: then it works in small parts, also where there is no time to rest between them.
    small: bool,
    /// How many times as long as the work a rest is.
    times: f64,
    /// When the time of a piece is up: who still works on it rests no more.
    until: Option<Instant>,
}

impl Times {
    fn get(&self) -> Allowed {
        *self.0.lock()
    }

    fn set(&self, small: bool, times: f64) {
        let mut allowed = self.0.lock();
        (allowed.small, allowed.times) = (small, times);
    }

    fn rest_until(&self, until: Option<Instant>) {
        self.0.lock().until = until;
    }
}

impl Allowed {
    /// How long one may rest after so much work.
    fn rest(&self, worked: Duration, now: Instant) -> Duration {
        if !self.small {
            return Duration::ZERO;
        }
        let rest = worked.mul_f64(self.times).min(LONGEST_BREATH);
        let left = self.until.map(|until| until.saturating_duration_since(now));
        left.map_or(rest, |left| rest.min(left))
    }
}

impl Breather {
    /// Whether there is anybody to make room for.
    pub fn is_needed(&self) -> bool {
        self.times.get().small && !self.stop.is_cancelled()
    }

    /// Rests after some work. Whoever rests should be the only one of the model to be at work.
    pub async fn rest(&self, worked: Duration) {
        let rest = self.times.get().rest(worked, Instant::now());
        if !rest.is_zero() {
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = sleep(rest) => *self.rested.lock() += rest,
            }
        }
    }

    fn take_rested(&self) -> Duration {
        std::mem::take(&mut self.rested.lock())
    }
}

/// Reads the log for somebody who fills a generation, at a pace.
#[derive(Clone)]
pub struct Pacer {
    log: Arc<dyn EventLog>,
    pace: Pace,
    learnt: Learnt,
    stroke: Option<Stroke>,
    times: Arc<Times>,
    /// Of the models that are filled with what is read.
    breathers: Vec<Arc<Breather>>,
}

/// What is known of the log and of the store, from the pieces so far.
#[derive(Clone, Copy)]
pub(super) struct Learnt {
    growth: Growth,
    /// How many events a piece has while others write.
    short: usize,
    /// For how much longer than its share of the time it was worked on what was written, and rested.
    owed: Duration,
    /// For how long it has rested in all.
    rested: Duration,
}

/// A piece that is being worked on.
#[derive(Clone)]
struct Stroke {
    began: Instant,
    events: usize,
}

/// How fast the log grows.
#[derive(Clone, Copy)]
struct Growth {
    head: Position,
    looked: Instant,
    /// None before the second look.
    per_second: Option<f64>,
}

impl Growth {
    fn is_known_to_stand(&self) -> bool {
        self.per_second == Some(0.0)
    }

    fn saw(&mut self, head: Position, now: Instant) {
        let seconds = (now - self.looked).as_secs_f64();
        let grown = head.saturating_sub(self.head);
        *self = Self {
            head,
            looked: now,
            per_second: Some(grown as f64 / seconds.max(0.001)),
        };
    }
}

impl Pacer {
    /// One that has just looked at the head of a log.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn begin(log: &Arc<dyn EventLog>, pace: Pace) -> Result<Self, LogError> {
        let times = Arc::<Times>::default();
        if pace == Pace::Gentle {
            times.set(true, REST.into());
        }
        Ok(Self {
            pace,
            learnt: Learnt {
                growth: Growth {
                    head: log.head().await?,
                    looked: Instant::now(),
                    per_second: None,
                },
                short: SHORTEST,
                owed: Duration::ZERO,
                rested: Duration::ZERO,
            },
            log: Arc::clone(log),
            stroke: None,
            times,
            breathers: Vec::new(),
        })
    }

    /// What lets the writer of one more model rest, until `stop` is cancelled.
    pub(super) fn breather(&mut self, stop: &CancellationToken) -> Arc<Breather> {
        let breather = Arc::new(Breather {
            times: Arc::clone(&self.times),
            stop: stop.clone(),
            rested: Mutex::default(),
        });
        self.breathers.push(Arc::clone(&breather));
        breather
    }

    /// The same pace for whoever reads for one of the models by itself.
    pub(super) fn of_one(&self, model: Arc<Breather>) -> Self {
        Self {
            breathers: vec![model],
            ..self.clone()
        }
    }

    /// For how long those have rested who wrote the last piece, one after the other.
    fn breathed(&self) -> Duration {
        let rested = self.breathers.iter().map(|model| model.take_rested());
        rested.sum()
    }

    /// The log's last position when it last looked.
    pub(super) fn head(&self) -> Position {
        self.learnt.growth.head
    }

    /// Looks at the log's head. How fast that grows is told from looks that lie apart: within a moment every log stands still.
    pub(super) async fn look(&mut self) -> Result<Position, LogError> {
        let head = self.log.head().await?;
        let now = Instant::now();
        if now - self.learnt.growth.looked >= LOOK_EVERY {
            self.learnt.growth.saw(head, now);
        }
        Ok(head)
    }

    /// Makes no more room.
    pub(super) fn hurry(&mut self) {
        self.pace = Pace::Full;
    }

    /// Whether what was read should be worked off before more is read, so that the rest after it is one.
    pub(super) fn is_careful(&self) -> bool {
        self.pace == Pace::Gentle && !self.learnt.growth.is_known_to_stand()
    }

    /// For how long it has rested in all.
    pub(super) fn rested(&self) -> Duration {
        self.learnt.rested
    }

    /// What it has learnt so far.
    pub(super) fn learnt(&self) -> Learnt {
        self.learnt
    }

    /// Goes on with what somebody has learnt who read for the same model.
    pub(super) fn learn(&mut self, learnt: Learnt) {
        self.learnt = learnt;
    }

    /// Rests after what was read before, and reads and decodes what comes after a position: at most so many events, none at
    /// the end of the log. A cancelled `stop` ends the rest; what it means for the work is the caller's to say.
    pub(super) async fn read(
        &mut self,
        after: Position,
        missing: u64,
        stop: &CancellationToken,
    ) -> Result<Chunk, LogError> {
        self.rest(stop).await?;
        let most = match self.is_careful() {
            true => self.learnt.short,
            false => BULK_BATCH,
        };
        let limit = usize::try_from(missing).map_or(most, |missing| missing.min(most));
        let began = Instant::now();
        let chunk = read_chunk(&self.log, after, limit).await?;
        let events = chunk.records().len();
        self.times.rest_until(self.time_of(events, began));
        self.stroke = Some(Stroke { began, events });
        Ok(chunk)
    }

    /// When so many events have to be written that were begun at a moment, so that the log does not grow too fast meanwhile.
    fn time_of(&self, events: usize, began: Instant) -> Option<Instant> {
        let Learnt { growth, owed, .. } = self.learnt;
        let growth = growth.per_second.filter(|growth| *growth > 0.0)?;
        began.checked_add(longest(events, growth).saturating_sub(owed))
    }

    async fn rest(&mut self, stop: &CancellationToken) -> Result<(), LogError> {
        let stroke = self.stroke.take();
        // Whoever is in a hurry, behind a fence too, asks nobody how the log grows.
        let Some(stroke) = stroke.filter(|_| self.pace == Pace::Gentle) else {
            return Ok(());
        };
        let elapsed = stroke.began.elapsed();
        // Side by side they may have rested for longer than the piece took.
        let breathed = self.breathed().min(elapsed);
        self.learnt.rested += breathed;
        let worked = elapsed.saturating_sub(breathed);
        if self.learnt.growth.looked.elapsed() >= LOOK_EVERY {
            self.look().await?;
        }
        let Some(growth) = self.learnt.growth.per_second.filter(|_| self.is_careful()) else {
            if !self.is_careful() {
                self.times.set(false, 0.0);
            }
            return Ok(());
        };
        let rest = self
            .learn_from(&stroke, worked, growth)
            .saturating_sub(breathed);
        self.learnt
            .owes(elapsed + rest, longest(stroke.events, growth));
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(rest) => self.learnt.rested += rest,
        }
        Ok(())
    }

    /// Adapts to how long a piece was worked on; answers for how long it may be rested in all because of it.
    fn learn_from(&mut self, stroke: &Stroke, worked: Duration, growth: f64) -> Duration {
        let Learnt { short, owed, .. } = &mut self.learnt;
        let time = longest(stroke.events, growth).saturating_sub(*owed);
        let spare = time.saturating_sub(worked);
        let rest = spare.min(worked * REST);
        // The last one before the end may have a few, and tells nothing of the others.
        if stroke.events >= SHORTEST && !worked.is_zero() {
            *short = next_size(*short, worked, spare);
            // Where even the largest piece in small parts takes too long, the next one is written in large ones.
            let too_slow = spare.is_zero() && *short >= BULK_BATCH;
            self.times.set(!too_slow, ratio(rest, worked));
        }
        rest
    }
}

impl Learnt {
    /// A piece has taken so long, with its rest, and was to take so long.
    fn owes(&mut self, took: Duration, share: Duration) {
        self.owed = (self.owed + took).saturating_sub(share).min(MOST_OWED);
    }
}

fn ratio(rest: Duration, worked: Duration) -> f64 {
    rest.as_secs_f64() / worked.as_secs_f64().max(1e-6)
}

/// How long so many events may take beside a log that grows by so many a second.
fn longest(events: usize, growth: f64) -> Duration {
    Duration::try_from_secs_f64(events as f64 / (LEAD * growth)).unwrap_or(Duration::MAX)
}

/// Larger pieces when there is hardly time to rest, smaller ones when there is more than enough.
fn next_size(size: usize, worked: Duration, longest_rest: Duration) -> usize {
    if longest_rest < worked {
        (size * 2).min(BULK_BATCH)
    } else if longest_rest > worked * (2 * REST) {
        (size / 2).max(SHORTEST)
    } else {
        size
    }
}

#[cfg(test)]
mod tests {
    use socialhub_event_log::MemoryEventLog;

    use super::*;
    use crate::runtime::tail::tests::{append_to, log_of};

    const STROKE_TIME: Duration = Duration::from_millis(20);
    const LENGTH: u64 = 40_000;

    /// Fills something from a log to which so many events are appended during each piece of work. Answers for how long it
    /// worked, for how long it rested, and how many events the last whole piece had.
    async fn fill(pace: Pace, others: u64) -> (Duration, Duration, usize) {
        let log = log_of(LENGTH.into(), 1).await;
        let (mut length, mut after) = (LENGTH, 0);
        let (mut worked, mut largest) = (Duration::ZERO, 0);
        let mut pacer = Pacer::begin(&log, pace).await.unwrap();
        while after < LENGTH {
            let stop = CancellationToken::new();
            let chunk = pacer.read(after, LENGTH - after, &stop).await.unwrap();
            after = chunk.last_position().unwrap();
            largest = largest.max(chunk.records().len());
            sleep(STROKE_TIME).await;
            worked += STROKE_TIME;
            if others > 0 {
                append_to(&*log, length.into(), others.into(), 1).await;
                length += others;
            }
        }
        (worked, pacer.rested(), largest)
    }

    #[tokio::test(start_paused = true)]
    async fn who_fills_a_generation_rests_while_others_write() {
        let (worked, rested, largest) = fill(Pace::Gentle, 3).await;
        assert_eq!(largest, SHORTEST);
        // It does not rest before it knows, and the last piece has no rest after it.
        assert!(rested <= worked * REST);
        assert!(rested + (LOOK_EVERY + 2 * STROKE_TIME) * REST >= worked * REST);
    }

    #[tokio::test(start_paused = true)]
    async fn beside_a_log_that_stands_still_nobody_rests() {
        let (_, rested, largest) = fill(Pace::Gentle, 0).await;
        assert_eq!((rested, largest), (Duration::ZERO, BULK_BATCH));
    }

    #[tokio::test(start_paused = true)]
    async fn at_full_speed_nobody_rests() {
        let (_, rested, largest) = fill(Pace::Full, 3).await;
        assert_eq!((rested, largest), (Duration::ZERO, BULK_BATCH));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_ends_when_the_work_is_broken_off() {
        let log = log_of(10, 1).await;
        let mut pacer = Pacer::begin(&log, Pace::Gentle).await.unwrap();
        let stop = CancellationToken::new();
        pacer.read(0, 5, &stop).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        append_to(&*log, 10, 1, 1).await;
        stop.cancel();
        let began = Instant::now();
        pacer.read(5, 5, &stop).await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(1));
        assert_eq!(pacer.rested(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_within_a_piece_ends_when_the_work_is_broken_off() {
        let log: Arc<dyn EventLog> = Arc::new(MemoryEventLog::new());
        let mut pacer = Pacer::begin(&log, Pace::Gentle).await.unwrap();
        let stop = CancellationToken::new();
        let breather = pacer.breather(&stop);
        let began = Instant::now();
        let resting = breather.rest(LONGEST_BREATH);
        tokio::join!(resting, async { stop.cancel() });
        assert!(began.elapsed() < Duration::from_millis(1));
        assert!(!breather.is_needed());
    }

    /// A store that rests between operations has rested for the whole piece when that is done.
    #[tokio::test(start_paused = true)]
    async fn what_a_store_has_rested_between_operations_is_not_rested_again() {
        const OPERATIONS: u32 = 10;
        let log = log_of(LENGTH.into(), 1).await;
        let (mut after, mut length) = (0, LENGTH);
        let mut pacer = Pacer::begin(&log, Pace::Gentle).await.unwrap();
        let stop = CancellationToken::new();
        let breather = pacer.breather(&stop);
        let began = Instant::now();
        let (mut worked, mut between) = (Duration::ZERO, Duration::ZERO);
        while after < LENGTH {
            let idle = Instant::now();
            let chunk = pacer.read(after, LENGTH - after, &stop).await.unwrap();
            between += idle.elapsed();
            after = chunk.last_position().unwrap();
            for _ in 0..OPERATIONS {
                sleep(STROKE_TIME / OPERATIONS).await;
                worked += STROKE_TIME / OPERATIONS;
                breather.rest(STROKE_TIME / OPERATIONS).await;
            }
            append_to(&*log, length.into(), 3, 1).await;
            length += 3;
        }
        pacer.rest(&stop).await.unwrap();
        assert_eq!(pacer.rested(), began.elapsed() - worked);
        assert!(pacer.rested() <= worked * REST + Duration::from_millis(1));
        assert!(pacer.rested() + Duration::from_millis(500) >= worked * REST);
        assert!(between < worked, "{between:?} in one go");
    }

    /// Rests are as long as the piece before allowed; this one takes longer.
    #[tokio::test(start_paused = true)]
    async fn rests_within_a_piece_end_with_its_time() {
        const OPERATIONS: u32 = 10;
        let log = log_of(LENGTH.into(), 1).await;
        let (mut after, mut length) = (0, LENGTH);
        let mut pacer = Pacer::begin(&log, Pace::Gentle).await.unwrap();
        let stop = CancellationToken::new();
        let breather = pacer.breather(&stop);
        for piece in 0..30 {
            let chunk = pacer.read(after, LENGTH - after, &stop).await.unwrap();
            after = chunk.last_position().unwrap();
            let time = longest(
                chunk.records().len(),
                pacer.learnt.growth.per_second.unwrap_or(1.0),
            );
            let slow = piece == 20;
            let operation = STROKE_TIME * if slow { 20 } else { 1 } / OPERATIONS;
            let began = Instant::now();
            for _ in 0..OPERATIONS {
                sleep(operation).await;
                breather.rest(operation).await;
            }
            let took = began.elapsed();
            if slow {
                // What is still to be done when the time is up is done without a rest.
                let worked = operation * OPERATIONS;
                assert!(worked < took, "no rests");
                assert!(took < time + worked, "{took:?}, not {time:?}");
            }
            // A thousand a second.
            let grown = took.as_millis() as u64;
            append_to(&*log, length.into(), grown.into(), 1).await;
            length += grown;
        }
    }

    /// A store that keeps up only in large parts.
    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_in_small_parts_is_made_up_for_in_large_ones() {
        let (mut after, mut length) = (0, 150_000);
        let log = log_of(length.into(), 1).await;
        let mut pacer = Pacer::begin(&log, Pace::Gentle).await.unwrap();
        let stop = CancellationToken::new();
        let breather = pacer.breather(&stop);
        let began = Instant::now();
        // The last mile is another matter.
        while length - after > 4_096 {
            assert!(
                began.elapsed() < Duration::from_secs(400),
                "{after} of {length}"
            );
            let chunk = pacer.read(after, length - after, &stop).await.unwrap();
            after = chunk.last_position().unwrap();
            // Eight hundred events a second in small parts, four thousand in large ones.
            let each = if breather.is_needed() { 1_250 } else { 250 };
            sleep(Duration::from_micros(each) * chunk.records().len() as u32).await;
            // A thousand a second come meanwhile.
            let come = began.elapsed().as_millis() as u64 + 150_000 - length;
            append_to(&*log, length.into(), come.into(), 1).await;
            length += come;
        }
        // Twice as fast as the log grows: as long again as it took to write what was missing.
        let took = began.elapsed();
        assert!(took < Duration::from_secs(180), "{took:?}");
        assert!(took > Duration::from_secs(90), "{took:?}: at full speed");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_breathes_at_full_speed_or_beside_a_log_that_stands_still() {
        let log = log_of(LENGTH.into(), 1).await;
        let stop = CancellationToken::new();
        for pace in [Pace::Full, Pace::Gentle] {
            let mut pacer = Pacer::begin(&log, pace).await.unwrap();
            let breather = pacer.breather(&stop);
            pacer.read(0, LENGTH, &stop).await.unwrap();
            sleep(Duration::from_secs(1)).await;
            pacer.read(1, LENGTH, &stop).await.unwrap();
            let began = Instant::now();
            breather.rest(Duration::from_secs(1)).await;
            assert_eq!(began.elapsed(), Duration::ZERO, "{pace:?}");
        }
    }

    #[test]
    fn the_log_does_not_run_away_from_who_rests() {
        for growth in [1.0, 500.0, 2_000.0, 5_000.0, 100_000.0] {
            let rest = longest(SHORTEST, growth).saturating_sub(STROKE_TIME);
            let filled = SHORTEST as f64 / (STROKE_TIME + rest).as_secs_f64();
            assert!(rest.is_zero() || (filled / (LEAD * growth) - 1.0).abs() < 0.001);
        }
    }

    /// A store that takes most of its time for a piece as such.
    #[test]
    fn pieces_grow_until_there_is_time_to_rest() {
        let takes = |size: usize| Duration::from_millis(500 + size as u64 / 20);
        let rest_after = |worked, size, growth| longest(size, growth).saturating_sub(worked);
        let mut size = SHORTEST;
        for _ in 0..10 {
            let worked = takes(size);
            size = next_size(size, worked, rest_after(worked, size, 1_000.0));
        }
        assert!(
            rest_after(takes(size), size, 1_000.0) >= takes(size),
            "{size}"
        );
        // And shrink when the log hardly grows any more.
        for _ in 0..10 {
            let worked = takes(size);
            size = next_size(size, worked, rest_after(worked, size, 1.0));
        }
        assert_eq!(size, SHORTEST);
    }
}
