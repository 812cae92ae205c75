//! The one task of a process that appends: takes what waits, has it carried out by one call, tells each caller its own
//! outcome.
//!
//! When a connection is lost in a call, nobody knows whether the call was carried out. Its commands are set aside until
//! the server no longer knows the lost connection's backend (which is asked to end): from then on that call is decided
//! for good. Then they are sent again. What was carried out is found by its command id and answers what it did; what was
//! not is carried out now. So nothing happens twice, and each caller learns the truth unless its time runs out first.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use socialhub_domain::Clock;
use socialhub_event_log::{AppendError, Position};
use tokio::sync::{mpsc, oneshot, watch};

use super::batch::{self, Answer, Outcome, waves};
use crate::{
    event_rows::EncodedAppend,
    postgres::{
        connect::{Access, is_read_only, is_refusal, is_timeout},
        session::{Backend, Session},
    },
};

/// How many waves of commands that share something a call carries at most: each costs as much as a small batch.
const MAX_WAVES: i32 = 16;

/// Between two looks for answers that have had their time, when the last look found no more.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

/// How many rows of each side table a call prunes at least: more than it can add, little enough not to be felt.
const PRUNE_STEP: usize = 64;

/// Between two looks whether a lost backend is gone, or the server back.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Where a command is on its way. Caller and task agree by it on whether it can still be taken back.
#[derive(Debug)]
pub(super) struct Ticket(AtomicU8);

const WAITING: u8 = 0;
const SENT: u8 = 1;
const TAKEN_BACK: u8 = 2;

impl Ticket {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU8::new(WAITING)))
    }

    /// Takes the command back; false when it may have been carried out.
    pub(super) fn take_back(&self) -> bool {
        self.moved(TAKEN_BACK) || self.0.load(Ordering::Acquire) == TAKEN_BACK
    }

    fn send(&self) -> bool {
        self.moved(SENT) || self.0.load(Ordering::Acquire) == SENT
    }

    fn moved(&self, to: u8) -> bool {
        let moved = self
            .0
            .compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire);
        moved.is_ok()
    }
}

/// A command on its way, and where its outcome goes.
#[derive(Debug)]
pub(super) struct Waiting {
    pub command: EncodedAppend,
    pub ticket: Arc<Ticket>,
    pub reply: oneshot::Sender<Outcome>,
    /// Whether it was in a call of which nobody knows what became.
    pub unresolved: bool,
}

impl Waiting {
    fn answer(self, outcome: Outcome) {
        // The caller may have gone away; what was done stands all the same.
        let _ = self.reply.send(outcome);
    }
}

struct Link {
    session: Session,
    backend: Backend,
}

impl Link {
    async fn new(access: &Access) -> Result<Self, sqlx::Error> {
        let mut session = Session::connect(access).await?;
        let backend = Backend::of(&mut session).await?;
        Ok(Self { session, backend })
    }
}

/// Commands of a call that was lost, and the backend that may still carry it out.
struct Lost {
    backend: Backend,
    commands: Vec<Waiting>,
}

/// The state of the task.
pub(super) struct Appender {
    access: Access,
    queue: mpsc::Receiver<Waiting>,
    clock: Arc<dyn Clock>,
    told: Arc<watch::Sender<Position>>,
    max_batch: usize,
    pending: VecDeque<Waiting>,
    lost: Vec<Lost>,
    link: Option<Link>,
    /// Whether the last try to connect went well, so that only a change is reported.
    reachable: bool,
    next_prune: Instant,
}

impl Appender {
    /// A task yet to be run.
    pub(super) fn new(
        access: Access,
        queue: mpsc::Receiver<Waiting>,
        clock: Arc<dyn Clock>,
        told: Arc<watch::Sender<Position>>,
        max_batch: usize,
    ) -> Self {
        Self {
            access,
            queue,
            clock,
            told,
            max_batch,
            pending: VecDeque::new(),
            lost: Vec::new(),
            link: None,
            reachable: true,
            next_prune: Instant::now(),
        }
    }

    /// Serves until nobody can send any more and all that was sent is answered.
    pub(super) async fn run(mut self) {
        while self.gather().await {
            if let Err(error) = self.connect().await {
                self.refuse_fresh(&error);
                // What comes meanwhile is refused together: a server that is down is not asked for each command.
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
            self.reachable = true;
            self.find_lost().await;
            let batch = self.take();
            if !batch.is_empty() {
                self.carry_out(batch).await;
            }
        }
    }

    /// Waits for a command and takes all that wait behind it. False when there will be no more.
    async fn gather(&mut self) -> bool {
        // Whom nobody waits for any more is not looked for any longer.
        for lost in &mut self.lost {
            lost.commands.retain(|waiting| !waiting.reply.is_closed());
        }
        self.lost.retain(|lost| !lost.commands.is_empty());
        self.pending
            .retain(|waiting| !(waiting.unresolved && waiting.reply.is_closed()));
        if self.pending.is_empty() {
            let first = if self.lost.is_empty() {
                self.queue.recv().await
            } else {
                let soon = tokio::time::timeout(LOOK_AGAIN, self.queue.recv());
                match soon.await {
                    Ok(Some(first)) => Some(first),
                    Ok(None) => {
                        // Closing, and `recv` no longer waits.
                        tokio::time::sleep(LOOK_AGAIN).await;
                        return true;
                    }
                    Err(_) => return true,
                }
            };
            let Some(first) = first else {
                return false;
            };
            self.pending.push_back(first);
        }
        while self.pending.len() < self.max_batch {
            match self.queue.try_recv() {
                Ok(waiting) => self.pending.push_back(waiting),
                Err(_) => break,
            }
        }
        true
    }

    /// Connects, if there is no connection. One that breaks at once is no reason to refuse anybody: it is tried twice.
    async fn connect(&mut self) -> Result<(), sqlx::Error> {
        if self.link.is_none() {
            self.link = match Link::new(&self.access).await {
                Err(error) if !is_timeout(&error) => Some(Link::new(&self.access).await?),
                link => Some(link?),
            };
        }
        Ok(())
    }

    /// Commands that were never sent are refused at once; the others wait for the server to come back.
    fn refuse_fresh(&mut self, error: &sqlx::Error) {
        while let Ok(waiting) = self.queue.try_recv() {
            self.pending.push_back(waiting);
        }
        if std::mem::take(&mut self.reachable) {
            tracing::warn!(%error, "the event log cannot reach Postgres: commands are refused");
        }
        let (unresolved, fresh) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|waiting| waiting.unresolved);
        self.pending = unresolved;
        for waiting in fresh {
            waiting.answer(Err(unavailable(error)));
        }
    }

    /// Sees whether the backends of lost calls are gone, and puts the commands of those that are before all others.
    async fn find_lost(&mut self) {
        let Some(mut link) = self.link.take() else {
            return;
        };
        let mut all = std::mem::take(&mut self.lost).into_iter();
        for lost in all.by_ref() {
            match lost.backend.end(&mut link.session).await {
                Ok(true) => {
                    for waiting in lost.commands.into_iter().rev() {
                        self.pending.push_front(waiting);
                    }
                }
                Ok(false) => self.lost.push(lost),
                Err(error) => {
                    tracing::warn!(%error, "cannot see whether a lost backend is gone");
                    self.lost.push(lost);
                    self.lost.extend(all);
                    return;
                }
            }
        }
        self.link = Some(link);
    }

    /// The next batch. What it cannot carry, for its size or because too many share something, comes first the next
    /// time, in its order.
    fn take(&mut self) -> Vec<Waiting> {
        if self.link.is_none() {
            return Vec::new();
        }
        let waves = waves(self.pending.iter().map(|waiting| &waiting.command));
        let (mut batch, mut rest) = (Vec::new(), VecDeque::new());
        for (waiting, wave) in std::mem::take(&mut self.pending).into_iter().zip(waves) {
            if wave > MAX_WAVES || batch.len() == self.max_batch {
                rest.push_back(waiting);
            } else if waiting.ticket.send() {
                batch.push(waiting);
            }
        }
        self.pending = rest;
        batch
    }

    /// Has a batch carried out. A part of it that the database chokes on is halved until what remains is what it chokes
    /// on, so that one command does not take others with it.
    async fn carry_out(&mut self, batch: Vec<Waiting>) {
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            if self.link.is_none() {
                // It was lost to a part before: the rest waits for the next one.
                self.pending.extend(part);
                continue;
            }
            match self.call(&part).await {
                Ok(answer) => {
                    // Before the replies: who was answered finds at least their own position in the watched head.
                    self.tell_head(&answer.outcomes);
                    for (waiting, outcome) in part.into_iter().zip(answer.outcomes) {
                        waiting.answer(outcome);
                    }
                }
                Err(error) if !is_refusal(&error) => self.lose(part, &error),
                Err(error) if part.len() > 1 && is_about_data(&error) => {
                    let second = part.split_off(part.len() / 2);
                    parts.push(second);
                    parts.push(part);
                }
                Err(error) => {
                    if is_read_only(&error) {
                        self.link = None;
                    }
                    self.refuse(part, &error).await;
                }
            }
        }
    }

    async fn call(&mut self, part: &[Waiting]) -> Result<Answer, sqlx::Error> {
        let Some(link) = &mut self.link else {
            return Err(sqlx::Error::WorkerCrashed);
        };
        let commands: Vec<&EncodedAppend> = part.iter().map(|waiting| &waiting.command).collect();
        let now = Instant::now();
        let prune = if now >= self.next_prune {
            PRUNE_STEP.max(2 * commands.len())
        } else {
            0
        };
        let step = i32::try_from(prune).unwrap_or(i32::MAX);
        let call = batch::call(&mut link.session, &commands, self.clock.now(), step);
        let answer = call.await?;
        if prune > 0 && !answer.more_to_prune {
            self.next_prune = now + PRUNE_INTERVAL;
        }
        Ok(answer)
    }

    /// Sets commands aside whose call was lost.
    fn lose(&mut self, mut commands: Vec<Waiting>, error: &sqlx::Error) {
        tracing::warn!(%error, commands = commands.len(), "the event log lost its connection in an append");
        for waiting in &mut commands {
            waiting.unresolved = true;
        }
        // Dropped, the connection is closed, in whatever state it is.
        if let Some(link) = self.link.take() {
            let backend = link.backend;
            self.lost.push(Lost { backend, commands });
        }
    }

    /// Answers commands whose call was certainly not carried out. Of those that an earlier call was lost with, that says
    /// nothing: they are tried again.
    async fn refuse(&mut self, commands: Vec<Waiting>, error: &sqlx::Error) {
        tracing::error!(%error, commands = commands.len(), "the event log could not append");
        let mut again = false;
        for waiting in commands {
            if !waiting.unresolved {
                waiting.answer(Err(unavailable(error)));
            } else if is_about_data(error) {
                waiting.answer(Err(AppendError::OutcomeUnknown));
            } else {
                self.pending.push_front(waiting);
                again = true;
            }
        }
        if again {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn tell_head(&self, outcomes: &[Outcome]) {
        let positions = outcomes.iter().flatten().map(|did| did.position);
        raise(&self.told, positions.max().unwrap_or(0));
    }
}

/// Lets the watched head rise, never sink: who tells it may have looked a moment ago.
pub(super) fn raise(told: &watch::Sender<Position>, head: Position) {
    told.send_if_modified(|told| {
        let risen = head > *told;
        *told = head.max(*told);
        risen
    });
}

fn unavailable(error: &sqlx::Error) -> AppendError {
    AppendError::Unavailable(format!("the event log could not append: {error}"))
}

/// Whether the database refused because of what a command says, not because of how it is itself: then each half of a
/// batch is worth a try.
fn is_about_data(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else {
        return false;
    };
    let code = error.code().unwrap_or_default();
    // Data exceptions, violated constraints, limits of the program such as an index row too long, raised by a trigger.
    ["22", "23", "54", "P0"]
        .iter()
        .any(|class| code.starts_with(class))
}
