//! Making what differs what it is in another generation.

use rusqlite::Connection;
use socialhub_projections::{
    notifications::{PERSON, UNREAD},
    verify::Entity,
};
use uuid::Uuid;

use crate::sqlite::{connection::id_bytes, model::copy_rows};

/// People first: notifications are kept by the number that a person has here.
pub(super) const KINDS: &[&str] = &[
    PERSON,
    UNREAD,
    "erased",
    "gone",
    "mark",
    "wish",
    "notification",
];

/// A key that is not made of what it should be names nothing that could be copied.
pub(super) fn mend(connection: &Connection, entity: &Entity) -> rusqlite::Result<()> {
    if entity.table == "wish" {
        let Some((author, follower)) = entity.pair() else {
            return Ok(());
        };
        // Those that have ended, too: a post or follow that comes late asks them.
        let pair = "author = ?1 AND follower = ?2";
        return copy_rows(
            connection,
            "wish",
            pair,
            &[&id_bytes(author), &id_bytes(follower)],
        );
    }
    let Some(id) = entity.id() else {
        return Ok(());
    };
    match entity.table {
        "gone" | "mark" => copy_rows(connection, entity.table, "id = ?1", &[&id_bytes(id)]),
        "erased" => copy_rows(connection, "erased", "person = ?1", &[&id_bytes(id)]),
        PERSON | UNREAD => mend_person(connection, id),
        "notification" => {
            copy_rows(connection, "mark", "id = ?1", &[&id_bytes(id)])?;
            mend_notification(connection, id)
        }
        _ => Ok(()),
    }
}

/// A person keeps their number: their notifications have it.
fn mend_person(connection: &Connection, person: Uuid) -> rusqlite::Result<()> {
    all(
        connection,
        person,
        &[
            "UPDATE main.recipient SET unread = 0, read_up_to = 0 WHERE person = ?1",
            "INSERT INTO main.recipient (person, unread, read_up_to, changed)
             SELECT person, unread, read_up_to, changed FROM other.recipient WHERE person = ?1
             ON CONFLICT (person) DO UPDATE SET unread = excluded.unread,
                 read_up_to = excluded.read_up_to, changed = excluded.changed",
        ],
    )
}

/// Names stand with people, so whoever did it goes by the name that they have in the other generation.
fn mend_notification(connection: &Connection, id: Uuid) -> rusqlite::Result<()> {
    all(
        connection,
        id,
        &[
            "DELETE FROM main.notification WHERE id = ?1",
            "INSERT OR IGNORE INTO main.recipient (person, unread, read_up_to, changed)
             SELECT r.person, r.unread, r.read_up_to, r.changed
             FROM other.notification n JOIN other.recipient r ON r.number = n.recipient
             WHERE n.id = ?1",
            "INSERT INTO main.recipient (person, username, unread, read_up_to, changed)
             SELECT a.person, a.username, a.unread, a.read_up_to, a.changed
             FROM other.notification n JOIN other.recipient a ON a.number = n.actor
             WHERE n.id = ?1
             ON CONFLICT (person) DO UPDATE SET username = excluded.username",
            "INSERT INTO main.notification
                 (id, recipient, position, kind, actor, post, comment, at, flags, changed)
             SELECT n.id, mine.number, n.position, n.kind, actor.number, n.post, n.comment, n.at,
                 n.flags, n.changed
             FROM other.notification n
             JOIN other.recipient theirs ON theirs.number = n.recipient
             JOIN main.recipient mine ON mine.person = theirs.person
             JOIN other.recipient their_actor ON their_actor.number = n.actor
             JOIN main.recipient actor ON actor.person = their_actor.person
             WHERE n.id = ?1",
        ],
    )
}

fn all(connection: &Connection, id: Uuid, statements: &[&str]) -> rusqlite::Result<()> {
    for statement in statements {
        connection
            .prepare_cached(statement)?
            .execute([id_bytes(id)])?;
    }
    Ok(())
}
