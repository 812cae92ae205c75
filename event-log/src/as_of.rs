//! The log as it was: a reader's view that ends at a position.

use std::sync::Arc;

use async_trait::async_trait;
use socialhub_domain::StreamId;
use tokio::sync::watch;

use crate::{
    event::{Position, RecordedEvent},
    port::{Append, AppendError, Appended, EventLog, LogError},
};

/// Another log up to a position. Nothing can be appended.
pub struct LogAsOf {
    log: Arc<dyn EventLog>,
    head: watch::Sender<Position>,
}

impl LogAsOf {
    /// The log up to a position, which it must have reached.
    pub fn new(log: Arc<dyn EventLog>, position: Position) -> Self {
        Self {
            log,
            head: watch::Sender::new(position),
        }
    }

    fn end(&self) -> Position {
        *self.head.borrow()
    }

    fn cut(&self, mut events: Vec<RecordedEvent>) -> Vec<RecordedEvent> {
        let end = self.end();
        events.retain(|event| event.position <= end);
        events
    }
}

#[async_trait]
impl EventLog for LogAsOf {
    async fn append(&self, _: Append) -> Result<Appended, AppendError> {
        Err(AppendError::Unavailable(format!(
            "this is the log as of position {}",
            self.end()
        )))
    }

    async fn read_stream(&self, stream: &StreamId) -> Result<Vec<RecordedEvent>, LogError> {
        Ok(self.cut(self.log.read_stream(stream).await?))
    }

    async fn read_streams(
        &self,
        streams: &[StreamId],
    ) -> Result<Vec<Vec<RecordedEvent>>, LogError> {
        let streams = self.log.read_streams(streams).await?;
        Ok(streams.into_iter().map(|events| self.cut(events)).collect())
    }

    async fn read_all(
        &self,
        after: Position,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, LogError> {
        Ok(self.cut(self.log.read_all(after, limit).await?))
    }

    async fn head(&self) -> Result<Position, LogError> {
        Ok(self.end())
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }
}
