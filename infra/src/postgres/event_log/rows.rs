//! Events out of the rows of Postgres; how they become columns is [`crate::event_rows`].

use socialhub_domain::StreamId;
use socialhub_event_log::{LogError, RecordedEvent};
use sqlx::{Row, postgres::PgRow};

use crate::{event_rows::Readable, postgres::connect::from_sql};

/// The columns [`decode`] reads, in its order, of the table `events` called `e`.
macro_rules! event_columns {
    () => {
        "e.position, e.event_id, e.aggregate_type, e.aggregate_id, e.sequence, e.event_type, e.event_version,
         e.payload::text, e.metadata::text, e.recorded_at"
    };
}
pub(super) use event_columns;

/// Reads a row that begins with the columns of an event.
pub(super) fn decode(row: &PgRow) -> Result<RecordedEvent, LogError> {
    let position = row.try_get(0).map_or(0, from_sql);
    decode_row(row).map_err(|error| LogError::Damaged {
        position,
        reason: error.to_string(),
    })
}

/// Reads all rows.
pub(super) fn decode_all(rows: &[PgRow]) -> Result<Vec<RecordedEvent>, LogError> {
    rows.iter().map(decode).collect()
}

fn decode_row(row: &PgRow) -> Result<RecordedEvent, sqlx::Error> {
    let Readable {
        event_version,
        metadata,
        damage,
    } = Readable::of(row.try_get(6)?, row.try_get(8)?, row.try_get(9)?);
    Ok(RecordedEvent {
        position: from_sql(row.try_get(0)?),
        event_id: row.try_get(1)?,
        stream: StreamId {
            aggregate_type: row.try_get(2)?,
            aggregate_id: row.try_get(3)?,
        },
        sequence: from_sql(row.try_get(4)?),
        event_type: row.try_get(5)?,
        event_version,
        payload: row.try_get(7)?,
        metadata,
        damage,
    })
}
