//! Progress of rebuilds, repairs and verifications: bars on a terminal, a line every other second elsewhere. All on standard
//! error.

use std::{
    collections::HashMap,
    io::{IsTerminal, stderr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use socialhub_event_log::Position;
use socialhub_projections::{
    GenerationId, ModelName,
    runtime::{Progress, VerifyCourse, VerifyStage, VerifyStep},
};
use tokio::time::Instant;

use crate::how_far::{Course, HowFar, bar_style, moving_bar_style};

const LINE_EVERY: Duration = Duration::from_secs(2);
/// How often a clock on a terminal moves.
const TICK: Duration = Duration::from_millis(200);

/// What suits the standard error of this process.
pub(crate) fn suitable() -> Arc<dyn Progress> {
    if stderr().is_terminal() {
        Arc::new(Bars::default())
    } else {
        Arc::new(Lines::default())
    }
}

/// Progress is for people to look at: a panic elsewhere does not make it unusable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows how far a verification has come, until it has ended.
pub(crate) async fn verifying<T>(
    model: ModelName,
    course: &VerifyCourse,
    work: impl Future<Output = T>,
) -> T {
    let on_terminal = stderr().is_terminal();
    let mut shown = Verifying::new(model, on_terminal);
    let every = if on_terminal { TICK } else { LINE_EVERY };
    let mut ticks = tokio::time::interval_at(Instant::now() + every, every);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => shown.show(course.stage()),
        }
    }
}

/// What is shown of a verification.
struct Verifying {
    model: ModelName,
    bar: Option<ProgressBar>,
    /// The step of which something was shown last, where it was then, and when that was.
    step: Option<(VerifyStage, Instant)>,
}

impl Verifying {
    fn new(model: ModelName, on_terminal: bool) -> Self {
        Self {
            model,
            bar: on_terminal.then(ProgressBar::no_length),
            step: None,
        }
    }

    fn show(&mut self, stage: VerifyStage) {
        match self.step {
            Some((first, since)) if (first.look, first.doing) == (stage.look, stage.doing) => {
                match &self.bar {
                    Some(bar) => bar.set_position(stage.done),
                    None => eprintln!("{}", verify_line(self.model, first, stage, since.elapsed())),
                }
            }
            _ => {
                self.step = Some((stage, Instant::now()));
                if let Some(bar) = &self.bar {
                    begin_step(bar, self.model, stage);
                }
            }
        }
    }
}

impl Drop for Verifying {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What the bar counts from now on.
fn begin_step(bar: &ProgressBar, model: ModelName, stage: VerifyStage) {
    let style = match stage.doing {
        VerifyStep::Comparing => ProgressStyle::with_template("{prefix} {spinner}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        _ => bar_style(stage.of.is_some()),
    };
    // First of all: everything that follows draws it.
    bar.set_position(stage.done);
    match stage.of {
        Some(of) => bar.set_length(of),
        None => bar.unset_length(),
    }
    bar.set_style(style);
    bar.set_prefix(format!("{model}, {}", step(stage)));
    bar.reset_eta();
}

fn step(stage: VerifyStage) -> String {
    let doing = match stage.doing {
        VerifyStep::Reading => "rows read",
        VerifyStep::Folding => "events folded",
        VerifyStep::Comparing => "being compared",
    };
    match stage.look {
        0 | 1 => doing.to_owned(),
        again => format!("look {again}, {doing}"),
    }
}

/// How far a step is that was `first` seen so long ago.
fn verify_line(
    model: ModelName,
    first: VerifyStage,
    stage: VerifyStage,
    elapsed: Duration,
) -> String {
    let what = format!("{model}, {}", step(stage));
    if stage.doing == VerifyStep::Comparing {
        return format!("{what}: for {} s so far", elapsed.as_secs());
    }
    let how_far = HowFar {
        from: first.done,
        done: stage.done,
        of: stage.of,
        grown: 0,
        elapsed,
    };
    format!("{what}: {how_far}")
}

#[derive(Default)]
struct Bars {
    all: MultiProgress,
    bars: Mutex<HashMap<ModelName, (ProgressBar, Course)>>,
}

impl Progress for Bars {
    fn began(&self, model: ModelName, generation: GenerationId, from: Position, to: Position) {
        let bar = ProgressBar::new(to).with_style(moving_bar_style());
        let bar = self.all.add(bar);
        bar.set_prefix(format!("{model}, generation {generation}"));
        bar.set_position(from);
        let course = Course::begin(Instant::now(), from, to);
        lock(&self.bars).insert(model, (bar, course));
    }

    fn moved(&self, model: ModelName, position: Position, to: Position) {
        if let Some((bar, course)) = lock(&self.bars).get_mut(&model) {
            let how_far = course.moved(Instant::now(), position, to);
            bar.set_message(how_far.pace());
            bar.set_length(to.max(position));
            bar.set_position(position);
        }
    }

    fn ended(&self, model: ModelName) {
        if let Some((bar, _)) = lock(&self.bars).remove(&model) {
            // It stays where it is: the end may not be the one that was wished for.
            bar.abandon();
        }
    }
}

#[derive(Default)]
struct Lines(Mutex<HashMap<ModelName, Line>>);

struct Line {
    course: Course,
    printed: Instant,
}

impl Progress for Lines {
    fn began(&self, model: ModelName, generation: GenerationId, from: Position, to: Position) {
        eprintln!("{model}: filling generation {generation} from position {from} to {to}");
        let now = Instant::now();
        let line = Line {
            course: Course::begin(now, from, to),
            printed: now,
        };
        lock(&self.0).insert(model, line);
    }

    fn moved(&self, model: ModelName, position: Position, to: Position) {
        let mut lines = lock(&self.0);
        let Some(line) = lines.get_mut(&model) else {
            return;
        };
        let now = Instant::now();
        let how_far = line.course.moved(now, position, to);
        if now - line.printed < LINE_EVERY {
            return;
        }
        line.printed = now;
        eprintln!("{model}, events filled: {how_far}");
    }

    fn ended(&self, model: ModelName) {
        lock(&self.0).remove(&model);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_rate_and_time_left_where_the_end_is_known() {
        let at = |look, doing, done, of| VerifyStage {
            look,
            doing,
            done,
            of,
        };
        let line =
            |first, stage| verify_line(ModelName("feed"), first, stage, Duration::from_secs(2));
        let reading = |done| at(1, VerifyStep::Reading, done, None);
        assert_eq!(
            line(reading(100), reading(300)),
            "feed, rows read: 300, 100/s"
        );
        let folding = |done| at(2, VerifyStep::Folding, done, Some(1_000));
        assert_eq!(
            line(folding(0), folding(400)),
            "feed, look 2, events folded: 400 of 1000, 200/s, 3 s left"
        );
        assert_eq!(
            line(folding(0), folding(0)),
            "feed, look 2, events folded: 0 of 1000"
        );
        let comparing = at(1, VerifyStep::Comparing, 1_000, Some(1_000));
        assert_eq!(
            line(comparing, comparing),
            "feed, being compared: for 2 s so far"
        );
    }
}
