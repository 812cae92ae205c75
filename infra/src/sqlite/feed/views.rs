//! Posts as a viewer sees them.

use rusqlite::{Connection, OptionalExtension, Row, params};
use socialhub_domain::{PostId, Timestamp, UserId, event::Media};
use socialhub_event_log::Position;
use socialhub_projections::feed::PostView;

use crate::sqlite::{
    connection::{from_sql, id_bytes, read_id, to_sql},
    feed::{FOLLOWERS, PUBLIC, visibility_of},
};

/// One post by `?1` for the viewer `?2`; the rest of the statement says what `?1` is.
macro_rules! view {
    ($rest:literal) => {
        concat!(
            "SELECT p.id, p.author_id, COALESCE(a.username, p.username), a.avatar, p.content,
                    p.visibility, p.media, s.likes, s.comments, COALESCE(l.active, 0),
                    p.created_at, p.position ",
            $rest,
            " LEFT JOIN people a ON a.id = p.author_id
              LEFT JOIN likes l ON l.post_id = p.id AND l.user_id = ?2 ",
            "WHERE "
        )
    };
}

const BY_POSITION: &str = concat!(
    view!("FROM posts p CROSS JOIN post_states s ON s.id = p.id"),
    "p.position = ?1"
);
const BY_ID: &str = concat!(
    view!("FROM post_states s CROSS JOIN posts p ON p.position = s.created"),
    "s.id = ?1 AND s.created <> 0 AND s.deleted = 0"
);

/// Posts by their positions, which the viewer is known to be allowed to see.
pub(super) fn at(
    connection: &Connection,
    positions: &[Position],
    viewer: UserId,
) -> rusqlite::Result<Vec<PostView>> {
    let mut statement = connection.prepare_cached(BY_POSITION)?;
    let viewer = id_bytes(viewer.0);
    let mut views = Vec::with_capacity(positions.len());
    for position in positions {
        let view = statement
            .query_row(params![to_sql(*position), viewer], read)
            .optional()?;
        views.extend(view);
    }
    Ok(views)
}

/// A post, if the viewer may see it.
pub(super) fn by_id(
    connection: &Connection,
    id: PostId,
    viewer: UserId,
) -> rusqlite::Result<Option<PostView>> {
    let view = connection
        .prepare_cached(BY_ID)?
        .query_row(params![id_bytes(id.0), id_bytes(viewer.0)], read)
        .optional()?;
    match view {
        Some(view) => {
            let code = super::visibility_code(view.visibility);
            let visible = may_see(connection, Some(viewer), view.user_id, code)?;
            Ok(Some(view).filter(|_| visible))
        }
        None => Ok(None),
    }
}

/// Whether somebody may see an author's posts of a visibility; nobody in particular sees what is public.
pub(super) fn may_see(
    connection: &Connection,
    viewer: Option<UserId>,
    author: UserId,
    visibility: i64,
) -> rusqlite::Result<bool> {
    match (visibility, viewer) {
        (PUBLIC, _) => Ok(true),
        (_, None) => Ok(false),
        (_, Some(viewer)) if viewer == author => Ok(true),
        (FOLLOWERS, Some(viewer)) => follows(connection, viewer, author),
        _ => Ok(false),
    }
}

/// Whether somebody follows somebody.
pub(super) fn follows(
    connection: &Connection,
    follower: UserId,
    followed: UserId,
) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM follows
             WHERE followed_id = ?1 AND follower_id = ?2 AND since IS NOT NULL",
        )?
        .exists(params![id_bytes(followed.0), id_bytes(follower.0)])
}

fn read(row: &Row<'_>) -> rusqlite::Result<PostView> {
    Ok(PostView {
        id: PostId(read_id(row, 0)?),
        user_id: UserId(read_id(row, 1)?),
        username: row.get(2)?,
        avatar: row.get(3)?,
        content: row.get(4)?,
        visibility: visibility_of(row.get(5)?),
        media: media(row)?,
        like_count: from_sql(row.get(7)?),
        comment_count: from_sql(row.get(8)?),
        liked_by_me: row.get(9)?,
        created_at: Timestamp(row.get(10)?),
        position: from_sql(row.get(11)?),
    })
}

fn media(row: &Row<'_>) -> rusqlite::Result<Vec<Media>> {
    let Some(text) = row.get_ref(6)?.as_str_or_null()? else {
        return Ok(Vec::new());
    };
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(6, rusqlite::types::Type::Text, Box::new(error))
    })
}
