//! Queries on the notifications.

use std::sync::Arc;

use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::{
    bson::{Document, doc},
    error::Error,
};
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
    connection::{Fault, from_stored, to_stored},
    generations::MongoGenerations,
};

/// From so far into a list on it is not gone through at once: all before the page would be kept in memory.
const DEEP: u64 = 2_000;

/// Reads the current generation of the `notifications` model.
#[derive(Clone)]
pub struct MongoNotificationReader {
    generations: Arc<MongoGenerations>,
    by_index: bool,
}

impl MongoNotificationReader {
    /// A reader of whichever generation is current.
    pub fn new(generations: Arc<MongoGenerations>) -> Self {
        Self {
            generations,
            by_index: false,
        }
    }

    /// One that asks as MongoDB is asked, whatever the server is: what stands in for it in tests is asked in another way.
    #[must_use]
    pub fn by_index(mut self) -> Self {
        self.by_index = true;
        self
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
        let by_index = self.by_index || !tables.access.lists_read_all().await?;
        Ok(tables.list(user, unread_only, page, by_index).await?)
    }

    async fn owner(&self, id: NotificationId) -> Result<Option<UserId>, ReadError> {
        let tables = self.generations.current_tables().await?;
        let found = tables
            .access
            .read(
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

/// What a list is made of: the notifications of a page and one more, and what belongs to it.
struct Found {
    page: Vec<Told>,
    read_up_to: Position,
    unread: u64,
}

/// The newest of a list that a page may need, and for a while at most as many more.
struct Newest {
    told: Vec<Told>,
    /// Only what is below this position.
    below: Position,
    skipped: usize,
    /// How many are needed, with those that are skipped.
    needed: usize,
}

impl Newest {
    fn of(page: &PageRequest) -> Self {
        let skipped = usize::try_from(page.offset()).unwrap_or(usize::MAX);
        Self {
            told: Vec::new(),
            below: page.beyond(Position::MAX),
            skipped,
            needed: skipped.saturating_add(page.one_more()),
        }
    }

    fn add(&mut self, told: Told) {
        if told.position() < self.below {
            self.told.push(told);
            if self.told.len() >= self.needed.saturating_mul(2) {
                self.sort();
            }
        }
    }

    fn sort(&mut self) {
        self.told
            .sort_by_key(|told| std::cmp::Reverse(told.position));
        self.told.truncate(self.needed);
    }

    fn cut(mut self) -> Vec<Told> {
        self.sort();
        self.told.into_iter().skip(self.skipped).collect()
    }
}

impl Tables {
    async fn list(
        &self,
        user: UserId,
        unread_only: bool,
        page: &PageRequest,
        by_index: bool,
    ) -> Result<NotificationPage, Fault> {
        let found = if by_index || page.offset() > DEEP {
            self.list_by_index(user, unread_only, page).await?
        } else {
            self.list_at_once(user, unread_only, page).await?
        };
        let items = views(&found.page, found.read_up_to)?;
        Ok(NotificationPage {
            page: Page::cut(items, page.limit, |item| item.position.to_string()),
            unread_count: found.unread,
        })
    }

    /// A page by one query, and by another how much is unread: an index answers both.
    async fn list_by_index(
        &self,
        user: UserId,
        unread_only: bool,
        page: &PageRequest,
    ) -> Result<Found, Fault> {
        let (found, read_up_to) = if unread_only {
            let up_to = self.read_up_to(user).await?;
            (self.page(self.unread(user, up_to), page).await?, up_to)
        } else {
            tokio::try_join!(self.page(shown(user), page), self.read_up_to(user))?
        };
        // Most lists are short: whoever sees all of one need not ask again how much of it is unread.
        let is_all = page.start == PageStart::Page(1) && found.len() <= page.limit;
        let unread = if is_all {
            found
                .iter()
                .filter(|told| told.is_unread(read_up_to))
                .count() as u64
        } else {
            self.count(self.unread(user, read_up_to)).await?
        };
        Ok(Found {
            page: found,
            read_up_to,
            unread,
        })
    }

    /// Both in one go through a person's notifications, for a server that goes through all of them in any case, whatever it is
    /// asked about them.
    async fn list_at_once(
        &self,
        user: UserId,
        unread_only: bool,
        page: &PageRequest,
    ) -> Result<Found, Fault> {
        let mut filter = shown(user);
        if unread_only {
            filter.insert("read", false);
        }
        let gone_through = async {
            let read_up_to = self.marked_up_to(user).await?;
            let mut newest = Newest::of(page);
            let mut unread = 0;
            let mut all = self.notifications.find(filter).await?;
            while let Some(told) = all.try_next().await? {
                let is_unread = told.is_unread(read_up_to);
                unread += u64::from(is_unread);
                if is_unread || !unread_only {
                    newest.add(told);
                }
            }
            Ok(Found {
                page: newest.cut(),
                read_up_to,
                unread,
            })
        };
        self.access.read(gone_through).await
    }

    fn unread(&self, user: UserId, read_up_to: Position) -> Document {
        let mut unread = shown(user);
        unread.insert("read", false);
        unread.insert("position", doc! { "$gt": to_stored(read_up_to) });
        unread
    }

    async fn count(&self, filter: Document) -> Result<u64, Fault> {
        self.access
            .read(self.notifications.count_documents(filter))
            .await
    }

    async fn read_up_to(&self, user: UserId) -> Result<Position, Fault> {
        self.access.read(self.marked_up_to(user)).await
    }

    async fn marked_up_to(&self, user: UserId) -> Result<Position, Error> {
        let filter = doc! { "user": user.to_string() };
        let highest = self.read_up_to.find_one(filter).sort(doc! { "up_to": -1 });
        Ok(highest.await?.map_or(0, |found| from_stored(found.up_to)))
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
        self.access
            .read(async { found.await?.try_collect().await })
            .await
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
        let asked = async {
            let found: Vec<Told> = found.await?.try_collect().await?;
            Ok((found, self.marked_up_to(user).await?))
        };
        // Whoever listens has time: what is refused would end their stream.
        let (found, up_to) = self.access.read_in_time(asked).await?;
        views(&found, up_to)
    }
}
