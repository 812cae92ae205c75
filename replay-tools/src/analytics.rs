//! How far the analytics consumer is, as the commits of its files say.

use std::io::Write;

use serde::Serialize;
use socialhub_domain::topic::Topic;
use socialhub_event_log::{Frontier, Position};
use socialhub_projections::{
    Checkpoint,
    analytics::{CommitLog, Objects, ObjectsError},
    status::reached,
};

use crate::{ReplayError, processes::LastError};

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AnalyticsView {
    /// Why nothing is known of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unavailable: Option<String>,
    position: Position,
    lag_events: u64,
    files: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<LastError>,
}

/// None when there are no files and no consumer was heard of: it is not used.
pub(crate) async fn view(
    objects: &dyn Objects,
    frontier: &Frontier,
    head: Position,
    last_error: Option<LastError>,
) -> Option<AnalyticsView> {
    match places(objects).await {
        Ok((checkpoints, _)) if checkpoints.is_empty() && last_error.is_none() => None,
        Ok((checkpoints, files)) => {
            let position = reached(&checkpoints, &Topic::ALL, frontier);
            Some(AnalyticsView {
                unavailable: None,
                position,
                lag_events: head.saturating_sub(position),
                files,
                last_error,
            })
        }
        Err(error) => Some(AnalyticsView {
            unavailable: Some(error.to_string()),
            position: 0,
            lag_events: head,
            files: 0,
            last_error,
        }),
    }
}

/// How far each partition is in files, and how many there are.
async fn places(objects: &dyn Objects) -> Result<(Vec<Checkpoint>, usize), ObjectsError> {
    let (mut checkpoints, mut files) = (Vec::new(), 0);
    for source in CommitLog::partitions(objects).await? {
        let state = CommitLog::new(source.clone()).load(objects).await?;
        files += state.files.len();
        checkpoints.extend(state.reached.map(|reached| Checkpoint {
            source,
            position: reached.position,
            event_id: reached.event_id,
            next_offset: reached.next_offset,
            partitions: reached.partitions,
        }));
    }
    Ok((checkpoints, files))
}

pub(crate) fn print(view: &AnalyticsView, out: &mut (dyn Write + Send)) -> Result<(), ReplayError> {
    match &view.unavailable {
        Some(reason) => writeln!(out, "\nanalytics: unavailable: {reason}")?,
        None => writeln!(
            out,
            "\nanalytics: at position {}, {} events behind, {} files",
            view.position, view.lag_events, view.files
        )?,
    }
    Ok(())
}
