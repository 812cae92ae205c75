//! Wiring a SQLite read model in one call: into the server ([`open_model`]) and under the replay command line
//! ([`replay_model`]).
//!
//! ```no_run
//! # use std::{path::Path, sync::Arc};
//! # use socialhub_domain::Clock;
//! # use socialhub_event_log::EventLog;
//! # use socialhub_infra::sqlite::{connection::SqliteError, model::SqliteModel, wiring::open_model};
//! # use socialhub_projections::{reactor::Reactor, runtime::LogTail};
//! # use tokio_util::sync::CancellationToken;
//! # async fn serve<Model: SqliteModel>(
//! #     folder: &Path, log: Arc<dyn EventLog>, clock: Arc<dyn Clock>, reactor: Arc<dyn Reactor>, stop: CancellationToken,
//! # ) -> Result<(), SqliteError> {
//! // Once a process: the tail outlives the projectors, so it gets a token of its own.
//! let tail = LogTail::start(log, CancellationToken::new());
//! // Once a model.
//! let model = open_model::<Model>(folder, 2, clock, &tail)?;
//! let readers = model.readers.clone();
//! let position = model.position();
//! let running = model.projector.with_reactor(reactor).spawn(stop);
//! // At the end: cancel `stop`, then wait for the batch in hand.
//! let _ = running.task.await;
//! # let _ = (readers, position);
//! # Ok(())
//! # }
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use socialhub_domain::Clock;
use socialhub_event_log::{Erasable, NotErased, PendingErasure};
use socialhub_projections::{
    ModelPosition,
    runtime::{Control, Generations, LogTail, ModelControl, Projector},
};

use crate::sqlite::{
    connection::{SqliteError, checkpoint, open_reader},
    generations::{CurrentReaders, SqliteGenerations},
    model::SqliteModel,
};

/// A read model of the server: its readers, and its projector, not yet started.
pub struct OpenModel<M: SqliteModel> {
    /// Readers of the current generation.
    pub readers: CurrentReaders,
    /// Add reactors with `with_reactor`, then `spawn` it.
    pub projector: Projector<M::Projection>,
}

impl<M: SqliteModel> OpenModel<M> {
    /// Where the model is, and waiting for it; works before the projector is started, too.
    pub fn position(&self) -> Arc<dyn ModelPosition> {
        self.projector.status()
    }
}

/// Opens a model's generations in a folder such as `data/read-models` for the server: readers on `threads` threads and
/// the projector. Makes folder and files when they are not there.
///
/// # Errors
/// What the file system or SQLite says.
pub fn open_model<M: SqliteModel>(
    folder: &Path,
    threads: usize,
    clock: Arc<dyn Clock>,
    tail: &Arc<LogTail>,
) -> Result<OpenModel<M>, SqliteError> {
    let generations = SqliteGenerations::<M>::open(folder, Arc::clone(&clock))?;
    let readers = generations.readers(threads)?;
    // Requests may come before the projector has opened its store: to them the model is where its file is.
    // One that cannot be read is refused by the projector, and a rebuild replaces it while the server runs.
    let position = generations.position().unwrap_or(0);
    let generations: Arc<dyn Generations<M::Projection>> = generations;
    Ok(OpenModel {
        readers,
        projector: Projector::new(generations, Arc::clone(tail), clock).resuming_at(position),
    })
}

/// Opens a model's generations in a folder such as `data/read-models` for the replay command line.
///
/// # Errors
/// What the file system or SQLite says.
pub fn replay_model<M: SqliteModel>(
    folder: &Path,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn ModelControl>, SqliteError> {
    let generations = SqliteGenerations::<M>::open(folder, Arc::clone(&clock))?;
    Ok(Arc::new(Control::<M::Projection, M::Fold>::new(
        generations,
        clock,
    )))
}

/// What was overwritten in the read models still stands in their write-ahead logs: brings those into the files, which
/// overwrites it there, and empties them. To be asked after the models themselves.
#[derive(Debug)]
pub struct WalErasure {
    folder: PathBuf,
}

impl WalErasure {
    /// For all files in a folder such as `data/read-models`.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }
}

/// Empties the write-ahead log of every database in a folder.
fn empty_all(folder: &Path) -> Result<(), SqliteError> {
    for entry in fs::read_dir(folder).map_err(SqliteError::Thread)? {
        let path = entry.map_err(SqliteError::Thread)?.path();
        if path.extension().is_some_and(|extension| extension == "db") {
            checkpoint(&open_reader(&path)?)?;
        }
    }
    Ok(())
}

#[async_trait]
impl Erasable for WalErasure {
    fn name(&self) -> &'static str {
        "write-ahead logs"
    }

    async fn erase(&self, _erasure: &PendingErasure) -> Result<(), NotErased> {
        let folder = self.folder.clone();
        let emptied = tokio::task::spawn_blocking(move || empty_all(&folder)).await;
        let emptied = emptied.map_err(|_| NotErased("it broke off".to_owned()))?;
        emptied.map_err(|error| NotErased(error.to_string()))
    }
}
