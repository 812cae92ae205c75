//! The port through which uploaded files are read back.
//!
//! It says how to serve a file, not whether: a handler asks the feed model first whether the post is there and who may
//! see it.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use socialhub_domain::PostId;

/// A part of a file, as a client asks for it; the store resolves it against the file's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// From an offset to the end: `bytes=500-`.
    From(u64),
    /// From an offset to another, both included: `bytes=0-499`. The end may lie beyond the file's.
    Between(u64, u64),
    /// The last bytes: `bytes=-500`. May be more than the file has.
    Last(u64),
}

impl ByteRange {
    /// The first and last byte (both included) of this range in a file of `size` bytes; none when no byte of the file
    /// lies in it.
    #[must_use]
    pub fn resolve(self, size: u64) -> Option<(u64, u64)> {
        let end = size.checked_sub(1)?;
        match self {
            Self::From(first) if first <= end => Some((first, end)),
            Self::Between(first, last) if first <= last && first <= end => {
                Some((first, last.min(end)))
            }
            Self::Last(count) if count > 0 => Some((size.saturating_sub(count), end)),
            _ => None,
        }
    }
}

/// A file, or the asked-for part of one, ready to be sent.
pub struct OpenMedia {
    /// The type it was sniffed as when it was uploaded, e.g. `image/png`.
    pub content_type: String,
    /// Bytes of the whole file.
    pub size: u64,
    /// A validator that changes when the content does, without quotes, of visible ASCII characters.
    pub etag: String,
    /// First and last byte (both included) of what `body` brings, when a range was asked for.
    pub range: Option<(u64, u64)>,
    /// The bytes.
    pub body: BoxStream<'static, io::Result<Bytes>>,
}

/// Why a file could not be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MediaError {
    /// 404: there is no such file.
    #[error("no such file")]
    NotFound,
    /// 416: no byte of the file lies in the range.
    #[error("the range lies outside of the file's {size} bytes")]
    RangeNotSatisfiable {
        /// Bytes of the whole file.
        size: u64,
    },
    /// 503: the store cannot answer now.
    #[error("the media store is unavailable: {0}")]
    Unavailable(String),
}

/// Reads uploaded files.
#[async_trait]
pub trait MediaReader: Send + Sync {
    /// Opens a file of a post, or a part of it. `name` is the last segment of the address it was stored under
    /// (`/media/<post>/<name>`, e.g. `0.png`); the caller has made sure that it holds only lower-case letters, digits
    /// and single dots between them.
    ///
    /// # Errors
    /// [`MediaError`].
    async fn open(
        &self,
        post: PostId,
        name: &str,
        range: Option<ByteRange>,
    ) -> Result<OpenMedia, MediaError>;
}

#[cfg(test)]
mod tests {
    use super::ByteRange;

    #[test]
    fn ranges_are_cut_to_the_file() {
        assert_eq!(ByteRange::From(3).resolve(10), Some((3, 9)));
        assert_eq!(ByteRange::Between(0, 99).resolve(10), Some((0, 9)));
        assert_eq!(ByteRange::Last(99).resolve(10), Some((0, 9)));
        assert_eq!(ByteRange::Last(4).resolve(10), Some((6, 9)));
    }

    #[test]
    fn ranges_outside_of_the_file_are_none() {
        assert_eq!(ByteRange::From(10).resolve(10), None);
        assert_eq!(ByteRange::Between(5, 4).resolve(10), None);
        assert_eq!(ByteRange::Last(0).resolve(10), None);
        assert_eq!(ByteRange::From(0).resolve(0), None);
    }
}
