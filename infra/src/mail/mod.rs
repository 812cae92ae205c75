//! Mail: files in the data folder, one message each, that any mail program opens.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use chrono::DateTime;
use lettre::{
    Address, Message,
    message::{Mailbox, header::ContentType},
};
use socialhub_commands::ports::{Mailer, PortError};
use socialhub_domain::{Clock, IdGenerator, Timestamp};
use uuid::Uuid;

use crate::clock::{RandomIds, SystemClock};

/// The host part of our own address and of message ids; reserved for what never leaves the machine.
const HOST: &str = "socialhub.localhost";

/// Writes each mail as an `.eml` file (RFC 5322) into a folder.
#[derive(Debug, Clone)]
pub struct EmlMailer {
    folder: PathBuf,
}

impl EmlMailer {
    /// A mailer into `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }
}

#[async_trait]
impl Mailer for EmlMailer {
    async fn send(&self, to: &str, subject: &str, text: &str) -> Result<(), PortError> {
        let (now, id) = (SystemClock.now(), RandomIds.next_id());
        let message = compose(to, subject, text, now, id)?.formatted();
        let path = self.folder.join(file_name(now, id));
        let written = tokio::task::spawn_blocking({
            let path = path.clone();
            move || write_atomically(&path, &message)
        });
        written
            .await
            .map_err(|_| PortError("the mail was not written".to_owned()))?
            .map_err(|error| PortError(format!("the mail was not written: {error}")))?;
        // Neither the address nor the text: both are secrets.
        tracing::info!(file = %path.display(), "a mail was written to a file");
        Ok(())
    }
}

/// Builds the message. Addresses are parsed and texts are encoded, so neither can add a header.
fn compose(
    to: &str,
    subject: &str,
    text: &str,
    now: Timestamp,
    id: Uuid,
) -> Result<Message, PortError> {
    let to: Address = to
        .parse()
        .map_err(|_| PortError("not an address that can be mailed to".to_owned()))?;
    let from = Address::new("no-reply", HOST)
        .map_err(|_| PortError("the sender's address is bad".to_owned()))?;
    let subject: String = subject
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let since_epoch = Duration::from_millis(u64::try_from(now.0).unwrap_or(0));
    Message::builder()
        .from(Mailbox::new(Some("SocialHub".to_owned()), from))
        .to(Mailbox::new(None, to))
        .subject(subject)
        .date(UNIX_EPOCH + since_epoch)
        .message_id(Some(format!("<{id}@{HOST}>")))
        .header(ContentType::TEXT_PLAIN)
        .body(text.to_owned())
        .map_err(|_| PortError("the mail cannot be composed".to_owned()))
}

fn file_name(now: Timestamp, id: Uuid) -> String {
    let time = DateTime::from_timestamp_millis(now.0).unwrap_or_default();
    format!("{}-{id}.eml", time.format("%Y%m%dT%H%M%S%3fZ"))
}

/// Whole or not there; readable by the owner alone, for it may hold a code.
fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_123);

    fn formatted(to: &str, subject: &str, text: &str) -> String {
        let message = compose(to, subject, text, NOW, Uuid::from_u128(1)).unwrap();
        String::from_utf8(message.formatted()).unwrap()
    }

    #[tokio::test]
    async fn a_mail_becomes_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let mails = folder.path().join("mail");
        let mailer = EmlMailer::new(&mails).unwrap();
        mailer
            .send("john@example.com", "Your code", "The code is 012345.")
            .await
            .unwrap();
        let files: Vec<PathBuf> = fs::read_dir(&mails)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].extension().unwrap(), "eml");
        assert!(!files[0].to_string_lossy().contains("john"));
        let text = fs::read_to_string(&files[0]).unwrap();
        assert!(text.contains("To: john@example.com\r\n"), "{text}");
        assert!(text.contains("Subject: Your code\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nThe code is 012345."), "{text}");
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
            assert!(compose(address, "Hi", "text", NOW, Uuid::from_u128(1)).is_err());
        }
    }

    #[test]
    fn any_language_fits() {
        let message = formatted("john@example.com", "Ihr Schlüssel 🔑", "Grüße");
        assert!(message.is_ascii(), "{message}");
        assert!(message.contains("Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n"));
    }

    #[test]
    fn files_sort_by_time() {
        let name = file_name(NOW, Uuid::from_u128(1));
        assert_eq!(
            name,
            "20231114T221320123Z-00000000-0000-0000-0000-000000000001.eml"
        );
    }
}
