//! Generations of a Postgres read model, and readers that follow the current one.

use std::{
    marker::PhantomData,
    str::FromStr,
    sync::{Arc, Once, Weak},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::RwLock;
use socialhub_domain::Clock;
use socialhub_event_log::Position;
use socialhub_projections::{
    Checkpoint, GenerationId, ModelName, ParkedLetter, Projection, ReadModelStore, StoreError,
    runtime::{Claim, Fence, Generation, GenerationState, Generations, Snapshot, WriteMode},
    verify::{Entity, RowSink},
};
use sqlx::{ConnectOptions, postgres::PgConnectOptions};
use tokio::sync::{Mutex, watch};

use crate::postgres::{
    connect::{Access, missing_peers},
    model::{
        PgModel, PgModelStore, catalogue, execute,
        fault::{is_deadlock, is_missing, outside},
        locks::{Key, Purpose},
        tables,
    },
    pool::{Pool, retrying},
    session::Session,
};

/// How often the pointer is read anew: another process may have moved it.
const FOLLOW_EVERY: Duration = Duration::from_millis(400);
/// How long a look at the pointer may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a query of a reader may take.
const READ_TIMEOUT: Duration = Duration::from_secs(8);
/// How often the removal of a generation is tried again that was given up for somebody else's sake.
const DEADLOCKS: usize = 5;
/// How many connections the readers of a process share.
const READERS: usize = 12;
/// How long a fence waits for the batches in hand.
const GATE_TIMEOUT: &str = "30s";
/// How long a session may do nothing in an open transaction before the server ends it. Longer than the last mile of a
/// rebuild, which is written behind a fence; a host that has vanished with a fence up holds everybody up no longer.
const FENCE_IDLE: Duration = Duration::from_secs(60);

/// Queries are written for index look-ups from small to large. Plans made while a table was new and empty are kept, so
/// the planner is not to prefer a scan of it then.
const PLAN: [(&str, &str); 5] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
];

/// The generations of one read model in a Postgres database.
///
/// Nothing is connected before it is needed, so a program can start while the server is away. The catalogue and a first,
/// empty generation are made when they are looked for and not there; until then the pointer says generation 0,
/// which is none. A task follows the pointer from the first call of [`PgGenerations::readers`] or
/// [`Generations::current`] on. To be made and used within a Tokio runtime.
pub struct PgGenerations<M: PgModel> {
    shared: Arc<Shared<M>>,
    following: Once,
}

struct Shared<M> {
    model: Arc<M>,
    options: PgConnectOptions,
    clock: Arc<dyn Clock>,
    /// For looks; what takes longer has a connection of its own.
    catalogue: Pool,
    pointer: watch::Sender<GenerationId>,
    /// The readers of the generation that the pointer says; none before somebody asked for them.
    readers: RwLock<Option<Pool>>,
    /// One look at the pointer at a time.
    looking: Mutex<()>,
}

impl<M: PgModel> PgGenerations<M> {
    /// The generations of the model in the database at a URL, `postgres://…`.
    ///
    /// # Errors
    /// When the URL cannot be read.
    pub fn open(url: &str, clock: Arc<dyn Clock>) -> sqlx::Result<Arc<Self>>
    where
        M: Default,
    {
        Self::with_model(url, M::default(), clock)
    }

    /// As [`PgGenerations::open`], with a model of one's own making.
    ///
    /// # Errors
    /// When the URL cannot be read.
    pub fn with_model(url: &str, model: M, clock: Arc<dyn Clock>) -> sqlx::Result<Arc<Self>> {
        let options = missing_peers(PgConnectOptions::from_str(url)?, FENCE_IDLE)
            .application_name(&format!("socialhub-{}", M::Projection::NAME))
            .disable_statement_logging();
        let looks = Access::watched(options.clone()).limited(LOOK_TIMEOUT);
        let catalogue = Pool::new(looks, 3);
        let shared = Shared {
            model: Arc::new(model),
            options,
            clock,
            catalogue,
            pointer: watch::Sender::new(GenerationId(0)),
            readers: RwLock::new(None),
            looking: Mutex::new(()),
        };
        Ok(Arc::new(Self {
            shared: Arc::new(shared),
            following: Once::new(),
        }))
    }

    /// Connections to the current generation, for queries whose names stand without a schema. Ask anew for each query.
    ///
    /// # Errors
    /// [`StoreError`] as long as it is not known which generation is current.
    pub async fn readers(&self) -> Result<Pool, StoreError> {
        self.follow();
        if let Some(readers) = self.shared.readers.read().clone() {
            return Ok(readers);
        }
        self.shared.start_readers().await
    }

    /// How far the current generation has read each of its sources.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn current_checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        let readers = self.readers().await?;
        retrying(|| tables::checkpoints(&readers))
            .await
            .map_err(|error| outside(&error))
    }

    fn follow(&self) {
        self.following.call_once(|| {
            tokio::spawn(follow(Arc::downgrade(&self.shared)));
        });
    }
}

/// Follows the pointer as long as somebody holds the generations.
async fn follow<M: PgModel>(shared: Weak<Shared<M>>) {
    let mut failing = false;
    loop {
        let Some(held) = shared.upgrade() else { return };
        match held.refresh().await {
            Ok(_) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(model = %M::Projection::NAME, %error, "cannot read which generation is current");
            }
            Err(_) => {}
        }
        drop(held);
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

impl<M: PgModel> Shared<M> {
    const NAME: ModelName = M::Projection::NAME;

    /// The generation that the pointer says. Where there is none a first one is made: the database may have been made anew,
    /// empty, while this program runs.
    async fn current(&self) -> sqlx::Result<GenerationId> {
        match retrying(|| catalogue::current(&self.catalogue, Self::NAME)).await {
            Ok(Some(id)) => return Ok(id),
            Ok(None) => {}
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(error),
        }
        let mut session = self.session().await?;
        let id = catalogue::prepare::<M>(&mut session, self.clock.now()).await?;
        session.close().await;
        Ok(id)
    }

    /// Reads the pointer; when it has moved, the readers move first and then whoever watches is told.
    async fn refresh(&self) -> Result<GenerationId, StoreError> {
        let _one = self.looking.lock().await;
        let current = self.current().await.map_err(|error| outside(&error))?;
        if current == *self.pointer.borrow() {
            return Ok(current);
        }
        {
            let mut readers = self.readers.write();
            if readers.is_some() {
                *readers = Some(self.reader_pool(current));
            }
        }
        let before = self.pointer.send_replace(current);
        if before != GenerationId(0) {
            tracing::info!(model = %Self::NAME, generation = %current, "another generation is current");
        }
        Ok(current)
    }

    async fn start_readers(&self) -> Result<Pool, StoreError> {
        self.refresh().await?;
        let _one = self.looking.lock().await;
        let current = *self.pointer.borrow();
        let mut readers = self.readers.write();
        Ok(readers
            .get_or_insert_with(|| self.reader_pool(current))
            .clone())
    }

    fn options_of(&self, id: GenerationId) -> PgConnectOptions {
        self.options
            .clone()
            .options(PLAN)
            .options([("search_path", catalogue::schema_of(Self::NAME, id))])
    }

    fn reader_pool(&self, id: GenerationId) -> Pool {
        let access = Access::watched(self.options_of(id)).limited(READ_TIMEOUT);
        Pool::new(access, READERS)
    }

    /// A connection for what may take its time.
    async fn session(&self) -> sqlx::Result<Session> {
        Session::connect(&Access::watched(self.options.clone())).await
    }

    /// A connection in a transaction that sees one state throughout; it ends with the connection. Whoever has seen enough
    /// closes that: of one that is dropped the server logs that something went wrong, and projectors look every ten seconds.
    async fn look(&self) -> sqlx::Result<Session> {
        self.current().await?;
        let mut session = self.session().await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL jit = off";
        execute(&mut session, begin).await?;
        Ok(session)
    }

    /// As [`Shared::look`], in a generation's schema.
    async fn look_into(&self, id: GenerationId) -> Result<Session, StoreError> {
        let mut session = self.look().await.map_err(|error| outside(&error))?;
        let there = catalogue::enter(&mut session, Self::NAME, id)
            .await
            .map_err(|error| outside(&error))?;
        if there {
            Ok(session)
        } else {
            Err(no_generation(id))
        }
    }

    async fn create(&self) -> sqlx::Result<GenerationId> {
        self.current().await?;
        let mut session = self.session().await?;
        execute(&mut session, "BEGIN").await?;
        let (state, now) = (GenerationState::Building, self.clock.now());
        let id = catalogue::insert::<M>(&mut session, state, now).await?;
        execute(&mut session, "COMMIT").await?;
        session.close().await;
        Ok(id)
    }

    /// Answers whether there was such a generation to remove.
    async fn remove(&self, id: GenerationId) -> sqlx::Result<bool> {
        self.current().await?;
        let gate = Key::new(Purpose::Gate, Self::NAME, id);
        let mut session = self.session().await?;
        execute(&mut session, &closing(gate)).await?;
        let removed = sqlx::query(
            "DELETE FROM read_models.generations
             WHERE model = $1 AND id = $2 AND state <> 'current'",
        )
        .bind(Self::NAME.0)
        .bind(id.0.cast_signed())
        .execute(&mut session)
        .await?;
        if removed.rows_affected() == 0 {
            return Ok(false);
        }
        let schema = catalogue::schema_of(Self::NAME, id);
        // Whoever looks at generations begins with their checkpoints: it is waited for there, where they do not hold what
        // is wanted next.
        if catalogue::enter(&mut session, Self::NAME, id).await? {
            execute(&mut session, "LOCK TABLE checkpoint").await?;
        }
        execute(
            &mut session,
            &format!(
                "SET LOCAL client_min_messages = warning; DROP SCHEMA IF EXISTS {schema} CASCADE"
            ),
        )
        .await?;
        execute(&mut session, "COMMIT").await?;
        session.close().await;
        Ok(true)
    }

    /// A connection that has the claim's lock. It goes with the connection.
    async fn claim(&self) -> sqlx::Result<Option<Session>> {
        let key = Key::new(Purpose::Claim, Self::NAME, GenerationId(0));
        let mut session = self.session().await?;
        let taken: bool = sqlx::query_scalar(&format!("SELECT pg_try_advisory_lock({key})"))
            .fetch_one(&mut session)
            .await?;
        Ok(taken.then_some(session))
    }

    /// Refuses who holds the claim no more, though they believe so: the server has been away, and another has it now. Where
    /// nobody has, it is taken again.
    async fn require(&self, claim: &Claim) -> Result<(), StoreError> {
        let lost = || {
            StoreError::Unusable(
                "the connection to the database broke, and somebody else changes generations now"
                    .to_owned(),
            )
        };
        let Held(session) = claim.guard::<Held>().ok_or_else(lost)?;
        let mut session = session.lock().await;
        if execute(&mut session, "SELECT 1").await.is_err() {
            let again = self.claim().await.map_err(|error| outside(&error))?;
            *session = again.ok_or_else(lost)?;
        }
        Ok(())
    }
}

/// The connection that has the claim's lock.
struct Held(Mutex<Session>);

/// Begins a transaction that has a generation's gate alone.
fn closing(gate: Key) -> String {
    format!(
        "BEGIN; SET LOCAL lock_timeout = '{GATE_TIMEOUT}'; SELECT pg_advisory_xact_lock({gate})"
    )
}

pub(super) fn no_generation(id: GenerationId) -> StoreError {
    StoreError::Unusable(format!("there is no generation {id}"))
}

/// A transaction that has the current generation's gate alone: as long as it is open, no batch goes in.
struct PgFence<M: PgModel> {
    model: PhantomData<fn() -> M>,
    connection: Session,
    id: GenerationId,
    position: Position,
}

impl<M: PgModel> PgFence<M> {
    async fn raise(shared: &Arc<Shared<M>>) -> Result<Self, StoreError> {
        let id = shared.refresh().await?;
        Self::close_gate(shared, id)
            .await
            .map_err(|error| outside(&error))
    }

    async fn close_gate(shared: &Shared<M>, id: GenerationId) -> sqlx::Result<Self> {
        let model = Shared::<M>::NAME;
        let mut connection = shared.session().await?;
        // Its end is the connection's: a fence that is dropped leaves nothing to be rolled back by hand.
        let gate = Key::new(Purpose::Gate, model, id);
        execute(&mut connection, &closing(gate)).await?;
        let checkpoints = match catalogue::enter(&mut connection, model, id).await? {
            true => tables::checkpoints(&mut connection).await?,
            // Broken as it is, it can be replaced.
            false => Vec::new(),
        };
        // As far as any of its sources: what is filled to here has everything that this generation shows, and what a
        // partition brings between its offset and here can be skipped.
        let position = checkpoints
            .iter()
            .map(|checkpoint| checkpoint.position)
            .max()
            .unwrap_or(0);
        Ok(Self {
            model: PhantomData,
            connection,
            id,
            position,
        })
    }
}

#[async_trait]
impl<M: PgModel> Fence for PgFence<M> {
    fn position(&self) -> Position {
        self.position
    }

    async fn switch(mut self: Box<Self>, to: GenerationId) -> Result<(), StoreError> {
        let moved = catalogue::switch(&mut self.connection, Shared::<M>::NAME, self.id, to).await;
        if !moved.map_err(|error| outside(&error))? {
            return Err(no_generation(to));
        }
        execute(&mut self.connection, "COMMIT")
            .await
            .map_err(|error| outside(&error))
    }

    async fn mend(
        mut self: Box<Self>,
        from: GenerationId,
        entities: &[Entity],
    ) -> Result<(), StoreError> {
        let other = catalogue::schema_of(Shared::<M>::NAME, from);
        let mend = async {
            for kind in M::KINDS {
                for entity in entities.iter().filter(|entity| entity.table == *kind) {
                    M::mend(&mut self.connection, &other, entity).await?;
                }
            }
            execute(&mut self.connection, "COMMIT").await
        };
        // What is not committed goes with the connection.
        mend.await.map_err(|error| outside(&error))
    }
}

#[async_trait]
impl<M: PgModel> Generations<M::Projection> for PgGenerations<M> {
    fn current(&self) -> watch::Receiver<GenerationId> {
        self.follow();
        self.shared.pointer.subscribe()
    }

    async fn refresh(&self) -> Result<GenerationId, StoreError> {
        self.shared.refresh().await
    }

    async fn list(&self) -> Result<Vec<Generation>, StoreError> {
        let read = async {
            let mut session = self.shared.look().await?;
            let list = catalogue::list(&mut session, M::Projection::NAME).await?;
            session.close().await;
            Ok(list)
        };
        read.await.map_err(|error| outside(&error))
    }

    async fn open(
        &self,
        id: GenerationId,
        mode: WriteMode,
    ) -> Result<Arc<dyn ReadModelStore<M::Projection>>, StoreError> {
        let read = async {
            self.shared.current().await?;
            retrying(|| catalogue::entry(&self.shared.catalogue, M::Projection::NAME, id)).await
        };
        let entry = read
            .await
            .map_err(|error| outside(&error))?
            .ok_or_else(|| no_generation(id))?;
        let options = self.shared.options_of(id);
        let model = Arc::clone(&self.shared.model);
        let store = PgModelStore::open(model, options, id, mode, &entry).await?;
        Ok(Arc::new(store))
    }

    async fn claim(&self) -> Result<Option<Claim>, StoreError> {
        let session = self.shared.claim().await.map_err(|error| outside(&error))?;
        Ok(session.map(|session| Claim::new(Held(Mutex::new(session)))))
    }

    async fn create(&self, claim: &Claim) -> Result<GenerationId, StoreError> {
        self.shared.require(claim).await?;
        self.shared.create().await.map_err(|error| outside(&error))
    }

    async fn drop_generation(&self, claim: &Claim, id: GenerationId) -> Result<(), StoreError> {
        self.shared.require(claim).await?;
        let mut removed = self.shared.remove(id).await;
        // Somebody still reads its tables, in another order.
        for _ in 0..DEADLOCKS {
            if !removed.as_ref().is_err_and(is_deadlock) {
                break;
            }
            removed = self.shared.remove(id).await;
        }
        if removed.map_err(|error| outside(&error))? {
            return Ok(());
        }
        Err(StoreError::Unusable(format!(
            "generation {id} is current or does not exist"
        )))
    }

    async fn fence(&self, claim: &Claim) -> Result<Box<dyn Fence>, StoreError> {
        let fence = PgFence::raise(&self.shared).await?;
        self.shared.require(claim).await?;
        Ok(Box::new(fence))
    }

    async fn snapshot(
        &self,
        id: GenerationId,
        rows: &mut dyn RowSink,
    ) -> Result<Snapshot, StoreError> {
        let mut session = self.shared.look_into(id).await?;
        let read = async {
            let checkpoints = tables::checkpoints(&mut session).await?;
            M::rows(&mut session, rows).await?;
            let parked = tables::letters(&mut session).await?;
            session.close().await;
            Ok(Snapshot {
                checkpoints,
                parked,
            })
        };
        read.await.map_err(|error| outside(&error))
    }

    async fn letters(&self, id: GenerationId) -> Result<Vec<ParkedLetter>, StoreError> {
        let mut session = self.shared.look_into(id).await?;
        let letters = tables::letters(&mut session)
            .await
            .map_err(|error| outside(&error))?;
        session.close().await;
        Ok(letters)
    }
}
