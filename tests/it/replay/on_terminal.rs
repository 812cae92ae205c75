//! What long commands show to somebody at a terminal: a bar with rate and time left. Who is at none gets lines.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use rustix::{
    fs::OFlags,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use socialhub_tests::support::{Profile, eventually, proxy::Proxy, server::PATIENCE};

use super::{
    MODELS,
    damage::one_of,
    outage::{LOG, run, small_world},
};

/// A command whose errors and progress go to a terminal.
struct Terminal {
    child: Child,
    shown: Arc<Mutex<String>>,
    reading: JoinHandle<()>,
}

impl Terminal {
    fn start(mut command: Command) -> Self {
        // No other child that is started meanwhile may hold it.
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC);
        let ours = ours.unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let name = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options.custom_flags(OFlags::NOCTTY.bits().cast_signed());
        let theirs = options.open(name).unwrap();
        let size = Winsize {
            ws_row: 40,
            ws_col: 150,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&theirs, size).unwrap();
        let child = command
            .env("TERM", "xterm")
            .stdout(Stdio::piped())
            .stderr(theirs)
            .spawn()
            .unwrap();
        // The command holds the terminal's other end: while it does, there is no end to read to.
        drop(command);
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut ours, to) = (File::from(ours), Arc::clone(&shown));
        let reading = std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            // When nobody has the other end any more, it is an error.
            while let Ok(read @ 1..) = ours.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..read]);
                to.lock().unwrap().push_str(&text);
            }
        });
        Self {
            child,
            shown,
            reading,
        }
    }

    /// Waits until all of this is shown.
    async fn shows(&self, parts: &[&str]) {
        eventually("it is shown", || async {
            let shown = self.shown.lock().unwrap();
            parts.iter().all(|part| shown.contains(part)).then_some(())
        })
        .await;
    }

    /// What it said, and what was shown at the terminal, when it has succeeded.
    async fn ended(self) -> (String, String) {
        let output = tokio::task::spawn_blocking(move || self.child.wait_with_output());
        let output = output.await.unwrap().unwrap();
        self.reading.join().unwrap();
        let shown = self.shown.lock().unwrap().clone();
        assert!(output.status.success(), "{shown}");
        (String::from_utf8(output.stdout).unwrap(), shown)
    }
}

/// The last that a bar has shown, by what stands before it.
fn last_of<'a>(shown: &'a str, prefix: &str) -> &'a str {
    let lines = shown.split(['\r', '\n']);
    let mut of_it = lines.filter(|line| line.contains(prefix));
    let last = of_it.next_back();
    last.unwrap_or_else(|| panic!("{prefix}: {shown}"))
}

fn assert_a_full_bar(shown: &str, prefix: &str, end: &str) {
    let last = last_of(shown, prefix);
    for part in ["█", &format!("{end} of {end}"), "/s", " left"] {
        assert!(last.contains(part), "{prefix}, {part}: {last}");
    }
}

#[tokio::test]
async fn rebuild_repair_and_export_show_bars_and_say_at_the_end_what_they_did() {
    let server = small_world().await;
    let rebuild = ["replay", "rebuild", "--all"];
    let (said, shown) = Terminal::start(server.prepare_command(&rebuild))
        .ended()
        .await;
    let head = server.status().await["head"].to_string();
    // Of more a bar would separate the thousands.
    assert!(head.len() <= 3, "{head}");
    for model in MODELS {
        assert_a_full_bar(&shown, &format!("{model}, generation 2"), &head);
        let end = format!("{model}: generation 2 is current at position {head}");
        assert!(said.contains(&end), "{said}");
    }
    assert!(!said.contains('█'), "{said}");

    one_of("feed", "tally").inflict(&server, 2).await;
    let repair = ["replay", "repair", "feed"];
    let (said, shown) = Terminal::start(server.prepare_command(&repair))
        .ended()
        .await;
    assert_a_full_bar(&shown, "feed, generation 3", &head);
    assert!(
        said.contains(" repaired.") && !said.contains("nothing repaired"),
        "{said}"
    );

    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("export");
    let export = ["replay", "export", place.to_str().unwrap(), "--all"];
    let (_, shown) = Terminal::start(server.prepare_command(&export))
        .ended()
        .await;
    assert_a_full_bar(&shown, "events", &head);

    // Elsewhere there is nothing to be drawn.
    let said = server.succeed(&rebuild).await;
    assert!(
        said.contains("filling generation 4 from position 0"),
        "{said}"
    );
    assert!(!said.contains('█') && !said.contains('\r'), "{said}");
}

#[tokio::test]
async fn a_proof_shows_how_far_it_is() {
    if Profile::chosen() == Profile::Embedded {
        // It is over before anything is shown.
        return;
    }
    let server = small_world().await;
    let verify = ["replay", "verify", "feed"];
    let (alone, whole) = run(&server, LOG, &verify, u64::MAX).await;
    assert!(alone.status.success());
    let url = server.setting(LOG);
    let proxy = Proxy::holding(url, whole / 2).await;
    let mut command = server.prepare_command(&verify);
    command.env(LOG, proxy.through(url));
    let terminal = Terminal::start(command);
    let held = tokio::time::timeout(PATIENCE, proxy.held()).await;
    assert!(held.is_ok(), "not held up in the middle");
    terminal.shows(&["feed, ", "/s"]).await;
    proxy.let_go();
    let (said, _) = terminal.ended().await;
    assert!(said.contains("feed: "), "{said}");
}
