//! A database that goes away in the middle of `verify`, `as-of` and `repair`: it is said, with what to do, and what is
//! served is not touched.

use std::{
    collections::BTreeSet,
    process::{Command, Output, Stdio},
};

use futures::{StreamExt, stream};
use serde_json::Value;
use socialhub_tests::support::{Profile, Server, binary, printed, proxy::Proxy};

use super::{
    damage::{all, lines},
    repair::{busy_life, seen},
};

/// The setting of the log's database.
pub const LOG: &str = "DATABASE_URL";

/// Posts, besides a busy life: so that the log is read in many pieces.
const POSTS: usize = 400;

/// Runs a command to which the server of a setting says so many bytes at most. Answers how many it said.
pub async fn run(server: &Server, setting: &str, arguments: &[&str], most: u64) -> (Output, u64) {
    let url = server.setting(setting);
    let proxy = Proxy::to(url, most).await;
    let mut command = server.prepare_command(arguments);
    command.env(setting, proxy.through(url));
    let output = tokio::task::spawn_blocking(move || command.output());
    (output.await.unwrap().unwrap(), proxy.carried())
}

/// Cuts a command off when it has heard this share of what it hears when it is left alone.
async fn cut_off(server: &Server, arguments: &[&str], whole: u64, share: f64) -> String {
    cut_off_from(server, LOG, arguments, (whole as f64 * share) as u64).await
}

/// Cuts a command off from the server of a setting when it has heard so much of it. Answers what it said.
pub async fn cut_off_from(server: &Server, setting: &str, arguments: &[&str], most: u64) -> String {
    let (output, carried) = run(server, setting, arguments, most).await;
    told(arguments, &output, carried, most)
}

/// What a command said that was cut off: it ended with a word on what to do.
pub fn told(arguments: &[&str], output: &Output, carried: u64, most: u64) -> String {
    let said = printed(output);
    let at = format!("{arguments:?}, {most} bytes: {said}");
    assert!(carried > most, "not cut off: {at}");
    assert_eq!(output.status.code(), Some(1), "{at}");
    assert!(!said.contains("panicked"), "{at}");
    assert!(said.contains("see that the store answers"), "{at}");
    let again = said.contains("run the same command again");
    // At the very switch.
    let unknown = said.contains("before you run anything again");
    assert!(again || unknown, "{at}");
    said
}

/// A server with something to rebuild.
pub async fn world() -> Server {
    world_of(POSTS).await
}

/// One with less, where it need not be read in many pieces.
pub async fn small_world() -> Server {
    world_of(POSTS / 10).await
}

async fn world_of(posts: usize) -> Server {
    fill(Server::start().await, posts).await
}

/// A small one on servers that the test has chosen.
pub async fn small_world_in(environment: Vec<(String, String)>) -> Server {
    let server = Server::start_in(&["--rate-limits", "off"], environment).await;
    fill(server, POSTS / 10).await
}

async fn fill(server: Server, posts: usize) -> Server {
    let [anna, ..] = busy_life(&server).await;
    let posts = stream::iter(0..posts).map(|nth| {
        let anna = anna.clone();
        async move { anna.write_post(&format!("post {nth}"), "public").await }
    });
    posts.buffer_unordered(16).collect::<Vec<_>>().await;
    seen(&anna).await;
    server
}

/// What differs: model, kind and key.
async fn differences(server: &Server) -> BTreeSet<String> {
    let output = server
        .command(&["replay", "verify", "--all", "--json"])
        .await;
    let told = lines(&printed(&output));
    let differing = told.iter().filter(|line| line["table"] != Value::Null);
    differing
        .map(|line| format!("{} {} {}", line["model"], line["table"], line["key"]))
        .collect()
}

#[tokio::test]
async fn a_database_that_goes_away_is_told_and_the_models_stay_as_they_are() {
    if Profile::chosen() == Profile::Embedded {
        // A file does not go away like that.
        return;
    }
    let server = world().await;
    let verify = ["replay", "verify", "--all"];
    let (whole, carried) = run(&server, LOG, &verify, u64::MAX).await;
    assert!(whole.status.success(), "{}", printed(&whole));
    for share in [0.3, 0.8] {
        let said = cut_off(&server, &verify, carried, share).await;
        assert!(said.contains("cannot be verified: "), "{said}");
    }

    // The same as one line of JSON for each model.
    let as_json = ["replay", "verify", "--all", "--json"];
    let said = cut_off(&server, &as_json, carried, 0.5).await;
    let told = lines(&said);
    let failed = told.iter().filter(|line| line["error"].is_string());
    assert!(failed.count() > 0, "{said}");

    let folder = tempfile::tempdir().unwrap();
    let into = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let as_of =
        |into: &str| ["replay", "as-of", "--all", "--at", "400", "--into", into].map(str::to_owned);
    let all_there = as_of(&into("whole"));
    let (whole, carried) = run(
        &server,
        LOG,
        &all_there.each_ref().map(String::as_str),
        u64::MAX,
    )
    .await;
    assert!(whole.status.success(), "{}", printed(&whole));
    for share in [0.4, 0.7] {
        let half = into(&format!("half {share}"));
        let arguments = as_of(&half);
        let arguments = arguments.each_ref().map(String::as_str);
        let said = cut_off(&server, &arguments, carried, share).await;
        assert!(
            said.contains(&format!("{half} is not complete: remove it first")),
            "{said}"
        );
        let refused = printed(&server.command(&arguments).await);
        assert!(refused.contains("was not built to its end"), "{refused}");
        std::fs::remove_dir_all(&half).unwrap();
        server.succeed(&arguments).await;
    }
    server.verify_all().await;

    let damages = all();
    let damage = damages
        .iter()
        .find(|damage| damage.model == "feed")
        .unwrap();
    let repair = ["replay", "repair", "feed"];
    damage.inflict(&server, 1).await;
    let inflicted = differences(&server).await;
    assert!(!inflicted.is_empty());
    let (whole, carried) = run(&server, LOG, &repair, u64::MAX).await;
    assert!(whole.status.success(), "{}", printed(&whole));
    for share in [0.3, 0.7] {
        damage.inflict(&server, 1).await;
        let said = cut_off(&server, &repair, carried, share).await;
        assert!(said.contains("not repaired: "), "{said}");
        // Not half of it, and nothing else.
        let left = differences(&server).await;
        assert!(left.is_empty() || left == inflicted, "{share}: {left:?}");
        server.succeed(&repair).await;
        server.verify_all().await;
    }
    rebuilds_go_on_when_it_is_back(&server).await;
}

/// A rebuild that meets nobody any more ends, and the next one takes what it has left.
async fn rebuilds_go_on_when_it_is_back(server: &Server) {
    let rebuild = ["replay", "rebuild", "feed"];
    let (whole, carried) = run(server, LOG, &rebuild, u64::MAX).await;
    assert!(whole.status.success(), "{}", printed(&whole));
    for share in [0.3, 0.7] {
        let said = cut_off(server, &rebuild, carried, share).await;
        assert!(said.contains("feed: not switched: "), "{said}");
        server.verify_all().await;
        server.succeed(&rebuild).await;
        server.verify_all().await;
    }
}

/// Runs a command for which no file may become greater than this many times 512 bytes.
async fn with_small_files(server: &Server, arguments: &[&str], most: u32) -> Output {
    let mut command = Command::new("sh");
    let limited = format!("trap '' XFSZ; ulimit -f {most}; exec \"$@\"");
    command
        .args(["-c", &limited, "sh"])
        .arg(binary())
        .args(arguments)
        .arg("--data-dir")
        .arg(server.data_dir())
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output());
    output.await.unwrap().unwrap()
}

#[tokio::test]
async fn a_full_disk_ends_a_rebuild_and_it_goes_on_when_there_is_room() {
    let environment = Profile::Embedded.environment().await;
    let server = Server::start_in(&["--rate-limits", "off"], environment).await;
    let anna = server.client().sign_up("anna").await;
    for nth in 0..80 {
        let long = format!("{nth} {}", "so much to say ".repeat(600));
        anna.write_post(&long, "public").await;
    }
    let rebuild = ["replay", "rebuild", "feed"];
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("past").to_str().unwrap().to_owned();
    let as_of = ["replay", "as-of", "feed", "--at", "80", "--into", &into];
    let outputs = tokio::join!(
        with_small_files(&server, &rebuild, 800),
        with_small_files(&server, &as_of, 800)
    );
    for output in [outputs.0, outputs.1] {
        let said = printed(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        assert!(said.contains("has room, on its disk"), "{said}");
        assert!(said.contains("run the same command again"), "{said}");
    }
    server.verify_all().await;
    server.succeed(&rebuild).await;
    server.verify_all().await;
}
