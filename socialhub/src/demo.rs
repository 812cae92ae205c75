//! `socialhub demo`: a small believable network, made through the public API like any client would.

use std::time::Duration;

use clap::Args;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

/// Fills a running server with people, follows, posts, likes and comments.
#[derive(Debug, Args)]
pub struct Options {
    /// The server to fill
    #[arg(long, default_value = "http://localhost:8080", value_name = "URL")]
    url: String,
}

/// The people: username, display name, self-description.
const PEOPLE: [(&str, &str, &str); 6] = [
    ("ada", "Ada Lindqvist", "Compilers by day, choir by night."),
    (
        "bruno",
        "Bruno Okafor",
        "Bread, bicycles, distributed systems.",
    ),
    (
        "chiara",
        "Chiara Moretti",
        "Photographs of things that are about to rain.",
    ),
    (
        "dmitri",
        "Dmitri Weiss",
        "Gardener. Slow internet enthusiast.",
    ),
    ("elif", "Elif Aydin", "Maps, trains and maps of trains."),
    ("femi", "Femi Larsson", "Teaches physics, learns patience."),
];

/// The password of all of them; printed at the end.
const PASSWORD: &str = "socialhub-demo";

/// Who follows whom, by index; the last says whether they ask to be told of new posts.
const FOLLOWS: [(usize, usize, bool); 14] = [
    (0, 1, true),
    (0, 2, false),
    (1, 0, true),
    (1, 4, false),
    (2, 0, false),
    (2, 3, true),
    (2, 5, false),
    (3, 2, false),
    (3, 1, false),
    (4, 1, true),
    (4, 5, false),
    (5, 0, false),
    (5, 4, true),
    (5, 2, false),
];

/// Posts: author, audience, text.
const POSTS: [(usize, &str, &str); 10] = [
    (
        0,
        "public",
        "The parser finally reports the right line. It was always the line above.",
    ),
    (1, "public", "Sourdough, day nine: it has opinions now."),
    (
        2,
        "public",
        "Fog over the harbour this morning. Nobody else got up for it.",
    ),
    (
        3,
        "followers",
        "First tomatoes! Come and get some before the snails do.",
    ),
    (4, "public", "Every metro map is a lie that helps."),
    (
        5,
        "public",
        "A student asked why mirrors swap left and right but not up and down. Lesson plan gone, best hour of the year.",
    ),
    (
        1,
        "public",
        "An event log is a diary that nobody may edit. That is the whole trick.",
    ),
    (
        0,
        "private",
        "Note to self: the choir rehearsal is on Thursday, not Tuesday.",
    ),
    (
        4,
        "followers",
        "Night train to Vienna. Six hours of looking out of the window, as planned.",
    ),
    (2, "public", "It rained."),
];

/// Likes: who, which post.
const LIKES: [(usize, usize); 16] = [
    (1, 0),
    (2, 0),
    (5, 0),
    (0, 1),
    (4, 1),
    (3, 2),
    (0, 2),
    (5, 2),
    (2, 3),
    (5, 4),
    (1, 4),
    (4, 5),
    (2, 5),
    (0, 6),
    (4, 6),
    (3, 9),
];

/// Comments: who, which post, text.
const COMMENTS: [(usize, usize, &str); 7] = [
    (1, 0, "It is always the line above."),
    (0, 1, "Does it have a name yet?"),
    (1, 1, "Ferdinand."),
    (3, 2, "I was up. I just did not have a camera."),
    (2, 3, "On my way with a basket."),
    (4, 5, "I would have liked to be in that class."),
    (0, 6, "And replay is reading it out loud."),
];

/// Why the demo stopped.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The server could not be reached, or its answer not be read.
    #[error("{0}; is the server running at that address?")]
    Unreachable(#[from] reqwest::Error),
    /// The server said no.
    #[error("{what} was answered {status}: {body}")]
    Refused {
        /// What was asked.
        what: String,
        /// The status.
        status: StatusCode,
        /// What it said.
        body: String,
    },
}

struct Visitor {
    http: Client,
    base: String,
}

struct Person {
    id: String,
    token: String,
}

/// Runs the demo.
///
/// # Errors
/// [`DemoError`].
pub async fn run(options: Options) -> Result<(), DemoError> {
    let http = Client::builder().timeout(Duration::from_secs(30)).build()?;
    let visitor = Visitor {
        http,
        base: options.url.trim_end_matches('/').to_owned(),
    };
    let people = visitor.people().await?;
    println!("{} people", people.len());
    visitor.follows(&people).await?;
    println!("{} follows", FOLLOWS.len());
    let posts = visitor.posts(&people).await?;
    println!("{} posts", posts.len());
    visitor.reactions(&people, &posts).await?;
    println!("{} likes, {} comments", LIKES.len(), COMMENTS.len());
    visitor.show(&people[0]).await?;
    println!(
        "\nLog in as any of them ({}), password `{PASSWORD}`.",
        PEOPLE.map(|person| person.0).join(", ")
    );
    Ok(())
}

impl Visitor {
    async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Value,
    ) -> Result<Value, DemoError> {
        let mut request = self
            .http
            .request(method.clone(), format!("{}{path}", self.base));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        if !status.is_success() {
            return Err(DemoError::Refused {
                what: format!("{method} {path}"),
                status,
                body: text,
            });
        }
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Signs everybody up, or logs them in where an earlier demo did.
    async fn people(&self) -> Result<Vec<Person>, DemoError> {
        let mut people = Vec::with_capacity(PEOPLE.len());
        for (username, name, bio) in PEOPLE {
            let email = format!("{username}@demo.example");
            let sign_up =
                json!({ "name": name, "email": email, "username": username, "password": PASSWORD });
            let answer = match self.call(Method::POST, "/auth/signup", None, sign_up).await {
                Err(DemoError::Refused {
                    status: StatusCode::BAD_REQUEST,
                    ..
                }) => {
                    let log_in = json!({ "identifier": username, "password": PASSWORD });
                    self.call(Method::POST, "/auth/login", None, log_in).await?
                }
                answer => answer?,
            };
            let person = Person {
                id: text(&answer["user"]["id"]),
                token: text(&answer["token"]),
            };
            self.call(
                Method::PATCH,
                "/users/profile",
                Some(&person.token),
                json!({ "bio": bio }),
            )
            .await?;
            people.push(person);
        }
        Ok(people)
    }

    async fn follows(&self, people: &[Person]) -> Result<(), DemoError> {
        for (follower, followed, notify) in FOLLOWS {
            let path = format!("/users/follow/{}", people[followed].id);
            let token = Some(people[follower].token.as_str());
            match self
                .call(Method::POST, &path, token, json!({ "notify": notify }))
                .await
            {
                // An earlier demo did it.
                Ok(_)
                | Err(DemoError::Refused {
                    status: StatusCode::BAD_REQUEST,
                    ..
                }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn posts(&self, people: &[Person]) -> Result<Vec<String>, DemoError> {
        let mut posts = Vec::with_capacity(POSTS.len());
        for (author, visibility, content) in POSTS {
            let body = json!({ "content": content, "visibility": visibility });
            let answer = self
                .call(Method::POST, "/posts/", Some(&people[author].token), body)
                .await?;
            posts.push(text(&answer["post"]["id"]));
        }
        Ok(posts)
    }

    async fn reactions(&self, people: &[Person], posts: &[String]) -> Result<(), DemoError> {
        for (person, post) in LIKES {
            let path = format!("/posts/{}/like", posts[post]);
            self.call(Method::PUT, &path, Some(&people[person].token), Value::Null)
                .await?;
        }
        for (person, post, comment) in COMMENTS {
            let path = format!("/posts/{}/comment", posts[post]);
            self.call(
                Method::POST,
                &path,
                Some(&people[person].token),
                json!({ "comment": comment }),
            )
            .await?;
        }
        Ok(())
    }

    /// What one of them sees now.
    async fn show(&self, person: &Person) -> Result<(), DemoError> {
        let feed = self
            .call(
                Method::GET,
                "/api/feed/?limit=3",
                Some(&person.token),
                Value::Null,
            )
            .await?;
        println!("\nada's feed starts with:");
        for post in feed["posts"].as_array().into_iter().flatten() {
            println!(
                "  {}: {}",
                text(&post["user"]["username"]),
                text(&post["content"])
            );
        }
        let list = self
            .call(
                Method::GET,
                "/notify/notifications?limit=3",
                Some(&person.token),
                Value::Null,
            )
            .await?;
        println!(
            "and her notifications ({} unread) with:",
            list["unreadCount"]
        );
        for notification in list["notifications"].as_array().into_iter().flatten() {
            println!("  {}", text(&notification["message"]));
        }
        Ok(())
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
