//! The counters against their plain fold, in any order and through failures, and each rule by name.

use proptest::prelude::*;
use rusqlite::Connection;
use socialhub_domain::{
    PostId, Timestamp,
    event::Visibility,
    score::{LIKE_WEIGHT, log2_contribution},
};
use socialhub_projections::{
    counters::{CounterFold, CounterReader, PersonCounts, PostCounts, TrendingPost},
    page::{PageRequest, PageStart},
    verify::{ModelFold, ModelRow},
};

use super::{SqliteCounterReader, SqliteCounters};
use crate::sqlite::{
    connection::{Durability, Readers, open_writer},
    generations::CurrentReaders,
    model::SqliteModel,
    notifications::history::{
        Entry, History, PEOPLE, batch_plans, deliver, differences, fold, histories, interleave,
        open, post, user,
    },
};

/// A model in a file, with a reader.
struct Model {
    connection: Connection,
    model: SqliteCounters,
    reader: SqliteCounterReader,
    _folder: tempfile::TempDir,
}

impl Model {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("counters.db");
        let connection = open_writer(&path, Durability::Normal).unwrap();
        let model = open(&connection);
        let readers = Readers::start(&path, 1).unwrap();
        Self {
            connection,
            model,
            reader: SqliteCounterReader::new(CurrentReaders::fixed(readers)),
            _folder: folder,
        }
    }

    /// After a history in the order of the log.
    fn after(entries: &[Entry]) -> Self {
        let mut model = Self::new();
        model.deliver(entries);
        model
    }

    fn deliver(&mut self, entries: &[Entry]) {
        deliver(
            &mut self.connection,
            &mut self.model,
            entries,
            &[(3, false)],
        );
    }

    async fn counts(&self, id: PostId) -> PostCounts {
        self.reader.post_counts(&[id]).await.unwrap().unwrap()[0]
    }

    async fn trending(&self) -> Vec<PostId> {
        let page = self
            .reader
            .trending(&PageRequest::first(100))
            .await
            .unwrap()
            .unwrap();
        page.items.iter().map(|item| item.post_id).collect()
    }
}

/// Trending computed from the fold's rows.
fn naive_trending(rows: &[ModelRow]) -> Vec<TrendingPost> {
    let mut posts: Vec<_> = rows
        .iter()
        .filter(|row| row.table == "post")
        .filter_map(|row| {
            Some(TrendingPost {
                post_id: row.key.parse().unwrap(),
                log2_score: row.value.read()["log2Score"].as_f64()?,
            })
        })
        .collect();
    posts.sort_by(|a, b| {
        (b.log2_score, b.post_id)
            .partial_cmp(&(a.log2_score, a.post_id))
            .unwrap()
    });
    posts
}

async fn check_reader(model: &Model, rows: &[ModelRow]) {
    for index in 0..12 {
        let id = post(index);
        let row = rows
            .iter()
            .find(|row| row.table == "post" && row.key == id.to_string());
        let expected = row.map_or(PostCounts::default(), |row| PostCounts {
            likes: row.value.read()["likes"].as_u64().unwrap(),
            comments: row.value.read()["comments"].as_u64().unwrap(),
        });
        assert_eq!(model.counts(id).await, expected);
    }
    for index in 0..PEOPLE {
        let id = user(index);
        let row = rows
            .iter()
            .find(|row| row.table == "person" && row.key == id.to_string());
        let expected = row.map_or(PersonCounts::default(), |row| PersonCounts {
            followers: row.value.read()["followers"].as_u64().unwrap(),
            following: row.value.read()["following"].as_u64().unwrap(),
            posts: row.value.read()["posts"].as_u64().unwrap(),
        });
        assert_eq!(
            model.reader.person_counts(id).await.unwrap(),
            Some(expected)
        );
    }
    check_trending(model, naive_trending(rows)).await;
}

/// All pages, by key and by number, give the same list; scores that the two ways of summing cannot tell apart may
/// change places.
async fn check_trending(model: &Model, expected: Vec<TrendingPost>) {
    for limit in [1, 2, 7] {
        let mut found = Vec::new();
        let mut request = PageRequest::first(limit);
        let mut number = 1;
        loop {
            let page = model.reader.trending(&request).await.unwrap().unwrap();
            let numbered = PageRequest {
                limit,
                start: PageStart::Page(number),
            };
            assert_eq!(
                model.reader.trending(&numbered).await.unwrap().unwrap(),
                page
            );
            found.extend(page.items);
            let Some(next) = page.next else { break };
            request.start = PageStart::After(next);
            number += 1;
        }
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found.log2_score - expected.log2_score).abs() < 1e-9);
        }
        assert!(found.is_sorted_by(|a, b| (a.log2_score, a.post_id) > (b.log2_score, b.post_id)));
    }
}

proptest! {
    #[test]
    fn any_interleaving_ends_as_the_log_says(
        log in histories(60),
        choices in prop::collection::vec(any::<u16>(), 1..80),
        batches in batch_plans(),
    ) {
        let delivery = interleave(&log, &choices);
        let found = differences::<SqliteCounters>(&log, &delivery, &batches);
        prop_assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn the_order_of_the_log_ends_as_the_log_says(log in histories(120), batches in batch_plans()) {
        let found = differences::<SqliteCounters>(&log, &log, &batches);
        prop_assert!(found.is_empty(), "{found:#?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_reader_answers_what_the_fold_says(log in histories(100)) {
        let rows = fold::<CounterFold>(&log).rows();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check_reader(&Model::after(&log), &rows));
    }
}

#[tokio::test]
async fn like_then_unlike_is_nothing() {
    let mut history = History::default();
    let id = history.create(user(0), Visibility::Public);
    history.toggle_like(id, user(1));
    history.comment(id, user(2));
    let mut model = Model::after(&history.entries);
    assert_eq!(
        model.counts(id).await,
        PostCounts {
            likes: 1,
            comments: 1
        }
    );
    assert_eq!(model.trending().await, [id]);

    let seen = history.entries.len();
    history.toggle_like(id, user(1));
    history.delete_comment(crate::sqlite::notifications::history::comment(0));
    model.deliver(&history.entries[seen..]);
    assert_eq!(model.counts(id).await, PostCounts::default());
    assert_eq!(model.trending().await, [], "nothing left, no score");
}

#[tokio::test]
async fn a_like_after_the_deletion_counts_nothing() {
    let mut history = History::default();
    let id = history.create(user(0), Visibility::Public);
    history.toggle_like(id, user(1));
    history.delete(id);
    history.toggle_like(id, user(2));
    history.comment(id, user(2));
    let mut reversed = history.entries.clone();
    reversed.reverse();
    for delivery in [history.entries, reversed] {
        let model = Model::after(&delivery);
        assert_eq!(model.counts(id).await, PostCounts::default());
        assert_eq!(model.trending().await, []);
        let author = model.reader.person_counts(user(0)).await.unwrap().unwrap();
        assert_eq!(author.posts, 0);
    }
}

#[tokio::test]
async fn counts_are_never_shown_below_zero() {
    let mut history = History::default();
    let id = history.create(user(0), Visibility::Public);
    history.toggle_like(id, user(1));
    history.toggle_like(id, user(1));
    history.follow(user(1), user(0), Some(false));
    history.follow(user(1), user(0), None);
    // Only the retractions have arrived.
    let retractions = [history.entries[2].clone(), history.entries[4].clone()];
    let mut model = Model::after(&retractions);
    assert_eq!(model.counts(id).await, PostCounts::default());
    let counts = model.reader.person_counts(user(0)).await.unwrap().unwrap();
    assert_eq!(counts, PersonCounts::default());

    let rest = [0, 1, 3].map(|index: usize| history.entries[index].clone());
    model.deliver(&rest);
    assert_eq!(model.counts(id).await, PostCounts::default());
    let mut rows = Vec::new();
    SqliteCounters::rows(&model.connection, &mut rows).unwrap();
    let fold: CounterFold = fold(&history.entries);
    assert_eq!(fold.differences(rows), []);
}

#[tokio::test]
async fn only_public_posts_trend() {
    let mut history = History::default();
    let visibilities = [
        Visibility::Public,
        Visibility::Followers,
        Visibility::Private,
    ];
    let posts = visibilities.map(|visibility| {
        let id = history.create(user(0), visibility);
        history.toggle_like(id, user(0));
        id
    });
    let model = Model::after(&history.entries);
    assert_eq!(model.trending().await, [posts[0]]);
    assert_eq!(model.counts(posts[2]).await.likes, 1);
}

#[tokio::test]
async fn a_post_without_likes_does_not_trend_and_a_comment_weighs_two_likes() {
    let mut history = History::default();
    let quiet = history.create(user(0), Visibility::Public);
    let discussed = history.create(user(0), Visibility::Public);
    let liked = history.create(user(0), Visibility::Public);
    history.comment(discussed, user(1));
    history.toggle_like(liked, user(1));
    let model = Model::after(&history.entries);
    assert_eq!(model.trending().await, [discussed, liked]);
    assert!(!model.trending().await.contains(&quiet));
}

#[tokio::test]
async fn equal_scores_come_newest_post_first() {
    use socialhub_domain::event::PostLiked;
    let mut history = History::default();
    let posts = [0, 1, 2].map(|_| history.create(user(0), Visibility::Public));
    for post_id in posts {
        let event = PostLiked {
            post_id,
            post_author_id: user(0),
            liker_id: user(1),
            liker_username: "user1".to_owned(),
            timestamp: Timestamp(1_800_000_000_000),
        };
        history.push(format!("reaction/{post_id}"), event);
    }
    let model = Model::after(&history.entries);
    assert_eq!(model.trending().await, [posts[2], posts[1], posts[0]]);
    let page = model
        .reader
        .trending(&PageRequest::first(1))
        .await
        .unwrap()
        .unwrap();
    let expected = log2_contribution(Timestamp(1_800_000_000_000), LIKE_WEIGHT);
    assert!((page.items[0].log2_score - expected).abs() < 1e-9);
}

#[tokio::test]
async fn an_unparsable_key_answers_the_first_page() {
    let mut history = History::default();
    let id = history.create(user(0), Visibility::Public);
    history.toggle_like(id, user(1));
    let model = Model::after(&history.entries);
    for key in [
        "",
        "x",
        "7ff8000000000000:",
        "zz:00000000-0000-0000-0000-000000000000",
    ] {
        let request = PageRequest {
            limit: 5,
            start: PageStart::After(key.to_owned()),
        };
        let page = model.reader.trending(&request).await.unwrap().unwrap();
        assert_eq!(page.items[0].post_id, id);
    }
}

#[tokio::test]
async fn unknown_posts_and_people_have_zeros() {
    let model = Model::new();
    assert_eq!(model.counts(post(99)).await, PostCounts::default());
    let counts = model.reader.person_counts(user(0)).await.unwrap();
    assert_eq!(counts, Some(PersonCounts::default()));
    assert_eq!(
        model.reader.post_counts(&[]).await.unwrap(),
        Some(Vec::new())
    );
}
