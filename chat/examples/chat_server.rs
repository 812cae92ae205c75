//! A chat server alone, for trying clients against it: any token that looks like `USER:NAME` (a UUID, a colon, a name)
//! speaks for that person, and messages are kept in memory. Listens on `LISTEN`, by default `127.0.0.1:5004`.

use std::{env, error::Error, sync::Arc, time::Duration};

use axum::serve::ListenerExt;
use socialhub_chat::{
    Chat, ChatDeps, ChatLimits, ChatUser, MemoryChatLog, NoBus, NoPresence, TokenCheck,
};
use socialhub_domain::{Clock, IdGenerator, Timestamp};
use tokio::{net::TcpListener, signal};
use uuid::Uuid;

struct Anybody;

impl TokenCheck for Anybody {
    fn check(&self, token: &str) -> Option<ChatUser> {
        let (id, name) = token.split_once(':')?;
        Some(ChatUser {
            id: id.parse().ok()?,
            username: name.into(),
        })
    }
}

struct Machine;

impl Clock for Machine {
    #[expect(clippy::disallowed_methods, reason = "an example has no clock adapter")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let millis = since.map_or(0, |since| since.as_millis());
        Timestamp(i64::try_from(millis).unwrap_or(i64::MAX))
    }
}

impl IdGenerator for Machine {
    #[expect(clippy::disallowed_methods, reason = "an example has no id adapter")]
    fn next_id(&self) -> Uuid {
        Uuid::now_v7()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let chat = Chat::start(ChatDeps {
        log: Arc::new(MemoryChatLog::default()),
        tokens: Arc::new(Anybody),
        bus: Arc::new(NoBus),
        presence: Arc::new(NoPresence),
        clock: Arc::new(Machine),
        ids: Arc::new(Machine),
        gateway_secret: None,
        limits: ChatLimits::default(),
    });
    let listen = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:5004".to_owned());
    // Without this the kernel may hold small packets back for 40 ms.
    let listener = TcpListener::bind(&listen).await?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    println!("chat on http://{listen}/socket.io/");
    let closing = chat.clone();
    axum::serve(listener, chat.router())
        .with_graceful_shutdown(async move {
            let _ = signal::ctrl_c().await;
            closing.shutdown(Duration::from_secs(5)).await;
        })
        .await?;
    Ok(())
}
