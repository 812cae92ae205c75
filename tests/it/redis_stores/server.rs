//! A server that a test may stop, empty and set up as it likes.

use std::process::{Child, Command, Stdio};

use socialhub_tests::support::{eventually, free_port, servers::patient_redis};
use tempfile::TempDir;

/// A Redis server of this test alone.
pub(crate) struct Server {
    pub(crate) folder: TempDir,
    port: u16,
    process: Child,
}

fn start(folder: &TempDir, port: u16) -> Child {
    let log = std::fs::File::create(folder.path().join("redis.log")).unwrap();
    Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--save",
            "",
            "--bind",
            "127.0.0.1",
            "--dir",
        ])
        .arg(folder.path())
        .stdout(Stdio::from(log))
        .spawn()
        .expect("redis-server is installed")
}

impl Server {
    pub(crate) async fn start() -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let process = start(&folder, port);
        let server = Self {
            folder,
            port,
            process,
        };
        server.answers().await;
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    async fn answers(&self) {
        eventually("Redis answers", || async {
            self.try_run(&["PING"]).await.ok()
        })
        .await;
    }

    pub(crate) async fn try_run(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(self.url())?;
        let mut connection = patient_redis(&client).await?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await
    }

    pub(crate) async fn run(&self, words: &[&str]) {
        self.try_run(words).await.unwrap();
    }

    /// What it answers, as a text.
    pub(crate) async fn tell(&self, words: &[&str]) -> String {
        let answer = self.try_run(words).await.unwrap();
        redis::from_redis_value(answer).unwrap()
    }

    /// Kills it: what is not in its dump is lost.
    pub(crate) fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) async fn start_again(&mut self) {
        self.process = start(&self.folder, self.port);
        self.answers().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
