//! One file into the bucket.

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    Attribute, Attributes, MultipartUpload, ObjectStore, PutMultipartOptions, PutOptions,
    PutPayload, aws::AmazonS3, path::Path,
};

use crate::media::{
    kind::MediaKind,
    remote::{Pieces, RemoteError},
};

/// The least S3 takes as a part that is not the last; some servers want all parts alike.
const PART: usize = 5 * 1024 * 1024;

/// Stores a file. At most a part of it is in memory, and while one is on its way no more is taken in.
pub(super) async fn put(
    store: &AmazonS3,
    path: &Path,
    kind: MediaKind,
    pieces: Pieces,
) -> Result<(), RemoteError> {
    let mut putting = Putting {
        store,
        path,
        attributes: [(Attribute::ContentType, kind.content_type)]
            .into_iter()
            .collect(),
        part: Vec::new(),
        multipart: None,
    };
    let put = putting.all(pieces).await;
    if let (Err(_), Some(mut multipart)) = (&put, putting.multipart)
        && let Err(error) = multipart.abort().await
    {
        tracing::warn!(%path, %error, "a multipart upload could not be ended; the bucket's lifecycle rule will");
    }
    put
}

struct Putting<'a> {
    store: &'a AmazonS3,
    path: &'a Path,
    attributes: Attributes,
    part: Vec<u8>,
    multipart: Option<Box<dyn MultipartUpload>>,
}

impl Putting<'_> {
    async fn all(&mut self, mut pieces: Pieces) -> Result<(), RemoteError> {
        while let Some(mut piece) = pieces
            .try_next()
            .await
            .map_err(|error| RemoteError(error.to_string()))?
        {
            while !piece.is_empty() {
                // Only now it is certain that this part is not the last.
                if self.part.len() == PART {
                    self.send_part().await?;
                }
                let room = PART - self.part.len();
                let fitting = piece.split_to(room.min(piece.len()));
                self.part.extend_from_slice(&fitting);
            }
        }
        if self.multipart.is_some() {
            self.send_part().await?;
        }
        match &mut self.multipart {
            Some(multipart) => multipart.complete().await.map(drop)?,
            None => self.put_whole().await?,
        }
        Ok(())
    }

    fn take_part(&mut self) -> PutPayload {
        Bytes::from(std::mem::take(&mut self.part)).into()
    }

    async fn put_whole(&mut self) -> Result<(), RemoteError> {
        let payload = self.take_part();
        let options = PutOptions::from(self.attributes.clone());
        let put = self.store.put_opts(self.path, payload, options).await;
        Ok(put.map(drop)?)
    }

    async fn send_part(&mut self) -> Result<(), RemoteError> {
        let payload = self.take_part();
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            empty => {
                let options = PutMultipartOptions::from(self.attributes.clone());
                let begun = self.store.put_multipart_opts(self.path, options).await;
                empty.insert(begun?)
            }
        };
        Ok(multipart.put_part(payload).await?)
    }
}

impl From<object_store::Error> for RemoteError {
    fn from(error: object_store::Error) -> Self {
        Self(error.to_string())
    }
}
