//! Into how many partitions a topic is divided. With another number keys are in other partitions, and what a checkpoint of a
//! partition stands for is not known any more.

use socialhub_event_log::{Frontier, FrontierReader, LogError};
use tokio::sync::watch;

use crate::{
    runtime::generations::log_position,
    store::{Checkpoint, ModelName, StoreError},
};

/// Whether two numbers of partitions of a topic are known and not the same.
pub(crate) fn differs(before: Option<i32>, now: Option<i32>) -> bool {
    before.is_some() && now.is_some() && before != now
}

/// How many partitions a topic has, as the frontier said a moment ago. The relay says so before its first record: who has
/// not heard of it yet asks.
pub(crate) async fn of_topic(
    topic: &str,
    heard: &watch::Sender<Frontier>,
    reader: &dyn FrontierReader,
) -> Result<Option<i32>, LogError> {
    let known = heard.borrow().count(topic);
    if known.is_some() {
        return Ok(known);
    }
    Ok(reader.frontier().await?.count(topic))
}

/// Checks that the topics are divided into partitions as they were when the checkpoints were written. What a rebuild has
/// filled from the log since does not matter: that is so in any partition.
///
/// # Errors
/// [`StoreError::Unusable`], naming the command that helps.
pub(crate) fn check(
    model: ModelName,
    checkpoints: &[Checkpoint],
    frontier: &Frontier,
) -> Result<(), StoreError> {
    let filled = log_position(checkpoints);
    for checkpoint in checkpoints.iter().filter(|found| found.position > filled) {
        let topic = &checkpoint.source.name;
        require_same(model, topic, checkpoint.partitions, frontier.count(topic))?;
    }
    Ok(())
}

/// The same for one topic.
///
/// # Errors
/// [`StoreError::Unusable`], naming the command that helps.
pub(crate) fn require_same(
    model: ModelName,
    topic: &str,
    before: Option<i32>,
    now: Option<i32>,
) -> Result<(), StoreError> {
    if !differs(before, now) {
        return Ok(());
    }
    Err(StoreError::Unusable(format!(
        "{topic} had {} partitions when this was written and has {} now, so nobody knows which events are in it: run \
         `socialhub replay rebuild {model}`",
        before.unwrap_or_default(),
        now.unwrap_or_default()
    )))
}
