//! The pipeline's part in a cluster: hearing the other instances, closing holes, asking the log what nobody told, and
//! sharing who is here.
//!
//! Every message is in the log, so a hint only spares reading it. Three things make an instance read: a hole in a room
//! that hints on their way have not closed within moments; a way to the others that was lost, or came back; and, at a
//! slow beat, the chance that the last hint of a room was lost with the instance it came from. All reads run beside the
//! pipeline, at most so many at once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use socketioxide::socket::Sid;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{Command, Pipeline, page_after};
use crate::{
    frame::Frame,
    inbox::{Heard, Link},
    ports::{ChatLogError, ChatUser, History, PresenceError, RoomPeople, Sign},
    room::News,
    room_id::RoomId,
};

/// What the others said that is taken at once.
const TAKEN: usize = 256;
/// How long a hole may wait for a hint that is on its way.
const GRACE: Duration = Duration::from_millis(25);
/// Reads for holes under way at once.
const FILLS: usize = 16;
/// Of how many looks one is at the log although the others can be heard.
const SLOW_LOOK: u64 = 5;
/// Of how many looks one shares all rooms' people anew.
const SLOW_SHARE: u64 = 30;
/// Rooms whose people are shared at once.
const SHARED: usize = 100;
/// How long sharing may take, and how long it is left alone when it failed.
const SHARE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long sharing is left alone when it was done: what changes meanwhile goes together.
const SHARE_PAUSE: Duration = Duration::from_millis(20);
/// How long one who joins or leaves waits until the other instances can know.
const MOVE_TIMEOUT: Duration = Duration::from_millis(300);
/// How long the end waits for the store of presence.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

/// An answer to something asked beside the pipeline.
pub(crate) enum Learnt {
    /// What follows a room's cursor.
    Hole {
        room: RoomId,
        outcome: Result<History, ChatLogError>,
    },
    /// How far the log of each room reaches.
    Heads {
        rooms: Vec<RoomId>,
        outcome: Result<Vec<u64>, ChatLogError>,
    },
    /// Who is in each of these rooms elsewhere.
    People {
        shared: Vec<RoomPeople>,
        outcome: Result<Vec<Vec<ChatUser>>, PresenceError>,
    },
}

/// What the pipeline keeps because there are other instances.
pub(crate) struct Cluster {
    link: Link,
    /// Rooms with a hole.
    holes: HashSet<RoomId>,
    fills: usize,
    looks: u64,
    looking: bool,
    look_again: bool,
    /// Rooms whose people here the others do not know.
    unshared: HashSet<RoomId>,
    /// Rooms of which the store may hold people of this instance.
    shared: HashSet<RoomId>,
    sharing: bool,
    share_from: Instant,
    /// Whether sharing failed when it was last tried.
    failing: bool,
    /// Those who wait for what is not shared yet, and for what is being shared.
    waiting: Vec<oneshot::Sender<()>>,
    served: Vec<oneshot::Sender<()>>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self {
            link: Link::Alone,
            holes: HashSet::new(),
            fills: 0,
            looks: 0,
            looking: false,
            look_again: false,
            unshared: HashSet::new(),
            shared: HashSet::new(),
            sharing: false,
            share_from: Instant::now(),
            failing: false,
            waiting: Vec::new(),
            served: Vec::new(),
        }
    }

    pub(crate) fn link(&self) -> Link {
        self.link
    }

    /// How long a hole may wait. Nobody is going to close it when nobody can be heard.
    pub(crate) fn grace(&self) -> Duration {
        match self.link {
            Link::Up => GRACE,
            Link::Alone | Link::Down => Duration::ZERO,
        }
    }

    /// Whether something is to be done after a while.
    pub(crate) fn waits(&self) -> bool {
        !self.holes.is_empty() || (self.link == Link::Up && !self.unshared.is_empty())
    }

    /// Shares a room's people as soon as can be; the wait for it.
    pub(crate) fn share_soon(&mut self, room: &RoomId) -> Sharing {
        if self.link != Link::Up || self.failing {
            return Sharing(None);
        }
        let (done, shared) = oneshot::channel();
        self.unshared.insert(room.clone());
        self.waiting.push(done);
        Sharing(Some(shared))
    }

    pub(crate) fn note_hole(&mut self, room: &RoomId) {
        if !self.holes.contains(room) {
            self.holes.insert(room.clone());
        }
    }
}

/// Becomes ready when what changed in a room is shared, or can be waited for no longer.
pub(crate) struct Sharing(Option<oneshot::Receiver<()>>);

impl Sharing {
    pub(crate) async fn done(self) {
        if let Some(shared) = self.0 {
            // It was shared, or could not be: nobody waits for more than that.
            let _ = timeout(MOVE_TIMEOUT, shared).await;
        }
    }
}

impl Pipeline {
    /// Takes in what the others said: this, and what waits behind it.
    pub(super) fn hear_all(&mut self, first: Heard) {
        self.hear(first);
        for _ in 1..TAKEN {
            let Ok(next) = self.ears.heard.try_recv() else {
                return;
            };
            self.hear(next);
        }
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Hint { room, seq, frames } => {
                for frame in &frames {
                    self.deliver(frame);
                }
                let due = Instant::now() + self.cluster.grace();
                if let Some(here) = self.rooms.get_mut(&room) {
                    here.know_head(seq, due);
                    self.note(&room);
                }
            }
            Heard::Sign { room, sign, user } => {
                if let Some(room) = self.rooms.get(&room) {
                    room.relay(sign, &user);
                }
            }
            Heard::Presence(room) => {
                if self.rooms.contains_key(&room) {
                    self.cluster.unshared.insert(room);
                }
            }
        }
    }

    /// Does what is due after anything has happened.
    pub(super) fn tend_cluster(&mut self) {
        self.check_link();
        self.fill_holes();
        self.share_people();
    }

    fn check_link(&mut self) {
        let standing = self.ears.standing.clone();
        let (link, before) = (standing.link(), self.cluster.link);
        self.cluster.link = link;
        if link == Link::Down && before != Link::Down {
            self.cluster.waiting.clear();
            self.forget_elsewhere();
        }
        if link == Link::Up && before != Link::Up {
            self.cluster.share_from = Instant::now();
        }
        if standing.take_missed() {
            self.look();
        }
        if standing.take_stale() {
            self.share_all();
        }
    }

    /// Nobody can say who is elsewhere.
    fn forget_elsewhere(&mut self) {
        for (id, room) in &mut self.rooms {
            room.set_elsewhere(None);
            if room.presence_is_due() {
                self.touched.insert(id.clone());
            }
        }
    }

    /// Once a second: the log is asked when the others cannot be heard, and now and then all the same.
    pub(super) fn look_regularly(&mut self) {
        self.cluster.looks += 1;
        let looks = self.cluster.looks;
        if self.cluster.link == Link::Down || looks.is_multiple_of(SLOW_LOOK) {
            self.look();
        }
        if looks.is_multiple_of(SLOW_SHARE) {
            self.share_all();
        }
    }

    /// Asks the log how far each room with members has got, in one question.
    fn look(&mut self) {
        if self.cluster.looking {
            self.cluster.look_again = true;
            return;
        }
        let known = self
            .rooms
            .iter()
            .filter(|(_, room)| room.cursor().is_some());
        let rooms: Vec<RoomId> = known.map(|(id, _)| id.clone()).collect();
        if rooms.is_empty() {
            return;
        }
        self.cluster.looking = true;
        metrics::counter!("chat_log_looks_total").increment(1);
        let (log, queue) = (self.tools.log.clone(), self.tools.queue.clone());
        tokio::spawn(async move {
            let outcome = log.last_seqs(&rooms).await;
            let heads = Learnt::Heads { rooms, outcome };
            let _ = queue.send(Command::Learnt(heads)).await;
        });
    }

    /// Reads what is missing in rooms with a hole, for which it is time.
    fn fill_holes(&mut self) {
        if self.cluster.holes.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut reads = Vec::new();
        let (rooms, room_for) = (&mut self.rooms, FILLS - self.cluster.fills);
        self.cluster.holes.retain(|id| {
            let Some(room) = rooms.get_mut(id).filter(|room| room.has_hole()) else {
                return false;
            };
            if reads.len() < room_for
                && let Some(after) = room.begin_fill(now)
            {
                reads.push((id.clone(), after));
            }
            true
        });
        self.cluster.fills += reads.len();
        for (room, after) in reads {
            metrics::counter!("chat_holes_total").increment(1);
            let (log, queue) = (self.tools.log.clone(), self.tools.queue.clone());
            tokio::spawn(async move {
                let outcome = log.read(&room, page_after(after)).await;
                let hole = Learnt::Hole { room, outcome };
                let _ = queue.send(Command::Learnt(hole)).await;
            });
        }
    }

    pub(super) fn learnt(&mut self, learnt: Learnt) {
        match learnt {
            Learnt::Hole { room, outcome } => self.filled(&room, outcome),
            Learnt::Heads { rooms, outcome } => self.looked(&rooms, outcome),
            Learnt::People { shared, outcome } => self.shared(shared, outcome),
        }
    }

    fn filled(&mut self, id: &RoomId, outcome: Result<History, ChatLogError>) {
        self.cluster.fills -= 1;
        if let Err(error) = &outcome {
            tracing::warn!(%error, "a hole in a room's messages could not be filled");
        }
        if let Some(room) = self.rooms.get_mut(id) {
            self.deliveries += room.fill(outcome.ok(), Instant::now()) as u64;
            self.note(id);
        }
    }

    fn looked(&mut self, rooms: &[RoomId], outcome: Result<Vec<u64>, ChatLogError>) {
        self.cluster.looking = false;
        match outcome {
            Ok(heads) => {
                let now = Instant::now();
                for (id, head) in rooms.iter().zip(heads) {
                    if let Some(room) = self.rooms.get_mut(id) {
                        room.know_head(head, now);
                        self.note(id);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "how far the rooms have got could not be read"),
        }
        if std::mem::take(&mut self.cluster.look_again) {
            self.look();
        }
    }

    /// Tells the other instances of new messages, room by room.
    pub(super) fn announce<'a>(&self, frames: impl Iterator<Item = &'a Arc<Frame>>) {
        if self.cluster.link == Link::Alone {
            return;
        }
        let mut hints: HashMap<&RoomId, Vec<Arc<Frame>>> = HashMap::new();
        for frame in frames {
            let hint = hints.entry(&frame.message.room_id).or_default();
            hint.push(frame.clone());
        }
        for (room, frames) in hints {
            self.tools.bus.announce(room, frames);
        }
    }

    pub(super) fn typing(&self, id: &RoomId, socket: Sid, user: &ChatUser) {
        if let Some(room) = self.rooms.get(id) {
            room.signal(Sign::Typing, user, Some(socket));
            self.tools.bus.signal(id, Sign::Typing, user);
        }
    }

    /// Tells the other instances who came and left.
    pub(super) fn share(&mut self, id: &RoomId, news: &News) {
        for (sign, user) in &news.signs {
            self.tools.bus.signal(id, *sign, user);
        }
        // What changes while nobody can be told is shared with all the rest when they can.
        if news.people && self.cluster.link == Link::Up {
            self.cluster.unshared.insert(id.clone());
        }
    }

    fn share_all(&mut self) {
        let rooms = self.rooms.keys().chain(&self.cluster.shared).cloned();
        self.cluster.unshared.extend(rooms);
    }

    /// Shares who is in rooms where that has changed, and learns who is there elsewhere.
    fn share_people(&mut self) {
        let now = Instant::now();
        let cluster = &mut self.cluster;
        // What is waited for does not wait for more to come.
        let urgent = !cluster.failing && !cluster.waiting.is_empty();
        let due = cluster.share_from <= now || urgent;
        if cluster.link != Link::Up || cluster.sharing || !due || cluster.unshared.is_empty() {
            return;
        }
        let due: Vec<RoomId> = cluster.unshared.iter().take(SHARED).cloned().collect();
        let mut here = Vec::with_capacity(due.len());
        for id in due {
            cluster.unshared.remove(&id);
            let room = self.rooms.get(&id);
            let people = room.map(super::Room::people_here).unwrap_or_default();
            if !people.is_empty() {
                cluster.shared.insert(id.clone());
            } else if room.is_none() && !cluster.shared.contains(&id) {
                continue;
            }
            here.push(RoomPeople { room: id, people });
        }
        if cluster.unshared.is_empty() {
            cluster.served.append(&mut cluster.waiting);
        }
        if here.is_empty() {
            cluster.served.clear();
            return;
        }
        cluster.sharing = true;
        let (presence, queue) = (self.tools.presence.clone(), self.tools.queue.clone());
        tokio::spawn(async move {
            let outcome = match timeout(SHARE_TIMEOUT, presence.exchange(&here)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(PresenceError("no answer in time".to_owned())),
            };
            let people = Learnt::People {
                shared: here,
                outcome,
            };
            let _ = queue.send(Command::Learnt(people)).await;
        });
    }

    fn shared(
        &mut self,
        shared: Vec<RoomPeople>,
        outcome: Result<Vec<Vec<ChatUser>>, PresenceError>,
    ) {
        let now = Instant::now();
        self.cluster.sharing = false;
        self.cluster.failing = outcome.is_err();
        match outcome {
            Ok(elsewhere) => {
                self.cluster.share_from = now + SHARE_PAUSE;
                for (here, elsewhere) in shared.into_iter().zip(elsewhere) {
                    if here.people.is_empty() {
                        self.cluster.shared.remove(&here.room);
                    }
                    if self.cluster.link == Link::Up
                        && let Some(room) = self.rooms.get_mut(&here.room)
                    {
                        room.set_elsewhere(Some(elsewhere));
                        self.note(&here.room);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "who is in the chat rooms could not be shared");
                self.cluster.share_from = now + SHARE_TIMEOUT;
                let rooms = shared.into_iter().map(|here| here.room);
                self.cluster.unshared.extend(rooms);
                self.cluster.waiting.clear();
                self.forget_elsewhere();
            }
        }
        // Only now: who waited sees what was learnt.
        for done in self.cluster.served.drain(..) {
            let _ = done.send(());
        }
    }

    /// The end: nobody is here any more.
    pub(super) async fn leave_cluster(&mut self) {
        if self.cluster.link != Link::Alone {
            let _ = timeout(LEAVE_TIMEOUT, self.tools.presence.leave()).await;
        }
    }
}
