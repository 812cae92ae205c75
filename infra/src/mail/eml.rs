//! Mail as files in the data folder, one message each, that any mail program opens.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use chrono::DateTime;
use lettre::{Address, message::Mailbox};
use socialhub_commands::ports::{Mailer, PortError};
use socialhub_domain::{Clock, IdGenerator, Timestamp};
use socialhub_event_log::credential_key;
use uuid::Uuid;

use super::compose;
use crate::clock::{RandomIds, SystemClock};

/// The host part of the sender's address; reserved for what never leaves the machine.
const HOST: &str = "socialhub.localhost";

/// How long a mail is kept. With several instances an erasure removes mails in its own instance's folder alone; what the
/// others have goes with this.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// What the name of a mail begins with that is not written to its end.
const UNFINISHED: &str = ".unfinished-";
/// Between two looks for mails that have had their time.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);

/// Writes each mail as an `.eml` file (RFC 5322) into a folder, and keeps it for a day.
#[derive(Debug, Clone)]
pub struct EmlMailer {
    folder: Arc<PathBuf>,
}

impl EmlMailer {
    /// A mailer into `folder`, which is made if it is not there. Must be called within a tokio runtime: as long as the
    /// mailer lives, old mails are removed.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = Arc::new(folder.into());
        fs::create_dir_all(&*folder)?;
        tokio::spawn(remove_old_ones(Arc::downgrade(&folder)));
        Ok(Self { folder })
    }
}

#[async_trait]
impl Mailer for EmlMailer {
    async fn send(&self, to: &str, subject: &str, text: &str) -> Result<(), PortError> {
        let (now, id) = (SystemClock.now(), RandomIds.next_id());
        let message = compose(&sender()?, to, subject, text, now, id)?.formatted();
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

    async fn forget(&self, to: &str) -> Result<(), PortError> {
        let (folder, to) = (self.folder.clone(), to.to_owned());
        let removed = tokio::task::spawn_blocking(move || remove_mails_to(&folder, &to));
        removed
            .await
            .map_err(|_| PortError("the mails were not removed".to_owned()))?
            .map_err(|error| PortError(format!("the mails were not removed: {error}")))
    }
}

async fn remove_old_ones(folder: Weak<PathBuf>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        let Some(folder) = folder.upgrade() else {
            return;
        };
        let before = SystemClock.now().0 - KEPT.as_millis() as i64;
        let removed = tokio::task::spawn_blocking(move || remove_older(&folder, Timestamp(before)));
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(%error, "old mails could not be removed");
        }
    }
}

/// Removes mails last written before a time, and what a killed process left of one.
fn remove_older(folder: &Path, before: Timestamp) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.ends_with(".eml") && !name.starts_with(UNFINISHED) {
            continue;
        }
        let age = entry.metadata().and_then(|data| data.modified());
        let written = match age {
            Ok(time) => time.duration_since(UNIX_EPOCH).unwrap_or_default(),
            // Somebody else removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if (written.as_millis() as i64) < before.0 {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Removes every mail in a folder whose header names an address.
fn remove_mails_to(folder: &Path, address: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "eml") {
            continue;
        }
        let mail = match fs::read(&path) {
            Ok(mail) => mail,
            // Somebody else removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if is_to(&String::from_utf8_lossy(&mail), address) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Whether a mail of ours goes to an address: we write one address into one line.
fn is_to(mail: &str, address: &str) -> bool {
    let header = mail.lines().take_while(|line| !line.is_empty());
    let to = header.filter_map(|line| line.split_once(':'));
    to.filter(|(name, _)| name.eq_ignore_ascii_case("to"))
        .any(|(_, value)| credential_key(value.trim()) == credential_key(address))
}

fn sender() -> Result<Mailbox, PortError> {
    let address = Address::new("no-reply", HOST)
        .map_err(|_| PortError("the sender's address is bad".to_owned()))?;
    Ok(Mailbox::new(Some("SocialHub".to_owned()), address))
}

fn file_name(now: Timestamp, id: Uuid) -> String {
    let time = DateTime::from_timestamp_millis(now.0).unwrap_or_default();
    format!("{}-{id}.eml", time.format("%Y%m%dT%H%M%S%3fZ"))
}

/// Whole or not there; readable by the owner alone, for it may hold a code.
fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[tokio::test]
    async fn mails_to_somebody_are_forgotten_and_others_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mailer = EmlMailer::new(folder.path()).unwrap();
        let long = format!("{}@example.com", "j".repeat(60));
        for to in ["john@example.com", "jane@example.com", &long] {
            // The address in the text of another's mail says nothing.
            mailer
                .send(to, "Hello", "To: john@example.com\r\n")
                .await
                .unwrap();
        }
        let count = || fs::read_dir(folder.path()).unwrap().count();
        mailer.forget("nobody@example.com").await.unwrap();
        assert_eq!(count(), 3);
        for (to, left) in [("John@Example.com", 2), ("john@example.com", 2), (&long, 1)] {
            mailer.forget(to).await.unwrap();
            assert_eq!(count(), left, "{to}");
        }
    }

    #[tokio::test]
    async fn mails_that_have_had_their_time_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let kept = i64::try_from(KEPT.as_millis()).unwrap();
        let written = |name: &str, age: i64| {
            let file = fs::File::create(folder.path().join(name)).unwrap();
            let time = SystemClock.now().0 - age;
            let time = UNIX_EPOCH + Duration::from_millis(u64::try_from(time).unwrap());
            file.set_modified(time).unwrap();
        };
        written("old.eml", kept + 60_000);
        written(".unfinished-1", kept + 60_000);
        written("young.eml", kept - 60_000);
        written("another's.txt", 2 * kept);
        let _mailer = EmlMailer::new(folder.path()).unwrap();
        let names = || {
            let entries = fs::read_dir(folder.path()).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        while names().len() > 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(names(), ["another's.txt", "young.eml"]);
    }

    #[test]
    fn files_sort_by_time() {
        let name = file_name(Timestamp(1_700_000_000_123), Uuid::from_u128(1));
        assert_eq!(
            name,
            "20231114T221320123Z-00000000-0000-0000-0000-000000000001.eml"
        );
    }
}
