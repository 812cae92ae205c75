//! A right that is a key: whoever has it holds it.

use std::{sync::Arc, thread};

use redis::Value;

use super::scripts;
use crate::redis::{
    link::RedisLink,
    renewal::{Renewal, TIME_TO_LIVE},
};

/// A key with a value of its own, renewed as long as this lives. It is removed before `drop` returns: the program may end
/// right after, and nobody should have to wait until the key has run out.
pub(super) struct Held {
    link: RedisLink,
    key: String,
    value: String,
    _renewal: Renewal,
}

impl Held {
    /// Holds a key that has just been set.
    pub(super) fn new(link: RedisLink, key: String, value: String) -> Self {
        let mut renew = scripts::RENEW.prepare_invoke();
        renew
            .key(&key)
            .arg(&value)
            .arg(TIME_TO_LIVE.as_millis() as u64);
        let (renew, renewing) = (Arc::new(renew), link.clone());
        let renewal = Renewal::start(
            move || {
                let (link, renew) = (renewing.clone(), Arc::clone(&renew));
                // When it fails, whoever uses the right is told that it is lost.
                async move {
                    let _ = link.invoke::<Value>(&renew).await;
                }
            },
            || async {},
        );
        Self {
            link,
            key,
            value,
            _renewal: renewal,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut release = scripts::RELEASE.prepare_invoke();
        release.key(&self.key).arg(&self.value);
        let link = &self.link;
        // On a thread of its own, since a task of this runtime might not run any more; a second at most.
        let released = thread::scope(|scope| {
            let release = scope.spawn(|| link.invoke_blocking(&release));
            release.join().is_ok_and(|done| done)
        });
        if !released {
            tracing::debug!(key = self.key, "a right was not given back; it runs out");
        }
    }
}
