//! Use cases: liking and unliking.

use serde::{Deserialize, Serialize};
use socialhub_domain::{
    PostId,
    post::Post,
    reaction::{Reaction, ReactionCommand, Wish},
};

use crate::{
    CommandContext, CommandError, Commands, Done, executor::Target, visibility::with_visible_post,
};

/// A reaction after a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Liked {
    /// Whether the actor likes the post now.
    pub liked: bool,
    /// The post's likes as the read model has them now.
    pub like_count: u64,
}

impl Commands {
    /// Likes, or takes the like back. 404 `Post not found`.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn toggle_like(
        &self,
        ctx: &CommandContext,
        post: PostId,
    ) -> Result<Done<Liked>, CommandError> {
        self.react(ctx, post, Wish::Toggle).await
    }

    /// Sets the like; setting what is set changes nothing and succeeds.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn set_like(
        &self,
        ctx: &CommandContext,
        post: PostId,
        liked: bool,
    ) -> Result<Done<Liked>, CommandError> {
        let wish = if liked { Wish::Like } else { Wish::Unlike };
        self.react(ctx, post, wish).await
    }

    async fn react(
        &self,
        ctx: &CommandContext,
        post: PostId,
        wish: Wish,
    ) -> Result<Done<Liked>, CommandError> {
        let actor = ctx.actor()?;
        let run = async {
            // Read before the commit: a count that cannot be read must not turn a done like into a 503.
            let like_count = self.ports.like_counts.like_count(post, actor.id).await?;
            let target =
                Target::existing(Reaction::stream(post, actor.id)).looking_at(Post::stream(post));
            self.execute::<Reaction, _>(
                ctx,
                target,
                |_, loaded, at| {
                    with_visible_post(loaded, post, actor.id, |post| ReactionCommand {
                        wish,
                        post: post.id,
                        post_author: post.author,
                        liker: actor.id,
                        liker_username: actor.username.clone(),
                        at,
                    })
                },
                |state, _| Liked {
                    liked: state.liked_at.is_some(),
                    like_count,
                },
            )
            .await
        };
        self.idempotent(ctx, run).await
    }
}
