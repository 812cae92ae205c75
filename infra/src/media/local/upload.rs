//! One file on its way in.
//!
//! Up to [`IN_MEMORY`] bytes are gathered in memory and then hashed, written and flushed by one blocking job: for the
//! usual picture that is a single hop off the async threads. A longer file goes to a staging file piece by piece.

use std::{io, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use socialhub_commands::ports::{StagedFile, Upload, UploadError};
use tempfile::NamedTempFile;

use super::{Folder, Intake, Published};

/// Bytes gathered before anything is written, and written at a time after that.
const IN_MEMORY: usize = 256 * 1024;

/// The part of a long file that is in the staging file already.
struct Spilled {
    file: NamedTempFile,
    hash: Sha256,
}

impl Spilled {
    fn append(&mut self, piece: &[u8]) -> io::Result<()> {
        use io::Write as _;
        self.hash.update(piece);
        self.file.write_all(piece)
    }
}

pub(super) struct LocalUpload {
    folder: Arc<Folder>,
    intake: Intake,
    gathered: Vec<u8>,
    spilled: Option<Spilled>,
}

impl LocalUpload {
    pub(super) fn new(folder: Arc<Folder>, intake: Intake) -> Self {
        Self {
            folder,
            intake,
            gathered: Vec::new(),
            spilled: None,
        }
    }

    fn take(&mut self, chunk: &[u8]) -> Result<(), UploadError> {
        self.intake.count(chunk)?;
        self.gathered.extend_from_slice(chunk);
        self.intake.look(&self.gathered)?;
        Ok(())
    }

    /// Moves what has been gathered to the staging file.
    async fn spill(&mut self) -> Result<(), UploadError> {
        let gathered = std::mem::take(&mut self.gathered);
        let spilled = self.spilled.take();
        let job = move |folder: &Folder| {
            let mut spilled = match spilled {
                Some(spilled) => spilled,
                None => Spilled {
                    file: folder.stage()?,
                    hash: Sha256::new(),
                },
            };
            spilled.append(&gathered)?;
            Ok(spilled)
        };
        // Should this future be dropped here, the job owns the staging file and removes it.
        self.intake.set_broken(true);
        self.spilled = Some(
            self.folder
                .run(job)
                .await
                .map_err(|error| unavailable(&error))?,
        );
        self.intake.set_broken(false);
        Ok(())
    }

    /// Makes the file durable under its final name.
    async fn publish(&mut self) -> Result<(Published, [u8; 32]), UploadError> {
        let (name, gathered) = (self.intake.name(), std::mem::take(&mut self.gathered));
        let spilled = self.spilled.take();
        let job = move |folder: &Folder| {
            let Some(mut spilled) = spilled else {
                let hash = Sha256::digest(&gathered).into();
                return Ok((folder.write(name, &gathered)?, hash));
            };
            spilled.append(&gathered)?;
            let hash = spilled.hash.finalize().into();
            Ok((folder.publish(spilled.file, name)?, hash))
        };
        self.folder
            .run(job)
            .await
            .map_err(|error| unavailable(&error))
    }
}

fn unavailable(error: &io::Error) -> UploadError {
    UploadError::Unavailable(format!("the file was not stored: {error}"))
}

#[async_trait]
impl Upload for LocalUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), UploadError> {
        self.intake.unbroken()?;
        if let Err(error) = self.take(&chunk) {
            self.intake.set_broken(true);
            self.gathered = Vec::new();
            self.spilled = None;
            return Err(error);
        }
        if self.gathered.len() > IN_MEMORY {
            self.spill().await?;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<StagedFile, UploadError> {
        let kind = self.intake.complete(&self.gathered)?;
        let (published, sha256) = self.publish().await?;
        // From here on the caller knows of it. Before, dropping this future removed it.
        published.keep().map_err(|error| unavailable(&error))?;
        Ok(self.intake.stored(kind, sha256))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use socialhub_commands::ports::MediaStore;
    use socialhub_domain::PostId;
    use tempfile::TempDir;
    use uuid::Uuid;

    use super::*;
    use crate::media::{LocalMedia, MediaLimits, kind::SNIFF_BYTES};

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

    fn post() -> PostId {
        PostId(Uuid::from_u128(0xabcd))
    }

    fn store() -> (TempDir, LocalMedia) {
        let folder = tempfile::tempdir().unwrap();
        let media = LocalMedia::open(folder.path(), MediaLimits::default()).unwrap();
        (folder, media)
    }

    fn png(size: usize) -> Vec<u8> {
        let mut content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        content[..PNG.len()].copy_from_slice(PNG);
        content
    }

    fn files(folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(files(&path));
            } else {
                found.push(path.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
        found
    }

    async fn upload(
        media: &LocalMedia,
        content: &[u8],
        piece: usize,
    ) -> Result<StagedFile, UploadError> {
        let mut upload = media.begin(post(), 3).await?;
        for chunk in content.chunks(piece) {
            upload.write(Bytes::copy_from_slice(chunk)).await?;
        }
        upload.finish().await
    }

    #[tokio::test]
    async fn short_and_long_files_are_stored_as_sent() {
        for (size, piece) in [
            (PNG.len(), 1),
            (SNIFF_BYTES, 100),
            (50_000, 8192),
            (IN_MEMORY, 65_536),
            (IN_MEMORY + 1, 65_536),
            (1_000_000, 300_000),
        ] {
            let (folder, media) = store();
            let content = png(size);
            let stored = upload(&media, &content, piece).await.unwrap();
            assert_eq!(stored.url, format!("/media/{}/3.png", post()));
            assert_eq!(stored.content_type, "image/png");
            assert_eq!(stored.size, size as u64);
            assert_eq!(stored.sha256, <[u8; 32]>::from(Sha256::digest(&content)));
            assert_eq!(files(folder.path()), [format!("{}-3", post())]);
            let path = folder.path().join("cd").join(format!("{}-3", post()));
            assert_eq!(fs::read(path).unwrap(), content);
            media.remove_post(post()).await.unwrap();
            media.remove_post(post()).await.unwrap();
            assert!(files(folder.path()).is_empty());
        }
    }

    #[tokio::test]
    async fn a_refused_file_leaves_nothing() {
        let (folder, media) = store();
        let limit = usize::try_from(MediaLimits::default().max_file_bytes).unwrap();
        let error = upload(&media, &png(limit + 1), 1 << 20).await.unwrap_err();
        assert!(matches!(error, UploadError::TooLarge(_)));
        assert_eq!(error.to_string(), "file 4 has more than 10485760 bytes");
        let mut svg = b"<svg xmlns=\"http://www.w3.org/2000/svg\">".to_vec();
        for size in [40, 100_000] {
            svg.resize(size, b' ');
            let error = upload(&media, &svg, 4096).await.unwrap_err();
            assert!(matches!(error, UploadError::UnsupportedType(_)), "{error}");
        }
        let error = upload(&media, &[], 1).await.unwrap_err();
        assert!(matches!(error, UploadError::Broken(_)));
        assert!(files(folder.path()).is_empty());
    }

    #[tokio::test]
    async fn a_refused_upload_cannot_go_on() {
        let (_folder, media) = store();
        let mut upload = media.begin(post(), 0).await.unwrap();
        assert!(upload.write(Bytes::from(vec![b' '; 5000])).await.is_err());
        let again = upload.write(Bytes::from(png(5000))).await;
        assert!(matches!(again, Err(UploadError::Broken(_))));
        assert!(matches!(upload.finish().await, Err(UploadError::Broken(_))));
    }

    #[tokio::test]
    async fn a_dropped_upload_leaves_nothing() {
        let (folder, media) = store();
        let mut upload = media.begin(post(), 0).await.unwrap();
        upload.write(Bytes::from(png(1_000_000))).await.unwrap();
        assert_eq!(files(folder.path()).len(), 1);
        drop(upload);
        assert!(files(folder.path()).is_empty());
    }

    #[tokio::test]
    async fn an_upload_dropped_while_finishing_leaves_nothing() {
        for size in [50_000, 1_000_000] {
            // Done at once, on a quick disk, it was not dropped in the middle.
            while !is_dropped_while_finishing(size).await {}
        }
    }

    /// Whether it was still finishing when it was dropped; then nothing may be left of it.
    async fn is_dropped_while_finishing(size: usize) -> bool {
        let (folder, media) = store();
        let mut upload = media.begin(post(), 0).await.unwrap();
        upload.write(Bytes::from(png(size))).await.unwrap();
        let mut finishing = upload.finish();
        // One poll starts the blocking job; then the client is gone.
        if futures::poll!(&mut finishing).is_ready() {
            return false;
        }
        drop(finishing);
        while !files(folder.path()).is_empty() {
            tokio::task::yield_now().await;
        }
        true
    }

    #[tokio::test]
    async fn a_post_has_ten_files_at_most() {
        let (_folder, media) = store();
        assert!(media.begin(post(), 9).await.is_ok());
        let Err(error) = media.begin(post(), 10).await else {
            panic!("an eleventh file was taken");
        };
        assert!(matches!(error, UploadError::TooLarge(_)));
    }

    #[tokio::test]
    async fn files_of_one_post_are_stored_at_the_same_time() {
        let (folder, media) = store();
        let uploads = (0..10).map(|index| {
            let media = &media;
            async move {
                let mut upload = media.begin(post(), index).await.unwrap();
                upload.write(Bytes::from(png(1000 + index))).await.unwrap();
                upload.finish().await.unwrap()
            }
        });
        let stored = futures::future::join_all(uploads).await;
        assert_eq!(stored[7].size, 1007);
        assert_eq!(files(folder.path()).len(), 10);
        media.remove_post(post()).await.unwrap();
        assert!(files(folder.path()).is_empty());
    }
}
