//! How much longer commands take while every read model is rebuilt beside them.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use super::{Bench, Found, visible::COMMANDERS};
use crate::{
    client::BenchError,
    load::{Rotation, Sample, Shape, closed_loop, paced},
    process::Running,
};

/// What is measured by itself, and how often it is looked whether the rebuild has ended.
const WINDOW: Duration = Duration::from_secs(1);

/// What commands took, second by second.
#[derive(Default)]
struct Seconds {
    all: Sample,
    /// The p99 of each second, in milliseconds.
    p99s: Vec<f64>,
}

impl Seconds {
    /// A rebuild may take long: what it does to commands is told second by second.
    fn add(&mut self, second: Sample, doing: &str) {
        let p99_ms = second.clone().summary().p99_ms;
        self.p99s.push(p99_ms);
        eprintln!("  {doing} for {} s: p99 {p99_ms:.1} ms", self.count());
        self.all.merge(second);
        self.all.elapsed = WINDOW.mul_f64(self.p99s.len() as f64);
    }

    fn count(&self) -> usize {
        self.p99s.len()
    }

    /// In how many seconds the p99 was so many milliseconds or more.
    fn slower_than(&self, p99_ms: f64) -> usize {
        self.p99s.iter().filter(|ms| **ms >= p99_ms).count()
    }

    /// The p99 of the second in the middle: what is rare, alone or beside a rebuild, does not show in it.
    fn usual_p99(&self) -> f64 {
        let mut sorted = self.p99s.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    fn told(&self) -> String {
        let all = self.all.clone().summary();
        format!(
            "p50 {:.1}, p99 {:.1} ms (of the second in the middle {:.1}) in {} s",
            all.p50_ms,
            all.p99_ms,
            self.usual_p99(),
            self.count()
        )
    }
}

impl Bench {
    /// Commands at a steady pace, alone, beside a rebuild, and alone again. Each run is one of all three.
    pub(super) async fn beside_rebuild(&self) -> Result<Found, BenchError> {
        let Some(program) = &self.rebuild_with else {
            let what = "beside-rebuild needs --rebuild-with, the program that rebuilds";
            return Err(BenchError::Usage(what.to_owned()));
        };
        let mut scripts = self.commands(&self.people).await?;
        let most = self.most(&mut scripts).await?;
        let share = 100.0 * f64::from(self.commands_per_second) / most;
        let (mut found, mut notes) = (
            Found::default(),
            vec![format!("{share:.0} % of {most:.0} commands/s at most")],
        );
        for _ in 0..self.runs {
            let mut alone = Seconds::default();
            self.alone(&mut scripts, &mut alone).await?;
            let beside = self.while_rebuilding(program, &mut scripts).await?;
            self.settle().await?;
            // The log has grown meanwhile, and the machine may be slower or faster than before.
            self.alone(&mut scripts, &mut alone).await?;
            let twice = 2.0 * alone.all.clone().summary().p99_ms;
            notes.push(format!(
                "alone {}; beside it {}; a p99 of twice the one alone or more in {} and {} of these seconds",
                alone.told(),
                beside.told(),
                alone.slower_than(twice),
                beside.slower_than(twice),
            ));
            found.runs.push(beside.all.summary());
        }
        found.note = notes.join("; ");
        Ok(found)
    }

    /// How many of these commands the server answers a second when nobody waits between them. How much a rebuild disturbs
    /// depends on how much of the machine they leave.
    async fn most(&self, scripts: &mut [Rotation]) -> Result<f64, BenchError> {
        let shape = self.with_connections(COMMANDERS);
        let sample = closed_loop(&self.target, shape, scripts).await?;
        self.settle().await?;
        Ok(sample.summary().rate)
    }

    /// The commands of a while in which nothing else goes on.
    async fn alone(
        &self,
        scripts: &mut [Rotation],
        seconds: &mut Seconds,
    ) -> Result<(), BenchError> {
        // One that does not count.
        self.second(scripts).await?;
        for _ in 0..self.shape.measured.as_secs() {
            seconds.add(self.second(scripts).await?, "alone");
        }
        self.settle().await.map(|_| ())
    }

    async fn second(&self, scripts: &mut [Rotation]) -> Result<Sample, BenchError> {
        let window = Shape {
            connections: COMMANDERS,
            warm_up: Duration::ZERO,
            measured: WINDOW,
        };
        paced(&self.target, window, self.commands_per_second, scripts).await
    }

    /// The commands of every whole second in which the rebuild was going on.
    async fn while_rebuilding(
        &self,
        program: &Path,
        scripts: &mut [Rotation],
    ) -> Result<Seconds, BenchError> {
        let child = Command::new(program)
            .args(["replay", "rebuild", "--all"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let (mut rebuild, mut beside) = (Running(child), Seconds::default());
        let status = loop {
            let second = self.second(scripts).await?;
            if let Some(status) = rebuild.0.try_wait()? {
                break status;
            }
            beside.add(second, "beside a rebuild");
            // The next one goes on with what it has filled.
            if self.rebuild_seconds == Some(beside.count()) {
                return Ok(beside);
            }
        };
        let seconds = beside.count();
        if status.success() && seconds > 0 {
            return Ok(beside);
        }
        let what = format!("the rebuild ended with {status} after {seconds} s: fill the log first");
        Err(BenchError::Usage(what))
    }
}
