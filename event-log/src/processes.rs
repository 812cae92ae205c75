//! What the processes that work on one log say of themselves, for whoever watches all of them from one place.
//!
//! Each reports every few seconds; one that has not been heard of for longer hangs, or was killed. Nothing is decided by
//! it: leases and checkpoints say who may do what.

use std::collections::BTreeMap;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use socialhub_domain::Timestamp;

use crate::port::LogError;

/// Something that went wrong in a part of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartReport {
    /// The part, as `/readyz` names it: `projection feed`, `relay`.
    pub name: String,
    /// What is wrong, or was, in words for an operator.
    pub error: String,
    /// When that was last so, by the process's clock.
    pub at: Timestamp,
    /// Whether it is so still.
    pub now: bool,
}

/// Records of a topic that a consumer has left out, because the relay has not written them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftOut {
    /// The part of the process that reads the topic, as `/readyz` names it.
    pub consumer: String,
    /// The topic.
    pub topic: String,
    /// How many since the process began; one that is read again counts again.
    pub records: u64,
    /// Where the last one lies.
    pub partition: i32,
    /// And there.
    pub offset: i64,
    /// What is wrong with the last one.
    pub reason: String,
    /// When the last one was read, by the process's clock.
    pub at: Timestamp,
}

/// What a process says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessReport {
    /// Its host and number: no two that run have the same.
    pub process: String,
    /// What it does.
    pub roles: String,
    /// The program's version.
    pub version: String,
    /// When it began, by its own clock.
    pub started_at: Timestamp,
    /// The parts of it that have ever failed, each with its last failure.
    pub parts: Vec<PartReport>,
    /// What its consumers have left out; processes of an older program do not say.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
}

/// A report, and how old it is.
#[derive(Debug, Clone, PartialEq)]
pub struct HeardOf {
    /// What it said last.
    pub report: ProcessReport,
    /// Seconds since then, by the clock of whoever keeps the reports.
    pub seconds_ago: f64,
}

/// Keeps the reports.
#[async_trait]
pub trait ProcessReports: Send + Sync {
    /// Takes the place of what the process said before. Forgets processes that have said nothing for long.
    ///
    /// # Errors
    /// When it cannot be kept.
    async fn report(&self, report: &ProcessReport) -> Result<(), LogError>;

    /// The process ends in good order: there is nothing to know of it any more.
    ///
    /// # Errors
    /// When its report cannot be removed.
    async fn withdraw(&self, process: &str) -> Result<(), LogError>;

    /// What every process said last, by name.
    ///
    /// # Errors
    /// When that cannot be read.
    async fn all(&self) -> Result<Vec<HeardOf>, LogError>;
}

/// Reports that are kept in memory, for tests.
#[derive(Debug, Default)]
pub struct MemoryProcessReports(Mutex<BTreeMap<String, ProcessReport>>);

#[async_trait]
impl ProcessReports for MemoryProcessReports {
    async fn report(&self, report: &ProcessReport) -> Result<(), LogError> {
        let mut reports = self.0.lock();
        reports.insert(report.process.clone(), report.clone());
        Ok(())
    }

    async fn withdraw(&self, process: &str) -> Result<(), LogError> {
        self.0.lock().remove(process);
        Ok(())
    }

    async fn all(&self) -> Result<Vec<HeardOf>, LogError> {
        let reports = self.0.lock().values().cloned().collect::<Vec<_>>();
        let heard_of = |report| HeardOf {
            report,
            seconds_ago: 0.0,
        };
        Ok(reports.into_iter().map(heard_of).collect())
    }
}
