//! Pages of feeds and notifications.

use super::{Bench, Found};
use crate::{
    client::BenchError,
    load::Rotation,
    people::{follow_all, read_at, sign_up, write_comments, write_posts},
};

/// Notifications of the person whose page is read.
pub const NOTIFICATIONS: usize = 2_000;

/// Connections that read the list: a server that goes through all of it for each page answers no more of them in time.
pub const LISTS: usize = 8;

/// Entries of a page.
pub const PAGE: usize = 20;

impl Bench {
    /// `readers` people who all follow the same `authors`, who together wrote `posts`.
    pub(super) async fn feed(
        &self,
        readers: usize,
        authors: usize,
        posts: usize,
    ) -> Result<Found, BenchError> {
        eprintln!("  signing up {authors} authors, a bcrypt hash each");
        let prefix = format!("{}-f{authors}", self.prefix);
        let followed = sign_up(&self.target, &format!("{prefix}-a"), authors).await?;
        let readers = sign_up(&self.target, &format!("{prefix}-r"), readers).await?;
        eprintln!("  following and writing {posts} posts");
        follow_all(&self.target, &readers, &followed).await?;
        let (_, position) = write_posts(&self.target, &followed, posts).await?;
        let path = format!("/api/feed/?limit={PAGE}");
        let mut requests = Vec::new();
        for reader in &readers {
            self.expect_page(&path, &reader.token, position, "posts")
                .await?;
            requests.push(self.target.get(&path, &reader.token));
        }
        let mut scripts = Rotation::spread(requests, self.shape.connections);
        self.repeat(&mut scripts).await
    }

    pub(super) async fn notifications(&self) -> Result<Found, BenchError> {
        let (reader, others) = (&self.people[..1], &self.people[1..]);
        let (posts, _) = write_posts(&self.target, reader, 1).await?;
        let position = write_comments(&self.target, others, &posts[0], NOTIFICATIONS).await?;
        let path = format!("/notify/notifications?limit={PAGE}");
        let token = &reader[0].token;
        self.expect_page(&path, token, position, "notifications")
            .await?;
        let requests = vec![self.target.get(&path, token)];
        let mut scripts = Rotation::spread(requests, LISTS.min(self.shape.connections));
        self.repeat(&mut scripts).await
    }

    /// A page that is quick because it is empty measures nothing.
    async fn expect_page(
        &self,
        path: &str,
        token: &str,
        position: u64,
        list: &str,
    ) -> Result<(), BenchError> {
        let page = read_at(&self.target, path, token, position).await?;
        let shown = page[list].as_array().map_or(0, Vec::len);
        if shown == PAGE {
            return Ok(());
        }
        let what = format!("a page of {shown} {list} instead of {PAGE}");
        Err(BenchError::answer(what))
    }
}
