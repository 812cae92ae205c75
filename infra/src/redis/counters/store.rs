//! One generation as its writers see it.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::{Cmd, ScriptInvocation, Value};
use socialhub_event_log::Position;
use socialhub_projections::{
    Checkpoint, GenerationId, ParkedLetter, ReadModelStore, Source, StoreError,
    counters::{CounterChange, Counters},
    projection::Projected,
    store::{Attempts, ParkedSequence, WriteBatch},
};

use super::{
    Keys, MAX_POSITION, Reply, checkpoint_text, fence_key,
    pack::{Part, pack, parts},
    pairs, parse_checkpoints, scripts, source_field,
};
use crate::redis::{
    link::RedisLink,
    renewal::{Renewal, TIME_TO_LIVE},
};

/// Parts sent at once. Redis serves others between two of them.
const AT_ONCE: usize = 8;

/// Letters looked through at once.
const LETTERS_AT_ONCE: u32 = 200;

/// The parts that `apply.lua` writes, in its order.
const WRITTEN: [&str; 5] = ["state", "posts", "people", "trending", "parked"];

/// The store of one generation of the counters. Any number of writers, in any processes, may hold it.
pub(super) struct RedisCounterStore {
    link: RedisLink,
    catalogue: String,
    id: GenerationId,
    keys: Keys,
    /// What the generation's own must be: else the writers of this program have lost it.
    token: String,
    closed: AtomicBool,
    presence: Mutex<Option<Renewal>>,
}

impl RedisCounterStore {
    pub(super) async fn open(
        link: RedisLink,
        catalogue: String,
        id: GenerationId,
        token: String,
    ) -> Result<Self, StoreError> {
        let keys = Keys::new(&catalogue, id);
        let presence = announce(&link, keys.part("writers")).await?;
        Ok(Self {
            link,
            catalogue,
            id,
            keys,
            token,
            closed: AtomicBool::new(false),
            presence: Mutex::new(Some(presence)),
        })
    }

    fn open_link(&self) -> Result<&RedisLink, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Unusable("it has been closed".to_owned()));
        }
        Ok(&self.link)
    }

    /// The script that writes, with its keys and the arguments that all calls have.
    fn writing(&self, source: &Source, after: Position) -> Cmd {
        let mut script = redis::cmd("EVALSHA");
        script
            .arg(scripts::APPLY.get_hash())
            .arg(1 + WRITTEN.len())
            .arg(fence_key(&self.catalogue));
        for part in WRITTEN {
            script.arg(self.keys.part(part));
        }
        script
            .arg(self.id.0)
            .arg(&self.token)
            .arg(source_field(source))
            .arg(source_field(&Source::log()))
            .arg(after);
        script
    }

    fn write_part(&self, batch: &WriteBatch<CounterChange>, part: &Part) -> Cmd {
        let checkpoint = &batch.checkpoint;
        let mut script = self.writing(&checkpoint.source, batch.after);
        let then = if part.last {
            checkpoint_text(checkpoint)
        } else {
            String::new()
        };
        script
            .arg(part.from)
            .arg(part.upto)
            .arg(checkpoint.position)
            .arg(then)
            .arg("")
            .arg(&part.posts)
            .arg(&part.people);
        for (position, letter) in &part.letters {
            script.arg(*position).arg(letter);
        }
        script
    }

    /// Writes what follows on `from`, as far as it goes; answers how far that was, or none when all is written.
    async fn write_on(
        &self,
        batch: &WriteBatch<CounterChange>,
        from: Position,
    ) -> Result<Option<Position>, StoreError> {
        let parts = parts(batch, from, AT_ONCE);
        let calls = parts.iter().map(|part| self.write_part(batch, part));
        let replies = self.open_link()?.invoke_all(&scripts::APPLY, calls).await?;
        let mut written = from;
        for (part, reply) in parts.iter().zip(replies) {
            let reply = Reply::of(reply);
            match reply.word.as_str() {
                "done" if part.last => return Ok(None),
                "done" => written = part.upto,
                "known" => return Ok(None),
                "moved" => return Err(StoreError::Moved),
                // Somebody, perhaps this very call a moment ago, has written some of it already.
                "at" => return reply.number().map(Some).ok_or_else(|| reply.fault()),
                _ => return Err(reply.fault()),
            }
        }
        Ok(Some(written))
    }

    async fn state(&self) -> Result<Vec<(String, String)>, StoreError> {
        let mut ask = redis::cmd("HGETALL");
        ask.arg(self.keys.state());
        let state = pairs(&flat(self.open_link()?.query(&ask).await?));
        let token = state.iter().find(|(field, _)| field == "token");
        if token.is_some_and(|(_, token)| *token == self.token) {
            Ok(state)
        } else {
            Err(lost())
        }
    }

    /// Runs a script that answers 0 when the generation is lost.
    async fn own(&self, script: &ScriptInvocation<'_>) -> Result<u32, StoreError> {
        match self.open_link()?.invoke(script).await? {
            0 => Err(lost()),
            number => Ok(number),
        }
    }
}

fn lost() -> StoreError {
    Reply::of(Value::SimpleString("lost".to_owned())).fault()
}

/// A hash as an array, whichever way the server answers it.
pub(super) fn flat(value: Value) -> Value {
    match value {
        Value::Map(pairs) => Value::Array(pairs.into_iter().flat_map(|(a, b)| [a, b]).collect()),
        other => other,
    }
}

/// Says that a writer is there, until what it answers is dropped.
async fn announce(link: &RedisLink, writers: String) -> Result<Renewal, StoreError> {
    let me = super::token();
    let mut call = scripts::WRITER.prepare_invoke();
    call.key(&writers)
        .arg(&me)
        .arg(TIME_TO_LIVE.as_millis() as u64);
    link.invoke::<Value>(&call).await?;
    let (again, last) = (link.clone(), link.clone());
    let call = std::sync::Arc::new(call);
    Ok(Renewal::start(
        move || {
            let (link, call) = (again.clone(), std::sync::Arc::clone(&call));
            async move {
                // When it fails it is not seen for a while, and nothing else depends on it.
                let _ = link.invoke::<Value>(&call).await;
            }
        },
        move || async move {
            let mut leave = redis::cmd("ZREM");
            leave.arg(writers).arg(me);
            let _ = last.query::<Value>(&leave).await;
        },
    ))
}

/// Every letter of a generation, by position.
pub(super) async fn read_letters(
    link: &RedisLink,
    keys: &Keys,
) -> Result<Vec<ParkedLetter>, StoreError> {
    let mut ask = redis::cmd("HVALS");
    ask.arg(keys.part("parked"));
    let texts: Vec<String> = link.query(&ask).await?;
    let mut letters = texts
        .iter()
        .map(|text| parse_letter(text))
        .collect::<Result<Vec<_>, _>>()?;
    letters.sort_by_key(|letter| letter.position);
    Ok(letters)
}

fn parse_letter(text: &str) -> Result<ParkedLetter, StoreError> {
    serde_json::from_str(text)
        .map_err(|error| StoreError::Unusable(format!("a parked letter: {error}")))
}

fn hget(key: String, field: &str) -> Cmd {
    let mut ask = redis::cmd("HGET");
    ask.arg(key).arg(field);
    ask
}

#[async_trait]
impl ReadModelStore<Counters> for RedisCounterStore {
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        Ok(parse_checkpoints(&self.state().await?))
    }

    async fn apply(&self, batch: WriteBatch<CounterChange>) -> Result<(), StoreError> {
        let position = batch.checkpoint.position;
        if position >= MAX_POSITION {
            let reason = "the position is beyond what Redis can count".to_owned();
            return Err(StoreError::Rejected { position, reason });
        }
        let mut from = batch.after;
        while let Some(written) = self.write_on(&batch, from).await? {
            from = written;
        }
        Ok(())
    }

    async fn parked(&self) -> Result<Vec<ParkedLetter>, StoreError> {
        self.state().await?;
        read_letters(self.open_link()?, &self.keys).await
    }

    async fn parked_sequences(&self) -> Result<Vec<ParkedSequence>, StoreError> {
        self.state().await?;
        let link = self.open_link()?;
        let mut found = HashMap::new();
        let mut cursor = 0_u64;
        loop {
            let mut ask = redis::cmd("HSCAN");
            ask.arg(self.keys.part("parked"))
                .arg(cursor)
                .arg("COUNT")
                .arg(LETTERS_AT_ONCE);
            let (next, letters): (u64, Vec<(String, String)>) = link.query(&ask).await?;
            // The server may name a letter twice.
            for (_, text) in letters {
                let letter = parse_letter(&text)?;
                found.insert(letter.position, (letter.sequence(), letter.attempts));
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        let letters = found.into_iter();
        Ok(ParkedSequence::of(letters.map(
            |(position, (sequence, attempts))| (position, sequence, attempts),
        )))
    }

    async fn apply_parked(&self, projected: Projected<CounterChange>) -> Result<(), StoreError> {
        let (posts, people) = pack([&projected]);
        let mut script = self.writing(&Source::log(), 0);
        script
            .arg(0)
            .arg(0)
            .arg(0)
            .arg("")
            .arg(projected.position)
            .arg(posts)
            .arg(people);
        let link = self.open_link()?;
        let replies = link.invoke_all(&scripts::APPLY, [script]).await?;
        let reply = Reply::of(replies.into_iter().next().unwrap_or_default());
        match reply.word.as_str() {
            // Without its letter it was applied before, and only the answer was lost.
            "done" | "gone" => Ok(()),
            _ => Err(reply.fault()),
        }
    }

    async fn discard_parked(&self, position: Position) -> Result<(), StoreError> {
        let mut script = scripts::DISCARD.prepare_invoke();
        script
            .key(self.keys.state())
            .key(self.keys.part("parked"))
            .arg(&self.token)
            .arg(position);
        self.own(&script).await.map(|_| ())
    }

    async fn set_attempts(&self, source: &Source, attempts: &Attempts) -> Result<(), StoreError> {
        let text = serde_json::to_string(attempts)
            .map_err(|error| StoreError::Unusable(format!("attempts: {error}")))?;
        let mut script = scripts::ATTEMPTS.prepare_invoke();
        script
            .key(self.keys.state())
            .key(self.keys.part("attempts"))
            .arg(&self.token)
            .arg(source_field(source))
            .arg(text);
        self.own(&script).await.map(|_| ())
    }

    async fn attempts(&self, source: &Source) -> Result<Attempts, StoreError> {
        let attempts = hget(self.keys.part("attempts"), &source_field(source));
        let attempts: Option<String> = self.open_link()?.query(&attempts).await?;
        attempts.map_or_else(
            || Ok(Attempts::new()),
            |text| {
                serde_json::from_str(&text)
                    .map_err(|error| StoreError::Unusable(format!("attempts: {error}")))
            },
        )
    }

    async fn stopped_cleanly(&self, source: &Source) -> Result<bool, StoreError> {
        let field = format!("k:{}", source_field(source));
        let clean: Option<String> = self
            .open_link()?
            .query(&hget(self.keys.state(), &field))
            .await?;
        Ok(clean.as_deref() != Some("0"))
    }

    async fn set_stopped_cleanly(&self, source: &Source, clean: bool) -> Result<(), StoreError> {
        let mut script = scripts::CLEAN.prepare_invoke();
        script
            .key(self.keys.state())
            .key(self.keys.part("attempts"))
            .arg(&self.token)
            .arg(source_field(source))
            .arg(if clean { "1" } else { "0" });
        self.own(&script).await.map(|_| ())
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        drop(self.presence.lock().take());
    }
}
