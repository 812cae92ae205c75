//! From the moment a command was answered to the moment somebody else sees it, beside a steady load of commands.
//!
//! Who looks has written nothing lately and names no position, so no read waits for its model: what is measured is how
//! long a change takes through log, relay, topic and projector.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep;

use super::{Bench, Found, table::Row};
use crate::{
    client::{BenchError, Connection},
    load::{Rotation, Sample, paced},
    people::{Person, post_body, sign_up, text_at, write_posts},
};

/// Connections that the commands beside come over.
pub(super) const COMMANDERS: usize = 16;
/// Posts that are liked beside. With 64 people it takes two minutes at 250 likes a second until each has liked all.
const LIKED: usize = 512;
/// Between two looks: often enough for what takes hundreds of milliseconds, seldom enough that looking is not the load. (A look
/// at a list on FerretDB takes milliseconds of a core.)
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What has not shown by then never will.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who acts and who looks.
struct Probe<'a> {
    bench: &'a Bench,
    author: &'a Person,
    follower: &'a Person,
    reader: &'a Person,
    acting: Connection,
    looking: Connection,
}

impl Bench {
    /// `row` says where it is looked: in a follower's feed, in the author's notifications, or at a post's count.
    pub(super) async fn visible(&self, row: Row) -> Result<Found, BenchError> {
        // People of their own: nobody's posts but the author's come into the follower's feed, whatever ran before.
        // A name has thirty letters at most.
        let place = match row {
            Row::VisibleNotification => "vn",
            Row::VisibleCount => "vc",
            _ => "vf",
        };
        let prefix = format!("{}-{place}", self.prefix);
        let own = sign_up(&self.target, &prefix, 3).await?;
        let [author, follower, reader] = own.as_slice() else {
            return Err(BenchError::Usage("it needs three people".to_owned()));
        };
        let mut probe = Probe {
            bench: self,
            author,
            follower,
            reader,
            acting: self.target.connect().await?,
            looking: self.target.connect().await?,
        };
        probe.follow().await?;
        let mut scripts = self.commands(&self.people).await?;
        let mut found = Found::default();
        for _ in 0..self.runs {
            let shape = self.with_connections(COMMANDERS);
            let end = Instant::now() + shape.warm_up + shape.measured;
            let warm = Instant::now() + shape.warm_up;
            let load = paced(&self.target, shape, self.commands_per_second, &mut scripts);
            let (load, seen) = tokio::join!(load, probe.look(row, warm, end));
            let load = load?.summary();
            found.note = format!(
                "beside {:.0} commands/s, p99 {:.0} ms",
                load.rate, load.p99_ms
            );
            let mut seen = seen?.summary();
            for (what, count) in load.errors {
                *seen.errors.entry(what).or_default() += count;
            }
            found.runs.push(seen);
            self.settle().await?;
        }
        Ok(found)
    }

    /// Posts and likes in turn. Everybody likes every post once before anybody takes a like back.
    pub(super) async fn commands(&self, people: &[Person]) -> Result<Vec<Rotation>, BenchError> {
        let (posts, _) = write_posts(&self.target, people, LIKED).await?;
        let pairs = posts
            .iter()
            .flat_map(|post| people.iter().map(move |person| (post, person)));
        let requests = pairs.enumerate().flat_map(|(number, (post, person))| {
            let token = Some(person.token.as_str());
            let like = format!("/posts/{post}/like");
            [
                self.target
                    .json("POST", "/posts/", token, &post_body(number)),
                self.target.request("POST", &like, token, None),
            ]
        });
        Ok(Rotation::spread(requests.collect(), COMMANDERS))
    }
}

impl Probe<'_> {
    async fn follow(&mut self) -> Result<(), BenchError> {
        let path = format!("/users/follow/{}", self.author.id);
        let token = Some(self.follower.token.as_str());
        let follow = self.bench.target.request("POST", &path, token, None);
        self.acting.send(&follow).await?;
        self.bench.settle().await.map(|_| ())
    }

    async fn look(&mut self, row: Row, warm: Instant, end: Instant) -> Result<Sample, BenchError> {
        let mut sample = Sample::default();
        sample.elapsed = end - warm;
        while Instant::now() < end {
            let took = self.once(row).await?;
            if Instant::now() < warm {
                continue;
            }
            match took {
                Some(took) => sample.success(took),
                None => sample.error("never seen"),
            }
        }
        Ok(sample)
    }

    /// One post, and one like of it.
    async fn once(&mut self, row: Row) -> Result<Option<Duration>, BenchError> {
        let target = &self.bench.target;
        let token = Some(self.author.token.as_str());
        let write = target.json("POST", "/posts/", token, &post_body(0));
        let answer = self.acting.send(&write).await?.success()?;
        let written = Instant::now();
        let post = text_at(&answer, "/post/id")?;
        let feed = target.get("/api/feed/?limit=1", &self.follower.token);
        let first = |body: &Value| body.pointer("/posts/0/id") == Some(&Value::from(&*post));
        let Some(in_feed) = self.until(&feed, written, first).await? else {
            return Ok(None);
        };
        if row == Row::VisibleFeed {
            return Ok(Some(in_feed));
        }
        let like = format!("/posts/{post}/like");
        let like = target.request("POST", &like, Some(&self.follower.token), None);
        self.acting.send(&like).await?.success()?;
        let liked = Instant::now();
        if row == Row::VisibleNotification {
            let list = target.get("/notify/notifications?limit=1", &self.author.token);
            // There is one of the post itself, too.
            let first = |body: &Value| {
                body.pointer("/notifications/0/metadata/postId") == Some(&Value::from(&*post))
                    && body.pointer("/notifications/0/type") == Some(&Value::from("LIKE"))
            };
            return self.until(&list, liked, first).await;
        }
        let counted = target.get(&format!("/posts/{post}"), &self.reader.token);
        let one = |body: &Value| body.pointer("/post/likeCount") == Some(&Value::from(1));
        self.until(&counted, liked, one).await
    }

    /// How long after a moment an answer says what is waited for.
    async fn until(
        &mut self,
        request: &[u8],
        since: Instant,
        says: impl Fn(&Value) -> bool,
    ) -> Result<Option<Duration>, BenchError> {
        while since.elapsed() < PATIENCE {
            if says(&self.looking.send(request).await?.success()?) {
                return Ok(Some(since.elapsed()));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(None)
    }
}
