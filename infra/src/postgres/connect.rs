//! Addresses, connections and schemas of the Postgres adapters.

use std::{borrow::Cow, str::FromStr, time::Duration};

use socialhub_event_log::UnfinishedCopy;
use sqlx::{
    Executor,
    error::DatabaseError,
    postgres::{PgConnectOptions, PgSeverity},
};

use super::session::Session;

/// How long a new connection may take.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How much longer than the server lets it run an answer is waited for: by then the server itself would have ended the
/// statement, so there is nobody.
pub(super) const SLACK: Duration = Duration::from_secs(1);

/// How long a migration may rest between two statements.
const MIGRATION_IDLE: Duration = Duration::from_secs(60);

/// Serves all who migrate a database, whatever their schema.
const MIGRATION_LOCK: i64 = 8_316_291_640_277_038;

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address is none.
    #[error("not an address of Postgres: {0}")]
    Address(#[source] sqlx::Error),
    /// It did not answer, or refused us.
    #[error("Postgres cannot be reached: {0}")]
    Unreachable(#[source] sqlx::Error),
    /// It answers, and takes no such person, password or database: that does not pass by itself.
    #[error("Postgres does not let this program in: {0}")]
    Refused(#[source] sqlx::Error),
    /// A newer program wrote it.
    #[error(
        "the schema of the {component} has version {found}, this program knows up to {known}: the database was written by a newer SocialHub, use that one"
    )]
    Newer {
        /// Whose tables.
        component: &'static str,
        /// The version they have.
        found: usize,
        /// The newest version this program knows.
        known: usize,
    },
    /// It was not migrated.
    #[error(
        "the schema of the {component} has version {found}, not {known}: run `socialhub migrate` first"
    )]
    Older {
        /// Whose tables.
        component: &'static str,
        /// The version they have.
        found: usize,
        /// The version this program needs.
        known: usize,
    },
    /// A copy into the log was interrupted.
    #[error("the event log is not whole: {0}")]
    Unfinished(UnfinishedCopy),
    /// A migration failed; it left nothing.
    #[error("the schema of the {component} could not be brought up to date: {error}")]
    Migration {
        /// Whose tables.
        component: &'static str,
        /// What the database says.
        #[source]
        error: sqlx::Error,
    },
}

impl OpenError {
    /// Why there is no connection.
    fn connecting(error: sqlx::Error) -> Self {
        let code = code_of(&error);
        // Invalid authorization, and a database that is not there.
        let refused = code.is_some_and(|code| code.starts_with("28") || code.starts_with("3D"));
        if refused {
            Self::Refused(error)
        } else {
            Self::Unreachable(error)
        }
    }
}

/// Looks whether a database lets this program in.
///
/// # Errors
/// [`OpenError`].
pub async fn look(url: &str) -> Result<(), OpenError> {
    let options = PgConnectOptions::from_str(url).map_err(OpenError::Address)?;
    let session = Session::connect(&Access::watched(options)).await;
    session.map_err(OpenError::connecting)?.close().await;
    Ok(())
}

/// How to connect, and how long to wait for answers.
#[derive(Debug, Clone)]
pub struct Access {
    pub(super) options: PgConnectOptions,
    pub(super) patience: Patience,
}

/// How long an answer is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// The server ends statements before that.
    Limit(Duration),
    /// The server lets statements run: for as long as it knows of them.
    Watch,
}

impl Access {
    /// Reads an address. `name` is what the connections are called in the server's lists.
    ///
    /// Statements run for `statement_timeout` and wait for locks for `lock_timeout` at most, so that one that is stuck is
    /// given up by the server itself. A peer that has vanished is noticed in seconds, not hours, on either side.
    ///
    /// # Errors
    /// When the address is none.
    pub fn new(
        url: &str,
        name: &str,
        statement_timeout: Duration,
        lock_timeout: Duration,
    ) -> Result<Self, OpenError> {
        let options = PgConnectOptions::from_str(url).map_err(OpenError::Address)?;
        let options = missing_peers(options, Duration::from_secs(10)).application_name(name);
        let options = options.options([
            ("lock_timeout", millis(lock_timeout)),
            // Look-ups by key; see append_events for why no plan may scan.
            ("enable_seqscan", "off".to_owned()),
            ("plan_cache_mode", "force_generic_plan".to_owned()),
            ("jit", "off".to_owned()),
        ]);
        Ok(Self::watched(options).limited(statement_timeout))
    }

    /// Statements may take their time: each is waited for as long as the server is at it.
    #[must_use]
    pub fn watched(options: PgConnectOptions) -> Self {
        Self {
            options,
            patience: Patience::Watch,
        }
    }

    /// Statements run for so long at most.
    pub(super) fn limited(self, statement_timeout: Duration) -> Self {
        let timeout = [("statement_timeout", millis(statement_timeout))];
        Self {
            options: self.options.options(timeout),
            patience: Patience::Limit(statement_timeout + SLACK),
        }
    }
}

/// Lets the server notice a peer that has vanished in seconds, not hours, and end a session that does nothing in an open
/// transaction for so long: what that one has locked, others wait for. A statement whose connection was closed is ended:
/// nobody hears its answer.
pub(super) fn missing_peers(options: PgConnectOptions, idle: Duration) -> PgConnectOptions {
    options.options([
        ("idle_in_transaction_session_timeout", millis(idle)),
        ("client_connection_check_interval", "2000".to_owned()),
        ("tcp_user_timeout", "10000".to_owned()),
        ("tcp_keepalives_idle", "10".to_owned()),
        ("tcp_keepalives_interval", "5".to_owned()),
        ("tcp_keepalives_count", "3".to_owned()),
    ])
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

/// What does not answer in time is taken for a connection that was lost; it must not be used any more.
pub(super) async fn within<T>(
    time: Duration,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let answer = tokio::time::timeout(time, answer).await;
    answer.map_err(|_| timed_out())?
}

/// What is said when nothing answered in time.
pub(super) fn timed_out() -> sqlx::Error {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// Whether an error says that nothing answered in time.
pub(super) fn is_timeout(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut)
}

/// Whether an error says that the server carried out nothing: it refused the statement and lives on. With every other
/// error the connection is lost, and what the server did is not known.
pub(super) fn is_refusal(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else {
        return false;
    };
    let error = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>();
    error.is_some_and(|error| matches!(error.severity(), PgSeverity::Error))
}

/// Whether a server says that it may not write: its database has moved to another one, or soon will. The session goes on, and
/// would be refused for ever.
pub(super) fn is_read_only(error: &sqlx::Error) -> bool {
    code_of(error).as_deref() == Some("25006")
}

/// Whether an error says something about the server's moment and not about the statement: lost connections, deadlocks,
/// resources, operators, the system, locks that did not come in time, a standby that may not write.
pub(super) fn passes(error: &sqlx::Error) -> bool {
    const CLASSES: [&str; 7] = ["08", "25", "40", "53", "55", "57", "58"];
    let code = code_of(error);
    let class = code.as_deref().and_then(|code| code.get(..2));
    !is_refusal(error) || class.is_some_and(|class| CLASSES.contains(&class))
}

/// The SQLSTATE, when it is Postgres that says it.
pub(super) fn code_of(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error().and_then(DatabaseError::code)
}

/// The tables of one adapter and how they came to be.
///
/// To change them, add a file to `migrations/postgres/` and to the list; never edit a released one.
#[derive(Debug)]
pub(super) struct Schema {
    /// Whose tables; names the row that counts the steps.
    pub component: &'static str,
    /// The steps in order.
    pub migrations: &'static [&'static str],
}

impl Schema {
    /// Brings a database to today's version, all steps or none. Several may try at once: one does it.
    pub async fn migrate(&self, url: &str) -> Result<(), OpenError> {
        let options = PgConnectOptions::from_str(url).map_err(OpenError::Address)?;
        // Others wait for the lock of one who has vanished.
        let options = missing_peers(options, MIGRATION_IDLE);
        // A step may rewrite tables, and somebody else's steps are waited for: that takes the time it takes.
        let session = Session::connect(&Access::watched(options)).await;
        // Dropped before the commit, it rolls everything back.
        let mut session = session.map_err(OpenError::connecting)?;
        // A server that goes away meanwhile has taken all of it or nothing, which the next try sees.
        let component = self.component;
        let failed = |error| {
            if passes(&error) {
                OpenError::Unreachable(error)
            } else {
                OpenError::Migration { component, error }
            }
        };
        session.execute("BEGIN").await.map_err(failed)?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(MIGRATION_LOCK)
            .execute(&mut session)
            .await
            .map_err(failed)?;
        let versions = "CREATE TABLE IF NOT EXISTS schema_versions (
             component text PRIMARY KEY, version bigint NOT NULL)";
        session.execute(versions).await.map_err(failed)?;
        let found = self.version(&mut session).await.map_err(failed)?;
        self.refuse_newer(found)?;
        for sql in self.migrations.iter().skip(found) {
            // As one text: a step may be several statements.
            session.execute(*sql).await.map_err(failed)?;
        }
        let note = "INSERT INTO schema_versions VALUES ($1, $2)
             ON CONFLICT (component) DO UPDATE SET version = excluded.version";
        sqlx::query(note)
            .bind(self.component)
            .bind(self.migrations.len() as i64)
            .execute(&mut session)
            .await
            .map_err(failed)?;
        session.execute("COMMIT").await.map_err(failed)?;
        session.close().await;
        Ok(())
    }

    /// Makes sure that a database answers and has exactly today's version.
    pub async fn require_current(&self, access: &Access) -> Result<(), OpenError> {
        let session = Session::connect(access).await;
        let mut session = session.map_err(OpenError::connecting)?;
        let there = "SELECT to_regclass('schema_versions') IS NOT NULL";
        let there: bool = sqlx::query_scalar(there)
            .fetch_one(&mut session)
            .await
            .map_err(OpenError::Unreachable)?;
        let found = if there {
            let version = self.version(&mut session).await;
            version.map_err(OpenError::Unreachable)?
        } else {
            0
        };
        session.close().await;
        self.refuse_newer(found)?;
        let known = self.migrations.len();
        if found < known {
            let component = self.component;
            return Err(OpenError::Older {
                component,
                found,
                known,
            });
        }
        Ok(())
    }

    async fn version(&self, session: &mut Session) -> Result<usize, sqlx::Error> {
        let sql = "SELECT version FROM schema_versions WHERE component = $1";
        let version: Option<i64> = sqlx::query_scalar(sql)
            .bind(self.component)
            .fetch_optional(session)
            .await?;
        Ok(version.map_or(0, |version| usize::try_from(version).unwrap_or(0)))
    }

    fn refuse_newer(&self, found: usize) -> Result<(), OpenError> {
        let known = self.migrations.len();
        if found > known {
            let component = self.component;
            return Err(OpenError::Newer {
                component,
                found,
                known,
            });
        }
        Ok(())
    }
}

/// A number of ours as Postgres has it. Beyond the greatest there, the greatest there.
pub(super) fn to_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// And back; there are no negative ones.
pub(super) fn from_sql(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
