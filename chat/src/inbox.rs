//! What the other instances say, on its way to the pipeline.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use parking_lot::RwLock;
use tokio::sync::{Notify, mpsc};

use crate::{
    frame::Frame,
    ports::{ChatUser, Message, Sign},
    room_id::RoomId,
};

/// What the others said that may wait. More than this is dropped: the log makes up for it.
const QUEUE: usize = 1_024;

/// Whether the other instances can be heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// There are none.
    Alone,
    /// They can.
    Up,
    /// They cannot: only the log says what they do.
    Down,
}

/// Something another instance said.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The room's log reaches this `seq`; the last of its messages, as far as they came along.
    Hint {
        room: RoomId,
        seq: u64,
        frames: Vec<Arc<Frame>>,
    },
    /// A sign of somebody there.
    Sign {
        room: RoomId,
        sign: Sign,
        user: ChatUser,
    },
    /// Who is in the room there has changed.
    Presence(RoomId),
}

/// What must not get lost, however full the queue is.
#[derive(Debug)]
pub(crate) struct Standing {
    link: AtomicU8,
    missed: AtomicBool,
    stale: AtomicBool,
    changed: Notify,
    /// The rooms that have members here.
    rooms: RwLock<HashSet<RoomId>>,
}

impl Standing {
    pub(crate) fn link(&self) -> Link {
        match self.link.load(Ordering::SeqCst) {
            0 => Link::Alone,
            1 => Link::Up,
            _ => Link::Down,
        }
    }

    /// Whether hints were lost since this was last asked.
    pub(crate) fn take_missed(&self) -> bool {
        self.missed.swap(false, Ordering::SeqCst)
    }

    /// Whether what is known of people elsewhere must be asked anew.
    pub(crate) fn take_stale(&self) -> bool {
        self.stale.swap(false, Ordering::SeqCst)
    }

    /// Waits until one of these may have changed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn open(&self, room: &RoomId) {
        self.rooms.write().insert(room.clone());
    }

    pub(crate) fn close(&self, room: &RoomId) {
        self.rooms.write().remove(room);
    }

    fn raise(&self, flag: &AtomicBool) {
        flag.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }
}

/// Where a [`crate::ChatBus`] brings what the other instances say. Cheap to clone; nothing here blocks.
#[derive(Debug, Clone)]
pub struct Inbox {
    queue: mpsc::Sender<Heard>,
    standing: Arc<Standing>,
}

/// The pipeline's side of an inbox.
#[derive(Debug)]
pub(crate) struct Ears {
    pub(crate) heard: mpsc::Receiver<Heard>,
    pub(crate) standing: Arc<Standing>,
    /// So that the queue stays open when there is no bus.
    pub(crate) inbox: Inbox,
}

impl Inbox {
    pub(crate) fn open() -> Ears {
        let (queue, heard) = mpsc::channel(QUEUE);
        let standing = Arc::new(Standing {
            link: AtomicU8::new(0),
            missed: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            changed: Notify::new(),
            rooms: RwLock::default(),
        });
        let inbox = Self {
            queue,
            standing: standing.clone(),
        };
        Ears {
            heard,
            standing,
            inbox,
        }
    }

    /// Whether anybody here is in the room: what is said of another need not be brought, or even read.
    pub fn wants(&self, room: &str) -> bool {
        self.standing.rooms.read().contains(room)
    }

    /// Another instance took a room's log to `seq`. `messages` are the last of it, by rising `seq`, as far as they came
    /// along: with all that is new in them nothing needs to be read from the log.
    pub fn hint(&self, room: RoomId, seq: u64, messages: Vec<Message>) {
        let frames = messages.into_iter().map(|m| Arc::new(Frame::new(m)));
        let frames = frames.collect();
        if !self.bring(Heard::Hint { room, seq, frames }) {
            self.hints_were_lost();
        }
    }

    /// A sign of somebody on another instance.
    pub fn sign(&self, room: RoomId, sign: Sign, user: ChatUser) {
        self.bring(Heard::Sign { room, sign, user });
    }

    /// Who is in a room on another instance has changed.
    pub fn presence_changed(&self, room: RoomId) {
        if !self.bring(Heard::Presence(room)) {
            self.presence_is_stale();
        }
    }

    /// Who is in any room on another instance may have changed, or what this one shared may be lost.
    pub fn presence_is_stale(&self) {
        self.standing.raise(&self.standing.stale);
    }

    /// Hints may have been lost: the log is asked for all rooms.
    pub fn hints_were_lost(&self) {
        self.standing.raise(&self.standing.missed);
    }

    /// Whether the other instances can be heard. While they cannot, the log is asked every second; and once when they
    /// can again. Until this is first called there are none.
    pub fn link(&self, up: bool) {
        let link = if up { 1 } else { 2 };
        self.standing.link.store(link, Ordering::SeqCst);
        self.hints_were_lost();
        self.presence_is_stale();
    }

    fn bring(&self, heard: Heard) -> bool {
        self.queue.try_send(heard).is_ok()
    }
}
