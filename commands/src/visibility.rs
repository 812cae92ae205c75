//! Whether the actor may see a post: the precondition of everything done to posts. What they may not see is not there.

use socialhub_domain::{
    PostId, UserId,
    event::Visibility,
    follow::Follow,
    post::{Post, Written},
};

use crate::{
    CommandError,
    executor::{Loaded, Next},
};

/// Whether a post may be seen, as far as is known from what was loaded.
pub(crate) enum Sight {
    /// It is there and may be seen.
    Seen(Written),
    /// It is not there, or not for the actor.
    Unseen,
    /// It depends on a stream that is not loaded yet.
    Depends(socialhub_domain::StreamId),
}

/// Looks at a post with the actor's eyes.
pub(crate) fn look(
    post: Option<Written>,
    actor: UserId,
    loaded: &Loaded,
) -> Result<Sight, CommandError> {
    let Some(post) = post.filter(|post| !post.deleted) else {
        return Ok(Sight::Unseen);
    };
    let mut follows = false;
    if post.visibility == Visibility::Followers && post.author != actor {
        let stream = Follow::stream(actor, post.author);
        match loaded.state::<Follow>(&stream)? {
            None => return Ok(Sight::Depends(stream)),
            Some(relation) => follows = relation.is_some_and(|relation| relation.active),
        }
    }
    Ok(if post.is_visible_to(actor, follows) {
        Sight::Seen(post)
    } else {
        Sight::Unseen
    })
}

/// Goes on with a post that was loaded as a precondition, if the actor may see it.
pub(crate) fn with_visible_post<C>(
    loaded: &Loaded,
    post: PostId,
    actor: UserId,
    command: impl FnOnce(Written) -> C,
) -> Result<Next<C>, CommandError> {
    let state = loaded.state::<Post>(&Post::stream(post))?.flatten();
    match look(state, actor, loaded)? {
        Sight::Seen(post) => Ok(Next::Decide(command(post))),
        Sight::Unseen => Err(CommandError::NO_POST),
        Sight::Depends(stream) => Ok(Next::Load(stream)),
    }
}
