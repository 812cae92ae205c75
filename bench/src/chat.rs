//! A minimal Engine.IO 4 / Socket.IO client over websocket, and the two chat loads.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use futures::{SinkExt, StreamExt, future::join_all};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::{
    client::{BenchError, Target},
    load::{Sample, Shape},
    people::Person,
};

/// The start of every packet that brings a message of the room.
const NEW_MESSAGE: &str = "42[\"new_message\",";

/// One connected member of one room.
struct Member {
    socket: WebSocketStream<TcpStream>,
    /// How this member's own messages can be told.
    own: String,
    room: String,
    last_seq: u64,
}

fn broken(error: impl std::fmt::Display) -> BenchError {
    BenchError::answer(format!("websocket: {error}"))
}

impl Member {
    async fn join(target: &Target, person: &Person, room: String) -> Result<Self, BenchError> {
        let stream = TcpStream::connect(&target.authority).await?;
        stream.set_nodelay(true)?;
        let path = "socket.io/?EIO=4&transport=websocket";
        let url = format!("ws://{}/{path}", target.authority);
        let (socket, _) = client_async(url, stream).await.map_err(broken)?;
        let mut member = Self {
            socket,
            own: format!("\"userId\":\"{}\"", person.id),
            room,
            last_seq: 0,
        };
        member.wait_for("0").await?;
        let auth = json!({"token": person.token});
        member.send(format!("40{auth}")).await?;
        member.wait_for("40").await?;
        let join = json!(["join_room", {"roomId": member.room}]);
        member.send(format!("420{join}")).await?;
        member.wait_for("430").await?;
        Ok(member)
    }

    async fn send(&mut self, packet: String) -> Result<(), BenchError> {
        let message = Message::text(packet);
        self.socket.send(message).await.map_err(broken)
    }

    async fn say(&mut self, text: &str) -> Result<(), BenchError> {
        // Built by hand: this is the generator's hot path, and neither text nor room needs escaping.
        let room = &self.room;
        let packet = format!(r#"42["send_message",{{"roomId":"{room}","message":"{text}"}}]"#);
        self.send(packet).await
    }

    /// The next packet; answers pings on the way.
    async fn next(&mut self) -> Result<Message, BenchError> {
        loop {
            let message = self.socket.next().await;
            let message = message.ok_or_else(|| broken("closed"))?.map_err(broken)?;
            match message.to_text() {
                Ok("2") => self.send("3".to_owned()).await?,
                Ok(text) if !text.is_empty() => return Ok(message),
                _ => {}
            }
        }
    }

    async fn wait_for(&mut self, prefix: &str) -> Result<(), BenchError> {
        loop {
            let message = self.next().await?;
            let text = message.to_text().unwrap_or_default();
            if text.starts_with(prefix) {
                return Ok(());
            }
            if text.starts_with("44") {
                return Err(broken(text));
            }
        }
    }

    /// Counts a hole or a repeat in the room's order.
    fn check_order(&mut self, text: &str, sample: &mut Sample) {
        let seq = number_after(text, "\"seq\":").unwrap_or(0);
        if self.last_seq != 0 && seq != self.last_seq + 1 {
            sample.error("message out of order");
        }
        self.last_seq = seq;
    }
}

fn number_after(text: &str, key: &str) -> Option<u64> {
    let rest = &text[text.find(key)? + key.len()..];
    let end = rest.find(|c: char| !c.is_ascii_digit());
    rest[..end.unwrap_or(rest.len())].parse().ok()
}

async fn fill_rooms(
    target: &Target,
    people: &[Person],
    rooms: usize,
    name: &str,
) -> Result<Vec<Member>, BenchError> {
    let joining = people.iter().enumerate().map(|(index, person)| {
        let room = format!("{name}-{}", index % rooms);
        Member::join(target, person, room)
    });
    join_all(joining).await.into_iter().collect()
}

/// Every member sends again as soon as their own message is back. The sample's successes are deliveries (each message
/// counts once for each member of its room); its latencies are from sending to having one's own message back.
///
/// # Errors
/// When somebody cannot join.
pub async fn flood(
    target: &Target,
    people: &[Person],
    rooms: usize,
    name: &str,
    shape: Shape,
) -> Result<(Sample, u64), BenchError> {
    let members = fill_rooms(target, people, rooms, name).await?;
    let begin = Instant::now() + shape.warm_up;
    let end = begin + shape.measured;
    let delivered = Cell::new(0);
    let running = members
        .into_iter()
        .map(|member| flood_one(member, begin, end, &delivered));
    let mut sample = Sample::default();
    for part in join_all(running).await {
        sample.merge(part);
    }
    sample.elapsed = shape.measured;
    Ok((sample, delivered.get()))
}

async fn flood_one(
    mut member: Member,
    begin: Instant,
    end: Instant,
    delivered: &Cell<u64>,
) -> Sample {
    let mut sample = Sample::default();
    let work = async {
        let mut sent = Instant::now();
        member.say("hello, everybody").await?;
        loop {
            let message = member.next().await?;
            let text = message.to_text().unwrap_or_default();
            if !text.starts_with(NEW_MESSAGE) {
                continue;
            }
            member.check_order(text, &mut sample);
            let now = Instant::now();
            let counted = now >= begin && now < end;
            delivered.set(delivered.get() + u64::from(counted));
            if text.contains(&member.own) {
                if counted {
                    sample.success(now - sent);
                }
                sent = Instant::now();
                member.say("hello, everybody").await?;
            }
        }
    };
    let failed: Result<Result<(), BenchError>, _> = tokio::time::timeout_at(end.into(), work).await;
    if let Ok(Err(error)) = failed {
        sample.error(error.to_string());
    }
    sample
}

/// All members together send `per_second` messages a second; latencies are from when a message was due to its arrival
/// at each member.
///
/// # Errors
/// When somebody cannot join.
pub async fn paced(
    target: &Target,
    people: &[Person],
    rooms: usize,
    name: &str,
    shape: Shape,
    per_second: u32,
) -> Result<Sample, BenchError> {
    let members = fill_rooms(target, people, rooms, name).await?;
    let begin = Instant::now();
    let each = Duration::from_secs(1) / per_second;
    let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
    let running = (0..).zip(members).map(|(turn, member)| {
        let timing = Timing {
            begin,
            warm: shape.warm_up,
            end: begin + shape.warm_up + shape.measured,
            first: begin + each * turn,
            step: each * count,
        };
        paced_one(member, timing)
    });
    let mut sample = Sample::default();
    for part in join_all(running).await {
        sample.merge(part);
    }
    sample.elapsed = shape.measured;
    Ok(sample)
}

#[derive(Debug, Clone, Copy)]
struct Timing {
    begin: Instant,
    warm: Duration,
    end: Instant,
    first: Instant,
    step: Duration,
}

async fn paced_one(mut member: Member, timing: Timing) -> Sample {
    let mut sample = Sample::default();
    let work = async {
        let mut due = timing.first;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {
                    // The text says when the message was due, so that every member can tell how long it took.
                    let micros = (due - timing.begin).as_micros();
                    member.say(&format!("due {micros} us")).await?;
                    due += timing.step;
                }
                message = member.next() => {
                    let message = message?;
                    let text = message.to_text().unwrap_or_default();
                    if !text.starts_with(NEW_MESSAGE) {
                        continue;
                    }
                    member.check_order(text, &mut sample);
                    let due = number_after(text, "due ").map(Duration::from_micros);
                    if let Some(due) = due.filter(|due| *due >= timing.warm) {
                        sample.success(timing.begin.elapsed().saturating_sub(due));
                    }
                }
            }
        }
    };
    let failed: Result<Result<(), BenchError>, _> =
        tokio::time::timeout_at(timing.end.into(), work).await;
    if let Ok(Err(error)) = failed {
        sample.error(error.to_string());
    }
    sample
}

#[cfg(test)]
mod tests {
    use super::number_after;

    #[test]
    fn numbers_are_found() {
        assert_eq!(number_after(r#"{"seq":12,"x":1}"#, "\"seq\":"), Some(12));
        assert_eq!(number_after("due 7", "due "), Some(7));
        assert_eq!(number_after("nothing", "due "), None);
    }
}
