//! Chat clients that ask for much and take nothing: they hold little of the server's memory, do not stay, and harm nobody.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use socialhub_chat::{
    Chat, ChatDeps, ChatLimits, ChatUser, MemoryChatLog, NoBus, NoPresence, TokenCheck,
};
use socialhub_infra::clock::{RandomIds, SystemClock};
use socialhub_tests::support::{Server, server::PATIENCE};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message, tungstenite::Result,
};

/// Messages of the room, each as long as may be.
const MESSAGES: usize = 1_000;
const LONGEST: usize = 4_000;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A socket that is read from only when somebody wants to.
struct Raw(Socket);

impl Raw {
    async fn connect(address: &str, token: &str) -> Self {
        let mut raw = Self::open(address, token).await;
        let answer = raw.next_with("4").await;
        assert!(answer.starts_with("40"), "{answer}");
        raw
    }

    /// Asks to be let in.
    async fn open(address: &str, token: &str) -> Self {
        let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket");
        let (socket, _) = connect_async(url).await.unwrap();
        let mut raw = Self(socket);
        raw.next_with("0").await;
        let auth = json!({ "token": token });
        raw.0
            .send(Message::text(format!("40{auth}")))
            .await
            .unwrap();
        raw
    }

    async fn emit(&mut self, packet: &str, event: &str, payload: Value) -> Result<()> {
        let text = format!("{packet}{}", json!([event, payload]));
        self.0.send(Message::text(text)).await
    }

    /// The next packet that begins so.
    async fn next_with(&mut self, start: &str) -> String {
        let find = async {
            loop {
                let message = self.0.next().await.expect("it is connected").unwrap();
                let text = message.into_text().unwrap();
                if text.starts_with(start) {
                    return text.to_string();
                }
                if text == "2" {
                    self.0.send(Message::text("3")).await.unwrap();
                }
            }
        };
        timeout(PATIENCE, find).await.expect("it comes in time")
    }

    /// Enters a room; how many messages the history has.
    async fn join(&mut self, room: &str) -> usize {
        let payload = json!({ "roomId": room, "after": 0 });
        self.emit("421", "join_room", payload).await.unwrap();
        let ack = self.next_with("431").await;
        assert!(ack.contains("\"ok\":true"), "{ack}");
        let history = self.next_with("42[\"message_history\"").await;
        let history: Value = serde_json::from_str(&history[2..]).unwrap();
        history[1].as_array().unwrap().len()
    }

    async fn fill(&mut self, room: &str, messages: usize) {
        self.join(room).await;
        let payload = json!({ "roomId": room, "message": "m".repeat(LONGEST) });
        for _ in 0..messages {
            let sent = self.emit("422", "send_message", payload.clone());
            sent.await.unwrap();
            self.next_with("432").await;
        }
    }
}

/// The most memory that a process ever held, in MiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() / 1024
}

#[tokio::test]
async fn who_asks_for_histories_and_never_reads_holds_little_memory() {
    let server = Server::start().await;
    let address = format!("127.0.0.1:{}", server.port());
    let person = server.client().sign_up("teller").await;
    let hoarder = server.client().sign_up("hoarder").await;
    let mut teller = Raw::connect(&address, &person.token).await;
    teller.fill("hoarded", MESSAGES).await;
    assert_eq!(teller.join("hoarded").await, MESSAGES);
    let before = peak(server.pid());
    let mut silent = Vec::new();
    for n in 0..4 {
        let mut raw = Raw::connect(&address, &hoarder.token).await;
        for _ in 0..50 {
            let payload = json!({ "roomId": "hoarded", "after": 0 });
            raw.emit("42", "join_room", payload).await.unwrap();
            if n % 2 == 1 {
                let payload = json!({ "roomId": "hoarded" });
                raw.emit("42", "leave_room", payload).await.unwrap();
            }
        }
        silent.push(raw);
    }
    // Others are served meanwhile, the whole history.
    for _ in 0..5 {
        assert_eq!(teller.join("hoarded").await, MESSAGES);
    }
    let held = peak(server.pid()) - before;
    assert!(held < 200, "{held} MiB more than before");
}

/// Tokens are names.
struct Anybody;

impl TokenCheck for Anybody {
    fn check(&self, token: &str) -> Option<ChatUser> {
        let id = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, token.as_bytes());
        Some(ChatUser {
            id: socialhub_domain::UserId(id),
            username: token.into(),
        })
    }
}

async fn chat(limits: ChatLimits) -> SocketAddr {
    let chat = Chat::start(ChatDeps {
        log: Arc::new(MemoryChatLog::default()),
        tokens: Arc::new(Anybody),
        bus: Arc::new(NoBus),
        presence: Arc::new(NoPresence),
        clock: Arc::new(SystemClock),
        ids: Arc::new(RandomIds),
        gateway_secret: None,
        limits,
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, chat.router()).await });
    address
}

#[tokio::test]
async fn who_takes_nothing_is_cut_off_and_others_go_on() {
    let limits = ChatLimits {
        patience: Duration::from_secs(3),
        recheck: Duration::from_millis(50),
        ..ChatLimits::default()
    };
    let address = chat(limits).await.to_string();
    let mut ann = Raw::connect(&address, "ann").await;
    ann.fill("room", MESSAGES).await;
    let mut eve = Raw::connect(&address, "eve").await;
    for _ in 0..100 {
        let payload = json!({ "roomId": "room", "after": 0 });
        eve.emit("42", "join_room", payload).await.unwrap();
    }
    // Signs of life are no reading.
    let pretend = async {
        while eve.0.send(Message::text("3")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, pretend).await.expect("she is cut off");
    ann.emit(
        "422",
        "send_message",
        json!({ "roomId": "room", "message": "peace" }),
    )
    .await
    .unwrap();
    ann.next_with("432").await;
    assert_eq!(ann.join("room").await, MESSAGES);
}

#[tokio::test]
async fn one_person_has_so_many_sockets_and_histories() {
    let limits = ChatLimits {
        sockets_of_one: 2,
        histories: 3.0,
        histories_per_second: 0.0,
        ..ChatLimits::default()
    };
    let address = chat(limits).await.to_string();
    let mut sockets = [
        Raw::connect(&address, "eve").await,
        Raw::connect(&address, "eve").await,
    ];
    let refused = Raw::open(&address, "eve").await.next_with("44").await;
    assert!(refused.contains("Too many connections"), "{refused}");
    for n in 0..3 {
        sockets[n % 2].join("room").await;
    }
    let payload = json!({ "roomId": "room" });
    sockets[0].emit("425", "join_room", payload).await.unwrap();
    let ack = sockets[0].next_with("435").await;
    assert!(ack.contains("\"status\":429"), "{ack}");
    Raw::connect(&address, "ann").await.join("room").await;
    // A socket that ends makes room for another.
    let [first, _second] = sockets;
    drop(first);
    let come_back = async {
        while !Raw::open(&address, "eve")
            .await
            .next_with("4")
            .await
            .starts_with("40")
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, come_back).await.expect("she is let in");
}

/// A client that polls.
struct Poller {
    http: reqwest::Client,
    url: String,
}

impl Poller {
    async fn connect(address: &str, token: &str) -> Self {
        socialhub_infra::tls::install();
        let http = reqwest::Client::new();
        let url = format!("http://{address}/socket.io/?EIO=4&transport=polling");
        let opened = http.get(&url).send().await.unwrap().text().await.unwrap();
        let opened: Value = serde_json::from_str(&opened[1..]).unwrap();
        let url = format!("{url}&sid={}", opened["sid"].as_str().unwrap());
        let poller = Self { http, url };
        let auth = json!({ "token": token });
        assert_eq!(poller.post(format!("40{auth}")).await, 200);
        let answer = poller.poll().await;
        assert!(answer.contains("40{"), "{answer}");
        poller
    }

    async fn post(&self, packet: String) -> u16 {
        let answer = self.http.post(&self.url).body(packet).send().await;
        answer.unwrap().status().as_u16()
    }

    async fn poll(&self) -> String {
        let answer = self.http.get(&self.url).send().await.unwrap();
        answer.text().await.unwrap()
    }

    async fn join(&self) {
        let join = json!(["join_room", { "roomId": "room", "after": 0 }]);
        assert_eq!(self.post(format!("42{join}")).await, 200);
    }
}

#[tokio::test]
async fn a_polling_client_gets_all_it_asks_for_and_is_cut_off_when_it_polls_no_more() {
    let limits = ChatLimits {
        patience: Duration::from_secs(3),
        recheck: Duration::from_millis(50),
        ..ChatLimits::default()
    };
    let address = chat(limits).await.to_string();
    let mut ann = Raw::connect(&address, "ann").await;
    ann.fill("room", MESSAGES).await;
    let eve = Poller::connect(&address, "eve").await;
    let mut histories = 0;
    for _ in 0..4 {
        eve.join().await;
    }
    while histories < 4 {
        let packets = timeout(PATIENCE, eve.poll()).await.expect("they come");
        histories += packets.matches("[\"message_history\"").count();
        if packets.split('\u{1e}').any(|packet| packet == "2") {
            eve.post("3".to_owned()).await;
        }
    }
    eve.join().await;
    let pretend = async {
        while eve.post("3".to_owned()).await == 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, pretend).await.expect("she is cut off");
}
