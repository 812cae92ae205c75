//! Uploaded files as a part: its lines are the list of them, and beside the lines the files themselves are copied.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use socialhub_domain::{
    Event, PostId, UserId,
    upcast::{self, DecodeError},
    user::User,
};
use socialhub_event_log::{
    EventRow, FieldCipher, LogArchive, Over, Position, is_sealed, open_rows,
};
use tokio::io::AsyncWriteExt;

use super::{
    manifest::hex,
    part::{Lines, Page, Part, PartError, Written, rows},
};

const MEDIA: &str = "media";
/// Events that are looked through at a time.
const LOOK: usize = 1_000;
/// Files of a page, about.
const FILES: usize = 16;
/// What a file's address begins with.
const ADDRESS: &str = "/media/";
/// Pieces a file of an export is read in.
const PIECE: usize = 256 * 1024;

/// A file by its post and the last segment of its address, such as `0.png`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaFile {
    /// The post it belongs to.
    pub post: PostId,
    /// Its name there.
    pub name: String,
}

/// The bytes of a file.
pub type MediaBody = BoxStream<'static, io::Result<Bytes>>;

/// A place where files are.
#[async_trait]
pub trait MediaFiles: Send + Sync {
    /// A file's bytes; none when it is not there.
    ///
    /// # Errors
    /// [`PartError::Store`].
    async fn open(&self, file: &MediaFile) -> Result<Option<MediaBody>, PartError>;

    /// Stores a file durably, in place of one that is there.
    ///
    /// # Errors
    /// [`PartError`].
    async fn store(&self, file: &MediaFile, body: MediaBody) -> Result<(), PartError>;
}

/// How the files themselves travel.
pub enum Contents {
    /// They are put there, or taken from there.
    In(Arc<dyn MediaFiles>),
    /// Whoever writes takes them from where they are.
    Elsewhere,
    /// Not at all: somebody else keeps them.
    Named,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line {
    /// Of the event that names it.
    position: Position,
    post: PostId,
    name: String,
    size: u64,
    /// None when it was only named.
    sha256: Option<String>,
}

impl Line {
    /// What comes from outside must not name anything else.
    fn file(&self) -> Result<MediaFile, PartError> {
        let file = MediaFile::checked(self.post, &self.name);
        file.ok_or_else(|| PartError::Bad(format!("{:?} is no file's name", self.name)))
    }
}

impl MediaFile {
    /// Out of an address.
    fn at(url: &str) -> Option<Self> {
        let (post, name) = url.strip_prefix(ADDRESS)?.split_once('/')?;
        Self::checked(post.parse().ok()?, name)
    }

    fn checked(post: PostId, name: &str) -> Option<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let (index, ending) = name.split_once('.')?;
        let good = index.parse::<u16>().is_ok() && !ending.is_empty() && ending.chars().all(plain);
        good.then(|| Self {
            post,
            name: name.to_owned(),
        })
    }

    fn address(&self) -> String {
        format!("{ADDRESS}{}/{}", self.post, self.name)
    }
}

/// The files that the posts of a log name.
pub struct Media {
    log: Arc<dyn LogArchive>,
    last: Position,
    store: Arc<dyn MediaFiles>,
    contents: Contents,
    cipher: Arc<dyn FieldCipher>,
}

impl Media {
    /// The files of the posts up to a position, in a store. `cipher` opens what is sealed in the events.
    pub fn new(
        log: Arc<dyn LogArchive>,
        last: Position,
        store: Arc<dyn MediaFiles>,
        contents: Contents,
        cipher: Arc<dyn FieldCipher>,
    ) -> Self {
        Self {
            log,
            last,
            store,
            contents,
            cipher,
        }
    }

    /// The list's line for a file, once its content has been passed on. None when it is not there.
    async fn pass_on(
        &self,
        position: Position,
        file: MediaFile,
        size: u64,
    ) -> Result<Option<Line>, PartError> {
        let (size, sha256) = if matches!(self.contents, Contents::Named) {
            (size, None)
        } else {
            let Some(body) = self.store.open(&file).await? else {
                return Ok(None);
            };
            let (body, sum) = summed(body);
            match &self.contents {
                Contents::In(place) => place.store(&file, body).await?,
                _ => drain(body).await?,
            }
            let Sum { size, sha256 } = sum.end();
            (size, Some(sha256))
        };
        Ok(Some(Line {
            position,
            post: file.post,
            name: file.name,
            size,
            sha256,
        }))
    }

    /// Whether the post was deleted, or its author erased since the keys were read: then its files are gone, and rightly
    /// so.
    async fn is_gone(&self, row: &EventRow, author: UserId) -> Result<bool, PartError> {
        let person = User::stream(author);
        let ends = [
            (&row.stream_type, &row.stream_id, "post.deleted"),
            (&person.aggregate_type, &person.aggregate_id, "user.erased"),
        ];
        for (stream_type, stream_id, end) in ends {
            let stream = self.log.read_stream_rows(stream_type, stream_id).await?;
            if stream.iter().any(|row| row.event_type == end) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings a file into the store, unless it is there. Answers whether it was brought, or a remark.
    async fn bring(&self, line: &Line) -> Result<Result<bool, String>, PartError> {
        let file = line.file()?;
        let there = match self.store.open(&file).await? {
            None => None,
            Some(body) => Some(sum_of(body).await?),
        };
        let Some(wanted) = &line.sha256 else {
            let missing = format!("{} is not in the media store", file.address());
            return Ok(there.map(|_| false).ok_or(missing));
        };
        if there.is_some_and(|there| there.sha256 == *wanted) {
            return Ok(Ok(false));
        }
        let Contents::In(place) = &self.contents else {
            return Ok(Err(format!("{} was not copied", file.address())));
        };
        let body = place.open(&file).await?;
        let body = body.ok_or_else(|| PartError::Bad(format!("{} is missing", file.address())))?;
        let (body, sum) = summed(body);
        self.store.store(&file, body).await?;
        if sum.end().sha256 != *wanted {
            return Err(PartError::Bad(format!("{} was changed", file.address())));
        }
        Ok(Ok(true))
    }
}

/// The files that an event names.
struct Named {
    /// Whose they are.
    author: UserId,
    /// Each with its size.
    files: Vec<(MediaFile, u64)>,
}

/// The files that an event names; none when there are none.
fn named(row: &EventRow) -> Result<Option<Named>, DecodeError> {
    if !row.payload.contains(ADDRESS) {
        return Ok(None);
    }
    // No version that is no number is known.
    let version = row.event_version.parse().unwrap_or_default();
    let event = upcast::decode(&row.event_type, version, &row.payload)?;
    let Event::PostCreated(post) = event else {
        return Ok(None);
    };
    // Addresses elsewhere are not ours to copy.
    let files = post.media.iter();
    Ok(Some(Named {
        author: post.user_id,
        files: files
            .filter_map(|media| Some((MediaFile::at(&media.url)?, media.size)))
            .collect(),
    }))
}

#[async_trait]
impl Part for Media {
    fn name(&self) -> &'static str {
        MEDIA
    }

    async fn read(&self, cursor: &str) -> Result<Option<Page>, PartError> {
        let after: Position = match cursor {
            "" => 0,
            cursor => cursor
                .parse()
                .map_err(|_| PartError::Bad(format!("{cursor:?} is no position")))?,
        };
        let mut events = self.log.read_rows(after, LOOK).await?;
        events.retain(|row| row.position <= self.last);
        let Some(looked) = events.last().map(|row| row.position) else {
            return Ok(None);
        };
        events.retain(|row| row.event_type == "post.created");
        open_rows(&*self.log, &*self.cipher, &mut events).await?;
        let (mut lines, mut remarks) = (Vec::new(), Vec::new());
        for row in &events {
            let position = row.position;
            let remark = |why: &str| {
                format!("the event at position {position} {why}: what files it names is not known")
            };
            if is_sealed(row) {
                remarks.push((position, remark("does not open")));
                continue;
            }
            let Ok(found) = named(row) else {
                remarks.push((position, remark("cannot be read")));
                continue;
            };
            let Some(Named { author, files }) = found else {
                continue;
            };
            for (file, size) in files {
                let address = file.address();
                match self.pass_on(row.position, file, size).await? {
                    Some(line) => lines.push(line),
                    None if self.is_gone(row, author).await? => {}
                    None => {
                        let remark = format!("{address} is missing in the media store");
                        remarks.push((row.position, remark));
                    }
                }
            }
            if lines.len() >= FILES {
                break;
            }
        }
        // A cursor is that of a line; what was looked through after it is looked through again.
        let reached = lines.last().map_or(looked, |line| line.position);
        let mut page = Page::of(&lines, reached.to_string())?;
        // And said then.
        remarks.retain(|(position, _)| *position <= reached);
        page.remarks = remarks.into_iter().map(|(_, remark)| remark).collect();
        Ok(Some(page))
    }

    async fn write(&self, text: &[u8], _: Over) -> Result<Written, PartError> {
        let mut written = Written::default();
        for line in rows::<Line>(text)? {
            match self.bring(&line).await? {
                Ok(new) => written.new += u64::from(new),
                Err(remark) => written.remarks.push(remark),
            }
        }
        Ok(written)
    }
}

/// Lines of the list, each file once, and the files themselves where they lie beside it.
pub struct MediaLines {
    contents: Arc<dyn MediaFiles>,
}

impl MediaLines {
    /// Lines whose files are in a place.
    pub fn new(contents: Arc<dyn MediaFiles>) -> Self {
        Self { contents }
    }
}

#[async_trait]
impl Lines for MediaLines {
    fn name(&self) -> &'static str {
        MEDIA
    }

    async fn check(&self, cursor: &str, text: &[u8]) -> Result<String, PartError> {
        let mut last: Position = cursor.parse().unwrap_or(0);
        for line in rows::<Line>(text)? {
            let file = line.file()?;
            if line.position < last {
                let reason = format!("{} is not in its place", file.address());
                return Err(PartError::Bad(reason));
            }
            last = line.position;
            let Some(wanted) = &line.sha256 else {
                continue;
            };
            let body = self.contents.open(&file).await?;
            let body = body.ok_or_else(|| {
                PartError::Bad(format!("the file {} is missing beside it", file.address()))
            })?;
            let found = sum_of(body).await?;
            if found.size != line.size || found.sha256 != *wanted {
                let reason = format!(
                    "the file {} beside it is not the one that was exported",
                    file.address()
                );
                return Err(PartError::Bad(reason));
            }
        }
        Ok(last.to_string())
    }
}

/// Files below a folder, as `media/<post>/<name>`: where an export keeps them.
pub struct FolderFiles(PathBuf);

impl FolderFiles {
    /// Files below a folder. It is made when the first one is stored.
    pub fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    fn path(&self, file: &MediaFile) -> PathBuf {
        let post = self.0.join(MEDIA).join(file.post.to_string());
        post.join(&file.name)
    }
}

#[async_trait]
impl MediaFiles for FolderFiles {
    async fn open(&self, file: &MediaFile) -> Result<Option<MediaBody>, PartError> {
        let path = self.path(file);
        let opened = match tokio::fs::File::open(&path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| broken(&path, &error))?,
        };
        let pieces = tokio_util::io::ReaderStream::with_capacity(opened, PIECE);
        Ok(Some(pieces.boxed()))
    }

    async fn store(&self, file: &MediaFile, mut body: MediaBody) -> Result<(), PartError> {
        let path = self.path(file);
        let partial = path.with_extension("partial");
        let folder = path.parent().unwrap_or(&self.0).to_owned();
        let write = async {
            let mut builder = tokio::fs::DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(&folder).await?;
            let mut options = tokio::fs::OpenOptions::new();
            options.create(true).write(true).truncate(true).mode(0o600);
            let mut to = options.open(&partial).await?;
            while let Some(piece) = body.try_next().await? {
                to.write_all(&piece).await?;
            }
            to.flush().await?;
            to.sync_all().await?;
            tokio::fs::rename(&partial, &path).await?;
            tokio::fs::File::open(&folder).await?.sync_all().await
        };
        let written: io::Result<()> = write.await;
        written.map_err(|error| broken(&path, &error))
    }
}

fn broken(path: &Path, error: &io::Error) -> PartError {
    PartError::Store(format!("{}: {error}", path.display()))
}

/// Size and SHA-256 of what has passed.
#[derive(Debug, PartialEq, Eq)]
struct Sum {
    size: u64,
    sha256: String,
}

/// Fed by the stream it was made with.
#[derive(Clone, Default)]
struct Summing(Arc<std::sync::Mutex<(u64, Sha256)>>);

impl Summing {
    fn add(&self, piece: &[u8]) {
        let mut sum = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        sum.0 += piece.len() as u64;
        sum.1.update(piece);
    }

    fn end(&self) -> Sum {
        let sum = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Sum {
            size: sum.0,
            sha256: hex(&sum.1.clone().finalize()),
        }
    }
}

/// The same bytes, summed on their way.
fn summed(body: MediaBody) -> (MediaBody, Summing) {
    let sum = Summing::default();
    let adding = sum.clone();
    let body = body.inspect_ok(move |piece| adding.add(piece)).boxed();
    (body, sum)
}

async fn drain(mut body: MediaBody) -> Result<(), PartError> {
    let failed = |error: io::Error| PartError::Store(format!("a media file: {error}"));
    while body.try_next().await.map_err(failed)?.is_some() {}
    Ok(())
}

async fn sum_of(body: MediaBody) -> Result<Sum, PartError> {
    let (body, sum) = summed(body);
    drain(body).await?;
    Ok(sum.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_addresses_name_files() {
        let post = "0198c1c2-0000-7000-8000-000000000001";
        let file = MediaFile::at(&format!("/media/{post}/0.png")).unwrap();
        assert_eq!(file.address(), format!("/media/{post}/0.png"));
        for other in [
            format!("https://elsewhere/media/{post}/0.png"),
            format!("/media/{post}/../0.png"),
            format!("/media/{post}/0.p/g"),
            format!("/media/{post}/x.png"),
            format!("/media/{post}/0"),
            "/media/0.png".to_owned(),
        ] {
            assert_eq!(MediaFile::at(&other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn a_folder_gives_back_what_it_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let files = FolderFiles::new(folder.path());
        let file = MediaFile {
            post: PostId(uuid::Uuid::from_u128(1)),
            name: "0.png".to_owned(),
        };
        assert!(files.open(&file).await.unwrap().is_none());
        let pieces = [Ok(Bytes::from_static(b"ab")), Ok(Bytes::from_static(b"c"))];
        let body = futures::stream::iter(pieces).boxed();
        files.store(&file, body).await.unwrap();
        let body = files.open(&file).await.unwrap().unwrap();
        let found = sum_of(body).await.unwrap();
        assert_eq!(
            (found.size, found.sha256),
            (3, hex(&Sha256::digest(b"abc")))
        );
    }
}
