//! Legal histories for the property tests of read models, and the ways in which they may arrive.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use proptest::prelude::*;
use rusqlite::Connection;
use socialhub_domain::{
    CommentId, Event, NotificationId, PostId, Timestamp, UserId,
    event::{
        CommentDeleted, NotificationAllRead, NotificationDeleted, NotificationRead, PostCommented,
        PostCreated, PostDeleted, PostLiked, PostUnliked, UserErased, UserFollowChanged,
        UserFollowed, UserUnfollowed, Visibility,
    },
    personal::redacted,
};
use socialhub_event_log::Position;
use socialhub_projections::{
    Projection,
    notifications::About,
    projection::Projected,
    verify::{Difference, ModelFold},
};
use uuid::Uuid;

use crate::sqlite::model::SqliteModel;

/// How many people there are.
pub(crate) const PEOPLE: u128 = 4;

pub(crate) fn user(index: u128) -> UserId {
    UserId(Uuid::from_u128(0xA000 + index % PEOPLE))
}

pub(crate) fn post(index: u128) -> PostId {
    PostId(Uuid::from_u128(0xB000 + index))
}

pub(crate) fn comment(index: u128) -> CommentId {
    CommentId(Uuid::from_u128(0xC000 + index))
}

fn name(user: UserId) -> String {
    format!("user{}", user.0.as_u128() & 0xff)
}

/// An event, its place in the log, and the stream whose order is kept.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) position: Position,
    pub(crate) stream: String,
    pub(crate) event: Event,
}

/// A history being written: each step is an action that the write side would allow, or allow when what it knows of
/// other streams is stale.
#[derive(Debug, Default)]
pub(crate) struct History {
    now: i64,
    pub(crate) entries: Vec<Entry>,
    posts: Vec<(PostId, UserId, bool)>,
    likes: HashMap<(PostId, UserId), Timestamp>,
    comments: Vec<(PostId, CommentId, Timestamp, bool)>,
    follows: BTreeMap<(UserId, UserId), bool>,
    erased: BTreeSet<UserId>,
    notifications: BTreeSet<NotificationId>,
}

impl History {
    /// The next position.
    pub(crate) fn head(&self) -> Position {
        self.entries.len() as Position
    }

    pub(crate) fn push(&mut self, stream: String, event: impl Into<Event>) -> Position {
        let position = self.head() + 1;
        self.entries.push(Entry {
            position,
            stream,
            event: event.into(),
        });
        position
    }

    fn time(&mut self, step: i64) -> Timestamp {
        self.now += step;
        Timestamp(1_767_225_600_000 + self.now)
    }

    pub(crate) fn create(&mut self, author: UserId, visibility: Visibility) -> PostId {
        let post_id = post(self.posts.len() as u128);
        let timestamp = self.time(1);
        self.posts.push((post_id, author, false));
        self.push(
            format!("post/{post_id}"),
            PostCreated {
                post_id,
                user_id: author,
                username: name(author),
                content: "hello".to_owned(),
                visibility,
                media: Vec::new(),
                timestamp,
            },
        );
        let about = About::OwnPost {
            post: post_id,
            author,
        };
        self.notifications.insert(about.id(author));
        for follower in (0..PEOPLE).map(user).filter(|other| *other != author) {
            if self.follows.get(&(follower, author)) == Some(&true) {
                let about = About::NewPost {
                    post: post_id,
                    author,
                };
                self.notifications.insert(about.id(follower));
            }
        }
        post_id
    }

    pub(crate) fn delete(&mut self, post_id: PostId) {
        let timestamp = self.time(1);
        let Some(found) = self
            .posts
            .iter_mut()
            .find(|post| post.0 == post_id && !post.2)
        else {
            return;
        };
        found.2 = true;
        let user_id = found.1;
        self.push(
            format!("post/{post_id}"),
            PostDeleted {
                post_id,
                user_id,
                timestamp,
            },
        );
    }

    fn author(&self, post_id: PostId) -> UserId {
        let found = self.posts.iter().find(|post| post.0 == post_id);
        found.map_or(user(0), |post| post.1)
    }

    /// Likes, or takes the like back.
    pub(crate) fn toggle_like(&mut self, post_id: PostId, liker: UserId) {
        let (post_author_id, timestamp) = (self.author(post_id), self.time(60_000));
        let stream = format!("reaction/{post_id}:{liker}");
        if let Some(original_timestamp) = self.likes.remove(&(post_id, liker)) {
            self.push(
                stream,
                PostUnliked {
                    post_id,
                    post_author_id,
                    liker_id: liker,
                    liker_username: name(liker),
                    original_timestamp,
                    timestamp,
                },
            );
            return;
        }
        self.likes.insert((post_id, liker), timestamp);
        self.push(
            stream,
            PostLiked {
                post_id,
                post_author_id,
                liker_id: liker,
                liker_username: name(liker),
                timestamp,
            },
        );
        let about = About::Like {
            post: post_id,
            liker,
        };
        self.notifications.insert(about.id(post_author_id));
    }

    pub(crate) fn comment(&mut self, post_id: PostId, commenter: UserId) -> CommentId {
        let (post_author_id, timestamp) = (self.author(post_id), self.time(60_000));
        let comment_id = comment(self.comments.len() as u128);
        self.comments.push((post_id, comment_id, timestamp, false));
        self.push(
            format!("comment/{comment_id}"),
            PostCommented {
                post_id,
                comment_id,
                post_author_id,
                commenter_id: commenter,
                commenter_username: name(commenter),
                comment: "nice".to_owned(),
                timestamp,
            },
        );
        let about = About::Comment {
            post: post_id,
            comment: comment_id,
            commenter,
        };
        self.notifications.insert(about.id(post_author_id));
        comment_id
    }

    pub(crate) fn delete_comment(&mut self, comment_id: CommentId) {
        let timestamp = self.time(1);
        let Some(found) = self
            .comments
            .iter_mut()
            .find(|comment| comment.1 == comment_id && !comment.3)
        else {
            return;
        };
        found.3 = true;
        let (post_id, original_timestamp) = (found.0, found.2);
        let deleted_by = self.author(post_id);
        self.push(
            format!("comment/{comment_id}"),
            CommentDeleted {
                post_id,
                comment_id,
                deleted_by,
                original_timestamp,
                timestamp,
            },
        );
    }

    /// Follows, changes the wish, or unfollows: whichever leads to the wanted state.
    pub(crate) fn follow(&mut self, follower: UserId, author: UserId, wanted: Option<bool>) {
        let timestamp = self.time(1);
        if follower == author {
            return;
        }
        let (follower_id, following_id, follower_username) = (follower, author, name(follower));
        let had = self.follows.get(&(follower, author)).copied();
        let event: Event = match (had, wanted) {
            (None, Some(notify)) => UserFollowed {
                follower_id,
                following_id,
                follower_username,
                notify,
                timestamp,
            }
            .into(),
            (Some(notify), None) => UserUnfollowed {
                follower_id,
                following_id,
                follower_username,
                notify,
                timestamp,
            }
            .into(),
            (Some(had), Some(notify)) if had != notify => UserFollowChanged {
                follower_id,
                following_id,
                follower_username,
                notify,
                timestamp,
            }
            .into(),
            _ => return,
        };
        match wanted {
            Some(notify) => self.follows.insert((follower, author), notify),
            None => self.follows.remove(&(follower, author)),
        };
        self.push(format!("follow/{follower}:{author}"), event);
        self.notifications
            .insert(About::Follow { follower }.id(author));
    }

    /// Erases somebody, once. What others know of it is stale, so their own commands may still come after it.
    pub(crate) fn erase(&mut self, user_id: UserId) {
        let timestamp = self.time(1);
        if self.erased.insert(user_id) {
            self.push(format!("user/{user_id}"), UserErased { user_id, timestamp });
        }
    }

    pub(crate) fn mark_read(&mut self, user_id: UserId, notification_id: NotificationId) {
        let timestamp = self.time(1);
        self.push(
            format!("notification/{notification_id}/read"),
            NotificationRead {
                notification_id,
                user_id,
                timestamp,
            },
        );
    }

    pub(crate) fn remove(&mut self, user_id: UserId, notification_id: NotificationId) {
        let timestamp = self.time(1);
        self.push(
            format!("notification/{notification_id}/removed"),
            NotificationDeleted {
                notification_id,
                user_id,
                timestamp,
            },
        );
    }

    pub(crate) fn read_all(&mut self, user_id: UserId, up_to: Position) {
        let timestamp = self.time(1);
        self.push(
            format!("notification/{user_id}/{}", self.head()),
            NotificationAllRead {
                user_id,
                up_to,
                timestamp,
            },
        );
    }

    /// One step chosen by numbers.
    fn step(&mut self, (action, a, b, c): (u8, u8, u8, u8)) {
        let (first, second) = (user(a.into()), user(b.into()));
        let chosen_post = post(u128::from(c) % (self.posts.len().max(1) as u128));
        self.time(i64::from(c) * 200_000);
        match action {
            0..=2 => {
                let visibility = [
                    Visibility::Public,
                    Visibility::Public,
                    Visibility::Followers,
                    Visibility::Private,
                ];
                self.create(first, visibility[usize::from(b) % 4]);
            }
            3 => self.delete(chosen_post),
            4..=8 if !self.posts.is_empty() => self.toggle_like(chosen_post, first),
            9..=10 if !self.posts.is_empty() => {
                self.comment(chosen_post, first);
            }
            11 => self.delete_comment(comment(u128::from(c) % 4)),
            12..=16 => {
                self.follow(
                    first,
                    second,
                    [Some(true), Some(true), Some(false), None][usize::from(c) % 4],
                );
            }
            17..=18 if !self.notifications.is_empty() => {
                let index = usize::from(c) % self.notifications.len();
                let id = self.notifications.iter().nth(index).copied();
                let id = id.unwrap_or(NotificationId(Uuid::nil()));
                if action == 17 {
                    self.mark_read(first, id);
                } else {
                    self.remove(first, id);
                }
            }
            19 => self.read_all(first, self.head().saturating_sub(u64::from(c) % 8)),
            20 => self.erase(first),
            _ => {}
        }
    }
}

/// A legal history of up to `length` steps.
pub(crate) fn histories(length: usize) -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec((0_u8..21, any::<u8>(), any::<u8>(), any::<u8>()), 1..length).prop_map(
        |steps| {
            let mut history = History::default();
            for step in steps {
                history.step(step);
            }
            history.entries
        },
    )
}

/// A history in another order, in which every stream keeps its own: each choice names the stream that goes next.
pub(crate) fn interleave(entries: &[Entry], choices: &[u16]) -> Vec<Entry> {
    let mut streams: Vec<(String, VecDeque<Entry>)> = Vec::new();
    for entry in entries {
        match streams.iter_mut().find(|stream| stream.0 == entry.stream) {
            Some(stream) => stream.1.push_back(entry.clone()),
            None => streams.push((entry.stream.clone(), VecDeque::from([entry.clone()]))),
        }
    }
    let mut arrived = Vec::new();
    let mut choices = choices.iter().cycle();
    while !streams.is_empty() {
        let choice = choices.next().map_or(0, |choice| usize::from(*choice));
        let index = choice % streams.len();
        arrived.extend(streams[index].1.pop_front());
        if streams[index].1.is_empty() {
            streams.remove(index);
        }
    }
    arrived
}

/// A model with its tables, in the given file or in memory.
pub(crate) fn open<M: SqliteModel>(connection: &Connection) -> M {
    connection.execute_batch(M::SCHEMA).unwrap();
    M::open(connection).unwrap()
}

/// Writes a delivery in batches of the given sizes; where the flag is set, the batch is rolled back once before.
pub(crate) fn deliver<M: SqliteModel>(
    connection: &mut Connection,
    model: &mut M,
    delivery: &[Entry],
    batches: &[(usize, bool)],
) {
    let mut rest = delivery;
    let mut plan = batches.iter().cycle();
    while !rest.is_empty() {
        let (size, fails) = plan.next().copied().unwrap_or((1, false));
        let (batch, later) = rest.split_at(size.clamp(1, rest.len()));
        rest = later;
        let projected: Vec<_> = batch
            .iter()
            .map(|entry| Projected {
                position: entry.position,
                changes: M::Projection::project(entry.position, &entry.event),
            })
            .collect();
        if fails {
            let transaction = connection.transaction().unwrap();
            model.apply(&transaction, &projected).unwrap();
            drop(transaction);
            model.rolled_back();
        }
        let transaction = connection.transaction().unwrap();
        model.apply(&transaction, &projected).unwrap();
        transaction.commit().unwrap();
    }
}

/// The fold of a history in the order of the log.
pub(crate) fn fold<F: ModelFold>(entries: &[Entry]) -> F {
    let mut fold = F::default();
    for entry in entries {
        fold.apply(entry.position, &entry.event);
    }
    fold
}

/// The log as it reads when the keys of the erased are destroyed.
pub(crate) fn as_read_afterwards(log: &[Entry]) -> Vec<Entry> {
    let erased: BTreeSet<UserId> = log
        .iter()
        .filter_map(|entry| match &entry.event {
            Event::UserErased(data) => Some(data.user_id),
            _ => None,
        })
        .collect();
    let read = |entry: &Entry| Entry {
        event: redacted(&entry.event, |user| erased.contains(&user)),
        ..entry.clone()
    };
    log.iter().map(read).collect()
}

/// Where the model, after a delivery of clear text, is not what the log says afterwards.
pub(crate) fn differences<M: SqliteModel>(
    log: &[Entry],
    delivery: &[Entry],
    batches: &[(usize, bool)],
) -> Vec<Difference> {
    let mut connection = Connection::open_in_memory().unwrap();
    let mut model = open::<M>(&connection);
    deliver(&mut connection, &mut model, delivery, batches);
    let log = as_read_afterwards(log);
    let mut rows = Vec::new();
    M::rows(&connection, &mut rows).unwrap();
    fold::<M::Fold>(&log).differences(rows)
}

/// Sizes of batches, and which are rolled back and written again.
pub(crate) fn batch_plans() -> impl Strategy<Value = Vec<(usize, bool)>> {
    prop::collection::vec((1_usize..9, prop::bool::weighted(0.2)), 1..10)
}
