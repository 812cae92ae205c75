//! The commits of one partition, as objects of which each is made once.
//!
//! Whoever wants to go on from commit `n` creates `n + 1`; of two only one succeeds, and the other reads what was made. A
//! writer whose answer got lost finds its own id there. Old commits are deleted once later ones hold the state they led to:
//! a writer that slept through that could create one anew that nobody ever reads; it notices by what is there besides.

use bytes::Bytes;
use socialhub_domain::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{
    commit::{Commit, Conflict, PartitionState, STATE_EVERY},
    ports::{Created, Objects, ObjectsError},
    writer::WriteError,
};
use crate::{runtime::tail::Backoff, store::Source};

/// Where the commits of all partitions are.
const FOLDER: &str = "_commits";

/// What a partition's commits have put into files lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// How many rows.
    pub rows: u64,
    /// Since when.
    pub since: Timestamp,
}

/// The log of one partition.
#[derive(Debug, Clone)]
pub struct CommitLog {
    source: Source,
}

impl CommitLog {
    /// The log of a partition.
    pub fn new(source: Source) -> Self {
        Self { source }
    }

    /// The partitions that have commits.
    ///
    /// # Errors
    /// [`ObjectsError`].
    pub async fn partitions(objects: &dyn Objects) -> Result<Vec<Source>, ObjectsError> {
        let mut found: Vec<Source> = objects
            .list(FOLDER)
            .await?
            .iter()
            .filter_map(|object| {
                let folder = object.name.split('/').nth(1)?;
                let (topic, partition) = folder.rsplit_once('-')?;
                Some(Source::partition(topic, partition.parse().ok()?))
            })
            .collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    fn folder(&self) -> String {
        format!("{FOLDER}/{}", self.source)
    }

    fn name(&self, number: u64) -> String {
        format!("{}/{number:020}.json", self.folder())
    }

    /// The numbers of the commits that are there, rising.
    async fn numbers(&self, objects: &dyn Objects) -> Result<Vec<u64>, ObjectsError> {
        let listed = objects.list(&self.folder()).await?;
        let number = |name: &str| {
            let name = name.rsplit('/').next()?;
            name.strip_suffix(".json")?.parse().ok()
        };
        let mut numbers: Vec<u64> = listed.iter().filter_map(|it| number(&it.name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    async fn read(
        &self,
        objects: &dyn Objects,
        number: u64,
    ) -> Result<Option<Commit>, ObjectsError> {
        let name = self.name(number);
        let Some(bytes) = objects.get(&name).await? else {
            return Ok(None);
        };
        let commit = serde_json::from_slice(&bytes);
        commit
            .map(Some)
            .map_err(|error| ObjectsError(format!("{name}: {error}")))
    }

    /// What the commits add up to.
    ///
    /// # Errors
    /// [`ObjectsError`], also when a commit is missing in between.
    pub async fn load(&self, objects: &dyn Objects) -> Result<PartitionState, ObjectsError> {
        // While they are read, they may be deleted, because later ones have come.
        let mut before = None;
        loop {
            let numbers = self.numbers(objects).await?;
            let last = numbers.last().copied().unwrap_or(0);
            if before == Some(last) {
                let folder = self.folder();
                return Err(ObjectsError(format!(
                    "{folder}: a commit before {last} is missing"
                )));
            }
            if let Some(state) = self.fold(objects, last).await? {
                return Ok(state);
            }
            before = Some(last);
        }
    }

    async fn fold(
        &self,
        objects: &dyn Objects,
        last: u64,
    ) -> Result<Option<PartitionState>, ObjectsError> {
        let mut state = PartitionState::default();
        let base = last - last % STATE_EVERY;
        if base > 0 {
            let Some(commit) = self.read(objects, base).await? else {
                return Ok(None);
            };
            let Some(found) = commit.state else {
                let name = self.name(base);
                return Err(ObjectsError(format!("{name} holds no state")));
            };
            state = found;
        }
        while state.number < last {
            let Some(commit) = self.read(objects, state.number + 1).await? else {
                return Ok(None);
            };
            state.apply(&commit);
        }
        Ok(Some(state))
    }

    /// The rows that were put into files since a moment; since a later one, if there are more commits after it, of whatever
    /// kind, than are kept for certain.
    ///
    /// # Errors
    /// [`ObjectsError`].
    pub async fn written(
        &self,
        objects: &dyn Objects,
        since: Timestamp,
    ) -> Result<Written, ObjectsError> {
        let last = self.numbers(objects).await?.pop().unwrap_or(0);
        let mut written = Written { rows: 0, since };
        let mut oldest: Option<Commit> = None;
        for (looked_at, number) in (0..).zip((1..=last).rev()) {
            let found = match looked_at {
                ..=STATE_EVERY => self.read(objects, number).await?,
                _ => None,
            };
            if found.as_ref().is_some_and(|commit| commit.at < since) {
                break;
            }
            // One that has been deleted is older than those that have been looked at, of which there are enough.
            if found.is_none() {
                if let Some(oldest) = oldest {
                    // What it added was gathered before it.
                    written.rows -= oldest.rows();
                    written.since = oldest.at;
                }
                break;
            }
            written.rows += found.as_ref().map_or(0, Commit::rows);
            oldest = found;
        }
        Ok(written)
    }

    /// Makes a commit after `state`, or after what others have made since, if it still fits; `state` goes along.
    ///
    /// # Errors
    /// [`WriteError::Conflict`] when it does not fit: nothing was committed. [`WriteError::Stopped`] when the store fails
    /// and `stop` is cancelled: it may have been.
    pub async fn commit(
        &self,
        objects: &dyn Objects,
        state: &mut PartitionState,
        mut commit: Commit,
        stop: &CancellationToken,
    ) -> Result<(), WriteError> {
        let mut backoff = Backoff::new();
        loop {
            match self.try_commit(objects, state, &mut commit).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(conflict)) => return Err(WriteError::Conflict(conflict)),
                Err(error) => {
                    tracing::warn!(source = %self.source, %error, "a commit was not made yet");
                    if stop.is_cancelled() {
                        return Err(WriteError::Stopped);
                    }
                    backoff.wait().await;
                }
            }
        }
    }

    /// Tries until it is made, or does not fit. After an error it may have been made: the next try finds out.
    async fn try_commit(
        &self,
        objects: &dyn Objects,
        state: &mut PartitionState,
        commit: &mut Commit,
    ) -> Result<Result<(), Conflict>, ObjectsError> {
        loop {
            let number = state.number + 1;
            let mut next = state.clone();
            next.apply(commit);
            commit.state = number.is_multiple_of(STATE_EVERY).then(|| next.clone());
            let text =
                serde_json::to_vec(commit).map_err(|error| ObjectsError(error.to_string()))?;
            let created = objects
                .create(&self.name(number), Bytes::from(text))
                .await?;
            let made = match created {
                Created::Made => None,
                Created::Exists => match self.read(objects, number).await? {
                    Some(theirs) => Some(theirs).filter(|theirs| theirs.id != commit.id),
                    // Deleted between the two calls: this writer has slept for long.
                    None => return Ok(Err(Conflict::Moved)),
                },
            };
            let Some(theirs) = made else {
                if self.is_history(objects, number).await? {
                    return Ok(Err(Conflict::Moved));
                }
                *state = next;
                self.forget(objects, number).await;
                return Ok(Ok(()));
            };
            state.apply(&theirs);
            if let Err(conflict) = state.check(commit, &theirs) {
                return Ok(Err(conflict));
            }
        }
    }

    /// Whether a number was over and done with when a commit was made under it: it stays unread.
    async fn is_history(&self, objects: &dyn Objects, number: u64) -> Result<bool, ObjectsError> {
        let last = self.numbers(objects).await?.pop().unwrap_or(0);
        Ok(last > number + STATE_EVERY)
    }

    /// Deletes commits that two later states stand for. One that stays because of an error goes with the next ones.
    async fn forget(&self, objects: &dyn Objects, number: u64) {
        if !number.is_multiple_of(STATE_EVERY) || number < 2 * STATE_EVERY {
            return;
        }
        let forgotten = async {
            let numbers = self.numbers(objects).await?;
            let old: Vec<String> = numbers
                .into_iter()
                .filter(|old| *old < number - STATE_EVERY)
                .map(|old| self.name(old))
                .collect();
            objects.remove(&old).await
        };
        if let Err(error) = forgotten.await {
            tracing::warn!(source = %self.source, %error, "old commits were not deleted");
        }
    }
}
