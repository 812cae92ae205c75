//! Writing one partition: what its records say, and what is missing between them.
//!
//! Each record names the position of the one before it in its partition. If that lies beyond what the model has, the
//! events between are read from the log and applied first; so it does not matter why they did not come (Kafka removed
//! them, an offset was lost, a store went back in time). A partition that brings nothing although the relay has published
//! more to it is read from the log, too.

use std::{sync::Arc, time::Duration};

use socialhub_domain::Timestamp;
use socialhub_event_log::{Frontier, LogError, Position};
use tokio::{sync::mpsc, task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    projection::Projection,
    reactor::Reactor,
    record::PublicRecord,
    runtime::{
        abreast::Place,
        division,
        generations::WriteMode,
        partitions::Shared,
        source::{Delivered, Permit, Records},
        tail::{Backoff, Chunk, read_chunk},
        writer::{BULK_BATCH, BatchWriter, Entry, Observer, PARTITION_BATCH, WriteError},
    },
    status::ProjectionStatus,
    store::{Parked, ReadModelStore, Source, StoreError, source_position},
};

/// How long a partition may bring nothing before it is compared with what the relay says it has published there.
const IDLE: Duration = Duration::from_secs(1);
/// From here on decoding would hold up the async threads noticeably.
const DECODE_APART: usize = 64;

/// A record, the offset after it, and the position of the one before it in its partition.
struct Decoded {
    record: PublicRecord,
    next_offset: i64,
    previous: Position,
}

/// Consecutive records that are written together: a batch costs a store much the same whether it holds one or fifty.
struct Batch {
    delivered: Vec<Delivered>,
    permits: Vec<Permit>,
}

impl Batch {
    /// The records that came first, and what has come behind them while the batch before was written.
    fn of(first: Records, more: &mut mpsc::UnboundedReceiver<Records>) -> Self {
        let mut batch = Self {
            delivered: first.delivered,
            permits: vec![first.permit],
        };
        while batch.delivered.len() < PARTITION_BATCH
            && let Ok(next) = more.try_recv()
        {
            batch.delivered.extend(next.delivered);
            batch.permits.push(next.permit);
        }
        batch
    }
}

/// What a partition's writer needs of the projector.
pub(super) struct Partition<P: Projection> {
    pub(super) shared: Arc<Shared<P>>,
    pub(super) store: Arc<dyn ReadModelStore<P>>,
    pub(super) source: Source,
    pub(super) writer: BatchWriter<P>,
    /// Among the partitions of this process.
    pub(super) place: Place,
    /// Cancelled when the partition is taken away, the pointer moves, or the program stops.
    pub(super) stop: CancellationToken,
    /// How far the partition is done with, for the group.
    pub(super) done: mpsc::UnboundedSender<(Source, i64)>,
}

/// Where several writers work on one model, one of them.
struct OneOfMany<'a>(&'a ProjectionStatus);

impl Observer for OneOfMany<'_> {
    fn committed(&self, _: Position, _: Parked, event_time: Option<Timestamp>) {
        self.0.working(event_time);
    }

    fn failing(&self, error: &StoreError) {
        self.0.failing(error.to_string());
    }
}

/// Opens the writer of a partition, however long the store or the log takes to answer.
pub(super) async fn open_writer<P: Projection>(
    shared: &Shared<P>,
    store: &Arc<dyn ReadModelStore<P>>,
    source: &Source,
    stop: &CancellationToken,
) -> Result<BatchWriter<P>, WriteError> {
    let mut backoff = Backoff::new();
    loop {
        match try_open(shared, store, source).await {
            Err(error @ StoreError::Unavailable(_)) => {
                shared.status.failing(error.to_string());
                pause(&mut backoff, stop).await?;
            }
            opened => return Ok(opened?),
        }
    }
}

/// The division is looked at anew: partitions may have been dealt out because it has changed.
async fn try_open<P: Projection>(
    shared: &Shared<P>,
    store: &Arc<dyn ReadModelStore<P>>,
    source: &Source,
) -> Result<BatchWriter<P>, StoreError> {
    let frontier = shared.frontier_reader.frontier().await;
    let frontier = frontier.map_err(|error| StoreError::Unavailable(error.to_string()))?;
    division::check(P::NAME, &store.checkpoints().await?, &frontier)?;
    let mut writer = BatchWriter::open(
        Arc::clone(store),
        Arc::clone(&shared.clock),
        &shared.log,
        WriteMode::Live,
        source.clone(),
    )
    .await?;
    writer.divided(frontier.count(&source.name))?;
    Ok(writer.in_turn_with(&shared.turns))
}

async fn pause(backoff: &mut Backoff, stop: &CancellationToken) -> Result<(), WriteError> {
    tokio::select! {
        () = stop.cancelled() => Err(WriteError::Stopped),
        () = backoff.wait() => Ok(()),
    }
}

impl<P: Projection> Partition<P> {
    /// Writes what comes until it is told to stop; the batch in hand is finished first.
    pub(super) async fn run(
        mut self,
        mut records: mpsc::UnboundedReceiver<Records>,
    ) -> Result<(), StoreError> {
        let outcome = self.follow(&mut records).await;
        match outcome {
            Err(WriteError::Store(error)) => Err(error),
            Ok(()) | Err(WriteError::Stopped) => {
                if let Err(error) = self.writer.end().await {
                    tracing::warn!(model = %P::NAME, source = %self.source, %error, "a partition was not closed cleanly");
                }
                Ok(())
            }
        }
    }

    async fn follow(
        &mut self,
        records: &mut mpsc::UnboundedReceiver<Records>,
    ) -> Result<(), WriteError> {
        let mut quiet = false;
        loop {
            let received = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                received = timeout(IDLE, records.recv()) => received,
            };
            match received {
                Ok(Some(first)) => {
                    quiet = false;
                    self.take(Batch::of(first, records)).await?;
                }
                Ok(None) => return Ok(()),
                // Behind twice in a row with nothing coming: it will not come.
                Err(_) => quiet = self.look_at_frontier(quiet).await?,
            }
        }
    }

    /// Answers whether the partition is behind the frontier; when it was before, it is not afterwards. The same goes for a
    /// store that is behind this writer: it was restored from an older copy.
    async fn look_at_frontier(&mut self, was_behind: bool) -> Result<bool, WriteError> {
        let end = {
            let frontier = self.shared.frontier.borrow();
            frontier
                .end(&self.source.name, self.source.partition)
                .map_or(0, |end| end.position)
        };
        let stored = source_position(&self.shared.stored.borrow(), &self.source);
        let restored = stored < self.writer.position();
        let behind = restored || end > self.writer.position();
        if !(behind && was_behind) {
            return Ok(behind);
        }
        if restored {
            self.reopen().await?;
        }
        tracing::info!(
            model = %P::NAME, source = %self.source, from = self.writer.position(), to = end,
            "the topic does not bring what was published: reading the log"
        );
        let before = self.writer.position();
        match self.fill(end).await {
            Err(WriteError::Store(StoreError::Moved)) => self.reopen().await?,
            outcome => outcome?,
        }
        Ok(self.writer.position() == before)
    }

    async fn take(&mut self, batch: Batch) -> Result<(), WriteError> {
        let Batch { delivered, permits } = batch;
        let next_offset = delivered.last().map(|last| last.next_offset);
        let decoded = decode(delivered).await?;
        loop {
            match self.write(&decoded).await {
                // Another writer has had the partition for a while: what it wrote is left out.
                Err(WriteError::Store(StoreError::Moved)) => self.reopen().await?,
                outcome => {
                    outcome?;
                    break;
                }
            }
        }
        drop(permits);
        if let Some(next_offset) = next_offset {
            // The projector may have ended.
            let _ = self.done.send((self.source.clone(), next_offset));
        }
        Ok(())
    }

    async fn reopen(&mut self) -> Result<(), WriteError> {
        tracing::info!(model = %P::NAME, source = %self.source, "another writer has moved the checkpoint");
        self.writer = open_writer(&self.shared, &self.store, &self.source, &self.stop).await?;
        self.place.has_reached(self.writer.position());
        Ok(())
    }

    /// Writes what is new of consecutive records, as far as the other partitions have got at a time.
    async fn write(&mut self, mut decoded: &[Decoded]) -> Result<(), WriteError> {
        loop {
            let reached = self.writer.position();
            let is_new = |decoded: &Decoded| decoded.record.position > reached;
            let Some(known) = decoded.iter().position(is_new) else {
                return Ok(());
            };
            let first = decoded[known].record.position;
            let turn = self.place.turn(first, &self.shared.frontier, &self.stop);
            let upto = turn.await?;
            let is_later = |decoded: &Decoded| decoded.record.position > upto;
            let later = decoded.iter().position(is_later).unwrap_or(decoded.len());
            self.write_all(&decoded[known..later]).await?;
            decoded = &decoded[later..];
        }
    }

    /// Writes what is new of consecutive records, and before each what is missing before it.
    async fn write_all(&mut self, decoded: &[Decoded]) -> Result<(), WriteError> {
        let mut reached = self.writer.position();
        let mut entries: Vec<Entry<'_>> = Vec::with_capacity(decoded.len());
        for Decoded {
            record,
            next_offset,
            previous,
        } in decoded
        {
            if record.position <= reached {
                continue;
            }
            if *previous > reached {
                self.apply(&entries).await?;
                entries.clear();
                self.fill(*previous).await?;
                if self.writer.position() < *previous {
                    return Err(StoreError::Unusable(format!(
                        "{} tells of an event at position {previous} that the log does not hold there: the log went \
                         back in time; stop relay and projectors, run `socialhub replay republish --yes` and `socialhub \
                         replay rebuild --all`, then start them again",
                        self.source
                    ))
                    .into());
                }
            }
            reached = record.position;
            entries.push(Entry {
                next_offset: Some(*next_offset),
                ..Entry::from(record)
            });
        }
        self.apply(&entries).await
    }

    async fn apply(&mut self, entries: &[Entry<'_>]) -> Result<(), WriteError> {
        let (topic, heard) = (&self.source.name, &self.shared.frontier);
        let partitions = division::of_topic(topic, heard, &*self.shared.frontier_reader).await;
        // Without an answer the next batch asks again.
        self.writer.divided(partitions.unwrap_or_default())?;
        for part in entries.chunks(PARTITION_BATCH) {
            let before = self.writer.position();
            let written = self
                .writer
                .write(part, &OneOfMany(&self.shared.status), &self.stop)
                .await;
            self.place.has_reached(self.writer.position());
            self.react(part, before).await;
            metrics::counter!("socialhub_projection_events_total", "model" => P::NAME.0)
                .increment(part.len() as u64);
            written?;
        }
        Ok(())
    }

    /// Tells the reactors of what this writer has committed, also when it did not come to the end.
    async fn react(&self, entries: &[Entry<'_>], before: Position) {
        if self.shared.reactors.is_empty() {
            return;
        }
        let committed = before + 1..=self.writer.position();
        let applied: Vec<PublicRecord> = entries
            .iter()
            .map(|entry| entry.record)
            .filter(|record| {
                committed.contains(&record.position) && !self.writer.has_parked(record)
            })
            .cloned()
            .collect();
        if !applied.is_empty() {
            tell(&self.shared.reactors, &applied).await;
        }
    }

    /// Applies the partition's events up to a position from the log.
    async fn fill(&mut self, upto: Position) -> Result<(), WriteError> {
        let (mut after, mut backoff) = (self.writer.position(), Backoff::new());
        while after < upto {
            if self.stop.is_cancelled() {
                return Err(WriteError::Stopped);
            }
            let (chunk, frontier) = match self.read(after).await {
                Ok(read) => read,
                Err(error) => {
                    self.shared.status.failing(error.to_string());
                    pause(&mut backoff, &self.stop).await?;
                    continue;
                }
            };
            let Some(last) = chunk.last_position() else {
                return Ok(());
            };
            let entries: Vec<Entry<'_>> = chunk
                .records()
                .iter()
                .filter(|record| record.position <= upto && self.is_ours(&frontier, record))
                .map(Entry::from)
                .collect();
            metrics::counter!("socialhub_projection_filled_events_total", "model" => P::NAME.0)
                .increment(entries.len() as u64);
            self.apply(&entries).await?;
            after = last;
        }
        Ok(())
    }

    async fn read(&self, after: Position) -> Result<(Chunk, Frontier), LogError> {
        let frontier = self.shared.frontier_reader.frontier().await?;
        if !frontier.partitions.contains_key(&self.source.name) {
            let reason = format!("the relay has not said how {} is divided", self.source.name);
            return Err(LogError::Unavailable(reason));
        }
        let chunk = read_chunk(&self.shared.log, after, BULK_BATCH).await?;
        Ok((chunk, frontier))
    }

    fn is_ours(&self, frontier: &Frontier, record: &PublicRecord) -> bool {
        let sequence = &record.sequence;
        sequence.topic == self.source.name
            && frontier.partition_of(&sequence.topic, &sequence.key) == Some(self.source.partition)
    }
}

pub(super) async fn tell(reactors: &[Arc<dyn Reactor>], records: &[PublicRecord]) {
    for reactor in reactors {
        reactor.react(records).await;
    }
}

async fn decode(delivered: Vec<Delivered>) -> Result<Vec<Decoded>, StoreError> {
    let decode = |delivered: Vec<Delivered>| {
        delivered
            .into_iter()
            .map(|delivered| Decoded {
                previous: delivered.record.headers.previous,
                next_offset: delivered.next_offset,
                record: PublicRecord::from_wire(delivered.record),
            })
            .collect()
    };
    if delivered.len() < DECODE_APART {
        return Ok(decode(delivered));
    }
    spawn_blocking(move || decode(delivered))
        .await
        .map_err(|_| StoreError::Unavailable("the program is closing".to_owned()))
}
