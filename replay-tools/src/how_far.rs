//! How far something long has come: one wording and one bar for all commands.

use std::{fmt, time::Duration};

use indicatif::ProgressStyle;
use socialhub_event_log::Track;
use tokio::time::Instant;

/// Over how long the rate of something is taken whose end moves: beside commands a piece may take a quarter of that.
const RATE_OVER: Duration = Duration::from_secs(60);

/// How far something is, in whatever it counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HowFar {
    /// Where it was a while ago, or began.
    pub from: u64,
    /// Where it is.
    pub done: u64,
    /// Where it ends, if that is known.
    pub of: Option<u64>,
    /// How much the end has moved on in that while.
    pub grown: u64,
    /// The while.
    pub elapsed: Duration,
}

impl HowFar {
    fn moved(&self) -> u64 {
        self.done.saturating_sub(self.from)
    }

    /// When it comes to its end, if both go on as they did; none when it does not, or nobody can tell yet.
    fn left(&self) -> Option<Duration> {
        let left = self.of?.saturating_sub(self.done);
        let nearer = self.moved().saturating_sub(self.grown);
        let left = (nearer > 0).then(|| left as f64 / nearer as f64)?;
        Duration::try_from_secs_f64(self.elapsed.as_secs_f64() * left).ok()
    }

    /// `, 200/s, 3 s left`; only what can be told already.
    pub(crate) fn pace(&self) -> String {
        if self.of.is_some() && self.moved() == 0 {
            return String::new();
        }
        let rate = self.moved() as f64 / self.elapsed.as_secs_f64().max(0.001);
        let left = self.left().map(|left| format!(", {} left", long(left)));
        format!(", {rate:.0}/s{}", left.unwrap_or_default())
    }
}

impl fmt::Display for HowFar {
    /// `400 of 1000, 200/s, 3 s left`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = self.of.map(|of| format!(" of {of}"));
        write!(f, "{}{}{}", self.done, of.unwrap_or_default(), self.pace())
    }
}

/// How long something takes, as exactly as matters.
fn long(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        ..7_200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.0} h", seconds / 3_600.0),
    }
}

/// The last while of something whose end moves, and which is faster or slower by what goes on beside it.
#[derive(Debug)]
pub(crate) struct Course {
    done: Track,
    of: Track,
}

impl Course {
    pub(crate) fn begin(at: Instant, done: u64, of: u64) -> Self {
        Self {
            done: Track::begin(RATE_OVER, at, done),
            of: Track::begin(RATE_OVER, at, of),
        }
    }

    /// How far it is now.
    pub(crate) fn moved(&mut self, at: Instant, done: u64, of: u64) -> HowFar {
        self.done.note(at, done);
        self.of.note(at, of);
        let moved = self.done.moved(at);
        HowFar {
            from: done.saturating_sub(moved.by),
            done,
            // What has come since the last look may be done already.
            of: Some(of.max(done)),
            grown: self.of.moved(at).by,
            elapsed: moved.within,
        }
    }
}

/// The look of a bar whose end is known, or not.
pub(crate) fn bar_style(end_known: bool) -> ProgressStyle {
    style(match end_known {
        true => "{prefix:<24} {bar:30} {human_pos} of {human_len}, {per_sec}, {eta} left",
        false => "{prefix:<24} {spinner} {human_pos}, {per_sec}",
    })
}

/// The look of a bar whose end moves. Its message is the [`HowFar::pace`].
pub(crate) fn moving_bar_style() -> ProgressStyle {
    style("{prefix:<24} {bar:30} {human_pos} of {human_len}{msg}")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_left_are_said_where_they_are_known() {
        let said = |from, done, of, grown| {
            let elapsed = Duration::from_secs(2);
            let how_far = HowFar {
                from,
                done,
                of,
                grown,
                elapsed,
            };
            how_far.to_string()
        };
        assert_eq!(said(100, 300, None, 0), "300, 100/s");
        assert_eq!(said(100, 100, None, 0), "100, 0/s");
        let of = Some(1_000);
        assert_eq!(said(0, 400, of, 0), "400 of 1000, 200/s, 3 s left");
        assert_eq!(said(600, 800, of, 0), "800 of 1000, 100/s, 2 s left");
        assert_eq!(said(600, 600, of, 0), "600 of 1000");
        // What comes nearer by half of what it moves takes twice as long; what does not, for ever.
        assert_eq!(said(0, 400, of, 200), "400 of 1000, 200/s, 6 s left");
        assert_eq!(said(0, 400, of, 400), "400 of 1000, 200/s");
        assert_eq!(said(0, 4, Some(600_000), 0), "4 of 600000, 2/s, 83 h left");
        assert_eq!(
            said(0, 400, Some(400_400), 0),
            "400 of 400400, 200/s, 33 min left"
        );
    }

    #[test]
    fn the_pace_is_that_of_the_last_while() {
        let begin = Instant::now();
        let mut course = Course::begin(begin, 1_000, 50_000);
        let mut said = |seconds: f64, done, of| {
            let at = begin + Duration::from_secs_f64(seconds);
            course.moved(at, done, of).to_string()
        };
        // Twenty seconds at a thousand a second, twice as fast as the end moves.
        assert_eq!(said(0.5, 1_500, 50_248), "1500 of 50248, 1000/s, 97 s left");
        for second in 1..20_u32 {
            let moved = u64::from(second) * 500;
            said(f64::from(second), 1_000 + 2 * moved, 50_000 + moved);
        }
        assert_eq!(
            said(20.0, 21_000, 60_000),
            "21000 of 60000, 1000/s, 78 s left"
        );
        // Then the end stands, and it runs.
        for second in 1..=70_u32 {
            let done = 21_000 + 2_000 * u64::from(second);
            said(20.0 + f64::from(second), done, 200_000);
        }
        assert_eq!(
            said(91.0, 163_000, 200_100),
            "163000 of 200100, 2000/s, 19 s left"
        );
        let end = said(92.0, 201_000, 200_100);
        assert!(end.starts_with("201000 of 201000, "), "{end}");
        assert!(end.ends_with(", 0 s left"), "{end}");
    }
}
