//! The catalogue: which generations a model has, and which one is current.

use sha2::{Digest, Sha256};
use socialhub_domain::Timestamp;
use socialhub_projections::{
    GenerationId, ModelName, Projection,
    runtime::{Generation, GenerationState},
};
use sqlx::{PgExecutor, Row, postgres::PgRow};

use crate::postgres::{
    model::{
        PgModel, execute, from_sql,
        locks::{Key, Purpose},
        tables,
    },
    session::Session,
};

/// The comment on a generation's schema: by what code it was begun. It is no column of the catalogue, which
/// every process reads at every moment: adding one would have to wait until nobody does.
const MADE_BY: &str = concat!("begun by the code ", env!("SOCIALHUB_CODE"));

/// `retired` counts how often a generation has stopped being current: a writer that opened it before the last time has
/// lost it. Numbers come from a sequence, so that a database never gives one twice, not even after a generation was removed.
fn schema(model: ModelName) -> String {
    format!(
        r#"
CREATE SCHEMA IF NOT EXISTS read_models;
CREATE TABLE IF NOT EXISTS read_models.generations (
    model text COLLATE "C" NOT NULL, id integer NOT NULL, state text NOT NULL, created_at bigint NOT NULL,
    retired integer NOT NULL DEFAULT 0, tables text NOT NULL, PRIMARY KEY (model, id));
CREATE UNIQUE INDEX IF NOT EXISTS one_current ON read_models.generations (model) WHERE state = 'current';
CREATE SEQUENCE IF NOT EXISTS read_models.{model}_generation AS integer;
"#
    )
}

/// The schema that a generation's tables are in.
pub(super) fn schema_of(model: ModelName, id: GenerationId) -> String {
    format!("{model}_{id}")
}

/// A name for the tables that this program makes: another layout of the same text is the same tables.
pub(super) fn fingerprint<M: PgModel>() -> String {
    let words = tables::SCHEMA
        .split_whitespace()
        .chain(M::SCHEMA.split_whitespace());
    let mut hash = Sha256::new();
    for word in words {
        hash.update(word);
        hash.update([0]);
    }
    let name: [u8; 32] = hash.finalize().into();
    name.iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The current generation; none when there is none yet.
pub(super) async fn current(
    executor: impl PgExecutor<'_>,
    model: ModelName,
) -> sqlx::Result<Option<GenerationId>> {
    let id: Option<i32> = sqlx::query_scalar(
        "SELECT id FROM read_models.generations WHERE model = $1 AND state = 'current'",
    )
    .bind(model.0)
    .fetch_optional(executor)
    .await?;
    Ok(id.map(generation_id))
}

fn generation_id(id: i32) -> GenerationId {
    GenerationId(id.cast_unsigned())
}

/// Makes the catalogue and a first generation where there is none; answers the current one. Many processes may do this
/// at the same time. Given up half way, the connection is to be closed.
pub(super) async fn prepare<M: PgModel>(
    connection: &mut Session,
    now: Timestamp,
) -> sqlx::Result<GenerationId> {
    let model = M::Projection::NAME;
    let begin = format!(
        "BEGIN; SET LOCAL client_min_messages = warning; SELECT pg_advisory_xact_lock({})",
        Key::catalogue()
    );
    execute(connection, &begin).await?;
    execute(connection, &schema(model)).await?;
    let id = match current(&mut *connection, model).await? {
        Some(id) => id,
        None => insert::<M>(connection, GenerationState::Current, now).await?,
    };
    execute(connection, "COMMIT").await?;
    Ok(id)
}

/// A new, empty generation with its tables, within the caller's transaction.
pub(super) async fn insert<M: PgModel>(
    connection: &mut Session,
    state: GenerationState,
    now: Timestamp,
) -> sqlx::Result<GenerationId> {
    let model = M::Projection::NAME;
    let id: i32 = sqlx::query_scalar(&format!(
        "INSERT INTO read_models.generations (model, id, state, created_at, tables)
         VALUES ($1, nextval('read_models.{model}_generation')::integer, $2, $3, $4) RETURNING id"
    ))
    .bind(model.0)
    .bind(state.to_string())
    .bind(now.0)
    .bind(fingerprint::<M>())
    .fetch_one(&mut *connection)
    .await?;
    let id = generation_id(id);
    let schema = schema_of(model, id);
    let make = format!(
        "CREATE SCHEMA {schema}; COMMENT ON SCHEMA {schema} IS '{MADE_BY}'; SET LOCAL search_path TO {schema};
         {} {} SET LOCAL search_path TO DEFAULT",
        tables::SCHEMA,
        M::SCHEMA
    );
    execute(connection, &make).await?;
    Ok(id)
}

/// What a writer must know of a generation.
pub(super) struct Entry {
    pub(super) state: GenerationState,
    pub(super) retired: i32,
    pub(super) tables: String,
}

/// A generation's entry; none when there is no such generation.
pub(super) async fn entry(
    executor: impl PgExecutor<'_>,
    model: ModelName,
    id: GenerationId,
) -> sqlx::Result<Option<Entry>> {
    let row = sqlx::query(
        "SELECT state, retired, tables FROM read_models.generations WHERE model = $1 AND id = $2",
    )
    .bind(model.0)
    .bind(id.0.cast_signed())
    .fetch_optional(executor)
    .await?;
    let read = |row: &PgRow| {
        Ok(Entry {
            state: state(row.try_get(0)?),
            retired: row.try_get(1)?,
            tables: row.try_get(2)?,
        })
    };
    row.as_ref().map(read).transpose()
}

fn state(name: &str) -> GenerationState {
    match name {
        "current" => GenerationState::Current,
        "previous" => GenerationState::Previous,
        _ => GenerationState::Building,
    }
}

/// Every generation as it stands, by number, within the caller's transaction.
pub(super) async fn list(
    connection: &mut Session,
    model: ModelName,
) -> sqlx::Result<Vec<Generation>> {
    // A store holds its lock on every connection; others of it are looked for in this database alone.
    let rows = sqlx::query(
        "SELECT g.id, g.state, g.created_at,
                EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted
                    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                    AND l.classid = $2::bigint::oid AND l.objid = g.id::bigint::oid AND l.objsubid = 2),
                (SELECT COALESCE(sum(pg_total_relation_size(c.oid)), 0)::bigint
                    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname = g.model || '_' || g.id AND c.relkind = 'r'),
                COALESCE(obj_description(to_regnamespace(g.model || '_' || g.id)::oid, 'pg_namespace') = $3, false)
         FROM read_models.generations g WHERE g.model = $1 ORDER BY g.id",
    )
    .bind(model.0)
    .bind(i64::from(Key::new(Purpose::Writer, model, GenerationId(0)).class.cast_unsigned()))
    .bind(MADE_BY)
    .fetch_all(&mut *connection)
    .await?;
    let mut generations = Vec::with_capacity(rows.len());
    for row in rows {
        let id = generation_id(row.try_get(0)?);
        let (checkpoints, parked) = match enter(connection, model, id).await? {
            true => (
                tables::checkpoints(&mut *connection).await?,
                tables::count_letters(&mut *connection).await?,
            ),
            false => (Vec::new(), 0),
        };
        generations.push(Generation {
            id,
            state: state(row.try_get(1)?),
            created_at: Timestamp(row.try_get(2)?),
            checkpoints,
            parked,
            has_writer: row.try_get(3)?,
            bytes: from_sql(row.try_get(4)?),
            is_of_this_program: row.try_get(5)?,
            broken: None,
        });
    }
    Ok(generations)
}

/// Makes a generation's tables those that names without a schema mean, until the caller's transaction ends; answers
/// whether it has tables at all.
pub(super) async fn enter(
    connection: &mut Session,
    model: ModelName,
    id: GenerationId,
) -> sqlx::Result<bool> {
    let schema = schema_of(model, id);
    let there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(format!("{schema}.checkpoint"))
        .fetch_one(&mut *connection)
        .await?;
    sqlx::query("SELECT set_config('search_path', $1, true)")
        .bind(schema)
        .execute(connection)
        .await?;
    Ok(there)
}

/// Makes another generation current, the current one previous, and lets the other go on with its partitions, within the
/// caller's transaction. Answers whether there is such a generation.
pub(super) async fn switch(
    connection: &mut Session,
    model: ModelName,
    from: GenerationId,
    to: GenerationId,
) -> sqlx::Result<bool> {
    let move_pointer = [
        (
            "UPDATE read_models.generations SET state = 'previous', retired = retired + 1
             WHERE model = $1 AND id = $2 AND state = 'current'",
            from,
        ),
        (
            "UPDATE read_models.generations SET state = 'current' WHERE model = $1 AND id = $2",
            to,
        ),
    ];
    for (sql, id) in move_pointer {
        let moved = sqlx::query(sql)
            .bind(model.0)
            .bind(id.0.cast_signed())
            .execute(&mut *connection)
            .await?;
        if moved.rows_affected() != 1 {
            return Ok(false);
        }
    }
    if from != to && enter(connection, model, from).await? {
        carry_offsets(connection, model, from, to).await?;
    }
    Ok(true)
}

/// What a partition has up to the position that the other generation was filled to is in it, so its checkpoint is that
/// of the log. A partition that was further than that (its log went back in time) is not carried: it is read anew.
async fn carry_offsets(
    connection: &mut Session,
    model: ModelName,
    from: GenerationId,
    to: GenerationId,
) -> sqlx::Result<()> {
    let (from, to) = (schema_of(model, from), schema_of(model, to));
    sqlx::query(&format!(
        "INSERT INTO {to}.checkpoint (source, partition, position, event_id, next_offset, partitions)
         SELECT c.source, c.partition, filled.position, filled.event_id, c.next_offset, c.partitions
         FROM {from}.checkpoint c
         JOIN {to}.checkpoint filled ON filled.source = 'log' AND filled.partition = 0
         WHERE c.source <> 'log' AND c.position <= filled.position
         ON CONFLICT (source, partition) DO UPDATE SET position = excluded.position,
             event_id = excluded.event_id, next_offset = excluded.next_offset, partitions = excluded.partitions"
    ))
    .execute(connection)
    .await?;
    Ok(())
}
