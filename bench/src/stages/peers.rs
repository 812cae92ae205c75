//! What the stages are compared with: the same rows and documents, put into the same servers without events.

use std::time::Instant;

use futures::TryStreamExt;
use mongodb::{
    Collection, Database, IndexModel,
    bson::{Document, doc},
};
use socialhub_domain::IdGenerator;
use socialhub_infra::clock::RandomIds;
use sqlx::{Connection, PgConnection};

use super::Measured;
use crate::{client::BenchError, documents, offline::usage};

/// Documents of one insert.
const INSERT: usize = 1_000;
/// How many inserts there are.
const INSERTS: usize = 40;

/// A schema of the feed's generations, and what it holds.
pub(super) struct FeedRows {
    connection: PgConnection,
    schema: String,
    tables: Vec<String>,
    /// Rows of all tables.
    pub rows: u64,
}

impl FeedRows {
    /// The newest generation in a database.
    ///
    /// # Errors
    /// When the server does not answer, or there is none.
    pub(super) async fn newest(url: &str) -> Result<Self, BenchError> {
        let mut connection = PgConnection::connect(url).await.map_err(usage)?;
        let schema: String = sqlx::query_scalar(
            "SELECT nspname FROM pg_namespace WHERE nspname ~ '^feed_[0-9]+$' \
             ORDER BY length(nspname) DESC, nspname DESC LIMIT 1",
        )
        .fetch_one(&mut connection)
        .await
        .map_err(usage)?;
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT tablename::text FROM pg_tables WHERE schemaname = $1 ORDER BY tablename",
        )
        .bind(&schema)
        .fetch_all(&mut connection)
        .await
        .map_err(usage)?;
        let mut rows = 0;
        for table in &tables {
            let count = format!("SELECT count(*) FROM {schema}.{table}");
            let count: i64 = sqlx::query_scalar(&count)
                .fetch_one(&mut connection)
                .await
                .map_err(usage)?;
            rows += u64::try_from(count).unwrap_or(0);
        }
        Ok(Self {
            connection,
            schema,
            tables,
            rows,
        })
    }

    /// Copies every row by a plain `INSERT … SELECT` into a table with the same indexes: what the server can do at most
    /// when nobody has to find out what the rows are.
    ///
    /// # Errors
    /// When the server refuses.
    pub(super) async fn copy(&mut self) -> Result<Measured, BenchError> {
        let copy = format!("bench_{}", RandomIds.next_id().simple());
        let schema = &self.schema;
        let mut make = format!("CREATE SCHEMA {copy};");
        for table in &self.tables {
            make += &format!("CREATE TABLE {copy}.{table} (LIKE {schema}.{table} INCLUDING ALL);");
        }
        sqlx::raw_sql(&make)
            .execute(&mut self.connection)
            .await
            .map_err(usage)?;
        let begin = Instant::now();
        for table in &self.tables {
            let insert = format!("INSERT INTO {copy}.{table} SELECT * FROM {schema}.{table}");
            sqlx::raw_sql(&insert)
                .execute(&mut self.connection)
                .await
                .map_err(usage)?;
        }
        let seconds = begin.elapsed().as_secs_f64();
        sqlx::raw_sql(&format!("DROP SCHEMA {copy} CASCADE"))
            .execute(&mut self.connection)
            .await
            .map_err(usage)?;
        Ok(Measured::new(
            "INSERT … SELECT of them",
            "rows",
            self.rows,
            seconds,
        ))
    }
}

/// Puts copies of the newest generation's notifications into a collection of their own, a thousand an insert.
///
/// # Errors
/// When the server refuses, or there are no notifications.
pub(super) async fn plain_inserts(url: &str) -> Result<Measured, BenchError> {
    let database = documents::database(url).await.map_err(usage)?;
    let samples: Vec<Document> = newest(&database)
        .await?
        .find(doc! {})
        .limit(INSERT as i64)
        .await
        .map_err(usage)?
        .try_collect()
        .await
        .map_err(usage)?;
    if samples.is_empty() {
        return Err(usage("there are no notifications to compare with"));
    }
    let plain = documents::scratch(&database);
    let begin = Instant::now();
    for _ in 0..INSERTS {
        let copies = samples.iter().cycle().take(INSERT).map(|sample| {
            let mut copy = sample.clone();
            copy.insert("_id", RandomIds.next_id().to_string());
            copy
        });
        plain
            .insert_many(copies)
            .ordered(false)
            .await
            .map_err(usage)?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    plain.drop().await.map_err(usage)?;
    let count = (INSERT * INSERTS) as u64;
    Ok(Measured::new(
        "insert_many of 1,000, without indexes",
        "documents",
        count,
        seconds,
    ))
}

/// Puts every notification of the newest generation into a collection of its own with the same indexes, a thousand an
/// insert: what the server can do at most when nobody has to find out what the documents are. Reading them does not count.
///
/// # Errors
/// When the server refuses, or there are no notifications.
pub(super) async fn indexed_inserts(url: &str) -> Result<Measured, BenchError> {
    let database = documents::database(url).await.map_err(usage)?;
    let notifications = newest(&database).await?;
    let indexed = documents::scratch(&database);
    let indexes = notifications.list_indexes().await.map_err(usage)?;
    let indexes: Vec<IndexModel> = indexes.try_collect().await.map_err(usage)?;
    for index in indexes {
        // That of the ids comes with the collection.
        if !index.keys.contains_key("_id") {
            // The rest of what a server tells of an index it may not want to be told.
            let same = IndexModel::builder().keys(index.keys).build();
            indexed.create_index(same).await.map_err(usage)?;
        }
    }
    let mut all = notifications
        .find(doc! {})
        .batch_size(INSERT as u32)
        .await
        .map_err(usage)?;
    let (mut count, mut seconds) = (0, 0.0);
    loop {
        let mut some = Vec::with_capacity(INSERT);
        while some.len() < INSERT
            && let Some(document) = all.try_next().await.map_err(usage)?
        {
            some.push(document);
        }
        if some.is_empty() {
            break;
        }
        count += some.len() as u64;
        let begin = Instant::now();
        let inserted = indexed.insert_many(some).ordered(false).await;
        seconds += begin.elapsed().as_secs_f64();
        inserted.map_err(usage)?;
    }
    indexed.drop().await.map_err(usage)?;
    if count == 0 {
        return Err(usage("there are no notifications to compare with"));
    }
    Ok(Measured::new(
        "insert_many of them, with their indexes",
        "documents",
        count,
        seconds,
    ))
}

/// The number of the newest generation.
async fn newest_number(database: &Database) -> Result<u32, BenchError> {
    let names = database.list_collection_names().await.map_err(usage)?;
    let numbers = names.iter().filter_map(|name| {
        let number = name.strip_prefix("notifications_")?;
        number.parse::<u32>().ok()
    });
    numbers
        .max()
        .ok_or_else(|| usage("there are no notifications to compare with"))
}

async fn newest(database: &Database) -> Result<Collection<Document>, BenchError> {
    let newest = newest_number(database).await?;
    Ok(database.collection(&format!("notifications_{newest}")))
}

/// How many documents of all kinds the newest generation of the notifications has.
///
/// # Errors
/// When the server does not answer, or there is no generation.
pub(super) async fn documents(url: &str) -> Result<u64, BenchError> {
    let database = documents::database(url).await.map_err(usage)?;
    let ending = format!("_{}", newest_number(&database).await?);
    let mut found = 0;
    for name in database.list_collection_names().await.map_err(usage)? {
        if name.ends_with(&ending) {
            let collection = database.collection::<Document>(&name);
            let count = collection.count_documents(doc! {}).await;
            found += count.map_err(usage)?;
        }
    }
    Ok(found)
}

/// A database beside the log's that is empty, for an import.
pub(super) struct Beside {
    connection: PgConnection,
    name: String,
    /// Its address.
    pub url: String,
}

impl Beside {
    /// Makes it.
    ///
    /// # Errors
    /// When the server refuses.
    pub(super) async fn make(database_url: &str) -> Result<Self, BenchError> {
        let name = format!("bench_{}", RandomIds.next_id().simple());
        let mut connection = PgConnection::connect(database_url).await.map_err(usage)?;
        sqlx::raw_sql(&format!("CREATE DATABASE {name}"))
            .execute(&mut connection)
            .await
            .map_err(usage)?;
        let (server, options) = database_url.split_once('?').unwrap_or((database_url, ""));
        let server = server.rsplit_once('/').map_or(server, |(server, _)| server);
        let options = if options.is_empty() {
            String::new()
        } else {
            format!("?{options}")
        };
        Ok(Self {
            url: format!("{server}/{name}{options}"),
            connection,
            name,
        })
    }

    /// Removes it.
    ///
    /// # Errors
    /// When the server refuses.
    pub(super) async fn remove(mut self) -> Result<(), BenchError> {
        sqlx::raw_sql(&format!("DROP DATABASE {} WITH (FORCE)", self.name))
            .execute(&mut self.connection)
            .await
            .map_err(usage)?;
        Ok(())
    }
}
