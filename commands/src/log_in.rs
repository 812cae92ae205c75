//! Use case: somebody logs in.

use socialhub_domain::{
    UserId,
    limits::PASSWORD_MAX_BYTES,
    user::{Person, User},
};

use crate::{
    Actor, CommandError, Commands, FieldError,
    cqrs::fold,
    sign_up::{Authenticated, PersonBrief},
};

/// The one answer to every login that fails.
const INVALID: CommandError = CommandError::Unauthenticated("Invalid credentials");

/// What somebody logs in with.
#[derive(Clone)]
pub struct LogIn {
    /// E-mail address or username.
    pub identifier: String,
    /// Their password.
    pub password: String,
}

impl Commands {
    /// Checks a password; the same answer in the same time for an unknown person (`Invalid credentials`).
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn log_in(&self, input: LogIn) -> Result<Authenticated, CommandError> {
        complete(&input)?;
        let identifier = input.identifier.trim();
        let found = self
            .ports
            .credentials
            .find_by_identifier(identifier)
            .await?;
        // Nobody has a password of another length; checking an empty one costs the same time.
        let (password, hash) = if input.password.len() <= PASSWORD_MAX_BYTES {
            let hash = found.as_ref().map(|person| person.password_hash.clone());
            (input.password, hash)
        } else {
            (String::new(), None)
        };
        let fits = self.ports.hasher.verify(password, hash).await?;
        let Some(credentials) = found.filter(|_| fits) else {
            return Err(INVALID);
        };
        let person = self.person(credentials.user_id).await?;
        let person = person.filter(|person| !person.erased).ok_or(INVALID)?;
        let actor = Actor {
            id: person.id,
            username: person.username.clone(),
        };
        let now = self.ports.clock.now();
        Ok(Authenticated {
            token: self
                .ports
                .tokens
                .issue(&actor, credentials.token_epoch, now),
            user: PersonBrief {
                id: person.id,
                username: person.username,
                name: person.name,
            },
        })
    }

    /// A person as the log has them.
    pub(crate) async fn person(&self, id: UserId) -> Result<Option<Person>, CommandError> {
        let events = self.ports.log.read_stream(&User::stream(id)).await?;
        Ok(fold::<User>(&events)?)
    }
}

fn complete(input: &LogIn) -> Result<(), CommandError> {
    let fields = [
        ("identifier", input.identifier.trim()),
        ("password", &input.password),
    ];
    let empty = fields.iter().filter(|(_, value)| value.is_empty());
    let errors: Vec<_> = empty
        .map(|(field, _)| FieldError::new(*field, "must not be empty"))
        .collect();
    if errors.is_empty() {
        Ok(())
    } else {
        Err(CommandError::Invalid(errors))
    }
}
