//! The profile that the black-box tests run in: the same tests, chosen by a variable.

use socialhub_domain::IdGenerator;
use socialhub_infra::clock::RandomIds;
use sqlx::{Connection, Executor, PgConnection};

use crate::support::servers;

/// What the servers under test know their operator by.
pub const OPERATOR_TOKEN: &str = "the operator of the tests";

/// The distributed profile, each role in a process of its own, behind nginx.
const SPLIT: &str = "split";

/// Whether each role of a distributed server under test has a process of its own.
pub fn is_split() -> bool {
    std::env::var("TEST_PROFILE").is_ok_and(|chosen| chosen == SPLIT)
}

/// Which adapters the servers under test run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// SQLite alone.
    Embedded,
    /// Postgres, Kafka, MongoDB and Redis; all roles in one process, or each in its own behind nginx ([`is_split`]).
    Distributed,
}

impl Profile {
    /// The one that `TEST_PROFILE` names; embedded when it names none.
    ///
    /// # Panics
    /// When it names another.
    pub fn chosen() -> Self {
        match std::env::var("TEST_PROFILE").as_deref() {
            Err(_) | Ok("" | "embedded") => Self::Embedded,
            Ok("distributed" | SPLIT) => Self::Distributed,
            Ok(other) => panic!("TEST_PROFILE: there is no profile `{other}`"),
        }
    }

    /// What a server of this profile finds in its environment: with servers, a fresh corner of each.
    pub async fn environment(self) -> Vec<(String, String)> {
        match self {
            Self::Embedded => Vec::new(),
            Self::Distributed => corner().await,
        }
    }
}

/// A database, a key prefix, topics and groups that nobody else uses.
async fn corner() -> Vec<(String, String)> {
    let name = format!("t{}", RandomIds.next_id().simple());
    let postgres = servers::postgres_url();
    let mut connection = PgConnection::connect(&postgres).await.unwrap();
    let create = format!("CREATE DATABASE {name}");
    connection.execute(create.as_str()).await.unwrap();
    let (server, _) = postgres.rsplit_once('/').unwrap();
    let mongodb = servers::mongodb_url();
    let (mongo, _) = mongodb.rsplit_once('/').unwrap();
    [
        ("DATABASE_URL", format!("{server}/{name}")),
        ("KAFKA_BROKERS", servers::kafka_brokers()),
        ("KAFKA_PARTITIONS", "3".to_owned()),
        ("MONGODB_URL", format!("{mongo}/{name}")),
        ("REDIS_URL", servers::redis_url()),
        ("NAMESPACE", name.clone()),
        (
            "JWT_SECRET",
            "for tests only, and long enough for that".to_owned(),
        ),
        ("GATEWAY_SECRET", "between gateway and services".to_owned()),
        ("OPERATOR_TOKEN", OPERATOR_TOKEN.to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .to_vec()
}
