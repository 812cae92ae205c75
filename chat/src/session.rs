//! What is known of one socket between its events: who it is, its rooms, and how much it has asked for.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::value::RawValue;
use socketioxide::{
    SendError, SocketError,
    extract::{AckSender, SocketRef},
    socket::Sid,
};

use crate::{
    ack::{Ack, Refusal, Reply},
    admission::{Admission, Proof},
    frame::{Full, body},
    limits::{ANSWER_BYTES, Bucket, ChatLimits},
    outbox::{Outbox, Outboxes},
    people::People,
    ports::ChatUser,
    room_id::RoomId,
};

/// How long the first event of a socket waits for it to be connected, which it is unless it has gone already.
const MEETING: Duration = Duration::from_millis(200);

/// Whether an event is let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is.
    Pass,
    /// It is not.
    Refuse,
    /// It is not, for the last time: the socket is to be disconnected.
    Cut,
}

#[derive(Debug)]
struct Tally {
    events: Bucket,
    refusals: Bucket,
    rooms: HashMap<RoomId, Stay>,
    stays: u64,
}

/// One stay in a room, from the first wish to join to the leaving. A client may join, leave and join again before the first
/// wish is answered: that answer is then about a stay that has ended.
#[derive(Debug)]
struct Stay {
    number: u64,
    /// Wishes to join that are not answered yet.
    asked: usize,
    joined: bool,
}

/// One authenticated socket.
pub(crate) struct Session {
    pub(crate) user: ChatUser,
    pub(crate) outbox: Arc<Outbox>,
    /// Bytes that may wait in the outbox.
    most: usize,
    proof: Proof,
    waiting: AtomicUsize,
    closed: AtomicBool,
    /// Sweeps that found the socket not connected.
    absences: AtomicUsize,
    /// Whether the socket was connected at its first event.
    met: AtomicBool,
    severed: AtomicBool,
    tally: Mutex<Tally>,
}

impl Session {
    pub(crate) fn new(
        user: ChatUser,
        proof: Proof,
        outbox: Arc<Outbox>,
        limits: &ChatLimits,
    ) -> Self {
        Self {
            user,
            outbox,
            most: limits.outbox_bytes,
            proof,
            waiting: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            absences: AtomicUsize::new(0),
            met: AtomicBool::new(false),
            severed: AtomicBool::new(false),
            tally: Mutex::new(Tally {
                events: Bucket::of_events(limits),
                refusals: Bucket::of_refusals(limits),
                rooms: HashMap::new(),
                stays: 0,
            }),
        }
    }

    /// Waits with a socket's first event until the library has noted that the socket is connected. It tells the client first
    /// and notes it then, on another thread, in the very next statement; what is emitted to the socket in between is lost,
    /// and a history that was asked for at once would never come. So nothing is awaited here: no longer than that thread
    /// is kept from going on.
    pub(crate) fn meet(&self, is_connected: impl Fn() -> bool) {
        if self.met.load(Ordering::Relaxed) {
            return;
        }
        let give_up = Instant::now() + MEETING;
        while !is_connected() && Instant::now() < give_up {
            std::thread::yield_now();
        }
        self.met.store(true, Ordering::Relaxed);
    }

    /// Counts an event of a given cost against what the socket may ask for.
    pub(crate) fn admit(&self, cost: f64, limits: &ChatLimits) -> Verdict {
        if self.severed.load(Ordering::Relaxed) {
            return Verdict::Refuse;
        }
        let mut tally = self.tally.lock();
        let now = Instant::now();
        let calm = tally.events.take(cost, now);
        if calm && self.waiting.load(Ordering::Relaxed) < limits.waiting {
            Verdict::Pass
        } else if tally.refusals.take(1.0, now) {
            Verdict::Refuse
        } else {
            Verdict::Cut
        }
    }

    /// Notes that the socket wishes to be in a room; answers the stay that this belongs to.
    ///
    /// # Errors
    /// When it is in too many, or gone: then nothing would take it out again.
    pub(crate) fn enter(&self, room: &RoomId, limits: &ChatLimits) -> Result<u64, Refusal> {
        let mut tally = self.tally.lock();
        if self.is_closed() {
            return Err(Refusal::left());
        }
        if let Some(stay) = tally.rooms.get_mut(room) {
            stay.asked += 1;
            return Ok(stay.number);
        }
        if tally.rooms.len() >= limits.rooms {
            return Err(Refusal::too_many_rooms(limits.rooms));
        }
        tally.stays += 1;
        let number = tally.stays;
        let stay = Stay {
            number,
            asked: 1,
            joined: false,
        };
        tally.rooms.insert(room.clone(), stay);
        Ok(number)
    }

    /// Notes what became of a wish. When nothing came of any of a stay, the socket is not in the room.
    pub(crate) fn entered(&self, room: &RoomId, number: u64, joined: bool) {
        if let Entry::Occupied(mut found) = self.tally.lock().rooms.entry(room.clone())
            && found.get().number == number
        {
            let stay = found.get_mut();
            stay.asked = stay.asked.saturating_sub(1);
            stay.joined |= joined;
            if stay.asked == 0 && !stay.joined {
                found.remove();
            }
        }
    }

    pub(crate) fn is_in(&self, room: &RoomId) -> bool {
        self.tally.lock().rooms.contains_key(room)
    }

    pub(crate) fn exit(&self, room: &RoomId) {
        self.tally.lock().rooms.remove(room);
    }

    /// Marks the socket as gone, and returns the rooms it was in.
    fn close(&self) -> Vec<RoomId> {
        self.closed.store(true, Ordering::SeqCst);
        self.tally
            .lock()
            .rooms
            .drain()
            .map(|(room, _)| room)
            .collect()
    }

    /// Gives a body to the library, by `send`.
    ///
    /// # Errors
    /// [`Full`] when too much waits for the socket.
    pub(crate) fn emit(
        &self,
        body: &RawValue,
        send: impl FnOnce(&RawValue) -> Result<(), SendError>,
    ) -> Result<(), Full> {
        self.give(body, self.most, send)
    }

    fn give(
        &self,
        body: &RawValue,
        most: usize,
        send: impl FnOnce(&RawValue) -> Result<(), SendError>,
    ) -> Result<(), Full> {
        let bytes = body.get().len();
        self.outbox.take(bytes, most)?;
        let Err(error) = send(body) else {
            return Ok(());
        };
        self.outbox.give_back(bytes);
        match error {
            SendError::Socket(SocketError::InternalChannelFull) => Err(Full),
            // A socket that is closed leaves its rooms when its end is handled.
            _ => Ok(()),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Whether the library would be given so many bytes now.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.is_closed() || self.outbox.has_room(bytes, self.most)
    }

    /// Disconnects the socket: now, or when it takes a packet again (see [`Sessions::sweep`]).
    pub(crate) fn sever(&self, socket: &SocketRef) {
        self.severed.store(true, Ordering::Relaxed);
        let _ = socket.clone().disconnect();
    }
}

/// Sweeps after which a socket that was let in but never came to be connected is forgotten.
const ABSENCES: usize = 10;

/// Counts an event as waiting while it lives.
struct Waiting(Arc<Session>);

impl Waiting {
    fn new(session: Arc<Session>) -> Self {
        session.waiting.fetch_add(1, Ordering::Relaxed);
        Self(session)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers an event. A socket that does not even take its acknowledgements is disconnected.
pub(crate) fn answer(session: &Session, socket: &SocketRef, sender: AckSender, ack: &Ack) {
    let most = session.most.saturating_add(ANSWER_BYTES);
    if session.give(&body(ack), most, |body| sender.send(body)) == Err(Full) {
        session.sever(socket);
    }
}

/// The answer to a queued event, which counts as waiting until it is given.
pub(crate) fn reply_later(session: Arc<Session>, socket: SocketRef, sender: AckSender) -> Reply {
    let waiting = Waiting::new(session);
    Box::new(move |ack| answer(&waiting.0, &socket, sender, ack))
}

/// The open sockets.
#[derive(Default)]
pub(crate) struct Sessions {
    open: Mutex<HashMap<Sid, (SocketRef, Arc<Session>)>>,
    pub(crate) outboxes: Arc<Outboxes>,
    pub(crate) people: Arc<People>,
}

impl Sessions {
    pub(crate) fn count(&self) -> usize {
        self.open.lock().len()
    }

    /// Adds a socket, unless it has gone already.
    pub(crate) fn add(&self, socket: SocketRef, session: Arc<Session>) {
        self.outboxes.add(socket.id, &session.outbox);
        let mut open = self.open.lock();
        // The end of a connection may be handled before its beginning, on another thread.
        if !session.closed.load(Ordering::SeqCst) {
            open.insert(socket.id, (socket, session));
        }
        metrics::gauge!("chat_sockets").set(open.len() as f64);
    }

    /// Takes a socket out; returns the rooms it was in.
    pub(crate) fn remove(&self, socket: Sid, session: &Session) -> Vec<RoomId> {
        let mut open = self.open.lock();
        open.remove(&socket);
        metrics::gauge!("chat_sockets").set(open.len() as f64);
        session.close()
    }

    /// Disconnects those whose token no longer counts, those that were to be disconnected but were too full, and those who
    /// take nothing of what waits for them.
    pub(crate) fn sweep(&self, admission: &Admission, limits: &ChatLimits) {
        let now = Instant::now();
        self.outboxes.sweep(now, limits.patience);
        self.people.sweep(now);
        let open: Vec<_> = self.open.lock().values().cloned().collect();
        for (socket, session) in open {
            if !socket.connected() {
                self.forget_unborn(&socket, &session);
                continue;
            }
            let severed = session.severed.load(Ordering::Relaxed);
            if severed || !admission.still_holds(session.user.id, &session.proof) {
                session.sever(&socket);
            }
        }
    }

    /// A connection may break between being let in and being connected; then nothing tells of its end.
    fn forget_unborn(&self, socket: &SocketRef, session: &Session) {
        if session.absences.fetch_add(1, Ordering::Relaxed) >= ABSENCES {
            self.remove(socket.id, session);
        }
    }
}

#[cfg(test)]
mod tests {
    use socialhub_domain::UserId;
    use uuid::Uuid;

    use super::*;

    fn session(limits: &ChatLimits) -> Session {
        let user = ChatUser {
            id: UserId(Uuid::from_u128(1)),
            username: "ann".into(),
        };
        Session::new(user, Proof::Gateway, Arc::default(), limits)
    }

    #[test]
    fn a_flood_is_refused_and_then_cut() {
        let limits = ChatLimits {
            events_per_second: 0.0,
            burst: 2.0,
            refusals: 3,
            ..ChatLimits::default()
        };
        let session = session(&limits);
        let verdicts: Vec<Verdict> = (0..6).map(|_| session.admit(1.0, &limits)).collect();
        use Verdict::{Cut, Pass, Refuse};
        assert_eq!(verdicts, [Pass, Pass, Refuse, Refuse, Refuse, Cut]);
    }

    #[test]
    fn the_first_event_waits_until_the_socket_is_connected_and_no_other() {
        let session = session(&ChatLimits::default());
        let looks = AtomicUsize::new(0);
        let at_the_third_look = || looks.fetch_add(1, Ordering::Relaxed) >= 2;
        session.meet(at_the_third_look);
        assert_eq!(looks.load(Ordering::Relaxed), 3);
        session.meet(|| panic!("it was connected before"));
    }

    #[test]
    fn a_socket_that_is_gone_holds_nobody_up() {
        let session = session(&ChatLimits::default());
        session.meet(|| false);
        session.meet(|| panic!("it was waited for before"));
    }

    #[test]
    fn rooms_are_bounded_and_entered_once() {
        let limits = ChatLimits {
            rooms: 1,
            ..ChatLimits::default()
        };
        let session = session(&limits);
        let (a, b) = (RoomId::parse("a").unwrap(), RoomId::parse("b").unwrap());
        assert_eq!(session.enter(&a, &limits), Ok(1));
        assert_eq!(session.enter(&a, &limits), Ok(1));
        assert!(session.enter(&b, &limits).is_err());
        session.exit(&a);
        assert_eq!(session.enter(&b, &limits), Ok(2));
    }

    #[test]
    fn an_answer_about_a_stay_that_has_ended_ends_no_other() {
        let limits = ChatLimits::default();
        let session = session(&limits);
        let room = RoomId::parse("a").unwrap();
        let first = session.enter(&room, &limits).unwrap();
        session.exit(&room);
        let second = session.enter(&room, &limits).unwrap();
        session.entered(&room, first, false);
        assert!(session.is_in(&room));
        session.entered(&room, second, true);
        assert!(session.is_in(&room));
        // A wish that is refused beside one that is granted, in both orders.
        for granted_first in [true, false] {
            session.exit(&room);
            let stay = session.enter(&room, &limits).unwrap();
            assert_eq!(session.enter(&room, &limits), Ok(stay));
            session.entered(&room, stay, granted_first);
            session.entered(&room, stay, !granted_first);
            assert!(session.is_in(&room), "{granted_first}");
        }
        session.exit(&room);
        let stay = session.enter(&room, &limits).unwrap();
        session.enter(&room, &limits).unwrap();
        session.entered(&room, stay, false);
        assert!(session.is_in(&room), "one is not answered yet");
        session.entered(&room, stay, false);
        assert!(!session.is_in(&room));
    }

    #[test]
    fn who_is_gone_enters_no_room() {
        let limits = ChatLimits::default();
        let session = session(&limits);
        let room = RoomId::parse("a").unwrap();
        session.enter(&room, &limits).unwrap();
        assert_eq!(session.close(), std::slice::from_ref(&room));
        assert!(session.enter(&room, &limits).is_err() && !session.is_in(&room));
    }
}
