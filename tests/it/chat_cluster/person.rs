//! Somebody with a socket: remembers what they were sent.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use socialhub_tests::support::{eventually, server::PATIENCE};
use tokio::{net::TcpStream, sync::mpsc, task::JoinHandle};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};
use uuid::Uuid;

/// The server's sign of life, and the answer to it.
const PING: &str = "2";
const PONG: &str = "3";

/// A connected socket.
pub struct Person {
    pub id: Uuid,
    pub name: String,
    pub room: String,
    events: Arc<Mutex<Vec<(String, Value)>>>,
    out: mpsc::UnboundedSender<String>,
    acks: AtomicU64,
    task: JoinHandle<()>,
}

/// A person's token, as the instances of these tests understand it.
fn token(id: Uuid, name: &str) -> String {
    format!("{id}:{name}")
}

/// The ids of people, by number.
pub fn id_of(n: u64) -> Uuid {
    Uuid::from_u128(u128::from(n) + 1)
}

/// Connects; the socket, or the message of the refusal.
pub async fn connect(
    node: SocketAddr,
    auth: Value,
    headers: &[(&'static str, String)],
) -> Result<WebSocketStream<TcpStream>, String> {
    let stream = TcpStream::connect(node).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let url = format!("ws://{node}/socket.io/?EIO=4&transport=websocket");
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers_mut().insert(*name, value);
    }
    let (mut socket, _) = client_async(request, stream).await.unwrap();
    assert!(text(&mut socket).await.unwrap().starts_with('0'));
    socket
        .send(Message::text(format!("40{auth}")))
        .await
        .unwrap();
    let mut answer = text(&mut socket).await.unwrap();
    while answer == PING {
        socket.send(Message::text(PONG)).await.unwrap();
        answer = text(&mut socket).await.unwrap();
    }
    if answer.starts_with("40") {
        Ok(socket)
    } else {
        Err(answer)
    }
}

async fn text(socket: &mut WebSocketStream<TcpStream>) -> Option<String> {
    let message = socket.next().await?.ok()?;
    Some(message.to_text().unwrap_or_default().to_owned())
}

impl Person {
    /// Connects the person of this number and joins the room.
    pub async fn join(node: SocketAddr, n: u64, room: &str, after: Option<u64>) -> Self {
        let person = Self::connect(node, n, room).await;
        let mut payload = json!({ "roomId": room });
        if let Some(after) = after {
            payload["after"] = after.into();
        }
        let ack = person.ask("join_room", payload).await;
        assert_eq!(ack["ok"], true, "{ack}");
        person
    }

    /// Connects the person of this number.
    pub async fn connect(node: SocketAddr, n: u64, room: &str) -> Self {
        let (id, name) = (id_of(n), format!("person{n}"));
        let auth = json!({ "token": token(id, &name) });
        let mut socket = connect(node, auth, &[]).await.unwrap();
        let (out, mut packets) = mpsc::unbounded_channel::<String>();
        let events: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let heard = events.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    packet = packets.recv() => {
                        let Some(packet) = packet else { return };
                        if socket.send(Message::text(packet)).await.is_err() {
                            return;
                        }
                    }
                    packet = text(&mut socket) => match packet.as_deref() {
                        None => return,
                        Some(PING) => {
                            let _ = socket.send(Message::text(PONG)).await;
                        }
                        Some(packet) => heard.lock().unwrap().extend(read(packet)),
                    },
                }
            }
        });
        Self {
            id,
            name,
            room: room.to_owned(),
            events,
            out,
            acks: AtomicU64::new(1),
            task,
        }
    }

    /// Emits an event and waits for its acknowledgement.
    pub async fn ask(&self, event: &str, payload: Value) -> Value {
        let name = self.begin_to_ask(event, &payload).unwrap();
        self.first(&name).await
    }

    /// Emits an event that is to be acknowledged; the acknowledgement's name. Nothing when nobody listens any more.
    fn begin_to_ask(&self, event: &str, payload: &Value) -> Option<String> {
        let ack = self.acks.fetch_add(1, Ordering::Relaxed);
        let packet = json!([event, payload]);
        self.out.send(format!("42{ack}{packet}")).ok()?;
        Some(format!("ack{ack}"))
    }

    /// Emits an event.
    pub fn emit(&self, event: &str, payload: &Value) {
        // Who was cut off speaks to nobody.
        let _ = self.out.send(format!("42{}", json!([event, payload])));
    }

    /// Says something in the room; nobody waits for it.
    pub fn say(&self, message: &str) {
        self.emit(
            "send_message",
            &json!({ "roomId": self.room, "message": message }),
        );
    }

    /// Says something in the room, and waits until it is stored; its `seq`.
    pub async fn say_surely(&self, message: &str, client_id: Option<&str>) -> u64 {
        let payload = json!({ "roomId": self.room, "message": message, "clientId": client_id });
        let ack = self.ask("send_message", payload).await;
        ack["seq"].as_u64().unwrap_or_else(|| panic!("{ack}"))
    }

    /// Says something in the room until it is stored, under a name, so that it is stored once; counts how often that was
    /// refused.
    pub async fn insist(&self, message: &str, client_id: &str, refused: &AtomicU64) {
        loop {
            let asked = self.say_as(message, client_id).unwrap();
            let ack = self.first(&asked).await;
            if ack["ok"] == true {
                return;
            }
            assert_eq!(ack["error"]["status"], 503, "{ack}");
            refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Says something in the room under a name of its own, and does not wait for the acknowledgement, whose name this
    /// answers; nothing when nobody listens any more.
    pub fn say_as(&self, message: &str, client_id: &str) -> Option<String> {
        let payload = json!({ "roomId": self.room, "message": message, "clientId": client_id });
        self.begin_to_ask("send_message", &payload)
    }

    /// Whether the connection has ended.
    pub fn is_cut_off(&self) -> bool {
        self.out.is_closed()
    }

    /// All that came of one event.
    pub fn heard(&self, event: &str) -> Vec<Value> {
        let events = self.events.lock().unwrap();
        let of_it = events.iter().filter(|(name, _)| name == event);
        of_it.map(|(_, body)| body.clone()).collect()
    }

    /// The first that came of one event, when it comes.
    pub async fn first(&self, event: &str) -> Value {
        let what = format!("{} hears {event}", self.name);
        eventually(&what, || async { self.heard(event).into_iter().next() }).await
    }

    /// All messages shown, history and live, in the order they came.
    pub fn messages(&self) -> Vec<Value> {
        let mut messages = Vec::new();
        for (event, body) in self.events.lock().unwrap().iter() {
            match event.as_str() {
                "message_history" => messages.extend(body.as_array().unwrap().iter().cloned()),
                "new_message" => messages.push(body.clone()),
                _ => {}
            }
        }
        messages
    }

    /// The `seq`s of all messages shown, in the order they came.
    pub fn seqs(&self) -> Vec<u64> {
        self.messages().iter().map(seq).collect()
    }

    /// The last `seq` shown; 0 when there was none.
    pub fn last_seq(&self) -> u64 {
        self.seqs().last().copied().unwrap_or(0)
    }

    /// The `seq`s of the messages that were acknowledged to them.
    pub fn acked(&self) -> Vec<u64> {
        let events = self.events.lock().unwrap();
        let acks = events.iter().filter(|(name, _)| name.starts_with("ack"));
        acks.filter_map(|(_, body)| body["seq"].as_u64()).collect()
    }

    /// Waits until the room was seen up to here.
    pub async fn has_seen(&self, seq: u64) {
        let what = format!("{} sees {} up to {seq}", self.name, self.room);
        eventually(&what, || async { (self.last_seq() >= seq).then_some(()) }).await;
    }

    /// Fails unless every message after `after` was shown once and in order.
    pub fn check(&self, after: u64, last: u64) {
        let expected: Vec<u64> = (after + 1..=last).collect();
        let seqs = self.seqs();
        assert_eq!(seqs, expected, "{} in {}", self.name, self.room);
    }

    /// The names last shown as present.
    pub fn present(&self) -> Vec<String> {
        let last = self.heard("presence").pop();
        names(&last.map_or(Value::Null, |body| body["users"].clone()))
    }

    /// Waits until exactly these are shown as present.
    pub async fn sees_present(&self, people: &[&str]) {
        let give_up = tokio::time::Instant::now() + PATIENCE;
        while self.present() != people {
            let (name, present) = (&self.name, self.present());
            let late = tokio::time::Instant::now() >= give_up;
            assert!(!late, "{name} sees {present:?} and not {people:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn seq(message: &Value) -> u64 {
    message["seq"].as_u64().unwrap()
}

/// The usernames of a list of people, sorted.
pub fn names(people: &Value) -> Vec<String> {
    let people = people.as_array().into_iter().flatten();
    let mut names: Vec<String> = people
        .map(|one| one["username"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// An event or an acknowledgement out of a packet.
fn read(packet: &str) -> Option<(String, Value)> {
    if let Some(body) = packet.strip_prefix("42") {
        let (name, body): (String, Value) = serde_json::from_str(body).unwrap();
        return Some((name, body));
    }
    let answer = packet.strip_prefix("43")?;
    let (id, body) = answer.split_at(answer.find('[')?);
    let (body,): (Value,) = serde_json::from_str(body).unwrap();
    Some((format!("ack{id}"), body))
}
