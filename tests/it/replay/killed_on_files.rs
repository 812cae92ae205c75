//! Tools that are killed in the middle where everything is files, in the embedded profile: what is served is right, and the
//! next one comes to its end.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Child, Stdio},
    time::Duration,
};

use socialhub_tests::support::{Profile, Server};

use super::{damage::one_of, outage::small_world};

/// How many bytes a process has written so far; none when that cannot be told any more.
fn written(child: &Child) -> Option<u64> {
    let told = std::fs::read_to_string(format!("/proc/{}/io", child.id())).ok()?;
    let mut lines = told.lines();
    lines.find_map(|line| line.strip_prefix("wchar: ")?.parse().ok())
}

/// Runs a command until it has written so many bytes, then kills it. Answers how many it had written, and whether it was
/// killed before its end.
async fn kill_after(server: &Server, arguments: &[&str], most: u64) -> (u64, bool) {
    let mut command = server.prepare_command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut so_far = 0;
    while so_far < most && child.try_wait().unwrap().is_none() {
        so_far = written(&child).unwrap_or(so_far);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // It may have ended.
    let _ = child.kill();
    let status = child.wait().unwrap();
    let killed = status.signal() == Some(9);
    assert!(killed || status.success(), "{arguments:?}: {status}");
    (so_far, killed)
}

#[tokio::test]
async fn what_is_killed_touches_nothing_and_the_next_one_succeeds() {
    if Profile::chosen() != Profile::Embedded {
        // There they are killed by what their stores say: `kills`.
        return;
    }
    let server = small_world().await;
    let rebuild: &[&str] = &["replay", "rebuild", "feed"];
    let repair: &[&str] = &["replay", "repair", "feed"];
    for (tool, shares) in [
        // The last is around the switch.
        (rebuild, &[0.2, 0.5, 0.8, 0.99][..]),
        (&["replay", "rollback", "feed"], &[0.5, 0.99]),
        (&["replay", "prune", "feed", "--yes"], &[0.5]),
        (repair, &[0.3, 0.7]),
    ] {
        let begin = async || {
            server.succeed(rebuild).await;
            if tool == repair {
                let status = server.status().await;
                let current = crate::seen::generation(&status, "feed", "current");
                let generation = current["generation"].as_u64().unwrap();
                one_of("feed", "tally").inflict(&server, generation).await;
            }
        };
        begin().await;
        let (whole, _) = kill_after(&server, tool, u64::MAX).await;
        assert!(whole > 0, "{tool:?}: nothing is known of what it writes");
        server.verify_all().await;
        let mut kills = 0;
        for share in shares {
            begin().await;
            let (_, killed) = kill_after(&server, tool, (whole as f64 * share) as u64).await;
            kills += u32::from(killed);
            if tool != repair {
                server.caught_up().await;
                server.verify_all().await;
            }
            server.succeed(tool).await;
            server.caught_up().await;
            server.verify_all().await;
        }
        // Who writes little may be too quick.
        assert!(kills > 0 || tool != rebuild, "never in the middle");
    }
}
