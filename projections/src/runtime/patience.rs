//! How often, and for how long, a store without transactions is looked at before what differs counts.
//!
//! Of a batch that is being written a look sees one half. That batch is whole once its source's checkpoint has come to it,
//! and it came from the log as it was at the first look. So what still differs when everything from then has been handled
//! is no half batch of that look; nor one of a later look, unless its event is beyond the checkpoints.

use std::{sync::Arc, time::Duration};

use socialhub_domain::topic::Topic;
use socialhub_event_log::{EventLog, FrontierReader, LogError, Position};
use tokio::time::Instant;

use crate::{
    status::reached,
    store::{Checkpoint, Source, source_position},
};

/// How long a writer may take to come on: a killed projector's partitions are dealt out anew after its session.
const SECOND_LOOKS: Duration = Duration::from_secs(12);
/// At least so many looks there are, however soon everything has been handled.
const LOOKS: u32 = 3;
/// However others come on: a batch that is half written for so long stays so.
const LONGEST: Duration = Duration::from_mins(2);

/// What the looks have shown so far.
pub(super) struct Patience<'a> {
    log: &'a Arc<dyn EventLog>,
    frontier: Option<&'a Arc<dyn FrontierReader>>,
    /// Those that the model is written from.
    topics: &'static [Topic],
    looks: u32,
    /// How far the log went after the first look.
    head: Option<Position>,
    /// How far the store was at the last look, and until when it may stay there.
    checkpoints: Vec<Checkpoint>,
    stands_still: bool,
    until: Option<Instant>,
    latest: Option<Instant>,
}

impl<'a> Patience<'a> {
    /// Of a store that is written from this log; by partitions of these topics, where there is a frontier.
    pub(super) fn with(
        log: &'a Arc<dyn EventLog>,
        frontier: Option<&'a Arc<dyn FrontierReader>>,
        topics: &'static [Topic],
    ) -> Self {
        Self {
            log,
            frontier,
            topics,
            looks: 0,
            head: None,
            checkpoints: Vec::new(),
            stands_still: false,
            until: None,
            latest: None,
        }
    }

    /// Whether there was time enough for whoever writes, after a look that found the store at these checkpoints.
    /// `is_pending` says that some of what differs belongs to an event beyond them.
    ///
    /// # Errors
    /// When nobody says how far log and relay are.
    pub(super) async fn is_over_after(
        &mut self,
        checkpoints: Vec<Checkpoint>,
        is_pending: bool,
    ) -> Result<bool, LogError> {
        self.looks += 1;
        let is_settled = self.has_handled_all(&checkpoints).await? && !is_pending;
        let now = Instant::now();
        self.stands_still = self.looks > 1 && self.checkpoints == checkpoints;
        if !self.stands_still {
            self.until = Some(now + SECOND_LOOKS);
        }
        self.checkpoints = checkpoints;
        let latest = *self.latest.get_or_insert(now + LONGEST);
        let is_late = now >= latest || self.until.is_some_and(|until| now >= until);
        Ok(self.looks >= LOOKS && (is_settled || is_late))
    }

    /// Whether the last look found the store where the one before did.
    pub(super) fn stands_still(&self) -> bool {
        self.stands_still
    }

    /// Notes how far the log goes after a first look that counts as none, because it only said where something differs.
    ///
    /// # Errors
    /// When nobody says how far the log is.
    pub(super) async fn begin(&mut self) -> Result<(), LogError> {
        self.first_head().await.map(drop)
    }

    async fn first_head(&mut self) -> Result<Position, LogError> {
        match self.head {
            Some(head) => Ok(head),
            None => Ok(*self.head.insert(self.log.head().await?)),
        }
    }

    /// Whether everything was handled that was in the log after the first look.
    async fn has_handled_all(&mut self, checkpoints: &[Checkpoint]) -> Result<bool, LogError> {
        let head = self.first_head().await?;
        let Some(frontier) = self.frontier else {
            return Ok(source_position(checkpoints, &Source::log()) >= head);
        };
        let frontier = frontier.frontier().await?;
        Ok(reached(checkpoints, self.topics, &frontier) >= head)
    }
}
