//! Use case: an author deletes a post.

use socialhub_domain::{
    PostId,
    post::{Post, PostCommand},
};

use crate::{
    CommandContext, CommandError, Commands, Done,
    executor::{Next, Target},
    visibility::{self, Sight},
};

impl Commands {
    /// Deletes an own post. 404 `Post not found` (also when not visible to the actor), 403 for another's.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn delete_post(
        &self,
        ctx: &CommandContext,
        post: PostId,
    ) -> Result<Done<()>, CommandError> {
        let actor = ctx.actor()?;
        let run = self.execute::<Post, _>(
            ctx,
            Target::existing(Post::stream(post)),
            |state, loaded, at| match visibility::look(*state, actor.id, loaded)? {
                Sight::Seen(_) => Ok(Next::Decide(PostCommand::Delete { by: actor.id, at })),
                Sight::Unseen => Err(CommandError::NO_POST),
                Sight::Depends(stream) => Ok(Next::Load(stream)),
            },
            |_, _| (),
        );
        let done = self.idempotent(ctx, run).await?;
        // The post is gone, whatever becomes of its files: they are served no more, and a sweeper follows.
        if let Err(error) = self.ports.media.remove_post(post).await {
            tracing::warn!(%post, %error, "the files of a deleted post could not be removed");
        }
        Ok(done)
    }
}
