//! A broker that is restarted, and one that is away for longer than every timeout of the clients. On a broker of its own.

use std::{env, path::PathBuf, process::Command, time::Duration};

use socialhub_event_log::RelayState;
use socialhub_infra::kafka::KafkaSettings;
use tempfile::TempDir;

use super::{LEASE, Model, World, within};

/// Servers of this test's own, ended with it.
struct Stack {
    script: PathBuf,
    folder: TempDir,
}

impl Stack {
    fn up() -> Self {
        // The launcher of this repository, unless another is named.
        let script = env::var_os("SOCIALHUB_STACK").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../stack"),
            PathBuf::from,
        );
        let stack = Self {
            script,
            folder: tempfile::tempdir().unwrap(),
        };
        stack.run(&["up", "--servers-only", "--free-ports"]);
        stack
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = Command::new(&self.script)
            .args(arguments)
            .arg("--dir")
            .arg(self.folder.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{arguments:?}: {text} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    fn kafka(&self) -> String {
        let environment = self.run(&["env"]);
        let line = environment
            .lines()
            .find_map(|line| line.strip_prefix("export KAFKA_BROKERS="));
        line.unwrap().to_owned()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let _ = Command::new(&self.script)
            .args(["destroy", "--yes", "--dir"])
            .arg(self.folder.path())
            .output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_reordered() {
    let stack = tokio::task::spawn_blocking(Stack::up).await.unwrap();
    let mut world = World::on(&stack.kafka());
    world.settings = KafkaSettings {
        message_timeout: Duration::from_secs(3),
        transaction_timeout: Duration::from_secs(4),
        request_timeout: Duration::from_secs(2),
        ..world.settings
    };
    let (relay, stop) = world.relay("a");
    let model = Model::new();
    let (_projector, _stop) = world.projector(&model, "group");
    world.append(500).await;
    world.projected(&model).await;

    // A restart, while events come in.
    stack.run(&["stop", "kafka"]);
    world.append(300).await;
    stack.run(&["start", "kafka"]);
    world.published().await;
    world.projected(&model).await;
    world.assert_published_once();

    // Away for longer than messages, transactions, requests and the lease last.
    stack.run(&["stop", "kafka"]);
    let gone = tokio::time::Instant::now();
    world.append(300).await;
    within(60, "every timeout has passed", || {
        gone.elapsed() > Duration::from_secs(12).max(LEASE * 3)
    })
    .await;
    let report = relay.status.report();
    assert_eq!(report.state, RelayState::Stuck, "{report:?}");
    assert!(report.last_error.is_some());
    assert_eq!(report.lag_events, 300);
    stack.run(&["start", "kafka"]);
    world.append(100).await;
    world.published().await;
    world.projected(&model).await;
    world.assert_published_once();
    stop.cancel();
    relay.task.await.unwrap();
}
