//! Queries on the counters, answered only while what Redis holds can be trusted.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use parking_lot::RwLock;
use redis::{ScriptInvocation, Value};
use socialhub_domain::{PostId, UserId};
use socialhub_event_log::Position;
use socialhub_projections::{
    Checkpoint, ReadError, Source,
    counters::{CounterReader, PersonCounts, PostCounts, TrendingPost},
    page::{Page, PageRequest},
    source_position,
};

use super::{
    Reply,
    pack::{id, person_counts, post_counts},
    pairs, parse_checkpoints, scripts, words,
};
use crate::redis::link::RedisLink;

/// Reads the current generation of the counters.
///
/// Every answer comes in one script with the generation's marker. Counts are `None` when Redis is away, when the model is
/// missing or lacks a part, and when a source is not as far as this process has seen it: an old dump.
#[derive(Debug, Clone)]
pub struct RedisCounterReader {
    link: RedisLink,
    catalogue: String,
    known: Arc<Known>,
}

/// The furthest that this process has seen of the counters: what it said of their position must hold for the counts, too.
#[derive(Debug, Default)]
pub(super) struct Known(RwLock<Arc<Seen>>);

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    /// Of which generation, after which write.
    stamp: String,
    /// How far each source was; never lower than before.
    sources: HashMap<Source, Position>,
}

impl Seen {
    /// A source that is not as far in `checkpoints` as it was.
    fn ahead_of(&self, checkpoints: &[Checkpoint]) -> Option<&Source> {
        let mut sources = self.sources.iter();
        let behind =
            sources.find(|(source, position)| source_position(checkpoints, source) < **position);
        behind.map(|(source, _)| source)
    }
}

impl Known {
    fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.0.read())
    }

    /// Takes note of what Redis holds. What is behind that, an old dump or an answer that came late, is nothing to go by.
    pub(super) fn note(&self, stamp: String, checkpoints: Vec<Checkpoint>) {
        let mut seen = self.0.write();
        if seen.ahead_of(&checkpoints).is_some() {
            return;
        }
        let mut sources = seen.sources.clone();
        for checkpoint in checkpoints {
            let position = sources.entry(checkpoint.source).or_default();
            *position = checkpoint.position.max(*position);
        }
        *seen = Arc::new(Seen { stamp, sources });
    }
}

/// Why there is no answer.
enum Untrusted {
    Away(String),
    Missing,
    Behind(Source),
}

impl RedisCounterReader {
    pub(super) fn new(link: RedisLink, catalogue: String, known: Arc<Known>) -> Self {
        Self {
            link,
            catalogue,
            known,
        }
    }

    /// Runs a query of `read.lua`; answers its rows.
    async fn ask(
        &self,
        query: impl FnOnce(&mut ScriptInvocation<'_>),
    ) -> Result<Vec<Value>, Untrusted> {
        // Taken before the question: the answer must be at least as new as what had been seen by then.
        let before = self.known.seen();
        let mut script = scripts::READ.prepare_invoke();
        script.key(&self.catalogue).arg(&before.stamp);
        query(&mut script);
        let answer = self.link.invoke(&script).await;
        let reply = Reply::of(answer.map_err(|error| Untrusted::Away(error.to_string()))?);
        if reply.word != "done" {
            return Err(Untrusted::Missing);
        }
        let mut rest = reply.rest.into_iter();
        let stamp = rest.next().as_ref().and_then(words).unwrap_or_default();
        let state = rest.next().unwrap_or_default();
        if stamp != before.stamp {
            self.check(&before, stamp, &state)?;
        }
        match rest.next() {
            Some(Value::Array(rows)) => Ok(rows),
            _ => Ok(Vec::new()),
        }
    }

    fn check(&self, before: &Seen, stamp: String, state: &Value) -> Result<(), Untrusted> {
        let checkpoints = parse_checkpoints(&pairs(state));
        if let Some(source) = before.ahead_of(&checkpoints) {
            return Err(Untrusted::Behind(source.clone()));
        }
        self.known.note(stamp, checkpoints);
        Ok(())
    }

    /// As the port wants it: what cannot be trusted is no answer.
    async fn counts(&self, query: impl FnOnce(&mut ScriptInvocation<'_>)) -> Option<Vec<Value>> {
        match self.ask(query).await {
            Ok(rows) => Some(rows),
            Err(why) => {
                tracing::debug!(reason = why.reason(), "counts are not taken from Redis");
                metrics::counter!("socialhub_counters_fallback_total").increment(1);
                None
            }
        }
    }
}

impl Untrusted {
    fn reason(&self) -> String {
        match self {
            Self::Away(reason) => reason.clone(),
            Self::Missing => "the counters are missing from Redis".to_owned(),
            Self::Behind(source) => {
                format!("the counters in Redis went back in time (source {source})")
            }
        }
    }
}

fn damaged() -> ReadError {
    ReadError("Redis holds what is no record of the counters".to_owned())
}

/// The bytes of a row; none for an entry that is not there.
fn bytes(row: &Value) -> Option<&[u8]> {
    match row {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

#[async_trait]
impl CounterReader for RedisCounterReader {
    async fn post_counts(&self, ids: &[PostId]) -> Result<Option<Vec<PostCounts>>, ReadError> {
        let rows = self.counts(|script| {
            script.arg("posts");
            for id in ids {
                script.arg(id.0.as_bytes());
            }
        });
        let Some(rows) = rows.await else {
            return Ok(None);
        };
        rows.iter()
            .map(|row| match bytes(row) {
                None => Ok(PostCounts::default()),
                Some(record) => post_counts(record).ok_or_else(damaged),
            })
            .collect::<Result<_, _>>()
            .map(Some)
    }

    async fn person_counts(&self, id: UserId) -> Result<Option<PersonCounts>, ReadError> {
        let rows = self.counts(|script| {
            script.arg("person").arg(id.0.as_bytes());
        });
        let Some(rows) = rows.await else {
            return Ok(None);
        };
        match rows.first().and_then(bytes) {
            None => Ok(Some(PersonCounts::default())),
            Some(record) => person_counts(record).map(Some).ok_or_else(damaged),
        }
    }

    async fn trending(&self, page: &PageRequest) -> Result<Option<Page<TrendingPost>>, ReadError> {
        let start = TrendingPost::start(page);
        let rows = self.counts(|script| {
            script.arg("trending").arg(page.limit + 1);
            match &start {
                // Rust prints a number so that it is read as the same one.
                Some(start) => script
                    .arg(format!("{}", start.log2_score))
                    .arg(start.post_id.0.as_bytes()),
                None => script.arg(page.offset().min(MAX_OFFSET)),
            };
        });
        let Some(rows) = rows.await else {
            return Ok(None);
        };
        let items = rows
            .chunks_exact(2)
            .map(|pair| item(pair).ok_or_else(damaged))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Some(TrendingPost::page(items, page.limit)))
    }
}

/// Beyond what a list can hold.
const MAX_OFFSET: u64 = 1 << 40;

fn item(pair: &[Value]) -> Option<TrendingPost> {
    Some(TrendingPost {
        post_id: PostId(id(bytes(pair.first()?)?)?),
        log2_score: words(pair.get(1)?)?.parse().ok()?,
    })
}
