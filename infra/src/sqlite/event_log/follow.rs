//! Watching the head of a log that another process writes.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rusqlite::Connection;
use socialhub_event_log::Position;
use tokio::sync::watch;

use super::read_head;
use crate::sqlite::connection::SqliteError;

/// Between two looks. SQLite tells no other process of a commit, so there is nothing to wait for.
const INTERVAL: Duration = Duration::from_millis(200);

/// A thread that looks at the file until this is dropped.
#[derive(Debug)]
pub(super) struct Follower {
    /// Dropping it ends the thread.
    alive: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Starts looking.
    pub(super) fn start(
        connection: Connection,
        head: Arc<watch::Sender<Position>>,
    ) -> Result<Self, SqliteError> {
        let (alive, ended) = bounded(0);
        let thread = thread::Builder::new()
            .name("event-log-follow".to_owned())
            .spawn(move || follow(&connection, &head, &ended))?;
        Ok(Self {
            alive: Some(alive),
            thread: Some(thread),
        })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn follow(connection: &Connection, head: &watch::Sender<Position>, ended: &Receiver<()>) {
    let mut seen = None;
    while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
        if let Err(error) = look(connection, head, &mut seen) {
            tracing::warn!(%error, "cannot look at the event log");
        }
    }
}

/// Reads the head only when `data_version` says that another connection has committed.
fn look(
    connection: &Connection,
    head: &watch::Sender<Position>,
    seen: &mut Option<i64>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("PRAGMA data_version")?;
    let version: i64 = statement.query_row([], |row| row.get(0))?;
    if *seen == Some(version) {
        return Ok(());
    }
    let now = read_head(connection)?;
    head.send_if_modified(|told| {
        let risen = *told != now;
        *told = now;
        risen
    });
    *seen = Some(version);
    Ok(())
}
