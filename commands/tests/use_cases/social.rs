//! Following, liking, marks on notifications.

use std::sync::atomic::Ordering;

use socialhub_commands::CommandContext;
use socialhub_domain::{NotificationId, PostId, UserId, event::Visibility, testing::id};
use socialhub_event_log::AppendError;

use crate::support::{World, by, refusal};

const NOBODY: UserId = UserId(id(u128::MAX));

#[tokio::test]
async fn nothing_goes_without_a_token() {
    let world = World::new();
    let ada = world.person("ada").await;
    let nobody = CommandContext::default();
    let outcome = world.commands.follow(&nobody, ada.id, None).await;
    assert_eq!(refusal(outcome), (401, "Unauthorized".to_owned()));
}

#[tokio::test]
async fn the_rules_of_following() {
    let world = World::new();
    let (ada, bob) = (world.person("ada").await, world.person("bob").await);
    let (commands, ctx) = (&world.commands, by(&ada));
    let no = |status, text: &str| (status, text.to_owned());

    let unknown = no(404, "User not found");
    assert_eq!(refusal(commands.follow(&ctx, NOBODY, None).await), unknown);
    assert_eq!(refusal(commands.unfollow(&ctx, NOBODY).await), unknown);
    assert_eq!(
        refusal(commands.change_follow(&ctx, NOBODY, true).await),
        unknown
    );
    let oneself = commands.follow(&ctx, ada.id, None).await;
    assert_eq!(refusal(oneself), no(400, "Cannot follow yourself"));
    let not_yet = commands.unfollow(&ctx, bob.id).await;
    assert_eq!(refusal(not_yet), no(400, "Not following"));

    let first = commands.follow(&ctx, bob.id, None).await.unwrap().result;
    assert!(first.is_active && !first.notify);
    let twice = commands.follow(&ctx, bob.id, None).await;
    assert_eq!(refusal(twice), no(400, "Already following"));
    let told = commands
        .change_follow(&ctx, bob.id, true)
        .await
        .unwrap()
        .result;
    assert!(told.notify);
    assert_eq!(told.created_at, first.created_at);
    let ended = commands.unfollow(&ctx, bob.id).await.unwrap().result;
    assert!(!ended.is_active);
    let again = commands
        .follow(&ctx, bob.id, Some(true))
        .await
        .unwrap()
        .result;
    assert!(again.is_active && again.notify && again.created_at > first.created_at);
}

#[tokio::test]
async fn events_carry_who_and_what_caused_them() {
    let world = World::new();
    let (ada, bob) = (world.person("ada").await, world.person("bob").await);
    let ctx = CommandContext {
        traceparent: Some("00-trace".into()),
        ..by(&ada)
    };
    let done = world.commands.follow(&ctx, bob.id, None).await.unwrap();
    let events = world.log.events();
    let event = events.last().unwrap();
    assert_eq!(event.position, done.position);
    assert_eq!(event.metadata.actor, Some(ada.id));
    assert_eq!(event.metadata.correlation_id.as_deref(), Some("request-1"));
    assert_eq!(event.metadata.traceparent.as_deref(), Some("00-trace"));
    assert!(event.metadata.causation_id.is_some());
    assert_eq!(event.metadata.occurred_at, done.result.created_at);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_at_once_one_follows() {
    let world = World::new();
    let (ada, bob) = (world.person("ada").await, world.person("bob").await);
    let other = world.another_process();
    let tries = (0..100).map(|nth| {
        let commands = if nth % 2 == 0 {
            &world.commands
        } else {
            &other
        };
        let (commands, ctx, target) = (commands.clone(), by(&ada), bob.id);
        tokio::spawn(async move { commands.follow(&ctx, target, None).await })
    });
    let mut won = 0;
    for outcome in tries.collect::<Vec<_>>() {
        match outcome.await.unwrap() {
            Ok(_) => won += 1,
            refused => assert_eq!(refusal(refused).1, "Already following"),
        }
    }
    assert_eq!(won, 1);
    assert_eq!(world.count("user.followed"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn five_hundred_toggles_of_one_person() {
    let world = World::new();
    let ada = world.person("ada").await;
    let post = world.post(&ada, Visibility::Public).await;
    let tries = (0..500).map(|_| {
        let (commands, ctx) = (world.commands.clone(), by(&ada));
        tokio::spawn(async move { commands.toggle_like(&ctx, post.id).await })
    });
    let mut liked = 0;
    for outcome in tries.collect::<Vec<_>>() {
        liked += usize::from(outcome.await.unwrap().unwrap().result.liked);
    }
    assert_eq!(liked, 250);
    assert_eq!(world.count("post.liked"), 250);
    assert_eq!(world.count("post.unliked"), 250);
    let last = world.log.events().pop().unwrap();
    assert_eq!(last.event_type, "post.unliked");
}

#[tokio::test]
async fn setting_a_like_twice_is_setting_it_once() {
    let world = World::new();
    let ada = world.person("ada").await;
    let post = world.post(&ada, Visibility::Public).await;
    for liked in [true, true, false, false] {
        let done = world
            .commands
            .set_like(&by(&ada), post.id, liked)
            .await
            .unwrap();
        assert_eq!(done.result.liked, liked);
        assert_eq!(done.result.like_count, 7);
        assert_eq!(done.position, world.log.events().len() as u64);
    }
    assert_eq!(world.count("post.liked"), 1);
    assert_eq!(world.count("post.unliked"), 1);
}

/// 503 means certainly not applied: a count that cannot be read stops the like before it happens.
#[tokio::test]
async fn without_counts_nothing_is_liked() {
    let world = World::new();
    let ada = world.person("ada").await;
    let post = world.post(&ada, Visibility::Public).await;
    world.counts.down.store(true, Ordering::SeqCst);
    let outcome = world.commands.toggle_like(&by(&ada), post.id).await;
    assert_eq!(refusal(outcome).0, 503);
    assert_eq!(world.count("post.liked"), 0);
}

#[tokio::test]
async fn conflicts_are_tried_again_but_not_for_ever() {
    let world = World::new();
    let ada = world.person("ada").await;
    let post = world.post(&ada, Visibility::Public).await;
    let conflict = || AppendError::VersionConflict {
        expected: 0,
        actual: 1,
    };
    for _ in 0..19 {
        world.log.fail_next(conflict());
    }
    let done = world
        .commands
        .toggle_like(&by(&ada), post.id)
        .await
        .unwrap();
    assert!(done.result.liked);
    for _ in 0..20 {
        world.log.fail_next(conflict());
    }
    let outcome = world.commands.toggle_like(&by(&ada), post.id).await;
    assert_eq!(refusal(outcome).0, 409);
    assert_eq!(world.count("post.unliked"), 0);
}

#[tokio::test]
async fn notifications_are_their_owners() {
    let world = World::new();
    let (ada, bob) = (world.person("ada").await, world.person("bob").await);
    let note = NotificationId(id(77));
    world.notifications.owners.lock().insert(note, ada.id);
    let not_found = (404, "Notification not found".to_owned());
    let commands = &world.commands;
    assert_eq!(
        refusal(commands.mark_read(&by(&bob), note).await),
        not_found
    );
    assert_eq!(
        refusal(commands.delete_notification(&by(&bob), note).await),
        not_found
    );
    let unknown = NotificationId(id(78));
    assert_eq!(
        refusal(commands.mark_read(&by(&ada), unknown).await),
        not_found
    );

    commands.mark_read(&by(&ada), note).await.unwrap();
    commands.mark_read(&by(&ada), note).await.unwrap();
    commands.delete_notification(&by(&ada), note).await.unwrap();
    assert_eq!(
        refusal(commands.delete_notification(&by(&ada), note).await),
        not_found
    );
    assert_eq!(
        refusal(commands.mark_read(&by(&ada), note).await),
        not_found
    );
    assert_eq!(world.count("notification.read"), 1);
    assert_eq!(world.count("notification.deleted"), 1);
}

#[tokio::test]
async fn all_read_goes_as_far_as_the_model() {
    let world = World::new();
    let ada = world.person("ada").await;
    world.commands.mark_all_read(&by(&ada)).await.unwrap();
    assert_eq!(world.count("notification.all_read"), 0);
    world.notifications.position.store(5, Ordering::SeqCst);
    for _ in 0..2 {
        world.commands.mark_all_read(&by(&ada)).await.unwrap();
    }
    assert_eq!(world.count("notification.all_read"), 1);
    assert!(
        world
            .log
            .events()
            .pop()
            .unwrap()
            .payload
            .contains("\"upTo\":5")
    );
}

#[tokio::test]
async fn what_is_not_there_cannot_be_liked() {
    let world = World::new();
    let ada = world.person("ada").await;
    let outcome = world.commands.toggle_like(&by(&ada), PostId(id(99))).await;
    assert_eq!(refusal(outcome), (404, "Post not found".to_owned()));
}
