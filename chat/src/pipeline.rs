//! The one place where chat happens: takes events in the order they were queued, commits messages in groups, and
//! serves the rooms.
//!
//! Everything that waits is taken at once; the messages among it become one append of the log, over all rooms. While
//! that append is under way the next ones gather, so the group grows with the load and a lone message waits for nobody.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use socialhub_domain::{Clock, IdGenerator};
use socketioxide::socket::Sid;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    ack::{Ack, Refusal, Reply},
    frame::{Frame, Outlet},
    ports::{
        Appended, ChatBus, ChatLog, ChatLogError, ChatUser, Direction, History, HistoryQuery,
        Message, NewMessage,
    },
    room::{Next, Room},
    room_id::RoomId,
};

/// Events taken at once.
const TAKEN: usize = 1_024;
/// Messages of a first history.
const FIRST_HISTORY: usize = 50;
/// Messages of a recovery at most.
const RECOVERY: usize = 1_000;
/// Messages read at once for a member who is behind, or to fill a hole.
const PAGE: usize = 200;
/// How often those behind are looked at.
const TICK: Duration = Duration::from_millis(25);

/// A message to commit.
pub(crate) struct Send {
    pub(crate) room: RoomId,
    pub(crate) user: ChatUser,
    pub(crate) text: String,
    pub(crate) client_id: Option<String>,
    pub(crate) reply: Reply,
}

/// A socket that enters a room.
pub(crate) struct Join {
    pub(crate) room: RoomId,
    pub(crate) socket: Sid,
    pub(crate) user: ChatUser,
    pub(crate) outlet: Arc<dyn Outlet>,
    pub(crate) after: Option<u64>,
    pub(crate) reply: Reply,
}

/// What a read of the log was for.
pub(crate) enum Purpose {
    /// The history of one who joins.
    Welcome { after: Option<u64>, reply: Reply },
    /// What one who is behind lacks.
    Feed,
}

/// A read of the log for one stay of a socket in a room.
pub(crate) struct Loaded {
    room: RoomId,
    socket: Sid,
    ticket: u64,
    purpose: Purpose,
    outcome: Result<History, ChatLogError>,
}

/// Something to do, in order.
pub(crate) enum Command {
    /// Commit and deliver a message.
    Send(Send),
    /// Enter a room.
    Join(Join),
    /// A read has come back.
    Loaded(Loaded),
    /// Leave a room.
    Leave {
        room: RoomId,
        socket: Sid,
        reply: Reply,
    },
    /// A passing sign to the others.
    Typing {
        room: RoomId,
        socket: Sid,
        user: ChatUser,
        reply: Reply,
    },
    /// A socket is gone: leave these rooms.
    Gone { socket: Sid, rooms: Vec<RoomId> },
    /// Another instance took the room's log to this `seq`.
    CatchUp { room: RoomId, seq: u64 },
    /// Say when everything queued before this is done.
    Drain(oneshot::Sender<()>),
    /// End.
    Stop,
}

impl Command {
    /// The way to answer whoever asked for it, if a client did.
    pub(crate) fn into_reply(self) -> Option<Reply> {
        match self {
            Self::Send(send) => Some(send.reply),
            Self::Join(join) => Some(join.reply),
            Self::Leave { reply, .. } | Self::Typing { reply, .. } => Some(reply),
            _ => None,
        }
    }
}

/// The task that does it all.
pub(crate) struct Pipeline {
    pub(crate) log: Arc<dyn ChatLog>,
    pub(crate) bus: Arc<dyn ChatBus>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdGenerator>,
    rooms: HashMap<RoomId, Room>,
    batch: Vec<Send>,
    /// Rooms to tell of a change of presence.
    touched: HashSet<RoomId>,
    /// Rooms where somebody is behind.
    lagging: HashSet<RoomId>,
    tickets: u64,
    /// Messages handed to sockets since they were last counted.
    deliveries: u64,
    queue: mpsc::Sender<Command>,
}

impl Pipeline {
    pub(crate) fn new(
        log: Arc<dyn ChatLog>,
        bus: Arc<dyn ChatBus>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdGenerator>,
        queue: mpsc::Sender<Command>,
    ) -> Self {
        Self {
            log,
            bus,
            clock,
            ids,
            rooms: HashMap::new(),
            batch: Vec::new(),
            touched: HashSet::new(),
            lagging: HashSet::new(),
            tickets: 0,
            deliveries: 0,
            queue,
        }
    }

    /// Works until told to stop.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut taken = Vec::with_capacity(TAKEN);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                count = commands.recv_many(&mut taken, TAKEN) => {
                    if count == 0 || self.work(&mut taken).await {
                        return;
                    }
                }
                _ = tick.tick(), if !self.lagging.is_empty() => self.retry(),
            }
            self.tell_presence();
        }
    }

    /// Does what was taken; true when told to stop.
    async fn work(&mut self, taken: &mut Vec<Command>) -> bool {
        for command in taken.drain(..) {
            match command {
                Command::Send(send) => self.batch.push(send),
                Command::Join(join) => self.join(join),
                Command::Loaded(loaded) => self.loaded(loaded),
                Command::Typing {
                    room,
                    socket,
                    user,
                    reply,
                } => {
                    if let Some(room) = self.rooms.get(&room) {
                        room.signal("typing", &user, socket);
                    }
                    reply(&Ack::Done);
                }
                // Who leaves still gets what they sent before.
                Command::Leave {
                    room,
                    socket,
                    reply,
                } => {
                    self.flush().await;
                    self.leave(&room, socket);
                    reply(&Ack::Done);
                }
                Command::Gone { socket, rooms } => {
                    self.flush().await;
                    for room in rooms {
                        self.leave(&room, socket);
                    }
                }
                Command::CatchUp { room, seq } => {
                    self.flush().await;
                    self.fill_hole(&room, seq).await;
                }
                Command::Drain(done) => {
                    self.flush().await;
                    let _ = done.send(());
                }
                Command::Stop => return true,
            }
        }
        self.flush().await;
        false
    }

    /// Commits the messages gathered, delivers them, and then acknowledges them.
    async fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let now = self.clock.now();
        let sends = std::mem::take(&mut self.batch);
        let mut replies = Vec::with_capacity(sends.len());
        let mut batch = Vec::with_capacity(sends.len());
        for send in sends {
            batch.push(NewMessage {
                id: self.ids.next_id(),
                room: send.room,
                user: send.user,
                text: send.text,
                client_id: send.client_id,
                at: now,
            });
            replies.push(send.reply);
        }
        metrics::histogram!("chat_group_size").record(batch.len() as f64);
        match self.log.append(batch).await {
            Ok(appended) => {
                metrics::counter!("chat_messages_total").increment(appended.len() as u64);
                for (one, reply) in appended.into_iter().zip(replies) {
                    self.appended(one, reply).await;
                }
                metrics::counter!("chat_deliveries_total")
                    .increment(std::mem::take(&mut self.deliveries));
            }
            Err(error) => {
                tracing::error!(%error, messages = replies.len(), "chat messages were not stored");
                for reply in replies {
                    reply(&Ack::Refused(Refusal::busy()));
                }
            }
        }
    }

    async fn appended(&mut self, one: Appended, reply: Reply) {
        let frame = Arc::new(Frame::new(one.message));
        let room = frame.message.room_id.clone();
        if !one.duplicate {
            self.bus.announce(&room, frame.seq());
        }
        // A repeat was shown before, unless the first time it was stored without our learning of it.
        if !one.duplicate || self.rooms.get(&room).is_some_and(|r| r.cursor().is_some()) {
            self.deliver(&room, &frame).await;
        }
        reply(&Ack::Sent(frame));
    }

    /// Hands a message to its room in its turn: what another instance put before it is read and handed over first.
    async fn deliver(&mut self, room: &RoomId, frame: &Arc<Frame>) {
        let Some(cursor) = self.rooms.get(room).map(Room::cursor) else {
            return;
        };
        if cursor.is_some_and(|cursor| frame.seq() > cursor + 1) {
            self.fill_hole(room, frame.seq() - 1).await;
        }
        let now = Instant::now();
        let Some(here) = self.rooms.get_mut(room) else {
            return;
        };
        if here.cursor().is_none_or(|cursor| frame.seq() == cursor + 1) {
            here.deliver(frame, now);
            self.deliveries += here.size() as u64;
            self.note(room);
        }
    }

    /// Reads and delivers what lies between a room's cursor and `seq`.
    async fn fill_hole(&mut self, room: &RoomId, seq: u64) {
        while let Some(cursor) = self.rooms.get(room).and_then(Room::cursor)
            && cursor < seq
        {
            let query = HistoryQuery {
                after: cursor,
                before: Some(seq + 1),
                direction: Direction::Oldest,
                limit: PAGE,
            };
            let page = match self.log.read(room, query).await {
                Ok(history) if !history.messages.is_empty() => history.messages,
                Ok(_) => return,
                Err(error) => {
                    // The next message of the room tries again.
                    tracing::warn!(%error, "a hole in a room's messages could not be filled");
                    return;
                }
            };
            let Some(here) = self.rooms.get_mut(room) else {
                return;
            };
            let now = Instant::now();
            for message in page {
                here.deliver(&Arc::new(Frame::new(message)), now);
            }
            self.note(room);
        }
    }

    fn join(&mut self, join: Join) {
        self.tickets += 1;
        let room = self
            .rooms
            .entry(join.room.clone())
            .or_insert_with(|| Room::new(join.room.clone()));
        let ticket = room.enter(join.socket, join.user, join.outlet, self.tickets);
        let query = HistoryQuery {
            after: join.after.unwrap_or(0),
            before: None,
            direction: Direction::Newest,
            limit: join.after.map_or(FIRST_HISTORY, |_| RECOVERY),
        };
        let purpose = Purpose::Welcome {
            after: join.after,
            reply: join.reply,
        };
        self.read(join.room, join.socket, ticket, purpose, query);
    }

    /// Reads the log beside the pipeline; the outcome comes back as a command.
    fn read(&self, room: RoomId, socket: Sid, ticket: u64, purpose: Purpose, query: HistoryQuery) {
        let (log, queue) = (self.log.clone(), self.queue.clone());
        tokio::spawn(async move {
            let outcome = match log.read(&room, query).await {
                // A client that knows more than the log (it was restored from a copy) starts afresh.
                Ok(history) if history.last_seq < query.after => {
                    let afresh = HistoryQuery {
                        after: 0,
                        limit: FIRST_HISTORY,
                        ..query
                    };
                    log.read(&room, afresh).await
                }
                outcome => outcome,
            };
            let loaded = Loaded {
                room,
                socket,
                ticket,
                purpose,
                outcome,
            };
            let _ = queue.send(Command::Loaded(loaded)).await;
        });
    }

    fn loaded(&mut self, loaded: Loaded) {
        let room = loaded.room.clone();
        match loaded.purpose {
            Purpose::Welcome { .. } => self.welcome(loaded),
            Purpose::Feed => self.feed(loaded),
        }
        self.note(&room);
    }

    fn welcome(&mut self, loaded: Loaded) {
        let Loaded {
            room: id,
            socket,
            ticket,
            purpose,
            outcome,
        } = loaded;
        let Purpose::Welcome { after, reply } = purpose else {
            return;
        };
        let Some(room) = self.rooms.get_mut(&id) else {
            reply(&Ack::Refused(Refusal::left()));
            return;
        };
        let history = match outcome {
            Ok(history) => history,
            Err(error) => {
                tracing::warn!(%error, "a room's history could not be read");
                room.abandon(socket, ticket);
                self.drop_if_empty(&id);
                reply(&Ack::Refused(Refusal::busy()));
                return;
            }
        };
        let recovered = after.is_none_or(|after| leaves_no_hole(&history, after));
        let mut reply = Some(reply);
        let answer = |members| {
            if let Some(reply) = reply.take() {
                reply(&Ack::Joined { members, recovered });
            }
        };
        let next = room.welcome(socket, ticket, history, answer, Instant::now());
        if let Some(reply) = reply {
            reply(&Ack::Refused(Refusal::left()));
        }
        self.go_on(id, socket, ticket, next);
    }

    fn feed(&mut self, loaded: Loaded) {
        let Some(room) = self.rooms.get_mut(&loaded.room) else {
            return;
        };
        let now = Instant::now();
        match loaded.outcome {
            Ok(history) => {
                let frames: Vec<Frame> = history.messages.into_iter().map(Frame::new).collect();
                let next = room.feed(loaded.socket, loaded.ticket, &frames, now);
                self.go_on(loaded.room, loaded.socket, loaded.ticket, next);
            }
            Err(error) => {
                tracing::warn!(%error, "a slow socket could not be served from the log");
                room.put_off(loaded.socket, loaded.ticket, now);
            }
        }
    }

    fn go_on(&mut self, room: RoomId, socket: Sid, ticket: u64, next: Option<Next>) {
        if let Some(Next::Read { after }) = next {
            self.read(room, socket, ticket, Purpose::Feed, page_after(after));
        }
    }

    fn leave(&mut self, id: &RoomId, socket: Sid) {
        let Some(room) = self.rooms.get_mut(id) else {
            return;
        };
        room.leave(socket);
        self.drop_if_empty(id);
        self.note(id);
    }

    fn drop_if_empty(&mut self, id: &RoomId) {
        if self.rooms.get(id).is_some_and(Room::is_empty) {
            self.rooms.remove(id);
        }
    }

    /// Remembers what a room that something happened in may need.
    fn note(&mut self, id: &RoomId) {
        let Some(room) = self.rooms.get(id) else {
            return;
        };
        if room.presence_is_due() && !self.touched.contains(id) {
            self.touched.insert(id.clone());
        }
        if room.has_stragglers() && !self.lagging.contains(id) {
            self.lagging.insert(id.clone());
        }
    }

    fn tell_presence(&mut self) {
        for id in std::mem::take(&mut self.touched) {
            if let Some(room) = self.rooms.get_mut(&id) {
                room.tell_presence();
            }
        }
    }

    /// Gives those behind another try.
    fn retry(&mut self) {
        let now = Instant::now();
        for id in std::mem::take(&mut self.lagging) {
            let Some(room) = self.rooms.get_mut(&id) else {
                continue;
            };
            let reads = room.retry(now);
            self.note(&id);
            for (socket, ticket, after) in reads {
                self.read(id.clone(), socket, ticket, Purpose::Feed, page_after(after));
            }
        }
    }
}

fn page_after(after: u64) -> HistoryQuery {
    HistoryQuery {
        after,
        before: None,
        direction: Direction::Oldest,
        limit: PAGE,
    }
}

/// Whether a history goes on right where the client's knowledge ended.
fn leaves_no_hole(history: &History, after: u64) -> bool {
    match history.messages.first().map(|first: &Message| first.seq) {
        Some(first) => first == after + 1,
        None => history.last_seq == after,
    }
}
