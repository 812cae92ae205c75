//! bcrypt on threads of its own.
//!
//! A hash keeps a core busy for tens of milliseconds. It therefore runs neither on the async threads nor on their
//! blocking pool, but on a few low-priority threads behind a bounded queue: a flood of logins slows logins down and is
//! then refused, and nothing else notices.

use std::{io, thread};

use async_trait::async_trait;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use socialhub_commands::ports::{PasswordHasher, PortError};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

/// How nice the threads are to the rest of the program: at 10 they get a tenth of a core that others want, all of one
/// that nobody wants.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// bcrypt reads no further. The library's non-truncating functions count the terminating zero byte too and so refuse
/// passwords of exactly 72 bytes, which the contract allows: the length is checked here instead.
const MAX_BYTES: usize = 72;

type Reply<T> = oneshot::Sender<Result<T, PortError>>;

enum Job {
    Hash(Zeroizing<String>, Reply<String>),
    Verify(Zeroizing<String>, Option<String>, Reply<bool>),
}

/// Hashes and checks passwords on dedicated threads. They end when the last clone of the handle is dropped.
#[derive(Clone)]
pub struct BcryptPool {
    jobs: Sender<Job>,
}

impl BcryptPool {
    /// Starts `threads` threads behind a queue of at most `queue` waiting jobs; `cost` is bcrypt's (10 in production).
    ///
    /// # Errors
    /// When a thread cannot be started, or the cost is out of bcrypt's range (4 to 31).
    pub fn start(threads: usize, queue: usize, cost: u32) -> io::Result<Self> {
        let dummy = bcrypt::hash("nobody has this password", cost)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let (jobs, waiting) = bounded(queue.max(1));
        for index in 0..threads.max(1) {
            let worker = Worker {
                jobs: waiting.clone(),
                cost,
                dummy: dummy.clone(),
            };
            thread::Builder::new()
                .name(format!("bcrypt-{index}"))
                .spawn(move || worker.run())?;
        }
        Ok(Self { jobs })
    }

    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, PortError> {
        let (reply, answer) = oneshot::channel();
        self.jobs
            .try_send(job(reply))
            .map_err(|error| match error {
                TrySendError::Full(_) => PortError("too many logins are waiting".to_owned()),
                TrySendError::Disconnected(_) => closed(),
            })?;
        answer.await.map_err(|_| closed())?
    }
}

fn closed() -> PortError {
    PortError("the hashing pool is closed".to_owned())
}

#[async_trait]
impl PasswordHasher for BcryptPool {
    async fn hash(&self, password: String) -> Result<String, PortError> {
        let password = Zeroizing::new(password);
        self.ask(|reply| Job::Hash(password, reply)).await
    }

    async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, PortError> {
        let password = Zeroizing::new(password);
        self.ask(|reply| Job::Verify(password, hash, reply)).await
    }
}

struct Worker {
    jobs: Receiver<Job>,
    cost: u32,
    /// A hash of the same cost, compared with when there is no such user: the same work, the same time.
    dummy: String,
}

impl Worker {
    fn run(self) {
        lower_priority();
        while let Ok(job) = self.jobs.recv() {
            self.work(job);
        }
    }

    /// Does a job, unless its asker has gone away meanwhile.
    fn work(&self, job: Job) {
        match job {
            Job::Hash(password, reply) if !reply.is_closed() => {
                let _ = reply.send(self.hash(&password));
            }
            Job::Verify(password, hash, reply) if !reply.is_closed() => {
                let _ = reply.send(self.verify(&password, hash.as_deref()));
            }
            Job::Hash(..) | Job::Verify(..) => {}
        }
    }

    fn hash(&self, password: &str) -> Result<String, PortError> {
        if password.len() > MAX_BYTES {
            return Err(PortError("the password is too long".to_owned()));
        }
        bcrypt::hash(password, self.cost).map_err(|error| PortError(error.to_string()))
    }

    fn verify(&self, password: &str, hash: Option<&str>) -> Result<bool, PortError> {
        let possible = hash.is_some() && password.len() <= MAX_BYTES;
        let hash = hash.unwrap_or(&self.dummy);
        bcrypt::verify(password, hash)
            .map(|fits| fits && possible)
            .map_err(|error| PortError(error.to_string()))
    }
}

#[cfg(target_os = "linux")]
fn lower_priority() {
    // On Linux this changes the calling thread alone.
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::warn!(%error, "cannot lower the priority of a hashing thread");
    }
}

/// Elsewhere niceness belongs to the whole process: the bounded queue and the scheduler must do.
#[cfg(not(target_os = "linux"))]
fn lower_priority() {}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: u32 = 4;

    fn pool() -> BcryptPool {
        BcryptPool::start(2, 16, COST).unwrap()
    }

    #[tokio::test]
    async fn a_password_fits_its_own_hash_only() {
        let pool = pool();
        let hash = pool.hash("Password123!".to_owned()).await.unwrap();
        assert!(hash.starts_with("$2b$04$"), "{hash}");
        let verify = |password: &str| pool.verify(password.to_owned(), Some(hash.clone()));
        assert!(verify("Password123!").await.unwrap());
        assert!(!verify("password123!").await.unwrap());
    }

    #[tokio::test]
    async fn nobody_gets_in_without_a_hash() {
        let pool = pool();
        let answer = pool.verify("nobody has this password".to_owned(), None);
        assert!(!answer.await.unwrap());
    }

    #[tokio::test]
    async fn nothing_is_cut_off() {
        let pool = pool();
        let longest = "x".repeat(MAX_BYTES);
        let hash = pool.hash(longest.clone()).await.unwrap();
        let verify = |password: String| pool.verify(password, Some(hash.clone()));
        assert!(verify(longest.clone()).await.unwrap());
        assert!(!verify("x".repeat(MAX_BYTES - 1)).await.unwrap());
        let longer = longest + "y";
        assert!(!verify(longer.clone()).await.unwrap());
        assert!(pool.hash(longer).await.is_err());
    }

    #[tokio::test]
    async fn a_full_queue_refuses() {
        let (jobs, waiting) = bounded(1);
        let pool = BcryptPool { jobs };
        let first = tokio::spawn({
            let pool = pool.clone();
            async move { pool.hash("Password123!".to_owned()).await }
        });
        while waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(pool.hash("Password123!".to_owned()).await.is_err());
        drop(waiting.recv().unwrap());
        assert!(first.await.unwrap().is_err());
    }
}
