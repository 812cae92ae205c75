//! How times, sizes and events are shown.

use std::io::Write;

use chrono::{DateTime, SecondsFormat};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};
use socialhub_domain::Timestamp;
use socialhub_event_log::{Metadata, RecordedEvent};
use socialhub_projections::{ModelName, runtime::RebuildError};

use crate::{ReplayError, advice};

/// A time as RFC 3339 in UTC.
pub(crate) fn time(timestamp: Timestamp) -> String {
    match DateTime::from_timestamp_millis(timestamp.0) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::Millis, true),
        None => format!("{} ms", timestamp.0),
    }
}

/// A size in the unit that suits it.
pub(crate) fn size(bytes: u64) -> String {
    let kib = bytes as f64 / 1024.0;
    if kib < 1024.0 {
        format!("{kib:.0} KiB")
    } else {
        format!("{:.1} MiB", kib / 1024.0)
    }
}

/// Events a second, where they were counted.
pub(crate) fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"))
}

/// A rate to go on with in a line; nothing when less than one event a second moves.
pub(crate) fn per_second(events: Option<f64>) -> String {
    match events {
        Some(1.0..) => format!(", {} events/s", rate(events)),
        _ => String::new(),
    }
}

/// One JSON value on a line of its own.
pub(crate) fn json_line<T: Serialize>(
    out: &mut (dyn Write + Send),
    value: &T,
) -> Result<(), ReplayError> {
    let line = serde_json::to_string(value)?;
    Ok(writeln!(out, "{line}")?)
}

/// What could not be done to a model, with what to do, as JSON.
pub(crate) fn failure(
    out: &mut (dyn Write + Send),
    model: ModelName,
    error: &RebuildError,
) -> Result<(), ReplayError> {
    let error = format!("{error}{}", advice(error));
    json_line(out, &json!({ "model": model, "error": error }))
}

/// The same for a machine or for people, to whom it is said what the model cannot be.
pub(crate) fn cannot(
    out: &mut (dyn Write + Send),
    model: ModelName,
    be: &str,
    error: &RebuildError,
    json: bool,
) -> Result<(), ReplayError> {
    if json {
        return failure(out, model, error);
    }
    let advice = advice(error);
    Ok(writeln!(out, "{model}: cannot be {be}: {error}{advice}")?)
}

/// An event of the log as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventView<'a> {
    position: u64,
    event_id: uuid::Uuid,
    stream: String,
    sequence: u64,
    event_type: &'a str,
    event_version: u32,
    data: Value,
    metadata: &'a Metadata,
}

/// Writes an event as one line of JSON, or as a line for people with its data below.
pub(crate) fn event(
    out: &mut (dyn Write + Send),
    event: &RecordedEvent,
    json: bool,
) -> Result<(), ReplayError> {
    if json {
        return json_line(
            out,
            &EventView {
                position: event.position,
                event_id: event.event_id,
                stream: event.stream.to_string(),
                sequence: event.sequence,
                event_type: &event.event_type,
                event_version: event.event_version,
                data: payload(event),
                metadata: &event.metadata,
            },
        );
    }
    people(out, event, &event.payload)
}

/// Writes an event for people, its data spread over lines.
pub(crate) fn event_with_data(
    out: &mut (dyn Write + Send),
    event: &RecordedEvent,
) -> Result<(), ReplayError> {
    let data = pretty(&event.payload).replace('\n', "\n          ");
    people(out, event, &data)
}

/// JSON spread over lines; other text as it is.
pub(crate) fn pretty(text: &str) -> String {
    serde_json::from_str::<Value>(text)
        .and_then(|value| serde_json::to_string_pretty(&value))
        .unwrap_or_else(|_| text.to_owned())
}

fn people(
    out: &mut (dyn Write + Send),
    event: &RecordedEvent,
    data: &str,
) -> Result<(), ReplayError> {
    let metadata = &event.metadata;
    writeln!(
        out,
        "{:>8}  {}  {} v{}  {}#{}",
        event.position,
        time(metadata.occurred_at),
        event.event_type,
        event.event_version,
        event.stream,
        event.sequence,
    )?;
    writeln!(out, "          {data}")?;
    let actor = metadata
        .actor
        .map_or("nobody".to_owned(), |actor| actor.to_string());
    let request = metadata.correlation_id.as_deref().unwrap_or("-");
    Ok(writeln!(
        out,
        "          by {actor}, request {request}, event id {}",
        event.event_id
    )?)
}

/// The payload as JSON; the raw text when it is none.
fn payload(event: &RecordedEvent) -> Value {
    serde_json::from_str(&event.payload).unwrap_or_else(|_| Value::String(event.payload.clone()))
}

/// Text that is JSON already, or becomes a JSON string.
pub(crate) fn raw(text: &str) -> Result<Box<RawValue>, ReplayError> {
    match RawValue::from_string(text.to_owned()) {
        Ok(raw) => Ok(raw),
        Err(_) => Ok(RawValue::from_string(serde_json::to_string(text)?)?),
    }
}
