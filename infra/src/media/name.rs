//! What a file is called: by its post and its index.

use socialhub_api::MediaError;
use socialhub_domain::PostId;

/// Which file of which post.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileName {
    pub(super) post: PostId,
    pub(super) index: usize,
}

impl FileName {
    /// Reads the last segment of an address: the file, and the ending it was asked for with.
    pub(super) fn asked(post: PostId, name: &str) -> Result<(Self, Option<&str>), MediaError> {
        let (index, ending) = match name.split_once('.') {
            Some((index, ending)) => (index, Some(ending)),
            None => (name, None),
        };
        let index = index.parse().map_err(|_| MediaError::NotFound)?;
        Ok((Self { post, index }, ending))
    }
}
