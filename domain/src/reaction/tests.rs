//! Given/when/then tests of reactions.

use super::{Reaction, ReactionCommand, Wish};
use crate::{
    Event, PostId, Timestamp, UserId,
    event::{PostLiked, PostUnliked},
    testing::{given, id},
};

const POST: PostId = PostId(id(9));
const ADA: UserId = UserId(id(1));
const BOB: UserId = UserId(id(2));

fn wish(wish: Wish, at: i64) -> ReactionCommand {
    ReactionCommand {
        wish,
        post: POST,
        post_author: ADA,
        liker: BOB,
        liker_username: "bob".into(),
        at: Timestamp(at),
    }
}

fn liked(at: i64) -> Event {
    PostLiked {
        post_id: POST,
        post_author_id: ADA,
        liker_id: BOB,
        liker_username: "bob".into(),
        timestamp: Timestamp(at),
    }
    .into()
}

fn unliked(at: i64, original: i64) -> Event {
    PostUnliked {
        post_id: POST,
        post_author_id: ADA,
        liker_id: BOB,
        liker_username: "bob".into(),
        original_timestamp: Timestamp(original),
        timestamp: Timestamp(at),
    }
    .into()
}

#[test]
fn setting_what_is_set_changes_nothing() {
    given::<Reaction>([])
        .when(wish(Wish::Unlike, 1))
        .then_nothing()
        .when(wish(Wish::Like, 2))
        .then([liked(2)])
        .when(wish(Wish::Like, 3))
        .then_nothing();
}

#[test]
fn a_like_taken_back_says_when_it_was_given() {
    given::<Reaction>([liked(2), unliked(3, 2), liked(7)])
        .when(wish(Wish::Unlike, 8))
        .then([unliked(8, 7)])
        .when(wish(Wish::Unlike, 9))
        .then_nothing();
}

#[test]
fn toggling_turns_it_round() {
    given::<Reaction>([])
        .when(wish(Wish::Toggle, 1))
        .then([liked(1)])
        .when(wish(Wish::Toggle, 2))
        .then([unliked(2, 1)])
        .when(wish(Wish::Toggle, 3))
        .then([liked(3)]);
}
