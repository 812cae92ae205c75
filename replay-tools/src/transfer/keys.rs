//! The part of people's keys: what is personal in the events can be read with them, and only with them.
//!
//! They have files of their own, so that they can be kept elsewhere and not as long: who is erased is erased in a backup
//! of the events, too, once no backup of their key is left.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use socialhub_domain::UserId;
use socialhub_event_log::{
    KeyRecord, LogArchive, Over, PersonKey, Position, require_no_other_keys,
};

use super::{
    log::place,
    part::{Lines, Page, Part, PartError, Written, rows},
};

/// The part's name.
pub(super) const KEYS: &str = "keys";

/// Rows of a page.
const PAGE: usize = 1_000;

/// The keys of people, and the marks of those that were destroyed.
pub struct PeoplesKeys(Arc<dyn LogArchive>);

impl PeoplesKeys {
    /// Those of a log: everybody's, however far the log is copied.
    pub fn new(archive: Arc<dyn LogArchive>) -> Self {
        Self(archive)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KeyLine {
    user_id: UserId,
    /// Base64, of the kind that is safe in addresses; none once it is destroyed.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// Where the `user.erased` stands that it was destroyed for.
    #[serde(skip_serializing_if = "Option::is_none")]
    erased_at: Option<Position>,
}

impl From<KeyRecord> for KeyLine {
    fn from(record: KeyRecord) -> Self {
        Self {
            user_id: record.user_id,
            key: record.key.map(|key| URL_SAFE_NO_PAD.encode(key.0)),
            erased_at: record.erased_at,
        }
    }
}

impl TryFrom<KeyLine> for KeyRecord {
    type Error = PartError;

    fn try_from(line: KeyLine) -> Result<Self, PartError> {
        let bad = || PartError::Bad(format!("{} has no key that could be one", line.user_id));
        if line.key.is_some() == line.erased_at.is_some() {
            return Err(bad());
        }
        let bytes = |key: &String| URL_SAFE_NO_PAD.decode(key).ok()?.try_into().ok();
        let key = line.key.as_ref().map(|key| bytes(key).ok_or_else(bad));
        Ok(Self {
            user_id: line.user_id,
            key: key.transpose()?.map(PersonKey),
            erased_at: line.erased_at,
        })
    }
}

fn records(text: &[u8]) -> Result<Vec<KeyRecord>, PartError> {
    let lines = rows::<KeyLine>(text)?.into_iter();
    lines.map(KeyRecord::try_from).collect()
}

#[async_trait]
impl Part for PeoplesKeys {
    fn name(&self) -> &'static str {
        KEYS
    }

    fn lies_with_the_log(&self) -> bool {
        true
    }

    async fn read(&self, cursor: &str) -> Result<Option<Page>, PartError> {
        let found = self.0.read_keys(place(cursor)?, PAGE).await?;
        let lines: Vec<KeyLine> = found.into_iter().map(Into::into).collect();
        match lines.last() {
            None => Ok(None),
            Some(last) => Page::of(&lines, last.user_id.to_string()).map(Some),
        }
    }

    async fn compare(&self, text: &[u8], _: Over) -> Result<bool, PartError> {
        let records = records(text)?;
        let people: Vec<UserId> = records.iter().map(|record| record.user_id).collect();
        require_no_other_keys(&records, &self.0.find_keys(&people).await?)?;
        Ok(true)
    }

    async fn write(&self, text: &[u8], _: Over) -> Result<Written, PartError> {
        Ok(Written {
            new: self.0.write_keys(records(text)?).await?,
            remarks: Vec::new(),
        })
    }
}

/// Lines of keys, each person once.
#[derive(Debug, Default)]
pub struct KeyLines {
    /// Whose key, or mark, was checked.
    people: Mutex<HashSet<UserId>>,
}

#[async_trait]
impl Lines for KeyLines {
    fn name(&self) -> &'static str {
        KEYS
    }

    async fn check(&self, cursor: &str, text: &[u8]) -> Result<String, PartError> {
        let mut last: Option<UserId> = place(cursor)?;
        for record in records(text)? {
            if last.is_some_and(|last| last >= record.user_id) {
                let reason = format!("{} is not in its place", record.user_id);
                return Err(PartError::Bad(reason));
            }
            last = Some(record.user_id);
            let mut people = self.people.lock().unwrap_or_else(PoisonError::into_inner);
            people.insert(record.user_id);
        }
        Ok(last.map_or(String::new(), |last| last.to_string()))
    }

    fn has(&self, person: UserId) -> bool {
        let people = self.people.lock().unwrap_or_else(PoisonError::into_inner);
        people.contains(&person)
    }
}

#[cfg(test)]
mod tests {
    use socialhub_domain::testing::id;

    use super::*;

    #[tokio::test]
    async fn a_line_is_a_key_or_a_mark() {
        let user = UserId(id(1));
        let record = |key: Option<PersonKey>, erased_at| KeyRecord {
            user_id: user,
            key,
            erased_at,
        };
        for good in [
            record(Some(PersonKey([9; 32])), None),
            record(None, Some(7)),
        ] {
            let page = Page::of(&[KeyLine::from(good.clone())], String::new()).unwrap();
            assert_eq!(records(&page.text).unwrap(), [good]);
            let lines = KeyLines::default();
            assert!(!lines.has(user));
            assert_eq!(lines.check("", &page.text).await.unwrap(), user.to_string());
            assert!(lines.has(user));
            assert!(lines.check(&user.to_string(), &page.text).await.is_err());
        }
        for bad in ["", r#","key":"AAAA""#, r#","key":"!""#, r#","key":null"#] {
            let line = format!("{{\"userId\":\"{user}\"{bad}}}\n");
            let checked = KeyLines::default().check("", line.as_bytes()).await;
            assert!(checked.is_err(), "{bad}");
        }
    }
}
