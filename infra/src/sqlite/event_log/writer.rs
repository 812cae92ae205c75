//! The one thread that writes the log: takes what waits, commits it together, tells each caller its own outcome.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::Receiver;
use rusqlite::{Connection, TransactionBehavior};
use socialhub_domain::Clock;
use socialhub_event_log::{AppendError, Position};
use tokio::sync::{oneshot, watch};

use super::{
    batch::{Batch, Outcome},
    encode::EncodedAppend,
    read_head,
};
use crate::sqlite::connection::{Durability, checkpoint, open_writer};

/// How many commands one commit carries at most: enough to make the disk's part small, and few enough that the last
/// caller of a full batch still waits only a few milliseconds.
const MAX_BATCH: usize = 512;

/// Between two looks for answers that have had their time, when the last look found no more.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

/// What the thread is sent.
pub(super) enum Message {
    /// A command, and where its outcome goes.
    Append(EncodedAppend, oneshot::Sender<Outcome>),
    /// Something else to be done with the file, outside any transaction.
    Run(Box<dyn FnOnce(&mut Connection) + Send>),
    /// Carry out what is in the queue, then end.
    Close,
}

/// A fault in a transaction, of which nothing may be left.
enum Fault {
    /// Before the commit: it was rolled back, certainly.
    Statement(rusqlite::Error),
    /// In the commit itself.
    Commit(rusqlite::Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Statement(error)
    }
}

/// The state of the writing thread.
pub(super) struct Writer {
    path: PathBuf,
    connection: Connection,
    clock: Arc<dyn Clock>,
    head: Position,
    told: Arc<watch::Sender<Position>>,
    next_prune: Instant,
    closing: bool,
    /// Held until the connection is closed: fields are dropped in order.
    _lock: File,
}

/// Pages (4 KB) in the WAL after which the writer copies them into the file. Hot pages are rewritten by every commit and
/// copied once, so that a few megabytes pay; many more would make the copying felt by who waits for that commit.
const WAL_PAGES: u32 = 4_000;

/// What the WAL is cut back to, in bytes, when it has grown beyond that (a long read can hold it up).
const WAL_BYTES: u32 = 64 << 20;

/// The writer's page cache in KB: enough for the pages of the indexes that appends at random places touch again.
const CACHE_KB: i32 = 16 << 10;

/// Opens the writing connection.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = open_writer(path, Durability::Full)?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES)?;
    // Negative: KB rather than pages.
    connection.pragma_update(None, "cache_size", -CACHE_KB)?;
    Ok(connection)
}

impl Writer {
    /// A writer on an open file that no other process writes.
    pub(super) fn new(
        path: PathBuf,
        connection: Connection,
        clock: Arc<dyn Clock>,
        told: Arc<watch::Sender<Position>>,
        lock: File,
    ) -> rusqlite::Result<Self> {
        let head = read_head(&connection)?;
        told.send_replace(head);
        Ok(Self {
            path,
            connection,
            clock,
            head,
            told,
            next_prune: Instant::now(),
            closing: false,
            _lock: lock,
        })
    }

    /// Serves until it is told to close or nobody can send any more; then brings everything into the one file.
    pub(super) fn run(mut self, queue: &Receiver<Message>) {
        while let Some((commands, replies)) = self.next_batch(queue) {
            let outcomes = self.commit(&commands);
            // Before the replies: who was answered finds at least their own position in the watched head.
            self.tell_head();
            for (reply, outcome) in replies.into_iter().zip(outcomes) {
                // The caller may have gone away; the command stands all the same.
                let _ = reply.send(outcome);
            }
        }
        if let Err(error) = checkpoint(&self.connection) {
            tracing::warn!(%error, "the log's WAL stays beside the file until the next start");
        }
    }

    /// Waits for a command and takes all that wait behind it. None when there will be no more.
    fn next_batch(
        &mut self,
        queue: &Receiver<Message>,
    ) -> Option<(Vec<EncodedAppend>, Vec<oneshot::Sender<Outcome>>)> {
        let (mut commands, mut replies) = (Vec::new(), Vec::new());
        while commands.len() < MAX_BATCH {
            let message = if commands.is_empty() && !self.closing {
                queue.recv().ok()?
            } else if let Ok(message) = queue.try_recv() {
                message
            } else {
                break;
            };
            match message {
                Message::Append(command, reply) => {
                    commands.push(command);
                    replies.push(reply);
                }
                Message::Run(work) => work(&mut self.connection),
                Message::Close => self.closing = true,
            }
        }
        (!commands.is_empty()).then_some((commands, replies))
    }

    /// Commits a batch and says what became of each command, in order.
    fn commit(&mut self, commands: &[EncodedAppend]) -> Vec<Outcome> {
        match self.transact(commands) {
            Ok(outcomes) => outcomes,
            // One of them may be what SQLite chokes on: the others must not suffer for it.
            Err(Fault::Statement(_)) if commands.len() > 1 => {
                self.recover();
                let alone = commands.chunks(1);
                alone.flat_map(|one| self.commit_alone(one)).collect()
            }
            Err(fault) => self.refuse(commands, &fault),
        }
    }

    fn commit_alone(&mut self, command: &[EncodedAppend]) -> Vec<Outcome> {
        match self.transact(command) {
            Ok(outcomes) => outcomes,
            Err(fault) => self.refuse(command, &fault),
        }
    }

    fn transact(&mut self, commands: &[EncodedAppend]) -> Result<Vec<Outcome>, Fault> {
        let behavior = TransactionBehavior::Immediate;
        let transaction = self.connection.transaction_with_behavior(behavior)?;
        let mut batch = Batch::new(&transaction, self.head, self.clock.now());
        let outcomes: rusqlite::Result<Vec<Outcome>> = commands
            .iter()
            .map(|command| batch.append(command))
            .collect();
        let outcomes = outcomes?;
        let now = Instant::now();
        if now >= self.next_prune {
            let more = batch.prune(commands.len())?;
            self.next_prune = if more { now } else { now + PRUNE_INTERVAL };
        }
        let head = batch.head();
        transaction.commit().map_err(Fault::Commit)?;
        self.head = head;
        Ok(outcomes)
    }

    /// Answers every command of a batch that failed.
    fn refuse(&mut self, commands: &[EncodedAppend], fault: &Fault) -> Vec<Outcome> {
        self.recover();
        let (error, gone) = match fault {
            Fault::Statement(error) => (error, true),
            Fault::Commit(error) => (error, self.bury()),
        };
        tracing::error!(%error, commands = commands.len(), "the event log could not commit");
        let refusal = || {
            Err(if gone {
                AppendError::Unavailable(format!("the event log could not commit: {error}"))
            } else {
                AppendError::OutcomeUnknown
            })
        };
        commands.iter().map(|_| refusal()).collect()
    }

    /// Makes sure that a failed commit can never come back to life, and answers whether that is certain.
    ///
    /// When the disk fails in the very last step of a commit, the whole transaction may lie in the WAL, and a crash
    /// right now would make the next start take it for committed. A small transaction of its own takes its place there.
    fn bury(&mut self) -> bool {
        let sql = "UPDATE failed_commits SET number = number + 1";
        self.connection.execute(sql, []).is_ok()
    }

    /// Back to a connection outside any transaction that knows the head. A fault that stays shows up again with the
    /// next batch, so there is nothing to report here.
    fn recover(&mut self) {
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        if self.connection.is_autocommit()
            && let Ok(head) = read_head(&self.connection)
        {
            self.head = head;
            return;
        }
        let anew = connect(&self.path).and_then(|anew| Ok((read_head(&anew)?, anew)));
        if let Ok((head, anew)) = anew {
            self.head = head;
            self.connection = anew;
        }
    }

    fn tell_head(&self) {
        self.told.send_if_modified(|told| {
            let risen = *told != self.head;
            *told = self.head;
            risen
        });
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::params;
    use socialhub_domain::{PostId, StreamId, Timestamp, UserId, event::PostDeleted};
    use socialhub_event_log::{Append, Metadata, NewEvent};
    use tempfile::TempDir;
    use uuid::Uuid;

    use super::*;
    use crate::{
        clock::SystemClock,
        sqlite::event_log::{encode::encode, schema},
    };

    /// A writer that is called rather than running on its thread.
    fn writer() -> (Writer, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.db");
        let lock = File::create(folder.path().join("lock")).unwrap();
        let mut connection = connect(&path).unwrap();
        schema::migrate(&mut connection, &path).unwrap();
        let told = Arc::new(watch::Sender::new(0));
        let clock = Arc::new(SystemClock);
        let writer = Writer::new(path, connection, clock, told, lock).unwrap();
        (writer, folder)
    }

    fn command(number: u128) -> EncodedAppend {
        let event = PostDeleted {
            post_id: PostId(Uuid::nil()),
            user_id: UserId(Uuid::nil()),
            timestamp: Timestamp(1),
        };
        encode(Append {
            command_id: Uuid::from_u128(number),
            stream: StreamId::new("post", number),
            expected_version: 0,
            events: vec![NewEvent {
                event_id: Uuid::from_u128(number),
                event: event.into(),
                payload: None,
            }],
            metadata: Metadata::default(),
            side: Vec::new(),
        })
        .unwrap()
    }

    fn refused(outcomes: &[Outcome]) -> bool {
        let refused = |outcome: &Outcome| matches!(outcome, Err(AppendError::Unavailable(_)));
        outcomes.iter().all(refused)
    }

    fn positions(outcomes: Vec<Outcome>) -> Vec<Position> {
        let position = |outcome: Outcome| outcome.unwrap().position;
        outcomes.into_iter().map(position).collect()
    }

    #[test]
    fn a_full_disk_refuses_all_and_passes() {
        let (mut writer, _folder) = writer();
        assert_eq!(positions(writer.commit(&[command(1)])), [1]);
        // SQLite answers as it does for a full disk when a file may not grow.
        let pages = |writer: &Writer, max: i64| {
            let sql = format!("PRAGMA max_page_count = {max}");
            writer
                .connection
                .query_row(&sql, [], |row| row.get::<_, i64>(0))
                .unwrap()
        };
        pages(&writer, 1);
        let many: Vec<_> = (2..200).map(command).collect();
        let outcomes = writer.commit(&many);
        let landed: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
        // What still fits is carried out alone; from the first that does not fit on, all are refused.
        assert!(landed.is_sorted_by(|earlier, later| earlier >= later));
        assert!(!landed[197]);
        let fit = landed.iter().filter(|landed| **landed).count() as u64;
        assert_eq!(writer.head, 1 + fit);
        pages(&writer, 1 << 30);
        assert_eq!(positions(writer.commit(&[command(1000)])), [2 + fit]);
    }

    #[test]
    fn a_failed_commit_leaves_nothing_and_the_writer_goes_on() {
        let (mut writer, _folder) = writer();
        assert_eq!(positions(writer.commit(&[command(1)])), [1]);
        // A deferred constraint fails in the COMMIT itself.
        let break_commits = "PRAGMA foreign_keys = ON;
             CREATE TABLE parent (id INTEGER PRIMARY KEY);
             CREATE TABLE child (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
             CREATE TRIGGER break_commit AFTER INSERT ON events BEGIN INSERT INTO child VALUES (1); END;";
        writer.connection.execute_batch(break_commits).unwrap();
        assert!(refused(&writer.commit(&[command(2), command(3)])));
        assert_eq!(read_head(&writer.connection).unwrap(), 1);
        writer
            .connection
            .execute_batch("DROP TRIGGER break_commit")
            .unwrap();
        let sql = "SELECT number FROM failed_commits";
        let buried = writer
            .connection
            .query_row(sql, [], |row| row.get::<_, i64>(0));
        assert_eq!(buried.unwrap(), 1);
        assert_eq!(positions(writer.commit(&[command(3), command(2)])), [2, 3]);
    }

    #[test]
    fn a_command_that_sqlite_chokes_on_fails_alone() {
        let (mut writer, _folder) = writer();
        let choke = "CREATE TRIGGER choke BEFORE INSERT ON events WHEN new.aggregate_id = '2'
             BEGIN SELECT raise(ABORT, 'choked'); END";
        writer.connection.execute(choke, params![]).unwrap();
        let mut outcomes = writer.commit(&[command(1), command(2), command(3)]);
        assert!(refused(&[outcomes.remove(1)]));
        assert_eq!(positions(outcomes), [1, 2]);
    }
}
