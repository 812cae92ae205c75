//! Which server cannot be used, said by the name of the setting that says where it is. Passwords are never shown.

use std::time::Duration;

use socialhub_infra::{
    kafka::{self, KafkaSettings},
    postgres::connect::{self, OpenError},
    redis::RedisLink,
};
use socialhub_projections::runtime::Generations;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Stores;
use crate::{config::Servers, wire::looks::Look};

/// Between two looks at a server that has not answered yet.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between two lines about it.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The chat's database, and the setting that says where it is.
pub(super) fn chat(servers: &Servers) -> (&'static str, &str) {
    or_the_log("CHAT_DATABASE_URL", &servers.chat_database_url, servers)
}

/// The feed's database, likewise.
fn feed(servers: &Servers) -> (&'static str, &str) {
    or_the_log("READ_MODEL_URL", &servers.read_model_url, servers)
}

/// What is not said is where the log is.
fn or_the_log<'s>(
    setting: &'static str,
    url: &'s str,
    servers: &Servers,
) -> (&'static str, &'s str) {
    if url == servers.database_url {
        ("DATABASE_URL", url)
    } else {
        (setting, url)
    }
}

/// Makes sure that no database turns this program away: that does not pass by itself. One that is away may come back.
///
/// # Errors
/// A line for the operator.
pub(super) async fn let_in(servers: &Servers) -> Result<(), String> {
    for (setting, url) in [feed(servers), chat(servers)] {
        if url == servers.database_url {
            continue;
        }
        if let Err(error @ OpenError::Refused(_)) = connect::look(url).await {
            return Err(format!("{setting}: {error}"));
        }
    }
    Ok(())
}

impl Look {
    /// Says why it does not answer, now and then, and that it does again.
    pub(super) async fn until_it_answers(self, stop: CancellationToken) {
        let Self {
            setting,
            server,
            ask,
        } = self;
        let mut told: Option<Instant> = None;
        loop {
            let answer = tokio::select! {
                () = stop.cancelled() => return,
                answer = ask() => answer,
            };
            match answer {
                Ok(()) if told.is_none() => return,
                Ok(()) => {
                    tracing::info!(setting, server, "the server answers");
                    return;
                }
                Err(error) if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) => {
                    tracing::warn!(setting, server, error, "waiting for a server");
                    told = Some(Instant::now());
                }
                Err(_) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

fn told<T, E: std::fmt::Display>(answer: Result<T, E>) -> Result<(), String> {
    answer.map(|_| ()).map_err(|error| error.to_string())
}

/// Looks at every server but the log's, which is waited for.
pub(super) fn looks(
    servers: &Servers,
    brokers: KafkaSettings,
    stores: &Stores,
    link: &RedisLink,
) -> impl Iterator<Item = Look> + use<> {
    let databases = [feed(servers), chat(servers)].map(|(setting, url)| {
        let address = url.to_owned();
        Look::new(setting, url, move || {
            let address = address.clone();
            async move { told(connect::look(&address).await) }
        })
    });
    let kafka = Look::new("KAFKA_BROKERS", &servers.kafka_brokers, move || {
        let brokers = brokers.clone();
        let look = tokio::task::spawn_blocking(move || kafka::look(&brokers, LOOK_EVERY));
        async move { told(look.await.map_err(|error| error.to_string())?) }
    });
    let models = stores.notifications.clone();
    let notifications = Look::new("MONGODB_URL", &servers.mongodb_url, move || {
        let models = models.clone();
        async move { told(models.refresh().await) }
    });
    let link = link.clone();
    let redis = Look::new("REDIS_URL", &servers.redis_url, move || {
        let link = link.clone();
        async move { told(link.check_server().await) }
    });
    databases.into_iter().chain([kafka, notifications, redis])
}
