//! What is sealed reads as it was; what cannot be opened is a tombstone or an error, and never the other one.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use proptest::prelude::*;
use socialhub_domain::{
    Event, PostId, Timestamp,
    event::{CATALOGUE, Media, PostCreated, UserFollowed, Visibility},
    personal::redacted,
    testing::id,
    upcast,
};

use super::*;
use crate::{MemoryEventLog, keys::KeyRecord};

/// No secret, but bound to key and context as a real one is: what it sealed ends with both.
struct ToyCipher;

fn mark(key: &PersonKey, context: &[u8]) -> Vec<u8> {
    [&key.0[..], context].concat()
}

impl FieldCipher for ToyCipher {
    fn new_key(&self) -> PersonKey {
        static NEXT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
        PersonKey([NEXT.fetch_add(1, Ordering::Relaxed); 32])
    }

    fn seal(&self, key: &PersonKey, context: &[u8], clear: &[u8]) -> Vec<u8> {
        let hidden: Vec<u8> = clear.iter().map(|byte| byte ^ 0x55).collect();
        [hidden, mark(key, context)].concat()
    }

    fn open(&self, key: &PersonKey, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let hidden = sealed.strip_suffix(&mark(key, context)[..])?;
        Some(hidden.iter().map(|byte| byte ^ 0x55).collect())
    }
}

/// A key store that may be away.
struct Keys {
    store: Arc<MemoryEventLog>,
    away: AtomicBool,
}

impl Keys {
    fn there(&self) -> Result<(), LogError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(LogError::Unavailable("the keys are away".to_owned()));
        }
        Ok(())
    }
}

#[async_trait]
impl PersonKeys for Keys {
    async fn find(&self, people: &[UserId]) -> Result<HashMap<UserId, KeyState>, LogError> {
        self.there()?;
        self.store.find(people).await
    }

    async fn obtain(
        &self,
        offered: Vec<(UserId, PersonKey)>,
    ) -> Result<HashMap<UserId, KeyState>, LogError> {
        self.there()?;
        self.store.obtain(offered).await
    }

    async fn destroy(&self, user_id: UserId, position: Position) -> Result<(), LogError> {
        self.store.destroy(user_id, position).await
    }

    async fn page(&self, after: Option<UserId>, limit: usize) -> Result<Vec<KeyRecord>, LogError> {
        self.store.page(after, limit).await
    }

    async fn restore(&self, records: Vec<KeyRecord>) -> Result<(), LogError> {
        self.store.restore(records).await
    }
}

struct World {
    store: Arc<MemoryEventLog>,
    keys: Arc<Keys>,
}

impl World {
    fn new() -> Self {
        let store = Arc::new(MemoryEventLog::new());
        let keys = Arc::new(Keys {
            store: store.clone(),
            away: AtomicBool::new(false),
        });
        Self { store, keys }
    }

    /// A process with nothing in its cache.
    fn log(&self) -> SealedLog {
        SealedLog::new(self.store.clone(), self.keys.clone(), Arc::new(ToyCipher))
    }

    async fn read(&self) -> Result<Vec<Event>, LogError> {
        let read = self.log().read_all(0, 100).await?;
        Ok(read.iter().map(|event| event.decode().unwrap()).collect())
    }
}

fn append(nth: u128, event: impl Into<Event>) -> Append {
    Append {
        command_id: id(nth),
        stream: StreamId::new("test", nth),
        expected_version: 0,
        events: vec![NewEvent {
            event_id: id(1_000 + nth),
            event: event.into(),
            payload: None,
        }],
        metadata: crate::Metadata::default(),
        side: Vec::new(),
    }
}

fn user(n: u128) -> UserId {
    UserId(id(n))
}

fn follow(follower: u128) -> UserFollowed {
    UserFollowed {
        follower_id: user(follower),
        following_id: user(99),
        follower_username: format!("user{follower}"),
        notify: true,
        timestamp: Timestamp(1),
    }
}

#[tokio::test]
async fn a_destroyed_key_makes_tombstones_and_a_key_store_that_is_away_makes_errors() {
    let world = World::new();
    let log = world.log();
    log.append(append(1, follow(1))).await.unwrap();
    log.append(append(2, follow(2))).await.unwrap();
    let clear = world.read().await.unwrap();
    world.keys.away.store(true, Ordering::Relaxed);
    assert!(matches!(world.read().await, Err(LogError::Unavailable(_))));
    // Who has the keys in the cache goes on, who needs another does not.
    assert_eq!(log.read_all(0, 9).await.unwrap().len(), 2);
    let refused = log.append(append(3, follow(3))).await;
    assert!(matches!(refused, Err(AppendError::Unavailable(_))));
    assert_eq!(
        world.store.head().await.unwrap(),
        2,
        "nothing was handed over"
    );
    world.keys.away.store(false, Ordering::Relaxed);
    world.store.destroy(user(1), 3).await.unwrap();
    let expected: Vec<Event> = clear
        .iter()
        .map(|event| redacted(event, |someone| someone == user(1)))
        .collect();
    assert_ne!(expected, clear);
    assert_eq!(world.read().await.unwrap(), expected);
}

#[tokio::test]
async fn a_sealed_field_without_any_key_is_an_error() {
    let world = World::new();
    world.log().append(append(1, follow(1))).await.unwrap();
    let elsewhere = SealedLog::new(
        world.store.clone(),
        Arc::new(MemoryEventLog::new()),
        Arc::new(ToyCipher),
    );
    let error = elsewhere.read_all(0, 9).await.unwrap_err();
    assert!(
        matches!(error, LogError::NoKey { position: 1, user_id } if user_id == user(1)),
        "{error}"
    );
    assert!(error.to_string().contains("restore the keys"), "{error}");
}

#[tokio::test]
async fn a_sealed_field_opens_nowhere_else_and_holds_up_no_other_event() {
    let world = World::new();
    world.log().append(append(1, follow(1))).await.unwrap();
    let sealed = world.store.events()[0].payload.clone();
    // Another event of the same person that says the same.
    let mut moved = append(2, follow(1));
    moved.events[0].payload = Some(sealed.clone());
    world.store.append(moved).await.unwrap();
    world.log().append(append(3, follow(3))).await.unwrap();
    let read = world.log().read_all(0, 9).await.unwrap();
    assert_eq!(read[1].payload, sealed);
    let decoded: Vec<_> = read.iter().map(RecordedEvent::decode).collect();
    let [Ok(first), Err(error), Ok(last)] = &decoded[..] else {
        panic!("{decoded:?}");
    };
    assert_eq!((first, last), (&follow(1).into(), &follow(3).into()));
    assert!(
        error
            .to_string()
            .contains("`followerUsername` does not open"),
        "{error}"
    );
    world.store.destroy(user(1), 4).await.unwrap();
    let erased = redacted(&follow(1).into(), |_| true);
    assert_eq!(world.read().await.unwrap()[1], erased);
}

/// What does not open must not pass for something that was said.
#[test]
fn an_event_with_a_sealed_field_does_not_decode() {
    for (event_type, today) in CATALOGUE {
        for version in 1..=*today {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(format!("../domain/fixtures/{event_type}.v{version}.json"));
            let text = fs::read_to_string(path).unwrap();
            for field in personal::fields_of(event_type) {
                let mut fields = JsonFields::parse(&text).unwrap();
                if fields.get(&field.field).is_none() {
                    continue;
                }
                fields.set(&field.field, r#"{"sealed":"AAAA"}"#);
                let decoded = upcast::decode(event_type, version, &fields.to_json());
                assert!(decoded.is_err(), "{event_type} {version} {}", field.field);
            }
        }
    }
}

#[tokio::test]
async fn clear_payloads_of_older_logs_read_as_they_are_until_their_person_is_erased() {
    let world = World::new();
    world.store.append(append(1, follow(1))).await.unwrap();
    let clear = world.read().await.unwrap();
    assert_eq!(clear, [follow(1).into()]);
    world.store.destroy(user(1), 2).await.unwrap();
    assert_eq!(world.read().await.unwrap(), [redacted(&clear[0], |_| true)]);
}

#[tokio::test]
async fn a_key_that_is_still_in_a_cache_seals_what_nobody_can_open() {
    let world = World::new();
    let log = world.log();
    log.append(append(1, follow(1))).await.unwrap();
    world.store.destroy(user(1), 2).await.unwrap();
    log.append(append(2, follow(1))).await.unwrap();
    assert!(world.store.events()[1].payload.contains("sealed"));
    let erased = redacted(&follow(1).into(), |_| true);
    assert_eq!(world.read().await.unwrap(), [erased.clone(), erased]);
}

proptest! {
    #[test]
    fn whatever_is_written_is_read(
        texts in prop::collection::vec((".*", ".*", prop::collection::vec(".{0,9}", 0..3)), 1..6),
    ) {
        let events: Vec<Event> = texts
            .into_iter()
            .map(|(username, content, urls)| PostCreated {
                post_id: PostId(id(7)),
                user_id: user(u128::from(content.len() as u64 % 3)),
                username,
                content,
                visibility: Visibility::Public,
                media: urls
                    .into_iter()
                    .map(|url| Media { url, content_type: "image/png".to_owned(), size: 1 })
                    .collect(),
                timestamp: Timestamp(1),
            }.into())
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let log = world.log();
            for (nth, event) in (1..).zip(&events) {
                log.append(append(nth, event.clone())).await.unwrap();
            }
            assert_eq!(world.read().await.unwrap(), events);
        });
    }
}
