//! The way in: hears all rooms, passes on what concerns those with members here, and says when it is deaf.

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use futures::StreamExt;
use redis::{
    Client, Msg, RedisResult,
    aio::{PubSubSink, PubSubStream},
};
use serde::de::DeserializeOwned;
use socialhub_chat::Inbox;
use tokio::time::timeout;

use super::wire::{Channel, HeartbeatIn, HintIn, Names, SignalIn};

/// Who hears nothing for so long is deaf. It is four heartbeats of this instance alone.
const SILENCE: Duration = Duration::from_secs(1);
/// Pauses between attempts to subscribe.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Instances of which it is remembered how many hints they lost.
const REMEMBERED: usize = 1_000;

/// The task that listens.
pub(super) struct Listener {
    pub(super) client: Client,
    pub(super) names: Arc<Names>,
    pub(super) inbox: Inbox,
}

impl Listener {
    pub(super) async fn run(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            match within(self.subscribe()).await {
                // The sink holds the connection open.
                Some((_sink, messages)) => {
                    if self.listen(messages).await {
                        pause = FIRST_PAUSE;
                        self.inbox.link(false);
                        tracing::warn!("chat does not hear the other instances: it reads the log");
                    }
                }
                None => tracing::debug!("chat could not subscribe to the other instances"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn subscribe(&self) -> RedisResult<(PubSubSink, PubSubStream)> {
        let mut pubsub = self.client.get_async_pubsub().await?;
        pubsub.psubscribe(self.names.pattern()).await?;
        Ok(pubsub.split())
    }

    /// Listens until nothing is heard any more; whether anything was.
    async fn listen(&self, mut messages: PubSubStream) -> bool {
        let mut heard = false;
        let mut lost = HashMap::new();
        while let Ok(Some(message)) = timeout(SILENCE, messages.next()).await {
            if !heard {
                heard = true;
                self.inbox.link(true);
                tracing::info!("chat hears the other instances");
            }
            self.hear(&message, &mut lost);
        }
        heard
    }

    fn hear(&self, message: &Msg, lost: &mut HashMap<String, u64>) {
        let payload = std::str::from_utf8(message.get_payload_bytes()).unwrap_or_default();
        if self.names.is_own(payload) {
            return;
        }
        match self.names.channel(message.get_channel_name()) {
            Some(Channel::Room(room)) if self.inbox.wants(room) => match read::<HintIn>(payload) {
                Some(hint) => self.inbox.hint(hint.room_id, hint.seq, hint.messages),
                None => self.inbox.hints_were_lost(),
            },
            Some(Channel::Signal(room)) if self.inbox.wants(room) => {
                if let Some(signal) = read::<SignalIn>(payload) {
                    self.signal(signal);
                }
            }
            Some(Channel::Control) => {
                if let Some(beat) = read::<HeartbeatIn>(payload) {
                    self.heartbeat(beat, lost);
                }
            }
            _ => {}
        }
    }

    fn signal(&self, signal: SignalIn) {
        match (signal.kind.sign(), signal.user) {
            (Some(sign), Some(user)) => self.inbox.sign(signal.room_id, sign, user),
            (None, _) => self.inbox.presence_changed(signal.room_id),
            (Some(_), None) => {}
        }
    }

    fn heartbeat(&self, beat: HeartbeatIn, lost: &mut HashMap<String, u64>) {
        if lost.len() >= REMEMBERED {
            lost.clear();
        }
        if lost.insert(beat.from, beat.lost).unwrap_or(0) != beat.lost {
            self.inbox.hints_were_lost();
        }
    }
}

async fn within<T>(work: impl Future<Output = RedisResult<T>>) -> Option<T> {
    timeout(SILENCE, work).await.ok()?.ok()
}

fn read<T: DeserializeOwned>(payload: &str) -> Option<T> {
    match serde_json::from_str(payload) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(%error, "chat does not understand another instance");
            None
        }
    }
}
