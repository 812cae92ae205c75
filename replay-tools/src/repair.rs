//! `replay repair`.

use std::{io::Write, sync::Arc};

use clap::Args;
use serde_json::json;
use socialhub_projections::{
    runtime::{ModelControl, RebuildError, VerifyReport},
    verify::Difference,
};
use tokio_util::sync::CancellationToken;

use crate::{
    ReplayError, ReplayTarget, Selection, Verdict, advice, progress, reading, show, verify,
};

/// What is found after a repair is repaired, too, so often: some damage shows only when other damage is gone.
const ROUNDS: u32 = 3;

/// Options of `repair`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    selection: Selection,
    /// Only print what would be repaired; exit code 1 when there is something
    #[arg(long)]
    dry_run: bool,
    /// Print JSON: one line for each thing repaired, one for each model
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(
    options: &Options,
    target: &ReplayTarget,
    out: &mut (dyn Write + Send),
    stop: CancellationToken,
) -> Result<Verdict, ReplayError> {
    let mut verdict = Verdict::Clean;
    for model in target.select(&options.selection)? {
        let outcome = if options.dry_run {
            reading(&stop, look(&**model, target, options.json, out)).await
        } else {
            repair(&**model, target, options.json, out, &stop).await
        };
        match outcome {
            Ok(Verdict::Clean) => {}
            Ok(Verdict::Wrong) => verdict = Verdict::Wrong,
            // The other models are still worth it.
            Err(ReplayError::Model(error)) => {
                report_failure(&**model, &error, options.json, out)?;
                verdict = Verdict::Wrong;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(verdict)
}

fn report_failure(
    model: &dyn ModelControl,
    error: &RebuildError,
    json: bool,
    out: &mut (dyn Write + Send),
) -> Result<(), ReplayError> {
    let name = model.name();
    if json {
        return show::failure(out, name, error);
    }
    Ok(writeln!(
        out,
        "{name}: not repaired: {error}{}",
        advice(error)
    )?)
}

async fn look(
    model: &dyn ModelControl,
    target: &ReplayTarget,
    json: bool,
    out: &mut (dyn Write + Send),
) -> Result<Verdict, ReplayError> {
    let found = verify::compared(model, target).await?;
    if json {
        verify::print_json(&found, out)?;
    } else {
        for difference in &found.differences {
            verify::print_difference(&found, difference, out)?;
        }
        verify::print_unreadable(&found, out)?;
        writeln!(
            out,
            "{}: {} would be repaired.",
            found.model,
            things(found.differences.len())
        )?;
    }
    Ok(verdict_of(&found))
}

fn verdict_of(found: &VerifyReport) -> Verdict {
    if found.is_clean() {
        Verdict::Clean
    } else {
        Verdict::Wrong
    }
}

fn things(count: usize) -> String {
    match count {
        0 => "nothing".to_owned(),
        1 => "1 thing".to_owned(),
        count => format!("{count} things"),
    }
}

async fn repair(
    model: &dyn ModelControl,
    target: &ReplayTarget,
    json: bool,
    out: &mut (dyn Write + Send),
    stop: &CancellationToken,
) -> Result<Verdict, ReplayError> {
    let mut repaired = 0;
    let mut found = verified(model, target, stop).await?;
    for _ in 0..ROUNDS {
        if found.is_clean() {
            break;
        }
        model
            .repair(&target.log, &found, &*progress::suitable(), stop)
            .await?;
        let after = verified(model, target, stop).await?;
        for difference in gone(&found, &after) {
            repaired += 1;
            say(&found, difference, json, out)?;
        }
        found = after;
    }
    if json {
        verify::print_json(&found, out)?;
    } else {
        for difference in &found.differences {
            verify::print_difference(&found, difference, out)?;
        }
    }
    conclude(&found, repaired, json, out)?;
    Ok(verdict_of(&found))
}

async fn verified(
    model: &dyn ModelControl,
    target: &ReplayTarget,
    stop: &CancellationToken,
) -> Result<VerifyReport, ReplayError> {
    reading(stop, async { Ok(verify::compared(model, target).await?) }).await
}

/// What differed and does so no more.
fn gone<'a>(
    before: &'a VerifyReport,
    after: &VerifyReport,
) -> impl Iterator<Item = &'a Difference> {
    let left: Arc<[(&'static str, String)]> = after
        .differences
        .iter()
        .map(|difference| (difference.table, difference.key.clone()))
        .collect();
    before.differences.iter().filter(move |difference| {
        !left
            .iter()
            .any(|(table, key)| *table == difference.table && *key == difference.key)
    })
}

fn say(
    report: &VerifyReport,
    difference: &Difference,
    json: bool,
    out: &mut (dyn Write + Send),
) -> Result<(), ReplayError> {
    if json {
        let line = json!({
            "model": report.model, "table": difference.table, "key": difference.key,
            "position": difference.position, "was": difference.found, "is": difference.expected,
        });
        return show::json_line(out, &line);
    }
    Ok(writeln!(
        out,
        "{}: {} {} is again what the log says.",
        report.model, difference.table, difference.key
    )?)
}

fn conclude(
    found: &VerifyReport,
    repaired: usize,
    json: bool,
    out: &mut (dyn Write + Send),
) -> Result<(), ReplayError> {
    let left = found.differences.len();
    if json {
        let line = json!({
            "model": found.model, "generation": found.generation, "position": found.position,
            "repaired": repaired, "differences": left,
        });
        return show::json_line(out, &line);
    }
    let (model, generation, position) = (found.model, found.generation, found.position);
    writeln!(
        out,
        "{model}: generation {generation} at position {position}: {} repaired{}",
        things(repaired),
        if left == 0 { "." } else { "," }
    )?;
    if left > 0 {
        writeln!(
            out,
            "{model}: {} still differ: the program makes something else of these events than its fold does, or a batch \
             came in between. Run it again, then `socialhub replay rebuild {model}`.",
            things(left)
        )?;
    }
    Ok(())
}
