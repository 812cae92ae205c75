//! People to act as, and the posts, follows and comments that a row needs before it begins: all made through the
//! public API, as fast as the server takes them.

use std::cell::{Cell, RefCell};

use futures::future::try_join_all;
use serde_json::{Value, json};

use crate::client::{Answer, BenchError, Target};

/// Connections that preparations use.
const CONNECTIONS: usize = 64;

/// The password of everybody.
pub const PASSWORD: &str = "Correct-Horse-7";

/// Somebody who has signed up.
#[derive(Debug, Clone)]
pub struct Person {
    /// Their id.
    pub id: String,
    /// Their username.
    pub username: String,
    /// A token of theirs.
    pub token: String,
}

/// Sends `count` requests over many connections, in order of their numbers but not one after the other. Every answer
/// must be a 2xx.
///
/// # Errors
/// The first answer that is none; a connection that breaks.
pub async fn bulk(
    target: &Target,
    count: usize,
    request: impl Fn(usize) -> Vec<u8>,
    each: impl FnMut(usize, &Answer<'_>) -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    let next = Cell::new(0);
    let each = RefCell::new(each);
    let workers = (0..CONNECTIONS.min(count)).map(|_| async {
        let mut connection = target.connect().await?;
        while next.get() < count {
            let number = next.replace(next.get() + 1);
            let answer = connection.send(&request(number)).await?;
            if !(200..300).contains(&answer.status) {
                answer.success()?;
            }
            let mut each = each.borrow_mut();
            (*each)(number, &answer)?;
        }
        Ok::<(), BenchError>(())
    });
    try_join_all(workers).await?;
    Ok(())
}

/// The text at a place of an answer.
///
/// # Errors
/// When there is none.
pub fn text_at(answer: &Value, pointer: &str) -> Result<String, BenchError> {
    let text = answer.pointer(pointer).and_then(Value::as_str);
    text.map(str::to_owned)
        .ok_or_else(|| BenchError::answer(format!("no {pointer} in {answer}")))
}

/// Signs up `count` people whose names begin with `prefix`. Costs one bcrypt hash each.
///
/// # Errors
/// When one is refused.
pub async fn sign_up(
    target: &Target,
    prefix: &str,
    count: usize,
) -> Result<Vec<Person>, BenchError> {
    let mut people: Vec<Option<Person>> = vec![None; count];
    let request = |number: usize| {
        let username = format!("{prefix}-{number}");
        let body = json!({
            "name": format!("Bench {number}"),
            "email": format!("{username}@bench.example"),
            "username": username,
            "password": PASSWORD,
        });
        target.json("POST", "/auth/signup", None, &body)
    };
    bulk(target, count, request, |number, answer| {
        let body = answer.json()?;
        people[number] = Some(Person {
            id: text_at(&body, "/user/id")?,
            username: text_at(&body, "/user/username")?,
            token: text_at(&body, "/token")?,
        });
        Ok(())
    })
    .await?;
    Ok(people.into_iter().flatten().collect())
}

/// Remembers the highest `X-Position` of many answers.
#[derive(Debug, Default)]
pub struct Furthest(pub u64);

impl Furthest {
    /// Takes note of an answer.
    pub fn note(&mut self, answer: &Answer<'_>) {
        let position = answer.header("x-position").and_then(|p| p.parse().ok());
        self.0 = self.0.max(position.unwrap_or(0));
    }
}

/// A post's text of the usual length.
pub fn post_body(number: usize) -> Value {
    json!({
        "content": format!("Post {number}: coffee in the garden, the rain is over, and somebody plays the piano \
            two houses down. This is about as long as posts are."),
        "visibility": "public",
    })
}

/// Lets people post in turns until there are `count` posts; answers their ids and where the log stood.
///
/// # Errors
/// When one is refused.
pub async fn write_posts(
    target: &Target,
    authors: &[Person],
    count: usize,
) -> Result<(Vec<String>, u64), BenchError> {
    let mut ids = vec![String::new(); count];
    let mut furthest = Furthest::default();
    let request = |number: usize| {
        let token = &authors[number % authors.len()].token;
        target.json("POST", "/posts/", Some(token), &post_body(number))
    };
    bulk(target, count, request, |number, answer| {
        furthest.note(answer);
        ids[number] = text_at(&answer.json()?, "/post/id")?;
        Ok(())
    })
    .await?;
    Ok((ids, furthest.0))
}

/// Lets each follower follow everybody of `followed`; answers where the log stood.
///
/// # Errors
/// When one is refused.
pub async fn follow_all(
    target: &Target,
    followers: &[Person],
    followed: &[Person],
) -> Result<u64, BenchError> {
    let mut furthest = Furthest::default();
    let request = |number: usize| {
        let follower = &followers[number % followers.len()];
        let path = format!("/users/follow/{}", followed[number / followers.len()].id);
        target.request("POST", &path, Some(&follower.token), None)
    };
    let count = followers.len() * followed.len();
    bulk(target, count, request, |_, answer| {
        furthest.note(answer);
        Ok(())
    })
    .await?;
    Ok(furthest.0)
}

/// Lets people comment on a post in turns; answers where the log stood.
///
/// # Errors
/// When one is refused.
pub async fn write_comments(
    target: &Target,
    people: &[Person],
    post: &str,
    count: usize,
) -> Result<u64, BenchError> {
    let mut furthest = Furthest::default();
    let path = format!("/posts/{post}/comment");
    let request = |number: usize| {
        let token = &people[number % people.len()].token;
        let body = json!({"comment": format!("Comment {number}: so true!")});
        target.json("POST", &path, Some(token), &body)
    };
    bulk(target, count, request, |_, answer| {
        furthest.note(answer);
        Ok(())
    })
    .await?;
    Ok(furthest.0)
}

/// Asks for a path until the read model behind it has reached a position; answers the body.
///
/// # Errors
/// When an answer is no 2xx.
pub async fn read_at(
    target: &Target,
    path: &str,
    token: &str,
    position: u64,
) -> Result<Value, BenchError> {
    let plain = target.get(path, token);
    let mut request = plain[..plain.len() - 2].to_vec();
    request.extend_from_slice(format!("X-Min-Position: {position}\r\n\r\n").as_bytes());
    let mut connection = target.connect().await?;
    loop {
        let answer = connection.send(&request).await?;
        if answer.header("x-stale").is_none() {
            return answer.success();
        }
        // The server waits for its model by itself, up to its own patience; this only keeps a server that gives up at
        // once from being asked in a tight loop.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
