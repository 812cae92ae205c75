//! The `follow` aggregate: one person's following of another, on a stream of the two, so that a person whom many
//! follow is no hot spot. Ending it keeps the history; following again reactivates it.

#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::{
    Aggregate, Event, StreamId, Timestamp, UserId,
    event::{UserFollowChanged, UserFollowed, UserUnfollowed},
};

/// The decider of follows.
#[derive(Debug, Clone, Copy)]
pub struct Follow;

/// What became of a follow that was begun at least once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Relation {
    /// Whether it is on now.
    pub active: bool,
    /// Whether the follower wants to be told of new posts.
    pub notify: bool,
    /// When it last became active.
    pub since: Timestamp,
}

/// Who follows whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Who follows.
    pub follower: UserId,
    /// Their username, kept in the events.
    pub follower_username: String,
    /// Who is followed.
    pub following: UserId,
}

/// What may be asked of a follow.
#[derive(Debug, Clone)]
pub enum FollowCommand {
    /// Begin, or begin again.
    Follow {
        /// Who whom.
        pair: Pair,
        /// Whether to be told of new posts.
        notify: bool,
        /// When.
        at: Timestamp,
    },
    /// Change whether to be told of new posts.
    ChangeNotify {
        /// Who whom.
        pair: Pair,
        /// Whether to be told of new posts.
        notify: bool,
        /// When.
        at: Timestamp,
    },
    /// End.
    Unfollow {
        /// Who whom.
        pair: Pair,
        /// When.
        at: Timestamp,
    },
}

/// Why a follow said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// Nobody follows themselves.
    #[error("Cannot follow yourself")]
    Oneself,
    /// It is on already.
    #[error("Already following")]
    AlreadyFollowing,
    /// It is not on.
    #[error("Not following")]
    NotFollowing,
}

impl Follow {
    /// The stream of a pair.
    pub fn stream(follower: UserId, following: UserId) -> StreamId {
        StreamId::new(Self::TYPE, format_args!("{follower}:{following}"))
    }
}

fn active(state: Option<Relation>) -> Result<Relation, FollowError> {
    state
        .filter(|relation| relation.active)
        .ok_or(FollowError::NotFollowing)
}

fn follow(
    state: Option<Relation>,
    pair: Pair,
    notify: bool,
    at: Timestamp,
) -> Result<Vec<Event>, FollowError> {
    if pair.follower == pair.following {
        return Err(FollowError::Oneself);
    }
    if active(state).is_ok() {
        return Err(FollowError::AlreadyFollowing);
    }
    let event = UserFollowed {
        follower_id: pair.follower,
        following_id: pair.following,
        follower_username: pair.follower_username,
        notify,
        timestamp: at,
    };
    Ok(vec![event.into()])
}

fn change(
    state: Option<Relation>,
    pair: Pair,
    notify: bool,
    at: Timestamp,
) -> Result<Vec<Event>, FollowError> {
    if active(state)?.notify == notify {
        return Ok(Vec::new());
    }
    let event = UserFollowChanged {
        follower_id: pair.follower,
        following_id: pair.following,
        follower_username: pair.follower_username,
        notify,
        timestamp: at,
    };
    Ok(vec![event.into()])
}

fn unfollow(state: Option<Relation>, pair: Pair, at: Timestamp) -> Result<Vec<Event>, FollowError> {
    let event = UserUnfollowed {
        follower_id: pair.follower,
        following_id: pair.following,
        follower_username: pair.follower_username,
        notify: active(state)?.notify,
        timestamp: at,
    };
    Ok(vec![event.into()])
}

impl Aggregate for Follow {
    const TYPE: &'static str = "follow";
    /// None when it was never begun.
    type State = Option<Relation>;
    type Command = FollowCommand;
    type Error = FollowError;

    fn decide(state: &Self::State, command: FollowCommand) -> Result<Vec<Event>, FollowError> {
        match command {
            FollowCommand::Follow { pair, notify, at } => follow(*state, pair, notify, at),
            FollowCommand::ChangeNotify { pair, notify, at } => change(*state, pair, notify, at),
            FollowCommand::Unfollow { pair, at } => unfollow(*state, pair, at),
        }
    }

    fn evolve(state: &mut Self::State, event: &Event) {
        match (state.as_mut(), event) {
            (_, Event::UserFollowed(e)) => {
                *state = Some(Relation {
                    active: true,
                    notify: e.notify,
                    since: e.timestamp,
                });
            }
            (Some(relation), Event::UserFollowChanged(e)) => relation.notify = e.notify,
            (Some(relation), Event::UserUnfollowed(_)) => relation.active = false,
            _ => {}
        }
    }
}
