//! What the one process of the embedded profile says of itself, in a file of the data folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use async_trait::async_trait;
use socialhub_domain::Clock;
use socialhub_event_log::{HeardOf, LogError, ProcessReport, ProcessReports};

use crate::clock::SystemClock;

/// The file's name in the data folder.
const NAME: &str = "process.json";

/// The report in a file: written whole under another name, then put in its place.
#[derive(Debug, Clone)]
pub struct ProcessFile {
    path: PathBuf,
}

impl ProcessFile {
    /// The report in a data folder.
    pub fn of(data_dir: &Path) -> Self {
        Self {
            path: data_dir.join(NAME),
        }
    }

    fn read(&self) -> io::Result<Option<HeardOf>> {
        let text = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let written = fs::metadata(&self.path)?.modified()?;
        let written = written.duration_since(SystemTime::UNIX_EPOCH);
        let written = written.unwrap_or_default().as_secs_f64();
        Ok(Some(HeardOf {
            report: serde_json::from_slice(&text)?,
            seconds_ago: (SystemClock.now().0 as f64 / 1000.0 - written).max(0.0),
        }))
    }

    fn write(&self, report: &ProcessReport) -> io::Result<()> {
        let partial = self.path.with_extension("partial");
        fs::write(&partial, serde_json::to_vec(report)?)?;
        fs::rename(partial, &self.path)
    }
}

fn unavailable(error: &io::Error) -> LogError {
    LogError::Unavailable(error.to_string())
}

#[async_trait]
impl ProcessReports for ProcessFile {
    async fn report(&self, report: &ProcessReport) -> Result<(), LogError> {
        self.write(report).map_err(|error| unavailable(&error))
    }

    async fn withdraw(&self, process: &str) -> Result<(), LogError> {
        // Another process may have begun meanwhile.
        let mine = |found: &HeardOf| found.report.process == process;
        if self
            .read()
            .is_ok_and(|found| found.as_ref().is_some_and(mine))
        {
            fs::remove_file(&self.path).map_err(|error| unavailable(&error))?;
        }
        Ok(())
    }

    async fn all(&self) -> Result<Vec<HeardOf>, LogError> {
        let found = self.read().map_err(|error| unavailable(&error))?;
        Ok(found.into_iter().collect())
    }
}
