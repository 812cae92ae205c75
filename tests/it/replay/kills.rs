//! A rebuild that is killed in the middle, on each store of the distributed profile: what is served is not touched, and the
//! next rebuild comes to its end.

use std::{process::Stdio, time::Duration};

use socialhub_tests::support::{Profile, Server, proxy::Proxy};

use super::outage::{run, world};

/// By when a rebuild must have heard enough of its store.
const PATIENCE: Duration = Duration::from_secs(60);

/// Kills a rebuild when its store has said this share of what it says to one that is left alone.
async fn kill_at(server: &Server, model: &str, setting: &str, whole: u64, share: f64) {
    let url = server.setting(setting);
    let proxy = Proxy::to(url, (whole as f64 * share) as u64).await;
    let mut command = server.prepare_command(&["replay", "rebuild", model]);
    command
        .env(setting, proxy.through(url))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let enough = tokio::time::timeout(PATIENCE, proxy.used_up()).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(enough.is_ok(), "{model} {share}: not killed in the middle");
}

#[tokio::test]
async fn a_rebuild_that_is_killed_touches_nothing_and_the_next_one_succeeds() {
    if Profile::chosen() == Profile::Embedded {
        // There every write of a rebuild is broken off in the tests of the SQLite stores.
        return;
    }
    let server = world().await;
    for (model, setting) in [
        ("feed", "DATABASE_URL"),
        ("notifications", "MONGODB_URL"),
        ("counters", "REDIS_URL"),
    ] {
        let rebuild = ["replay", "rebuild", model];
        let (alone, carried) = run(&server, setting, &rebuild, u64::MAX).await;
        assert!(alone.status.success(), "{model}: {alone:?}");
        for share in [0.3, 0.8] {
            kill_at(&server, model, setting, carried, share).await;
            server.verify_all().await;
            server.succeed(&rebuild).await;
            server.verify_all().await;
        }
        server.succeed(&["replay", "prune", model, "--yes"]).await;
    }
}
