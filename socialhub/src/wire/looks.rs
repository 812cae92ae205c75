//! A look at where mail and files go. No start waits for it: nothing but a mail or a file needs them, and each tries again.
//! But who set an address should hear now that nobody is there, and not with the first mail.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use socialhub_api::Service;
use socialhub_infra::media::is_folder;
use socialhub_projections::{Projection, feed::Feed};
use tokio_util::sync::CancellationToken;

use super::{Parts, Roles, place, text};
use crate::config::Config;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// One look.
pub struct Look {
    setting: &'static str,
    server: String,
    /// What is said when it fails.
    failed: &'static str,
    answer: BoxFuture<'static, Result<(), String>>,
}

impl Look {
    /// Says so when nobody answers, or somebody who does not let this program in.
    pub async fn run(self, stop: CancellationToken) {
        let answer = tokio::select! {
            () = stop.cancelled() => return,
            answer = tokio::time::timeout(PATIENCE, self.answer) => answer,
        };
        let error = match answer {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        let (setting, server) = (self.setting, self.server);
        tracing::warn!(setting, server, error, "{}", self.failed);
    }
}

/// The looks of a process with these roles: at what it uses and what is on another machine.
pub fn looks(config: &Config, roles: &Roles, parts: &Parts) -> Vec<Look> {
    let mut looks = Vec::new();
    if let Some(url) = config.smtp_url.as_deref().filter(|_| sends_mail(roles)) {
        let mailer = Arc::clone(&parts.mailer);
        looks.push(Look {
            setting: "SMTP_URL",
            server: place(url).to_owned(),
            failed: "no mail can be sent now; each mail tries again",
            answer: async move { mailer.look().await.map_err(text) }.boxed(),
        });
    }
    let store = config.media_url.as_deref();
    if let Some(url) = store.filter(|_| !is_folder(store) && touches_files(roles)) {
        let media = Arc::clone(&parts.media);
        looks.push(Look {
            setting: "MEDIA_URL",
            server: place(url).to_owned(),
            failed: "no file can be stored or served now; each file tries again",
            answer: async move { media.look().await.map_err(text) }.boxed(),
        });
    }
    looks
}

/// Codes are mailed by the auth service.
fn sends_mail(roles: &Roles) -> bool {
    roles.services.contains(&Service::Auth)
}

/// Files are stored and served with posts; those of deleted posts are removed behind the feed, those of erased people by
/// the auth service.
fn touches_files(roles: &Roles) -> bool {
    let services = [Service::Posts, Service::Auth];
    let feed = Feed::NAME.0;
    services.iter().any(|it| roles.services.contains(it))
        || roles.projections.iter().any(|it| it == feed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_uses_it_looks() {
        let services = |it: &[Service]| Roles::services(it.to_vec());
        let projections = |it: &str| Roles::projections(vec![it.to_owned()]);
        for (roles, mail, files) in [
            (Roles::all(), true, true),
            (services(&[Service::Auth]), true, true),
            (services(&[Service::Users, Service::Posts]), false, true),
            (services(&[Service::Feed, Service::Chat]), false, false),
            (projections("feed"), false, true),
            (projections("counters"), false, false),
            (Roles::relay(), false, false),
            (Roles::analytics(), false, false),
        ] {
            let found = (sends_mail(&roles), touches_files(&roles));
            assert_eq!(found, (mail, files), "{roles}");
        }
    }
}
