//! `replay rebuild`.

use std::{io::Write, time::Instant};

use clap::Args;
use socialhub_projections::{
    ModelName,
    runtime::{Filling, Pace, RebuildError, RebuildReport, rebuild::rebuild},
};
use tokio_util::sync::CancellationToken;

use crate::{ReplayError, ReplayTarget, Selection, Verdict, advice, progress, show};

/// Options of `rebuild`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    room: Room,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// How much room is made for commands.
#[derive(Debug, Args)]
pub(crate) struct Room {
    /// Do not rest while others write the log: faster, and commands wait longer meanwhile
    #[arg(long)]
    full_speed: bool,
}

impl Room {
    pub(crate) fn pace(&self) -> Pace {
        match self.full_speed {
            true => Pace::Full,
            false => Pace::Gentle,
        }
    }
}

pub(crate) type Outcomes = Vec<(ModelName, Result<RebuildReport, RebuildError>)>;

/// Fillings that could be begun, and why others could not.
#[derive(Default)]
pub(crate) struct Begun {
    fillings: Vec<Box<dyn Filling>>,
    refused: Outcomes,
}

impl Begun {
    pub(crate) fn add(&mut self, model: ModelName, begun: Result<Box<dyn Filling>, RebuildError>) {
        match begun {
            Ok(filling) => self.fillings.push(filling),
            Err(error) => self.refused.push((model, Err(error))),
        }
    }

    /// Fills them, and lets each take the current generation's place.
    pub(crate) async fn fill(
        self,
        target: &ReplayTarget,
        pace: Pace,
        stop: CancellationToken,
    ) -> Outcomes {
        let progress = progress::suitable();
        let filled = rebuild(&target.log, self.fillings, pace, progress, stop).await;
        self.refused.into_iter().chain(filled).collect()
    }
}

pub(crate) async fn run(
    options: &Options,
    target: &ReplayTarget,
    out: &mut (dyn Write + Send),
    stop: CancellationToken,
) -> Result<Verdict, ReplayError> {
    let started = Instant::now();
    let mut begun = Begun::default();
    for model in target.select(&options.selection)? {
        begun.add(model.name(), model.begin_rebuild(&target.log).await);
    }
    let outcomes = begun.fill(target, options.room.pace(), stop).await;
    report(&outcomes, options.json, out)?;
    if !options.json && outcomes.len() > 1 {
        let seconds = started.elapsed().as_secs_f64();
        let events = outcomes
            .iter()
            .filter_map(|(_, outcome)| outcome.as_ref().ok())
            .map(|report| report.position.saturating_sub(report.from))
            .max()
            .unwrap_or(0);
        let rate = events as f64 / seconds.max(0.001);
        writeln!(
            out,
            "All together: {events} events in {seconds:.1} s, {rate:.0} events/s."
        )?;
    }
    Ok(verdict(&outcomes))
}

/// Whether every model came out well.
pub(crate) fn verdict(outcomes: &Outcomes) -> Verdict {
    match outcomes.iter().all(|(_, outcome)| outcome.is_ok()) {
        true => Verdict::Clean,
        false => Verdict::Wrong,
    }
}

/// Says what was done to each model.
pub(crate) fn report(
    outcomes: &Outcomes,
    json: bool,
    out: &mut (dyn Write + Send),
) -> Result<(), ReplayError> {
    for (model, outcome) in outcomes {
        match outcome {
            Ok(report) if json => show::json_line(out, report)?,
            Ok(report) => say(report, out)?,
            Err(error) if json => show::failure(out, *model, error)?,
            Err(error @ (RebuildError::MayBeCurrent { .. } | RebuildError::Overtaken { .. })) => {
                writeln!(out, "{error}")?;
            }
            Err(error) => writeln!(out, "{model}: not switched: {error}{}", advice(error))?,
        }
    }
    Ok(())
}

fn say(report: &RebuildReport, out: &mut (dyn Write + Send)) -> Result<(), ReplayError> {
    let events = report.position.saturating_sub(report.from);
    let rate = events as f64 / report.seconds.max(0.001);
    let resumed = match report.from {
        0 => String::new(),
        from => format!(" (resumed at {from})"),
    };
    writeln!(
        out,
        "{}: generation {} is current at position {}{resumed}: {events} events in {:.1} s, {rate:.0} events/s; \
         {} parked; generation {} is kept for rollback.",
        report.model,
        report.generation,
        report.position,
        report.seconds,
        report.parked,
        report.replaced,
    )?;
    if report.rested_seconds >= 1.0 {
        writeln!(
            out,
            "{}: rested for {:.0} s of these, to make room for commands; --full-speed does not.",
            report.model, report.rested_seconds
        )?;
    }
    for dropped in &report.dropped {
        writeln!(out, "{}: generation {dropped} was removed.", report.model)?;
    }
    Ok(())
}
