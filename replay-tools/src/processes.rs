//! The processes on the log, as they report themselves.

use std::io::Write;

use serde::Serialize;
use socialhub_domain::Timestamp;
use socialhub_event_log::{HeardOf, LeftOut, LogError, PartReport, ProcessReports};
use socialhub_projections::{ModelName, status::is_starting};

use crate::{ReplayError, show};

/// A process that has not been heard of for so long hangs, or was killed: it reports every two seconds.
pub const SILENT_AFTER: f64 = 8.0;

/// How a process fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum State {
    /// Nothing is wrong with it that it knows of.
    Ready,
    /// A part of it does not do its work.
    NotReady,
    /// It was to say something and has not.
    Silent,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProcessView {
    process: String,
    roles: String,
    version: String,
    started_at: Timestamp,
    state: State,
    seconds_ago: f64,
    /// The parts that have ever failed, each with its last failure.
    parts: Vec<PartReport>,
    /// What its consumers have left out of the topics.
    left_out: Vec<LeftOut>,
}

impl From<HeardOf> for ProcessView {
    fn from(heard: HeardOf) -> Self {
        let HeardOf {
            report,
            seconds_ago,
        } = heard;
        let state = if seconds_ago > SILENT_AFTER {
            State::Silent
        } else if report.parts.iter().any(|part| part.now) {
            State::NotReady
        } else {
            State::Ready
        };
        Self {
            process: report.process,
            roles: report.roles,
            version: report.version,
            started_at: report.started_at,
            state,
            seconds_ago,
            parts: report.parts,
            left_out: report.left_out,
        }
    }
}

/// What went wrong last with a part, of all processes that have it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LastError {
    process: String,
    error: String,
    at: Timestamp,
    /// Whether it is so still.
    pub(crate) now: bool,
}

impl LastError {
    /// Whether it is none: the part has not come to its work yet.
    pub(crate) fn is_starting(&self) -> bool {
        self.now && is_starting(&self.error)
    }
}

pub(crate) async fn views(reports: &dyn ProcessReports) -> Result<Vec<ProcessView>, LogError> {
    let heard_of = reports.all().await?;
    Ok(heard_of.into_iter().map(ProcessView::from).collect())
}

/// The last error of a part: one that stands goes before one that is over, else the later one.
pub(crate) fn last_error(processes: &[ProcessView], part: &str) -> Option<LastError> {
    let found = processes.iter().flat_map(|process| {
        let parts = process.parts.iter().filter(|found| found.name == part);
        parts.map(|found| LastError {
            process: process.process.clone(),
            error: found.error.clone(),
            at: found.at,
            now: found.now && process.state != State::Silent,
        })
    });
    found.max_by_key(|error| (error.now, error.at))
}

/// How many processes play a role and have been heard of lately.
pub(crate) fn playing(processes: &[ProcessView], role: &str) -> usize {
    let heard_of = with_role(processes, role).filter(|process| process.state != State::Silent);
    heard_of.count()
}

/// Since when one of those who play a role has played it; none when nobody does who has been heard of lately.
pub(crate) fn playing_since(processes: &[ProcessView], role: &str) -> Option<Timestamp> {
    let heard_of = with_role(processes, role).filter(|process| process.state != State::Silent);
    heard_of.map(|process| process.started_at).min()
}

/// Whether there are processes with a role, and none of them has been heard of lately.
pub(crate) fn all_silent(processes: &[ProcessView], role: &str) -> bool {
    with_role(processes, role).next().is_some() && playing(processes, role) == 0
}

fn with_role<'p>(
    processes: &'p [ProcessView],
    role: &str,
) -> impl Iterator<Item = &'p ProcessView> {
    let plays = move |process: &&ProcessView| {
        let mut roles = process.roles.split(", ");
        roles.any(|played| played == role)
    };
    processes.iter().filter(plays)
}

/// What `/readyz` calls a model's projector.
pub(crate) fn projection(model: ModelName) -> String {
    format!("projection {model}")
}

pub(crate) fn print(
    processes: &[ProcessView],
    out: &mut (dyn Write + Send),
) -> Result<(), ReplayError> {
    if processes.is_empty() {
        return Ok(writeln!(out, "\nNo process has been heard of.")?);
    }
    writeln!(out, "\nprocesses")?;
    for process in processes {
        let ago = process.seconds_ago;
        let state = match process.state {
            State::Ready => "ready".to_owned(),
            State::NotReady => "not ready".to_owned(),
            State::Silent => format!("not heard of for {ago:.0} s: it hangs, or was killed"),
        };
        writeln!(
            out,
            "  {:<24} {state}  ({})",
            process.process, process.roles
        )?;
        for part in &process.parts {
            let when = match part.now && process.state != State::Silent {
                true => "now",
                false => "last",
            };
            writeln!(out, "    {when}: {}: {}", part.name, part.error)?;
        }
        for left_out in &process.left_out {
            print_left_out(left_out, out)?;
        }
    }
    Ok(())
}

fn print_left_out(left_out: &LeftOut, out: &mut (dyn Write + Send)) -> Result<(), ReplayError> {
    let LeftOut {
        consumer,
        topic,
        records,
        partition,
        offset,
        reason,
        at,
    } = left_out;
    let at = show::time(*at);
    Ok(writeln!(
        out,
        "    {consumer}: left out {records} records of {topic} that the relay has not written, the last at {at} \
         ({topic}-{partition}, offset {offset}): {reason}"
    )?)
}

#[cfg(test)]
pub(crate) mod tests {
    use socialhub_event_log::ProcessReport;

    use super::*;

    pub(crate) fn process(
        name: &str,
        roles: &str,
        seconds_ago: f64,
        parts: &[(&str, i64, bool)],
    ) -> ProcessView {
        let part = |(name, at, now): &(&str, i64, bool)| PartReport {
            name: (*name).to_owned(),
            error: format!("{name} failed at {at}"),
            at: Timestamp(*at),
            now: *now,
        };
        let report = ProcessReport {
            process: name.to_owned(),
            roles: roles.to_owned(),
            version: "1".to_owned(),
            started_at: Timestamp(1),
            parts: parts.iter().map(part).collect(),
            left_out: Vec::new(),
        };
        HeardOf {
            report,
            seconds_ago,
        }
        .into()
    }

    #[test]
    fn a_role_is_silent_when_everybody_who_plays_it_is() {
        let both = "relay, project feed";
        let (gone, there) = (process("a", both, 9.0, &[]), process("b", both, 1.0, &[]));
        let silent = |processes: &[ProcessView], role| all_silent(processes, role);
        assert!(silent(std::slice::from_ref(&gone), "project feed"));
        assert!(!silent(&[gone, there], "project feed"));
        assert!(!silent(&[], "project feed"));
    }

    #[test]
    fn a_role_is_played_since_the_first_began_that_is_there() {
        let began = |name, ago, at| ProcessView {
            started_at: Timestamp(at),
            ..process(name, "analytics", ago, &[])
        };
        let processes = [
            began("gone", 60.0, 1),
            began("a", 1.0, 7),
            began("b", 1.0, 9),
        ];
        let since = |processes: &[ProcessView]| playing_since(processes, "analytics");
        assert_eq!(since(&processes), Some(Timestamp(7)));
        assert_eq!(since(&processes[..1]), None);
        assert_eq!(playing_since(&processes, "relay"), None);
    }

    #[test]
    fn only_one_that_speaks_and_complains_of_nothing_is_ready() {
        assert_eq!(process("a", "relay", 1.0, &[]).state, State::Ready);
        let over = [("relay", 5, false)];
        assert_eq!(process("a", "relay", 1.0, &over).state, State::Ready);
        let stands = [("relay", 5, true)];
        assert_eq!(process("a", "relay", 1.0, &stands).state, State::NotReady);
        assert_eq!(process("a", "relay", 9.0, &[]).state, State::Silent);
    }

    #[test]
    fn what_stands_goes_before_what_is_over() {
        let processes = [
            process("a", "relay", 1.0, &[("relay", 5, true)]),
            process(
                "b",
                "relay",
                1.0,
                &[("relay", 9, false), ("event log", 99, true)],
            ),
            process("gone", "relay", 60.0, &[("relay", 7, true)]),
        ];
        let last = last_error(&processes, "relay").unwrap();
        assert_eq!((last.process.as_str(), last.now), ("a", true));
        let last = last_error(&processes[1..], "relay").unwrap();
        assert_eq!((last.process.as_str(), last.now), ("b", false));
        assert_eq!(last_error(&processes, "projection feed"), None);
    }
}
