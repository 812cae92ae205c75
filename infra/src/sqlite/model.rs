//! What the SQLite stores of all read models share: one file a generation, one writer thread, and in the same
//! transaction as the effects the checkpoint, parked letters and attempts.

use rusqlite::{Connection, ToSql, Transaction};
use socialhub_projections::{
    Projection,
    projection::Projected,
    verify::{Entity, ModelFold, RowSink},
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

    /// The last transaction did not commit, or somebody else has written to the file: what was kept in memory is wrong.
    fn rolled_back(&mut self);

    /// Hands over every row for verification, in one transaction of the caller's.
    ///
    /// # Errors
    /// What SQLite says.
    fn rows(connection: &Connection, rows: &mut dyn RowSink) -> rusqlite::Result<()>;

    /// The kinds of entity, in the order in which they are mended.
    const KINDS: &'static [&'static str];

    /// Makes an entity what it is in another generation's file, attached as `other`, in the caller's transaction. The
    /// other has handled the same events.
    ///
    /// # Errors
    /// What SQLite says.
    fn mend(connection: &Connection, entity: &Entity) -> rusqlite::Result<()>;
}

/// Makes all entities what they are in the file attached as `other`.
pub(super) fn mend_all<M: SqliteModel>(
    connection: &Connection,
    entities: &[Entity],
) -> rusqlite::Result<()> {
    for kind in M::KINDS {
        for entity in entities.iter().filter(|entity| entity.table == *kind) {
            M::mend(connection, entity)?;
        }
    }
    Ok(())
}

/// Makes the rows of a table for which `of` is true those that the file attached as `other` has.
pub(super) fn copy_rows(
    connection: &Connection,
    table: &str,
    of: &str,
    values: &[&dyn ToSql],
) -> rusqlite::Result<()> {
    for statement in [
        format!("DELETE FROM main.{table} WHERE {of}"),
        format!("INSERT INTO main.{table} SELECT * FROM other.{table} WHERE {of}"),
    ] {
        connection.prepare_cached(&statement)?.execute(values)?;
    }
    Ok(())
}
