//! The rows of the table. Each prepares what it needs through the API, is measured several times, and says what it is
//! to be compared with.

mod auth;
mod beside;
mod chat;
mod reads;
mod table;
mod visible;
mod writes;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::json;

use self::table::{counted, report};
pub use self::{
    reads::{LISTS, NOTIFICATIONS, PAGE},
    table::{LimitKind, Row, needs},
};
use crate::{
    client::{BenchError, Target},
    limits::Limits,
    load::{Script, Shape, Summary, closed_loop},
    people::{Person, read_at, text_at},
    report::RowReport,
};

/// What every row is measured with.
#[derive(Debug)]
pub struct Bench {
    /// The server.
    pub target: Target,
    /// Connections, warm-up and time of a run.
    pub shape: Shape,
    /// Runs of each row.
    pub runs: usize,
    /// What names of people and rooms begin with, different for every call of the program.
    pub prefix: String,
    /// People who are there already; at least as many as there are connections.
    pub people: Vec<Person>,
    /// Somebody who waits for the read models. Nothing happens to them but a post for each wait, so their pages cost next
    /// to nothing, whatever was measured before.
    pub watcher: Person,
    /// The program that rebuilds the server's read models.
    pub rebuild_with: Option<PathBuf>,
    /// After so many seconds the rebuild is killed; none: it is seen to its end.
    pub rebuild_seconds: Option<usize>,
    /// Commands a second of the rows that measure something beside commands.
    pub commands_per_second: u32,
}

/// What a row found: the runs, and what else there is to say.
#[derive(Debug, Default)]
struct Found {
    runs: Vec<Summary>,
    note: String,
}

impl Bench {
    /// Measures a row.
    ///
    /// # Errors
    /// When its preparations fail, or no connection can be made.
    pub async fn measure(&self, row: Row, limits: &Limits) -> Result<RowReport, BenchError> {
        let found = match row {
            Row::Login => self.login().await,
            Row::VerifyDuringLogin => self.verify_during_login().await,
            Row::Verify => self.verify().await,
            Row::Post => self.post().await,
            Row::Media => self.media().await,
            Row::Like => self.like().await,
            Row::HotLike => self.hot_like().await,
            Row::Toggles => self.toggles().await,
            Row::Follow => self.follow().await,
            Row::Feed => self.feed(8, 200, 20_000).await,
            Row::FeedBig => self.feed(2, 5_000, 500_000).await,
            Row::Notifications => self.notifications().await,
            Row::Chat => self.chat().await,
            Row::ChatPaced => self.chat_paced().await,
            Row::FollowNotified => self.follow_notified().await,
            Row::BesideRebuild => self.beside_rebuild().await,
            Row::VisibleFeed | Row::VisibleNotification | Row::VisibleCount => {
                self.visible(row).await
            }
        }?;
        Ok(report(row, found, limits))
    }

    /// Runs the scripts as often as asked for and lets the read models catch up after each run.
    async fn repeat<S: Script>(&self, scripts: &mut [S]) -> Result<Found, BenchError> {
        let mut found = Found::default();
        let mut longest = Duration::ZERO;
        for _ in 0..self.runs {
            let sample = closed_loop(&self.target, self.shape, scripts).await?;
            found.runs.push(sample.summary());
            longest = longest.max(self.settle().await?);
        }
        if longest > Duration::from_millis(500) {
            found.note = format!(
                "after a run the read models needed up to {:.1} s to catch up",
                longest.as_secs_f64()
            );
        }
        Ok(found)
    }

    /// Waits until every read model has seen everything, so that no run pays for the one before it. Answers how long
    /// that took.
    async fn settle(&self) -> Result<Duration, BenchError> {
        let begin = Instant::now();
        let token = &self.watcher.token;
        let body = json!({"content": "That was that.", "visibility": "private"});
        let request = self.target.json("POST", "/posts/", Some(token), &body);
        let mut connection = self.target.connect().await?;
        let answer = connection.send(&request).await?;
        let position = answer.header("x-position").and_then(|p| p.parse().ok());
        let position = position.unwrap_or(0);
        let post = format!("/posts/{}", text_at(&answer.success()?, "/post/id")?);
        for path in [
            "/api/feed/",
            "/api/feed/trending",
            "/notify/notifications",
            &post,
        ] {
            read_at(&self.target, path, token, position).await?;
        }
        Ok(begin.elapsed())
    }

    fn with_connections(&self, connections: usize) -> Shape {
        Shape {
            connections,
            ..self.shape
        }
    }

    /// The people who act in a row with one person a connection.
    fn actors(&self) -> &[Person] {
        &self.people[..self.shape.connections]
    }
}
