//! Removing what no post has: leftovers of crashes, and files whose post was refused or deleted while the process was
//! going down.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use async_trait::async_trait;
use socialhub_domain::{PostId, Timestamp};

use super::{FileName, LocalMedia};
use crate::media::{Media, PostExists, Swept};

#[async_trait]
impl Media for LocalMedia {
    async fn sweep(&self, older_than: Timestamp, exists: &PostExists) -> io::Result<Swept> {
        Self::sweep(self, older_than, exists).await
    }
}

impl LocalMedia {
    /// Removes staging files and files of posts that are not there, all last written before `older_than` (an hour ago:
    /// long past any upload that is still under way). `exists` asks the log, which alone is right: a read model may be
    /// behind. One shard is in memory at a time.
    ///
    /// # Errors
    /// When the folder cannot be read. What was removed until then stays removed; the next sweep goes on.
    pub async fn sweep<F>(
        &self,
        older_than: Timestamp,
        exists: impl Fn(PostId) -> F,
    ) -> io::Result<Swept>
    where
        F: Future<Output = bool>,
    {
        let mut swept = Swept::default();
        let staging = self.folder.staging();
        swept.staged = self
            .folder
            .run(move |_| remove_older(&staging, older_than))
            .await?;
        let root = self.folder.root().to_owned();
        for shard in self.folder.run(move |_| shards(&root)).await? {
            let posts = self
                .folder
                .run(move |_| posts_older(&shard, older_than))
                .await?;
            for post in posts {
                if !exists(post).await {
                    let max_files = self.limits.max_files;
                    self.folder
                        .run(move |folder| folder.remove_post(post, max_files))
                        .await?;
                    swept.posts += 1;
                }
            }
        }
        Ok(swept)
    }
}

fn shards(root: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(root)?.map(|entry| Ok(entry?.path()));
    let mut paths = entries.collect::<io::Result<Vec<PathBuf>>>()?;
    paths.retain(|path| path.file_name().is_some_and(|name| name.len() == 2));
    Ok(paths)
}

fn remove_older(folder: &Path, older_than: Timestamp) -> io::Result<u64> {
    let mut removed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if is_older(&entry, older_than) && fs::remove_file(entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

fn posts_older(shard: &Path, older_than: Timestamp) -> io::Result<BTreeSet<PostId>> {
    let mut posts = BTreeSet::new();
    for entry in fs::read_dir(shard)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().and_then(FileName::parse);
        if let Some(name) = name.filter(|_| is_older(&entry, older_than)) {
            posts.insert(name.post);
        }
    }
    Ok(posts)
}

/// A file that vanished meanwhile, or whose time cannot be told, is left alone.
fn is_older(entry: &fs::DirEntry, than: Timestamp) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    let since_epoch = modified
        .ok()
        .and_then(|m| m.duration_since(UNIX_EPOCH).ok());
    since_epoch.is_some_and(|age| i64::try_from(age.as_millis()).is_ok_and(|ms| ms < than.0))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use socialhub_commands::ports::MediaStore;
    use socialhub_domain::Clock;
    use uuid::Uuid;

    use super::*;
    use crate::{clock::SystemClock, media::MediaLimits};

    async fn store_file(media: &LocalMedia, post: PostId) {
        let mut upload = media.begin(post, 0).await.unwrap();
        upload
            .write(Bytes::from_static(b"GIF89a\x01\0\x01\0"))
            .await
            .unwrap();
        upload.finish().await.unwrap();
    }

    #[tokio::test]
    async fn only_old_files_of_unknown_posts_go() {
        let folder = tempfile::tempdir().unwrap();
        let media = LocalMedia::open(folder.path(), MediaLimits::default()).unwrap();
        let (known, unknown) = (PostId(Uuid::from_u128(1)), PostId(Uuid::from_u128(2)));
        store_file(&media, known).await;
        store_file(&media, unknown).await;
        fs::write(folder.path().join("staging/leftover"), "x").unwrap();
        fs::write(folder.path().join("01/a note of the operator"), "x").unwrap();
        let exists = |post| async move { post == known };

        let now = SystemClock.now();
        let long_ago = Timestamp(now.0 - 3_600_000);
        let swept = media.sweep(long_ago, exists).await.unwrap();
        assert_eq!(swept, Swept::default());

        let soon = Timestamp(now.0 + 3_600_000);
        let swept = media.sweep(soon, exists).await.unwrap();
        assert_eq!(
            swept,
            Swept {
                staged: 1,
                posts: 1
            }
        );
        let left = |name: &str| folder.path().join(name).exists();
        assert!(left(&format!("01/{known}-0")) && left("01/a note of the operator"));
        assert!(!left(&format!("02/{unknown}-0")) && !left("staging/leftover"));
    }
}
