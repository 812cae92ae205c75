//! A person is erased: what is left of them, in every answer, every file and every store.

use std::{collections::BTreeMap, fs, path::Path};

use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use socialhub_domain::Topic;
use socialhub_infra::kafka::KafkaSettings;
use socialhub_tests::support::{
    Client, Profile, Server,
    client::{PASSWORD, fresh_name},
    eventually,
    profile::is_split,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::kafka::topic::kcat;

/// Somebody with words that nobody else uses, and a friend.
struct Story {
    eve: Client,
    bob: Client,
    email: String,
    /// Eve's, with a file; Bob's, with a comment of Eve's.
    post: String,
    post_of_bob: String,
    media: String,
    room: String,
}

/// What only Eve wrote, or is called by.
const WORDS: [&str; 8] = [
    "Evelyn Unmistakable",
    "qlorbio",
    "qlorpost",
    "qlorcomment",
    "qlorchat",
    "qlorfile",
    "qlorname.png",
    "qlorlater",
];

impl Story {
    /// Everything that is to be looked for.
    fn words(&self) -> Vec<String> {
        let words = WORDS.iter().map(|word| (*word).to_owned());
        words
            .chain([self.eve.username.clone(), self.email.clone()])
            .collect()
    }

    async fn tell(server: &Server) -> Self {
        let anonymous = server.client();
        let bob = anonymous.sign_up("bob").await;
        let username = fresh_name("qlorva");
        let email = format!("{username}@qlor.example");
        let body = json!({
            "name": WORDS[0], "email": email, "username": username, "password": PASSWORD,
        });
        let request = anonymous
            .request(Method::POST, "/auth/signup")
            .header("idempotency-key", "sign-up");
        let answer = anonymous.send(request.json(&body)).await.expect_status(201);
        let eve = anonymous.with_token(answer.text("/user/id"), &username, answer.text("/token"));
        eve.patch("/users/profile", json!({ "bio": WORDS[1] }))
            .await
            .expect_status(200);
        let (post, media) = post_with_file(&eve).await;
        let avatar = json!({ "avatar": media });
        eve.patch("/users/profile", avatar).await.expect_status(200);
        let post_of_bob = bob.write_post("from bob", "public").await;
        let mut story = Self {
            room: format!("room-{}", eve.id),
            email,
            post,
            post_of_bob,
            media,
            eve,
            bob,
        };
        story.meet().await;
        story.room = chat(&story.eve, WORDS[4]).await;
        anonymous
            .post("/auth/request-reset", json!({ "email": story.email }))
            .await
            .expect_status(200);
        story
    }

    /// They follow each other, like and comment.
    async fn meet(&self) {
        let (eve, bob) = (&self.eve, &self.bob);
        for (who, whom) in [(eve, bob), (bob, eve)] {
            who.post(
                &format!("/users/follow/{}", whom.id),
                json!({ "notify": true }),
            )
            .await
            .expect_status(200);
        }
        for (who, post, comment) in [
            (eve, &self.post_of_bob, WORDS[3]),
            (bob, &self.post, "bob is here"),
        ] {
            let request = who
                .request(Method::POST, &format!("/posts/{post}/comment"))
                .header("idempotency-key", "the-comment");
            who.send(request.json(&json!({ "comment": comment })))
                .await
                .expect_status(201);
            who.put(&format!("/posts/{post}/like"), Value::Null)
                .await
                .expect_status(200);
        }
        eve.write_post(WORDS[7], "followers").await;
    }

    /// What Bob sees, for comparing.
    async fn seen(&self) -> Vec<Value> {
        let mut seen = Vec::new();
        for path in [
            format!("/posts/{}", self.post),
            format!("/posts/{}/comments", self.post),
            format!("/posts/{}/comments", self.post_of_bob),
            format!("/posts/{}", self.post_of_bob),
            format!("/users/profile/{}", self.bob.id),
            format!("/users/followers/{}", self.bob.id),
            "/api/feed/".to_owned(),
            "/notify/notifications".to_owned(),
        ] {
            seen.push(self.bob.get(&path).await.expect_status(200).json);
        }
        seen
    }
}

pub async fn post_with_file(eve: &Client) -> (String, String) {
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0".to_vec();
    png.extend_from_slice(WORDS[5].as_bytes());
    let file = Part::bytes(png).file_name(WORDS[6]);
    let form = Form::new()
        .text("content", WORDS[2])
        .text("visibility", "public")
        .part("files", file);
    let answer = eve.post_form("/posts/", form).await.expect_status(201);
    let media = answer.text("/post/mediaUrls/0").to_owned();
    (answer.text("/post/id").to_owned(), media)
}

/// Says something in a room, by the polling transport of Engine.IO; answers the room.
async fn chat(who: &Client, text: &str) -> String {
    let room = format!("room-{}", who.id);
    let path = "/socket.io/?EIO=4&transport=polling";
    let open = who.get(path).await.expect_status(200);
    let open = String::from_utf8(open.bytes).unwrap();
    let open: Value = serde_json::from_str(open.strip_prefix('0').unwrap()).unwrap();
    let path = format!("{path}&sid={}", open["sid"].as_str().unwrap());
    let say = async |packet: String| {
        let request = who.request(Method::POST, &path);
        who.send(request.body(packet)).await.expect_status(200);
    };
    let hear = async |wanted: &str| {
        eventually("the chat answers", || async {
            let heard = who.get(&path).await.expect_status(200);
            String::from_utf8(heard.bytes)
                .unwrap()
                .contains(wanted)
                .then_some(())
        })
        .await;
    };
    say(format!("40{}", json!({ "token": who.token }))).await;
    hear("40{").await;
    say(format!("420{}", json!(["join_room", { "roomId": room }]))).await;
    hear("\"ok\":true").await;
    say(format!(
        "421{}",
        json!(["send_message", { "roomId": room, "message": text, "clientId": "qlorchat-1" }])
    ))
    .await;
    hear("431").await;
    room
}

pub async fn erase(who: &Client, password: &str) -> socialhub_tests::support::client::Answer {
    let request = who.request(Method::DELETE, "/users/me");
    who.send(request.json(&json!({ "password": password })))
        .await
}

/// Until the program says that it is done everywhere.
pub async fn erased_everywhere(server: &Server, id: &str) {
    eventually("the erasure is complete", || async {
        let log = server.log();
        let mut lines = log.lines();
        lines
            .any(|line| line.contains("the erasure is complete") && line.contains(id))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn nothing_is_left_of_somebody_who_is_erased_and_counts_stay() {
    let mut server = Server::start().await;
    let story = Story::tell(&server).await;
    let (eve, bob) = (&story.eve, &story.bob);
    // A generation that is kept for a rollback, with all of it. Readers may use it for a second more.
    server.caught_up().await;
    server.succeed(&["replay", "rebuild", "--all"]).await;
    let before = story.seen().await;
    let found = search(&server, &story.words()).await;
    for word in [WORDS[2], WORDS[4], WORDS[5], &story.email] {
        assert!(found.contains_key(word), "{word} is nowhere to begin with");
    }

    erase(eve, "not her password")
        .await
        .expect_problem(401, "Invalid credentials");
    erase(eve, PASSWORD).await.expect_status(204);
    // At once: no token, no login, the name is free.
    // Other processes than the one that erases know within a second that the token counts no more.
    eventually("her token counts nowhere", || async {
        let answers = [eve.get("/auth/me").await, erase(eve, PASSWORD).await];
        let refused = answers.iter().all(|answer| answer.status == 401);
        assert!(is_split() || refused, "{answers:?}");
        refused.then_some(())
    })
    .await;
    let log_in = json!({ "identifier": story.email, "password": PASSWORD });
    server
        .client()
        .post("/auth/login", log_in)
        .await
        .expect_problem(401, "Invalid credentials");

    erased_everywhere(&server, &eve.id).await;
    let after = story.seen().await;
    check_answers(&story, &before, &after).await;
    server.verify_all().await;
    server.succeed(&["replay", "rebuild", "--all"]).await;
    server.verify_all().await;
    assert_eq!(story.seen().await, after, "a rebuilt model shows the same");

    assert_eq!(search(&server, &story.words()).await, BTreeMap::new());
    assert!(server.stop().await, "{}", server.log());
    assert_eq!(search(&server, &story.words()).await, BTreeMap::new());
    server.restart().await;
    eve.get("/auth/me").await.expect_status(401);
    // Somebody else may have the name now, and is not taken for her.
    let sign_up = json!({
        "name": "Another", "email": story.email, "username": eve.username, "password": PASSWORD,
    });
    let other = server.client().post("/auth/signup", sign_up).await;
    assert_ne!(other.expect_status(201).text("/user/id"), eve.id);
    let seen = bob.get(&format!("/posts/{}", story.post)).await;
    assert_eq!(seen.text("/post/username"), "[erased]");
}

/// Texts are tombstones, and whatever is counted is as it was.
async fn check_answers(story: &Story, before: &[Value], after: &[Value]) {
    let (eve, bob) = (&story.eve, &story.bob);
    for path in [
        format!("/users/profile/{}", eve.id),
        format!("/users/followers/{}", eve.id),
        format!("/posts/user/{}", eve.id),
    ] {
        bob.get(&path).await.expect_status(404);
    }
    bob.post(&format!("/users/follow/{}", eve.id), Value::Null)
        .await
        .expect_status(404);
    let found = bob
        .get(&format!("/users/search?q={}", eve.username))
        .await
        .expect_status(200);
    assert_eq!(found.list("/users").len(), 0);
    let found = bob.get("/users/search?q=%5Berased").await;
    assert_eq!(found.list("/users").len(), 0);
    bob.get(&story.media).await.expect_status(404);

    let words = story.words();
    let shown = json!(after).to_string();
    for word in &words {
        assert!(!shown.contains(word), "{word}: {shown}");
    }
    let post = &after[0]["post"];
    assert_eq!(post["username"], "[erased]");
    assert_eq!(post["content"], "[erased]");
    assert_eq!(post["avatar"], Value::Null);
    assert_eq!(post["media"], json!([]));
    assert_eq!(after[2]["comments"][0]["comment"], "[erased]");
    assert_eq!(after[2]["comments"][0]["username"], "[erased]");
    assert_eq!(after[5]["followers"][0]["username"], "[erased]");
    assert_eq!(after[1], before[1], "bob's own comment stays");
    for (part, pointer) in [
        (0, "/post/likeCount"),
        (0, "/post/commentCount"),
        (3, "/post/likeCount"),
        (3, "/post/commentCount"),
        (4, "/user/followersCount"),
        (4, "/user/followingCount"),
        (7, "/unreadCount"),
    ] {
        let count = before[part].pointer(pointer).unwrap();
        assert_eq!(after[part].pointer(pointer), Some(count), "{pointer}");
        assert!(count.as_u64().unwrap() > 0, "{pointer}");
    }
    for (part, pointer) in [(6, "/posts"), (7, "/notifications")] {
        let length = |answer: &Value| answer.pointer(pointer).unwrap().as_array().unwrap().len();
        assert_eq!(length(&after[part]), length(&before[part]), "{pointer}");
    }
    assert!(shown.contains("[erased] started following you"), "{shown}");
    assert!(shown.contains("[erased] commented on your post"), "{shown}");
    let said = bob
        .get(&format!("/chat/rooms/{}/messages", story.room))
        .await
        .expect_status(200);
    assert_eq!(said.text("/messages/0/message"), "[erased]");
    assert_eq!(said.text("/messages/0/username"), "[erased]");
}

/// A post whose body has begun and not ended: the text and the file's first half are there.
async fn begin_upload(server: &Server, who: &Client) -> TcpStream {
    let part = |name: &str, more: &str| {
        format!("--cut\r\ncontent-disposition: form-data; name=\"{name}\"{more}\r\n\r\n")
    };
    let file = "; filename=\"qlorname.png\"\r\ncontent-type: image/png";
    let begin = format!("{}qlorpost\r\n{}", part("content", ""), part("files", file));
    let head = format!(
        "POST /posts/ HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nidempotency-key: slow\r\n\
         content-type: multipart/form-data; boundary=cut\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
        who.token
    );
    let mut stream = TcpStream::connect(("127.0.0.1", server.port()))
        .await
        .unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0qlorfile";
    let body = [begin.as_bytes(), png, &[b'.'; 1_000_000]].concat();
    send_chunk(&mut stream, &body).await;
    stream
}

async fn send_chunk(stream: &mut TcpStream, body: &[u8]) {
    let size = format!("{:x}\r\n", body.len());
    let chunk = [size.as_bytes(), body, b"\r\n"].concat();
    stream.write_all(&chunk).await.unwrap();
}

#[tokio::test]
async fn a_request_that_ends_after_its_senders_erasure_leaves_nothing() {
    let server = Server::start().await;
    let eve = server.client().sign_up("qlorva").await;
    let words = ["qlorpost", "qlorfile", "qlorname", &eve.username].map(str::to_owned);
    let mut stream = begin_upload(&server, &eve).await;
    eventually("the file is on its way", || async {
        let found = search(&server, &words).await;
        found.contains_key("qlorfile").then_some(())
    })
    .await;
    erase(&eve, PASSWORD).await.expect_status(204);
    erased_everywhere(&server, &eve.id).await;
    send_chunk(&mut stream, b"\r\n--cut--\r\n").await;
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(answer.contains("\"error\":\"Unauthorized\""), "{answer}");
    assert_eq!(search(&server, &words).await, BTreeMap::new());
    server.verify_all().await;
}

#[tokio::test]
async fn an_erasure_goes_on_after_a_kill() {
    let mut server = Server::start().await;
    let story = Story::tell(&server).await;
    erase(&story.eve, PASSWORD).await.expect_status(204);
    server.restart().await;
    story.eve.get("/auth/me").await.expect_status(401);
    erased_everywhere(&server, &story.eve.id).await;
    assert_eq!(search(&server, &story.words()).await, BTreeMap::new());
    server.verify_all().await;
}

/// What everybody can read on the topics of a server.
fn on_the_topics(server: &Server) -> String {
    let settings = KafkaSettings {
        topic_prefix: format!("{}.", server.setting("NAMESPACE")),
        ..KafkaSettings::new(server.setting("KAFKA_BROKERS"))
    };
    let records = Topic::ALL.map(|topic| json!(kcat(&settings, topic)).to_string());
    records.concat()
}

#[tokio::test]
async fn topics_forget_when_their_retention_has_passed_and_everything_goes_on() {
    let mut environment = Profile::Distributed.environment().await;
    environment.push(("KAFKA_RETENTION_SECONDS".to_owned(), "10".to_owned()));
    let mut server = Server::start_in(&["--rate-limits", "off"], environment).await;
    let anonymous = server.client();
    let (eve, bob) = (
        anonymous.sign_up("qlorva").await,
        anonymous.sign_up("bob").await,
    );
    eve.write_post("qlorpost", "public").await;
    eventually("the post is published", || async {
        on_the_topics(&server).contains("qlorpost").then_some(())
    })
    .await;
    erase(&eve, PASSWORD).await.expect_status(204);
    erased_everywhere(&server, &eve.id).await;
    eventually("the topics are empty", || async {
        let left = on_the_topics(&server);
        (!left.contains("qlor") && !left.contains(&bob.username)).then_some(())
    })
    .await;
    // A new relay and new projectors find nothing where they had been, and go on behind it.
    server.restart().await;
    let post = bob.write_post("after all that", "public").await;
    let path = format!("/posts/{post}");
    eventually("the post is seen", || async {
        let seen = bob.get_as_is(&path).await;
        if seen.status == 404 {
            assert!(seen.headers.contains_key("x-stale"), "{seen:?}");
            return None;
        }
        let seen = seen.expect_status(200);
        assert_eq!(seen.text("/post/content"), "after all that");
        Some(())
    })
    .await;
    server.verify_all().await;
    // What is not on the topics any more is in the log.
    server.succeed(&["replay", "rebuild", "--all"]).await;
    server.verify_all().await;
}

/// How many erasures `replay status` says are not complete, and how many the log does not know of.
async fn left_to_erase(server: &Server) -> [u64; 2] {
    let status = server.status().await;
    let erasures = &status["erasures"];
    let pending = erasures["pending"].as_u64().unwrap();
    let oldest = erasures["oldest"]["seconds"].as_f64();
    assert_eq!(
        pending > 0,
        oldest.is_some_and(|seconds| seconds > 0.0),
        "{erasures}"
    );
    [pending, erasures["unsaid"].as_u64().unwrap()]
}

#[tokio::test]
async fn who_was_erased_after_a_backup_is_erased_again_when_it_is_restored_with_newer_keys() {
    let server = Server::start().await;
    let story = Story::tell(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let [old, events, new] = ["old", "events", "new"].map(|name| {
        let path = folder.path().join(name);
        path.to_str().unwrap().to_owned()
    });
    server.succeed(&["replay", "export", &old, "--all"]).await;
    server.succeed(&["replay", "export", &events]).await;
    erase(&story.eve, PASSWORD).await.expect_status(204);
    erased_everywhere(&server, &story.eve.id).await;
    server.succeed(&["replay", "export", &new, "--all"]).await;

    let fresh = async || {
        let environment = Profile::chosen().environment().await;
        Server::prepare(&["--rate-limits", "off"], environment)
    };
    let mut restored = fresh().await;
    // Sealed events are of no use without their keys, and another log's keys are none.
    let said = restored.fail(&["replay", "import", &events]).await;
    assert!(
        said.contains("the export has no keys") && said.contains("--keys"),
        "{said}"
    );
    restored
        .succeed(&["replay", "import", &events, "--check"])
        .await;
    let said = restored
        .fail(&["replay", "import", &old, "--keys", &events])
        .await;
    assert!(
        said.contains("has no keys: it was made without --all"),
        "{said}"
    );
    let other = Server::start().await;
    other.client().sign_up("other").await;
    let foreign = folder.path().join("foreign");
    let foreign = foreign.to_str().unwrap();
    other.succeed(&["replay", "export", foreign, "--all"]).await;
    let said = restored
        .fail(&["replay", "import", &old, "--keys", foreign])
        .await;
    assert!(said.contains("is an export of another log"), "{said}");

    // What is kept apart may be gone where it was.
    for entry in fs::read_dir(&old).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("keys-")
        {
            fs::remove_file(path).unwrap();
        }
    }
    let said = restored.fail(&["replay", "import", &old]).await;
    assert!(said.contains("keys-000001.jsonl.zst"), "{said}");
    restored
        .succeed(&["replay", "import", &old, "--keys", &new])
        .await;
    assert_eq!(left_to_erase(&restored).await, [0, 1]);
    restored.restart().await;
    erased_everywhere(&restored, &story.eve.id).await;
    assert_eq!(left_to_erase(&restored).await, [0, 0]);
    let log_in = |name: &str| json!({ "identifier": name, "password": PASSWORD });
    let client = restored.client();
    client
        .post("/auth/login", log_in(&story.eve.username))
        .await
        .expect_problem(401, "Invalid credentials");
    let answer = client
        .post("/auth/login", log_in(&story.bob.username))
        .await;
    let token = answer.expect_status(200).text("/token").to_owned();
    let bob = client.with_token(&story.bob.id, &story.bob.username, &token);
    let post = bob.get(&format!("/posts/{}", story.post)).await;
    assert_eq!(post.expect_status(200).text("/post/content"), "[erased]");
    restored.verify_all().await;
    assert_eq!(search(&restored, &story.words()).await, BTreeMap::new());

    // And a newer log with its own keys is as it was.
    let mut later = fresh().await;
    later.succeed(&["replay", "import", &new]).await;
    assert_eq!(left_to_erase(&later).await, [1, 0]);
    let said = later.succeed(&["replay", "status"]).await;
    assert!(
        said.contains("Erasures that are not complete: 1.") && said.contains(&story.eve.id),
        "{said}"
    );
    later.restart().await;
    erased_everywhere(&later, &story.eve.id).await;
    assert_eq!(left_to_erase(&later).await, [0, 0]);
    assert_eq!(search(&later, &story.words()).await, BTreeMap::new());
    later.verify_all().await;
}

/// Where each word is found, whatever its letters' case: in every file of the data folder, and with servers in every
/// table, collection and key.
pub async fn search(server: &Server, words: &[String]) -> BTreeMap<String, String> {
    let mut places = Vec::new();
    files(&server.data_dir(), &mut places);
    if Profile::chosen() == Profile::Distributed {
        stores::postgres(server.setting("DATABASE_URL"), &mut places).await;
        stores::mongodb(server.setting("MONGODB_URL"), &mut places).await;
        stores::redis(server, &mut places).await;
    }
    let mut found = BTreeMap::new();
    for (place, content) in places {
        let content = content.to_ascii_lowercase();
        for word in words {
            let wanted = word.to_ascii_lowercase();
            if content
                .windows(wanted.len())
                .any(|part| part == wanted.as_bytes())
            {
                found.insert(word.clone(), place.clone());
            }
        }
    }
    found
}

fn files(folder: &Path, places: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // The name counts, too.
        places.push((
            "a name".to_owned(),
            path.to_string_lossy().into_owned().into_bytes(),
        ));
        if path.is_dir() {
            files(&path, places);
        } else if let Ok(content) = fs::read(&path) {
            places.push((path.display().to_string(), content));
        }
    }
}

mod stores {
    use futures::TryStreamExt;
    use mongodb::bson::{Document, doc};
    use redis::aio::MultiplexedConnection;
    use socialhub_tests::support::{Server, servers};
    use sqlx::{Connection, PgConnection};

    type Places = Vec<(String, Vec<u8>)>;

    /// Every row of every table as text; bytes as they are.
    pub async fn postgres(url: &str, places: &mut Places) {
        let mut connection = PgConnection::connect(url).await.unwrap();
        let tables: Vec<(String, String)> = sqlx::query_as(
            "SELECT schemaname::text, tablename::text FROM pg_tables
             WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        sqlx::query("SET bytea_output = 'escape'")
            .execute(&mut connection)
            .await
            .unwrap();
        for (schema, table) in tables {
            let sql = format!("SELECT t::text FROM \"{schema}\".\"{table}\" AS t");
            let rows: Vec<Option<String>> = sqlx::query_scalar(&sql)
                .fetch_all(&mut connection)
                .await
                .unwrap();
            let rows = rows.into_iter().flatten();
            places.extend(rows.map(|row| (format!("{schema}.{table}"), row.into_bytes())));
        }
    }

    pub async fn mongodb(url: &str, places: &mut Places) {
        let client = mongodb::Client::with_uri_str(url).await.unwrap();
        let database = client.default_database().unwrap();
        for name in database.list_collection_names().await.unwrap() {
            let collection = database.collection::<Document>(&name);
            let found = collection.find(doc! {}).await.unwrap();
            let documents: Vec<Document> = found.try_collect().await.unwrap();
            for document in documents {
                places.push((name.clone(), document.to_string().into_bytes()));
            }
        }
    }

    pub async fn redis(server: &Server, places: &mut Places) {
        let client = redis::Client::open(server.setting("REDIS_URL")).unwrap();
        let mut connection = servers::patient_redis(&client).await.unwrap();
        let pattern = format!("*{}*", server.setting("NAMESPACE"));
        let keys: Vec<String> = ask(&mut connection, "KEYS", &[&pattern]).await;
        for key in keys {
            let kind: String = ask(&mut connection, "TYPE", &[&key]).await;
            let values: Vec<Vec<u8>> = match kind.as_str() {
                "string" => vec![ask(&mut connection, "GET", &[&key]).await],
                "hash" => ask(&mut connection, "HGETALL", &[&key]).await,
                "set" => ask(&mut connection, "SMEMBERS", &[&key]).await,
                "list" => ask(&mut connection, "LRANGE", &[&key, "0", "-1"]).await,
                "zset" => ask(&mut connection, "ZRANGE", &[&key, "0", "-1"]).await,
                other => panic!("{key} is a {other}"),
            };
            places.push((key.clone(), key.clone().into_bytes()));
            places.extend(values.into_iter().map(|value| (key.clone(), value)));
        }
    }

    async fn ask<T: redis::FromRedisValue>(
        connection: &mut MultiplexedConnection,
        command: &str,
        arguments: &[&str],
    ) -> T {
        let mut command = redis::cmd(command);
        command.arg(arguments);
        command.query_async(connection).await.unwrap()
    }
}
