//! Which events a generation has handled, when some came from the log and some by partitions.

use std::sync::Arc;

use socialhub_event_log::{Frontier, FrontierReader, Position};

use crate::{
    record::SequenceKey,
    runtime::{division, generations::log_position},
    store::{Checkpoint, ModelName, Source, StoreError},
};

/// What the checkpoints of a generation say, event by event.
#[derive(Debug, Default)]
pub(crate) struct Handled {
    log: Position,
    partitions: Vec<(Source, Position)>,
    frontier: Frontier,
}

impl Handled {
    /// Reads the checkpoints of a generation of `model`; which events belong to which partition, the frontier says.
    pub(crate) async fn by(
        model: ModelName,
        checkpoints: &[Checkpoint],
        frontier: Option<&Arc<dyn FrontierReader>>,
    ) -> Result<Self, StoreError> {
        let log = log_position(checkpoints);
        let partitions: Vec<(Source, Position)> = checkpoints
            .iter()
            .filter(|found| found.source != Source::log() && found.position > log)
            .map(|found| (found.source.clone(), found.position))
            .collect();
        if partitions.is_empty() {
            return Ok(Self {
                log,
                ..Self::default()
            });
        }
        let Some(reader) = frontier else {
            return Err(StoreError::Unusable(
                "it was written by partitions, and without the relay's frontier nobody knows which events are in which"
                    .to_owned(),
            ));
        };
        let frontier = reader
            .frontier()
            .await
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let unknown = partitions
            .iter()
            .find(|(source, _)| !frontier.partitions.contains_key(&source.name));
        if let Some((source, _)) = unknown {
            return Err(StoreError::Unusable(format!(
                "it was written from {source}, of which the relay knows nothing"
            )));
        }
        division::check(model, checkpoints, &frontier)?;
        Ok(Self {
            log,
            partitions,
            frontier,
        })
    }

    /// Up to which position the events of a sequence have been handled.
    pub(crate) fn upto(&self, sequence: &SequenceKey) -> Position {
        if self.partitions.is_empty() {
            return self.log;
        }
        let partition = self.frontier.partition_of(&sequence.topic, &sequence.key);
        self.partitions
            .iter()
            .find(|(source, _)| {
                source.name == sequence.topic && Some(source.partition) == partition
            })
            .map_or(self.log, |(_, position)| *position)
    }

    /// The position up to which every event was handled.
    pub(crate) fn least(&self) -> Position {
        self.log
    }

    /// The last position that any event was handled at.
    pub(crate) fn last(&self) -> Position {
        let partitions = self.partitions.iter().map(|(_, position)| *position);
        partitions.max().unwrap_or(0).max(self.log)
    }
}
