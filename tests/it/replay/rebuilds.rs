//! What rebuilds leave behind: one at a time, and a way back.

use std::{
    process::{Child, Output, Stdio},
    sync::Mutex,
};

use futures::FutureExt;
use serde_json::{Value, json};
use socialhub_tests::support::{
    Profile, Server, eventually, printed, proxy::Proxy, server::PATIENCE,
};

use super::{
    MODELS,
    damage::lines,
    outage::{LOG, run, small_world},
};

/// The models of the distributed profile, and the setting that says where each one's store is.
pub const STORES: [(&str, &str); 3] = [
    ("feed", "DATABASE_URL"),
    ("notifications", "MONGODB_URL"),
    ("counters", "REDIS_URL"),
];

/// A rebuild whose store has fallen silent in the middle.
pub struct Held {
    proxy: Proxy,
    child: Child,
}

impl Held {
    /// Begins one that is held up when its store has said so many bytes.
    pub async fn begin(server: &Server, model: &str, setting: &str, most: u64) -> Self {
        let held = Self::start(server, model, setting, most).await;
        let silent = tokio::time::timeout(PATIENCE, held.proxy.held()).await;
        assert!(silent.is_ok(), "{model}: not held up in the middle");
        held
    }

    /// As [`Held::begin`], near its end: what stores say varies, so it may have ended before.
    pub async fn begin_late(server: &Server, model: &str, setting: &str, most: u64) -> Self {
        let mut held = Self::start(server, model, setting, most).await;
        let (proxy, child) = (&held.proxy, Mutex::new(&mut held.child));
        eventually("it is held up, or ends", || async {
            let silent = proxy.held().now_or_never().is_some();
            let ended = child.lock().unwrap().try_wait().unwrap().is_some();
            (silent || ended).then_some(())
        })
        .await;
        held
    }

    async fn start(server: &Server, model: &str, setting: &str, most: u64) -> Self {
        let url = server.setting(setting);
        let proxy = Proxy::holding(url, most).await;
        let mut command = server.prepare_command(&["replay", "rebuild", model]);
        command
            .env(setting, proxy.through(url))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        Self { proxy, child }
    }

    /// Its store speaks again.
    pub fn let_go(&self) {
        self.proxy.let_go();
    }

    /// Lets it come to its end.
    pub async fn goes_on(self) -> Output {
        self.let_go();
        let child = self.child;
        let output = tokio::task::spawn_blocking(move || child.wait_with_output());
        output.await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn a_second_rebuild_of_a_model_is_refused_and_the_first_one_succeeds() {
    if Profile::chosen() == Profile::Embedded {
        // There the right to rebuild is a lock on a file, tested with the SQLite stores.
        return;
    }
    let server = small_world().await;
    for model in MODELS {
        let rebuild = ["replay", "rebuild", model];
        let (alone, carried) = run(&server, LOG, &rebuild, u64::MAX).await;
        assert!(alone.status.success(), "{model}: {}", printed(&alone));
        // It is the log that is silent: the right to rebuild is kept in the model's store.
        let first = Held::begin(&server, model, LOG, carried / 2).await;
        let (again, back, prune) = (
            rebuild,
            ["replay", "rollback", model],
            ["replay", "prune", model, "--yes"],
        );
        let said = tokio::join!(server.fail(&again), server.fail(&back), server.fail(&prune));
        let rebuilt = first.goes_on().await;
        for said in [said.0, said.1, said.2] {
            let wanted = format!("another rebuild of {model} is running");
            assert!(said.contains(&wanted), "{said}");
        }
        let said = printed(&rebuilt);
        // On a busy machine the log may have been silent for too long for it.
        let told = said.contains("run the same command again");
        assert!(rebuilt.status.success() || told, "{model}: {said}");
        if !rebuilt.status.success() {
            server.succeed(&rebuild).await;
        }
        server.succeed(&["replay", "prune", model, "--yes"]).await;
    }
    server.caught_up().await;
    server.verify_all().await;
}

/// The generations of a model: number and state.
pub async fn generations(server: &Server, model: &str) -> Vec<(u64, String)> {
    let status = server.status().await;
    let mut models = status["models"].as_array().unwrap().iter();
    let found = models.find(|found| found["model"] == model).unwrap();
    let generation = |found: &Value| {
        let id = found["generation"].as_u64().unwrap();
        (id, found["state"].as_str().unwrap().to_owned())
    };
    let generations = found["generations"].as_array().unwrap();
    generations.iter().map(generation).collect()
}

/// The number of a model's only generation.
pub async fn only_generation(server: &Server, model: &str) -> u64 {
    let [(only, _)] = generations(server, model).await[..] else {
        panic!("{model} has one generation");
    };
    only
}

#[tokio::test]
async fn a_rollback_brings_the_older_generation_back_caught_up() {
    let server = Server::start().await;
    let me = server.client().sign_up("rollback").await;
    me.write_post("before", "public").await;
    server.caught_up().await;
    for model in MODELS {
        let of = |id: u64, state: &str| (id, state.to_owned());
        let old = only_generation(&server, model).await;
        server.succeed(&["replay", "rebuild", model]).await;
        let both = [of(old, "previous"), of(old + 1, "current")];
        assert_eq!(generations(&server, model).await, both);
        // The older one has not seen this.
        let post = me.write_post(&format!("beside {model}"), "public").await;
        server.caught_up().await;
        server.succeed(&["replay", "rollback", model]).await;
        let both = [of(old, "current"), of(old + 1, "previous")];
        assert_eq!(generations(&server, model).await, both);
        server.verify_all().await;

        // It is what is served, and what is written from here on.
        me.put(&format!("/posts/{post}/like"), Value::Null)
            .await
            .expect_status(200);
        server.caught_up().await;
        let read = me.get_as_is(&format!("/posts/{post}")).await;
        let read = read.expect_status(200);
        assert_eq!(read.at("/post/likeCount"), 1, "{model}");
        assert!(!read.is_stale(), "{model}");
        server.succeed(&["replay", "prune", model, "--yes"]).await;
        assert_eq!(generations(&server, model).await, [of(old, "current")]);
        server.verify_all().await;
    }
    let refused = server.fail(&["replay", "rollback", "feed"]).await;
    assert!(refused.contains("no previous generation"), "{refused}");
}

/// The one line of JSON that a command prints about a model.
async fn told(server: &Server, model: &str, arguments: &[&str]) -> Value {
    let said = server.succeed(arguments).await;
    let mut told = lines(&said);
    told.retain(|line| line["model"] == model);
    assert_eq!(told.len(), 1, "{arguments:?}: {said}");
    told.remove(0)
}

/// There and back without a pause: the projector that still holds the generation before is waited for.
#[tokio::test]
async fn there_and_back_at_once_is_told_as_json() {
    let server = Server::start().await;
    let me = server.client().sign_up("json").await;
    me.write_post("told", "public").await;
    server.caught_up().await;
    let head = server.status().await["head"].as_u64().unwrap();
    let past = tempfile::tempdir().unwrap();
    for model in MODELS {
        let old = only_generation(&server, model).await;
        let of = |line: &Value| {
            let number = |name: &str| line[name].as_u64().unwrap();
            ["generation", "replaced", "position", "parked"].map(number)
        };
        let rebuilt = told(&server, model, &["replay", "rebuild", model, "--json"]).await;
        assert_eq!(of(&rebuilt), [old + 1, old, head, 0], "{rebuilt}");
        let back = told(&server, model, &["replay", "rollback", model, "--json"]).await;
        assert_eq!(of(&back), [old, old + 1, head, 0], "{back}");
        let forth = told(&server, model, &["replay", "rollback", model, "--json"]).await;
        assert_eq!(of(&forth), [old + 1, old, head, 0], "{forth}");
        let prune = ["replay", "prune", model, "--yes", "--json"];
        let pruned = told(&server, model, &prune).await;
        assert_eq!(pruned["removed"], json!([old]), "{pruned}");
        let into = past.path().join(model);
        let as_of = ["replay", "as-of", model, "--at", "1", "--json", "--into"];
        let as_of = [&as_of[..], &[into.to_str().unwrap()]].concat();
        let built = told(&server, model, &as_of).await;
        assert_eq!(built["position"], 1, "{built}");
        let file = built["file"].as_str().unwrap();
        assert!(std::path::Path::new(file).is_file(), "{built}");
    }
    server.verify_all().await;
}
