//! Use case: somebody signs up.

use serde::{Deserialize, Serialize};
use socialhub_domain::{
    UserId,
    user::{User, UserCommand},
    validation::{self, Problems},
};
use socialhub_event_log::{Credentials, SideWrite};

use crate::{
    Actor, CommandContext, CommandError, Commands, Done,
    error::valid,
    executor::{Next, Target},
};

/// The token epoch of a new person.
const FIRST_EPOCH: u64 = 1;

/// What somebody signs up with.
#[derive(Clone)]
pub struct SignUp {
    /// Display name, 1 to 100 characters.
    pub name: String,
    /// E-mail address.
    pub email: String,
    /// `[A-Za-z0-9_.-]{3,30}`, unique whatever the case.
    pub username: String,
    /// 8 to 72 bytes.
    pub password: String,
}

/// A person, briefly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonBrief {
    /// The person.
    pub id: UserId,
    /// Their username.
    pub username: String,
    /// Their display name.
    pub name: String,
}

/// A person who proved who they are, with a fresh token.
#[derive(Clone)]
pub struct Authenticated {
    /// A JWT.
    pub token: String,
    /// The person.
    pub user: PersonBrief,
}

impl Commands {
    /// Registers a person: uniqueness, credentials and event commit together. `User already exists` when username or
    /// e-mail is taken.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn sign_up(
        &self,
        ctx: &CommandContext,
        input: SignUp,
    ) -> Result<Done<Authenticated>, CommandError> {
        let input = SignUp {
            name: input.name.trim().to_owned(),
            email: input.email.trim().to_owned(),
            username: input.username.trim().to_owned(),
            password: input.password,
        };
        check(&input)?;
        let done = self.idempotent(ctx, self.register(ctx, input)).await?;
        let epoch = if done.replayed {
            self.epoch(done.result.id).await?
        } else {
            FIRST_EPOCH
        };
        let user = done.result;
        let actor = Actor {
            id: user.id,
            username: user.username.clone(),
        };
        let now = self.ports.clock.now();
        let token = self.ports.tokens.issue(&actor, epoch, now);
        Ok(Done {
            result: Authenticated { token, user },
            position: done.position,
            replayed: done.replayed,
        })
    }

    async fn register(
        &self,
        ctx: &CommandContext,
        input: SignUp,
    ) -> Result<Done<PersonBrief>, CommandError> {
        self.refuse_taken(&input).await?;
        let id = UserId(self.ports.ids.next_id());
        let credentials = Credentials {
            user_id: id,
            username: input.username.clone(),
            email: input.email,
            password_hash: self.ports.hasher.hash(input.password).await?,
            token_epoch: FIRST_EPOCH,
        };
        let target =
            Target::fresh(User::stream(id)).committing(SideWrite::InsertCredentials(credentials));
        let (name, username) = (input.name, input.username);
        self.execute::<User, _>(
            ctx,
            target,
            |_, _, at| {
                Ok(Next::Decide(UserCommand::Register {
                    id,
                    username: username.clone(),
                    name: name.clone(),
                    at,
                }))
            },
            |_, _| PersonBrief {
                id,
                username: username.clone(),
                name: name.clone(),
            },
        )
        .await
    }

    /// Saves the costly hash when it is clear already; the append is what decides.
    async fn refuse_taken(&self, input: &SignUp) -> Result<(), CommandError> {
        for identifier in [&input.username, &input.email] {
            let found = self
                .ports
                .credentials
                .find_by_identifier(identifier)
                .await?;
            if found.is_some() {
                return Err(CommandError::Refused("User already exists"));
            }
        }
        Ok(())
    }

    /// A person's token epoch as it is now.
    async fn epoch(&self, user: UserId) -> Result<u64, CommandError> {
        let found = self.ports.credentials.find_by_id(user).await?;
        Ok(found.map_or(FIRST_EPOCH, |credentials| credentials.token_epoch))
    }
}

fn check(input: &SignUp) -> Result<(), CommandError> {
    valid(
        Problems::default()
            .with("name", validation::name(&input.name))
            .with("email", validation::email(&input.email))
            .with("username", validation::username(&input.username))
            .with("password", validation::password(&input.password)),
    )
}
