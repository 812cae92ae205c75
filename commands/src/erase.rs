//! Use case: somebody is erased.

use socialhub_domain::{
    UserId,
    limits::PASSWORD_MAX_BYTES,
    user::{User, UserCommand},
};
use socialhub_event_log::{ERASED_EPOCH, SideWrite};

use crate::{
    CommandContext, CommandError, Commands, Done,
    executor::{Next, Target},
};

impl Commands {
    /// Erases the actor, who proves once more who they are. When this returns, `user.erased` is durable, nobody can log in
    /// as them, their tokens are dead, and their name and address are free. The rest is done behind it.
    ///
    /// An `Idempotency-Key` is not looked at: the erased have no answers kept.
    ///
    /// # Errors
    /// [`CommandError`]; `Invalid credentials` for a wrong password.
    pub async fn erase_user(
        &self,
        ctx: &CommandContext,
        password: String,
    ) -> Result<Done<()>, CommandError> {
        let id = ctx.actor()?.id;
        self.prove(id, password).await?;
        // On a task of its own: a client that goes away between the commit and its answer must not leave tokens that work.
        let (commands, mut ctx) = (self.clone(), ctx.clone());
        ctx.idempotency = None;
        let ending = tokio::spawn(async move {
            let done = commands.commit_erasure(&ctx, id).await;
            if matches!(done, Ok(_) | Err(CommandError::OutcomeUnknown)) {
                commands.learn_erasure(id, done.is_ok()).await;
            }
            done
        });
        ending.await.unwrap_or(Err(CommandError::OutcomeUnknown))
    }

    /// Whether it is their password.
    async fn prove(&self, id: UserId, password: String) -> Result<(), CommandError> {
        let known = self.ports.credentials.find_by_id(id).await?;
        // Nobody has a password of another length; checking an empty one costs the same time.
        let (password, hash) = if password.len() <= PASSWORD_MAX_BYTES {
            (password, known.map(|known| known.password_hash))
        } else {
            (String::new(), None)
        };
        if self.ports.hasher.verify(password, hash).await? {
            Ok(())
        } else {
            Err(CommandError::Unauthenticated("Invalid credentials"))
        }
    }

    async fn commit_erasure(
        &self,
        ctx: &CommandContext,
        user_id: UserId,
    ) -> Result<Done<()>, CommandError> {
        let target =
            Target::existing(User::stream(user_id)).committing(SideWrite::Erase { user_id });
        self.execute::<User, _>(
            ctx,
            target,
            |_, _, at| Ok(Next::Decide(UserCommand::Erase { at })),
            |_, _| (),
        )
        .await
    }

    /// Tells the tokens, so that they are dead in this process at once. After an unknown outcome the store knows.
    async fn learn_erasure(&self, id: UserId, certain: bool) {
        let there = self.ports.credentials.find_by_id(id).await;
        if certain || matches!(there, Ok(None)) {
            self.ports.tokens.raise_epoch(id, ERASED_EPOCH);
        }
    }
}
