//! A moment in the log's past, as the command line names it: a position, or a time.
//!
//! Positions are the log's order; times come from the clocks of servers, which may differ a little or be set back. The
//! log as of a time is therefore defined by position: everything before the first event that happened later. So nothing
//! later than the time is ever in it, and the log as of an earlier time is a beginning of the one as of a later time.

use std::str::FromStr;

use chrono::DateTime;
use socialhub_domain::Timestamp;
use socialhub_event_log::Position;

use crate::{ReplayError, ReplayTarget, show};

/// How many events one read brings.
const READ_LIMIT: usize = 4096;

/// A position, or a time in RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// After the event at a position.
    Position(Position),
    /// After everything that had happened by then.
    Time(Timestamp),
}

/// The text is neither.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a position, for example 1200, or a time in RFC 3339, for example 2026-03-01T12:00:00Z"
)]
pub(crate) struct NotAMoment;

impl FromStr for Moment {
    type Err = NotAMoment;

    fn from_str(text: &str) -> Result<Self, NotAMoment> {
        if let Ok(position) = text.parse() {
            return Ok(Self::Position(position));
        }
        let time = DateTime::parse_from_rfc3339(text).map_err(|_| NotAMoment)?;
        Ok(Self::Time(Timestamp(time.timestamp_millis())))
    }
}

/// The position that a moment means.
pub(crate) async fn resolve(
    target: &ReplayTarget,
    moment: Moment,
) -> Result<Position, ReplayError> {
    let head = target.log.head().await?;
    match moment {
        Moment::Position(position) if position > head => Err(ReplayError::PastTheHead {
            asked: position,
            head,
        }),
        Moment::Position(position) => Ok(position),
        Moment::Time(time) if time > target.clock.now() => {
            Err(ReplayError::NotYet(show::time(time)))
        }
        Moment::Time(time) => last_before(target, time, head).await,
    }
}

/// The position before the first event that happened after a time.
async fn last_before(
    target: &ReplayTarget,
    time: Timestamp,
    head: Position,
) -> Result<Position, ReplayError> {
    let mut after = 0;
    while after < head {
        let events = target.log.read_all(after, READ_LIMIT).await?;
        for event in &events {
            if event.metadata.occurred_at > time {
                return Ok(after);
            }
            after = event.position;
        }
        if events.is_empty() {
            break;
        }
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_position_or_a_time() {
        assert_eq!("12".parse(), Ok(Moment::Position(12)));
        let time = Ok(Moment::Time(Timestamp(1_767_225_600_500)));
        assert_eq!("2026-01-01T00:00:00.5Z".parse(), time);
        assert_eq!("2026-01-01T01:00:00.5+01:00".parse(), time);
        for bad in [
            "",
            "-1",
            "yesterday",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "1.5",
        ] {
            assert_eq!(bad.parse::<Moment>(), Err(NotAMoment), "{bad}");
        }
    }
}
