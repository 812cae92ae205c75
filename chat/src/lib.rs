//! The chat service: rooms, durable messages, history and presence over Socket.IO 4 (websocket and polling), and the
//! history over REST.
//!
//! One ordered pipeline carries everything: a socket's handler checks an event and queues it; [`pipeline`] takes what
//! waits, commits all the messages in one append of the [`ChatLog`], hands each to its room strictly in `seq` order
//! ([`room`]), and only then acknowledges. Several instances share the log; hints of each other ([`inbox`]) spare them
//! reading it. The ports are in [`ports`]; this crate knows neither the write side nor any driver. [`Chat::start`] wires
//! it all.

mod ack;
mod admission;
pub mod archive;
mod frame;
mod inbox;
mod limits;
mod memory;
mod outbox;
mod payload;
mod people;
mod pipeline;
pub mod ports;
mod problem;
mod rest;
mod room;
mod room_id;
mod service;
mod session;
#[cfg(test)]
mod tests;
mod told;
mod transport;

pub use archive::{ChatArchive, ChatArchiveError, Known, Meeting, MessageName};
pub use frame::Frame;
pub use inbox::Inbox;
pub use limits::ChatLimits;
pub use memory::MemoryChatLog;
pub use ports::{
    Appended, ChatBus, ChatLog, ChatLogError, ChatUser, Direction, History, HistoryQuery, Message,
    NewMessage, NoBus, NoPresence, PresenceError, PresenceStore, RoomPeople, Sign, TokenCheck,
};
pub use room_id::{InvalidRoomId, RoomId};
pub use service::{Chat, ChatDeps};
