//! The plain fold of the notifications, in the order of the log.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};
use socialhub_domain::{
    Event, NotificationId, Timestamp, UserId,
    event::{PostCreated, Visibility},
    personal::ERASED_TEXT,
};
use socialhub_event_log::Position;
use uuid::Uuid;

use super::notice::{About, Notice};
use crate::verify::{ModelFold, ModelRow};

/// The kind of row that says up to where somebody has read everything.
pub const PERSON: &str = "person";
/// The kind of row that says how many notifications somebody has not read. Some stores count them when asked.
pub const UNREAD: &str = "unread";

/// The `notifications` model as the log defines it.
#[derive(Debug, Clone, Default)]
pub struct NotificationFold {
    told: HashMap<NotificationId, (Position, Notice)>,
    /// Whom each author's followers with the wish are, and since when.
    wishes: HashMap<UserId, BTreeMap<UserId, Position>>,
    erased: BTreeMap<UserId, Position>,
    /// Deleted posts and comments.
    gone: HashMap<Uuid, Position>,
    marks: HashMap<NotificationId, Marks>,
    read_up_to: HashMap<UserId, Position>,
    /// Where each person said so last.
    all_read: HashMap<UserId, Position>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Marks {
    read: bool,
    removed: bool,
    position: Position,
}

impl NotificationFold {
    fn tell(
        &mut self,
        position: Position,
        recipient: UserId,
        about: About,
        who: (&str, Timestamp),
    ) {
        if about.actor() == recipient && !matches!(about, About::OwnPost { .. }) {
            return;
        }
        let notice = Notice {
            recipient,
            about,
            username: who.0.to_owned(),
            at: who.1,
        };
        self.told
            .entry(notice.id())
            .or_insert_with(|| (position, notice));
    }

    fn wish(&mut self, position: Position, author: UserId, follower: UserId, wanted: bool) {
        let followers = self.wishes.entry(author).or_default();
        if wanted {
            followers.entry(follower).or_insert(position);
        } else {
            followers.remove(&follower);
        }
    }

    fn mark(&mut self, position: Position, id: NotificationId) -> &mut Marks {
        let marks = self.marks.entry(id).or_default();
        marks.position = position;
        marks
    }

    fn is_gone(&self, about: &About) -> bool {
        let subjects: HashSet<Uuid> = [about.post().map(|id| id.0), about.comment().map(|id| id.0)]
            .into_iter()
            .flatten()
            .collect();
        subjects.iter().any(|id| self.gone.contains_key(id))
    }

    fn announce(&mut self, position: Position, data: &PostCreated) {
        let who = (data.username.as_str(), data.timestamp);
        let (post, author) = (data.post_id, data.user_id);
        self.tell(position, author, About::OwnPost { post, author }, who);
        let followers: Vec<_> = self
            .wishes
            .get(&author)
            .map(|followers| followers.keys().copied().collect())
            .unwrap_or_default();
        for follower in followers {
            self.tell(position, follower, About::NewPost { post, author }, who);
        }
    }
}

impl ModelFold for NotificationFold {
    type Accounts = ();

    fn apply(&mut self, position: Position, event: &Event) {
        match event {
            Event::UserFollowed(data) => {
                let (follower, author) = (data.follower_id, data.following_id);
                let who = (data.follower_username.as_str(), data.timestamp);
                self.tell(position, author, About::Follow { follower }, who);
                self.wish(position, author, follower, data.notify);
            }
            Event::UserFollowChanged(data) => {
                self.wish(position, data.following_id, data.follower_id, data.notify);
            }
            Event::UserUnfollowed(data) => {
                self.wish(position, data.following_id, data.follower_id, false);
            }
            Event::PostCreated(data) if data.visibility != Visibility::Private => {
                self.announce(position, data);
            }
            Event::PostLiked(data) => {
                let (post, liker) = (data.post_id, data.liker_id);
                let who = (data.liker_username.as_str(), data.timestamp);
                self.tell(
                    position,
                    data.post_author_id,
                    About::Like { post, liker },
                    who,
                );
            }
            Event::PostCommented(data) => {
                let about = About::Comment {
                    post: data.post_id,
                    comment: data.comment_id,
                    commenter: data.commenter_id,
                };
                let who = (data.commenter_username.as_str(), data.timestamp);
                self.tell(position, data.post_author_id, about, who);
            }
            Event::UserErased(data) => {
                self.erased.insert(data.user_id, position);
            }
            Event::PostDeleted(data) => {
                self.gone.insert(data.post_id.0, position);
            }
            Event::CommentDeleted(data) => {
                self.gone.insert(data.comment_id.0, position);
            }
            Event::NotificationRead(data) => {
                self.mark(position, data.notification_id).read = true;
            }
            Event::NotificationDeleted(data) => {
                self.mark(position, data.notification_id).removed = true;
            }
            Event::NotificationAllRead(data) => {
                let up_to = self.read_up_to.entry(data.user_id).or_default();
                *up_to = (*up_to).max(data.up_to);
                self.all_read.insert(data.user_id, position);
            }
            _ => {}
        }
    }

    fn each_row(&self, (): &(), row: &mut dyn FnMut(ModelRow)) {
        self.notification_rows(row);
        self.mark_rows().for_each(&mut *row);
        self.wish_rows().for_each(&mut *row);
        let bare = |table, id: String, position: Position| ModelRow {
            table,
            key: id,
            value: json!({}).into(),
            position,
        };
        for (id, position) in &self.erased {
            row(bare("erased", id.to_string(), *position));
        }
        for (id, position) in &self.gone {
            row(bare("gone", id.to_string(), *position));
        }
    }
}

impl NotificationFold {
    /// Notifications, and what people have read.
    fn notification_rows(&self, row: &mut dyn FnMut(ModelRow)) {
        let mut unread: HashMap<UserId, u64> = HashMap::new();
        let mut counted = self.all_read.clone();
        for (id, (position, notice)) in &self.told {
            let marks = self.marks.get(id).copied().unwrap_or_default();
            let gone = self.is_gone(&notice.about);
            let up_to = self.read_up_to.get(&notice.recipient).copied();
            let read = marks.read || up_to.is_some_and(|up_to| *position <= up_to);
            if !(read || gone || marks.removed) {
                *unread.entry(notice.recipient).or_default() += 1;
            }
            let last = counted.entry(notice.recipient).or_default();
            *last = (*last).max(marks.position.max(*position));
            let mut notice = notice.clone();
            if self.erased.contains_key(&notice.about.actor()) {
                ERASED_TEXT.clone_into(&mut notice.username);
            }
            let view = notice.into_view(*position, read);
            row(ModelRow {
                table: "notification",
                key: id.to_string(),
                value: json!({
                    "view": view, "position": position, "gone": gone, "removed": marks.removed,
                })
                .into(),
                position: marks.position.max(*position),
            });
        }
        let person = |table, user: &UserId, value: Value| ModelRow {
            table,
            key: user.to_string(),
            value: value.into(),
            position: counted.get(user).copied().unwrap_or_default(),
        };
        for (user, up_to) in self.read_up_to.iter().filter(|(_, up_to)| **up_to > 0) {
            row(person(PERSON, user, json!({ "readUpTo": up_to })));
        }
        for (user, unread) in &unread {
            row(person(UNREAD, user, json!({ "unread": unread })));
        }
    }

    /// Marks that wait for their notifications.
    fn mark_rows(&self) -> impl Iterator<Item = ModelRow> {
        let waiting = self
            .marks
            .iter()
            .filter(|(id, _)| !self.told.contains_key(id));
        waiting.map(|(id, marks)| ModelRow {
            table: "mark",
            key: id.to_string(),
            value: json!({"read": marks.read, "removed": marks.removed}).into(),
            position: marks.position,
        })
    }

    fn wish_rows(&self) -> impl Iterator<Item = ModelRow> {
        self.wishes.iter().flat_map(|(author, followers)| {
            followers.iter().map(move |(follower, since)| ModelRow {
                table: "wish",
                key: format!("{author}/{follower}"),
                value: json!({"since": since}).into(),
                position: *since,
            })
        })
    }
}
