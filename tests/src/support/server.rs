//! A server process of the test's own: a free port, a fresh data folder, killed when the test ends.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    Client, Profile, eventually, free_port, last_lines, printed,
    profile::is_split,
    running,
    split::{self, Part},
};

/// A running server.
pub struct Server {
    /// All of them; a gateway is the last.
    processes: Vec<Child>,
    /// What takes down what they say, each until its process says no more.
    listeners: Vec<JoinHandle<()>>,
    /// What it is made of, where it is more than one process.
    parts: Vec<Part>,
    port: u16,
    folder: Arc<TempDir>,
    flags: Vec<String>,
    /// Where its servers are, in the distributed profile.
    environment: Vec<(String, String)>,
    log: Arc<Mutex<Vec<String>>>,
}

/// The program under test: `SOCIALHUB_BIN`, else the one cargo built beside this test.
///
/// # Panics
/// When there is none: build it first (`cargo build`).
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SOCIALHUB_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap();
    let built = test
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("socialhub");
    assert!(
        built.exists(),
        "{} is not there: run `cargo build` first",
        built.display()
    );
    built
}

impl Server {
    /// Starts a server with rate limits off, on a fresh data folder, and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(&["--rate-limits", "off"]).await
    }

    /// Starts a server with the given flags.
    pub async fn start_with(flags: &[&str]) -> Self {
        Self::start_in(flags, Profile::chosen().environment().await).await
    }

    /// Starts a server with the given flags that finds this in its environment, as [`Profile::environment`] answers it.
    pub async fn start_in(flags: &[&str], environment: Vec<(String, String)>) -> Self {
        let mut server = Self::prepare(flags, environment);
        server.restart().await;
        server
    }

    /// A server on a fresh data folder that was not started yet: [`Server::restart`] does.
    pub fn prepare(flags: &[&str], environment: Vec<(String, String)>) -> Self {
        Self {
            processes: Vec::new(),
            listeners: Vec::new(),
            parts: if is_split() && !environment.is_empty() {
                split::parts()
            } else {
                Vec::new()
            },
            port: free_port(),
            folder: Arc::new(tempfile::tempdir().unwrap()),
            flags: flags.iter().map(ToString::to_string).collect(),
            environment,
            log: Arc::default(),
        }
    }

    /// Starts it again, after a kill or a stop, and does not wait until it is ready.
    pub fn begin(&mut self) {
        self.kill();
        self.launch();
    }

    fn launch(&mut self) {
        if self.parts.is_empty() {
            let listen = format!("127.0.0.1:{}", self.port);
            let command = self.process(&["serve", "--listen", &listen]);
            self.run_beside(command);
            return;
        }
        let mut migrate = self.process(&["migrate"]);
        assert!(migrate.stderr(Stdio::inherit()).status().unwrap().success());
        let mut commands = Vec::new();
        for part in &self.parts {
            let arguments: Vec<&str> = part.arguments.iter().map(String::as_str).collect();
            commands.push(self.process(&arguments));
        }
        let folder = self.folder.path();
        commands.push(split::gateway(
            folder,
            self.port,
            &self.parts,
            &self.environment,
        ));
        for command in commands {
            self.run_beside(command);
        }
    }

    /// One of its processes.
    fn process(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(&self.flags)
            .current_dir(self.folder.path())
            .env_remove("LISTEN")
            .env("PASSWORD_COST", CHEAP)
            .envs(self.environment.clone())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    fn run_beside(&mut self, mut command: Command) {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::clone(&self.log);
        self.listeners.push(std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                log.lock().unwrap().push(line);
            }
        }));
        self.processes.push(child);
    }

    async fn ready(&mut self) {
        let mut clients = vec![self.client()];
        let parts = self.parts.iter();
        clients.extend(parts.map(|part| Client::new(&format!("http://127.0.0.1:{}", part.port))));
        for client in clients {
            eventually("the server is ready", || {
                self.processes.iter_mut().for_each(running);
                let client = &client;
                async move {
                    let answer = client.try_get("/readyz").await?;
                    (answer.status == 200).then_some(())
                }
            })
            .await;
        }
    }

    /// Another server on the same servers, with a folder and a port of its own. For the distributed profile.
    pub async fn another(&self) -> Self {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        Self::start_in(&flags, self.environment.clone()).await
    }

    /// The server's address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it finds in its environment under a name.
    ///
    /// # Panics
    /// When there is nothing: not in this profile.
    pub fn setting(&self, name: &str) -> &str {
        let found = self.environment.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).unwrap()
    }

    /// What its processes find in their environment.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Its process id; where it is several, that of the first.
    pub fn pid(&self) -> u32 {
        self.processes[0].id()
    }

    /// An anonymous client of it.
    pub fn client(&self) -> Client {
        Client::new(&self.url())
    }

    /// Everything it logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Kills it at once (SIGKILL).
    pub fn kill(&mut self) {
        for process in &mut self.processes {
            process.kill().unwrap();
        }
        for mut process in self.processes.drain(..) {
            process.wait().unwrap();
        }
        for listener in self.listeners.drain(..) {
            listener.join().unwrap();
        }
    }

    /// Asks it to stop (SIGTERM) and waits for it; true when it ended with success.
    pub async fn stop(&mut self) -> bool {
        let mut success = true;
        // The gateway first.
        for mut process in self.processes.drain(..).rev() {
            let asked = Command::new("kill")
                .args(["-TERM", &process.id().to_string()])
                .status()
                .unwrap();
            assert!(asked.success());
            let ended = tokio::task::spawn_blocking(move || process.wait())
                .await
                .unwrap()
                .unwrap();
            success &= ended.success();
        }
        success
    }

    /// Starts it again on the same folder and port, after a kill or a stop, and waits until it is ready.
    pub async fn restart(&mut self) {
        self.kill();
        self.launch();
        self.ready().await;
    }

    /// Runs another command of the program on the same data folder.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        let mut command = self.prepare_command(arguments);
        tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap()
            .unwrap()
    }

    /// Runs a command that must succeed; answers everything it printed.
    #[track_caller]
    pub fn succeed<'a>(&'a self, arguments: &'a [&'a str]) -> impl Future<Output = String> + 'a {
        self.run(arguments, &[0])
    }

    /// Runs a command that must be refused, or find something wrong (1), or is none (2); answers everything it printed.
    #[track_caller]
    pub fn fail<'a>(&'a self, arguments: &'a [&'a str]) -> impl Future<Output = String> + 'a {
        self.run(arguments, &[1, 2])
    }

    /// What `replay status` says, once all stores have answered it.
    ///
    /// # Panics
    /// When they do not.
    pub async fn status(&self) -> Value {
        eventually("status hears of all stores", || async {
            let output = self.command(&["replay", "status", "--json"]).await;
            let complete = output.status.success();
            complete.then(|| serde_json::from_slice(&output.stdout).unwrap())
        })
        .await
    }

    /// Waits until its log has not heard of a process for so long that an import goes on: one that is stopped on a busy
    /// machine may not have taken back what it said.
    pub async fn is_alone(&self) {
        eventually("no process is heard of", || async {
            let status = self.status().await;
            let mut processes = status["processes"].as_array()?.iter();
            processes
                .all(|process| process["state"] == "silent")
                .then_some(())
        })
        .await;
    }

    #[track_caller]
    fn run<'a>(
        &'a self,
        arguments: &'a [&'a str],
        codes: &'static [i32],
    ) -> impl Future<Output = String> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let output = eventually("the log's database answers a tool", || async {
                let output = self.command(arguments).await;
                // A busy server may not have let it in within its time: nothing was done.
                let kept_out = output.status.code() == Some(1) && is_kept_out(&output);
                (!kept_out).then_some(output)
            })
            .await;
            let said = printed(&output);
            let code = output.status.code();
            assert!(
                code.is_some_and(|code| codes.contains(&code)),
                "{place}: {arguments:?}: {}: {}",
                output.status,
                last_lines(&said)
            );
            said
        }
    }

    /// Another command of the program on the same data folder, to be run by the test.
    pub fn prepare_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data_dir())
            .env("PASSWORD_COST", CHEAP)
            .envs(self.environment.clone())
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Waits until the read models are at the log's head, whoever asks.
    pub async fn caught_up(&self) {
        eventually("the read models are at the log's head", || async {
            let output = self.command(&["replay", "status", "--json"]).await;
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            let models = status["models"].as_array()?;
            let behind = models
                .iter()
                .flat_map(|model| model["generations"].as_array().unwrap());
            let behind: u64 = behind
                .filter(|generation| generation["state"] == "current")
                .map(|generation| generation["lagEvents"].as_u64().unwrap())
                .sum();
            (models.len() == 3 && behind == 0).then_some(())
        })
        .await;
    }

    /// Proves every read model against the log; fails the test with what it printed if one differs.
    #[track_caller]
    pub fn verify_all(&self) -> impl Future<Output = ()> + '_ {
        let verified = self.succeed(&["replay", "verify", "--all"]);
        async move {
            verified.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log.lock().unwrap();
            eprintln!("--- the server's log ---\n{}", condensed(&log));
        }
    }
}

/// Whether a tool gave up because the log's database did not let it in in time.
fn is_kept_out(output: &Output) -> bool {
    let said = printed(output);
    said.contains("DATABASE_URL: Postgres cannot be reached") && said.contains("timed out")
}

/// A log as one reads it: of lines in a row that differ in figures only, the first, and how many more there are.
fn condensed(log: &[String]) -> String {
    let alike = |one: &String, other: &String| {
        let words = |line: &String| line.replace(|letter: char| letter.is_ascii_digit(), "");
        words(one) == words(other)
    };
    let runs = log.chunk_by(alike).map(|run| match run.len() - 1 {
        0 => run[0].clone(),
        more => format!("{}\n[{more} more like it]", run[0]),
    });
    runs.collect::<Vec<_>>().join("\n")
}

/// What a password costs here: thousands of people sign up. The full stack has the usual cost.
const CHEAP: &str = "4";

/// How long a test waits for anything, an answer or a condition. Only one that fails waits so long: many run at once, on
/// machines that are slow or have others on them.
pub const PATIENCE: Duration = Duration::from_secs(180);
