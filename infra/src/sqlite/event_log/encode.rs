//! Events out of the rows of SQLite; how they become columns is [`crate::event_rows`].

use rusqlite::{Row, Rows};
use socialhub_domain::StreamId;
use socialhub_event_log::{LogError, RecordedEvent};
use uuid::Uuid;

pub(super) use crate::event_rows::{EncodedAppend, EncodedEvent, encode};
use crate::{event_rows::decode_metadata, sqlite::connection::from_sql};

/// The columns [`decode_all`] reads, in its order.
macro_rules! event_columns {
    () => {
        "position, event_id, aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata"
    };
}
pub(super) use event_columns;

/// Reads all rows of a query for [`event_columns`]. The inner error is a row that the log did not write.
pub(super) fn decode_all(
    mut rows: Rows<'_>,
) -> rusqlite::Result<Result<Vec<RecordedEvent>, LogError>> {
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let position = from_sql(row.get(0)?);
        match decode(row, position) {
            Ok(event) => events.push(event),
            Err(error) => {
                let reason = error.to_string();
                return Ok(Err(LogError::Damaged { position, reason }));
            }
        }
    }
    Ok(Ok(events))
}

fn decode(row: &Row<'_>, position: u64) -> Result<RecordedEvent, Box<dyn std::error::Error>> {
    Ok(RecordedEvent {
        position,
        event_id: Uuid::from_slice(row.get_ref(1)?.as_blob()?)?,
        stream: StreamId {
            aggregate_type: row.get(2)?,
            aggregate_id: row.get(3)?,
        },
        sequence: from_sql(row.get(4)?),
        event_type: row.get(5)?,
        event_version: row.get_ref(6)?.as_str()?.parse()?,
        payload: row.get(7)?,
        metadata: decode_metadata(row.get_ref(8)?.as_str()?)?,
    })
}
