//! The log with what is personal in it sealed: a decorator around any adapter of [`EventLog`].
//!
//! On the way in each personal field ([`socialhub_domain::personal`]) is sealed with the key of the person it is about; on
//! the way out it is opened, or replaced by its tombstone when that person is erased. Nobody above sees a difference.
//!
//! * A sealed field is an object `{"sealed": "…"}`: no personal field is an object by itself, so clear payloads of older
//!   logs stay readable and none can be mistaken for a sealed one. It is bound to event, field and person: moved
//!   elsewhere it does not open.
//! * A key is durable before the first event that needs it is appended.
//! * "The key was destroyed" makes a tombstone, "the key store does not answer" and "there is no such key" are errors: a
//!   rebuild during an outage must stop, not write tombstones.
//! * A field that its key does not open stays sealed: that one event does not decode, and is parked by whoever reads it as
//!   any that cannot be read. It must not hold up all others.
//! * A key that is destroyed while somebody still holds it in their cache ([`crate::keys::CACHE_LIFE`]) may seal a last
//!   field, which nobody can open: a tombstone all the same.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use socialhub_domain::{
    StreamId, UserId,
    personal::{self, PersonalField, Tombstone},
};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    archive::{ArchiveError, EventRow, LogArchive},
    event::{NewEvent, Position, RecordedEvent},
    json_fields::JsonFields,
    keys::{KeyCache, KeyState, PersonKey, PersonKeys},
    port::{Append, AppendError, Appended, EventLog, LogError},
};

/// Authenticated encryption of single fields, and new keys for it.
pub trait FieldCipher: Send + Sync {
    /// A fresh random key.
    fn new_key(&self) -> PersonKey;

    /// Seals a text, bound to a context.
    fn seal(&self, key: &PersonKey, context: &[u8], clear: &[u8]) -> Vec<u8>;

    /// Opens what was sealed with this key in this context; none when it was not.
    fn open(&self, key: &PersonKey, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>>;
}

/// From how many events on a batch is opened on a thread of its own, so that it holds up nothing else.
const APART: usize = 256;

/// An event log whose personal fields are sealed.
pub struct SealedLog {
    log: Arc<dyn EventLog>,
    keys: Arc<dyn PersonKeys>,
    cipher: Arc<dyn FieldCipher>,
    cache: KeyCache,
}

/// How a sealed field stands in a payload.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<'a> {
    sealed: &'a str,
}

/// The text of a sealed field, if it is one.
fn sealed_text(json: &str) -> Option<&str> {
    let sealed = json
        .starts_with('{')
        .then(|| serde_json::from_str::<Sealed<'_>>(json));
    Some(sealed?.ok()?.sealed)
}

/// What a sealed field is bound to. Ids have a fixed length, so no two contexts read the same.
fn context(event_id: Uuid, owner: UserId, field: &str) -> Vec<u8> {
    let mut context = Vec::with_capacity(33 + field.len());
    // The version of this scheme.
    context.push(1);
    context.extend_from_slice(event_id.as_bytes());
    context.extend_from_slice(owner.0.as_bytes());
    context.extend_from_slice(field.as_bytes());
    context
}

/// A payload being sealed or opened: which of its fields are personal, and whose.
struct Payload<'a> {
    fields: JsonFields<'a>,
    personal: Vec<(&'static PersonalField, UserId)>,
}

impl<'a> Payload<'a> {
    /// None when there is nothing personal in it. What cannot be read is left as it is: whoever decodes it will say so.
    fn read(event_type: &str, payload: &'a str) -> Option<Self> {
        let marked = personal::fields_of(event_type);
        if marked.is_empty() {
            return None;
        }
        let fields = JsonFields::parse(payload)?;
        let personal: Vec<_> = marked
            .iter()
            .filter(|field| {
                let value = fields.get(&field.field);
                // An empty list tells nothing.
                value.is_some_and(|value| value != Tombstone::NoFiles.json())
            })
            .filter_map(|field| Some((field, fields.parsed(&field.owner)?)))
            .collect();
        (!personal.is_empty()).then_some(Self { fields, personal })
    }

    fn owners(&self) -> impl Iterator<Item = UserId> {
        self.personal.iter().map(|(_, owner)| *owner)
    }
}

impl SealedLog {
    /// Seals what goes into `log`, with keys from `keys`.
    pub fn new(
        log: Arc<dyn EventLog>,
        keys: Arc<dyn PersonKeys>,
        cipher: Arc<dyn FieldCipher>,
    ) -> Self {
        Self {
            log,
            keys,
            cipher,
            cache: KeyCache::new(),
        }
    }

    /// Forgets a person's key in this process, now rather than when the cache drops it.
    pub fn forget(&self, user: UserId) {
        self.cache.forget(user);
    }

    async fn keys_for_reading(
        &self,
        people: &HashSet<UserId>,
    ) -> Result<HashMap<UserId, KeyState>, LogError> {
        let (mut known, unknown) = self.cache.find(people);
        if !unknown.is_empty() {
            let found = self.keys.find(&unknown).await?;
            self.cache.put(&found);
            known.extend(found);
        }
        Ok(known)
    }

    /// The same, but who has no key gets one.
    async fn keys_for_writing(
        &self,
        people: &HashSet<UserId>,
    ) -> Result<HashMap<UserId, KeyState>, LogError> {
        let mut known = self.keys_for_reading(people).await?;
        let missing = people.iter().filter(|user| !known.contains_key(user));
        let offered: Vec<_> = missing.map(|user| (*user, self.cipher.new_key())).collect();
        if !offered.is_empty() {
            let standing = self.keys.obtain(offered).await?;
            self.cache.put(&standing);
            known.extend(standing);
        }
        Ok(known)
    }

    /// Seals the events that are about to be appended.
    async fn seal(&self, events: &mut [NewEvent]) -> Result<(), LogError> {
        let mut payloads = Vec::with_capacity(events.len());
        for new in &*events {
            let personal = !personal::fields_of(new.event.event_type()).is_empty();
            let text = personal.then(|| new.stored_payload()).transpose();
            payloads.push(text.map_err(|error| LogError::Unavailable(error.to_string()))?);
        }
        let personal = events.iter().zip(&payloads);
        let personal =
            personal.filter_map(|(new, text)| Some((new.event.event_type(), text.as_deref()?)));
        let people = people_in(personal);
        if people.is_empty() {
            return Ok(());
        }
        let keys = self.keys_for_writing(&people).await?;
        for (new, text) in events.iter_mut().zip(&payloads) {
            let payload = text
                .as_deref()
                .and_then(|text| Payload::read(new.event.event_type(), text));
            if let Some(payload) = payload {
                new.payload = Some(seal_payload(&*self.cipher, new.event_id, payload, &keys));
            }
        }
        Ok(())
    }

    /// Opens events that were read.
    async fn open(&self, mut events: Vec<RecordedEvent>) -> Result<Vec<RecordedEvent>, LogError> {
        let payloads = events
            .iter()
            .map(|event| (&*event.event_type, &*event.payload));
        let people = people_in(payloads);
        if people.is_empty() {
            return Ok(events);
        }
        let keys = self.keys_for_reading(&people).await?;
        if events.len() < APART {
            open_all(&*self.cipher, &mut events, &keys)?;
            return Ok(events);
        }
        let cipher = Arc::clone(&self.cipher);
        let opened = tokio::task::spawn_blocking(move || {
            open_all(&*cipher, &mut events, &keys)?;
            Ok(events)
        });
        opened
            .await
            .unwrap_or_else(|_| Err(LogError::Unavailable("opening events broke off".to_owned())))
    }
}

/// Whom the payloads of some events, each with its type, say something personal about.
fn people_in<'a>(payloads: impl Iterator<Item = (&'a str, &'a str)>) -> HashSet<UserId> {
    let mut people = HashSet::new();
    for (event_type, payload) in payloads {
        if let Some(payload) = Payload::read(event_type, payload) {
            people.extend(payload.owners());
        }
    }
    people
}

/// The payload with its personal fields sealed; those of the erased are tombstones right away.
fn seal_payload(
    cipher: &dyn FieldCipher,
    event_id: Uuid,
    mut payload: Payload<'_>,
    keys: &HashMap<UserId, KeyState>,
) -> String {
    for (field, owner) in payload.personal {
        let Some(clear) = payload.fields.get(&field.field) else {
            continue;
        };
        let value = match keys.get(&owner) {
            Some(KeyState::Present(key)) => {
                let context = context(event_id, owner, &field.field);
                let sealed = cipher.seal(key, &context, clear.as_bytes());
                format!("{{\"sealed\":\"{}\"}}", URL_SAFE_NO_PAD.encode(sealed))
            }
            // Everybody else was given a key.
            Some(KeyState::Erased) | None => field.tombstone.json().to_owned(),
        };
        payload.fields.set(&field.field, value);
    }
    payload.fields.to_json()
}

fn open_all(
    cipher: &dyn FieldCipher,
    events: &mut [RecordedEvent],
    keys: &HashMap<UserId, KeyState>,
) -> Result<(), LogError> {
    for event in events {
        if let Some(payload) = Payload::read(&event.event_type, &event.payload) {
            let opened = open_payload(cipher, event.event_id, payload, keys);
            let opened = opened.map_err(|no_key| no_key.in_log(event.position))?;
            if let Some(opened) = opened {
                event.payload = opened;
            }
        }
    }
    Ok(())
}

/// Whose key is missing, so that a payload cannot be opened.
struct NoKey(UserId);

impl NoKey {
    fn in_log(self, position: Position) -> LogError {
        let Self(user_id) = self;
        LogError::NoKey { position, user_id }
    }

    fn in_archive(self, position: Position) -> ArchiveError {
        let Self(user_id) = self;
        ArchiveError::NoKey { position, user_id }
    }
}

/// Opens rows of a log, as [`SealedLog`] opens events, with the keys that lie beside them.
///
/// # Errors
/// When a key cannot be read or is not there. What does not open is still sealed ([`is_sealed`]).
pub async fn open_rows(
    archive: &dyn LogArchive,
    cipher: &dyn FieldCipher,
    rows: &mut [EventRow],
) -> Result<(), ArchiveError> {
    let people = people_in(rows.iter().map(|row| (&*row.event_type, &*row.payload)));
    let people: Vec<UserId> = people.into_iter().collect();
    let keys = archive.find_keys(&people).await?;
    for row in rows {
        if let Some(payload) = Payload::read(&row.event_type, &row.payload) {
            let opened = open_payload(cipher, row.event_id, payload, &keys);
            let opened = opened.map_err(|no_key| no_key.in_archive(row.position))?;
            if let Some(opened) = opened {
                row.payload = opened;
            }
        }
    }
    Ok(())
}

/// Whether something in a row of the log is sealed.
pub fn is_sealed(row: &EventRow) -> bool {
    sealed_field(&row.event_type, &row.payload).is_some()
}

/// Whose keys open what is sealed in a row of the log.
pub fn sealed_for(row: &EventRow) -> Vec<UserId> {
    let Some(payload) = Payload::read(&row.event_type, &row.payload) else {
        return Vec::new();
    };
    let sealed = payload.personal.iter().filter(|(field, _)| {
        let value = payload.fields.get(&field.field);
        value.and_then(sealed_text).is_some()
    });
    sealed.map(|(_, owner)| *owner).collect()
}

/// The first field of a payload that is sealed.
pub(crate) fn sealed_field(event_type: &str, payload: &str) -> Option<&'static str> {
    let payload = Payload::read(event_type, payload)?;
    let mut personal = payload.personal.iter();
    let (field, _) = personal.find(|(field, _)| {
        let value = payload.fields.get(&field.field);
        value.and_then(sealed_text).is_some()
    })?;
    Some(&field.field)
}

/// The payload with its personal fields open, but for those that do not open; none when it stays as it is.
fn open_payload(
    cipher: &dyn FieldCipher,
    event_id: Uuid,
    mut payload: Payload<'_>,
    keys: &HashMap<UserId, KeyState>,
) -> Result<Option<String>, NoKey> {
    let mut changed = false;
    for (field, owner) in payload.personal {
        let Some(value) = payload.fields.get(&field.field) else {
            continue;
        };
        let opened = match (keys.get(&owner), sealed_text(value)) {
            (Some(KeyState::Erased), _) => field.tombstone.json().to_owned(),
            // Written before fields were sealed.
            (_, None) => continue,
            (Some(KeyState::Present(key)), Some(sealed)) => {
                match open_field(cipher, key, sealed, event_id, owner, &field.field) {
                    Some(clear) => clear,
                    None => continue,
                }
            }
            (None, Some(_)) => return Err(NoKey(owner)),
        };
        payload.fields.set(&field.field, opened);
        changed = true;
    }
    Ok(changed.then(|| payload.fields.to_json()))
}

fn open_field(
    cipher: &dyn FieldCipher,
    key: &PersonKey,
    sealed: &str,
    event_id: Uuid,
    owner: UserId,
    field: &str,
) -> Option<String> {
    let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
    let clear = cipher.open(key, &context(event_id, owner, field), &sealed)?;
    String::from_utf8(clear).ok()
}

#[async_trait]
impl EventLog for SealedLog {
    async fn append(&self, mut append: Append) -> Result<Appended, AppendError> {
        if let Err(error) = self.seal(&mut append.events).await {
            // Nothing was handed over.
            return Err(AppendError::Unavailable(error.to_string()));
        }
        self.log.append(append).await
    }

    async fn read_stream(&self, stream: &StreamId) -> Result<Vec<RecordedEvent>, LogError> {
        self.open(self.log.read_stream(stream).await?).await
    }

    async fn read_streams(
        &self,
        streams: &[StreamId],
    ) -> Result<Vec<Vec<RecordedEvent>>, LogError> {
        let read = self.log.read_streams(streams).await?;
        let lengths: Vec<usize> = read.iter().map(Vec::len).collect();
        // Together, so that the keys are asked for once.
        let mut opened = self
            .open(read.into_iter().flatten().collect())
            .await?
            .into_iter();
        let streams = lengths.into_iter();
        Ok(streams
            .map(|length| opened.by_ref().take(length).collect())
            .collect())
    }

    async fn read_all(
        &self,
        after: Position,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, LogError> {
        self.open(self.log.read_all(after, limit).await?).await
    }

    async fn head(&self) -> Result<Position, LogError> {
        self.log.head().await
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.log.watch_head()
    }
}

#[cfg(test)]
mod tests;
