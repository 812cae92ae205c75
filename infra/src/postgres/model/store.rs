//! The generic store of one generation of a read model: the model's effects, its checkpoint, its letters and its attempts
//! in the same transaction.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use socialhub_event_log::Position;
use socialhub_projections::{
    Checkpoint, GenerationId, ModelName, ParkedLetter, Projection, ReadModelStore, Source,
    StoreError,
    projection::Projected,
    runtime::{GenerationState, WriteMode},
    store::{Attempts, ParkedSequence, WriteBatch},
};
use sqlx::postgres::PgConnectOptions;
use uuid::Uuid;

use crate::postgres::{
    connect::Access,
    model::{
        Change, PgModel, catalogue, fault, from_sql, last_answer,
        locks::{Key, Purpose},
        tables, to_sql,
    },
    pool::{Pool, Transaction, retrying},
    session::Session,
};

/// How many sources of a process are written at the same time; others wait for a connection.
const WRITERS: usize = 4;
/// How long a source waits for a connection: others may be waiting for a fence.
const PLACE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a batch waits for locks: a fence, another partition's batch on the same rows.
const LOCK_TIMEOUT: &str = "30s";

/// The store of one generation on Postgres, as one of its writers sees it.
pub struct PgModelStore<M: PgModel> {
    model: Arc<M>,
    mode: WriteMode,
    pool: Pool,
    id: GenerationId,
    /// How often the generation had been retired when it was opened.
    retired: i32,
}

/// Who may pass a generation's gate together.
enum Gate {
    /// With the batches of other sources.
    Shared,
    /// Alone.
    Alone,
}

impl<M: PgModel> PgModelStore<M> {
    const NAME: ModelName = M::Projection::NAME;

    pub(super) async fn open(
        model: Arc<M>,
        options: PgConnectOptions,
        id: GenerationId,
        mode: WriteMode,
        entry: &catalogue::Entry,
    ) -> Result<Self, StoreError> {
        if entry.tables != catalogue::fingerprint::<M>() {
            return Err(StoreError::Unusable(format!(
                "it was made with other tables than this program has; run `socialhub replay rebuild {}`",
                Self::NAME
            )));
        }
        // A rebuild fills what is not current yet, a rollback what was current before.
        if mode == WriteMode::Live && entry.state != GenerationState::Current {
            return Err(retired());
        }
        let writer = Key::new(Purpose::Writer, Self::NAME, id);
        let options = options
            .application_name(&format!("socialhub-{}-writer", Self::NAME))
            .options([
                ("synchronous_commit", "off"),
                ("lock_timeout", LOCK_TIMEOUT),
            ]);
        // A batch of a rebuild takes the time it takes.
        let pool = Pool::greeting(
            Access::watched(options),
            WRITERS,
            PLACE_TIMEOUT,
            format!("SELECT pg_advisory_lock_shared({writer})"),
        );
        // From here on there is a writer.
        pool.acquire()
            .await
            .map_err(|error| fault::outside(&error))?;
        Ok(Self {
            model,
            mode,
            pool,
            id,
            retired: entry.retired,
        })
    }

    /// A transaction behind the gate; refused when the generation has been retired since it was opened.
    async fn begin(&self, gate: Gate) -> Result<Transaction, StoreError> {
        let lock = match gate {
            Gate::Shared => "pg_advisory_xact_lock_shared",
            Gate::Alone => "pg_advisory_xact_lock",
        };
        let key = Key::new(Purpose::Gate, Self::NAME, self.id);
        // Statements of their own, so that the second sees what happened while the gate was closed.
        let pass = format!(
            "SELECT {lock}({key})::text IS NULL;
             SELECT EXISTS (SELECT FROM read_models.generations
             WHERE model = '{}' AND id = {} AND retired = {})",
            Self::NAME,
            self.id.0,
            self.retired
        );
        let begin = || async {
            let mut transaction = self.pool.begin().await?;
            let held = last_answer(&mut transaction, &pass).await?;
            Ok((transaction, held))
        };
        match retrying(begin).await {
            Ok((transaction, true)) => Ok(transaction),
            Ok((_, false)) => Err(retired()),
            Err(error) => Err(fault::outside(&error)),
        }
    }

    /// Everything of a batch that is not there yet; answers whether anything was written.
    async fn write(
        &self,
        connection: &mut Session,
        batch: &WriteBatch<Change<M>>,
    ) -> sqlx::Result<Written> {
        let checkpoint = &batch.checkpoint;
        let stored = lock_position(connection, &checkpoint.source).await?;
        if checkpoint.position <= stored {
            return Ok(Written::AlreadyThere);
        }
        if batch.after != stored {
            return Ok(Written::Moved);
        }
        if !batch.projected.is_empty() {
            self.model
                .apply(connection, self.mode, &batch.projected)
                .await?;
        }
        tables::insert_letters(connection, &batch.parked).await?;
        write_checkpoint(connection, checkpoint).await?;
        Ok(Written::Done)
    }
}

/// What became of a batch inside its transaction.
enum Written {
    Done,
    AlreadyThere,
    Moved,
}

fn retired() -> StoreError {
    StoreError::Unusable("another generation has become current".to_owned())
}

/// Locks the checkpoint of a source, making it if it is not there, and says how far what comes from it has been handled.
async fn lock_position(connection: &mut Session, source: &Source) -> sqlx::Result<Position> {
    let log = Source::log();
    let mut own = read_own(connection, source).await?;
    if own.is_none() {
        // Whoever makes the same row at the same time is waited for here.
        sqlx::query(
            "INSERT INTO checkpoint (source, partition, position, event_id) VALUES ($1, $2, 0, $3)
             ON CONFLICT DO NOTHING",
        )
        .bind(&source.name)
        .bind(source.partition)
        .bind(Uuid::nil())
        .execute(&mut *connection)
        .await?;
        own = read_own(connection, source).await?;
    }
    let floor: Option<i64> =
        sqlx::query_scalar("SELECT position FROM checkpoint WHERE source = $1 AND partition = $2")
            .bind(&log.name)
            .bind(log.partition)
            .fetch_optional(connection)
            .await?;
    Ok(from_sql(own.unwrap_or(0).max(floor.unwrap_or(0))))
}

async fn read_own(connection: &mut Session, source: &Source) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar(
        "SELECT position FROM checkpoint WHERE source = $1 AND partition = $2 FOR UPDATE",
    )
    .bind(&source.name)
    .bind(source.partition)
    .fetch_optional(connection)
    .await
}

async fn write_checkpoint(connection: &mut Session, checkpoint: &Checkpoint) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE checkpoint SET position = $3, event_id = $4, next_offset = $5, partitions = $6
         WHERE source = $1 AND partition = $2",
    )
    .bind(&checkpoint.source.name)
    .bind(checkpoint.source.partition)
    .bind(to_sql(checkpoint.position))
    .bind(checkpoint.event_id)
    .bind(checkpoint.next_offset)
    .bind(checkpoint.partitions)
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets the attempts at a source's records.
async fn forget_attempts(connection: &mut Session, source: &Source) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM attempt WHERE source = $1 AND partition = $2")
        .bind(&source.name)
        .bind(source.partition)
        .execute(connection)
        .await?;
    Ok(())
}

#[async_trait]
impl<M: PgModel> ReadModelStore<M::Projection> for PgModelStore<M> {
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        retrying(|| tables::checkpoints(&self.pool))
            .await
            .map_err(|error| fault::outside(&error))
    }

    async fn apply(&self, batch: WriteBatch<Change<M>>) -> Result<(), StoreError> {
        let first = batch
            .projected
            .first()
            .map_or(batch.checkpoint.position, |projected| projected.position);
        let gate = if M::is_alone(&batch.projected) {
            Gate::Alone
        } else {
            Gate::Shared
        };
        let mut transaction = self.begin(gate).await?;
        let written = match self.write(&mut transaction, &batch).await {
            Ok(Written::Done) => transaction.commit().await,
            Ok(Written::AlreadyThere) => transaction.rollback().await,
            Ok(Written::Moved) => return Err(StoreError::Moved),
            Err(error) => Err(error),
        };
        written.map_err(|error| fault::of_batch(&error, first))
    }

    async fn parked(&self) -> Result<Vec<ParkedLetter>, StoreError> {
        retrying(|| tables::letters(&self.pool))
            .await
            .map_err(|error| fault::outside(&error))
    }

    async fn parked_sequences(&self) -> Result<Vec<ParkedSequence>, StoreError> {
        retrying(|| tables::parked_sequences(&self.pool))
            .await
            .map_err(|error| fault::outside(&error))
    }

    /// Whoever writes the letter's partition is kept out meanwhile: nothing else says which one that is.
    async fn apply_parked(&self, projected: Projected<Change<M>>) -> Result<(), StoreError> {
        let position = projected.position;
        let mut transaction = self.begin(Gate::Alone).await?;
        let apply = async {
            // Gone already: another operator was quicker.
            if !tables::delete_letter(&mut *transaction, position).await? {
                return Ok(());
            }
            self.model
                .apply(
                    &mut transaction,
                    self.mode,
                    std::slice::from_ref(&projected),
                )
                .await?;
            transaction.commit().await
        };
        apply
            .await
            .map_err(|error| fault::of_batch(&error, position))
    }

    async fn discard_parked(&self, position: Position) -> Result<(), StoreError> {
        let mut transaction = self.begin(Gate::Shared).await?;
        let discard = async {
            tables::delete_letter(&mut *transaction, position).await?;
            transaction.commit().await
        };
        discard.await.map_err(|error| fault::outside(&error))
    }

    async fn set_attempts(&self, source: &Source, attempts: &Attempts) -> Result<(), StoreError> {
        let positions: Vec<i64> = attempts.keys().map(|position| to_sql(*position)).collect();
        let tries: Vec<i32> = attempts.values().map(|tries| tries.cast_signed()).collect();
        // Two may do this at once: a writer that is no longer the partition's, or one whose answer was lost. What the other
        // has inserted meanwhile is no conflict.
        sqlx::query(
            "WITH gone AS (DELETE FROM attempt
                 WHERE source = $1 AND partition = $2 AND position <> ALL($3))
             INSERT INTO attempt (source, partition, position, tries)
             SELECT $1, $2, position, tries FROM unnest($3::bigint[], $4::integer[]) AS a (position, tries)
             ON CONFLICT (source, partition, position) DO UPDATE SET tries = excluded.tries",
        )
        .bind(&source.name)
        .bind(source.partition)
        .bind(positions)
        .bind(tries)
        .execute(&self.pool)
        .await
        .map(|_| ())
        .map_err(|error| fault::outside(&error))
    }

    async fn attempts(&self, source: &Source) -> Result<Attempts, StoreError> {
        let attempts = || {
            sqlx::query_as::<_, (i64, i32)>(
                "SELECT position, tries FROM attempt WHERE source = $1 AND partition = $2",
            )
            .bind(&source.name)
            .bind(source.partition)
            .fetch_all(&self.pool)
        };
        let attempts = retrying(attempts)
            .await
            .map_err(|error| fault::outside(&error))?;
        let known = |(position, tries): (i64, i32)| (from_sql(position), tries.cast_unsigned());
        Ok(attempts.into_iter().map(known).collect())
    }

    async fn stopped_cleanly(&self, source: &Source) -> Result<bool, StoreError> {
        let clean = || {
            sqlx::query_scalar("SELECT clean FROM writer_end WHERE source = $1 AND partition = $2")
                .bind(&source.name)
                .bind(source.partition)
                .fetch_optional(&self.pool)
        };
        let clean: Option<bool> = retrying(clean)
            .await
            .map_err(|error| fault::outside(&error))?;
        Ok(clean.unwrap_or(true))
    }

    async fn set_stopped_cleanly(&self, source: &Source, clean: bool) -> Result<(), StoreError> {
        let set = async {
            let mut transaction = self.pool.begin().await?;
            sqlx::query(
                "INSERT INTO writer_end (source, partition, clean) VALUES ($1, $2, $3)
                 ON CONFLICT (source, partition) DO UPDATE SET clean = excluded.clean",
            )
            .bind(&source.name)
            .bind(source.partition)
            .bind(clean)
            .execute(&mut *transaction)
            .await?;
            if clean {
                forget_attempts(&mut transaction, source).await?;
            }
            transaction.commit().await
        };
        set.await.map_err(|error| fault::outside(&error))
    }

    async fn close(&self) {
        // With the connections goes the lock that says there is a writer.
        self.pool.close().await;
    }
}
