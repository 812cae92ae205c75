//! The chat log in memory, for tests and examples.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use parking_lot::Mutex;
use socialhub_domain::{UserId, personal::ERASED_TEXT};

use crate::{
    ports::{
        Appended, ChatLog, ChatLogError, Direction, History, HistoryQuery, Message, NewMessage,
    },
    room_id::RoomId,
};

#[derive(Debug, Default)]
struct RoomLog {
    messages: Vec<Message>,
    by_client_id: HashMap<(UserId, String), usize>,
}

/// A chat log that forgets everything when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryChatLog {
    rooms: Mutex<HashMap<RoomId, RoomLog>>,
    erased: Mutex<HashSet<UserId>>,
}

impl RoomLog {
    fn append(&mut self, mut new: NewMessage) -> Appended {
        let index = self.messages.len();
        if let Some(client_id) = new.client_id.take() {
            let key = (new.user.id, client_id);
            if let Some(&earlier) = self.by_client_id.get(&key) {
                let message = self.messages[earlier].clone();
                return Appended {
                    message,
                    duplicate: true,
                };
            }
            self.by_client_id.insert(key, index);
        }
        let message = Message::placed(new, index as u64 + 1);
        self.messages.push(message.clone());
        Appended {
            message,
            duplicate: false,
        }
    }

    fn read(&self, query: HistoryQuery) -> History {
        let fits =
            |m: &&Message| m.seq > query.after && query.before.is_none_or(|before| m.seq < before);
        let mut messages: Vec<Message> = self.messages.iter().filter(fits).cloned().collect();
        match query.direction {
            Direction::Oldest => messages.truncate(query.limit),
            Direction::Newest => {
                messages.drain(..messages.len().saturating_sub(query.limit));
            }
        }
        History {
            messages,
            last_seq: self.messages.len() as u64,
        }
    }
}

#[async_trait]
impl ChatLog for MemoryChatLog {
    async fn append(&self, batch: Vec<NewMessage>) -> Result<Vec<Appended>, ChatLogError> {
        let mut rooms = self.rooms.lock();
        let erased = self.erased.lock();
        let place = |mut new: NewMessage| {
            if erased.contains(&new.user.id) {
                new.user.username = ERASED_TEXT.into();
                ERASED_TEXT.clone_into(&mut new.text);
                new.client_id = None;
            }
            rooms.entry(new.room.clone()).or_default().append(new)
        };
        Ok(batch.into_iter().map(place).collect())
    }

    async fn read(&self, room: &RoomId, query: HistoryQuery) -> Result<History, ChatLogError> {
        let rooms = self.rooms.lock();
        Ok(rooms
            .get(room)
            .map_or_else(History::default, |log| log.read(query)))
    }

    async fn erase(&self, user: UserId) -> Result<(), ChatLogError> {
        let mut rooms = self.rooms.lock();
        self.erased.lock().insert(user);
        for room in rooms.values_mut() {
            room.by_client_id.retain(|(sender, _), _| *sender != user);
            let theirs = room.messages.iter_mut().filter(|m| m.user_id == user);
            for message in theirs {
                message.username = ERASED_TEXT.into();
                ERASED_TEXT.clone_into(&mut message.message);
            }
        }
        Ok(())
    }

    async fn last_seqs(&self, rooms: &[RoomId]) -> Result<Vec<u64>, ChatLogError> {
        let logs = self.rooms.lock();
        let last = |room| logs.get(room).map_or(0, |log| log.messages.len() as u64);
        Ok(rooms.iter().map(last).collect())
    }
}
