//! The client, its time limits, and the few operations that everything here is made of.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use mongodb::{
    Client, Collection, Database,
    bson::{Document, doc},
    error::{Error, ErrorKind, WriteFailure},
    options::{Acknowledgment, ClientOptions, WriteConcern},
};
use serde::{Serialize, de::DeserializeOwned};
use socialhub_event_log::Position;
use socialhub_projections::{ReadError, StoreError};
use tokio::sync::OnceCell;

/// How long a server is looked for, and a connection tried.
const SELECTION: Duration = Duration::from_millis(1_500);
/// How long a query of a reader may take.
const READ_LIMIT: Duration = Duration::from_secs(3);
/// How long one operation of a writer may take: a server that hangs must not hang its writers for ever.
const WRITE_LIMIT: Duration = Duration::from_secs(60);
/// FerretDB keeps one of its 50 connections to its own database for each operation.
const CONNECTIONS: u32 = 24;
/// How many documents go into one insert.
pub(super) const INSERT: usize = 1_000;
/// How many operations of one writer run side by side.
pub(super) const SIDE_BY_SIDE: usize = 4;
/// Up to here many keys are asked for one by one of a server on which lists are slow.
const FEW: usize = 1_000;
/// How many keys go into one query.
const MANY: usize = 4_000;

/// The code of a duplicate key.
const DUPLICATE: i32 = 11_000;
/// Codes that say that a document will never go in: bad value, failed to parse, type mismatch, document validation,
/// too large, key too long.
const NEVER: [i32; 6] = [2, 9, 14, 121, 10_334, 17_280];

/// The address of the server, or the name of the database, cannot be right.
#[derive(Debug, thiserror::Error)]
#[error("the address of MongoDB is not usable: {0}")]
pub struct MongoAddressError(String);

/// Why an operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Fault {
    /// No answer, or none that tells anything of the documents.
    #[error("{0}")]
    Unavailable(String),
    /// The server does not take what was written, or holds what this program cannot read.
    #[error("{0}")]
    Rejected(String),
}

impl Fault {
    /// What it means for a batch; `position` is its first record's.
    pub(super) fn of_batch(self, position: Position) -> StoreError {
        match self {
            Self::Unavailable(reason) => StoreError::Unavailable(reason),
            Self::Rejected(reason) => StoreError::Rejected { position, reason },
        }
    }
}

/// Outside a batch there is no record to blame.
impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unavailable(reason) => Self::Unavailable(reason),
            Fault::Rejected(reason) => Self::Unusable(reason),
        }
    }
}

impl From<Fault> for ReadError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unavailable(reason) | Fault::Rejected(reason) => Self(reason),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let rejected = match error.kind.as_ref() {
            ErrorKind::BsonSerialization(_) => true,
            ErrorKind::Write(WriteFailure::WriteError(error)) => NEVER.contains(&error.code),
            ErrorKind::InsertMany(failure) => failure
                .write_errors
                .iter()
                .flatten()
                .any(|error| NEVER.contains(&error.code)),
            ErrorKind::Command(error) => NEVER.contains(&error.code),
            _ => false,
        };
        if rejected {
            Self::Rejected(error.to_string())
        } else {
            Self::Unavailable(error.to_string())
        }
    }
}

/// A client of the server at `url`. Makes no connection yet. Must be called within a tokio runtime.
pub(super) async fn connect(url: &str, database: &str) -> Result<Database, MongoAddressError> {
    let unusable = |error: Error| MongoAddressError(error.to_string());
    let mut options = ClientOptions::parse(url).await.map_err(unusable)?;
    options
        .app_name
        .get_or_insert_with(|| "socialhub".to_owned());
    options.server_selection_timeout.get_or_insert(SELECTION);
    options.connect_timeout.get_or_insert(SELECTION);
    options.max_pool_size.get_or_insert(CONNECTIONS);
    // "Whoever is second sees both" must hold after a failover, too.
    let majority = || WriteConcern::builder().w(Acknowledgment::Majority).build();
    options.write_concern.get_or_insert_with(majority);
    let client = Client::with_options(options).map_err(unusable)?;
    Ok(client.database(database))
}

async fn within<T>(
    limit: Duration,
    operation: impl IntoFuture<Output = Result<T, Error>>,
) -> Result<Result<T, Error>, Fault> {
    tokio::time::timeout(limit, operation.into_future())
        .await
        .map_err(|_| Fault::Unavailable(format!("MongoDB did not answer within {limit:?}")))
}

/// One operation of a writer.
pub(super) async fn write<T>(
    operation: impl IntoFuture<Output = Result<T, Error>>,
) -> Result<T, Fault> {
    Ok(within(WRITE_LIMIT, operation).await??)
}

/// One query of a reader.
pub(super) async fn read<T>(
    operation: impl IntoFuture<Output = Result<T, Error>>,
) -> Result<T, Fault> {
    Ok(within(READ_LIMIT, operation).await??)
}

/// All documents that a filter finds.
pub(super) async fn find_all<T>(
    collection: &Collection<T>,
    filter: Document,
) -> Result<Vec<T>, Fault>
where
    T: DeserializeOwned + Send + Sync + Unpin,
{
    write(async { collection.find(filter).await?.try_collect().await }).await
}

/// Inserts documents, those that are there already excepted; answers the places of these in the list.
pub(super) async fn insert_new<T: Serialize + Send + Sync>(
    collection: &Collection<T>,
    documents: &[T],
) -> Result<Vec<usize>, Fault> {
    let mut known = Vec::new();
    for (index, chunk) in documents.chunks(INSERT).enumerate() {
        let inserted = within(WRITE_LIMIT, collection.insert_many(chunk).ordered(false)).await?;
        let Err(error) = inserted else { continue };
        let ErrorKind::InsertMany(failure) = error.kind.as_ref() else {
            return Err(error.into());
        };
        let errors = failure.write_errors.as_deref().unwrap_or_default();
        let only_duplicates = errors.iter().all(|error| error.code == DUPLICATE);
        if errors.is_empty() || !only_duplicates || failure.write_concern_error.is_some() {
            return Err(error.into());
        }
        known.extend(errors.iter().map(|error| index * INSERT + error.index));
    }
    Ok(known)
}

/// Inserts one document; whether it was new.
pub(super) async fn insert_one<T: Serialize + Send + Sync>(
    collection: &Collection<T>,
    document: &T,
) -> Result<bool, Fault> {
    match within(WRITE_LIMIT, collection.insert_one(document)).await? {
        Ok(_) => Ok(true),
        Err(error) if is_duplicate(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_duplicate(error: &Error) -> bool {
    matches!(
        error.kind.as_ref(),
        ErrorKind::Write(WriteFailure::WriteError(error)) if error.code == DUPLICATE
    )
}

/// How documents are found by many keys.
///
/// MongoDB looks a list of keys up in an index. FerretDB 1.24 knows nothing to ask its own database for when it is given a
/// list: it reads and decodes every document, 15 s for 210,000. One key it does look up.
#[derive(Clone)]
pub(super) struct Keys {
    database: Database,
    one_by_one: Arc<OnceCell<usize>>,
}

impl Keys {
    pub(super) fn new(database: &Database) -> Self {
        Self {
            database: database.clone(),
            one_by_one: Arc::default(),
        }
    }

    /// Whether a list of keys makes the server read everything.
    pub(super) async fn lists_are_slow(&self) -> Result<bool, Fault> {
        Ok(self.one_by_one().await? > 1)
    }

    /// Up to how many keys are asked for one by one.
    pub(super) async fn one_by_one(&self) -> Result<usize, Fault> {
        let asked = self.one_by_one.get_or_try_init(|| async {
            let about = write(self.database.run_command(doc! { "buildInfo": 1 })).await?;
            let stand_in = about.contains_key("ferretdbVersion");
            Ok(if stand_in { FEW } else { 1 })
        });
        asked.await.copied()
    }

    /// Filters for a field to be one of some values, to be used one after the other.
    async fn one_of(&self, field: &str, values: &HashSet<String>) -> Result<Vec<Document>, Fault> {
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let values: Vec<&String> = values.iter().collect();
        if values.len() <= self.one_by_one().await? {
            let one = |value: &&String| doc! { field: value.as_str() };
            return Ok(values.iter().map(one).collect());
        }
        let many = |part: &[&String]| doc! { field: { "$in": part.iter().map(|value| value.as_str()).collect::<Vec<_>>() } };
        Ok(values.chunks(MANY).map(many).collect())
    }

    /// All documents in which a field is one of some values, and what else is asked for is so.
    pub(super) async fn find_in<T>(
        &self,
        collection: &Collection<T>,
        field: &str,
        values: &HashSet<String>,
        also: &Document,
    ) -> Result<Vec<T>, Fault>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        let filters = self.one_of(field, values).await?;
        let queries = filters.into_iter().map(|mut filter| {
            filter.extend(also.clone());
            find_all(collection, filter)
        });
        stream::iter(queries)
            .buffer_unordered(SIDE_BY_SIDE)
            .try_concat()
            .await
    }

    /// Which of some ids have a document.
    pub(super) async fn which_exist(
        &self,
        collection: &Collection<Document>,
        ids: &HashSet<String>,
    ) -> Result<HashSet<String>, Fault> {
        let queries = self.one_of("_id", ids).await?.into_iter().map(|filter| {
            write(async {
                let found = collection
                    .find(filter)
                    .projection(doc! { "_id": 1 })
                    .await?;
                found.try_collect::<Vec<_>>().await
            })
        });
        let found: Vec<Document> = stream::iter(queries)
            .buffer_unordered(SIDE_BY_SIDE)
            .try_concat()
            .await?;
        Ok(found.iter().filter_map(id_of).collect())
    }

    /// Changes the documents with these ids. Never many statements in one command: FerretDB keeps a connection for each
    /// and stops for ever when it has no more.
    pub(super) async fn update_ids<T: Send + Sync>(
        &self,
        collection: &Collection<T>,
        ids: &HashSet<String>,
        update: &Document,
    ) -> Result<(), Fault> {
        let filters = self.one_of("_id", ids).await?;
        let updates = filters
            .into_iter()
            .map(|filter| write(collection.update_many(filter, update.clone())));
        stream::iter(updates)
            .buffer_unordered(SIDE_BY_SIDE)
            .try_for_each(|_| async { Ok(()) })
            .await
    }

    /// Removes the documents with these ids.
    pub(super) async fn delete_ids<T: Send + Sync>(
        &self,
        collection: &Collection<T>,
        ids: &HashSet<String>,
    ) -> Result<(), Fault> {
        let filters = self.one_of("_id", ids).await?;
        let deletions = filters
            .into_iter()
            .map(|filter| write(collection.delete_many(filter)));
        stream::iter(deletions)
            .buffer_unordered(SIDE_BY_SIDE)
            .try_for_each(|_| async { Ok(()) })
            .await
    }
}

/// The id of a document, where that is a text.
pub(super) fn id_of(document: &Document) -> Option<String> {
    document.get_str("_id").ok().map(str::to_owned)
}

/// Positions are stored as signed numbers.
pub(super) fn to_stored(position: Position) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// As they were before [`to_stored`].
pub(super) fn from_stored(stored: i64) -> Position {
    u64::try_from(stored).unwrap_or(0)
}
