//! What is printed at the end.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use crate::{limits::Limits, load::Summary};

/// A limit that a row is compared with.
#[derive(Debug, Clone, Serialize)]
pub struct Ratio {
    /// What the limit is.
    pub limit: &'static str,
    /// Its rate a second.
    pub limit_rate: f64,
    /// The row's rate divided by it.
    pub ratio: f64,
}

/// One row of the table.
#[derive(Debug, Clone, Serialize)]
pub struct RowReport {
    /// What was done.
    pub row: String,
    /// The run in the middle, by rate.
    #[serde(flatten)]
    pub summary: Summary,
    /// The rate of every run, in order.
    pub rates: Vec<f64>,
    /// What it is compared with.
    pub ratios: Vec<Ratio>,
    /// What the embedded profile aims at on two cores.
    pub aim: Option<&'static str>,
    /// What else there is to say.
    pub note: String,
}

/// Everything.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The machine's limits.
    pub limits: Limits,
    /// The rows.
    pub rows: Vec<RowReport>,
    /// The server as a process, when a binary was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<crate::process::ProcessReport>,
}

fn rate(value: f64) -> String {
    match value {
        v if v >= 1000.0 => format!("{v:.0}"),
        v => format!("{v:.1}"),
    }
}

fn errors(errors: &BTreeMap<String, u64>) -> String {
    let total: u64 = errors.values().sum();
    let first = errors.iter().max_by_key(|(_, count)| **count);
    first.map_or_else(|| "0".to_owned(), |(what, _)| format!("{total} ({what})"))
}

impl Report {
    /// The report as a table that people and Markdown read.
    pub fn table(&self) -> String {
        let mut text = String::new();
        if !self.rows.is_empty() {
            text.push_str("| | rate/s | p50 ms | p99 ms | errors | of the limit | aim |\n");
            text.push_str("|---|---|---|---|---|---|---|\n");
        }
        for row in &self.rows {
            let ratios: Vec<String> = row
                .ratios
                .iter()
                .map(|r| format!("{:.2} of {} ({})", r.ratio, r.limit, rate(r.limit_rate)))
                .collect();
            let _ = writeln!(
                text,
                "| {} | {} | {:.2} | {:.2} | {} | {} | {} |",
                row.row,
                rate(row.summary.rate),
                row.summary.p50_ms,
                row.summary.p99_ms,
                errors(&row.summary.errors),
                ratios.join("; "),
                row.aim.unwrap_or(""),
            );
        }
        for row in self.rows.iter().filter(|row| !row.note.is_empty()) {
            let _ = writeln!(text, "\n{}: {}", row.row, row.note);
        }
        if let Some(process) = &self.process {
            let _ = writeln!(text, "\n{process}");
        }
        let limited = self
            .rows
            .iter()
            .any(|row| row.summary.errors.contains_key("status 429"));
        if limited {
            text.push_str("\nThe server limits rates (429): start it with RATE_LIMITS=off, these figures mean nothing.\n");
        }
        text
    }
}
