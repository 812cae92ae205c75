//! Use case: somebody changes their profile.

use serde::{Deserialize, Serialize};
use socialhub_domain::{
    UserId,
    user::{User, UserCommand},
    validation::{self, Problems},
};

use crate::{
    CommandContext, CommandError, Commands, Done,
    error::valid,
    executor::{Next, Target},
};

/// The changes; what is left out stays.
#[derive(Debug, Clone, Default)]
pub struct UpdateProfile {
    /// Display name, 1 to 100 characters.
    pub name: Option<String>,
    /// At most 500 characters; empty removes it.
    pub bio: Option<String>,
    /// An http(s) or `/media/…` address of at most 2,000 characters; empty removes it.
    pub avatar: Option<String>,
}

/// The profile after the change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileChanged {
    /// The person.
    pub id: UserId,
    /// Username.
    pub username: String,
    /// Display name.
    pub name: String,
    /// Self-description.
    pub bio: Option<String>,
    /// Picture.
    pub avatar: Option<String>,
}

impl Commands {
    /// Changes the actor's own profile.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn update_profile(
        &self,
        ctx: &CommandContext,
        input: UpdateProfile,
    ) -> Result<Done<ProfileChanged>, CommandError> {
        let actor = ctx.actor()?;
        let input = trimmed(input);
        check(&input)?;
        let run = self.execute::<User, _>(
            ctx,
            Target::existing(User::stream(actor.id)),
            |_, _, at| {
                Ok(Next::Decide(UserCommand::UpdateProfile {
                    name: input.name.clone(),
                    bio: input.bio.clone(),
                    avatar: input.avatar.clone(),
                    at,
                }))
            },
            |person, _| {
                let person = person.as_ref();
                ProfileChanged {
                    id: actor.id,
                    username: person.map_or_else(String::new, |person| person.username.clone()),
                    name: person.map_or_else(String::new, |person| person.name.clone()),
                    bio: person.and_then(|person| person.bio.clone()),
                    avatar: person.and_then(|person| person.avatar.clone()),
                }
            },
        );
        self.idempotent(ctx, run).await
    }
}

/// Names and addresses lose the white space around them; a self-description stays as it was written.
fn trimmed(input: UpdateProfile) -> UpdateProfile {
    let trim = |value: String| value.trim().to_owned();
    UpdateProfile {
        name: input.name.map(trim),
        bio: input.bio,
        avatar: input.avatar.map(trim),
    }
}

fn check(input: &UpdateProfile) -> Result<(), CommandError> {
    let check = |value: &Option<String>, rule: fn(&str) -> validation::Check| {
        value.as_deref().map_or(Ok(()), rule)
    };
    valid(
        Problems::default()
            .with("name", check(&input.name, validation::name))
            .with("bio", check(&input.bio, validation::bio))
            .with("avatar", check(&input.avatar, validation::avatar)),
    )
}
