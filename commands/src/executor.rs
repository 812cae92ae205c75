//! The executor: load, let the domain decide, commit; again from a fresh load when somebody else was faster.
//!
//! It stands where `cqrs_es::CqrsFramework` returns nothing: a use case gets its result and the log's position.

use cqrs_es::{
    Aggregate as _, AggregateContext, AggregateError, EventStore, event_sink::EventSink,
};
use serde::{Serialize, de::DeserializeOwned};
use socialhub_domain::{Aggregate, StreamId, Timestamp};
use socialhub_event_log::{AppendError, LogError, RecordedEvent, SideWrite, StoredAnswer};
use uuid::Uuid;

use crate::{
    CommandContext, CommandError, Commands, Done,
    cqrs::{self, Context, Folded},
    idempotency,
};

/// How often a command is tried before others are said to keep changing the same thing.
const MAX_TRIES: u32 = 20;
/// How often a use case may ask for one more stream; each costs a round trip.
const MAX_FURTHER_LOADS: usize = 2;

/// Where a command goes, and what it must look at.
pub(crate) struct Target {
    stream: StreamId,
    fresh: bool,
    others: Vec<StreamId>,
    side: Vec<SideWrite>,
}

impl Target {
    /// A stream that may have events.
    pub(crate) fn existing(stream: StreamId) -> Self {
        Self {
            stream,
            fresh: false,
            others: Vec::new(),
            side: Vec::new(),
        }
    }

    /// A stream of a fresh random id: it needs no load.
    pub(crate) fn fresh(stream: StreamId) -> Self {
        Self {
            fresh: true,
            ..Self::existing(stream)
        }
    }

    /// Loads another stream in the same round trip, for a precondition.
    pub(crate) fn looking_at(mut self, other: StreamId) -> Self {
        self.others.push(other);
        self
    }

    /// A row that commits with the events.
    pub(crate) fn committing(mut self, row: SideWrite) -> Self {
        self.side.push(row);
        self
    }
}

/// The streams a precondition looks at.
pub(crate) struct Loaded(Vec<(StreamId, Vec<RecordedEvent>)>);

impl Loaded {
    /// The state of a stream; none when it was not loaded (yet).
    pub(crate) fn state<A: Aggregate>(
        &self,
        stream: &StreamId,
    ) -> Result<Option<A::State>, CommandError> {
        let found = self.0.iter().find(|(id, _)| id == stream);
        let state = found.map(|(_, events)| cqrs::fold::<A>(events));
        Ok(state.transpose()?)
    }
}

/// What a use case answers to what was loaded.
pub(crate) enum Next<C> {
    /// Preconditions hold: carry this out.
    Decide(C),
    /// One more stream is needed to say; then it is asked again.
    Load(StreamId),
}

/// What became of one try.
enum Try<R> {
    Done(Done<R>),
    /// Somebody else has answered the key.
    Answered(Box<StoredAnswer>),
    Conflict,
}

impl Commands {
    /// Carries out one command on one aggregate.
    ///
    /// `prepare` checks preconditions and makes the command; it is asked anew on each try, with fresh states and a
    /// fresh time. `conclude` makes the use case's result of the state after the decision.
    pub(crate) async fn execute<A, R>(
        &self,
        ctx: &CommandContext,
        target: Target,
        prepare: impl Fn(&A::State, &Loaded, Timestamp) -> Result<Next<A::Command>, CommandError>
        + Send
        + Sync,
        conclude: impl Fn(&A::State, Timestamp) -> R + Send + Sync,
    ) -> Result<Done<R>, CommandError>
    where
        A: Aggregate,
        CommandError: From<A::Error>,
        R: Serialize + DeserializeOwned + Send,
    {
        let command_id = self.ports.ids.next_id();
        // A stream nobody else knows of needs no turn.
        let _turn = match target.fresh {
            true => None,
            false => Some(self.turns.wait(&target.stream).await),
        };
        for tries in 0..MAX_TRIES {
            let (mut context, others) = self.load::<A>(&target).await?;
            let now = self.ports.clock.now();
            context.command_id = command_id;
            context.metadata = ctx.metadata(command_id, now);
            context.side.clone_from(&target.side);
            let ready = self
                .ready(&context.folded.state, others, now, &prepare)
                .await?;
            match self.try_once(ctx, context, ready, now, &conclude).await? {
                Try::Done(done) => return Ok(done),
                Try::Answered(stored) => return idempotency::replay(ctx, &stored),
                Try::Conflict => step_aside(command_id, tries).await,
            }
        }
        Err(CommandError::Contended)
    }

    /// Reads the aggregate's own stream and the others in one round trip.
    async fn load<A: Aggregate>(
        &self,
        target: &Target,
    ) -> Result<(Context<A>, Loaded), CommandError> {
        let (log, others) = (&self.ports.log, &target.others);
        let mut own = Vec::new();
        let mut read = Vec::new();
        match (target.fresh, others.is_empty()) {
            (true, true) => {}
            (true, false) => read = log.read_streams(others).await?,
            (false, true) => own = log.read_stream(&target.stream).await?,
            (false, false) => {
                let mut wanted = Vec::with_capacity(others.len() + 1);
                wanted.extend_from_slice(others);
                wanted.push(target.stream.clone());
                read = log.read_streams(&wanted).await?;
                own = read.pop().unwrap_or_default();
            }
        }
        let context = self.store.context(target.stream.clone(), &own)?;
        let others = others.iter().cloned().zip(read).collect();
        Ok((context, Loaded(others)))
    }

    /// Asks the use case for the command, loading what it wants to see besides.
    async fn ready<S, C>(
        &self,
        state: &S,
        mut others: Loaded,
        now: Timestamp,
        prepare: &(impl Fn(&S, &Loaded, Timestamp) -> Result<Next<C>, CommandError> + Sync),
    ) -> Result<C, CommandError>
    where
        S: Sync,
    {
        for _ in 0..=MAX_FURTHER_LOADS {
            match prepare(state, &others, now)? {
                Next::Decide(command) => return Ok(command),
                Next::Load(stream) => {
                    let events = self.ports.log.read_stream(&stream).await?;
                    others.0.push((stream, events));
                }
            }
        }
        Err(CommandError::Internal(
            "a use case keeps asking for streams".to_owned(),
        ))
    }

    /// Decides and commits.
    async fn try_once<A, R>(
        &self,
        ctx: &CommandContext,
        mut context: Context<A>,
        command: A::Command,
        now: Timestamp,
        conclude: &(impl Fn(&A::State, Timestamp) -> R + Sync),
    ) -> Result<Try<R>, CommandError>
    where
        A: Aggregate,
        CommandError: From<A::Error>,
        R: Serialize + Send,
    {
        let sink = EventSink::default();
        context.aggregate().handle(command, &(), &sink).await?;
        let events = sink.collect().await;
        let result = conclude(&context.folded.state, now);
        if let Some(row) = idempotency::answer(ctx, &result, now)? {
            context.side.push(row);
        }
        let loaded_at = context.position;
        let committed = if !events.is_empty() {
            let envelopes =
                EventStore::<Folded<A>>::commit(&self.store, events, context, Default::default())
                    .await;
            envelopes
                .map(|envelopes| cqrs::position_of(&envelopes).unwrap_or(loaded_at))
                .map_err(fault)
        } else if !context.side.is_empty() {
            let appended = self.store.commit_side_rows(context).await;
            appended
                .map(|appended| appended.position)
                .map_err(Fault::from)
        } else {
            Ok(loaded_at.max(*self.ports.log.watch_head().borrow()))
        };
        match committed {
            Ok(position) => Ok(Try::Done(Done {
                result,
                position,
                replayed: false,
            })),
            Err(Fault::Conflict) => Ok(Try::Conflict),
            Err(Fault::Answered(stored)) => Ok(Try::Answered(stored)),
            Err(Fault::Final(error)) => Err(error),
        }
    }
}

/// Why a commit did not happen.
enum Fault {
    Conflict,
    Answered(Box<StoredAnswer>),
    Final(CommandError),
}

impl From<AppendError> for Fault {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::VersionConflict { .. } => Self::Conflict,
            AppendError::AnswerExists(stored) => Self::Answered(stored),
            other => Self::Final(other.into()),
        }
    }
}

/// Finds our own errors again in what `cqrs_es` made of them.
fn fault<E>(error: AggregateError<E>) -> Fault
where
    E: std::error::Error,
    CommandError: From<E>,
{
    match error {
        AggregateError::AggregateConflict => Fault::Conflict,
        AggregateError::UserError(refusal) => Fault::Final(refusal.into()),
        AggregateError::DatabaseConnectionError(cause)
        | AggregateError::DeserializationError(cause)
        | AggregateError::UnexpectedError(cause) => match cause.downcast::<AppendError>() {
            Ok(error) => Fault::from(*error),
            Err(cause) => Fault::Final(match cause.downcast::<LogError>() {
                Ok(error) => From::<LogError>::from(*error),
                Err(other) => CommandError::Internal(other.to_string()),
            }),
        },
    }
}

/// Lets others go first: more often with each try, differently for each command, so that rivals fall out of step.
async fn step_aside(command_id: Uuid, tries: u32) {
    let jitter = (command_id.as_u128() >> tries) as u32 & 0b111;
    for _ in 0..=(tries + jitter) {
        tokio::task::yield_now().await;
    }
}
