//! Files on their way out.
//!
//! Opening a file, finding out its type and reading the first piece is one blocking job; most files, and most ranges
//! that players ask for, are no longer than that piece. The rest follows piece by piece as the client takes it, so a
//! slow one holds neither a thread nor more than a piece of memory.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    sync::Arc,
    time::UNIX_EPOCH,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use socialhub_api::{ByteRange, MediaError, MediaReader, OpenMedia};
use socialhub_domain::PostId;

use super::{FileName, Folder, LocalMedia};
use crate::media::kind::{MediaKind, SNIFF_BYTES, sniff};

/// Bytes read at a time.
const PIECE: u64 = 256 * 1024;

#[async_trait]
impl MediaReader for LocalMedia {
    async fn open(
        &self,
        post: PostId,
        name: &str,
        range: Option<ByteRange>,
    ) -> Result<OpenMedia, MediaError> {
        let (file, extension) = FileName::asked(post, name)?;
        let extension = extension.map(str::to_owned);
        let opened = self
            .folder
            .run(move |folder| Ok(open(folder, file, extension.as_deref(), range)))
            .await
            .map_err(|error| unavailable(&error))?;
        opened.map(|opened| opened.into_media(self.folder.clone()))
    }
}

fn unavailable(error: &io::Error) -> MediaError {
    MediaError::Unavailable(error.to_string())
}

/// An open file with the first piece of what was asked for.
struct Opened {
    kind: MediaKind,
    size: u64,
    etag: String,
    range: Option<(u64, u64)>,
    first: Bytes,
    rest: Rest,
}

/// What is still to be read, from where the file stands.
struct Rest {
    file: File,
    bytes: u64,
}

impl Rest {
    /// The next piece; an error when the file is shorter than it was.
    fn read(&mut self) -> io::Result<Bytes> {
        let length = self.bytes.min(PIECE);
        let mut piece = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.file.read_exact(&mut piece)?;
        self.bytes -= length;
        Ok(piece.into())
    }
}

fn open(
    folder: &Folder,
    name: FileName,
    extension: Option<&str>,
    range: Option<ByteRange>,
) -> Result<Opened, MediaError> {
    let mut file = File::open(folder.path(name)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MediaError::NotFound,
        _ => unavailable(&error),
    })?;
    let metadata = file.metadata().map_err(|error| unavailable(&error))?;
    let size = metadata.len();
    let kind = kind_of(&mut file).map_err(|error| unavailable(&error))?;
    // One file has one address: what it is not called is not there.
    let kind = kind.filter(|kind| extension.is_none_or(|asked| asked == kind.extension));
    let kind = kind.ok_or(MediaError::NotFound)?;
    let range = match range {
        Some(range) => {
            let range = range.resolve(size);
            Some(range.ok_or(MediaError::RangeNotSatisfiable { size })?)
        }
        None => None,
    };
    let (offset, bytes) = range.map_or((0, size), |(first, last)| (first, last - first + 1));
    file.seek(SeekFrom::Start(offset))
        .map_err(|error| unavailable(&error))?;
    let mut rest = Rest { file, bytes };
    Ok(Opened {
        kind,
        size,
        etag: etag(&metadata),
        range,
        first: rest.read().map_err(|error| unavailable(&error))?,
        rest,
    })
}

/// The type, by the same look at the same bytes as when it was uploaded.
fn kind_of(file: &mut File) -> io::Result<Option<MediaKind>> {
    let mut start = Vec::with_capacity(SNIFF_BYTES);
    file.take(SNIFF_BYTES as u64).read_to_end(&mut start)?;
    Ok(sniff(&start).ok())
}

/// A file never changes under its name, so size and time of writing tell any two contents apart.
fn etag(metadata: &std::fs::Metadata) -> String {
    let written = metadata.modified().ok();
    let written = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let nanos = written.map_or(0, |since| since.as_nanos());
    format!("{:x}-{nanos:x}", metadata.len())
}

impl Opened {
    fn into_media(self, folder: Arc<Folder>) -> OpenMedia {
        let first = stream::once(async { Ok(self.first) });
        let rest = stream::try_unfold((folder, self.rest), next_piece);
        OpenMedia {
            content_type: self.kind.content_type.to_owned(),
            size: self.size,
            etag: self.etag,
            range: self.range,
            body: first.chain(rest.into_stream()).boxed(),
        }
    }
}

type Reading = (Arc<Folder>, Rest);

async fn next_piece((folder, mut rest): Reading) -> io::Result<Option<(Bytes, Reading)>> {
    if rest.bytes == 0 {
        return Ok(None);
    }
    let job = move |_: &Folder| rest.read().map(|piece| (piece, rest));
    let (piece, rest) = folder.run(job).await?;
    Ok(Some((piece, (folder, rest))))
}

#[cfg(test)]
mod tests {
    use socialhub_commands::ports::MediaStore;
    use tempfile::TempDir;
    use uuid::Uuid;

    use super::*;
    use crate::media::MediaLimits;

    const SIZE: usize = 600_000;

    fn post() -> PostId {
        PostId(Uuid::from_u128(1))
    }

    fn content() -> Vec<u8> {
        let mut content = b"GIF89a".to_vec();
        content.extend((content.len()..SIZE).map(|n| (n % 251) as u8));
        content
    }

    async fn store() -> (TempDir, LocalMedia) {
        let folder = tempfile::tempdir().unwrap();
        let media = LocalMedia::open(folder.path(), MediaLimits::default()).unwrap();
        let mut upload = media.begin(post(), 0).await.unwrap();
        upload.write(content().into()).await.unwrap();
        upload.finish().await.unwrap();
        (folder, media)
    }

    async fn read(media: &LocalMedia, range: Option<ByteRange>) -> (OpenMedia, Vec<u8>) {
        let mut open = media.open(post(), "0.gif", range).await.unwrap();
        let body = std::mem::replace(&mut open.body, stream::empty().boxed());
        let pieces: Vec<Bytes> = body.try_collect().await.unwrap();
        (open, pieces.concat())
    }

    #[tokio::test]
    async fn a_file_comes_back_as_it_was_sent() {
        let (_folder, media) = store().await;
        let (open, body) = read(&media, None).await;
        assert_eq!(open.content_type, "image/gif");
        assert_eq!((open.size, open.range), (SIZE as u64, None));
        assert!(open.etag.bytes().all(|b| b.is_ascii_graphic() && b != b'"'));
        assert_eq!(body, content());
    }

    #[tokio::test]
    async fn any_part_can_be_asked_for() {
        let (_folder, media) = store().await;
        let size = SIZE as u64;
        for (asked, first, last) in [
            (ByteRange::Between(0, 0), 0, 0),
            (ByteRange::Between(10, 299_999), 10, 299_999),
            (ByteRange::From(1), 1, size - 1),
            (ByteRange::Last(7), size - 7, size - 1),
            (ByteRange::Between(0, u64::MAX), 0, size - 1),
        ] {
            let (open, body) = read(&media, Some(asked)).await;
            assert_eq!(open.range, Some((first, last)));
            assert_eq!(open.size, size);
            assert_eq!(body, content()[first as usize..=last as usize]);
        }
        let beyond = media.open(post(), "0.gif", Some(ByteRange::From(size)));
        assert!(matches!(
            beyond.await,
            Err(MediaError::RangeNotSatisfiable { size: s }) if s == size
        ));
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_found() {
        let (_folder, media) = store().await;
        assert!(media.open(post(), "0", None).await.is_ok());
        for name in [
            "0.png",
            "0.gif.html",
            "1.gif",
            "00x",
            "",
            "99999999999999999999999",
        ] {
            let open = media.open(post(), name, None).await;
            assert!(matches!(open, Err(MediaError::NotFound)), "{name}");
        }
        media.remove_post(post()).await.unwrap();
        let open = media.open(post(), "0.gif", None).await;
        assert!(matches!(open, Err(MediaError::NotFound)));
    }
}
