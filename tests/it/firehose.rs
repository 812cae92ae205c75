//! The firehose: every event, from any position, without anything personal.

use std::{collections::HashSet, time::Duration};

use reqwest::{Method, Response};
use serde_json::{Value, json};
use socialhub_tests::support::{
    Client, Profile, Server, client::PASSWORD, eventually, profile::OPERATOR_TOKEN,
};

/// A server that has an operator.
pub async fn server() -> Server {
    let mut environment = Profile::chosen().environment().await;
    if !environment.iter().any(|(name, _)| name == "OPERATOR_TOKEN") {
        environment.push(("OPERATOR_TOKEN".to_owned(), OPERATOR_TOKEN.to_owned()));
    }
    Server::start_in(&["--rate-limits", "off"], environment).await
}

pub fn operator(server: &Server) -> Client {
    server.client().with_token("", "", OPERATOR_TOKEN)
}

/// One server-sent event.
#[derive(Debug)]
struct Told {
    id: u64,
    event: Option<String>,
    data: Option<Value>,
}

/// An open stream.
pub struct Hose {
    response: Response,
    text: String,
    /// Everything that came.
    all: String,
}

impl Hose {
    /// Opens a stream; the first id is read.
    pub async fn open(operator: &Client, query: &str, last: Option<u64>) -> Self {
        let mut request = operator.request(Method::GET, &format!("/events/stream{query}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last.to_string());
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let mut hose = Self {
            response,
            text: String::new(),
            all: String::new(),
        };
        assert!(hose.next().await.unwrap().data.is_none());
        hose
    }

    /// The next event; none at the end of the stream.
    async fn next(&mut self) -> Option<Told> {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let line = event.lines().find_map(|line| line.strip_prefix(name));
                    line.map(|value| value.trim().to_owned())
                };
                let told = field("id:").map(|id| Told {
                    id: id.parse().unwrap(),
                    event: field("event:"),
                    data: field("data:").map(|data| serde_json::from_str(&data).unwrap()),
                });
                self.text = rest.to_owned();
                if told.is_some() {
                    return told;
                }
            }
            let chunk = self.response.chunk().await.ok()??;
            let chunk = std::str::from_utf8(&chunk).unwrap();
            self.text.push_str(chunk);
            self.all.push_str(chunk);
        }
    }

    /// Reads up to a position, which must come; answers the events that had data.
    pub async fn up_to(&mut self, position: u64) -> Vec<Value> {
        let mut told = Vec::new();
        loop {
            let next = self.next().await.expect("the stream goes on");
            if let Some(data) = next.data {
                assert_eq!(data["position"], next.id);
                assert_eq!(data["type"], next.event.unwrap());
                told.push(data);
            }
            if next.id >= position {
                return told;
            }
        }
    }
}

fn positions(events: &[Value]) -> Vec<u64> {
    let position = |event: &Value| event["position"].as_u64().unwrap();
    events.iter().map(position).collect()
}

/// Somebody's post; answers the position it was written at.
async fn write(author: &Client, content: &str) -> u64 {
    let answer = author.post("/posts/", json!({ "content": content })).await;
    let answer = answer.expect_status(201);
    answer.header("x-position").parse().unwrap()
}

/// The highest position that the writers were told.
async fn write_all(people: &[Client], rounds: usize) -> u64 {
    let writers = people.iter().map(|person| {
        let person = person.clone();
        tokio::spawn(async move {
            let mut last = 0;
            for round in 0..rounds {
                last = write(&person, &format!("round {round}")).await;
            }
            last
        })
    });
    let mut last = 0;
    for writer in writers.collect::<Vec<_>>() {
        last = last.max(writer.await.unwrap());
    }
    last
}

const WRITERS: usize = 6;
const ROUNDS: usize = 25;

#[tokio::test]
async fn nothing_is_missing_between_what_was_and_what_is_to_come() {
    let server = server().await;
    let operator = operator(&server);
    let mut people = Vec::new();
    for _ in 0..WRITERS {
        people.push(server.client().sign_up("hose").await);
    }
    let archive = write_all(&people, 5).await;
    // Readers begin in the archive while events are being written: one stays, one comes back again and again, one begins
    // in the middle, and one is there only when all is over.
    let writing = {
        let people = people.clone();
        tokio::spawn(async move { write_all(&people, ROUNDS).await })
    };
    let wanted = archive + (WRITERS * ROUNDS) as u64;
    let staying = {
        let operator = operator.clone();
        tokio::spawn(async move { Hose::open(&operator, "", None).await.up_to(wanted).await })
    };
    let returning = {
        let operator = operator.clone();
        tokio::spawn(async move { come_and_go(&operator, wanted).await })
    };
    let middle = Hose::open(&operator, &format!("?after={archive}"), None)
        .await
        .up_to(wanted)
        .await;
    assert_eq!(writing.await.unwrap(), wanted);
    let staying = staying.await.unwrap();
    assert_eq!(positions(&staying), (1..=wanted).collect::<Vec<_>>());
    assert_eq!(returning.await.unwrap(), staying);
    let rest = usize::try_from(archive).unwrap();
    assert_eq!(middle, staying[rest..]);
    let late = Hose::open(&operator, "?after=0", None)
        .await
        .up_to(wanted)
        .await;
    assert_eq!(late, staying);
    let ids: HashSet<_> = staying
        .iter()
        .map(|event| event["eventId"].as_str())
        .collect();
    assert_eq!(ids.len(), staying.len());
}

/// Reads a few events of each connection and goes on after the last one on another.
async fn come_and_go(operator: &Client, wanted: u64) -> Vec<Value> {
    let (mut events, mut last) = (Vec::new(), None);
    while last < Some(wanted) {
        // `after` stays in the address, as with a browser's EventSource.
        let mut hose = Hose::open(operator, "?after=0", last).await;
        let from = last.unwrap_or(0);
        events.extend(hose.up_to((from + 1).min(wanted)).await);
        last = events
            .last()
            .map(|event: &Value| event["position"].as_u64().unwrap());
    }
    events
}

#[tokio::test]
async fn a_reader_goes_on_where_it_was_when_the_server_is_killed() {
    let mut server = server().await;
    let ada = server.client().sign_up("killed").await;
    write(&ada, "before").await;
    let mut hose = Hose::open(&operator(&server), "", None).await;
    hose.up_to(2).await;
    server.kill();
    assert!(hose.next().await.is_none());
    server.restart().await;
    let wanted = write(&ada, "after").await;
    let mut hose = Hose::open(&operator(&server), "?after=0", Some(2)).await;
    assert_eq!(positions(&hose.up_to(wanted).await), [wanted]);
}

#[tokio::test]
async fn nothing_personal_is_in_it() {
    let server = server().await;
    let (ada, bob) = (
        server.client().sign_up("zyxadafirst").await,
        server.client().sign_up("zyxbobsecond").await,
    );
    ada.patch(
        "/users/profile",
        json!({ "name": "Zyxname", "bio": "Zyxbio", "avatar": "https://zyx.example/a.png" }),
    )
    .await
    .expect_status(200);
    let post = ada.write_post("Zyxcontent", "followers").await;
    let follow = json!({ "notify": true });
    bob.post(&format!("/users/follow/{}", ada.id), follow)
        .await
        .expect_status(200);
    bob.post(&format!("/posts/{post}/like"), Value::Null)
        .await
        .expect_status(200);
    let comment = json!({ "comment": "Zyxcomment" });
    let last = bob
        .post(&format!("/posts/{post}/comment"), comment)
        .await
        .expect_status(201);
    let last = last.header("x-position").parse().unwrap();
    let mut hose = Hose::open(&operator(&server), "", None).await;
    let events = hose.up_to(last).await;
    let types: Vec<_> = events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        types,
        [
            "user.registered",
            "user.registered",
            "user.profile_updated",
            "post.created",
            "user.followed",
            "post.liked",
            "post.commented",
        ]
    );
    let all = hose.all.to_lowercase();
    assert!(!all.contains("zyx") && !all.contains("sealed"), "{all}");
    assert_eq!(events[3]["payload"]["visibility"], "followers");
    assert_eq!(events[6]["payload"]["commenterId"], bob.id.as_str());
    // Who is erased comes by as an event like any other, and changes nothing of what was told.
    let request = bob
        .request(Method::DELETE, "/users/me")
        .json(&json!({ "password": PASSWORD }));
    let erased = bob.send(request).await;
    assert!((200..300).contains(&erased.status), "{erased:?}");
    let erased = hose.next().await.unwrap();
    assert_eq!(erased.event.as_deref(), Some("user.erased"));
    let again = Hose::open(&operator(&server), "", None)
        .await
        .up_to(last)
        .await;
    assert_eq!(again, events);
}

#[tokio::test]
async fn the_cursor_moves_while_nothing_matches() {
    let server = server().await;
    let operator = operator(&server);
    let ada = server.client().sign_up("cursor").await;
    let query = "?types=comment.deleted,user.unfollowed";
    let mut hose = Hose::open(&operator, query, None).await;
    let last = write_all(&[ada.clone(), ada.clone()], 20).await;
    assert!(hose.up_to(last).await.is_empty());
    drop(hose);
    let mut hose = Hose::open(&operator, query, Some(last)).await;
    let post = ada.write_post("to be commented", "public").await;
    let path = format!("/posts/{post}/comment");
    let comment = ada.post(&path, json!({ "comment": "gone soon" })).await;
    let comment = comment.expect_status(201);
    let path = format!("/posts/{post}/comments/{}", comment.text("/comment/id"));
    let gone = ada.delete(&path).await;
    let position: u64 = gone.header("x-position").parse().unwrap();
    let told = hose.up_to(position).await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["type"], "comment.deleted");
    assert_eq!(told[0]["payload"]["postId"], post.as_str());
}

#[tokio::test]
async fn it_is_the_operators_and_bad_input_is_named() {
    let server = server().await;
    let ada = server.client().sign_up("nosy").await;
    let path = "/events/stream";
    for client in [&server.client(), &ada] {
        let answer = client.get(path).await;
        answer.expect_problem(401, "Unauthorized");
    }
    let operator = operator(&server);
    for (query, field) in [
        ("?after=-1", "after"),
        ("?after=first", "after"),
        ("?types=post.exploded", "types"),
        ("?types=", "types"),
    ] {
        let answer = operator.get(&format!("{path}{query}")).await;
        answer.expect_fields(&[field]);
    }
    let answer = operator.get("/api/v1/events/stream?after=1000").await;
    let answer = answer.expect_fields(&["after"]);
    let message = answer.text("/errors/0/message");
    assert!(
        message.contains("past the end of the log") && message.ends_with("position 1"),
        "{message}"
    );
    let request = operator
        .request(Method::GET, path)
        .header("last-event-id", "1000");
    let answer = operator.send(request).await;
    answer.expect_fields(&["Last-Event-ID"]);
}

#[tokio::test]
async fn without_an_operator_it_is_nobodys() {
    if Profile::chosen() == Profile::Distributed {
        // Does not start without one.
        return;
    }
    let server = Server::start().await;
    let answer = operator(&server).get("/events/stream").await;
    let answer = answer.expect_problem(403, "Forbidden");
    assert!(answer.text("/detail").contains("OPERATOR_TOKEN"));
}

#[tokio::test]
async fn there_are_so_many_places_and_a_stop_ends_all() {
    let mut server = server().await;
    let operator = operator(&server);
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(Hose::open(&operator, "", None).await);
    }
    let refused = operator.get_as_is("/events/stream").await;
    assert_eq!(refused.header("retry-after"), "5");
    refused.expect_problem(503, "Temporarily unavailable");
    open.pop();
    let operator = &operator;
    let room = eventually("there is room again", || async move {
        let request = operator.request(Method::GET, "/events/stream");
        let response = request.send().await.unwrap();
        (response.status() == 200).then_some(response)
    });
    let _room = room.await;
    let asked = tokio::time::Instant::now();
    assert!(server.stop().await, "it did not end in order");
    assert!(asked.elapsed() < Duration::from_secs(10));
    for mut hose in open {
        assert!(hose.next().await.is_none());
    }
}
