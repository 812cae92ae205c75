//! People, follows, posts, likes, comments, feed and notifications: each route's good and bad cases.

use reqwest::{Method, Response};
use serde_json::{Value, json};
use socialhub_tests::support::{Client, Server, eventually, server::PATIENCE};

const NOBODY: &str = "0190b5f0-0000-7000-8000-000000000000";

/// GET that waits until the read model has passed another person's last write.
async fn get_after(
    reader: &Client,
    path: &str,
    position: &str,
) -> socialhub_tests::support::Answer {
    reader.get_after(path, position).await.expect_status(200)
}

async fn follow(follower: &Client, followed: &Client, body: Value) {
    follower
        .post(&format!("/users/follow/{}", followed.id), body)
        .await
        .expect_status(200);
}

fn contents(answer: &socialhub_tests::support::Answer) -> Vec<&str> {
    answer
        .list("/posts")
        .iter()
        .map(|post| post["content"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn following_and_ending_it() {
    let server = Server::start().await;
    let (a, b) = (
        server.client().sign_up("fa").await,
        server.client().sign_up("fb").await,
    );
    let path = format!("/users/follow/{}", b.id);
    a.post(&path, Value::Null).await.expect_status(200);
    a.post(&path, Value::Null)
        .await
        .expect_problem(400, "Already following");
    assert_eq!(
        a.post(&format!("/users/follow/{}", a.id), Value::Null)
            .await
            .status,
        400,
        "oneself"
    );
    a.post(&format!("/users/follow/{NOBODY}"), Value::Null)
        .await
        .expect_problem(404, "User not found");
    let profile = a
        .get(&format!("/users/profile/{}", b.id))
        .await
        .expect_status(200);
    assert_eq!(
        (
            profile.at("/user/followersCount"),
            profile.at("/user/isFollowing")
        ),
        (&json!(1), &json!(true))
    );
    let list = a
        .get(&format!("/users/followers/{}", b.id))
        .await
        .expect_status(200);
    assert_eq!(list.text("/followers/0/username"), a.username);
    let list = a
        .get(&format!("/users/following/{}", a.id))
        .await
        .expect_status(200);
    assert_eq!(list.text("/following/0/id"), b.id);

    a.put(&path, json!({ "notify": true }))
        .await
        .expect_status(200);
    let end = format!("/users/unfollow/{}", b.id);
    a.delete(&end).await.expect_status(200);
    a.delete(&end).await.expect_problem(400, "Not following");
    a.delete(&format!("/users/unfollow/{NOBODY}"))
        .await
        .expect_problem(404, "User not found");
    assert_eq!(a.put(&path, json!({ "notify": true })).await.status, 400);
    let profile = a.get(&format!("/users/profile/{}", b.id)).await;
    assert_eq!(profile.at("/user/followersCount"), 0);
    a.post(&path, Value::Null).await.expect_status(200);
    server.verify_all().await;
}

#[tokio::test]
async fn a_profile_is_changed_field_by_field() {
    let server = Server::start().await;
    let me = server.client().sign_up("profile").await;
    let answer = me
        .patch("/users/profile", json!({ "bio": "Reads logs." }))
        .await
        .expect_status(200);
    assert_eq!(answer.text("/user/bio"), "Reads logs.");
    me.patch("/users/profile", json!({ "name": "New Name" }))
        .await
        .expect_status(200);
    let profile = me.get(&format!("/users/profile/{}", me.id)).await;
    assert_eq!(
        (profile.text("/user/name"), profile.text("/user/bio")),
        ("New Name", "Reads logs.")
    );
    me.patch("/users/profile", json!({ "name": "" }))
        .await
        .expect_fields(&["name"]);
    me.get(&format!("/users/profile/{NOBODY}"))
        .await
        .expect_problem(404, "User not found");
    let found = me
        .get(&format!("/users/search?q={}", &me.username[..5]))
        .await
        .expect_status(200);
    assert!(
        found
            .list("/users")
            .iter()
            .any(|user| user["id"] == me.id.as_str()),
        "{}",
        found.json
    );
}

#[tokio::test]
async fn who_may_see_a_post() {
    let server = Server::start().await;
    let author = server.client().sign_up("author").await;
    let (friend, stranger) = (
        server.client().sign_up("friend").await,
        server.client().sign_up("stranger").await,
    );
    follow(&friend, &author, Value::Null).await;
    let public = author.write_post("for all", "public").await;
    let followers = author.write_post("for friends", "followers").await;
    let private = author.write_post("for me", "private").await;
    let seen = author
        .get(&format!("/posts/{private}"))
        .await
        .expect_status(200);
    let position = seen.header("x-position").to_owned();

    let list = format!("/posts/user/{}", author.id);
    assert_eq!(
        contents(&author.get(&list).await),
        ["for me", "for friends", "for all"]
    );
    assert_eq!(
        contents(&get_after(&friend, &list, &position).await),
        ["for friends", "for all"]
    );
    assert_eq!(
        contents(&get_after(&stranger, &list, &position).await),
        ["for all"]
    );
    assert_eq!(
        contents(&get_after(&friend, "/api/feed/", &position).await),
        ["for friends", "for all"]
    );
    stranger
        .get(&format!("/posts/{public}"))
        .await
        .expect_status(200);
    for hidden in [&followers, &private] {
        stranger
            .get(&format!("/posts/{hidden}"))
            .await
            .expect_problem(404, "Post not found");
        stranger
            .post(&format!("/posts/{hidden}/like"), Value::Null)
            .await
            .expect_problem(404, "Post not found");
        let comment = json!({ "comment": "hm" });
        stranger
            .post(&format!("/posts/{hidden}/comment"), comment)
            .await
            .expect_problem(404, "Post not found");
        stranger
            .get(&format!("/posts/{hidden}/comments"))
            .await
            .expect_problem(404, "Post not found");
    }
    friend
        .post(&format!("/posts/{followers}/like"), Value::Null)
        .await
        .expect_status(200);
}

#[tokio::test]
async fn a_deleted_post_is_gone_everywhere() {
    let server = Server::start().await;
    let (author, reader) = (
        server.client().sign_up("gone").await,
        server.client().sign_up("reader").await,
    );
    follow(&reader, &author, json!({ "notify": true })).await;
    let post = author.write_post("soon gone", "public").await;
    reader
        .post(&format!("/posts/{post}/like"), Value::Null)
        .await
        .expect_status(200);
    let comment = reader
        .post(
            &format!("/posts/{post}/comment"),
            json!({ "comment": "nice" }),
        )
        .await
        .expect_status(201);
    reader
        .delete(&format!("/posts/{post}"))
        .await
        .expect_status(403);
    author
        .delete(&format!("/posts/{NOBODY}"))
        .await
        .expect_problem(404, "Post not found");
    let answer = author
        .delete(&format!("/posts/{post}"))
        .await
        .expect_status(204);
    let position = answer.header("x-position").to_owned();
    author
        .delete(&format!("/posts/{post}"))
        .await
        .expect_problem(404, "Post not found");

    for client in [&author, &reader] {
        assert!(contents(&get_after(client, "/api/feed/", &position).await).is_empty());
        assert!(contents(&get_after(client, "/api/feed/trending", &position).await).is_empty());
        assert!(
            contents(&get_after(client, &format!("/posts/user/{}", author.id), &position).await)
                .is_empty()
        );
        let notifications = get_after(client, "/notify/notifications", &position).await;
        let about_it = notifications
            .list("/notifications")
            .iter()
            .filter(|n| n["metadata"]["postId"] == post.as_str());
        assert_eq!(about_it.count(), 0, "{}", notifications.json);
        client
            .get(&format!("/posts/{post}"))
            .await
            .expect_problem(404, "Post not found");
    }
    let profile = author.get(&format!("/users/profile/{}", author.id)).await;
    assert_eq!(profile.at("/user/postsCount"), 0);
    let comment = format!("/posts/{post}/comments/{}", comment.text("/comment/id"));
    assert_eq!(reader.delete(&comment).await.status, 404);
    server.verify_all().await;
}

#[tokio::test]
async fn liking_sets_or_toggles() {
    let server = Server::start().await;
    let me = server.client().sign_up("liker").await;
    let post = me.write_post("like me", "public").await;
    let path = format!("/posts/{post}/like");
    for _ in 0..2 {
        assert_eq!(
            me.put(&path, Value::Null)
                .await
                .expect_status(200)
                .at("/liked"),
            true
        );
    }
    assert_eq!(
        me.get(&format!("/posts/{post}"))
            .await
            .expect_status(200)
            .at("/post/likeCount"),
        1
    );
    for _ in 0..2 {
        assert_eq!(
            me.delete(&path).await.expect_status(200).at("/liked"),
            false
        );
    }
    assert_eq!(
        me.get(&format!("/posts/{post}"))
            .await
            .expect_status(200)
            .at("/post/likeCount"),
        0
    );
    me.put(&format!("/posts/{NOBODY}/like"), Value::Null)
        .await
        .expect_problem(404, "Post not found");
}

#[tokio::test]
async fn comments_are_the_authors_or_the_posts_to_delete() {
    let server = Server::start().await;
    let client = server.client();
    let (author, guest, other) = (
        client.sign_up("host").await,
        client.sign_up("guest").await,
        client.sign_up("other").await,
    );
    let post = author.write_post("discuss", "public").await;
    let path = format!("/posts/{post}/comment");
    let mut ids = Vec::new();
    for text in ["one", "two", "three"] {
        let answer = guest
            .post(&path, json!({ "comment": text }))
            .await
            .expect_status(201);
        ids.push(answer.text("/comment/id").to_owned());
    }
    guest
        .post(&path, json!({ "comment": "" }))
        .await
        .expect_fields(&["comment"]);
    guest
        .post(&path, json!({ "comment": "x".repeat(2001) }))
        .await
        .expect_fields(&["comment"]);
    guest
        .post(&path, json!({}))
        .await
        .expect_fields(&["comment"]);
    let comment = |index: usize| format!("/posts/{post}/comments/{}", ids[index]);
    assert_eq!(other.delete(&comment(0)).await.status, 403);
    let own = guest.delete(&comment(0)).await;
    assert!((200..300).contains(&own.status));
    assert!((200..300).contains(&author.delete(&comment(1)).await.status));
    assert_eq!(author.delete(&comment(1)).await.status, 404, "twice");
    let list = author
        .get(&format!("/posts/{post}/comments"))
        .await
        .expect_status(200);
    let texts: Vec<_> = list
        .list("/comments")
        .iter()
        .map(|comment| comment["comment"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["three"]);
    assert_eq!(
        author
            .get(&format!("/posts/{post}"))
            .await
            .at("/post/commentCount"),
        1
    );
    server.verify_all().await;
}

#[tokio::test]
async fn bad_posts_name_their_field() {
    let server = Server::start().await;
    let me = server.client().sign_up("badpost").await;
    me.post("/posts/", json!({ "content": "", "visibility": "public" }))
        .await
        .expect_fields(&["content"]);
    me.post("/posts/", json!({ "content": "x".repeat(10_001) }))
        .await
        .expect_fields(&["content"]);
    me.post(
        "/posts/",
        json!({ "content": "x", "visibility": "everyone" }),
    )
    .await
    .expect_fields(&["visibility"]);
    me.post("/posts/", json!({ "content": 7, "visibility": 8 }))
        .await
        .expect_fields(&["content", "visibility"]);
    me.post("/posts/", json!({ "content": "é".repeat(10_000) }))
        .await
        .expect_status(201);
    let default = me
        .post("/posts/", json!({ "content": "plain" }))
        .await
        .expect_status(201);
    assert_eq!(default.text("/post/visibility"), "public");
    assert!(default.text("/post/createdAt").ends_with('Z'));
}

#[tokio::test]
async fn the_answer_to_a_new_post_is_the_post_as_it_is_read() {
    let server = Server::start().await;
    let me = server.client().sign_up("fresh").await;
    let avatar = json!({ "avatar": "https://example.com/me.png" });
    me.patch("/users/profile", avatar.clone())
        .await
        .expect_status(200);
    me.get(&format!("/users/profile/{}", me.id))
        .await
        .expect_status(200);
    let written = me
        .post("/posts/", json!({ "content": "same" }))
        .await
        .expect_status(201);
    let read = me
        .get(&format!("/posts/{}", written.text("/post/id")))
        .await
        .expect_status(200);
    assert_eq!(written.at("/post"), read.at("/post"));
    assert_eq!(read.at("/post/avatar"), &avatar["avatar"]);
}

#[tokio::test]
async fn lists_are_paged_by_number_and_by_cursor() {
    let server = Server::start().await;
    let (me, author) = (
        server.client().sign_up("pager").await,
        server.client().sign_up("paged").await,
    );
    follow(&me, &author, Value::Null).await;
    let mut position = String::new();
    for index in 0..25 {
        let answer = author
            .post("/posts/", json!({ "content": format!("post {index}") }))
            .await
            .expect_status(201);
        answer.header("x-position").clone_into(&mut position);
    }
    let wanted: Vec<_> = (0..25).rev().map(|index| format!("post {index}")).collect();
    for base in ["/api/feed/", &format!("/posts/user/{}", author.id)] {
        let mut seen = Vec::new();
        let mut next = format!("{base}?limit=10");
        loop {
            let page = get_after(&me, &next, &position).await;
            seen.extend(contents(&page).into_iter().map(ToOwned::to_owned));
            let Some(cursor) = page.at("/nextCursor").as_str() else {
                break;
            };
            assert!(
                page.header("link").contains("rel=\"next\""),
                "{:?}",
                page.headers
            );
            next = format!("{base}?limit=10&cursor={cursor}");
        }
        assert_eq!(seen, wanted, "{base} by cursor");
        let third = get_after(&me, &format!("{base}?limit=10&page=3"), &position).await;
        assert_eq!(contents(&third), wanted[20..], "{base} by number");
    }
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("page=0", "page"),
        ("cursor=zzz", "cursor"),
    ] {
        me.get(&format!("/api/feed/?{query}"))
            .await
            .expect_fields(&[field]);
    }
}

/// Three people and a post: `fan` and `other` follow `me`, `fan` likes (and unlikes, and likes) and comments.
struct Story {
    server: Server,
    me: Client,
    fan: Client,
    other: Client,
    post: String,
    /// Where the log stood after it all.
    position: String,
}

impl Story {
    async fn tell() -> Self {
        let server = Server::start().await;
        let client = server.client();
        let (me, fan, other) = (
            client.sign_up("me").await,
            client.sign_up("fan").await,
            client.sign_up("third").await,
        );
        follow(&fan, &me, json!({ "notify": true })).await;
        follow(&other, &me, Value::Null).await;
        let post = me.write_post("told", "public").await;
        me.write_post("told nobody", "private").await;
        for _ in 0..3 {
            fan.post(&format!("/posts/{post}/like"), Value::Null)
                .await
                .expect_status(200);
        }
        me.post(&format!("/posts/{post}/like"), Value::Null)
            .await
            .expect_status(200);
        let path = format!("/posts/{post}/comment");
        let answer = fan
            .post(&path, json!({ "comment": "yes" }))
            .await
            .expect_status(201);
        let position = answer.header("x-position").to_owned();
        Self {
            server,
            me,
            fan,
            other,
            post,
            position,
        }
    }

    async fn notifications(&self, of: &Client) -> socialhub_tests::support::Answer {
        get_after(of, "/notify/notifications", &self.position).await
    }
}

#[tokio::test]
async fn notifications_tell_what_happened_to_whom_it_concerns() {
    let story = Story::tell().await;
    let (me, fan, other) = (&story.me, &story.fan, &story.other);
    let list = story.notifications(me).await;
    let notifications = list.list("/notifications");
    let texts: Vec<_> = notifications
        .iter()
        .map(|n| n["message"].as_str().unwrap())
        .collect();
    let wanted = [
        format!("{} commented on your post", fan.username),
        format!("{} liked your post", fan.username),
        "Your post is live".to_owned(),
        format!("{} started following you", other.username),
        format!("{} started following you", fan.username),
    ];
    assert_eq!(texts, wanted);
    assert_eq!(list.at("/unreadCount"), 5);
    let told = story.notifications(fan).await;
    let wanted = format!("{} shared a new post", me.username);
    assert_eq!(told.text("/notifications/0/message"), wanted);
    assert!(
        story
            .notifications(other)
            .await
            .list("/notifications")
            .is_empty()
    );
}

#[tokio::test]
async fn what_one_has_written_one_reads_at_once() {
    let server = Server::start().await;
    let me = server.client().sign_up("writer").await;
    let path = format!("/posts/user/{}?limit=100", me.id);
    let mut waited = 0;
    for count in 1..=20 {
        let body = json!({ "content": "mine", "visibility": "private" });
        let written = me.post("/posts/", body).await.expect_status(201);
        let mut read = me.get_as_is(&path).await;
        // A machine may be too slow for that; then it says so.
        if read.is_stale() {
            waited += 1;
            read = me.get_after(&path, written.header("x-position")).await;
        }
        let read = read.expect_status(200);
        assert_eq!(read.text("/posts/0/id"), written.text("/post/id"));
        assert_eq!(read.list("/posts").len(), count);
    }
    assert!(waited < 10, "stale {waited} times of 20");
}

#[tokio::test]
async fn notifications_keep_their_marks() {
    let story = Story::tell().await;
    let (me, fan) = (&story.me, &story.fan);
    let list = story.notifications(me).await;
    let path = |index: usize| {
        format!(
            "/notify/notifications/{}",
            list.text(&format!("/notifications/{index}/id"))
        )
    };
    for _ in 0..2 {
        me.patch(&format!("{}/read", path(0)), Value::Null)
            .await
            .expect_status(200);
    }
    let read = fan.patch(&format!("{}/read", path(1)), Value::Null).await;
    assert_eq!(
        (read.status, fan.delete(&path(1)).await.status),
        (404, 404),
        "another's"
    );
    me.delete(&path(1)).await.expect_status(204);
    assert_eq!(me.delete(&path(1)).await.status, 404, "twice");
    let counted = async |query: &str| {
        let list = me
            .get(&format!("/notify/notifications{query}"))
            .await
            .expect_status(200);
        (
            list.list("/notifications").len(),
            list.at("/unreadCount").clone(),
        )
    };
    assert_eq!(counted("?unread=true").await, (3, json!(3)));
    me.patch("/notify/notifications/read-all", Value::Null)
        .await
        .expect_status(200);
    assert_eq!(counted("").await, (4, json!(0)));
    // What was removed does not come back when it happens again.
    for _ in 0..2 {
        let path = format!("/posts/{}/like", story.post);
        fan.post(&path, Value::Null).await.expect_status(200);
    }
    let position = fan
        .post(&format!("/posts/{}/like", story.post), Value::Null)
        .await;
    let again = get_after(me, "/notify/notifications", position.header("x-position")).await;
    assert_eq!(again.list("/notifications").len(), 4);
    story.server.verify_all().await;
}

#[tokio::test]
async fn trending_puts_the_liked_first() {
    let server = Server::start().await;
    let (author, fan) = (
        server.client().sign_up("trend").await,
        server.client().sign_up("trendfan").await,
    );
    let quiet = author.write_post("quiet", "public").await;
    let loud = author.write_post("loud", "public").await;
    let hidden = author.write_post("hidden", "private").await;
    for person in [&author, &fan] {
        person
            .put(&format!("/posts/{loud}/like"), Value::Null)
            .await
            .expect_status(200);
    }
    author
        .put(&format!("/posts/{hidden}/like"), Value::Null)
        .await
        .expect_status(200);
    author
        .put(&format!("/posts/{quiet}/like"), Value::Null)
        .await
        .expect_status(200);
    let list = author.get("/api/feed/trending").await.expect_status(200);
    assert_eq!(contents(&list), ["loud", "quiet"]);
}

/// Opens an event stream. It may be read for longer than an answer is waited for.
pub async fn open_stream(client: &Client, path: &str, last: Option<&str>) -> Response {
    let mut request = client.request(Method::GET, path).timeout(3 * PATIENCE);
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    response
}

/// Reads server-sent events until one says so, answers its (id, data).
pub async fn hear(mut stream: Response, wanted: &str) -> (String, String) {
    let mut text = String::new();
    loop {
        let chunk = stream.chunk().await.unwrap().expect("the stream goes on");
        text.push_str(std::str::from_utf8(&chunk).unwrap());
        while let Some((event, rest)) = text.split_once("\n\n") {
            let field = |name: &str| {
                event
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(|value| value.trim().to_owned())
            };
            if let (Some(id), Some(data)) = (field("id:"), field("data:"))
                && data.contains(wanted)
            {
                return (id, data);
            }
            text = rest.to_owned();
        }
    }
}

/// What a stream tells first after this event, or after now.
async fn next_told(client: &Client, path: &str, last: Option<&str>) -> (String, String) {
    hear(open_stream(client, path, last).await, "").await
}

#[tokio::test]
async fn streams_tell_what_becomes_visible_and_resume() {
    let server = Server::start().await;
    streams_tell(&server.client()).await;
}

/// Follows both streams while things happen.
pub async fn streams_tell(client: &Client) {
    let (me, author) = (
        client.sign_up("streamer").await,
        client.sign_up("streamed").await,
    );
    follow(&me, &author, json!({ "notify": true })).await;
    let (listener, writer) = (me.clone(), author.clone());
    let stream = tokio::spawn(async move { next_told(&listener, "/api/feed/stream", None).await });
    // The stream starts at the present, so posts are written until the first one has been told.
    let writing = eventually("the stream tells of a post", || {
        let writer = writer.clone();
        let done = stream.is_finished();
        async move {
            if done {
                return Some(());
            }
            writer.write_post("told live", "public").await;
            None
        }
    });
    writing.await;
    let first = stream.await.unwrap();
    let later = author.write_post("told later", "public").await;
    let mut last = first.0;
    loop {
        let (id, data) = next_told(&me, "/api/feed/stream", Some(&last)).await;
        last = id;
        if data.contains(&later) {
            break;
        }
    }
    let (listener, writer) = (author.clone(), me.clone());
    // What was notified before may become visible late, and is told first then.
    let stream = tokio::spawn(async move {
        let mut last = None;
        loop {
            let (id, data) = next_told(&listener, "/notify/stream", last.as_deref()).await;
            if data.contains("commented on your post") {
                break;
            }
            last = Some(id);
        }
    });
    eventually("the stream tells of a notification", || {
        let writer = writer.clone();
        let done = stream.is_finished();
        let later = later.clone();
        let author = author.id.clone();
        async move {
            if done {
                return Some(());
            }
            writer
                .post(
                    &format!("/posts/{later}/comment"),
                    json!({ "comment": format!("hello {author}") }),
                )
                .await;
            None
        }
    })
    .await;
    stream.await.unwrap();
}
