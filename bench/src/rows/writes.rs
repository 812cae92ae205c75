//! Posts, likes and follows.

use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};

use super::{Bench, Found};
use crate::{
    client::BenchError,
    load::{Rotation, Sample},
    people::{Furthest, Person, post_body, read_at, sign_up, write_posts},
    random::Random,
};

/// Bytes of the file of a post with a file.
const FILE: usize = 50_000;

/// Posts that are liked. Many, also where one at a time is: a person's likes of one post are one stream, and one that
/// was toggled hundreds of times would be measured instead of the post.
const LIKED: usize = 200;

/// One person's concurrent toggles.
const TOGGLES: usize = 500;

/// Separates the parts of a multipart body.
const BOUNDARY: &str = "bench-7d93b1f0c2";

impl Bench {
    pub(super) async fn post(&self) -> Result<Found, BenchError> {
        let requests = self.people.iter().enumerate().map(|(number, person)| {
            let token = Some(person.token.as_str());
            self.target
                .json("POST", "/posts/", token, &post_body(number))
        });
        let mut scripts = Rotation::spread(requests.collect(), self.shape.connections);
        self.repeat(&mut scripts).await
    }

    pub(super) async fn media(&self) -> Result<Found, BenchError> {
        let (kind, body) = multipart();
        let requests = self.actors().iter().map(|person| {
            let token = Some(person.token.as_str());
            self.target
                .request("POST", "/posts/", token, Some((&kind, &body)))
        });
        let mut scripts = Rotation::spread(requests.collect(), self.shape.connections);
        self.repeat(&mut scripts).await
    }

    pub(super) async fn like(&self) -> Result<Found, BenchError> {
        self.toggle_each(LIKED / self.shape.connections.max(1) + 1)
            .await
    }

    pub(super) async fn hot_like(&self) -> Result<Found, BenchError> {
        self.toggle_each(0).await
    }

    fn act(&self, person: &Person, method: &str, path: &str) -> Vec<u8> {
        self.target.request(method, path, Some(&person.token), None)
    }

    /// Each connection is one person, who likes post after post, and then takes the likes back one by one. Each begins
    /// `apart` posts after the one before: with 0 they go in step, and all that is going on falls on one post.
    async fn toggle_each(&self, apart: usize) -> Result<Found, BenchError> {
        let (posts, _) = write_posts(&self.target, &self.people, LIKED).await?;
        let lists = self.actors().iter().enumerate().map(|(index, person)| {
            let mut posts: Vec<&String> = posts.iter().collect();
            posts.rotate_left(index * apart % LIKED);
            let paths = posts.iter().map(|post| format!("/posts/{post}/like"));
            paths.map(|path| self.act(person, "POST", &path)).collect()
        });
        let mut scripts = Rotation::own(lists);
        self.repeat(&mut scripts).await
    }

    /// Each connection is one person, who follows everybody, and then unfollows everybody.
    pub(super) async fn follow(&self) -> Result<Found, BenchError> {
        let lists = self.actors().iter().map(|person| {
            let mut requests = self.with_everybody(person, "POST", "follow");
            requests.extend(self.with_everybody(person, "DELETE", "unfollow"));
            requests
        });
        let mut scripts = Rotation::own(lists);
        self.repeat(&mut scripts).await
    }

    /// What one person sends to follow, or unfollow, everybody else.
    fn with_everybody(&self, person: &Person, method: &str, verb: &str) -> Vec<Vec<u8>> {
        let others = self.people.iter().filter(|other| other.id != person.id);
        let paths = others.map(|other| format!("/users/{verb}/{}", other.id));
        paths.map(|path| self.act(person, method, &path)).collect()
    }

    /// Each connection is one person who follows everybody, once. What counts is the time until the notifications have all
    /// of it. New people for each run: of whoever follows somebody again there is nothing new to tell.
    pub(super) async fn follow_notified(&self) -> Result<Found, BenchError> {
        let mut found = Found::default();
        for run in 0..self.runs {
            let prefix = format!("{}-fn{run}", self.prefix);
            let followers = sign_up(&self.target, &prefix, self.shape.connections).await?;
            self.settle().await?;
            let begin = Instant::now();
            let (mut sample, furthest) = self.all_follow(&followers).await?;
            let token = &self.watcher.token;
            read_at(
                &self.target,
                "/notify/notifications?limit=1",
                token,
                furthest,
            )
            .await?;
            sample.elapsed = begin.elapsed();
            found.runs.push(sample.summary());
        }
        self.settle().await?;
        Ok(found)
    }

    /// Some people follow everybody, each over a connection; answers where the log stood then.
    async fn all_follow(&self, followers: &[Person]) -> Result<(Sample, u64), BenchError> {
        let acting = followers.iter().map(|person| async move {
            let mut connection = self.target.connect().await?;
            let (mut sample, mut furthest) = (Sample::default(), Furthest::default());
            for request in self.with_everybody(person, "POST", "follow") {
                let sent = Instant::now();
                let answer = connection.send(&request).await?;
                furthest.note(&answer);
                match answer.status {
                    200..300 => sample.success(sent.elapsed()),
                    status => sample.error(format!("status {status}")),
                }
            }
            Ok::<_, BenchError>((sample, furthest.0))
        });
        let (mut all, mut last) = (Sample::default(), 0);
        for (sample, furthest) in try_join_all(acting).await? {
            all.merge(sample);
            last = last.max(furthest);
        }
        Ok((all, last))
    }

    pub(super) async fn toggles(&self) -> Result<Found, BenchError> {
        let mut found = Found::default();
        let mut wrong = 0;
        for _ in 0..self.runs {
            let (sample, right) = self.toggle_at_once().await?;
            found.runs.push(sample.summary());
            wrong += usize::from(!right);
        }
        found.note = match wrong {
            0 => "the answer was right each time".to_owned(),
            wrong => format!("the answer was WRONG in {wrong} of {} runs", self.runs),
        };
        Ok(found)
    }

    /// All toggles at once, each on a connection of its own. Every other one must say that it liked, and in the end the
    /// post must not be liked.
    async fn toggle_at_once(&self) -> Result<(Sample, bool), BenchError> {
        let (posts, position) = write_posts(&self.target, &self.people[1..2], 1).await?;
        let person = &self.people[0];
        let post = format!("/posts/{}", posts[0]);
        read_at(&self.target, &post, &person.token, position).await?;
        let request = self.act(person, "POST", &format!("{post}/like"));
        let connecting = (0..TOGGLES).map(|_| self.target.connect());
        let mut connections = try_join_all(connecting).await?;
        let begin = Instant::now();
        let sending = connections.iter_mut().map(|connection| async {
            let answer = connection.send(&request).await?;
            let position = answer.header("x-position").and_then(|p| p.parse().ok());
            let liked = answer.success()?["liked"].as_bool();
            Ok::<_, BenchError>((begin.elapsed(), liked, position.unwrap_or(0_u64)))
        });
        let mut sample = Sample::default();
        let (mut likes, mut last) = (0, 0);
        for answer in join_all(sending).await {
            match answer {
                Ok((took, liked, position)) => {
                    sample.success(took);
                    likes += usize::from(liked == Some(true));
                    last = last.max(position);
                }
                Err(error) => sample.error(error.to_string()),
            }
        }
        sample.elapsed = begin.elapsed().max(Duration::from_micros(1));
        let shown = read_at(&self.target, &post, &person.token, last).await?;
        let (liked, count) = (&shown["post"]["likedByMe"], &shown["post"]["likeCount"]);
        let right = likes == TOGGLES / 2 && *liked == false && *count == 0;
        Ok((sample, right))
    }
}

/// A post with one picture, as a browser would send it.
fn multipart() -> (String, Vec<u8>) {
    let mut random = Random::new(50_000);
    let mut picture = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    while picture.len() < FILE {
        picture.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    picture.truncate(FILE);
    let mut body = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"content\"\r\n\r\nA picture\r\n--{BOUNDARY}\r\n\
         Content-Disposition: form-data; name=\"files\"; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\n"
    )
    .into_bytes();
    body.extend_from_slice(&picture);
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={BOUNDARY}"), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_multipart_body_holds_the_file() {
        let (kind, body) = multipart();
        assert!(kind.ends_with(BOUNDARY));
        assert!(body.len() > FILE && body.len() < FILE + 500);
        assert!(body.ends_with(b"--\r\n"));
    }
}
