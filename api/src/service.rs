//! The services of the distributed profile: which routes each process serves.

use std::{fmt, str::FromStr};

use crate::{router::Mounts, routes};

/// One service. In one process they are all there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Sign-up, login, tokens, resets.
    Auth,
    /// Profiles and follows.
    Users,
    /// Posts, likes, comments, media.
    Posts,
    /// Notifications.
    Notifications,
    /// Home feed and trending; the firehose.
    Feed,
    /// Socket.IO and the history of rooms: the chat's own router.
    Chat,
}

/// A name that is no service's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no service `{0}`: they are auth, users, posts, notifications, feed, chat")]
pub struct UnknownService(String);

impl Service {
    /// Every service.
    pub const ALL: [Self; 6] = [
        Self::Auth,
        Self::Users,
        Self::Posts,
        Self::Notifications,
        Self::Feed,
        Self::Chat,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Users => "users",
            Self::Posts => "posts",
            Self::Notifications => "notifications",
            Self::Feed => "feed",
            Self::Chat => "chat",
        }
    }

    /// The port it listens on unless told otherwise.
    pub fn port(self) -> u16 {
        match self {
            Self::Auth => 5000,
            Self::Posts => 5001,
            Self::Notifications => 5002,
            Self::Users => 5003,
            Self::Chat => 5004,
            Self::Feed => 5005,
        }
    }

    pub(crate) fn mount(self, mounts: &mut Mounts) {
        match self {
            Self::Auth => routes::auth::mount(mounts),
            Self::Users => routes::users::mount(mounts),
            Self::Posts => {
                routes::posts::mount(mounts);
                routes::media::mount(mounts);
            }
            Self::Notifications => routes::notify::mount(mounts),
            Self::Feed => {
                routes::feed::mount(mounts);
                routes::events::mount(mounts);
            }
            Self::Chat => {}
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Service {
    type Err = UnknownService;

    fn from_str(name: &str) -> Result<Self, UnknownService> {
        Self::ALL
            .into_iter()
            .find(|service| service.name() == name)
            .ok_or_else(|| UnknownService(name.to_owned()))
    }
}
