//! Comparing a model of any size with its fold, without holding its rows.
//!
//! Rows are dealt into parts by a hash of their key, and each part has a sum of hashes of what its rows say. What the fold
//! expects is taken off again: a part whose sum is not nought differs. A small model is kept as a whole beside that, and
//! compared row by row at once; of a larger one the next look keeps the rows of those parts that differed. So it is what
//! differs that takes room, and a model that differs everywhere takes as much as it is.
//!
//! A difference hides if hashes cancel each other out: by chance, once in 2^64. The hash is `SipHash` of the standard
//! library, the same within a process, which is all it has to be.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hasher},
};

use socialhub_event_log::Position;

use super::{Accounts, Difference, ModelFold, ModelRow, RowSink, compare, sort};

/// In so many parts a model is compared: one that differs brings along a few dozen rows of a model with millions.
const PARTS: usize = 1 << 18;
/// A model of so many rows is kept as a whole.
const FEW: usize = 100_000;

/// Parts of a model, each a number below [`PARTS`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts(HashSet<usize>);

/// Which rows are kept, to be compared one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Keep {
    /// All, if they are no more than so many.
    UpTo(usize),
    /// There were more.
    None,
    /// Those of these parts.
    Of(Parts),
}

impl Keep {
    fn wants(&self, part: usize) -> bool {
        match self {
            Self::UpTo(_) => true,
            Self::None => false,
            Self::Of(parts) => parts.0.contains(&part),
        }
    }
}

/// What a look at a store has gathered.
#[derive(Debug)]
pub struct Gathered<F: ModelFold> {
    accounts: F::Accounts,
    derived: &'static [&'static str],
    keep: Keep,
    kept: Vec<ModelRow>,
    sums: Vec<u64>,
    count: usize,
    /// Positions of rows are noted when they are above this.
    above: Option<Position>,
    ahead: HashSet<Position>,
}

/// What came of a comparison.
#[derive(Debug, PartialEq)]
pub enum Compared {
    /// Everything that differs.
    Exactly(Vec<Difference>),
    /// What differs is in these parts, of which nothing was kept.
    Roughly(Parts),
}

impl<F: ModelFold> Gathered<F> {
    /// Keeps a small model as a whole.
    pub fn keeping_few() -> Self {
        Self::keeping(Keep::UpTo(FEW))
    }

    /// Keeps a model of any size as a whole.
    pub fn keeping_all() -> Self {
        Self::keeping(Keep::UpTo(usize::MAX))
    }

    /// Keeps nothing but sums.
    pub fn keeping_none() -> Self {
        Self::keeping(Keep::None)
    }

    /// Keeps what is in these parts.
    pub fn keeping_parts(parts: Parts) -> Self {
        Self::keeping(Keep::Of(parts))
    }

    fn keeping(keep: Keep) -> Self {
        Self {
            accounts: F::Accounts::default(),
            derived: &[],
            keep,
            kept: Vec::new(),
            sums: vec![0; PARTS],
            count: 0,
            above: None,
            ahead: HashSet::new(),
        }
    }

    /// Leaves out kinds of rows: of what a store works out when it is asked there is nothing to compare.
    #[must_use]
    pub fn without(mut self, derived: &'static [&'static str]) -> Self {
        self.derived = derived;
        self
    }

    /// Notes the positions of rows above this one.
    #[must_use]
    pub fn noting_above(mut self, position: Position) -> Self {
        self.above = Some(position);
        self
    }

    /// How many rows there were.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes the positions that were noted.
    pub fn take_ahead(&mut self) -> HashSet<Position> {
        std::mem::take(&mut self.ahead)
    }

    /// Compares it with what the fold says.
    pub fn compare(self, fold: &F) -> Compared {
        let Self {
            accounts,
            derived,
            keep,
            mut kept,
            mut sums,
            ..
        } = self;
        let mut expected = Vec::new();
        fold.each_row(&accounts, &mut |row| {
            if derived.contains(&row.table) {
                return;
            }
            let (part, hash) = hashed(&row, F::POSITIONS_COUNT);
            sums[part] = sums[part].wrapping_sub(hash);
            if keep.wants(part) {
                expected.push(row);
            }
        });
        let wrong = fold.wrong_accounts(accounts);
        if keep == Keep::None {
            let differing = sums.iter().enumerate().filter(|(_, sum)| **sum != 0);
            let parts = Parts(differing.map(|(part, _)| part).collect());
            if !parts.0.is_empty() {
                return Compared::Roughly(parts);
            }
        }
        sort(&mut expected);
        sort(&mut kept);
        let mut differences = compare(expected, kept, F::POSITIONS_COUNT);
        differences.extend(wrong);
        differences.sort_by(|a, b| (a.table, &a.key).cmp(&(b.table, &b.key)));
        // What the store must have by what the log says, and need not have by what it says itself, is named twice.
        differences.dedup_by(|again, first| {
            let is_same = (again.table, &again.key) == (first.table, &first.key);
            if is_same && first.found.is_none() {
                std::mem::swap(again, first);
            }
            is_same
        });
        Compared::Exactly(differences)
    }
}

impl<F: ModelFold> RowSink for Gathered<F> {
    fn take(&mut self, row: ModelRow) {
        self.count += 1;
        if self.above.is_some_and(|above| row.position > above) {
            self.ahead.insert(row.position);
        }
        if self.derived.contains(&row.table) {
            return;
        }
        let Some(row) = self.accounts.keep(row) else {
            return;
        };
        let (part, hash) = hashed(&row, F::POSITIONS_COUNT);
        self.sums[part] = self.sums[part].wrapping_add(hash);
        if matches!(self.keep, Keep::UpTo(most) if self.kept.len() == most) {
            self.keep = Keep::None;
            self.kept = Vec::new();
        }
        if self.keep.wants(part) {
            self.kept.push(row);
        }
    }
}

/// The part that a row belongs to, by its key, and the hash of all that it says.
fn hashed(row: &ModelRow, positions_count: bool) -> (usize, u64) {
    let mut hasher = DefaultHasher::new();
    hasher.write(row.table.as_bytes());
    hasher.write_u8(0);
    hasher.write(row.key.as_bytes());
    hasher.write_u8(0);
    // A number below `PARTS` always fits.
    let part = usize::try_from(hasher.finish() % PARTS as u64).unwrap_or_default();
    row.value.hash(&mut hasher);
    if positions_count {
        hasher.write_u64(row.position);
    }
    (part, hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;
    use socialhub_domain::Event;

    use super::*;

    /// A model of as many rows as it was told.
    #[derive(Default)]
    struct Numbers(BTreeMap<u32, u32>);

    impl ModelFold for Numbers {
        type Accounts = ();

        fn apply(&mut self, _: Position, _: &Event) {}

        fn each_row(&self, (): &(), row: &mut dyn FnMut(ModelRow)) {
            self.0.iter().map(row_of).for_each(row);
        }
    }

    fn row_of((key, value): (&u32, &u32)) -> ModelRow {
        ModelRow {
            table: "number",
            key: key.to_string(),
            value: json!(value).into(),
            position: u64::from(*value),
        }
    }

    fn numbers(most: u32) -> Numbers {
        Numbers((1..=most).map(|number| (number, number)).collect())
    }

    fn gather(mut gathered: Gathered<Numbers>, found: &Numbers) -> Gathered<Numbers> {
        // In another order than the fold's.
        found
            .0
            .iter()
            .rev()
            .map(row_of)
            .for_each(|row| gathered.take(row));
        gathered
    }

    fn keys(compared: &Compared) -> Vec<&str> {
        match compared {
            Compared::Exactly(found) => found.iter().map(|found| &*found.key).collect(),
            Compared::Roughly(_) => panic!("{compared:?}"),
        }
    }

    #[test]
    fn of_many_rows_those_are_kept_that_may_differ() {
        let (said, mut held) = (numbers(5_000), numbers(5_000));
        let clean = gather(Gathered::keeping_none(), &held).compare(&said);
        assert_eq!(clean, Compared::Exactly(Vec::new()));

        held.0.insert(77, 78);
        held.0.remove(&99);
        held.0.insert(9_999, 1);
        let found = gather(Gathered::keeping_none(), &held).compare(&said);
        let Compared::Roughly(parts) = found else {
            panic!("{found:?}");
        };
        assert_eq!(parts.0.len(), 3);
        let second = gather(Gathered::keeping_parts(parts), &held);
        assert!(second.kept.len() < 50, "{}", second.kept.len());
        assert_eq!(second.count(), 5_000);
        assert_eq!(keys(&second.compare(&said)), ["77", "99", "9999"]);
    }

    #[test]
    fn of_few_rows_all_are_kept_and_of_more_none() {
        let (said, mut held) = (numbers(30), numbers(30));
        held.0.insert(7, 8);
        let small = gather(Gathered::keeping(Keep::UpTo(30)), &held);
        assert_eq!(keys(&small.compare(&said)), ["7"]);
        let large = gather(Gathered::keeping(Keep::UpTo(29)), &held);
        assert!(large.kept.is_empty());
        assert!(matches!(large.compare(&said), Compared::Roughly(_)));
    }

    #[test]
    fn a_row_that_is_there_twice_differs() {
        let said = numbers(9);
        for mut gathered in [Gathered::keeping_none(), Gathered::keeping_few()] {
            gathered.take(row_of((&5, &5)));
            let compared = gather(gathered, &said).compare(&said);
            assert_ne!(compared, Compared::Exactly(Vec::new()));
        }
    }

    #[test]
    fn positions_ahead_are_noted_and_what_is_derived_is_left_out() {
        let (said, held) = (numbers(0), numbers(9));
        let gathered = Gathered::keeping_few().without(&["number"]).noting_above(6);
        let mut gathered = gather(gathered, &held);
        assert_eq!(gathered.take_ahead(), HashSet::from([7, 8, 9]));
        assert_eq!(gathered.compare(&said), Compared::Exactly(Vec::new()));
    }
}
