//! Reading much of a log at a time, bounded by bytes as well as by number.

use socialhub_domain::Timestamp;

use crate::{
    event::{Position, RecordedEvent},
    port::{EventLog, LogError},
};

/// How many events one read brings.
pub const READ_LIMIT: usize = 1024;
/// How many bytes of payloads are read at a time, as far as that can be told before: what a reader has in memory does not
/// grow with the length of what people write.
pub const CHUNK_BYTES: usize = 8 << 20;
/// How many events one read brings at most of which it is not known how long they are.
const UNSEEN: usize = 4 * READ_LIMIT;

/// When the first event after a position happened: since then whoever has come there is behind. None when there is none.
///
/// # Errors
/// When the log cannot be read.
pub async fn behind_since(
    log: &dyn EventLog,
    position: Position,
) -> Result<Option<Timestamp>, LogError> {
    let next = log.read_all(position, 1).await?;
    Ok(next.first().map(|event| event.metadata.occurred_at))
}

/// For how many seconds whoever has come to a position is behind: the age of the first event after it; 0 when there is none.
///
/// # Errors
/// When the log cannot be read.
pub async fn behind_for(
    log: &dyn EventLog,
    position: Position,
    now: Timestamp,
) -> Result<f64, LogError> {
    let since = behind_since(log, position).await?;
    Ok(since.map_or(0.0, |since| (now.0 - since.0).max(0) as f64 / 1000.0))
}

/// The next events of a log, at most so many and no more than [`CHUNK_BYTES`] or so; none at its end. Reads little first,
/// then as much as those were long.
///
/// # Errors
/// When the log cannot be read.
pub async fn read_bounded(
    log: &dyn EventLog,
    after: Position,
    limit: usize,
) -> Result<Vec<RecordedEvent>, LogError> {
    let mut wanted = limit.min(READ_LIMIT);
    let mut events = log.read_all(after, wanted).await?;
    let mut bytes: usize = events.iter().map(|event| event.payload.len()).sum();
    let mut came = events.len();
    while came == wanted && events.len() < limit && bytes < CHUNK_BYTES {
        let Some(last) = events.last() else { break };
        let average = (bytes / events.len()).max(1);
        let room = ((CHUNK_BYTES - bytes) / average).max(1);
        wanted = room.min(limit - events.len()).min(UNSEEN);
        let after = last.position;
        let more = log.read_all(after, wanted).await?;
        // Events that are missing in between the next read finds missing at its beginning.
        if more
            .first()
            .is_some_and(|first| first.position != after + 1)
        {
            break;
        }
        bytes += more.iter().map(|event| event.payload.len()).sum::<usize>();
        came = more.len();
        events.extend(more);
    }
    Ok(events)
}
