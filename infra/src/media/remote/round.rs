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
    pub(in crate::media) async fn sweep<B: Bucket>(
        &self,
        (files, next): (Vec<SweptFile>, Option<C>),
        older_than: Timestamp,
        max_files: usize,
        bucket: &B,
        exists: &PostExists,
    ) -> io::Result<Swept> {
        let mut swept = Swept::default();
        for post in older(files, older_than) {
            if !exists(post).await {
                let removed = bucket.remove(names_of(post, max_files)).await;
                removed.map_err(io::Error::other)?;
                swept.posts += 1;
            }
        }
        *self.0.lock() = next;
        Ok(swept)
    }
}

/// The posts that have a file of that age, in order.
fn older(files: Vec<SweptFile>, than: Timestamp) -> impl Iterator<Item = PostId> {
    let old = files.into_iter().filter(|file| file.written.0 < than.0);
    let posts: BTreeMap<PostId, ()> = old.map(|file| (file.name.post, ())).collect();
    posts.into_keys()
}
