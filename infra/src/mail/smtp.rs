//! Mail through a mail server.

use std::{error::Error as _, io, time::Duration};

use async_trait::async_trait;
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::Mailbox,
    transport::smtp::{self, PoolConfig},
};
use socialhub_commands::ports::{Mailer, PortError};
use socialhub_domain::{Clock, IdGenerator};
use tokio::time::{Instant, sleep, timeout_at};

use super::compose;
use crate::clock::{RandomIds, SystemClock};

/// How long the server may take for one step of a conversation.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a mail may take with all its tries.
const DEADLINE: Duration = Duration::from_secs(15);
const TRIES: u32 = 3;
/// Before the second try; twice as long before each one after it.
const PAUSE: Duration = Duration::from_millis(250);
/// Open connections.
const CONNECTIONS: u32 = 8;
const IDLE: Duration = Duration::from_secs(30);

/// Why a mailer cannot be made. No message holds a password or the address itself.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenSmtpError {
    /// The server's address is not as it must be.
    #[error(
        "the mail server must be smtps://user:password@host:port, smtp+starttls://… or smtp://… (unencrypted)"
    )]
    Server,
    /// The sender is none.
    #[error("the sender must be an address: SocialHub <no-reply@example.org>")]
    Sender,
}

/// Sends mail through a server, over a few connections that are kept.
pub struct SmtpMailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl SmtpMailer {
    /// A mailer through the server at `smtps://user:password@host:port` (TLS from the start), `smtp+starttls://…` (TLS
    /// or nothing) or `smtp://…` (as it is; with `?tls=required` or `?tls=opportunistic` STARTTLS), that names `from`
    /// as the sender. Nothing is asked of the server yet. To be called in a runtime: the pool of connections is kept by
    /// a task.
    ///
    /// # Errors
    /// When one of both is not as it must be.
    pub fn open(url: &str, from: &str) -> Result<Self, OpenSmtpError> {
        let from = from.parse().map_err(|_| OpenSmtpError::Sender)?;
        let url = match url.strip_prefix("smtp+starttls://") {
            Some(server) if server.contains('?') => return Err(OpenSmtpError::Server),
            Some(server) => format!("smtp://{server}?tls=required"),
            None => url.to_owned(),
        };
        let server = AsyncSmtpTransport::<Tokio1Executor>::from_url(&url);
        let pool = PoolConfig::new().max_size(CONNECTIONS).idle_timeout(IDLE);
        let transport = server
            .map_err(|_| OpenSmtpError::Server)?
            .timeout(Some(STEP_TIMEOUT))
            .pool_config(pool)
            .build();
        Ok(Self { transport, from })
    }

    /// Hands a message over, trying again what may work another time.
    async fn hand_over(&self, message: &Message) -> Result<(), smtp::Error> {
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            match self.transport.send(message.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_permanent() || error.is_client() => return Err(error),
                Err(_) => {}
            }
            sleep(pause).await;
            pause *= 2;
        }
        self.transport.send(message.clone()).await.map(drop)
    }
}

#[async_trait]
impl Mailer for SmtpMailer {
    async fn send(&self, to: &str, subject: &str, text: &str) -> Result<(), PortError> {
        let (now, id) = (SystemClock.now(), RandomIds.next_id());
        let message = compose(&self.from, to, subject, text, now, id)?;
        let sent = timeout_at(Instant::now() + DEADLINE, self.hand_over(&message)).await;
        match sent {
            Ok(Ok(())) => {
                // Neither the address nor the text: both are secrets.
                tracing::info!(message = %id, "a mail was handed to the mail server");
                Ok(())
            }
            Ok(Err(error)) => Err(PortError(failure(&error))),
            Err(_) => Err(PortError("the mail server takes too long".to_owned())),
        }
    }

    /// Up to the login, if there is one, and no further: nothing is sent.
    async fn look(&self) -> Result<(), PortError> {
        match self.transport.test_connection().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(PortError("the mail server does not answer".to_owned())),
            Err(error) => Err(PortError(failure(&error))),
        }
    }
}

/// What went wrong. Not in the server's words, which may quote the address.
fn failure(error: &smtp::Error) -> String {
    if let Some(trouble) = tls_trouble(error) {
        return format!("there is no TLS with the mail server: {trouble}");
    }
    match error.status() {
        Some(code) => format!("the mail server refused with code {code}"),
        None if error.is_timeout() => "the mail server does not answer".to_owned(),
        None if error.is_tls() => "the mail server offers no TLS that can be used".to_owned(),
        None => "the mail server cannot be reached".to_owned(),
    }
}

/// What was wrong with the server's TLS, if that was it: a certificate that is not trusted, for example. A handshake that
/// fails comes as a connection that could not be made.
fn tls_trouble(error: &smtp::Error) -> Option<&rustls::Error> {
    let mut cause = error.source();
    while let Some(at) = cause {
        // What such an error wraps is none of its sources.
        let wrapped = at.downcast_ref().and_then(io::Error::get_ref);
        let found = wrapped.and_then(|wrapped| wrapped.downcast_ref());
        if found.is_some() {
            return found;
        }
        cause = at.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bad_settings_are_refused_without_their_secret() {
        const FROM: &str = "SocialHub <no-reply@example.org>";
        for url in [
            "smtp://user:secret@mail.example.org:2525",
            "smtps://mail.example.org",
            "smtp+starttls://user:secret@mail.example.org",
            "smtp://mail.example.org?tls=required",
        ] {
            assert!(SmtpMailer::open(url, FROM).is_ok(), "{url}");
            assert!(SmtpMailer::open(url, "nobody at all").is_err());
        }
        for url in [
            "",
            "secret",
            "http://user:secret@host",
            "smtp://user:secret@",
            "smtp+starttls://user:secret@host?tls=opportunistic",
        ] {
            let Err(error) = SmtpMailer::open(url, FROM) else {
                panic!("{url} was taken");
            };
            assert!(!error.to_string().contains("secret"));
        }
    }
}
