//! The server as a process: how soon it is ready, and what it weighs when nobody asks for anything.

use std::{
    fmt, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::client::{BenchError, Target};

/// How long a server may take to get ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long it must have done nothing before it is weighed.
const IDLE: Duration = Duration::from_secs(5);

/// Clock ticks (of 10 ms) of processor time in that while that still count as nothing.
const IDLE_TICKS: u64 = 10;

/// How long it may go on with what it was started with, e.g. catching up with its log.
const UNTIL_IDLE: Duration = Duration::from_secs(600);

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct ProcessReport {
    /// The data folder it was started on; none for an empty one.
    pub data_dir: Option<PathBuf>,
    /// Milliseconds from starting the process to the first 200 of `/readyz`.
    pub ready_ms: f64,
    /// Resident memory after it has come to rest, in MiB.
    pub idle_rss_mib: f64,
    /// The part of it that is the process's own (`RssAnon`), without pages of files.
    pub idle_anonymous_mib: f64,
}

impl fmt::Display for ProcessReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = self.data_dir.as_ref();
        let data = data.map_or_else(|| "an empty folder".into(), |d| d.display().to_string());
        write!(
            f,
            "Process on {data}: ready after {:.0} ms (aim: under 1,000), {:.1} MiB resident when idle, of which {:.1} \
             anonymous (aim: under 60 MB)",
            self.ready_ms, self.idle_rss_mib, self.idle_anonymous_mib,
        )
    }
}

/// Ends the process however this program goes on.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the binary on a data folder (an empty one if none is given), waits until it is ready and then
/// until it has come to rest, and weighs it.
///
/// # Errors
/// When it cannot be started or does not get ready.
pub async fn measure(
    binary: &Path,
    data_dir: Option<PathBuf>,
) -> Result<ProcessReport, BenchError> {
    let empty = tempfile::tempdir()?;
    let folder = data_dir.as_deref().unwrap_or(empty.path());
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let authority = format!("127.0.0.1:{port}");
    let begin = Instant::now();
    let child = Command::new(binary)
        .args(["serve", "--listen", &authority, "--data-dir"])
        .arg(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut running = Running(child);
    let target = Target { authority };
    until_ready(&mut running, &target, "the server").await?;
    let ready = begin.elapsed();
    wait_until_idle(running.0.id()).await?;
    let status = fs::read_to_string(format!("/proc/{}/status", running.0.id()))?;
    Ok(ProcessReport {
        data_dir,
        ready_ms: ready.as_secs_f64() * 1e3,
        idle_rss_mib: mib(&status, "VmRSS:"),
        idle_anonymous_mib: mib(&status, "RssAnon:"),
    })
}

/// Waits until the process has used next to no processor time for a while.
async fn wait_until_idle(process: u32) -> Result<(), BenchError> {
    let begin = Instant::now();
    while begin.elapsed() < UNTIL_IDLE {
        let before = ticks(process)?;
        tokio::time::sleep(IDLE).await;
        if ticks(process)?.saturating_sub(before) <= IDLE_TICKS {
            return Ok(());
        }
    }
    Err(BenchError::Usage(
        "the server does not come to rest".to_owned(),
    ))
}

/// Processor time of a process so far, its own and the kernel's for it.
fn ticks(process: u32) -> Result<u64, BenchError> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The second field is the name in parentheses and may hold anything; times are the 14th and 15th.
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
    Ok(fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum())
}

/// Waits until a process that was just started says that it is ready.
///
/// # Errors
/// When it ends before, or is not ready in time.
pub(crate) async fn until_ready(
    process: &mut Running,
    target: &Target,
    what: &str,
) -> Result<(), BenchError> {
    let begin = Instant::now();
    while !is_ready(target).await {
        if let Some(status) = process.0.try_wait()? {
            return Err(BenchError::Usage(format!("{what} ended: {status}")));
        }
        if begin.elapsed() > PATIENCE {
            return Err(BenchError::Usage(format!("{what} does not get ready")));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

async fn is_ready(target: &Target) -> bool {
    let Ok(mut connection) = target.connect().await else {
        return false;
    };
    let request = target.request("GET", "/readyz", None, None);
    let answer = connection.send(&request).await;
    answer.is_ok_and(|answer| answer.status == 200)
}

/// A line of `/proc/<pid>/status`, which counts in KiB.
pub fn mib(status: &str, key: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::mib;

    #[test]
    fn processor_time_is_read_from_proc() {
        let process = std::process::id();
        let before = super::ticks(process).unwrap();
        let begin = std::time::Instant::now();
        while super::ticks(process).unwrap() == before {
            assert!(begin.elapsed().as_secs() < 60);
        }
    }

    #[test]
    fn memory_is_read_from_proc() {
        let status = "Name:\tx\nVmHWM:\t    4096 kB\nVmRSS:\t    2048 kB\n";
        assert!((mib(status, "VmRSS:") - 2.0).abs() < 1e-9);
        assert!(mib(status, "RssAnon:").abs() < 1e-9);
    }
}
