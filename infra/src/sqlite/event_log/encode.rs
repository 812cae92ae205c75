//! Events out of the rows of SQLite; how they become columns is [`crate::event_rows`].

use std::borrow::Cow;

use rusqlite::{Row, Rows};
use socialhub_domain::StreamId;
use socialhub_event_log::{LogError, RecordedEvent};
use uuid::Uuid;

pub(super) use crate::event_rows::{EncodedAppend, EncodedEvent, encode};
use crate::{event_rows::Readable, sqlite::connection::from_sql};

/// The columns [`decode_all`] reads, in its order.
macro_rules! event_columns {
    () => {
        "position, event_id, aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
         recorded_at"
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
    let (version, payload, stored) = (text(row, 6)?, text(row, 7)?, text(row, 8)?);
    let Readable {
        event_version,
        metadata,
        damage,
    } = Readable::of(&version, &stored, row.get(9)?);
    let damage = match payload {
        Cow::Owned(_) => Some("its data are no text".to_owned()),
        Cow::Borrowed(_) => damage,
    };
    Ok(RecordedEvent {
        position,
        event_id: Uuid::from_slice(row.get_ref(1)?.as_blob()?)?,
        stream: StreamId {
            aggregate_type: row.get(2)?,
            aggregate_id: row.get(3)?,
        },
        sequence: from_sql(row.get(4)?),
        event_type: row.get(5)?,
        event_version,
        payload: payload.into_owned(),
        metadata,
        damage,
    })
}

/// A column of text; owned when it had to be made text.
fn text<'r>(row: &'r Row<'_>, column: usize) -> Result<Cow<'r, str>, Box<dyn std::error::Error>> {
    Ok(String::from_utf8_lossy(row.get_ref(column)?.as_bytes()?))
}
