//! The `feed` model on Postgres: people, follows, posts, comments, likes, and home timelines filled when a post is
//! written.
//!
//! A timeline holds what an ordinary followed author wrote above its owner's horizon (about the newest thousand posts);
//! pages that reach below the horizon are read from the authors' own lists, and posts of authors with very many followers
//! are merged in when a page is read.
//!
//! Events of one post come from one partition and events of one followed person from one, but different partitions are
//! written at the same time, and a post and a follow of its author meet in timelines. What keeps them right:
//! - Every change that touches an author (post, deletion, follow, unfollow, crossing the limit) locks the author's row of
//!   `tallies` before it reads the other side, and each statement sees what was committed before it. So of a post and a
//!   follow of its author the later one sees the earlier. A batch takes all its locks at once, in the order of ids.
//! - Horizons only rise, and what stands at or below one counts for nothing. A timeline row that comes late, beside
//!   another batch that raised the horizon above it, is as good as not there.
//! - A batch with an erasure passes the generation's gate alone, so that no other can be about to write clear text.
//! - Counts change only with the row that they count, in the statement's own transaction.
//!
//! [`writer`] changes the tables; [`gather`] is what a batch says of people, [`tallies`] and [`timelines`] are its parts. [`reader`]
//! answers queries with the statements of [`home`] and [`views`], [`rows`] lists everything for verification,
//! [`mend`] copies what differs from another generation.

mod erased;
mod gather;
mod home;
mod mend;
mod reader;
mod rows;
mod tallies;
mod timelines;
mod views;
mod writer;

use std::sync::Arc;

use socialhub_domain::{Clock, event::Visibility};
use socialhub_projections::{
    feed::{Feed, FeedFold},
    runtime::{Control, ModelControl},
};

use crate::postgres::model::PgGenerations;

pub use reader::PgFeedReader;
pub use writer::PgFeed;

/// The codes of visibilities in the tables.
const PUBLIC: i16 = 0;
const FOLLOWERS: i16 = 1;
const PRIVATE: i16 = 2;

fn visibility_code(visibility: Visibility) -> i16 {
    match visibility {
        Visibility::Public => PUBLIC,
        Visibility::Followers => FOLLOWERS,
        Visibility::Private => PRIVATE,
    }
}

/// What is not a known code counts as private: it must not be shown.
fn visibility_of(code: i16) -> Visibility {
    match code {
        PUBLIC => Visibility::Public,
        FOLLOWERS => Visibility::Followers,
        _ => Visibility::Private,
    }
}

/// The `feed` model in the database at a URL, for the replay command line.
///
/// # Errors
/// When the URL cannot be read.
pub fn pg_feed_control(url: &str, clock: Arc<dyn Clock>) -> sqlx::Result<Arc<dyn ModelControl>> {
    let generations = PgGenerations::<PgFeed>::open(url, Arc::clone(&clock))?;
    Ok(Arc::new(Control::<Feed, FeedFold>::new(generations, clock)))
}
