//! What the live projectors have in common, however their model is fed: how one starts and ends, and what becomes of it
//! when it lets go of a generation.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use socialhub_domain::{Clock, Timestamp};
use socialhub_event_log::{EventLog, Position, behind_since};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    projection::Projection,
    runtime::{generations::Generations, tail::Backoff},
    status::{ModelPosition, ProjectionStatus, ProjectorState},
    store::{GenerationId, StoreError},
};

/// How often the gauges are published while nothing moves.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// A projector that runs.
pub struct ProjectorTask {
    /// How it fares, and waiting for it.
    pub status: Arc<ProjectionStatus>,
    /// Ends after `stop` was cancelled and the batch in hand was written.
    pub task: JoinHandle<()>,
}

impl ProjectorTask {
    /// Where the model is, as the queries want it.
    pub fn position(&self) -> Arc<dyn ModelPosition> {
        Arc::clone(&self.status) as Arc<dyn ModelPosition>
    }
}

/// Why a generation is no longer written.
pub(super) enum End {
    /// The program stops.
    Stop,
    /// Another generation is current.
    Moved,
    /// The store does not answer: open it anew after a pause.
    Retry(String),
    /// Only a person, or a rebuild, can help.
    Refuse(String),
}

/// Starts a projector, which runs until `stop` is cancelled, and publishes how it fares meanwhile.
pub(super) fn spawn(
    status: Arc<ProjectionStatus>,
    clock: Arc<dyn Clock>,
    head: watch::Receiver<Position>,
    stop: CancellationToken,
    run: impl Future<Output = ()> + Send + 'static,
) -> ProjectorTask {
    let publisher = publish(Arc::clone(&status), clock, head);
    let dead = DeadUnlessStopped(Arc::clone(&status));
    let task = tokio::spawn(async move {
        let dead = dead;
        tokio::select! {
            () = run => {}
            // The publisher never ends by itself.
            () = publisher => {}
        }
        dead.ended(stop.is_cancelled());
    });
    ProjectorTask { status, task }
}

/// Publishes the gauges each second and notices new work, so that a projector that hangs is known to be stuck.
async fn publish(
    status: Arc<ProjectionStatus>,
    clock: Arc<dyn Clock>,
    mut head: watch::Receiver<Position>,
) {
    let mut ticks = tokio::time::interval(PUBLISH_EVERY);
    let mut told = true;
    loop {
        tokio::select! {
            _ = ticks.tick() => status.publish(&*clock),
            changed = head.changed(), if told => told = changed.is_ok(),
        }
        status.observe_head();
    }
}

/// Says that the projector is dead when its task ends by a panic.
struct DeadUnlessStopped(Arc<ProjectionStatus>);

impl DeadUnlessStopped {
    fn ended(&self, stopped: bool) {
        if stopped {
            self.0.enter(ProjectorState::Stopped, None);
        }
    }
}

impl Drop for DeadUnlessStopped {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.enter(
                ProjectorState::Dead,
                Some("the projector panicked".to_owned()),
            );
        }
    }
}

/// When the first event after a position happened, as [`behind_since`] says; none, too, when the log does not answer: that is
/// for others to tell of.
pub(super) async fn first_waiting(
    log: &Arc<dyn EventLog>,
    position: Position,
) -> Option<Timestamp> {
    behind_since(&**log, position).await.ok().flatten()
}

/// What a failing store means: it may be that the pointer has moved and this store is lost.
pub(super) async fn store_failed<P: Projection>(
    generations: &dyn Generations<P>,
    id: GenerationId,
    error: StoreError,
) -> End {
    match generations.refresh().await {
        Ok(current) if current != id => return End::Moved,
        Ok(_) => {}
        Err(error) => return End::Retry(error.to_string()),
    }
    match error {
        StoreError::Unavailable(_) | StoreError::Moved => End::Retry(error.to_string()),
        StoreError::Rejected { .. } | StoreError::Unusable(_) => End::Refuse(error.to_string()),
    }
}

/// Who has refused to go on tries again after so long. That what it refused is whole again may be said by nobody.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// After the end of one generation: waits until it is time to open one again. Breaks when the program stops.
pub(super) async fn until_next<P: Projection>(
    end: End,
    status: &ProjectionStatus,
    current: &mut watch::Receiver<GenerationId>,
    backoff: &mut Backoff,
    stop: &CancellationToken,
) -> ControlFlow<()> {
    match end {
        End::Stop => ControlFlow::Break(()),
        End::Moved => ControlFlow::Continue(()),
        End::Retry(error) => {
            tracing::warn!(model = %P::NAME, error, "the projector tries again");
            status.failing(error);
            tokio::select! {
                () = stop.cancelled() => ControlFlow::Break(()),
                () = backoff.wait() => ControlFlow::Continue(()),
            }
        }
        End::Refuse(error) => {
            tracing::error!(model = %P::NAME, error, "the projector refuses to go on");
            status.enter(ProjectorState::Dead, Some(error));
            tokio::select! {
                () = stop.cancelled() => ControlFlow::Break(()),
                // An error means that the generations are gone: there is nothing left to wait for.
                moved = current.changed() => match moved {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                },
                // The pointer may have moved and come back, or a store was made anew: nothing that would be heard of.
                () = tokio::time::sleep(TRY_AGAIN) => ControlFlow::Continue(()),
            }
        }
    }
}
