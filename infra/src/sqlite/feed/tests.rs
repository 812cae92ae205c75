//! The model against its plain fold, for any history in any order; and what its queries answer.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*};
use rusqlite::Connection;
use serde_json::json;
use socialhub_domain::{
    CommentId, Event, PostId, Timestamp, UserId,
    event::{
        CommentDeleted, Media, PostCommented, PostCreated, PostDeleted, PostLiked, PostUnliked,
        UserErased, UserFollowed, UserProfileUpdated, UserRegistered, UserUnfollowed, Visibility,
    },
    personal::redacted,
};
use socialhub_event_log::Position;
use socialhub_projections::{
    PageRequest, Projection,
    feed::{Feed, FeedChange, FeedFold, FeedReader},
    page::PageStart,
    projection::Projected,
    verify::{ModelFold, ModelRow, sort},
};
use uuid::Uuid;

use super::{FeedLimits, SqliteFeed, SqliteFeedReader, reader};
use crate::sqlite::{
    connection::{Durability, Readers, open_writer},
    generations::CurrentReaders,
    model::SqliteModel,
};

const USERS: u8 = 6;
const POSTS: u8 = 24;

fn user(n: u8) -> UserId {
    UserId(Uuid::from_u128(0x1000 + u128::from(n)))
}

fn post(n: u8) -> PostId {
    PostId(Uuid::from_u128(0x2000 + u128::from(n)))
}

fn comment(post: u8, n: u8) -> CommentId {
    CommentId(Uuid::from_u128(
        0x3000 + u128::from(post) * 16 + u128::from(n),
    ))
}

fn author(post: u8) -> u8 {
    post % USERS
}

/// One step of one stream. Which event it is depends on how far the stream is, so that every history is legal.
#[derive(Debug, Clone, Copy)]
enum Step {
    Person(u8),
    Erase(u8),
    Follow(u8, u8),
    Post(u8),
    Delete(u8),
    React(u8, u8),
    Comment(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..USERS).prop_map(Step::Person),
        1 => (0..USERS).prop_map(Step::Erase),
        5 => (0..USERS, 0..USERS).prop_map(|(a, b)| Step::Follow(a, b)),
        6 => (0..POSTS).prop_map(Step::Post),
        1 => (0..POSTS).prop_map(Step::Delete),
        3 => (0..POSTS, 0..USERS).prop_map(|(p, u)| Step::React(p, u)),
        2 => (0..POSTS, 0..4u8).prop_map(|(p, c)| Step::Comment(p, c)),
    ]
}

/// Turns steps into events, each stream in its own order.
fn history(steps: &[Step]) -> Vec<Event> {
    let mut versions: BTreeMap<String, u32> = BTreeMap::new();
    let mut events = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let stream = match step {
            Step::Post(n) | Step::Delete(n) => format!("Post({n})"),
            Step::Follow(a, b) if a == b => continue,
            // One stream: first they register, last they are erased.
            Step::Person(n) | Step::Erase(n) => format!("Person({n})"),
            other => format!("{other:?}"),
        };
        let version = versions.entry(stream).or_default();
        if let Some(event) = next_event(*step, *version, Timestamp(index as i64)) {
            *version = match event {
                Event::UserErased(_) => ERASED,
                _ => *version + 1,
            };
            events.push(event);
        }
    }
    events
}

/// The version of the stream of somebody who is erased: nothing more is written to it.
const ERASED: u32 = u32::MAX;

fn next_event(step: Step, version: u32, timestamp: Timestamp) -> Option<Event> {
    let first_or_even = version.is_multiple_of(2);
    Some(match step {
        Step::Person(_) | Step::Erase(_) if version == ERASED => return None,
        Step::Erase(n) if version > 0 => Event::UserErased(UserErased {
            user_id: user(n),
            timestamp,
        }),
        Step::Person(n) if version == 0 => registered(n, &format!("User{n}"), timestamp),
        Step::Person(n) => Event::UserProfileUpdated(UserProfileUpdated {
            user_id: user(n),
            name: (version == 1).then(|| format!("Name {n}")),
            bio: Some("x".repeat((version % 3) as usize)),
            avatar: first_or_even.then(|| "a".repeat((version % 4) as usize / 2)),
            timestamp,
        }),
        Step::Follow(a, b) => follow_event(a, b, first_or_even, timestamp),
        Step::Post(n) if version == 0 => created(n, timestamp),
        Step::Delete(n) if version == 1 => Event::PostDeleted(PostDeleted {
            post_id: post(n),
            user_id: user(author(n)),
            timestamp,
        }),
        Step::React(p, u) if first_or_even => Event::PostLiked(PostLiked {
            post_id: post(p),
            post_author_id: user(author(p)),
            liker_id: user(u),
            liker_username: format!("User{u}"),
            timestamp,
        }),
        Step::React(p, u) => Event::PostUnliked(PostUnliked {
            post_id: post(p),
            post_author_id: user(author(p)),
            liker_id: user(u),
            liker_username: format!("User{u}"),
            original_timestamp: timestamp,
            timestamp,
        }),
        Step::Comment(p, c) => comment_event(p, c, version, timestamp)?,
        Step::Post(_) | Step::Delete(_) | Step::Erase(_) => return None,
    })
}

fn registered(n: u8, name: &str, timestamp: Timestamp) -> Event {
    Event::UserRegistered(UserRegistered {
        user_id: user(n),
        username: name.to_owned(),
        name: format!("The {name}"),
        timestamp,
    })
}

fn follow_event(follower: u8, followed: u8, starts: bool, timestamp: Timestamp) -> Event {
    let (follower_id, following_id) = (user(follower), user(followed));
    let follower_username = format!("User{follower}");
    if starts {
        return Event::UserFollowed(UserFollowed {
            follower_id,
            following_id,
            follower_username,
            notify: false,
            timestamp,
        });
    }
    Event::UserUnfollowed(UserUnfollowed {
        follower_id,
        following_id,
        follower_username,
        notify: false,
        timestamp,
    })
}

fn created(n: u8, timestamp: Timestamp) -> Event {
    let visibility = match n % 5 {
        0 => Visibility::Private,
        1 => Visibility::Followers,
        _ => Visibility::Public,
    };
    let media = Media {
        url: format!("/media/{n}"),
        content_type: "image/png".to_owned(),
        size: u64::from(n),
    };
    Event::PostCreated(PostCreated {
        post_id: post(n),
        user_id: user(author(n)),
        username: format!("User{}", author(n)),
        content: format!("post {n}"),
        visibility,
        media: vec![media; usize::from(n % 3)],
        timestamp,
    })
}

fn comment_event(p: u8, c: u8, version: u32, timestamp: Timestamp) -> Option<Event> {
    Some(match version {
        0 => Event::PostCommented(PostCommented {
            post_id: post(p),
            comment_id: comment(p, c),
            post_author_id: user(author(p)),
            commenter_id: user(c),
            commenter_username: format!("User{c}"),
            comment: format!("comment {c}"),
            timestamp,
        }),
        1 => Event::CommentDeleted(CommentDeleted {
            post_id: post(p),
            comment_id: comment(p, c),
            deleted_by: user(c),
            original_timestamp: timestamp,
            timestamp,
        }),
        _ => return None,
    })
}

/// How one batch is delivered.
#[derive(Debug, Clone, Copy)]
struct Delivery {
    size: usize,
    partition: usize,
    /// Rolled back once before it goes in.
    rolled_back: bool,
    /// The writer begins anew before it.
    restarted: bool,
}

fn delivery() -> impl Strategy<Value = Delivery> {
    (
        1..25usize,
        0..3usize,
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(size, partition, rolled_back, restarted)| Delivery {
            size,
            partition,
            rolled_back,
            restarted,
        })
}

fn limits() -> impl Strategy<Value = FeedLimits> {
    (2..4u64, 1..6usize, 1..4u64).prop_map(|(fanout_limit, timeline_rows, trim_every)| FeedLimits {
        fanout_limit,
        timeline_rows,
        trim_every,
    })
}

fn projected(position: Position, event: &Event) -> Projected<FeedChange> {
    Projected {
        position,
        changes: Feed::project(position, event),
    }
}

/// A model in memory with its writer.
struct Store {
    connection: Connection,
    writer: SqliteFeed,
    limits: FeedLimits,
}

impl Store {
    fn new(limits: FeedLimits) -> Self {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(SqliteFeed::SCHEMA).unwrap();
        let writer = SqliteFeed::with_limits(&connection, limits).unwrap();
        Self {
            connection,
            writer,
            limits,
        }
    }

    fn apply(&mut self, batch: &[Projected<FeedChange>], commit: bool) {
        let transaction = self.connection.transaction().unwrap();
        self.writer.apply(&transaction, batch).unwrap();
        if commit {
            transaction.commit().unwrap();
        } else {
            drop(transaction);
            self.writer.rolled_back();
        }
    }

    fn deliver(&mut self, batch: &[Projected<FeedChange>], how: Delivery) {
        if how.restarted {
            self.writer = SqliteFeed::with_limits(&self.connection, self.limits).unwrap();
        }
        if how.rolled_back {
            self.apply(batch, false);
        }
        self.apply(batch, true);
    }

    fn rows(&self) -> Vec<ModelRow> {
        let mut rows = Vec::new();
        SqliteFeed::rows(&self.connection, &mut rows).unwrap();
        rows
    }

    /// The whole home feed, page by page: by keys, or by numbers.
    fn home(&self, viewer: UserId, limit: usize, by_key: bool) -> Vec<(Position, PostId)> {
        let mut found = Vec::new();
        let mut page = PageRequest::first(limit);
        for number in 2.. {
            let answer = reader::home(&self.connection, viewer, &page).unwrap();
            assert!(answer.items.len() == limit || answer.next.is_none());
            found.extend(answer.items.iter().map(|item| (item.position, item.id)));
            let Some(next) = answer.next else { break };
            page.start = if by_key {
                PageStart::After(next)
            } else {
                PageStart::Page(number)
            };
        }
        found
    }
}

/// Each partition's records in their order, the partitions interleaved as the deliveries say.
fn deliver_by_partition(store: &mut Store, log: &[(Position, Event)], deliveries: &[Delivery]) {
    let mut partitions: [Vec<Projected<FeedChange>>; 3] = Default::default();
    for (position, event) in log {
        // By key alone, as the broker does: all about one post, or all who follow one person, stay in order.
        let partition = (event.key().as_u128() % 3) as usize;
        partitions[partition].push(projected(*position, event));
    }
    let mut how = deliveries.iter().cycle();
    while partitions.iter().any(|records| !records.is_empty()) {
        let Some(how) = how.next() else { return };
        let records = match partitions.get_mut(how.partition) {
            Some(records) if !records.is_empty() => records,
            _ => match partitions.iter_mut().find(|records| !records.is_empty()) {
                Some(records) => records,
                None => return,
            },
        };
        let batch: Vec<_> = records.drain(..how.size.min(records.len())).collect();
        store.deliver(&batch, *how);
    }
}

fn deliver_in_order(store: &mut Store, log: &[(Position, Event)], deliveries: &[Delivery]) {
    let records: Vec<_> = log
        .iter()
        .map(|(position, event)| projected(*position, event))
        .collect();
    let mut rest = records.as_slice();
    for how in deliveries.iter().cycle() {
        if rest.is_empty() {
            return;
        }
        let (batch, later) = rest.split_at(how.size.min(rest.len()));
        store.deliver(batch, *how);
        rest = later;
    }
}

/// Rows that every store must have exactly so, positions included.
fn exact(mut rows: Vec<ModelRow>) -> Vec<ModelRow> {
    rows.retain(|row| !["timeline", "horizon", "merged"].contains(&row.table));
    sort(&mut rows);
    rows
}

fn check_feeds(store: &Store, fold: &FeedFold, end: Position) {
    for viewer in (0..USERS).map(user) {
        let expected = fold.home(viewer);
        for limit in [1, 2, 5, 100] {
            assert_eq!(store.home(viewer, limit, true), expected);
            assert_eq!(store.home(viewer, limit, false), expected);
        }
        for after in 0..=end {
            let found = reader::home_after(&store.connection, viewer, after, 3).unwrap();
            let found: Vec<_> = found.iter().map(|f| (f.position, f.post_id)).collect();
            let newer = expected.iter().rev().filter(|item| item.0 > after);
            assert_eq!(found, newer.take(3).copied().collect::<Vec<_>>());
        }
    }
}

/// The log as it reads when the keys of the erased are destroyed.
fn as_read_afterwards(log: &[(Position, Event)]) -> Vec<(Position, Event)> {
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

fn check(steps: &[Step], deliveries: &[Delivery], limits: FeedLimits, partitioned: bool) {
    let log: Vec<(Position, Event)> = (1..).zip(history(steps)).collect();
    let mut store = Store::new(limits);
    if partitioned {
        deliver_by_partition(&mut store, &log, deliveries);
    } else {
        deliver_in_order(&mut store, &log, deliveries);
    }
    let mut fold = FeedFold::default();
    for (position, event) in &log {
        fold.apply(*position, event);
    }
    // What was projected from clear text is what the log says once the keys are gone.
    let mut afterwards = FeedFold::default();
    for (position, event) in as_read_afterwards(&log) {
        afterwards.apply(position, &event);
    }
    assert_eq!(afterwards.rows(), fold.rows(), "the fold itself");
    assert_eq!(exact(store.rows()), exact(fold.rows()));
    assert_eq!(fold.differences(store.rows()), []);
    check_feeds(&store, &fold, log.len() as Position);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_history_in_any_order_equals_its_fold(
        steps in vec(step(), 1..220),
        deliveries in vec(delivery(), 1..30),
        limits in limits(),
        partitioned in any::<bool>(),
    ) {
        check(&steps, &deliveries, limits, partitioned);
    }
}

fn in_order(store: &mut Store, events: &[Event]) {
    let batch: Vec<_> = (1..)
        .zip(events)
        .map(|(position, event)| projected(position, event))
        .collect();
    store.apply(&batch, true);
}

fn count(store: &Store, table: &str) -> i64 {
    let sql = format!("SELECT COUNT(*) FROM {table}");
    store
        .connection
        .query_row(&sql, [], |row| row.get(0))
        .unwrap()
}

/// The property would also hold for a store that keeps no timelines at all: this one does.
#[test]
fn ordinary_authors_are_fanned_out_and_others_merged() {
    let now = Timestamp(0);
    let limits = FeedLimits {
        fanout_limit: 2,
        ..FeedLimits::default()
    };
    let mut store = Store::new(limits);
    let mut events = vec![
        follow_event(1, 0, true, now),
        follow_event(2, 0, true, now),
        created(6, now),
    ];
    in_order(&mut store, &events);
    assert_eq!(count(&store, "timeline"), 2);

    events.extend([follow_event(3, 0, true, now), created(12, now)]);
    let mut store = Store::new(limits);
    in_order(&mut store, &events);
    assert_eq!(count(&store, "merged_authors"), 3);
    assert_eq!(count(&store, "timeline"), 0);

    events.extend([
        follow_event(3, 0, false, now),
        follow_event(2, 0, false, now),
    ]);
    for event in events.into_iter().zip(1..).skip(5) {
        store.apply(&[projected(event.1, &event.0)], true);
    }
    assert_eq!(count(&store, "merged_authors"), 0);
    assert_eq!(count(&store, "timeline"), 2);
}

#[test]
fn timelines_are_trimmed_and_say_how_far_down_they_go() {
    let limits = FeedLimits {
        timeline_rows: 3,
        trim_every: 1,
        ..FeedLimits::default()
    };
    let mut store = Store::new(limits);
    let follow = follow_event(1, 0, true, Timestamp(0));
    store.apply(&[projected(1, &follow)], true);
    for n in 1..=10u8 {
        let Event::PostCreated(mut data) = created(n, Timestamp(0)) else {
            return;
        };
        (data.user_id, data.visibility) = (user(0), Visibility::Public);
        let event = Event::PostCreated(data);
        store.apply(&[projected(u64::from(n) + 1, &event)], true);
    }
    assert_eq!(count(&store, "timeline"), 3);
    assert_eq!(count(&store, "horizons"), 1);
    assert_eq!(store.home(user(1), 4, true).len(), 10);
}

/// Which is a row in the timeline of whoever follows.
fn a_post_of_somebody_followed() -> (Store, FeedFold) {
    let now = Timestamp(0);
    let events = [follow_event(1, 0, true, now), created(6, now)];
    let mut store = Store::new(FeedLimits::default());
    in_order(&mut store, &events);
    let mut fold = FeedFold::default();
    for (position, event) in (1..).zip(&events) {
        fold.apply(position, event);
    }
    (store, fold)
}

#[test]
fn a_difference_in_a_timeline_is_found() {
    let (store, fold) = a_post_of_somebody_followed();
    assert_eq!(fold.differences(store.rows()), []);
    store
        .connection
        .execute("DELETE FROM timeline", [])
        .unwrap();
    let differences = fold.differences(store.rows());
    assert_eq!(differences.len(), 1);
    assert_eq!(differences[0].table, "timeline");
}

#[test]
fn what_a_timeline_need_not_have_must_be_right_where_it_is() {
    let (store, fold) = a_post_of_somebody_followed();
    let row = |table, key: String, value: serde_json::Value| ModelRow {
        table,
        key,
        value: value.into(),
        position: 2,
    };
    let (shown, others): (Vec<_>, Vec<_>) = store
        .rows()
        .into_iter()
        .partition(|row| row.table == "timeline");
    let [shown] = &shown[..] else {
        panic!("{shown:?}")
    };
    let (reader, _) = shown.key.split_once('/').unwrap();
    let author = shown.value.read()["author"].as_str().unwrap().to_owned();
    let accounts = [
        row("horizon", reader.to_owned(), json!(2)),
        row("merged", format!("{reader}/{author}"), json!(true)),
    ];
    for account in accounts {
        let with = |timeline: &[ModelRow]| {
            let rows = [std::slice::from_ref(&account), &others[..], timeline].concat();
            fold.differences(rows)
        };
        assert_eq!(with(std::slice::from_ref(shown)), []);
        assert_eq!(with(&[]), [], "{account:?}");
        let mut value = shown.value.read();
        value["post"] = json!(Uuid::nil());
        let wrong = row("timeline", shown.key.clone(), value.clone());
        let [found] = &with(&[wrong])[..] else {
            panic!("{account:?}: one difference")
        };
        assert_eq!((found.table, &found.key), ("timeline", &shown.key));
        assert_eq!(found.expected, Some(shown.value.read()));
        assert_eq!(found.found, Some(value));
    }
}

/// A reader of a file that a writer has filled.
fn reader_of(events: &[Event], folder: &tempfile::TempDir) -> SqliteFeedReader {
    let path = folder.path().join("feed.db");
    let mut connection = open_writer(&path, Durability::Normal).unwrap();
    connection.execute_batch(SqliteFeed::SCHEMA).unwrap();
    let mut writer = SqliteFeed::open(&connection).unwrap();
    let batch: Vec<_> = (1..)
        .zip(events)
        .map(|(position, event)| projected(position, event))
        .collect();
    let transaction = connection.transaction().unwrap();
    writer.apply(&transaction, &batch).unwrap();
    transaction.commit().unwrap();
    SqliteFeedReader::new(CurrentReaders::fixed(Readers::start(&path, 1).unwrap()))
}

#[tokio::test]
async fn people_are_found_by_the_start_of_either_name_whatever_the_case() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["Anna", "anton", "BERTA", "Ånders", "the_cat"];
    let events: Vec<_> = (0..)
        .zip(names)
        .map(|(n, name)| registered(n, name, Timestamp(0)))
        .collect();
    let reader = reader_of(&events, &folder);
    let search = async |text: &str, page: PageRequest| {
        let page = reader.search(text, &page).await.unwrap();
        let names: Vec<_> = page.items.into_iter().map(|p| p.username).collect();
        (names, page.next)
    };
    let all = PageRequest::first(10);
    assert_eq!(search("AN", all.clone()).await.0, ["Anna", "anton"]);
    assert_eq!(search("å", all.clone()).await.0, ["Ånders"]);
    assert_eq!(search("the_", all.clone()).await.0, ["the_cat"]);
    assert_eq!(search("%", all.clone()).await.0, Vec::<String>::new());
    // Everybody is called "The …"; one of them by username too, and comes once.
    let (first, next) = search("the", PageRequest::first(2)).await;
    assert_eq!(first, ["Anna", "anton"]);
    let mut page = PageRequest::first(10);
    page.start = PageStart::After(next.unwrap());
    assert_eq!(search("the", page).await.0, ["BERTA", "the_cat", "Ånders"]);
    let mut page = PageRequest::first(2);
    page.start = PageStart::Page(3);
    assert_eq!(search("the", page.clone()).await.0, ["Ånders"]);
    page.start = PageStart::After("nonsense".to_owned());
    assert_eq!(search("the", page).await.0, ["Anna", "anton"]);
}

#[tokio::test]
async fn what_a_viewer_may_not_see_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let now = Timestamp(7);
    // Author 0 writes a private post (0), author 1 one for followers (1) and one for all (7).
    let events = [
        registered(0, "ann", now),
        registered(1, "bob", now),
        created(0, now),
        created(1, now),
        created(7, now),
        follow_event(2, 1, true, now),
    ];
    let reader = reader_of(&events, &folder);
    let sees = async |viewer, n| reader.post(post(n), user(viewer)).await.unwrap().is_some();
    assert!(sees(0, 0).await && !sees(1, 0).await);
    assert!(sees(1, 1).await && sees(2, 1).await && !sees(3, 1).await);
    assert!(sees(3, 7).await);
    let media = async |n, viewer: Option<u8>| {
        let viewer = viewer.map(user);
        reader.post_for_media(post(n), viewer).await.unwrap()
    };
    assert_eq!(media(7, None).await, Some(Visibility::Public));
    assert_eq!(media(1, None).await, None);
    assert_eq!(media(1, Some(2)).await, Some(Visibility::Followers));
    let page = PageRequest::first(10);
    let mine = reader.posts_of(user(1), user(3), &page).await.unwrap();
    assert_eq!(mine.unwrap().items.len(), 1);
    let mine = reader.posts_of(user(1), user(2), &page).await.unwrap();
    let ids: Vec<_> = mine.unwrap().items.iter().map(|p| p.id).collect();
    assert_eq!(ids, [post(7), post(1)]);
    assert_eq!(
        reader.posts_of(user(9), user(2), &page).await.unwrap(),
        None
    );
    let both = reader.posts(&[post(0), post(7)], user(2)).await.unwrap();
    assert_eq!(both.len(), 1);
    let hidden = reader.comments(post(1), user(3), &page).await.unwrap();
    assert_eq!(hidden, None);
    let recent = reader.recent(10).await.unwrap();
    let ids: Vec<_> = recent.iter().map(|p| p.post_id).collect();
    assert_eq!(ids, [post(7)], "the others are not public");
}

#[tokio::test]
async fn profiles_and_lists_say_what_happened() {
    let folder = tempfile::tempdir().unwrap();
    let now = Timestamp(7);
    let events = [
        registered(0, "ann", now),
        registered(1, "bob", now),
        registered(2, "cem", now),
        follow_event(1, 0, true, now),
        follow_event(2, 0, true, Timestamp(8)),
        created(6, now),
    ];
    let mut events = events.to_vec();
    events.extend((0..3).filter_map(|c| comment_event(6, c, 0, now)));
    events.extend(comment_event(6, 1, 1, now));
    let reader = reader_of(&events, &folder);
    let profile = reader.profile(user(0), user(1)).await.unwrap().unwrap();
    assert_eq!((profile.followers_count, profile.posts_count), (2, 1));
    assert!(profile.is_following);
    assert_eq!(reader.profile(user(5), user(1)).await.unwrap(), None);
    let mut page = PageRequest::first(1);
    let first = reader.followers(user(0), &page).await.unwrap().unwrap();
    assert_eq!(first.items[0].person.username, "cem");
    assert_eq!(first.items[0].followed_at, Timestamp(8));
    page.start = PageStart::After(first.next.unwrap());
    let second = reader.followers(user(0), &page).await.unwrap().unwrap();
    assert_eq!(second.items[0].person.username, "bob");
    assert_eq!(second.next, None);
    let page = PageRequest::first(5);
    let following = reader.following(user(1), &page).await.unwrap().unwrap();
    assert_eq!(following.items[0].person.username, "ann");
    let comments = reader
        .comments(post(6), user(1), &page)
        .await
        .unwrap()
        .unwrap();
    let names: Vec<_> = comments.items.iter().map(|c| c.username.as_str()).collect();
    assert_eq!(names, ["ann", "cem"]);
    let view = reader.post(post(6), user(1)).await.unwrap().unwrap();
    assert_eq!((view.comment_count, view.liked_by_me), (2, false));
}
