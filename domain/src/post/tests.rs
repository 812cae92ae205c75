//! Given/when/then tests of posts.

use super::{NewPost, Post, PostCommand, PostError, Written};
use crate::{
    Event, PostId, Timestamp, UserId,
    event::{PostCreated, PostDeleted, Visibility},
    testing::{given, id},
};

const POST: PostId = PostId(id(9));
const ADA: UserId = UserId(id(1));
const BOB: UserId = UserId(id(2));

fn create() -> PostCommand {
    PostCommand::Create {
        post: NewPost {
            id: POST,
            author: ADA,
            username: "ada".into(),
            content: "Hello".into(),
            visibility: Visibility::Followers,
            media: Vec::new(),
        },
        at: Timestamp(1),
    }
}

fn created() -> Event {
    PostCreated {
        post_id: POST,
        user_id: ADA,
        username: "ada".into(),
        content: "Hello".into(),
        visibility: Visibility::Followers,
        media: Vec::new(),
        timestamp: Timestamp(1),
    }
    .into()
}

fn delete(by: UserId) -> PostCommand {
    PostCommand::Delete {
        by,
        at: Timestamp(2),
    }
}

fn deleted() -> Event {
    PostDeleted {
        post_id: POST,
        user_id: ADA,
        timestamp: Timestamp(2),
    }
    .into()
}

#[test]
fn a_post_is_written_once() {
    given::<Post>([])
        .when(create())
        .then([created()])
        .when(create())
        .then_error(PostError::AlreadyExists);
    given::<Post>([created(), deleted()])
        .when(create())
        .then_error(PostError::AlreadyExists);
}

#[test]
fn its_author_deletes_it_once() {
    given::<Post>([created()])
        .when(delete(ADA))
        .then([deleted()])
        .when(delete(ADA))
        .then_error(PostError::NotFound);
}

#[test]
fn nobody_else_deletes_it() {
    given::<Post>([created()])
        .when(delete(BOB))
        .then_error(PostError::NotAuthor);
    given::<Post>([])
        .when(delete(ADA))
        .then_error(PostError::NotFound);
}

#[test]
fn who_may_see_it() {
    let post = |visibility, deleted| Written {
        id: POST,
        author: ADA,
        visibility,
        deleted,
    };
    for visibility in [
        Visibility::Public,
        Visibility::Followers,
        Visibility::Private,
    ] {
        assert!(post(visibility, false).is_visible_to(ADA, false));
        assert!(!post(visibility, true).is_visible_to(ADA, true));
    }
    assert!(post(Visibility::Public, false).is_visible_to(BOB, false));
    assert!(post(Visibility::Followers, false).is_visible_to(BOB, true));
    assert!(!post(Visibility::Followers, false).is_visible_to(BOB, false));
    assert!(!post(Visibility::Private, false).is_visible_to(BOB, true));
}
