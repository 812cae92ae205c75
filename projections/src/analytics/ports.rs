//! What the consumer asks of a store of objects and of a file format.

use async_trait::async_trait;
use bytes::Bytes;
use socialhub_domain::Timestamp;

use super::row::Row;

/// Why a store did not do what it was asked, in words without secrets. It may have done it all the same.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the files cannot be reached: {0}")]
pub struct ObjectsError(pub String);

/// Why rows and bytes do not go together.
#[derive(Debug, Clone, thiserror::Error)]
#[error("a file of rows: {0}")]
pub struct FormatError(pub String);

/// Whether an object was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It was, whole.
    Made,
    /// There is one of that name, which may be of an earlier try of the same caller.
    Exists,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name below the store's prefix, with `/` between the parts.
    pub name: String,
    /// When it was last written.
    pub written: Timestamp,
}

/// A folder or a bucket.
///
/// Promises: an object is there whole or not at all, and durable when the call has answered; of concurrent calls of
/// [`Objects::create`] for one name exactly one makes it; a listing shows what was there before it began.
#[async_trait]
pub trait Objects: Send + Sync {
    /// Writes an object, in place of one that may be there.
    ///
    /// # Errors
    /// [`ObjectsError`].
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), ObjectsError>;

    /// Writes an object unless there is one of that name.
    ///
    /// # Errors
    /// [`ObjectsError`]; it may have been written.
    async fn create(&self, name: &str, bytes: Bytes) -> Result<Created, ObjectsError>;

    /// Reads an object; none when it is not there.
    ///
    /// # Errors
    /// [`ObjectsError`].
    async fn get(&self, name: &str) -> Result<Option<Bytes>, ObjectsError>;

    /// Everything below a folder, at any depth, by name.
    ///
    /// # Errors
    /// [`ObjectsError`].
    async fn list(&self, folder: &str) -> Result<Vec<Object>, ObjectsError>;

    /// Removes objects, in the order given. Removing what is not there succeeds.
    ///
    /// # Errors
    /// [`ObjectsError`]; some may have been removed.
    async fn remove(&self, names: &[String]) -> Result<(), ObjectsError>;

    /// Where readers find an object: a path, or an address.
    fn address(&self, name: &str) -> String;
}

/// A format of files of rows. May take long: it is never called on an async thread.
pub trait RowFormat: Send + Sync {
    /// The ending of a file's name.
    fn ending(&self) -> &'static str;

    /// Rows as a file.
    ///
    /// # Errors
    /// [`FormatError`].
    fn encode(&self, rows: &[Row]) -> Result<Bytes, FormatError>;

    /// A file's rows.
    ///
    /// # Errors
    /// [`FormatError`] when it is not one of ours.
    fn decode(&self, bytes: Bytes) -> Result<Vec<Row>, FormatError>;
}
