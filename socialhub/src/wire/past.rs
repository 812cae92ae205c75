//! Read models as of a moment: built in SQLite files whatever the profile, and served for reading alone.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use http::{
    HeaderValue, Method, StatusCode,
    header::{ALLOW, AUTHORIZATION, CONTENT_TYPE},
};
use serde_json::json;
use socialhub_api::{ApiState, NotReady, Positions, Readiness, RecentWrites, Service, Settings};
use socialhub_commands::{
    Commands, Ports,
    ports::{Mailer, PortError},
};
use socialhub_domain::{Clock, UserId};
use socialhub_event_log::{EventLog, Firehose, LogAsOf, MemoryEventLog, Position};
use socialhub_infra::{
    clock::RandomIds,
    security::{BcryptPool, JwtTokens, MemoryOtps, OsSecrets},
    sqlite::{
        counters::{SqliteCounterReader, SqliteCounters},
        feed::{SqliteFeed, SqliteFeedReader},
        generations::{CurrentReaders, SqliteGenerations},
        model::SqliteModel,
        notifications::{SqliteNotificationReader, SqliteNotifications},
    },
};
use socialhub_projections::{
    Freshness, ModelName, ModelPosition, PageRequest, ReadError, feed::FeedReader, page::PageStart,
    runtime::ModelControl,
};
use socialhub_replay_tools::{PastModels, Serving};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{
    adapters::{Likes, Owners},
    embedded, media, text,
};
use crate::{config::Config, server};

/// Threads that read each read model.
const READER_THREADS: usize = 2;
/// Connections at once: an operator's tools.
const CONNECTIONS: usize = 64;
/// How many people a username is looked for among at a time.
const PEOPLE: usize = 100;

/// Builds and serves read models of the past.
pub struct SqlitePast {
    /// The log that they are built from.
    pub log: Arc<dyn EventLog>,
    /// Where files of posts are; those of deleted posts are gone.
    pub config: Arc<Config>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

#[async_trait]
impl PastModels for SqlitePast {
    fn open(&self, folder: &Path, model: ModelName) -> Result<Arc<dyn ModelControl>, String> {
        let opened = embedded::model(folder, model, &self.clock);
        opened.map_err(|error| format!("{}: {error}", folder.display()))
    }

    fn file(&self, folder: &Path, model: ModelName) -> PathBuf {
        folder.join(format!("{model}.1.db"))
    }

    async fn serve(&self, serving: Serving, stop: CancellationToken) -> Result<(), String> {
        let api = self.api(&serving, &stop)?;
        let viewer = Viewer::find(&*api.feed, &serving.username).await?;
        let services: Vec<Service> = Service::ALL
            .into_iter()
            .filter(|service| *service != Service::Chat)
            .collect();
        let secret = api.settings.gateway_secret.clone().unwrap_or_default();
        let seen_by = Arc::new(viewer.headers(&secret)?);
        let router: Router =
            socialhub_api::router(api, &services).layer(from_fn_with_state(seen_by, read_only));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, serving.port));
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| format!("--serve: cannot listen on {address}: {error}"))?;
        let address = listener.local_addr().map_err(text)?;
        eprintln!(
            "as of position {}, as {}, for reading only: http://{address} (interrupt to end)",
            serving.position, viewer.username
        );
        server::serve(listener, router, CONNECTIONS, stop).await;
        Ok(())
    }
}

impl SqlitePast {
    /// The API on the models of a folder. Its commands cannot do anything, and nobody gets to call them.
    fn api(&self, serving: &Serving, stop: &CancellationToken) -> Result<ApiState, String> {
        let media = media(&self.config)?;
        let log = Arc::new(LogAsOf::new(Arc::clone(&self.log), serving.position));
        let at = Arc::new(Standing::new(serving.position));
        let folder = &serving.folder;
        let feed = Arc::new(SqliteFeedReader::new(readers::<SqliteFeed>(
            folder,
            &self.clock,
        )?));
        let notifications = Arc::new(SqliteNotificationReader::new(
            readers::<SqliteNotifications>(folder, &self.clock)?,
        ));
        let counters = readers::<SqliteCounters>(folder, &self.clock)?;
        let counters = Arc::new(SqliteCounterReader::new(counters));
        let tokens = Arc::new(JwtTokens::new(&random(), Vec::new()));
        let commands = Commands::new(Ports {
            log: log.clone(),
            credentials: Arc::new(MemoryEventLog::new()),
            hasher: Arc::new(BcryptPool::start(1, 1, 4).map_err(text)?),
            tokens: tokens.clone(),
            mailer: Arc::new(NoMail),
            otps: Arc::new(MemoryOtps::new()),
            secrets: Arc::new(OsSecrets),
            media: media.clone(),
            notifications: Arc::new(Owners::new(notifications.clone(), at.clone())),
            like_counts: Arc::new(Likes {
                counters: counters.clone(),
                feed: feed.clone(),
            }),
            clock: Arc::clone(&self.clock),
            ids: Arc::new(RandomIds),
        });
        Ok(ApiState {
            commands: Arc::new(commands),
            firehose: Firehose::new(log),
            feed,
            notifications,
            counters,
            positions: Positions {
                feed: at.clone(),
                notifications: at.clone(),
                counters: at,
                // The past is complete.
                due: watch::channel(0).1,
            },
            tokens,
            clock: Arc::clone(&self.clock),
            ids: Arc::new(RandomIds),
            media,
            last_writes: Arc::new(RecentWrites::new(serving.position)),
            shared_limits: None,
            readiness: Arc::new(Ready),
            metrics: Arc::new(String::new),
            shutdown: stop.clone(),
            settings: Settings {
                rate_limits: None,
                gateway_secret: Some(format!("{:032x}", rand::random::<u128>())),
                ..Settings::new(random())
            },
        })
    }
}

fn random() -> [u8; 32] {
    rand::random()
}

fn readers<M: SqliteModel>(
    folder: &Path,
    clock: &Arc<dyn Clock>,
) -> Result<CurrentReaders, String> {
    let generations = SqliteGenerations::<M>::open(folder, Arc::clone(clock)).map_err(text)?;
    generations.readers(READER_THREADS).map_err(text)
}

/// Whose eyes the past is seen with.
struct Viewer {
    id: UserId,
    username: String,
}

/// The headers that say so, as the gateway would.
type SeenBy = Vec<(&'static str, HeaderValue)>;

impl Viewer {
    /// Of the people whose name begins with a username, more than a page may come before the one whose it is.
    async fn find(feed: &dyn FeedReader, username: &str) -> Result<Self, String> {
        let mut request = PageRequest::first(PEOPLE);
        loop {
            let found = feed.search(username, &request).await.map_err(text)?;
            let mut people = found.items.into_iter();
            let same = people.find(|person| person.username.eq_ignore_ascii_case(username));
            if let Some(person) = same {
                return Ok(Self {
                    id: person.id,
                    username: person.username,
                });
            }
            let next = found.next;
            let next = next.ok_or_else(|| format!("--as: nobody was called {username:?} then"))?;
            request.start = PageStart::After(next);
        }
    }

    fn headers(&self, secret: &str) -> Result<SeenBy, String> {
        let payload = json!({ "id": self.id, "username": self.username }).to_string();
        let value = |header: &str| HeaderValue::from_str(header).map_err(text);
        Ok(vec![
            ("x-gateway-secret", value(secret)?),
            ("x-user-payload", value(&payload)?),
        ])
    }
}

/// Nothing but questions, all of them asked by the same person.
async fn read_only(
    State(seen_by): State<Arc<SeenBy>>,
    mut request: Request,
    next: Next,
) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return refusal();
    }
    let headers = request.headers_mut();
    headers.remove(AUTHORIZATION);
    for (name, value) in seen_by.iter() {
        headers.insert(*name, value.clone());
    }
    next.run(request).await
}

fn refusal() -> Response {
    let problem = json!({
        "type": "about:blank", "title": "Method Not Allowed", "status": 405,
        "error": "Method not allowed", "detail": "this is the past: it can be read and not changed",
        "errors": [],
    });
    let mut response = Response::new(Body::from(problem.to_string()));
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    response
}

/// A model that stays where it is.
struct Standing(watch::Sender<Position>);

impl Standing {
    fn new(position: Position) -> Self {
        Self(watch::Sender::new(position))
    }

    fn position(&self) -> Position {
        *self.0.borrow()
    }
}

#[async_trait]
impl ModelPosition for Standing {
    async fn position(&self) -> Result<Position, ReadError> {
        Ok(self.position())
    }

    /// It will never be further, so nobody waits.
    async fn wait_for(&self, wanted: Position, _: Duration) -> Result<Freshness, ReadError> {
        let position = self.position();
        Ok(Freshness {
            position,
            stale: position < wanted,
        })
    }

    fn known(&self) -> Position {
        self.position()
    }

    fn watch(&self) -> watch::Receiver<Position> {
        self.0.subscribe()
    }
}

/// Sends nothing.
struct NoMail;

#[async_trait]
impl Mailer for NoMail {
    async fn send(&self, _: &str, _: &str, _: &str) -> Result<(), PortError> {
        Err(PortError("the past sends no mail".to_owned()))
    }
}

/// It is there, so it is ready.
struct Ready;

#[async_trait]
impl Readiness for Ready {
    async fn not_ready(&self) -> Vec<NotReady> {
        Vec::new()
    }
}
