//! The generations of the counters on Redis, and the pointer to the current one.

use std::{
    sync::{
        Arc, Once,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::{ScriptInvocation, Value};
use socialhub_domain::{Clock, Timestamp};
use socialhub_projections::{
    Checkpoint, GenerationId, ParkedLetter, ReadModelStore, StoreError,
    counters::Counters,
    runtime::{Claim, Fence, Generation, GenerationState, Generations, Snapshot, WriteMode},
    verify::RowSink,
};
use tokio::{runtime::Handle, sync::watch};

use super::{
    FORMAT, Keys, RedisCounterReader, Reply, claim_key,
    fence::RedisFence,
    held::Held,
    pairs, parse_checkpoints,
    reader::Known,
    scripts, snapshot,
    store::{RedisCounterStore, read_letters},
    token, words,
};
use crate::CODE;
use crate::redis::{
    link::{RedisFault, RedisLink},
    renewal::TIME_TO_LIVE,
};

/// How often the pointer is read anew.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);
/// Between two looks at whether the holder of a claim renews it.
const LOOK_AT_HOLDER: Duration = Duration::from_millis(200);
/// What Redis says of a key that does not run out.
const NO_END: i64 = -1;

/// Instead of a generation: none is there, or none is known yet.
pub(super) const MISSING: GenerationId = GenerationId(0);

/// All generations of the counters on a Redis server.
///
/// When Redis holds none, at the first start or because it was emptied, [`Generations::current`] is generation 0, which
/// cannot be opened; [`keep_filled`](super::keep_filled) then fills one from the log.
pub struct RedisGenerations {
    shared: Arc<Shared>,
    following: Once,
}

pub(super) struct Shared {
    pub(super) link: RedisLink,
    pub(super) catalogue: String,
    clock: Arc<dyn Clock>,
    pointer: watch::Sender<GenerationId>,
    /// The token of the generation that `pointer` says, so that another one of the same number is told apart.
    token: Mutex<String>,
    /// The highest number seen: a number is not used twice while anybody remembers it.
    highest: AtomicU32,
    /// The token of the claim that this process holds.
    claim: Mutex<Option<String>>,
    /// What this process has seen of the current generation: its readers answer nothing older.
    known: Arc<Known>,
}

impl RedisGenerations {
    /// The counters on the server at `url`, under keys that begin with `prefix` (`socialhub`). Nothing is sent yet: the
    /// server may be away. Whoever opens a generation for writing is refused by a server that would throw counters away.
    ///
    /// # Errors
    /// When the address is none.
    pub fn open(url: &str, prefix: &str, clock: Arc<dyn Clock>) -> Result<Arc<Self>, RedisFault> {
        Ok(Arc::new(Self {
            shared: Arc::new(Shared {
                link: RedisLink::new(url)?,
                catalogue: format!("{prefix}:counters"),
                clock,
                pointer: watch::Sender::new(MISSING),
                token: Mutex::default(),
                highest: AtomicU32::new(0),
                claim: Mutex::new(None),
                known: Arc::default(),
            }),
            following: Once::new(),
        }))
    }

    /// A reader of whichever generation is current, on a connection of its own.
    pub fn reader(&self) -> RedisCounterReader {
        RedisCounterReader::new(
            self.shared.link.another(),
            self.shared.catalogue.clone(),
            Arc::clone(&self.shared.known),
        )
    }

    /// Whether Redis holds no model, so that it has to be filled from the log.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn needs_filling(&self) -> Result<bool, StoreError> {
        Ok(self.shared.refresh().await? == MISSING)
    }

    /// How far the current generation has read each source; nothing while the model is missing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn current_checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        let mut script = scripts::READ.prepare_invoke();
        script
            .key(&self.shared.catalogue)
            .arg("")
            .arg("checkpoints");
        let reply = Reply::of(self.shared.link.invoke(&script).await?);
        let ("done", [stamp, state, ..]) = (reply.word.as_str(), &*reply.rest) else {
            return Ok(Vec::new());
        };
        let checkpoints = parse_checkpoints(&pairs(state));
        // Before anybody is told: whoever knows how far the model was does not take older counts for these.
        let stamp = words(stamp).unwrap_or_default();
        self.shared.known.note(stamp, checkpoints.clone());
        Ok(checkpoints)
    }

    fn follow(&self) {
        // Without a runtime nobody follows it: `refresh` still looks.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        self.following.call_once(|| {
            let shared = Arc::downgrade(&self.shared);
            runtime.spawn(async move {
                let mut failing = false;
                while let Some(shared) = shared.upgrade() {
                    let looked = shared.refresh().await;
                    if let Err(error) = &looked
                        && !failing
                    {
                        tracing::warn!(%error, "cannot see which generation of the counters is current");
                    }
                    failing = looked.is_err();
                    drop(shared);
                    tokio::time::sleep(FOLLOW_EVERY).await;
                }
            });
        });
    }
}

impl Shared {
    /// Reads the pointer and tells whoever watches when it has moved, also to another generation of the same number.
    pub(super) async fn refresh(&self) -> Result<GenerationId, StoreError> {
        let mut script = scripts::POINTER.prepare_invoke();
        script.key(&self.catalogue);
        let (id, found): (u32, String) = self.link.invoke(&script).await?;
        let id = GenerationId(id);
        self.highest.fetch_max(id.0, Ordering::AcqRel);
        let mut token = self.token.lock();
        if *self.pointer.borrow() != id || *token != found {
            if id == MISSING {
                tracing::warn!("the counters are missing from Redis");
            } else {
                tracing::info!(generation = %id, "another generation of the counters is current");
            }
            *token = found;
            self.pointer.send_replace(id);
        }
        Ok(id)
    }

    pub(super) fn keys(&self, id: GenerationId) -> Keys {
        Keys::new(&self.catalogue, id)
    }

    /// The token of the claim this process holds; what nobody holds when it has none.
    pub(super) fn claimed(&self) -> String {
        self.claim.lock().clone().unwrap_or_default()
    }

    pub(super) async fn call(&self, script: &ScriptInvocation<'_>) -> Result<Reply, StoreError> {
        Ok(Reply::of(self.link.invoke(script).await?))
    }

    /// Keeps a key that says `value` until the answer is dropped.
    pub(super) fn hold(&self, key: String, value: String) -> Held {
        Held::new(self.link.clone(), key, value)
    }

    async fn bytes(&self, id: GenerationId) -> u64 {
        let mut pipeline = redis::pipe();
        for part in ["state", "posts", "people", "trending", "parked"] {
            pipeline
                .cmd("MEMORY")
                .arg("USAGE")
                .arg(self.keys(id).part(part));
        }
        // A server that does not tell is no reason to tell nothing.
        let sizes: Vec<Option<u64>> = self.link.pipeline(&pipeline).await.unwrap_or_default();
        sizes.into_iter().flatten().sum()
    }
}

/// Gives the claim back when it is dropped.
struct ClaimGuard {
    shared: Arc<Shared>,
    token: String,
    _held: Held,
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        let mut claim = self.shared.claim.lock();
        if claim.as_ref() == Some(&self.token) {
            *claim = None;
        }
    }
}

fn describe(row: &Value) -> Option<Generation> {
    let Value::Array(row) = row else { return None };
    let catalogued = words(row.get(1)?)?;
    let (state, created_at) = catalogued.split_once(' ')?;
    let count = |index: usize| words(row.get(index)?)?.parse::<u64>().ok();
    let stored = pairs(row.get(2)?);
    Some(Generation {
        id: GenerationId(words(row.first()?)?.parse().ok()?),
        state: match state {
            "current" => GenerationState::Current,
            "previous" => GenerationState::Previous,
            _ => GenerationState::Building,
        },
        created_at: Timestamp(created_at.parse().ok()?),
        checkpoints: parse_checkpoints(&stored),
        parked: count(3)?,
        has_writer: count(4)? > 0,
        bytes: 0,
        is_of_this_program: stored
            .iter()
            .any(|(field, code)| field == "made_by" && code == CODE),
        broken: None,
    })
}

#[async_trait]
impl Generations<Counters> for RedisGenerations {
    fn current(&self) -> watch::Receiver<GenerationId> {
        self.follow();
        self.shared.pointer.subscribe()
    }

    async fn refresh(&self) -> Result<GenerationId, StoreError> {
        self.shared.refresh().await
    }

    async fn list(&self) -> Result<Vec<Generation>, StoreError> {
        let mut script = scripts::LIST.prepare_invoke();
        script.key(&self.shared.catalogue);
        let rows: Vec<Value> = self.shared.link.invoke(&script).await?;
        let mut generations: Vec<_> = rows.iter().filter_map(describe).collect();
        generations.sort_by_key(|generation| generation.id);
        for generation in &mut generations {
            generation.bytes = self.shared.bytes(generation.id).await;
        }
        Ok(generations)
    }

    async fn open(
        &self,
        id: GenerationId,
        mode: WriteMode,
    ) -> Result<Arc<dyn ReadModelStore<Counters>>, StoreError> {
        if id == MISSING {
            return Err(StoreError::Unavailable(
                "the counters are not in Redis (yet); they are filled from the log".to_owned(),
            ));
        }
        let shared = &self.shared;
        // Nothing is wrong with what is there, so it is not for throwing away.
        let safe = shared.link.check_server().await;
        safe.map_err(|fault| StoreError::Unavailable(fault.to_string()))?;
        let mut ask = redis::cmd("HMGET");
        ask.arg(shared.keys(id).state()).arg("token").arg("format");
        let (token, format): (Option<String>, Option<String>) = shared.link.query(&ask).await?;
        let token = token
            .ok_or_else(|| StoreError::Unusable(format!("generation {id} is not in Redis")))?;
        if format.as_deref() != Some(FORMAT) {
            return Err(StoreError::Unusable(
                "it was made by another version of the program; run `socialhub replay rebuild counters`"
                    .to_owned(),
            ));
        }
        if mode == WriteMode::Live {
            // After the token: one that is retired from now on has another.
            let mut ask = redis::cmd("HGET");
            ask.arg(&shared.catalogue).arg(id.0);
            let state: Option<String> = shared.link.query(&ask).await?;
            if !state.is_some_and(|state| state.starts_with("current ")) {
                let reason = format!("generation {id} is not current");
                return Err(StoreError::Unusable(reason));
            }
        }
        let catalogue = shared.catalogue.clone();
        let store = RedisCounterStore::open(shared.link.another(), catalogue, id, token).await?;
        Ok(Arc::new(store))
    }

    /// Looks at another holder for as long as it takes to know whether it is alive.
    async fn claim(&self) -> Result<Option<Claim>, StoreError> {
        let shared = &self.shared;
        let (key, token) = (claim_key(&shared.catalogue), token());
        let mut take = redis::cmd("SET");
        take.arg(&key)
            .arg(&token)
            .arg("NX")
            .arg("PX")
            .arg(TIME_TO_LIVE.as_millis() as u64);
        let mut rest = redis::cmd("PTTL");
        rest.arg(&key);
        let mut left = i64::MAX;
        while shared.link.query::<Option<String>>(&take).await?.is_none() {
            let now: i64 = shared.link.query(&rest).await?;
            // Who lives renews it; a key without an end is none of ours, and stays.
            if now > left || now == NO_END {
                return Ok(None);
            }
            left = now;
            tokio::time::sleep(LOOK_AT_HOLDER).await;
        }
        *shared.claim.lock() = Some(token.clone());
        let held = shared.hold(key, token.clone());
        Ok(Some(Claim::new(ClaimGuard {
            shared: Arc::clone(shared),
            token,
            _held: held,
        })))
    }

    async fn create(&self, _claim: &Claim) -> Result<GenerationId, StoreError> {
        let shared = &self.shared;
        let mut script = scripts::CREATE.prepare_invoke();
        script
            .key(&shared.catalogue)
            .key(claim_key(&shared.catalogue))
            .arg(shared.claimed())
            .arg(shared.highest.load(Ordering::Acquire))
            .arg(shared.clock.now().0)
            .arg(token())
            .arg(FORMAT)
            .arg(CODE);
        let reply = shared.call(&script).await?;
        match (reply.word.as_str(), reply.number()) {
            ("done", Some(number)) => {
                let number = u32::try_from(number).map_err(|_| reply.fault())?;
                shared.highest.fetch_max(number, Ordering::AcqRel);
                Ok(GenerationId(number))
            }
            _ => Err(reply.fault()),
        }
    }

    async fn drop_generation(&self, _claim: &Claim, id: GenerationId) -> Result<(), StoreError> {
        let shared = &self.shared;
        let mut script = scripts::DROP.prepare_invoke();
        script
            .key(&shared.catalogue)
            .key(claim_key(&shared.catalogue))
            .arg(shared.claimed())
            .arg(id.0);
        let reply = shared.call(&script).await?;
        if reply.word == "done" {
            Ok(())
        } else {
            Err(reply.fault())
        }
    }

    async fn fence(&self, _claim: &Claim) -> Result<Box<dyn Fence>, StoreError> {
        let fence = RedisFence::raise(Arc::clone(&self.shared)).await?;
        Ok(Box::new(fence))
    }

    async fn snapshot(
        &self,
        id: GenerationId,
        rows: &mut dyn RowSink,
    ) -> Result<Snapshot, StoreError> {
        let (snapshot, records) = snapshot::read(&self.shared, id).await?;
        records.hand_over(rows)?;
        Ok(snapshot)
    }

    async fn letters(&self, id: GenerationId) -> Result<Vec<ParkedLetter>, StoreError> {
        read_letters(&self.shared.link, &self.shared.keys(id)).await
    }
}
