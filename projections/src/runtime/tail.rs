//! The tail of the log: reads and decodes new events once for all projectors of a process.
//!
//! One task waits for the head to move, reads what is new, makes public records of it and tells every follower. A
//! follower that is behind, or was too slow for what the tail remembers, reads the log for itself until it has caught
//! up; so a slow model never holds up another, and nothing is ever skipped.

use std::{sync::Arc, time::Duration};

use socialhub_event_log::{EventLog, LogError, Position, READ_LIMIT, RecordedEvent, read_bounded};
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        mpsc,
    },
    task::spawn_blocking,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{record::PublicRecord, runtime::careful::Turns};

/// How many reads the tail remembers for followers that are a little behind.
const REMEMBERED: usize = 32;
/// How many chunks a follower has decoded ahead of its writer.
const AHEAD: usize = 4;
/// From here on decoding would hold up the async threads noticeably.
const DECODE_APART: usize = 64;

/// Consecutive records of the log, cheap to clone.
#[derive(Debug, Clone)]
pub struct Chunk {
    records: Arc<[PublicRecord]>,
    from: usize,
}

impl Chunk {
    /// The records, positions rising.
    pub fn records(&self) -> &[PublicRecord] {
        self.records.get(self.from..).unwrap_or_default()
    }

    /// The chunk without what lies at or below a position.
    #[must_use]
    pub fn after(&self, position: Position) -> Self {
        Self {
            records: Arc::clone(&self.records),
            from: self
                .records
                .partition_point(|record| record.position <= position)
                .max(self.from),
        }
    }

    /// The position of the last record; none when there is none.
    pub fn last_position(&self) -> Option<Position> {
        self.records().last().map(|record| record.position)
    }
}

/// Reads and decodes the next events of the log, at most so many and no more than [`socialhub_event_log::CHUNK_BYTES`] or so; an empty chunk at
/// its end.
///
/// # Errors
/// When the log cannot be read.
pub async fn read_chunk(
    log: &Arc<dyn EventLog>,
    after: Position,
    limit: usize,
) -> Result<Chunk, LogError> {
    let events = read_bounded(&**log, after, limit).await?;
    let records = if events.len() < DECODE_APART {
        decode(&events)
    } else {
        spawn_blocking(move || decode(&events))
            .await
            .map_err(|_| LogError::Unavailable("the program is closing".to_owned()))?
    };
    Ok(Chunk { records, from: 0 })
}

fn decode(events: &[RecordedEvent]) -> Arc<[PublicRecord]> {
    events.iter().map(PublicRecord::from_log).collect()
}

/// Waits longer after each failure in a row.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    const SHORTEST: Duration = Duration::from_millis(20);
    const LONGEST: Duration = Duration::from_secs(2);

    pub(crate) fn new() -> Self {
        Self(Self::SHORTEST)
    }

    pub(crate) fn reset(&mut self) {
        self.0 = Self::SHORTEST;
    }

    pub(crate) async fn wait(&mut self) {
        sleep(self.0).await;
        self.0 = (self.0 * 2).min(Self::LONGEST);
    }
}

/// The log's tail, shared by the projectors of a process.
pub struct LogTail {
    log: Arc<dyn EventLog>,
    recent: broadcast::Sender<Chunk>,
    turns: Turns,
}

impl LogTail {
    /// Starts tailing the log until `stop` is cancelled. Must be called within a tokio runtime.
    pub fn start(log: Arc<dyn EventLog>, stop: CancellationToken) -> Arc<Self> {
        let (recent, _) = broadcast::channel(REMEMBERED);
        let tail = Arc::new(Self {
            log: Arc::clone(&log),
            recent: recent.clone(),
            turns: Turns::default(),
        });
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tail_log(&log, &recent) => {}
            }
        });
        tail
    }

    /// The log itself.
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.log
    }

    /// Those of all who follow it: they are in one process.
    pub(super) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Every record after a position, now and as it comes. Ends when the receiver is dropped. An error is told once and
    /// the log tried again.
    pub fn follow(&self, after: Position) -> mpsc::Receiver<Result<Chunk, LogError>> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let follower = Follower {
            log: Arc::clone(&self.log),
            recent: self.recent.subscribe(),
            sender,
            after,
        };
        tokio::spawn(follower.run());
        receiver
    }
}

async fn tail_log(log: &Arc<dyn EventLog>, recent: &broadcast::Sender<Chunk>) {
    let mut head = log.watch_head();
    let mut after = *head.borrow_and_update();
    let mut backoff = Backoff::new();
    loop {
        match read_chunk(log, after, READ_LIMIT).await {
            Ok(chunk) => {
                backoff.reset();
                if let Some(last) = chunk.last_position() {
                    after = last;
                    // Nobody may be following yet.
                    let _ = recent.send(chunk);
                } else if head.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the end of the event log");
                // An empty chunk tells followers to look for themselves.
                let _ = recent.send(Chunk {
                    records: Arc::new([]),
                    from: 0,
                });
                backoff.wait().await;
            }
        }
    }
}

/// The follower's receiver is gone.
struct Gone;

struct Follower {
    log: Arc<dyn EventLog>,
    recent: broadcast::Receiver<Chunk>,
    sender: mpsc::Sender<Result<Chunk, LogError>>,
    after: Position,
}

impl Follower {
    async fn run(mut self) {
        loop {
            if self.catch_up().await.is_err() || self.listen().await.is_err() {
                return;
            }
        }
    }

    /// Reads the log until its end.
    async fn catch_up(&mut self) -> Result<(), Gone> {
        let mut backoff = Backoff::new();
        loop {
            match read_chunk(&self.log, self.after, READ_LIMIT).await {
                Ok(chunk) if chunk.records().is_empty() => return Ok(()),
                Ok(chunk) => {
                    backoff.reset();
                    self.hand_over(chunk).await?;
                }
                Err(error) => {
                    self.sender.send(Err(error)).await.map_err(|_| Gone)?;
                    backoff.wait().await;
                }
            }
        }
    }

    /// Takes what the tail tells as long as it follows on what was had.
    async fn listen(&mut self) -> Result<(), Gone> {
        loop {
            let told = tokio::select! {
                () = self.sender.closed() => return Err(Gone),
                told = self.recent.recv() => told,
            };
            match told {
                Ok(chunk) => {
                    let Some(last) = chunk.last_position() else {
                        return Ok(());
                    };
                    if last <= self.after {
                        continue;
                    }
                    let fresh = chunk.after(self.after);
                    let first = fresh.records().first().map(|record| record.position);
                    if first != Some(self.after + 1) {
                        return Ok(());
                    }
                    self.hand_over(fresh).await?;
                }
                Err(RecvError::Lagged(_)) => return Ok(()),
                Err(RecvError::Closed) => return Err(Gone),
            }
        }
    }

    async fn hand_over(&mut self, chunk: Chunk) -> Result<(), Gone> {
        if let Some(last) = chunk.last_position() {
            self.after = last;
        }
        self.sender.send(Ok(chunk)).await.map_err(|_| Gone)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use socialhub_domain::{PostId, StreamId, Timestamp, UserId, event::PostDeleted, testing::id};
    use socialhub_event_log::{Append, CHUNK_BYTES, MemoryEventLog, Metadata, NewEvent};

    use super::*;

    /// Appends to a log that has so many events so many more, each with a payload of so many bytes.
    pub(crate) async fn append_to(log: &dyn EventLog, length: u128, events: u128, bytes: usize) {
        let event = |nth: u128| NewEvent {
            event_id: id(nth),
            event: PostDeleted {
                post_id: PostId(id(nth)),
                user_id: UserId(id(1)),
                timestamp: Timestamp(1),
            }
            .into(),
            payload: Some(" ".repeat(bytes)),
        };
        let append = Append {
            command_id: id(length + 1),
            stream: StreamId::new("post", id(length + 1)),
            expected_version: 0,
            events: (1..=events).map(|nth| event(length + nth)).collect(),
            metadata: Metadata::default(),
            side: Vec::new(),
        };
        log.append(append).await.unwrap();
    }

    /// A log of so many events of about so many bytes each.
    pub(crate) async fn log_of(events: u128, bytes: usize) -> Arc<dyn EventLog> {
        let log = MemoryEventLog::new();
        append_to(&log, 0, events, bytes).await;
        Arc::new(log)
    }

    #[tokio::test]
    async fn a_chunk_is_bounded_by_what_is_asked_for_and_by_its_bytes() {
        let short = log_of(20_000, 10).await;
        for wanted in [1, 1_024, 1_025, 16_384] {
            let chunk = read_chunk(&short, 0, wanted).await.unwrap();
            assert_eq!(chunk.last_position(), Some(wanted as u64));
        }
        let rest = read_chunk(&short, 19_000, 16_384).await.unwrap();
        assert_eq!(rest.records().len(), 1_000);
        assert!(
            read_chunk(&short, 20_000, 9)
                .await
                .unwrap()
                .records()
                .is_empty()
        );

        let long = log_of(3_000, 10_000).await;
        let (mut after, mut chunks) = (0, 0);
        while let Some(last) = read_chunk(&long, after, 16_384)
            .await
            .unwrap()
            .last_position()
        {
            // The first read is made before anything is known.
            assert!((last - after) as usize <= READ_LIMIT.max(CHUNK_BYTES / 10_000) + 1);
            (after, chunks) = (last, chunks + 1);
        }
        assert_eq!((after, chunks), (3_000, 3));
    }
}
