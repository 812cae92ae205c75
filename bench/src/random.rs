//! Reproducible randomness: the same seed gives the same numbers with every version of every library.

/// SplitMix64: small, fast, and good enough to shape a load. Never for secrets.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence that belongs to a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound` (0 when the bound is 0). The bias for bounds far below 2^64 does not matter here.
    pub fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.next_u64()) * bound as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    /// A number from 0 to 1, 1 excluded.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Ranks from 0, the n-th with a weight of 1/(n+1).
#[derive(Debug, Clone)]
pub struct Zipf {
    cumulated: Vec<f64>,
}

impl Zipf {
    /// A distribution over `ranks` ranks.
    pub fn new(ranks: usize) -> Self {
        let mut sum = 0.0;
        let cumulated = (1..=ranks)
            .map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            })
            .collect();
        Self { cumulated }
    }

    /// Draws a rank.
    pub fn draw(&self, random: &mut Random) -> usize {
        let total = self.cumulated.last().copied().unwrap_or(0.0);
        let at = random.unit() * total;
        let rank = self.cumulated.partition_point(|&sum| sum <= at);
        rank.min(self.cumulated.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_below_their_bound() {
        let mut random = Random::new(1);
        assert_eq!(random.below(0), 0);
        assert!((0..1000).all(|_| random.below(7) < 7));
        assert!((0..1000).all(|_| (0.0..1.0).contains(&random.unit())));
    }

    #[test]
    fn low_ranks_are_drawn_more_often() {
        let zipf = Zipf::new(100);
        let mut random = Random::new(1);
        let mut drawn = vec![0; 100];
        for _ in 0..100_000 {
            drawn[zipf.draw(&mut random)] += 1;
        }
        // 1/1 of 5.187 is 19.3 %, 1/100 is 0.19 %.
        assert!((18_500..20_000).contains(&drawn[0]), "{}", drawn[0]);
        assert!((130..260).contains(&drawn[99]), "{}", drawn[99]);
    }
}
