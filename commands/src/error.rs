//! Why a command was not carried out.

pub use socialhub_domain::validation::FieldError;
use socialhub_domain::{
    comment::CommentError,
    follow::FollowError,
    notification::{InboxError, NotificationError},
    post::PostError,
    reaction::ReactionError,
    user::UserError,
    validation::Problems,
};
use socialhub_event_log::{AppendError, LogError};

/// Why a command was not carried out. Each variant has one HTTP status; nothing was written in any case but
/// `OutcomeUnknown`.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// 400: fields are bad; all of them are named.
    #[error("validation failed")]
    Invalid(Vec<FieldError>),
    /// 400: a rule says no. The short message is part of the contract, e.g. `Already following`.
    #[error("{0}")]
    Refused(&'static str),
    /// 401: no or bad credentials. The short message is part of the contract, e.g. `Invalid credentials`.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// 403: not theirs to do.
    #[error("{0}")]
    Forbidden(&'static str),
    /// 404: not there, or not visible to who asks, e.g. `Post not found`.
    #[error("{0}")]
    NotFound(&'static str),
    /// 409: a command with the same idempotency key is still running in this process.
    #[error("a request with this Idempotency-Key is still running")]
    StillRunning,
    /// 409: others kept changing the same thing, however often it was tried again.
    #[error("too many concurrent changes of the same thing")]
    Contended,
    /// 413: too big or too many; says which.
    #[error("{0}")]
    TooLarge(String),
    /// 415: a kind of file that is not taken; says which.
    #[error("{0}")]
    UnsupportedMedia(String),
    /// 422: the idempotency key was used for another content.
    #[error("this Idempotency-Key was used with other content")]
    KeyReused,
    /// 503 with Retry-After: certainly not applied.
    #[error("temporarily unavailable: {0}")]
    Unavailable(String),
    /// 504: it may or may not have been applied; ask again with the same key.
    #[error("outcome unknown")]
    OutcomeUnknown,
    /// 500: a fault of ours, e.g. a damaged log. Logged with its cause, told without it.
    #[error("internal error: {0}")]
    Internal(String),
}

impl CommandError {
    /// Nobody is logged in.
    pub(crate) const UNAUTHORIZED: Self = Self::Unauthenticated("Unauthorized");
    /// No such post, or none that the actor may see.
    pub(crate) const NO_POST: Self = Self::NotFound("Post not found");
    /// No such comment, or none that the actor may see.
    pub(crate) const NO_COMMENT: Self = Self::NotFound("Comment not found");
    /// No such person.
    pub(crate) const NO_USER: Self = Self::NotFound("User not found");
    /// No such notification, or another's.
    pub(crate) const NO_NOTIFICATION: Self = Self::NotFound("Notification not found");

    /// Whether it is a verdict on the request, as against a fault that the same request may not meet again.
    pub(crate) fn is_refusal(&self) -> bool {
        !matches!(
            self,
            Self::Unavailable(_) | Self::OutcomeUnknown | Self::Internal(_) | Self::Contended
        )
    }
}

/// Fails with every bad field.
pub(crate) fn valid(problems: Problems) -> Result<(), CommandError> {
    problems.into_result().map_err(CommandError::Invalid)
}

impl From<LogError> for CommandError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Unavailable(reason) => Self::Unavailable(reason),
            // Somebody has to restore it; then the command can be given again.
            LogError::NoKey { .. } => Self::Unavailable(error.to_string()),
            LogError::Damaged { .. } => Self::Internal(error.to_string()),
        }
    }
}

impl From<AppendError> for CommandError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::CredentialsTaken(_) => Self::Refused("User already exists"),
            AppendError::Unavailable(reason) => Self::Unavailable(reason),
            AppendError::OutcomeUnknown => Self::OutcomeUnknown,
            AppendError::VersionConflict { .. } => Self::Contended,
            AppendError::NoCredentials => Self::NO_USER,
            // Their token is dead; this request came in before it was.
            AppendError::ActorErased => Self::UNAUTHORIZED,
            // The executor reads the winner's answer itself, so that this is never told.
            AppendError::AnswerExists(_) => Self::StillRunning,
        }
    }
}

impl From<UserError> for CommandError {
    fn from(error: UserError) -> Self {
        match error {
            UserError::AlreadyRegistered => Self::Refused("User already exists"),
            UserError::NotFound => Self::NO_USER,
        }
    }
}

impl From<FollowError> for CommandError {
    fn from(error: FollowError) -> Self {
        Self::Refused(match error {
            FollowError::Oneself => "Cannot follow yourself",
            FollowError::AlreadyFollowing => "Already following",
            FollowError::NotFollowing => "Not following",
        })
    }
}

impl From<PostError> for CommandError {
    fn from(error: PostError) -> Self {
        match error {
            PostError::AlreadyExists => Self::Refused("Post already exists"),
            PostError::NotFound => Self::NO_POST,
            PostError::NotAuthor => Self::Forbidden("Not your post"),
        }
    }
}

impl From<CommentError> for CommandError {
    fn from(error: CommentError) -> Self {
        match error {
            CommentError::AlreadyExists => Self::Refused("Comment already exists"),
            CommentError::NotFound => Self::NO_COMMENT,
            CommentError::NotAllowed => Self::Forbidden("Not your comment"),
        }
    }
}

impl From<NotificationError> for CommandError {
    fn from(error: NotificationError) -> Self {
        match error {
            NotificationError::NotFound => Self::NO_NOTIFICATION,
        }
    }
}

impl From<ReactionError> for CommandError {
    fn from(error: ReactionError) -> Self {
        match error {}
    }
}

impl From<InboxError> for CommandError {
    fn from(error: InboxError) -> Self {
        match error {}
    }
}
