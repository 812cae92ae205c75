//! Where a read model is, how its projector fares, and waiting for it: read your own writes.

use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Serialize;
use socialhub_domain::{Clock, Timestamp, Topic};
use socialhub_event_log::{Frontier, Position, RATE_OVER, Track};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    runtime::division::differs,
    store::{Checkpoint, GenerationId, ModelName, Parked, ReadError, Source, source_position},
};

/// How fresh a read is, for `X-Position` and `X-Stale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// How far the read model is.
    pub position: Position,
    /// Whether that is behind what was asked for, or behind what is [`due`].
    pub stale: bool,
}

/// Where the current generation of one read model is.
#[async_trait]
pub trait ModelPosition: Send + Sync {
    /// The minimum over its sources.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn position(&self) -> Result<Position, ReadError>;

    /// Waits until the model has passed `wanted`, at most `limit`, and not at all while it has had work for more than
    /// [`GIVEN_UP_AFTER`] and has not moved.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn wait_for(&self, wanted: Position, limit: Duration) -> Result<Freshness, ReadError>;

    /// The position as this process knows it, without asking: never ahead of the store, perhaps behind it.
    fn known(&self) -> Position;

    /// The position as this process knows it, told after each commit: what streams wake up on.
    fn watch(&self) -> watch::Receiver<Position>;
}

/// How far a model that reads partitions has seen the log: as far as the relay where it has handled a partition's last
/// record, else as far as the event before the partition's next one, while the relay still knows that there was none between;
/// and the least of that over all its partitions. What was handled of a topic that was divided otherwise tells nothing.
pub fn reached(checkpoints: &[Checkpoint], topics: &[Topic], frontier: &Frontier) -> Position {
    let log = source_position(checkpoints, &Source::log());
    let handled = |source: &Source| {
        let known = checkpoints.iter().filter(|found| {
            found.source == *source && !differs(found.partitions, frontier.count(&source.name))
        });
        known.map(|found| found.position).fold(log, Position::max)
    };
    let behind = frontier
        .ends
        .iter()
        .filter(|end| topics.iter().any(|topic| topic.name() == end.topic))
        .filter_map(|end| end.seen(handled(&Source::partition(&end.topic, end.partition))))
        .min();
    // A rebuild fills from the log and may be ahead of the relay.
    behind.unwrap_or(frontier.position).max(log)
}

/// How long after it was appended an event is due in every model.
pub const DUE_AFTER: Duration = Duration::from_secs(2);

/// What every model should have by now: where the log ended at least `grace` ago, at most twice that. What is there at
/// the beginning is due at once. Ends with `stop`; must be called within a tokio runtime.
///
/// A model that has less lacks something although nobody waits for it: its store was brought back from a backup, or whoever
/// should write it is away.
pub fn due(
    mut head: watch::Receiver<Position>,
    grace: Duration,
    stop: CancellationToken,
) -> watch::Receiver<Position> {
    let (due, told) = watch::channel(*head.borrow_and_update());
    tokio::spawn(async move {
        let follow = async {
            while head.changed().await.is_ok() {
                let end = *head.borrow_and_update();
                sleep(grace).await;
                due.send_replace(end);
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow => {}
        }
    });
    told
}

/// How that begins which is wrong with a part that has not come to its work yet. It is no error of it afterwards.
pub const STARTING: &str = "is starting";

/// Whether that is what is wrong.
pub fn is_starting(trouble: &str) -> bool {
    trouble.starts_with(STARTING)
}

/// For a model that has had work for this long and has not moved no read waits any longer.
pub const GIVEN_UP_AFTER: Duration = Duration::from_secs(1);

/// A model that has had work for this long and has not moved is said to be stuck. Whoever catches up with a large log may write
/// at one batch for seconds, and moves all the same.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);

/// How a projector fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProjectorState {
    /// Opening its store, or waiting for the first partitions that its group deals out.
    Starting,
    /// Following the log.
    Running,
    /// Its store or the log does not answer, and it tries again; or it has had work for a while and has not moved.
    Stuck,
    /// It refuses to go on; the last error says what to do.
    Dead,
    /// Stopped on request.
    Stopped,
}

impl ProjectorState {
    const ALL: [Self; 5] = [
        Self::Starting,
        Self::Running,
        Self::Stuck,
        Self::Dead,
        Self::Stopped,
    ];

    /// The state in a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stuck => "stuck",
            Self::Dead => "dead",
            Self::Stopped => "stopped",
        }
    }
}

/// A projector's status at one moment.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusReport {
    /// The read model.
    pub model: ModelName,
    /// How it fares.
    pub state: ProjectorState,
    /// The generation it writes; none before the first was opened.
    pub generation: Option<GenerationId>,
    /// How far it is.
    pub position: Position,
    /// How far the log is, as this process knows.
    pub head: Position,
    /// How many events it is behind.
    pub lag_events: u64,
    /// For how long it has been behind, in seconds: since the last event it wrote happened (or the first that waited for it
    /// when it opened its store), at most since it was last not behind. 0 when it is not.
    pub lag_seconds: f64,
    /// Events a second that it has moved by in the last fifteen seconds.
    pub rate: f64,
    /// What is parked with it.
    #[serde(flatten)]
    pub parked: Parked,
    /// Seconds since it last gave a sign of life while it had something to do.
    pub heartbeat_seconds: f64,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// The live status of one projector, shared between its task, the queries that wait for it, and the health route.
pub struct ProjectionStatus {
    model: ModelName,
    position: watch::Sender<Position>,
    head: watch::Receiver<Position>,
    inner: Mutex<Inner>,
}

struct Inner {
    state: ProjectorState,
    /// Whether partitions, perhaps none, have been dealt to it; always where it reads the log itself.
    dealt: bool,
    generation: Option<GenerationId>,
    parked: Parked,
    track: Track,
    last_error: Option<String>,
    /// When the last event that was written happened; before the first, the one that waited for it.
    event_time: Option<Timestamp>,
    /// Since when it has had work without moving.
    behind_since: Option<Instant>,
    /// When it was last not behind; none before it has been.
    caught_up: Option<Instant>,
    began: Instant,
    heartbeat: Instant,
}

impl ProjectionStatus {
    /// A projector that has not started and reads the log itself; `head` is the log's.
    pub fn new(model: ModelName, head: watch::Receiver<Position>) -> Self {
        Self::before_work(model, head, true)
    }

    /// A projector that has not started and to which a group deals partitions.
    pub(crate) fn of_group(model: ModelName, head: watch::Receiver<Position>) -> Self {
        Self::before_work(model, head, false)
    }

    fn before_work(model: ModelName, head: watch::Receiver<Position>, dealt: bool) -> Self {
        let began = Instant::now();
        let inner = Inner {
            state: ProjectorState::Starting,
            dealt,
            generation: None,
            parked: Parked::default(),
            track: Track::begin(RATE_OVER, began, 0),
            last_error: None,
            event_time: None,
            behind_since: None,
            caught_up: None,
            began,
            heartbeat: began,
        };
        Self {
            model,
            position: watch::Sender::new(0),
            head,
            inner: Mutex::new(inner),
        }
    }

    /// Where the store stands before a projector has opened it: readers read from there already. A store that is beyond
    /// the log will be refused, so nothing of it counts.
    pub(crate) fn resume(&self, position: Position) {
        if position <= *self.head.borrow() {
            self.position.send_replace(position);
        }
    }

    /// The model's name.
    pub fn model(&self) -> ModelName {
        self.model
    }

    /// What went wrong last, while it has not gone well since.
    pub fn last_error(&self) -> Option<String> {
        self.inner.lock().last_error.clone()
    }

    /// Everything at one moment.
    pub fn report(&self, clock: &dyn Clock) -> StatusReport {
        self.observe_head();
        let (position, head) = (*self.position.borrow(), *self.head.borrow());
        let inner = self.inner.lock();
        StatusReport {
            model: self.model,
            state: inner.state_now(),
            generation: inner.generation,
            position,
            head,
            lag_events: head.saturating_sub(position),
            lag_seconds: inner.lag_seconds(head > position, clock),
            rate: inner.track.per_second(Instant::now()),
            parked: inner.parked,
            heartbeat_seconds: inner.heartbeat.elapsed().as_secs_f64(),
            last_error: inner.last_error.clone(),
        }
    }

    /// Whether it has had work for [`STUCK_AFTER`] and has not moved, sooner if it knows why, or has given up.
    pub fn is_stuck(&self) -> bool {
        self.observe_head();
        let inner = self.inner.lock();
        let patience = match inner.state {
            ProjectorState::Dead | ProjectorState::Stopped => return true,
            ProjectorState::Stuck => GIVEN_UP_AFTER,
            ProjectorState::Starting | ProjectorState::Running => STUCK_AFTER,
        };
        inner.is_behind_for(patience)
    }

    /// Whether it has not come to its work yet, whatever keeps it from that.
    pub fn is_starting(&self) -> bool {
        let inner = self.inner.lock();
        match inner.state {
            ProjectorState::Starting => true,
            ProjectorState::Running | ProjectorState::Stuck => !inner.dealt,
            ProjectorState::Dead | ProjectorState::Stopped => false,
        }
    }

    /// A generation has been opened and stands at `position`; `waiting` is when the first event after that happened.
    pub(crate) fn opened(
        &self,
        generation: GenerationId,
        position: Position,
        parked: Parked,
        waiting: Option<Timestamp>,
    ) {
        {
            let mut inner = self.inner.lock();
            // Who refused it may do so again at the next event: until one is written nothing says that it goes on.
            let refused = inner.state == ProjectorState::Dead
                && inner.generation == Some(generation)
                && position < *self.head.borrow();
            if !refused {
                inner.state = ProjectorState::Running;
                inner.last_error = None;
            }
            inner.generation = Some(generation);
            inner.parked = parked;
            inner.track = Track::begin(RATE_OVER, Instant::now(), position);
            inner.event_time = waiting.or(inner.event_time);
        }
        self.moved(position);
    }

    /// The group has dealt out its partitions, perhaps none to this projector: from now on what comes is written.
    pub(crate) fn dealt(&self) {
        self.inner.lock().dealt = true;
    }

    /// Everything up to `position` has been committed; `event_time` is when its event happened.
    pub(crate) fn committed(
        &self,
        position: Position,
        parked: Parked,
        event_time: Option<Timestamp>,
    ) {
        {
            let mut inner = self.inner.lock();
            inner.writes();
            inner.parked = parked;
            inner.event_time = event_time.or(inner.event_time);
        }
        self.moved(position);
    }

    /// One of several writers has committed something; where that leaves the model as a whole is found out apart.
    pub(crate) fn working(&self, event_time: Option<Timestamp>) {
        let mut inner = self.inner.lock();
        inner.writes();
        inner.event_time = event_time.or(inner.event_time);
        inner.heartbeat = Instant::now();
    }

    /// Where the model as a whole is.
    pub(crate) fn located(&self, position: Position, parked: Parked) {
        {
            let mut inner = self.inner.lock();
            inner.parked = parked;
            if inner.state == ProjectorState::Stuck && position >= *self.head.borrow() {
                inner.state = ProjectorState::Running;
                inner.last_error = None;
            }
        }
        if *self.position.borrow() == position {
            self.observe_head();
        } else {
            self.moved(position);
        }
    }

    fn moved(&self, position: Position) {
        self.position.send_replace(position);
        let behind = *self.head.borrow() > position;
        let now = Instant::now();
        let mut inner = self.inner.lock();
        inner.heartbeat = now;
        inner.track.note(now, position);
        inner.behind_since = behind.then_some(now);
        if !behind {
            inner.caught_up = Some(now);
        }
    }

    /// Takes note of new work: from here on it is expected to move.
    pub(crate) fn observe_head(&self) {
        let behind = *self.head.borrow() > *self.position.borrow();
        let mut inner = self.inner.lock();
        if !behind {
            inner.behind_since = None;
            inner.caught_up = Some(Instant::now());
        } else if inner.behind_since.is_none() {
            inner.behind_since = Some(Instant::now());
        }
    }

    /// Something failed and will be tried again.
    pub(crate) fn failing(&self, error: String) {
        let mut inner = self.inner.lock();
        inner.state = ProjectorState::Stuck;
        inner.last_error = Some(error);
        inner.heartbeat = Instant::now();
    }

    /// Sets a state that is not reached by moving.
    pub(crate) fn enter(&self, state: ProjectorState, error: Option<String>) {
        let mut inner = self.inner.lock();
        inner.state = state;
        if error.is_some() {
            inner.last_error = error;
        }
    }

    /// Publishes the model's gauges.
    pub(crate) fn publish(&self, clock: &dyn Clock) {
        self.observe_head();
        let (position, head) = (*self.position.borrow(), *self.head.borrow());
        let (parked, lag, state, generation) = {
            let inner = self.inner.lock();
            let lag = inner.lag_seconds(head > position, clock);
            (inner.parked, lag, inner.state_now(), inner.generation)
        };
        let model = self.model.0;
        for of in ProjectorState::ALL {
            let is = if of == state { 1.0 } else { 0.0 };
            metrics::gauge!("socialhub_projection_state", "model" => model, "state" => of.word())
                .set(is);
        }
        let generation = generation.map_or(0.0, |generation| f64::from(generation.0));
        metrics::gauge!("socialhub_projection_generation", "model" => model).set(generation);
        metrics::gauge!("socialhub_projection_last_position", "model" => model)
            .set(position as f64);
        metrics::gauge!("socialhub_projection_lag_events", "model" => model)
            .set(head.saturating_sub(position) as f64);
        metrics::gauge!("socialhub_projection_lag_seconds", "model" => model).set(lag);
        metrics::gauge!("socialhub_projection_parked", "model" => model).set(parked.events as f64);
        metrics::gauge!("socialhub_projection_parked_sequences", "model" => model)
            .set(parked.sequences as f64);
    }

    /// When nobody waits for it any more, unless it moves.
    fn given_up_at(&self) -> Option<Instant> {
        let inner = self.inner.lock();
        match inner.state {
            ProjectorState::Dead | ProjectorState::Stopped => Some(Instant::now()),
            _ => inner.behind_since.map(|since| since + GIVEN_UP_AFTER),
        }
    }
}

impl Inner {
    /// Something was written.
    fn writes(&mut self) {
        if self.state == ProjectorState::Dead {
            self.last_error = None;
        }
        self.state = ProjectorState::Running;
    }

    /// The state, when nobody has said for long that something is wrong, but nothing moves.
    fn state_now(&self) -> ProjectorState {
        match self.state {
            ProjectorState::Running if !self.dealt => ProjectorState::Starting,
            ProjectorState::Running if self.is_behind_for(STUCK_AFTER) => ProjectorState::Stuck,
            state => state,
        }
    }

    fn is_behind_for(&self, patience: Duration) -> bool {
        self.behind_since
            .is_some_and(|since| since.elapsed() >= patience)
    }

    fn lag_seconds(&self, behind: bool, clock: &dyn Clock) -> f64 {
        if !behind {
            return 0.0;
        }
        let since_event = self
            .event_time
            .map(|time| (clock.now().0 - time.0).max(0) as f64 / 1000.0);
        // After a quiet hour the last event is an hour old, and the new one is not.
        let at_most = self.caught_up.map(|at| at.elapsed().as_secs_f64());
        match (since_event, at_most) {
            (Some(since_event), Some(at_most)) => since_event.min(at_most),
            (Some(known), None) | (None, Some(known)) => known,
            (None, None) => self.began.elapsed().as_secs_f64(),
        }
    }
}

#[async_trait]
impl ModelPosition for ProjectionStatus {
    async fn position(&self) -> Result<Position, ReadError> {
        Ok(*self.position.borrow())
    }

    async fn wait_for(&self, wanted: Position, limit: Duration) -> Result<Freshness, ReadError> {
        let mut moved = self.position.subscribe();
        let deadline = Instant::now() + limit;
        loop {
            let position = *moved.borrow_and_update();
            let stale = position < wanted;
            if !stale {
                return Ok(Freshness { position, stale });
            }
            self.observe_head();
            let until = self.given_up_at().map_or(deadline, |at| at.min(deadline));
            if until <= Instant::now() {
                return Ok(Freshness { position, stale });
            }
            tokio::select! {
                // Never an error: the sender is ours.
                _ = moved.changed() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    fn known(&self) -> Position {
        *self.position.borrow()
    }

    fn watch(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use socialhub_event_log::{PartitionEnd, TailRecord};
    use uuid::Uuid;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_in_the_log_is_due_after_a_while_and_what_was_there_at_once() {
        let head = watch::Sender::new(7);
        let stop = CancellationToken::new();
        let mut due = due(head.subscribe(), DUE_AFTER, stop.clone());
        assert_eq!(*due.borrow_and_update(), 7);
        for end in [8, 9] {
            let appended = Instant::now();
            head.send_replace(end);
            // While one is waited for, the next comes.
            head.send_replace(end + 10);
            due.changed().await.unwrap();
            assert_eq!(*due.borrow_and_update(), end + 10);
            assert!(appended.elapsed() >= DUE_AFTER && appended.elapsed() <= 2 * DUE_AFTER);
        }
        stop.cancel();
        assert!(due.changed().await.is_err());
    }

    fn checkpoint(source: Source, position: Position) -> Checkpoint {
        Checkpoint {
            source,
            position,
            event_id: Uuid::nil(),
            next_offset: None,
            partitions: None,
        }
    }

    fn frontier(position: Position, ends: &[(Topic, i32, Position)]) -> Frontier {
        let end = |&(topic, partition, position): &(Topic, i32, Position)| PartitionEnd {
            topic: topic.name().to_owned(),
            partition,
            offset: 0,
            position,
            event_id: Uuid::nil(),
            quiet: Vec::new(),
        };
        Frontier {
            position,
            partitions: std::collections::BTreeMap::new(),
            ends: ends.iter().map(end).collect(),
        }
    }

    #[test]
    fn a_partition_without_news_is_as_far_as_the_relay() {
        let topics = [Topic::Post, Topic::User];
        let published = frontier(
            90,
            &[
                (Topic::Post, 0, 40),
                (Topic::Post, 1, 90),
                (Topic::Notification, 0, 80),
            ],
        );
        let post = |partition| Source::partition(Topic::Post.name(), partition);
        let handled = [checkpoint(post(0), 40), checkpoint(post(1), 90)];
        assert_eq!(reached(&handled, &topics, &published), 90);
        let handled = [checkpoint(post(0), 40), checkpoint(post(1), 70)];
        assert_eq!(reached(&handled, &topics, &published), 70);
        assert_eq!(reached(&handled[..1], &topics, &published), 0);
    }

    /// A clock at a moment.
    struct At(i64);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp(self.0)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_never_moved_is_behind_for_longer_and_longer() {
        let (head, watched) = watch::channel(0);
        let status = ProjectionStatus::new(ModelName("feed"), watched);
        head.send_replace(7);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert!(status.report(&At(0)).lag_seconds >= 90.0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_refused_is_dead_until_something_is_written() {
        let (_head, watched) = watch::channel(9);
        let status = ProjectionStatus::new(ModelName("feed"), watched);
        let told = || {
            let report = status.report(&At(0));
            (report.state, report.last_error)
        };
        let refused = (ProjectorState::Dead, Some("no tables".to_owned()));
        status.opened(GenerationId(1), 7, Parked::default(), None);
        status.enter(ProjectorState::Dead, Some("no tables".to_owned()));
        // It tries again, and nobody knows how that ends.
        status.opened(GenerationId(1), 7, Parked::default(), None);
        assert_eq!(told(), refused);
        status.committed(8, Parked::default(), None);
        assert_eq!(told(), (ProjectorState::Running, None));
        // Another generation is another store, and one that lacks nothing has nothing to refuse.
        for (generation, position) in [(2, 7), (2, 9)] {
            status.enter(ProjectorState::Dead, Some("no tables".to_owned()));
            status.opened(GenerationId(generation), position, Parked::default(), None);
            assert_eq!(told(), (ProjectorState::Running, None));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_begins_behind_is_behind_for_as_long_as_the_first_event_waits() {
        let (_head, watched) = watch::channel(9);
        let status = ProjectionStatus::new(ModelName("feed"), watched);
        status.opened(
            GenerationId(1),
            7,
            Parked::default(),
            Some(Timestamp(1_000)),
        );
        let hour = At(3_601_000);
        let lag = |status: &ProjectionStatus| status.report(&hour).lag_seconds;
        assert!((lag(&status) - 3_600.0).abs() < 1.0);
        status.committed(8, Parked::default(), Some(Timestamp(3_591_000)));
        assert!((lag(&status) - 10.0).abs() < 1.0);
        status.committed(9, Parked::default(), Some(Timestamp(3_591_500)));
        assert!(lag(&status) < f64::EPSILON);
    }

    #[tokio::test(start_paused = true)]
    async fn who_writes_at_one_batch_for_seconds_is_not_stuck() {
        let (_head, watched) = watch::channel(10);
        let status = ProjectionStatus::new(ModelName("feed"), watched);
        status.opened(GenerationId(1), 0, Parked::default(), None);
        let after = async |seconds| {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            status.is_stuck()
        };
        assert!(!after(0).await);
        assert!(!after(9).await);
        assert!(after(1).await);
        status.committed(9, Parked::default(), None);
        assert!(!after(9).await);
        // It knows why.
        status.failing("nobody answers".to_owned());
        assert!(status.is_stuck());
        status.committed(10, Parked::default(), None);
        assert!(!after(60).await);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_quiet_hour_a_new_event_is_not_an_hour_behind() {
        let (head, watched) = watch::channel(7);
        let status = ProjectionStatus::new(ModelName("feed"), watched);
        status.committed(7, Parked::default(), Some(Timestamp(0)));
        let hour = Duration::from_secs(3_600);
        tokio::time::advance(hour).await;
        let now = At(3_600_000);
        assert!(status.report(&now).lag_seconds < f64::EPSILON);
        head.send_replace(8);
        assert!(status.report(&now).lag_seconds < 1.0);
        tokio::time::advance(Duration::from_secs(5)).await;
        let lag = status.report(&At(3_605_000)).lag_seconds;
        assert!((5.0..6.0).contains(&lag), "{lag}");
    }

    #[test]
    fn what_was_handled_of_another_division_tells_nothing() {
        let mut published = frontier(300, &[(Topic::Post, 0, 300)]);
        published.partitions = [(Topic::Post.name().to_owned(), 4)].into();
        let mut handled = [checkpoint(Source::partition(Topic::Post.name(), 0), 200)];
        let position = |handled: &[Checkpoint]| reached(handled, &[Topic::Post], &published);
        handled[0].partitions = Some(4);
        assert_eq!(position(&handled), 200);
        handled[0].partitions = Some(3);
        assert_eq!(position(&handled), 0);
        let filled = [handled[0].clone(), checkpoint(Source::log(), 100)];
        assert_eq!(position(&filled), 100);
    }

    #[test]
    fn news_in_a_quiet_partition_throw_nobody_back() {
        let mut published = frontier(360, &[(Topic::Post, 0, 5), (Topic::User, 0, 360)]);
        let source = |topic: Topic| Source::partition(topic.name(), 0);
        let handled = [
            checkpoint(source(Topic::Post), 5),
            checkpoint(source(Topic::User), 360),
        ];
        let topics = [Topic::Post, Topic::User];
        assert_eq!(reached(&handled, &topics, &published), 360);
        let news = TailRecord {
            offset: 1,
            position: 361,
            event_id: Uuid::nil(),
        };
        published.advance(Topic::Post.name(), 0, &news);
        assert_eq!(reached(&handled, &topics, &published), 360);
    }

    #[test]
    fn what_was_filled_from_the_log_counts_for_every_partition() {
        let topics = [Topic::Post];
        let published = frontier(90, &[(Topic::Post, 0, 90)]);
        let filled = [checkpoint(Source::log(), 100)];
        assert_eq!(reached(&filled, &topics, &published), 100);
    }
}
