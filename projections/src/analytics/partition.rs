//! Following one partition: its records, what is missing between them, and its files.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use socialhub_event_log::{
    EventLog, Frontier, FrontierReader, Position, Publication, RecordedEvent, WireRecord,
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    CommitLog, Limits, ObjectsError,
    consumer::AnalyticsStatus,
    row::Row,
    writer::{PartitionWriter, Ports, WriteError},
};
use crate::{
    runtime::{
        division,
        source::{Delivered, Records},
        tail::Backoff,
    },
    store::Source,
};

/// How long a partition may bring nothing before it is compared with what the relay says it has published there.
const IDLE: Duration = Duration::from_secs(1);
/// Events read from the log at once.
const READ_LIMIT: usize = 1024;
/// Between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// The least memory that a partition has for its rows.
const LEAST_BYTES: usize = 1 << 20;

/// From here on making rows of records would hold up the async threads noticeably.
const ROWS_APART: usize = 64;

/// A row, and the position of the record before it in its partition.
struct Next {
    row: Row,
    previous: Position,
}

/// What the partitions of a process share.
pub(super) struct Shared {
    pub(super) ports: Ports,
    pub(super) limits: Limits,
    pub(super) log: Arc<dyn EventLog>,
    pub(super) frontier_reader: Arc<dyn FrontierReader>,
    /// The frontier as it was a moment ago.
    pub(super) frontier: watch::Sender<Frontier>,
    pub(super) status: Arc<AnalyticsStatus>,
    /// How many partitions this process has.
    pub(super) partitions: AtomicUsize,
    /// Merging holds all rows of the files: one partition at a time.
    pub(super) merging: Semaphore,
}

/// Why a partition is not followed any more.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may go better the next time.
    Retry(String),
    /// It will not.
    Refuse(String),
}

impl Failure {
    /// Says it where nobody else does.
    pub(super) fn tell(&self) {
        let (Self::Retry(error) | Self::Refuse(error)) = self;
        tracing::error!(error, "a partition was not followed to its end");
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Self::Retry(error.to_string())
    }
}

/// One partition of this process.
pub(super) struct Partition {
    shared: Arc<Shared>,
    source: Source,
    writer: PartitionWriter,
    stop: CancellationToken,
    /// How far it is done with, for the group.
    done: mpsc::UnboundedSender<(Source, i64)>,
    swept: Option<Instant>,
}

impl Partition {
    /// Opens a partition, however long the store takes to answer, and checks that the log holds what is in its files.
    pub(super) async fn open(
        shared: Arc<Shared>,
        source: Source,
        stop: CancellationToken,
        done: mpsc::UnboundedSender<(Source, i64)>,
    ) -> Result<Self, Failure> {
        let opened = PartitionWriter::open(shared.ports.clone(), source.clone(), shared.limits);
        let writer = opened
            .await
            .map_err(|error| Failure::Retry(error.to_string()))?;
        let partition = Self {
            shared,
            source,
            writer,
            stop,
            done,
            swept: None,
        };
        partition.check_log().await?;
        Ok(partition)
    }

    /// How far it is in files.
    pub(super) fn position(&self) -> Position {
        self.writer.state().position()
    }

    /// The offset to read from.
    pub(super) fn next_offset(&self) -> Option<i64> {
        let reached = self.writer.state().reached?;
        reached.next_offset
    }

    async fn check_log(&self) -> Result<(), Failure> {
        let Some(reached) = self.writer.state().reached else {
            return Ok(());
        };
        let position = reached.position;
        let found = self
            .shared
            .log
            .read_all(position.saturating_sub(1), 1)
            .await;
        let found = found.map_err(|error| Failure::Retry(error.to_string()))?;
        let held = found
            .first()
            .is_some_and(|event| event.position == position && event.event_id == reached.event_id);
        if held {
            return Ok(());
        }
        Err(self.refuse(position))
    }

    fn refuse(&self, position: Position) -> Failure {
        Failure::Refuse(format!(
            "{}: the log does not hold the event at position {position} that the files or the topic hold: the log went back \
             in time, or it is another one; see docs/analytics.md on starting anew",
            self.source
        ))
    }

    /// Follows it until it is taken away or the program stops; what is held is written first.
    pub(super) async fn run(
        mut self,
        mut records: mpsc::UnboundedReceiver<Records>,
    ) -> Result<(), Failure> {
        let outcome = self.follow(&mut records).await;
        let outcome = match outcome {
            Ok(()) => self.flush().await,
            failed => failed,
        };
        self.shared.status.waits(&self.source, None);
        outcome
    }

    async fn follow(
        &mut self,
        records: &mut mpsc::UnboundedReceiver<Records>,
    ) -> Result<(), Failure> {
        let mut behind = false;
        loop {
            let received = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                received = timeout(self.patience(), records.recv()) => received,
            };
            match received {
                Ok(Some(records)) => {
                    behind = false;
                    self.take(records).await?;
                }
                Ok(None) => return Ok(()),
                Err(_) => {
                    // Behind twice in a row with nothing coming: it will not come.
                    behind = self.look_at_frontier(behind).await?;
                    self.tidy().await;
                }
            }
            self.flush_if_due().await?;
            self.shared.status.waits(&self.source, self.writer.since());
        }
    }

    fn patience(&self) -> Duration {
        let age = self.shared.limits.age;
        let left = |since: Instant| age.saturating_sub(since.elapsed());
        self.writer.since().map_or(IDLE, left).min(IDLE)
    }

    /// The number of partitions must be what it was: divided anew, keys are elsewhere.
    async fn check_division(&mut self) -> Result<(), Failure> {
        let (topic, heard) = (&self.source.name, &self.shared.frontier);
        let partitions = division::of_topic(topic, heard, &*self.shared.frontier_reader).await;
        let partitions = partitions.map_err(|error| Failure::Retry(error.to_string()))?;
        if self.writer.divided(partitions) {
            return Ok(());
        }
        Err(divided_anew(&self.source))
    }

    /// Takes what is new of consecutive records, and before each what is missing before it.
    async fn take(&mut self, records: Records) -> Result<(), Failure> {
        let Records {
            mut delivered,
            permit,
            ..
        } = records;
        self.check_division().await?;
        let known = self.writer.position();
        delivered.retain(|delivered| delivered.record.headers.position > known);
        for Next { row, previous } in self.rows(delivered).await? {
            if row.position <= self.writer.position() {
                continue;
            }
            if previous > self.writer.position() {
                self.fill(previous).await?;
                if self.stop.is_cancelled() {
                    return Ok(());
                }
                if self.writer.position() < previous {
                    return Err(self.refuse(previous));
                }
            }
            self.push(row);
        }
        drop(permit);
        Ok(())
    }

    async fn rows(&self, delivered: Vec<Delivered>) -> Result<Vec<Next>, Failure> {
        let source = self.source.clone();
        let few = delivered.len() < ROWS_APART;
        let rows = move || {
            let next = |delivered: &Delivered| Next {
                row: Row::of(&delivered.record, &source, Some(delivered.next_offset - 1)),
                previous: delivered.record.headers.previous,
            };
            delivered.iter().map(next).collect()
        };
        if few { Ok(rows()) } else { apart(rows).await }
    }

    fn push(&mut self, row: Row) {
        if row.payload.is_none() {
            tracing::warn!(source = %self.source, position = row.position, "an event cannot be read: its data is left out");
            metrics::counter!("socialhub_analytics_unreadable_total").increment(1);
        }
        self.writer.push(row);
    }

    /// Answers whether the partition is behind what the relay has published; when it was before, it is not afterwards.
    async fn look_at_frontier(&mut self, was_behind: bool) -> Result<bool, Failure> {
        let end = {
            let frontier = self.shared.frontier.borrow();
            let end = frontier.end(&self.source.name, self.source.partition);
            end.map_or(0, |end| end.position)
        };
        let behind = end > self.writer.position();
        if behind && was_behind {
            self.check_division().await?;
            self.fill(end).await?;
            return Ok(false);
        }
        Ok(behind)
    }

    /// Takes the partition's events up to a position from the log.
    async fn fill(&mut self, upto: Position) -> Result<(), Failure> {
        tracing::info!(source = %self.source, from = self.writer.position(), to = upto,
            "the topic does not bring what was published: reading the log");
        let (mut after, mut backoff) = (self.writer.position(), Backoff::new());
        while after < upto && !self.stop.is_cancelled() {
            let (events, frontier) = match self.read(after).await {
                Ok(read) => read,
                Err(reason) => {
                    tracing::warn!(source = %self.source, reason, "the log cannot be read yet");
                    backoff.wait().await;
                    continue;
                }
            };
            let Some(last) = events.last() else {
                return Ok(());
            };
            after = last.position;
            let source = self.source.clone();
            let rows = apart(move || ours(&source, &frontier, &events, upto));
            let rows = rows.await?;
            for row in rows.map_err(|error| Failure::Retry(error.to_string()))? {
                self.push(row);
            }
            self.flush_if_due().await?;
        }
        Ok(())
    }

    async fn read(&self, after: Position) -> Result<(Vec<RecordedEvent>, Frontier), String> {
        let frontier = self.shared.frontier_reader.frontier().await;
        let frontier = frontier.map_err(|error| error.to_string())?;
        if !frontier.partitions.contains_key(&self.source.name) {
            return Err(format!(
                "the relay has not said how {} is divided",
                self.source.name
            ));
        }
        let events = self.shared.log.read_all(after, READ_LIMIT).await;
        Ok((events.map_err(|error| error.to_string())?, frontier))
    }

    async fn flush_if_due(&mut self) -> Result<(), Failure> {
        let partitions = self.shared.partitions.load(Ordering::Relaxed).max(1);
        let bytes = (self.shared.limits.bytes / partitions).max(LEAST_BYTES);
        if !self.writer.is_due(bytes) {
            return Ok(());
        }
        self.flush().await?;
        self.tidy().await;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        let rows = match self.writer.flush(&self.stop).await {
            // Whoever has the partition next reads it again.
            Err(WriteError::Stopped) => return Ok(()),
            outcome => outcome?,
        };
        if let Some(next_offset) = self.next_offset() {
            // The consumer may have ended.
            let _ = self.done.send((self.source.clone(), next_offset));
        }
        let position = self.position();
        self.shared.status.wrote(&self.source, position, rows);
        let (topic, partition) = (self.source.name.clone(), self.source.partition.to_string());
        metrics::gauge!("socialhub_analytics_position", "topic" => topic, "partition" => partition)
            .set(position as f64);
        Ok(())
    }

    /// Merges a few files if it is worth it, and deletes what nothing names once in a while. Neither is needed for
    /// anything to be right, so it may fail, and another time will do while another partition is at it.
    async fn tidy(&mut self) {
        if self.stop.is_cancelled() {
            return;
        }
        let Ok(_turn) = self.shared.merging.try_acquire() else {
            return;
        };
        let due = self
            .swept
            .is_none_or(|swept| swept.elapsed() >= SWEEP_EVERY);
        if due {
            self.swept = Some(Instant::now());
            // Somebody may have put right by now what could not be merged.
            drop(self.writer.take_unmerged());
        }
        let merged = self.writer.compact(&self.stop).await.map(drop);
        let swept = match due {
            true => self.writer.sweep(&self.stop).await.map(drop),
            false => Ok(()),
        };
        for error in [merged, swept].into_iter().filter_map(Result::err) {
            tracing::warn!(source = %self.source, %error, "files were not tidied up");
        }
    }
}

/// Checks that every partition that has files was written when its topic was divided as it is now: one that is new would
/// write what others have.
pub(super) async fn check_divisions(shared: &Shared) -> Result<(), Failure> {
    let frontier = shared.frontier_reader.frontier().await;
    let frontier = frontier.map_err(|error| Failure::Retry(error.to_string()))?;
    let objects = &*shared.ports.objects;
    let failed = |error: ObjectsError| Failure::Retry(error.to_string());
    for source in CommitLog::partitions(objects).await.map_err(failed)? {
        let log = CommitLog::new(source.clone());
        let state = log.load(objects).await.map_err(failed)?;
        let before = state.reached.and_then(|reached| reached.partitions);
        if division::differs(before, frontier.count(&source.name)) {
            return Err(divided_anew(&source));
        }
    }
    shared.frontier.send_replace(frontier);
    Ok(())
}

fn divided_anew(source: &Source) -> Failure {
    Failure::Refuse(format!(
        "{} had another number of partitions when its files were written: events would be written twice, or not at all; \
         see docs/analytics.md on starting anew",
        source.name
    ))
}

/// The rows of a partition among events of the log, up to a position.
fn ours(
    source: &Source,
    frontier: &Frontier,
    events: &[RecordedEvent],
    upto: Position,
) -> Result<Vec<Row>, serde_json::Error> {
    let is_ours = |event: &&RecordedEvent| {
        let Publication { topic, key, .. } = Publication::of(event);
        event.position <= upto
            && topic.name() == source.name
            && frontier.partition_of(topic.name(), &key) == Some(source.partition)
    };
    let events = events.iter().filter(is_ours);
    let row = |event| Ok(Row::of(&WireRecord::of(event, 0)?, source, None));
    events.map(row).collect()
}

/// Heavy work apart from the async threads.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let done = spawn_blocking(work).await;
    done.map_err(|error| Failure::Retry(error.to_string()))
}
