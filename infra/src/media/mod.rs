//! Uploaded files: in a local folder, or with the feature `distributed` in an S3-compatible bucket or at Cloudinary.
//! [`open_media`] chooses by the address.
//!
//! Whatever the store, a file is found and removed by its post and its index in it alone, has one address
//! (`/media/<post>/<index>.<ending>`), and is served by us, so that who may see it is never the store's question. Its
//! type is told by its first bytes.

#[cfg(feature = "distributed")]
pub mod cloudinary;
mod intake;
mod kind;
mod local;
mod name;
mod open;
#[cfg(feature = "distributed")]
mod remote;
#[cfg(feature = "distributed")]
pub mod s3;

use std::io;

use async_trait::async_trait;
use futures::future::BoxFuture;
use socialhub_api::MediaReader;
use socialhub_commands::ports::MediaStore;
use socialhub_domain::{PostId, Timestamp};

pub use intake::MediaLimits;
pub use kind::{MediaKind, sniff};
pub use local::LocalMedia;
pub use open::{OpenMediaError, is_folder, open_media};

/// Answers whether a post is there and not deleted. Asked of the log, which alone is right: a read model may be behind.
pub type PostExists = dyn Fn(PostId) -> BoxFuture<'static, bool> + Send + Sync;

/// What a sweep removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Unfinished files.
    pub staged: u64,
    /// Posts whose files were removed.
    pub posts: u64,
}

/// All that the program asks of a store of files.
#[async_trait]
pub trait Media: MediaStore + MediaReader {
    /// Removes what no post has: leftovers of crashes, and files whose post was refused or deleted while the process
    /// was going down. Only what was last written before `older_than` is looked at (an hour ago: long past any upload
    /// that is still under way). A remote store looks at a bounded number of files at a time and goes on from there the
    /// next time.
    ///
    /// # Errors
    /// When the store cannot be read. What was removed until then stays removed; the next sweep goes on.
    async fn sweep(&self, older_than: Timestamp, exists: &PostExists) -> io::Result<Swept>;

    /// Looks whether the store answers now, and takes its keys. A folder was made when it was opened.
    ///
    /// # Errors
    /// Why not, without keys and passwords.
    async fn look(&self) -> io::Result<()> {
        Ok(())
    }
}
