//! Each server hangs for a while under load: it takes connections and answers nothing. Whoever asks is answered all the
//! same, and soon; when it wakes everything goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use socialhub_tests::support::{Client, Turn, client::PASSWORD, stack::Stack};
use tokio::{task::JoinHandle, time::Instant};

use super::{all_is_well, eventually, everything_moves, load::Load, write};

/// Longer than anybody waits for one answer of a server: a statement takes 5 s at most and a second on top.
const HANG: Duration = Duration::from_secs(7);
/// What no request may take longer than: 9 s for lists, as `docs/operations.md` has it, and what a busy machine adds.
const LONGEST: Duration = Duration::from_secs(12);
/// Between two requests of a reader.
const BREATH: Duration = Duration::from_millis(200);
const LOG_IN: &str = "/auth/login";

/// Read all the time, a page each.
struct Readers {
    over: Arc<AtomicBool>,
    readers: Vec<Reader>,
}

struct Reader {
    path: String,
    answered: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Readers {
    fn start(me: &Client, paths: Vec<String>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let reader = |path: String| {
            let answered = Arc::new(AtomicU64::new(0));
            let (me, asked) = (me.clone(), path.clone());
            let (over, count) = (Arc::clone(&over), Arc::clone(&answered));
            let task = tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    ask(&me, &asked).await;
                    count.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(BREATH).await;
                }
            });
            Reader {
                path,
                answered,
                task,
            }
        };
        let readers = paths.into_iter().map(reader).collect();
        Self { over, readers }
    }

    fn answered(&self) -> Vec<u64> {
        let count = |reader: &Reader| reader.answered.load(Ordering::Relaxed);
        self.readers.iter().map(count).collect()
    }

    /// Waits until each has asked anew since then, and has been answered.
    async fn go_on(&self, since: &[u64]) {
        for (reader, before) in self.readers.iter().zip(since) {
            eventually(&format!("{} is answered", reader.path), || async {
                assert!(!reader.task.is_finished(), "see above");
                // The first of them may have been under way.
                (reader.answered.load(Ordering::Relaxed) >= before + 2).then_some(())
            })
            .await;
        }
    }

    async fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        for reader in self.readers {
            reader.task.await.unwrap();
        }
    }
}

/// Asks once: the answer is one, or it says that it will be one later, and it comes soon.
async fn ask(me: &Client, path: &str) {
    let begun = Instant::now();
    let answer = if path == LOG_IN {
        let log_in = json!({ "identifier": me.username, "password": PASSWORD });
        me.post_as_is(path, &log_in).await
    } else {
        me.get_as_is(path).await
    };
    let took = begun.elapsed();
    let text = String::from_utf8_lossy(&answer.bytes);
    assert!(
        answer.status == 200 || answer.is_put_off(),
        "{path} after {took:?}: {} {:?} {text}",
        answer.status,
        answer.headers
    );
    assert!(took < LONGEST, "{path} took {took:?}: {}", answer.status);
}

/// Lets a server hang. Answers how many commands were refused meanwhile.
async fn hang(stack: &Stack, name: &str, load: &Load, readers: &Readers) -> u64 {
    load.longest();
    let (refused, answered) = (load.refused(), readers.answered());
    stack.signal(name, "STOP").await;
    let begun = Instant::now();
    eventually("nobody waits for it any more", || async {
        (begun.elapsed() > HANG).then_some(())
    })
    .await;
    let refused = load.refused() - refused;
    stack.signal(name, "CONT").await;
    readers.go_on(&answered).await;
    load.goes_on(16).await;
    let (took, what) = load.longest();
    assert!(took < LONGEST, "while {name} hung, {what} took {took:?}");
    assert_eq!(load.left_open(), 0, "commands, while {name} hung");
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_keeps_nobody_waiting() {
    let stack = Turn::begin().await;
    let client = stack.client();
    let load = Load::start(&client).await;
    let me = client.sign_up("patient").await;
    let (post, _) = write(&me, "well known").await;
    everything_moves(&me).await;
    let pages = [
        LOG_IN.to_owned(),
        "/auth/verify-user".to_owned(),
        "/auth/me".to_owned(),
        format!("/users/profile/{}", me.id),
        format!("/users/followers/{}", me.id),
        format!("/posts/{post}"),
        format!("/posts/{post}/comments"),
        format!("/posts/user/{}", me.id),
        "/api/feed/".to_owned(),
        "/api/feed/trending".to_owned(),
        "/notify/notifications".to_owned(),
        "/chat/rooms/lobby/messages".to_owned(),
    ];
    let readers = Readers::start(&me, pages.to_vec());
    for name in ["redis", "mongodb", "kafka"] {
        let refused = hang(&stack, name, &load, &readers).await;
        assert_eq!(refused, 0, "no command needs {name}");
        everything_moves(&me).await;
    }
    hang(&stack, "postgres", &load, &readers).await;
    everything_moves(&me).await;
    readers.end().await;
    all_is_well(&stack, load).await;
}
