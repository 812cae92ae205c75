//! Mail: files in the data folder, or with the feature `distributed` a mail server.

mod eml;
#[cfg(feature = "distributed")]
mod smtp;

use std::time::{Duration, UNIX_EPOCH};

use lettre::{
    Address, Message,
    message::{Mailbox, header::ContentType},
};
use socialhub_commands::ports::PortError;
use socialhub_domain::Timestamp;
use uuid::Uuid;

pub use eml::EmlMailer;
#[cfg(feature = "distributed")]
pub use smtp::{OpenSmtpError, SmtpMailer};

/// Builds the message. Addresses are parsed and texts are encoded, so neither can add a header.
fn compose(
    from: &Mailbox,
    to: &str,
    subject: &str,
    text: &str,
    now: Timestamp,
    id: Uuid,
) -> Result<Message, PortError> {
    let to: Address = to
        .parse()
        .map_err(|_| PortError("not an address that can be mailed to".to_owned()))?;
    let subject: String = subject
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let since_epoch = Duration::from_millis(u64::try_from(now.0).unwrap_or(0));
    Message::builder()
        .from(from.clone())
        .to(Mailbox::new(None, to))
        .subject(subject)
        .date(UNIX_EPOCH + since_epoch)
        .message_id(Some(format!("<{id}@{}>", from.email.domain())))
        .header(ContentType::TEXT_PLAIN)
        .body(text.to_owned())
        .map_err(|_| PortError("the mail cannot be composed".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_123);

    fn composed(to: &str, subject: &str, text: &str) -> Result<Message, PortError> {
        let from = "SocialHub <no-reply@example.org>".parse().unwrap();
        compose(&from, to, subject, text, NOW, Uuid::from_u128(1))
    }

    fn formatted(to: &str, subject: &str, text: &str) -> String {
        let message = composed(to, subject, text).unwrap();
        String::from_utf8(message.formatted()).unwrap()
    }

    #[test]
    fn headers_cannot_be_injected() {
        let message = formatted(
            "john@example.com",
            "Hi\r\nBcc: all@example.com",
            "text\r\n\r\nBcc: x@y",
        );
        let head = message.split("\r\n\r\n").next().unwrap();
        assert!(
            !head.lines().any(|line| line.starts_with("Bcc")),
            "{message}"
        );
        for address in [
            "john@example.com\r\nBcc: all@example.com",
            "a@b, c@d",
            "",
            "john",
        ] {
            assert!(composed(address, "Hi", "text").is_err());
        }
    }

    #[test]
    fn any_language_fits() {
        let message = formatted("john@example.com", "Ihr Schlüssel 🔑", "Grüße");
        assert!(message.is_ascii(), "{message}");
        assert!(message.contains("Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n"));
    }
}
