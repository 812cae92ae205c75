//! Sign-up, login, tokens and the password reset.

mod log_in;
mod me;
mod request_reset;
mod reset_password;
mod sign_up;
mod verify_otp;
mod verify_user;

use serde::Serialize;
use socialhub_commands::sign_up::PersonBrief;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::router::Mounts;

pub(crate) fn mount(mounts: &mut Mounts) {
    mounts.service(routes!(sign_up::sign_up));
    mounts.service(routes!(log_in::log_in));
    mounts.service(routes!(verify_user::verify_user));
    mounts.service(routes!(request_reset::request_reset));
    mounts.service(routes!(verify_otp::verify_otp));
    mounts.service(routes!(reset_password::reset_password));
    mounts.service(routes!(me::me));
}

/// Who signed up or logged in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignedUser {
    /// The person.
    id: Uuid,
    /// Username.
    username: String,
    /// Display name.
    name: String,
}

impl From<PersonBrief> for SignedUser {
    fn from(person: PersonBrief) -> Self {
        Self {
            id: person.id.0,
            username: person.username,
            name: person.name,
        }
    }
}
