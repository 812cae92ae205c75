//! The `feed` model on SQLite: people, follows, posts, comments, likes, and home timelines filled when a post is written.
//!
//! A timeline holds what an ordinary followed author wrote above its owner's horizon (about the newest thousand posts);
//! pages below the horizon, and posts of authors with very many followers, are merged from the authors' own lists when
//! they are read. So a page costs the same however many ordinary people its reader follows, and a post of somebody
//! whom millions follow costs as little as any other.
//!
//! [`writer`] changes the tables ([`counts`] are the rows it keeps in memory), [`timelines`] is its part that keeps timelines, [`reader`] answers queries with the
//! help of [`merge`] (posts of many authors in order) and [`views`], [`rows`] lists everything for verification, [`mend`]
//! copies what differs from another generation.

mod counts;
mod mend;
mod merge;
mod reader;
mod rows;
mod timelines;
mod views;
mod writer;

#[cfg(test)]
mod tests;

pub use reader::SqliteFeedReader;
pub use writer::SqliteFeed;

use socialhub_domain::event::Visibility;

/// The bounds of timelines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedLimits {
    /// Authors with more followers are merged at read; one who falls to half of it is fanned out again.
    pub fanout_limit: u64,
    /// How many of the newest rows of a timeline are kept when it is trimmed, and are filled in by a new follow.
    pub timeline_rows: usize,
    /// A timeline is trimmed about every so many rows, so that trimming costs next to nothing per row.
    pub trim_every: u64,
}

impl Default for FeedLimits {
    fn default() -> Self {
        Self {
            fanout_limit: 10_000,
            timeline_rows: 1_000,
            trim_every: 256,
        }
    }
}

/// The codes of visibilities in the tables.
const PUBLIC: i64 = 0;
const FOLLOWERS: i64 = 1;
const PRIVATE: i64 = 2;

fn visibility_code(visibility: Visibility) -> i64 {
    match visibility {
        Visibility::Public => PUBLIC,
        Visibility::Followers => FOLLOWERS,
        Visibility::Private => PRIVATE,
    }
}

/// What is not a known code counts as private: it must not be shown.
fn visibility_of(code: i64) -> Visibility {
    match code {
        PUBLIC => Visibility::Public,
        FOLLOWERS => Visibility::Followers,
        _ => Visibility::Private,
    }
}
