//! Chat between instances, on Redis: hints of new messages and passing signs over pub/sub, and who is in which room.
//!
//! Nothing here is needed for a message to arrive: the chat log has them all. So hints are sent once and forgotten, and
//! what matters is that an instance knows when it may have missed some. Each publishes a heartbeat four times a second,
//! also to itself: who hears nothing for a second is deaf, reads the log, and subscribes anew. A heartbeat says how many
//! hints its instance could not send, so that the others look at the log for those.
//!
//! One pattern subscription hears all rooms. A subscription for each room would have to be confirmed before a room's
//! history is read, and be made again for all of them after a reconnect; a hint for a room that nobody here is in costs
//! only a look at its channel's name.
//!
//! Channels, after the prefix: `chat:room:<id>` (`{from, roomId, seq, messages}`), `chat:signal:<id>` (`{from, roomId,
//! kind, user}`), `chat:control` (`{from, lost}`). Keys: `chat:presence:<id>`, `chat:instances`.

mod listen;
mod presence;
mod publish;
mod wire;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::Client;
use socialhub_chat::{
    ChatBus, ChatUser, Frame, Inbox, PresenceError, PresenceStore, RoomId, RoomPeople, Sign,
};
use socialhub_domain::{IdGenerator, UserId};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::{
    presence::{Exchanged, Known},
    publish::Outgoing,
    wire::Names,
};
use crate::{clock::RandomIds, redis::RedisLink};

/// What may wait to be published. More is dropped, and the others are told that it was.
const QUEUE: usize = 4_096;

/// How long the people of an instance stay in their rooms after it was last heard of.
pub const LEASE: Duration = Duration::from_secs(5);

/// The address of the Redis server cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("not the address of a Redis server: {0}")]
pub struct InvalidRedisUrl(#[from] redis::RedisError);

/// The other chat instances, and who is on them. Serves as both ports; a server that is away is tried again for ever.
pub struct RedisBus {
    client: Client,
    names: Arc<Names>,
    lease: Duration,
    presence: RedisLink,
    outgoing: mpsc::Sender<Outgoing>,
    lost: Arc<AtomicU64>,
    start: Mutex<Option<mpsc::Receiver<Outgoing>>>,
    inbox: OnceLock<Inbox>,
    known: Known,
    stop: CancellationToken,
    _stops_with_it: DropGuard,
}

impl RedisBus {
    /// Prepares the bus; it begins to work when a chat takes it. `prefix` stands before all its channels and keys, which
    /// keeps several systems on one server apart. [`LEASE`] suits as `lease`.
    ///
    /// # Errors
    /// [`InvalidRedisUrl`]. Whether there is a server is not looked at.
    pub fn start(url: &str, prefix: &str, lease: Duration) -> Result<Arc<Self>, InvalidRedisUrl> {
        let client = Client::open(url)?;
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let stop = CancellationToken::new();
        Ok(Arc::new(Self {
            names: Arc::new(Names::new(prefix, RandomIds.next_id())),
            lease,
            presence: RedisLink::of(client.clone()),
            client,
            outgoing,
            lost: Arc::default(),
            start: Mutex::new(Some(queue)),
            inbox: OnceLock::new(),
            known: Known::default(),
            _stops_with_it: stop.clone().drop_guard(),
            stop,
        }))
    }
}

impl ChatBus for RedisBus {
    fn attach(&self, inbox: Inbox) {
        let Some(queue) = self.start.lock().take() else {
            return;
        };
        inbox.link(false);
        let _ = self.inbox.set(inbox.clone());
        let publisher = publish::Publisher {
            link: RedisLink::of(self.client.clone()),
            names: self.names.clone(),
            lost: self.lost.clone(),
        };
        let listener = listen::Listener {
            client: self.client.clone(),
            names: self.names.clone(),
            inbox: inbox.clone(),
        };
        let renewer = presence::Renewer {
            link: self.presence.clone(),
            names: self.names.clone(),
            lease: self.lease,
            inbox,
            known: self.known.clone(),
        };
        let stop = &self.stop;
        tokio::spawn(stop.clone().run_until_cancelled_owned(publisher.run(queue)));
        tokio::spawn(stop.clone().run_until_cancelled_owned(listener.run()));
        tokio::spawn(stop.clone().run_until_cancelled_owned(renewer.run()));
    }

    fn announce(&self, room: &RoomId, messages: Vec<Arc<Frame>>) {
        let room = room.clone();
        if self
            .outgoing
            .try_send(Outgoing::Hint { room, messages })
            .is_err()
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn signal(&self, room: &RoomId, sign: Sign, user: &ChatUser) {
        let (room, user) = (room.clone(), user.clone());
        // A passing sign may get lost.
        let _ = self.outgoing.try_send(Outgoing::Sign { room, sign, user });
    }
}

#[async_trait]
impl PresenceStore for RedisBus {
    async fn exchange(&self, here: &[RoomPeople]) -> Result<Vec<Vec<ChatUser>>, PresenceError> {
        let Exchanged {
            gone,
            alive,
            elsewhere,
        } = presence::exchange(&self.presence, &self.names, self.lease, here).await?;
        self.known.lock().extend(alive);
        if gone && let Some(inbox) = self.inbox.get() {
            inbox.presence_is_stale();
        }
        Ok(elsewhere)
    }

    async fn erase(&self, user: UserId) -> Result<(), PresenceError> {
        presence::erase(&self.presence, &self.names, user).await
    }

    async fn leave(&self) {
        self.stop.cancel();
        presence::leave(&self.presence, &self.names).await;
    }
}
