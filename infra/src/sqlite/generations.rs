//! Generations of a SQLite read model: files side by side, a pointer to the current one, and readers that follow it.
//!
//! In the folder `read-models`, for a model `feed`: `feed.db` is the catalogue (which generations there are, which one
//! is current), `feed.3.db` is generation 3, `feed.3.lock` is locked by whoever writes it and `feed.lock` by whoever
//! rebuilds. Locks are the operating system's, so a killed process leaves none behind.

use std::{
    any::Any,
    fs::{self, File, TryLockError},
    io,
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::{Arc, Once},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use socialhub_domain::{Clock, Timestamp};
use socialhub_event_log::Position;
use socialhub_projections::{
    Checkpoint, GenerationId, ModelName, ParkedLetter, Projection, ReadModelStore, StoreError,
    runtime::{
        Claim, Fence, Generation, GenerationState, Generations, Snapshot, WriteMode,
        generations::log_position,
    },
    verify::{Entity, ModelRow, RowSink},
};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::sqlite::{
    connection::{Durability, Readers, SqliteError, open_reader, open_writer},
    model::{SqliteModel, mend_all},
    model_store::{
        SqliteModelStore, begin, count_parked, is_broken, is_of_this_program, read_checkpoints,
        read_parked, retire,
    },
};

/// How often the pointer is read anew: another process may have moved it, and SQLite tells nobody.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);
/// How long a projector may take to let go of a generation that is not current any more.
const LETTING_GO: Duration = Duration::from_secs(10);
/// Between two looks at whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

const CATALOGUE: &str = "
CREATE TABLE IF NOT EXISTS generation (
    id INTEGER PRIMARY KEY AUTOINCREMENT, state TEXT NOT NULL, created_at INTEGER NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS one_current ON generation (state) WHERE state = 'current';
";

/// Readers of a model's current generation. Follows a switch made by any process within a second.
#[derive(Debug, Clone)]
pub struct CurrentReaders {
    readers: Arc<RwLock<Readers>>,
    /// Keeps alive what follows the pointer.
    _follower: Option<Arc<dyn Any + Send + Sync>>,
}

impl CurrentReaders {
    /// Readers that never switch, for tests and for one given generation.
    pub fn fixed(readers: Readers) -> Self {
        Self {
            readers: Arc::new(RwLock::new(readers)),
            _follower: None,
        }
    }

    /// The readers of the generation that is current now. Ask anew for each query.
    pub fn current(&self) -> Readers {
        self.readers.read().clone()
    }
}

/// The generations of one read model in a folder.
///
/// Opening it makes the catalogue and a first, empty generation when there is none. A thread follows the pointer from
/// the first call of [`SqliteGenerations::readers`] or [`Generations::current`] on.
pub struct SqliteGenerations<M: SqliteModel> {
    shared: Arc<Shared>,
    following: Once,
    model: PhantomData<fn() -> M>,
}

struct Shared {
    model: ModelName,
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    catalogue: Mutex<Connection>,
    pointer: watch::Sender<GenerationId>,
    followers: Mutex<Vec<ReaderSet>>,
}

/// Readers handed out, with the number of threads they were asked with.
struct ReaderSet {
    threads: usize,
    readers: Arc<RwLock<Readers>>,
}

impl<M: SqliteModel> SqliteGenerations<M> {
    /// Opens the generations of the model in a folder such as `data/read-models`, making it if it is not there.
    /// Blocks shortly.
    ///
    /// # Errors
    /// What the file system or SQLite says.
    pub fn open(folder: &Path, clock: Arc<dyn Clock>) -> Result<Arc<Self>, SqliteError> {
        fs::create_dir_all(folder)?;
        let model = M::Projection::NAME;
        let catalogue = open_writer(&folder.join(format!("{model}.db")), Durability::Full)?;
        catalogue.execute_batch(CATALOGUE)?;
        let current = first_generation::<M>(&catalogue, folder, clock.now())?;
        let shared = Shared {
            model,
            folder: folder.to_owned(),
            clock,
            catalogue: Mutex::new(catalogue),
            pointer: watch::Sender::new(current),
            followers: Mutex::new(Vec::new()),
        };
        Ok(Arc::new(Self {
            shared: Arc::new(shared),
            following: Once::new(),
            model: PhantomData,
        }))
    }

    /// Readers of the current generation on `threads` threads; they follow every switch. Blocks shortly.
    ///
    /// # Errors
    /// When the current generation's file cannot be opened.
    pub fn readers(&self, threads: usize) -> Result<CurrentReaders, SqliteError> {
        self.follow();
        // Under this lock the pointer does not move, so the set cannot miss a switch.
        let mut followers = self.shared.followers.lock();
        let current = *self.shared.pointer.borrow();
        let started = Readers::start(&self.shared.file(current), threads)?;
        let readers = Arc::new(RwLock::new(started));
        followers.push(ReaderSet {
            threads,
            readers: Arc::clone(&readers),
        });
        Ok(CurrentReaders {
            readers,
            _follower: Some(Arc::clone(&self.shared) as Arc<dyn Any + Send + Sync>),
        })
    }

    /// How far the current generation has read the log, without opening it for writing. Blocks shortly.
    ///
    /// # Errors
    /// When the current generation's file cannot be read.
    pub fn position(&self) -> Result<Position, SqliteError> {
        let current = *self.shared.pointer.borrow();
        let file = open_reader(&self.shared.file(current))?;
        Ok(log_position(&read_checkpoints(&file)?))
    }

    fn follow(&self) {
        self.following.call_once(|| {
            let shared = Arc::downgrade(&self.shared);
            let started = thread::Builder::new()
                .name(format!("{}-generation", self.shared.model))
                .spawn(move || {
                    while let Some(shared) = shared.upgrade() {
                        if let Err(error) = shared.refresh() {
                            tracing::warn!(model = %shared.model, %error, "cannot read which generation is current");
                        }
                        drop(shared);
                        thread::park_timeout(FOLLOW_EVERY);
                    }
                });
            if let Err(error) = started {
                tracing::error!(model = %self.shared.model, %error, "cannot follow switches of generations");
            }
        });
    }

    async fn blocking<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Arc<Shared>) -> Result<T, StoreError> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        spawn_blocking(move || work(&shared))
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("a thread has ended".to_owned())))
    }
}

/// The current generation; makes the first one when there is none yet.
fn first_generation<M: SqliteModel>(
    catalogue: &Connection,
    folder: &Path,
    now: Timestamp,
) -> Result<GenerationId, SqliteError> {
    let transaction =
        rusqlite::Transaction::new_unchecked(catalogue, TransactionBehavior::Immediate)?;
    if let Some(id) = read_current(&transaction)? {
        return Ok(id);
    }
    let id = insert_generation(&transaction, GenerationState::Current, now)?;
    make_file::<M>(&generation_file(folder, M::Projection::NAME, id))?;
    transaction.commit()?;
    Ok(id)
}

fn make_file<M: SqliteModel>(path: &Path) -> Result<(), SqliteError> {
    // What a killed process may have left under this number was never current.
    remove_file_set(path)?;
    let mut connection = open_writer(path, Durability::Normal)?;
    begin::<M>(&mut connection).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(())
}

/// How far a generation's file says it is, how many events are parked there, and whether this program began it.
fn look_into(path: &Path) -> rusqlite::Result<(Vec<Checkpoint>, u64, bool)> {
    let file = open_reader(path)?;
    Ok((
        read_checkpoints(&file)?,
        count_parked(&file)?,
        is_of_this_program(&file)?,
    ))
}

fn generation_file(folder: &Path, model: ModelName, id: GenerationId) -> PathBuf {
    folder.join(format!("{model}.{id}.db"))
}

fn remove_file_set(path: &Path) -> io::Result<()> {
    for ending in ["db", "db-wal", "db-shm"] {
        match fs::remove_file(path.with_extension(ending)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn read_current(catalogue: &Connection) -> rusqlite::Result<Option<GenerationId>> {
    catalogue
        .prepare_cached("SELECT id FROM generation WHERE state = 'current'")?
        .query_row([], |row| row.get(0).map(GenerationId))
        .optional()
}

/// Every generation of the catalogue, by number: its state, and when it was begun.
fn read_rows(catalogue: &Connection) -> rusqlite::Result<Vec<(GenerationId, String, Timestamp)>> {
    catalogue
        .prepare_cached("SELECT id, state, created_at FROM generation ORDER BY id")?
        .query_map([], |row| {
            Ok((
                GenerationId(row.get(0)?),
                row.get(1)?,
                Timestamp(row.get(2)?),
            ))
        })?
        .collect()
}

fn insert_generation(
    catalogue: &Connection,
    state: GenerationState,
    now: Timestamp,
) -> rusqlite::Result<GenerationId> {
    catalogue
        .prepare_cached("INSERT INTO generation (state, created_at) VALUES (?1, ?2) RETURNING id")?
        .query_row((state.to_string(), now.0), |row| {
            row.get(0).map(GenerationId)
        })
}

fn unavailable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// Takes the operating system's lock on a file of that name; none when another holds it.
fn try_lock(path: &Path) -> Result<Option<File>, StoreError> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(unavailable)?;
    loop {
        if was_locked(file.try_lock())? {
            return Ok(Some(file));
        }
        // Who only looks whether there is a writer is none, and has gone in a moment.
        if !was_locked(file.try_lock_shared())? {
            return Ok(None);
        }
        file.unlock().map_err(unavailable)?;
        thread::yield_now();
    }
}

/// Whether somebody holds the lock on a file of that name. Looking keeps nobody from taking it, nor from looking.
fn is_locked(path: &Path) -> Result<bool, StoreError> {
    match File::open(path) {
        Ok(file) => Ok(!was_locked(file.try_lock_shared())?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(unavailable(error)),
    }
}

/// Whether the lock was got; not when another holds it.
fn was_locked(tried: Result<(), TryLockError>) -> Result<bool, StoreError> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(unavailable(error)),
    }
}

impl Shared {
    fn file(&self, id: GenerationId) -> PathBuf {
        generation_file(&self.folder, self.model, id)
    }

    fn writer_lock(&self, id: GenerationId) -> PathBuf {
        self.file(id).with_extension("lock")
    }

    /// Reads the pointer; when it has moved, the readers move first and then whoever watches is told.
    fn refresh(&self) -> Result<GenerationId, StoreError> {
        let mut followers = self.followers.lock();
        let current = read_current(&self.catalogue.lock())
            .map_err(unavailable)?
            .ok_or_else(|| StoreError::Unusable("no generation is current".to_owned()))?;
        if current == *self.pointer.borrow() {
            return Ok(current);
        }
        // Whoever asked for these readers has gone away when only this list holds them.
        followers.retain(|set| Arc::strong_count(&set.readers) > 1);
        for set in followers.iter() {
            let moved = Readers::start(&self.file(current), set.threads).map_err(unavailable)?;
            *set.readers.write() = moved;
        }
        self.pointer.send_replace(current);
        tracing::info!(model = %self.model, generation = %current, "another generation is current");
        Ok(current)
    }

    fn describe(
        &self,
        id: GenerationId,
        state: &str,
        created_at: Timestamp,
    ) -> Result<Generation, StoreError> {
        let path = self.file(id);
        let nothing = (Vec::new(), 0, false);
        let ((checkpoints, parked, is_of_this_program), broken) = match look_into(&path) {
            Ok(found) => (found, None),
            // Somebody has removed it.
            Err(_) if !path.exists() => (nothing, None),
            // It can be replaced, and must not keep anybody from that.
            Err(error) if is_broken(&error) => (nothing, Some(error.to_string())),
            Err(error) => return Err(unavailable(error)),
        };
        let bytes = ["db", "db-wal"]
            .iter()
            .filter_map(|ending| fs::metadata(path.with_extension(ending)).ok())
            .map(|metadata| metadata.len())
            .sum();
        Ok(Generation {
            id,
            state: match state {
                "current" => GenerationState::Current,
                "previous" => GenerationState::Previous,
                _ => GenerationState::Building,
            },
            created_at,
            checkpoints,
            parked,
            has_writer: is_locked(&self.writer_lock(id))?,
            bytes,
            is_of_this_program,
            broken,
        })
    }

    /// What an error means for whoever reads a generation.
    fn unreadable(&self, error: &rusqlite::Error) -> StoreError {
        match is_broken(error) {
            true => StoreError::Unusable(format!(
                "{error}: run `socialhub replay rebuild {}`",
                self.model
            )),
            false => unavailable(error),
        }
    }

    fn remove(&self, id: GenerationId) -> Result<(), StoreError> {
        let removed = self
            .catalogue
            .lock()
            .execute(
                "DELETE FROM generation WHERE id = ?1 AND state <> 'current'",
                [id.0],
            )
            .map_err(unavailable)?;
        if removed == 0 {
            return Err(StoreError::Unusable(format!(
                "generation {id} is current or does not exist"
            )));
        }
        self.sweep()
    }

    /// Removes files of generations that the catalogue does not know (any more).
    fn sweep(&self) -> Result<(), StoreError> {
        let mut catalogue = self.catalogue.lock();
        // Whoever makes a generation meanwhile, in whatever process, makes its file and its row within one of these.
        let alone = catalogue
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(unavailable)?;
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(unavailable)? {
            files.push(entry.map_err(unavailable)?.path());
        }
        let rows = read_rows(&alone).map_err(unavailable)?;
        let known: Vec<_> = rows.into_iter().map(|(id, ..)| id).collect();
        for path in files {
            let id = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.strip_prefix(&format!("{}.", self.model)))
                .and_then(|rest| rest.split_once('.'))
                .and_then(|(number, _)| number.parse().ok())
                .map(GenerationId);
            if id.is_some_and(|id| !known.contains(&id)) {
                // SQLite removes the files beside a database itself when its last reader, of whatever process, leaves.
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(unavailable(error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn switch(&self, to: GenerationId) -> Result<(), StoreError> {
        let mut catalogue = self.catalogue.lock();
        let moved: rusqlite::Result<usize> = (|| {
            let transaction =
                catalogue.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute(
                "UPDATE generation SET state = 'previous' WHERE state = 'current'",
                [],
            )?;
            let moved = transaction.execute(
                "UPDATE generation SET state = 'current' WHERE id = ?1",
                [to.0],
            )?;
            if moved == 1 {
                transaction.commit()?;
            }
            Ok(moved)
        })();
        match moved.map_err(unavailable)? {
            1 => Ok(()),
            _ => Err(StoreError::Unusable(format!("there is no generation {to}"))),
        }
    }
}

/// A write transaction on the current generation's file: as long as it is open, no other writes.
struct SqliteFence {
    shared: Arc<Shared>,
    /// None when the file cannot be opened at all, so that a broken generation can be replaced.
    file: Option<Connection>,
    position: Position,
    mend: fn(&Connection, &[Entity]) -> rusqlite::Result<()>,
}

impl SqliteFence {
    fn raise<M: SqliteModel>(shared: &Arc<Shared>) -> Result<Self, StoreError> {
        let current = shared.refresh()?;
        let path = shared.file(current);
        let mut fence = Self {
            shared: Arc::clone(shared),
            file: None,
            position: 0,
            mend: mend_all::<M>,
        };
        if !path.exists() {
            return Ok(fence);
        }
        let begun = open_writer(&path, Durability::Normal)
            .and_then(|file| file.execute_batch("BEGIN IMMEDIATE").map(|()| file));
        let file = match begun {
            Ok(file) => file,
            // Nobody can write it.
            Err(error) if is_broken(&error) => return Ok(fence),
            Err(error) => return Err(unavailable(error)),
        };
        // A file so old or broken that it has no checkpoints counts as having read nothing.
        fence.position = read_checkpoints(&file).map_or(0, |found| log_position(&found));
        fence.file = Some(file);
        Ok(fence)
    }

    /// The pointer moves before the old file's transaction ends, so that a writer that waits for it and is refused
    /// finds the pointer moved.
    fn switch_blocking(self, to: GenerationId) -> Result<(), StoreError> {
        match self.file.as_ref().map(retire) {
            Some(Err(error)) if !is_broken(&error) => return Err(unavailable(error)),
            _ => {}
        }
        self.shared.switch(to)?;
        if let Some(file) = &self.file
            && let Err(error) = file.execute_batch("COMMIT")
        {
            // The pointer has moved and its writer will see that within a second.
            tracing::warn!(model = %self.shared.model, %error, "cannot retire the old generation");
        }
        Ok(())
    }

    fn mend_blocking(self, from: GenerationId, entities: &[Entity]) -> Result<(), StoreError> {
        let Some(file) = &self.file else {
            return Err(StoreError::Unusable(
                "its file cannot be written".to_owned(),
            ));
        };
        let other = self.shared.file(from);
        let mend = || {
            file.execute("ATTACH DATABASE ?1 AS other", [other.to_string_lossy()])?;
            (self.mend)(file, entities)?;
            file.execute_batch("COMMIT")
        };
        // What is not committed goes with the connection.
        mend().map_err(unavailable)
    }
}

#[async_trait]
impl Fence for SqliteFence {
    fn position(&self) -> Position {
        self.position
    }

    async fn switch(self: Box<Self>, to: GenerationId) -> Result<(), StoreError> {
        spawn_blocking(move || self.switch_blocking(to))
            .await
            .unwrap_or_else(|_| Err(unavailable("a thread has ended")))
    }

    async fn mend(
        self: Box<Self>,
        from: GenerationId,
        entities: &[Entity],
    ) -> Result<(), StoreError> {
        let entities = entities.to_vec();
        spawn_blocking(move || self.mend_blocking(from, &entities))
            .await
            .unwrap_or_else(|_| Err(unavailable("a thread has ended")))
    }
}

#[async_trait]
impl<M: SqliteModel> Generations<M::Projection> for SqliteGenerations<M> {
    fn current(&self) -> watch::Receiver<GenerationId> {
        self.follow();
        self.shared.pointer.subscribe()
    }

    async fn refresh(&self) -> Result<GenerationId, StoreError> {
        self.blocking(|shared| shared.refresh()).await
    }

    async fn list(&self) -> Result<Vec<Generation>, StoreError> {
        self.blocking(|shared| {
            let rows = read_rows(&shared.catalogue.lock()).map_err(unavailable)?;
            rows.iter()
                .map(|(id, state, created_at)| shared.describe(*id, state, *created_at))
                .collect()
        })
        .await
    }

    async fn open(
        &self,
        id: GenerationId,
        mode: WriteMode,
    ) -> Result<Arc<dyn ReadModelStore<M::Projection>>, StoreError> {
        let give_up = Instant::now() + LETTING_GO;
        loop {
            let opened = self.blocking(move |shared| {
                let Some(lock) = try_lock(&shared.writer_lock(id))? else {
                    return Ok((None, shared.refresh()?));
                };
                let store = SqliteModelStore::<M>::open(&shared.file(id), mode, Some(lock))?;
                let store = Arc::new(store) as Arc<dyn ReadModelStore<M::Projection>>;
                Ok((Some(store), id))
            });
            match opened.await? {
                (Some(store), _) => return Ok(store),
                // It was current until a moment ago: its projector has to see that, and to let go of it.
                (None, current)
                    if mode == WriteMode::Bulk && current != id && Instant::now() < give_up =>
                {
                    sleep(LOOK_AGAIN).await;
                }
                (None, _) => {
                    let reason = format!("another process writes generation {id}");
                    return Err(StoreError::Unavailable(reason));
                }
            }
        }
    }

    async fn claim(&self) -> Result<Option<Claim>, StoreError> {
        self.blocking(|shared| {
            let lock = try_lock(&shared.folder.join(format!("{}.lock", shared.model)))?;
            Ok(lock.map(Claim::new))
        })
        .await
    }

    async fn sweep(&self) -> Result<(), StoreError> {
        self.blocking(|shared| shared.sweep()).await
    }

    async fn create(&self, _claim: &Claim) -> Result<GenerationId, StoreError> {
        self.blocking(|shared| {
            shared.sweep()?;
            let mut catalogue = shared.catalogue.lock();
            // The row is there when the file is whole; a file without a row is swept away.
            let transaction = catalogue
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(unavailable)?;
            let now = shared.clock.now();
            let id = insert_generation(&transaction, GenerationState::Building, now)
                .map_err(unavailable)?;
            make_file::<M>(&shared.file(id)).map_err(unavailable)?;
            transaction.commit().map_err(unavailable)?;
            Ok(id)
        })
        .await
    }

    async fn drop_generation(&self, _claim: &Claim, id: GenerationId) -> Result<(), StoreError> {
        self.blocking(move |shared| shared.remove(id)).await
    }

    async fn fence(&self, _claim: &Claim) -> Result<Box<dyn Fence>, StoreError> {
        self.blocking(|shared| {
            let fence = SqliteFence::raise::<M>(shared)?;
            Ok(Box::new(fence) as Box<dyn Fence>)
        })
        .await
    }

    async fn snapshot(
        &self,
        id: GenerationId,
        rows: &mut dyn RowSink,
    ) -> Result<Snapshot, StoreError> {
        let (read, mut chunks) = mpsc::channel(2);
        let reading = self.blocking(move |shared| {
            let rows = Chunks::to(read);
            open_reader(&shared.file(id))
                .and_then(|mut file| read_snapshot::<M>(&mut file, rows))
                .map_err(|error| shared.unreadable(&error))
        });
        let taking = async {
            while let Some(chunk) = chunks.recv().await {
                chunk.into_iter().for_each(|row| rows.take(row));
            }
        };
        tokio::join!(reading, taking).0
    }

    async fn letters(&self, id: GenerationId) -> Result<Vec<ParkedLetter>, StoreError> {
        self.blocking(move |shared| {
            open_reader(&shared.file(id))
                .and_then(|file| read_parked(&file))
                .map_err(|error| shared.unreadable(&error))
        })
        .await
    }
}

fn read_snapshot<M: SqliteModel>(
    file: &mut Connection,
    mut rows: Chunks,
) -> rusqlite::Result<Snapshot> {
    let transaction = file.transaction()?;
    let checkpoints = read_checkpoints(&transaction)?;
    let parked = read_parked(&transaction)?;
    M::rows(&transaction, &mut rows)?;
    Ok(Snapshot {
        checkpoints,
        parked,
    })
}

/// Rows on their way from the thread that reads them.
struct Chunks {
    sender: mpsc::Sender<Vec<ModelRow>>,
    next: Vec<ModelRow>,
}

impl Chunks {
    /// Rows of a chunk.
    const SIZE: usize = 1_000;

    fn to(sender: mpsc::Sender<Vec<ModelRow>>) -> Self {
        let next = Vec::with_capacity(Self::SIZE);
        Self { sender, next }
    }

    fn send(&mut self) {
        let chunk = std::mem::replace(&mut self.next, Vec::with_capacity(Self::SIZE));
        // Whoever does not take it has given up, and takes no answer either.
        let _ = self.sender.blocking_send(chunk);
    }
}

impl RowSink for Chunks {
    fn take(&mut self, row: ModelRow) {
        self.next.push(row);
        if self.next.len() == Self::SIZE {
            self.send();
        }
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.send();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_for_a_writer_is_not_taken_for_one_and_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feed.1.lock");
        assert!(!is_locked(&path).unwrap());
        assert!(!path.exists(), "looking made something");
        let looking = File::create(&path).unwrap();
        looking.try_lock_shared().unwrap();
        assert!(!is_locked(&path).unwrap());
        // Whoever wants to write waits until the other has seen enough, and no longer.
        let writer = thread::scope(|scope| {
            let writer = scope.spawn(|| try_lock(&path).unwrap());
            looking.unlock().unwrap();
            writer.join().unwrap()
        });
        assert!(is_locked(&path).unwrap());
        assert!(try_lock(&path).unwrap().is_none());
        drop(writer);
        assert!(!is_locked(&path).unwrap());
        assert!(try_lock(&path).unwrap().is_some());
    }
}
