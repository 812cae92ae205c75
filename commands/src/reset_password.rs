//! Use case: a forgotten password.

use socialhub_domain::{
    StreamId,
    user::User,
    validation::{self, Problems},
};
use socialhub_event_log::{Append, AppendError, Appended, Credentials, SideWrite, credential_key};
use tokio::sync::oneshot;

use crate::{
    CommandContext, CommandError, Commands, Done, error::valid, idempotency, ports::OtpVerdict,
};

/// The one answer to a code that is wrong, too old, used or burnt.
const BAD_OTP: CommandError = CommandError::Refused("Invalid or expired OTP");

/// What a password is reset with.
#[derive(Clone)]
pub struct ResetPassword {
    /// The address the code was mailed to.
    pub email: String,
    /// The code.
    pub otp: String,
    /// 8 to 72 bytes.
    pub new_password: String,
}

impl Commands {
    /// Mails a one-time code, if the address is somebody's; the same answer in the same time if not. Where no code can be
    /// kept now nobody is promised one.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn request_reset(
        &self,
        ctx: &CommandContext,
        email: String,
    ) -> Result<Done<()>, CommandError> {
        let email = email.trim().to_owned();
        valid(Problems::default().with("email", validation::email(&email)))?;
        let run = async {
            let busy = |_| CommandError::Unavailable("too many mails are on their way".to_owned());
            let permit = self.background.clone().try_acquire_owned();
            let permit = permit.map_err(busy)?;
            let (told, noted) = oneshot::channel();
            // Looking the address up, too, is left to the background: whether it is somebody's must not show in time.
            // The answer is kept there as well: a kept answer without a mail must not come of a client that went away.
            let (commands, ctx) = (self.clone(), ctx.clone());
            tokio::spawn(async move {
                let _permit = permit;
                let (outcome, otp) = match commands.keep_otp(&email).await {
                    Ok(otp) => (commands.note_request(&ctx).await, otp),
                    Err(error) => {
                        let _ = told.send(Err(error));
                        return;
                    }
                };
                let kept = matches!(outcome, Ok(_) | Err(CommandError::OutcomeUnknown));
                let _ = told.send(outcome);
                if kept && let Err(error) = commands.mail_otp(&email, &otp).await {
                    tracing::warn!(%error, "a one-time code could not be mailed");
                }
            });
            noted.await.unwrap_or(Err(CommandError::OutcomeUnknown))
        };
        self.idempotent(ctx, run).await
    }

    /// Whether the code is good; a wrong one counts as a try.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn verify_otp(&self, email: String, otp: String) -> Result<(), CommandError> {
        let key = credential_key(email.trim());
        let now = self.ports.clock.now();
        match self.ports.otps.check(&key, otp.trim(), now).await? {
            OtpVerdict::Good => Ok(()),
            OtpVerdict::Bad => Err(BAD_OTP),
        }
    }

    /// Sets a new password and raises the token epoch, so that every older token stops working.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn reset_password(
        &self,
        ctx: &CommandContext,
        input: ResetPassword,
    ) -> Result<Done<()>, CommandError> {
        let email = credential_key(input.email.trim());
        let password = validation::password(&input.new_password);
        valid(
            Problems::default()
                .with("email", validation::email(&email))
                .with("newPassword", password),
        )?;
        // One at a time for an address, as far as this process goes: the others would only hash in vain.
        let turn = self.turns.wait(&("otp", &email)).await;
        self.verify_otp(email.clone(), input.otp.clone()).await?;
        let credentials = self.by_email(&email).await?.ok_or(BAD_OTP)?;
        let hash = self.ports.hasher.hash(input.new_password).await?;
        // On a task of its own: a client that goes away between the commit and its answer must not leave a new password
        // beside old tokens that still work.
        let (commands, ctx) = (self.clone(), ctx.clone());
        let ending = tokio::spawn(async move {
            let _turn = turn;
            commands
                .set_password(&ctx, &email, &input.otp, &credentials, hash)
                .await
        });
        let appended = ending.await.unwrap_or(Err(CommandError::OutcomeUnknown))?;
        Ok(Done {
            result: (),
            position: appended.position,
            replayed: false,
        })
    }

    /// Uses up the code, commits the new password, and tells the tokens of the raised epoch.
    async fn set_password(
        &self,
        ctx: &CommandContext,
        email: &str,
        otp: &str,
        credentials: &Credentials,
        hash: String,
    ) -> Result<Appended, CommandError> {
        // Before the commit: should that fail, a new code must be asked for, but none ever works twice.
        if !self.ports.otps.use_up(email, otp.trim()).await? {
            return Err(BAD_OTP);
        }
        let appended = self.commit_reset(ctx, credentials, hash).await;
        if matches!(appended, Ok(_) | Err(AppendError::OutcomeUnknown)) {
            self.learn_epoch(credentials, appended.is_ok()).await;
        }
        match appended {
            // Erased while the password was hashed.
            Err(AppendError::NoCredentials) => Err(BAD_OTP),
            appended => Ok(appended?),
        }
    }

    /// Keeps the answer, if the client sent a key; there is no event.
    async fn note_request(&self, ctx: &CommandContext) -> Result<Done<()>, CommandError> {
        let now = self.ports.clock.now();
        let mut position = *self.ports.log.watch_head().borrow();
        if let Some(row) = idempotency::answer(ctx, &(), now)? {
            let command_id = self.ports.ids.next_id();
            let append = Append {
                command_id,
                stream: StreamId::new("reset", command_id),
                expected_version: 0,
                events: Vec::new(),
                metadata: ctx.metadata(command_id, now),
                side: vec![row],
            };
            position = self.ports.log.append(append).await?.position;
        }
        Ok(Done {
            result: (),
            position,
            replayed: false,
        })
    }

    /// Makes and keeps a code, whether the address is somebody's or not: a store that is away must be found out before the
    /// answer, and the answer must not tell whose address it is.
    async fn keep_otp(&self, email: &str) -> Result<String, CommandError> {
        let otp = self.ports.secrets.otp();
        let now = self.ports.clock.now();
        let key = credential_key(email);
        self.ports.otps.put(&key, &otp, now).await?;
        Ok(otp)
    }

    /// Mails a code, if the address is somebody's; else forgets it, so that nobody's codes take no room.
    async fn mail_otp(&self, email: &str, otp: &str) -> Result<(), CommandError> {
        let key = credential_key(email);
        let Some(credentials) = self.by_email(&key).await? else {
            // That one alone: whose address it has become may have asked for another.
            self.ports.otps.use_up(&key, otp).await?;
            return Ok(());
        };
        let text = format!(
            "Your one-time code is {otp}. It works for 5 minutes.\n\n\
             If you did not ask to reset your password, ignore this mail.\n"
        );
        let mailer = &self.ports.mailer;
        mailer
            .send(&credentials.email, "Reset your SocialHub password", &text)
            .await?;
        Ok(())
    }

    /// Whose address it is. What has the shape of an address is nobody's username: those have no `@`.
    async fn by_email(&self, email: &str) -> Result<Option<Credentials>, CommandError> {
        Ok(self.ports.credentials.find_by_identifier(email).await?)
    }

    async fn commit_reset(
        &self,
        ctx: &CommandContext,
        credentials: &Credentials,
        password_hash: String,
    ) -> Result<Appended, AppendError> {
        let command_id = self.ports.ids.next_id();
        let append = Append {
            command_id,
            stream: User::stream(credentials.user_id),
            expected_version: 0,
            events: Vec::new(),
            metadata: ctx.metadata(command_id, self.ports.clock.now()),
            side: vec![SideWrite::ResetPassword {
                user_id: credentials.user_id,
                password_hash,
            }],
        };
        self.ports.log.append(append).await
    }

    /// Tells the tokens of the raised epoch. The store knows it best: somebody else may have raised it once more, and
    /// after an unknown outcome only the store knows whether it was raised at all.
    async fn learn_epoch(&self, before: &Credentials, raised: bool) {
        let least = before.token_epoch + u64::from(raised);
        let stored = self.ports.credentials.find_by_id(before.user_id).await;
        let epoch = match stored {
            Ok(Some(now)) => now.token_epoch.max(least),
            _ => least,
        };
        self.ports.tokens.raise_epoch(before.user_id, epoch);
    }
}
