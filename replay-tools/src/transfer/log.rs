//! The parts that lie in the log's database: events and credentials.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use socialhub_domain::UserId;
use socialhub_event_log::{
    ArchiveError, Credentials, EventRow, LogArchive, Over, Position, sealed_for,
};

use super::{
    keys::KEYS,
    part::{Lines, Needs, Page, Part, PartError, Written, rows},
};

/// The parts' names.
pub(super) const EVENTS: &str = "events";
pub(super) const CREDENTIALS: &str = "credentials";

/// Rows of a page: few, since files are cut at pages, and an event may be long.
const PAGE: usize = 250;

impl From<ArchiveError> for PartError {
    fn from(error: ArchiveError) -> Self {
        let text = error.to_string();
        match error {
            ArchiveError::Unavailable(_) => Self::Store(text),
            ArchiveError::Damaged { .. }
            | ArchiveError::Stream { .. }
            | ArchiveError::NoKey { .. } => Self::Bad(text),
            ArchiveError::Gap { .. }
            | ArchiveError::OtherCredentials(_)
            | ArchiveError::OtherKey(_)
            | ArchiveError::OtherCopy(_) => Self::Foreign(text),
        }
    }
}

/// What a cursor says.
pub(super) fn place<T: FromStr>(cursor: &str) -> Result<Option<T>, PartError> {
    if cursor.is_empty() {
        return Ok(None);
    }
    let bad = |_| PartError::Bad(format!("{cursor:?} is no place to go on from"));
    cursor.parse().map(Some).map_err(bad)
}

/// The events, as the log's table holds them.
pub struct Events {
    archive: Arc<dyn LogArchive>,
    last: Position,
}

impl Events {
    /// The events up to a position. For a log that is written to, the position is not looked at.
    pub fn new(archive: Arc<dyn LogArchive>, last: Position) -> Self {
        Self { archive, last }
    }

    /// Rows up to the log's head, and those after it.
    async fn known_and_new(
        &self,
        text: &[u8],
    ) -> Result<(Vec<EventRow>, Vec<EventRow>), PartError> {
        let mut known = rows::<EventRow>(text)?;
        let head = self.archive.head().await?;
        let new = known.split_off(known.partition_point(|row| row.position <= head));
        Ok((known, new))
    }

    /// Makes sure that the log holds exactly these rows.
    async fn require_same(&self, known: &[EventRow]) -> Result<(), PartError> {
        let Some(first) = known.first() else {
            return Ok(());
        };
        let found = self.archive.read_rows(first.position - 1, known.len());
        let found = found.await?;
        let differs = known.iter().zip(&found).find(|(row, found)| row != found);
        match differs {
            None if found.len() == known.len() => Ok(()),
            None => Err(PartError::Store("the log became shorter".to_owned())),
            Some((row, _)) => Err(PartError::Foreign(format!(
                "the target's log has another event at position {}",
                row.position
            ))),
        }
    }
}

#[async_trait]
impl Part for Events {
    fn name(&self) -> &'static str {
        EVENTS
    }

    fn lies_with_the_log(&self) -> bool {
        true
    }

    async fn progress(&self, cursor: &str) -> Option<(u64, u64)> {
        Some((cursor.parse().unwrap_or(0), self.last))
    }

    async fn read(&self, cursor: &str) -> Result<Option<Page>, PartError> {
        let after: Position = place(cursor)?.unwrap_or(0);
        let left = self.last.saturating_sub(after);
        let limit = usize::try_from(left).map_or(PAGE, |left| left.min(PAGE));
        if limit == 0 {
            return Ok(None);
        }
        let rows = self.archive.read_rows(after, limit).await?;
        match rows
            .iter()
            .zip(after + 1..)
            .find(|(row, at)| row.position != *at)
        {
            Some((_, at)) => return Err(PartError::Bad(format!("the log has no event {at}"))),
            None if rows.is_empty() => {
                let reason = format!("the log ends at position {after}, not {}", self.last);
                return Err(PartError::Bad(reason));
            }
            None => {}
        }
        let cursor = rows.last().map_or(after, |row| row.position).to_string();
        let keeps_any_text = self.archive.keeps_any_text();
        let page = tokio::task::spawn_blocking(move || {
            let mut page = Page::of(&rows, cursor)?;
            if keeps_any_text {
                page.remarks = remarks(&rows);
            }
            Ok(Some(page))
        });
        page.await
            .map_err(|error| PartError::Store(error.to_string()))?
    }

    async fn ready_for(&self, last: &str) -> Result<(), PartError> {
        let last: Position = place(last)?.unwrap_or(0);
        let head = self.archive.head().await?;
        if head > last {
            return Err(PartError::Foreign(format!(
                "the target's log has {head} events, what is copied has {last}"
            )));
        }
        Ok(())
    }

    async fn compare(&self, text: &[u8], _: Over) -> Result<bool, PartError> {
        let (known, new) = self.known_and_new(text).await?;
        self.require_same(&known).await?;
        if self.archive.keeps_any_text() {
            return Ok(new.is_empty());
        }
        match new.iter().find_map(EventRow::no_json) {
            None => Ok(true),
            Some(reason) => Err(PartError::Bad(format!(
                "{reason}, and this log takes nothing else: bring it into a data folder, or put right in its source what \
                 somebody has changed there"
            ))),
        }
    }

    async fn write(&self, text: &[u8], _: Over) -> Result<Written, PartError> {
        let (known, new) = self.known_and_new(text).await?;
        self.require_same(&known).await?;
        let mut written = Written {
            new: new.len() as u64,
            remarks: Vec::new(),
        };
        if self.archive.keeps_any_text() {
            written.remarks = remarks(&new);
        }
        if !new.is_empty() {
            self.archive.write_rows(new).await?;
        }
        Ok(written)
    }
}

/// What is to be known of rows that not every log can keep.
fn remarks(rows: &[EventRow]) -> Vec<String> {
    let found = rows.iter().filter_map(EventRow::no_json);
    found
        .map(|reason| format!("{reason}: a data folder keeps it as it is, Postgres would not"))
        .collect()
}

/// Usernames, addresses, password hashes and token epochs.
pub struct PeoplesCredentials {
    archive: Arc<dyn LogArchive>,
    last: Position,
}

impl PeoplesCredentials {
    /// The credentials of the people of a log that ends at a position.
    pub fn new(archive: Arc<dyn LogArchive>, last: Position) -> Self {
        Self { archive, last }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CredentialsLine {
    user_id: UserId,
    username: String,
    email: String,
    password_hash: String,
    token_epoch: u64,
}

impl From<Credentials> for CredentialsLine {
    fn from(row: Credentials) -> Self {
        Self {
            user_id: row.user_id,
            username: row.username,
            email: row.email,
            password_hash: row.password_hash,
            token_epoch: row.token_epoch,
        }
    }
}

impl From<CredentialsLine> for Credentials {
    fn from(line: CredentialsLine) -> Self {
        Self {
            user_id: line.user_id,
            username: line.username,
            email: line.email,
            password_hash: line.password_hash,
            token_epoch: line.token_epoch,
        }
    }
}

fn credentials(text: &[u8]) -> Result<Vec<Credentials>, PartError> {
    let lines = rows::<CredentialsLine>(text)?.into_iter();
    Ok(lines.map(Into::into).collect())
}

#[async_trait]
impl Part for PeoplesCredentials {
    fn name(&self) -> &'static str {
        CREDENTIALS
    }

    fn lies_with_the_log(&self) -> bool {
        true
    }

    async fn read(&self, cursor: &str) -> Result<Option<Page>, PartError> {
        let after = place(cursor)?;
        let rows = self.archive.read_credentials(after, self.last, PAGE);
        let rows: Vec<CredentialsLine> = rows.await?.into_iter().map(Into::into).collect();
        match rows.last() {
            None => Ok(None),
            Some(last) => Page::of(&rows, last.user_id.to_string()).map(Some),
        }
    }

    /// What is newer wins. A name is in nobody's way then: it was freed by an erasure, which comes with the events.
    async fn compare(&self, text: &[u8], over: Over) -> Result<bool, PartError> {
        if over == Over::Older {
            return Ok(false);
        }
        self.archive.compare_credentials(credentials(text)?).await?;
        Ok(true)
    }

    async fn write(&self, text: &[u8], over: Over) -> Result<Written, PartError> {
        let rows = credentials(text)?;
        Ok(Written {
            new: self.archive.write_credentials(rows, over).await?,
            remarks: Vec::new(),
        })
    }
}

/// How far each stream has come. A stream is known by two hashes of its name, which only this process knows: names of
/// millions would take much memory.
#[derive(Debug, Default)]
struct Streams {
    hashers: [RandomState; 2],
    last: HashMap<[u64; 2], u64>,
}

impl Streams {
    /// Refuses an event that is not the next one of its stream.
    fn take(&mut self, row: &EventRow) -> Result<(), PartError> {
        let name = (&row.stream_type, &row.stream_id);
        let key = self.hashers.each_ref().map(|hasher| hasher.hash_one(name));
        let last = self.last.entry(key).or_default();
        if row.sequence != *last + 1 {
            return Err(PartError::Bad(format!(
                "event {} is number {} of its stream, which has {last}",
                row.position, row.sequence
            )));
        }
        *last = row.sequence;
        Ok(())
    }
}

/// Lines of events: neither the log nor a stream has a gap.
#[derive(Debug, Default)]
pub struct EventLines {
    streams: Mutex<Streams>,
    /// Whose keys those that were checked need, and the first of them that does.
    sealed_for: Mutex<HashMap<UserId, Position>>,
    remarks: Mutex<Vec<String>>,
}

#[async_trait]
impl Lines for EventLines {
    fn name(&self) -> &'static str {
        EVENTS
    }

    async fn check(&self, cursor: &str, text: &[u8]) -> Result<String, PartError> {
        let mut last: Position = place(cursor)?.unwrap_or(0);
        let rows = rows::<EventRow>(text)?;
        self.remarks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(remarks(&rows));
        for row in rows {
            if row.position != last + 1 {
                let gap = format!("event {} comes after event {last}", row.position);
                return Err(PartError::Bad(gap));
            }
            self.streams
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(&row)?;
            let people = sealed_for(&row);
            if !people.is_empty() {
                let mut known = self
                    .sealed_for
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                for person in people {
                    known.entry(person).or_insert(row.position);
                }
            }
            last = row.position;
        }
        Ok(last.to_string())
    }

    fn remarks(&self) -> Vec<String> {
        let remarks = self.remarks.lock();
        remarks.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn needs(&self) -> Option<Needs> {
        let people = self
            .sealed_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (!people.is_empty()).then(|| Needs {
            part: KEYS,
            people: people.clone(),
        })
    }
}

/// Lines of credentials, each person once.
pub struct CredentialsLines;

#[async_trait]
impl Lines for CredentialsLines {
    fn name(&self) -> &'static str {
        CREDENTIALS
    }

    async fn check(&self, cursor: &str, text: &[u8]) -> Result<String, PartError> {
        let mut last: Option<UserId> = place(cursor)?;
        for row in rows::<CredentialsLine>(text)? {
            if last.is_some_and(|last| last >= row.user_id) {
                let reason = format!("{} is not in its place", row.user_id);
                return Err(PartError::Bad(reason));
            }
            last = Some(row.user_id);
        }
        Ok(last.map_or(String::new(), |last| last.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(position: Position, payload: &str) -> String {
        let row = EventRow {
            position,
            event_id: uuid::Uuid::from_u128(1),
            command_id: uuid::Uuid::from_u128(2),
            stream_type: "post".to_owned(),
            stream_id: "1".to_owned(),
            sequence: position - 3,
            event_type: "post.created".to_owned(),
            event_version: "1".to_owned(),
            payload: payload.to_owned(),
            metadata: "{}".to_owned(),
            recorded_at: 0,
        };
        serde_json::to_string(&row).unwrap() + "\n"
    }

    #[tokio::test]
    async fn events_follow_on_each_other() {
        let odd = "{ \"a\":\t1.0 }";
        let text = line(4, odd) + &line(5, "{}");
        let check = async |cursor: &str, text: &str| {
            EventLines::default().check(cursor, text.as_bytes()).await
        };
        assert_eq!(check("3", &text).await.unwrap(), "5");
        assert_eq!(rows::<EventRow>(text.as_bytes()).unwrap()[0].payload, odd);
        let gap = check("", &text).await.unwrap_err();
        assert_eq!(gap.to_string(), "event 4 comes after event 0");
        // A log may hold such an event: whether the target takes it is asked there.
        let lines = EventLines::default();
        let broken = line(4, "{");
        assert_eq!(lines.check("3", broken.as_bytes()).await.unwrap(), "4");
        assert!(lines.remarks()[0].starts_with("the data of event 4 are no JSON"));
        let more = line(4, "{}").replace("{\"position\"", "{\"more\":1,\"position\"");
        let unknown = check("3", &more).await.unwrap_err();
        assert!(unknown.to_string().contains("unknown field"), "{unknown}");
        assert!(check("x", &text).await.is_err());
        let hole = check("4", &line(5, "{}")).await.unwrap_err();
        assert_eq!(
            hole.to_string(),
            "event 5 is number 2 of its stream, which has 0"
        );
    }
}
