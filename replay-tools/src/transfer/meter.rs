//! Progress of a copy: a bar on a terminal, a line every other second elsewhere. Both on standard error.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::ProgressBar;

use crate::how_far::{HowFar, bar_style};

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
            let how_far = HowFar {
                from: self.from,
                done: self.done,
                of: self.total,
                grown: 0,
                elapsed: self.started.elapsed(),
            };
            eprintln!("{}: {how_far}", self.what);
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
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let style = bar_style(total.is_some());
    let bar = bar.with_style(style).with_prefix(what.to_owned());
    bar.set_position(from);
    bar.reset_eta();
    bar
}
