//! Files at Cloudinary.
//!
//! A file is an asset `<folder>/<postId>/<index>` of resource type `raw` and delivery type `authenticated`: its bytes
//! are kept as they are, and nobody gets them without a signature. We sign, fetch and pass on; no signed address leaves
//! this process (`docs/decisions/0011-media-stores.md`).

mod api;
mod reader;
mod sign;

use std::{io, sync::Arc};

use async_trait::async_trait;
use moka::sync::Cache;
use socialhub_commands::ports::{MediaStore, PortError, Upload, UploadError};
use socialhub_domain::{PostId, Timestamp};

use self::{api::Cloud, reader::Facts};
use super::{
    Media, MediaLimits, OpenMediaError, PostExists, Swept,
    intake::Intake,
    name::FileName,
    remote::{Address, RemoteUpload, Round, invalid, names_of},
};

/// Where files go that the address names no folder for.
const FOLDER: &str = "socialhub/posts";
/// Files whose type and size are remembered.
const REMEMBERED: u64 = 10_000;

/// A media store at Cloudinary.
pub struct Cloudinary {
    cloud: Arc<Cloud>,
    limits: MediaLimits,
    round: Round<String>,
    /// A file never changes under its name, so this is never out of date but when the file is gone.
    facts: Cache<FileName, Facts>,
}

impl Cloudinary {
    /// Opens `cloudinary://key:secret@cloud/folder?endpoint=http://host`; without a folder `socialhub/posts`, which must
    /// be this installation's alone, for its sweep removes what it does not know; without an endpoint Cloudinary's own
    /// hosts.
    ///
    /// # Errors
    /// When the address is not as it must be. Nothing is asked of the server yet.
    pub fn open(url: &str, limits: MediaLimits) -> Result<Self, OpenMediaError> {
        let address = Address::read(url, &["endpoint"])?;
        let (Some(key), Some(secret)) = (&address.user, &address.password) else {
            return Err(misses("both keys"));
        };
        if address.host.is_empty() {
            return Err(misses("the name of the cloud"));
        }
        let folder = Some(address.path.as_str()).filter(|path| !path.is_empty());
        let folder = folder.unwrap_or(FOLDER);
        let plain = |c: char| c.is_ascii_alphanumeric() || "/-_".contains(c);
        if !folder.chars().all(plain) {
            let message = "the folder may hold letters, digits, `-`, `_` and `/`";
            return Err(invalid(message.to_owned()));
        }
        Ok(Self {
            cloud: Arc::new(Cloud::new(
                key,
                secret,
                &address.host,
                folder,
                address.endpoint()?,
            )?),
            limits,
            round: Round::default(),
            facts: Cache::new(REMEMBERED),
        })
    }
}

fn misses(what: &str) -> OpenMediaError {
    invalid(format!(
        "cloudinary:// needs {what}: cloudinary://key:secret@cloud"
    ))
}

#[async_trait]
impl MediaStore for Cloudinary {
    async fn begin(&self, post: PostId, index: usize) -> Result<Box<dyn Upload>, UploadError> {
        let intake = Intake::begin(FileName { post, index }, self.limits)?;
        Ok(Box::new(RemoteUpload::new(self.cloud.clone(), intake)))
    }

    async fn remove_post(&self, post: PostId) -> Result<(), PortError> {
        use super::remote::Bucket as _;

        let names = names_of(post, self.limits.max_files);
        for name in &names {
            self.facts.invalidate(name);
        }
        self.cloud
            .remove(names)
            .await
            .map_err(|error| PortError(format!("files were not removed: {error}")))
    }
}

#[async_trait]
impl Media for Cloudinary {
    async fn sweep(&self, older_than: Timestamp, exists: &PostExists) -> io::Result<Swept> {
        let listed = self.cloud.list(self.round.place()).await;
        let listed = listed.map_err(io::Error::other)?;
        let max_files = self.limits.max_files;
        self.round
            .sweep(listed, older_than, max_files, &*self.cloud, exists)
            .await
    }

    async fn look(&self) -> io::Result<()> {
        self.cloud.look().await.map_err(io::Error::other)
    }
}
