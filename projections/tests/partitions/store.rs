//! A read model in memory that several writers may write, as the stores of a cluster are.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use socialhub_domain::{Event, Timestamp, topic::Topic};
use socialhub_event_log::Position;
use socialhub_projections::{
    Checkpoint, GenerationId, ModelName, ParkedLetter, Projection, ReadModelStore, Source,
    StoreError,
    projection::Projected,
    runtime::{
        CheckpointReader, Claim, Fence, Generation, GenerationState, Generations, Snapshot,
        WriteMode,
    },
    source_position,
    store::{Attempts, ParkedSequence, WriteBatch},
    verify::{Entity, ModelFold, ModelRow, RowSink},
};
use tokio::{sync::watch, task::yield_now, time::sleep};

/// Notes where each person's events stand, in the order they came.
pub struct Toy;

impl Projection for Toy {
    const NAME: ModelName = ModelName("toy");
    const TOPICS: &'static [Topic] = &[Topic::User];
    type Change = String;

    fn project(_: Position, event: &Event) -> Vec<String> {
        vec![event.key().to_string()]
    }
}

/// The same, folded.
#[derive(Default)]
pub struct ToyFold(BTreeMap<String, Vec<Position>>);

impl ModelFold for ToyFold {
    type Accounts = ();

    fn apply(&mut self, position: Position, event: &Event) {
        self.0
            .entry(event.key().to_string())
            .or_default()
            .push(position);
    }

    fn each_row(&self, (): &(), row: &mut dyn FnMut(ModelRow)) {
        rows(&self.0).into_iter().for_each(row);
    }
}

fn rows(tables: &BTreeMap<String, Vec<Position>>) -> Vec<ModelRow> {
    let row = |(key, positions): (&String, &Vec<Position>)| ModelRow {
        table: "person",
        key: key.clone(),
        value: serde_json::json!(positions).into(),
        position: positions.last().copied().unwrap_or(0),
    };
    tables.iter().map(row).collect()
}

#[derive(Default)]
struct Tables {
    checkpoints: BTreeMap<Source, Checkpoint>,
    rows: BTreeMap<String, Vec<Position>>,
    letters: BTreeMap<Position, ParkedLetter>,
    attempts: HashMap<Source, Attempts>,
    unclean: BTreeMap<Source, bool>,
    retired: bool,
    fenced: bool,
}

/// What the next write meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFault {
    Unavailable,
    /// It is done, but nobody says so.
    AnswerLost,
}

/// What becomes of a switch to which there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostSwitch {
    Made,
    NotMade,
    /// And the store says nothing more.
    NobodyKnows,
}

/// Checkpoints and rows as somebody sees them.
pub type Look = (Vec<Checkpoint>, Vec<ModelRow>);

pub struct Model {
    generations: Mutex<BTreeMap<GenerationId, Tables>>,
    current: watch::Sender<GenerationId>,
    pub faults: Mutex<Vec<StoreFault>>,
    pub moved: Mutex<u64>,
    /// A letter that somebody removes just before more is parked.
    pub leaving: Mutex<Option<Position>>,
    /// How many records each batch had that was written.
    pub batches: Mutex<Vec<usize>>,
    /// A record that takes the process down in whose hands it is.
    pub deadly: Mutex<Option<Position>>,
    /// What the next looks see, of a store that somebody writes without transactions. One that sees not even checkpoints is
    /// of a generation that is removed meanwhile, since another one has become current.
    pub looks: Mutex<VecDeque<Look>>,
    /// Whether each of them is of one moment after all.
    pub one_moment: Mutex<bool>,
    /// With so many of them left there is a writer.
    pub writer_comes: Mutex<usize>,
    pub lost_switch: Mutex<Option<LostSwitch>>,
}

/// How long such a look takes, on a machine that is hard at work.
const LOOK: Duration = Duration::from_secs(15);

impl Model {
    pub fn new() -> Arc<Self> {
        let first = GenerationId(1);
        Arc::new(Self {
            generations: Mutex::new(BTreeMap::from([(first, Tables::default())])),
            current: watch::Sender::new(first),
            faults: Mutex::default(),
            moved: Mutex::default(),
            leaving: Mutex::default(),
            batches: Mutex::default(),
            deadly: Mutex::default(),
            looks: Mutex::default(),
            one_moment: Mutex::default(),
            writer_comes: Mutex::default(),
            lost_switch: Mutex::default(),
        })
    }

    fn fence_is_gone(&self) -> bool {
        self.generations
            .lock()
            .values()
            .all(|tables| !tables.fenced)
    }

    /// Somebody else makes a generation current.
    pub fn make_current(&self, id: GenerationId) {
        self.current.send_replace(id);
    }

    /// Another generation becomes current, and the one before is removed.
    fn replace(&self) {
        let next = GenerationId(self.current.borrow().0 + 1);
        *self.generations.lock() = BTreeMap::from([(next, Tables::default())]);
        self.current.send_replace(next);
    }

    /// The model as one process sees it, until it is cut off.
    pub fn seen_by(self: &Arc<Self>, dead: Arc<AtomicBool>) -> Arc<SeenBy> {
        Arc::new(SeenBy {
            model: Arc::clone(self),
            dead,
        })
    }

    pub fn rows(&self) -> BTreeMap<String, Vec<Position>> {
        let current = *self.current.borrow();
        self.generations.lock()[&current].rows.clone()
    }

    pub fn checkpoints(&self) -> Vec<Checkpoint> {
        let current = *self.current.borrow();
        let generations = self.generations.lock();
        generations[&current]
            .checkpoints
            .values()
            .cloned()
            .collect()
    }

    /// Sets something aside, as if it had been parked before.
    pub fn park(&self, letter: ParkedLetter) {
        let current = *self.current.borrow();
        let mut generations = self.generations.lock();
        let tables = generations.get_mut(&current).unwrap();
        tables.letters.insert(letter.position, letter);
    }

    /// As if an event had never been applied.
    pub fn take_back(&self, key: &str, position: Position) {
        let current = *self.current.borrow();
        let mut generations = self.generations.lock();
        let rows = &mut generations.get_mut(&current).unwrap().rows;
        rows.get_mut(key)
            .unwrap()
            .retain(|found| *found != position);
    }

    pub fn letters(&self) -> Vec<Position> {
        let current = *self.current.borrow();
        let generations = self.generations.lock();
        generations[&current].letters.keys().copied().collect()
    }

    /// As if an old dump had been restored: nothing is left.
    pub fn empty(&self) {
        let current = *self.current.borrow();
        self.generations.lock().insert(current, Tables::default());
    }
}

#[async_trait]
impl CheckpointReader for Model {
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, socialhub_projections::ReadError> {
        Ok(Model::checkpoints(self))
    }
}

pub struct SeenBy {
    model: Arc<Model>,
    dead: Arc<AtomicBool>,
}

pub struct MemoryStore {
    seen: Arc<SeenBy>,
    id: GenerationId,
}

impl MemoryStore {
    async fn with<T>(
        &self,
        work: impl FnOnce(&mut Tables) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        yield_now().await;
        if self.seen.dead.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let mut generations = self.seen.model.generations.lock();
        let gone = || StoreError::Unusable("dropped".to_owned());
        work(generations.get_mut(&self.id).ok_or_else(gone)?)
    }
}

#[async_trait]
impl ReadModelStore<Toy> for MemoryStore {
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        self.with(|tables| Ok(tables.checkpoints.values().cloned().collect()))
            .await
    }

    async fn apply(&self, batch: WriteBatch<String>) -> Result<(), StoreError> {
        let deadly = *self.seen.model.deadly.lock();
        let is_deadly = |projected: &Projected<String>| Some(projected.position) == deadly;
        if batch.projected.iter().any(is_deadly) {
            self.seen.dead.store(true, Ordering::SeqCst);
        }
        let fault = self.seen.model.faults.lock().pop();
        if fault == Some(StoreFault::Unavailable) {
            return Err(StoreError::Unavailable("not now".to_owned()));
        }
        let (moved, leaving) = (&self.seen.model.moved, &self.seen.model.leaving);
        let batches = &self.seen.model.batches;
        self.with(|tables| {
            if tables.retired {
                return Err(StoreError::Unusable("retired".to_owned()));
            }
            if tables.fenced && batch.checkpoint.source != Source::log() {
                return Err(StoreError::Unavailable("fenced".to_owned()));
            }
            let all: Vec<Checkpoint> = tables.checkpoints.values().cloned().collect();
            let stored = source_position(&all, &batch.checkpoint.source);
            if batch.checkpoint.position <= stored {
                return Ok(());
            }
            if batch.after != stored {
                *moved.lock() += 1;
                return Err(StoreError::Moved);
            }
            batches.lock().push(batch.projected.len());
            for projected in batch.projected {
                for key in projected.changes {
                    tables.rows.entry(key).or_default().push(projected.position);
                }
            }
            if !batch.parked.is_empty()
                && let Some(gone) = leaving.lock().take()
            {
                tables.letters.remove(&gone);
            }
            for letter in batch.parked {
                tables.letters.insert(letter.position, letter);
            }
            tables
                .checkpoints
                .insert(batch.checkpoint.source.clone(), batch.checkpoint);
            Ok(())
        })
        .await?;
        match fault {
            Some(_) => Err(StoreError::Unavailable("no answer".to_owned())),
            None => Ok(()),
        }
    }

    async fn parked(&self) -> Result<Vec<ParkedLetter>, StoreError> {
        self.with(|tables| Ok(tables.letters.values().cloned().collect()))
            .await
    }

    async fn parked_sequences(&self) -> Result<Vec<ParkedSequence>, StoreError> {
        let letters = self.parked().await?;
        let letters = letters.iter();
        Ok(ParkedSequence::of(letters.map(|letter| {
            (letter.position, letter.sequence(), letter.attempts)
        })))
    }

    async fn apply_parked(&self, projected: Projected<String>) -> Result<(), StoreError> {
        if Some(projected.position) == *self.seen.model.deadly.lock() {
            self.seen.dead.store(true, Ordering::SeqCst);
        }
        self.with(|tables| {
            if tables.letters.remove(&projected.position).is_some() {
                for key in projected.changes {
                    tables.rows.entry(key).or_default().push(projected.position);
                }
            }
            Ok(())
        })
        .await
    }

    async fn discard_parked(&self, position: Position) -> Result<(), StoreError> {
        self.with(|tables| {
            tables.letters.remove(&position);
            Ok(())
        })
        .await
    }

    async fn set_attempts(&self, source: &Source, attempts: &Attempts) -> Result<(), StoreError> {
        self.with(|tables| {
            tables.attempts.insert(source.clone(), attempts.clone());
            Ok(())
        })
        .await
    }

    async fn attempts(&self, source: &Source) -> Result<Attempts, StoreError> {
        self.with(|tables| Ok(tables.attempts.get(source).cloned().unwrap_or_default()))
            .await
    }

    async fn stopped_cleanly(&self, source: &Source) -> Result<bool, StoreError> {
        self.with(|tables| Ok(!tables.unclean.get(source).copied().unwrap_or(false)))
            .await
    }

    async fn set_stopped_cleanly(&self, source: &Source, clean: bool) -> Result<(), StoreError> {
        self.with(|tables| {
            tables.unclean.insert(source.clone(), !clean);
            if clean {
                tables.attempts.remove(source);
            }
            Ok(())
        })
        .await
    }
}

struct MemoryFence {
    model: Arc<Model>,
    fenced: GenerationId,
}

#[async_trait]
impl Fence for MemoryFence {
    fn position(&self) -> Position {
        let generations = self.model.generations.lock();
        let log = generations[&self.fenced].checkpoints.get(&Source::log());
        log.map_or(0, |log| log.position)
    }

    async fn switch(self: Box<Self>, to: GenerationId) -> Result<(), StoreError> {
        let lost = *self.model.lost_switch.lock();
        let no_answer = || StoreError::Unavailable("no answer".to_owned());
        if matches!(lost, Some(LostSwitch::NotMade | LostSwitch::NobodyKnows)) {
            return Err(no_answer());
        }
        let mut generations = self.model.generations.lock();
        let fenced = generations.get_mut(&self.fenced).unwrap();
        fenced.retired = true;
        let offsets = fenced.checkpoints.clone();
        let new = generations.get_mut(&to).unwrap();
        new.retired = false;
        for (source, checkpoint) in offsets {
            if source != Source::log() {
                new.checkpoints.insert(source, checkpoint);
            }
        }
        self.model.current.send_replace(to);
        lost.map_or(Ok(()), |_| Err(no_answer()))
    }

    async fn mend(
        self: Box<Self>,
        from: GenerationId,
        entities: &[Entity],
    ) -> Result<(), StoreError> {
        let mut generations = self.model.generations.lock();
        let other = generations[&from].rows.clone();
        let fenced = generations.get_mut(&self.fenced).unwrap();
        for entity in entities {
            match other.get(&entity.key) {
                Some(row) => fenced.rows.insert(entity.key.clone(), row.clone()),
                None => fenced.rows.remove(&entity.key),
            };
        }
        Ok(())
    }
}

impl Drop for MemoryFence {
    fn drop(&mut self) {
        if let Some(tables) = self.model.generations.lock().get_mut(&self.fenced) {
            tables.fenced = false;
        }
    }
}

#[async_trait]
impl Generations<Toy> for SeenBy {
    fn current(&self) -> watch::Receiver<GenerationId> {
        self.model.current.subscribe()
    }

    async fn refresh(&self) -> Result<GenerationId, StoreError> {
        match *self.model.lost_switch.lock() {
            Some(LostSwitch::NobodyKnows) if self.model.fence_is_gone() => {
                Err(StoreError::Unavailable("away".to_owned()))
            }
            _ => Ok(*self.model.current.borrow()),
        }
    }

    async fn list(&self) -> Result<Vec<Generation>, StoreError> {
        let current = *self.model.current.borrow();
        let generations = self.model.generations.lock();
        let list = generations.iter().map(|(id, tables)| Generation {
            id: *id,
            state: match id {
                id if *id == current => GenerationState::Current,
                _ if tables.retired => GenerationState::Previous,
                _ => GenerationState::Building,
            },
            created_at: Timestamp(0),
            checkpoints: tables.checkpoints.values().cloned().collect(),
            parked: tables.letters.len() as u64,
            has_writer: (1..=*self.model.writer_comes.lock())
                .contains(&self.model.looks.lock().len()),
            bytes: 0,
            is_of_this_program: true,
            broken: None,
        });
        Ok(list.collect())
    }

    async fn open(
        &self,
        id: GenerationId,
        _: WriteMode,
    ) -> Result<Arc<dyn ReadModelStore<Toy>>, StoreError> {
        if *self.model.current.borrow() != id {
            // Whoever opens it to fill it may write it again.
            if let Some(tables) = self.model.generations.lock().get_mut(&id) {
                tables.retired = false;
            }
        }
        Ok(Arc::new(MemoryStore {
            seen: self.model.seen_by(Arc::clone(&self.dead)),
            id,
        }))
    }

    async fn claim(&self) -> Result<Option<Claim>, StoreError> {
        Ok(Some(Claim::new(())))
    }

    async fn create(&self, _: &Claim) -> Result<GenerationId, StoreError> {
        let mut generations = self.model.generations.lock();
        let last = *generations.keys().next_back().unwrap();
        let id = GenerationId(last.0 + 1);
        generations.insert(id, Tables::default());
        Ok(id)
    }

    async fn drop_generation(&self, _: &Claim, id: GenerationId) -> Result<(), StoreError> {
        self.model.generations.lock().remove(&id);
        Ok(())
    }

    async fn fence(&self, _: &Claim) -> Result<Box<dyn Fence>, StoreError> {
        let fenced = *self.model.current.borrow();
        self.model
            .generations
            .lock()
            .get_mut(&fenced)
            .unwrap()
            .fenced = true;
        Ok(Box::new(MemoryFence {
            model: Arc::clone(&self.model),
            fenced,
        }))
    }

    async fn snapshot(
        &self,
        id: GenerationId,
        sink: &mut dyn RowSink,
    ) -> Result<Snapshot, StoreError> {
        let seen = self.model.looks.lock().pop_front();
        if let Some((checkpoints, rows)) = seen {
            sleep(LOOK).await;
            if checkpoints.is_empty() {
                self.model.replace();
            }
            rows.into_iter().for_each(|row| sink.take(row));
            return Ok(Snapshot {
                checkpoints,
                parked: Vec::new(),
            });
        }
        let generations = self.model.generations.lock();
        let tables = &generations[&id];
        rows(&tables.rows)
            .into_iter()
            .for_each(|row| sink.take(row));
        Ok(Snapshot {
            checkpoints: tables.checkpoints.values().cloned().collect(),
            parked: tables.letters.values().cloned().collect(),
        })
    }

    fn writes_effects_first(&self) -> bool {
        !self.model.looks.lock().is_empty() && !*self.model.one_moment.lock()
    }

    async fn letters(&self, _: GenerationId) -> Result<Vec<ParkedLetter>, StoreError> {
        Ok(Vec::new())
    }
}
