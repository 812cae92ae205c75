//! One room in this process: who is in it, and how far each of them has been served.
//!
//! The room has a cursor, the `seq` it has reached. Members are *live* (they get every message as it passes the
//! cursor), *reading* (a read of the log for them is under way: they have just joined, or are catching up) or *behind*
//! (their socket was full: they are served from the log when it has room). A member's `sent` says up to where they have
//! seen the room, so a message reaches everybody once and in order, whatever the state they are in.
//!
//! With several instances the messages of a room come from here and from hints of the others, in any order. What is
//! ahead of the cursor is held until the hole before it is closed, by a hint that is on its way or by the log.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use socialhub_domain::UserId;
use socketioxide::socket::Sid;
use tokio::time::Instant;

use crate::{
    ack::Present,
    frame::{Frame, Full, Outlet, body},
    limits::HISTORY_BYTES,
    ports::{ChatUser, History, Sign},
    room_id::RoomId,
    told::Told,
};

/// Messages kept for members who are not live, so that most of them need no second read of the log.
const RECENT: usize = 512;
/// Messages held ahead of the cursor. Those after them are read from the log.
const HELD: usize = 1_024;
/// How many people a presence event lists at most.
const LISTED: usize = 500;
/// How long a full socket is left alone, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a hole is left alone that the log could not close.
const HOLE_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Live,
    Reading,
    Behind { until: Instant, pause: Duration },
}

/// A socket in a room.
pub(crate) struct Member {
    socket: Sid,
    ticket: u64,
    user: ChatUser,
    outlet: Arc<dyn Outlet>,
    /// Everything up to here was sent to it (or was there before its history).
    sent: u64,
    flow: Flow,
    /// Histories it has asked for that have not gone out.
    welcomes: u32,
    /// Whether its first history went out, so that the others know of it.
    present: bool,
}

impl Member {
    /// Whether it needs nothing but what comes next.
    fn is_settled(&self) -> bool {
        self.flow == Flow::Live && self.welcomes == 0
    }

    fn fall_behind(&mut self, now: Instant) {
        let pause = match self.flow {
            Flow::Behind { pause, .. } => (pause * 2).min(LONGEST_PAUSE),
            Flow::Live | Flow::Reading => FIRST_PAUSE,
        };
        let until = now + pause;
        self.flow = Flow::Behind { until, pause };
    }

    fn send(&mut self, frame: &Frame, now: Instant) -> Result<(), Full> {
        if frame.seq() <= self.sent {
            return Ok(());
        }
        match self.outlet.emit("new_message", frame.json()) {
            Ok(()) => {
                self.sent = frame.seq();
                Ok(())
            }
            Err(Full) => {
                self.fall_behind(now);
                Err(Full)
            }
        }
    }
}

/// What a member who is not live needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing: live, or waiting for its socket to empty.
    Nothing,
    /// A read of the log after this `seq`.
    Read { after: u64 },
}

/// The wait until a socket has room for something.
pub(crate) struct Wait {
    outlet: Arc<dyn Outlet>,
    bytes: usize,
}

impl Wait {
    /// Ends when there is room, or when the socket is closed. Nothing says when that is, so it is looked at now and then.
    pub(crate) async fn done(self) {
        let mut pause = FIRST_PAUSE;
        while !self.outlet.has_room(self.bytes) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// What became of a history.
pub(crate) enum Welcomed {
    /// It went out; what the member needs then.
    Done(Next),
    /// The socket has no room for it now: nothing was done.
    Full(Wait),
    /// The stay has ended meanwhile.
    Left,
}

/// What the other instances must be told of a room.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Who came and left, of those who are on no other instance.
    pub(crate) signs: Vec<(Sign, ChatUser)>,
    /// Whether those here are others than before.
    pub(crate) people: bool,
}

/// A room with at least one socket of this process in it.
pub(crate) struct Room {
    id: RoomId,
    cursor: Option<u64>,
    members: Vec<Member>,
    recent: VecDeque<Arc<Frame>>,
    /// Messages ahead of the cursor, which wait for those before them.
    held: BTreeMap<u64, Arc<Frame>>,
    /// The greatest `seq` that is known to be in the log.
    head: u64,
    /// When the log is to be read if the cursor still stands before a hole.
    hole_due: Instant,
    /// Whether the log is being read for the hole.
    filling: bool,
    /// Who is here on other instances, if that is known.
    elsewhere: Option<Vec<ChatUser>>,
    presence_changed: bool,
    news: News,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Signal<'a> {
    room_id: &'a RoomId,
    user_id: UserId,
    username: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Presence<'a> {
    room_id: &'a RoomId,
    users: Vec<Present>,
}

impl Room {
    pub(crate) fn new(id: RoomId) -> Self {
        Self {
            id,
            cursor: None,
            members: Vec::new(),
            recent: VecDeque::new(),
            held: BTreeMap::new(),
            head: 0,
            hole_due: Instant::now(),
            filling: false,
            elsewhere: None,
            presence_changed: false,
            news: News::default(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How far the room has got, if that is known yet.
    pub(crate) fn cursor(&self) -> Option<u64> {
        self.cursor
    }

    fn position(&self, socket: Sid, ticket: u64) -> Option<usize> {
        self.members
            .iter()
            .position(|m| m.socket == socket && m.ticket == ticket)
    }

    /// Registers a socket: from now on nothing passes it by. Returns the ticket of its stay, `ticket` unless it is
    /// here already. The history is to be read after this, and handed to [`Room::welcome`].
    pub(crate) fn enter(
        &mut self,
        socket: Sid,
        user: ChatUser,
        outlet: Arc<dyn Outlet>,
        ticket: u64,
    ) -> u64 {
        if let Some(member) = self.members.iter_mut().find(|m| m.socket == socket) {
            member.welcomes += 1;
            return member.ticket;
        }
        self.members.push(Member {
            socket,
            ticket,
            user,
            outlet,
            sent: 0,
            flow: Flow::Reading,
            welcomes: 1,
            present: false,
        });
        ticket
    }

    /// Serves a socket its history and lets it go live. `answer` is called first, with who is in the room and the history,
    /// so that an awaited acknowledgement is there before it.
    pub(crate) fn welcome(
        &mut self,
        socket: Sid,
        ticket: u64,
        mut told: Told,
        answer: impl FnOnce(Vec<Present>, &Told),
        now: Instant,
    ) -> Welcomed {
        let Some(index) = self.position(socket, ticket) else {
            return Welcomed::Left;
        };
        let continues = self.top_up(index, &mut told);
        let shown = told.body();
        let (outlet, bytes) = (&self.members[index].outlet, shown.get().len());
        if !outlet.has_room(bytes) {
            let outlet = outlet.clone();
            return Welcomed::Full(Wait { outlet, bytes });
        }
        self.cursor.get_or_insert(told.last_seq);
        if !continues {
            // Rather twice than not at all.
            self.members[index].flow = Flow::Reading;
        }
        self.announce(index);
        answer(self.people(), &told);
        let member = &mut self.members[index];
        member.welcomes -= 1;
        let next = if member.outlet.emit("message_history", &shown).is_ok() {
            member.sent = told.last_seq;
            self.resume_reading(index, now)
        } else {
            // The acknowledgement took the last place. A client that waits for its history must not do so for ever: it
            // connects anew, and asks again.
            member.outlet.end();
            member.fall_behind(now);
            Next::Nothing
        };
        self.forget_recent();
        Welcomed::Done(next)
    }

    /// Whether a history ends before what its asker has seen, and what lies between is not at hand: they asked twice, and
    /// the later read came back first.
    pub(crate) fn is_past(&self, socket: Sid, ticket: u64, last_seq: u64) -> bool {
        self.position(socket, ticket).is_some_and(|index| {
            let sent = self.members[index].sent;
            last_seq < sent && !self.has_recent(last_seq + 1, sent)
        })
    }

    /// One who asks again while live may have seen more than the read did: a history never ends before that. Whether it
    /// could be seen to.
    fn top_up(&self, index: usize, told: &mut Told) -> bool {
        let (last, sent) = (told.last_seq, self.members[index].sent);
        if last >= sent {
            return true;
        }
        if !self.has_recent(last + 1, sent) {
            return false;
        }
        let missing = self
            .recent
            .iter()
            .filter(|frame| frame.seq() > last && frame.seq() <= sent)
            .cloned();
        told.extend(missing, sent, HISTORY_BYTES);
        true
    }

    /// Whether all from one `seq` to another are at hand.
    fn has_recent(&self, first: u64, last: u64) -> bool {
        let end = self.recent.back().map_or(0, |frame| frame.seq());
        reaches_back_to(&self.recent, first) && end >= last
    }

    fn resume_reading(&mut self, index: usize, now: Instant) -> Next {
        match self.members[index].flow {
            Flow::Reading => self.resume(index, now),
            Flow::Live | Flow::Behind { .. } => Next::Nothing,
        }
    }

    /// Tells the others, once, that somebody came.
    fn announce(&mut self, index: usize) {
        let member = &mut self.members[index];
        if member.present {
            return;
        }
        let (socket, user) = (member.socket, member.user.clone());
        if !self.is_here(user.id) {
            self.moved(Sign::UserJoined, &user, socket);
        }
        self.members[index].present = true;
    }

    /// A person came or left as far as this instance goes; it is news only if they are on no other.
    fn moved(&mut self, sign: Sign, user: &ChatUser, socket: Sid) {
        self.news.people = true;
        let elsewhere = self.elsewhere.iter().flatten().any(|one| one.id == user.id);
        if !elsewhere {
            self.signal(sign, user, Some(socket));
            self.news.signs.push((sign, user.clone()));
            self.presence_changed = true;
        }
    }

    /// Whether a socket has joined and has not got its first history yet. What it sends waits for that, or it would get
    /// its own message as history, not as news.
    pub(crate) fn is_entering(&self, socket: Sid) -> bool {
        self.members
            .iter()
            .any(|m| m.socket == socket && !m.present)
    }

    /// Whether a person's coming to this instance has been told.
    pub(crate) fn is_here(&self, user: UserId) -> bool {
        self.members.iter().any(|m| m.present && m.user.id == user)
    }

    /// Lets a member go on from where it is: live if what it lacks is at hand.
    fn resume(&mut self, index: usize, now: Instant) -> Next {
        let cursor = self.cursor.unwrap_or(0);
        let member = &mut self.members[index];
        if member.sent < cursor {
            if !reaches_back_to(&self.recent, member.sent + 1) {
                member.flow = Flow::Reading;
                return Next::Read { after: member.sent };
            }
            for frame in &self.recent {
                if member.send(frame, now).is_err() {
                    return Next::Nothing;
                }
            }
        }
        if matches!(member.flow, Flow::Behind { .. }) {
            // It may have missed a presence event meanwhile.
            self.presence_changed = true;
        }
        self.members[index].flow = Flow::Live;
        self.forget_recent();
        Next::Nothing
    }

    fn forget_recent(&mut self) {
        if self.members.iter().all(Member::is_settled) {
            self.recent = VecDeque::new();
        }
    }

    /// Takes a message of the log, in whatever order they come: it goes out now if it is the next, and with it what was
    /// held for it; it waits if it is ahead, and is forgotten if it is past. Returns how many copies went out. A hole
    /// that this leaves is read from the log unless it closes within `grace`.
    pub(crate) fn take(&mut self, frame: &Arc<Frame>, now: Instant, grace: Duration) -> usize {
        let seq = frame.seq();
        match self.cursor {
            Some(cursor) if seq <= cursor => return 0,
            Some(cursor) if seq > cursor + 1 => {
                self.know_head(seq, now + grace);
                self.held.insert(seq, frame.clone());
                if self.held.len() > HELD {
                    self.held.pop_last();
                }
                return 0;
            }
            _ => {}
        }
        self.deliver(frame, now);
        let mut passed = 1;
        let mut cursor = seq;
        while let Some(first) = self.held.first_entry()
            && *first.key() <= cursor + 1
        {
            let next = first.remove();
            if next.seq() == cursor + 1 {
                cursor += 1;
                self.deliver(&next, now);
                passed += 1;
            }
        }
        self.head = self.head.max(cursor);
        self.hole_due = now + grace;
        passed * self.members.len()
    }

    /// Learns that the log reaches `seq`; what is missing up to there is to be read from `due` on.
    pub(crate) fn know_head(&mut self, seq: u64, due: Instant) {
        if !self.has_hole() {
            self.hole_due = due;
        }
        self.head = self.head.max(seq);
    }

    /// Whether the log is known to reach further than the cursor.
    pub(crate) fn has_hole(&self) -> bool {
        self.cursor.is_some_and(|cursor| cursor < self.head)
    }

    /// The read that closes the hole, if there is one and it is time: after which `seq`. It is under way then.
    pub(crate) fn begin_fill(&mut self, now: Instant) -> Option<u64> {
        let due = self.has_hole() && !self.filling && self.hole_due <= now;
        let after = self.cursor.filter(|_| due)?;
        self.filling = true;
        Some(after)
    }

    /// The read for the hole came back with this; nothing when it failed. Returns how many copies went out.
    pub(crate) fn fill(&mut self, history: Option<History>, now: Instant) -> usize {
        self.filling = false;
        let before = self.cursor;
        let mut copies = 0;
        if let Some(history) = history {
            for message in history.messages {
                copies += self.take(&Arc::new(Frame::new(message)), now, Duration::ZERO);
            }
            if self.cursor == before {
                // The log does not go as far as was said.
                let held = self.held.last_key_value().map_or(0, |(seq, _)| *seq);
                self.head = history.last_seq.max(held);
            }
        }
        if self.cursor == before {
            self.hole_due = now + HOLE_PAUSE;
        }
        copies
    }

    fn deliver(&mut self, frame: &Arc<Frame>, now: Instant) {
        self.cursor = Some(frame.seq());
        let mut settled = true;
        for member in &mut self.members {
            if member.flow == Flow::Live {
                // Whatever is before this one was sent, or stood in its history.
                let _ = member.send(frame, now);
            }
            settled &= member.is_settled();
        }
        if !settled {
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(frame.clone());
        }
    }

    /// Serves a member that was reading from the log. Nothing when the stay has ended meanwhile.
    pub(crate) fn feed(
        &mut self,
        socket: Sid,
        ticket: u64,
        frames: &[Arc<Frame>],
        now: Instant,
    ) -> Option<Next> {
        let index = self.position(socket, ticket)?;
        let member = &mut self.members[index];
        // It was set back while this was read: what lies between is read first.
        if frames
            .first()
            .is_some_and(|first| first.seq() > member.sent + 1)
        {
            member.fall_behind(now);
            return Some(Next::Nothing);
        }
        for frame in frames {
            if member.send(frame, now).is_err() {
                return Some(Next::Nothing);
            }
        }
        Some(self.resume(index, now))
    }

    /// The history of one who joins could not be read: they are out again, unless they were in before.
    pub(crate) fn abandon(&mut self, socket: Sid, ticket: u64) {
        if let Some(index) = self.position(socket, ticket) {
            self.members[index].welcomes -= 1;
            if !self.members[index].present && self.members[index].welcomes == 0 {
                self.members.remove(index);
                self.news.people = true;
            }
        }
        self.forget_recent();
    }

    /// A read for a member failed: it is tried again later.
    pub(crate) fn put_off(&mut self, socket: Sid, ticket: u64, now: Instant) {
        if let Some(index) = self.position(socket, ticket) {
            self.members[index].fall_behind(now);
        }
    }

    /// The ticket of a socket's stay.
    pub(crate) fn ticket(&self, socket: Sid) -> Option<u64> {
        let member = self.members.iter().find(|m| m.socket == socket);
        member.map(|member| member.ticket)
    }

    /// Whether a stay lasts.
    pub(crate) fn has(&self, socket: Sid, ticket: u64) -> bool {
        self.position(socket, ticket).is_some()
    }

    /// Whether somebody waits for a full socket to empty.
    pub(crate) fn has_stragglers(&self) -> bool {
        self.members
            .iter()
            .any(|m| matches!(m.flow, Flow::Behind { .. }))
    }

    /// Tries those behind again whose pause is over; returns the reads they need.
    pub(crate) fn retry(&mut self, now: Instant) -> Vec<(Sid, u64, u64)> {
        let mut reads = Vec::new();
        for index in 0..self.members.len() {
            let (flow, socket, ticket) = {
                let member = &self.members[index];
                (member.flow, member.socket, member.ticket)
            };
            let due = matches!(flow, Flow::Behind { until, .. } if until <= now);
            if !due {
                continue;
            }
            if let Next::Read { after } = self.resume(index, now) {
                reads.push((socket, ticket, after));
            }
        }
        reads
    }

    /// Takes a socket out, and tells the others if it was the person's last one here.
    pub(crate) fn leave(&mut self, socket: Sid) -> bool {
        let Some(index) = self.members.iter().position(|m| m.socket == socket) else {
            return false;
        };
        let member = self.members.remove(index);
        if member.present && !self.is_here(member.user.id) {
            self.moved(Sign::UserLeft, &member.user, socket);
        }
        self.forget_recent();
        true
    }

    /// Sends a passing event to everybody, but not to the socket it is from. A full socket misses it.
    pub(crate) fn signal(&self, sign: Sign, user: &ChatUser, from: Option<Sid>) {
        let body = body(&Signal {
            room_id: &self.id,
            user_id: user.id,
            username: &user.username,
        });
        for member in self.members.iter().filter(|m| Some(m.socket) != from) {
            let _ = member.outlet.emit(sign.event(), &body);
        }
    }

    /// Passes on a sign of somebody on another instance. That one who is here came or left there is no news.
    pub(crate) fn relay(&self, sign: Sign, user: &ChatUser) {
        if sign == Sign::Typing || !self.is_here(user.id) {
            self.signal(sign, user, None);
        }
    }

    /// What the other instances must be told since this was last asked.
    pub(crate) fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    /// Learns who is here on other instances; nothing when nobody can say.
    pub(crate) fn set_elsewhere(&mut self, people: Option<Vec<ChatUser>>) {
        let ids = |people: &Option<Vec<ChatUser>>| -> HashSet<UserId> {
            people.iter().flatten().map(|one| one.id).collect()
        };
        self.presence_changed |= ids(&people) != ids(&self.elsewhere);
        self.elsewhere = people;
    }

    /// Whether who is here has changed since it was last sent out.
    pub(crate) fn presence_is_due(&self) -> bool {
        self.presence_changed
    }

    /// Sends out who is here, if that has changed.
    pub(crate) fn tell_presence(&mut self) {
        if !std::mem::take(&mut self.presence_changed) {
            return;
        }
        let body = body(&Presence {
            room_id: &self.id,
            users: self.people(),
        });
        for member in self.members.iter().filter(|m| m.present) {
            let _ = member.outlet.emit("presence", &body);
        }
    }

    /// The people in the room, each once: those here in the order they came, then those elsewhere; at most 500.
    fn people(&self) -> Vec<Present> {
        let here = self.members.iter().filter(|m| m.present).map(|m| &m.user);
        listed(here.chain(self.elsewhere.iter().flatten()))
            .map(Present)
            .collect()
    }

    /// The people who are on this instance, and those about to be, each once; at most 500.
    pub(crate) fn people_here(&self) -> Vec<ChatUser> {
        listed(self.members.iter().map(|m| &m.user)).collect()
    }
}

fn listed<'a>(people: impl Iterator<Item = &'a ChatUser>) -> impl Iterator<Item = ChatUser> {
    let mut seen = HashSet::new();
    people
        .filter(move |one| seen.insert(one.id))
        .take(LISTED)
        .cloned()
}

fn reaches_back_to(recent: &VecDeque<Arc<Frame>>, seq: u64) -> bool {
    recent.front().is_some_and(|first| first.seq() <= seq)
}
