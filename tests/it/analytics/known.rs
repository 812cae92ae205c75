//! Events that are known, and what the answers of the page must be for them: computed here, in another way than there.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Datelike, Days, NaiveDate, Timelike, Utc};
use serde_json::{Value, json};
use socialhub_domain::{Event, Timestamp};
use uuid::Uuid;

/// Stands in every text, name and address.
pub const SECRET: &str = "hush-hush";

/// An event in the words of the questions.
#[derive(Debug, Clone)]
pub struct Known {
    pub at: DateTime<Utc>,
    pub kind: &'static str,
    pub actor: Uuid,
    pub target: Uuid,
    pub post: Uuid,
    pub comment: Uuid,
    pub visibility: &'static str,
    pub files: usize,
}

impl Known {
    /// As the log takes it.
    pub fn event(&self) -> (Event, Timestamp) {
        let at = self.at.timestamp_millis();
        let (actor, target, post) = (self.actor, self.target, self.post);
        let name = format!("{SECRET}-{}", actor.simple());
        let file =
            json!({"url": format!("/media/{SECRET}.png"), "contentType": "image/png", "size": 7});
        let data = match self.kind {
            "user.registered" => json!({"userId": actor, "username": name, "name": name}),
            "user.profile_updated" => {
                json!({"userId": actor, "name": name, "bio": SECRET, "avatar": format!("https://{SECRET}")})
            }
            "user.followed" | "user.unfollowed" => json!({
                "followerId": actor, "followingId": target, "followerUsername": name, "notify": false,
            }),
            "post.created" => json!({
                "postId": post, "userId": actor, "username": name, "content": format!("my {SECRET} text"),
                "visibility": self.visibility, "media": vec![file; self.files],
            }),
            "post.deleted" => json!({"postId": post, "userId": actor}),
            "post.liked" => json!({
                "postId": post, "postAuthorId": target, "likerId": actor, "likerUsername": name,
            }),
            "post.unliked" => json!({
                "postId": post, "postAuthorId": target, "likerId": actor, "likerUsername": name, "originalTimestamp": at,
            }),
            "post.commented" => json!({
                "postId": post, "commentId": self.comment, "postAuthorId": target, "commenterId": actor,
                "commenterUsername": name, "comment": SECRET,
            }),
            "comment.deleted" => json!({
                "postId": post, "commentId": self.comment, "deletedBy": actor, "originalTimestamp": at,
            }),
            "notification.read" => json!({"notificationId": post, "userId": actor}),
            other => panic!("{other}"),
        };
        let mut data = data;
        data["timestamp"] = at.into();
        let event = json!({"eventType": self.kind, "data": data});
        (serde_json::from_value(event).unwrap(), Timestamp(at))
    }

    fn date(&self) -> NaiveDate {
        self.at.date_naive()
    }
}

/// Numbers that only look random.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

fn id(kind: u128, nth: u64) -> Uuid {
    Uuid::from_u128(kind << 64 | u128::from(nth) | 0x4000 << 64)
}

/// About two thousand events of forty people in six weeks, by time.
pub fn events() -> Vec<Known> {
    let mut numbers = Numbers(7);
    let begin: DateTime<Utc> = "2026-01-05T00:00:00Z".parse().unwrap();
    let blank = Known {
        at: begin,
        kind: "",
        actor: Uuid::nil(),
        target: Uuid::nil(),
        post: Uuid::nil(),
        comment: Uuid::nil(),
        visibility: "public",
        files: 0,
    };
    let mut events: Vec<Known> = Vec::new();
    let (mut people, mut posts, mut comments) = (Vec::new(), Vec::new(), Vec::new());
    let mut likes: BTreeSet<(Uuid, Uuid)> = BTreeSet::new();
    let mut follows: BTreeSet<(Uuid, Uuid)> = BTreeSet::new();
    let mut at = begin;
    for nth in 0..2000 {
        at += chrono::TimeDelta::milliseconds(numbers.below(3_500_000).cast_signed());
        let mut event = Known {
            at,
            ..blank.clone()
        };
        let choice = numbers.below(100);
        if people.len() < 2 || (people.len() < 40 && choice < 5) {
            event.actor = id(1, nth);
            event.kind = "user.registered";
            people.push(event.actor);
            events.push(event);
            continue;
        }
        // Some are more active than others.
        let reach = 1 + numbers.below(people.len() as u64);
        event.actor = people[numbers.below(reach) as usize];
        let other = people[numbers.below(people.len() as u64) as usize];
        let about = (!posts.is_empty()).then(|| posts[numbers.below(posts.len() as u64) as usize]);
        match (choice, about) {
            (..20, _) | (_, None) => {
                event.kind = "post.created";
                event.post = id(2, nth);
                event.visibility = ["public", "followers", "private"][numbers.below(3) as usize];
                event.files = numbers.below(3) as usize;
                posts.push((event.post, event.actor));
            }
            (20..60, Some((post, author))) => {
                event.kind = if likes.remove(&(post, event.actor)) {
                    "post.unliked"
                } else {
                    likes.insert((post, event.actor));
                    "post.liked"
                };
                (event.post, event.target) = (post, author);
            }
            (60..75, Some((post, author))) => {
                event.kind = "post.commented";
                event.comment = id(3, nth);
                (event.post, event.target) = (post, author);
                comments.push((event.comment, post));
            }
            (75..78, _) if !comments.is_empty() => {
                let nth = numbers.below(comments.len() as u64) as usize;
                event.kind = "comment.deleted";
                (event.comment, event.post) = comments.swap_remove(nth);
            }
            (78..95, _) if other != event.actor => {
                event.kind = if follows.remove(&(event.actor, other)) {
                    "user.unfollowed"
                } else {
                    follows.insert((event.actor, other));
                    "user.followed"
                };
                event.target = other;
            }
            (95..98, _) => event.kind = "user.profile_updated",
            _ => {
                event.kind = "notification.read";
                event.post = id(4, nth);
            }
        }
        events.push(event);
    }
    events
}

/// The answers to the questions of the page, in their order.
pub fn answers(events: &[Known]) -> Vec<Vec<Value>> {
    vec![
        active(events),
        written(events),
        top(events, "post.liked", "post.unliked"),
        top(events, "post.commented", "comment.deleted"),
        followed(events),
        waits(events),
        retention(events),
        funnel(events),
        hours(events),
        pictures(events),
    ]
}

fn active(events: &[Known]) -> Vec<Value> {
    let mut days: BTreeMap<NaiveDate, BTreeSet<Uuid>> = BTreeMap::new();
    for event in events {
        days.entry(event.date()).or_default().insert(event.actor);
    }
    days.iter()
        .map(|(day, people)| json!([day, people.len()]))
        .collect()
}

fn written(events: &[Known]) -> Vec<Value> {
    let mut found: BTreeMap<(NaiveDate, &str), usize> = BTreeMap::new();
    for event in events.iter().filter(|event| event.kind == "post.created") {
        *found.entry((event.date(), event.visibility)).or_default() += 1;
    }
    found
        .iter()
        .map(|((day, visibility), posts)| json!([day, visibility, posts]))
        .collect()
}

/// The ten with the most, by count and id.
fn first_ten(counts: BTreeMap<Uuid, i64>) -> Vec<Value> {
    let mut counts: Vec<(Uuid, i64)> = counts.into_iter().filter(|(_, count)| *count > 0).collect();
    counts.sort_by_key(|(id, count)| (-count, *id));
    counts.truncate(10);
    counts
        .iter()
        .map(|(id, count)| json!([id, count]))
        .collect()
}

fn top(events: &[Known], more: &str, less: &str) -> Vec<Value> {
    let mut counts: BTreeMap<Uuid, i64> = BTreeMap::new();
    for event in events {
        let change = i64::from(event.kind == more) - i64::from(event.kind == less);
        *counts.entry(event.post).or_default() += change;
    }
    first_ten(counts)
}

fn followed(events: &[Known]) -> Vec<Value> {
    let mut pairs = BTreeSet::new();
    for event in events {
        match event.kind {
            "user.followed" => pairs.insert((event.actor, event.target)),
            "user.unfollowed" => pairs.remove(&(event.actor, event.target)),
            _ => false,
        };
    }
    let mut counts: BTreeMap<Uuid, i64> = BTreeMap::new();
    for (_, target) in pairs {
        *counts.entry(target).or_default() += 1;
    }
    first_ten(counts)
}

fn waits(events: &[Known]) -> Vec<Value> {
    let mut written: BTreeMap<Uuid, DateTime<Utc>> = BTreeMap::new();
    let mut waits: BTreeMap<Uuid, i64> = BTreeMap::new();
    for event in events {
        if event.kind == "post.created" {
            written.insert(event.post, event.at);
        } else if event.kind == "post.liked" {
            // As DuckDB counts: borders of seconds that were passed.
            let seconds = event.at.timestamp() - written[&event.post].timestamp();
            waits.entry(event.post).or_insert(seconds);
        }
    }
    let mut sorted: Vec<i64> = waits.into_values().collect();
    sorted.sort_unstable();
    // The least value that at least half are not above.
    let median = sorted[sorted.len().div_ceil(2) - 1];
    vec![json!([written.len(), sorted.len(), median])]
}

fn week(date: NaiveDate) -> NaiveDate {
    date - Days::new(date.weekday().num_days_from_monday().into())
}

fn retention(events: &[Known]) -> Vec<Value> {
    let mut cohorts: BTreeMap<Uuid, NaiveDate> = BTreeMap::new();
    let mut found: BTreeMap<(NaiveDate, i64), BTreeSet<Uuid>> = BTreeMap::new();
    for event in events {
        if event.kind == "user.registered" {
            cohorts.insert(event.actor, week(event.date()));
        }
        let cohort = cohorts[&event.actor];
        let later = (week(event.date()) - cohort).num_weeks();
        found
            .entry((cohort, later))
            .or_default()
            .insert(event.actor);
    }
    found
        .iter()
        .map(|((cohort, later), people)| json!([cohort, later, people.len()]))
        .collect()
}

fn funnel(events: &[Known]) -> Vec<Value> {
    let who = |kind: &str| -> BTreeSet<Uuid> {
        let of_kind = events.iter().filter(|event| event.kind == kind);
        of_kind.map(|event| event.actor).collect()
    };
    let liked = events.iter().filter(|event| event.kind == "post.liked");
    let liked: BTreeSet<Uuid> = liked.map(|event| event.target).collect();
    let signed_up = who("user.registered");
    let followed: BTreeSet<Uuid> = &signed_up & &who("user.followed");
    let posted = &followed & &who("post.created");
    let was_liked = &posted & &liked;
    vec![json!([
        signed_up.len(),
        followed.len(),
        posted.len(),
        was_liked.len()
    ])]
}

fn hours(events: &[Known]) -> Vec<Value> {
    let mut hours: BTreeMap<u32, usize> = BTreeMap::new();
    for event in events {
        *hours.entry(event.at.hour()).or_default() += 1;
    }
    hours
        .iter()
        .map(|(hour, count)| json!([hour, count]))
        .collect()
}

fn pictures(events: &[Known]) -> Vec<Value> {
    let mut found: BTreeMap<bool, (usize, usize)> = BTreeMap::new();
    let with_files: BTreeMap<Uuid, bool> = events
        .iter()
        .filter(|event| event.kind == "post.created")
        .map(|event| (event.post, event.files > 0))
        .collect();
    for with in with_files.values() {
        found.entry(*with).or_default().0 += 1;
    }
    for event in events.iter().filter(|event| event.kind == "post.liked") {
        found.entry(with_files[&event.post]).or_default().1 += 1;
    }
    found
        .iter()
        .map(|(with, (posts, likes))| json!([with, posts, likes]))
        .collect()
}
