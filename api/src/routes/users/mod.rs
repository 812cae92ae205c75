//! Profiles, search and follows.

mod change_profile;
mod erase;
mod follow;
mod follows;
mod profile;
mod search;
mod unfollow;

use serde::Serialize;
use socialhub_commands::follow::FollowState;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

pub(crate) use self::profile::{ProfileAnswer, answer_profile};
use crate::{router::Mounts, views::Time};

pub(crate) fn mount(mounts: &mut Mounts) {
    mounts.service(routes!(profile::profile));
    mounts.service(routes!(change_profile::change_profile));
    mounts.service(routes!(erase::erase));
    mounts.service(routes!(search::search));
    mounts.service(routes!(follow::follow, follow::change_follow));
    mounts.service(routes!(unfollow::unfollow));
    mounts.service(routes!(follows::followers));
    mounts.service(routes!(follows::following));
}

/// A follow after a command.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FollowAnswer {
    /// In words.
    message: &'static str,
    /// The follow.
    follow: FollowBody,
}

/// Who follows whom.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct FollowBody {
    /// Who follows.
    follower_id: Uuid,
    /// Who is followed.
    following_id: Uuid,
    /// Whether they do now.
    is_active: bool,
    /// Whether they want to be told of new posts.
    notify: bool,
    /// Since when.
    created_at: Time,
}

impl FollowAnswer {
    fn new(message: &'static str, follow: &FollowState) -> Self {
        Self {
            message,
            follow: FollowBody {
                follower_id: follow.follower_id.0,
                following_id: follow.following_id.0,
                is_active: follow.is_active,
                notify: follow.notify,
                created_at: Time(follow.created_at),
            },
        }
    }
}
