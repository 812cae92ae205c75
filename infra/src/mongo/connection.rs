//! The client, its time limits, and the few operations that everything here is made of.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use mongodb::{
    Client, Collection, Database,
    bson::{Bson, Document, doc},
    error::{Error, ErrorKind, WriteFailure},
    options::{Acknowledgment, ClientOptions, ReadPreference, SelectionCriteria},
};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use socialhub_event_log::Position;
use socialhub_projections::{ReadError, StoreError};
use tokio::{sync::OnceCell, time::Instant};

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
/// Up to here many keys are asked for one by one of a server that reads everything for a list.
const FEW: usize = 64;
/// So many documents such a server reads and decodes in the time in which it looks one key up, measured.
const READ_FOR_ONE_KEY: usize = 12;
/// How long the size of a collection is taken for the same: asking for it makes the server look at a sample.
const SIZE_HOLDS: Duration = Duration::from_secs(10);
/// How many keys go into one query.
pub(super) const MANY: usize = 4_000;

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
    be_certain(&mut options)?;
    let client = Client::with_options(options).map_err(unusable)?;
    Ok(client.database(database))
}

/// "Whoever is second sees both" must hold after a failover, too, and checkpoint and documents must not come from two
/// servers: writes go to the majority, reads to the primary. An address that asks for less is refused.
fn be_certain(options: &mut ClientOptions) -> Result<(), MongoAddressError> {
    let refused = |what: &str| Err(MongoAddressError(what.to_owned()));
    let mut asked = options.write_concern.take().unwrap_or_default();
    if asked.w.is_some_and(|w| w != Acknowledgment::Majority) {
        return refused("`w` must be `majority`: else a failover loses what a checkpoint covers");
    }
    if asked.journal == Some(false) {
        return refused(
            "`journal` must not be `false`: else a crash loses what a checkpoint covers",
        );
    }
    asked.w = Some(Acknowledgment::Majority);
    options.write_concern = Some(asked);
    match options.selection_criteria {
        None | Some(SelectionCriteria::ReadPreference(ReadPreference::Primary)) => Ok(()),
        Some(_) => {
            refused("`readPreference` must be `primary`: others may be behind what was written")
        }
    }
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
/// list: it reads and decodes every document, 15 s for 210,000; one key it does look up. So there it depends on how many
/// documents there are.
#[derive(Clone)]
pub(super) struct Keys {
    database: Database,
    reads_all: Arc<OnceCell<bool>>,
    /// How many documents a collection had, and when it was asked.
    sizes: Arc<Mutex<HashMap<String, (usize, Instant)>>>,
}

impl Keys {
    pub(super) fn new(database: &Database) -> Self {
        Self {
            database: database.clone(),
            reads_all: Arc::default(),
            sizes: Arc::default(),
        }
    }

    /// Whether the server reads everything when it is given a list of keys.
    pub(super) async fn lists_read_all(&self) -> Result<bool, Fault> {
        let asked = self.reads_all.get_or_try_init(|| async {
            let about = write(self.database.run_command(doc! { "buildInfo": 1 })).await?;
            Ok(about.contains_key("ferretdbVersion"))
        });
        asked.await.copied()
    }

    /// Whether a list of so many keys is better than one after the other.
    async fn as_list(&self, collection: &str, keys: usize) -> Result<bool, Fault> {
        if keys <= 1 {
            return Ok(false);
        }
        if !self.lists_read_all().await? {
            return Ok(true);
        }
        // For a few it is not worth the question.
        Ok(keys > FEW && self.size(collection).await? / READ_FOR_ONE_KEY < keys)
    }

    /// About how many documents there are in a collection.
    async fn size(&self, collection: &str) -> Result<usize, Fault> {
        let known = self.sizes.lock().get(collection).copied();
        if let Some((size, at)) = known
            && at.elapsed() < SIZE_HOLDS
        {
            return Ok(size);
        }
        let about = write(self.database.run_command(doc! { "collStats": collection })).await?;
        let size = number(&about, "count").and_then(|count| usize::try_from(count).ok());
        let size = size.unwrap_or_default();
        let mut sizes = self.sizes.lock();
        sizes.insert(collection.to_owned(), (size, Instant::now()));
        Ok(size)
    }

    /// Runs an operation for filters that together are "the field is one of these values".
    async fn each<T, F: Future<Output = Result<Vec<T>, Fault>>>(
        &self,
        collection: &str,
        field: &str,
        values: &HashSet<String>,
        run: impl Fn(Document) -> F,
    ) -> Result<Vec<T>, Fault> {
        let keys: Vec<&str> = values.iter().map(String::as_str).collect();
        let list = self.as_list(collection, keys.len()).await?;
        let mut parts = Vec::new();
        for part in keys.chunks(if list { MANY } else { 1 }) {
            parts.push(run(match part {
                [one] => doc! { field: *one },
                many => doc! { field: { "$in": many.to_vec() } },
            }));
        }
        let found = stream::iter(parts).buffer_unordered(SIDE_BY_SIDE);
        found.try_concat().await
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
        let find = |mut filter: Document| {
            filter.extend(also.clone());
            find_all(collection, filter)
        };
        self.each(collection.name(), field, values, find).await
    }

    /// Which of some ids have a document.
    pub(super) async fn which_exist(
        &self,
        collection: &Collection<Document>,
        ids: &HashSet<String>,
    ) -> Result<HashSet<String>, Fault> {
        let find = |filter| {
            write(async {
                let found = collection
                    .find(filter)
                    .projection(doc! { "_id": 1 })
                    .await?;
                found.try_collect::<Vec<_>>().await
            })
        };
        let found = self.each(collection.name(), "_id", ids, find).await?;
        Ok(found.iter().filter_map(id_of).collect())
    }

    /// Changes the documents with these ids of which something else is so, too. Never many statements in one command:
    /// FerretDB keeps a connection for each and stops for ever when it has no more.
    pub(super) async fn update_ids<T: Send + Sync>(
        &self,
        collection: &Collection<T>,
        ids: &HashSet<String>,
        also: &Document,
        update: &Document,
    ) -> Result<(), Fault> {
        let change = |mut filter: Document| async move {
            filter.extend(also.clone());
            write(collection.update_many(filter, update.clone())).await?;
            Ok(Vec::<()>::new())
        };
        let changed = self.each(collection.name(), "_id", ids, change);
        changed.await.map(|_| ())
    }

    /// Removes the documents with these ids.
    pub(super) async fn delete_ids<T: Send + Sync>(
        &self,
        collection: &Collection<T>,
        ids: &HashSet<String>,
    ) -> Result<(), Fault> {
        let remove = |filter| async move {
            write(collection.delete_many(filter)).await?;
            Ok(Vec::<()>::new())
        };
        let removed = self.each(collection.name(), "_id", ids, remove);
        removed.await.map(|_| ())
    }
}

/// A number of a document, in whichever form the server has it.
pub(super) fn number(document: &Document, name: &str) -> Option<i64> {
    match document.get(name)? {
        Bson::Int64(number) => Some(*number),
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Double(number) => Some(*number as i64),
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_asks_for_less_than_certainty_is_refused() {
        for query in [
            "",
            "?w=majority",
            "?journal=true",
            "?readPreference=primary",
        ] {
            assert_eq!(refusal(query).await, None, "{query}");
        }
        let refused = [
            ("?w=0", "`w`"),
            ("?w=1", "`w`"),
            ("?w=2&journal=true", "`w`"),
            ("?journal=false", "`journal`"),
            ("?readPreference=secondary", "`readPreference`"),
            ("?readPreference=primaryPreferred", "`readPreference`"),
        ];
        for (query, names) in refused {
            let said = refusal(query).await.unwrap_or_default();
            assert!(said.contains(names), "{query}: {said:?}");
        }
    }

    async fn refusal(query: &str) -> Option<String> {
        let url = format!("mongodb://127.0.0.1:1/socialhub{query}");
        let connected = connect(&url, "socialhub").await;
        connected.err().map(|error| error.to_string())
    }
}
