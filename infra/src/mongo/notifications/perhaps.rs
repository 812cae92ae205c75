//! Which notifications a writer may have inserted, since it began.
//!
//! The more events a rebuild has, the more often a like is given again that was taken back longer ago than
//! [`lately`](super::lately) remembers. With 1.2 million events that was so in one of fifteen batches of a hundred, which
//! FerretDB 1.24 then inserts one by one: a quarter of the time. So notifications that may be there are looked up first, and
//! the others inserted by the hundred. A Bloom filter says which may be. It need not be right: what it takes for known and is
//! not there costs a look-up, and what it does not know and is there costs what it always did.

use fastbloom::BloomFilter;
use parking_lot::Mutex;

use super::documents::Told;

/// Bits of the filter: 8 MiB.
const BITS: usize = 1 << 26;
const HASHES: u32 = 4;
/// With so many in it, one in twenty-five is taken for known without being so; then it begins anew.
const FULL: usize = 10_000_000;

/// The notifications that a writer may have inserted.
#[derive(Debug, Default)]
pub(super) struct PerhapsTold(Mutex<Option<Filter>>);

#[derive(Debug)]
struct Filter {
    bits: BloomFilter,
    count: usize,
}

impl Filter {
    fn new() -> Self {
        Self {
            // Any seed does: ids are no secret, and nobody gains by one that is looked up.
            bits: BloomFilter::with_num_bits(BITS).seed(&1).hashes(HASHES),
            count: 0,
        }
    }
}

impl PerhapsTold {
    /// Parts notifications into those that are new for certain, and those that may be there.
    pub(super) fn part<'t>(&self, told: &'t [Told]) -> (Vec<&'t Told>, Vec<&'t Told>) {
        let known = self.0.lock();
        told.iter().partition(|told| {
            !known
                .as_ref()
                .is_some_and(|known| known.bits.contains(&told.id))
        })
    }

    /// These are going to be inserted, or are there. If they are not inserted after all, they will be looked up in vain.
    pub(super) fn remember(&self, told: &[Told]) {
        let mut known = self.0.lock();
        let known = known.get_or_insert_with(Filter::new);
        if known.count >= FULL {
            *known = Filter::new();
        }
        for told in told {
            if !known.bits.insert(&told.id) {
                known.count += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use socialhub_domain::{PostId, Timestamp, UserId};
    use socialhub_projections::notifications::{About, Notice};
    use uuid::Uuid;

    use super::*;

    fn likes(likers: std::ops::Range<u128>) -> Vec<Told> {
        let like = |liker| {
            let notice = Notice {
                recipient: UserId(Uuid::from_u128(1)),
                about: About::Like {
                    post: PostId(Uuid::from_u128(2)),
                    liker: UserId(Uuid::from_u128(liker)),
                },
                username: "ada".to_owned(),
                at: Timestamp(1),
            };
            Told::new(1, &notice)
        };
        likers.map(like).collect()
    }

    #[test]
    fn what_was_inserted_may_be_there_and_hardly_anything_else() {
        let perhaps = PerhapsTold::default();
        let first = likes(0..20_000);
        assert!(perhaps.part(&first).1.is_empty());
        perhaps.remember(&first);
        assert!(perhaps.part(&first).0.is_empty());
        let others = likes(20_000..40_000);
        assert!(perhaps.part(&others).1.len() < 20);
    }
}
