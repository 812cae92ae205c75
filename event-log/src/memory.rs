//! The log in memory, for tests: same promises, no durability.
//!
//! Passes the same contract suite as the durable adapters. On top of the port it lets a test make the next append fail
//! ([`MemoryEventLog::fail_next`]) or lose its outcome ([`MemoryEventLog::lose_next_outcome`]).

use std::collections::{BTreeMap, HashMap, VecDeque};

use async_trait::async_trait;
use parking_lot::Mutex;
use socialhub_domain::{Event, EventData, StreamId, Timestamp, UserId, event::UserErased};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    erasure::{ERASED_EPOCH, ErasureStore, PendingErasure},
    event::{NewEvent, Position, RecordedEvent},
    keys::{KeyRecord, KeyState, PersonKey, PersonKeys},
    port::{Append, AppendError, Appended, CredentialField, EventLog, LogError},
    side::{AnswerKey, Credentials, CredentialsReader, SideWrite, StoredAnswer, credential_key},
};

/// An event log that lives as long as the value.
#[derive(Debug)]
pub struct MemoryEventLog {
    state: Mutex<State>,
    head: watch::Sender<Position>,
}

/// What a test asked the next append to do.
#[derive(Debug)]
enum Fault {
    Refuse(AppendError),
    LoseOutcome,
}

/// An erasure that was asked for.
#[derive(Debug)]
struct Erasure {
    pending: PendingErasure,
    completed: bool,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<RecordedEvent>,
    /// For each stream the indexes of its events.
    streams: HashMap<StreamId, Vec<usize>>,
    commands: HashMap<Uuid, Appended>,
    credentials: HashMap<UserId, Credentials>,
    usernames: HashMap<String, UserId>,
    emails: HashMap<String, UserId>,
    answers: HashMap<AnswerKey, StoredAnswer>,
    keys: BTreeMap<UserId, KeyRecord>,
    erasures: BTreeMap<UserId, Erasure>,
    faults: VecDeque<Fault>,
}

impl Default for MemoryEventLog {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryEventLog {
    /// An empty log.
    pub fn new() -> Self {
        Self {
            state: Mutex::default(),
            head: watch::Sender::new(0),
        }
    }

    /// The next append that no earlier call speaks for fails with this error and changes nothing.
    pub fn fail_next(&self, error: AppendError) {
        self.state.lock().faults.push_back(Fault::Refuse(error));
    }

    /// The next append that no earlier call speaks for is carried out, but its caller is told
    /// [`AppendError::OutcomeUnknown`]; the same command id later gives the truth.
    pub fn lose_next_outcome(&self) {
        self.state.lock().faults.push_back(Fault::LoseOutcome);
    }

    /// Every event, for assertions.
    pub fn events(&self) -> Vec<RecordedEvent> {
        self.state.lock().events.clone()
    }
}

#[async_trait]
impl EventLog for MemoryEventLog {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let mut state = self.state.lock();
        let fault = state.faults.pop_front();
        if let Some(Fault::Refuse(error)) = fault {
            return Err(error);
        }
        let appended = state.append(append)?;
        // Told under the lock, so that the head never goes back.
        self.head.send_if_modified(|head| {
            let risen = appended.position > *head;
            *head = appended.position.max(*head);
            risen
        });
        match fault {
            Some(Fault::LoseOutcome) => Err(AppendError::OutcomeUnknown),
            _ => Ok(appended),
        }
    }

    async fn read_stream(&self, stream: &StreamId) -> Result<Vec<RecordedEvent>, LogError> {
        Ok(self.state.lock().stream(stream))
    }

    async fn read_streams(
        &self,
        streams: &[StreamId],
    ) -> Result<Vec<Vec<RecordedEvent>>, LogError> {
        let state = self.state.lock();
        Ok(streams.iter().map(|stream| state.stream(stream)).collect())
    }

    async fn read_all(
        &self,
        after: Position,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, LogError> {
        let skip = usize::try_from(after).unwrap_or(usize::MAX);
        let state = self.state.lock();
        Ok(state
            .events
            .iter()
            .skip(skip)
            .take(limit)
            .cloned()
            .collect())
    }

    async fn head(&self) -> Result<Position, LogError> {
        Ok(self.state.lock().head())
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }
}

#[async_trait]
impl CredentialsReader for MemoryEventLog {
    async fn find_by_identifier(&self, identifier: &str) -> Result<Option<Credentials>, LogError> {
        let key = credential_key(identifier);
        let state = self.state.lock();
        let user = state.emails.get(&key).or_else(|| state.usernames.get(&key));
        Ok(user.and_then(|user| state.credentials.get(user)).cloned())
    }

    async fn find_by_id(&self, user_id: UserId) -> Result<Option<Credentials>, LogError> {
        Ok(self.state.lock().credentials.get(&user_id).cloned())
    }

    async fn raised_epochs(&self) -> Result<Vec<(UserId, u64)>, LogError> {
        let state = self.state.lock();
        let raised = state.credentials.values().filter(|who| who.token_epoch > 1);
        let raised = raised.map(|who| (who.user_id, who.token_epoch));
        let erased = state.erasures.keys().map(|user| (*user, ERASED_EPOCH));
        Ok(raised.chain(erased).collect())
    }

    async fn find_answer(
        &self,
        key: &AnswerKey,
        now: Timestamp,
    ) -> Result<Option<StoredAnswer>, LogError> {
        let state = self.state.lock();
        let answer = state.answers.get(key);
        Ok(answer.filter(|answer| !answer.expired(now)).cloned())
    }
}

#[async_trait]
impl PersonKeys for MemoryEventLog {
    async fn find(&self, people: &[UserId]) -> Result<HashMap<UserId, KeyState>, LogError> {
        let state = self.state.lock();
        let found = people.iter().filter_map(|user| state.keys.get(user));
        Ok(found
            .map(|record| (record.user_id, record.state()))
            .collect())
    }

    async fn obtain(
        &self,
        offered: Vec<(UserId, PersonKey)>,
    ) -> Result<HashMap<UserId, KeyState>, LogError> {
        let mut state = self.state.lock();
        let standing = offered.into_iter().map(|(user_id, key)| {
            let offer = KeyRecord {
                user_id,
                key: Some(key),
                erased_at: None,
            };
            let record = state.keys.entry(user_id).or_insert(offer);
            (user_id, record.state())
        });
        Ok(standing.collect())
    }

    async fn destroy(&self, user_id: UserId, position: Position) -> Result<(), LogError> {
        let mut state = self.state.lock();
        let record = state.keys.entry(user_id).or_insert(KeyRecord {
            user_id,
            key: None,
            erased_at: None,
        });
        record.key = None;
        record.erased_at.get_or_insert(position);
        Ok(())
    }

    async fn page(&self, after: Option<UserId>, limit: usize) -> Result<Vec<KeyRecord>, LogError> {
        let state = self.state.lock();
        let later = state
            .keys
            .values()
            .filter(|record| after.is_none_or(|after| record.user_id > after));
        Ok(later.take(limit).cloned().collect())
    }

    async fn restore(&self, records: Vec<KeyRecord>) -> Result<(), LogError> {
        let mut state = self.state.lock();
        for record in records {
            match (state.keys.get_mut(&record.user_id), record.erased_at) {
                (None, _) => {
                    state.keys.insert(record.user_id, record);
                }
                (Some(standing), Some(_)) if standing.erased_at.is_none() => *standing = record,
                (Some(_), _) => {}
            }
        }
        Ok(())
    }
}

#[async_trait]
impl ErasureStore for MemoryEventLog {
    async fn pending(&self, after: Position) -> Result<Vec<PendingErasure>, LogError> {
        let state = self.state.lock();
        let later = state.events.iter().filter(|event| event.position > after);
        let erased = later.filter_map(|recorded| {
            let event = recorded.decode().ok()?;
            let Event::UserErased(data) = event else {
                return None;
            };
            match state.erasures.get(&data.user_id) {
                Some(erasure) if erasure.completed => None,
                Some(erasure) => Some(erasure.pending.clone()),
                None => Some(PendingErasure {
                    user_id: data.user_id,
                    position: recorded.position,
                    username: None,
                    email: None,
                }),
            }
        });
        Ok(erased.collect())
    }

    async fn last_erased(&self, before: Position) -> Result<Position, LogError> {
        let state = self.state.lock();
        let mut events = state.events.iter();
        let last =
            events.rfind(|event| event.event_type == UserErased::TYPE && event.position < before);
        Ok(last.map_or(0, |event| event.position))
    }

    async fn unsaid(&self) -> Result<Vec<UserId>, LogError> {
        Ok(self.state.lock().destroyed(Some(false)))
    }

    async fn strangers(&self) -> Result<Vec<UserId>, LogError> {
        Ok(self.state.lock().destroyed(None))
    }

    async fn forget_answers(&self, user_id: UserId) -> Result<(), LogError> {
        let id = user_id.to_string();
        let mut state = self.state.lock();
        state
            .answers
            .retain(|key, answer| key.owner != id && !answer.body.contains(&id));
        Ok(())
    }

    async fn complete(&self, erasure: &PendingErasure, _at: Timestamp) -> Result<(), LogError> {
        let mut state = self.state.lock();
        state.erasures.insert(
            erasure.user_id,
            Erasure {
                pending: PendingErasure {
                    username: None,
                    email: None,
                    ..erasure.clone()
                },
                completed: true,
            },
        );
        Ok(())
    }
}

impl State {
    fn head(&self) -> Position {
        self.events.len() as Position
    }

    fn stream(&self, stream: &StreamId) -> Vec<RecordedEvent> {
        let indexes = self.streams.get(stream).map_or(&[][..], Vec::as_slice);
        let events = indexes.iter().filter_map(|index| self.events.get(*index));
        events.cloned().collect()
    }

    fn version(&self, stream: &StreamId) -> u64 {
        self.streams
            .get(stream)
            .map_or(0, |events| events.len() as u64)
    }

    /// Checks everything before it changes anything.
    fn append(&mut self, append: Append) -> Result<Appended, AppendError> {
        if let Some(first) = self.commands.get(&append.command_id) {
            return Ok(first.clone());
        }
        if append.metadata.actor.is_some_and(|who| self.is_erased(who)) {
            return Err(AppendError::ActorErased);
        }
        for side in &append.side {
            self.check_side(side)?;
        }
        let actual = self.version(&append.stream);
        let expected = append.expected_version;
        if !append.events.is_empty() && actual != expected {
            return Err(AppendError::VersionConflict { expected, actual });
        }
        let events = self.record(&append, actual)?;
        let version = actual + events.len() as u64;
        for event in events {
            let index = self.events.len();
            self.streams
                .entry(event.stream.clone())
                .or_default()
                .push(index);
            self.events.push(event);
        }
        let position = self.head();
        for side in append.side {
            self.write_side(side, position);
        }
        let appended = Appended { position, version };
        self.commands.insert(append.command_id, appended.clone());
        Ok(appended)
    }

    fn is_erased(&self, user: UserId) -> bool {
        let key = self.keys.get(&user);
        self.erasures.contains_key(&user) || key.is_some_and(|key| key.erased_at.is_some())
    }

    fn record(&self, append: &Append, version: u64) -> Result<Vec<RecordedEvent>, AppendError> {
        let numbered = append.events.iter().zip(1..);
        let record = |(new, nth): (&NewEvent, u64)| {
            let payload = new.stored_payload();
            Ok(RecordedEvent {
                position: self.head() + nth,
                event_id: new.event_id,
                stream: append.stream.clone(),
                sequence: version + nth,
                event_type: new.event.event_type().to_owned(),
                event_version: new.event.event_version(),
                payload: payload.map_err(|error| AppendError::Unavailable(error.to_string()))?,
                metadata: append.metadata.clone(),
                damage: None,
            })
        };
        numbered.map(record).collect()
    }

    /// Those without a key whose stream says so, or does not, or is not there.
    fn destroyed(&self, said: Option<bool>) -> Vec<UserId> {
        let destroyed = self.keys.values().filter(|key| key.erased_at.is_some());
        let has_said = |user: &UserId| {
            let stream = StreamId::new("user", user);
            let events = self.events.iter().filter(|event| event.stream == stream);
            let erased = events.map(|event| event.event_type == UserErased::TYPE);
            erased.reduce(|before, erased| before || erased)
        };
        let found = destroyed.map(|key| key.user_id);
        found.filter(|user| has_said(user) == said).collect()
    }

    fn check_side(&self, side: &SideWrite) -> Result<(), AppendError> {
        match side {
            SideWrite::InsertCredentials(new) => {
                if self.usernames.contains_key(&credential_key(&new.username)) {
                    return Err(AppendError::CredentialsTaken(CredentialField::Username));
                }
                if self.emails.contains_key(&credential_key(&new.email)) {
                    return Err(AppendError::CredentialsTaken(CredentialField::Email));
                }
            }
            SideWrite::ResetPassword { user_id, .. } => {
                if !self.credentials.contains_key(user_id) {
                    return Err(AppendError::NoCredentials);
                }
            }
            SideWrite::Erase { .. } => {}
            SideWrite::StoreAnswer { key, answer } => {
                let stored = self.answers.get(key);
                if let Some(stored) = stored.filter(|stored| !stored.expired(answer.stored_at)) {
                    return Err(AppendError::AnswerExists(Box::new(stored.clone())));
                }
            }
        }
        Ok(())
    }

    fn write_side(&mut self, side: SideWrite, position: Position) {
        match side {
            SideWrite::InsertCredentials(new) => {
                self.usernames
                    .insert(credential_key(&new.username), new.user_id);
                self.emails.insert(credential_key(&new.email), new.user_id);
                self.credentials.insert(new.user_id, new);
            }
            SideWrite::ResetPassword {
                user_id,
                password_hash,
            } => {
                if let Some(who) = self.credentials.get_mut(&user_id) {
                    who.password_hash = password_hash;
                    who.token_epoch += 1;
                }
            }
            SideWrite::StoreAnswer { key, mut answer } => {
                answer.position = position;
                self.answers.insert(key, answer);
            }
            SideWrite::Erase { user_id } => self.forget(user_id, position),
        }
    }

    /// What commits with `user.erased`.
    fn forget(&mut self, user_id: UserId, position: Position) {
        let known = self.credentials.remove(&user_id);
        if let Some(known) = &known {
            self.usernames.remove(&credential_key(&known.username));
            self.emails.remove(&credential_key(&known.email));
        }
        let owner = user_id.to_string();
        self.answers.retain(|key, _| key.owner != owner);
        self.erasures.entry(user_id).or_insert_with(|| Erasure {
            pending: PendingErasure {
                user_id,
                position,
                username: known.as_ref().map(|known| known.username.clone()),
                email: known.map(|known| known.email),
            },
            completed: false,
        });
    }
}
