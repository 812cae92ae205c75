//! Scores of trending posts: forward decay, kept as log2.
//!
//! Every like and comment adds `weight · 2^((t − EPOCH) / HALF_LIFE)` to its post, and nothing is ever aged: later events
//! simply weigh more, which orders posts as if all older ones had decayed. Plain powers would overflow after 256 days,
//! hence the logarithm.
//!
//! Two forms live here. [`log2_add`] sums two scores that are logarithms; it is what the definition says, but it loses
//! digits when something is subtracted. [`DecayedScore`] keeps integers, one per half-life, so that what was added can
//! be taken back without a trace, in any order, on any machine.

use std::f64::consts::LN_2;

use crate::ids::Timestamp;

/// What a like adds, before decay.
pub const LIKE_WEIGHT: i64 = 1;

/// What a comment adds, before decay: it costs its author more than a like. A post by itself adds nothing, so a post
/// whose likes and comments were all taken back has no score.
pub const COMMENT_WEIGHT: i64 = 2;

/// After this many milliseconds (six hours) a contribution is worth half of a new one.
pub const HALF_LIFE_MS: i64 = 6 * 60 * 60 * 1000;

/// Where a contribution's exponent is zero: 2025-01-01T00:00:00Z. Any constant gives the same order.
pub const EPOCH: Timestamp = Timestamp(1_735_689_600_000);

/// 1.0 in the fixed-point sums: 40 bits after the point, an error of 1e-12 in a contribution.
const ONE: f64 = (1_u64 << 40) as f64;

/// Bytes of one stored sum: the half-life's number and the sum.
const STORED: usize = 8 + 16;

/// log2 of what `weight` (positive) adds at a moment.
pub fn log2_contribution(at: Timestamp, weight: i64) -> f64 {
    let age = at.0.saturating_sub(EPOCH.0);
    (weight as f64).log2() + age as f64 / HALF_LIFE_MS as f64
}

/// log2 of the sum of two scores given as log2, without ever leaving the logarithm's range.
pub fn log2_add(a: f64, b: f64) -> f64 {
    a.max(b) + (-(a - b).abs()).exp2().ln_1p() / LN_2
}

/// log2 of the sum of scores given as log2; none for nothing.
pub fn log2_sum(scores: impl IntoIterator<Item = f64>) -> Option<f64> {
    scores.into_iter().reduce(log2_add)
}

/// A score as exact integer sums, one for each half-life in which something was added.
///
/// Adding and retracting commute: the value depends only on what is left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DecayedScore {
    /// (number of the half-life since [`EPOCH`], sum of the fractions within it); rising, no sum is zero.
    sums: Vec<(i64, i128)>,
}

impl DecayedScore {
    /// Adds a contribution of the given weight at a moment; a negative weight takes one back.
    pub fn add(&mut self, at: Timestamp, weight: i64) {
        let age = at.0.saturating_sub(EPOCH.0);
        let half_life = age.div_euclid(HALF_LIFE_MS);
        let part = i128::from(weight) * fraction(age.rem_euclid(HALF_LIFE_MS));
        self.add_part(half_life, part);
    }

    /// Adds everything that another one adds up to.
    pub fn add_all(&mut self, other: &Self) {
        for (half_life, part) in &other.sums {
            self.add_part(*half_life, *part);
        }
    }

    fn add_part(&mut self, half_life: i64, part: i128) {
        match self.sums.binary_search_by_key(&half_life, |sum| sum.0) {
            Ok(index) => {
                self.sums[index].1 += part;
                if self.sums[index].1 == 0 {
                    self.sums.remove(index);
                }
            }
            Err(index) if part != 0 => self.sums.insert(index, (half_life, part)),
            Err(_) => {}
        }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// log2 of the score; none when nothing is left.
    pub fn log2(&self) -> Option<f64> {
        let top = self.sums.last()?.0;
        let total: f64 = self
            .sums
            .iter()
            .rev()
            .map(|(half_life, sum)| (*sum as f64 / ONE) * ((half_life - top) as f64).exp2())
            .sum();
        (total > 0.0).then(|| top as f64 + total.log2())
    }

    /// The form that a store keeps.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.sums.len() * STORED);
        for (half_life, sum) in &self.sums {
            bytes.extend_from_slice(&half_life.to_be_bytes());
            bytes.extend_from_slice(&sum.to_be_bytes());
        }
        bytes
    }

    /// Reads the stored form; none when it is not one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let chunks = bytes.chunks_exact(STORED);
        if !chunks.remainder().is_empty() {
            return None;
        }
        let sums = chunks
            .map(|chunk| {
                let (half_life, sum) = chunk.split_at(8);
                Some((
                    i64::from_be_bytes(half_life.try_into().ok()?),
                    i128::from_be_bytes(sum.try_into().ok()?),
                ))
            })
            .collect::<Option<Vec<_>>>()?;
        sums.is_sorted_by(|a, b| a.0 < b.0).then_some(Self { sums })
    }
}

/// `2^(ms / HALF_LIFE_MS)` in fixed point, for `ms` within one half-life.
///
/// The power series and not `f64::exp2`: that one may differ by a digit between machines, and a like added on one and
/// taken back on another would leave a crumb. Additions, products and quotients are the same everywhere.
fn fraction(ms: i64) -> i128 {
    const TERMS: u32 = 20;
    let exponent = ms as f64 / HALF_LIFE_MS as f64 * LN_2;
    let power = (1..=TERMS)
        .rev()
        .fold(1.0, |rest, term| 1.0 + exponent / f64::from(term) * rest);
    (power * ONE).round() as i128
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY_MS: i64 = 24 * 60 * 60 * 1000;

    fn after(ms: i64) -> Timestamp {
        Timestamp(EPOCH.0 + ms)
    }

    fn score(contributions: &[(i64, i64)]) -> DecayedScore {
        let mut score = DecayedScore::default();
        for (ms, weight) in contributions {
            score.add(after(*ms), *weight);
        }
        score
    }

    #[track_caller]
    fn close(a: f64, b: f64) {
        assert!(
            (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0),
            "{a} and {b}"
        );
    }

    #[test]
    fn a_contribution_doubles_with_each_half_life() {
        close(score(&[(0, 1)]).log2().unwrap(), 0.0);
        close(score(&[(HALF_LIFE_MS, 1)]).log2().unwrap(), 1.0);
        close(score(&[(0, 2)]).log2().unwrap(), 1.0);
        close(score(&[(-HALF_LIFE_MS / 2, 1)]).log2().unwrap(), -0.5);
        // Two likes half a life ago are worth less than two of now, and more than one.
        let (old, new) = (score(&[(0, 2)]), score(&[(HALF_LIFE_MS / 2, 1)]));
        assert!(old.log2() > new.log2());
    }

    #[test]
    fn nothing_left_is_no_score() {
        let mut left = score(&[(5, 1), (HALF_LIFE_MS * 3 + 7, 2)]);
        left.add(after(5), -1);
        assert!(left.log2().is_some());
        left.add(after(HALF_LIFE_MS * 3 + 7), -2);
        assert!(left.is_empty());
        assert_eq!(left.log2(), None);
        assert_eq!(log2_sum([]), None);
    }

    #[test]
    fn it_does_not_overflow_after_256_days_nor_after_a_thousand_years() {
        // 256 days are 1,024 half-lives: 2^1024 is no double.
        for days in [255, 256, 257, 365_000] {
            let value = score(&[(0, 1), (days * DAY_MS, 1)]).log2().unwrap();
            close(value, (days * 4) as f64);
            close(log2_add(0.0, (days * 4) as f64), value);
        }
    }

    #[test]
    fn times_out_of_any_calendar_are_accepted() {
        for at in [i64::MIN, -1, 0, i64::MAX] {
            let mut far = DecayedScore::default();
            far.add(Timestamp(at), 1);
            far.add(EPOCH, 1);
            assert!(far.log2().unwrap().is_finite());
            far.add(Timestamp(at), -1);
            assert_eq!(far, score(&[(0, 1)]));
        }
    }

    #[test]
    fn the_fraction_is_the_power() {
        for ms in (0..HALF_LIFE_MS).step_by(9_973) {
            let power = (ms as f64 / HALF_LIFE_MS as f64).exp2();
            assert!((fraction(ms) as f64 / ONE - power).abs() < 2e-12);
        }
    }

    #[test]
    fn bytes_that_are_no_score_are_refused() {
        assert_eq!(DecayedScore::from_bytes(&[]), Some(DecayedScore::default()));
        assert_eq!(DecayedScore::from_bytes(&[0; 23]), None);
        assert_eq!(
            DecayedScore::from_bytes(&[0; 48]),
            None,
            "the same half-life twice"
        );
    }

    fn contributions() -> impl Strategy<Value = Vec<(i64, i64)>> {
        prop::collection::vec((-400 * DAY_MS..400 * DAY_MS, 1_i64..=2), 0..40)
    }

    proptest! {
        #[test]
        fn the_exact_sum_agrees_with_the_logarithmic_one(list in contributions()) {
            let exact = score(&list).log2();
            let logs = list.iter().map(|(ms, weight)| log2_contribution(after(*ms), *weight));
            match (exact, log2_sum(logs)) {
                (Some(a), Some(b)) => close(a, b),
                (a, b) => prop_assert_eq!(a, b),
            }
        }

        #[test]
        fn the_logarithmic_sum_is_associative_within_tolerance(
            a in -2e5..2e5_f64, b in -2e5..2e5_f64, c in -2e5..2e5_f64,
        ) {
            close(log2_add(log2_add(a, b), c), log2_add(a, log2_add(b, c)));
            prop_assert_eq!(log2_add(a, b).to_bits(), log2_add(b, a).to_bits());
        }

        #[test]
        fn order_does_not_matter_and_retractions_leave_no_trace(
            (kept, order) in contributions().prop_flat_map(|list| (Just(list.clone()), Just(list).prop_shuffle())),
            gone in contributions(),
        ) {
            let mut other = DecayedScore::default();
            for (ms, weight) in &gone {
                other.add(after(*ms), *weight);
            }
            for (ms, weight) in &order {
                other.add(after(*ms), *weight);
            }
            for (ms, weight) in &gone {
                other.add(after(*ms), -*weight);
            }
            prop_assert_eq!(&other, &score(&kept));
            prop_assert_eq!(DecayedScore::from_bytes(&other.to_bytes()), Some(other));
        }

        #[test]
        fn sums_of_parts_are_the_sum_of_all(first in contributions(), second in contributions()) {
            let mut sum = score(&first);
            sum.add_all(&score(&second));
            prop_assert_eq!(&sum, &score(&[first.clone(), second].concat()));
            let negative: Vec<_> = first.iter().map(|(ms, weight)| (*ms, -weight)).collect();
            let mut none = score(&first);
            none.add_all(&score(&negative));
            prop_assert!(none.is_empty());
        }
    }
}
