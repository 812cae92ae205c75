//! Proving a read model: a plain fold of the log, in memory, compared row by row with what the store holds.
//!
//! The fold shares no code with the store's writer: it is the specification, also used by the property tests. Of a large
//! model only sums of its rows are kept, and the rows where these differ ([`gathered`]).

pub mod gathered;

use std::hash::Hasher;

use serde_json::Value;
use socialhub_domain::Event;
use socialhub_event_log::Position;
use uuid::Uuid;

use self::gathered::{Compared, Gathered};

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

/// What a model says about an entity, as JSON text: a verification may hold many of these, and a tree of small
/// allocations takes several times the memory.
#[derive(Debug, Clone, PartialEq)]
pub struct RowValue {
    text: Box<str>,
    /// Whether there are numbers with a fraction in it, which may differ a little.
    has_fraction: bool,
}

impl RowValue {
    /// The value itself: numbers come back to the last bit (`float_roundtrip` of `serde_json`).
    pub fn read(&self) -> Value {
        // It was written from a value.
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// Whether two are the same, but for how numbers with a fraction are rounded.
    fn same(&self, other: &Self) -> bool {
        self == other || same(&self.read(), &other.read())
    }

    /// Feeds a hash with it. What is the same but for a fraction's last digits nearly always has the same hash.
    fn hash(&self, hasher: &mut impl Hasher) {
        if self.has_fraction {
            let mut value = self.read();
            round(&mut value);
            hasher.write(value.to_string().as_bytes());
        } else {
            hasher.write(self.text.as_bytes());
        }
    }
}

impl From<Value> for RowValue {
    fn from(value: Value) -> Self {
        Self {
            has_fraction: has_fraction(&value),
            text: value.to_string().into_boxed_str(),
        }
    }
}

fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(values) => values.iter().any(has_fraction),
        Value::Object(fields) => fields.values().any(has_fraction),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

/// Rounds numbers with a fraction to ten digits, which is never more coarsely than [`same`] tells apart.
fn round(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let exact = number.as_f64().unwrap_or(f64::NAN);
            *value = Value::String(format!("{exact:.9e}"));
        }
        Value::Array(values) => values.iter_mut().for_each(round),
        Value::Object(fields) => fields.values_mut().for_each(round),
        _ => {}
    }
}

/// Takes the rows of a model one by one as its store reads them, in any order.
///
/// But first those by which the store says what it need not have ([`Accounts`]).
pub trait RowSink: Send {
    /// Takes the next row.
    fn take(&mut self, row: ModelRow);
}

impl RowSink for Vec<ModelRow> {
    fn take(&mut self, row: ModelRow) {
        self.push(row);
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

/// What a store says it need not have, and what it has of that nevertheless.
pub trait Accounts: Default + Send + 'static {
    /// Keeps a row of this kind; gives back any other, which is compared as it is.
    fn keep(&mut self, row: ModelRow) -> Option<ModelRow>;
}

/// Of a store that has everything.
impl Accounts for () {
    fn keep(&mut self, row: ModelRow) -> Option<ModelRow> {
        Some(row)
    }
}

/// The plain fold of one model.
pub trait ModelFold: Default + Send + 'static {
    /// What its stores may leave out, by their own account.
    type Accounts: Accounts;

    /// Whether its stores take an event for old by the position of the last one that changed the row: a wrong one makes them
    /// leave out what is to come.
    const POSITIONS_COUNT: bool = false;

    /// Takes the next event, positions rising.
    fn apply(&mut self, position: Position, event: &Event);

    /// Hands over every row the model must have, in any order; what a store need not have is left out.
    fn each_row(&self, accounts: &Self::Accounts, row: &mut dyn FnMut(ModelRow));

    /// What is wrong with a store's account of itself, and with what it has of that which it need not have.
    fn wrong_accounts(&self, _accounts: Self::Accounts) -> Vec<Difference> {
        Vec::new()
    }

    /// Every row, sorted by table and key.
    fn rows(&self) -> Vec<ModelRow> {
        let mut rows = Vec::new();
        self.each_row(&Self::Accounts::default(), &mut |row| rows.push(row));
        sort(&mut rows);
        rows
    }

    /// Compares the fold with all of a store's rows, those by which it accounts for itself first.
    fn differences(&self, found: Vec<ModelRow>) -> Vec<Difference> {
        let mut gathered = Gathered::keeping_all();
        found.into_iter().for_each(|row| gathered.take(row));
        match gathered.compare(self) {
            Compared::Exactly(differences) => differences,
            // Everything was kept.
            Compared::Roughly(_) => Vec::new(),
        }
    }
}

/// Sorts rows by table and key.
pub fn sort(rows: &mut [ModelRow]) {
    rows.sort_unstable_by(|left, right| (left.table, &left.key).cmp(&(right.table, &right.key)));
}

/// Compares two sorted lists of rows; their positions, too, if these count.
pub(crate) fn compare(
    expected: Vec<ModelRow>,
    found: Vec<ModelRow>,
    positions_count: bool,
) -> Vec<Difference> {
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
        differences.extend(difference(left, right, positions_count));
    }
}

fn difference(
    expected: Option<ModelRow>,
    found: Option<ModelRow>,
    positions_count: bool,
) -> Option<Difference> {
    let moved = match (&expected, &found) {
        (Some(left), Some(right)) if left.value.same(&right.value) => {
            if !positions_count || left.position == right.position {
                return None;
            }
            true
        }
        _ => false,
    };
    let row = expected.as_ref().or(found.as_ref())?;
    let (table, key, position) = (row.table, row.key.clone(), row.position);
    let read = |row: ModelRow| {
        let value = row.value.read();
        if !moved {
            return value;
        }
        let mut fields = match value {
            Value::Object(fields) => fields,
            _ => serde_json::Map::new(),
        };
        fields.insert("lastEvent".to_owned(), row.position.into());
        Value::Object(fields)
    };
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

    fn hash(value: Value) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        RowValue::from(value).hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn the_last_digits_of_a_fraction_are_not_hashed() {
        let of = |score: f64| hash(json!({ "score": [score], "likes": 3 }));
        assert_eq!(of(1_667.248_753_750_000_6), of(1_667.248_753_750_000_4));
        assert_ne!(of(1_667.248_753), of(1_667.248_853));
        let (one, other) = (1_667.248_751, 1_667.248_754);
        assert!(!same(&json!(one), &json!(other)));
        assert_ne!(of(one), of(other));
        assert_ne!(hash(json!({ "likes": 3 })), hash(json!({ "likes": 4 })));
    }

    #[test]
    fn a_value_comes_back_as_it_was() {
        for score in [1_667.248_753_750_000_6, 1_585.629_228_333_333_5, 0.1 + 0.2] {
            let value = json!({ "log2Score": score, "likes": 3, "name": "a \"b\"" });
            assert_eq!(RowValue::from(value.clone()).read(), value);
        }
    }
}
