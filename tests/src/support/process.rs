//! One of several processes of the program that a test starts, kills and lets hang.

use std::process::{Child, Command};

use parking_lot::Mutex;
use reqwest::{Method, Response};
use serde_json::Value;

use crate::support::{Client, running};

/// A process that is killed when the test is over.
pub struct Process {
    child: Mutex<Child>,
    metrics: u16,
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        // It may have ended.
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Process {
    /// Starts it. Its probes and metrics are to be on this port.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(mut command: Command, metrics: u16) -> Self {
        command.env("METRICS_LISTEN", format!("127.0.0.1:{metrics}"));
        Self {
            child: Mutex::new(command.spawn().unwrap()),
            metrics,
        }
    }

    /// Kills it at once (SIGKILL).
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill(&mut self) {
        let child = self.child.get_mut();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it is not there.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.lock().id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Asks it to stop, and waits for it.
    ///
    /// # Panics
    /// When it does not end with success.
    pub fn stop(&mut self) {
        self.signal("TERM");
        assert!(self.child.get_mut().wait().unwrap().success());
    }

    /// What it says when it is asked whether it is ready and is not.
    pub async fn not_ready(&self) -> Option<String> {
        let answer = self.ask("/readyz").await?;
        if answer.status().is_success() {
            return None;
        }
        answer.text().await.ok()
    }

    /// What it says of its parts, ready or not.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn readyz(&self) -> Value {
        let answer = self.ask("/readyz").await.unwrap();
        answer.json().await.unwrap()
    }

    async fn ask(&self, path: &str) -> Option<Response> {
        running(&mut self.child.lock());
        let client = Client::new(&format!("http://127.0.0.1:{}", self.metrics));
        client.request(Method::GET, path).send().await.ok()
    }

    /// A metric of it; 0 while it has none or does not answer.
    pub async fn metric(&self, name: &str) -> f64 {
        let Some(answer) = self.ask("/metrics").await else {
            return 0.0;
        };
        let text = answer.text().await.unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok())
            .unwrap_or(0.0)
    }
}
