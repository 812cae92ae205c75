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

use crate::{
    ReplayError,
    processes::{self, LastError, ProcessView},
};

/// What the consumers are called among the roles, and in `/readyz`.
const ROLE: &str = "analytics";

/// What the consumers do. Files come at intervals, so that one that writes none for a while may be at work or hang:
/// which of the two, nobody can tell from outside, and its own `/readyz` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum State {
    /// At work, or nothing is to do, as far as they know.
    Running,
    /// One says that it does not do its work.
    Failing,
    /// Everything that the relay has published is in files.
    WaitingForRelay,
    /// No process plays the role.
    NotRunning,
}

impl State {
    fn words(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Failing => "failing",
            Self::WaitingForRelay => "waiting for the relay",
            Self::NotRunning => "not running",
        }
    }
}

/// How far everything is in files.
pub(crate) struct Place {
    pub(crate) position: Position,
    files: usize,
    /// How far the relay was.
    published: Position,
}

impl Place {
    /// None when there are no files.
    pub(crate) async fn find(
        objects: &dyn Objects,
        frontier: &Frontier,
    ) -> Result<Option<Self>, ObjectsError> {
        let (checkpoints, files) = places(objects).await?;
        Ok((!checkpoints.is_empty()).then(|| Self {
            position: reached(&checkpoints, &Topic::ALL, frontier),
            files,
            published: frontier.position,
        }))
    }
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AnalyticsView {
    /// Why nothing is known of its files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unavailable: Option<String>,
    state: State,
    position: Position,
    lag_events: u64,
    /// The age of the first event that is in no file; none when its files say nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_seconds: Option<f64>,
    files: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<LastError>,
}

impl AnalyticsView {
    /// None when there are no files and no consumer was heard of: it is not used. `lag_seconds` is the age of the first
    /// event after the place.
    pub(crate) fn of(
        place: Result<Option<Place>, ObjectsError>,
        lag_seconds: f64,
        head: Position,
        processes: &[ProcessView],
    ) -> Option<Self> {
        let last_error = processes::last_error(processes, ROLE);
        let playing = processes::playing(processes, ROLE);
        let used = last_error.is_some() || playing > 0;
        let (place, unavailable) = match place {
            Ok(None) if !used => return None,
            Ok(place) => (place, None),
            Err(error) => (None, Some(error.to_string())),
        };
        let position = place.as_ref().map_or(0, |place| place.position);
        let failing = last_error.as_ref().is_some_and(|error| error.now);
        let waiting = place
            .as_ref()
            .is_some_and(|place| place.position < head && place.position >= place.published);
        Some(Self {
            state: match playing {
                0 => State::NotRunning,
                _ if failing => State::Failing,
                _ if waiting => State::WaitingForRelay,
                _ => State::Running,
            },
            position,
            lag_events: head.saturating_sub(position),
            lag_seconds: unavailable.is_none().then_some(lag_seconds),
            files: place.map_or(0, |place| place.files),
            unavailable,
            last_error,
        })
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
    let state = view.state.words();
    if let Some(reason) = &view.unavailable {
        return Ok(writeln!(
            out,
            "\nanalytics: {state}; its files are unavailable: {reason}"
        )?);
    }
    let age = match (view.lag_events, view.lag_seconds) {
        (1.., Some(seconds)) => format!(" ({seconds:.1} s)"),
        _ => String::new(),
    };
    Ok(writeln!(
        out,
        "\nanalytics: at position {}, {} events behind{age}, {} files: {state}",
        view.position, view.lag_events, view.files
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::tests::process;

    fn place(position: Position) -> Result<Option<Place>, ObjectsError> {
        Ok(Some(Place {
            position,
            files: 3,
            published: 80,
        }))
    }

    #[test]
    fn what_is_said_is_what_is_known() {
        let view = |place, processes: &[ProcessView]| AnalyticsView::of(place, 7.5, 90, processes);
        let state = |place, processes: &[ProcessView]| view(place, processes).unwrap().state;
        assert!(view(Ok(None), &[]).is_none());
        let consumer =
            |parts: &[(&str, i64, bool)], ago| process("a", "feed, analytics", ago, parts);
        let ready = [consumer(&[], 1.0)];
        // It has begun and has no files yet.
        assert_eq!(state(Ok(None), &ready), State::Running);
        assert_eq!(state(place(70), &ready), State::Running);
        assert_eq!(state(place(80), &ready), State::WaitingForRelay);
        assert_eq!(state(place(90), &ready), State::Running);
        let over = [consumer(&[("analytics", 5, false)], 1.0)];
        assert_eq!(state(place(70), &over), State::Running);
        let stands = [consumer(&[("analytics", 5, true)], 1.0)];
        assert_eq!(state(place(70), &stands), State::Failing);
        for gone in [
            &[][..],
            &[consumer(&[], 60.0)],
            &[process("b", "relay", 1.0, &[])],
        ] {
            assert_eq!(state(place(70), gone), State::NotRunning);
        }
        let found = view(place(70), &ready).unwrap();
        assert_eq!((found.lag_events, found.lag_seconds), (20, Some(7.5)));
        let away = view(Err(ObjectsError("away".to_owned())), &ready).unwrap();
        assert_eq!((away.state, away.lag_seconds), (State::Running, None));
    }
}
