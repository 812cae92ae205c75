//! How far something long has come: one wording and one bar for all commands.

use std::{fmt, time::Duration};

use indicatif::ProgressStyle;
use socialhub_projections::runtime::rebuild::time_left;

/// How far something is, in whatever it counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HowFar {
    /// Where it began.
    pub from: u64,
    /// Where it is.
    pub done: u64,
    /// Where it ends, if that is known.
    pub of: Option<u64>,
    /// Since it began.
    pub elapsed: Duration,
}

impl fmt::Display for HowFar {
    /// `400 of 1000, 200/s, 3 s left`; of rate and time only what can be told already.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = self.done.saturating_sub(self.from);
        let rate = done as f64 / self.elapsed.as_secs_f64().max(0.001);
        let Some(of) = self.of else {
            return write!(f, "{}, {rate:.0}/s", self.done);
        };
        write!(f, "{} of {of}", self.done)?;
        match time_left(done, of.saturating_sub(self.done), self.elapsed) {
            Some(left) => write!(f, ", {rate:.0}/s, {:.0} s left", left.as_secs_f64()),
            None => Ok(()),
        }
    }
}

/// The look of a bar whose end is known, or not.
pub(crate) fn bar_style(end_known: bool) -> ProgressStyle {
    let template = match end_known {
        true => "{prefix:<24} {bar:30} {human_pos} of {human_len}, {per_sec}, {eta} left",
        false => "{prefix:<24} {spinner} {human_pos}, {per_sec}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_left_are_said_where_they_are_known() {
        let said = |from, done, of| {
            let elapsed = Duration::from_secs(2);
            let how_far = HowFar {
                from,
                done,
                of,
                elapsed,
            };
            how_far.to_string()
        };
        assert_eq!(said(100, 300, None), "300, 100/s");
        assert_eq!(said(0, 400, Some(1_000)), "400 of 1000, 200/s, 3 s left");
        assert_eq!(said(600, 800, Some(1_000)), "800 of 1000, 100/s, 2 s left");
        assert_eq!(said(600, 600, Some(1_000)), "600 of 1000");
    }
}
