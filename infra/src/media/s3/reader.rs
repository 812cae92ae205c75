//! Files on their way out of the bucket: one request a file, which also tells its size, its type and its validator.

use std::io;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use object_store::{
    Attribute, GetOptions, GetRange, GetResult, ObjectStore, ObjectStoreExt, path::Path,
};
use socialhub_api::{ByteRange, MediaError, MediaReader, OpenMedia};
use socialhub_domain::PostId;

use super::{S3Bucket, S3Media};
use crate::media::{
    kind::served_as,
    name::FileName,
    remote::{is_called, plain_etag, ready},
};

#[async_trait]
impl MediaReader for S3Media {
    async fn open(
        &self,
        post: PostId,
        name: &str,
        range: Option<ByteRange>,
    ) -> Result<OpenMedia, MediaError> {
        let (file, ending) = FileName::asked(post, name)?;
        let path = self.bucket.path(file);
        let found = self.bucket.get(&path, range).await?;
        let content_type = found.attributes.get(&Attribute::ContentType);
        let kind = content_type.and_then(|content_type| served_as(content_type.as_ref()));
        let kind = kind.filter(|kind| is_called(*kind, ending));
        let kind = kind.ok_or(MediaError::NotFound)?;
        let size = found.meta.size;
        let written = found.meta.last_modified.timestamp_millis();
        let etag = plain_etag(found.meta.e_tag.as_deref());
        let etag = etag.unwrap_or_else(|| format!("{size:x}-{written:x}"));
        let part = range.map(|_| (found.range.start, found.range.end - 1));
        let body = found.into_stream().map_err(io::Error::other).boxed();
        Ok(ready(kind, size, etag, part, body))
    }
}

impl S3Bucket {
    async fn get(&self, path: &Path, range: Option<ByteRange>) -> Result<GetResult, MediaError> {
        let Some(range) = range else {
            let found = self.store.get(path).await;
            return found.map_err(|error| failed(&error));
        };
        if let Some(range) = asked(range) {
            let options = GetOptions::new().with_range(Some(range));
            match self.store.get_opts(path, options).await {
                Ok(found) => return Ok(found),
                // Among others, how a range outside of the file is answered; without the file's size.
                Err(object_store::Error::Generic { .. }) => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        // Servers differ in what they make of a part that begins before the file does, too: asked in plain numbers they
        // do not.
        let size = match self.store.head(path).await {
            Ok(file) => file.size,
            Err(error) => return Err(failed(&error)),
        };
        let part = range.resolve(size);
        let (first, last) = part.ok_or(MediaError::RangeNotSatisfiable { size })?;
        let options = GetOptions::new().with_range(Some(GetRange::Bounded(first..last + 1)));
        let found = self.store.get_opts(path, options).await;
        found.map_err(|error| failed(&error))
    }
}

/// The range as the store is asked for it; none when it is one in no file.
fn asked(range: ByteRange) -> Option<GetRange> {
    match range {
        ByteRange::From(first) => Some(GetRange::Offset(first)),
        ByteRange::Between(first, last) if first <= last => {
            Some(GetRange::Bounded(first..last.saturating_add(1)))
        }
        ByteRange::Last(count) if count > 0 => Some(GetRange::Suffix(count)),
        ByteRange::Between(..) | ByteRange::Last(_) => None,
    }
}

fn failed(error: &object_store::Error) -> MediaError {
    match error {
        object_store::Error::NotFound { .. } => MediaError::NotFound,
        other => MediaError::Unavailable(other.to_string()),
    }
}
