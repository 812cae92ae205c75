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

    /// Stops one of them in good order.
    pub fn stop(&self, name: &str) {
        self.run(&["stop", name]);
    }

    /// Kills one of them (SIGKILL).
    pub fn kill(&self, name: &str) {
        self.run(&["kill", name, "--signal", "KILL"]);
    }

    /// Starts one of them again, and waits until it answers.
    pub fn start(&self, name: &str) {
        self.run(&["start", name]);
    }

    /// What a process finds in its environment that is to use them.
    pub fn setting(&self, name: &str) -> String {
        let environment = self.run(&["env"]);
        let wanted = format!("export {name}=");
        let mut lines = environment.lines();
        let found = lines.find_map(|line| line.strip_prefix(&wanted));
        found.unwrap().to_owned()
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
