//! Keys with a time to live that are renewed for as long as somebody holds them.

use std::{future::Future, time::Duration};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// How long a right holds without being renewed: a killed holder keeps others waiting for as long.
pub(crate) const TIME_TO_LIVE: Duration = Duration::from_secs(15);

const RENEW_EVERY: Duration = Duration::from_secs(4);

/// Runs `renew` every few seconds and `release` once, when it is dropped.
pub(crate) struct Renewal(CancellationToken);

impl Renewal {
    pub(crate) fn start<R, F>(
        renew: impl Fn() -> R + Send + 'static,
        release: impl FnOnce() -> F + Send + 'static,
    ) -> Self
    where
        R: Future<Output = ()> + Send,
        F: Future<Output = ()> + Send,
    {
        let ended = CancellationToken::new();
        let watched = ended.clone();
        // Without a runtime there is nobody to renew it, and it runs out.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let mut ticks = tokio::time::interval(RENEW_EVERY);
                ticks.tick().await;
                loop {
                    tokio::select! {
                        () = watched.cancelled() => break,
                        _ = ticks.tick() => renew().await,
                    }
                }
                release().await;
            });
        }
        Self(ended)
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
