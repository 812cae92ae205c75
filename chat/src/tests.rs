//! Tests of the pipeline and its rooms: order, no gaps, no repeats, whatever the timing.

mod cluster;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value as Json, value::RawValue};
use socialhub_domain::{Clock, IdGenerator, Timestamp, UserId};
use socketioxide::socket::Sid;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::{
    ack::Ack,
    frame::{Frame, Full, Outlet},
    inbox::Inbox,
    memory::MemoryChatLog,
    pipeline::{Command, Join, Pipeline, Send, Tools},
    ports::{
        Appended, ChatLog, ChatLogError, ChatUser, Direction, History, HistoryQuery, Message,
        NewMessage, NoBus, NoPresence, PresenceStore, Sign,
    },
    room::{Room, Welcomed},
    room_id::RoomId,
    told::Told,
};

/// A log that takes its time, and fails when told to.
#[derive(Default)]
struct SlowLog {
    inner: MemoryChatLog,
    reads: AtomicUsize,
    /// Fails before it does anything.
    broken: AtomicBool,
    /// Commits, and then cannot say so.
    mute: AtomicBool,
    /// Whether reads wait until this is over.
    stuck: AtomicBool,
}

impl SlowLog {
    async fn dawdle(&self, fails: &AtomicBool) -> Result<(), ChatLogError> {
        let turns = self.reads.fetch_add(1, Ordering::Relaxed) * 7 % 13;
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        if fails.load(Ordering::Relaxed) {
            return Err(ChatLogError::Unavailable("told to".to_owned()));
        }
        Ok(())
    }
}

#[async_trait]
impl ChatLog for SlowLog {
    async fn append(&self, batch: Vec<NewMessage>) -> Result<Vec<Appended>, ChatLogError> {
        self.dawdle(&self.broken).await?;
        let outcome = self.inner.append(batch).await;
        // Committed, but the pipeline does not know it yet: a read may see it first.
        self.dawdle(&self.mute).await?;
        outcome
    }

    async fn read(&self, room: &RoomId, query: HistoryQuery) -> Result<History, ChatLogError> {
        while self.stuck.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.dawdle(&self.broken).await?;
        let outcome = self.inner.read(room, query).await;
        self.dawdle(&self.broken).await?;
        outcome
    }

    async fn erase(&self, user: UserId) -> Result<(), ChatLogError> {
        self.inner.erase(user).await
    }

    async fn last_seqs(&self, rooms: &[RoomId]) -> Result<Vec<u64>, ChatLogError> {
        self.dawdle(&self.broken).await?;
        self.inner.last_seqs(rooms).await
    }
}

struct Steps(AtomicUsize);

impl Clock for Steps {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1, Ordering::Relaxed) as i64)
    }
}

impl IdGenerator for Steps {
    fn next_id(&self) -> Uuid {
        Uuid::from_u128(self.0.fetch_add(1, Ordering::Relaxed) as u128)
    }
}

/// A socket that remembers what it was sent, and can be full.
#[derive(Default)]
struct Ear {
    full: AtomicBool,
    closed: AtomicBool,
    heard: Mutex<Vec<(&'static str, Json)>>,
}

impl Outlet for Ear {
    fn emit(&self, event: &'static str, body: &RawValue) -> Result<(), Full> {
        if self.full.load(Ordering::Relaxed) {
            return Err(Full);
        }
        let body = serde_json::from_str(body.get()).expect("what goes out is JSON");
        self.heard.lock().push((event, body));
        Ok(())
    }

    fn has_room(&self, _: usize) -> bool {
        self.is_closed() || !self.full.load(Ordering::Relaxed)
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

impl Ear {
    fn events(&self, name: &str) -> Vec<Json> {
        let heard = self.heard.lock();
        heard
            .iter()
            .filter(|(event, _)| *event == name)
            .map(|(_, body)| body.clone())
            .collect()
    }

    /// Checks that messages came without gap or repeat; returns the last one's `seq`.
    fn check_order(&self) -> Option<u64> {
        let mut last: Option<u64> = None;
        for (event, body) in self.heard.lock().iter() {
            match *event {
                "message_history" => {
                    let seqs = seqs(body);
                    assert!(seqs.windows(2).all(|w| w[1] == w[0] + 1), "{seqs:?}");
                    if let (Some(seen), Some(end)) = (last, seqs.last()) {
                        assert!(*end >= seen, "a history that is older than what was seen");
                    }
                    last = last.max(seqs.last().copied());
                }
                "new_message" => {
                    let seq = body["seq"].as_u64().expect("a seq");
                    if let Some(last) = last {
                        assert_eq!(seq, last + 1, "a gap or a repeat");
                    }
                    last = Some(seq);
                }
                _ => {}
            }
        }
        last
    }
}

fn seqs(history: &Json) -> Vec<u64> {
    let messages = history.as_array().expect("a history is a list");
    messages.iter().filter_map(|m| m["seq"].as_u64()).collect()
}

fn user(n: usize) -> ChatUser {
    ChatUser {
        id: UserId(Uuid::from_u128(n as u128 + 1)),
        username: format!("user{n}").into(),
    }
}

fn room() -> RoomId {
    RoomId::parse("room").unwrap()
}

/// A pipeline and the people who use it.
struct World {
    queue: mpsc::Sender<Command>,
    log: Arc<SlowLog>,
    inbox: Inbox,
    sids: HashMap<usize, Sid>,
    ears: HashMap<usize, Arc<Ear>>,
    past: Vec<Arc<Ear>>,
    acks: Arc<Mutex<Vec<Json>>>,
}

impl World {
    fn start() -> Self {
        Self::start_with(Arc::new(NoPresence))
    }

    fn start_with(presence: Arc<dyn PresenceStore>) -> Self {
        let (queue, commands) = mpsc::channel(1_024);
        let log = Arc::new(SlowLog::default());
        let steps = Arc::new(Steps(AtomicUsize::new(1)));
        let tools = Tools {
            log: log.clone(),
            bus: Arc::new(NoBus),
            presence,
            clock: steps.clone(),
            ids: steps,
            queue: queue.clone(),
        };
        let ears = Inbox::open();
        let inbox = ears.inbox.clone();
        tokio::spawn(Pipeline::new(tools, ears).run(commands));
        Self {
            queue,
            log,
            inbox,
            sids: HashMap::new(),
            ears: HashMap::new(),
            past: Vec::new(),
            acks: Arc::default(),
        }
    }

    async fn queue(&self, command: Command) {
        self.queue.send(command).await.expect("the pipeline runs");
    }

    fn reply(&self) -> Box<dyn FnOnce(&Ack) + std::marker::Send> {
        let acks = self.acks.clone();
        Box::new(move |ack| {
            let ack = serde_json::to_value(ack).expect("an ack is JSON");
            acks.lock().push(ack);
        })
    }

    async fn join(&mut self, n: usize, after: Option<u64>) -> Arc<Ear> {
        let socket = *self.sids.entry(n).or_default();
        let ear = self.ears.entry(n).or_default().clone();
        let join = Join {
            room: room(),
            socket,
            user: user(n),
            outlet: ear.clone(),
            after,
            reply: self.reply(),
        };
        self.queue(Command::Join(join)).await;
        ear
    }

    async fn leave(&mut self, n: usize) {
        if let Some(ear) = self.ears.remove(&n) {
            self.past.push(ear);
            let leave = Command::Leave {
                room: room(),
                socket: self.sids[&n],
                reply: self.reply(),
            };
            self.queue(leave).await;
        }
    }

    async fn send(&self, n: usize, text: &str, client_id: Option<&str>) {
        let send = Send {
            room: room(),
            socket: self.sids.get(&n).copied().unwrap_or_default(),
            user: user(n),
            text: text.to_owned(),
            client_id: client_id.map(str::to_owned),
            reply: self.reply(),
        };
        self.queue(Command::Send(send)).await;
    }

    /// Appends messages as another instance does; returns them.
    async fn append_elsewhere(&self, count: usize) -> Vec<Message> {
        let batch = (0..count).map(|_| NewMessage {
            id: Uuid::new_v5(&Uuid::NAMESPACE_OID, &count.to_le_bytes()),
            room: room(),
            user: user(7),
            text: "from elsewhere".to_owned(),
            client_id: None,
            at: Timestamp(0),
        });
        let appended = self.log.inner.append(batch.collect()).await.unwrap();
        appended.into_iter().map(|one| one.message).collect()
    }

    fn hint(&self, messages: &[Message]) {
        if let Some(last) = messages.last() {
            self.inbox.hint(room(), last.seq, messages.to_vec());
        }
    }

    async fn drain(&self) {
        let (done, drained) = oneshot::channel();
        self.queue(Command::Drain(done)).await;
        drained.await.expect("the pipeline runs");
    }

    /// Lets time pass (the clock of the tests is paused) until nobody has anything left to do.
    async fn settle(&self) {
        for _ in 0..70 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.drain().await;
        }
    }

    /// Lets time pass until something is so, and fails when it never is.
    async fn wait(&self, so: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            if so(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("it did not come to be");
    }

    fn fill(&self, n: usize, full: bool) {
        if let Some(ear) = self.ears.get(&n) {
            ear.full.store(full, Ordering::Relaxed);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Join(usize, Option<u64>),
    Leave(usize),
    Send(usize),
    Fill(usize, bool),
    Yield(usize),
    Break(bool),
    /// Another instance appends, and what is heard of it.
    Elsewhere(usize, Hint),
    /// Whether the other instances can be heard.
    Link(bool),
}

#[derive(Debug, Clone, Copy)]
enum Hint {
    Lost,
    Bare,
    Whole,
    /// After the next one.
    Late,
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..4usize;
    let hint = prop_oneof![
        Just(Hint::Lost),
        Just(Hint::Bare),
        Just(Hint::Whole),
        Just(Hint::Late)
    ];
    prop_oneof![
        3 => (who.clone(), prop::option::of(0..30u64)).prop_map(|(n, after)| Step::Join(n, after)),
        1 => who.clone().prop_map(Step::Leave),
        8 => who.clone().prop_map(Step::Send),
        2 => (who, any::<bool>()).prop_map(|(n, full)| Step::Fill(n, full)),
        3 => (1..30usize).prop_map(Step::Yield),
        1 => any::<bool>().prop_map(Step::Break),
        6 => (1..300usize, hint).prop_map(|(n, hint)| Step::Elsewhere(1 + n / 40, hint)),
        1 => any::<bool>().prop_map(Step::Link),
    ]
}

/// Messages of the room from one `seq` to another.
pub(crate) fn messages(seqs: std::ops::RangeInclusive<u64>) -> Vec<Message> {
    let message = |seq| {
        let new = NewMessage {
            id: Uuid::from_u128(u128::from(seq)),
            room: room(),
            user: user(7),
            text: "hi".to_owned(),
            client_id: None,
            at: Timestamp(0),
        };
        Message::placed(new, seq)
    };
    seqs.map(message).collect()
}

#[test]
fn one_who_is_behind_and_joins_again_goes_on_where_they_were() {
    let now = tokio::time::Instant::now();
    let (mut there, ear, sid) = (Room::new(room()), Arc::new(Ear::default()), Sid::new());
    let ticket = there.enter(sid, user(0), ear.clone(), 1);
    let history = |seqs: std::ops::RangeInclusive<u64>| {
        Told::whole(History {
            last_seq: *seqs.end(),
            messages: messages(seqs),
        })
    };
    there.welcome(sid, ticket, history(1..=2), |_, _| {}, now);
    ear.full.store(true, Ordering::Relaxed);
    // More than a room keeps at hand.
    for message in messages(3..=1_000) {
        there.take(&Arc::new(Frame::new(message)), now, Duration::ZERO);
    }
    let later = now + Duration::from_secs(10);
    assert_eq!(there.retry(later), [(sid, ticket, 2)]);
    // Meanwhile they ask for the newest, which does not get through, and says so.
    there.enter(sid, user(0), ear.clone(), 2);
    let answer = |_, _: &_| panic!("there is nothing to answer yet");
    let welcomed = there.welcome(sid, ticket, history(951..=1_000), answer, later);
    assert!(matches!(welcomed, Welcomed::Full(_)));
    ear.full.store(false, Ordering::Relaxed);
    let latest = later + Duration::from_secs(10);
    // A read that does not begin there is not gone on with, the right one is.
    let frames = |seqs| {
        messages(seqs)
            .into_iter()
            .map(|message| Arc::new(Frame::new(message)))
            .collect::<Vec<_>>()
    };
    there.feed(sid, ticket, &frames(44..=50), latest);
    there.feed(sid, ticket, &frames(3..=1_000), latest);
    assert_eq!(ear.check_order(), Some(1_000));
    // Asked for again it gets through.
    let welcomed = there.welcome(sid, ticket, history(951..=1_000), |_, _| {}, latest);
    assert!(matches!(welcomed, Welcomed::Done(_)));
    assert_eq!(ear.events("message_history").len(), 2);
}

async fn play(steps: Vec<Step>) {
    let mut world = World::start();
    let mut asked = 0;
    let mut late = Vec::new();
    for step in steps {
        match step {
            Step::Join(n, after) => {
                asked += 1;
                // One who is there knows better than to claim what it has not seen.
                let after = after.filter(|_| !world.ears.contains_key(&n));
                world.join(n, after).await;
            }
            Step::Leave(n) => {
                asked += usize::from(world.ears.contains_key(&n));
                world.leave(n).await;
            }
            Step::Send(n) => {
                asked += 1;
                world.send(n, "hi", None).await;
            }
            Step::Fill(n, full) => world.fill(n, full),
            Step::Break(broken) => world.log.broken.store(broken, Ordering::Relaxed),
            Step::Elsewhere(count, hint) => {
                let messages = world.append_elsewhere(count).await;
                match hint {
                    Hint::Lost => {}
                    Hint::Bare => world.inbox.hint(room(), messages[count - 1].seq, vec![]),
                    Hint::Whole => world.hint(&messages),
                    Hint::Late => {
                        let earlier = std::mem::replace(&mut late, messages);
                        world.hint(&earlier);
                    }
                }
            }
            Step::Link(up) => world.inbox.link(up),
            Step::Yield(turns) => {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    world.log.broken.store(false, Ordering::Relaxed);
    // Also as far as they left: a socket has one outbox, whatever rooms it is in.
    for ear in world.ears.values().chain(&world.past) {
        ear.full.store(false, Ordering::Relaxed);
    }
    // The last thing said is said elsewhere, and no hint of it comes.
    world.inbox.link(true);
    world.append_elsewhere(1).await;
    world.settle().await;
    assert_eq!(
        world.acks.lock().len(),
        asked,
        "each asked, each answered once"
    );
    let query = HistoryQuery {
        after: 0,
        before: None,
        direction: Direction::Newest,
        limit: 1,
    };
    let last = world.log.inner.read(&room(), query).await.unwrap().last_seq;
    for ear in &world.past {
        ear.check_order();
    }
    for ear in world.ears.values() {
        // One whose joining failed heard nothing at all.
        if let Some(heard) = ear.check_order() {
            assert_eq!(heard, last, "somebody present missed the end");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn everybody_sees_every_message_once_in_order(steps in prop::collection::vec(step(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(play(steps));
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_goes_to_all_and_is_acknowledged_with_the_same_content() {
    let mut world = World::start();
    let (a, b) = (world.join(0, None).await, world.join(1, None).await);
    world.settle().await;
    world.acks.lock().clear();
    world.send(0, "hello", None).await;
    world.drain().await;
    let mut expected = a.events("new_message")[0].clone();
    assert_eq!(a.events("new_message"), b.events("new_message"));
    assert_eq!(expected["message"], "hello");
    expected["ok"] = true.into();
    assert_eq!(*world.acks.lock(), [expected]);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_in_the_same_group_is_delivered_once() {
    let mut world = World::start();
    let ear = world.join(0, None).await;
    world.settle().await;
    world.acks.lock().clear();
    for _ in 0..3 {
        world.send(0, "once", Some("c")).await;
    }
    world.drain().await;
    assert_eq!(ear.events("new_message").len(), 1);
    let acks = world.acks.lock();
    assert!(acks.len() == 3 && acks.iter().all(|ack| *ack == acks[0]));
}

#[tokio::test(start_paused = true)]
async fn a_slow_socket_gets_everything_from_the_log_when_it_reads_again() {
    let mut world = World::start();
    let ear = world.join(0, None).await;
    world.settle().await;
    world.fill(0, true);
    for _ in 0..2_000 {
        world.send(1, "hi", None).await;
    }
    world.settle().await;
    assert!(ear.events("new_message").is_empty());
    world.fill(0, false);
    world.settle().await;
    assert_eq!(ear.check_order(), Some(2_000));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_not_stored_is_refused_and_shown_to_nobody() {
    let mut world = World::start();
    let ear = world.join(0, None).await;
    world.settle().await;
    world.acks.lock().clear();
    world.log.broken.store(true, Ordering::Relaxed);
    world.send(0, "lost", None).await;
    world.drain().await;
    assert_eq!(world.acks.lock()[0]["error"]["status"], 503);
    assert!(ear.events("new_message").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_message_that_was_stored_after_all_is_shown_in_its_place() {
    let mut world = World::start();
    let ear = world.join(0, None).await;
    world.settle().await;
    world.log.mute.store(true, Ordering::Relaxed);
    world.acks.lock().clear();
    world.send(0, "perhaps", Some("c")).await;
    world.drain().await;
    // Whoever sends it again without a name would send it twice.
    let refusal = world.acks.lock()[0]["error"].clone();
    assert_eq!(refusal["status"], 503);
    assert!(refusal["detail"].to_string().contains("clientId"));
    world.log.mute.store(false, Ordering::Relaxed);
    world.send(0, "perhaps", Some("c")).await;
    world.drain().await;
    assert_eq!(ear.events("new_message").len(), 1);
    world.send(0, "surely", None).await;
    world.drain().await;
    let texts: Vec<Json> = ear.events("new_message");
    let texts: Vec<&Json> = texts.iter().map(|m| &m["message"]).collect();
    assert_eq!(texts, ["perhaps", "surely"]);
}

#[tokio::test(start_paused = true)]
async fn the_history_is_cut_to_what_was_asked_for() {
    let mut world = World::start();
    for _ in 0..1_200 {
        world.send(0, "hi", None).await;
    }
    world.drain().await;
    for (n, after, first, recovered) in [
        (0, None, 1_151, true),
        (1, Some(300), 301, true),
        (2, Some(100), 201, false),
        (3, Some(9_000), 1_151, false),
    ] {
        world.acks.lock().clear();
        let ear = world.join(n, after).await;
        world.settle().await;
        let history = seqs(&ear.events("message_history")[0]);
        assert_eq!((history[0], history[history.len() - 1]), (first, 1_200));
        assert_eq!(world.acks.lock()[0]["recovered"], recovered);
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_gets_what_they_sent_before() {
    let mut world = World::start();
    let ear = world.join(0, None).await;
    world.settle().await;
    world.send(0, "bye", None).await;
    world.leave(0).await;
    world.drain().await;
    assert_eq!(ear.events("new_message").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_history_waits_until_the_socket_has_room_for_it() {
    let mut world = World::start();
    for _ in 0..60 {
        world.send(1, "hi", None).await;
    }
    let ear = world.join(0, None).await;
    world.settle().await;
    world.fill(0, true);
    world.acks.lock().clear();
    world.join(0, Some(5)).await;
    world.settle().await;
    // Nothing is said of a history that is not there, and it is not read again and again.
    assert!(world.acks.lock().is_empty());
    let reads = world.log.reads.load(Ordering::Relaxed);
    world.settle().await;
    assert_eq!(world.log.reads.load(Ordering::Relaxed), reads);
    world.send(1, "meanwhile", None).await;
    world.settle().await;
    world.fill(0, false);
    world.settle().await;
    assert_eq!(world.acks.lock()[1]["recovered"], true);
    let histories = ear.events("message_history");
    assert_eq!(seqs(&histories[1]), (6..=61).collect::<Vec<_>>());
    assert_eq!(ear.check_order(), Some(61));
}

#[tokio::test(start_paused = true)]
async fn of_the_histories_that_a_socket_asks_for_one_is_read_at_a_time_and_none_in_vain() {
    let mut world = World::start();
    world.send(1, "hi", None).await;
    world.drain().await;
    world.acks.lock().clear();
    let before = world.log.reads.load(Ordering::Relaxed);
    for _ in 0..50 {
        world.join(0, None).await;
        world.leave(0).await;
    }
    let ear = world.join(0, None).await;
    world.join(0, Some(0)).await;
    world.settle().await;
    // Each read is counted twice: the first, which was under way, and the two of the stay that lasts.
    let reads = world.log.reads.load(Ordering::Relaxed) - before;
    assert_eq!(reads, 6);
    let acks = world.acks.lock();
    assert_eq!(acks.len(), 102);
    let left = acks.iter().filter(|ack| ack["error"]["status"] == 409);
    assert_eq!(left.count(), 50);
    assert_eq!(ear.events("message_history").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_join_that_comes_after_the_end_of_its_socket_leaves_nobody_there() {
    let mut world = World::start();
    let ear = world.join(0, None).await;
    world.settle().await;
    world.acks.lock().clear();
    world.ears.insert(1, Arc::default());
    world.ears[&1].closed.store(true, Ordering::Relaxed);
    let socket = *world.sids.entry(1).or_default();
    let rooms = vec![room()];
    world.queue(Command::Gone { socket, rooms }).await;
    world.join(1, None).await;
    world.settle().await;
    assert_eq!(world.acks.lock()[0]["error"]["status"], 409);
    assert!(ear.events("user_joined").is_empty());
    world.join(2, None).await;
    world.settle().await;
    let members = world.acks.lock()[1]["members"].clone();
    let names: Vec<&Json> = members.as_array().unwrap().iter().collect();
    let names: Vec<&Json> = names.iter().map(|one| &one["username"]).collect();
    assert_eq!(names, ["user0", "user2"]);
}

/// Two in the room, of whom the first has said something that comes after what nobody has heard of, and leaves. Reads of
/// the log are stuck.
async fn one_who_leaves_a_room_with_a_hole() -> (World, [Arc<Ear>; 2]) {
    let mut world = World::start();
    world.inbox.link(true);
    let ears = [world.join(0, None).await, world.join(1, None).await];
    world.settle().await;
    world.log.stuck.store(true, Ordering::Relaxed);
    world.acks.lock().clear();
    world.append_elsewhere(2).await;
    world.send(0, "bye", None).await;
    world.leave(0).await;
    world.wait(|world| world.acks.lock().len() == 1).await;
    (world, ears)
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_the_read_that_one_who_leaves_needs() {
    let (world, [leaver, other]) = one_who_leaves_a_room_with_a_hole().await;
    assert!(leaver.events("new_message").is_empty());
    // All others are served, in this room as far as they can be.
    world.inbox.sign(room(), Sign::Typing, user(5));
    world.wait(|_| !other.events("typing").is_empty()).await;
    let elsewhere = RoomId::parse("elsewhere").unwrap();
    let send = Send {
        room: elsewhere,
        socket: world.sids[&1],
        user: user(1),
        text: "hi".to_owned(),
        client_id: None,
        reply: world.reply(),
    };
    world.queue(Command::Send(send)).await;
    world.wait(|world| world.acks.lock().len() == 2).await;
    assert!(other.events("user_left").is_empty());
    world.log.stuck.store(false, Ordering::Relaxed);
    world.settle().await;
    assert_eq!(
        (leaver.check_order(), other.check_order()),
        (Some(3), Some(3))
    );
    assert_eq!(other.events("user_left").len(), 1);
    assert_eq!(world.acks.lock().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn one_who_comes_back_before_they_were_out_stays() {
    let (mut world, [_, other]) = one_who_leaves_a_room_with_a_hole().await;
    let back = world.join(0, None).await;
    // The leaving is answered at once, the joining when its history is there.
    world.wait(|world| world.acks.lock().len() == 2).await;
    world.leave(0).await;
    let again = world.join(0, None).await;
    world.log.stuck.store(false, Ordering::Relaxed);
    world.settle().await;
    assert!(back.check_order().is_none_or(|last| last == 3));
    assert_eq!(seqs(&again.events("message_history")[0]), [1, 2, 3]);
    world.send(1, "welcome", None).await;
    world.settle().await;
    assert_eq!(
        (again.check_order(), other.check_order()),
        (Some(4), Some(4))
    );
    // Each was answered once: said, left twice, joined in vain, joined, said.
    assert_eq!(world.acks.lock().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn who_ends_while_they_leave_is_out_at_once() {
    let (world, [_, other]) = one_who_leaves_a_room_with_a_hole().await;
    let (socket, rooms) = (world.sids[&0], vec![room()]);
    world.queue(Command::Gone { socket, rooms }).await;
    world.wait(|_| other.events("user_left").len() == 1).await;
    world.log.stuck.store(false, Ordering::Relaxed);
    world.settle().await;
    assert_eq!(other.check_order(), Some(3));
    assert_eq!(other.events("user_left").len(), 1);
}
