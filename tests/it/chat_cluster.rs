//! Chat on several instances, over a real Redis and real sockets: one order for everybody, and nothing lost, whatever
//! becomes of Redis or of an instance. What the order and the durability rest on is the log: what is promised of them is
//! tested over the one in memory, which can be made slow, and over the one in Postgres.

mod node;
pub mod person;

use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use node::{LEASE, Node, SECRET, SharedLog};
use person::{Person, connect, id_of, names};
use serde_json::{Value, json};
use socialhub_tests::support::{
    client::fresh_name, eventually, free_port, server::PATIENCE, servers,
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::kafka::own_servers::OwnServers;

/// A prefix nobody else uses.
fn prefix() -> String {
    let pid = std::process::id();
    format!("test-{pid}-{}:", fresh_name("chat"))
}

/// Several instances that share a log and a Redis.
struct Cluster {
    // Ended before the log is.
    nodes: Vec<Node>,
    log: SharedLog,
    redis: String,
    prefix: String,
}

impl Cluster {
    async fn start(log: SharedLog, count: usize) -> Self {
        Self::start_on(log, servers::redis_url(), count).await
    }

    async fn start_on(log: SharedLog, redis: String, count: usize) -> Self {
        let mut cluster = Self {
            nodes: Vec::new(),
            log,
            redis,
            prefix: prefix(),
        };
        for _ in 0..count {
            let node = Node::start(&cluster.log, &cluster.redis, &cluster.prefix).await;
            cluster.nodes.push(node);
        }
        cluster
    }

    async fn join(&self, node: usize, n: u64, room: &str) -> Person {
        Person::join(self.nodes[node].address, n, room, None).await
    }

    /// Fails unless the log keeps what somebody was shown of their room from its beginning.
    async fn keeps(&self, person: &Person) {
        let kept = self.log.kept(&person.room).await;
        let kept: Vec<_> = kept.iter().map(|message| json!(message)).collect();
        let (shown, who) = (person.messages(), &person.name);
        assert_eq!(shown, kept, "what {who} was shown, and what is kept");
    }

    /// Waits until what is said on each instance is heard on the others by hint.
    async fn is_connected(&self) {
        let n = 900_000;
        for speaker in 0..self.nodes.len() {
            let room = format!("warm{speaker}");
            let mut people = Vec::new();
            for node in 0..self.nodes.len() {
                people.push(self.join(node, n + node as u64, &room).await);
            }
            let others = people.iter().filter(|one| one.id != people[speaker].id);
            for other in others {
                eventually("signs pass between the instances", || async {
                    people[speaker].emit("typing", &json!({ "roomId": room }));
                    (!other.heard("typing").is_empty()).then_some(())
                })
                .await;
            }
        }
    }
}

/// A Redis server of the test's own, that can be killed and stopped.
struct Redis {
    folder: TempDir,
    port: u16,
    process: Child,
}

impl Redis {
    fn start() -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let process = Self::launch(&folder, port);
        Self {
            folder,
            port,
            process,
        }
    }

    fn launch(folder: &TempDir, port: u16) -> Child {
        Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed")
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    fn restart(&mut self) {
        self.process = Self::launch(&self.folder, self.port);
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Everybody speaks until told to stop; then how far each room has got.
struct Talk {
    people: Vec<Arc<Person>>,
    over: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
    speaking: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Talk {
    /// Nobody is ever refused.
    fn start(people: Vec<Person>) -> Self {
        Self::begin(people, false)
    }

    /// Whoever is refused says it again.
    fn insisting(people: Vec<Person>) -> Self {
        Self::begin(people, true)
    }

    fn begin(people: Vec<Person>, insist: bool) -> Self {
        let (over, refused) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let people: Vec<Arc<Person>> = people.into_iter().map(Arc::new).collect();
        let speak = |person: &Arc<Person>| {
            let (person, over, refused) = (person.clone(), over.clone(), Arc::clone(&refused));
            tokio::spawn(async move {
                let mut said = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let text = format!("{} says {}", person.name, said.len());
                    if insist {
                        person.insist(&text, &text, &refused).await;
                    } else {
                        person.say_surely(&text, None).await;
                    }
                    said.push(text);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                said
            })
        };
        let speaking = people.iter().map(speak).collect();
        Self {
            people,
            over,
            refused,
            speaking,
        }
    }

    /// Waits until somebody is refused once more.
    async fn is_refused(&self) {
        let before = self.refused.load(Ordering::Relaxed);
        eventually("somebody is refused", async || {
            (self.refused.load(Ordering::Relaxed) > before).then_some(())
        })
        .await;
    }

    fn last_seqs(&self) -> Vec<u64> {
        self.people.iter().map(|person| person.last_seq()).collect()
    }

    /// Waits until everybody has seen some more.
    async fn goes_on(&self, by: u64) {
        for (person, seen) in self.people.iter().zip(self.last_seqs()) {
            person.has_seen(seen + by).await;
        }
    }

    /// Ends it, and checks that everybody saw all that was said in their room, once and in order, and that it is kept as
    /// they saw it.
    async fn end(mut self, cluster: &Cluster) {
        self.over.store(true, Ordering::Relaxed);
        let mut said: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (person, speaker) in self.people.iter().zip(self.speaking.drain(..)) {
            let of_room = said.entry(&person.room).or_default();
            of_room.extend(speaker.await.unwrap());
        }
        for texts in said.values_mut() {
            texts.sort();
        }
        for person in &self.people {
            let said = &said[&*person.room];
            let count = said.len() as u64;
            person.has_seen(count).await;
            person.check(0, count);
            cluster.keeps(person).await;
            let mut seen: Vec<String> = person.messages().iter().map(text).collect();
            seen.sort();
            assert!(
                seen == *said,
                "{} saw other things than were said",
                person.name
            );
        }
    }
}

/// What a message says.
fn text(message: &Value) -> String {
    message["message"].as_str().unwrap().to_owned()
}

/// Stamps a test for each case and log.
macro_rules! over {
    (@stamp $log:expr; $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case($log).await;
            }
        )+
    };
    ($($name:ident => $log:expr);+ $(;)?) => {
        $(
            mod $name {
                use super::*;

                over!(@stamp $log;
                    everybody_sees_every_message_once_in_one_order,
                    redis_killed_and_stopped_under_load_costs_nobody_a_message,
                    who_was_on_a_killed_instance_rejoins_elsewhere_and_misses_nothing,
                    what_a_killed_instance_left_open_is_said_again_elsewhere_and_there_once,
                    hints_that_are_lost_are_made_up_for,
                    a_message_sent_again_to_another_instance_is_sent_once,
                );
            }
        )+
    };
}

over!(memory => SharedLog::memory(); postgres => SharedLog::postgres().await);

/// How often each of 24 people speaks in a round.
const TURNS: u64 = 60;
/// Reads of the log that are few for so many messages.
const FEW_READS: u64 = 144;

async fn everybody_sees_every_message_once_in_one_order(log: SharedLog) {
    let cluster = Cluster::start(log, 3).await;
    cluster.is_connected().await;
    let mut people = Vec::new();
    for n in 0..24 {
        let room = format!("room{}", n / 6);
        people.push(cluster.join(n as usize % 3, n, &room).await);
    }
    // A hint that comes late is made up for by a read, and on a busy machine many come late: one round in which they come in
    // time is enough.
    let (mut rounds, mut fewest) = (0, u64::MAX);
    let give_up = tokio::time::Instant::now() + PATIENCE;
    while fewest >= FEW_READS && tokio::time::Instant::now() < give_up {
        let reads = cluster.log.reads.load(Ordering::Relaxed);
        rounds += 1;
        say_in_turn(&people, rounds).await;
        fewest = fewest.min(cluster.log.reads.load(Ordering::Relaxed) - reads);
    }
    let mut contents = Vec::new();
    for person in &people {
        person.check(0, rounds * 6 * TURNS);
        contents.push((person.room.clone(), person.heard("new_message")));
    }
    contents.sort_by(|a, b| a.0.cmp(&b.0));
    for pair in contents.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        assert_eq!(pair[0].1, pair[1].1, "two members saw different messages");
    }
    assert!(
        fewest < FEW_READS,
        "{fewest} reads for 1,440 messages: hints are of no use"
    );
}

/// Everybody says something in each turn, and sees what was said in their room since they came, in so many rounds.
async fn say_in_turn(people: &[Person], rounds: u64) {
    for turn in 0..TURNS {
        for person in people {
            person.say(&format!("{rounds}: {turn}"));
        }
        tokio::task::yield_now().await;
    }
    for person in people {
        person.has_seen(rounds * 6 * TURNS).await;
    }
}

async fn redis_killed_and_stopped_under_load_costs_nobody_a_message(log: SharedLog) {
    let mut redis = Redis::start();
    let cluster = Cluster::start_on(log, redis.url(), 2).await;
    cluster.is_connected().await;
    let mut people = Vec::new();
    for n in 0..8 {
        let room = format!("room{}", n / 4);
        people.push(cluster.join(n as usize % 2, n, &room).await);
    }
    let talk = Talk::start(people);
    talk.goes_on(20).await;
    redis.kill();
    talk.goes_on(50).await;
    // Without Redis: only those on the same instance.
    let (first, second) = (talk.people[0].clone(), talk.people[1].clone());
    first.sees_present(&["person0", "person2"]).await;
    redis.restart();
    talk.goes_on(50).await;
    let everybody = ["person0", "person1", "person2", "person3"];
    first.sees_present(&everybody).await;
    second.sees_present(&everybody).await;
    // One that neither answers nor closes.
    redis.signal("-STOP");
    talk.goes_on(20).await;
    first.sees_present(&["person0", "person2"]).await;
    talk.goes_on(50).await;
    redis.signal("-CONT");
    first.sees_present(&everybody).await;
    second.sees_present(&everybody).await;
    talk.goes_on(20).await;
    talk.end(&cluster).await;
}

async fn who_was_on_a_killed_instance_rejoins_elsewhere_and_misses_nothing(log: SharedLog) {
    let mut cluster = Cluster::start(log, 3).await;
    cluster.is_connected().await;
    let mut staying = Vec::new();
    for n in 0..2 {
        staying.push(cluster.join(n as usize, n, "room").await);
    }
    let talk = Talk::start(staying);
    let (leaver, lost) = (
        cluster.join(2, 7, "room").await,
        cluster.join(2, 8, "room").await,
    );
    let staying = talk.people[0].clone();
    let everybody = ["person0", "person1", "person7", "person8"];
    staying.sees_present(&everybody).await;
    leaver.has_seen(30).await;
    cluster.nodes[2].kill();
    let after = leaver.last_seq();
    talk.goes_on(20).await;
    let back = Person::join(cluster.nodes[1].address, 7, "room", Some(after)).await;
    talk.goes_on(20).await;
    let end = back.last_seq();
    back.has_seen(end + 10).await;
    let seen = back.seqs();
    back.check(after, seen[seen.len() - 1]);
    assert_eq!(back.heard("ack1")[0]["recovered"], true);
    // One came back, the other did not; nobody says so but the lease.
    let looked = tokio::time::Instant::now();
    staying.sees_present(&everybody[..3]).await;
    assert!(looked.elapsed() < LEASE * 5, "{:?}", looked.elapsed());
    drop(lost);
    talk.end(&cluster).await;
}

/// Says one thing after the other, each under a name of its own, many before they are answered, until nobody listens any
/// more; each with its acknowledgement's name. So some are on every part of their way at any moment.
async fn speaks_until_cut_off(person: Arc<Person>) -> Vec<(String, String)> {
    let mut said: Vec<(String, String)> = Vec::new();
    while !person.is_cut_off() {
        while said.len() - person.acked().len() < 50 {
            let text = format!("message {}", said.len());
            let Some(ack) = person.say_as(&text, &text) else {
                return said;
            };
            said.push((text, ack));
        }
        // Between two looks at how many are open.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    said
}

/// Whoever has no answer says it again: what was stored before the kill and what was not are told apart by its name.
async fn what_a_killed_instance_left_open_is_said_again_elsewhere_and_there_once(log: SharedLog) {
    let mut cluster = Cluster::start(log, 2).await;
    cluster.is_connected().await;
    let witness = cluster.join(0, 0, "room").await;
    let cut_off = Arc::new(cluster.join(1, 1, "room").await);
    let speaking = tokio::spawn(speaks_until_cut_off(cut_off.clone()));
    witness.has_seen(200).await;
    cluster.nodes[1].kill();
    let said = speaking.await.unwrap();
    let back = cluster.join(0, 1, "room").await;
    for (text, _) in &said {
        back.say_as(text, text).unwrap();
    }
    let count = said.len() as u64;
    eventually("all of it is acknowledged", async || {
        (back.acked().len() == said.len()).then_some(())
    })
    .await;
    witness.has_seen(count).await;
    witness.check(0, count);
    cluster.keeps(&witness).await;
    let mut seen: Vec<String> = witness.messages().iter().map(text).collect();
    for (text, ack) in &said {
        // What was acknowledged before the kill stands where it was said to.
        let told = cut_off
            .heard(ack)
            .into_iter()
            .find_map(|it| it["seq"].as_u64());
        assert!(told.is_none_or(|seq| seen[seq as usize - 1] == *text));
    }
    let mut texts: Vec<String> = said.into_iter().map(|(text, _)| text).collect();
    seen.sort();
    texts.sort();
    assert_eq!(seen, texts, "what was seen, and what was said");
}

/// What was acknowledged is there for good, and what was refused is there once when it was said again.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_killed_under_load_costs_nobody_a_message() {
    let servers = OwnServers::up();
    let log = SharedLog::in_database(&servers.setting("DATABASE_URL")).await;
    let cluster = Cluster::start(log, 2).await;
    cluster.is_connected().await;
    let mut people = Vec::new();
    for n in 0..8 {
        let room = format!("room{}", n / 4);
        people.push(cluster.join(n as usize % 2, n, &room).await);
    }
    let talk = Talk::insisting(people);
    for _ in 0..2 {
        talk.goes_on(30).await;
        servers.kill("postgres");
        talk.is_refused().await;
        servers.start("postgres");
    }
    talk.goes_on(30).await;
    talk.end(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_and_signs_cross_instances() {
    let mut cluster = Cluster::start(SharedLog::memory(), 2).await;
    cluster.is_connected().await;
    let ann = cluster.join(0, 0, "room").await;
    let bob = cluster.join(1, 1, "room").await;
    assert_eq!(
        names(&bob.heard("ack1")[0]["members"]),
        ["person0", "person1"]
    );
    assert_eq!(ann.first("user_joined").await["username"], "person1");
    ann.sees_present(&["person0", "person1"]).await;
    bob.emit("typing", &json!({ "roomId": "room" }));
    assert_eq!(ann.first("typing").await["userId"], bob.id.to_string());
    // Bob's second socket is on the other instance: he is one person, and no news.
    let bob_too = cluster.join(0, 1, "room").await;
    assert_eq!(
        names(&bob_too.heard("ack1")[0]["members"]),
        ["person0", "person1"]
    );
    bob.ask("leave_room", json!({ "roomId": "room" })).await;
    let carl = cluster.join(1, 2, "room").await;
    eventually("ann hears of carl", || async {
        (ann.heard("user_joined").len() == 2).then_some(())
    })
    .await;
    assert_eq!(ann.heard("user_joined")[1]["username"], "person2");
    assert!(
        ann.heard("user_left").is_empty(),
        "one socket of two is no news"
    );
    assert_eq!(
        names(&carl.heard("ack1")[0]["members"]),
        ["person0", "person1", "person2"]
    );
    bob_too.ask("leave_room", json!({ "roomId": "room" })).await;
    assert_eq!(carl.first("user_left").await["username"], "person1");
    carl.sees_present(&["person0", "person2"]).await;
    // An instance that ends in good order takes its people along.
    cluster.nodes.remove(0).stop().await;
    carl.sees_present(&["person2"]).await;
}

async fn hints_that_are_lost_are_made_up_for(log: SharedLog) {
    let mut cluster = Cluster::start(log, 0).await;
    for _ in 0..3 {
        let node = Node::start_lossy(&cluster.log, &cluster.redis, &cluster.prefix).await;
        cluster.nodes.push(node);
    }
    cluster.is_connected().await;
    let mut people = Vec::new();
    for n in 0..9 {
        people.push(cluster.join(n as usize % 3, n, "room").await);
    }
    let talk = Talk::start(people);
    talk.goes_on(300).await;
    talk.end(&cluster).await;
    // Also when nothing comes after it that would show the hole.
    let (ann, bob) = (
        cluster.join(0, 0, "quiet").await,
        cluster.join(1, 1, "quiet").await,
    );
    for seq in 1..=4 {
        ann.say_surely("anybody?", None).await;
        bob.has_seen(seq).await;
    }
    bob.check(0, 4);
}

async fn a_message_sent_again_to_another_instance_is_sent_once(log: SharedLog) {
    let cluster = Cluster::start(log, 2).await;
    cluster.is_connected().await;
    let (a, b) = (
        cluster.join(0, 0, "room").await,
        cluster.join(1, 0, "room").await,
    );
    let first = a.say_surely("once", Some("c1")).await;
    assert_eq!(b.say_surely("once", Some("c1")).await, first);
    assert_eq!(b.say_surely("twice", None).await, first + 1);
    for socket in [&a, &b] {
        socket.has_seen(first + 1).await;
        socket.check(0, first + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_have_their_room_on_two_instances() {
    let cluster = Cluster::start(SharedLog::memory(), 2).await;
    cluster.is_connected().await;
    let room = format!("dm:{}:{}", id_of(0), id_of(1));
    let (ann, bob) = (
        cluster.join(0, 0, &room).await,
        cluster.join(1, 1, &room).await,
    );
    ann.say_surely("psst", None).await;
    assert_eq!(bob.first("new_message").await["message"], "psst");
    let eve = Person::connect(cluster.nodes[1].address, 2, &room).await;
    let refused = eve.ask("join_room", json!({ "roomId": room })).await;
    assert_eq!(refused["error"]["status"], 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_word_admits_only_with_its_secret() {
    let cluster = Cluster::start(SharedLog::memory(), 1).await;
    let node = cluster.nodes[0].address;
    let payload = json!({ "id": Uuid::from_u128(5), "username": "gate" }).to_string();
    let word = |secret: &str| {
        [
            ("x-user-payload", payload.clone()),
            ("x-gateway-secret", secret.to_owned()),
        ]
    };
    assert!(connect(node, json!({}), &word(SECRET)).await.is_ok());
    for (auth, headers) in [
        (json!({}), word("guessed").to_vec()),
        (json!({}), word(SECRET)[..1].to_vec()),
        (json!({ "token": "bad" }), word(SECRET).to_vec()),
    ] {
        let refused = connect(node, auth, &headers).await;
        assert!(refused.is_err_and(|answer| answer.contains("Unauthorized")));
    }
}
