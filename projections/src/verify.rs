//! Proving a read model: a plain fold of the log, in memory, compared row by row with what the store holds.
//!
//! The fold shares no code with the store's writer: it is the specification, also used by the property tests.

use serde_json::Value;
use socialhub_domain::Event;
use socialhub_event_log::Position;
use uuid::Uuid;

use crate::store::Checkpoint;

/// A row of a read model in a form that two implementations can be compared in.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelRow {
    /// The kind of entity, e.g. `post`.
    pub table: &'static str,
    /// Its key as text.
    pub key: String,
    /// Everything the model says about it.
    pub value: RowValue,
    /// The position of the last event that changed it.
    pub position: Position,
}

/// What a model says about an entity, as JSON text: a verification holds millions of these, and a tree of small
/// allocations takes several times the memory.
#[derive(Debug, Clone, PartialEq)]
pub struct RowValue(Box<str>);

impl RowValue {
    /// The value itself: numbers come back to the last bit (`float_roundtrip` of `serde_json`).
    pub fn read(&self) -> Value {
        // It was written from a value.
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// Whether two are the same, but for how numbers with a fraction are rounded.
    fn same(&self, other: &Self) -> bool {
        self == other || same(&self.read(), &other.read())
    }
}

impl From<Value> for RowValue {
    fn from(value: Value) -> Self {
        Self(value.to_string().into_boxed_str())
    }
}

/// What a store held at one moment.
#[derive(Debug, Clone, Default)]
pub struct ModelSnapshot {
    /// How far it had read.
    pub checkpoints: Vec<Checkpoint>,
    /// Every row, sorted by table and key.
    pub rows: Vec<ModelRow>,
    /// Whether the store has no transactions: effects are written first and their checkpoint after them, so that a batch
    /// under way, or cut off, shows in the rows and not in the checkpoints.
    pub effects_first: bool,
    /// The kinds of rows that the store keeps nowhere, because it works them out of others when it is asked: there is
    /// nothing to compare.
    pub derived: &'static [&'static str],
}

impl ModelSnapshot {
    /// Everything that is not as a fold of the log says.
    pub fn differences_from(self, fold: impl ModelFold) -> Vec<Difference> {
        let mut differences = fold.differences(self.rows);
        differences.retain(|difference| !self.derived.contains(&difference.table));
        differences
    }
}

/// One thing that is not as the log says.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The kind of entity.
    pub table: &'static str,
    /// Its key.
    pub key: String,
    /// What the log says; none when it should not be there.
    pub expected: Option<Value>,
    /// What the store says; none when it is not there.
    pub found: Option<Value>,
    /// The position of the event behind it; 0 when there is none.
    pub position: Position,
}

/// Something in a read model that is to be made what the log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity {
    /// The kind of entity.
    pub table: &'static str,
    /// Its key.
    pub key: String,
    /// Whether it should be there at all.
    pub wanted: bool,
}

impl From<&Difference> for Entity {
    fn from(difference: &Difference) -> Self {
        Self {
            table: difference.table,
            key: difference.key.clone(),
            wanted: difference.expected.is_some(),
        }
    }
}

impl Entity {
    /// The id that is the key.
    pub fn id(&self) -> Option<Uuid> {
        self.key.parse().ok()
    }

    /// The id and the position that the key is made of.
    pub fn id_and_position(&self) -> Option<(Uuid, i64)> {
        let (id, position) = self.key.split_once('/')?;
        Some((id.parse().ok()?, position.parse().ok()?))
    }

    /// The two ids that the key is made of.
    pub fn pair(&self) -> Option<(Uuid, Uuid)> {
        let (left, right) = self.key.split_once('/')?;
        Some((left.parse().ok()?, right.parse().ok()?))
    }
}

/// The plain fold of one model.
pub trait ModelFold: Default + Send + 'static {
    /// Takes the next event, positions rising.
    fn apply(&mut self, position: Position, event: &Event);

    /// Every row the model should have, sorted by table and key.
    fn into_rows(self) -> Vec<ModelRow>;

    /// Compares the fold with a store's rows. Scores compare within 1e-9 relative. A model whose store keeps less than
    /// the fold (timelines above their horizon) says here what must agree.
    fn differences(self, found: Vec<ModelRow>) -> Vec<Difference> {
        compare(self.into_rows(), found)
    }
}

/// Compares two sorted lists of rows.
pub fn compare(expected: Vec<ModelRow>, found: Vec<ModelRow>) -> Vec<Difference> {
    let (mut expected, mut found) = (
        expected.into_iter().peekable(),
        found.into_iter().peekable(),
    );
    let mut differences = Vec::new();
    loop {
        let order = match (expected.peek(), found.peek()) {
            (None, None) => return differences,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(left), Some(right)) => (left.table, &left.key).cmp(&(right.table, &right.key)),
        };
        let left = if order.is_le() { expected.next() } else { None };
        let right = if order.is_ge() { found.next() } else { None };
        differences.extend(difference(left, right));
    }
}

fn difference(expected: Option<ModelRow>, found: Option<ModelRow>) -> Option<Difference> {
    let (table, key, position) = match (&expected, &found) {
        (Some(left), Some(right)) if left.value.same(&right.value) => return None,
        (Some(row), _) | (None, Some(row)) => (row.table, row.key.clone(), row.position),
        (None, None) => return None,
    };
    let read = |row: ModelRow| row.value.read();
    let (expected, found) = (expected.map(read), found.map(read));
    Some(Difference {
        table,
        key,
        expected,
        found,
        position,
    })
}

/// Equal, but for numbers with a fraction, which may differ by 1e-9 of their size.
pub fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let (a, b) = (
                a.as_f64().unwrap_or(f64::NAN),
                b.as_f64().unwrap_or(f64::NAN),
            );
            (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(x, y)| same(x, y))
        }
        _ => left == right,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_comes_back_as_it_was() {
        for score in [1_667.248_753_750_000_6, 1_585.629_228_333_333_5, 0.1 + 0.2] {
            let value = json!({ "log2Score": score, "likes": 3, "name": "a \"b\"" });
            assert_eq!(RowValue::from(value.clone()).read(), value);
        }
    }
}
