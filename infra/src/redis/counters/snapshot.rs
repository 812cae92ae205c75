//! Everything a generation holds, of one moment: read page by page, and once more when it was written meanwhile.

use std::{collections::BTreeMap, time::Duration};

use redis::{FromRedisValue, Value};
use socialhub_event_log::Position;
use socialhub_projections::{
    GenerationId, StoreError,
    runtime::Snapshot,
    verify::{ModelRow, RowSink},
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Keys,
    fence::pause,
    generations::Shared,
    has_begun,
    pack::{id, person_row, post_row},
    pairs, parse_checkpoints,
    store::{flat, read_letters},
};

/// Entries of a page.
const PAGE: usize = 2_000;
/// How often it is read in the hope that nobody writes meanwhile; then writers have to wait.
const HOPEFUL: u32 = 2;
/// How long a moment between two batches is looked for.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Reads a generation at one moment.
pub(super) async fn read(
    shared: &Shared,
    id: GenerationId,
) -> Result<(Snapshot, Records), StoreError> {
    for _ in 0..HOPEFUL {
        if let Some(snapshot) = read_if_still(shared, id).await? {
            return Ok(snapshot);
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let Some(_paused) = pause(shared, id).await? else {
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        if let Some(snapshot) = read_if_still(shared, id).await? {
            return Ok(snapshot);
        }
    }
    Err(StoreError::Unavailable(
        "it cannot be read as a whole: a batch is half written (its projector ends that at its next start), or another \
         generation is taking over"
            .to_owned(),
    ))
}

type State = Vec<(String, String)>;

async fn state(shared: &Shared, keys: &Keys) -> Result<State, StoreError> {
    let mut ask = redis::cmd("HGETALL");
    ask.arg(keys.state());
    let state = pairs(&flat(shared.link.query(&ask).await?));
    if state.is_empty() {
        return Err(StoreError::Unusable("it is not in Redis".to_owned()));
    }
    Ok(state)
}

/// None when it was written meanwhile, or a batch is half written.
async fn read_if_still(
    shared: &Shared,
    id: GenerationId,
) -> Result<Option<(Snapshot, Records)>, StoreError> {
    let keys = shared.keys(id);
    let mut before = state(shared, &keys).await?;
    if has_begun(&before) {
        return Ok(None);
    }
    let records = Records::read(shared, &keys).await?;
    let parked = read_letters(&shared.link, &keys).await?;
    let mut after = state(shared, &keys).await?;
    before.sort();
    after.sort();
    if before != after {
        return Ok(None);
    }
    let snapshot = Snapshot {
        checkpoints: parse_checkpoints(&before),
        parked,
    };
    Ok(Some((snapshot, records)))
}

/// What is counted, packed as it is in Redis.
pub(super) struct Records {
    people: BTreeMap<Uuid, Vec<u8>>,
    posts: BTreeMap<Uuid, Vec<u8>>,
    scores: BTreeMap<Uuid, f64>,
}

impl Records {
    async fn read(shared: &Shared, keys: &Keys) -> Result<Self, StoreError> {
        Ok(Self {
            people: scan(shared, "HSCAN", keys.part("people")).await?,
            posts: scan(shared, "HSCAN", keys.part("posts")).await?,
            scores: scan(shared, "ZSCAN", keys.part("trending")).await?,
        })
    }

    pub(super) fn hand_over(mut self, rows: &mut dyn RowSink) -> Result<(), StoreError> {
        for (id, record) in self.people {
            let (value, position) = person_row(&record).ok_or_else(damaged)?;
            rows.take(row("person", id, value, position));
        }
        for (id, record) in self.posts {
            // The score that is served, so that it is the one that is verified.
            let score = self.scores.remove(&id);
            let (value, position) = post_row(&record, score).ok_or_else(damaged)?;
            rows.take(row("post", id, value, position));
        }
        for (id, score) in self.scores {
            rows.take(row("trending", id, score.into(), 0));
        }
        Ok(())
    }
}

fn row(table: &'static str, id: Uuid, value: serde_json::Value, position: Position) -> ModelRow {
    ModelRow {
        table,
        key: id.to_string(),
        value: value.into(),
        position,
    }
}

fn damaged() -> StoreError {
    StoreError::Unusable(
        "it holds what is no record; run `socialhub replay rebuild counters`".to_owned(),
    )
}

/// Every entry of a hash or sorted set. An entry may come twice while Redis makes room for more.
async fn scan<T: FromRedisValue>(
    shared: &Shared,
    command: &str,
    key: String,
) -> Result<BTreeMap<Uuid, T>, StoreError> {
    let mut found = BTreeMap::new();
    let mut cursor = "0".to_owned();
    loop {
        let mut ask = redis::cmd(command);
        ask.arg(&key).arg(&cursor).arg("COUNT").arg(PAGE);
        let (next, entries): (String, Vec<Value>) = shared.link.query(&ask).await?;
        let mut entries = entries.into_iter();
        while let (Some(field), Some(value)) = (entries.next(), entries.next()) {
            let Value::BulkString(field) = field else {
                return Err(damaged());
            };
            let value = T::from_redis_value(value).map_err(|_| damaged())?;
            found.insert(id(&field).ok_or_else(damaged)?, value);
        }
        if next == "0" {
            return Ok(found);
        }
        cursor = next;
    }
}
