//! One lazy connection to a Redis server, shared by whoever is given a clone.

use std::{fmt, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, Script,
    ScriptInvocation, ServerErrorKind, Value, aio::MultiplexedConnection,
};
use tokio::{sync::Mutex, time::Instant};

/// How long an answer, or a connection, may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a server that has just failed is not asked again: nobody waits for it in vain meanwhile.
const REST: Duration = Duration::from_millis(500);

/// Why Redis did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RedisFault {
    /// It cannot answer now, or not this program.
    #[error("Redis is unavailable: {0}")]
    Unavailable(String),
    /// What it holds under our keys is not ours, or a script does not run on it.
    #[error("Redis does not hold what was expected: {0}")]
    Broken(String),
    /// It is set up so that data would be lost.
    #[error("{0}")]
    Unsafe(String),
}

/// A connection to a Redis server, made when it is first needed and again whenever it is lost.
#[derive(Clone)]
pub struct RedisLink(Arc<Shared>);

struct Shared {
    client: Client,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connected: Option<Connected>,
    connections: u64,
    resting: Option<(Instant, String)>,
}

#[derive(Clone)]
struct Connected {
    connection: MultiplexedConnection,
    number: u64,
    /// The server's clock when the connection was made, in milliseconds.
    since: u64,
}

/// An answer, and since when (on the server's clock, in milliseconds) its connection has not been interrupted.
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    pub(crate) since: u64,
}

impl fmt::Debug for RedisLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address may hold a password.
        f.write_str("RedisLink")
    }
}

impl RedisLink {
    /// A connection to the server at an address such as `redis://:password@host:6379/0`. Nothing is sent yet.
    ///
    /// # Errors
    /// When the address is none.
    pub fn new(url: &str) -> Result<Self, RedisFault> {
        let client = Client::open(url).map_err(|error| RedisFault::Broken(error.to_string()))?;
        Ok(Self::of(client))
    }

    /// As [`RedisLink::new`], of an address that was read already.
    pub(crate) fn of(client: Client) -> Self {
        Self(Arc::new(Shared {
            client,
            state: Mutex::default(),
        }))
    }

    /// A connection of its own to the same server: what waits on the one does not wait behind the other.
    pub(crate) fn another(&self) -> Self {
        Self::of(self.0.client.clone())
    }

    /// Checks that the server may hold data that must stay: that it throws away nothing without a time to live when its
    /// memory is full. A server that does not tell passes, with a warning.
    ///
    /// # Errors
    /// [`RedisFault::Unsafe`], saying what to set; [`RedisFault::Unavailable`].
    pub async fn check_server(&self) -> Result<(), RedisFault> {
        let mut ask = redis::cmd("CONFIG");
        ask.arg("GET").arg("maxmemory-policy");
        let told: Vec<String> = match self.query(&ask).await {
            Ok(told) => told,
            Err(RedisFault::Unavailable(reason)) if !reason.contains("NOPERM") => {
                return Err(RedisFault::Unavailable(reason));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot see whether Redis may evict keys (maxmemory-policy)");
                return Ok(());
            }
        };
        match told.get(1).map(String::as_str) {
            Some(policy) if policy != "noeviction" && !policy.starts_with("volatile-") => {
                Err(RedisFault::Unsafe(format!(
                    "Redis has maxmemory-policy {policy} and may throw counters away; set it to noeviction"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Sends a command.
    pub(crate) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisFault> {
        Ok(self.query_since(command).await?.value)
    }

    /// As [`RedisLink::query`]; also tells since when the connection has held.
    pub(crate) async fn query_since<T: FromRedisValue>(
        &self,
        command: &Cmd,
    ) -> Result<Answer<T>, RedisFault> {
        let mut connected = self.connected().await?;
        let answer = command.query_async(&mut connected.connection).await;
        let since = connected.since;
        let value = self.settle(&connected, answer).await?;
        Ok(Answer { value, since })
    }

    /// Sends commands at once.
    pub(crate) async fn pipeline<T: FromRedisValue>(
        &self,
        pipeline: &Pipeline,
    ) -> Result<T, RedisFault> {
        let mut connected = self.connected().await?;
        let answer = pipeline.query_async(&mut connected.connection).await;
        self.settle(&connected, answer).await
    }

    /// Runs a script, giving it to the server first if it does not have it.
    pub(crate) async fn invoke<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, RedisFault> {
        let mut connected = self.connected().await?;
        let answer = script.invoke_async(&mut connected.connection).await;
        self.settle(&connected, answer).await
    }

    /// Runs a script on a connection of its own, blocking; answers whether it was done.
    pub(crate) fn invoke_blocking(&self, script: &ScriptInvocation<'_>) -> bool {
        let connection = self.0.client.get_connection_with_timeout(PATIENCE);
        connection.is_ok_and(|mut connection| {
            connection.set_read_timeout(Some(PATIENCE)).is_ok()
                && script.invoke::<Value>(&mut connection).is_ok()
        })
    }

    /// Sends calls of one script (`EVALSHA`) at once. When the server does not have it, it is given to it and all are
    /// sent again: they must bear that.
    pub(crate) async fn invoke_all(
        &self,
        script: &Script,
        calls: impl IntoIterator<Item = Cmd>,
    ) -> Result<Vec<Value>, RedisFault> {
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        for call in calls {
            pipeline.add_command(call);
        }
        let mut connected = self.connected().await?;
        let connection = &mut connected.connection;
        let mut answers = send(&pipeline, connection).await;
        if answers.as_ref().is_err_and(is_unknown_script) {
            answers = match script.load_async(connection).await {
                Ok(_) => send(&pipeline, connection).await,
                Err(error) => Err(error),
            };
        }
        self.settle(&connected, answers).await
    }

    async fn connected(&self) -> Result<Connected, RedisFault> {
        let mut state = self.0.state.lock().await;
        if let Some(connected) = &state.connected {
            return Ok(connected.clone());
        }
        if let Some((until, reason)) = &state.resting
            && Instant::now() < *until
        {
            return Err(RedisFault::Unavailable(reason.clone()));
        }
        match self.connect().await {
            Ok((connection, since)) => {
                state.connections += 1;
                let connected = Connected {
                    connection,
                    number: state.connections,
                    since,
                };
                state.connected = Some(connected.clone());
                state.resting = None;
                Ok(connected)
            }
            Err(error) => {
                state.resting = Some((Instant::now() + REST, error.to_string()));
                Err(fault(&error))
            }
        }
    }

    async fn connect(&self) -> Result<(MultiplexedConnection, u64), RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let mut connection = self
            .0
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await?;
        Ok((connection, seconds * 1_000 + micros / 1_000))
    }

    /// Forgets a connection that failed, so that the next caller makes another.
    async fn settle<T>(
        &self,
        connected: &Connected,
        answer: Result<T, RedisError>,
    ) -> Result<T, RedisFault> {
        let error = match answer {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let fault = fault(&error);
        let lost = match error.kind() {
            // It is no longer who may write; the address may lead to who is.
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) => true,
            ErrorKind::Server(_) | ErrorKind::Extension => false,
            _ => true,
        };
        if lost {
            let mut state = self.0.state.lock().await;
            let same = state
                .connected
                .as_ref()
                .is_some_and(|current| current.number == connected.number);
            if same {
                state.connected = None;
                if error.is_timeout() {
                    state.resting = Some((Instant::now() + REST, error.to_string()));
                }
            }
        }
        Err(fault)
    }
}

/// The answers of all, or the first error.
async fn send(
    pipeline: &Pipeline,
    connection: &mut MultiplexedConnection,
) -> Result<Vec<Value>, RedisError> {
    let answers: Vec<Result<Value, RedisError>> = pipeline.query_async(connection).await?;
    answers.into_iter().collect()
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Only a server that ran the command and found the wrong thing is broken; all else may be better in a while.
fn fault(error: &RedisError) -> RedisFault {
    let reason = error.to_string();
    match (error.kind(), error.code()) {
        (_, Some("WRONGTYPE"))
        | (
            ErrorKind::Server(ServerErrorKind::ResponseError) | ErrorKind::UnexpectedReturnType,
            _,
        ) => {
            // A full memory and a failing disk come as general errors, too, when a script meets them.
            if ["OOM", "MISCONF", "NOREPLICAS", "READONLY"]
                .iter()
                .any(|code| reason.contains(code))
            {
                RedisFault::Unavailable(reason)
            } else {
                RedisFault::Broken(reason)
            }
        }
        _ => RedisFault::Unavailable(reason),
    }
}
