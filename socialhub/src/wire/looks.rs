//! Looks at servers by the names of the settings that say where they are. Passwords are never shown.
//!
//! At where mail and files go a process looks once. No start waits for it: nothing but a mail or a file needs them, and each
//! tries again. But who set an address should hear now that nobody is there, and not with the first mail. The other servers
//! are looked at until they answer, in `distributed::servers`.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use socialhub_api::Service;
use socialhub_infra::media::is_folder;
use socialhub_projections::{Projection, feed::Feed};
use tokio_util::sync::CancellationToken;

use super::{Parts, Roles, place, text};
use crate::config::Config;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A look at one server.
pub struct Look {
    pub(super) setting: &'static str,
    pub(super) server: String,
    pub(super) ask: Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
}

impl Look {
    pub(super) fn new<F>(
        setting: &'static str,
        url: &str,
        ask: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self {
            setting,
            server: place(url).to_owned(),
            ask: Box::new(move || Box::pin(ask())),
        }
    }

    /// Says so when nobody answers now, or somebody who does not let this program in, and what that means.
    pub async fn once(self, failed: &'static str, stop: CancellationToken) {
        let answer = tokio::select! {
            () = stop.cancelled() => return,
            answer = tokio::time::timeout(PATIENCE, (self.ask)()) => answer,
        };
        let error = match answer {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        let (setting, server) = (self.setting, self.server);
        tracing::warn!(setting, server, error, "{failed}");
    }
}

/// The looks of a process with these roles: at what it uses and what is on another machine; and what it means when there is
/// no answer.
pub fn looks(config: &Config, roles: &Roles, parts: &Parts) -> Vec<(Look, &'static str)> {
    let mut looks = Vec::new();
    if let Some(url) = config.smtp_url.as_deref().filter(|_| sends_mail(roles)) {
        let mailer = Arc::clone(&parts.mailer);
        let look = Look::new("SMTP_URL", url, move || {
            let mailer = Arc::clone(&mailer);
            async move { mailer.look().await.map_err(text) }
        });
        looks.push((look, "no mail can be sent now; each mail tries again"));
    }
    let store = config.media_url.as_deref();
    if let Some(url) = store.filter(|_| !is_folder(store) && touches_files(roles)) {
        let media = Arc::clone(&parts.media);
        let look = Look::new("MEDIA_URL", url, move || {
            let media = Arc::clone(&media);
            async move { media.look().await.map_err(text) }
        });
        let failed = "no file can be stored or served now; each file tries again";
        looks.push((look, failed));
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
