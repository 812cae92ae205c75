//! Things on their way out: serialized once, written to many sockets.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::ports::Message;

/// A message and its JSON text, made once for all who get it.
#[derive(Debug)]
pub struct Frame {
    pub(crate) message: Message,
    body: Box<RawValue>,
}

impl Frame {
    /// Makes the text of a message.
    pub fn new(message: Message) -> Self {
        let body = body(&message);
        Self { message, body }
    }

    /// The message.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Its text.
    pub fn json(&self) -> &RawValue {
        &self.body
    }

    pub(crate) fn seq(&self) -> u64 {
        self.message.seq
    }
}

/// The JSON text of a value.
pub(crate) fn body<T: Serialize + ?Sized>(value: &T) -> Box<RawValue> {
    // Only maps with keys that are no strings, and types of ours that refuse, can fail: there are none here.
    serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// A socket did not take a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// The way out to one socket.
pub(crate) trait Outlet: Send + Sync {
    /// Queues an event for the socket. A closed socket swallows it.
    ///
    /// # Errors
    /// [`Full`] when the socket reads too slowly: nothing was queued.
    fn emit(&self, event: &'static str, body: &RawValue) -> Result<(), Full>;

    /// Whether the socket would take so many bytes now, or takes none at all because it is closed.
    fn has_room(&self, bytes: usize) -> bool;

    /// Whether the socket is closed: it leaves its rooms, or has left them.
    fn is_closed(&self) -> bool;

    /// Disconnects the socket: it did not get what it must get.
    fn end(&self);
}
