//! `replay verify`.

use std::io::Write;

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use socialhub_event_log::Position;
use socialhub_projections::{
    runtime::{ModelControl, RebuildError, VerifyCourse, VerifyReport, VerifySummary},
    verify::Difference,
};

use crate::{ReplayError, ReplayTarget, Selection, Verdict, progress, show};

/// Options of `verify`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    selection: Selection,
    /// Print JSON: one line for each difference, one for each model
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(
    options: &Options,
    target: &ReplayTarget,
    out: &mut (dyn Write + Send),
) -> Result<Verdict, ReplayError> {
    let mut verdict = Verdict::Clean;
    for model in target.select(&options.selection)? {
        let report = match compared(&**model, target).await {
            Ok(report) => report,
            Err(error) => {
                // The other models are still worth a look.
                show::cannot(out, model.name(), "verified", &error, options.json)?;
                verdict = Verdict::Wrong;
                continue;
            }
        };
        let head = target.log.head().await?;
        if !report.is_clean() || proves_nothing(&report, head) {
            verdict = Verdict::Wrong;
        }
        if options.json {
            print_found(&report, out)?;
            show::json_line(out, &Summary::of(&report, head))?;
        } else {
            print(&report, head, out)?;
        }
    }
    Ok(verdict)
}

/// Verifies a model, and shows that this goes on.
pub(crate) async fn compared(
    model: &dyn ModelControl,
    target: &ReplayTarget,
) -> Result<VerifyReport, RebuildError> {
    let course = VerifyCourse::default();
    let work = model.verify(&target.log, &course);
    progress::verifying(model.name(), &course, work).await
}

/// A report in numbers, beside the log as it is.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    #[serde(flatten)]
    report: VerifySummary,
    /// Events of the log that the model has not come to.
    behind: u64,
}

impl Summary {
    fn of(report: &VerifyReport, head: Position) -> Self {
        Self {
            report: report.into(),
            behind: behind(report, head),
        }
    }
}

fn behind(report: &VerifyReport, head: Position) -> u64 {
    head.saturating_sub(report.position)
}

/// A model that is behind is as the log says up to where it is; one that has come to no event was compared with none.
fn proves_nothing(report: &VerifyReport, head: Position) -> bool {
    report.position == 0 && head > 0
}

pub(crate) fn print_json(
    report: &VerifyReport,
    out: &mut (dyn Write + Send),
) -> Result<(), ReplayError> {
    print_found(report, out)?;
    show::json_line(out, &VerifySummary::from(report))
}

/// Each difference as JSON.
fn print_found(report: &VerifyReport, out: &mut (dyn Write + Send)) -> Result<(), ReplayError> {
    for difference in &report.differences {
        let line = json!({
            "model": report.model, "table": difference.table, "key": difference.key,
            "position": difference.position, "expected": difference.expected, "found": difference.found,
        });
        show::json_line(out, &line)?;
    }
    for position in &report.unreadable {
        show::json_line(
            out,
            &json!({ "model": report.model, "unreadable": position }),
        )?;
    }
    Ok(())
}

/// Says which events of the log nobody could compare with.
pub(crate) fn print_unreadable(
    report: &VerifyReport,
    out: &mut (dyn Write + Send),
) -> Result<(), ReplayError> {
    for position in &report.unreadable {
        writeln!(
            out,
            "{}: the event at position {position} cannot be read and is not parked",
            report.model
        )?;
    }
    Ok(())
}

fn print(
    report: &VerifyReport,
    head: Position,
    out: &mut (dyn Write + Send),
) -> Result<(), ReplayError> {
    for difference in &report.differences {
        print_difference(report, difference, out)?;
    }
    print_unreadable(report, out)?;
    for letter in &report.parked {
        writeln!(
            out,
            "{}: left out, parked: position {}: {}",
            report.model, letter.position, letter.reason
        )?;
    }
    let found = report.differences.len() + report.unreadable.len();
    let verdict = match found {
        0 => "as the log says".to_owned(),
        1 => "1 difference".to_owned(),
        found => format!("{found} differences"),
    };
    writeln!(
        out,
        "{}: generation {} at position {}, {} rows: {verdict}.",
        report.model, report.generation, report.position, report.rows
    )?;
    match behind(report, head) {
        0 => {}
        _ if proves_nothing(report, head) => writeln!(
            out,
            "{0}: it has come to none of the log's {head} events, so nothing was compared: start the server, or run \
             `socialhub replay rebuild {0}`",
            report.model
        )?,
        behind => writeln!(
            out,
            "{}: it is {behind} events behind the log, which ends at position {head}",
            report.model
        )?,
    }
    Ok(())
}

pub(crate) fn print_difference(
    report: &VerifyReport,
    difference: &Difference,
    out: &mut (dyn Write + Send),
) -> Result<(), ReplayError> {
    let text = |value: &Option<Value>| {
        value
            .as_ref()
            .map_or("nothing".to_owned(), Value::to_string)
    };
    // What was never in the log has no event behind it.
    let behind = match difference.position {
        0 => "no event is behind it".to_owned(),
        position => format!("event at position {position}"),
    };
    Ok(writeln!(
        out,
        "{}: {} {} differs ({behind}):\n  the log says   {}\n  the model says {}",
        report.model,
        difference.table,
        difference.key,
        text(&difference.expected),
        text(&difference.found),
    )?)
}
