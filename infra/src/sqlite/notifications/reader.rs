//! Queries on the notifications.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row};
use socialhub_domain::{NotificationId, UserId};
use socialhub_event_log::Position;
use socialhub_projections::{
    ReadError,
    notifications::{NotificationPage, NotificationReader, NotificationView},
    page::{Page, PageRequest},
};

use super::{flag, notice_columns, read_notice};
use crate::sqlite::{
    connection::{from_sql, id_bytes, read_id, to_sql},
    generations::CurrentReaders,
};

/// Notifications for [`view`]; a condition on `n` follows.
macro_rules! notices {
    ($condition:literal) => {
        concat!(
            "SELECT ",
            notice_columns!(),
            ", n.position, n.flags
             FROM notification n CROSS JOIN recipient a ON a.number = n.actor
             WHERE ",
            $condition
        )
    };
}

/// Reads the current generation of the `notifications` model.
#[derive(Debug, Clone)]
pub struct SqliteNotificationReader {
    readers: CurrentReaders,
}

impl SqliteNotificationReader {
    /// A reader of whichever generation is current.
    pub fn new(readers: CurrentReaders) -> Self {
        Self { readers }
    }

    async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ReadError> {
        let answer = self.readers.current().run(query).await;
        answer.map_err(|error| ReadError(error.to_string()))
    }
}

#[async_trait]
impl NotificationReader for SqliteNotificationReader {
    async fn list(
        &self,
        user: UserId,
        unread_only: bool,
        page: &PageRequest,
    ) -> Result<NotificationPage, ReadError> {
        let page = page.clone();
        self.run(move |connection| list(connection, user, unread_only, &page))
            .await
    }

    async fn owner(&self, id: NotificationId) -> Result<Option<UserId>, ReadError> {
        self.run(move |connection| owner(connection, id)).await
    }

    async fn after(
        &self,
        user: UserId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<NotificationView>, ReadError> {
        self.run(move |connection| list_after(connection, user, after, limit))
            .await
    }
}

/// Whose list it is.
#[derive(Clone, Copy)]
struct Owner {
    user: UserId,
    number: i64,
    unread: u64,
    read_up_to: i64,
}

/// A person's row; none when they were never told anything.
fn find_owner(connection: &Connection, user: UserId) -> rusqlite::Result<Option<Owner>> {
    connection
        .prepare_cached("SELECT number, unread, read_up_to FROM recipient WHERE person = ?1")?
        .query_row([id_bytes(user.0)], |row| {
            Ok(Owner {
                user,
                number: row.get(0)?,
                unread: from_sql(row.get(1)?),
                read_up_to: row.get(2)?,
            })
        })
        .optional()
}

fn list(
    connection: &mut Connection,
    user: UserId,
    unread_only: bool,
    page: &PageRequest,
) -> rusqlite::Result<NotificationPage> {
    // One snapshot, so that the count and the list agree.
    let transaction = connection.transaction()?;
    let (items, unread_count) = match find_owner(&transaction, user)? {
        Some(owner) if unread_only => (unread_items(&transaction, owner, page)?, owner.unread),
        Some(owner) => (all_items(&transaction, owner, page)?, owner.unread),
        None => (Vec::new(), 0),
    };
    Ok(NotificationPage {
        page: Page::cut(items, page.limit, |item| item.position.to_string()),
        unread_count,
    })
}

/// One more than the page holds, to know whether there is another.
fn all_items(
    connection: &Connection,
    owner: Owner,
    page: &PageRequest,
) -> rusqlite::Result<Vec<NotificationView>> {
    connection
        .prepare_cached(notices!(
            "n.recipient = ?1 AND n.position < ?2 AND n.flags < 2
                 ORDER BY n.position DESC LIMIT ?3 OFFSET ?4"
        ))?
        .query_map(
            [
                owner.number,
                to_sql(page.beyond(Position::MAX)),
                to_sql(page.one_more() as u64),
                to_sql(page.offset()),
            ],
            |row| view(row, owner),
        )?
        .collect()
}

/// As [`all_items`]; never looks below what was read as a whole, and not at all when everything is.
fn unread_items(
    connection: &Connection,
    owner: Owner,
    page: &PageRequest,
) -> rusqlite::Result<Vec<NotificationView>> {
    // Without the bound, a page that is not full would walk through all older ones.
    let limit = owner
        .unread
        .saturating_sub(page.offset())
        .min(page.one_more() as u64);
    if limit == 0 {
        return Ok(Vec::new());
    }
    connection
        .prepare_cached(notices!(
            "n.recipient = ?1 AND n.position < ?2 AND n.position > ?5 AND n.flags = 0
                 ORDER BY n.position DESC LIMIT ?3 OFFSET ?4"
        ))?
        .query_map(
            [
                owner.number,
                to_sql(page.beyond(Position::MAX)),
                to_sql(limit),
                to_sql(page.offset()),
                owner.read_up_to,
            ],
            |row| view(row, owner),
        )?
        .collect()
}

/// From the columns of `notices!`.
fn view(row: &Row<'_>, owner: Owner) -> rusqlite::Result<NotificationView> {
    let position: i64 = row.get(6)?;
    let flags: i64 = row.get(7)?;
    let read = flags & flag::READ != 0 || position <= owner.read_up_to;
    Ok(read_notice(row, owner.user)?.into_view(from_sql(position), read))
}

fn owner(connection: &mut Connection, id: NotificationId) -> rusqlite::Result<Option<UserId>> {
    connection
        .prepare_cached(
            "SELECT r.person FROM notification n JOIN recipient r ON r.number = n.recipient
             WHERE n.id = ?1 AND n.flags < 2",
        )?
        .query_row([id_bytes(id.0)], |row| read_id(row, 0).map(UserId))
        .optional()
}

fn list_after(
    connection: &mut Connection,
    user: UserId,
    after: Position,
    limit: usize,
) -> rusqlite::Result<Vec<NotificationView>> {
    let transaction = connection.transaction()?;
    let Some(owner) = find_owner(&transaction, user)? else {
        return Ok(Vec::new());
    };
    transaction
        .prepare_cached(notices!(
            "n.recipient = ?1 AND n.position > ?2 AND n.flags < 2
                 ORDER BY n.position LIMIT ?3"
        ))?
        .query_map([owner.number, to_sql(after), to_sql(limit as u64)], |row| {
            view(row, owner)
        })?
        .collect()
}
