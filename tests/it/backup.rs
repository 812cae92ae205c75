//! `socialhub replay export`, `import` and `migrate`: what was taken is given back, and nothing else is taken for it.

mod broken_off;
mod erased_meanwhile;
mod moving;
mod network;
pub(crate) mod newer;
mod refused;
mod restored;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use socialhub_tests::support::{Profile, Server, eventually};

const FLAGS: [&str; 2] = ["--rate-limits", "off"];

/// Posts of a log whose export has many files.
const MANY: usize = 1_500;

/// A folder for exports.
struct Exports(tempfile::TempDir);

impl Exports {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}

async fn fresh(profile: Profile) -> Server {
    Server::prepare(&FLAGS, profile.environment().await)
}

/// A server that does not run, with many posts. They are written once for all tests of this process.
async fn many_posts() -> Server {
    static WRITTEN: tokio::sync::OnceCell<PathBuf> = tokio::sync::OnceCell::const_new();
    let written = WRITTEN.get_or_init(write_many_posts).await;
    let server = fresh(Profile::Embedded).await;
    copy_all(written, &server.data_dir());
    server
}

/// Answers the folder that they are in: one that each run makes anew.
async fn write_many_posts() -> PathBuf {
    let mut server = fresh(Profile::Embedded).await;
    server.restart().await;
    let me = server.client().sign_up("many").await;
    // Words that do not compress to nothing.
    let words = |nth: usize| {
        (0..900)
            .map(|n| format!("{:08x} ", (n + nth * 7_919) * 2_654_435_761_usize))
            .collect::<String>()
    };
    let posts = (0..MANY).map(|nth| {
        let me = me.clone();
        async move { me.write_post(&words(nth)[..8_000], "public").await }
    });
    let posts = futures::StreamExt::buffer_unordered(futures::stream::iter(posts), 16);
    let posts: Vec<String> = futures::StreamExt::collect(posts).await;
    assert_eq!(posts.len(), MANY);
    assert!(server.stop().await, "{}", server.log());
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("many-posts");
    if kept.exists() {
        fs::remove_dir_all(&kept).unwrap();
    }
    copy_all(&server.data_dir(), &kept);
    kept
}

/// Copies a folder with all that is below it.
fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy_all(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Starts a command whose output is kept.
fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn send(child: &Child, signal: &str) {
    let mut kill = Command::new("kill");
    kill.args([&format!("-{signal}"), &child.id().to_string()]);
    assert!(kill.status().unwrap().success());
}

async fn ended(child: Child) -> Output {
    let wait = tokio::task::spawn_blocking(move || child.wait_with_output());
    wait.await.unwrap().unwrap()
}

/// Waits until so many sessions wait for the lock of appends.
async fn waiting(connection: &mut sqlx::PgConnection, wanted: i64) {
    waiting_for(connection, "advisory", wanted).await;
}

/// Waits until so many sessions wait for a lock of some kind.
async fn waiting_for(connection: &mut sqlx::PgConnection, kind: &str, wanted: i64) {
    let sql = "SELECT count(*) FROM pg_stat_activity
         WHERE wait_event_type = 'Lock' AND wait_event = $1 AND datname = current_database()";
    let connection = tokio::sync::Mutex::new(connection);
    eventually("somebody waits for the lock", || async {
        let waiting: i64 = sqlx::query_scalar(sql)
            .bind(kind)
            .fetch_one(&mut **connection.lock().await)
            .await
            .unwrap();
        (waiting == wanted).then_some(())
    })
    .await;
}
