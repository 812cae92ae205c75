//! Files in an S3-compatible bucket.
//!
//! A file is an object `<prefix>/<postId>/<index>`, its type is the object's content type. Up to one part it is put as a
//! whole, a longer one as a multipart upload, which is there or not as a whole, too. Parts of an upload whose process
//! died are not listed here: the bucket needs a lifecycle rule that ends incomplete multipart uploads after a day.

mod put;
mod reader;

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{
    BackoffConfig, ClientOptions, ObjectMeta, ObjectStore, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path,
};
use socialhub_commands::ports::{MediaStore, PortError, Upload, UploadError};
use socialhub_domain::{PostId, Timestamp};

use super::{
    Media, MediaLimits, OpenMediaError, PostExists, Swept,
    intake::Intake,
    kind::MediaKind,
    name::FileName,
    remote::{
        Address, Bucket, Pieces, RemoteError, RemoteUpload, Round, SweptFile, invalid, names_of,
    },
};
use crate::tls;

/// How long a server may be silent: also the least time a part has to get there.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// No retry is begun later than this.
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);
const RETRIES: usize = 4;
/// Where buckets are that do not say it.
const REGION: &str = "us-east-1";
/// Files looked at in one sweep.
const SWEPT_AT_ONCE: usize = 10_000;

/// A media store in an S3-compatible bucket.
pub struct S3Media {
    bucket: Arc<S3Bucket>,
    limits: MediaLimits,
    round: Round<Path>,
}

struct S3Bucket {
    store: AmazonS3,
    prefix: Path,
}

impl S3Media {
    /// Opens `s3://key:secret@bucket/prefix?endpoint=https://host&region=name`. Keys that the address does not name are
    /// taken from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, and from where AWS's own machines keep them; without
    /// an endpoint it is AWS.
    ///
    /// # Errors
    /// When the address is not as it must be. Nothing is asked of the server yet.
    pub fn open(url: &str, limits: MediaLimits) -> Result<Self, OpenMediaError> {
        let Opened { store, prefix, .. } = open(url)?;
        Ok(Self {
            bucket: Arc::new(S3Bucket { store, prefix }),
            limits,
            round: Round::default(),
        })
    }
}

/// A bucket by its address, for whatever is kept in it.
pub(crate) struct Opened {
    pub(crate) store: AmazonS3,
    pub(crate) bucket: String,
    pub(crate) prefix: Path,
}

/// Reads an address as [`S3Media::open`] takes it.
pub(crate) fn open(url: &str) -> Result<Opened, OpenMediaError> {
    let address = Address::read(url, &["endpoint", "region"])?;
    if address.host.is_empty() {
        return Err(invalid("s3:// needs a bucket: s3://bucket".to_owned()));
    }
    let prefix = Path::parse(&address.path)
        .map_err(|_| invalid("the prefix cannot be a part of an object's name".to_owned()))?;
    Ok(Opened {
        store: store(&address)?,
        prefix,
        bucket: address.host,
    })
}

fn store(address: &Address) -> Result<AmazonS3, OpenMediaError> {
    tls::install();
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(&address.host);
    match (&address.user, &address.password) {
        (Some(key), Some(secret)) => {
            builder = builder
                .with_access_key_id(key)
                .with_secret_access_key(secret);
        }
        (None, None) => {}
        _ => {
            let message = "s3:// needs both keys, or none: s3://key:secret@bucket";
            return Err(invalid(message.to_owned()));
        }
    }
    let endpoint = address.endpoint()?;
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = address.setting("region") {
        builder = builder.with_region(region);
    } else if ["AWS_REGION", "AWS_DEFAULT_REGION"]
        .iter()
        .all(|name| std::env::var_os(name).is_none())
    {
        builder = builder.with_region(REGION);
    }
    // A body may take as long as its reader does: only silence is limited.
    let options = ClientOptions::new()
        .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")))
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout_disabled()
        .with_read_timeout(READ_TIMEOUT);
    let retries = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: RETRIES,
        retry_timeout: RETRY_TIMEOUT,
    };
    builder
        .with_client_options(options)
        .with_retry(retries)
        .build()
        .map_err(|error| invalid(format!("s3:// cannot be used: {error}")))
}

impl S3Bucket {
    fn path(&self, name: FileName) -> Path {
        Path::from_iter(self.prefix.parts().chain(Path::from(name.key()).parts()))
    }

    /// Reads an object's name; none when it is not one of ours.
    fn name(&self, path: &Path) -> Option<FileName> {
        let parts: Vec<_> = path.prefix_match(&self.prefix)?.collect();
        let [post, index] = parts.as_slice() else {
            return None;
        };
        FileName::parse_key(&format!("{}/{}", post.as_ref(), index.as_ref()))
    }

    /// Reads the next stretch of the listing, and where the one after it begins.
    async fn list(&self, from: Option<Path>) -> io::Result<(Vec<SweptFile>, Option<Path>)> {
        let prefix = Some(&self.prefix);
        let listing = match &from {
            Some(from) => self.store.list_with_offset(prefix, from),
            None => self.store.list(prefix),
        };
        let listing = listing.take(SWEPT_AT_ONCE).try_collect();
        let objects: Vec<ObjectMeta> = listing.await.map_err(io::Error::other)?;
        let next = objects.get(SWEPT_AT_ONCE - 1);
        let next = next.map(|object| object.location.clone());
        let file = |object: ObjectMeta| {
            Some(SweptFile {
                name: self.name(&object.location)?,
                written: Timestamp(object.last_modified.timestamp_millis()),
            })
        };
        Ok((objects.into_iter().filter_map(file).collect(), next))
    }
}

#[async_trait]
impl Bucket for S3Bucket {
    async fn put(
        &self,
        name: FileName,
        kind: MediaKind,
        pieces: Pieces,
    ) -> Result<(), RemoteError> {
        put::put(&self.store, &self.path(name), kind, pieces).await
    }

    async fn remove(&self, names: Vec<FileName>) -> Result<(), RemoteError> {
        let paths: Vec<_> = names.into_iter().map(|name| Ok(self.path(name))).collect();
        let mut removed = self.store.delete_stream(stream::iter(paths).boxed());
        while let Some(one) = removed.next().await {
            match one {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(RemoteError(error.to_string())),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl MediaStore for S3Media {
    async fn begin(&self, post: PostId, index: usize) -> Result<Box<dyn Upload>, UploadError> {
        let intake = Intake::begin(FileName { post, index }, self.limits)?;
        Ok(Box::new(RemoteUpload::new(self.bucket.clone(), intake)))
    }

    async fn remove_post(&self, post: PostId) -> Result<(), PortError> {
        let names = names_of(post, self.limits.max_files);
        self.bucket
            .remove(names)
            .await
            .map_err(|error| PortError(format!("files were not removed: {error}")))
    }
}

#[async_trait]
impl Media for S3Media {
    async fn sweep(&self, older_than: Timestamp, exists: &PostExists) -> io::Result<Swept> {
        let listed = self.bucket.list(self.round.place()).await?;
        let max_files = self.limits.max_files;
        self.round
            .sweep(listed, older_than, max_files, &*self.bucket, exists)
            .await
    }

    /// Asks for the first page of what the sweep lists.
    async fn look(&self) -> io::Result<()> {
        let mut listing = self.bucket.store.list(Some(&self.bucket.prefix));
        let first = listing.try_next().await;
        first.map(drop).map_err(io::Error::other)
    }
}
