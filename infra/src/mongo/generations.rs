//! Generations of the notifications on MongoDB: sets of collections side by side, a catalogue with a pointer to the
//! current one, and readers that follow it.
//!
//! Generation 3 is `notifications_3`, `facts_3`, … in the model's database.

use std::{
    sync::{Arc, Once},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use socialhub_domain::Clock;
use socialhub_projections::{
    Checkpoint, GenerationId, ParkedLetter, Projection, ReadError, ReadModelStore, StoreError,
    notifications::{Notifications, UNREAD},
    runtime::{Claim, Fence, Generation, Generations, Snapshot, WriteMode},
    verify::RowSink,
};
use tokio::{sync::watch, time::Instant};

use crate::CODE;
use crate::mongo::{
    access::Access,
    catalogue::{Catalogue, Catalogues, Entry, LAYOUT},
    connection::{MongoAddressError, connect},
    fence::{Kind, MongoFence, Right, require_claim},
    notifications::{MongoNotificationStore, Role, Tables, rows},
};

/// How often the pointer is read anew.
const FOLLOW_EVERY: Duration = Duration::from_millis(400);
/// A reader whose last look at the pointer is older than this looks again before it answers.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// So long after it stopped being current the collections of a generation stay, since readers may still use them.
const GRACE: Duration = Duration::from_secs(2);

/// The generations of the `notifications` model in a MongoDB database.
///
/// Connects when it is first needed. A task follows the pointer from the first call of [`Generations::current`] or the
/// first reader on.
pub struct MongoGenerations {
    shared: Arc<Shared>,
    following: Once,
}

/// What stores, readers and fences share.
pub(super) struct Shared {
    access: Access,
    clock: Arc<dyn Clock>,
    pub(super) catalogues: Catalogues,
    /// Generation 0 until the server has been asked for the first time.
    pointer: watch::Sender<GenerationId>,
    looked: Mutex<Option<Instant>>,
}

impl MongoGenerations {
    /// The generations in a database of the server at `url`. Makes no connection yet. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// When the address cannot be one of MongoDB.
    pub async fn open(
        url: &str,
        database: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, MongoAddressError> {
        let database = connect(url, database).await?;
        let access = Access::new(&database);
        let catalogues = Catalogues::new(&access, Notifications::NAME.0);
        Ok(Arc::new(Self {
            shared: Arc::new(Shared {
                access,
                clock,
                catalogues,
                pointer: watch::Sender::new(GenerationId(0)),
                looked: Mutex::new(None),
            }),
            following: Once::new(),
        }))
    }

    /// Every checkpoint of the current generation, for whoever wants to know where the model is.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn current_checkpoints(&self) -> Result<Vec<Checkpoint>, ReadError> {
        let tables = self.current_tables().await?;
        let found = tables.checkpoints().await;
        found.map_err(|error| ReadError(error.to_string()))
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.shared.clock)
    }

    /// The collections that readers use now. Ask anew for each query.
    pub(super) async fn current_tables(&self) -> Result<Tables, ReadError> {
        self.follow();
        let fresh = self
            .shared
            .looked
            .lock()
            .is_some_and(|at| at.elapsed() < TRUSTED_FOR);
        let current = *self.shared.pointer.borrow();
        if fresh {
            return Ok(self.shared.tables(current));
        }
        let found = tokio::time::timeout(GRACE, self.shared.refresh()).await;
        let found = found.map_err(|_| ReadError("MongoDB does not answer".to_owned()))?;
        let id = found.map_err(|error| ReadError(error.to_string()))?;
        Ok(self.shared.tables(id))
    }

    fn follow(&self) {
        self.following.call_once(|| {
            let shared = Arc::downgrade(&self.shared);
            tokio::spawn(async move {
                while let Some(shared) = shared.upgrade() {
                    if let Err(error) = shared.refresh().await {
                        tracing::warn!(%error, "cannot read which generation of the notifications is current");
                    }
                    drop(shared);
                    tokio::time::sleep(FOLLOW_EVERY).await;
                }
            });
        });
    }
}

impl Shared {
    pub(super) fn now(&self) -> i64 {
        self.clock.now().0
    }

    pub(super) fn tables(&self, id: GenerationId) -> Tables {
        Tables::new(&self.access, id)
    }

    /// Reads the pointer and tells whoever watches when it has moved.
    pub(super) async fn refresh(&self) -> Result<GenerationId, StoreError> {
        let current = GenerationId(self.catalogues.read(self.now()).await?.current);
        *self.looked.lock() = Some(Instant::now());
        let moved = self.pointer.send_if_modified(|pointer| {
            let moved = *pointer != current;
            *pointer = current;
            moved
        });
        if moved {
            tracing::info!(generation = %current, "a generation of the notifications is current");
        }
        Ok(current)
    }

    async fn entry(&self, id: GenerationId) -> Result<(Catalogue, Entry), StoreError> {
        let catalogue = self.catalogues.read(self.now()).await?;
        match catalogue.entry(id).cloned() {
            Some(entry) => Ok((catalogue, entry)),
            None if id.0 == 0 => Err(StoreError::Unavailable(
                "the server has not answered yet".to_owned(),
            )),
            None => Err(StoreError::Unusable(format!("there is no generation {id}"))),
        }
    }

    async fn describe(
        &self,
        catalogue: &Catalogue,
        entry: &Entry,
    ) -> Result<Generation, StoreError> {
        let id = GenerationId(entry.id);
        let tables = self.tables(id);
        let now = self.now();
        let bytes = async { Ok(tables.bytes().await) };
        let (checkpoints, parked, has_writer, bytes) = tokio::try_join!(
            tables.checkpoints(),
            tables.count_letters(),
            tables.has_writer(now),
            bytes,
        )?;
        Ok(Generation {
            id,
            state: catalogue.state(entry),
            created_at: socialhub_domain::Timestamp(entry.created_at),
            checkpoints,
            parked,
            has_writer,
            bytes,
            is_of_this_program: entry.made_by.as_deref() == Some(CODE),
            broken: None,
        })
    }

    /// Waits until nobody reads a generation any more that has just stopped being current. Only then may the catalogue forget
    /// it: what that does not know is swept away.
    async fn wait_for_readers(&self, id: GenerationId) -> Result<(), StoreError> {
        let now = self.now();
        let catalogue = self.catalogues.read(now).await?;
        let retired_at = catalogue.entry(id).and_then(|entry| entry.retired_at);
        let since = retired_at.map_or(i64::MAX, |at| now.saturating_sub(at));
        let left = (GRACE.as_millis() as i64).saturating_sub(since.max(0));
        if let Ok(left @ 1..) = u64::try_from(left) {
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
        Ok(())
    }

    /// Drops the collections of generations that the catalogue does not know (any more).
    async fn sweep(&self) -> Result<(), StoreError> {
        let catalogue = self.catalogues.read(self.now()).await?;
        for id in Tables::all_in(&self.access).await? {
            // A number that is still to be given belongs to a creation by somebody else.
            if id.0 < catalogue.next && catalogue.entry(id).is_none() {
                self.tables(id).drop_all().await?;
            }
        }
        Ok(self.catalogues.tidy().await?)
    }

    /// The checkpoints first: what is written while the rest is read is ahead of them, not behind.
    async fn snapshot(
        &self,
        id: GenerationId,
        rows: &mut dyn RowSink,
    ) -> Result<Snapshot, StoreError> {
        let tables = self.tables(id);
        let checkpoints = tables.checkpoints().await?;
        rows::read(&tables, rows).await?;
        let parked = tables.letters().await?;
        Ok(Snapshot {
            checkpoints,
            parked,
        })
    }
}

#[async_trait]
impl Generations<Notifications> for MongoGenerations {
    /// Generation 0, which cannot be opened, until the server has answered for the first time.
    fn current(&self) -> watch::Receiver<GenerationId> {
        self.follow();
        self.shared.pointer.subscribe()
    }

    async fn refresh(&self) -> Result<GenerationId, StoreError> {
        self.shared.refresh().await
    }

    async fn list(&self) -> Result<Vec<Generation>, StoreError> {
        let catalogue = self.shared.catalogues.read(self.shared.now()).await?;
        let mut described = Vec::new();
        for entry in &catalogue.generations {
            described.push(self.shared.describe(&catalogue, entry).await?);
        }
        Ok(described)
    }

    /// Any number of writers may open a generation: what they write is idempotent.
    async fn open(
        &self,
        id: GenerationId,
        _mode: WriteMode,
    ) -> Result<Arc<dyn ReadModelStore<Notifications>>, StoreError> {
        let (catalogue, entry) = self.shared.entry(id).await?;
        if entry.layout != LAYOUT {
            return Err(StoreError::Unusable(format!(
                "it was made with other documents than this program has; run `socialhub replay rebuild {}`",
                Notifications::NAME
            )));
        }
        let role = if catalogue.current == id.0 {
            Role::Current
        } else {
            Role::Aside
        };
        let store = MongoNotificationStore::open(Arc::clone(&self.shared), id, role).await?;
        Ok(Arc::new(store))
    }

    /// Looks at another holder for as long as it takes to know whether it is alive.
    async fn claim(&self) -> Result<Option<Claim>, StoreError> {
        let shared = &self.shared;
        let mine = shared.catalogues.new_holder();
        loop {
            let found = shared.catalogues.read(shared.now()).await?.claim;
            if let Some(other) = &found {
                let held = |newest: &Catalogue| newest.claim.as_ref() == Some(other);
                if shared.catalogues.is_alive(other, held).await? {
                    return Ok(None);
                }
            }
            let taken = shared
                .catalogues
                .change(shared.now(), |catalogue| {
                    let free = catalogue.claim.is_none() || catalogue.claim == found;
                    if free {
                        catalogue.claim = Some(mine.clone());
                    }
                    Ok(free)
                })
                .await?;
            if taken {
                return Ok(Some(Claim::new(Right::keep(shared, Kind::Claim, mine))));
            }
        }
    }

    async fn create(&self, claim: &Claim) -> Result<GenerationId, StoreError> {
        let shared = &self.shared;
        shared.sweep().await?;
        let now = shared.now();
        // In the catalogue first: collections that it does not know are swept away, missing ones are made at opening.
        let id = shared
            .catalogues
            .change(now, |catalogue| {
                require_claim(catalogue, claim)?;
                let id = catalogue.next;
                catalogue.next += 1;
                catalogue.generations.push(Entry::new(id, now));
                Ok(GenerationId(id))
            })
            .await?;
        shared.tables(id).prepare().await?;
        Ok(id)
    }

    async fn drop_generation(&self, claim: &Claim, id: GenerationId) -> Result<(), StoreError> {
        let shared = &self.shared;
        shared.wait_for_readers(id).await?;
        shared
            .catalogues
            .change(shared.now(), |catalogue| {
                require_claim(catalogue, claim)?;
                let entry = catalogue
                    .entry(id)
                    .filter(|entry| entry.id != catalogue.current);
                if entry.is_none() {
                    return Err(StoreError::Unusable(format!(
                        "generation {id} is current or does not exist"
                    )));
                }
                catalogue.generations.retain(|entry| entry.id != id.0);
                Ok(())
            })
            .await?;
        // Should this be broken off, it is swept away.
        Ok(shared.tables(id).drop_all().await?)
    }

    async fn sweep(&self) -> Result<(), StoreError> {
        self.shared.sweep().await
    }

    async fn fence(&self, claim: &Claim) -> Result<Box<dyn Fence>, StoreError> {
        Ok(Box::new(MongoFence::raise(&self.shared, claim).await?))
    }

    /// There are no snapshots here: what was written while it was read may show in part. So a difference counts only when it
    /// is still there at further looks.
    async fn snapshot(
        &self,
        id: GenerationId,
        rows: &mut dyn RowSink,
    ) -> Result<Snapshot, StoreError> {
        self.shared.snapshot(id, rows).await
    }

    fn writes_effects_first(&self) -> bool {
        true
    }

    fn derived(&self) -> &'static [&'static str] {
        &[UNREAD]
    }

    async fn letters(&self, id: GenerationId) -> Result<Vec<ParkedLetter>, StoreError> {
        Ok(self.shared.tables(id).letters().await?)
    }
}
