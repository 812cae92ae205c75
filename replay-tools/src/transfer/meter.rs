//! Progress of a copy: a bar on a terminal, a line every other second elsewhere. Both on standard error.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(2);

/// The progress of one part.
pub(super) struct Meter {
    what: String,
    total: Option<u64>,
    from: u64,
    done: u64,
    started: Instant,
    printed: Instant,
    bar: Option<ProgressBar>,
}

impl Meter {
    /// Begins; `from` lines of `total`, if that is known, are there already.
    pub(super) fn begin(what: String, from: u64, total: Option<u64>) -> Self {
        let bar = stderr().is_terminal().then(|| bar(&what, from, total));
        let now = Instant::now();
        Self {
            what,
            total,
            from,
            done: from,
            started: now,
            printed: now,
            bar,
        }
    }

    /// So many more.
    pub(super) fn add(&mut self, lines: u64) {
        self.done += lines;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        } else if self.printed.elapsed() >= LINE_EVERY {
            self.printed = Instant::now();
            let seconds = self.started.elapsed().as_secs_f64().max(0.001);
            let rate = (self.done - self.from) as f64 / seconds;
            match self.total {
                Some(total) => eprintln!("{}: {} of {total}, {rate:.0}/s", self.what, self.done),
                None => eprintln!("{}: {}, {rate:.0}/s", self.what, self.done),
            }
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

fn bar(what: &str, from: u64, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{prefix:<24} {bar:30} {human_pos} of {human_len}, {per_sec}, {eta} left",
        ),
        None => (
            ProgressBar::no_length(),
            "{prefix:<24} {human_pos}, {per_sec}",
        ),
    };
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = bar.with_style(style).with_prefix(what.to_owned());
    bar.set_position(from);
    bar.reset_eta();
    bar
}
