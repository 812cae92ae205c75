//! Making what differs what it is in another generation.

use std::collections::HashSet;

use mongodb::{
    Collection,
    bson::{Bson, Document, doc},
};
use socialhub_projections::verify::Entity;

use super::{
    documents::{ERASED, GONE, READ, REMOVED, Told, fact_id},
    tables::Tables,
};
use crate::mongo::connection::{Fault, find_all, write};

impl Tables {
    /// Makes an entity what it is in another generation, which has handled the same events, with the facts that it is
    /// derived from.
    pub(in crate::mongo) async fn mend(&self, other: &Self, entity: &Entity) -> Result<(), Fault> {
        let key = entity.key.as_str();
        match entity.table {
            "notification" | "mark" => {
                for what in [READ, REMOVED] {
                    self.copy_fact(other, &fact_id(what, key)).await?;
                }
                let (mine, theirs) = (&self.notifications, &other.notifications);
                copy(mine, theirs, doc! { "_id": key }).await?;
                self.copy_announcement_of(other, key).await
            }
            "announcement" => self.copy_announcement(other, key).await,
            "erased" => self.copy_fact(other, &fact_id(ERASED, key)).await,
            "gone" => self.copy_fact(other, &fact_id(GONE, key)).await,
            "person" => copy(&self.read_up_to, &other.read_up_to, doc! { "user": key }).await,
            "wish" => match entity.pair() {
                Some((author, follower)) => {
                    let (author, follower) = (author.to_string(), follower.to_string());
                    let pair = doc! { "author": author, "follower": follower };
                    copy(&self.wishes, &other.wishes, pair).await
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    async fn copy_fact(&self, other: &Self, id: &str) -> Result<(), Fault> {
        copy(&self.facts, &other.facts, doc! { "_id": id }).await?;
        copy(&self.ahead, &other.ahead, doc! { "_id": id }).await
    }

    async fn copy_announcement(&self, other: &Self, post: &str) -> Result<(), Fault> {
        let (mine, theirs) = (&self.announcements, &other.announcements);
        copy(mine, theirs, doc! { "_id": post }).await
    }

    /// The announcement of a post, if the notification is the one that goes with it.
    async fn copy_announcement_of(&self, other: &Self, notification: &str) -> Result<(), Fault> {
        let told = find_all(&other.notifications, doc! { "_id": notification }).await?;
        let own = told.into_iter().find(Told::is_of_own_post);
        match own.and_then(|told| told.post) {
            Some(post) => self.copy_announcement(other, &post).await,
            None => Ok(()),
        }
    }
}

/// Makes the documents that a filter finds those that it finds in another collection. Untyped: what is to be replaced may
/// be anything.
async fn copy<T: Send + Sync>(
    mine: &Collection<T>,
    other: &Collection<T>,
    filter: Document,
) -> Result<(), Fault> {
    let mine = mine.clone_with_type::<Document>();
    let wanted = find_all(&other.clone_with_type::<Document>(), filter.clone()).await?;
    let id = |document: &Document| document.get("_id").cloned().unwrap_or(Bson::Null);
    let ids: HashSet<String> = wanted.iter().map(|one| id(one).to_string()).collect();
    for document in &wanted {
        let replaced = mine.replace_one(doc! { "_id": id(document) }, document);
        write(replaced.upsert(true)).await?;
    }
    for found in find_all(&mine, filter).await? {
        if !ids.contains(&id(&found).to_string()) {
            write(mine.delete_one(doc! { "_id": id(&found) })).await?;
        }
    }
    Ok(())
}
