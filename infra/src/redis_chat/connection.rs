//! A connection that is made when it is needed, and given up at the first fault.

use std::{sync::Arc, time::Duration};

use redis::{AsyncConnectionConfig, Client, RedisResult, aio::MultiplexedConnection};
use tokio::sync::Mutex;

/// How long a server may take to answer, or to be reached.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A connection to one server. Cheap to clone; the clones share it.
#[derive(Clone)]
pub(super) struct Connection {
    client: Client,
    open: Arc<Mutex<Option<MultiplexedConnection>>>,
}

impl Connection {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            open: Arc::default(),
        }
    }

    /// The connection, made now if there is none.
    pub(super) async fn get(&self) -> RedisResult<MultiplexedConnection> {
        let mut open = self.open.lock().await;
        if let Some(connection) = &*open {
            return Ok(connection.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        let connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        Ok(open.insert(connection).clone())
    }

    /// What it answered, or the end of it: a connection on which anything failed is not used again.
    pub(super) async fn checked<T>(&self, outcome: RedisResult<T>) -> RedisResult<T> {
        if outcome.is_err() {
            *self.open.lock().await = None;
        }
        outcome
    }
}
