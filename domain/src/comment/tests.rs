//! Given/when/then tests of comments.

use super::{Comment, CommentCommand, CommentError, NewComment};
use crate::{
    CommentId, Event, PostId, Timestamp, UserId,
    event::{CommentDeleted, PostCommented},
    testing::{given, id},
};

const POST: PostId = PostId(id(9));
const OTHER_POST: PostId = PostId(id(10));
const COMMENT: CommentId = CommentId(id(11));
const ADA: UserId = UserId(id(1));
const BOB: UserId = UserId(id(2));
const EVE: UserId = UserId(id(3));

fn create() -> CommentCommand {
    CommentCommand::Create {
        comment: NewComment {
            id: COMMENT,
            post: POST,
            post_author: ADA,
            author: BOB,
            username: "bob".into(),
            text: "Nice".into(),
        },
        at: Timestamp(1),
    }
}

fn commented() -> Event {
    PostCommented {
        post_id: POST,
        comment_id: COMMENT,
        post_author_id: ADA,
        commenter_id: BOB,
        commenter_username: "bob".into(),
        comment: "Nice".into(),
        timestamp: Timestamp(1),
    }
    .into()
}

fn delete(post: PostId, by: UserId) -> CommentCommand {
    CommentCommand::Delete {
        post,
        by,
        at: Timestamp(2),
    }
}

fn deleted(by: UserId) -> Event {
    CommentDeleted {
        post_id: POST,
        comment_id: COMMENT,
        deleted_by: by,
        original_timestamp: Timestamp(1),
        timestamp: Timestamp(2),
    }
    .into()
}

#[test]
fn a_comment_is_written_once() {
    given::<Comment>([])
        .when(create())
        .then([commented()])
        .when(create())
        .then_error(CommentError::AlreadyExists);
}

#[test]
fn its_author_and_the_posts_delete_it() {
    for by in [ADA, BOB] {
        given::<Comment>([commented()])
            .when(delete(POST, by))
            .then([deleted(by)])
            .when(delete(POST, by))
            .then_error(CommentError::NotFound);
    }
}

#[test]
fn others_do_not() {
    given::<Comment>([commented()])
        .when(delete(POST, EVE))
        .then_error(CommentError::NotAllowed);
    given::<Comment>([commented(), deleted(ADA)])
        .when(delete(POST, EVE))
        .then_error(CommentError::NotFound);
}

#[test]
fn what_is_not_there_is_not_found() {
    given::<Comment>([])
        .when(delete(POST, ADA))
        .then_error(CommentError::NotFound);
    given::<Comment>([commented()])
        .when(delete(OTHER_POST, BOB))
        .then_error(CommentError::NotFound);
}
