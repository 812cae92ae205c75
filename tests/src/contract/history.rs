//! Legal histories of every kind of event, for the contract of read models.
//!
//! Each step is something the write side would allow, or would allow when what it knows of other streams is stale: a
//! like or a comment may follow the deletion of its post.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, SeedableRng, rngs::StdRng};
use socialhub_domain::{
    CommentId, Event, NotificationId, PostId, Timestamp, UserId,
    event::{
        CommentDeleted, Media, NotificationAllRead, NotificationDeleted, NotificationRead,
        PostCommented, PostCreated, PostDeleted, PostLiked, PostUnliked, UserErased,
        UserFollowChanged, UserFollowed, UserProfileUpdated, UserRegistered, UserUnfollowed,
        Visibility,
    },
    personal::redacted,
};
use socialhub_event_log::Position;
use socialhub_projections::notifications::About;
use uuid::Uuid;

/// Events with their places in the log, positions rising from 1.
pub type Log = Vec<(Position, Event)>;

/// A log as it reads when the keys of those whom it erases are destroyed.
pub fn as_read_afterwards(log: &Log) -> Log {
    let erased: BTreeSet<UserId> = log
        .iter()
        .filter_map(|(_, event)| match event {
            Event::UserErased(data) => Some(data.user_id),
            _ => None,
        })
        .collect();
    let read = |(position, event): &(Position, Event)| {
        (*position, redacted(event, |user| erased.contains(&user)))
    };
    log.iter().map(read).collect()
}

/// How many people there are: few, so that they meet.
pub const PEOPLE: u8 = 6;
/// How many posts there are at most.
pub const POSTS: u8 = 24;

/// A person.
pub fn user(n: u8) -> UserId {
    UserId(spread(0x1000 + u128::from(n)))
}

/// A post.
pub fn post(n: u8) -> PostId {
    PostId(spread(0x2000 + u128::from(n)))
}

/// A comment.
pub fn comment(n: u32) -> CommentId {
    CommentId(spread(0x3000 + u128::from(n)))
}

/// The same number at both ends of an id, as far apart as real ids are.
fn spread(n: u128) -> Uuid {
    Uuid::from_u128(n << 64 | n)
}

/// Somebody's username.
pub fn username(n: u8) -> String {
    format!("User{n}")
}

/// Somebody starts to follow somebody, wanting to be told of posts.
pub fn followed(follower: u8, followed: u8, timestamp: Timestamp) -> Event {
    Event::UserFollowed(UserFollowed {
        follower_id: user(follower),
        following_id: user(followed),
        follower_username: username(follower),
        notify: true,
        timestamp,
    })
}

/// Somebody who wanted to be told of posts stops following somebody.
pub fn unfollowed(follower: u8, followed: u8, timestamp: Timestamp) -> Event {
    Event::UserUnfollowed(UserUnfollowed {
        follower_id: user(follower),
        following_id: user(followed),
        follower_username: username(follower),
        notify: true,
        timestamp,
    })
}

/// Somebody writes a post.
pub fn created(n: u8, author: u8, visibility: Visibility, timestamp: Timestamp) -> Event {
    let media = Media {
        url: format!("/media/{n}"),
        content_type: "image/png".to_owned(),
        size: u64::from(n),
    };
    Event::PostCreated(PostCreated {
        post_id: post(n),
        user_id: user(author),
        username: username(author),
        content: format!("post {n}"),
        visibility,
        media: vec![media; usize::from(n % 3)],
        timestamp,
    })
}

#[derive(Debug)]
struct Written {
    author: u8,
    deleted: bool,
}

#[derive(Debug)]
struct Comment {
    post: u8,
    at: Timestamp,
    deleted: bool,
}

/// A history being written.
#[derive(Debug)]
struct History {
    rng: StdRng,
    now: i64,
    log: Log,
    registered: BTreeSet<u8>,
    erased: BTreeSet<u8>,
    /// By (follower, followed): whether the follower wants to be told.
    follows: BTreeMap<(u8, u8), bool>,
    posts: Vec<Written>,
    likes: BTreeMap<(u8, u8), Timestamp>,
    comments: Vec<Comment>,
    notifications: BTreeSet<(UserId, NotificationId)>,
}

/// The history of a seed.
pub fn history(seed: u64, steps: usize) -> Log {
    let mut history = History {
        rng: StdRng::seed_from_u64(seed),
        now: 1_767_225_600_000,
        log: Vec::new(),
        registered: BTreeSet::new(),
        erased: BTreeSet::new(),
        follows: BTreeMap::new(),
        posts: Vec::new(),
        likes: BTreeMap::new(),
        comments: Vec::new(),
        notifications: BTreeSet::new(),
    };
    for _ in 0..steps {
        history.step();
    }
    history.log
}

impl History {
    fn step(&mut self) {
        self.now += self.rng.random_range(1..40_000_000);
        let who = self.rng.random_range(0..PEOPLE);
        match self.rng.random_range(0..24) {
            0..=1 => self.profile(who),
            2..=8 => self.follow(who),
            9..=13 => self.create(who),
            14 => self.delete(),
            15..=18 => self.toggle_like(who),
            19..=20 => self.comment(who),
            21 => self.delete_comment(),
            22 => self.mark_one(),
            _ => self.mark_all(who),
        }
    }

    fn push(&mut self, event: Event) {
        let position = self.log.len() as Position + 1;
        self.log.push((position, event));
    }

    fn at(&self) -> Timestamp {
        Timestamp(self.now)
    }

    fn told(&mut self, recipient: UserId, about: &About) {
        self.notifications.insert((recipient, about.id(recipient)));
    }

    /// One of the posts, deleted ones included; none when there are none yet.
    fn some_post(&mut self) -> Option<u8> {
        let count = u8::try_from(self.posts.len()).unwrap_or(POSTS);
        (count > 0).then(|| self.rng.random_range(0..count))
    }

    fn profile(&mut self, who: u8) {
        let timestamp = self.at();
        if self.registered.insert(who) {
            return self.push(Event::UserRegistered(UserRegistered {
                user_id: user(who),
                username: username(who),
                name: format!("The {}", username(who)),
                timestamp,
            }));
        }
        // Who is erased changes nothing about themselves any more; what was under way of theirs may still come.
        if self.erased.contains(&who) {
            return;
        }
        if self.rng.random_bool(0.15) {
            self.erased.insert(who);
            let user_id = user(who);
            return self.push(Event::UserErased(UserErased { user_id, timestamp }));
        }
        let text = |rng: &mut StdRng, letter: &str| {
            let length = rng.random_range(0..3);
            rng.random_bool(0.6).then(|| letter.repeat(length))
        };
        let name = self.rng.random_bool(0.5).then(|| format!("Name {who}"));
        let bio = text(&mut self.rng, "x");
        let avatar = text(&mut self.rng, "a");
        self.push(Event::UserProfileUpdated(UserProfileUpdated {
            user_id: user(who),
            name,
            bio,
            avatar,
            timestamp,
        }));
    }

    fn follow(&mut self, who: u8) {
        let (whom, timestamp) = (self.rng.random_range(0..PEOPLE), self.at());
        if who == whom {
            return;
        }
        let (follower_id, following_id, follower_username) = (user(who), user(whom), username(who));
        let Some(had) = self.follows.get(&(who, whom)).copied() else {
            self.follows.insert((who, whom), true);
            let about = About::Follow {
                follower: follower_id,
            };
            self.told(following_id, &about);
            return self.push(followed(who, whom, timestamp));
        };
        if self.rng.random_bool(0.2) {
            self.follows.insert((who, whom), !had);
            return self.push(Event::UserFollowChanged(UserFollowChanged {
                follower_id,
                following_id,
                follower_username,
                notify: !had,
                timestamp,
            }));
        }
        self.follows.remove(&(who, whom));
        self.push(Event::UserUnfollowed(UserUnfollowed {
            follower_id,
            following_id,
            follower_username,
            notify: had,
            timestamp,
        }));
    }

    fn create(&mut self, author: u8) {
        let n = u8::try_from(self.posts.len()).unwrap_or(POSTS);
        if n == POSTS {
            return;
        }
        let visibility = match n % 5 {
            0 => Visibility::Private,
            1 => Visibility::Followers,
            _ => Visibility::Public,
        };
        self.posts.push(Written {
            author,
            deleted: false,
        });
        self.push(created(n, author, visibility, self.at()));
        let (post, author_id) = (post(n), user(author));
        let own = About::OwnPost {
            post,
            author: author_id,
        };
        self.told(author_id, &own);
        let new = About::NewPost {
            post,
            author: author_id,
        };
        let wishes: Vec<u8> = self
            .follows
            .iter()
            .filter(|((_, followed), wanted)| *followed == author && **wanted)
            .map(|((follower, _), _)| *follower)
            .collect();
        for follower in wishes {
            self.told(user(follower), &new);
        }
    }

    fn delete(&mut self) {
        let Some(n) = self.some_post() else { return };
        let written = &mut self.posts[usize::from(n)];
        if written.deleted {
            return;
        }
        written.deleted = true;
        let user_id = user(written.author);
        self.push(Event::PostDeleted(PostDeleted {
            post_id: post(n),
            user_id,
            timestamp: self.at(),
        }));
    }

    fn toggle_like(&mut self, who: u8) {
        let Some(n) = self.some_post() else { return };
        let post_author_id = user(self.posts[usize::from(n)].author);
        let (post_id, liker_id, liker_username) = (post(n), user(who), username(who));
        let timestamp = self.at();
        if let Some(original_timestamp) = self.likes.remove(&(n, who)) {
            return self.push(Event::PostUnliked(PostUnliked {
                post_id,
                post_author_id,
                liker_id,
                liker_username,
                original_timestamp,
                timestamp,
            }));
        }
        self.likes.insert((n, who), timestamp);
        let about = About::Like {
            post: post_id,
            liker: liker_id,
        };
        self.told(post_author_id, &about);
        self.push(Event::PostLiked(PostLiked {
            post_id,
            post_author_id,
            liker_id,
            liker_username,
            timestamp,
        }));
    }

    fn comment(&mut self, who: u8) {
        let Some(n) = self.some_post() else { return };
        let post_author_id = user(self.posts[usize::from(n)].author);
        let (at, comment_id) = (self.at(), comment(self.comments.len() as u32));
        self.comments.push(Comment {
            post: n,
            at,
            deleted: false,
        });
        let about = About::Comment {
            post: post(n),
            comment: comment_id,
            commenter: user(who),
        };
        self.told(post_author_id, &about);
        self.push(Event::PostCommented(PostCommented {
            post_id: post(n),
            comment_id,
            post_author_id,
            commenter_id: user(who),
            commenter_username: username(who),
            comment: format!("comment by {who}"),
            timestamp: at,
        }));
    }

    fn delete_comment(&mut self) {
        if self.comments.is_empty() {
            return;
        }
        let n = self.rng.random_range(0..self.comments.len());
        let found = &mut self.comments[n];
        if found.deleted {
            return;
        }
        found.deleted = true;
        let (n_post, original_timestamp) = (found.post, found.at);
        self.push(Event::CommentDeleted(CommentDeleted {
            post_id: post(n_post),
            comment_id: comment(n as u32),
            deleted_by: user(self.posts[usize::from(n_post)].author),
            original_timestamp,
            timestamp: self.at(),
        }));
    }

    fn mark_one(&mut self) {
        if self.notifications.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..self.notifications.len());
        let chosen = self.notifications.iter().nth(index).copied();
        let Some((user_id, notification_id)) = chosen else {
            return;
        };
        let timestamp = self.at();
        let event = if self.rng.random_bool(0.5) {
            Event::NotificationRead(NotificationRead {
                notification_id,
                user_id,
                timestamp,
            })
        } else {
            Event::NotificationDeleted(NotificationDeleted {
                notification_id,
                user_id,
                timestamp,
            })
        };
        self.push(event);
    }

    fn mark_all(&mut self, who: u8) {
        let back = self.rng.random_range(0..8);
        self.push(Event::NotificationAllRead(NotificationAllRead {
            user_id: user(who),
            up_to: (self.log.len() as Position).saturating_sub(back),
            timestamp: self.at(),
        }));
    }
}
