//! How far the analytics consumer is, as the commits of its files say.

use std::io::Write;

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use socialhub_domain::{Timestamp, topic::Topic};
use socialhub_event_log::{Frontier, Position};
use socialhub_projections::{
    Checkpoint, Source,
    analytics::{CommitLog, Objects, ObjectsError, PartitionState, RATE_OVER, Written},
    status::reached,
};

use crate::{
    ReplayError,
    processes::{self, LastError, ProcessView},
    show,
};

/// What the consumers are called among the roles, and in `/readyz`.
const ROLE: &str = "analytics";

/// Consumers that began less than this ago, in milliseconds, have no rate yet, and no partition has one over less.
const LEAST: i64 = 1000;
/// Partitions that are looked at at once.
const AT_ONCE: usize = 8;

/// What the consumers do. Files come at intervals, so that one that writes none for a while may be at work or hang:
/// which of the two, nobody can tell from outside, and its own `/readyz` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum State {
    /// At work, or nothing is to do, as far as they know.
    Running,
    /// The group has not dealt out partitions yet.
    Starting,
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
            Self::Starting => "starting",
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
    /// Events a second that were put into files lately; none when no consumer runs, or has just begun.
    rate: Option<f64>,
}

impl Place {
    /// None when there are no files.
    pub(crate) async fn find(
        objects: &dyn Objects,
        frontier: &Frontier,
        processes: &[ProcessView],
        now: Timestamp,
    ) -> Result<Option<Self>, ObjectsError> {
        let since = processes::playing_since(processes, ROLE);
        let over = i64::try_from(RATE_OVER.as_millis()).unwrap_or(i64::MAX);
        let since = since
            .map(|began| began.max(Timestamp(now.0.saturating_sub(over))))
            .filter(|since| now.0.saturating_sub(since.0) >= LEAST);
        let found: Vec<Partition> = stream::iter(CommitLog::partitions(objects).await?)
            .map(|source| Partition::find(objects, source, since))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let checkpoints: Vec<Checkpoint> = found.iter().filter_map(Partition::checkpoint).collect();
        Ok((!checkpoints.is_empty()).then(|| Self {
            position: reached(&checkpoints, &Topic::ALL, frontier),
            files: found.iter().map(|found| found.state.files.len()).sum(),
            published: frontier.position,
            rate: rate(found.iter().map(|found| found.written), now),
        }))
    }
}

/// What the commits of a partition say.
struct Partition {
    source: Source,
    state: PartitionState,
    written: Option<Written>,
}

impl Partition {
    async fn find(
        objects: &dyn Objects,
        source: Source,
        since: Option<Timestamp>,
    ) -> Result<Self, ObjectsError> {
        let log = CommitLog::new(source.clone());
        let written = match since {
            Some(since) => Some(log.written(objects, since).await?),
            None => None,
        };
        Ok(Self {
            source,
            state: log.load(objects).await?,
            written,
        })
    }

    fn checkpoint(&self) -> Option<Checkpoint> {
        let reached = self.state.reached?;
        Some(Checkpoint {
            source: self.source.clone(),
            position: reached.position,
            event_id: reached.event_id,
            next_offset: reached.next_offset,
            partitions: reached.partitions,
        })
    }
}

/// The sum of what each partition was given a second.
fn rate(written: impl Iterator<Item = Option<Written>>, now: Timestamp) -> Option<f64> {
    let rates = written.map(|written| {
        let Written { rows, since } = written?;
        // By the clock of whoever made the commits it may be later than now.
        let over = now.0.saturating_sub(since.0).max(LEAST);
        Some(rows as f64 * 1000.0 / over as f64)
    });
    rates.sum()
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
    /// Events a second that were put into files in the last five minutes, or since the consumers began.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    files: usize,
    /// Where they are looked for. Consumers with another setting write them elsewhere.
    files_at: String,
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
        files_at: String,
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
        let starting = last_error.as_ref().is_some_and(LastError::is_starting);
        let failing = last_error.as_ref().is_some_and(|error| error.now);
        let waiting = place
            .as_ref()
            .is_some_and(|place| place.position < head && place.position >= place.published);
        Some(Self {
            state: match playing {
                0 => State::NotRunning,
                _ if starting => State::Starting,
                _ if failing => State::Failing,
                _ if waiting => State::WaitingForRelay,
                _ => State::Running,
            },
            position,
            lag_events: head.saturating_sub(position),
            lag_seconds: unavailable.is_none().then_some(lag_seconds),
            rate: place.as_ref().and_then(|place| place.rate),
            files: place.map_or(0, |place| place.files),
            files_at,
            unavailable,
            last_error,
        })
    }

    /// A consumer that has just begun, and a look at another place than it writes to, look the same from here.
    fn found(&self) -> String {
        let at = &self.files_at;
        match self.files {
            0 => format!("no files in {at} (yet, or ANALYTICS_URL is not what the consumers have)"),
            files => format!("{files} files in {at}"),
        }
    }
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
    let rate = show::per_second(view.rate);
    Ok(writeln!(
        out,
        "\nanalytics: at position {}, {} events behind{age}{rate}, {}: {state}",
        view.position,
        view.lag_events,
        view.found()
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
            rate: Some(12.5),
        }))
    }

    #[test]
    fn a_rate_is_the_sum_of_the_partitions() {
        let written = |rows, since| {
            Some(Written {
                rows,
                since: Timestamp(since),
            })
        };
        let rate = |written: &[Option<Written>]| rate(written.iter().copied(), Timestamp(20_000));
        // One made more commits than are kept.
        assert_eq!(
            rate(&[written(40, 0), written(30, 10_000), written(0, 0)]),
            Some(5.0)
        );
        assert_eq!(rate(&[None, None]), None);
        // One whose clock is ahead.
        assert_eq!(rate(&[written(4, 0), written(6, 20_500)]), Some(6.2));
    }

    #[test]
    fn what_is_said_is_what_is_known() {
        let view = |place, processes: &[ProcessView]| {
            AnalyticsView::of(place, 7.5, 90, processes, "/lake".to_owned())
        };
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
        assert_eq!(found.rate, Some(12.5));
        assert_eq!(found.found(), "3 files in /lake");
        let begun = view(Ok(None), &ready).unwrap();
        assert!(begun.found().contains("no files in /lake (yet, or"));
        let away = view(Err(ObjectsError("away".to_owned())), &ready).unwrap();
        assert_eq!((away.state, away.lag_seconds), (State::Running, None));
    }
}
