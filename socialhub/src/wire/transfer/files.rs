//! A media store as a place that files are copied from and to.

use std::sync::Arc;

use async_trait::async_trait;
use futures::TryStreamExt;
use socialhub_api::MediaError;
use socialhub_commands::ports::UploadError;
use socialhub_infra::media::Media;
use socialhub_replay_tools::transfer::{
    PartError,
    media::{MediaBody, MediaFile, MediaFiles},
};

/// Files in a media store.
pub struct StoreFiles(pub Arc<dyn Media>);

#[async_trait]
impl MediaFiles for StoreFiles {
    async fn open(&self, file: &MediaFile) -> Result<Option<MediaBody>, PartError> {
        match self.0.open(file.post, &file.name, None).await {
            Ok(open) => Ok(Some(open.body)),
            Err(MediaError::NotFound) => Ok(None),
            Err(error) => Err(PartError::Store(format!("the media store: {error}"))),
        }
    }

    /// As an upload: the store checks it, and it lies where one that was uploaded lies.
    async fn store(&self, file: &MediaFile, mut body: MediaBody) -> Result<(), PartError> {
        let index = file.name.split('.').next();
        let index = index.and_then(|index| index.parse().ok());
        let index =
            index.ok_or_else(|| PartError::Bad(format!("{:?} is no file's name", file.name)))?;
        let refused = |error: UploadError| {
            let text = format!("media of the post {}: {error}", file.post);
            match error {
                UploadError::Unavailable(_) => PartError::Store(text),
                _ => PartError::Bad(text),
            }
        };
        let mut upload = self.0.begin(file.post, index).await.map_err(refused)?;
        let broken = |error| PartError::Store(format!("media of the post {}: {error}", file.post));
        while let Some(piece) = body.try_next().await.map_err(broken)? {
            upload.write(piece).await.map_err(refused)?;
        }
        let stored = upload.finish().await.map_err(refused)?;
        if stored.url.rsplit('/').next() != Some(&file.name) {
            let reason = format!("{} would be called {} here", file.name, stored.url);
            return Err(PartError::Bad(reason));
        }
        Ok(())
    }
}
