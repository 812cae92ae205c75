//! Damage done by hand to every kind of thing in each store of a read model.

use std::path::PathBuf;

use mongodb::bson::{Document, doc};
use serde_json::Value;
use socialhub_tests::support::{Profile, Server, servers};
use sqlx::{Connection, Executor, PgConnection};

/// One kind of damage.
pub struct Damage {
    /// The model it is done to.
    pub model: &'static str,
    /// The kind of thing that differs afterwards.
    pub kind: &'static str,
    how: How,
}

enum How {
    /// A statement, for a generation's file or schema.
    Sql(&'static str),
    /// Documents of a collection that are changed; none: removed.
    Change(&'static str, Document, Option<Document>),
    /// A document that comes to be in a collection.
    Insert(&'static str, Document),
    /// A script, with the generation's keys as `posts`, `people` and `trending`.
    Redis(&'static str),
}

impl Damage {
    /// What was done, for a message.
    pub fn told(&self) -> String {
        let how = match &self.how {
            How::Sql(statement) => (*statement).to_owned(),
            How::Change(collection, which, change) => {
                format!("{collection}: {which} becomes {change:?}")
            }
            How::Insert(collection, document) => format!("{collection}: {document} is inserted"),
            How::Redis(script) => (*script).to_owned(),
        };
        format!("{} {}: {how}", self.model, self.kind)
    }

    /// Does it to the generation of a model that is current.
    pub async fn inflict(&self, server: &Server, generation: u64) {
        match (&self.how, Profile::chosen()) {
            (How::Sql(statement), Profile::Embedded) => {
                in_file(server, self.model, generation, statement);
            }
            (How::Sql(statement), Profile::Distributed) => {
                in_schema(server, self.model, generation, statement).await;
            }
            (How::Change(collection, which, change), _) => {
                let collection = collection_of(server, collection, generation).await;
                let touched = match change {
                    None => {
                        collection
                            .delete_many(which.clone())
                            .await
                            .unwrap()
                            .deleted_count
                    }
                    Some(change) => {
                        let update = doc! { "$set": change.clone() };
                        let updated = collection.update_many(which.clone(), update).await;
                        updated.unwrap().modified_count
                    }
                };
                assert!(touched > 0, "{} touched nothing", self.told());
            }
            (How::Insert(collection, document), _) => {
                let collection = collection_of(server, collection, generation).await;
                collection.insert_one(document).await.unwrap();
            }
            (How::Redis(script), _) => in_redis(server, generation, script).await,
        }
    }
}

/// Everything that can be damaged in the stores of the chosen profile.
pub fn all() -> Vec<Damage> {
    match Profile::chosen() {
        Profile::Embedded => [feed(), sqlite_notifications(), sqlite_counters()],
        Profile::Distributed => [feed(), mongo_notifications(), redis_counters()],
    }
    .into_iter()
    .flatten()
    .collect()
}

/// The first kind of damage to a kind of thing.
pub fn one_of(model: &str, kind: &str) -> Damage {
    let mut damages = all().into_iter();
    let found = damages.find(|one| one.model == model && one.kind == kind);
    found.unwrap()
}

fn sql(model: &'static str, damages: &[(&'static str, &'static str)]) -> Vec<Damage> {
    let damage = |&(kind, statement)| Damage {
        model,
        kind,
        how: How::Sql(statement),
    };
    damages.iter().map(damage).collect()
}

/// The same tables on SQLite and on Postgres.
fn feed() -> Vec<Damage> {
    sql(
        "feed",
        &[
            ("person", "UPDATE people SET bio = 'never said'"),
            (
                "person",
                "UPDATE people SET name_lower = 'found by another name'",
            ),
            ("person", "DELETE FROM people"),
            ("erased", "DELETE FROM erased"),
            (
                "erased",
                "INSERT INTO erased SELECT id, 1 FROM people WHERE bio = 'sings'",
            ),
            ("tally", "UPDATE tallies SET followers = followers + 1"),
            ("tally", "DELETE FROM tallies"),
            ("tally", "UPDATE tallies SET following = following + 1"),
            (
                "tally",
                "UPDATE tallies SET posts = posts - 1 WHERE posts > 0",
            ),
            ("tally", "UPDATE tallies SET merged = NOT merged"),
            (
                "follow",
                "UPDATE follows SET since = NULL, followed_at = NULL",
            ),
            ("follow", "DELETE FROM follows"),
            ("post", "UPDATE posts SET content = 'never written'"),
            ("post", "UPDATE posts SET visibility = 0"),
            ("post", "DELETE FROM posts"),
            (
                "post",
                "UPDATE post_states SET likes = likes + 3 WHERE NOT deleted",
            ),
            (
                "post",
                "UPDATE post_states SET deleted = false WHERE deleted",
            ),
            ("post", "DELETE FROM post_states"),
            (
                "stray",
                "INSERT INTO posts SELECT position + 100000, id, author_id, username,
                 'never written', visibility, media, created_at FROM posts",
            ),
            ("like", "UPDATE likes SET active = NOT active"),
            ("like", "DELETE FROM likes"),
            // Whatever comes would be taken for old.
            ("person", "UPDATE people SET position = position + 1000000"),
            ("tally", "UPDATE tallies SET position = position + 1000000"),
            ("follow", "UPDATE follows SET position = position + 1000000"),
            (
                "post",
                "UPDATE post_states SET position = position + 1000000",
            ),
            ("like", "UPDATE likes SET position = position + 1000000"),
            (
                "comment",
                "UPDATE comments SET position = position + 1000000",
            ),
            ("erased", "UPDATE erased SET position = position + 1000000"),
            (
                "comment",
                "UPDATE comments SET comment = 'never said' WHERE created IS NOT NULL",
            ),
            ("comment", "DELETE FROM comments"),
            ("timeline", "DELETE FROM timeline"),
            (
                "timeline",
                "INSERT INTO timeline SELECT p.author_id, p.position FROM posts p",
            ),
            (
                "merged",
                "INSERT INTO merged_authors SELECT p.author_id, p.author_id FROM posts p LIMIT 1",
            ),
            // One of an author's followers is told that the posts are merged; the others would miss what comes.
            (
                "merged",
                "INSERT INTO merged_authors (follower_id, author_id)
                 SELECT follower_id, followed_id FROM follows f WHERE since IS NOT NULL
                 AND position > (SELECT min(position) FROM follows o
                     WHERE o.followed_id = f.followed_id AND o.since IS NOT NULL)",
            ),
        ],
    )
}

fn sqlite_notifications() -> Vec<Damage> {
    sql(
        "notifications",
        &[
            ("notification", "DELETE FROM notification"),
            ("notification", "UPDATE notification SET flags = 7 - flags"),
            (
                "notification",
                "UPDATE recipient SET username = 'somebody else' WHERE username IS NOT NULL",
            ),
            (
                "notification",
                "UPDATE notification SET position = position + 1",
            ),
            (
                "notification",
                "UPDATE notification SET id = randomblob(16)",
            ),
            ("unread", "UPDATE recipient SET unread = unread + 1"),
            ("person", "UPDATE recipient SET read_up_to = read_up_to + 1"),
            ("person", "DELETE FROM recipient"),
            ("mark", "INSERT INTO mark SELECT zeroblob(16), 1, 1"),
            ("erased", "DELETE FROM erased"),
            ("erased", "INSERT INTO erased SELECT zeroblob(16), 1"),
            ("gone", "DELETE FROM gone"),
            ("gone", "INSERT INTO gone SELECT zeroblob(16), 1"),
            ("wish", "DELETE FROM wish"),
            ("wish", "UPDATE wish SET since = since + 1"),
        ],
    )
}

fn sqlite_counters() -> Vec<Damage> {
    sql(
        "counters",
        &[
            ("post", "UPDATE post_counter SET likes = likes + 1"),
            (
                "post",
                "UPDATE post_counter SET comments = 0 WHERE comments > 0",
            ),
            (
                "post",
                "UPDATE post_counter SET score = score + 1 WHERE score IS NOT NULL",
            ),
            (
                "post",
                "UPDATE post_counter SET score = NULL WHERE score IS NOT NULL",
            ),
            (
                "post",
                "UPDATE post_counter SET decay = x'' WHERE score IS NOT NULL",
            ),
            ("post", "UPDATE post_counter SET state = 0"),
            ("post", "DELETE FROM post_counter"),
            (
                "person",
                "UPDATE person_counter SET following = following + 1",
            ),
            ("person", "DELETE FROM person_counter"),
            (
                "person",
                "INSERT INTO person_counter SELECT zeroblob(16), 1, 1, 1, 1",
            ),
        ],
    )
}

fn mongo_notifications() -> Vec<Damage> {
    let damages = mongo_changes().into_iter().chain(mongo_inventions());
    let damage = |(kind, how)| Damage {
        model: "notifications",
        kind,
        how,
    };
    damages.map(damage).collect()
}

fn mongo_changes() -> Vec<(&'static str, How)> {
    let change = |kind, collection, which: Document, change: Document| {
        (kind, How::Change(collection, which, Some(change)))
    };
    let told = |which, becomes| change("notification", "notifications", which, becomes);
    let remove = |kind, collection, which: Document| (kind, How::Change(collection, which, None));
    let wanted = || doc! { "wanted": true };
    vec![
        remove("notification", "notifications", doc! {}),
        told(doc! {}, doc! { "username": "somebody else" }),
        told(doc! {}, doc! { "position": 1_i64 }),
        told(doc! { "told": true }, doc! { "told": false }),
        told(doc! { "shown": true }, doc! { "shown": false }),
        told(doc! { "gone": false }, doc! { "gone": true }),
        told(doc! { "removed": true }, doc! { "removed": false }),
        told(doc! { "read": false }, doc! { "read": true }),
        remove("notification", "announcements", doc! {}),
        change(
            "notification",
            "announcements",
            doc! {},
            doc! { "at": 1_i64 },
        ),
        remove("erased", "facts", doc! { "_id": { "$regex": "^erased:" } }),
        // Whoever inserts something that this person did would not look for the fact.
        remove("erased", "ahead", doc! { "_id": { "$regex": "^erased:" } }),
        remove("gone", "facts", doc! { "_id": { "$regex": "^gone:" } }),
        remove("gone", "gone", doc! {}),
        change(
            "gone",
            "facts",
            doc! { "_id": { "$regex": "^gone:" } },
            doc! { "about": "" },
        ),
        remove("notification", "marks", doc! {}),
        remove("person", "read_up_to", doc! {}),
        remove("wish", "wishes", wanted()),
        change("wish", "wishes", wanted(), doc! { "wanted": false }),
    ]
}

/// Documents about what never was.
fn mongo_inventions() -> Vec<(&'static str, How)> {
    let nobody = "00000000-0000-0000-0000-000000000001";
    let fact = |what| doc! { "_id": format!("{what}:{nobody}"), "position": 1_i64 };
    let announcement = doc! {
        "_id": nobody, "author": nobody, "position": 1_i64, "username": "x", "at": 1_i64,
    };
    let read = doc! { "_id": format!("{nobody}/2"), "user": nobody, "up_to": 2_i64 };
    vec![
        ("announcement", How::Insert("announcements", announcement)),
        ("erased", How::Insert("facts", fact("erased"))),
        ("gone", How::Insert("facts", fact("gone"))),
        (
            "gone",
            How::Insert("gone", doc! { "_id": "1000", "gone": [nobody] }),
        ),
        ("mark", How::Insert("marks", fact("read"))),
        ("person", How::Insert("read_up_to", read)),
    ]
}

fn redis_counters() -> Vec<Damage> {
    let damages: [(&'static str, &'static str); 9] = [
        (
            "post",
            "for _, id in ipairs(redis.call('HKEYS', posts)) do
                 local row = redis.call('HGET', posts, id)
                 local kind, likes, comments = struct.unpack('<Bdd', row)
                 redis.call('HSET', posts, id,
                     struct.pack('<Bdd', kind, likes + 1, comments + 1) .. string.sub(row, 18))
             end",
        ),
        (
            "post",
            "for _, id in ipairs(redis.call('HKEYS', posts)) do
                 local row = redis.call('HGET', posts, id)
                 redis.call('HSET', posts, id, string.char(2) .. string.sub(row, 2))
             end",
        ),
        (
            "post",
            "for _, id in ipairs(redis.call('HKEYS', posts)) do
                 redis.call('HSET', posts, id, string.sub(redis.call('HGET', posts, id), 1, 25))
             end",
        ),
        ("post", "redis.call('DEL', posts)"),
        ("post", "redis.call('DEL', trending)"),
        (
            "post",
            "for _, id in ipairs(redis.call('ZRANGE', trending, 0, -1)) do
                 redis.call('ZINCRBY', trending, 1, id)
             end",
        ),
        (
            "trending",
            "redis.call('ZADD', trending, 5, string.rep('x', 16))",
        ),
        (
            "person",
            "for _, id in ipairs(redis.call('HKEYS', people)) do
                 redis.call('HSET', people, id, struct.pack('<dddd', 9, 9, 9, 1))
             end",
        ),
        (
            "person",
            "redis.call('HSET', people, string.rep('x', 16), struct.pack('<dddd', 1, 1, 1, 1))",
        ),
    ];
    let damage = |(kind, script)| Damage {
        model: "counters",
        kind,
        how: How::Redis(script),
    };
    damages.into_iter().map(damage).collect()
}

fn in_file(server: &Server, model: &str, generation: u64, statement: &str) {
    let file: PathBuf = server.data_dir().join("read-models");
    let file = file.join(format!("{model}.{generation}.db"));
    let connection = rusqlite::Connection::open(file).unwrap();
    connection
        .busy_timeout(std::time::Duration::from_secs(10))
        .unwrap();
    let touched = connection.execute(statement, []);
    assert!(touched.unwrap() > 0, "{statement} touched nothing");
}

async fn in_schema(server: &Server, model: &str, generation: u64, statement: &str) {
    let mut connection = PgConnection::connect(server.setting("DATABASE_URL"))
        .await
        .unwrap();
    let path = format!("SET search_path TO {model}_{generation}");
    connection.execute(path.as_str()).await.unwrap();
    let done = connection.execute(statement).await.unwrap();
    assert!(done.rows_affected() > 0, "{statement} touched nothing");
}

async fn collection_of(
    server: &Server,
    name: &str,
    generation: u64,
) -> mongodb::Collection<Document> {
    let client = mongodb::Client::with_uri_str(server.setting("MONGODB_URL"))
        .await
        .unwrap();
    let database = client.default_database().unwrap();
    database.collection(&format!("{name}_{generation}"))
}

async fn in_redis(server: &Server, generation: u64, script: &str) {
    let client = redis::Client::open(server.setting("REDIS_URL")).unwrap();
    let mut connection = servers::patient_redis(&client).await.unwrap();
    let base = format!(
        "socialhub:{}:counters:{generation}",
        server.setting("NAMESPACE")
    );
    let whole = format!("local posts, people, trending = KEYS[1], KEYS[2], KEYS[3]\n{script}");
    let mut call = redis::cmd("EVAL");
    call.arg(whole).arg(3);
    for part in ["posts", "people", "trending"] {
        call.arg(format!("{base}:{part}"));
    }
    let _: redis::Value = call.query_async(&mut connection).await.unwrap();
}

/// What a command printed, line by line as JSON.
pub fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}
