//! Posts as a viewer sees them.

use socialhub_domain::{PostId, Timestamp, UserId, event::Media};
use socialhub_projections::feed::PostView;
use sqlx::{Row, postgres::PgRow};

use crate::postgres::{feed::visibility_of, model::from_sql};

/// The columns of a post `p` in the state `s` for [`read`], its author being `a` and its viewer's like `l`.
macro_rules! view_columns {
    () => {
        "p.id, p.author_id, COALESCE(a.username, p.username), NULLIF(a.avatar, ''), p.content, p.visibility, p.media,
         s.likes, s.comments, COALESCE(l.active, false), p.created_at, p.position"
    };
}

/// What [`view_columns`] needs beside a post `p`, for the viewer `$1`. Every post has a state; the outer join says so
/// to the planner, which then never begins with it.
macro_rules! view_joins {
    () => {
        " LEFT JOIN post_states s ON s.id = p.id
          LEFT JOIN people a ON a.id = p.author_id
          LEFT JOIN likes l ON l.post_id = p.id AND l.user_id = $1 "
    };
}

/// Whether the viewer `$1` may see the post `p`.
macro_rules! may_see {
    () => {
        "(p.visibility = 0 OR p.author_id = $1 OR p.visibility = 1 AND EXISTS (
             SELECT FROM follows f WHERE f.follower_id = $1 AND f.followed_id = p.author_id AND f.since IS NOT NULL))"
    };
}

pub(super) use may_see;
pub(super) use view_columns;
pub(super) use view_joins;

/// The posts `$2`, as they are listed there, that the viewer `$1` may see.
pub(super) const BY_IDS: &str = concat!(
    "SELECT ",
    view_columns!(),
    " FROM unnest($2::uuid[]) WITH ORDINALITY AS asked(id, n)
      JOIN post_states known ON known.id = asked.id AND known.created <> 0 AND NOT known.deleted
      JOIN posts p ON p.position = known.created",
    view_joins!(),
    "WHERE ",
    may_see!(),
    " ORDER BY asked.n"
);

/// Reads the columns of [`view_columns`].
pub(super) fn read(row: &PgRow) -> sqlx::Result<PostView> {
    Ok(PostView {
        id: PostId(row.try_get(0)?),
        user_id: UserId(row.try_get(1)?),
        username: row.try_get(2)?,
        avatar: row.try_get(3)?,
        content: row.try_get(4)?,
        visibility: visibility_of(row.try_get(5)?),
        media: media(row.try_get(6)?)?,
        like_count: from_sql(row.try_get(7)?),
        comment_count: from_sql(row.try_get(8)?),
        liked_by_me: row.try_get(9)?,
        created_at: Timestamp(row.try_get(10)?),
        position: from_sql(row.try_get(11)?),
    })
}

fn media(text: Option<&str>) -> sqlx::Result<Vec<Media>> {
    match text {
        Some(text) => serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into())),
        None => Ok(Vec::new()),
    }
}
