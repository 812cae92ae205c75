//! Where in the log something was last written: how a query tells what is missing from what is not there yet.

use socialhub_domain::StreamId;
use socialhub_event_log::Position;

use crate::{CommandError, Commands};

impl Commands {
    /// The position of a stream's last event; none when nothing was ever written to it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn last_written(&self, stream: &StreamId) -> Result<Option<Position>, CommandError> {
        let events = self
            .ports
            .log
            .read_stream(stream)
            .await
            .map_err(CommandError::from)?;
        Ok(events.last().map(|event| event.position))
    }
}
