//! Tools that are killed in the middle, on each store of the distributed profile: what is served is right, and the next one
//! comes to its end. And a projector that is killed beside a rebuild: the rebuild comes to its end, and the next projector
//! goes on with what the rebuild has left it.

use std::{process::Stdio, sync::Mutex};

use futures::FutureExt;
use socialhub_tests::support::{Profile, Server, eventually, printed, proxy::Proxy};

use super::{
    damage::one_of,
    outage::{LOG, run, small_world, told, world},
    rebuilds::{Held, STORES, generations, only_generation},
};

/// A share of what a store says that is in the middle, however much what it says varies.
const EARLY: f64 = 0.3;

/// Kills a command when its store has said this share of what it says to one that is left alone. Answers whether it was in
/// the middle: what stores say of themselves varies, and with it where the end is.
async fn kill_at(
    server: &Server,
    arguments: &[&str],
    setting: &str,
    whole: u64,
    share: f64,
) -> bool {
    let url = server.setting(setting);
    let proxy = Proxy::to(url, (whole as f64 * share) as u64).await;
    let mut command = server.prepare_command(arguments);
    command
        .env(setting, proxy.through(url))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = Mutex::new(command.spawn().unwrap());
    let ended = eventually("it is killed in the middle, or ends", || async {
        if proxy.used_up().now_or_never().is_some() {
            return Some(false);
        }
        let ended = child.lock().unwrap().try_wait().unwrap();
        ended.map(|_| true)
    })
    .await;
    let mut child = child.into_inner().unwrap();
    // It may have ended.
    let _ = child.kill();
    child.wait().unwrap();
    !ended
}

/// Cuts a command off from its model's store. What a store says varies with how often it is asked whether somebody is done:
/// towards the end the command may have ended before, or may have done what it is for and be about to leave.
async fn cut_off_in_the_middle(
    server: &Server,
    setting: &str,
    arguments: &[&str],
    whole: u64,
    share: f64,
) -> Option<String> {
    let most = (whole as f64 * share) as u64;
    let (output, heard) = run(server, setting, arguments, most).await;
    if heard <= most || output.status.success() {
        let said = printed(&output);
        assert!(share > EARLY, "{share}: not in the middle: {said}");
        assert!(output.status.success(), "{said}");
        assert!(said.contains("is current at position"), "{said}");
        return None;
    }
    Some(told(arguments, &output, heard, most))
}

#[tokio::test]
async fn a_rebuild_that_is_killed_touches_nothing_and_the_next_one_succeeds() {
    if Profile::chosen() == Profile::Embedded {
        // There is no server that says so much.
        return;
    }
    let server = world().await;
    for (model, setting) in STORES {
        let rebuild = ["replay", "rebuild", model];
        let (alone, carried) = run(&server, setting, &rebuild, u64::MAX).await;
        assert!(alone.status.success(), "{model}: {alone:?}");
        // The last is around the switch.
        for share in [0.5, 0.97] {
            let killed = kill_at(&server, &rebuild, setting, carried, share).await;
            assert!(killed || share > 0.9, "{model} {share}: not in the middle");
            server.verify_all().await;
            server.succeed(&rebuild).await;
            server.verify_all().await;
        }
        server.succeed(&["replay", "prune", model, "--yes"]).await;
    }
}

#[tokio::test]
async fn a_rollback_that_is_killed_or_cut_off_leaves_one_of_both_and_the_next_one_succeeds() {
    if Profile::chosen() == Profile::Embedded {
        return;
    }
    let server = small_world().await;
    let me = server.client().sign_up("back").await;
    for (model, setting) in STORES {
        server.succeed(&["replay", "rebuild", model]).await;
        // What the older one has to catch up with.
        let more = async || {
            for _ in 0..40 {
                me.write_post("not in the older one", "public").await;
            }
            server.caught_up().await;
        };
        let back = ["replay", "rollback", model];
        more().await;
        let (alone, whole) = run(&server, setting, &back, u64::MAX).await;
        assert!(alone.status.success(), "{model}: {}", printed(&alone));
        for share in [0.3, 0.9] {
            more().await;
            let killed = kill_at(&server, &back, setting, whole, share).await;
            assert!(killed || share > 0.3, "{model} {share}: not in the middle");
            server.caught_up().await;
            server.verify_all().await;
            server.succeed(&back).await;
            server.verify_all().await;
        }
        more().await;
        let said = cut_off_in_the_middle(&server, setting, &back, whole, 0.9).await;
        let failed = |said: &String| {
            said.contains(&format!("{model}: not switched: ")) || said.contains("is not known")
        };
        assert!(said.as_ref().is_none_or(failed), "{said:?}");
        server.caught_up().await;
        server.verify_all().await;
        server.succeed(&back).await;
        let states = generations(&server, model).await;
        assert_eq!(states.len(), 2, "{model}: {states:?}");
    }
}

#[tokio::test]
async fn a_prune_that_is_killed_or_cut_off_leaves_what_is_served_and_the_next_one_removes_the_rest()
{
    if Profile::chosen() == Profile::Embedded {
        return;
    }
    let server = small_world().await;
    for (model, setting) in STORES {
        let (rebuild, prune) = (
            ["replay", "rebuild", model],
            ["replay", "prune", model, "--yes"],
        );
        server.succeed(&rebuild).await;
        let (alone, carried) = run(&server, setting, &prune, u64::MAX).await;
        assert!(alone.status.success(), "{model}: {}", printed(&alone));
        server.succeed(&rebuild).await;
        let killed = kill_at(&server, &prune, setting, carried, EARLY).await;
        assert!(killed, "{model}: not in the middle");
        server.verify_all().await;
        server.succeed(&prune).await;
        only_generation(&server, model).await;
        server.verify_all().await;

        server.succeed(&rebuild).await;
        cut_off_in_the_middle(&server, setting, &prune, carried, EARLY).await;
        server.verify_all().await;
        server.succeed(&prune).await;
        only_generation(&server, model).await;
        server.verify_all().await;
    }
}

#[tokio::test]
async fn a_repair_that_is_killed_is_made_good_by_the_next_one() {
    if Profile::chosen() == Profile::Embedded {
        // There it is one transaction.
        return;
    }
    let server = small_world().await;
    for (model, setting) in STORES {
        let kind = match model {
            "feed" => "like",
            "notifications" => "notification",
            _ => "post",
        };
        let damage = one_of(model, kind);
        let generation = only_generation(&server, model).await;
        let repair = ["replay", "repair", model];
        damage.inflict(&server, generation).await;
        let (alone, carried) = run(&server, setting, &repair, u64::MAX).await;
        assert!(alone.status.success(), "{model}: {}", printed(&alone));
        for share in [0.3, 0.7] {
            damage.inflict(&server, generation).await;
            let killed = kill_at(&server, &repair, setting, carried, share).await;
            assert!(killed || share > 0.3, "{model} {share}: not in the middle");
            server.succeed(&repair).await;
            server.verify_all().await;
            // What it was made with may be left.
            server.succeed(&["replay", "prune", model, "--yes"]).await;
            assert_eq!(only_generation(&server, model).await, generation);
        }
    }
    // What writes goes on where it was.
    let me = server.client().sign_up("afterwards").await;
    me.write_post("moves", "public").await;
    server.caught_up().await;
    server.verify_all().await;
}

/// Whoever runs it learns of it, and what is served is not touched.
#[tokio::test]
async fn a_store_that_goes_away_beside_a_rebuild_is_told_and_the_next_one_succeeds() {
    if Profile::chosen() == Profile::Embedded {
        // A file does not go away like that.
        return;
    }
    let server = small_world().await;
    for (model, setting) in STORES.into_iter().filter(|(_, setting)| *setting != LOG) {
        let rebuild = ["replay", "rebuild", model];
        let (alone, carried) = run(&server, setting, &rebuild, u64::MAX).await;
        assert!(alone.status.success(), "{model}: {alone:?}");
        let most = (carried as f64 * EARLY) as u64;
        let (output, heard) = run(&server, setting, &rebuild, most).await;
        let said = printed(&output);
        assert!(heard > most, "{model}: not cut off: {said}");
        assert_eq!(output.status.code(), Some(1), "{model}: {said}");
        assert!(!said.contains("panicked"), "{model}: {said}");
        let told = said.contains(&format!("{model}: not switched: "))
            && said.contains("run the same command again");
        assert!(told, "{model}: {said}");
        server.verify_all().await;
        server.succeed(&rebuild).await;
        server.verify_all().await;
    }
}

/// Kills the process that projects while rebuilds of all models are held up at this share of what their stores say to
/// them, and lets the rebuilds go on. What was acknowledged shortly before may be in neither generation yet.
async fn projector_killed_at(server: &mut Server, whole: &[u64; 3], share: f64) {
    let client = server.client().sign_up("late").await;
    let mut rebuilds = Vec::new();
    for ((model, setting), whole) in STORES.into_iter().zip(whole) {
        let most = (*whole as f64 * share) as u64;
        let held = match share > EARLY {
            true => Held::begin_late(server, model, setting, most).await,
            false => Held::begin(server, model, setting, most).await,
        };
        rebuilds.push((model, held));
    }
    client.write_post("acknowledged", "public").await;
    server.kill();
    rebuilds.iter().for_each(|(_, held)| held.let_go());
    for (model, held) in rebuilds {
        let rebuilt = held.goes_on().await;
        let said = printed(&rebuilt);
        // On a busy machine the silence may have been too long for it.
        let told = said.contains("then run the same command again")
            || said.contains("before you run anything again");
        assert!(rebuilt.status.success() || told, "{model} {share}: {said}");
        if !rebuilt.status.success() {
            server.succeed(&["replay", "rebuild", model]).await;
        }
    }
    server.restart().await;
    server.caught_up().await;
    server.verify_all().await;
}

#[tokio::test]
async fn a_projector_that_is_killed_beside_a_rebuild_leaves_nothing_wrong() {
    if Profile::chosen() == Profile::Embedded {
        // There a rebuild fills a file that the projector does not know.
        return;
    }
    let mut server = small_world().await;
    let mut whole = [0; 3];
    for ((model, setting), whole) in STORES.into_iter().zip(&mut whole) {
        let (alone, carried) = run(&server, setting, &["replay", "rebuild", model], u64::MAX).await;
        assert!(alone.status.success(), "{model}: {alone:?}");
        *whole = carried;
    }
    // While they are filled, and around the switch, which is the last that a rebuild does.
    for share in [EARLY, 0.97] {
        projector_killed_at(&mut server, &whole, share).await;
    }
    // The switch is made, and the projector is on its way to the other generation.
    server.succeed(&["replay", "rebuild", "--all"]).await;
    server.kill();
    server.restart().await;
    server.caught_up().await;
    server.verify_all().await;
}
