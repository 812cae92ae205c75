//! The standard mix: the history that projections and replays are measured with, here and later.
//!
//! First the network: 10,000 people sign up, and 200,000 follows give each 20 followers on average, by Zipf (the most
//! followed has thousands, the median a few). Then the mix: 10 % posts, 15 % follows, 45 % likes, 20 % comments, 10 %
//! the rest (4 % likes taken back, 2 % unfollows, 1 % each of changed profiles, deleted posts, deleted comments and
//! "all read" marks). Likes and comments fall four times out of five on one of the 1,000 newest posts. The same seed
//! always gives the same events; every stream's history is one that its aggregate could have decided.

use std::collections::HashMap;

use socialhub_domain::{
    CommentId, Event, PostId, StreamId, Timestamp, UserId,
    comment::Comment,
    event::{
        CommentDeleted, NotificationAllRead, PostCommented, PostCreated, PostDeleted, PostLiked,
        PostUnliked, UserFollowed, UserProfileUpdated, UserRegistered, UserUnfollowed, Visibility,
    },
    follow::Follow,
    notification::Inbox,
    post::Post,
    reaction::Reaction,
    user::User,
};
use uuid::{Builder, Uuid};

use crate::random::{Random, Zipf};

/// People of the network.
pub const PEOPLE: usize = 10_000;

/// Follows of the network before the mix begins.
pub const FOLLOWS: usize = 200_000;

/// Events of the network: what the mix is preceded by.
pub const NETWORK: usize = PEOPLE + FOLLOWS;

/// Posts that most likes and comments fall on.
const FRESH: usize = 1000;

/// 2026-01-01T00:00:00Z, when the history begins.
const EPOCH: i64 = 1_767_225_600_000;

/// Milliseconds from one event to the next.
const STEP: i64 = 100;

/// The network and `n` events of mix, in order.
pub fn standard_mix(seed: u64, n: usize) -> impl Iterator<Item = (StreamId, Event)> {
    let mut mix = Mix::new(seed);
    (0..NETWORK + n).map(move |index| {
        mix.tick();
        match index {
            index if index < PEOPLE => mix.sign_up(index),
            index if index < NETWORK => mix.follow(),
            _ => mix.next_event(),
        }
    })
}

#[derive(Debug, Clone, Copy)]
struct LivePost {
    id: PostId,
    author: usize,
}

#[derive(Debug, Clone, Copy)]
struct LiveComment {
    id: CommentId,
    post: LivePost,
    author: usize,
    at: Timestamp,
}

#[derive(Debug, Clone, Copy)]
struct Like {
    post: LivePost,
    liker: usize,
    at: Timestamp,
}

/// A list to draw from, and its members, so that no pair is in it twice.
#[derive(Debug)]
struct Pairs<K, V> {
    list: Vec<(K, V)>,
    places: HashMap<K, usize>,
}

impl<K: Copy + Eq + std::hash::Hash, V: Copy> Pairs<K, V> {
    fn new() -> Self {
        Self {
            list: Vec::new(),
            places: HashMap::new(),
        }
    }

    fn insert(&mut self, key: K, value: V) -> bool {
        if self.places.contains_key(&key) {
            return false;
        }
        self.places.insert(key, self.list.len());
        self.list.push((key, value));
        true
    }

    fn remove_any(&mut self, random: &mut Random) -> Option<(K, V)> {
        if self.list.is_empty() {
            return None;
        }
        let place = random.below(self.list.len());
        let (key, value) = self.list.swap_remove(place);
        self.places.remove(&key);
        if let Some((moved, _)) = self.list.get(place) {
            self.places.insert(*moved, place);
        }
        Some((key, value))
    }
}

struct Mix {
    random: Random,
    popularity: Zipf,
    now: Timestamp,
    people: Vec<UserId>,
    /// (follower, followed) and whether the follower wants to be told.
    follows: Pairs<(usize, usize), bool>,
    posts: Vec<LivePost>,
    likes: Pairs<(PostId, usize), Like>,
    comments: Vec<LiveComment>,
    /// Events so far: the position the last one will have in a fresh log.
    written: u64,
}

impl Mix {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            popularity: Zipf::new(PEOPLE),
            now: Timestamp(EPOCH),
            people: Vec::with_capacity(PEOPLE),
            follows: Pairs::new(),
            posts: Vec::new(),
            likes: Pairs::new(),
            comments: Vec::new(),
            written: 0,
        }
    }

    fn tick(&mut self) {
        self.now.0 += STEP;
        self.written += 1;
    }

    fn next_event(&mut self) -> (StreamId, Event) {
        let event = match self.random.below(100) {
            0..10 => None,
            10..25 => Some(self.follow()),
            25..70 => self.like(),
            70..90 => self.comment(),
            90..94 => self.unlike(),
            94..96 => self.unfollow(),
            96 => Some(self.change_profile()),
            97 => self.delete_post(),
            98 => self.delete_comment(),
            _ => Some(self.mark_all_read()),
        };
        // At the very beginning there is nothing to like or delete yet: then there is one post more.
        event.unwrap_or_else(|| self.post())
    }

    /// A UUIDv7 with the time of the event.
    fn id(&mut self) -> Uuid {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.random.next_u64().to_be_bytes());
        bytes[8..].copy_from_slice(&self.random.next_u64().to_be_bytes()[..2]);
        let millis = u64::try_from(self.now.0).unwrap_or(0);
        Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
    }

    fn anybody(&mut self) -> usize {
        self.random.below(self.people.len())
    }

    fn sign_up(&mut self, index: usize) -> (StreamId, Event) {
        let user_id = UserId(self.id());
        self.people.push(user_id);
        let event = UserRegistered {
            user_id,
            username: username(index),
            name: format!("Person {index}"),
            timestamp: self.now,
        };
        (User::stream(user_id), event.into())
    }

    fn follow(&mut self) -> (StreamId, Event) {
        let notify = self.random.below(10) == 0;
        let (follower, followed) = loop {
            let pair = (self.anybody(), self.popularity.draw(&mut self.random));
            if pair.0 != pair.1 && self.follows.insert(pair, notify) {
                break pair;
            }
        };
        let (follower_id, following_id) = (self.people[follower], self.people[followed]);
        let event = UserFollowed {
            follower_id,
            following_id,
            follower_username: username(follower),
            notify,
            timestamp: self.now,
        };
        (Follow::stream(follower_id, following_id), event.into())
    }

    fn unfollow(&mut self) -> Option<(StreamId, Event)> {
        let ((follower, followed), notify) = self.follows.remove_any(&mut self.random)?;
        let (follower_id, following_id) = (self.people[follower], self.people[followed]);
        let event = UserUnfollowed {
            follower_id,
            following_id,
            follower_username: username(follower),
            notify,
            timestamp: self.now,
        };
        Some((Follow::stream(follower_id, following_id), event.into()))
    }

    fn post(&mut self) -> (StreamId, Event) {
        let author = self.anybody();
        let post_id = PostId(self.id());
        let visibility = match self.random.below(20) {
            0 => Visibility::Private,
            1 | 2 => Visibility::Followers,
            _ => Visibility::Public,
        };
        self.posts.push(LivePost {
            id: post_id,
            author,
        });
        let length = 5 + self.random.below(25);
        let event = PostCreated {
            post_id,
            user_id: self.people[author],
            username: username(author),
            content: self.words(length),
            visibility,
            media: Vec::new(),
            timestamp: self.now,
        };
        (Post::stream(post_id), event.into())
    }

    fn words(&mut self, count: usize) -> String {
        const WORDS: [&str; 8] = [
            "coffee", "morning", "the", "garden", "finally", "with", "friends", "rain",
        ];
        let mut text = String::with_capacity(count * 8);
        for index in 0..count {
            if index > 0 {
                text.push(' ');
            }
            text.push_str(WORDS[self.random.below(WORDS.len())]);
        }
        text
    }

    fn some_post(&mut self) -> Option<usize> {
        let all = self.posts.len();
        if all == 0 {
            return None;
        }
        let fresh = all.min(FRESH);
        Some(if self.random.below(5) < 4 {
            all - 1 - self.random.below(fresh)
        } else {
            self.random.below(all)
        })
    }

    fn like(&mut self) -> Option<(StreamId, Event)> {
        let like = loop {
            let place = self.some_post()?;
            let like = Like {
                post: self.posts[place],
                liker: self.anybody(),
                at: self.now,
            };
            if self.likes.insert((like.post.id, like.liker), like) {
                break like;
            }
        };
        let liker_id = self.people[like.liker];
        let event = PostLiked {
            post_id: like.post.id,
            post_author_id: self.people[like.post.author],
            liker_id,
            liker_username: username(like.liker),
            timestamp: self.now,
        };
        Some((Reaction::stream(like.post.id, liker_id), event.into()))
    }

    fn unlike(&mut self) -> Option<(StreamId, Event)> {
        let (_, like) = self.likes.remove_any(&mut self.random)?;
        let liker_id = self.people[like.liker];
        let event = PostUnliked {
            post_id: like.post.id,
            post_author_id: self.people[like.post.author],
            liker_id,
            liker_username: username(like.liker),
            original_timestamp: like.at,
            timestamp: self.now,
        };
        Some((Reaction::stream(like.post.id, liker_id), event.into()))
    }

    fn comment(&mut self) -> Option<(StreamId, Event)> {
        let place = self.some_post()?;
        let comment = LiveComment {
            id: CommentId(self.id()),
            post: self.posts[place],
            author: self.anybody(),
            at: self.now,
        };
        self.comments.push(comment);
        let length = 3 + self.random.below(10);
        let event = PostCommented {
            post_id: comment.post.id,
            comment_id: comment.id,
            post_author_id: self.people[comment.post.author],
            commenter_id: self.people[comment.author],
            commenter_username: username(comment.author),
            comment: self.words(length),
            timestamp: self.now,
        };
        Some((Comment::stream(comment.id), event.into()))
    }

    fn delete_comment(&mut self) -> Option<(StreamId, Event)> {
        if self.comments.is_empty() {
            return None;
        }
        let place = self.random.below(self.comments.len());
        let comment = self.comments.swap_remove(place);
        let event = CommentDeleted {
            post_id: comment.post.id,
            comment_id: comment.id,
            deleted_by: self.people[comment.author],
            original_timestamp: comment.at,
            timestamp: self.now,
        };
        Some((Comment::stream(comment.id), event.into()))
    }

    /// A post that goes keeps the likes and comments it has; nobody likes it any more, but likes may be taken back.
    fn delete_post(&mut self) -> Option<(StreamId, Event)> {
        let place = self.some_post()?;
        let post = self.posts.remove(place);
        let event = PostDeleted {
            post_id: post.id,
            user_id: self.people[post.author],
            timestamp: self.now,
        };
        Some((Post::stream(post.id), event.into()))
    }

    fn change_profile(&mut self) -> (StreamId, Event) {
        let user_id = self.people[self.random.below(PEOPLE)];
        let event = UserProfileUpdated {
            user_id,
            name: None,
            bio: Some(self.words(8)),
            avatar: None,
            timestamp: self.now,
        };
        (User::stream(user_id), event.into())
    }

    fn mark_all_read(&mut self) -> (StreamId, Event) {
        let user_id = self.people[self.random.below(PEOPLE)];
        let event = NotificationAllRead {
            user_id,
            up_to: self.written - 1,
            timestamp: self.now,
        };
        (Inbox::stream(user_id), event.into())
    }
}

fn username(index: usize) -> String {
    format!("person{index}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use socialhub_domain::{Aggregate, event::EventData};

    use super::*;

    fn histories(n: usize) -> HashMap<StreamId, Vec<Event>> {
        let mut streams: HashMap<StreamId, Vec<Event>> = HashMap::new();
        for (stream, event) in standard_mix(7, n) {
            streams.entry(stream).or_default().push(event);
        }
        streams
    }

    #[test]
    fn the_same_seed_gives_the_same_history() {
        let take = |seed| standard_mix(seed, 5000).skip(NETWORK).collect::<Vec<_>>();
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
    }

    #[test]
    fn shares_are_as_promised() {
        let n = 50_000;
        let mut shares: BTreeMap<&str, f64> = BTreeMap::new();
        for (_, event) in standard_mix(7, n).skip(NETWORK) {
            *shares.entry(event.event_type()).or_default() += 100.0 / n as f64;
        }
        for (kind, percent) in [
            (PostCreated::TYPE, 10.0),
            (UserFollowed::TYPE, 15.0),
            (PostLiked::TYPE, 45.0),
            (PostCommented::TYPE, 20.0),
            (PostUnliked::TYPE, 4.0),
            (UserUnfollowed::TYPE, 2.0),
        ] {
            assert!((shares[kind] - percent).abs() < 1.0, "{kind}: {shares:?}");
        }
    }

    #[test]
    fn a_few_have_many_followers() {
        let mut followers: HashMap<UserId, usize> = HashMap::new();
        for (_, event) in standard_mix(7, 0) {
            if let Event::UserFollowed(follow) = event {
                *followers.entry(follow.following_id).or_default() += 1;
            }
        }
        let most = followers.values().max().copied().unwrap_or(0);
        assert_eq!(followers.values().sum::<usize>(), FOLLOWS);
        assert!((5_000..10_000).contains(&most), "{most}");
    }

    /// Each event of a stream changes the state of its aggregate, and its first one makes it.
    fn assert_legal<A: Aggregate>(history: &[Event]) {
        let mut state = A::State::default();
        for event in history {
            let before = state.clone();
            A::evolve(&mut state, event);
            assert_ne!(before, state, "{history:?}");
        }
    }

    #[test]
    fn every_stream_is_legal() {
        let streams = histories(50_000);
        for (stream, history) in &streams {
            match stream.aggregate_type.as_str() {
                Follow::TYPE => assert_legal::<Follow>(history),
                Reaction::TYPE => assert_legal::<Reaction>(history),
                Post::TYPE => assert_legal::<Post>(history),
                Comment::TYPE => assert_legal::<Comment>(history),
                Inbox::TYPE => assert_legal::<Inbox>(history),
                _ => assert!(matches!(history[0], Event::UserRegistered(_))),
            }
        }
    }
}
