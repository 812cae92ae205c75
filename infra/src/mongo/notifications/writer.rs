//! Writing the changes of a batch: first every fact in it, then what follows from them.

use std::collections::{HashMap, HashSet};

use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use socialhub_domain::{NotificationId, PostId, personal::ERASED_TEXT};
use socialhub_event_log::Position;
use socialhub_projections::{
    notifications::{About, NotificationChange, comment_id},
    projection::Projected,
};

use uuid::Uuid;

use super::{
    ahead::Reach,
    documents::{Announcement, ERASED, Fact, READ, REMOVED, ReadUpTo, Told, Wish, fact_id},
    tables::Tables,
};
use crate::mongo::{
    access::INSERT,
    connection::{Fault, id_of, to_stored},
};

/// The facts of a batch.
#[derive(Debug, Default)]
pub(super) struct Effects {
    told: Vec<Told>,
    /// The first in the log counts.
    told_ids: HashSet<String>,
    announced: Vec<Announcement>,
    wishes: Vec<Wish>,
    facts: Vec<Fact>,
    /// What their owners did to notifications.
    marks: Vec<Fact>,
    /// The notifications that facts of the batch are about, as far as their ids are known.
    marked: HashSet<String>,
    gone_posts: HashSet<PostId>,
    /// The posts and comments among the facts that are gone.
    gone: Vec<String>,
    erased: HashSet<String>,
    read_up_to: HashMap<socialhub_domain::UserId, Position>,
}

impl Effects {
    /// Of records in the order of the log.
    pub(super) fn of<'p>(
        records: impl IntoIterator<Item = &'p Projected<NotificationChange>>,
    ) -> Self {
        let mut effects = Self::default();
        for projected in records {
            let follows = projected.changes.iter().any(is_follow);
            for change in &projected.changes {
                effects.add(projected.position, change, follows);
            }
        }
        effects
    }

    fn add(&mut self, position: Position, change: &NotificationChange, follows: bool) {
        match change {
            NotificationChange::Tell(notice) => {
                let told = Told::new(position, notice);
                if self.told_ids.insert(told.id.clone()) {
                    self.told.push(told);
                }
            }
            NotificationChange::Announce {
                post,
                author,
                username,
                at,
            } => self.announced.push(Announcement {
                post: post.to_string(),
                author: author.to_string(),
                position: to_stored(position),
                username: username.clone(),
                at: at.0,
            }),
            // Who begins to follow did not follow before: there is no wish that could end here. Most follows come without
            // one, so this is every second document.
            NotificationChange::Wish { wanted: false, .. } if follows => {}
            NotificationChange::Wish {
                author,
                follower,
                wanted,
            } => self
                .wishes
                .push(Wish::new(position, *author, *follower, *wanted)),
            NotificationChange::Erase(user) => {
                self.facts.push(Fact::erased(position, *user));
                self.erased.insert(user.to_string());
            }
            NotificationChange::PostGone(post) => {
                self.gone(position, post.0);
                self.gone_posts.insert(*post);
            }
            NotificationChange::CommentGone { post, comment } => {
                self.gone(position, comment.0);
                self.marked.insert(comment_id(*post, *comment).to_string());
            }
            NotificationChange::Read(id) => self.mark(position, READ, *id),
            NotificationChange::Removed(id) => self.mark(position, REMOVED, *id),
            NotificationChange::AllRead { user, up_to } => {
                let highest = self.read_up_to.entry(*user).or_default();
                *highest = (*highest).max(*up_to);
            }
        }
    }

    fn gone(&mut self, position: Position, id: Uuid) {
        self.facts.push(Fact::gone(position, id));
        self.gone.push(id.to_string());
    }

    fn mark(&mut self, position: Position, what: &str, id: NotificationId) {
        self.marked.insert(id.to_string());
        self.marks.push(Fact::marked(position, what, id));
    }

    /// What FerretDB never takes, and says so as if it were its own fault: nobody's name has it.
    fn check_names(&self) -> Result<(), Fault> {
        let told = self.told.iter().map(|told| &told.username);
        let announced = self.announced.iter().map(|post| &post.username);
        if told.chain(announced).any(|name| name.contains('\0')) {
            return Err(Fault::Rejected("a name with NUL in it".to_owned()));
        }
        Ok(())
    }

    /// How far the announcements among them reach: to be said before they are written.
    pub(super) fn reach(&self) -> Option<Reach> {
        Reach::of(&self.announced)
    }

    /// Writes everything. Whatever is broken off in between is repeated with the same outcome.
    pub(super) async fn write(self, tables: &Tables) -> Result<(), Fault> {
        let reach = self.reach();
        tables.will_reach(reach.as_ref()).await?;
        self.write_reaching(reach, tables).await
    }

    /// The same, where it has been said how far they reach.
    pub(super) async fn write_reaching(
        self,
        reach: Option<Reach>,
        tables: &Tables,
    ) -> Result<(), Fault> {
        self.check_names()?;
        let read_up_to: Vec<_> = self
            .read_up_to
            .iter()
            .filter(|(_, up_to)| **up_to > 0)
            .map(|(user, up_to)| ReadUpTo::new(*user, *up_to))
            .collect();
        // All facts are there before anything is looked for: whoever is second sees both.
        tokio::try_join!(
            tables
                .access
                .insert_new(&tables.announcements, &self.announced),
            tables.access.insert_new(&tables.wishes, &self.wishes),
            tables.access.insert_new(&tables.facts, &self.facts),
            tables.access.insert_new(&tables.marks, &self.marks),
            tables.access.insert_new(&tables.read_up_to, &read_up_to),
        )?;
        tables.list_as_gone(self.gone).await?;
        let erasures = self.erased.iter().map(|user| fact_id(ERASED, user));
        tables.note(erasures).await?;
        tables.rename(&self.erased).await?;
        let mut told = self.told;
        let fresh = tables.lately.leave_out(&mut told);
        tables.tell_as_gone(&mut told);
        let ((), still_to_be_told) = tokio::try_join!(
            tables.rename_announcers(&self.announced),
            tables.announce(&self.announced),
        )?;
        told.extend(still_to_be_told);
        tables.tell(told).await?;
        tables.lately.remember(fresh);
        tables.look_back(&self.wishes, reach.as_ref()).await?;
        tokio::try_join!(
            tables.has_reached(reach),
            tables.settle_posts(self.gone_posts),
            tables.settle_marked(self.marked, &self.marks),
        )?;
        Ok(())
    }
}

/// Whether a change belongs to somebody's beginning to follow.
fn is_follow(change: &NotificationChange) -> bool {
    matches!(change, NotificationChange::Tell(notice) if matches!(notice.about, About::Follow { .. }))
}

impl Tables {
    /// Lets everything that the erased did go by the tombstone's name. The facts that they are erased are inserted already:
    /// settling a notification is what gives it its name, so that no other change to it is lost.
    async fn rename(&self, erased: &HashSet<String>) -> Result<(), Fault> {
        for user in erased {
            self.rename_announcements(user).await?;
            let clear = doc! { "actor": user, "username": { "$ne": ERASED_TEXT } };
            loop {
                let ids = self.ids_of(clear.clone()).await?;
                if ids.is_empty() {
                    break;
                }
                self.settle(ids).await?;
            }
        }
        Ok(())
    }

    /// Nothing else ever changes an announcement.
    async fn rename_announcements(&self, author: &str) -> Result<(), Fault> {
        let rename = doc! { "$set": { "username": ERASED_TEXT } };
        let renamed = self
            .announcements
            .update_many(doc! { "author": author }, rename);
        self.access.write(renamed).await.map(|_| ())
    }

    /// The same for announcements that came after their author's erasure. They are inserted already.
    async fn rename_announcers(&self, announced: &[Announcement]) -> Result<(), Fault> {
        if announced.is_empty() {
            return Ok(());
        }
        let authors: HashSet<&str> = announced.iter().map(|post| &*post.author).collect();
        for author in self.erased_of(&authors).await? {
            self.rename_announcements(author).await?;
        }
        Ok(())
    }

    /// The ids of some of the notifications that a filter finds.
    async fn ids_of(&self, filter: Document) -> Result<HashSet<String>, Fault> {
        let found: Vec<Document> = self
            .access
            .write(async {
                let ids = self.notifications.clone_with_type::<Document>();
                let ids = ids.find(filter).projection(doc! { "_id": 1 });
                ids.limit(to_stored(INSERT as u64))
                    .await?
                    .try_collect()
                    .await
            })
            .await?;
        Ok(found.iter().filter_map(id_of).collect())
    }
}
