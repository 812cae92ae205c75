//! Deriving what notifications say from the facts about them.
//!
//! Whoever inserts a fact looks for the notifications it is about; whoever inserts a notification looks for the facts about
//! it. Both insert before they look, so whoever is second sees both. What is changed is then looked at again together with
//! all facts about it, until there is nothing to change: if two change a notification at once and one change is lost (as
//! FerretDB may lose it) or rests on a stale look, the one who wrote last finds out.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};
use mongodb::{
    Collection,
    bson::{Document, doc},
};
use socialhub_domain::PostId;
use socialhub_projections::notifications::ids_about;

use super::{
    documents::{ERASED, Fact, Facts, READ, REMOVED, Step, Told},
    gone::subjects,
    tables::Tables,
    wishes::Wishes,
};
use crate::mongo::{
    access::{INSERT, MANY, SIDE_BY_SIDE},
    connection::Fault,
};

/// So often changed notifications are looked at again before the batch is given up for now.
const ROUNDS: u32 = 50;
/// The notifications about so many posts are settled together.
const POSTS: usize = 100;

impl Tables {
    /// Inserts notifications, those that are there already excepted, and makes all of them say what the facts say. The facts
    /// are looked for once for all of them: that may mean reading every fact.
    pub(super) async fn tell(&self, told: Vec<Told>) -> Result<(), Fault> {
        if told.is_empty() {
            return Ok(());
        }
        let (fresh, mut again) = self.insert_told(&told).await?;
        let (noted, of_what_is_gone) =
            tokio::try_join!(self.noted(), self.of_what_is_gone(&fresh))?;
        let Some(noted) = noted else {
            // As they were inserted, but for what somebody has changed since, who then knows the facts about them.
            let wanting = self.wanting(&fresh, &Wishes::default()).await?;
            self.change(wanting, &mut again).await?;
            return self.settle(again).await.map(|_| ());
        };
        again.extend(of_what_is_gone);
        let mut done = HashSet::new();
        for told in &fresh {
            let notes: Vec<String> = noted.about(told).collect();
            if !notes.is_empty() {
                again.insert(told.id.clone());
                done.extend(notes);
            }
        }
        self.settle(again).await?;
        // Those of erased people are for all that is to come.
        done.retain(|note| !note.starts_with(ERASED));
        self.forget(&done).await
    }

    /// Inserts notifications; answers those that were not there, and the ids of the others.
    async fn insert_told<'t>(
        &self,
        told: &'t [Told],
    ) -> Result<(Vec<&'t Told>, HashSet<String>), Fault> {
        let (new, mut there) = self.new_of(told).await?;
        let mut inserts = Vec::new();
        for chunk in new.chunks(INSERT) {
            inserts.push(async move {
                let known = self.access.insert_new(&self.notifications, chunk).await?;
                Ok::<_, Fault>((chunk, known.into_iter().collect::<HashSet<usize>>()))
            });
        }
        let mut inserts = stream::iter(inserts).buffer_unordered(SIDE_BY_SIDE / 2);
        let mut fresh = Vec::with_capacity(new.len());
        while let Some((chunk, known)) = inserts.try_next().await? {
            for (index, told) in chunk.iter().enumerate() {
                if known.contains(&index) {
                    there.insert(told.id.clone());
                } else {
                    fresh.push(*told);
                }
            }
        }
        Ok((fresh, there))
    }

    /// Parts notifications into those to be inserted, and the ids of those that are there for certain. A server that says so
    /// itself, and does not work harder for it, is left to.
    async fn new_of<'t>(
        &self,
        told: &'t [Told],
    ) -> Result<(Vec<&'t Told>, HashSet<String>), Fault> {
        if !self.access.lists_read_all().await? {
            return Ok((told.iter().collect(), HashSet::new()));
        }
        let (mut new, perhaps) = self.perhaps.part(told);
        self.perhaps.remember(told);
        if perhaps.is_empty() {
            return Ok((new, HashSet::new()));
        }
        let ids = perhaps.iter().map(|told| told.id.clone()).collect();
        let found = self
            .access
            .find_in(&self.notifications, "_id", &ids, &doc! {})
            .await?;
        let there: HashSet<String> = found.into_iter().map(|told| told.id).collect();
        new.extend(perhaps.into_iter().filter(|told| !there.contains(&told.id)));
        Ok((new, there))
    }

    /// Lets notifications come into being as gone whose post or comment is known to be gone already: that saves changing them.
    /// Whoever tells them looks again.
    pub(super) fn tell_as_gone(&self, told: &mut [Told]) {
        let known = self.gone.among(told.iter().flat_map(subjects)).gone;
        for told in told {
            let gone = subjects(told).any(|id| known.contains(id));
            (told.gone, told.shown) = (gone, !gone);
        }
    }

    /// The ids of those of some notifications whose post or comment is gone, and which do not say so. A like may come after
    /// its post's deletion, since it is written to a stream of its own; a parked comment may be brought in after its deletion
    /// was.
    async fn of_what_is_gone(&self, told: &[&Told]) -> Result<HashSet<String>, Fault> {
        let told = told.iter().filter(|told| !told.gone);
        let about = told.clone().flat_map(|told| subjects(told));
        let gone = self.gone_among(&about.map(str::to_owned).collect()).await?;
        let of_gone = told.filter(|told| subjects(told).any(|id| gone.contains(id)));
        Ok(of_gone.map(|told| told.id.clone()).collect())
    }

    /// Makes the notifications with these ids, as far as they are there, say what the facts say. Answers the ids of those
    /// that are not there.
    pub(super) async fn settle(&self, mut ids: HashSet<String>) -> Result<HashSet<String>, Fault> {
        let mut missing: Option<HashSet<String>> = None;
        for _ in 0..ROUNDS {
            if ids.is_empty() {
                return Ok(missing.unwrap_or_default());
            }
            let found = self
                .access
                .find_in(&self.notifications, "_id", &ids, &doc! {})
                .await?;
            missing.get_or_insert_with(|| {
                let mut absent = ids.clone();
                found.iter().for_each(|told| {
                    absent.remove(&told.id);
                });
                absent
            });
            ids.clear();
            let wanting = self.wanted_of(&found.iter().collect::<Vec<_>>()).await?;
            self.change(wanting, &mut ids).await?;
        }
        Err(busy())
    }

    /// The same for the notifications about posts, which are found and changed together.
    pub(super) async fn settle_posts(&self, mut posts: HashSet<PostId>) -> Result<(), Fault> {
        for _ in 0..ROUNDS {
            let mut changed = HashSet::new();
            for part in Vec::from_iter(posts).chunks(POSTS) {
                let mut queries = Vec::new();
                for post in part {
                    queries.push(self.told_about(*post));
                }
                let found = stream::iter(queries).buffer_unordered(SIDE_BY_SIDE);
                let found: Vec<(PostId, Vec<Told>)> = found.try_collect().await?;
                let all: Vec<&Told> = found.iter().flat_map(|(_, told)| told).collect();
                let wanting = self.wanted_of(&all).await?;
                let mut changes = Vec::new();
                for (post, told) in &found {
                    changes.push(self.change_about(*post, told, &wanting));
                }
                let changes = stream::iter(changes).buffer_unordered(SIDE_BY_SIDE);
                changed.extend(changes.try_collect::<Vec<_>>().await?.into_iter().flatten());
            }
            if changed.is_empty() {
                return Ok(());
            }
            posts = changed;
        }
        Err(busy())
    }

    async fn told_about(&self, post: PostId) -> Result<(PostId, Vec<Told>), Fault> {
        let found = self
            .access
            .find_all(&self.notifications, about(post))
            .await?;
        Ok((post, found))
    }

    /// Changes the notifications about a post to what they should say; the post, if there was anything to change.
    async fn change_about(
        &self,
        post: PostId,
        told: &[Told],
        wanting: &HashMap<Step, HashSet<String>>,
    ) -> Result<Option<PostId>, Fault> {
        let mut changed = None;
        for (step, ids) in wanting {
            let ids = told
                .iter()
                .map(|told| &told.id)
                .filter(|id| ids.contains(*id));
            let ids: Vec<&str> = ids.map(String::as_str).collect();
            for part in ids.chunks(MANY) {
                let mut filter = doc! { "post": post.to_string(), "_id": { "$in": part } };
                filter.extend(step.from.as_filter());
                let update = self.notifications.update_many(filter, step.to.as_update());
                self.access.write(update).await?;
                changed = Some(post);
            }
        }
        Ok(changed)
    }

    /// What notifications should say that do not.
    async fn wanted_of(&self, found: &[&Told]) -> Result<HashMap<Step, HashSet<String>>, Fault> {
        let wishes = self.wishes_about(found).await?;
        self.wanting(found, &wishes).await
    }

    /// Makes marked notifications say so; notes the marks that are ahead of theirs. The marks are inserted already.
    pub(super) async fn settle_marked(
        &self,
        marked: HashSet<String>,
        marks: &[Fact],
    ) -> Result<(), Fault> {
        let missing = self.settle(marked).await?;
        let early = marks.iter().filter(|mark| missing.contains(&mark.about));
        let early = early.map(|mark| (mark.id.clone(), mark.about.clone()));
        let mut ahead: HashMap<String, String> = early.collect();
        if ahead.is_empty() {
            return Ok(());
        }
        self.note(ahead.keys().cloned()).await?;
        let missing = self.settle(ahead.values().cloned().collect()).await?;
        ahead.retain(|_, id| !missing.contains(id));
        self.forget(&ahead.into_keys().collect()).await
    }

    /// The facts, or marks, about some things.
    pub(super) async fn facts_about(
        &self,
        facts: &Collection<Fact>,
        ids: &HashSet<String>,
    ) -> Result<Facts, Fault> {
        let found = self.access.find_in(facts, "about", ids, &doc! {}).await?;
        Ok(found.into_iter().map(|fact| fact.id).collect())
    }

    /// Changes notifications to what they should say, and notes them to be looked at again.
    async fn change(
        &self,
        wanting: HashMap<Step, HashSet<String>>,
        changed: &mut HashSet<String>,
    ) -> Result<(), Fault> {
        for (step, ids) in wanting {
            let (from, update) = (step.from.as_filter(), step.to.as_update());
            self.access
                .update_ids(&self.notifications, &ids, &from, &update)
                .await?;
            changed.extend(ids);
        }
        Ok(())
    }

    /// The notifications that do not say what the facts say, by what they should say.
    async fn wanting(
        &self,
        told: &[&Told],
        wishes: &Wishes,
    ) -> Result<HashMap<Step, HashSet<String>>, Fault> {
        if told.is_empty() {
            return Ok(HashMap::new());
        }
        let (mut ids, mut about) = (HashSet::new(), HashSet::new());
        for told in told {
            ids.insert(told.id.clone());
            about.extend(subjects(told).map(str::to_owned));
        }
        let actors: HashSet<&str> = told.iter().map(|told| &*told.actor).collect();
        let (marks, gone, erased) = tokio::try_join!(
            self.facts_about(&self.marks, &ids),
            self.gone_among(&about),
            self.erased_of(&actors),
        )?;
        let mut wanting: HashMap<Step, HashSet<String>> = HashMap::new();
        for told in told {
            let mut state = told.state();
            state.read |= marks.say(READ, &told.id);
            state.removed |= marks.say(REMOVED, &told.id);
            state.gone |= subjects(told).any(|id| gone.contains(id));
            state.erased |= erased.contains(&*told.actor);
            if let Some(wanted) = wishes.wanted(told) {
                state.told = wanted;
            }
            // A lost change may have been of what sums the others up.
            let shown = state.told && !state.removed && !state.gone;
            let from = told.state();
            if state != from || shown != told.shown {
                let step = Step { from, to: state };
                wanting.entry(step).or_default().insert(told.id.clone());
            }
        }
        Ok(wanting)
    }
}

fn busy() -> Fault {
    Fault::Unavailable("others keep changing the same notifications".to_owned())
}

/// What the notifications about a post have in common. Their ids lie together, so MongoDB needs no index of posts.
fn about(post: PostId) -> Document {
    let ids = ids_about(post);
    doc! {
        "post": post.to_string(),
        "_id": { "$gte": ids.start().to_string(), "$lte": ids.end().to_string() },
    }
}
