//! One partition's rows into files and commits.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use socialhub_domain::{Clock, IdGenerator, Timestamp};
use socialhub_event_log::Position;
use tokio::{task::spawn_blocking, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Limits,
    buffer::{Buffer, Groups},
    commit::{Commit, Conflict, FileEntry, PartitionState, Reached},
    commit_log::CommitLog,
    compaction::{Merge, Unmerged, plan},
    ports::{FormatError, Objects, ObjectsError, RowFormat},
    row::{Row, date},
};
use crate::{
    runtime::{division, tail::Backoff},
    store::Source,
};

/// Files that are on their way into the store at once.
const AT_ONCE: usize = 8;
/// Where the files of rows are.
const FILES: &str = "events";

/// What a writer works with.
#[derive(Clone)]
pub struct Ports {
    /// Where files and commits are.
    pub objects: Arc<dyn Objects>,
    /// What the files are.
    pub format: Arc<dyn RowFormat>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Names that nobody else chooses.
    pub ids: Arc<dyn IdGenerator>,
}

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Somebody else has done something that it does not go with. Nothing was committed.
    #[error("another writer was first ({0:?})")]
    Conflict(Conflict),
    /// The program stops while the store does not answer. It may have been written: the next writer finds out.
    #[error("stopped")]
    Stopped,
    /// A file is not what it should be.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The store does not answer as it should.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
}

/// A file and what the commit says of it.
type Encoded = (FileEntry, Bytes);

/// The writer of one partition. There may be another, of another process: then the commits decide.
pub struct PartitionWriter {
    ports: Ports,
    limits: Limits,
    source: Source,
    log: CommitLog,
    state: PartitionState,
    buffer: Buffer,
    /// How far the partition is read when what is held is written.
    reached: Option<Reached>,
    /// Into how many partitions the topic is divided, once the relay has said.
    partitions: Option<i32>,
    /// What is left alone until somebody takes it.
    unmerged: Unmerged,
}

impl PartitionWriter {
    /// Goes on where the commits of a partition end.
    ///
    /// # Errors
    /// [`ObjectsError`].
    pub async fn open(ports: Ports, source: Source, limits: Limits) -> Result<Self, ObjectsError> {
        let log = CommitLog::new(source.clone());
        let state = log.load(&*ports.objects).await?;
        Ok(Self {
            reached: state.reached,
            partitions: None,
            unmerged: Unmerged::new(),
            buffer: Buffer::default(),
            ports,
            limits,
            source,
            log,
            state,
        })
    }

    /// What is committed.
    pub fn state(&self) -> &PartitionState {
        &self.state
    }

    /// Says into how many partitions the topic is divided now; answers false when it was another number when this partition
    /// was written.
    pub fn divided(&mut self, partitions: Option<i32>) -> bool {
        let reached = self.reached.and_then(|reached| reached.partitions);
        let before = self.partitions.or(reached);
        self.partitions = before.or(partitions);
        !division::differs(before, partitions)
    }

    /// The position of the last event that was taken, written or not.
    pub fn position(&self) -> Position {
        self.reached.map_or(0, |reached| reached.position)
    }

    /// How many rows are held.
    pub fn held(&self) -> usize {
        self.buffer.rows()
    }

    /// Since when the oldest of them is held.
    pub fn since(&self) -> Option<Instant> {
        self.buffer.since()
    }

    /// Whether enough is held, or for long enough, to be written; `bytes` is this partition's share of the memory.
    pub fn is_due(&self, bytes: usize) -> bool {
        let old = |since: Instant| since.elapsed() >= self.limits.age;
        self.buffer.rows() >= self.limits.rows
            || self.buffer.bytes() >= bytes
            || self.buffer.since().is_some_and(old)
    }

    /// Takes a row, unless it was taken before; answers whether it was new.
    pub fn push(&mut self, row: Row) -> bool {
        if row.position <= self.position() {
            return false;
        }
        let before = self.reached.and_then(|reached| reached.next_offset);
        self.reached = Some(Reached {
            position: row.position,
            event_id: row.event_id,
            next_offset: row.offset.map(|offset| offset + 1).or(before),
            partitions: self.partitions,
        });
        self.buffer.push(row);
        true
    }

    /// Writes what is held, whatever others do meanwhile: what they have committed is left out. Answers how many rows were
    /// written.
    ///
    /// # Errors
    /// [`WriteError::Stopped`], [`WriteError::Format`].
    pub async fn flush(&mut self, stop: &CancellationToken) -> Result<usize, WriteError> {
        while self.buffer.rows() > 0 {
            let rows = self.buffer.rows();
            match self.try_flush(stop).await {
                Ok(()) => return Ok(rows),
                Err(WriteError::Conflict(conflict)) => self.reload(conflict, stop).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(0)
    }

    async fn try_flush(&mut self, stop: &CancellationToken) -> Result<(), WriteError> {
        let id = self.ports.ids.next_id();
        let files = self.encode(self.buffer.groups(), id).await?;
        let added: Vec<FileEntry> = files.iter().map(|(entry, _)| entry.clone()).collect();
        let count = added.len() as u64;
        self.put(files, stop).await?;
        let commit = Commit {
            id,
            at: self.ports.clock.now(),
            reached: self.reached,
            added,
            ..Commit::default()
        };
        let rows = commit.rows();
        self.commit(commit, stop).await?;
        metrics::counter!("socialhub_analytics_rows_total").increment(rows);
        metrics::counter!("socialhub_analytics_files_total", "kind" => "new").increment(count);
        Ok(())
    }

    /// Merges the files of one date and type, if there are any worth it; answers whether there may be more. Those that
    /// cannot be merged, one is damaged, say, are left as they are: see [`Self::take_unmerged`].
    ///
    /// # Errors
    /// [`WriteError::Stopped`].
    pub async fn compact(&mut self, stop: &CancellationToken) -> Result<bool, WriteError> {
        let today = date(Some(self.ports.clock.now()));
        let Some(merge) = plan(&self.state, &today, &self.limits, &self.unmerged) else {
            return Ok(false);
        };
        let folder = merge.first().map(FileEntry::own_folder);
        let folder = folder.unwrap_or_default();
        match self.merge(merge, stop).await {
            Ok(()) => {}
            // Somebody else has merged them.
            Err(WriteError::Conflict(conflict)) => self.reload(conflict, stop).await?,
            Err(WriteError::Stopped) => return Err(WriteError::Stopped),
            Err(error) => {
                tracing::warn!(source = %self.source, folder, %error, "files were not merged");
                self.unmerged.insert(folder, error);
            }
        }
        Ok(true)
    }

    /// What could not be merged since this was asked last, and why. From now on it is tried again.
    pub fn take_unmerged(&mut self) -> Unmerged {
        std::mem::take(&mut self.unmerged)
    }

    async fn merge(&mut self, merge: Merge, stop: &CancellationToken) -> Result<(), WriteError> {
        let rows = self.rows_of(&merge).await?;
        let Some(first) = merge.first() else {
            return Ok(());
        };
        let group = (first.date.clone(), first.event_type.clone());
        let id = self.ports.ids.next_id();
        let files = self.encode(Arc::new([(group, rows)].into()), id).await?;
        let added = files.iter().map(|(entry, _)| entry.clone()).collect();
        self.put(files, stop).await?;
        let commit = Commit {
            id,
            at: self.ports.clock.now(),
            added,
            removed: merge.into_iter().map(|file| file.name).collect(),
            ..Commit::default()
        };
        self.commit(commit, stop).await?;
        metrics::counter!("socialhub_analytics_files_total", "kind" => "merged").increment(1);
        Ok(())
    }

    /// The rows of some files, all of them, by position.
    async fn rows_of(&self, files: &[FileEntry]) -> Result<Vec<Row>, WriteError> {
        let mut rows: Vec<Row> = Vec::new();
        for file in files {
            let Some(bytes) = self.ports.objects.get(&file.name).await? else {
                return Err(ObjectsError(format!("{} is gone", file.name)).into());
            };
            let format = Arc::clone(&self.ports.format);
            let decoded = apart(move || format.decode(bytes)).await?;
            let decoded = decoded
                .map_err(|FormatError(reason)| FormatError(format!("{}: {reason}", file.name)))?;
            if decoded.len() as u64 != file.rows {
                let count = decoded.len();
                let reason = format!("{} has {count} rows and not {}", file.name, file.rows);
                return Err(FormatError(reason).into());
            }
            rows.extend(decoded);
        }
        rows.sort_by_key(|row| row.position);
        Ok(rows)
    }

    /// Deletes files that nothing names and nobody can still be using; answers how many. They are named in a commit
    /// first: whoever still had one in hand finds it there, and does not add it.
    ///
    /// # Errors
    /// [`WriteError`]; after a conflict the next sweep finds them again.
    pub async fn sweep(&mut self, stop: &CancellationToken) -> Result<usize, WriteError> {
        let grace = i64::try_from(self.limits.grace.as_millis()).unwrap_or(i64::MAX);
        let before = Timestamp(self.ports.clock.now().0.saturating_sub(grace));
        let ours = format!("{}-", self.source);
        let listed = self.ports.objects.list(FILES).await?;
        let unnamed = listed.into_iter().filter(|object| {
            let name = object.name.rsplit('/').next().unwrap_or_default();
            name.starts_with(&ours)
                && !self.state.files.contains_key(&object.name)
                && !self.state.removed.contains_key(&object.name)
                && object.written <= before
        });
        let mut swept: HashSet<String> = unnamed.map(|object| object.name).collect();
        let removed = self.state.removed.iter();
        let replaced = removed.filter(|(_, at)| **at <= before);
        swept.extend(replaced.map(|(name, _)| name.clone()));
        if swept.is_empty() {
            return Ok(0);
        }
        let swept: Vec<String> = swept.into_iter().collect();
        let commit = Commit {
            id: self.ports.ids.next_id(),
            at: self.ports.clock.now(),
            swept: swept.clone(),
            ..Commit::default()
        };
        match self.commit(commit, stop).await {
            Err(WriteError::Conflict(conflict)) => {
                self.reload(conflict, stop).await?;
                return Ok(0);
            }
            outcome => outcome?,
        }
        self.ports.objects.remove(&swept).await?;
        Ok(swept.len())
    }

    async fn commit(&mut self, commit: Commit, stop: &CancellationToken) -> Result<(), WriteError> {
        let objects = Arc::clone(&self.ports.objects);
        let commit = self.log.commit(&*objects, &mut self.state, commit, stop);
        let outcome = commit.await;
        self.settle();
        outcome
    }

    /// Leaves out of what is held what is committed: by this writer, or by another before a commit of this one that it
    /// did not stand in the way of.
    fn settle(&mut self) {
        self.buffer.drop_upto(self.state.position());
        if self.position() < self.state.position() || self.buffer.rows() == 0 {
            self.reached = self.state.reached;
        }
    }

    /// After somebody else's commit: goes on from there with what is not in it.
    async fn reload(
        &mut self,
        conflict: Conflict,
        stop: &CancellationToken,
    ) -> Result<(), WriteError> {
        tracing::info!(source = %self.source, ?conflict, "another writer was first");
        metrics::counter!("socialhub_analytics_conflicts_total").increment(1);
        let mut backoff = Backoff::new();
        self.state = loop {
            match self.log.load(&*self.ports.objects).await {
                Ok(state) => break state,
                Err(error) => pause(&self.source, &error, &mut backoff, stop).await?,
            }
        };
        self.settle();
        Ok(())
    }

    async fn put(&self, files: Vec<Encoded>, stop: &CancellationToken) -> Result<(), WriteError> {
        stream::iter(files)
            .map(Ok)
            .try_for_each_concurrent(AT_ONCE, |(entry, bytes)| async move {
                let mut backoff = Backoff::new();
                while let Err(error) = self.ports.objects.put(&entry.name, bytes.clone()).await {
                    pause(&self.source, &error, &mut backoff, stop).await?;
                }
                Ok(())
            })
            .await
    }

    async fn encode(&self, groups: Arc<Groups>, id: Uuid) -> Result<Vec<Encoded>, WriteError> {
        let format = Arc::clone(&self.ports.format);
        let name = format!("{}-{}.{}", self.source, id.simple(), format.ending());
        let encode = move || {
            let entry = |((date, event_type), rows): (&(String, String), &Vec<Row>)| {
                let bytes = format.encode(rows)?;
                let folder = FileEntry::folder(date, event_type);
                let entry = FileEntry {
                    name: format!("{folder}/{name}"),
                    date: date.clone(),
                    event_type: event_type.clone(),
                    rows: rows.len() as u64,
                    bytes: bytes.len() as u64,
                    first: rows.first().map_or(0, |row| row.position),
                    last: rows.last().map_or(0, |row| row.position),
                };
                Ok((entry, bytes))
            };
            groups.iter().map(entry).collect::<Result<_, FormatError>>()
        };
        Ok(apart(encode).await??)
    }
}

async fn pause(
    source: &Source,
    error: &ObjectsError,
    backoff: &mut Backoff,
    stop: &CancellationToken,
) -> Result<(), WriteError> {
    tracing::warn!(%source, %error, "trying again");
    if stop.is_cancelled() {
        return Err(WriteError::Stopped);
    }
    backoff.wait().await;
    Ok(())
}

/// Heavy work apart from the async threads.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WriteError> {
    spawn_blocking(work)
        .await
        .map_err(|error| FormatError(error.to_string()).into())
}
