//! Queries on the notifications.

use std::sync::Arc;

use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use socialhub_domain::{NotificationId, UserId};
use socialhub_event_log::Position;
use socialhub_projections::{
    ReadError,
    notifications::{NotificationPage, NotificationReader, NotificationView},
    page::{Page, PageRequest, PageStart},
};

use super::{
    documents::{Told, parse},
    tables::Tables,
};
use crate::mongo::{
    connection::{Fault, from_stored, read, to_stored},
    generations::MongoGenerations,
};

/// Reads the current generation of the `notifications` model.
#[derive(Clone)]
pub struct MongoNotificationReader {
    generations: Arc<MongoGenerations>,
}

impl MongoNotificationReader {
    /// A reader of whichever generation is current.
    pub fn new(generations: Arc<MongoGenerations>) -> Self {
        Self { generations }
    }
}

#[async_trait]
impl NotificationReader for MongoNotificationReader {
    async fn list(
        &self,
        user: UserId,
        unread_only: bool,
        page: &PageRequest,
    ) -> Result<NotificationPage, ReadError> {
        let tables = self.generations.current_tables().await?;
        Ok(tables.list(user, unread_only, page).await?)
    }

    async fn owner(&self, id: NotificationId) -> Result<Option<UserId>, ReadError> {
        let tables = self.generations.current_tables().await?;
        let found = read(
            tables
                .notifications
                .find_one(doc! { "_id": id.to_string() }),
        )
        .await?;
        let owner = found
            .filter(|told| told.shown)
            .map(|told| parse(&told.user));
        Ok(owner.transpose()?.map(UserId))
    }

    async fn after(
        &self,
        user: UserId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<NotificationView>, ReadError> {
        let tables = self.generations.current_tables().await?;
        Ok(tables.list_after(user, after, limit).await?)
    }
}

/// What a person's list is made of.
fn shown(user: UserId) -> Document {
    doc! { "user": user.to_string(), "shown": true }
}

fn views(found: &[Told], read_up_to: Position) -> Result<Vec<NotificationView>, Fault> {
    found.iter().map(|told| told.view(read_up_to)).collect()
}

impl Tables {
    async fn list(
        &self,
        user: UserId,
        unread_only: bool,
        page: &PageRequest,
    ) -> Result<NotificationPage, Fault> {
        let (found, read_up_to) = if unread_only {
            let up_to = self.read_up_to(user).await?;
            (self.page(self.unread(user, up_to), page).await?, up_to)
        } else {
            tokio::try_join!(self.page(shown(user), page), self.read_up_to(user))?
        };
        let items = views(&found, read_up_to)?;
        // Most lists are short: whoever sees all of one need not ask again how much of it is unread.
        let is_all = page.start == PageStart::Page(1) && items.len() <= page.limit;
        let unread_count = if is_all {
            items.iter().filter(|item| !item.read).count() as u64
        } else {
            self.count(self.unread(user, read_up_to)).await?
        };
        Ok(NotificationPage {
            page: Page::cut(items, page.limit, |item| item.position.to_string()),
            unread_count,
        })
    }

    fn unread(&self, user: UserId, read_up_to: Position) -> Document {
        let mut unread = shown(user);
        unread.insert("read", false);
        unread.insert("position", doc! { "$gt": to_stored(read_up_to) });
        unread
    }

    async fn count(&self, filter: Document) -> Result<u64, Fault> {
        read(self.notifications.count_documents(filter)).await
    }

    async fn read_up_to(&self, user: UserId) -> Result<Position, Fault> {
        let filter = doc! { "user": user.to_string() };
        let highest = self.read_up_to.find_one(filter).sort(doc! { "up_to": -1 });
        let found = read(highest).await?;
        Ok(found.map_or(0, |found| from_stored(found.up_to)))
    }

    /// One more than the page holds, to know whether there is another.
    async fn page(&self, mut filter: Document, page: &PageRequest) -> Result<Vec<Told>, Fault> {
        let below = to_stored(page.beyond(Position::MAX));
        if below < i64::MAX {
            match filter.get_document_mut("position") {
                Ok(bounds) => {
                    bounds.insert("$lt", below);
                }
                Err(_) => {
                    filter.insert("position", doc! { "$lt": below });
                }
            }
        }
        let found = self
            .notifications
            .find(filter)
            .sort(doc! { "position": -1 })
            .skip(page.offset().min(i64::MAX as u64))
            .limit(to_stored(page.one_more() as u64));
        read(async { found.await?.try_collect().await }).await
    }

    async fn list_after(
        &self,
        user: UserId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<NotificationView>, Fault> {
        let mut filter = shown(user);
        filter.insert("position", doc! { "$gt": to_stored(after) });
        let found = self
            .notifications
            .find(filter)
            .sort(doc! { "position": 1 })
            .limit(to_stored(limit as u64));
        let found = read(async { found.await?.try_collect::<Vec<_>>().await });
        let (found, up_to) = tokio::try_join!(found, self.read_up_to(user))?;
        views(&found, up_to)
    }
}
