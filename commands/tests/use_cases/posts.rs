//! Posts, their files, who sees them, comments.

use bytes::Bytes;
use socialhub_commands::{
    CommandError, Commands,
    create_post::{CreatePost, PostDraft},
    ports::UploadError,
};
use socialhub_domain::{CommentId, event::Visibility, testing::id};
use socialhub_event_log::AppendError;

use crate::support::{WithKey, World, bad_fields, by, refusal};

fn text(content: &str) -> CreatePost {
    CreatePost {
        content: content.into(),
        visibility: Visibility::Public,
    }
}

/// A draft with so many files.
async fn draft(commands: &Commands, files: usize) -> PostDraft {
    let mut draft = commands.draft_post();
    for index in 0..files {
        let mut upload = draft.begin_file().await.expect("has room");
        let chunk = Bytes::from_static(b"picture");
        upload.write(chunk).await.expect("is taken");
        let file = upload.finish().await.expect("is complete");
        draft.add_file(index, file);
    }
    draft
}

#[tokio::test]
async fn a_post_names_its_files_in_order() {
    let world = World::new();
    let ada = world.person("ada").await;
    let mut post = world.commands.draft_post();
    let first = post.begin_file().await.unwrap().finish().await.unwrap();
    let second = post.begin_file().await.unwrap().finish().await.unwrap();
    post.add_file(1, second);
    post.add_file(0, first);
    let done = world
        .commands
        .create_post(&by(&ada), post, text(""))
        .await
        .unwrap();
    let urls: Vec<_> = done.result.media.iter().map(|file| &file.url).collect();
    assert_eq!(
        urls,
        [
            &format!("/media/{}/0", done.result.id),
            &format!("/media/{}/1", done.result.id)
        ]
    );
    assert_eq!(world.media.count(), 2);
}

#[tokio::test]
async fn empty_posts_need_files() {
    let world = World::new();
    let ada = world.person("ada").await;
    for content in ["", "  \n", &"x".repeat(10_001)] {
        let post = world.commands.draft_post();
        let outcome = world
            .commands
            .create_post(&by(&ada), post, text(content))
            .await;
        assert_eq!(bad_fields(outcome), ["content".to_owned()].into());
    }
    let post = draft(&world.commands, 1).await;
    world
        .commands
        .create_post(&by(&ada), post, text(""))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_eleventh_file_is_too_many() {
    let world = World::new();
    let post = draft(&world.commands, 10).await;
    let Err(UploadError::TooLarge(message)) = post.begin_file().await else {
        panic!("the eleventh file was taken");
    };
    assert!(message.contains("10"), "{message}");
    drop(post);
    world.media.emptied().await;
}

#[tokio::test]
async fn a_refused_post_leaves_no_file() {
    let world = World::new();
    let ada = world.person("ada").await;
    let post = draft(&world.commands, 2).await;
    let refused = world
        .commands
        .create_post(&by(&ada), post, text(&"x".repeat(10_001)))
        .await;
    assert_eq!(refusal(refused).0, 400);
    assert_eq!(world.media.count(), 0);

    world.log.fail_next(AppendError::Unavailable("full".into()));
    let post = draft(&world.commands, 2).await;
    let refused = world.commands.create_post(&by(&ada), post, text("x")).await;
    assert_eq!(refusal(refused).0, 503);
    assert_eq!(world.media.count(), 0);
}

#[tokio::test]
async fn an_abandoned_draft_leaves_no_file() {
    let world = World::new();
    drop(draft(&world.commands, 3).await);
    world.media.emptied().await;
}

#[tokio::test]
async fn a_replay_removes_the_second_set_of_files() {
    let world = World::new();
    let ada = world.person("ada").await;
    let ctx = by(&ada).with_key("k", 1);
    let first = world
        .commands
        .create_post(&ctx, draft(&world.commands, 2).await, text("x"))
        .await
        .unwrap();
    let again = world
        .commands
        .create_post(&ctx, draft(&world.commands, 2).await, text("x"))
        .await
        .unwrap();
    assert_eq!(again.result, first.result);
    assert_eq!(world.media.count(), 2);
    assert_eq!(world.count("post.created"), 1);
}

#[tokio::test]
async fn an_unknown_outcome_removes_no_file() {
    let world = World::new();
    let ada = world.person("ada").await;
    let ctx = by(&ada).with_key("k", 1);
    world.log.lose_next_outcome();
    let lost = world
        .commands
        .create_post(&ctx, draft(&world.commands, 2).await, text("x"))
        .await;
    assert_eq!(refusal(lost).0, 504);
    assert_eq!(world.media.count(), 2);
    let post = draft(&world.commands, 2).await;
    let done = world
        .commands
        .create_post(&ctx, post, text("x"))
        .await
        .unwrap();
    assert!(done.replayed);
    assert_eq!(world.media.count(), 2);
}

#[tokio::test]
async fn deleting_a_post_removes_its_files() {
    let world = World::new();
    let (ada, bob) = (world.person("ada").await, world.person("bob").await);
    let post = draft(&world.commands, 2).await;
    let post = world
        .commands
        .create_post(&by(&ada), post, text("x"))
        .await
        .unwrap()
        .result
        .id;
    let not_theirs = world.commands.delete_post(&by(&bob), post).await;
    assert_eq!(refusal(not_theirs).0, 403);
    assert_eq!(world.media.count(), 2);
    world.commands.delete_post(&by(&ada), post).await.unwrap();
    assert_eq!(world.media.count(), 0);
    let twice = world.commands.delete_post(&by(&ada), post).await;
    assert_eq!(refusal(twice), (404, "Post not found".to_owned()));
}

/// Everything done to posts sees the same posts.
#[tokio::test]
async fn what_one_may_not_see_is_not_there() {
    let world = World::new();
    let (ada, bob) = (world.person("ada").await, world.person("bob").await);
    let commands = &world.commands;
    let not_found = (404, "Post not found".to_owned());
    for visibility in [Visibility::Followers, Visibility::Private] {
        let post = world.post(&ada, visibility).await.id;
        assert_eq!(
            refusal(commands.toggle_like(&by(&bob), post).await),
            not_found
        );
        assert_eq!(
            refusal(commands.comment(&by(&bob), post, "x".into()).await),
            not_found
        );
        assert_eq!(
            refusal(commands.delete_post(&by(&bob), post).await),
            not_found
        );
        commands.toggle_like(&by(&ada), post).await.unwrap();
        commands.comment(&by(&ada), post, "x".into()).await.unwrap();
    }
}

#[tokio::test]
async fn followers_see_what_is_for_followers_while_they_follow() {
    let world = World::new();
    let (ada, bob) = (world.person("ada").await, world.person("bob").await);
    let (commands, ctx) = (&world.commands, by(&bob));
    let post = world.post(&ada, Visibility::Followers).await.id;
    let private = world.post(&ada, Visibility::Private).await.id;
    commands.follow(&ctx, ada.id, None).await.unwrap();
    commands.toggle_like(&ctx, post).await.unwrap();
    assert_eq!(refusal(commands.delete_post(&ctx, post).await).0, 403);
    assert_eq!(refusal(commands.toggle_like(&ctx, private).await).0, 404);
    let comment = commands
        .comment(&ctx, post, "Nice".into())
        .await
        .unwrap()
        .result
        .id;
    commands.unfollow(&ctx, ada.id).await.unwrap();
    assert_eq!(refusal(commands.toggle_like(&ctx, post).await).0, 404);
    // One's own words one may always take back.
    commands.delete_comment(&ctx, post, comment).await.unwrap();
}

#[tokio::test]
async fn the_rules_of_comments() {
    let world = World::new();
    let (ada, bob, eve) = (
        world.person("ada").await,
        world.person("bob").await,
        world.person("eve").await,
    );
    let commands = &world.commands;
    let post = world.post(&ada, Visibility::Public).await.id;
    for bad in ["", " ", &"x".repeat(2_001)] {
        let outcome = commands.comment(&by(&bob), post, bad.into()).await;
        assert_eq!(bad_fields(outcome), ["comment".to_owned()].into());
    }
    let not_found = (404, "Comment not found".to_owned());
    let unknown = commands
        .delete_comment(&by(&bob), post, CommentId(id(99)))
        .await;
    assert_eq!(refusal(unknown), not_found);
    for by_whom in [&ada, &bob] {
        let comment = commands
            .comment(&by(&bob), post, "Nice".into())
            .await
            .unwrap()
            .result;
        assert_eq!((comment.user_id, comment.post_id), (bob.id, post));
        let others = commands.delete_comment(&by(&eve), post, comment.id).await;
        assert_eq!(refusal(others).0, 403);
        let elsewhere = world.post(&ada, Visibility::Public).await.id;
        let misplaced = commands
            .delete_comment(&by(&bob), elsewhere, comment.id)
            .await;
        assert_eq!(refusal(misplaced), not_found);
        commands
            .delete_comment(&by(by_whom), post, comment.id)
            .await
            .unwrap();
        let twice = commands
            .delete_comment(&by(by_whom), post, comment.id)
            .await;
        assert_eq!(refusal(twice), not_found);
    }
}

#[tokio::test]
async fn a_deleted_post_takes_its_comments_with_it() {
    let world = World::new();
    let ada = world.person("ada").await;
    let commands = &world.commands;
    let post = world.post(&ada, Visibility::Public).await.id;
    let comment = commands
        .comment(&by(&ada), post, "x".into())
        .await
        .unwrap()
        .result
        .id;
    commands.delete_post(&by(&ada), post).await.unwrap();
    for gone in [
        commands
            .delete_comment(&by(&ada), post, comment)
            .await
            .map(drop),
        commands
            .comment(&by(&ada), post, "x".into())
            .await
            .map(drop),
        commands.toggle_like(&by(&ada), post).await.map(drop),
    ] {
        assert!(matches!(gone, Err(CommandError::NotFound(_))));
    }
}
