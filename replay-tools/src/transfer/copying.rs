//! A copy under way, and the mark in its target that says so.

use socialhub_event_log::{LogArchive, Over, Position, UnfinishedCopy};

use super::{
    TransferError,
    part::{Part, PartError, Written},
};

/// A copy into a target. As soon as anything of it may be there, the target's log is marked as half of it, so that a kill
/// at any moment leaves the mark behind.
pub(super) struct Copying<'a> {
    log: &'a dyn LogArchive,
    over: Over,
    /// Whether it was marked because of what lies elsewhere, before that was written.
    marked: bool,
    /// Whether something may be there that was not.
    changed: bool,
}

impl<'a> Copying<'a> {
    /// A copy of a log that ends at `last`.
    pub(super) async fn begin(
        log: &'a dyn LogArchive,
        copy: UnfinishedCopy,
        last: Position,
    ) -> Result<Self, TransferError> {
        let found = log.unfinished_copy().await.map_err(TransferError::of_log)?;
        log.begin_copy(copy).await.map_err(TransferError::of_log)?;
        let head = log.head().await.map_err(TransferError::of_log)?;
        // One that was interrupted was compared before it began: it may have brought all events, and goes on as it began.
        let older = found.is_some() || (1..last).contains(&head);
        Ok(Self {
            log,
            over: if older { Over::Older } else { Over::Same },
            marked: false,
            changed: found.is_some(),
        })
    }

    /// Answers whether the lines after these are to be compared, too.
    pub(super) async fn compare(&self, part: &dyn Part, text: &[u8]) -> Result<bool, PartError> {
        part.compare(text, self.over).await
    }

    pub(super) async fn write(
        &mut self,
        part: &dyn Part,
        text: &[u8],
    ) -> Result<Written, PartError> {
        if !part.lies_with_the_log() && !self.marked && !self.changed {
            self.log.mark_copy().await?;
            self.marked = true;
        }
        let written = part.write(text, self.over).await;
        self.changed |= match &written {
            Ok(written) => written.new > 0,
            Err(PartError::Foreign(_)) => false,
            Err(_) => true,
        };
        written
    }

    /// Takes the mark away when all is there, or when nothing was brought. Answers the outcome.
    pub(super) async fn end<T>(
        self,
        outcome: Result<T, TransferError>,
    ) -> Result<T, TransferError> {
        if outcome.is_err() && (self.changed || !self.marked) {
            return outcome;
        }
        let cleared = self.log.end_copy().await;
        outcome.and_then(|done| cleared.map(|()| done).map_err(TransferError::of_log))
    }
}
