//! People with a bit of everything, and whether it is all there.

use std::collections::BTreeMap;

use futures::SinkExt;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use socialhub_tests::support::{Client, Server};
use tokio_tungstenite::tungstenite::Message;

use crate::{chat_cluster::person, media::png};

/// Says something in a room, under a name, and answers the acknowledgement.
pub(super) async fn say(
    server: &Server,
    who: &Client,
    room: &str,
    text: &str,
    name: &str,
) -> Value {
    let address = ([127, 0, 0, 1], server.port()).into();
    let auth = json!({ "token": who.token });
    let mut socket = person::connect(address, auth, &[]).await.unwrap();
    let say = json!(["send_message", { "roomId": room, "message": text, "clientId": name }]);
    let join = json!(["join_room", { "roomId": room }]);
    let packets = [format!("420{join}"), format!("421{say}")];
    for packet in packets {
        socket.send(Message::text(packet)).await.unwrap();
    }
    loop {
        let packet = futures::StreamExt::next(&mut socket)
            .await
            .unwrap()
            .unwrap();
        let Some(answer) = packet.to_text().unwrap().strip_prefix("431") else {
            continue;
        };
        let answer: Value = serde_json::from_str(answer).unwrap();
        assert_eq!(answer[0]["ok"], true, "{answer}");
        return answer[0].clone();
    }
}

/// A small network with a bit of everything.
pub(super) struct Network {
    pub(super) ada: Client,
    pub(super) bob: Client,
    pub(super) post: String,
    pub(super) picture: String,
}

pub(super) async fn network(server: &Server) -> Network {
    let (ada, bob) = (
        server.client().sign_up("ada").await,
        server.client().sign_up("bob").await,
    );
    let follow = format!("/users/follow/{}", ada.id);
    bob.post(&follow, json!({ "notify": true }))
        .await
        .expect_status(200);
    let post = ada.write_post("hello \u{1F600} \"quoted\"", "public").await;
    ada.write_post("only mine", "private").await;
    let form = |content: &'static str| {
        let file = Part::bytes(png(70_000)).file_name("a.png");
        Form::new()
            .text("content", content)
            .text("visibility", "public")
            .part("files", file)
    };
    let pictured = ada
        .post_form("/posts/", form("a picture"))
        .await
        .expect_status(201);
    let gone = ada
        .post_form("/posts/", form("gone"))
        .await
        .expect_status(201);
    let gone = gone.text("/post/id").to_owned();
    let deleted = ada.delete(&format!("/posts/{gone}")).await;
    deleted.expect_status(204);
    bob.put(&format!("/posts/{post}/like"), Value::Null)
        .await
        .expect_status(200);
    let comment = json!({ "comment": "well said" });
    bob.post(&format!("/posts/{post}/comment"), comment)
        .await
        .expect_status(201);
    for nth in 0..3 {
        let name = format!("n{nth}");
        say(server, &bob, "room", &format!("words {nth}"), &name).await;
    }
    say(server, &ada, "another", "alone", "n0").await;
    Network {
        picture: pictured.text("/post/media/0/url").to_owned(),
        ada,
        bob,
        post,
    }
}

impl Network {
    /// Everything that can be asked, once the read models are where the person's own last write is.
    pub(super) async fn answers(&self) -> BTreeMap<String, Value> {
        let paths = [
            format!("/users/profile/{}", self.ada.id),
            format!("/users/profile/{}", self.bob.id),
            format!("/users/followers/{}", self.ada.id),
            format!("/users/search?q={}", self.ada.username),
            format!("/posts/{}", self.post),
            format!("/posts/{}/comments", self.post),
            format!("/posts/user/{}", self.ada.id),
            "/api/feed/".to_owned(),
            "/api/feed/trending".to_owned(),
            "/notify/notifications".to_owned(),
            "/chat/rooms/room/messages".to_owned(),
            "/chat/rooms/another/messages".to_owned(),
        ];
        let mut answers = BTreeMap::new();
        for (who, person) in [("ada", &self.ada), ("bob", &self.bob)] {
            for path in &paths {
                let answer = person.get(path).await.expect_status(200);
                answers.insert(format!("{who}: {path}"), answer.json.clone());
            }
        }
        answers
    }

    /// The same people on another server, logged in with their old passwords.
    pub(super) async fn on(&self, server: &Server) -> Self {
        let mut people = Vec::new();
        for person in [&self.ada, &self.bob] {
            people.push(server.client().log_in_as(person).await);
        }
        let bob = people.pop().unwrap();
        Self {
            ada: people.pop().unwrap(),
            bob,
            post: self.post.clone(),
            picture: self.picture.clone(),
        }
    }
}

/// What was there, with nothing more and nothing less.
pub(super) async fn is_all_there(
    server: &Server,
    old: &Network,
    answers: &BTreeMap<String, Value>,
) {
    server.caught_up().await;
    let restored = old.on(server).await;
    assert_eq!(restored.answers().await, *answers);
    let picture = restored.bob.get(&restored.picture).await.expect_status(200);
    assert_eq!(picture.bytes, png(70_000));
    // The same name is the same message, a new one comes after it.
    let again = say(server, &restored.bob, "room", "words 1", "n1").await;
    assert_eq!(again["seq"], 2, "{again}");
    let next = say(server, &restored.bob, "room", "words 3", "n3").await;
    assert_eq!(next["seq"], 4, "{next}");
    server.verify_all().await;
    // And it goes on.
    let post = restored.ada.write_post("after", "public").await;
    restored
        .ada
        .get(&format!("/posts/{post}"))
        .await
        .expect_status(200);
}
