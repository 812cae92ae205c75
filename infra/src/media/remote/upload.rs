//! One file on its way to a remote store.
//!
//! A task of its own talks with the store, so that a request is never cut off half way with an unknown outcome because
//! the client's connection was: when nobody waits any more, the task stops at the next piece, or lets the last request
//! come to its end and then removes the file. A file is handed over once: until the caller holds it, dropping it removes
//! it.

use std::{
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use sha2::{Digest, Sha256};
use socialhub_commands::ports::{StagedFile, Upload, UploadError};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{Bucket, RemoteError};
use crate::media::{intake::Intake, kind::MediaKind, name::FileName};

/// Pieces under way between the client and the store; a store that is slower than the client holds it back.
const UNDER_WAY: usize = 4;
/// How long a store may take no piece of a file, or not confirm a whole one.
const PATIENCE: Duration = Duration::from_secs(60);

enum Piece {
    Bytes(Bytes),
    End,
}

/// The pieces of a file, in order. Breaks off with an error when the client does.
pub(in crate::media) struct Pieces {
    pieces: mpsc::Receiver<Piece>,
    ended: bool,
}

impl Stream for Pieces {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.pieces.poll_recv(context).map(|piece| {
            if let Some(Piece::Bytes(bytes)) = piece {
                return Some(Ok(bytes));
            }
            self.ended = true;
            piece
                .is_none()
                .then(|| Err(io::Error::other("the upload was broken off")))
        })
    }
}

/// A stored file that nobody was told about yet: it removes itself unless kept.
struct Unnamed<B: Bucket> {
    bucket: Arc<B>,
    name: FileName,
    kept: bool,
}

impl<B: Bucket> Unnamed<B> {
    fn keep(mut self) {
        self.kept = true;
    }
}

impl<B: Bucket> Drop for Unnamed<B> {
    fn drop(&mut self) {
        // Without a runtime there is nobody to remove it: the sweeper will.
        if let (false, Ok(runtime)) = (self.kept, Handle::try_current()) {
            runtime.spawn(remove(self.bucket.clone(), self.name));
        }
    }
}

async fn remove<B: Bucket>(bucket: Arc<B>, name: FileName) {
    if let Err(error) = bucket.remove(vec![name]).await {
        tracing::warn!(post = %name.post, index = name.index, %error, "a file that was not stored as a whole could not be removed; the sweeper will");
    }
}

/// The ends of the task's channels.
struct Sending<B: Bucket> {
    pieces: mpsc::Sender<Piece>,
    outcome: oneshot::Receiver<Result<Unnamed<B>, RemoteError>>,
}

impl<B: Bucket> Sending<B> {
    fn start(bucket: Arc<B>, name: FileName, kind: MediaKind) -> Self {
        let (pieces, receiver) = mpsc::channel(UNDER_WAY);
        let (tell, outcome) = oneshot::channel();
        let receiver = Pieces {
            pieces: receiver,
            ended: false,
        };
        tokio::spawn(async move {
            // From before the first request: whatever becomes of it, the file is not left.
            let unnamed = Unnamed {
                bucket,
                name,
                kept: false,
            };
            let stored = unnamed.bucket.put(name, kind, receiver).await;
            // When nobody waits for it, or it failed, it is dropped here and removed.
            let _ = tell.send(stored.map(|()| unnamed));
        });
        Self { pieces, outcome }
    }

    async fn send(&mut self, piece: Piece) -> Result<(), UploadError> {
        match timeout(PATIENCE, self.pieces.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            // The task has ended before the file has: it says why.
            Ok(Err(_)) => match (&mut self.outcome).await {
                Ok(Err(error)) => Err(unavailable(&error.to_string())),
                _ => Err(unavailable("the store broke off")),
            },
            Err(_) => Err(unavailable("the store takes nothing")),
        }
    }

    async fn finish(mut self) -> Result<(), UploadError> {
        self.send(Piece::End).await?;
        match timeout(PATIENCE, &mut self.outcome).await {
            Ok(Ok(Ok(unnamed))) => {
                // From here on the caller knows of it.
                unnamed.keep();
                Ok(())
            }
            Ok(Ok(Err(error))) => Err(unavailable(&error.to_string())),
            Ok(Err(_)) => Err(unavailable("the store broke off")),
            Err(_) => Err(unavailable("the store does not confirm it")),
        }
    }
}

fn unavailable(why: &str) -> UploadError {
    UploadError::Unavailable(format!("the file was not stored: {why}"))
}

/// A file on its way to a bucket. Nothing is sent before its type is known.
pub(in crate::media) struct RemoteUpload<B: Bucket> {
    bucket: Arc<B>,
    intake: Intake,
    hash: Sha256,
    /// The start of the file, until its type is known.
    gathered: Vec<u8>,
    sending: Option<Sending<B>>,
}

impl<B: Bucket> RemoteUpload<B> {
    pub(in crate::media) fn new(bucket: Arc<B>, intake: Intake) -> Self {
        Self {
            bucket,
            intake,
            hash: Sha256::new(),
            gathered: Vec::new(),
            sending: None,
        }
    }

    async fn take(&mut self, chunk: Bytes) -> Result<(), UploadError> {
        self.intake.count(&chunk)?;
        self.hash.update(&chunk);
        if let Some(sending) = &mut self.sending {
            return sending.send(Piece::Bytes(chunk)).await;
        }
        self.gathered.extend_from_slice(&chunk);
        match self.intake.look(&self.gathered)? {
            Some(kind) => self.start(kind).await,
            None => Ok(()),
        }
    }

    async fn start(&mut self, kind: MediaKind) -> Result<(), UploadError> {
        let sending = Sending::start(self.bucket.clone(), self.intake.name(), kind);
        let start = mem::take(&mut self.gathered).into();
        self.sending.insert(sending).send(Piece::Bytes(start)).await
    }
}

#[async_trait]
impl<B: Bucket> Upload for RemoteUpload<B> {
    async fn write(&mut self, chunk: Bytes) -> Result<(), UploadError> {
        self.intake.unbroken()?;
        // Should this future be dropped on the way, a piece may be missing.
        self.intake.set_broken(true);
        let taken = self.take(chunk).await;
        match taken {
            Ok(()) => self.intake.set_broken(false),
            Err(_) => self.sending = None,
        }
        taken
    }

    async fn finish(mut self: Box<Self>) -> Result<StagedFile, UploadError> {
        let kind = self.intake.complete(&self.gathered)?;
        if self.sending.is_none() {
            self.start(kind).await?;
        }
        if let Some(sending) = self.sending.take() {
            sending.finish().await?;
        }
        let sha256 = mem::take(&mut self.hash).finalize().into();
        Ok(self.intake.stored(kind, sha256))
    }
}
