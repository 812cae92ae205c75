//! The sweep of a store that may hold millions of files and lists them page by page: each time a bounded stretch, the
//! next time from there.

use std::{collections::BTreeMap, io};

use parking_lot::Mutex;
use socialhub_domain::{PostId, Timestamp};

use super::{Bucket, names_of};
use crate::media::{PostExists, Swept, name::FileName};

/// A file in a listing.
pub(in crate::media) struct SweptFile {
    pub(in crate::media) name: FileName,
    pub(in crate::media) written: Timestamp,
}

/// Where the next sweep begins; none at the start of the listing.
#[derive(Debug)]
pub(in crate::media) struct Round<C>(Mutex<Option<C>>);

impl<C> Default for Round<C> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<C: Clone> Round<C> {
    /// Where to begin.
    pub(in crate::media) fn place(&self) -> Option<C> {
        self.0.lock().clone()
    }

    /// Goes over a stretch of the listing that has been read from [`Round::place`], and begins behind it the next time.
    ///
    /// # Errors
    /// When files could not be removed. The others are, and these are met again when the listing is gone round once more:
    /// were the stretch begun anew instead, one file that stays would keep the sweep from all behind it.
    pub(in crate::media) async fn sweep<B: Bucket>(
        &self,
        (files, next): (Vec<SweptFile>, Option<C>),
        older_than: Timestamp,
        max_files: usize,
        bucket: &B,
        exists: &PostExists,
    ) -> io::Result<Swept> {
        let mut swept = Swept::default();
        let mut failures = Vec::new();
        for post in older(files, older_than) {
            if !exists(post).await {
                match bucket.remove(names_of(post, max_files)).await {
                    Ok(()) => swept.posts += 1,
                    Err(error) => failures.push((post, error)),
                }
            }
        }
        *self.0.lock() = next;
        match failures.first() {
            None => Ok(swept),
            Some((post, error)) => Err(io::Error::other(format!(
                "files of {} posts were not removed (of {} they were), first those of {post}: {error}",
                failures.len(),
                swept.posts
            ))),
        }
    }
}

/// The posts that have a file of that age, in order.
fn older(files: Vec<SweptFile>, than: Timestamp) -> impl Iterator<Item = PostId> {
    let old = files.into_iter().filter(|file| file.written.0 < than.0);
    let posts: BTreeMap<PostId, ()> = old.map(|file| (file.name.post, ())).collect();
    posts.into_keys()
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use uuid::Uuid;

    use super::{
        super::{Pieces, RemoteError},
        *,
    };
    use crate::media::kind::MediaKind;

    /// Keeps the files of one post, whatever it is told, as long as it does.
    struct Stubborn {
        keeps: Mutex<Option<PostId>>,
        removed: Mutex<Vec<PostId>>,
    }

    #[async_trait]
    impl Bucket for Stubborn {
        async fn put(&self, _: FileName, _: MediaKind, _: Pieces) -> Result<(), RemoteError> {
            Ok(())
        }

        async fn remove(&self, names: Vec<FileName>) -> Result<(), RemoteError> {
            let post = names[0].post;
            if *self.keeps.lock() == Some(post) {
                return Err(RemoteError("no".to_owned()));
            }
            self.removed.lock().push(post);
            Ok(())
        }
    }

    fn post(n: u128) -> PostId {
        PostId(Uuid::from_u128(n))
    }

    fn files(posts: &[PostId]) -> Vec<SweptFile> {
        let file = |post: &PostId| SweptFile {
            name: FileName {
                post: *post,
                index: 0,
            },
            written: Timestamp(0),
        };
        posts.iter().map(file).collect()
    }

    #[tokio::test]
    async fn one_that_cannot_be_removed_keeps_no_other_and_is_tried_again() {
        let bucket = Stubborn {
            keeps: Mutex::new(Some(post(1))),
            removed: Mutex::default(),
        };
        let exists: &PostExists = &|_| Box::pin(async { false });
        let round = Round::default();
        let listed = (files(&[post(1), post(2), post(3)]), Some("behind"));
        let error = round.sweep(listed, Timestamp(1), 1, &bucket, exists).await;
        let said = error.err().unwrap().to_string();
        assert!(
            said.contains("files of 1 posts") && said.contains("(of 2 they were)"),
            "{said}"
        );
        assert_eq!(*bucket.removed.lock(), [post(2), post(3)]);
        assert_eq!(round.place(), Some("behind"));
        // The next time round it is listed again.
        bucket.keeps.lock().take();
        let listed = (files(&[post(1)]), None);
        let swept = round.sweep(listed, Timestamp(1), 1, &bucket, exists).await;
        assert_eq!(swept.unwrap().posts, 1);
        assert_eq!(bucket.removed.lock().last(), Some(&post(1)));
    }
}
