//! The way out: takes what waits, publishes it in one round trip, and goes on. The chat never waits for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::Pipeline;
use serde_json::value::RawValue;
use socialhub_chat::{ChatUser, Frame, RoomId, Sign};
use tokio::{sync::mpsc, time::MissedTickBehavior};

use super::wire::{HeartbeatOut, HintOut, Names, SignalOut, text};
use crate::redis::RedisLink;

/// What is published in one round trip at most.
const TAKEN: usize = 128;
/// How often an instance is heard of at least.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// How much text of messages goes with one hint. A longer run becomes several.
const HINT_BYTES: usize = 64 * 1024;

/// Something to publish.
pub(super) enum Outgoing {
    /// Messages of a room, by rising `seq`.
    Hint {
        room: RoomId,
        messages: Vec<Arc<Frame>>,
    },
    /// A passing sign.
    Sign {
        room: RoomId,
        sign: Sign,
        user: ChatUser,
    },
}

/// The task that publishes.
pub(super) struct Publisher {
    pub(super) link: RedisLink,
    pub(super) names: Arc<Names>,
    /// Hints that could not be sent.
    pub(super) lost: Arc<AtomicU64>,
}

impl Publisher {
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Outgoing>) {
        let mut taken = Vec::with_capacity(TAKEN);
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut works = false;
        loop {
            tokio::select! {
                count = queue.recv_many(&mut taken, TAKEN) => {
                    if count == 0 {
                        return;
                    }
                    // Only heartbeats try a server that has failed.
                    if works {
                        works = self.publish(&taken, false).await;
                    }
                    if !works {
                        self.count_lost(&taken);
                    }
                    taken.clear();
                }
                _ = heartbeat.tick() => {
                    let now = self.publish(&[], true).await;
                    if now != works {
                        tracing::info!(reachable = now, "chat publishes to the other instances");
                    }
                    works = now;
                }
            }
        }
    }

    fn count_lost(&self, taken: &[Outgoing]) {
        let hints = taken
            .iter()
            .filter(|out| matches!(out, Outgoing::Hint { .. }));
        self.lost.fetch_add(hints.count() as u64, Ordering::Relaxed);
    }

    async fn publish(&self, taken: &[Outgoing], heartbeat: bool) -> bool {
        let mut pipe = redis::pipe();
        for out in taken {
            self.add(&mut pipe, out);
        }
        if heartbeat {
            let beat = HeartbeatOut {
                from: &self.names.instance,
                lost: self.lost.load(Ordering::Relaxed),
            };
            pipe.publish(self.names.control(), text(&beat)).ignore();
        }
        let outcome: Result<(), _> = self.link.pipeline(&pipe).await;
        if let Err(error) = &outcome {
            tracing::debug!(%error, "chat could not publish to the other instances");
        }
        outcome.is_ok()
    }

    fn add(&self, pipe: &mut Pipeline, out: &Outgoing) {
        match out {
            Outgoing::Hint { room, messages } => {
                let channel = self.names.room(room);
                for run in runs(messages) {
                    pipe.publish(&channel, self.hint(room, run)).ignore();
                }
            }
            Outgoing::Sign { room, sign, user } => {
                let signal = SignalOut {
                    from: &self.names.instance,
                    room_id: room,
                    kind: (*sign).into(),
                    user: Some(user),
                };
                pipe.publish(self.names.signal(room), text(&signal))
                    .ignore();
            }
        }
    }

    fn hint(&self, room: &RoomId, run: &[Arc<Frame>]) -> String {
        let bodies: Vec<&RawValue> = run.iter().map(|frame| frame.json()).collect();
        text(&HintOut {
            from: &self.names.instance,
            room_id: room,
            seq: run.last().map_or(0, |frame| frame.message().seq),
            messages: &bodies,
        })
    }
}

/// Cuts messages into runs of bounded size.
fn runs(mut messages: &[Arc<Frame>]) -> impl Iterator<Item = &[Arc<Frame>]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |frame: &&Arc<Frame>| {
            bytes += frame.json().get().len();
            bytes <= HINT_BYTES
        };
        let count = messages.iter().take_while(fits).count().max(1);
        let (run, rest) = messages.split_at_checked(count)?;
        messages = rest;
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use socialhub_chat::Message;
    use socialhub_domain::{Timestamp, UserId};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn long_runs_are_cut_and_nothing_is_left_out() {
        let frame = |seq: u64| {
            Arc::new(Frame::new(Message {
                id: Uuid::from_u128(1),
                seq,
                room_id: RoomId::parse("r").unwrap(),
                user_id: UserId(Uuid::from_u128(2)),
                username: "ann".into(),
                message: "x".repeat(if seq == 3 { 100_000 } else { 30_000 }),
                timestamp: Timestamp(0),
            }))
        };
        let messages: Vec<_> = (1..=6).map(frame).collect();
        let seqs: Vec<Vec<u64>> = runs(&messages)
            .map(|run| run.iter().map(|frame| frame.message().seq).collect())
            .collect();
        assert_eq!(seqs, [vec![1, 2], vec![3], vec![4, 5], vec![6]]);
        assert_eq!(runs(&[]).count(), 0);
    }
}
