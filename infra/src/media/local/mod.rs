//! Uploaded files on the local file system: where they lie, and how they become durable there.
//!
//! A file lies at `<shard>/<postId>-<index>`, 256 shards by the last byte of the post's id (the first bytes of a
//! UUIDv7 are its time and would fill one shard after the other). Its type is not part of the name: it is read from its
//! first bytes, so that a file is found, or removed, by post and index alone.

mod reader;
mod sweep;
mod upload;

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use socialhub_commands::ports::{MediaStore, PortError, Upload, UploadError};
use socialhub_domain::PostId;
use tempfile::{NamedTempFile, TempPath};
use tokio::sync::Semaphore;

use self::upload::LocalUpload;
use super::{
    intake::{Intake, MediaLimits},
    name::FileName,
};

/// Where unfinished files lie, in the same file system as the finished ones.
const STAGING: &str = "staging";

/// How many files may be written or flushed at once. Flushes that run together share the file system's journal
/// commits, so this is far more than there are cores.
const CONCURRENT_WRITES: usize = 64;

/// A media store in a local folder.
#[derive(Debug, Clone)]
pub struct LocalMedia {
    pub(super) folder: Arc<Folder>,
    pub(super) limits: MediaLimits,
}

impl LocalMedia {
    /// Opens a folder, making it if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(folder: impl Into<PathBuf>, limits: MediaLimits) -> io::Result<Self> {
        Ok(Self {
            folder: Arc::new(Folder::open(folder.into())?),
            limits,
        })
    }
}

#[async_trait]
impl MediaStore for LocalMedia {
    async fn begin(&self, post: PostId, index: usize) -> Result<Box<dyn Upload>, UploadError> {
        let intake = Intake::begin(FileName { post, index }, self.limits)?;
        let upload = LocalUpload::new(self.folder.clone(), intake);
        Ok(Box::new(upload))
    }

    async fn remove_post(&self, post: PostId) -> Result<(), PortError> {
        let max_files = self.limits.max_files;
        self.folder
            .run(move |folder| folder.remove_post(post, max_files))
            .await
            .map_err(|error| PortError(format!("files were not removed: {error}")))
    }
}

impl FileName {
    fn shard(self) -> String {
        format!("{:02x}", self.post.0.as_bytes()[15])
    }

    fn in_shard(self) -> String {
        format!("{}-{}", self.post, self.index)
    }

    /// Reads the name of a finished file.
    fn parse(name: &str) -> Option<Self> {
        let (post, index) = name.split_at_checked(36)?;
        Some(Self {
            post: post.parse().ok()?,
            index: index.strip_prefix('-')?.parse().ok()?,
        })
    }
}

/// The folder itself. Its methods block; [`Folder::run`] takes them off the async threads.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    writes: Arc<Semaphore>,
}

impl Folder {
    fn open(root: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(root.join(STAGING))?;
        Ok(Self {
            root,
            writes: Arc::new(Semaphore::new(CONCURRENT_WRITES)),
        })
    }

    /// Runs blocking work on the blocking pool, a bounded number at a time.
    pub(super) async fn run<T, F>(self: &Arc<Self>, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Self) -> io::Result<T> + Send + 'static,
    {
        let permit = self.writes.clone().acquire_owned().await;
        let permit = permit.map_err(io::Error::other)?;
        let folder = self.clone();
        let job = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&folder)
        });
        job.await.map_err(io::Error::other)?
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.root.join(STAGING)
    }

    pub(super) fn path(&self, name: FileName) -> PathBuf {
        self.root.join(name.shard()).join(name.in_shard())
    }

    /// A file that removes itself unless it is published.
    pub(super) fn stage(&self) -> io::Result<NamedTempFile> {
        NamedTempFile::new_in(self.staging())
    }

    /// Writes a small file under its final name and makes it durable. That needs no staging: until an event names it
    /// nobody asks for it, and one that a crash cut short belongs to no post and is swept.
    pub(super) fn write(&self, name: FileName, content: &[u8]) -> io::Result<Published> {
        let path = self.path(name);
        let mut file = match File::create(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_shard(name)?;
                File::create(&path)
            }
            other => other,
        }?;
        let published = Published(TempPath::try_from_path(path)?);
        file.write_all(content)?;
        file.sync_all()?;
        self.sync_shard(name)?;
        Ok(published)
    }

    /// Gives a staged file its final name, durably.
    pub(super) fn publish(&self, staged: NamedTempFile, name: FileName) -> io::Result<Published> {
        let path = self.path(name);
        staged.as_file().sync_all()?;
        self.make_shard(name)?;
        staged.persist(&path)?;
        let published = Published(TempPath::try_from_path(path)?);
        self.sync_shard(name)?;
        Ok(published)
    }

    fn make_shard(&self, name: FileName) -> io::Result<()> {
        match fs::create_dir(self.root.join(name.shard())) {
            Ok(()) => File::open(&self.root)?.sync_all(),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn sync_shard(&self, name: FileName) -> io::Result<()> {
        File::open(self.root.join(name.shard()))?.sync_all()
    }

    pub(super) fn remove_post(&self, post: PostId, max_files: usize) -> io::Result<()> {
        for index in 0..max_files {
            match fs::remove_file(self.path(FileName { post, index })) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A finished file that nobody was told about yet: it removes itself unless kept.
#[derive(Debug)]
pub(super) struct Published(TempPath);

impl Published {
    pub(super) fn keep(self) -> io::Result<()> {
        self.0.keep().map(drop).map_err(|error| error.error)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn names_are_read_back() {
        let name = FileName {
            post: PostId(Uuid::from_u128(0x1234)),
            index: 9,
        };
        assert_eq!(FileName::parse(&name.in_shard()), Some(name));
        assert_eq!(name.shard(), "34");
        for other in [
            "",
            "x",
            ".tmpabc",
            "00000000-0000-0000-0000-000000001234",
            "ä",
        ] {
            assert_eq!(FileName::parse(other), None);
        }
    }
}
