//! The `notifications` read model on a server that speaks MongoDB's protocol: the contract of its store, its readers beside
//! those of SQLite, and the server being away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{TryStreamExt, future::join_all};
use mongodb::{
    Client,
    bson::{Bson, Document, doc},
};
use socialhub_domain::{
    Event, NotificationId, Timestamp, UserId,
    event::{PostDeleted, PostLiked, UserFollowed, Visibility},
};
use socialhub_infra::{
    clock::SystemClock,
    mongo::{MongoGenerations, MongoNotificationReader},
    sqlite::{
        generations::SqliteGenerations,
        notifications::{SqliteNotificationReader, SqliteNotifications},
    },
};
use socialhub_projections::{
    Checkpoint, GenerationId, PageRequest, Projection, ReadModelStore, Source,
    notifications::{NotificationFold, NotificationReader, NotificationView, Notifications},
    page::PageStart,
    projection::Projected,
    runtime::{Generations, WriteMode},
    store::{StoreError, WriteBatch},
    verify::ModelRow,
};
use socialhub_tests::{
    contract::{
        history::{Log, PEOPLE, created, followed, post, unfollowed, user, username},
        read_model::Subject,
    },
    read_model_contract,
    support::{eventually, free_port, proxy::Proxy, servers},
};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

/// A whole number, however it was stored.
fn number_of(value: &Bson) -> Option<i64> {
    value.as_i64().or_else(|| value.as_i32().map(i64::from))
}

/// A database of its own, removed at the end.
struct OnMongo {
    url: String,
    database: String,
}

impl OnMongo {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self {
            url: servers::mongodb_url(),
            database: format!("test_notifications_{}_{number}", std::process::id()),
        }
    }

    /// Its first generation, and a writer of it.
    async fn opened(
        &self,
    ) -> (
        Arc<MongoGenerations>,
        GenerationId,
        Arc<dyn ReadModelStore<Notifications>>,
    ) {
        let generations = self.generations().await;
        let id = generations.refresh().await.unwrap();
        let store = generations.open(id, WriteMode::Live).await.unwrap();
        (generations, id, store)
    }

    async fn generations(&self) -> Arc<MongoGenerations> {
        MongoGenerations::open(&self.url, &self.database, Arc::new(SystemClock))
            .await
            .unwrap()
    }
}

impl Drop for OnMongo {
    fn drop(&mut self) {
        let (url, database) = (self.url.clone(), self.database.clone());
        let removal = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let client = Client::with_uri_str(url).await.unwrap();
                let _ = client.database(&database).drop().await;
            });
        });
        let _ = removal.join();
    }
}

impl Subject for OnMongo {
    type Projection = Notifications;
    type Fold = NotificationFold;
    const MANY_WRITERS: bool = true;
    // FerretDB, which stands in for MongoDB in the tests, takes milliseconds for each operation.
    const HISTORIES: u64 = 5;

    async fn open(&self) -> Arc<dyn Generations<Notifications>> {
        self.generations().await
    }

    async fn mark_as_anothers(&self, id: GenerationId) {
        let versions = self.collection("read_model_generations").await;
        let newest = versions.find_one(doc! {}).sort(doc! { "_id": -1 }).await;
        let mut newest = newest.unwrap().expect("a catalogue");
        let number = i64::from(id.0);
        let generations = newest.get_array_mut("generations").unwrap();
        let mut entries = generations
            .iter_mut()
            .filter_map(|entry| entry.as_document_mut());
        let entry = entries.find(|entry| entry.get("id").and_then(number_of) == Some(number));
        entry.unwrap().insert("made_by", "another");
        let same = doc! { "_id": newest.get_str("_id").unwrap() };
        versions.replace_one(same, newest).await.unwrap();
    }

    async fn check_reads(&self, log: &Log, rows: &[ModelRow]) {
        let reader = MongoNotificationReader::new(self.generations().await);
        check_against_sqlite(&reader, log, rows).await;
        check_against_sqlite(&reader.by_index(), log, rows).await;
    }
}

read_model_contract!(many_writers: mongo_notifications => OnMongo::new());

/// Changes of events of a source, leading to the last of them.
fn batch(
    source: Source,
    after: u64,
    log: &Log,
) -> WriteBatch<<Notifications as Projection>::Change> {
    let last = log.last().map_or(after, |event| event.0);
    WriteBatch {
        projected: log
            .iter()
            .map(|(position, event)| Projected {
                position: *position,
                changes: Notifications::project(*position, event),
            })
            .collect(),
        parked: Vec::new(),
        after,
        checkpoint: Checkpoint {
            source,
            position: last,
            event_id: Uuid::from_u128(7),
            next_offset: None,
            partitions: None,
        },
    }
}

/// The model of the embedded profile answers the same questions in the same way.
async fn check_against_sqlite(reader: &dyn NotificationReader, log: &Log, rows: &[ModelRow]) {
    let folder = tempfile::tempdir().unwrap();
    let generations =
        SqliteGenerations::<SqliteNotifications>::open(folder.path(), Arc::new(SystemClock))
            .unwrap();
    let id = generations.refresh().await.unwrap();
    let store = generations.open(id, WriteMode::Live).await.unwrap();
    store.apply(batch(Source::log(), 0, log)).await.unwrap();
    let other = SqliteNotificationReader::new(generations.readers(1).unwrap());
    for person in (0..PEOPLE).map(user) {
        for unread in [false, true] {
            let whole = PageRequest::first(100);
            let expected = other.list(person, unread, &whole).await.unwrap();
            assert_eq!(reader.list(person, unread, &whole).await.unwrap(), expected);
            let expected = expected.page.items;
            for by_key in [true, false] {
                let found = whole_list(reader, person, unread, by_key).await;
                assert_eq!(found, expected);
            }
        }
        let after = log.len() as u64 / 2;
        assert_eq!(
            reader.after(person, after, 3).await.unwrap(),
            other.after(person, after, 3).await.unwrap()
        );
    }
    let told = rows.iter().filter(|row| row.table == "notification");
    for row in told.step_by(5) {
        let id: NotificationId = row.key.parse().unwrap();
        assert_eq!(
            reader.owner(id).await.unwrap(),
            other.owner(id).await.unwrap()
        );
    }
    store.close().await;
}

/// All pages of a list: by keys, or by numbers.
async fn whole_list(
    reader: &dyn NotificationReader,
    person: UserId,
    unread: bool,
    by_key: bool,
) -> Vec<NotificationView> {
    let mut found = Vec::new();
    let mut page = PageRequest::first(7);
    let far = PageRequest {
        start: PageStart::Page(1_000_000),
        ..page.clone()
    };
    let beyond = reader.list(person, unread, &far).await.unwrap();
    assert!(beyond.page.items.is_empty());
    for number in 2.. {
        let answer = reader.list(person, unread, &page).await.unwrap();
        assert_eq!(answer.unread_count, beyond.unread_count);
        assert!(answer.page.items.len() == page.limit || answer.page.next.is_none());
        found.extend(answer.page.items);
        let Some(next) = answer.page.next else { break };
        page.start = if by_key {
            PageStart::After(next)
        } else {
            PageStart::Page(number)
        };
    }
    found
}

/// Lets a server be reached at an address where nobody listened before.
async fn forward(listener: TcpListener, to: String) {
    while let Ok((mut client, _)) = listener.accept().await {
        let to = to.clone();
        tokio::spawn(async move {
            if let Ok(mut server) = TcpStream::connect(to).await {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

/// `host:port` of an address such as `mongodb://127.0.0.1:27017/`.
fn host(url: &str) -> String {
    let rest = url.split("://").nth(1).unwrap();
    rest.split('/').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_starts_while_the_server_is_away_and_recovers() {
    let subject = OnMongo::new();
    let address = format!("127.0.0.1:{}", free_port());
    let url = format!("mongodb://{address}/");
    let generations = MongoGenerations::open(&url, &subject.database, Arc::new(SystemClock))
        .await
        .unwrap();
    let reader = MongoNotificationReader::new(Arc::clone(&generations));
    let asked = Instant::now();
    assert!(
        reader
            .list(user(0), false, &PageRequest::first(5))
            .await
            .is_err()
    );
    assert!(generations.current_checkpoints().await.is_err());
    assert!(
        asked.elapsed() < Duration::from_secs(8),
        "{:?}",
        asked.elapsed()
    );
    let current = *generations.current().borrow();
    let unopened = generations.open(current, WriteMode::Live).await.err();
    assert!(
        matches!(unopened, Some(StoreError::Unavailable(_))),
        "{unopened:?}"
    );

    let listener = TcpListener::bind(&address).await.unwrap();
    let forwarding = tokio::spawn(forward(listener, host(&subject.url)));
    let known = &generations;
    eventually("the server is found", || async {
        known.current_checkpoints().await.ok()
    })
    .await;
    let id = generations.refresh().await.unwrap();
    assert_eq!(*generations.current().borrow(), id);
    let store = generations.open(id, WriteMode::Live).await.unwrap();
    let log = vec![(1, followed(1, 0, Timestamp(1)))];
    store
        .apply(batch(Source::partition("USER_TOPIC", 0), 0, &log))
        .await
        .unwrap();
    let page = reader
        .list(user(0), false, &PageRequest::first(5))
        .await
        .unwrap();
    assert_eq!(page.unread_count, 1);
    assert_eq!(
        generations.current_checkpoints().await.unwrap()[0].position,
        1
    );
    forwarding.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_that_were_given_up_keep_nobody_from_the_server_afterwards() {
    let subject = OnMongo::new();
    let proxy = Proxy::to(&subject.url, u64::MAX).await;
    let url = proxy.through(&subject.url);
    let generations = MongoGenerations::open(&url, &subject.database, Arc::new(SystemClock))
        .await
        .unwrap();
    let reader = MongoNotificationReader::new(generations);
    let page = PageRequest::first(5);
    reader.list(user(0), false, &page).await.unwrap();
    proxy.deafen();
    let given_up = join_all((0..300).map(|_| reader.list(user(0), false, &page))).await;
    assert!(given_up.iter().all(Result::is_err));
    proxy.let_go();
    eventually("the list is there again", || async {
        reader.list(user(0), false, &page).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_held_keeps_nothing_out_that_comes_with_it() {
    let subject = OnMongo::new();
    let (_generations, _, store) = subject.opened().await;
    let unfit = UserFollowed {
        follower_id: user(1),
        following_id: user(0),
        follower_username: "nul\0".to_owned(),
        notify: false,
        timestamp: Timestamp(1),
    };
    let mut batches = vec![(1, unfit.into())];
    batches.extend((2..12).map(|n| (n, followed(n, 0, Timestamp(1)))));
    let write = async |(position, event): (u8, Event)| {
        let source = Source::partition("USER_TOPIC", position.into());
        let log = vec![(position.into(), event)];
        store.apply(batch(source, 0, &log)).await
    };
    let outcomes = join_all(batches.into_iter().map(write)).await;
    let (unfit, others) = outcomes.split_first().unwrap();
    assert!(others.iter().all(Result::is_ok), "{others:?}");
    // So the runtime parks it.
    assert!(
        matches!(unfit, Err(StoreError::Rejected { .. })),
        "{unfit:?}"
    );
    assert_eq!(store.checkpoints().await.unwrap().len(), 10);
}

#[tokio::test]
async fn an_address_that_cannot_be_one_is_refused_at_once() {
    let opened = MongoGenerations::open("http://127.0.0.1/", "any", Arc::new(SystemClock)).await;
    let error = opened.err().unwrap().to_string();
    assert!(error.contains("MongoDB"), "{error}");
}

/// Follows of distinct people, as the projector gets them.
fn many_follows(first: u64, count: u64) -> Log {
    (first..first + count)
        .map(|n| {
            let event = UserFollowed {
                follower_id: UserId(Uuid::from_u128(u128::from(n) << 64 | 1)),
                following_id: UserId(Uuid::from_u128(u128::from(n % 5_000) << 64 | 2)),
                follower_username: format!("user{n}"),
                notify: false,
                timestamp: Timestamp(n as i64),
            };
            (n, event.into())
        })
        .collect()
}

/// How fast batches go in, beside plain inserts of as many documents. Prints both; run it by name with `--ignored`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn the_rate_of_batches_beside_plain_inserts() {
    const BATCH: u64 = 4_000;
    const BATCHES: u64 = 10;
    let subject = OnMongo::new();
    let (_generations, id, store) = subject.opened().await;
    let source = Source::partition("USER_TOPIC", 0);
    let begun = Instant::now();
    for number in 0..BATCHES {
        let log = many_follows(number * BATCH + 1, BATCH);
        let batch = batch(source.clone(), number * BATCH, &log);
        store.apply(batch).await.unwrap();
    }
    let rate = (BATCH * BATCHES) as f64 / begun.elapsed().as_secs_f64();

    let client = Client::with_uri_str(&subject.url).await.unwrap();
    let database = client.database(&subject.database);
    let written = database.collection::<Document>(&format!("notifications_{id}"));
    let document = written.find_one(doc! {}).await.unwrap().unwrap();
    let plain = database.collection::<Document>("plain");
    let begun = Instant::now();
    for number in 0..BATCH * BATCHES / 1_000 {
        let documents = (0..1_000).map(|n| {
            let mut document = document.clone();
            document.insert("_id", format!("{number:032}{n:04}"));
            document
        });
        let documents: Vec<_> = documents.collect();
        plain.insert_many(documents).ordered(false).await.unwrap();
    }
    let limit = (BATCH * BATCHES) as f64 / begun.elapsed().as_secs_f64();
    println!(
        "{rate:.0} events/s, {limit:.0} plain inserts/s, {:.2}",
        rate / limit
    );
    store.close().await;
}

impl OnMongo {
    async fn collection(&self, name: &str) -> mongodb::Collection<Document> {
        let client = Client::with_uri_str(&self.url).await.unwrap();
        client.database(&self.database).collection(name)
    }

    async fn told(&self) -> mongodb::Collection<Document> {
        self.collection("notifications_1").await
    }

    /// The documents of the first generation, but for its writers.
    async fn copy(&self) -> Vec<(String, Vec<Document>)> {
        let client = Client::with_uri_str(&self.url).await.unwrap();
        let database = client.database(&self.database);
        let mut copy = Vec::new();
        for name in database.list_collection_names().await.unwrap() {
            if name.ends_with("_1") && !name.starts_with("writers") {
                let found = self.collection(&name).await.find(doc! {}).await.unwrap();
                copy.push((name, found.try_collect().await.unwrap()));
            }
        }
        copy
    }

    async fn restore(&self, copy: &[(String, Vec<Document>)]) {
        for (name, documents) in copy {
            let collection = self.collection(name).await;
            collection.delete_many(doc! {}).await.unwrap();
            if !documents.is_empty() {
                collection.insert_many(documents).await.unwrap();
            }
        }
    }
}

fn liked(n: u8, author: u8, liker: u8) -> Event {
    let liked = PostLiked {
        post_id: post(n),
        post_author_id: user(author),
        liker_id: user(liker),
        liker_username: username(liker),
        timestamp: Timestamp(9),
    };
    liked.into()
}

fn deleted(n: u8, author: u8) -> Event {
    let deleted = PostDeleted {
        post_id: post(n),
        user_id: user(author),
        timestamp: Timestamp(9),
    };
    deleted.into()
}

/// Likes come by a topic of their own, and by another process than deletions.
#[tokio::test]
async fn a_like_that_comes_after_the_deletion_by_another_writer_is_not_shown() {
    let subject = OnMongo::new();
    let (here, there) = (subject.generations().await, subject.generations().await);
    let id = here.refresh().await.unwrap();
    there.refresh().await.unwrap();
    let likes = here.open(id, WriteMode::Live).await.unwrap();
    let posts = there.open(id, WriteMode::Live).await.unwrap();
    let (mut last_like, mut last_post) = (0, 0);
    for n in 0..3_u8 {
        // Each time the one who likes has read what was gone so far.
        let at = 10 * u64::from(n);
        let before = vec![(at + 4, liked(n, 0, 1))];
        let gone = vec![
            (at + 1, created(n, 0, Visibility::Public, Timestamp(1))),
            (at + 5, deleted(n, 0)),
        ];
        let after = vec![(at + 6, liked(n, 0, 2)), (at + 7, liked(n + 50, 0, 2))];
        let topic = |name| Source::partition(name, 0);
        likes
            .apply(batch(topic("POST_TOPIC"), last_like, &before))
            .await
            .unwrap();
        posts
            .apply(batch(topic("USER_TOPIC"), last_post, &gone))
            .await
            .unwrap();
        likes
            .apply(batch(topic("POST_TOPIC"), at + 4, &after))
            .await
            .unwrap();
        (last_like, last_post) = (at + 7, at + 5);
        let told = subject.told().await;
        let about = |n: u8, shown| doc! { "post": post(n).to_string(), "shown": shown };
        // Two likes, and what the author was told.
        assert_eq!(told.count_documents(about(n, false)).await.unwrap(), 3);
        assert_eq!(told.count_documents(about(n, true)).await.unwrap(), 0);
        assert_eq!(told.count_documents(about(n + 50, true)).await.unwrap(), 1);
    }
    let list = subject.collection("gone_1").await;
    assert_eq!(list.count_documents(doc! {}).await.unwrap(), 3);
    likes.close().await;
    posts.close().await;
}

/// What a writer remembers of a store is no longer so when that was restored: to nothing at all, or to just before its last
/// batch.
#[tokio::test]
async fn a_writer_forgets_what_a_store_held_that_went_back_in_time() {
    let subject = OnMongo::new();
    let (_generations, _, store) = subject.opened().await;
    let told = subject.told().await;
    let source = Source::partition("POST_TOPIC", 0);
    let first = vec![
        (1, created(1, 0, Visibility::Public, Timestamp(1))),
        (2, created(2, 0, Visibility::Public, Timestamp(2))),
        (3, liked(1, 0, 2)),
    ];
    let then = vec![(4, deleted(1, 0)), (5, liked(1, 0, 3)), (6, liked(2, 0, 3))];
    let shown = || told.count_documents(doc! { "shown": true });
    for _ in 0..2 {
        store.apply(batch(source.clone(), 0, &first)).await.unwrap();
        assert_eq!(shown().await.unwrap(), 3);
        let before = subject.copy().await;
        for _ in 0..2 {
            store.apply(batch(source.clone(), 3, &then)).await.unwrap();
            assert_eq!(shown().await.unwrap(), 2);
            assert_eq!(told.count_documents(doc! {}).await.unwrap(), 5);
            let list = subject.collection("gone_1").await;
            assert_eq!(list.count_documents(doc! {}).await.unwrap(), 1);
            subject.restore(&before).await;
        }
        let nothing: Vec<_> = before.into_iter().map(|(name, _)| (name, vec![])).collect();
        subject.restore(&nothing).await;
    }
    store.close().await;
}

/// Whoever writes on after a repair, goes by what the repair has made of the list of what is gone.
#[tokio::test]
async fn a_writer_reads_the_list_anew_when_the_catalogue_has_changed() {
    let subject = OnMongo::new();
    let (generations, _, store) = subject.opened().await;
    let source = Source::partition("POST_TOPIC", 0);
    let first = vec![
        (1, created(1, 0, Visibility::Public, Timestamp(1))),
        (2, deleted(3, 0)),
    ];
    // What was never deleted is among it, by somebody's hand.
    let list = subject.collection("gone_1").await;
    let invented = doc! { "_id": "1", "gone": [post(1).to_string()] };
    list.insert_one(invented).await.unwrap();
    store.apply(batch(source.clone(), 0, &first)).await.unwrap();
    list.delete_many(doc! {}).await.unwrap();
    let claim = generations.claim().await.unwrap().unwrap();
    let fence = generations.fence(&claim).await.unwrap();
    drop((fence, claim));
    let like = vec![(3, liked(1, 0, 2))];
    eventually("the fence falls", || async {
        store.apply(batch(source.clone(), 2, &like)).await.ok()
    })
    .await;
    let told = subject.told().await;
    let shown = doc! { "kind": 1, "shown": true };
    assert_eq!(told.count_documents(shown).await.unwrap(), 1);
    store.close().await;
}

/// A rebuild has wishes and posts in one batch. That nobody is told is nothing to write down.
#[tokio::test]
async fn whoever_ended_their_wish_before_the_posts_of_a_batch_gets_no_document() {
    let subject = OnMongo::new();
    let (_generations, _, store) = subject.opened().await;
    let mut log = vec![
        (1, followed(1, 0, Timestamp(1))),
        (2, unfollowed(1, 0, Timestamp(2))),
        (3, followed(2, 0, Timestamp(3))),
    ];
    for n in 0..5 {
        let created = created(n, 0, Visibility::Public, Timestamp(4));
        log.push((u64::from(n) + 4, created));
    }
    store.apply(batch(Source::log(), 0, &log)).await.unwrap();
    let told = subject.told().await;
    // Two follows, and each post to its author and to the one who still follows.
    assert_eq!(told.count_documents(doc! {}).await.unwrap(), 12);
    let untold = told.count_documents(doc! { "told": false });
    assert_eq!(untold.await.unwrap(), 0);
    store.close().await;
}

/// Seen by taking the notification away behind the writer's back: only a writer that did not tell it brings it back.
#[tokio::test]
async fn who_follows_again_is_not_told_of_again_by_the_same_writer() {
    let subject = OnMongo::new();
    let (generations, id, store) = subject.opened().await;
    let told = subject.told().await;
    let again = [
        (2, unfollowed(1, 0, Timestamp(2))),
        (3, followed(1, 0, Timestamp(3))),
    ];
    let first = vec![(1, followed(1, 0, Timestamp(1)))];
    let source = Source::partition("USER_TOPIC", 0);
    store.apply(batch(source.clone(), 0, &first)).await.unwrap();
    told.delete_many(doc! {}).await.unwrap();
    store
        .apply(batch(source.clone(), 1, &again[..1].to_vec()))
        .await
        .unwrap();
    store
        .apply(batch(source.clone(), 2, &again[1..].to_vec()))
        .await
        .unwrap();
    assert_eq!(told.count_documents(doc! {}).await.unwrap(), 0);
    store.close().await;

    let other = generations.open(id, WriteMode::Live).await.unwrap();
    let third = vec![(4, followed(1, 0, Timestamp(4)))];
    other.apply(batch(source, 3, &third)).await.unwrap();
    assert_eq!(told.count_documents(doc! {}).await.unwrap(), 1);
    other.close().await;
}

/// Whoever has slept for so long that another has taken over changes nothing when they wake up.
#[tokio::test]
async fn who_has_lost_the_claim_changes_no_generations() {
    let subject = OnMongo::new();
    let generations = subject.generations().await;
    let held = generations.claim().await.unwrap().expect("nobody else");
    let id = generations.create(&held).await.unwrap();
    let client = Client::with_uri_str(&subject.url).await.unwrap();
    let catalogues = client.database(&subject.database);
    let catalogues = catalogues.collection::<Document>("read_model_generations");
    let newest = catalogues.find_one(doc! {}).sort(doc! { "_id": -1 });
    let mut taken_over = newest.await.unwrap().unwrap();
    let version = taken_over.get_i64("version").unwrap() + 1;
    taken_over.insert("_id", format!("{}/{version:012}", Notifications::NAME));
    taken_over.insert("version", version);
    taken_over.insert("claim", "somebody else");
    catalogues.insert_one(taken_over).await.unwrap();

    let refused = [
        generations.create(&held).await.map(drop),
        generations.drop_generation(&held, id).await,
        generations.fence(&held).await.map(drop),
    ];
    for refusal in refused {
        let error = refusal.unwrap_err();
        assert!(matches!(error, StoreError::Unusable(_)), "{error}");
    }
    let there = generations.list().await.unwrap();
    assert_eq!(there.len(), 2, "{there:?}");
}

#[tokio::test]
async fn what_a_removal_that_was_broken_off_has_left_is_swept_away() {
    let subject = OnMongo::new();
    let generations = subject.generations().await;
    let held = generations.claim().await.unwrap().expect("nobody else");
    let id = generations.create(&held).await.unwrap();
    generations.drop_generation(&held, id).await.unwrap();
    let client = Client::with_uri_str(&subject.url).await.unwrap();
    let database = client.database(&subject.database);
    // As if killed before the collections were gone: the catalogue knows nothing of them.
    let left = format!("facts_{id}");
    for name in [&*left, "facts_1"] {
        let fact = doc! { "_id": "erased/somebody", "position": 1_i64 };
        database.collection(name).insert_one(fact).await.unwrap();
    }
    generations.sweep().await.unwrap();
    let names = database.list_collection_names().await.unwrap();
    assert!(!names.contains(&left), "{names:?}");
    assert!(
        names.contains(&"facts_1".to_owned()),
        "the current one stays"
    );
}
