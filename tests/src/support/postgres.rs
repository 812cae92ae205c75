//! A database of a test's own on the server that the tests are given.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{Connection, Executor, PgConnection};

use super::servers::postgres_url;

/// An empty database; dropped with the value, whoever is still connected.
#[derive(Debug)]
pub struct Database {
    name: String,
    url: String,
}

impl Database {
    /// Makes one.
    ///
    /// # Panics
    /// When the server does not let it be made.
    pub async fn create() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!(
            "test_{}_{number}_{}",
            std::process::id(),
            rand::random::<u32>()
        );
        run(&format!("CREATE DATABASE {name}")).await;
        let server = postgres_url();
        let (host, query) = match server.split_once('?') {
            Some((host, query)) => (host.to_owned(), format!("?{query}")),
            None => (server, String::new()),
        };
        let (host, _) = host.rsplit_once('/').unwrap();
        let url = format!("{host}/{name}{query}");
        Self { name, url }
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A connection beside those of the adapter under test.
    ///
    /// # Panics
    /// When the server refuses it.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    /// Carries out a statement.
    ///
    /// # Panics
    /// When it fails.
    pub async fn execute(&self, sql: &str) {
        let mut connection = self.connect().await;
        connection.execute(sql).await.unwrap();
        connection.close().await.unwrap();
    }

    /// From now on new connections may only read, as while a database moves to another server: the old one is still
    /// there, and may not write.
    ///
    /// # Panics
    /// When the server refuses it.
    pub async fn forbid_writing(&self) {
        let sql = format!(
            "ALTER DATABASE {} SET default_transaction_read_only = on",
            self.name
        );
        self.execute(&sql).await;
    }

    /// From now on new connections may write again; those that are there may not.
    ///
    /// # Panics
    /// When the server refuses it.
    pub async fn allow_writing(&self) {
        let mut connection = self.connect().await;
        let reset = format!(
            "ALTER DATABASE {} RESET default_transaction_read_only",
            self.name
        );
        for sql in ["SET default_transaction_read_only = off", &reset] {
            connection.execute(sql).await.unwrap();
        }
        connection.close().await.unwrap();
    }

    /// The one number a query answers.
    ///
    /// # Panics
    /// When it fails.
    pub async fn number(&self, sql: &str) -> i64 {
        let mut connection = self.connect().await;
        let number = sqlx::query_scalar(sql).fetch_one(&mut connection).await;
        connection.close().await.unwrap();
        number.unwrap()
    }
}

async fn run(sql: &str) {
    let mut connection = PgConnection::connect(&postgres_url()).await.unwrap();
    connection.execute(sql).await.unwrap();
    connection.close().await.unwrap();
}

impl Drop for Database {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // In a thread: a test's own runtime may be about to end.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(run(&sql));
        });
        // A test that failed has its own message.
        let _ = dropping.join();
    }
}
