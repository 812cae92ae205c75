//! Servers of a test's own, that it can take away.

use std::{env, path::PathBuf, process::Command};

use tempfile::TempDir;

/// Ended with this value.
pub struct OwnServers {
    script: PathBuf,
    folder: TempDir,
}

impl OwnServers {
    /// Starts them. In a runtime with several threads, as all that follow.
    pub fn up() -> Self {
        // The launcher of this repository, unless another is named.
        let script = env::var_os("SOCIALHUB_STACK").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../stack"),
            PathBuf::from,
        );
        let servers = Self {
            script,
            folder: tempfile::tempdir().unwrap(),
        };
        servers.run(&["up", "--servers-only", "--free-ports"]);
        servers
    }

    /// Stops the broker in good order.
    pub fn stop_kafka(&self) {
        self.run(&["stop", "kafka"]);
    }

    /// Kills the broker (SIGKILL).
    pub fn kill_kafka(&self) {
        self.run(&["kill", "kafka", "--signal", "KILL"]);
    }

    /// Starts it again, and waits until it answers.
    pub fn start_kafka(&self) {
        self.run(&["start", "kafka"]);
    }

    /// The broker's address.
    pub fn kafka(&self) -> String {
        let environment = self.run(&["env"]);
        let line = environment
            .lines()
            .find_map(|line| line.strip_prefix("export KAFKA_BROKERS="));
        line.unwrap().to_owned()
    }

    fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.script);
        command.args(arguments).arg("--dir").arg(self.folder.path());
        // What else the test does goes on meanwhile.
        let output = tokio::task::block_in_place(|| command.output()).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{arguments:?}: {text} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }
}

impl Drop for OwnServers {
    fn drop(&mut self) {
        let _ = Command::new(&self.script)
            .args(["destroy", "--yes", "--dir"])
            .arg(self.folder.path())
            .output();
    }
}
