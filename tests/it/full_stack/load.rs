//! People who write without a pause, each command under its key until it is answered, and who know what they were told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};
use socialhub_tests::support::{Answer, Client, server::PATIENCE};
use tokio::{task::JoinHandle, time::Instant};

use super::{eventually, follow};

/// How many write at once.
const WRITERS: usize = 4;

/// Between two rounds of a writer: the machine shall not be busy with us alone.
const BREATH: Duration = Duration::from_millis(400);

/// What all writers share.
#[derive(Default)]
struct Common {
    stop: AtomicBool,
    answered: AtomicU64,
    refused: AtomicU64,
    /// Refused or not, nobody knows.
    left_open: AtomicU64,
    /// How long the slowest answer took, and which it was.
    longest: Mutex<(Duration, String)>,
    posts: Mutex<Vec<String>>,
}

impl Common {
    fn answer(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    fn refuse(&self, certainly: bool) {
        let open = u64::from(!certainly);
        self.left_open.fetch_add(open, Ordering::Relaxed);
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn took(&self, begun: Instant, what: &str) {
        let (took, mut longest) = (begun.elapsed(), self.longest.lock().unwrap());
        if took > longest.0 {
            *longest = (took, what.to_owned());
        }
    }
}

/// A running load.
pub struct Load {
    common: Arc<Common>,
    writers: Vec<JoinHandle<Written>>,
    people: Vec<Client>,
    reader: Client,
}

/// What one writer was told is done.
struct Written {
    person: Client,
    posts: Vec<String>,
    liked: Vec<String>,
    /// Comment and post.
    comments: Vec<(String, String)>,
    following: BTreeSet<String>,
}

/// What all were told is done.
pub struct Done {
    reader: Client,
    written: Vec<Written>,
}

impl Load {
    /// Starts the writers; one more person follows them all.
    pub async fn start(client: &Client) -> Self {
        let mut people = Vec::new();
        for _ in 0..WRITERS {
            people.push(client.sign_up("writer").await);
        }
        let reader = client.sign_up("reader").await;
        for person in &people {
            follow(&reader, person).await;
        }
        let common = Arc::new(Common::default());
        let writers = people
            .iter()
            .map(|person| {
                let others = people.iter().filter(|other| other.id != person.id);
                let others = others.map(|other| other.id.clone()).collect();
                tokio::spawn(write_until(person.clone(), others, Arc::clone(&common)))
            })
            .collect();
        Self {
            common,
            writers,
            people,
            reader,
        }
    }

    /// Somebody who writes.
    pub fn person(&self) -> &Client {
        &self.people[0]
    }

    /// Who follows all.
    pub fn reader(&self) -> &Client {
        &self.reader
    }

    /// Waits until so many more commands were answered.
    #[track_caller]
    pub fn goes_on(&self, count: u64) -> impl Future<Output = ()> + '_ {
        self.passes("commands are answered", count, |common| &common.answered)
    }

    /// Waits until so many more commands were refused or left open.
    #[track_caller]
    pub fn is_refused(&self, count: u64) -> impl Future<Output = ()> + '_ {
        self.passes("commands are refused", count, |common| &common.refused)
    }

    /// How many commands were refused or left open so far.
    pub fn refused(&self) -> u64 {
        self.common.refused.load(Ordering::Relaxed)
    }

    /// How many of those were left open.
    pub fn left_open(&self) -> u64 {
        self.common.left_open.load(Ordering::Relaxed)
    }

    /// The slowest answer since this was asked last.
    pub fn longest(&self) -> (Duration, String) {
        std::mem::take(&mut *self.common.longest.lock().unwrap())
    }

    #[track_caller]
    fn passes(
        &self,
        what: &'static str,
        count: u64,
        counter: fn(&Common) -> &AtomicU64,
    ) -> impl Future<Output = ()> + '_ {
        let wanted = counter(&self.common).load(Ordering::Relaxed) + count;
        eventually(what, move || {
            let ended = self.writers.iter().any(JoinHandle::is_finished);
            assert!(!ended, "a writer has given up: see above");
            let there = counter(&self.common).load(Ordering::Relaxed) >= wanted;
            async move { there.then_some(()) }
        })
    }

    /// Lets each writer finish its round.
    pub async fn end(self) -> Done {
        self.common.stop.store(true, Ordering::Relaxed);
        let mut written = Vec::new();
        for writer in self.writers {
            match writer.await {
                Ok(done) => written.push(done),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        Done {
            reader: self.reader,
            written,
        }
    }
}

/// One writer: a post, a like and a comment of the next post that nobody of them has met yet, a follow or its end.
async fn write_until(person: Client, others: Vec<String>, common: Arc<Common>) -> Written {
    let mut written = Written {
        person,
        posts: Vec::new(),
        liked: Vec::new(),
        comments: Vec::new(),
        following: BTreeSet::new(),
    };
    for round in 0.. {
        if common.stop.load(Ordering::Relaxed) {
            break;
        }
        written.round(round, &others, &common).await;
        tokio::time::sleep(BREATH).await;
    }
    written
}

impl Written {
    async fn round(&mut self, round: usize, others: &[String], common: &Common) {
        let body = json!({ "content": format!("round {round} of {}", self.person.username) });
        let key = format!("{}-{round}-post", self.person.username);
        let post = insist(&self.person, common, "/posts/", &key, &body)
            .await
            .text("/post/id")
            .to_owned();
        self.posts.push(post.clone());
        common.posts.lock().unwrap().push(post);

        let met = common.posts.lock().unwrap().get(round).cloned();
        let met = met.unwrap_or_else(|| self.posts[round].clone());
        if !self.liked.contains(&met) {
            let key = format!("{}-{round}-like", self.person.username);
            let path = format!("/posts/{met}/like");
            // Done twice, this one would take itself back.
            let answer = insist(&self.person, common, &path, &key, &json!({})).await;
            assert_eq!(answer.at("/liked"), true, "{}", answer.json);
            self.liked.push(met.clone());
        }
        let key = format!("{}-{round}-comment", self.person.username);
        let path = format!("/posts/{met}/comment");
        let body = json!({ "comment": format!("comment {round}") });
        let answer = insist(&self.person, common, &path, &key, &body).await;
        let comment = answer.text("/comment/id").to_owned();
        self.comments.push((comment, met));

        let other = &others[round % others.len()];
        if self.following.remove(other) {
            unfollow(&self.person, common, other).await;
        } else {
            let key = format!("{}-{round}-follow", self.person.username);
            let path = format!("/users/follow/{other}");
            insist(&self.person, common, &path, &key, &json!({})).await;
            self.following.insert(other.clone());
        }
    }
}

/// Sends a command under its key until it is answered.
async fn insist(person: &Client, common: &Common, path: &str, key: &str, body: &Value) -> Answer {
    let give_up = Instant::now() + PATIENCE;
    let mut last = String::new();
    while Instant::now() < give_up {
        let begun = Instant::now();
        let answer = person.try_post_with_key(path, key, body).await;
        common.took(begun, path);
        let certainly = answer.as_ref().is_some_and(|it| it.status != 504);
        match answer {
            Some(answer) if answer.status < 300 => {
                common.answer();
                return answer;
            }
            Some(answer) => last = refused(&answer, &format!("POST {path} ({key})")),
            None => "the connection broke".clone_into(&mut last),
        }
        common.refuse(certainly);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{path} ({key}) was not answered; the last was: {last}");
}

/// Ends a follow. There is no key for it: that it has ended already may be the answer to an attempt before.
async fn unfollow(person: &Client, common: &Common, other: &str) {
    let give_up = Instant::now() + PATIENCE;
    let path = format!("/users/unfollow/{other}");
    let (mut open, mut last) = (false, String::new());
    while Instant::now() < give_up {
        let begun = Instant::now();
        let sent = person.request(Method::DELETE, &path).send().await;
        common.took(begun, &path);
        match sent.map(|response| response.status().as_u16()) {
            Ok(200) => return common.answer(),
            Ok(400) if open => return common.answer(),
            // A 503 says that it was not done.
            Ok(503) => "503".clone_into(&mut last),
            Ok(504) | Err(_) => {
                open = true;
                "no answer".clone_into(&mut last);
            }
            Ok(other) => panic!("DELETE {path}: {other}"),
        }
        common.refuse(last == "503");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{path} was not answered; the last was: {last}");
}

/// Checks that a refusal is one that lets a client ask again.
fn refused(answer: &Answer, what: &str) -> String {
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    match answer.status {
        503 => {
            let after = answer.header("retry-after");
            assert!(after.parse::<u64>().is_ok(), "{what}: {after:?}: {text}");
        }
        504 => assert_eq!(answer.at("/error"), "outcome unknown", "{what}: {text}"),
        409 => {}
        status => panic!("{what}: {status} {text}"),
    }
    assert_eq!(answer.at("/status"), answer.status, "{what}: {text}");
    format!("{} {text}", answer.status)
}

impl Done {
    /// Reads everything back through the public contract: what was acknowledged is there, once, and nothing else.
    pub async fn check(&self) {
        let (mut likes, mut comments) = (BTreeMap::new(), BTreeMap::new());
        for one in &self.written {
            for post in &one.liked {
                *likes.entry(post.as_str()).or_insert(0_u64) += 1;
            }
            for (comment, post) in &one.comments {
                let of_post: &mut BTreeSet<_> = comments.entry(post.as_str()).or_default();
                of_post.insert(comment.clone());
            }
        }
        let mut every_post = Vec::new();
        for one in &self.written {
            every_post.extend(one.posts.clone());
            self.check_person(one).await;
        }
        // While the counters are away something stands in for them, and says so.
        let trending = self.reader.get("/api/feed/trending").await;
        assert!(!trending.expect_status(200).is_stale(), "scores");
        let feed = ids(&self.reader, "/api/feed/?limit=100", "posts").await;
        same("the reader's feed", feed, every_post.clone());
        stream::iter(every_post)
            .map(Ok::<_, ()>)
            .try_for_each_concurrent(8, |post| {
                let likes = likes.get(post.as_str()).copied().unwrap_or_default();
                let comments = comments.get(post.as_str()).cloned().unwrap_or_default();
                async move {
                    self.check_post(&post, likes, comments).await;
                    Ok(())
                }
            })
            .await
            .unwrap();
    }

    async fn check_person(&self, one: &Written) {
        let (me, id) = (&one.person, &one.person.id);
        let name = &one.person.username;
        let posts = ids(me, &format!("/posts/user/{id}?limit=100"), "posts").await;
        same(&format!("the posts of {name}"), posts, one.posts.clone());
        let page = format!("/users/following/{id}?limit=100");
        let following = ids(me, &page, "following").await;
        let wanted = one.following.iter().cloned().collect();
        same(&format!("whom {name} follows"), following, wanted);
        let profile = me.get(&format!("/users/profile/{id}")).await;
        let profile = profile.expect_status(200);
        assert_eq!(profile.at("/user/postsCount"), one.posts.len(), "{name}");
        let mut followed = Vec::new();
        for other in &self.written {
            if one.following.contains(&other.person.id) {
                followed.extend(other.posts.clone());
            }
        }
        let feed = ids(me, "/api/feed/?limit=100", "posts").await;
        same(&format!("the feed of {name}"), feed, followed);
    }

    async fn check_post(&self, post: &str, likes: u64, comments: BTreeSet<String>) {
        let seen = self.reader.get(&format!("/posts/{post}")).await;
        let seen = seen.expect_status(200);
        assert_eq!(seen.at("/post/likeCount"), likes, "likes of {post}");
        let counted = seen.at("/post/commentCount");
        assert_eq!(counted, comments.len(), "comments of {post}");
        let page = format!("/posts/{post}/comments?limit=100");
        let found = ids(&self.reader, &page, "comments").await;
        let wanted = comments.into_iter().collect();
        same(&format!("the comments of {post}"), found, wanted);
    }
}

/// The ids of every page of a list.
pub async fn ids(reader: &Client, first: &str, items: &str) -> Vec<String> {
    let (mut found, mut next) = (Vec::new(), first.to_owned());
    loop {
        let page = reader.get_as_is(&next).await.expect_status(200);
        let list = page.list(&format!("/{items}"));
        found.extend(
            list.iter()
                .map(|one| one["id"].as_str().unwrap().to_owned()),
        );
        match page.at("/nextCursor").as_str() {
            Some(cursor) => next = format!("{first}&cursor={cursor}"),
            None => return found,
        }
    }
}

/// The same ids, each once.
fn same(what: &str, mut found: Vec<String>, mut wanted: Vec<String>) {
    found.sort();
    wanted.sort();
    let lost: Vec<_> = wanted.iter().filter(|id| !found.contains(id)).collect();
    let more: Vec<_> = found.iter().filter(|id| !wanted.contains(id)).collect();
    assert!(
        found == wanted,
        "{what}: {} found, {} wanted; lost {lost:?}, too many {more:?}",
        found.len(),
        wanted.len()
    );
}
