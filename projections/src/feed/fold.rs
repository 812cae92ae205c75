//! The `feed` model as a plain fold of the log: what its stores are compared with.
//!
//! Written for clarity, not speed: counts and timelines are counted afresh from what is there, never kept. Tables:
//! `person`, `erased`, `tally` (the counts of a profile), `follow`, `post`, `like`, `comment` and `timeline` (one row for
//! each post in a home feed). A store adds `horizon` (how far down a person's timeline is complete) and `merged` (whose posts are
//! merged into a feed when it is read), which say which timeline rows it need not have.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};
use socialhub_domain::{
    CommentId, Event, PostId, Timestamp, UserId,
    event::{PostCommented, PostCreated, UserProfileUpdated, Visibility},
    personal::ERASED_TEXT,
};
use socialhub_event_log::Position;
use uuid::Uuid;

use crate::verify::{Accounts, Difference, ModelFold, ModelRow};

/// The table of timeline rows.
pub const TIMELINE: &str = "timeline";
/// The table of horizons: key a user id, value a position. Only stores have it.
pub const HORIZON: &str = "horizon";
/// The table of authors merged at read: key `follower/author`. Only stores have it.
pub const MERGED: &str = "merged";
/// The table of contents that no post says it has: key a padded position. Only stores may have it, and should not.
pub const STRAY: &str = "stray";

/// The key of a timeline row: positions are padded, so that text sorts as numbers do.
pub fn timeline_key(user: UserId, position: Position) -> String {
    format!("{user}/{position:020}")
}

/// What a timeline row says.
pub fn timeline_value(post: PostId, author: UserId) -> Value {
    json!({ "post": post, "author": author })
}

/// The whole `feed` model in memory.
#[derive(Debug, Clone, Default)]
pub struct FeedFold {
    people: BTreeMap<UserId, Person>,
    /// Who is erased, and since when.
    erased: BTreeMap<UserId, Position>,
    /// By (followed, follower).
    follows: BTreeMap<(UserId, UserId), Follow>,
    posts: BTreeMap<PostId, Post>,
    likes: BTreeMap<(PostId, UserId), Like>,
    comments: BTreeMap<(PostId, CommentId), Comment>,
    /// The last event that touched a person's counts.
    counted: BTreeMap<UserId, Position>,
}

#[derive(Debug, Clone, Default)]
struct Person {
    username: Option<String>,
    name: Option<String>,
    bio: Option<String>,
    avatar: Option<String>,
    created_at: Timestamp,
    position: Position,
}

#[derive(Debug, Clone)]
struct Follow {
    /// Since when, if it is active.
    since: Option<(Position, Timestamp)>,
    position: Position,
}

#[derive(Debug, Clone, Default)]
struct Post {
    created: Option<(Position, PostCreated)>,
    deleted: bool,
    position: Position,
}

#[derive(Debug, Clone)]
struct Like {
    active: bool,
    position: Position,
}

#[derive(Debug, Clone)]
struct Comment {
    /// None once it is deleted.
    written: Option<(Position, PostCommented)>,
    position: Position,
}

impl FeedFold {
    /// The home feed of a person, newest first: `public` and `followers` posts of those they follow now.
    pub fn home(&self, viewer: UserId) -> Vec<(Position, PostId)> {
        let mut posts: Vec<_> = self
            .feed_posts()
            .filter(|(_, post)| self.is_following(viewer, post.user_id))
            .map(|(position, post)| (position, post.post_id))
            .collect();
        posts.sort_unstable_by(|left, right| right.cmp(left));
        posts
    }

    /// Whether somebody follows somebody now.
    pub fn is_following(&self, follower: UserId, followed: UserId) -> bool {
        self.follows
            .get(&(followed, follower))
            .is_some_and(|follow| follow.since.is_some())
    }

    /// Whether a timeline should have a row.
    fn expects(&self, row: &TimelineRow) -> bool {
        let post = self.posts.get(&row.post).filter(|post| !post.deleted);
        let created = post.and_then(|post| post.created.as_ref());
        created.is_some_and(|(position, post)| {
            (*position, post.user_id) == (row.position, row.author)
                && post.visibility != Visibility::Private
                && self.is_following(row.reader, row.author)
        })
    }

    /// Posts that may stand in a feed.
    fn feed_posts(&self) -> impl Iterator<Item = (Position, &PostCreated)> {
        self.live_posts()
            .filter(|(_, post)| post.visibility != Visibility::Private)
    }

    fn live_posts(&self) -> impl Iterator<Item = (Position, &PostCreated)> {
        self.posts
            .values()
            .filter(|post| !post.deleted)
            .filter_map(|post| post.created.as_ref())
            .map(|(position, post)| (*position, post))
    }

    fn update_profile(&mut self, position: Position, data: &UserProfileUpdated) {
        let person = self.people.entry(data.user_id).or_default();
        person.position = position;
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        if let Some(name) = &data.name {
            person.name = Some(name.clone());
        }
        if let Some(bio) = &data.bio {
            person.bio = given(bio);
        }
        if let Some(avatar) = &data.avatar {
            person.avatar = given(avatar);
        }
    }

    fn erase(&mut self, position: Position, user: UserId) {
        self.erased.insert(user, position);
        let person = self.people.entry(user).or_default();
        *person = Person {
            username: Some(ERASED_TEXT.to_owned()),
            name: Some(ERASED_TEXT.to_owned()),
            bio: None,
            avatar: None,
            created_at: person.created_at,
            position,
        };
    }

    /// What shows of a text that somebody wrote or is called by.
    fn shown<'t>(&self, user: UserId, text: &'t str) -> &'t str {
        if self.erased.contains_key(&user) {
            ERASED_TEXT
        } else {
            text
        }
    }

    fn follow(
        &mut self,
        position: Position,
        pair: (UserId, UserId),
        since: Option<(Position, Timestamp)>,
    ) {
        self.follows.insert(pair, Follow { since, position });
        self.counted.insert(pair.0, position);
        self.counted.insert(pair.1, position);
    }

    fn create_post(&mut self, position: Position, data: &PostCreated) {
        let post = self.posts.entry(data.post_id).or_default();
        if post.deleted || post.created.is_some() {
            return;
        }
        post.created = Some((position, data.clone()));
        post.position = position;
        self.counted.insert(data.user_id, position);
    }

    fn delete_post(&mut self, position: Position, id: PostId) {
        let post = self.posts.entry(id).or_default();
        if post.deleted {
            return;
        }
        post.deleted = true;
        post.position = position;
        if let Some((_, created)) = &post.created {
            self.counted.insert(created.user_id, position);
        }
        remove_all(&mut self.likes, id, UserId);
        remove_all(&mut self.comments, id, CommentId);
    }

    /// Notes that an event touched a post; answers whether there is anything to touch.
    fn touch(&mut self, position: Position, id: PostId) -> bool {
        let post = self.posts.entry(id).or_default();
        if !post.deleted {
            post.position = position;
        }
        !post.deleted
    }

    fn like(&mut self, position: Position, post: PostId, user: UserId, active: bool) {
        if self.touch(position, post) {
            self.likes.insert((post, user), Like { active, position });
        }
    }

    fn comment(&mut self, position: Position, data: &PostCommented) {
        let key = (data.post_id, data.comment_id);
        if !self.comments.contains_key(&key) && self.touch(position, data.post_id) {
            let written = Some((position, data.clone()));
            self.comments.insert(key, Comment { written, position });
        }
    }

    fn delete_comment(&mut self, position: Position, post: PostId, id: CommentId) {
        let gone = self
            .comments
            .get(&(post, id))
            .is_some_and(|comment| comment.written.is_none());
        if !gone && self.touch(position, post) {
            let tombstone = Comment {
                written: None,
                position,
            };
            self.comments.insert((post, id), tombstone);
        }
    }

    fn person_rows(&self) -> impl Iterator<Item = ModelRow> {
        self.people.iter().map(|(id, person)| ModelRow {
            table: "person",
            key: id.to_string(),
            value: json!({
                "username": person.username, "name": person.name, "bio": person.bio,
                "avatar": person.avatar, "createdAt": person.created_at,
            })
            .into(),
            position: person.position,
        })
    }

    fn tally_rows(&self) -> impl Iterator<Item = ModelRow> {
        let mut counts: HashMap<UserId, [u64; 3]> = HashMap::new();
        for ((followed, follower), _) in self.follows.iter().filter(|(_, f)| f.since.is_some()) {
            counts.entry(*followed).or_default()[0] += 1;
            counts.entry(*follower).or_default()[1] += 1;
        }
        for (_, post) in self.live_posts() {
            counts.entry(post.user_id).or_default()[2] += 1;
        }
        self.counted.iter().map(move |(id, position)| {
            let [followers, following, posts] = counts.get(id).copied().unwrap_or_default();
            ModelRow {
                table: "tally",
                key: id.to_string(),
                value: json!({ "followers": followers, "following": following, "posts": posts })
                    .into(),
                position: *position,
            }
        })
    }

    fn follow_rows(&self) -> impl Iterator<Item = ModelRow> {
        self.follows
            .iter()
            .map(|((followed, follower), follow)| ModelRow {
                table: "follow",
                key: format!("{followed}/{follower}"),
                value: json!({
                    "active": follow.since.is_some(),
                    "since": follow.since.map(|(position, _)| position),
                    "followedAt": follow.since.map(|(_, at)| at),
                })
                .into(),
                position: follow.position,
            })
    }

    fn post_rows(&self) -> impl Iterator<Item = ModelRow> {
        let mut counts: HashMap<PostId, [u64; 2]> = HashMap::new();
        for ((post, _), _) in self.likes.iter().filter(|(_, like)| like.active) {
            counts.entry(*post).or_default()[0] += 1;
        }
        for ((post, _), _) in self.comments.iter().filter(|(_, c)| c.written.is_some()) {
            counts.entry(*post).or_default()[1] += 1;
        }
        self.posts.iter().map(move |(id, post)| ModelRow {
            table: "post",
            key: id.to_string(),
            value: self
                .post_value(post, counts.get(id).copied().unwrap_or_default())
                .into(),
            position: post.position,
        })
    }

    fn like_rows(&self) -> impl Iterator<Item = ModelRow> {
        self.likes.iter().map(|((post, user), like)| ModelRow {
            table: "like",
            key: format!("{post}/{user}"),
            value: json!({ "active": like.active }).into(),
            position: like.position,
        })
    }

    fn comment_rows(&self) -> impl Iterator<Item = ModelRow> {
        self.comments.iter().map(|((post, id), comment)| ModelRow {
            table: "comment",
            key: format!("{post}/{id}"),
            value: comment
                .written
                .as_ref()
                .map_or(Value::Null, |(position, data)| {
                    let shown = |text| self.shown(data.commenter_id, text);
                    json!({
                        "user": data.commenter_id, "username": shown(&data.commenter_username),
                        "text": shown(&data.comment), "createdAt": data.timestamp,
                        "created": position,
                    })
                })
                .into(),
            position: comment.position,
        })
    }

    fn erased_rows(&self) -> impl Iterator<Item = ModelRow> {
        self.erased.iter().map(|(id, position)| ModelRow {
            table: "erased",
            key: id.to_string(),
            value: json!({}).into(),
            position: *position,
        })
    }

    fn post_value(&self, post: &Post, [likes, comments]: [u64; 2]) -> Value {
        if post.deleted {
            return json!({ "deleted": true });
        }
        let created = post.created.as_ref().map(|(position, data)| {
            let shown = |text| self.shown(data.user_id, text);
            let erased = self.erased.contains_key(&data.user_id);
            let media = if erased { &[][..] } else { &data.media };
            json!({
                "author": data.user_id, "username": shown(&data.username),
                "content": shown(&data.content), "visibility": data.visibility, "media": media,
                "createdAt": data.timestamp, "created": position,
            })
        });
        json!({ "post": created, "likes": likes, "comments": comments })
    }

    /// Those that a store must have.
    fn timeline_rows(&self, accounts: &FeedAccounts, row: &mut dyn FnMut(ModelRow)) {
        let mut followers: HashMap<UserId, Vec<UserId>> = HashMap::new();
        for ((followed, follower), follow) in &self.follows {
            if follow.since.is_some() {
                followers.entry(*followed).or_default().push(*follower);
            }
        }
        for (position, post) in self.feed_posts() {
            for follower in followers.get(&post.user_id).into_iter().flatten() {
                if !accounts.cover(*follower, position, post.user_id) {
                    row(ModelRow {
                        table: TIMELINE,
                        key: timeline_key(*follower, position),
                        value: timeline_value(post.post_id, post.user_id).into(),
                        position,
                    });
                }
            }
        }
    }
}

/// Removes what belongs to a post, and looks at nothing else: a log with many deletions has many likes, too.
fn remove_all<K: Ord + Copy, V>(
    rows: &mut BTreeMap<(PostId, K), V>,
    post: PostId,
    key: impl Fn(Uuid) -> K,
) {
    let of_post = (post, key(Uuid::nil()))..=(post, key(Uuid::max()));
    let gone: Vec<_> = rows.range(of_post).map(|(key, _)| *key).collect();
    for key in gone {
        rows.remove(&key);
    }
}

impl ModelFold for FeedFold {
    type Accounts = FeedAccounts;
    const POSITIONS_COUNT: bool = true;

    fn apply(&mut self, position: Position, event: &Event) {
        match event {
            Event::UserRegistered(data) => {
                let person = self.people.entry(data.user_id).or_default();
                person.username = Some(data.username.clone());
                person.name = Some(data.name.clone());
                person.created_at = data.timestamp;
                person.position = position;
            }
            Event::UserProfileUpdated(data) => self.update_profile(position, data),
            Event::UserErased(data) => self.erase(position, data.user_id),
            Event::UserFollowed(data) => {
                let since = Some((position, data.timestamp));
                self.follow(position, (data.following_id, data.follower_id), since);
            }
            Event::UserUnfollowed(data) => {
                self.follow(position, (data.following_id, data.follower_id), None);
            }
            Event::PostCreated(data) => self.create_post(position, data),
            Event::PostDeleted(data) => self.delete_post(position, data.post_id),
            Event::PostLiked(data) => self.like(position, data.post_id, data.liker_id, true),
            Event::PostUnliked(data) => self.like(position, data.post_id, data.liker_id, false),
            Event::PostCommented(data) => self.comment(position, data),
            Event::CommentDeleted(data) => {
                self.delete_comment(position, data.post_id, data.comment_id);
            }
            Event::UserFollowChanged(_)
            | Event::NotificationRead(_)
            | Event::NotificationDeleted(_)
            | Event::NotificationAllRead(_) => {}
        }
    }

    fn each_row(&self, accounts: &FeedAccounts, row: &mut dyn FnMut(ModelRow)) {
        self.person_rows()
            .chain(self.erased_rows())
            .chain(self.tally_rows())
            .chain(self.follow_rows())
            .chain(self.post_rows())
            .chain(self.like_rows())
            .chain(self.comment_rows())
            .for_each(&mut *row);
        self.timeline_rows(accounts, row);
    }

    /// Of what a timeline may leave out, whatever it has must be expected, and so must what is merged be followed.
    fn wrong_accounts(&self, accounts: FeedAccounts) -> Vec<Difference> {
        let pairs = accounts
            .merged
            .iter()
            .flat_map(|(reader, authors)| authors.iter().map(move |author| (*reader, *author)));
        let mut wrong: Vec<Difference> = pairs
            .filter(|(reader, author)| !self.is_following(*reader, *author))
            .map(|(reader, author)| Difference {
                table: MERGED,
                key: format!("{reader}/{author}"),
                expected: None,
                found: Some(json!(true)),
                position: self
                    .follows
                    .get(&(author, reader))
                    .map_or(0, |follow| follow.position),
            })
            .collect();
        wrong.extend(self.unmerged(&accounts));
        let mut unexpected = accounts
            .there
            .into_iter()
            .filter(|there| !self.expects(there))
            .peekable();
        if unexpected.peek().is_some() {
            let posts: HashMap<Position, &PostCreated> = self.feed_posts().collect();
            wrong.extend(unexpected.map(|there| {
                let post = posts.get(&there.position);
                let post = post.filter(|post| self.is_following(there.reader, post.user_id));
                Difference {
                    table: TIMELINE,
                    key: timeline_key(there.reader, there.position),
                    expected: post.map(|post| timeline_value(post.post_id, post.user_id)),
                    found: Some(timeline_value(there.post, there.author)),
                    position: there.position,
                }
            }));
        }
        wrong
    }
}

impl FeedFold {
    /// The followers who do not know that an author's posts are merged at read, where others do: they would not see them.
    fn unmerged(&self, accounts: &FeedAccounts) -> impl Iterator<Item = Difference> {
        let known = accounts.merged.iter();
        let known = known.flat_map(|(reader, authors)| authors.iter().map(move |of| (reader, of)));
        let known = known.filter(|(reader, author)| self.is_following(**reader, **author));
        let authors: HashSet<UserId> = known.map(|(_, author)| *author).collect();
        let follows = self
            .follows
            .iter()
            .filter(move |((author, reader), follow)| {
                let knows = |merged: &HashSet<UserId>| merged.contains(author);
                follow.since.is_some()
                    && authors.contains(author)
                    && !accounts.merged.get(reader).is_some_and(knows)
            });
        follows.map(|((author, reader), follow)| Difference {
            table: MERGED,
            key: format!("{reader}/{author}"),
            expected: Some(json!(true)),
            found: None,
            position: follow.position,
        })
    }
}

/// Which timeline rows a store need not have, by its own account, and which of them it has.
#[derive(Debug, Default)]
pub struct FeedAccounts {
    horizons: HashMap<UserId, Position>,
    /// By reader.
    merged: HashMap<UserId, HashSet<UserId>>,
    there: Vec<TimelineRow>,
}

/// A row of a timeline.
#[derive(Debug)]
struct TimelineRow {
    reader: UserId,
    position: Position,
    post: PostId,
    author: UserId,
}

impl TimelineRow {
    /// None when it is none, or nobody's.
    fn read(row: &ModelRow) -> Option<Self> {
        let (reader, position) = row.key.split_once('/')?;
        let value = row.value.read();
        Some(Self {
            reader: user(reader)?,
            position: position.parse().ok()?,
            post: PostId(value["post"].as_str()?.parse().ok()?),
            author: user(value["author"].as_str()?)?,
        })
    }
}

fn user(text: &str) -> Option<UserId> {
    text.parse().ok().map(UserId)
}

impl FeedAccounts {
    /// Whether a store need not have a row of a timeline.
    fn cover(&self, reader: UserId, position: Position, author: UserId) -> bool {
        self.is_below(reader, position)
            || self
                .merged
                .get(&reader)
                .is_some_and(|authors| authors.contains(&author))
    }

    fn is_below(&self, reader: UserId, position: Position) -> bool {
        self.horizons
            .get(&reader)
            .is_some_and(|horizon| position <= *horizon)
    }

    fn note(&mut self, row: &ModelRow) -> Option<()> {
        match row.table {
            HORIZON => {
                let horizon = row.value.read().as_u64()?;
                self.horizons.insert(user(&row.key)?, horizon);
            }
            MERGED => {
                let (reader, author) = row.key.split_once('/')?;
                self.merged
                    .entry(user(reader)?)
                    .or_default()
                    .insert(user(author)?);
            }
            TIMELINE => {
                let reader = user(row.key.split('/').next()?)?;
                // Whose value need not be read, as that of most.
                if !self.is_below(reader, row.position) && !self.merged.contains_key(&reader) {
                    return None;
                }
                let there = TimelineRow::read(row)?;
                if !self.cover(reader, there.position, there.author) {
                    return None;
                }
                self.there.push(there);
            }
            _ => return None,
        }
        Some(())
    }
}

/// What cannot be read is of no account.
impl Accounts for FeedAccounts {
    fn keep(&mut self, row: ModelRow) -> Option<ModelRow> {
        match self.note(&row) {
            Some(()) => None,
            None => Some(row),
        }
    }
}
