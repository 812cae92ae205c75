//! Those who leave a room that has a hole.
//!
//! Who leaves still gets what they sent before. When another instance's message lies before it that has not been heard of
//! yet, the room's hole is first read from the log. That is done beside the pipeline, for all other rooms go on meanwhile;
//! until it comes back the socket stays a member. In between there may come:
//!
//! - **messages, signs and people of the room**: the one who leaves gets them like everybody. They have not been told yet
//!   that they are out.
//! - **the history of a join before the leaving**: it goes out, and the join is answered first, in the order they asked.
//! - **what closes the hole**, a hint or the read for all: what the read then brings is past, and forgotten.
//! - **a join of the same socket**: the leaving ends first, without the rest, or the read that comes back would take out
//!   somebody who came anew. What they sent is in the history that they get, for that is read later than it was stored.
//! - **another leaving after that join**: it has a read of its own. What comes back for the earlier stay is known by its
//!   ticket, and closes the hole but ends nothing.
//! - **the end of the socket**: they are out at once, and nobody waits for an answer.
//! - **the end of the service**: whoever leaves is out before it is said that all is done.
//!
//! Messages and signs that the socket sends to the room after it left are refused before they come here.

use std::collections::HashMap;

use socketioxide::socket::Sid;

use super::{PAGE, Pipeline, Purpose, Staying};
use crate::{ack::Reply, ports::ChatLogError, room_id::RoomId, told::Told};

/// Who waits to be out, by room and socket: the ticket of the stay, and how to say so.
pub(super) type Leaving = HashMap<(RoomId, Sid), (u64, Reply)>;

impl Pipeline {
    /// Takes a socket out of a room, when the room has no hole, or else when it has been read.
    pub(super) fn begin_to_leave(&mut self, room: RoomId, socket: Sid, reply: Reply) {
        // Of one that leaves twice the earlier is answered, too.
        self.end_leaving(&room, socket);
        match (self.ticket(&room, socket), self.hole(&room)) {
            (Some(ticket), Some(after)) => {
                self.leaving.insert((room.clone(), socket), (ticket, reply));
                let stay = Staying {
                    room,
                    socket,
                    ticket,
                };
                self.read(stay, Purpose::Farewell { after }, None);
            }
            _ => self.finish_leaving(&room, socket, reply),
        }
    }

    /// Ends a leaving that waits, if there is one, whatever is still to be read.
    pub(super) fn end_leaving(&mut self, room: &RoomId, socket: Sid) {
        if self.leaving.is_empty() {
            return;
        }
        if let Some((_, reply)) = self.leaving.remove(&(room.clone(), socket)) {
            self.finish_leaving(room, socket, reply);
        }
    }

    pub(super) fn end_all_leaving(&mut self) {
        for ((room, socket), (_, reply)) in std::mem::take(&mut self.leaving) {
            self.finish_leaving(&room, socket, reply);
        }
    }

    /// What follows a room's cursor was read for one who leaves.
    pub(super) fn filled_for_leaving(
        &mut self,
        stay: Staying,
        outcome: Result<Told, ChatLogError>,
    ) {
        let more = match outcome {
            Ok(told) => {
                for frame in &told.frames {
                    self.deliver(frame);
                }
                told.frames.len() == PAGE
            }
            Err(error) => {
                tracing::warn!(%error, "somebody left a room with a hole that could not be read");
                false
            }
        };
        let key = (stay.room.clone(), stay.socket);
        let waits = self.leaving.get(&key);
        if waits.is_none_or(|(ticket, _)| *ticket != stay.ticket) {
            return;
        }
        match self.hole(&stay.room).filter(|_| more) {
            Some(after) => self.read(stay, Purpose::Farewell { after }, None),
            None => self.end_leaving(&stay.room, stay.socket),
        }
    }

    fn finish_leaving(&mut self, room: &RoomId, socket: Sid, reply: Reply) {
        self.leave(room, socket);
        self.reply_when_shared(room, reply);
    }

    fn ticket(&self, room: &RoomId, socket: Sid) -> Option<u64> {
        self.rooms.get(room)?.ticket(socket)
    }

    /// After which `seq` a room has a hole.
    fn hole(&self, room: &RoomId) -> Option<u64> {
        let room = self.rooms.get(room)?;
        room.cursor().filter(|_| room.has_hole())
    }
}
