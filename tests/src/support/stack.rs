//! The distributed profile as it is run: every process on its own, with real servers, behind nginx; started by `./stack`.
//!
//! One stack serves all tests of a run, one after the other. It is destroyed when the test process ends, however it ends.

use std::{
    ops::Deref,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Output, Stdio},
};

use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};

use crate::support::{Client, eventually, printed, server::binary};

/// Two of what can be more than one, so that one can go.
const SCALE: &str = "users=2,posts=2,feed=2,notifications=2,chat=2,relay=2,project-feed=2,auth=1";

/// Lines of each log that a failed test shows.
const TAIL: usize = 12;

static SHARED: Mutex<Option<Stack>> = Mutex::const_new(None);

/// A running stack.
pub struct Stack {
    folder: PathBuf,
    gateway: String,
    environment: Vec<(String, String)>,
    /// Open for as long as this process lives: what waits for its end destroys the stack.
    _life: ChildStdin,
}

/// The stack, for one test alone.
pub struct Turn(MutexGuard<'static, Option<Stack>>);

/// One of the stack's processes.
#[derive(Debug, Clone)]
pub struct Member {
    /// What `./stack` calls it.
    pub name: String,
    /// The service it is an instance of.
    pub service: String,
    /// Its log.
    pub log: PathBuf,
    ports: Value,
}

impl Turn {
    /// Waits for this test's turn. The stack is up, whatever the test before has done to it.
    pub async fn begin() -> Self {
        let mut place = SHARED.lock().await;
        match place.as_ref() {
            None => *place = Some(Stack::up().await),
            Some(stack) => stack.heal().await,
        }
        Self(place)
    }
}

impl Deref for Turn {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        self.0.as_ref().unwrap()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
    }
}

impl Member {
    /// Its address for a purpose: `listen` or `metrics`.
    ///
    /// # Panics
    /// When it has none.
    pub fn address(&self, purpose: &str) -> String {
        let port = self.ports[purpose].as_u64();
        let port = port.unwrap_or_else(|| panic!("{} has no port {purpose}", self.name));
        format!("http://127.0.0.1:{port}")
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

impl Stack {
    async fn up() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("socialhub-cluster.")
            .tempdir()
            .unwrap()
            .keep();
        let life = destroy_at_the_end(&folder);
        let mut stack = Self {
            folder,
            gateway: String::new(),
            environment: Vec::new(),
            _life: life,
        };
        let program = binary();
        let program = program.to_str().unwrap();
        stack
            .run(&["up", "--free-ports", "--scale", SCALE, "--bin", program])
            .await;
        let all = stack.describe().await;
        all["gateway"]
            .as_str()
            .unwrap()
            .clone_into(&mut stack.gateway);
        stack.environment = all["env"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
            .collect();
        stack
    }

    /// Lets what was stopped go on, and starts what is down.
    async fn heal(&self) {
        let all = self.describe().await;
        let members = all["processes"].as_object().unwrap();
        let hurt = |state: &str| {
            let mut found = members.iter();
            found.any(|(_, one)| one["state"] == state && one["kind"] != "job")
        };
        for (name, one) in members {
            if one["state"] == "stopped" {
                self.run(&["kill", name, "--signal", "CONT"]).await;
            }
        }
        if hurt("down") || hurt("stopped") {
            self.run(&["up"]).await;
        }
    }

    /// Runs `./stack` with a command; fails the test when it does not succeed.
    ///
    /// # Panics
    /// When it does not succeed.
    pub async fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .arg("--dir")
            .arg(&self.folder)
            .env("RATE_LIMITS", "off")
            .stdin(Stdio::null());
        let output = finish(command).await;
        assert!(
            output.status.success(),
            "./stack {arguments:?}: {}",
            printed(&output)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    async fn describe(&self) -> Value {
        serde_json::from_str(&self.run(&["env", "--json"]).await).unwrap()
    }

    /// The processes of a service.
    ///
    /// # Panics
    /// When there is none.
    pub async fn members(&self, service: &str) -> Vec<Member> {
        let found = self.all_members().await;
        let found: Vec<_> = found
            .into_iter()
            .filter(|one| one.service == service)
            .collect();
        assert!(!found.is_empty(), "the stack has no {service}");
        found
    }

    async fn all_members(&self) -> Vec<Member> {
        members_of(&self.describe().await)
    }

    /// Kills a process at once (SIGKILL), with its children.
    pub async fn kill(&self, name: &str) {
        self.signal(name, "KILL").await;
    }

    /// Sends a process a signal.
    pub async fn signal(&self, name: &str, signal: &str) {
        self.run(&["kill", name, "--signal", signal]).await;
    }

    /// Starts a process that is down, and waits until it answers.
    pub async fn start(&self, name: &str) {
        self.run(&["start", name]).await;
    }

    /// The gateway's address.
    pub fn url(&self) -> &str {
        &self.gateway
    }

    /// An anonymous client of the gateway.
    pub fn client(&self) -> Client {
        Client::new(&self.gateway)
    }

    /// What all processes find in their environment under a name.
    ///
    /// # Panics
    /// When there is nothing.
    pub fn setting(&self, name: &str) -> &str {
        let found = self.environment.iter().find(|(key, _)| key == name);
        let found = found.map(|(_, value)| value.as_str());
        found.unwrap_or_else(|| panic!("the processes have no {name}"))
    }

    /// Runs another command of the program on the same servers.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .envs(self.environment.clone())
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        finish(command).await
    }

    /// How far each read model is behind the log: `(model, events, parked)`. None when a store did not answer in time.
    async fn lags(&self) -> Option<Vec<(String, u64, u64)>> {
        let output = self.command(&["replay", "status", "--json"]).await;
        if !output.status.success() {
            return None;
        }
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut lags = Vec::new();
        for model in status["models"].as_array().unwrap() {
            for generation in model["generations"].as_array().unwrap() {
                if generation["state"] == "current" {
                    lags.push((
                        model["model"].as_str().unwrap().to_owned(),
                        generation["lagEvents"].as_u64().unwrap(),
                        generation["parked"].as_u64().unwrap(),
                    ));
                }
            }
        }
        Some(lags)
    }

    /// Waits until every read model is at the log's head, then proves each against the log.
    ///
    /// # Panics
    /// When one does not get there, has parked something, or differs.
    pub async fn converges(&self) {
        let lags = eventually("the read models converge", || async {
            let lags = self.lags().await?;
            assert!(lags.len() >= 3, "a model is missing: {lags:?}");
            let behind: u64 = lags.iter().map(|(_, behind, _)| behind).sum();
            (behind == 0).then_some(lags)
        })
        .await;
        let parked: u64 = lags.iter().map(|(_, _, parked)| parked).sum();
        assert_eq!(parked, 0, "letters were parked: {lags:?}");
        let output = self.command(&["replay", "verify", "--all"]).await;
        let text = printed(&output);
        assert!(output.status.success(), "verify --all: {text}");
    }

    /// Prints the end of every log, for a test that failed.
    fn show_logs(&self) {
        let output = Command::new(program())
            .args(["env", "--json", "--dir"])
            .arg(&self.folder)
            .output();
        let Ok(Ok(all)) = output.map(|output| serde_json::from_slice(&output.stdout)) else {
            return;
        };
        for member in members_of(&all) {
            eprintln!(
                "--- the end of {}'s log ---\n{}",
                member.name,
                member.tail()
            );
        }
    }
}

fn members_of(all: &Value) -> Vec<Member> {
    let mut members = Vec::new();
    for (name, one) in all["processes"].as_object().unwrap() {
        members.push(Member {
            name: name.clone(),
            service: one["service"].as_str().unwrap().to_owned(),
            log: one["log"].as_str().unwrap().into(),
            ports: one["ports"].clone(),
        });
    }
    members
}

/// `./stack`.
fn program() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../stack"))
}

/// A process in a group of its own that waits for the end of ours, by our end of a pipe, and destroys the stack.
#[expect(
    clippy::zombie_processes,
    reason = "it outlives this process: there is nobody to wait for it"
)]
fn destroy_at_the_end(folder: &Path) -> ChildStdin {
    let script = r#"cat; "$0" destroy --yes --dir "$1"; rm -rf "$1""#;
    let mut guard = Command::new("sh")
        .args(["-c", script])
        .arg(program())
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    guard.stdin.take().unwrap()
}

async fn finish(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap()
}
