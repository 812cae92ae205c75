//! The statements of the home feed.
//!
//! A page above the viewer's horizon comes from the timeline and from the authors merged at read, in one statement. One
//! that reaches below is pulled from everybody whom the viewer follows: that is what the feed is by definition, so a
//! statement for itself is right on its own, whatever happened since the first.

use crate::postgres::feed::views::{view_columns, view_joins};

/// A page of posts: for the viewer `$1`, older than `$2`, the first `$3` left out, `$4` at most; `$5` is their sum. Its
/// last column is the viewer's horizon, 0 for none; a page without posts is one row of nothing but the horizon.
pub(super) const PAGE: &str = concat!(
    "SELECT ",
    view_columns!(),
    ", edge.horizon FROM (
         SELECT COALESCE((SELECT position FROM horizons WHERE user_id = $1), 0) AS horizon) edge
     LEFT JOIN LATERAL (
         SELECT * FROM (
             (SELECT q.* FROM timeline t JOIN posts q ON q.position = t.position
              WHERE t.user_id = $1 AND t.position < $2 AND t.position > edge.horizon
              ORDER BY t.position DESC LIMIT $5)
             UNION ALL
             (SELECT b.* FROM merged_authors m CROSS JOIN LATERAL (
                  SELECT * FROM posts
                  WHERE author_id = m.author_id AND visibility < 2 AND position < $2
                      AND position > edge.horizon
                  ORDER BY position DESC LIMIT $5) b
              WHERE m.follower_id = $1 AND NOT EXISTS (
                  SELECT FROM timeline t WHERE t.user_id = $1 AND t.position = b.position))
         ) found ORDER BY position DESC OFFSET $3 LIMIT $4
     ) p ON true",
    view_joins!(),
    "ORDER BY p.position DESC"
);

/// The same page, pulled from everybody whom the viewer follows; the last column is of no use.
pub(super) const PULLED_PAGE: &str = concat!(
    "SELECT ",
    view_columns!(),
    ", 0::bigint FROM (
         SELECT b.* FROM follows f CROSS JOIN LATERAL (
             SELECT * FROM posts
             WHERE author_id = f.followed_id AND visibility < 2 AND position < $2
             ORDER BY position DESC LIMIT $5) b
         WHERE f.follower_id = $1 AND f.since IS NOT NULL
         ORDER BY b.position DESC OFFSET $3 LIMIT $4
     ) p",
    view_joins!(),
    "ORDER BY p.position DESC"
);

/// How many posts those have whom `$1` follows: at least as many as are in the feed.
pub(super) const FOLLOWED_POSTS: &str = "
    SELECT COALESCE(sum(t.posts), 0)::bigint FROM follows f JOIN tallies t ON t.user_id = f.followed_id
    WHERE f.follower_id = $1 AND f.since IS NOT NULL";

/// The posts of `$1`'s feed newer than `$2`, oldest first, `$3` at most: id and position, and the viewer's horizon as in
/// [`PAGE`].
pub(super) const NEWER: &str = "
    SELECT p.id, p.position, edge.horizon FROM (
        SELECT COALESCE((SELECT position FROM horizons WHERE user_id = $1), 0) AS horizon) edge
    LEFT JOIN LATERAL (
        SELECT id, position FROM (
            (SELECT q.id, q.position FROM timeline t JOIN posts q ON q.position = t.position
             WHERE t.user_id = $1 AND t.position > $2 AND t.position > edge.horizon
             ORDER BY t.position LIMIT $3)
            UNION
            (SELECT b.id, b.position FROM merged_authors m CROSS JOIN LATERAL (
                 SELECT id, position FROM posts
                 WHERE author_id = m.author_id AND visibility < 2 AND position > $2
                 ORDER BY position LIMIT $3) b
             WHERE m.follower_id = $1)
        ) found ORDER BY position LIMIT $3
    ) p ON true
    ORDER BY p.position";

/// The same, pulled from everybody whom the viewer follows.
pub(super) const PULLED_NEWER: &str = "
    SELECT b.id, b.position, 0::bigint FROM follows f CROSS JOIN LATERAL (
        SELECT id, position FROM posts
        WHERE author_id = f.followed_id AND visibility < 2 AND position > $2
        ORDER BY position LIMIT $3) b
    WHERE f.follower_id = $1 AND f.since IS NOT NULL
    ORDER BY b.position LIMIT $3";
