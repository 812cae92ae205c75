//! Use case: somebody writes a post, with or without files.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde::{Deserialize, Serialize};
use socialhub_domain::{
    PostId, Timestamp, UserId,
    event::{Media, Visibility},
    limits::FILES_MAX,
    post::{NewPost, Post, PostCommand},
    validation::{self, Problems},
};

use crate::{
    CommandContext, CommandError, Commands, Done,
    error::valid,
    executor::{Next, Target},
    ports::{MediaStore, StagedFile, Upload, UploadError},
};

/// A post to be.
#[derive(Debug, Clone)]
pub struct CreatePost {
    /// At most 10,000 characters; not empty unless there are files.
    pub content: String,
    /// Who may see it.
    pub visibility: Visibility,
}

/// The new post.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedPost {
    /// The post.
    pub id: PostId,
    /// Its author.
    pub user_id: UserId,
    /// The author's username.
    pub username: String,
    /// The text.
    pub content: String,
    /// Who may see it.
    pub visibility: Visibility,
    /// Its files.
    pub media: Vec<Media>,
    /// When.
    pub created_at: Timestamp,
}

/// A post whose files are being uploaded. Dropped before [`Commands::create_post`] succeeded with it, it removes them.
pub struct PostDraft {
    post: PostId,
    store: Arc<dyn MediaStore>,
    begun: AtomicUsize,
    files: Vec<(usize, StagedFile)>,
    /// Whether dropping removes the files. Off as soon as an append may have named them.
    disposable: bool,
}

impl PostDraft {
    /// Begins the next file.
    ///
    /// # Errors
    /// [`crate::ports::UploadError`]; the eleventh file is `TooLarge`.
    pub async fn begin_file(&self) -> Result<Box<dyn Upload>, UploadError> {
        let index = self.begun.fetch_add(1, Ordering::Relaxed);
        if index >= FILES_MAX {
            return Err(UploadError::TooLarge(format!(
                "a post has at most {FILES_MAX} files"
            )));
        }
        self.store.begin(self.post, index).await
    }

    /// Takes note of a finished file, in the order it shall appear in.
    pub fn add_file(&mut self, index: usize, file: StagedFile) {
        self.files.push((index, file));
    }

    fn has_begun_files(&self) -> bool {
        self.begun.load(Ordering::Relaxed) > 0
    }

    /// The finished files, in order, as the event names them.
    fn media(&mut self) -> Vec<Media> {
        self.files.sort_by_key(|(index, _)| *index);
        let media = |(_, file): &(usize, StagedFile)| Media {
            url: file.url.clone(),
            content_type: file.content_type.clone(),
            size: file.size,
        };
        self.files.iter().map(media).collect()
    }

    /// Removes the files of a post that certainly is not there. What cannot be removed now, the store's sweeper finds.
    async fn discard(mut self) {
        // Should this future be dropped on the way, dropping the draft begins anew.
        self.disposable = true;
        if self.has_begun_files() {
            remove(&*self.store, self.post).await;
        }
        self.disposable = false;
    }
}

async fn remove(store: &dyn MediaStore, post: PostId) {
    if let Err(error) = store.remove_post(post).await {
        tracing::warn!(%post, %error, "the files of a refused post could not be removed");
    }
}

impl Drop for PostDraft {
    fn drop(&mut self) {
        if !self.disposable || !self.has_begun_files() {
            return;
        }
        // Without a runtime there is nobody to remove them: the store's sweeper will.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (store, post) = (self.store.clone(), self.post);
            runtime.spawn(async move { remove(&*store, post).await });
        }
    }
}

impl Commands {
    /// Begins a post, so that its files can be uploaded.
    pub fn draft_post(&self) -> PostDraft {
        PostDraft {
            post: PostId(self.ports.ids.next_id()),
            store: self.ports.media.clone(),
            begun: AtomicUsize::new(0),
            files: Vec::new(),
            disposable: true,
        }
    }

    /// Writes the post. The draft's files are part of it; a refusal, and a replayed answer, remove them.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn create_post(
        &self,
        ctx: &CommandContext,
        mut draft: PostDraft,
        input: CreatePost,
    ) -> Result<Done<CreatedPost>, CommandError> {
        let outcome = self.write_post(ctx, &mut draft, input).await;
        match &outcome {
            // Named by an event, or perhaps: then the sweeper asks the log.
            Ok(Done {
                replayed: false, ..
            })
            | Err(CommandError::OutcomeUnknown) => draft.disposable = false,
            _ => draft.discard().await,
        }
        outcome
    }

    async fn write_post(
        &self,
        ctx: &CommandContext,
        draft: &mut PostDraft,
        input: CreatePost,
    ) -> Result<Done<CreatedPost>, CommandError> {
        let actor = ctx.actor()?;
        let media = draft.media();
        check(&input, media.len())?;
        let id = draft.post;
        let post = NewPost {
            id,
            author: actor.id,
            username: actor.username.clone(),
            content: input.content,
            visibility: input.visibility,
            media,
        };
        let run = async {
            // From here on this future may be dropped with the append under way.
            draft.disposable = false;
            self.execute::<Post, _>(
                ctx,
                Target::fresh(Post::stream(id)),
                |_, _, at| {
                    let post = post.clone();
                    Ok(Next::Decide(PostCommand::Create { post, at }))
                },
                |_, at| created(&post, at),
            )
            .await
        };
        self.idempotent(ctx, run).await
    }
}

fn check(input: &CreatePost, files: usize) -> Result<(), CommandError> {
    if files > FILES_MAX {
        return Err(CommandError::TooLarge(format!(
            "a post has at most {FILES_MAX} files"
        )));
    }
    let content = validation::content(&input.content, files > 0);
    valid(Problems::default().with("content", content))
}

fn created(post: &NewPost, at: Timestamp) -> CreatedPost {
    CreatedPost {
        id: post.id,
        user_id: post.author,
        username: post.username.clone(),
        content: post.content.clone(),
        visibility: post.visibility,
        media: post.media.clone(),
        created_at: at,
    }
}
