//! Writing records to one generation: the one code path of live projection and rebuild.
//!
//! Decides what is applied and what is parked. A record that cannot be decoded is parked; so is one that its store
//! rejects, found by halving the batch; so are later records of a parked sequence, behind it. After an unclean stop
//! attempts at the first records are recorded before they are made, so that a record that takes the process down is parked
//! too: first some together, then, if the process ended again, each of those by itself.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use socialhub_domain::{Clock, Event, Timestamp};
use socialhub_event_log::{EventLog, LogError, Position};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    projection::{Projected, Projection},
    record::{PublicRecord, SequenceKey},
    runtime::{
        careful::Turns,
        control::retry,
        division,
        generations::WriteMode,
        letter,
        pace::{Breather, SHORTEST},
        rebuild::RebuildError,
        tail::Backoff,
    },
    store::{
        Attempts, Checkpoint, ModelName, Parked, ParkedLetter, ParkedSequence, ReadModelStore,
        Source, StoreError, WriteBatch, source_position,
    },
};

/// How many records one transaction of a live projector may hold.
pub const MAX_BATCH: usize = 4096;
/// How many records one transaction of a partition's writer may hold: several are written at once.
pub const PARTITION_BATCH: usize = 1024;
/// How many records one transaction of a rebuild holds. Keys are spread over the whole store, so the larger the batch,
/// the fewer pages are written an event: 16,384 took half the processor time of 4,096 on a log of a million events.
pub const BULK_BATCH: usize = 16_384;
/// A record that has been tried this often and still takes the process down is parked.
pub const MAX_ATTEMPTS: u32 = 3;
/// How many records are tried together after an unclean stop. Most stops are not a record's fault, and a store is the slower
/// the fewer it gets at a time; but if one of them takes the process down, all are tried one by one the next time.
pub const CAREFUL_BATCH: usize = 64;

/// How long whoever fills a generation goes on trying while its store does nothing but fail. A live projector never gives
/// up: it has nobody to tell. A rebuild has, and what it wrote so far stays.
pub const BULK_PATIENCE: Duration = Duration::from_secs(30);

/// Who is told what happens while a batch is written.
pub(crate) trait Observer: Send + Sync {
    /// Everything up to a position has been committed.
    fn committed(&self, position: Position, parked: Parked, event_time: Option<Timestamp>);
    /// The store does not answer; it is tried again after a pause.
    fn failing(&self, error: &StoreError);
}

/// Why a batch was not written as a whole. What was committed of it stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The store gave up.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The caller wanted to stop while the store did not answer.
    #[error("stopped")]
    Stopped,
}

/// A record on its way into a store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) record: &'a PublicRecord,
    /// The offset after it, where the source has offsets.
    pub(crate) next_offset: Option<i64>,
    /// The generation holds it already, by another source: only the checkpoint moves over it.
    pub(crate) held: bool,
}

impl<'a> From<&'a PublicRecord> for Entry<'a> {
    fn from(record: &'a PublicRecord) -> Self {
        Self {
            record,
            next_offset: None,
            held: false,
        }
    }
}

/// Writes the records of one source to one generation. Lives as long as its store is open.
pub(crate) struct BatchWriter<P: Projection> {
    store: Arc<dyn ReadModelStore<P>>,
    clock: Arc<dyn Clock>,
    source: Source,
    position: Position,
    /// The offset after the last record that came with one.
    next_offset: Option<i64>,
    /// Into how many partitions the source's topic is divided, once the relay has said.
    partitions: Option<i32>,
    /// The sequences that have letters, with the position of their first.
    parked: HashMap<SequenceKey, Position>,
    letters: u64,
    /// How many records a transaction may hold.
    batch: usize,
    /// How long a store that only fails is tried again; for ever, where nobody waits for an end.
    patience: Option<Duration>,
    /// At how many records attempts are still recorded: as many as the writer before may have had in hand.
    careful: usize,
    /// What was recorded, of records that are not handled yet.
    tried: Attempts,
    turns: Turns,
    /// There while it fills a generation beside others whose store does not rest by itself.
    breather: Option<Arc<Breather>>,
}

struct Prepared<C> {
    batch: WriteBatch<C>,
    newly_parked: Vec<NewLetter<C>>,
    event_time: Option<Timestamp>,
}

/// A letter of a batch.
struct NewLetter<C> {
    sequence: SequenceKey,
    position: Position,
    /// What its event changes, when nothing was wrong with it but the letter that it is parked behind.
    waiting: Option<Projected<C>>,
}

/// What became of a batch.
enum Outcome {
    Written,
    /// Nothing was written; the observer has been told.
    Unavailable(StoreError),
    Rejected(String),
}

impl<P: Projection> BatchWriter<P> {
    /// Takes over a source's part of an open store: reads where it stands and marks it as being written.
    pub(crate) async fn open(
        store: Arc<dyn ReadModelStore<P>>,
        clock: Arc<dyn Clock>,
        log: &Arc<dyn EventLog>,
        mode: WriteMode,
        source: Source,
    ) -> Result<Self, StoreError> {
        let batch = match mode {
            WriteMode::Bulk => BULK_BATCH,
            WriteMode::Live if source == Source::log() => MAX_BATCH,
            WriteMode::Live => PARTITION_BATCH,
        };
        let mut checkpoints = store.checkpoints().await?;
        let floor = Source::log();
        checkpoints.retain(|found| found.source == source || found.source == floor);
        check_alignment(P::NAME, &checkpoints, log).await?;
        let clean = store.stopped_cleanly(&source).await?;
        if !clean {
            tracing::warn!(model = %P::NAME, %source, "the last writer did not end cleanly: the next events are tried with care");
        }
        let own = checkpoints.iter().find(|found| found.source == source);
        let mut writer = Self {
            tried: if clean {
                Attempts::new()
            } else {
                store.attempts(&source).await?
            },
            position: source_position(&checkpoints, &source),
            next_offset: own.and_then(|own| own.next_offset),
            store,
            clock,
            source,
            partitions: None,
            parked: HashMap::new(),
            letters: 0,
            careful: if clean { 0 } else { batch },
            turns: Turns::default(),
            breather: None,
            batch,
            patience: match mode {
                WriteMode::Bulk => Some(BULK_PATIENCE),
                WriteMode::Live => None,
            },
        };
        let parked = writer.read_letters().await?;
        // Nothing was tried so far, and whoever cannot even begin has not ended badly.
        writer
            .store
            .set_stopped_cleanly(&writer.source, false)
            .await?;
        if mode == WriteMode::Live {
            match writer.release_left(parked, log).await {
                Err(error @ StoreError::Unusable(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(model = %P::NAME, %error, "letters behind none stay for now");
                }
                Ok(()) => {}
            }
        }
        Ok(writer)
    }

    /// Shares turns with what else this process writes.
    pub(crate) fn in_turn_with(mut self, turns: &Turns) -> Self {
        self.turns = turns.clone();
        self
    }

    /// From now on it makes room for others, or no longer: its store after each operation, or itself after each part.
    pub(crate) fn make_room(&mut self, breather: Option<Arc<Breather>>) {
        let by_itself = self.store.make_room(breather.clone());
        self.breather = breather.filter(|_| !by_itself);
    }

    /// Whoever lets it rest after each part of a piece.
    fn resting(&self) -> Option<Arc<Breather>> {
        let breather = self.breather.as_ref();
        breather.filter(|breather| breather.is_needed()).cloned()
    }

    /// Reads which sequences are parked: a person may have seen to them in the meantime.
    async fn read_letters(&mut self) -> Result<Vec<ParkedSequence>, StoreError> {
        let sequences = self.store.parked_sequences().await?;
        self.letters = Parked::of(&sequences).events;
        let firsts = sequences.iter();
        self.parked = firsts
            .map(|found| (found.sequence.clone(), found.first))
            .collect();
        Ok(sequences)
    }

    /// Applies what waits behind letters that are there no more: whoever applied or discarded the first of a sequence ended
    /// before the rest, or it was parked just then. What fails again stays, with what is behind it. Of a topic's partitions one
    /// does it for all. Who writes such a sequence meanwhile looks whether its letters are there after it has parked more behind
    /// them, and here it is looked for more after they were applied: one of both sees the other.
    async fn release_left(
        &mut self,
        mut parked: Vec<ParkedSequence>,
        log: &Arc<dyn EventLog>,
    ) -> Result<(), StoreError> {
        let mut failed = HashSet::new();
        loop {
            let untried = parked.into_iter().filter(|found| !found.is_tried);
            let mut left: HashSet<SequenceKey> = untried.map(|found| found.sequence).collect();
            left.retain(|sequence| self.releases(sequence) && !failed.contains(sequence));
            if left.is_empty() {
                return Ok(());
            }
            for letter in self.store.parked().await? {
                let sequence = letter.sequence();
                if left.contains(&sequence) && !self.release_one(log, letter.position).await? {
                    left.remove(&sequence);
                    failed.insert(sequence);
                }
            }
            parked = self.read_letters().await?;
        }
    }

    /// Whether it is this writer that applies what waits behind nothing of a sequence.
    fn releases(&self, sequence: &SequenceKey) -> bool {
        self.source == Source::log()
            || (self.source.name == sequence.topic && self.source.partition == 0)
    }

    /// Applies a letter; answers whether it is gone. It is counted before it is tried: one that takes the process down stays
    /// parked in the end, as it does in a batch.
    async fn release_one(
        &mut self,
        log: &Arc<dyn EventLog>,
        position: Position,
    ) -> Result<bool, StoreError> {
        let tries = self.tried.get(&position).copied().unwrap_or(0);
        if tries >= MAX_ATTEMPTS {
            return Ok(false);
        }
        self.tried.insert(position, tries + 1);
        self.store.set_attempts(&self.source, &self.tried).await?;
        let outcome = retry(&*self.store, log, position).await;
        self.tried.remove(&position);
        self.store.set_attempts(&self.source, &self.tried).await?;
        match outcome {
            Ok(()) => Ok(true),
            Err(RebuildError::Store(
                error @ (StoreError::Unavailable(_) | StoreError::Unusable(_)),
            )) => Err(error),
            Err(RebuildError::Log(error)) => Err(StoreError::Unavailable(error.to_string())),
            Err(error) => {
                tracing::warn!(model = %P::NAME, position, %error, "an event that waits behind nothing stays parked");
                Ok(false)
            }
        }
    }

    /// A projector of partitions runs on while letters are tried again: before it parks more behind one, it looks
    /// whether that is still there.
    async fn recheck_parked(&mut self, records: &[Entry<'_>]) {
        let is_parked = |entry: &Entry<'_>| self.parked.contains_key(&entry.record.sequence);
        if self.source == Source::log() || !records.iter().any(is_parked) {
            return;
        }
        if let Err(error) = self.read_letters().await {
            tracing::warn!(model = %P::NAME, %error, "parked letters cannot be read");
        }
    }

    /// Says into how many partitions the source's topic is divided now.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when this writer began with another number: what it has not handled may be elsewhere now.
    pub(crate) fn divided(&mut self, partitions: Option<i32>) -> Result<(), StoreError> {
        division::require_same(P::NAME, &self.source.name, self.partitions, partitions)?;
        self.partitions = self.partitions.or(partitions);
        Ok(())
    }

    /// How far the generation is.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Whether a record is among the letters that this writer knows of: itself, or behind one.
    pub(crate) fn has_parked(&self, record: &PublicRecord) -> bool {
        if is_erasure(record) {
            return false;
        }
        let first = self.parked.get(&record.sequence);
        first.is_some_and(|first| record.position >= *first)
    }

    /// Every checkpoint of the generation.
    pub(crate) async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        self.store.checkpoints().await
    }

    /// The offset from which the source is read on; none when it was never read, or has no offsets.
    pub(crate) fn next_offset(&self) -> Option<i64> {
        self.next_offset
    }

    /// How much is parked, as far as it knows.
    pub(crate) fn letters(&self) -> Parked {
        Parked {
            events: self.letters,
            sequences: self.parked.len() as u64,
        }
    }

    /// Ends cleanly and leaves the generation open for the writers of other sources.
    pub(crate) async fn end(self) -> Result<(), StoreError> {
        self.store.set_stopped_cleanly(&self.source, true).await
    }

    /// Ends cleanly and lets go of the generation.
    pub(crate) async fn close(self) -> Result<(), StoreError> {
        let store = Arc::clone(&self.store);
        let result = self.end().await;
        store.close().await;
        result
    }

    /// Lets go of the generation after a fault, without the word that it ended well.
    pub(crate) async fn abandon(self) {
        self.store.close().await;
    }

    /// Writes records that follow on [`BatchWriter::position`]; answers the positions that were parked.
    pub(crate) async fn write(
        &mut self,
        records: &[Entry<'_>],
        observer: &dyn Observer,
        stop: &CancellationToken,
    ) -> Result<Vec<Position>, WriteError> {
        let known = records.partition_point(|entry| entry.record.position <= self.position);
        let records = records.get(known..).unwrap_or_default();
        self.recheck_parked(records).await;
        let mut parked = Vec::new();
        let careful = self.careful.min(records.len());
        let (mut careful, rest) = records.split_at(careful);
        while !careful.is_empty() {
            let (part, later) = careful.split_at(self.tried_together(careful));
            self.write_carefully(part, &mut parked, observer, stop)
                .await?;
            self.careful -= part.len();
            careful = later;
        }
        let breather = self.resting();
        let most = breather.as_ref().map_or(self.batch, |_| SHORTEST);
        for part in rest.chunks(most.min(self.batch)) {
            let began = Instant::now();
            self.write_halving(part, &mut parked, observer, stop)
                .await?;
            if let Some(breather) = &breather {
                breather.rest(began.elapsed()).await;
            }
        }
        Ok(parked)
    }

    /// How many of the next records are tried together: one that was in hand when the process ended is tried by itself.
    fn tried_together(&self, records: &[Entry<'_>]) -> usize {
        let was_tried = |entry: &Entry<'_>| self.tried.contains_key(&entry.record.position);
        let fresh = records.iter().position(was_tried).unwrap_or(records.len());
        fresh.clamp(1, CAREFUL_BATCH)
    }

    /// Writes records that are tried together; answers only when they are handled, like [`BatchWriter::write`].
    async fn write_carefully(
        &mut self,
        part: &[Entry<'_>],
        parked: &mut Vec<Position>,
        observer: &dyn Observer,
        stop: &CancellationToken,
    ) -> Result<(), WriteError> {
        let position = self.position;
        self.tried.retain(|tried, _| *tried > position);
        let mut tries = 0;
        // What the generation holds already is not tried.
        for entry in part.iter().filter(|entry| !entry.held) {
            let counted = self.tried.entry(entry.record.position).or_default();
            *counted += 1;
            tries = *counted;
        }
        let (mut retry, mut counted) = (Retry::new(self.patience), false);
        loop {
            let turn = self.turns.next(tries > 1).await;
            let outcome = self.try_carefully(part, tries, &mut counted, parked, observer);
            let outcome = outcome.await?;
            drop(turn);
            match outcome {
                Outcome::Written => return Ok(()),
                Outcome::Unavailable(error) => retry.wait(error, stop).await?,
                Outcome::Rejected(_) => {
                    return self.write_halving(part, parked, observer, stop).await;
                }
            }
        }
    }

    /// Tries records for so many times, this time included, or parks one that was tried too often. It is counted once,
    /// however often its store does not answer.
    async fn try_carefully(
        &mut self,
        part: &[Entry<'_>],
        tries: u32,
        counted: &mut bool,
        parked: &mut Vec<Position>,
        observer: &dyn Observer,
    ) -> Result<Outcome, WriteError> {
        let Some(last) = part.last() else {
            return Ok(Outcome::Written);
        };
        if !*counted {
            match self.store.set_attempts(&self.source, &self.tried).await {
                Err(error @ StoreError::Unavailable(_)) => {
                    observer.failing(&error);
                    return Ok(Outcome::Unavailable(error));
                }
                outcome => outcome?,
            }
            *counted = true;
        }
        let prepared = if tries > MAX_ATTEMPTS {
            let reason =
                format!("the process ended {MAX_ATTEMPTS} times while this event was handled");
            let mut prepared = self.prepared(*last, 0);
            self.add_letter(&mut prepared, last.record, reason, tries, None);
            Ok(prepared)
        } else {
            self.prepare(part, *last)
        };
        match prepared {
            Ok(prepared) => self.apply(prepared, parked, observer).await,
            Err(Panicked) => Ok(Outcome::Rejected(Unfit::Panicked.to_string())),
        }
    }

    /// Applies records; what the store rejects is narrowed down to single records, which are parked.
    async fn write_halving(
        &mut self,
        records: &[Entry<'_>],
        parked: &mut Vec<Position>,
        observer: &dyn Observer,
        stop: &CancellationToken,
    ) -> Result<(), WriteError> {
        let mut retry = Retry::new(self.patience);
        let mut ranges: Vec<Range<usize>> = Vec::from([Range {
            start: 0,
            end: records.len(),
        }]);
        while let Some(range) = ranges.pop() {
            let part = records.get(range.clone()).unwrap_or_default();
            let (Some(first), Some(last)) = (part.first(), part.last()) else {
                continue;
            };
            let outcome = match self.prepare(part, *last) {
                Ok(prepared) => self.apply(prepared, parked, observer).await?,
                Err(Panicked) => Outcome::Rejected(Unfit::Panicked.to_string()),
            };
            match outcome {
                Outcome::Written => retry.reset(),
                // Nothing of it was written: the same part is prepared again.
                Outcome::Unavailable(error) => {
                    retry.wait(error, stop).await?;
                    ranges.push(range);
                }
                Outcome::Rejected(reason) if part.len() == 1 => {
                    self.park(*first, &reason, 1, parked, observer, stop)
                        .await?;
                }
                Outcome::Rejected(_) => {
                    let middle = range.start + part.len() / 2;
                    ranges.push(middle..range.end);
                    ranges.push(range.start..middle);
                }
            }
        }
        Ok(())
    }

    async fn park(
        &mut self,
        entry: Entry<'_>,
        reason: &str,
        attempts: u32,
        parked: &mut Vec<Position>,
        observer: &dyn Observer,
        stop: &CancellationToken,
    ) -> Result<(), WriteError> {
        let mut retry = Retry::new(self.patience);
        loop {
            let mut prepared = self.prepared(entry, 0);
            let reason = reason.to_owned();
            self.add_letter(&mut prepared, entry.record, reason, attempts, None);
            match self.apply(prepared, parked, observer).await? {
                Outcome::Written => return Ok(()),
                Outcome::Unavailable(error) => retry.wait(error, stop).await?,
                // A letter has nothing in it that could be wrong.
                Outcome::Rejected(reason) => return Err(StoreError::Unusable(reason).into()),
            }
        }
    }

    async fn apply(
        &mut self,
        prepared: Prepared<P::Change>,
        parked: &mut Vec<Position>,
        observer: &dyn Observer,
    ) -> Result<Outcome, WriteError> {
        let Prepared {
            batch,
            newly_parked,
            event_time,
        } = prepared;
        let (position, next_offset) = (batch.checkpoint.position, batch.checkpoint.next_offset);
        match self.store.apply(batch).await {
            Ok(()) => {}
            Err(StoreError::Rejected { reason, .. }) => return Ok(Outcome::Rejected(reason)),
            Err(error @ StoreError::Unavailable(_)) => {
                observer.failing(&error);
                return Ok(Outcome::Unavailable(error));
            }
            Err(error) => return Err(error.into()),
        }
        self.position = position;
        self.next_offset = next_offset;
        self.letters += newly_parked.len() as u64;
        for letter in &newly_parked {
            parked.push(letter.position);
            let first = self.parked.entry(letter.sequence.clone());
            first.or_insert(letter.position);
        }
        if self.source != Source::log() {
            self.release(newly_parked).await;
        }
        observer.committed(position, self.letters(), event_time);
        Ok(Outcome::Written)
    }

    /// Applies what was parked behind letters that are there no more. Whoever tries a letter again removes it, and then looks
    /// what has come behind it; here letters are written, and then it is looked what they are behind. So one of both sees
    /// the other, and if both do, applying twice is applying once.
    async fn release(&mut self, written: Vec<NewLetter<P::Change>>) {
        let mut waiting: Vec<_> = written
            .into_iter()
            .filter_map(|letter| Some((letter.sequence, letter.waiting?)))
            .collect();
        if waiting.is_empty() {
            return;
        }
        let outcome = async {
            self.read_letters().await?;
            let is_first = |(sequence, letter): &&(SequenceKey, Projected<P::Change>)| {
                self.parked.get(sequence) == Some(&letter.position)
            };
            let first = waiting.iter().filter(is_first);
            let released: HashSet<SequenceKey> = first.map(|(key, _)| key.clone()).collect();
            if released.is_empty() {
                return Ok(());
            }
            waiting.retain(|(sequence, _)| released.contains(sequence));
            for (_, letter) in waiting {
                self.store.apply_parked(letter).await?;
            }
            self.read_letters().await.map(|_| ())
        };
        if let Err(error) = outcome.await {
            tracing::warn!(model = %P::NAME, %error, "letters behind none stay until they are tried again");
        }
    }

    /// A batch that leads to a record and has nothing in it.
    fn prepared(&self, last: Entry<'_>, expected: usize) -> Prepared<P::Change> {
        Prepared {
            batch: WriteBatch {
                projected: Vec::with_capacity(expected),
                parked: Vec::new(),
                after: self.position,
                checkpoint: Checkpoint {
                    source: self.source.clone(),
                    position: last.record.position,
                    event_id: last.record.event_id,
                    next_offset: last.next_offset.or(self.next_offset),
                    partitions: self.partitions,
                },
            },
            newly_parked: Vec::new(),
            event_time: last.record.event.as_ref().ok().map(Event::timestamp),
        }
    }

    fn prepare(
        &self,
        records: &[Entry<'_>],
        last: Entry<'_>,
    ) -> Result<Prepared<P::Change>, Panicked> {
        let mut prepared = self.prepared(last, records.len());
        for entry in records.iter().filter(|entry| !entry.held) {
            let record = entry.record;
            let behind = self.parked_behind(&prepared.newly_parked, &record.sequence);
            if let Some(behind) = behind.filter(|_| !is_erasure(record)) {
                let reason = format!("its sequence is parked from position {behind} on");
                let waiting = project::<P>(record).ok();
                self.add_letter(&mut prepared, record, reason, 0, waiting);
                continue;
            }
            match project::<P>(record) {
                Ok(projected) if projected.changes.is_empty() => {}
                Ok(projected) => prepared.batch.projected.push(projected),
                Err(Unfit::Panicked) => return Err(Panicked),
                Err(Unfit::Unreadable(reason)) => {
                    self.add_letter(&mut prepared, record, reason, 1, None);
                }
            }
        }
        Ok(prepared)
    }

    fn parked_behind(
        &self,
        newly_parked: &[NewLetter<P::Change>],
        sequence: &SequenceKey,
    ) -> Option<Position> {
        if self.parked.is_empty() && newly_parked.is_empty() {
            return None;
        }
        self.parked.get(sequence).copied().or_else(|| {
            newly_parked
                .iter()
                .find(|letter| letter.sequence == *sequence)
                .map(|letter| letter.position)
        })
    }

    fn add_letter(
        &self,
        prepared: &mut Prepared<P::Change>,
        record: &PublicRecord,
        reason: String,
        attempts: u32,
        waiting: Option<Projected<P::Change>>,
    ) {
        tracing::warn!(
            model = %P::NAME,
            position = record.position,
            event_id = %record.event_id,
            reason,
            "an event is parked"
        );
        prepared.newly_parked.push(NewLetter {
            sequence: record.sequence.clone(),
            position: record.position,
            waiting,
        });
        prepared.batch.parked.push(ParkedLetter {
            position: record.position,
            event_id: record.event_id,
            topic: record.sequence.topic.clone(),
            key: record.sequence.key.clone(),
            raw: letter::raw(record),
            reason,
            attempts,
            parked_at: self.clock.now(),
        });
    }
}

/// Whether somebody is erased by it. That never waits behind a letter: whatever is wrong with an event of somebody, they
/// are forgotten. What is behind it then comes later than it, and every model takes that.
fn is_erasure(record: &PublicRecord) -> bool {
    matches!(record.event, Ok(Event::UserErased(_)))
}

struct Panicked;

/// Why an event has no changes.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("{0}")]
    Unreadable(String),
    #[error("the projection panicked")]
    Panicked,
}

/// What a record changes in a model.
pub(super) fn project<P: Projection>(record: &PublicRecord) -> Result<Projected<P::Change>, Unfit> {
    let position = record.position;
    let event = record
        .event
        .as_ref()
        .map_err(|undecodable| Unfit::Unreadable(undecodable.reason.clone()))?;
    let project = AssertUnwindSafe(|| P::project(position, event));
    let changes = catch_unwind(project).map_err(|_| Unfit::Panicked)?;
    Ok(Projected { position, changes })
}

/// Waits before a store that failed is tried again, longer each time, and knows when that is of no use any more.
struct Retry {
    backoff: Backoff,
    patience: Option<Duration>,
    failing_since: Option<Instant>,
}

impl Retry {
    fn new(patience: Option<Duration>) -> Self {
        Self {
            backoff: Backoff::new(),
            patience,
            failing_since: None,
        }
    }

    /// It does something again.
    fn reset(&mut self) {
        self.backoff.reset();
        self.failing_since = None;
    }

    /// Waits; fails with the store's own error when it has failed for too long.
    async fn wait(
        &mut self,
        error: StoreError,
        stop: &CancellationToken,
    ) -> Result<(), WriteError> {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if self
            .patience
            .is_some_and(|patience| since.elapsed() >= patience)
        {
            return Err(error.into());
        }
        tokio::select! {
            () = stop.cancelled() => Err(WriteError::Stopped),
            () = self.backoff.wait() => Ok(()),
        }
    }
}

/// Checks that the log holds the event of each checkpoint at its position: a store filled from another log, or a log
/// that went back in time, must not be continued.
///
/// # Errors
/// [`StoreError::Unusable`], naming the command that realigns the model; [`StoreError::Unavailable`] when the log cannot
/// be read.
pub async fn check_alignment(
    model: ModelName,
    checkpoints: &[Checkpoint],
    log: &Arc<dyn EventLog>,
) -> Result<(), StoreError> {
    for checkpoint in checkpoints.iter().filter(|found| found.position > 0) {
        let position = checkpoint.position;
        let found = log
            .read_all(position.saturating_sub(1), 1)
            .await
            .map_err(|error: LogError| StoreError::Unavailable(error.to_string()))?;
        let aligned = found.first().is_some_and(|event| {
            event.position == position && event.event_id == checkpoint.event_id
        });
        if !aligned {
            return Err(StoreError::Unusable(format!(
                "the log does not hold event {} at position {position}: the model was filled from another log, or \
                 the log went back in time; run `socialhub replay rebuild {model}`",
                checkpoint.event_id
            )));
        }
    }
    Ok(())
}
