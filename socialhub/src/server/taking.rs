//! Whether a client takes what is sent to it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// What is known of a client's taking.
#[derive(Debug, Default)]
pub(super) struct Taking {
    /// How often it took something.
    taken: AtomicU64,
    /// Whether there is something it has not taken yet.
    waiting: AtomicBool,
}

impl Taking {
    /// Waits until the client has taken nothing for so long, although there was something to take.
    pub(super) async fn stalled(&self, patience: Duration) {
        loop {
            let before = self.taken.load(Ordering::Relaxed);
            tokio::time::sleep(patience).await;
            let waiting = self.waiting.load(Ordering::Relaxed);
            if waiting && self.taken.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        self.waiting.store(written.is_pending(), Ordering::Relaxed);
        if written.is_ready() {
            self.taken.fetch_add(1, Ordering::Relaxed);
        }
        written
    }
}

/// A connection that notes how its client takes.
#[derive(Debug)]
pub(super) struct Watched {
    stream: TcpStream,
    taking: Arc<Taking>,
}

impl Watched {
    pub(super) fn new(stream: TcpStream, taking: Arc<Taking>) -> Self {
        Self { stream, taking }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.taking.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.taking.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn only_who_leaves_something_lying_has_stalled() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let taking = Arc::new(Taking::default());
        let mut stream = Watched::new(stream, Arc::clone(&taking));
        let stalled = || tokio::time::timeout(SHORT * 6, taking.stalled(SHORT));
        assert!(stalled().await.is_err(), "there is nothing to take");
        let sending = tokio::spawn(async move {
            // More than the buffers of both ends hold.
            stream.write_all(&vec![7; 64 << 20]).await.unwrap();
        });
        taking.stalled(SHORT).await;
        let mut taken = vec![0; 64 << 20];
        client.read_exact(&mut taken).await.unwrap();
        sending.await.unwrap();
        assert!(stalled().await.is_err(), "all was taken");
    }
}
