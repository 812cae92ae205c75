//! Rights over the generations, held with a beat, and the fence.
//!
//! A fence is a name in the catalogue that writers look for before each batch. A batch that had begun before it may still
//! land after it. That does no harm to the model: it goes into the generation that is being left, its records come before
//! the log's head of that moment, and the new generation reads their partitions from the offsets that were copied, so it
//! gets them too. At worst a reader for a moment does not see what it saw just before.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use socialhub_event_log::Position;
use socialhub_projections::{
    GenerationId, Source, StoreError,
    runtime::{Claim, Fence},
    verify::Entity,
};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio_util::sync::CancellationToken;

use crate::mongo::{
    catalogue::{BEAT_EVERY, Catalogue},
    generations::Shared,
};

/// How often it is looked whether the fenced generation has come to rest, at most.
const LOOKS: u32 = 100;
/// So many looks must have shown the same: a batch that had begun takes a while.
const SAME: u32 = 6;
/// How many things are mended between two looks whether the fence stands.
const AT_ONCE: usize = 500;

/// What is held.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// The right to change generations.
    Claim,
    /// Keeping everybody from writing the current generation.
    Fence,
}

impl Kind {
    pub(super) fn slot(self, catalogue: &mut Catalogue) -> &mut Option<String> {
        match self {
            Self::Claim => &mut catalogue.claim,
            Self::Fence => &mut catalogue.fence,
        }
    }
}

/// How long dropping a right waits until it is given back, at most.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(1);

/// A right that is held until this is dropped. It is given back before `drop` returns, where the runtime can do that: the
/// program may end right after, and the next one would have to look for seconds whether its holder is alive. If the process
/// dies, it falls by itself since its beat stops.
pub(super) struct Right {
    holder: String,
    given_back: CancellationToken,
    /// Nothing is ever sent: it closes when the right has been given back.
    kept: Mutex<mpsc::Receiver<()>>,
}

impl Right {
    /// Keeps a right alive that stands in the catalogue under this name.
    pub(super) fn keep(shared: &Arc<Shared>, kind: Kind, holder: String) -> Self {
        let (keeps, kept) = mpsc::channel();
        let right = Self {
            holder: holder.clone(),
            given_back: CancellationToken::new(),
            kept: Mutex::new(kept),
        };
        let (shared, given_back) = (Arc::clone(shared), right.given_back.clone());
        tokio::spawn(async move {
            // Goes with this task, however it ends.
            let _keeps: mpsc::Sender<()> = keeps;
            loop {
                tokio::select! {
                    () = given_back.cancelled() => break,
                    () = tokio::time::sleep(BEAT_EVERY) => {}
                }
                if let Err(error) = shared.catalogues.beat(&holder).await {
                    tracing::warn!(?error, "a right over the generations of a model may fall");
                }
            }
            give_back(&shared, kind, &holder).await;
        });
        right
    }
}

/// Refuses who holds the claim no more, though they believe so: they have been asleep, and another may be at work.
pub(super) fn require_claim(catalogue: &Catalogue, claim: &Claim) -> Result<(), StoreError> {
    let held = claim.guard::<Right>().map(|right| &right.holder);
    if held.is_some() && held == catalogue.claim.as_ref() {
        return Ok(());
    }
    Err(StoreError::Unusable(
        "the right to change generations has fallen, since its holder was not heard of for too long"
            .to_owned(),
    ))
}

impl Drop for Right {
    fn drop(&mut self) {
        self.given_back.cancel();
        let runtime = Handle::try_current().map(|handle| handle.runtime_flavor());
        // A runtime of one thread has nobody else to give it back.
        if runtime.is_ok_and(|flavour| flavour == RuntimeFlavor::MultiThread) {
            let kept = self.kept.get_mut();
            // Closed, or too late: then it falls by itself.
            let _ = tokio::task::block_in_place(|| kept.recv_timeout(GIVE_BACK_WITHIN));
        }
    }
}

async fn give_back(shared: &Shared, kind: Kind, holder: &str) {
    let changed = shared.catalogues.change(shared.now(), |catalogue| {
        let slot = kind.slot(catalogue);
        if slot.as_deref() != Some(holder) {
            return Err(fallen());
        }
        *slot = None;
        Ok(())
    });
    match changed.await {
        Ok(()) | Err(StoreError::Unusable(_)) => {}
        // It falls by itself.
        Err(error) => {
            tracing::warn!(%error, "a right over the generations of a model was not given back");
        }
    }
    if let Err(error) = shared.catalogues.forget(holder).await {
        tracing::debug!(?error, "the beat of a right stays until the next rebuild");
    }
}

fn fallen() -> StoreError {
    StoreError::Unusable(
        "the fence has fallen, since its holder was not heard of for too long".to_owned(),
    )
}

/// A fence around the current generation.
pub(super) struct MongoFence {
    shared: Arc<Shared>,
    right: Right,
    fenced: GenerationId,
    position: Position,
}

impl MongoFence {
    pub(super) async fn raise(shared: &Arc<Shared>, claim: &Claim) -> Result<Self, StoreError> {
        let holder = shared.catalogues.new_holder();
        let fenced = shared
            .catalogues
            .change(shared.now(), |catalogue| {
                require_claim(catalogue, claim)?;
                // Whoever raised one before has lost its claim to the caller.
                catalogue.fence = Some(holder.clone());
                Ok(GenerationId(catalogue.current))
            })
            .await?;
        let right = Right::keep(shared, Kind::Fence, holder);
        let position = at_rest(shared, fenced).await?;
        Ok(Self {
            shared: Arc::clone(shared),
            right,
            fenced,
            position,
        })
    }

    /// Each partition is read on from where the fenced generation was, but counts as handled no further than the other one
    /// was filled. A checkpoint that moves after it was copied costs nothing: what lies between is brought again, and is
    /// an idempotent repeat at worst.
    async fn copy_offsets(&self, to: GenerationId) -> Result<(), StoreError> {
        let target = self.shared.tables(to);
        let filled = target.checkpoints().await?;
        let log = Source::log();
        let Some(filled) = filled.iter().find(|checkpoint| checkpoint.source == log) else {
            // An empty generation: its partitions are read from their beginning.
            return Ok(());
        };
        let mut copied = self.shared.tables(self.fenced).checkpoints().await?;
        copied.retain(|checkpoint| checkpoint.next_offset.is_some());
        for checkpoint in &mut copied {
            if checkpoint.position > filled.position {
                checkpoint.position = filled.position;
                checkpoint.event_id = filled.event_id;
            }
        }
        let copied: Vec<_> = copied.iter().collect();
        let outdated = target.move_checkpoints(&copied).await?;
        Ok(target.remove_checkpoints(outdated).await?)
    }
}

/// Waits, not for ever, until the checkpoints do not move any more, and answers the highest.
async fn at_rest(shared: &Shared, id: GenerationId) -> Result<Position, StoreError> {
    let tables = shared.tables(id);
    let (mut before, mut same) = (Vec::new(), 0);
    for _ in 0..LOOKS {
        let found = tables.checkpoints().await?;
        same = if found == before { same + 1 } else { 0 };
        before = found;
        if same == SAME {
            break;
        }
        tokio::time::sleep(BEAT_EVERY / 20).await;
    }
    let positions = before.iter().map(|checkpoint| checkpoint.position);
    Ok(positions.max().unwrap_or(0))
}

#[async_trait]
impl Fence for MongoFence {
    /// The highest position of any source: what came from partitions counts as much as what came from the log.
    fn position(&self) -> Position {
        self.position
    }

    async fn switch(self: Box<Self>, to: GenerationId) -> Result<(), StoreError> {
        self.copy_offsets(to).await?;
        let now = self.shared.now();
        self.shared
            .catalogues
            .change(now, |catalogue| {
                if catalogue.fence.as_deref() != Some(&self.right.holder) {
                    return Err(fallen());
                }
                let Some(entry) = catalogue.entry_mut(to.0) else {
                    return Err(StoreError::Unusable(format!("there is no generation {to}")));
                };
                entry.served = true;
                entry.retired_at = None;
                catalogue.current = to.0;
                catalogue.fence = None;
                if let Some(left) = catalogue.entry_mut(self.fenced.0) {
                    left.retired_at = Some(now);
                }
                Ok(())
            })
            .await
    }

    /// Part by part. A batch that had begun before the fence may land among them: it brings facts that the other
    /// generation does not know, and a verification afterwards tells whether one of them was taken away.
    async fn mend(
        self: Box<Self>,
        from: GenerationId,
        entities: &[Entity],
    ) -> Result<(), StoreError> {
        let (mine, other) = (self.shared.tables(self.fenced), self.shared.tables(from));
        for part in entities.chunks(AT_ONCE) {
            let held = self.shared.catalogues.read(self.shared.now()).await?;
            if held.fence.as_deref() != Some(&self.right.holder) {
                return Err(fallen());
            }
            mine.mend(&other, part).await?;
        }
        Ok(())
    }
}
