//! Operations on the server: whose turn it is, how long they may take, and how documents are found by many keys.

use std::{borrow::Borrow, collections::HashSet, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use mongodb::{
    Collection, Cursor, Database,
    action::Find,
    bson::{Document, RawDocumentBuf, deserialize_from_slice, doc, error::Error as BsonError},
    error::{Error, ErrorKind, WriteFailure},
};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use socialhub_projections::runtime::Breather;
use tokio::{
    sync::{OnceCell, Semaphore},
    time::Instant,
};

use crate::mongo::{
    connection::{CONNECTIONS, Fault, from_stored, number},
    sizes::{Size, Sizes},
};

/// How long a query of a reader may take.
const READ_LIMIT: Duration = Duration::from_secs(3);
/// How long one operation of a writer may take: a server that hangs must not hang its writers for ever.
const WRITE_LIMIT: Duration = Duration::from_secs(60);
/// How many of the operations under way may be queries of readers, so that those of writers and looks at the catalogue find
/// turns.
const READS: usize = 16;
/// How long a query of a reader waits for its turn. Where so many are ahead of it, it is better refused than begun and given
/// up half-way.
const READ_TURN: Duration = Duration::from_secs(1);
/// How many documents go into one insert.
pub(super) const INSERT: usize = 1_000;
/// The same for who makes room for others: so much that others do not wait long for it.
const GENTLE_INSERT: usize = 100;
/// So many documents who makes room for others reads in one go where keys could be looked up one by one.
const GENTLE_READ: usize = 500;
/// How many operations of one writer run side by side.
pub(super) const SIDE_BY_SIDE: usize = 4;
/// So many documents such a server reads and decodes in the time in which it looks one key up, measured.
const READ_FOR_ONE_KEY: usize = 12;
/// How long the size of a collection is taken for the same: asking for it makes the server look at a sample. One that grows
/// out of being read as a whole by what others insert is noticed soon.
const SIZE_HOLDS: Duration = Duration::from_mins(1);
/// The same for one that is too large for that, however many keys there are: collections hardly shrink.
const LARGE_HOLDS: Duration = Duration::from_mins(5);
/// How long the bytes of a collection are taken for the same, where asking is dear: a second and a half of a core for all of a
/// generation, measured.
const BYTES_HOLD: Duration = Duration::from_mins(5);
/// How many keys go into one query.
pub(super) const MANY: usize = 4_000;

/// The code of a duplicate key.
const DUPLICATE: i32 = 11_000;

/// Whose turn it is to use a connection.
///
/// Hardly anybody waits in the driver's own queue, only for as long as connections are made: it does not notice when whoever
/// waits there has gone, and gets rid of one of those in half a second, so that a burst of given-up queries would keep
/// everybody from the server for a minute.
struct Turns {
    all: Semaphore,
    /// Who reads for a client needs one of these, too.
    reads: Semaphore,
}

/// Whether whoever writes makes room for others: then it does one operation after the other, and rests after each.
struct Room {
    breather: Mutex<Option<Arc<Breather>>>,
    /// Whoever has it is at work, or rests.
    one: Semaphore,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            breather: Mutex::default(),
            one: Semaphore::new(1),
        }
    }
}

impl Room {
    /// There while there is anybody to make room for.
    fn breather(&self) -> Option<Arc<Breather>> {
        let breather = self.breather.lock().clone();
        breather.filter(|breather| breather.is_needed())
    }
}

/// The way to the server, by which everything goes that the adapter asks of it. Clones share it.
///
/// MongoDB looks a list of keys up in an index. FerretDB 1.24 knows nothing to ask its own database for when it is given a
/// list: it reads and decodes every document, 15 s for 210,000; one key it does look up. So there it depends on how many
/// documents there are.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) database: Database,
    turns: Arc<Turns>,
    reads_all: Arc<OnceCell<bool>>,
    sizes: Arc<Sizes>,
    room: Arc<Room>,
}

impl Access {
    pub(super) fn new(database: &Database) -> Self {
        Self {
            database: database.clone(),
            turns: Arc::new(Turns {
                all: Semaphore::new(CONNECTIONS as usize),
                reads: Semaphore::new(READS),
            }),
            reads_all: Arc::default(),
            sizes: Arc::default(),
            room: Arc::default(),
        }
    }

    /// The same way for one who makes room on their own.
    pub(super) fn apart(&self) -> Self {
        Self {
            room: Arc::default(),
            ..self.clone()
        }
    }

    /// See [`ReadModelStore::make_room`](socialhub_projections::ReadModelStore::make_room).
    pub(super) fn make_room(&self, breather: Option<Arc<Breather>>) {
        *self.room.breather.lock() = breather;
    }

    /// One operation, in its turn, and the rest after it.
    async fn within<T>(
        &self,
        limit: Duration,
        operation: impl IntoFuture<Output = Result<T, Error>>,
    ) -> Result<Result<T, Error>, Fault> {
        let Some(breather) = self.room.breather() else {
            return self.in_turn(limit, operation).await;
        };
        let _alone = self.room.one.acquire().await;
        let began = Instant::now();
        let outcome = self.in_turn(limit, operation).await;
        breather.rest(began.elapsed()).await;
        outcome
    }

    /// One operation, in its turn. The limit is for both, so who did not get a turn in time has asked the server nothing.
    async fn in_turn<T>(
        &self,
        limit: Duration,
        operation: impl IntoFuture<Output = Result<T, Error>>,
    ) -> Result<Result<T, Error>, Fault> {
        let in_turn = async {
            // It is given back when the connection is: of what lives here the operation ends first, also when it is given up.
            let _turn = self.turns.all.acquire().await;
            operation.into_future().await
        };
        tokio::time::timeout(limit, in_turn)
            .await
            .map_err(|_| Fault::Unavailable(format!("MongoDB did not answer within {limit:?}")))
    }

    /// One operation of a writer.
    pub(super) async fn write<T>(
        &self,
        operation: impl IntoFuture<Output = Result<T, Error>>,
    ) -> Result<T, Fault> {
        Ok(self.within(WRITE_LIMIT, operation).await??)
    }

    /// Queries of a reader, in one turn.
    pub(super) async fn read<T>(
        &self,
        queries: impl IntoFuture<Output = Result<T, Error>>,
    ) -> Result<T, Fault> {
        self.read_in(READ_TURN, queries).await
    }

    /// The same for whoever has time to wait for it.
    pub(super) async fn read_in_time<T>(
        &self,
        queries: impl IntoFuture<Output = Result<T, Error>>,
    ) -> Result<T, Fault> {
        self.read_in(READ_LIMIT, queries).await
    }

    async fn read_in<T>(
        &self,
        limit: Duration,
        queries: impl IntoFuture<Output = Result<T, Error>>,
    ) -> Result<T, Fault> {
        let turn = tokio::time::timeout(limit, self.turns.reads.acquire()).await;
        let _turn = turn.map_err(|_| {
            Fault::Unavailable(format!("no query could begin on MongoDB within {limit:?}"))
        })?;
        Ok(self.within(READ_LIMIT, queries).await??)
    }

    /// All documents that a filter finds, part by part: the limit is for a part, however many there are.
    pub(super) async fn find_all<T>(
        &self,
        collection: &Collection<T>,
        filter: Document,
    ) -> Result<Vec<T>, Fault>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        let mut all = Vec::new();
        self.each_part(collection, filter, |part| {
            all.extend(part);
            Ok(())
        })
        .await?;
        Ok(all)
    }

    /// The same, each part as it comes.
    pub(super) async fn each_part<T>(
        &self,
        collection: &Collection<T>,
        filter: Document,
        take: impl FnMut(Vec<T>) -> Result<(), Fault> + Send,
    ) -> Result<(), Fault>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        self.each_part_of(collection.find(filter), take).await
    }

    /// The same of a query of one's own making.
    pub(super) async fn each_part_of<T>(
        &self,
        query: Find<'_, T>,
        mut take: impl FnMut(Vec<T>) -> Result<(), Fault> + Send,
    ) -> Result<(), Fault>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        let mut cursor = self.write(query).await?;
        loop {
            let part = self.some_of(&mut cursor).await?;
            let is_end = part.len() < INSERT;
            take(part)?;
            if is_end {
                return Ok(());
            }
        }
    }

    /// The next documents of a query, in one turn; fewer than [`INSERT`] at the end.
    pub(super) async fn some_of<T>(&self, cursor: &mut Cursor<T>) -> Result<Vec<T>, Fault>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        let taking = async {
            let mut some = Vec::new();
            while some.len() < INSERT
                && let Some(document) = cursor.try_next().await?
            {
                some.push(document);
            }
            Ok(some)
        };
        self.write(taking).await
    }

    /// Inserts documents, those that are there already excepted; answers the places of these in the list.
    pub(super) async fn insert_new<T: Serialize + Send + Sync>(
        &self,
        collection: &Collection<T>,
        documents: &[impl Borrow<T> + Sync],
    ) -> Result<Vec<usize>, Fault> {
        let mut known = Vec::new();
        let most = match self.room.breather() {
            Some(_) => GENTLE_INSERT,
            None => INSERT,
        };
        for (index, chunk) in documents.chunks(most).enumerate() {
            let inserted = self
                .within(
                    WRITE_LIMIT,
                    collection
                        .insert_many(chunk.iter().map(Borrow::borrow))
                        .ordered(false),
                )
                .await?;
            let Err(error) = inserted else {
                self.sizes.grown(collection.name(), chunk.len());
                continue;
            };
            let ErrorKind::InsertMany(failure) = error.kind.as_ref() else {
                return Err(error.into());
            };
            let errors = failure.write_errors.as_deref().unwrap_or_default();
            let only_duplicates = errors.iter().all(|error| error.code == DUPLICATE);
            if errors.is_empty() || !only_duplicates || failure.write_concern_error.is_some() {
                return Err(error.into());
            }
            known.extend(errors.iter().map(|error| index * most + error.index));
        }
        Ok(known)
    }

    /// Inserts one document; whether it was new.
    pub(super) async fn insert_one<T: Serialize + Send + Sync>(
        &self,
        collection: &Collection<T>,
        document: &T,
    ) -> Result<bool, Fault> {
        match self
            .within(WRITE_LIMIT, collection.insert_one(document))
            .await?
        {
            Ok(_) => Ok(true),
            Err(error) if is_duplicate(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the server reads everything when it is given a list of keys.
    pub(super) async fn lists_read_all(&self) -> Result<bool, Fault> {
        let asked = self.reads_all.get_or_try_init(|| async {
            let about = self
                .write(self.database.run_command(doc! { "buildInfo": 1 }))
                .await?;
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
        let documents = self.documents(collection).await?;
        let is_much = self.room.breather().is_some() && documents > GENTLE_READ;
        Ok(!is_much && documents / READ_FOR_ONE_KEY < keys)
    }

    /// How many keys of so many should go into one query: all that it may hold, or each for itself.
    pub(super) async fn in_one_query(
        &self,
        collection: &str,
        keys: usize,
        most: usize,
    ) -> Result<usize, Fault> {
        let list = self.as_list(collection, keys.min(most)).await?;
        Ok(if list { most } else { 1 })
    }

    /// About how many documents there are in a collection.
    async fn documents(&self, collection: &str) -> Result<usize, Fault> {
        let size = self.size(collection, |size| size_holds(size.documents));
        Ok(size.await?.documents)
    }

    /// The bytes of a collection on disk, as far as the server says; of a few minutes ago where it works hard to say it.
    pub(super) async fn bytes(&self, collection: &str) -> Result<u64, Fault> {
        let holds = match self.lists_read_all().await? {
            true => BYTES_HOLD,
            false => Duration::ZERO,
        };
        Ok(self.size(collection, |_| holds).await?.bytes)
    }

    /// What was said of a collection, not long ago. Whoever needs it often does not wait for it but the first time: the server
    /// may take a second and more to say it.
    async fn size(
        &self,
        collection: &str,
        holds: impl Fn(Size) -> Duration,
    ) -> Result<Size, Fault> {
        let Some((known, is_due)) = self.sizes.known(collection, Instant::now(), holds) else {
            return self.ask_size(collection).await;
        };
        if is_due {
            let (access, collection) = (self.clone(), collection.to_owned());
            tokio::spawn(async move {
                if let Err(error) = access.ask_size(&collection).await {
                    tracing::debug!(?error, collection, "its size is not known anew");
                }
            });
        }
        Ok(known)
    }

    async fn ask_size(&self, collection: &str) -> Result<Size, Fault> {
        let asked = Instant::now();
        let about = self
            .write(self.database.run_command(doc! { "collStats": collection }))
            .await?;
        let documents = number(&about, "count").and_then(|count| usize::try_from(count).ok());
        let bytes = number(&about, "totalSize").or_else(|| number(&about, "storageSize"));
        let size = Size {
            // One that is not told is taken for large: that costs less if it is wrong.
            documents: documents.unwrap_or(usize::MAX),
            bytes: bytes.map_or(0, from_stored),
        };
        self.sizes.answered(collection, asked, size);
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
        let together = self.in_one_query(collection, keys.len(), MANY).await?;
        let mut parts = Vec::new();
        for part in keys.chunks(together) {
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
        if self
            .is_read_as_whole(collection.name(), values.len())
            .await?
        {
            let all = collection.clone_with_type::<RawDocumentBuf>();
            let all = all.find(also.clone());
            let read = |found: &RawDocumentBuf| deserialize_from_slice(found.as_bytes());
            return self.picked(all, field, values, read).await;
        }
        let find = |mut filter: Document| {
            filter.extend(also.clone());
            self.find_all(collection, filter)
        };
        self.each(collection.name(), field, values, find).await
    }

    /// Whether it is best to read all documents and to pick here those with one of so many keys: a server that reads them
    /// all anyway compares each with every key of a list.
    async fn is_read_as_whole(&self, collection: &str, keys: usize) -> Result<bool, Fault> {
        Ok(keys > 1 && self.lists_read_all().await? && self.as_list(collection, keys).await?)
    }

    /// The documents of a query in which a field is one of some values.
    async fn picked<T>(
        &self,
        query: Find<'_, RawDocumentBuf>,
        field: &str,
        values: &HashSet<String>,
        read: impl Fn(&RawDocumentBuf) -> Result<T, BsonError>,
    ) -> Result<Vec<T>, Fault> {
        let picking = async {
            let (mut found, mut picked) = (query.await?, Vec::new());
            while let Some(document) = found.try_next().await? {
                let value = document.get_str(field);
                if value.is_ok_and(|value| values.contains(value)) {
                    picked.push(read(&document)?);
                }
            }
            Ok(picked)
        };
        self.write(picking).await
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
            self.write(collection.update_many(filter, update.clone()))
                .await?;
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
            self.write(collection.delete_many(filter)).await?;
            Ok(Vec::<()>::new())
        };
        let removed = self.each(collection.name(), "_id", ids, remove);
        removed.await.map(|_| ())
    }
}

fn is_duplicate(error: &Error) -> bool {
    matches!(
        error.kind.as_ref(),
        ErrorKind::Write(WriteFailure::WriteError(error)) if error.code == DUPLICATE
    )
}

fn size_holds(documents: usize) -> Duration {
    if documents / READ_FOR_ONE_KEY < MANY {
        SIZE_HOLDS
    } else {
        LARGE_HOLDS
    }
}
