//! Given/when/then tests of follows.

use super::{Follow, FollowCommand, FollowError, Pair};
use crate::{
    Event, Timestamp, UserId,
    event::{UserFollowChanged, UserFollowed, UserUnfollowed},
    testing::{given, id},
};

const ADA: UserId = UserId(id(1));
const BOB: UserId = UserId(id(2));

fn pair() -> Pair {
    Pair {
        follower: ADA,
        follower_username: "ada".into(),
        following: BOB,
    }
}

fn follow(notify: bool, at: i64) -> FollowCommand {
    FollowCommand::Follow {
        pair: pair(),
        notify,
        at: Timestamp(at),
    }
}

fn change(notify: bool, at: i64) -> FollowCommand {
    FollowCommand::ChangeNotify {
        pair: pair(),
        notify,
        at: Timestamp(at),
    }
}

fn unfollow(at: i64) -> FollowCommand {
    FollowCommand::Unfollow {
        pair: pair(),
        at: Timestamp(at),
    }
}

fn followed(notify: bool, at: i64) -> Event {
    UserFollowed {
        follower_id: ADA,
        following_id: BOB,
        follower_username: "ada".into(),
        notify,
        timestamp: Timestamp(at),
    }
    .into()
}

fn changed(notify: bool, at: i64) -> Event {
    UserFollowChanged {
        follower_id: ADA,
        following_id: BOB,
        follower_username: "ada".into(),
        notify,
        timestamp: Timestamp(at),
    }
    .into()
}

fn unfollowed(notify: bool, at: i64) -> Event {
    UserUnfollowed {
        follower_id: ADA,
        following_id: BOB,
        follower_username: "ada".into(),
        notify,
        timestamp: Timestamp(at),
    }
    .into()
}

#[test]
fn following_once() {
    given::<Follow>([])
        .when(follow(true, 1))
        .then([followed(true, 1)])
        .when(follow(true, 2))
        .then_error(FollowError::AlreadyFollowing);
}

#[test]
fn nobody_follows_themselves() {
    let pair = Pair {
        following: ADA,
        ..pair()
    };
    given::<Follow>([])
        .when(FollowCommand::Follow {
            pair,
            notify: false,
            at: Timestamp(1),
        })
        .then_error(FollowError::Oneself);
}

#[test]
fn following_again_reactivates() {
    given::<Follow>([followed(true, 1)])
        .when(unfollow(2))
        .then([unfollowed(true, 2)])
        .when(follow(false, 3))
        .then([followed(false, 3)])
        .when(follow(false, 4))
        .then_error(FollowError::AlreadyFollowing);
}

#[test]
fn only_an_active_follow_ends() {
    given::<Follow>([])
        .when(unfollow(1))
        .then_error(FollowError::NotFollowing);
    given::<Follow>([followed(true, 1), unfollowed(true, 2)])
        .when(unfollow(3))
        .then_error(FollowError::NotFollowing);
}

#[test]
fn the_wish_to_be_told_changes_only_when_it_does() {
    given::<Follow>([followed(false, 1)])
        .when(change(true, 2))
        .then([changed(true, 2)])
        .when(change(true, 3))
        .then_nothing()
        .when(unfollow(4))
        .then([unfollowed(true, 4)]);
}

#[test]
fn only_an_active_follow_changes() {
    given::<Follow>([])
        .when(change(true, 1))
        .then_error(FollowError::NotFollowing);
    given::<Follow>([followed(true, 1), unfollowed(true, 2)])
        .when(change(false, 3))
        .then_error(FollowError::NotFollowing);
}

#[test]
fn the_stream_is_named_after_both() {
    let name = Follow::stream(ADA, BOB).to_string();
    assert_eq!(name, format!("follow/{ADA}:{BOB}"));
}
