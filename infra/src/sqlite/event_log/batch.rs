//! What one transaction of the writer does: for each command check everything, then write it whole.
//!
//! Within one transaction a command sees the rows of the commands before it, so a conflict inside a batch is found by
//! the same checks as any other. Unique keys are only the alarm for a fault of these checks.

use rusqlite::{OptionalExtension, Transaction, named_params, params};
use socialhub_domain::{Timestamp, UserId};
use socialhub_event_log::{
    AnswerKey, AppendError, Appended, CredentialField, Credentials, Position, SideWrite,
    StoredAnswer, credential_key,
};

use super::{
    encode::{EncodedAppend, EncodedEvent},
    side,
};
use crate::sqlite::connection::{from_sql, id_bytes, to_sql};

/// What became of one command.
pub(super) type Outcome = Result<Appended, AppendError>;

/// How many rows of each side table a transaction prunes at most: more than it can add, little enough not to be felt.
const PRUNE_STEP: usize = 64;

/// A transaction under way.
pub(super) struct Batch<'t> {
    transaction: &'t Transaction<'t>,
    head: Position,
    now: Timestamp,
}

impl<'t> Batch<'t> {
    /// Begins on top of a log whose newest event is at `head`.
    pub(super) fn new(transaction: &'t Transaction<'t>, head: Position, now: Timestamp) -> Self {
        Self {
            transaction,
            head,
            now,
        }
    }

    /// Where the log will stand when the transaction commits.
    pub(super) fn head(&self) -> Position {
        self.head
    }

    /// Carries out one command, or refuses it without having written anything.
    ///
    /// # Errors
    /// A fault of SQLite: the transaction must be rolled back.
    pub(super) fn append(&mut self, command: &EncodedAppend) -> rusqlite::Result<Outcome> {
        if let Some(first) = self.find_command(command)? {
            return Ok(Ok(first));
        }
        if let Some(actor) = command.actor
            && self.is_erased(actor)?
        {
            return Ok(Err(AppendError::ActorErased));
        }
        for row in &command.side {
            if let Some(refusal) = self.check_side(row)? {
                return Ok(Err(refusal));
            }
        }
        let (actual, expected) = (self.version(command)?, command.expected_version);
        if !command.events.is_empty() && actual != expected {
            return Ok(Err(AppendError::VersionConflict { expected, actual }));
        }
        let mut version = actual;
        for event in &command.events {
            version += 1;
            self.insert_event(command, event, version)?;
        }
        for row in &command.side {
            self.write_side(row)?;
        }
        let appended = Appended {
            position: self.head,
            version,
        };
        if command.events.is_empty() && !command.side.is_empty() {
            self.insert_command(command, &appended)?;
        }
        Ok(Ok(appended))
    }

    /// What the command did the first time, if this is not the first time.
    fn find_command(&self, command: &EncodedAppend) -> rusqlite::Result<Option<Appended>> {
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Appended {
                position: from_sql(row.get(0)?),
                version: from_sql(row.get(1)?),
            })
        };
        let id = id_bytes(command.command_id);
        let by_events = "SELECT position, sequence FROM events WHERE command_id = ?1
             ORDER BY position DESC LIMIT 1";
        let mut statement = self.transaction.prepare_cached(by_events)?;
        if let Some(found) = statement.query_row([id], read).optional()? {
            return Ok(Some(found));
        }
        let without_events = "SELECT position, version FROM commands WHERE command_id = ?1";
        let mut statement = self.transaction.prepare_cached(without_events)?;
        statement.query_row([id], read).optional()
    }

    /// Also where nobody asked for it here: their key is gone, then.
    fn is_erased(&self, user: UserId) -> rusqlite::Result<bool> {
        let sql = "SELECT 1 FROM erasures WHERE user_id = ?1
             UNION ALL SELECT 1 FROM person_keys WHERE user_id = ?1 AND erased_at IS NOT NULL";
        self.exists(sql, &id_bytes(user.0))
    }

    fn version(&self, command: &EncodedAppend) -> rusqlite::Result<u64> {
        let sql =
            "SELECT max(sequence) FROM events WHERE aggregate_type = ?1 AND aggregate_id = ?2";
        let mut statement = self.transaction.prepare_cached(sql)?;
        let stream = &command.stream;
        let last: Option<i64> = statement
            .query_row([&stream.aggregate_type, &stream.aggregate_id], |row| {
                row.get(0)
            })?;
        Ok(last.map_or(0, from_sql))
    }

    fn insert_event(
        &mut self,
        command: &EncodedAppend,
        event: &EncodedEvent,
        sequence: u64,
    ) -> rusqlite::Result<()> {
        let sql =
            "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version,
                 payload, metadata, position, event_id, command_id, recorded_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        self.transaction.prepare_cached(sql)?.execute(params![
            command.stream.aggregate_type,
            command.stream.aggregate_id,
            to_sql(sequence),
            event.event_type,
            event.event_version,
            event.payload,
            event.metadata,
            to_sql(self.head + 1),
            id_bytes(event.event_id),
            id_bytes(command.command_id),
            self.now.0,
        ])?;
        self.head += 1;
        Ok(())
    }

    fn insert_command(&self, command: &EncodedAppend, did: &Appended) -> rusqlite::Result<()> {
        let sql = "INSERT INTO commands (command_id, position, version, recorded_at)
             VALUES (?1, ?2, ?3, ?4)";
        let id = id_bytes(command.command_id);
        let row = params![id, to_sql(did.position), to_sql(did.version), self.now.0];
        self.transaction.prepare_cached(sql)?.execute(row)?;
        Ok(())
    }

    fn check_side(&self, row: &SideWrite) -> rusqlite::Result<Option<AppendError>> {
        match row {
            SideWrite::InsertCredentials(new) => self.check_credentials(new),
            SideWrite::ResetPassword { user_id, .. } => {
                let sql = "SELECT 1 FROM credentials WHERE user_id = ?1";
                let known = self.exists(sql, &id_bytes(user_id.0))?;
                Ok((!known).then_some(AppendError::NoCredentials))
            }
            SideWrite::Erase { .. } => Ok(None),
            SideWrite::StoreAnswer { key, answer } => {
                let stored = side::find_answer(self.transaction, key)?;
                let standing = stored.filter(|stored| !stored.expired(answer.stored_at));
                Ok(standing.map(|stored| AppendError::AnswerExists(Box::new(stored))))
            }
        }
    }

    fn check_credentials(&self, new: &Credentials) -> rusqlite::Result<Option<AppendError>> {
        let by_username = "SELECT 1 FROM credentials WHERE username_key = ?1";
        if self.exists(by_username, &credential_key(&new.username))? {
            return Ok(Some(AppendError::CredentialsTaken(
                CredentialField::Username,
            )));
        }
        let by_email = "SELECT 1 FROM credentials WHERE email_key = ?1";
        if self.exists(by_email, &credential_key(&new.email))? {
            return Ok(Some(AppendError::CredentialsTaken(CredentialField::Email)));
        }
        Ok(None)
    }

    fn exists(&self, sql: &str, key: &dyn rusqlite::ToSql) -> rusqlite::Result<bool> {
        self.transaction.prepare_cached(sql)?.exists([key])
    }

    fn write_side(&self, row: &SideWrite) -> rusqlite::Result<()> {
        match row {
            SideWrite::InsertCredentials(new) => self.insert_credentials(new),
            SideWrite::ResetPassword {
                user_id,
                password_hash,
            } => {
                let sql = "UPDATE credentials SET password_hash = ?2, token_epoch = token_epoch + 1
                     WHERE user_id = ?1";
                let row = params![id_bytes(user_id.0), password_hash];
                self.transaction.prepare_cached(sql)?.execute(row)?;
                Ok(())
            }
            SideWrite::StoreAnswer { key, answer } => self.store_answer(key, answer),
            SideWrite::Erase { user_id } => side::erase(self.transaction, *user_id, self.head),
        }
    }

    fn insert_credentials(&self, new: &Credentials) -> rusqlite::Result<()> {
        let sql = "INSERT INTO credentials (user_id, username, username_key, email, email_key,
                 password_hash, token_epoch)
             VALUES (:user, :username, :username_key, :email, :email_key, :hash, :epoch)";
        self.transaction
            .prepare_cached(sql)?
            .execute(named_params! {
                ":user": id_bytes(new.user_id.0),
                ":username": new.username,
                ":username_key": credential_key(&new.username),
                ":email": new.email,
                ":email_key": credential_key(&new.email),
                ":hash": new.password_hash,
                ":epoch": to_sql(new.token_epoch),
            })?;
        Ok(())
    }

    /// Replaces an expired answer by a new row, so that ids keep rising with time.
    fn store_answer(&self, key: &AnswerKey, answer: &StoredAnswer) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO answers (owner, route, key, fingerprint, body, position, stored_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        self.transaction.prepare_cached(sql)?.execute(params![
            key.owner,
            key.route,
            key.key,
            answer.fingerprint,
            answer.body,
            to_sql(self.head),
            answer.stored_at.0,
        ])?;
        Ok(())
    }

    /// Forgets a few of the oldest rows that have had their time. Answers whether there may be more.
    ///
    /// # Errors
    /// A fault of SQLite: the transaction must be rolled back.
    pub(super) fn prune(&self, commands: usize) -> rusqlite::Result<bool> {
        let oldest = self.now.0.saturating_sub(StoredAnswer::LIFETIME_MS);
        let step = PRUNE_STEP.max(2 * commands);
        let answers = "DELETE FROM answers WHERE stored_at <= ?1
             AND id IN (SELECT id FROM answers ORDER BY id LIMIT ?2)";
        let commands = "DELETE FROM commands WHERE recorded_at <= ?1
             AND id IN (SELECT id FROM commands ORDER BY id LIMIT ?2)";
        let mut more = false;
        for sql in [answers, commands] {
            let deleted = self
                .transaction
                .prepare_cached(sql)?
                .execute(params![oldest, step])?;
            more |= deleted == step;
        }
        Ok(more)
    }
}
