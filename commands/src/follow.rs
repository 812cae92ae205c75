//! Use cases: following, changing and ending it.

use serde::{Deserialize, Serialize};
use socialhub_domain::{
    Timestamp, UserId,
    follow::{Follow, FollowCommand, Pair},
    user::User,
};

use crate::{
    Actor, CommandContext, CommandError, Commands, Done,
    executor::{Next, Target},
};

/// A follow relationship after a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowState {
    /// Who follows.
    pub follower_id: UserId,
    /// Who is followed.
    pub following_id: UserId,
    /// Whether they do now.
    pub is_active: bool,
    /// Whether they want to be told of new posts.
    pub notify: bool,
    /// Since when (of the last time it became active).
    pub created_at: Timestamp,
}

impl Commands {
    /// Follows a person. 404 `User not found`, 400 `Already following`, 400 `Cannot follow yourself`.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn follow(
        &self,
        ctx: &CommandContext,
        target: UserId,
        notify: Option<bool>,
    ) -> Result<Done<FollowState>, CommandError> {
        let notify = notify.unwrap_or(false);
        self.change(ctx, target, |pair, at| FollowCommand::Follow {
            pair,
            notify,
            at,
        })
        .await
    }

    /// Changes whether an existing follow notifies. 404 `User not found`, 400 `Not following`.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn change_follow(
        &self,
        ctx: &CommandContext,
        target: UserId,
        notify: bool,
    ) -> Result<Done<FollowState>, CommandError> {
        self.change(ctx, target, |pair, at| FollowCommand::ChangeNotify {
            pair,
            notify,
            at,
        })
        .await
    }

    /// Ends a follow. 404 `User not found`, 400 `Not following`.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn unfollow(
        &self,
        ctx: &CommandContext,
        target: UserId,
    ) -> Result<Done<FollowState>, CommandError> {
        self.change(ctx, target, |pair, at| FollowCommand::Unfollow { pair, at })
            .await
    }

    /// Any of the three, on the stream of the actor and a person who must be there.
    async fn change(
        &self,
        ctx: &CommandContext,
        target: UserId,
        command: impl Fn(Pair, Timestamp) -> FollowCommand + Send + Sync,
    ) -> Result<Done<FollowState>, CommandError> {
        let actor = ctx.actor()?;
        let person = User::stream(target);
        let place = Target::existing(Follow::stream(actor.id, target)).looking_at(person.clone());
        let run = self.execute::<Follow, _>(
            ctx,
            place,
            |_, loaded, at| match loaded.state::<User>(&person)?.flatten() {
                Some(person) if person.erased => Err(CommandError::NO_USER),
                None => Err(CommandError::NO_USER),
                Some(_) => Ok(Next::Decide(command(pair(actor, target), at))),
            },
            |relation, _| FollowState {
                follower_id: actor.id,
                following_id: target,
                is_active: relation.is_some_and(|relation| relation.active),
                notify: relation.is_some_and(|relation| relation.notify),
                created_at: relation.map_or_else(Timestamp::default, |relation| relation.since),
            },
        );
        self.idempotent(ctx, run).await
    }
}

fn pair(actor: &Actor, following: UserId) -> Pair {
    Pair {
        follower: actor.id,
        follower_username: actor.username.clone(),
        following,
    }
}
