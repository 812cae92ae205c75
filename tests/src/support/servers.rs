//! The real servers that the adapters of the distributed profile are tested on.
//!
//! Each is named by a variable; `./test.sh` starts them and sets it. A test that needs one and has none fails.

use crate::support::server::PATIENCE;

/// The address in a variable.
///
/// # Panics
/// When it is not set: a missing server is a failure, not a skip.
fn address(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run ./test.sh, which starts the servers")
    })
}

/// A Postgres server, as a URL of a role that may create databases; each test makes its own.
pub fn postgres_url() -> String {
    address("TEST_POSTGRES_URL")
}

/// A Redis server; each test uses its own key prefix.
pub fn redis_url() -> String {
    address("TEST_REDIS_URL")
}

/// A server that speaks MongoDB's protocol; each test uses its own database.
pub fn mongodb_url() -> String {
    address("TEST_MONGODB_URL")
}

/// A Kafka broker, as `host:port`; each test uses its own topics or groups.
pub fn kafka_brokers() -> String {
    address("TEST_KAFKA_BROKERS")
}

/// A connection to a Redis that waits for answers as long as a busy machine needs: the library's own half a second is
/// less than that.
///
/// # Errors
/// When nobody answers.
pub async fn patient_redis(
    client: &redis::Client,
) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}
