//! Verifying a generation: the log folded up to its checkpoint, compared with what it holds.
//!
//! The generation is read at one moment, in one read transaction of its store, so a system at work shows no false
//! differences. A store without transactions may show a batch that is half there: what its rows are ahead of the
//! checkpoints is folded, too, and only what differs in every one of some looks counts: a busy store has half a batch in
//! each of them, but never the same. Parked events have not been applied and are left out of the fold.
//!
//! A model that is right is compared in memory that does not grow with its rows: the first look at a large one only says in
//! which parts something differs ([`gathered`](crate::verify::gathered)), and the next one keeps the rows of these. The
//! fold itself is kept as a whole, and so is what a store has to read before it can say its rows.
//!
//! The log of today reads without the names of those who are erased, and a generation shows them until it has come to the
//! erasure. So one that has not is looked at again, and in the end not judged.

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde::Serialize;
use socialhub_domain::Event;
use socialhub_event_log::{EventLog, FrontierReader, Position};
use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    projection::Projection,
    runtime::{
        course::{Counting, VerifyCourse},
        generations::{Generation, GenerationState, Generations, Snapshot, log_position},
        handled::Handled,
        patience::Patience,
        rebuild::RebuildError,
        tail::{Chunk, read_chunk},
        writer::{MAX_BATCH, check_alignment},
    },
    store::{Checkpoint, GenerationId, ModelName, ParkedLetter, StoreError},
    verify::{
        Difference, ModelFold,
        gathered::{Compared, Gathered, Parts},
    },
};

/// The position of what no event is behind.
const NO_EVENT: Position = 0;
/// So often it is begun anew because another generation has become current.
const SWITCHES: u32 = 3;
/// Between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// What verifying found.
#[derive(Debug, Clone)]
pub struct VerifyReport {
    /// The model.
    pub model: ModelName,
    /// The generation that was verified.
    pub generation: GenerationId,
    /// Up to where.
    pub position: Position,
    /// How many rows it holds.
    pub rows: usize,
    /// Events that were set aside with it and therefore not expected to show.
    pub parked: Vec<ParkedLetter>,
    /// Positions of events that cannot be read and yet are not parked.
    pub unreadable: Vec<Position>,
    /// Everything that is not as the log says.
    pub differences: Vec<Difference>,
}

impl VerifyReport {
    /// Whether the model is what the log says.
    pub fn is_clean(&self) -> bool {
        self.differences.is_empty() && self.unreadable.is_empty()
    }
}

/// A report in numbers, for machines.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifySummary {
    /// The model.
    pub model: ModelName,
    /// The generation.
    pub generation: GenerationId,
    /// Up to where.
    pub position: Position,
    /// How many rows it holds.
    pub rows: usize,
    /// How many events are parked.
    pub parked: usize,
    /// How many things are not as the log says.
    pub differences: usize,
}

impl From<&VerifyReport> for VerifySummary {
    fn from(report: &VerifyReport) -> Self {
        Self {
            model: report.model,
            generation: report.generation,
            position: report.position,
            rows: report.rows,
            parked: report.parked.len(),
            differences: report.differences.len() + report.unreadable.len(),
        }
    }
}

/// Verifies the current generation of a model. `frontier` is the relay's, where models are written by partitions: each
/// event is expected to show if its partition has come to it. How far it is, `course` says.
///
/// # Errors
/// When store or log cannot be read, or the log does not hold the generation's checkpoint. [`RebuildError::Changed`] when
/// other generations keep becoming current.
pub async fn verify<P: Projection, F: ModelFold>(
    generations: &dyn Generations<P>,
    log: &Arc<dyn EventLog>,
    frontier: Option<&Arc<dyn FrontierReader>>,
    course: &VerifyCourse,
) -> Result<VerifyReport, RebuildError> {
    let against = Against {
        log,
        frontier,
        course,
    };
    for _ in 0..SWITCHES {
        if let Some(report) = verify_current::<P, F>(generations, against).await? {
            return Ok(report);
        }
    }
    Err(RebuildError::Changed {
        model: P::NAME,
        what: "other generations keep becoming current".to_owned(),
    })
}

/// What a model is compared with, and who is told how far that has come.
#[derive(Clone, Copy)]
struct Against<'a> {
    log: &'a Arc<dyn EventLog>,
    frontier: Option<&'a Arc<dyn FrontierReader>>,
    course: &'a VerifyCourse,
}

/// None when another generation has become current: the one that was looked at may have been removed meanwhile, and what
/// was read of it, nothing perhaps, says nothing.
async fn verify_current<P: Projection, F: ModelFold>(
    generations: &dyn Generations<P>,
    against: Against<'_>,
) -> Result<Option<VerifyReport>, RebuildError> {
    let mut generation = current(generations).await?;
    let id = generation.id;
    let moving = generations.writes_effects_first();
    let mut patience = Patience::with(against.log, against.frontier, P::TOPICS);
    let mut suspects = Suspects::default();
    let mut handled_before = log_position(&generation.checkpoints);
    loop {
        let mut gathered = suspects.gather::<F>().without(generations.derived());
        if moving {
            // What was handled before the look is handled in it.
            gathered = gathered.noting_above(handled_before);
        }
        let looked = look_at::<P, F>(generations, id, gathered, against).await;
        if generations.refresh().await? != id {
            return Ok(None);
        }
        let mut look = looked?;
        handled_before = log_position(&look.checkpoints);
        if let Some(parts) = look.rough.take() {
            suspects.are_in(parts, &look.report);
            patience.begin().await?;
            generation = current(generations).await?;
            continue;
        }
        suspects.clear(&mut look.report, moving);
        if look.report.is_clean() {
            return Ok(Some(look.report));
        }
        let is_pending = look.erasure_ahead.is_some() || look.is_half_written();
        let is_over = patience.is_over_after(look.checkpoints, is_pending).await?;
        // Whoever writes comes to the erasure, and completes a batch, or repeats it after a crash. Who has come since the look
        // began may be in the middle of one, and who has gone may have completed one: only a look that nobody wrote before or
        // after is the last. Whose clock is wrong seems not to be there, but moves the checkpoints.
        let had_writer = std::mem::replace(&mut generation, current(generations).await?).has_writer;
        let stands_still = !moving || patience.stands_still();
        let final_look = is_over || !(had_writer || generation.has_writer) && stands_still;
        match look.erasure_ahead {
            Some(position) if final_look => return Err(not_judged(position, had_writer).into()),
            None if final_look || !moving => return Ok(Some(look.report)),
            _ => sleep(BETWEEN_LOOKS).await,
        }
    }
}

/// Reads a generation and compares it with the log.
async fn look_at<P: Projection, F: ModelFold>(
    generations: &dyn Generations<P>,
    id: GenerationId,
    mut gathered: Gathered<F>,
    against: Against<'_>,
) -> Result<Look, RebuildError> {
    against.course.look();
    let mut counting = Counting {
        rows: &mut gathered,
        course: against.course,
    };
    let snapshot = generations.snapshot(id, &mut counting).await?;
    compare_with_log::<P, F>(id, snapshot, gathered, against).await
}

/// What one look found.
struct Look {
    report: VerifyReport,
    /// Where the generation stood.
    checkpoints: Vec<Checkpoint>,
    /// Where something differs, of a model too large to be kept: what it is, is not in the report.
    rough: Option<Parts>,
    /// The erasure that explains what differs, if the generation has not come to it.
    erasure_ahead: Option<Position>,
    /// The events whose effects are there in part or as a whole, and which are beyond the checkpoints.
    early: HashSet<Position>,
}

impl Look {
    /// Whether something of what differs is still being written.
    fn is_half_written(&self) -> bool {
        let mut differing = self.report.differences.iter();
        differing.any(|found| self.early.contains(&found.position))
    }
}

fn not_judged(erasure: Position, is_written: bool) -> StoreError {
    let when = if is_written {
        "verify again when it has"
    } else {
        "and nobody writes it: start its projector, then verify again"
    };
    StoreError::Unavailable(format!(
        "it has not come to the erasure at position {erasure}: {when}"
    ))
}

/// What has differed in every look so far.
#[derive(Default)]
struct Suspects {
    /// Where it is, of a large model.
    parts: Option<Parts>,
    /// What it is, of a store without transactions.
    things: Option<HashSet<(&'static str, String)>>,
    /// Up to where the first look went. What came later was not looked at as often.
    position: Option<Position>,
}

impl Suspects {
    /// Begins a look that keeps what is suspected.
    fn gather<F: ModelFold>(&self) -> Gathered<F> {
        match &self.parts {
            Some(parts) => Gathered::keeping_parts(parts.clone()),
            None => Gathered::keeping_few(),
        }
    }

    fn are_in(&mut self, parts: Parts, look: &VerifyReport) {
        self.parts = Some(parts);
        self.position.get_or_insert(look.position);
    }

    /// Clears those that do not differ in another look, and takes out of it what differs only there, unless every look is of
    /// one moment.
    fn clear(&mut self, look: &mut VerifyReport, moving: bool) {
        if moving || self.parts.is_some() {
            look.position = *self.position.get_or_insert(look.position);
        }
        if !moving {
            return;
        }
        if let Some(things) = &self.things {
            look.differences
                .retain(|difference| things.contains(&named(difference)));
        }
        self.things = Some(look.differences.iter().map(named).collect());
    }
}

fn named(difference: &Difference) -> (&'static str, String) {
    (difference.table, difference.key.clone())
}

async fn current<P: Projection>(
    generations: &dyn Generations<P>,
) -> Result<Generation, StoreError> {
    let found = generations.list().await?.into_iter();
    let mut current = found.filter(|generation| generation.state == GenerationState::Current);
    current
        .next()
        .ok_or_else(|| StoreError::Unusable("no generation is current".to_owned()))
}

/// Compares what a generation held at one moment with the log.
async fn compare_with_log<P: Projection, F: ModelFold>(
    id: GenerationId,
    snapshot: Snapshot,
    mut gathered: Gathered<F>,
    against: Against<'_>,
) -> Result<Look, RebuildError> {
    let Against { log, frontier, .. } = against;
    check_alignment(P::NAME, &snapshot.checkpoints, log).await?;
    let handled = Handled::by(P::NAME, &snapshot.checkpoints, frontier).await?;
    let position = handled.last();
    let parked = snapshot
        .parked
        .iter()
        .map(|letter| letter.position)
        .collect();
    let (least, mut ahead) = (handled.least(), gathered.take_ahead());
    ahead.retain(|position| *position > least);
    let folded = fold_log::<F>(against, handled, parked, ahead).await?;
    let rows = gathered.count();
    let Folded {
        fold,
        handled,
        early,
        unreadable,
        ..
    } = folded;
    let (mut differences, rough) = match apart(move || gathered.compare(&fold)).await? {
        Compared::Exactly(differences) => (differences, None),
        Compared::Roughly(parts) => (Vec::new(), Some(parts)),
    };
    for invented in differences.iter_mut().filter(|one| one.expected.is_none()) {
        if invented.position > position && !early.contains(&invented.position) {
            invented.position = NO_EVENT;
        }
    }
    let erasure_ahead = if differences.is_empty() {
        None
    } else {
        erasure_ahead(log, &handled).await?
    };
    let report = VerifyReport {
        model: P::NAME,
        generation: id,
        position,
        rows,
        parked: snapshot.parked,
        unreadable,
        differences,
    };
    Ok(Look {
        report,
        checkpoints: snapshot.checkpoints,
        rough,
        erasure_ahead,
        early,
    })
}

/// The first erasure in the log that a generation has not come to.
async fn erasure_ahead(
    log: &Arc<dyn EventLog>,
    handled: &Handled,
) -> Result<Option<Position>, RebuildError> {
    let mut after = handled.least();
    loop {
        let chunk = read_chunk(log, after, MAX_BATCH).await?;
        let Some(last) = chunk.last_position() else {
            return Ok(None);
        };
        after = last;
        let ahead = chunk.records().iter().find(|record| {
            matches!(record.event, Ok(Event::UserErased(_)))
                && record.position > handled.upto(&record.sequence)
        });
        if let Some(record) = ahead {
            return Ok(Some(record.position));
        }
    }
}

struct Folded<F> {
    fold: F,
    handled: Handled,
    parked: HashSet<Position>,
    /// Events beyond the checkpoints whose effects are there already.
    ahead: HashSet<Position>,
    /// Those of them that are in the log.
    early: HashSet<Position>,
    unreadable: Vec<Position>,
}

impl<F: ModelFold> Folded<F> {
    fn apply(mut self, chunk: &Chunk) -> Self {
        for record in chunk.records() {
            let is_handled = record.position <= self.handled.upto(&record.sequence);
            let is_there = is_handled || self.ahead.contains(&record.position);
            if !is_there || self.parked.contains(&record.position) {
                continue;
            }
            if !is_handled {
                self.early.insert(record.position);
            }
            match &record.event {
                Ok(event) => self.fold.apply(record.position, event),
                Err(_) => self.unreadable.push(record.position),
            }
        }
        self
    }
}

async fn fold_log<F: ModelFold>(
    against: Against<'_>,
    handled: Handled,
    parked: HashSet<Position>,
    ahead: HashSet<Position>,
) -> Result<Folded<F>, RebuildError> {
    let furthest = ahead.iter().copied().max().unwrap_or(0);
    let upto = handled.last().max(furthest);
    let mut folded = Folded {
        fold: F::default(),
        handled,
        parked,
        ahead,
        early: HashSet::new(),
        unreadable: Vec::new(),
    };
    let mut after = 0;
    while after < upto {
        against.course.fold(after, upto);
        let chunk = read_chunk(against.log, after, MAX_BATCH).await?;
        let Some(last) = chunk.last_position() else {
            break;
        };
        after = last;
        folded = apart(move || folded.apply(&chunk)).await?;
    }
    against.course.fold(upto, upto);
    Ok(folded)
}

/// Heavy work apart from the async threads.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RebuildError> {
    spawn_blocking(work)
        .await
        .map_err(|_| StoreError::Unavailable("the comparison panicked".to_owned()).into())
}
