//! The fence: a key that every writer's script looks at.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use socialhub_event_log::Position;
use socialhub_projections::{GenerationId, Source, StoreError, runtime::Fence, verify::Entity};
use tokio::time::Instant;

use super::{claim_key, fence_key, generations::Shared, held::Held, scripts, source_field, token};
use crate::redis::renewal::TIME_TO_LIVE;

/// How long another's fence is waited for: at least until one whose holder was killed has run out.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How many entries one script copies: Redis does nothing else while it runs.
const MENDED_AT_ONCE: usize = 500;

/// Nobody writes the generation that was current when it was raised. Renewed until it is dropped.
pub(super) struct RedisFence {
    shared: Arc<Shared>,
    token: String,
    position: Position,
    _held: Held,
}

impl RedisFence {
    pub(super) async fn raise(shared: Arc<Shared>) -> Result<Self, StoreError> {
        let (key, token) = (fence_key(&shared.catalogue), token());
        let mut script = scripts::FENCE.prepare_invoke();
        script
            .key(&shared.catalogue)
            .key(&key)
            .key(claim_key(&shared.catalogue))
            .arg(shared.claimed())
            .arg(&token)
            .arg(TIME_TO_LIVE.as_millis() as u64);
        let deadline = Instant::now() + PATIENCE;
        let reply = loop {
            let reply = shared.call(&script).await?;
            if reply.word != "fenced" || Instant::now() > deadline {
                break reply;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        let [position, fenced] = reply.numbers().ok_or_else(|| reply.fault())?;
        let held = shared.hold(key, format!("{token} {fenced}"));
        Ok(Self {
            shared,
            token,
            position,
            _held: held,
        })
    }
}

#[async_trait]
impl Fence for RedisFence {
    fn position(&self) -> Position {
        self.position
    }

    async fn switch(self: Box<Self>, to: GenerationId) -> Result<(), StoreError> {
        let mut script = scripts::SWITCH.prepare_invoke();
        script
            .key(&self.shared.catalogue)
            .key(fence_key(&self.shared.catalogue))
            .arg(&self.token)
            .arg(to.0)
            .arg(token())
            .arg(source_field(&Source::log()));
        let reply = self.shared.call(&script).await?;
        if reply.word != "done" {
            return Err(reply.fault());
        }
        Ok(())
    }

    async fn mend(
        self: Box<Self>,
        from: GenerationId,
        entities: &[Entity],
    ) -> Result<(), StoreError> {
        for part in entities.chunks(MENDED_AT_ONCE) {
            let mut script = scripts::MEND.prepare_invoke();
            script
                .key(&self.shared.catalogue)
                .key(fence_key(&self.shared.catalogue))
                .arg(&self.token)
                .arg(from.0);
            for entity in part {
                if let Some(id) = entity.id() {
                    script.arg(entity.table).arg(id.as_bytes());
                }
            }
            let reply = self.shared.call(&script).await?;
            if reply.word != "done" {
                return Err(reply.fault());
            }
        }
        Ok(())
    }
}

/// Keeps everybody from writing a generation while it is read; none when that cannot be now.
pub(super) async fn pause(shared: &Shared, id: GenerationId) -> Result<Option<Held>, StoreError> {
    let (key, token) = (fence_key(&shared.catalogue), token());
    let mut script = scripts::PAUSE.prepare_invoke();
    script
        .key(&shared.catalogue)
        .key(&key)
        .arg(id.0)
        .arg(&token)
        .arg(TIME_TO_LIVE.as_millis() as u64);
    let reply = shared.call(&script).await?;
    Ok((reply.word == "done").then(|| shared.hold(key, format!("{token} {id}"))))
}
