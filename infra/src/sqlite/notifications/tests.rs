//! The notifications against their plain fold, in any order and through failures, and each rule by name.

use proptest::prelude::*;
use rusqlite::Connection;
use serde_json::json;
use socialhub_domain::{NotificationId, PostId, UserId, event::Visibility};
use socialhub_projections::{
    notifications::{
        About, NotificationFold, NotificationKind, NotificationReader, NotificationView,
    },
    page::{PageRequest, PageStart},
    verify::{ModelFold, ModelRow},
};

use super::{
    SqliteNotificationReader, SqliteNotifications,
    history::{
        Entry, History, PEOPLE, batch_plans, deliver, differences, fold, histories, interleave,
        open, user,
    },
};
use crate::sqlite::{
    connection::{Durability, Readers, open_writer},
    generations::CurrentReaders,
    model::SqliteModel,
};

const AUTHOR: u128 = 0;
const OTHER: u128 = 1;

/// A model in a file, with a reader.
struct Model {
    connection: Connection,
    model: SqliteNotifications,
    reader: SqliteNotificationReader,
    _folder: tempfile::TempDir,
}

impl Model {
    fn after(entries: &[Entry]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notifications.db");
        let connection = open_writer(&path, Durability::Normal).unwrap();
        let model = open(&connection);
        let readers = Readers::start(&path, 1).unwrap();
        let mut model = Self {
            connection,
            model,
            reader: SqliteNotificationReader::new(CurrentReaders::fixed(readers)),
            _folder: folder,
        };
        deliver(
            &mut model.connection,
            &mut model.model,
            entries,
            &[(3, false)],
        );
        model
    }

    async fn list(&self, person: u128) -> Vec<NotificationView> {
        self.page(person, false).await.0
    }

    async fn page(&self, person: u128, unread: bool) -> (Vec<NotificationView>, u64) {
        let request = PageRequest::first(100);
        let page = self
            .reader
            .list(user(person), unread, &request)
            .await
            .unwrap();
        (page.page.items, page.unread_count)
    }

    async fn messages(&self, person: u128) -> Vec<String> {
        self.list(person)
            .await
            .into_iter()
            .map(|item| item.message)
            .collect()
    }
}

/// What a person sees, computed from the fold's rows.
fn naive(rows: &[ModelRow], person: UserId) -> Vec<(u64, NotificationId, bool)> {
    let mut seen: Vec<_> = rows
        .iter()
        .filter(|row| row.table == "notification")
        .filter(|row| row.value.read()["view"]["userId"] == json!(person))
        .filter(|row| row.value.read()["gone"] == false && row.value.read()["removed"] == false)
        .map(|row| {
            let position = row.value.read()["position"].as_u64().unwrap();
            let read = row.value.read()["view"]["read"].as_bool().unwrap();
            (position, row.key.parse().unwrap(), read)
        })
        .collect();
    seen.sort_by(|a, b| b.cmp(a));
    seen
}

async fn check_reader(model: &Model, rows: &[ModelRow]) {
    for person in (0..PEOPLE).map(user) {
        let all = naive(rows, person);
        let unread: Vec<_> = all.iter().filter(|item| !item.2).copied().collect();
        for limit in [1, 3, 50] {
            check_list(model, person, (&all, unread.len()), false, limit).await;
            check_list(model, person, (&unread, unread.len()), true, limit).await;
        }
        let after = all.get(all.len() / 2).map_or(0, |item| item.0);
        let found = model.reader.after(person, after, 2).await.unwrap();
        let expected = all.iter().rev().filter(|item| item.0 > after).take(2);
        assert!(
            found
                .iter()
                .map(|item| item.id)
                .eq(expected.map(|item| item.1))
        );
    }
    for row in rows.iter().filter(|row| row.table == "notification") {
        let hidden = row.value.read()["gone"] == true || row.value.read()["removed"] == true;
        let expected = (!hidden).then(|| {
            row.value.read()["view"]["userId"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap()
        });
        let found = model.reader.owner(row.key.parse().unwrap()).await.unwrap();
        assert_eq!(found, expected);
    }
}

/// All pages, by key and by number, give the expected list and count.
async fn check_list(
    model: &Model,
    person: UserId,
    (expected, unread): (&[(u64, NotificationId, bool)], usize),
    unread_only: bool,
    limit: usize,
) {
    let mut found = Vec::new();
    let mut request = PageRequest::first(limit);
    let mut number = 1;
    loop {
        let answer = model
            .reader
            .list(person, unread_only, &request)
            .await
            .unwrap();
        let numbered = PageRequest {
            limit,
            start: PageStart::Page(number),
        };
        let same = model
            .reader
            .list(person, unread_only, &numbered)
            .await
            .unwrap();
        assert_eq!(same, answer);
        assert_eq!(answer.unread_count, unread as u64);
        found.extend(
            answer
                .page
                .items
                .iter()
                .map(|item| (item.position, item.id, item.read)),
        );
        let Some(next) = answer.page.next else { break };
        request.start = PageStart::After(next);
        number += 1;
    }
    assert_eq!(found, expected);
}

proptest! {
    #[test]
    fn any_interleaving_ends_as_the_log_says(
        log in histories(60),
        choices in prop::collection::vec(any::<u16>(), 1..80),
        batches in batch_plans(),
    ) {
        let delivery = interleave(&log, &choices);
        let found = differences::<SqliteNotifications>(&log, &delivery, &batches);
        prop_assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn the_order_of_the_log_ends_as_the_log_says(log in histories(120), batches in batch_plans()) {
        let found = differences::<SqliteNotifications>(&log, &log, &batches);
        prop_assert!(found.is_empty(), "{found:#?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_reader_answers_what_the_fold_says(log in histories(120)) {
        let rows = fold::<NotificationFold>(&log).rows();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check_reader(&Model::after(&log), &rows));
    }
}

#[tokio::test]
async fn texts_and_metadata_are_those_of_the_contract() {
    let mut history = History::default();
    history.follow(user(OTHER), user(AUTHOR), Some(true));
    let post = history.create(user(AUTHOR), Visibility::Public);
    history.toggle_like(post, user(OTHER));
    let comment = history.comment(post, user(OTHER));
    let model = Model::after(&history.entries);

    let list = model.list(AUTHOR).await;
    let other = user(OTHER);
    let found: Vec<_> = list
        .iter()
        .map(|item| (item.kind, item.message.as_str(), item.metadata.clone()))
        .collect();
    assert_eq!(
        found,
        [
            (
                NotificationKind::Comment,
                "user1 commented on your post",
                json!({"postId": post, "commentId": comment, "commenterId": other})
            ),
            (
                NotificationKind::Like,
                "user1 liked your post",
                json!({"postId": post, "likerId": other})
            ),
            (
                NotificationKind::Post,
                "Your post is live",
                json!({"postId": post, "userId": user(AUTHOR)})
            ),
            (
                NotificationKind::Follow,
                "user1 started following you",
                json!({"followerId": other})
            ),
        ]
    );
    assert_eq!(model.messages(OTHER).await, ["user0 shared a new post"]);
    let json = serde_json::to_value(&list[0]).unwrap();
    assert_eq!(json["type"], "COMMENT");
    assert_eq!(json["read"], false);
}

#[tokio::test]
async fn nobody_is_told_of_what_they_did_themselves() {
    let mut history = History::default();
    let post = history.create(user(AUTHOR), Visibility::Public);
    history.toggle_like(post, user(AUTHOR));
    history.comment(post, user(AUTHOR));
    let model = Model::after(&history.entries);
    assert_eq!(model.messages(AUTHOR).await, ["Your post is live"]);
}

#[tokio::test]
async fn a_private_post_is_announced_to_nobody() {
    let mut history = History::default();
    history.follow(user(OTHER), user(AUTHOR), Some(true));
    history.create(user(AUTHOR), Visibility::Private);
    let model = Model::after(&history.entries);
    assert_eq!(model.messages(OTHER).await, [""; 0]);
    assert_eq!(
        model.messages(AUTHOR).await,
        ["user1 started following you"]
    );
}

#[tokio::test]
async fn a_post_for_followers_is_announced() {
    let mut history = History::default();
    history.follow(user(OTHER), user(AUTHOR), Some(true));
    history.create(user(AUTHOR), Visibility::Followers);
    let model = Model::after(&history.entries);
    assert_eq!(model.messages(OTHER).await, ["user0 shared a new post"]);
}

#[tokio::test]
async fn only_those_who_asked_at_the_time_of_the_post_are_told() {
    let mut history = History::default();
    let mut wanted = Vec::new();
    for wish in [
        None,
        Some(false),
        Some(true),
        Some(false),
        Some(true),
        None,
        Some(true),
    ] {
        history.follow(user(OTHER), user(AUTHOR), wish);
        let post = history.create(user(AUTHOR), Visibility::Public);
        if wish == Some(true) {
            wanted.push(post);
        }
    }
    // In the order of the log; all posts before all follows; all follows before all posts.
    let mut posts_first = history.entries.clone();
    posts_first.sort_by_key(|entry| entry.stream.starts_with("follow"));
    let mut follows_first = history.entries.clone();
    follows_first.sort_by_key(|entry| !entry.stream.starts_with("follow"));
    for delivery in [&history.entries, &posts_first, &follows_first] {
        let told: Vec<PostId> = Model::after(delivery)
            .list(OTHER)
            .await
            .iter()
            .rev()
            .map(|item| item.metadata["postId"].as_str().unwrap().parse().unwrap())
            .collect();
        assert_eq!(told, wanted);
    }
}

#[tokio::test]
async fn a_mark_outlives_a_correction_of_who_was_told() {
    let mut history = History::default();
    for wish in [Some(true), None, Some(true)] {
        history.follow(user(OTHER), user(AUTHOR), wish);
    }
    let (post, author) = (
        history.create(user(AUTHOR), Visibility::Public),
        user(AUTHOR),
    );
    history.mark_read(user(OTHER), About::NewPost { post, author }.id(user(OTHER)));
    // Told by the first follow, read, taken out by the unfollow, told again by the second follow.
    let delivery = [0, 3, 4, 1, 2].map(|index: usize| history.entries[index].clone());
    for delivery in [&history.entries[..], &delivery] {
        let (items, unread) = Model::after(delivery).page(OTHER, false).await;
        assert_eq!((items.len(), items[0].read, unread), (1, true, 0));
    }
}

#[tokio::test]
async fn liking_or_following_again_is_the_same_notification() {
    let mut history = History::default();
    let post = history.create(user(AUTHOR), Visibility::Public);
    for _ in 0..3 {
        history.toggle_like(post, user(OTHER));
        history.follow(user(OTHER), user(AUTHOR), Some(false));
        history.follow(user(OTHER), user(AUTHOR), None);
    }
    let model = Model::after(&history.entries);
    let expected = [
        "user1 started following you",
        "user1 liked your post",
        "Your post is live",
    ];
    assert_eq!(
        model.messages(AUTHOR).await,
        expected,
        "and unliking leaves the LIKE"
    );
}

#[tokio::test]
async fn a_removed_notification_does_not_come_back() {
    let mut history = History::default();
    let post = history.create(user(AUTHOR), Visibility::Public);
    history.toggle_like(post, user(OTHER));
    let liker = user(OTHER);
    let id = About::Like { post, liker }.id(user(AUTHOR));
    history.remove(user(AUTHOR), id);
    history.toggle_like(post, liker);
    history.toggle_like(post, liker);
    let model = Model::after(&history.entries);
    assert_eq!(model.messages(AUTHOR).await, ["Your post is live"]);
    assert_eq!(model.reader.owner(id).await.unwrap(), None);
    assert_eq!(model.page(AUTHOR, true).await.1, 1);
}

#[tokio::test]
async fn a_deleted_post_takes_its_notifications_along_whichever_comes_first() {
    let mut history = History::default();
    history.follow(user(OTHER), user(AUTHOR), Some(true));
    let post = history.create(user(AUTHOR), Visibility::Public);
    history.toggle_like(post, user(OTHER));
    history.comment(post, user(2));
    history.delete(post);
    let mut reversed = history.entries.clone();
    reversed.reverse();
    for delivery in [history.entries, reversed] {
        let model = Model::after(&delivery);
        let expected = (vec!["user1 started following you".to_owned()], 1);
        let unread = model.page(AUTHOR, true).await.1;
        assert_eq!((model.messages(AUTHOR).await, unread), expected);
        assert_eq!(model.page(OTHER, false).await, (Vec::new(), 0));
    }
}

#[tokio::test]
async fn a_deleted_comment_takes_only_its_own_notification_along() {
    let mut history = History::default();
    let post = history.create(user(AUTHOR), Visibility::Public);
    let first = history.comment(post, user(OTHER));
    history.comment(post, user(2));
    history.delete_comment(first);
    let mut reversed = history.entries.clone();
    reversed.reverse();
    for delivery in [history.entries, reversed] {
        let model = Model::after(&delivery);
        let expected = ["user2 commented on your post", "Your post is live"];
        assert_eq!(model.messages(AUTHOR).await, expected);
    }
}

#[tokio::test]
async fn marks_before_their_notification_wait_for_it() {
    let mut history = History::default();
    history.follow(user(1), user(AUTHOR), Some(false));
    history.follow(user(2), user(AUTHOR), Some(false));
    history.follow(user(3), user(AUTHOR), Some(false));
    let id = |follower| {
        About::Follow {
            follower: user(follower),
        }
        .id(user(AUTHOR))
    };
    history.mark_read(user(AUTHOR), id(1));
    history.remove(user(AUTHOR), id(2));
    let mut reversed = history.entries.clone();
    reversed.reverse();
    for delivery in [history.entries, reversed] {
        let model = Model::after(&delivery);
        let (items, unread) = model.page(AUTHOR, false).await;
        let found: Vec<_> = items.iter().map(|item| (item.id, item.read)).collect();
        assert_eq!(found, [(id(3), false), (id(1), true)]);
        assert_eq!(unread, 1);
        assert_eq!(model.reader.owner(id(1)).await.unwrap(), Some(user(AUTHOR)));
        assert_eq!(model.reader.owner(id(2)).await.unwrap(), None);
    }
}

#[tokio::test]
async fn all_read_ends_at_its_position_and_holds_for_what_comes_late() {
    let mut history = History::default();
    history.follow(user(1), user(AUTHOR), Some(false));
    history.follow(user(2), user(AUTHOR), Some(false));
    history.follow(user(3), user(AUTHOR), Some(false));
    history.read_all(user(AUTHOR), 2);
    let mut reversed = history.entries.clone();
    reversed.reverse();
    for delivery in [history.entries, reversed] {
        let model = Model::after(&delivery);
        let (items, unread) = model.page(AUTHOR, true).await;
        assert_eq!((items.len(), unread), (1, 1));
        assert_eq!(items[0].position, 3);
        let read: Vec<_> = model
            .list(AUTHOR)
            .await
            .iter()
            .map(|item| item.read)
            .collect();
        assert_eq!(read, [false, true, true]);
    }
}

#[tokio::test]
async fn an_unparsable_key_answers_the_first_page() {
    let mut history = History::default();
    history.create(user(AUTHOR), Visibility::Public);
    let model = Model::after(&history.entries);
    for key in ["", "x", "-1", "99999999999999999999999"] {
        let request = PageRequest {
            limit: 5,
            start: PageStart::After(key.to_owned()),
        };
        let page = model
            .reader
            .list(user(AUTHOR), false, &request)
            .await
            .unwrap();
        assert_eq!(page.page.items.len(), 1, "{key}");
    }
}

#[tokio::test]
async fn marks_tombstones_and_wishes_are_rows_too() {
    let mut history = History::default();
    history.follow(user(OTHER), user(AUTHOR), Some(true));
    let post = history.create(user(AUTHOR), Visibility::Public);
    history.delete(post);
    history.mark_read(user(AUTHOR), NotificationId(uuid::Uuid::nil()));
    history.erase(user(OTHER));
    let model = Model::after(&history.entries);
    let mut rows = Vec::new();
    SqliteNotifications::rows(&model.connection, &mut rows).unwrap();
    let tables: std::collections::BTreeSet<_> = rows.iter().map(|row| row.table).collect();
    let expected = ["erased", "gone", "mark", "notification", "unread", "wish"];
    assert!(tables.into_iter().eq(expected));
}
