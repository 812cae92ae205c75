//! The live projector of one read model: follows the log, writes the current generation, tells the reactors.
//!
//! It moves to another generation as soon as the pointer does, whoever moved it. When it refuses to go on (a store
//! that does not fit the log or the program) it stays, dead but watching: a rebuild from a second process brings it
//! back.

use std::sync::Arc;

use socialhub_domain::{Clock, Timestamp};
use socialhub_event_log::{LogError, Position, READ_LIMIT};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    projection::Projection,
    reactor::Reactor,
    record::PublicRecord,
    runtime::{
        generations::{Generations, WriteMode},
        live::{End, ProjectorTask, first_waiting, spawn, store_failed, until_next},
        tail::{Backoff, Chunk, LogTail, read_chunk},
        writer::{BatchWriter, Entry, MAX_BATCH, Observer, WriteError},
    },
    status::{ModelPosition, ProjectionStatus},
    store::{GenerationId, Parked, Source, StoreError},
};

/// The projector of one read model, not yet started.
pub struct Projector<P: Projection> {
    generations: Arc<dyn Generations<P>>,
    tail: Arc<LogTail>,
    clock: Arc<dyn Clock>,
    reactors: Vec<Arc<dyn Reactor>>,
    status: Arc<ProjectionStatus>,
}

impl<P: Projection> Projector<P> {
    /// A projector of the current generation, fed by the process's tail of the log.
    pub fn new(
        generations: Arc<dyn Generations<P>>,
        tail: Arc<LogTail>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let status = ProjectionStatus::new(P::NAME, tail.log().watch_head());
        Self {
            generations,
            tail,
            clock,
            reactors: Vec::new(),
            status: Arc::new(status),
        }
    }

    /// Says where the current generation stands, for who asks before the projector has opened it.
    #[must_use]
    pub fn resuming_at(self, position: Position) -> Self {
        self.status.resume(position);
        self
    }

    /// Adds a reactor: it is told of every record after its commit, in order. It is waited for, so it must be quick.
    #[must_use]
    pub fn with_reactor(mut self, reactor: Arc<dyn Reactor>) -> Self {
        self.reactors.push(reactor);
        self
    }

    /// How it fares, and waiting for it; also before it is started.
    pub fn status(&self) -> Arc<ProjectionStatus> {
        Arc::clone(&self.status)
    }

    /// Starts it. It runs until `stop` is cancelled, finishes the batch in hand and ends cleanly.
    pub fn spawn(self, stop: CancellationToken) -> ProjectorTask {
        let (status, clock) = (self.status(), Arc::clone(&self.clock));
        let head = self.tail.log().watch_head();
        let run = Run {
            projector: self,
            stop: stop.clone(),
            reacted: None,
        };
        spawn(status, clock, head, stop, run.run())
    }
}

struct Run<P: Projection> {
    projector: Projector<P>,
    stop: CancellationToken,
    /// How far the reactors have been told; none before the first generation was opened.
    reacted: Option<Position>,
}

impl Observer for ProjectionStatus {
    fn committed(&self, position: Position, parked: Parked, event_time: Option<Timestamp>) {
        Self::committed(self, position, parked, event_time);
    }

    fn failing(&self, error: &StoreError) {
        Self::failing(self, error.to_string());
    }
}

impl<P: Projection> Run<P> {
    async fn run(mut self) {
        let mut current = self.projector.generations.current();
        let mut backoff = Backoff::new();
        loop {
            let generation = *current.borrow_and_update();
            let before = *self.projector.status.watch().borrow();
            let end = self.project(generation, &mut current).await;
            let advanced = *self.projector.status.watch().borrow() != before;
            if advanced {
                backoff.reset();
            }
            let status = &self.projector.status;
            if until_next::<P>(end, status, &mut current, &mut backoff, &self.stop)
                .await
                .is_break()
            {
                return;
            }
        }
    }

    /// Writes one generation until there is a reason to let go of it.
    async fn project(
        &mut self,
        id: GenerationId,
        current: &mut watch::Receiver<GenerationId>,
    ) -> End {
        let store = match self.projector.generations.open(id, WriteMode::Live).await {
            Ok(store) => store,
            Err(error) => return self.not_opened(id, error).await,
        };
        let opened = BatchWriter::open(
            Arc::clone(&store),
            Arc::clone(&self.projector.clock),
            self.projector.tail.log(),
            WriteMode::Live,
            Source::log(),
        );
        let mut writer = match opened.await {
            Ok(writer) => writer.in_turn_with(self.projector.tail.turns()),
            Err(error) => {
                store.close().await;
                return self.not_opened(id, error).await;
            }
        };
        let waiting = first_waiting(self.projector.tail.log(), writer.position()).await;
        let status = &self.projector.status;
        status.opened(id, writer.position(), writer.letters(), waiting);
        tracing::info!(model = %P::NAME, generation = %id, position = writer.position(), "projecting");
        self.catch_reactors_up(writer.position()).await;
        let end = self.follow(&mut writer, current).await;
        match end {
            End::Stop | End::Moved => {
                if let Err(error) = writer.close().await {
                    tracing::warn!(model = %P::NAME, %error, "the read model was not closed cleanly");
                }
                end
            }
            other => {
                writer.abandon().await;
                other
            }
        }
    }

    async fn follow(
        &mut self,
        writer: &mut BatchWriter<P>,
        current: &mut watch::Receiver<GenerationId>,
    ) -> End {
        let mut chunks = self.projector.tail.follow(writer.position());
        loop {
            let chunk = tokio::select! {
                biased;
                () = self.stop.cancelled() => return End::Stop,
                moved = current.changed() => match moved {
                    Ok(()) => return End::Moved,
                    Err(_) => return End::Stop,
                },
                chunk = chunks.recv() => chunk,
            };
            let first = match chunk {
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => {
                    self.projector.status.failing(error.to_string());
                    continue;
                }
                // The tail has been stopped, so the program is stopping.
                None => return End::Stop,
            };
            let batch = self.gather(first, &mut chunks);
            match self.write(writer, &batch).await {
                Ok(()) => {}
                Err(WriteError::Stopped) => return End::Stop,
                Err(WriteError::Store(error)) => {
                    let id = *current.borrow();
                    return store_failed(&*self.projector.generations, id, error).await;
                }
            }
        }
    }

    /// One transaction takes what is there already: large when behind, one record when live.
    fn gather(
        &self,
        first: Chunk,
        chunks: &mut mpsc::Receiver<Result<Chunk, LogError>>,
    ) -> Vec<Chunk> {
        let mut count = first.records().len();
        let mut batch = vec![first];
        while count + READ_LIMIT <= MAX_BATCH {
            match chunks.try_recv() {
                Ok(Ok(chunk)) => {
                    count += chunk.records().len();
                    batch.push(chunk);
                }
                Ok(Err(error)) => self.projector.status.failing(error.to_string()),
                Err(_) => break,
            }
        }
        batch
    }

    async fn write(
        &mut self,
        writer: &mut BatchWriter<P>,
        batch: &[Chunk],
    ) -> Result<(), WriteError> {
        let records: Vec<Entry<'_>> = batch
            .iter()
            .flat_map(Chunk::records)
            .map(Entry::from)
            .collect();
        let status = Arc::clone(&self.projector.status);
        let parked = writer.write(&records, &*status, &self.stop).await?;
        metrics::counter!("socialhub_projection_events_total", "model" => P::NAME.0)
            .increment(records.len() as u64);
        for chunk in batch {
            self.react(chunk, &parked).await;
        }
        Ok(())
    }

    /// Tells the reactors of what was applied and has not been told.
    async fn react(&mut self, chunk: &Chunk, parked: &[Position]) {
        let reacted = self.reacted.unwrap_or(0);
        let fresh = chunk.after(reacted);
        let Some(last) = fresh.last_position() else {
            return;
        };
        if !self.projector.reactors.is_empty() {
            if parked.is_empty() {
                self.tell(fresh.records()).await;
            } else {
                let applied: Vec<PublicRecord> = fresh
                    .records()
                    .iter()
                    .filter(|record| !parked.contains(&record.position))
                    .cloned()
                    .collect();
                self.tell(&applied).await;
            }
        }
        self.reacted = Some(last);
    }

    async fn tell(&self, records: &[PublicRecord]) {
        for reactor in &self.projector.reactors {
            reactor.react(records).await;
        }
    }

    /// A generation filled elsewhere may be ahead of what this process has seen: its reactors hear of that, too.
    async fn catch_reactors_up(&mut self, position: Position) {
        let Some(mut reacted) = self.reacted.replace(position) else {
            return;
        };
        while reacted < position && !self.projector.reactors.is_empty() {
            let log = self.projector.tail.log();
            let chunk = match read_chunk(log, reacted, READ_LIMIT).await {
                Ok(chunk) => chunk,
                Err(error) => {
                    tracing::warn!(model = %P::NAME, %error, "reactors miss what happened during a switch");
                    return;
                }
            };
            let Some(last) = chunk.last_position() else {
                return;
            };
            let upto = chunk
                .records()
                .partition_point(|record| record.position <= position);
            self.tell(chunk.records().get(..upto).unwrap_or_default())
                .await;
            reacted = last;
        }
    }

    /// A store that does not fit the log or the program stands nowhere, whatever its file says: reads of it are stale.
    async fn not_opened(&self, id: GenerationId, error: StoreError) -> End {
        if matches!(error, StoreError::Unusable(_)) {
            self.projector.status.resume(0);
        }
        store_failed(&*self.projector.generations, id, error).await
    }
}
