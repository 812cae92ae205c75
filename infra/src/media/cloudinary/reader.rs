//! Files on their way out.
//!
//! Cloudinary tells no type of a file that it keeps as it is, so we look at the first bytes, as when it was uploaded. For
//! a whole file that is no further request; for a part of one only the first time.

use std::io;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, future, stream};
use reqwest::{
    Response, StatusCode,
    header::{CONTENT_RANGE, ETAG, HeaderMap},
};
use socialhub_api::{ByteRange, MediaError, MediaReader, OpenMedia};
use socialhub_domain::PostId;

use super::{Cloudinary, api};
use crate::media::{
    kind::{MediaKind, SNIFF_BYTES, sniff},
    name::FileName,
    remote::{Body, is_called, peek, plain_etag, ready},
};

/// What is remembered of a file.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    kind: MediaKind,
    size: u64,
    etag: String,
}

#[async_trait]
impl MediaReader for Cloudinary {
    async fn open(
        &self,
        post: PostId,
        name: &str,
        range: Option<ByteRange>,
    ) -> Result<OpenMedia, MediaError> {
        let (file, ending) = FileName::asked(post, name)?;
        let (facts, body) = match (self.facts.get(&file), range) {
            (Some(facts), _) => (facts, None),
            (None, None) => {
                let (facts, body) = self.look(file, None).await?;
                (facts, Some(body))
            }
            (None, Some(_)) => {
                let start = (0, SNIFF_BYTES as u64 - 1);
                (self.look(file, Some(start)).await?.0, None)
            }
        };
        if !is_called(facts.kind, ending) {
            return Err(MediaError::NotFound);
        }
        let Facts { kind, size, etag } = facts;
        let range = match range.map(|range| range.resolve(size)) {
            None => None,
            Some(Some(range)) => Some(range),
            Some(None) => return Err(MediaError::RangeNotSatisfiable { size }),
        };
        let body = match body {
            Some(body) => body,
            None => self.fetch(file, range).await?.body,
        };
        Ok(ready(kind, size, etag, range, body))
    }
}

/// An answered request for a file.
struct Fetched {
    size: u64,
    etag: Option<String>,
    body: Body,
}

impl Cloudinary {
    /// Fetches a file, or the start of it, and looks at it.
    async fn look(
        &self,
        file: FileName,
        part: Option<(u64, u64)>,
    ) -> Result<(Facts, Body), MediaError> {
        let fetched = self.fetch(file, part).await?;
        let (start, body) = peek(fetched.body)
            .await
            .map_err(|error| unavailable(&error))?;
        let kind = sniff(&start).map_err(|_| MediaError::NotFound)?;
        let size = fetched.size;
        let facts = Facts {
            kind,
            size,
            // The file never changes under its name.
            etag: fetched.etag.unwrap_or_else(|| format!("{size:x}")),
        };
        self.facts.insert(file, facts.clone());
        Ok((facts, body))
    }

    async fn fetch(&self, file: FileName, part: Option<(u64, u64)>) -> Result<Fetched, MediaError> {
        let answer = self.cloud.fetch(file, part).await;
        let answer = answer.map_err(|error| unavailable(&error))?;
        match answer.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => read(answer, part),
            StatusCode::NOT_FOUND => {
                self.facts.invalidate(&file);
                Err(MediaError::NotFound)
            }
            other => Err(unavailable(&format!("Cloudinary answers {other}"))),
        }
    }
}

fn read(answer: Response, part: Option<(u64, u64)>) -> Result<Fetched, MediaError> {
    let etag = answer.headers().get(ETAG);
    let etag = plain_etag(etag.and_then(|etag| etag.to_str().ok()));
    let partial = answer.status() == StatusCode::PARTIAL_CONTENT;
    let size = if partial {
        range_of(answer.headers())
            .filter(|answered| part.is_some_and(|(first, _)| answered.0 == first))
            .map(|(_, size)| size)
    } else {
        answer.content_length()
    };
    let size = size.ok_or_else(|| unavailable(&"a file was answered without its size"))?;
    let body = answer
        .bytes_stream()
        .map_err(|error| io::Error::other(api::failed(error)))
        .boxed();
    // A cache on the way may answer a part with the whole.
    let body = match part {
        Some((first, last)) if !partial => cut(body, first, last - first + 1),
        _ => body,
    };
    Ok(Fetched { size, etag, body })
}

/// The first byte of an answered part, and the size of the whole: `bytes 0-4/10`.
fn range_of(headers: &HeaderMap) -> Option<(u64, u64)> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (part, size) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = part.split_once('-')?;
    Some((first.parse().ok()?, size.parse().ok()?))
}

/// The part of a body that begins after so many bytes.
fn cut(body: Body, mut before: u64, mut length: u64) -> Body {
    let piece = move |mut piece: bytes::Bytes| {
        let skipped = before.min(piece.len() as u64);
        before -= skipped;
        // Both fit: they are no more than the piece is long.
        let _ = piece.split_to(usize::try_from(skipped).unwrap_or(usize::MAX));
        piece.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        length -= piece.len() as u64;
        (piece, length == 0)
    };
    let pieces = body.map_ok(piece);
    let unfinished = stream::try_unfold((pieces, false), |(mut pieces, done)| async move {
        if done {
            return Ok(None);
        }
        let next = pieces.try_next().await?;
        Ok(next.map(|(piece, done)| (piece, (pieces, done))))
    });
    unfinished
        .try_filter(|piece| future::ready(!piece.is_empty()))
        .boxed()
}

fn unavailable(error: &dyn std::fmt::Display) -> MediaError {
    MediaError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_is_cut_out_of_the_whole() {
        let pieces = [&b"0123"[..], b"45", b"6789"];
        for (first, last, part) in [
            (0, 0, "0"),
            (0, 9, "0123456789"),
            (3, 6, "3456"),
            (4, 4, "4"),
            (9, 9, "9"),
        ] {
            let pieces = pieces.map(|piece| Ok(bytes::Bytes::from_static(piece)));
            let body = stream::iter(pieces).boxed();
            let cut: Vec<_> = cut(body, first, last - first + 1)
                .try_collect()
                .await
                .unwrap();
            assert_eq!(cut.concat(), part.as_bytes());
        }
    }
}
