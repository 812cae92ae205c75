//! Who wants to be told of whose posts, and when.
//!
//! Follows and posts travel on different topics, so either may come late. A wish is a fact at a position: what holds at a
//! post's position is the latest wish before it. Whoever announces a post inserts the announcement, then reads the wishes;
//! whoever brings a wish inserts it, then reads the announcements after it. Whoever is second sees both, and both insert
//! the same notification.
//!
//! A wish that ends late finds a post announced that should not have been told. The notification stays and says that it
//! was not told; where there is none yet, one that says so is inserted, so that an announcer who read the wishes too early
//! finds it and looks at them again.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::future::try_join_all;
use mongodb::bson::{Document, doc};

use super::{
    ahead::Reach,
    documents::{Announcement, Told, Wish},
    tables::Tables,
};
use crate::mongo::{
    access::{INSERT, SIDE_BY_SIDE},
    connection::Fault,
};

/// How many authors, or pairs of author and follower, are looked at together.
const TOGETHER: usize = 200;

/// So many notifications are told together: for each time a server that stands in for MongoDB may read every fact.
const TOLD_TOGETHER: usize = 10 * INSERT;

/// Wishes by author and follower, then by position.
#[derive(Debug, Default)]
pub(super) struct Wishes(HashMap<(String, String), BTreeMap<i64, bool>>);

impl Wishes {
    fn collect(wishes: impl IntoIterator<Item = Wish>) -> Self {
        let mut collected = Self::default();
        for wish in wishes {
            let pair = (wish.author, wish.follower);
            let positions = collected.0.entry(pair).or_default();
            positions.insert(wish.position, wish.wanted);
        }
        collected
    }

    /// Whether a follower wanted to be told of a post at a position; none when they never said anything before it.
    fn at(&self, author: &str, follower: &str, position: i64) -> Option<bool> {
        let pair = (author.to_owned(), follower.to_owned());
        let before = self.0.get(&pair)?.range(..position).next_back();
        before.map(|(_, wanted)| *wanted)
    }

    /// Whether a notification should be told, where wishes have a say in it.
    pub(super) fn wanted(&self, told: &Told) -> Option<bool> {
        if !told.is_by_wish() {
            return None;
        }
        self.at(&told.actor, &told.user, told.position)
    }
}

impl Tables {
    /// The wishes that decide about notifications.
    pub(super) async fn wishes_about(&self, told: &[&Told]) -> Result<Wishes, Fault> {
        let by_wish = told.iter().filter(|told| told.is_by_wish());
        let pairs: Vec<_> = by_wish.map(|told| (&*told.actor, &*told.user)).collect();
        self.wishes_of(&pairs).await
    }

    async fn wishes_of(&self, pairs: &[(&str, &str)]) -> Result<Wishes, Fault> {
        let mut found = Vec::new();
        for part in pairs.chunks(TOGETHER) {
            let authors: HashSet<String> = part.iter().map(|pair| pair.0.to_owned()).collect();
            let followers: HashSet<&str> = part.iter().map(|pair| pair.1).collect();
            let followers: Vec<&str> = followers.into_iter().collect();
            let also = doc! { "follower": { "$in": followers } };
            let wishes = self.access.find_in(&self.wishes, "author", &authors, &also);
            found.extend(wishes.await?);
        }
        Ok(Wishes::collect(found))
    }

    /// Tells those who want it at the position of each announcement, which are inserted already. Answers the few that are
    /// still to be told.
    pub(super) async fn announce(&self, announced: &[Announcement]) -> Result<Vec<Told>, Fault> {
        let mut by_author: BTreeMap<&str, Vec<&Announcement>> = BTreeMap::new();
        for announcement in announced {
            by_author
                .entry(&announcement.author)
                .or_default()
                .push(announcement);
        }
        let authors: Vec<&str> = by_author.keys().copied().collect();
        let wishes = self.wishes.name();
        let together = self.access.in_one_query(wishes, authors.len(), TOGETHER);
        let together = together.await?;
        let mut told = Vec::new();
        let parts: Vec<&[&str]> = authors.chunks(together).collect();
        // Each group to its end before anything is told: who waits half-way with a turn in hand keeps others from theirs.
        for group in parts.chunks(SIDE_BY_SIDE) {
            let mut reading = Vec::new();
            for part in group {
                let filter = match *part {
                    [one] => doc! { "author": *one },
                    many => doc! { "author": { "$in": many } },
                };
                reading.push(self.announce_to(filter, &by_author));
            }
            for more in try_join_all(reading).await? {
                told.extend(more);
            }
            if told.len() >= TOLD_TOGETHER {
                self.tell(std::mem::take(&mut told)).await?;
            }
        }
        Ok(told)
    }

    /// Goes through the wishes pair by pair: an author may have more followers than should be kept in memory. Answers the
    /// few that are still to be told.
    async fn announce_to(
        &self,
        filter: Document,
        by_author: &BTreeMap<&str, Vec<&Announcement>>,
    ) -> Result<Vec<Told>, Fault> {
        let sorted = doc! { "author": 1, "follower": 1, "position": 1 };
        let found = self.wishes.find(filter).sort(sorted);
        let mut wishes = self.access.write(found).await?;
        let (mut pair, mut told): (Vec<Wish>, Vec<Told>) = (Vec::new(), Vec::new());
        loop {
            let some = self.access.some_of(&mut wishes).await?;
            let is_end = some.len() < INSERT;
            for wish in some {
                let same = pair.first().is_some_and(|one: &Wish| {
                    one.author == wish.author && one.follower == wish.follower
                });
                if !same {
                    told_by(&std::mem::take(&mut pair), by_author, &mut told)?;
                    if told.len() >= TOLD_TOGETHER {
                        self.tell(std::mem::take(&mut told)).await?;
                    }
                }
                pair.push(wish);
            }
            if is_end {
                told_by(&pair, by_author, &mut told)?;
                return Ok(told);
            }
        }
    }

    /// Finds the posts that come after these wishes in the log, but came here before, and tells or untells them. The
    /// wishes are inserted already.
    ///
    /// Not the posts of the same batch that nobody else announces: their wishes were read after these had been inserted. In a
    /// rebuild all are such, and a document for each post and each person who had ended their wish before it, to say that it
    /// was not told, would be more than all others together.
    pub(super) async fn look_back(
        &self,
        wishes: &[Wish],
        reach: Option<&Reach>,
    ) -> Result<(), Fault> {
        let Some(first) = wishes.iter().map(|wish| wish.position).min() else {
            return Ok(());
        };
        let reached = self.reach_of_others(reach).await?;
        if reached <= first {
            return Ok(());
        }
        let mut followers: HashMap<&str, Vec<&Wish>> = HashMap::new();
        for wish in wishes {
            followers.entry(&wish.author).or_default().push(wish);
        }
        let authors = followers.keys().copied().map(str::to_owned).collect();
        let later = doc! { "position": { "$gt": first, "$lte": reached } };
        let found = self
            .access
            .find_in(&self.announcements, "author", &authors, &later);
        let announced: Vec<Announcement> = found.await?;
        for part in announced.chunks(TOGETHER) {
            let mut late = Vec::new();
            for announcement in part {
                let wishes = followers.get(&*announcement.author).into_iter().flatten();
                let before = wishes.filter(|wish| wish.position < announcement.position);
                let names: HashSet<&str> = before.map(|wish| &*wish.follower).collect();
                late.extend(names.into_iter().map(|follower| (announcement, follower)));
            }
            self.tell_late(&late).await?;
        }
        Ok(())
    }

    async fn tell_late(&self, late: &[(&Announcement, &str)]) -> Result<(), Fault> {
        for part in late.chunks(TOLD_TOGETHER) {
            let pairs: Vec<_> = part
                .iter()
                .map(|(announcement, follower)| (&*announcement.author, *follower))
                .collect();
            let wishes = self.wishes_of(&pairs).await?;
            let mut told = Vec::with_capacity(part.len());
            for (announcement, follower) in part {
                let notification = announcement.told_to(follower)?;
                told.push(match wishes.wanted(&notification) {
                    Some(true) => notification,
                    _ => notification.untold(),
                });
            }
            self.tell(told).await?;
        }
        Ok(())
    }
}

/// The notifications to one follower of one author.
fn told_by(
    pair: &[Wish],
    by_author: &BTreeMap<&str, Vec<&Announcement>>,
    told: &mut Vec<Told>,
) -> Result<(), Fault> {
    let Some(Wish {
        author, follower, ..
    }) = pair.first()
    else {
        return Ok(());
    };
    // Nobody is told of what they did themselves.
    if author == follower {
        return Ok(());
    }
    for announcement in by_author.get(&**author).into_iter().flatten() {
        let before = pair
            .iter()
            .rfind(|wish| wish.position < announcement.position);
        if before.is_some_and(|wish| wish.wanted) {
            told.push(announcement.told_to(follower)?);
        }
    }
    Ok(())
}
