//! What stores on other machines have in common: how a file gets there without being lost or left behind, how the sweep
//! goes round, and how their addresses are read.

mod address;
mod round;
mod upload;

use std::io;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use socialhub_api::OpenMedia;
use socialhub_domain::PostId;

use super::{
    kind::{MediaKind, SNIFF_BYTES},
    name::FileName,
};

pub(super) use address::{Address, invalid};
pub(super) use round::{Round, SweptFile};
pub(super) use upload::{Pieces, RemoteUpload};

/// Why a remote store did not do something, in words for the operator, without secrets.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(super) struct RemoteError(pub(super) String);

/// Where files go.
#[async_trait]
pub(super) trait Bucket: Send + Sync + 'static {
    /// Stores a file durably under its name. When this fails, or when the pieces break off, the file is not there, as
    /// far as the store can tell; the caller removes it by name all the same.
    async fn put(&self, name: FileName, kind: MediaKind, pieces: Pieces)
    -> Result<(), RemoteError>;

    /// Removes files. Removing what is not there succeeds.
    async fn remove(&self, names: Vec<FileName>) -> Result<(), RemoteError>;
}

/// All names the files of a post may have.
pub(super) fn names_of(post: PostId, max_files: usize) -> Vec<FileName> {
    let name = |index| FileName { post, index };
    (0..max_files).map(name).collect()
}

impl FileName {
    /// The name in a remote store, below the prefix. Files of a post are neighbours in a listing.
    pub(super) fn key(self) -> String {
        format!("{}/{}", self.post, self.index)
    }

    /// Reads a name below the prefix.
    pub(super) fn parse_key(key: &str) -> Option<Self> {
        let (post, index) = key.split_once('/')?;
        let name = Self {
            post: post.parse().ok()?,
            index: index.parse().ok()?,
        };
        (name.key() == key).then_some(name)
    }
}

/// The bytes of a file on its way out.
pub(super) type Body = futures::stream::BoxStream<'static, io::Result<bytes::Bytes>>;

/// Reads as much of the start of a body as decides the type; answers it, and the whole body again.
pub(super) async fn peek(mut body: Body) -> io::Result<(Vec<u8>, Body)> {
    let (mut start, mut taken) = (Vec::new(), Vec::new());
    while start.len() < SNIFF_BYTES {
        let Some(piece) = body.try_next().await? else {
            break;
        };
        start.extend_from_slice(&piece);
        taken.push(Ok(piece));
    }
    start.truncate(SNIFF_BYTES);
    Ok((start, futures::stream::iter(taken).chain(body).boxed()))
}

/// A validator without its quotes and weakness, if there is one that can be passed on.
pub(super) fn plain_etag(etag: Option<&str>) -> Option<String> {
    let etag = etag?.trim_start_matches("W/").trim_matches('"');
    let good = |b: u8| b.is_ascii_graphic() && b != b'"';
    (!etag.is_empty() && etag.bytes().all(good)).then(|| etag.to_owned())
}

/// Whether the file may be asked for with this ending: it has one address, and what it is not called is not there.
pub(super) fn is_called(kind: MediaKind, ending: Option<&str>) -> bool {
    ending.is_none_or(|asked| asked == kind.extension)
}

/// A file ready to be sent.
pub(super) fn ready(
    kind: MediaKind,
    size: u64,
    etag: String,
    range: Option<(u64, u64)>,
    body: Body,
) -> OpenMedia {
    OpenMedia {
        content_type: kind.content_type.to_owned(),
        size,
        etag,
        range,
        body,
    }
}
