//! The `counters` read model on Redis.
//!
//! A generation is a handful of keys beside each other, `<prefix>:counters:<generation>:<part>`:
//!
//! - `state` (hash): whose it is (`token`, made anew whenever its writers lose it), how far each source has come (`c:`),
//!   how far into a batch that is being written (`p:`), whether writers ended well (`k:`), and how many entries the other
//!   parts have, so that a part that is lost is noticed.
//! - `posts`, `people` (hashes): packed records by the 16 bytes of an id; `trending` (sorted set): ids by log2 score.
//!   Redis orders equal scores by their bytes, which is the order of ids.
//! - `parked`, `attempts` (hashes), `writers` (sorted set by the moment until which they are known to be there).
//!
//! `<prefix>:counters` (hash) says which generations there are and which one is current; when it names none, the model
//! is missing, and [`keep_filled`] fills it from the log. Why it is like this: `docs/decisions/0009-counters-on-redis.md`.

mod fence;
mod fill;
mod generations;
mod held;
mod pack;
mod reader;
mod scripts;
mod snapshot;
mod store;

use std::str::FromStr;

use redis::Value;
use socialhub_event_log::Position;
use socialhub_projections::{Checkpoint, GenerationId, Source, StoreError};
use uuid::Uuid;

pub use self::{fill::keep_filled, generations::RedisGenerations, reader::RedisCounterReader};
use crate::redis::link::RedisFault;

/// How records are packed; another program's are refused.
const FORMAT: &str = "1";

/// Positions go through doubles, in scripts.
const MAX_POSITION: Position = 1 << 53;

impl From<RedisFault> for StoreError {
    fn from(fault: RedisFault) -> Self {
        match fault {
            RedisFault::Unavailable(_) => Self::Unavailable(fault.to_string()),
            RedisFault::Broken(_) | RedisFault::Unsafe(_) => Self::Unusable(fault.to_string()),
        }
    }
}

/// The keys of one generation.
#[derive(Debug, Clone)]
struct Keys(String);

impl Keys {
    fn new(catalogue: &str, id: GenerationId) -> Self {
        Self(format!("{catalogue}:{id}"))
    }

    fn part(&self, name: &str) -> String {
        format!("{}:{name}", self.0)
    }

    fn state(&self) -> String {
        self.part("state")
    }
}

fn fence_key(catalogue: &str) -> String {
    format!("{catalogue}:fence")
}

fn claim_key(catalogue: &str) -> String {
    format!("{catalogue}:claim")
}

/// A word that nobody else makes.
fn token() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// A source as the fields of a hash name it.
fn source_field(source: &Source) -> String {
    format!("{}:{}", source.partition, source.name)
}

fn parse_source(field: &str) -> Option<Source> {
    let (partition, name) = field.split_once(':')?;
    Some(Source {
        name: name.to_owned(),
        partition: partition.parse().ok()?,
    })
}

fn checkpoint_text(checkpoint: &Checkpoint) -> String {
    let offset = checkpoint
        .next_offset
        .map_or_else(|| "-".to_owned(), |offset| offset.to_string());
    let partitions = checkpoint
        .partitions
        .map_or_else(|| "-".to_owned(), |count| count.to_string());
    let event = checkpoint.event_id.simple();
    format!("{} {event} {offset} {partitions}", checkpoint.position)
}

fn parse_checkpoint(source: Source, text: &str) -> Option<Checkpoint> {
    let mut words = text.split(' ');
    Some(Checkpoint {
        source,
        position: words.next()?.parse().ok()?,
        event_id: Uuid::parse_str(words.next()?).ok()?,
        next_offset: i64::from_str(words.next()?).ok(),
        partitions: words.next().and_then(|count| count.parse().ok()),
    })
}

/// The checkpoints among the fields and values of a `state`, by source.
fn parse_checkpoints(state: &[(String, String)]) -> Vec<Checkpoint> {
    let mut found: Vec<_> = state
        .iter()
        .filter_map(|(field, text)| {
            let source = parse_source(field.strip_prefix("c:")?)?;
            parse_checkpoint(source, text)
        })
        .collect();
    found.sort_by(|a, b| {
        (&a.source.name, a.source.partition).cmp(&(&b.source.name, b.source.partition))
    });
    found
}

/// Whether a batch is in the middle of being written.
fn has_begun(state: &[(String, String)]) -> bool {
    state.iter().any(|(field, _)| field.starts_with("p:"))
}

/// Fields and values, in turns, as scripts answer a hash.
fn pairs(value: &Value) -> Vec<(String, String)> {
    let Value::Array(items) = value else {
        return Vec::new();
    };
    items
        .chunks_exact(2)
        .filter_map(|pair| Some((words(pair.first()?)?, words(pair.get(1)?)?)))
        .collect()
}

fn words(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

/// What a script answers: a word, and what belongs to it.
struct Reply {
    word: String,
    rest: Vec<Value>,
}

impl Reply {
    fn of(value: Value) -> Self {
        let mut rest = match value {
            Value::Array(items) => items,
            other => vec![other],
        };
        let word = rest.first().and_then(words).unwrap_or_default();
        rest.drain(..1.min(rest.len()));
        Self { word, rest }
    }

    fn number(&self) -> Option<u64> {
        words(self.rest.first()?)?.parse().ok()
    }

    /// The two numbers of a good answer.
    fn numbers(&self) -> Option<[u64; 2]> {
        let number = |index: usize| words(self.rest.get(index)?)?.parse().ok();
        (self.word == "done").then_some(())?;
        Some([number(0)?, number(1)?])
    }

    /// What every script may answer that is not what was hoped for.
    fn fault(&self) -> StoreError {
        match self.word.as_str() {
            "fenced" => StoreError::Unavailable("another generation is taking over".to_owned()),
            "busy" => StoreError::Unavailable("it is being written, or read as a whole".to_owned()),
            "unclaimed" | "unfenced" => StoreError::Unavailable(
                "the right to change generations was lost; try again".to_owned(),
            ),
            "lost" => StoreError::Unusable(
                "another generation has become current, or the model is gone from Redis".to_owned(),
            ),
            "mixed" => StoreError::Unusable(
                "a partition's batch was cut off in it, so it cannot be continued from the log; run `socialhub replay rebuild counters`"
                    .to_owned(),
            ),
            "missing" | "current" => {
                StoreError::Unusable("that generation is current or does not exist".to_owned())
            }
            other => StoreError::Unusable(format!(
                "it is damaged ({other}); run `socialhub replay rebuild counters`"
            )),
        }
    }
}
