//! The places that hold something of people, beside the log: how each erases it.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use socialhub_chat::{ChatLog, PresenceStore};
use socialhub_commands::ports::{Mailer, OtpStore, Tokens};
use socialhub_domain::{Event, PostId, Topic, UserId, post::Post};
use socialhub_event_log::{
    ERASED_EPOCH, Erasable, EventLog, NotErased, PendingErasure, RecordedEvent, credential_key,
};
use socialhub_infra::media::Media;
use socialhub_projections::{
    Projection,
    feed::{Feed, FeedReader},
    runtime::{GenerationState, ModelControl},
};

/// Posts whose files are removed at the same time; stores may be far away.
const SIDE_BY_SIDE: usize = 8;
/// Posts that are asked for at once.
const POSTS: usize = 500;

fn not_erased(error: impl std::fmt::Display) -> NotErased {
    NotErased(error.to_string())
}

/// The read models. Their projectors write the tombstones; here it is waited for that each has come to the erasure and
/// has not set it aside, and generations that never will are removed: those kept for a rollback, and what is left of a
/// killed rebuild.
pub struct ModelErasure(pub Vec<Arc<dyn ModelControl>>);

#[async_trait]
impl Erasable for ModelErasure {
    fn name(&self) -> &'static str {
        "read models"
    }

    async fn erase(&self, erasure: &PendingErasure) -> Result<(), NotErased> {
        for model in &self.0 {
            let mut outdated = false;
            for generation in model.generations().await.map_err(not_erased)? {
                let place = model.place(&generation).await.map_err(not_erased)?;
                let parked = generation.parked > 0
                    && model
                        .letters_of(generation.id)
                        .await
                        .map_err(not_erased)?
                        .iter()
                        .any(|letter| letter.position == erasure.position);
                if place >= erasure.position && !parked {
                    continue;
                }
                if generation.state == GenerationState::Current {
                    let (name, upto) = (model.name(), erasure.position);
                    let reason = if parked {
                        format!(
                            "`{name}` has parked the erasure at {upto}: run `socialhub replay dead-letters retry {name}`"
                        )
                    } else {
                        format!("`{name}` is at {place} and has not come to {upto}")
                    };
                    return Err(NotErased(reason));
                }
                outdated = true;
            }
            if outdated {
                // Refused while one is being filled, which will come to it by itself.
                model.prune().await.map_err(not_erased)?;
            }
            model.sweep().await.map_err(not_erased)?;
        }
        Ok(())
    }
}

/// Their tokens, in this process: it may not have been told, when they are erased again in a log that was brought back.
pub struct TokenErasure(pub Arc<dyn Tokens>);

#[async_trait]
impl Erasable for TokenErasure {
    fn name(&self) -> &'static str {
        "tokens"
    }

    async fn erase(&self, erasure: &PendingErasure) -> Result<(), NotErased> {
        self.0.raise_epoch(erasure.user_id, ERASED_EPOCH);
        Ok(())
    }
}

/// What they wrote in chats.
pub struct ChatErasure(pub Arc<dyn ChatLog>);

#[async_trait]
impl Erasable for ChatErasure {
    fn name(&self) -> &'static str {
        "chat"
    }

    async fn erase(&self, erasure: &PendingErasure) -> Result<(), NotErased> {
        self.0.erase(erasure.user_id).await.map_err(not_erased)
    }
}

/// Where they were in chats. Their sockets end by themselves: their tokens are dead.
pub struct PresenceErasure(pub Arc<dyn PresenceStore>);

#[async_trait]
impl Erasable for PresenceErasure {
    fn name(&self) -> &'static str {
        "presence"
    }

    async fn erase(&self, erasure: &PendingErasure) -> Result<(), NotErased> {
        self.0.erase(erasure.user_id).await.map_err(not_erased)
    }
}

/// The files of their posts. Which posts there are, the feed knows once it has come to the erasure, but for those that are
/// parked; whatever is posted later by a request that was under way, the sweeper finds.
pub struct MediaErasure {
    media: Arc<dyn Media>,
    feed: Arc<dyn FeedReader>,
    log: Arc<dyn EventLog>,
    /// Says when the feed has come to the erasure.
    models: Arc<ModelErasure>,
}

impl MediaErasure {
    /// Removes files from `media`.
    pub fn new(
        media: Arc<dyn Media>,
        feed: Arc<dyn FeedReader>,
        log: Arc<dyn EventLog>,
        models: Arc<ModelErasure>,
    ) -> Self {
        Self {
            media,
            feed,
            log,
            models,
        }
    }

    async fn remove(&self, posts: Vec<PostId>) -> Result<(), NotErased> {
        stream::iter(posts)
            .map(|post| self.media.remove_post(post))
            .buffer_unordered(SIDE_BY_SIDE)
            .try_for_each(|()| async { Ok(()) })
            .await
            .map_err(not_erased)
    }

    /// Those posts of a person of which the feed has parked something: it may not know them.
    async fn parked_posts_of(&self, user: UserId) -> Result<Vec<PostId>, NotErased> {
        let mut posts = HashSet::new();
        let models = self.models.0.iter();
        for feed in models.filter(|model| model.name() == Feed::NAME) {
            let letters = feed.letters().await.map_err(not_erased)?.into_iter();
            let about_posts = letters.filter(|letter| letter.topic == Topic::Post.name());
            posts.extend(about_posts.filter_map(|letter| letter.key.parse::<PostId>().ok()));
        }
        let mut theirs = Vec::new();
        for post in posts {
            let stream = self.log.read_stream(&Post::stream(post)).await;
            let written_by = |event: &RecordedEvent| match event.decode() {
                Ok(Event::PostCreated(post)) => Some(post.user_id),
                _ => event.metadata.actor,
            };
            if stream.map_err(not_erased)?.first().and_then(written_by) == Some(user) {
                theirs.push(post);
            }
        }
        Ok(theirs)
    }
}

#[async_trait]
impl Erasable for MediaErasure {
    fn name(&self) -> &'static str {
        "media"
    }

    async fn erase(&self, erasure: &PendingErasure) -> Result<(), NotErased> {
        self.models.erase(erasure).await?;
        self.remove(self.parked_posts_of(erasure.user_id).await?)
            .await?;
        let mut after = 0;
        loop {
            let posts = self
                .feed
                .all_posts_of(erasure.user_id, after, POSTS)
                .await
                .map_err(not_erased)?;
            let Some(last) = posts.last() else {
                return Ok(());
            };
            after = last.position;
            let posts: Vec<PostId> = posts.into_iter().map(|post| post.post_id).collect();
            self.remove(posts).await?;
        }
    }
}

/// Mails to them that are kept in files.
pub struct MailErasure(pub Arc<dyn Mailer>);

#[async_trait]
impl Erasable for MailErasure {
    fn name(&self) -> &'static str {
        "mails"
    }

    async fn erase(&self, erasure: &PendingErasure) -> Result<(), NotErased> {
        match &erasure.email {
            Some(email) => self.0.forget(email).await.map_err(not_erased),
            None => Ok(()),
        }
    }
}

/// A one-time code on its way to them.
pub struct CodeErasure(pub Arc<dyn OtpStore>);

#[async_trait]
impl Erasable for CodeErasure {
    fn name(&self) -> &'static str {
        "one-time codes"
    }

    async fn erase(&self, erasure: &PendingErasure) -> Result<(), NotErased> {
        match &erasure.email {
            Some(email) => self
                .0
                .burn(&credential_key(email))
                .await
                .map_err(not_erased),
            None => Ok(()),
        }
    }
}
