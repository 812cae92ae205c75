//! How much longer commands take while every read model is rebuilt beside them.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use super::{Bench, Found, visible::COMMANDERS};
use crate::{
    client::BenchError,
    load::{Rotation, Sample, Shape, paced},
    process::Running,
};

/// How often it is looked whether the rebuild has ended.
const WINDOW: Duration = Duration::from_secs(1);

/// What commands took in the whole seconds of a rebuild.
#[derive(Default)]
struct Beside {
    all: Sample,
    /// The p99 of each of these seconds, in milliseconds.
    seconds: Vec<f64>,
}

impl Beside {
    fn add(&mut self, second: Sample) {
        self.seconds.push(second.clone().summary().p99_ms);
        self.all.merge(second);
        self.all.elapsed = WINDOW.mul_f64(self.seconds.len() as f64);
    }

    /// In how many seconds the p99 was so many milliseconds or more.
    fn slower_than(&self, p99_ms: f64) -> usize {
        self.seconds.iter().filter(|ms| **ms >= p99_ms).count()
    }
}

impl Bench {
    /// Commands at a steady pace, first alone, then beside a rebuild. Each run is one of both.
    pub(super) async fn beside_rebuild(&self) -> Result<Found, BenchError> {
        let Some(program) = &self.rebuild_with else {
            let what = "beside-rebuild needs --rebuild-with, the program that rebuilds";
            return Err(BenchError::Usage(what.to_owned()));
        };
        let mut scripts = self.commands(&self.people).await?;
        let shape = self.with_connections(COMMANDERS);
        let (mut found, mut notes) = (Found::default(), Vec::new());
        for _ in 0..self.runs {
            let alone = paced(&self.target, shape, self.commands_per_second, &mut scripts).await?;
            self.settle().await?;
            let beside = self.while_rebuilding(program, &mut scripts).await?;
            let alone = alone.summary();
            let (took, slow) = (beside.seconds.len(), beside.slower_than(2.0 * alone.p99_ms));
            let beside = beside.all.summary();
            notes.push(format!(
                "alone p50 {:.1}, p99 {:.1} ms, beside it p50 {:.1}, p99 {:.1} ms, for {took} s; in {slow} of them a p99 that is \
                 twice as long or longer",
                alone.p50_ms, alone.p99_ms, beside.p50_ms, beside.p99_ms,
            ));
            found.runs.push(beside);
            self.settle().await?;
        }
        found.note = notes.join("; ");
        Ok(found)
    }

    /// The commands of every whole second in which the rebuild was going on.
    async fn while_rebuilding(
        &self,
        program: &Path,
        scripts: &mut [Rotation],
    ) -> Result<Beside, BenchError> {
        let window = Shape {
            connections: COMMANDERS,
            warm_up: Duration::ZERO,
            measured: WINDOW,
        };
        let child = Command::new(program)
            .args(["replay", "rebuild", "--all"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let (mut rebuild, mut beside) = (Running(child), Beside::default());
        let status = loop {
            let sample = paced(&self.target, window, self.commands_per_second, scripts).await?;
            if let Some(status) = rebuild.0.try_wait()? {
                break status;
            }
            beside.add(sample);
        };
        let seconds = beside.seconds.len();
        if status.success() && seconds > 0 {
            return Ok(beside);
        }
        let what = format!("the rebuild ended with {status} after {seconds} s: fill the log first");
        Err(BenchError::Usage(what))
    }
}
