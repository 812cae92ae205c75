//! Leading: publishing batch after batch while the lease is held.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, spawn_blocking},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    event::{Position, RecordedEvent},
    frontier::Frontier,
    port::{EventLog, LogError},
    reading::read_bounded,
    relay::{
        Ended, Gather, Relay, RelayState,
        align::{Misaligned, align, check_log, take_over},
        port::{Outgoing, PublishError, TailRecord},
    },
    relay_store::Lease,
    wire::WireRecord,
};

const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long the batch in hand may take when the program stops; after that the next leader finds out what became of it.
const GRACE: Duration = Duration::from_secs(2);
/// From here on encoding would hold up the async threads noticeably.
const ENCODE_APART: usize = 64;

/// Why publishing ended. Before it goes on, the ends of the partitions are looked at again.
enum Trouble {
    Again(String),
    Stopped,
    Lost,
    Refused(String),
}

impl From<LogError> for Trouble {
    fn from(error: LogError) -> Self {
        Self::Again(error.to_string())
    }
}

impl From<PublishError> for Trouble {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Refused(reason) => Self::Refused(reason),
            // Whoever shut us out may have been a sleeper that finds its lease gone: ours decides.
            PublishError::Fenced | PublishError::Failed(_) => Self::Again(error.to_string()),
        }
    }
}

impl From<Misaligned> for Trouble {
    fn from(Misaligned(reason): Misaligned) -> Self {
        Self::Refused(reason)
    }
}

/// Ends a task when it is dropped.
struct Aborting(AbortHandle);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Until when the lease is certainly ours: reckoned from before each question, so never later than the store thinks.
#[derive(Clone)]
struct Held {
    until: watch::Sender<Instant>,
    lost: CancellationToken,
}

impl Held {
    fn renewed(&self, asked: Instant, lease: Duration) {
        // A little earlier, for the time a batch takes to leave the process.
        self.until.send_replace(asked + lease.mul_f64(0.8));
    }

    fn is_ours(&self) -> bool {
        !self.lost.is_cancelled() && Instant::now() < *self.until.borrow()
    }
}

impl Relay {
    /// Leads until there is a reason not to. The lease is given back unless it is lost.
    pub(super) async fn lead(
        &self,
        lease: Lease,
        asked: Instant,
        stop: &CancellationToken,
    ) -> Ended {
        let held = Held {
            until: watch::Sender::new(asked),
            lost: CancellationToken::new(),
        };
        held.renewed(asked, self.settings.lease);
        let ended = tokio::select! {
            () = async { stop.cancelled().await; sleep(GRACE).await } => Ended::Stopped,
            () = self.keep(lease, &held) => Ended::Lost,
            ended = self.publish_while_held(lease, &held, stop) => ended,
        };
        if !matches!(ended, Ended::Lost)
            && let Err(error) = self.store.release(&self.owner, &lease).await
        {
            tracing::warn!(%error, "the lease was not given back: another relay will wait until it has run out");
        }
        ended
    }

    /// Renews the lease; returns when it is lost.
    async fn keep(&self, lease: Lease, held: &Held) {
        let mut ticks = tokio::time::interval(self.settings.renew_every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let asked = Instant::now();
            match timeout(self.settings.lease, self.store.renew(&self.owner, &lease)).await {
                Ok(Ok(true)) => held.renewed(asked, self.settings.lease),
                Ok(Ok(false)) => return held.lost.cancel(),
                Ok(Err(error)) => tracing::warn!(%error, "the lease cannot be renewed"),
                Err(_) => tracing::warn!("the lease cannot be renewed: no answer"),
            }
            if !held.is_ours() {
                return held.lost.cancel();
            }
            self.status.gauges();
        }
    }

    async fn publish_while_held(
        &self,
        lease: Lease,
        held: &Held,
        stop: &CancellationToken,
    ) -> Ended {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let began = Instant::now();
            match self.publish_all(lease, held, stop).await {
                Trouble::Stopped => return Ended::Stopped,
                Trouble::Lost => return Ended::Lost,
                Trouble::Refused(reason) => return Ended::Refused(reason),
                Trouble::Again(error) => {
                    tracing::warn!(error, "publishing begins anew");
                    self.status.failing(RelayState::Stuck, &error);
                }
            }
            if began.elapsed() > LONGEST_PAUSE {
                pause = SHORTEST_PAUSE;
            }
            tokio::select! {
                () = stop.cancelled() => return Ended::Stopped,
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Aligns with the topics, then publishes what the log has and gets, until something goes wrong.
    async fn publish_all(&self, lease: Lease, held: &Held, stop: &CancellationToken) -> Trouble {
        let mut frontier = match self.align(lease, held).await {
            Ok(frontier) => frontier,
            Err(trouble) => return trouble,
        };
        self.status.stands_at(frontier.position);
        let (sender, mut batches) = mpsc::channel(1);
        let reader = Reader {
            log: Arc::clone(&self.log),
            after: frontier.position,
            batch: self.settings.batch,
            gather: self.settings.gather,
            poll_every: self.settings.poll_every,
            sender,
        };
        let _reading = Aborting(tokio::spawn(reader.run()).abort_handle());
        loop {
            let batch = tokio::select! {
                biased;
                () = stop.cancelled() => return Trouble::Stopped,
                batch = batches.recv() => batch,
            };
            let published = match batch {
                Some(Ok(batch)) => self.publish(batch, &mut frontier, lease, held).await,
                Some(Err(error)) => Err(error.into()),
                None => Err(Trouble::Again("the log is no longer read".to_owned())),
            };
            if let Err(trouble) = published {
                return trouble;
            }
        }
    }

    async fn align(&self, lease: Lease, held: &Held) -> Result<Frontier, Trouble> {
        let counts = self.publisher.topics().await?;
        self.publisher.begin().await?;
        // Only now: everybody else is shut out. If we slept since we took the lease, it was perhaps a leader.
        let asked = Instant::now();
        if !self.store.renew(&self.owner, &lease).await? {
            return Err(Trouble::Lost);
        }
        held.renewed(asked, self.settings.lease);
        let saved = self.store.frontier().await?;
        let tails = self.publisher.tails(&counts).await?;
        let aligned = align(&saved, &counts, &tails)?;
        check_log(&self.log, &aligned).await??;
        let aligned = take_over(&self.log, &saved, aligned, &tails).await?;
        if aligned != saved {
            if aligned.position > saved.position {
                tracing::info!(
                    saved = saved.position,
                    published = aligned.position,
                    "taking over what was published and not saved"
                );
            }
            self.save(lease, &aligned, held).await?;
        }
        Ok(aligned)
    }

    async fn publish(
        &self,
        batch: Batch,
        frontier: &mut Frontier,
        lease: Lease,
        held: &Held,
    ) -> Result<(), Trouble> {
        let (outgoing, ends) = batch.addressed(frontier)?;
        if !held.is_ours() {
            return Err(Trouble::Lost);
        }
        let count = outgoing.len();
        let offsets = self.publisher.publish(outgoing).await?;
        if offsets.len() != count {
            return Err(Trouble::Again("an offset is missing".to_owned()));
        }
        for (end, offset) in ends.into_iter().zip(offsets) {
            let last = TailRecord {
                offset,
                ..end.record
            };
            frontier.advance(end.topic, end.partition, &last);
        }
        self.save(lease, frontier, held).await?;
        self.status.published(frontier.position, count);
        Ok(())
    }

    /// Nothing is published before the batch before it is saved: so never more than one is on the topics unsaved.
    async fn save(&self, lease: Lease, frontier: &Frontier, held: &Held) -> Result<(), Trouble> {
        let mut pause = SHORTEST_PAUSE;
        loop {
            match self.store.save(&lease, frontier).await {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(Trouble::Lost),
                Err(error) => {
                    tracing::warn!(%error, "the relay's position cannot be saved");
                    self.status.failing(RelayState::Stuck, &error.to_string());
                }
            }
            if !held.is_ours() {
                return Err(Trouble::Lost);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Consecutive events of the log, ready to be addressed.
struct Batch(Vec<WireRecord>);

/// Where a record goes, and its place in the log.
struct Destination {
    topic: &'static str,
    partition: i32,
    record: TailRecord,
}

impl Batch {
    /// Chooses each record's partition and tells it which record is before it there.
    fn addressed(self, frontier: &Frontier) -> Result<(Vec<Outgoing>, Vec<Destination>), Trouble> {
        let mut ends: Vec<Destination> = Vec::with_capacity(self.0.len());
        let mut last = std::collections::HashMap::new();
        let mut outgoing = Vec::with_capacity(self.0.len());
        for mut record in self.0 {
            let topic = record.topic.name();
            let count = frontier.count(topic);
            let count = count.ok_or_else(|| Trouble::Again(format!("{topic} is not there")))?;
            let partition = record.partition(count);
            let position = record.headers.position;
            let before = last.insert((topic, partition), position);
            record.headers.previous = before
                .unwrap_or_else(|| frontier.end(topic, partition).map_or(0, |end| end.position));
            ends.push(Destination {
                topic,
                partition,
                record: TailRecord {
                    offset: -1,
                    position,
                    event_id: record.headers.event_id,
                },
            });
            outgoing.push(Outgoing { partition, record });
        }
        Ok((outgoing, ends))
    }
}

/// Reads and encodes the next batch while the one before it is published.
struct Reader {
    log: Arc<dyn EventLog>,
    after: Position,
    batch: usize,
    gather: Gather,
    poll_every: Duration,
    sender: mpsc::Sender<Result<Batch, LogError>>,
}

impl Reader {
    async fn run(mut self) {
        let mut head = self.log.watch_head();
        loop {
            head.borrow_and_update();
            let began = Instant::now();
            let batch = self.read().await;
            let failed = batch.is_err();
            match batch.transpose() {
                Some(batch) => {
                    let events = batch.as_ref().map_or(0, |batch| batch.0.len());
                    if self.sender.send(batch).await.is_err() || failed {
                        return;
                    }
                    if events < self.batch {
                        sleep_until(began + self.gather.after(events)).await;
                    }
                }
                None => {
                    // An error means that nobody tells any more: then it is polling alone.
                    let told = timeout(self.poll_every, head.changed()).await;
                    if matches!(told, Ok(Err(_))) {
                        sleep(self.poll_every).await;
                    }
                }
            }
        }
    }

    /// The next events, encoded; none at the log's end.
    async fn read(&mut self) -> Result<Option<Batch>, LogError> {
        let events = read_bounded(&*self.log, self.after, self.batch).await?;
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            let head = self.log.head().await?;
            if head < self.after {
                let reason = format!("it ends at {head}, before what is published");
                return Err(LogError::Unavailable(reason));
            }
            return Ok(None);
        };
        if first.position != self.after + 1 {
            return Err(LogError::Damaged {
                position: self.after + 1,
                reason: "there is no event".to_owned(),
            });
        }
        self.after = last.position;
        let batch = if events.len() < ENCODE_APART {
            encode(&events)
        } else {
            spawn_blocking(move || encode(&events))
                .await
                .map_err(|_| LogError::Unavailable("the program is closing".to_owned()))?
        };
        batch.map(Some)
    }
}

fn encode(events: &[RecordedEvent]) -> Result<Batch, LogError> {
    let encode = |event: &RecordedEvent| {
        WireRecord::of(event, 0).map_err(|error| LogError::Damaged {
            position: event.position,
            reason: error.to_string(),
        })
    };
    events
        .iter()
        .map(encode)
        .collect::<Result<_, _>>()
        .map(Batch)
}
