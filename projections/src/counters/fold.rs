//! The plain fold of the counters: sets of who did what, counted at the end.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::json;
use socialhub_domain::{
    CommentId, Event, PostId, Timestamp, UserId,
    event::Visibility,
    score::{COMMENT_WEIGHT, LIKE_WEIGHT, log2_contribution, log2_sum},
};
use socialhub_event_log::Position;

use crate::verify::{ModelFold, ModelRow};

/// The `counters` model as the log defines it.
#[derive(Debug, Clone, Default)]
pub struct CounterFold {
    posts: HashMap<PostId, Post>,
    people: HashMap<UserId, Person>,
}

#[derive(Debug, Clone, Default)]
struct Post {
    visibility: Option<Visibility>,
    deleted: bool,
    likes: BTreeMap<UserId, Timestamp>,
    comments: BTreeMap<CommentId, Timestamp>,
    position: Position,
}

#[derive(Debug, Clone, Default)]
struct Person {
    followers: HashSet<UserId>,
    following: HashSet<UserId>,
    posts: HashSet<PostId>,
    position: Position,
}

impl CounterFold {
    fn post(&mut self, position: Position, id: PostId) -> &mut Post {
        let post = self.posts.entry(id).or_default();
        post.position = position;
        post
    }

    fn person(&mut self, position: Position, id: UserId) -> &mut Person {
        let person = self.people.entry(id).or_default();
        person.position = position;
        person
    }
}

impl ModelFold for CounterFold {
    type Accounts = ();

    fn apply(&mut self, position: Position, event: &Event) {
        match event {
            Event::PostCreated(data) => {
                self.post(position, data.post_id).visibility = Some(data.visibility);
                let author = self.person(position, data.user_id);
                author.posts.insert(data.post_id);
            }
            Event::PostDeleted(data) => {
                self.post(position, data.post_id).deleted = true;
                let author = self.person(position, data.user_id);
                author.posts.remove(&data.post_id);
            }
            Event::PostLiked(data) => {
                let post = self.post(position, data.post_id);
                post.likes.insert(data.liker_id, data.timestamp);
            }
            Event::PostUnliked(data) => {
                let post = self.post(position, data.post_id);
                post.likes.remove(&data.liker_id);
            }
            Event::PostCommented(data) => {
                let post = self.post(position, data.post_id);
                post.comments.insert(data.comment_id, data.timestamp);
            }
            Event::CommentDeleted(data) => {
                let post = self.post(position, data.post_id);
                post.comments.remove(&data.comment_id);
            }
            Event::UserFollowed(data) => {
                let followed = self.person(position, data.following_id);
                followed.followers.insert(data.follower_id);
                let follower = self.person(position, data.follower_id);
                follower.following.insert(data.following_id);
            }
            Event::UserUnfollowed(data) => {
                let followed = self.person(position, data.following_id);
                followed.followers.remove(&data.follower_id);
                let follower = self.person(position, data.follower_id);
                follower.following.remove(&data.following_id);
            }
            _ => {}
        }
    }

    fn each_row(&self, (): &(), row: &mut dyn FnMut(ModelRow)) {
        for (id, person) in &self.people {
            row(ModelRow {
                table: "person",
                key: id.to_string(),
                value: json!({
                    "followers": person.followers.len(),
                    "following": person.following.len(),
                    "posts": person.posts.len(),
                })
                .into(),
                position: person.position,
            });
        }
        for (id, post) in &self.posts {
            row(ModelRow {
                table: "post",
                key: id.to_string(),
                position: post.position,
                value: post.value().into(),
            });
        }
    }
}

impl Post {
    fn value(&self) -> serde_json::Value {
        if self.deleted {
            return json!({"state": "deleted", "likes": 0, "comments": 0, "log2Score": null});
        }
        let state = match self.visibility {
            None => "unknown",
            Some(Visibility::Public) => "public",
            Some(_) => "restricted",
        };
        let score = (state == "public").then(|| self.score()).flatten();
        json!({
            "state": state,
            "likes": self.likes.len(),
            "comments": self.comments.len(),
            "log2Score": score,
        })
    }

    fn score(&self) -> Option<f64> {
        let likes = self.likes.values().map(|at| (*at, LIKE_WEIGHT));
        let comments = self.comments.values().map(|at| (*at, COMMENT_WEIGHT));
        log2_sum(
            likes
                .chain(comments)
                .map(|(at, weight)| log2_contribution(at, weight)),
        )
    }
}
