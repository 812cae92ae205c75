//! The one place where chat happens: takes events in the order they were queued, commits messages in groups, and
//! serves the rooms.
//!
//! Everything that waits is taken at once; the messages among it become one append of the log, over all rooms. While
//! that append is under way the next ones gather, so the group grows with the load and a lone message waits for nobody.

mod cluster;
mod leaving;

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use socialhub_domain::{Clock, IdGenerator};
use socketioxide::socket::Sid;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, Interval, MissedTickBehavior},
};

use crate::{
    ack::{Ack, Refusal, Reply},
    frame::{Frame, Outlet},
    inbox::{Ears, Link},
    limits::HISTORY_BYTES,
    ports::{
        Appended, ChatBus, ChatLog, ChatLogError, ChatUser, Direction, History, HistoryQuery,
        NewMessage, PresenceStore,
    },
    room::{Next, Room, Wait, Welcomed},
    room_id::RoomId,
    told::Told,
};
use cluster::{Cluster, Learnt, Sharing};
use leaving::Leaving;

/// Events taken at once.
const TAKEN: usize = 1_024;
/// Messages of a first history.
const FIRST_HISTORY: usize = 50;
/// Messages of a recovery at most.
const RECOVERY: usize = 1_000;
/// Messages read at once for a member who is behind, or to fill a hole.
const PAGE: usize = 200;
/// Reads for sockets at once, until what was read has been handed on: each may hold a few megabytes.
const READS: usize = 16;
/// How often those behind, and holes, are looked at.
const TICK: Duration = Duration::from_millis(25);
/// How often the log is asked for rooms of which nothing may have been heard.
const LOOK: Duration = Duration::from_secs(1);

/// A message to commit.
pub(crate) struct Send {
    pub(crate) room: RoomId,
    pub(crate) socket: Sid,
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

/// The history of one who joins.
pub(crate) struct Welcome {
    after: Option<u64>,
    reply: Reply,
    /// Where it ended when it was read before, and was older than what they had seen.
    ended: Option<u64>,
    /// What it waits for before it is read anew, because the socket had no room for it.
    wait: Option<Wait>,
}

/// What a read of the log was for.
pub(crate) enum Purpose {
    /// The history of one who joins.
    Welcome(Welcome),
    /// What one who is behind lacks.
    Feed { after: u64 },
    /// What a room lacks that one who leaves may have said something after.
    Farewell { after: u64 },
}

impl Purpose {
    fn query(&self) -> HistoryQuery {
        match self {
            Self::Welcome(welcome) => welcoming(welcome.after),
            Self::Feed { after } | Self::Farewell { after } => page_after(*after),
        }
    }

    /// What is to be waited for before it is read.
    fn take_wait(&mut self) -> Option<Wait> {
        match self {
            Self::Welcome(welcome) => welcome.wait.take(),
            Self::Feed { .. } | Self::Farewell { .. } => None,
        }
    }

    fn tell(&self, history: History) -> Told {
        match self {
            Self::Welcome(_) => Told::newest(history, HISTORY_BYTES),
            Self::Feed { .. } | Self::Farewell { .. } => Told::whole(history),
        }
    }
}

/// One stay of a socket in a room.
#[derive(Debug, Clone)]
pub(crate) struct Staying {
    room: RoomId,
    socket: Sid,
    ticket: u64,
}

/// A read of the log for one stay of a socket in a room.
pub(crate) struct Loaded {
    stay: Staying,
    purpose: Purpose,
    outcome: Result<Told, ChatLogError>,
    /// Lets the next one be read when this is done.
    _permit: Option<OwnedSemaphorePermit>,
}

/// A history that waits until an earlier one has gone out to the same socket.
struct Asked {
    ticket: u64,
    welcome: Welcome,
    sharing: Option<Sharing>,
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
    /// Something asked because there are other instances has been answered.
    Learnt(Learnt),
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

/// What a pipeline works with.
pub(crate) struct Tools {
    pub(crate) log: Arc<dyn ChatLog>,
    pub(crate) bus: Arc<dyn ChatBus>,
    pub(crate) presence: Arc<dyn PresenceStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdGenerator>,
    /// Its own queue.
    pub(crate) queue: mpsc::Sender<Command>,
}

/// The task that does it all.
pub(crate) struct Pipeline {
    tools: Tools,
    rooms: HashMap<RoomId, Room>,
    batch: Vec<Send>,
    /// Messages of sockets that are still entering the room. Their senders' rates bound them.
    early: Vec<Send>,
    /// Rooms to tell of a change of presence.
    touched: HashSet<RoomId>,
    /// Rooms where somebody is behind.
    lagging: HashSet<RoomId>,
    tickets: u64,
    /// Where a history is on its way to a socket, and those it asked for since: one at a time is read.
    histories: HashMap<(RoomId, Sid), VecDeque<Asked>>,
    reads: Arc<Semaphore>,
    leaving: Leaving,
    /// Messages handed to sockets since they were last counted.
    deliveries: u64,
    ears: Ears,
    cluster: Cluster,
}

impl Pipeline {
    pub(crate) fn new(tools: Tools, ears: Ears) -> Self {
        Self {
            tools,
            rooms: HashMap::new(),
            batch: Vec::new(),
            early: Vec::new(),
            touched: HashSet::new(),
            lagging: HashSet::new(),
            tickets: 0,
            histories: HashMap::new(),
            reads: Arc::new(Semaphore::new(READS)),
            leaving: Leaving::default(),
            deliveries: 0,
            ears,
            cluster: Cluster::new(),
        }
    }

    /// Works until told to stop.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut taken = Vec::with_capacity(TAKEN);
        let mut tick = pulse(TICK);
        let mut look = pulse(LOOK);
        loop {
            let waits = !self.lagging.is_empty() || self.cluster.waits();
            tokio::select! {
                count = commands.recv_many(&mut taken, TAKEN) => {
                    if count == 0 || self.work(&mut taken).await {
                        self.leave_cluster().await;
                        return;
                    }
                }
                Some(heard) = self.ears.heard.recv() => self.hear_all(heard),
                () = self.ears.standing.changed() => {}
                _ = look.tick(), if self.cluster.link() != Link::Alone => self.look_regularly(),
                _ = tick.tick(), if waits => self.retry(),
            }
            self.tend_cluster();
            self.tell_presence();
        }
    }

    /// Does what was taken; true when told to stop.
    async fn work(&mut self, taken: &mut Vec<Command>) -> bool {
        for command in taken.drain(..) {
            match command {
                Command::Send(send) => self.take_message(send),
                Command::Join(join) => self.join(join),
                Command::Loaded(loaded) => self.loaded(loaded),
                Command::Typing {
                    room,
                    socket,
                    user,
                    reply,
                } => {
                    self.typing(&room, socket, &user);
                    reply(&Ack::Done);
                }
                // Who leaves still gets what they sent before.
                Command::Leave {
                    room,
                    socket,
                    reply,
                } => {
                    self.release(|send| send.socket == socket);
                    self.flush().await;
                    self.begin_to_leave(room, socket, reply);
                }
                Command::Gone { socket, rooms } => {
                    self.release(|send| send.socket == socket);
                    self.flush().await;
                    for room in rooms {
                        self.leave(&room, socket);
                        self.end_leaving(&room, socket);
                    }
                }
                Command::Learnt(learnt) => self.learnt(learnt),
                Command::Drain(done) => {
                    self.release(|_| true);
                    self.flush().await;
                    self.end_all_leaving();
                    let _ = done.send(());
                }
                Command::Stop => return true,
            }
        }
        self.flush().await;
        false
    }

    /// A message is for the next batch, unless its sender is still entering the room, or has others that wait for that.
    fn take_message(&mut self, send: Send) {
        let entering = self
            .rooms
            .get(&send.room)
            .is_some_and(|room| room.is_entering(send.socket));
        if entering {
            self.early.push(send);
        } else {
            self.batch.push(send);
        }
    }

    /// Takes messages that waited into the next batch, in their order.
    fn release(&mut self, which: impl Fn(&Send) -> bool) {
        if self.early.is_empty() {
            return;
        }
        let early = std::mem::take(&mut self.early);
        let (released, waiting): (Vec<Send>, Vec<Send>) = early.into_iter().partition(which);
        self.early = waiting;
        self.batch.extend(released);
    }

    /// Commits the messages gathered, delivers them, and then acknowledges them.
    async fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let now = self.tools.clock.now();
        let sends = std::mem::take(&mut self.batch);
        let mut replies = Vec::with_capacity(sends.len());
        let mut batch = Vec::with_capacity(sends.len());
        for send in sends {
            batch.push(NewMessage {
                id: self.tools.ids.next_id(),
                room: send.room,
                user: send.user,
                text: send.text,
                client_id: send.client_id,
                at: now,
            });
            replies.push(send.reply);
        }
        metrics::histogram!("chat_group_size").record(batch.len() as f64);
        match self.append(batch).await {
            Ok(appended) => {
                metrics::counter!("chat_messages_total").increment(appended.len() as u64);
                self.appended(appended, replies);
                metrics::counter!("chat_deliveries_total")
                    .increment(std::mem::take(&mut self.deliveries));
            }
            Err(error) => {
                tracing::error!(%error, messages = replies.len(), "chat messages were not stored");
                let refusal = match error {
                    ChatLogError::Busy => Refusal::busy,
                    ChatLogError::Unavailable(_) => Refusal::perhaps_stored,
                };
                for reply in replies {
                    reply(&Ack::Refused(refusal()));
                }
            }
        }
    }

    /// Appends, and goes on hearing the other instances meanwhile.
    async fn append(&mut self, batch: Vec<NewMessage>) -> Result<Vec<Appended>, ChatLogError> {
        let log = self.tools.log.clone();
        let mut appending = log.append(batch);
        loop {
            tokio::select! {
                outcome = &mut appending => return outcome,
                Some(heard) = self.ears.heard.recv() => self.hear_all(heard),
            }
        }
    }

    /// Tells the other instances, hands each message to its room, and only then acknowledges it.
    fn appended(&mut self, appended: Vec<Appended>, replies: Vec<Reply>) {
        let framed = |one: Appended| (Arc::new(Frame::new(one.message)), one.duplicate);
        let frames: Vec<(Arc<Frame>, bool)> = appended.into_iter().map(framed).collect();
        let fresh = frames.iter().filter(|(_, duplicate)| !duplicate);
        self.announce(fresh.map(|(frame, _)| frame));
        for ((frame, duplicate), reply) in frames.into_iter().zip(replies) {
            let room = &frame.message.room_id;
            // A repeat was shown before, unless the first time it was stored without our learning of it.
            if !duplicate || self.rooms.get(room).is_some_and(|r| r.cursor().is_some()) {
                self.deliver(&frame);
            }
            reply(&Ack::Sent(frame));
        }
    }

    /// Hands a message to its room, which shows it in its turn.
    fn deliver(&mut self, frame: &Arc<Frame>) {
        let grace = self.cluster.grace();
        let id = &frame.message.room_id;
        if let Some(room) = self.rooms.get_mut(id) {
            self.deliveries += room.take(frame, Instant::now(), grace) as u64;
            self.note(id);
        }
    }

    fn join(&mut self, join: Join) {
        // The end of a socket may be handled before what it asked last, on another thread: then nothing would take it out
        // again. A socket is closed before its end is queued, so who is seen open here is still to be taken out.
        if join.outlet.is_closed() {
            (join.reply)(&Ack::Refused(Refusal::left()));
            return;
        }
        self.end_leaving(&join.room, join.socket);
        self.tickets += 1;
        let room = self.rooms.entry(join.room.clone()).or_insert_with(|| {
            self.ears.standing.open(&join.room);
            Room::new(join.room.clone())
        });
        let news = !room.is_here(join.user.id);
        let ticket = room.enter(join.socket, join.user, join.outlet, self.tickets);
        let asked = Asked {
            ticket,
            welcome: Welcome {
                after: join.after,
                reply: join.reply,
                ended: None,
                wait: None,
            },
            sharing: news.then(|| self.cluster.share_soon(&join.room)),
        };
        match self.histories.entry((join.room.clone(), join.socket)) {
            Entry::Occupied(mut on_its_way) => on_its_way.get_mut().push_back(asked),
            Entry::Vacant(none) => {
                none.insert(VecDeque::new());
                self.read_history(join.room, join.socket, asked);
            }
        }
    }

    fn read_history(&self, room: RoomId, socket: Sid, asked: Asked) {
        let stay = Staying {
            room,
            socket,
            ticket: asked.ticket,
        };
        self.read(stay, Purpose::Welcome(asked.welcome), asked.sharing);
    }

    /// Reads the next history that a socket has asked for in a room, when one has been handed on.
    fn next_history(&mut self, room: RoomId, socket: Sid) {
        let Entry::Occupied(mut waiting) = self.histories.entry((room, socket)) else {
            return;
        };
        while let Some(asked) = waiting.get_mut().pop_front() {
            let room = self.rooms.get(&waiting.key().0);
            if room.is_some_and(|room| room.has(socket, asked.ticket)) {
                let room = waiting.key().0.clone();
                self.read_history(room, socket, asked);
                return;
            }
            (asked.welcome.reply)(&Ack::Refused(Refusal::left()));
        }
        waiting.remove();
    }

    /// Reads the log beside the pipeline; the outcome comes back as a command, not before what it waits for.
    fn read(&self, stay: Staying, mut purpose: Purpose, sharing: Option<Sharing>) {
        let (log, queue) = (self.tools.log.clone(), self.tools.queue.clone());
        let reads = self.reads.clone();
        tokio::spawn(async move {
            // The history comes last, so that it is no older than what was waited for.
            if let Some(sharing) = sharing {
                sharing.done().await;
            }
            // Only then: what a full socket asked for must not keep the log busy.
            if let Some(wait) = purpose.take_wait() {
                wait.done().await;
            }
            // It is never closed.
            let permit = reads.acquire_owned().await.ok();
            let history = read_or_start_afresh(&*log, &stay.room, purpose.query()).await;
            // What goes out is made here, for the pipeline serves all rooms.
            let outcome = history.map(|history| purpose.tell(history));
            let loaded = Loaded {
                stay,
                purpose,
                outcome,
                _permit: permit,
            };
            let _ = queue.send(Command::Loaded(loaded)).await;
        });
    }

    fn loaded(&mut self, loaded: Loaded) {
        let Loaded {
            stay,
            purpose,
            outcome,
            _permit,
        } = loaded;
        let room = stay.room.clone();
        match purpose {
            Purpose::Welcome(welcome) => {
                let socket = stay.socket;
                if self.welcome(stay, welcome, outcome) {
                    self.next_history(room.clone(), socket);
                }
                let entering = self
                    .rooms
                    .get(&room)
                    .is_some_and(|there| there.is_entering(socket));
                if !entering {
                    self.release(|send| send.socket == socket && send.room == room);
                }
            }
            Purpose::Feed { .. } => self.feed(stay, outcome),
            Purpose::Farewell { .. } => self.filled_for_leaving(stay, outcome),
        }
        self.note(&room);
    }

    /// Hands on a history; false when it is to be read again.
    fn welcome(
        &mut self,
        stay: Staying,
        welcome: Welcome,
        outcome: Result<Told, ChatLogError>,
    ) -> bool {
        let Some(room) = self.rooms.get_mut(&stay.room) else {
            (welcome.reply)(&Ack::Refused(Refusal::left()));
            return true;
        };
        let told = match outcome {
            Ok(told) => told,
            Err(error) => {
                tracing::warn!(%error, "a room's history could not be read");
                room.abandon(stay.socket, stay.ticket);
                self.note(&stay.room);
                self.drop_if_empty(&stay.room);
                (welcome.reply)(&Ack::Refused(Refusal::busy()));
                return true;
            }
        };
        let advances = welcome.ended.is_none_or(|ended| told.last_seq > ended);
        if advances && room.is_past(stay.socket, stay.ticket, told.last_seq) {
            let ended = Some(told.last_seq);
            let purpose = Purpose::Welcome(Welcome { ended, ..welcome });
            self.read(stay, purpose, None);
            return false;
        }
        // The history may know more than any hint that came.
        let now = Instant::now();
        room.know_head(told.last_seq, now + self.cluster.grace());
        let after = welcome.after;
        let mut reply = Some(welcome.reply);
        let answer = |members, told: &Told| {
            let recovered = after.is_none_or(|after| told.leaves_no_hole(after));
            if let Some(reply) = reply.take() {
                reply(&Ack::Joined { members, recovered });
            }
        };
        let welcomed = room.welcome(stay.socket, stay.ticket, told, answer, now);
        match (welcomed, reply) {
            (Welcomed::Done(next), _) => self.go_on(stay, next),
            (Welcomed::Full(wait), Some(reply)) => {
                let again = Welcome {
                    after,
                    reply,
                    ended: welcome.ended,
                    wait: Some(wait),
                };
                self.read(stay, Purpose::Welcome(again), None);
                return false;
            }
            (Welcomed::Left, Some(reply)) => reply(&Ack::Refused(Refusal::left())),
            (Welcomed::Full(_) | Welcomed::Left, None) => {}
        }
        true
    }

    fn feed(&mut self, stay: Staying, outcome: Result<Told, ChatLogError>) {
        let Some(room) = self.rooms.get_mut(&stay.room) else {
            return;
        };
        let now = Instant::now();
        match outcome {
            Ok(told) => {
                if let Some(next) = room.feed(stay.socket, stay.ticket, &told.frames, now) {
                    self.go_on(stay, next);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a slow socket could not be served from the log");
                room.put_off(stay.socket, stay.ticket, now);
            }
        }
    }

    fn go_on(&mut self, stay: Staying, next: Next) {
        if let Next::Read { after } = next {
            self.read(stay, Purpose::Feed { after }, None);
        }
    }

    fn leave(&mut self, id: &RoomId, socket: Sid) {
        let Some(room) = self.rooms.get_mut(id) else {
            return;
        };
        room.leave(socket);
        self.note(id);
        self.drop_if_empty(id);
    }

    /// Answers one who left, when the other instances can know.
    fn reply_when_shared(&mut self, room: &RoomId, reply: Reply) {
        if self.cluster.link() != Link::Up {
            return reply(&Ack::Done);
        }
        let sharing = self.cluster.share_soon(room);
        tokio::spawn(async move {
            sharing.done().await;
            reply(&Ack::Done);
        });
    }

    fn drop_if_empty(&mut self, id: &RoomId) {
        if self.rooms.get(id).is_some_and(Room::is_empty) {
            self.rooms.remove(id);
            self.ears.standing.close(id);
        }
    }

    /// Remembers what a room that something happened in may need.
    fn note(&mut self, id: &RoomId) {
        let Some(room) = self.rooms.get_mut(id) else {
            return;
        };
        let news = room.take_news();
        if room.presence_is_due() && !self.touched.contains(id) {
            self.touched.insert(id.clone());
        }
        if room.has_stragglers() && !self.lagging.contains(id) {
            self.lagging.insert(id.clone());
        }
        if room.has_hole() {
            self.cluster.note_hole(id);
        }
        self.share(id, &news);
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
                let room = id.clone();
                let stay = Staying {
                    room,
                    socket,
                    ticket,
                };
                self.read(stay, Purpose::Feed { after }, None);
            }
        }
    }
}

fn pulse(period: Duration) -> Interval {
    let mut pulse = tokio::time::interval(period);
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pulse
}

async fn read_or_start_afresh(
    log: &dyn ChatLog,
    room: &RoomId,
    query: HistoryQuery,
) -> Result<History, ChatLogError> {
    match log.read(room, query).await {
        // A client that knows more than the log (it was restored from a copy) starts afresh.
        Ok(history) if history.last_seq < query.after => {
            let afresh = HistoryQuery {
                after: 0,
                limit: FIRST_HISTORY,
                ..query
            };
            log.read(room, afresh).await
        }
        outcome => outcome,
    }
}

/// What one who joins reads.
fn welcoming(after: Option<u64>) -> HistoryQuery {
    HistoryQuery {
        after: after.unwrap_or(0),
        before: None,
        direction: Direction::Newest,
        limit: after.map_or(FIRST_HISTORY, |_| RECOVERY),
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
