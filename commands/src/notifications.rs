//! Use cases: marks on notifications.

use socialhub_domain::{
    NotificationId,
    notification::{Inbox, InboxCommand, Mark, Notification, NotificationCommand},
};

use crate::{
    CommandContext, CommandError, Commands, Done,
    executor::{Next, Target},
};

impl Commands {
    /// Marks one as read. 404 `Notification not found` (also another's). Twice is once.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn mark_read(
        &self,
        ctx: &CommandContext,
        id: NotificationId,
    ) -> Result<Done<()>, CommandError> {
        self.mark(ctx, id, Mark::Read).await
    }

    /// Marks everything up to the model's position as read.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn mark_all_read(&self, ctx: &CommandContext) -> Result<Done<()>, CommandError> {
        let owner = ctx.actor()?.id;
        let run = async {
            let up_to = self.ports.notifications.position().await?;
            let target = Target::existing(Inbox::stream(owner));
            self.execute::<Inbox, _>(
                ctx,
                target,
                |_, _, at| Ok(Next::Decide(InboxCommand::MarkAllRead { owner, up_to, at })),
                |_, _| (),
            )
            .await
        };
        self.idempotent(ctx, run).await
    }

    /// Removes one. 404 `Notification not found` (also another's, also a second time).
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn delete_notification(
        &self,
        ctx: &CommandContext,
        id: NotificationId,
    ) -> Result<Done<()>, CommandError> {
        self.mark(ctx, id, Mark::Delete).await
    }

    async fn mark(
        &self,
        ctx: &CommandContext,
        id: NotificationId,
        mark: Mark,
    ) -> Result<Done<()>, CommandError> {
        let owner = ctx.actor()?.id;
        let run = async {
            if self.ports.notifications.owner(id).await? != Some(owner) {
                return Err(CommandError::NO_NOTIFICATION);
            }
            let command = |at| NotificationCommand {
                mark,
                id,
                owner,
                at,
            };
            self.execute::<Notification, _>(
                ctx,
                Target::existing(Notification::stream(id)),
                |_, _, at| Ok(Next::Decide(command(at))),
                |_, _| (),
            )
            .await
        };
        self.idempotent(ctx, run).await
    }
}
