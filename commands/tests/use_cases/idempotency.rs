//! Idempotency keys: the same answer, however often and from wherever it is asked.

use socialhub_commands::{CommandContext, CommandError};
use socialhub_domain::event::Visibility;
use socialhub_event_log::AppendError;

use crate::support::{WithKey, World, by, refusal};

#[tokio::test]
async fn the_same_key_gives_the_same_answer() {
    let world = World::new();
    let (ada, bob) = (world.person("ada").await, world.person("bob").await);
    let ctx = by(&ada).with_key("k", 1);
    let first = world
        .commands
        .follow(&ctx, bob.id, Some(true))
        .await
        .unwrap();
    let again = world
        .commands
        .follow(&ctx, bob.id, Some(true))
        .await
        .unwrap();
    assert!(!first.replayed && again.replayed);
    assert_eq!(
        (again.result, again.position),
        (first.result, first.position)
    );
    assert_eq!(world.count("user.followed"), 1);
}

#[tokio::test]
async fn another_content_under_the_key_is_refused() {
    let world = World::new();
    let (ada, bob) = (world.person("ada").await, world.person("bob").await);
    world
        .commands
        .follow(&by(&ada).with_key("k", 1), bob.id, None)
        .await
        .unwrap();
    let other = world
        .commands
        .follow(&by(&ada).with_key("k", 2), bob.id, None)
        .await;
    assert_eq!(refusal(other).0, 422);
}

#[tokio::test]
async fn keys_are_ones_own() {
    let world = World::new();
    let (ada, bob, eve) = (
        world.person("ada").await,
        world.person("bob").await,
        world.person("eve").await,
    );
    for follower in [&ada, &eve] {
        let ctx = by(follower).with_key("k", 1);
        let done = world.commands.follow(&ctx, bob.id, None).await.unwrap();
        assert!(!done.replayed);
        assert_eq!(done.result.follower_id, follower.id);
    }
}

#[tokio::test]
async fn a_replay_does_not_depend_on_what_changed_since() {
    let world = World::new();
    let (ada, bob) = (world.person("ada").await, world.person("bob").await);
    let post = world.post(&ada, Visibility::Public).await;
    let like = by(&bob).with_key("like", 1);
    let comment = by(&bob).with_key("comment", 1);
    let delete = by(&ada).with_key("delete", 1);
    let liked = world.commands.toggle_like(&like, post.id).await.unwrap();
    let said = world
        .commands
        .comment(&comment, post.id, "Nice".into())
        .await
        .unwrap();
    world.commands.delete_post(&delete, post.id).await.unwrap();

    let again = world.commands.toggle_like(&like, post.id).await.unwrap();
    assert_eq!((again.result, again.replayed), (liked.result, true));
    let again = world
        .commands
        .comment(&comment, post.id, "Nice".into())
        .await
        .unwrap();
    assert_eq!((again.result, again.replayed), (said.result, true));
    assert!(
        world
            .commands
            .delete_post(&delete, post.id)
            .await
            .unwrap()
            .replayed
    );
}

#[tokio::test]
async fn a_command_that_changes_nothing_keeps_its_answer_too() {
    let world = World::new();
    let ada = world.person("ada").await;
    let post = world.post(&ada, Visibility::Public).await;
    let ctx = by(&ada).with_key("k", 1);
    let before = world.event_types();
    let first = world.commands.set_like(&ctx, post.id, false).await.unwrap();
    assert_eq!(world.event_types(), before);
    // Liked since: the stored answer still says what it said.
    world
        .commands
        .set_like(&by(&ada), post.id, true)
        .await
        .unwrap();
    let again = world.commands.set_like(&ctx, post.id, false).await.unwrap();
    assert_eq!((again.result, again.replayed), (first.result, true));
    assert_eq!(again.position, first.position);
}

#[tokio::test]
async fn refusals_are_not_kept() {
    let world = World::new();
    let (ada, bob) = (world.person("ada").await, world.person("bob").await);
    let ctx = by(&ada).with_key("k", 1);
    let refused = world.commands.unfollow(&ctx, bob.id).await;
    assert_eq!(refusal(refused), (400, "Not following".to_owned()));
    world
        .commands
        .follow(&by(&ada), bob.id, None)
        .await
        .unwrap();
    assert!(
        !world
            .commands
            .unfollow(&ctx, bob.id)
            .await
            .unwrap()
            .replayed
    );
}

#[tokio::test]
async fn a_key_is_free_again_after_503() {
    let world = World::new();
    let (ada, bob) = (world.person("ada").await, world.person("bob").await);
    let ctx = by(&ada).with_key("k", 1);
    world.log.fail_next(AppendError::Unavailable("full".into()));
    assert_eq!(
        refusal(world.commands.follow(&ctx, bob.id, None).await).0,
        503
    );
    assert!(
        !world
            .commands
            .follow(&ctx, bob.id, None)
            .await
            .unwrap()
            .replayed
    );
}

#[tokio::test]
async fn after_504_the_same_key_gives_the_true_answer() {
    let world = World::new();
    let (ada, bob) = (world.person("ada").await, world.person("bob").await);
    let ctx = by(&ada).with_key("k", 1);
    world.log.lose_next_outcome();
    assert_eq!(
        refusal(world.commands.follow(&ctx, bob.id, None).await).0,
        504
    );
    let done = world.commands.follow(&ctx, bob.id, None).await.unwrap();
    assert!(done.replayed && done.result.is_active);
    assert_eq!(world.count("user.followed"), 1);
}

#[tokio::test]
async fn while_it_runs_a_second_is_told_so() {
    let world = World::new();
    let ada = world.person("ada").await;
    let post = world.post(&ada, Visibility::Public).await;
    let ctx = by(&ada).with_key("k", 1);
    world.counts.shut();
    let first = tokio::spawn({
        let (commands, ctx) = (world.commands.clone(), ctx.clone());
        async move { commands.toggle_like(&ctx, post.id).await }
    });
    world
        .counts
        .waiting
        .subscribe()
        .wait_for(|waiting| *waiting == 1)
        .await
        .unwrap();
    let second = world.commands.toggle_like(&ctx, post.id).await;
    assert!(matches!(second, Err(CommandError::StillRunning)));
    world.counts.open();
    let first = first.await.unwrap().unwrap();
    let third = world.commands.toggle_like(&ctx, post.id).await.unwrap();
    assert_eq!((third.result, third.replayed), (first.result, true));
}

#[tokio::test]
async fn a_request_that_is_cut_off_gives_its_key_back() {
    let world = World::new();
    let ada = world.person("ada").await;
    let post = world.post(&ada, Visibility::Public).await;
    let ctx = by(&ada).with_key("k", 1);
    world.counts.shut();
    let cut_off = tokio::spawn({
        let (commands, ctx) = (world.commands.clone(), ctx.clone());
        async move { commands.toggle_like(&ctx, post.id).await }
    });
    world
        .counts
        .waiting
        .subscribe()
        .wait_for(|waiting| *waiting == 1)
        .await
        .unwrap();
    cut_off.abort();
    assert!(cut_off.await.unwrap_err().is_cancelled());
    world.counts.open();
    let done = world.commands.toggle_like(&ctx, post.id).await.unwrap();
    assert!(done.result.liked && !done.replayed);
}

/// The refusal would only say that the winner was faster: a retry must see the winner's answer instead.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_processes_with_one_key_give_one_answer() {
    for _ in 0..50 {
        let world = World::new();
        let (ada, bob) = (world.person("ada").await, world.person("bob").await);
        let processes = [world.another_process(), world.another_process()];
        let tries = processes.map(|commands| {
            let (ctx, target) = (by(&ada).with_key("k", 1), bob.id);
            tokio::spawn(async move { commands.follow(&ctx, target, None).await })
        });
        let mut answers = Vec::new();
        for outcome in tries {
            answers.push(outcome.await.unwrap().unwrap());
        }
        assert_eq!(answers[0].result, answers[1].result);
        assert_eq!(answers[0].position, answers[1].position);
        assert!(answers[0].replayed != answers[1].replayed);
        assert_eq!(world.count("user.followed"), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_processes_sign_one_person_up_under_one_key() {
    for _ in 0..50 {
        let world = World::new();
        let processes = [world.another_process(), world.another_process()];
        let tries = processes.map(|commands| {
            tokio::spawn(async move {
                let ctx = CommandContext::default().with_key("k", 1);
                commands
                    .sign_up(&ctx, crate::support::new_person("ada"))
                    .await
            })
        });
        let mut people = Vec::new();
        for outcome in tries {
            people.push(outcome.await.unwrap().unwrap().result.user);
        }
        assert_eq!(people[0], people[1]);
        assert_eq!(world.count("user.registered"), 1);
    }
}
