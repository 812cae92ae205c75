//! What the SQLite stores of all read models share: one file a generation, one writer thread, and in the same
//! transaction as the effects the checkpoint, parked letters and attempts.

use rusqlite::{Connection, Transaction};
use socialhub_projections::{
    Projection,
    projection::Projected,
    verify::{ModelFold, ModelRow},
};

/// One read model on SQLite: its tables and how changes are written to them.
///
/// The value itself lives on the writer's thread and may hold caches; they must be bounded and must be thrown away when
/// a transaction is rolled back.
pub trait SqliteModel: Send + Sized + 'static {
    /// The projection whose changes it writes.
    type Projection: Projection;
    /// The plain fold it is verified against.
    type Fold: ModelFold;
    /// `CREATE TABLE IF NOT EXISTS …` of the model's own tables.
    const SCHEMA: &'static str;

    /// The writer's state for a file whose schema is there.
    ///
    /// # Errors
    /// What SQLite says.
    fn open(connection: &Connection) -> rusqlite::Result<Self>;

    /// Writes the changes of a batch, positions rising, in the transaction of its checkpoint.
    ///
    /// # Errors
    /// What SQLite says; the transaction is rolled back and [`SqliteModel::rolled_back`] called.
    fn apply(
        &mut self,
        transaction: &Transaction<'_>,
        batch: &[Projected<<Self::Projection as Projection>::Change>],
    ) -> rusqlite::Result<()>;

    /// The last transaction did not commit: caches that learnt from it are wrong.
    fn rolled_back(&mut self);

    /// Every row for verification, sorted by table and key, read in one transaction by the caller.
    ///
    /// # Errors
    /// What SQLite says.
    fn rows(connection: &Connection) -> rusqlite::Result<Vec<ModelRow>>;
}
