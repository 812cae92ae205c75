//! How the relay fares, for metrics, readiness and the operator.

use parking_lot::Mutex;
use serde::Serialize;
use tokio::{sync::watch, time::Instant};

use crate::{
    event::Position,
    track::{RATE_OVER, Track},
};

/// What a relay process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayState {
    /// Has not asked for the lease yet.
    Starting,
    /// Another process leads; this one stands by.
    Following,
    /// Publishes.
    Leading,
    /// Log, store or broker do not answer; it tries again.
    Stuck,
    /// Log and topics do not fit together; the last error says what to do.
    Refusing,
    /// Stopped on request.
    Stopped,
}

impl RelayState {
    const ALL: [Self; 6] = [
        Self::Starting,
        Self::Following,
        Self::Leading,
        Self::Stuck,
        Self::Refusing,
        Self::Stopped,
    ];

    /// The state in a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Following => "following",
            Self::Leading => "leading",
            Self::Stuck => "stuck",
            Self::Refusing => "refusing",
            Self::Stopped => "stopped",
        }
    }
}

/// A relay's status at one moment.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayReport {
    /// What it is doing.
    pub state: RelayState,
    /// How far it has published, as this process knows.
    pub position: Position,
    /// How far the log is, as this process knows.
    pub head: Position,
    /// How many events are not published yet; 0 for a process that does not lead.
    pub lag_events: u64,
    /// The age of the first event that is not published yet, as it was found last; 0 when there is none.
    pub lag_seconds: f64,
    /// Events published a second in the last fifteen seconds.
    pub rate: f64,
    /// What went wrong last, while it has not gone well since.
    pub last_error: Option<String>,
}

/// The live status of one relay process.
#[derive(Debug)]
pub struct RelayStatus {
    head: watch::Receiver<Position>,
    position: watch::Sender<Position>,
    inner: Mutex<(RelayState, Option<String>)>,
    lag_seconds: Mutex<f64>,
    track: Mutex<Track>,
}

impl RelayStatus {
    pub(crate) fn new(head: watch::Receiver<Position>) -> Self {
        Self {
            head,
            position: watch::Sender::new(0),
            inner: Mutex::new((RelayState::Starting, None)),
            lag_seconds: Mutex::new(0.0),
            track: Mutex::new(Track::begin(RATE_OVER, Instant::now(), 0)),
        }
    }

    /// Everything at one moment.
    pub fn report(&self) -> RelayReport {
        let (position, head) = (*self.position.borrow(), *self.head.borrow());
        let (state, last_error) = self.inner.lock().clone();
        let leads = !matches!(state, RelayState::Following | RelayState::Starting);
        let lag_events = if leads {
            head.saturating_sub(position)
        } else {
            0
        };
        RelayReport {
            state,
            position,
            head: head.max(position),
            lag_events,
            lag_seconds: if lag_events > 0 {
                *self.lag_seconds.lock()
            } else {
                0.0
            },
            rate: self.track.lock().per_second(Instant::now()),
            last_error,
        }
    }

    /// How far this process has published, told after each batch.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }

    /// Takes note of how old the first event is that is not published.
    pub fn behind_for(&self, seconds: f64) {
        *self.lag_seconds.lock() = seconds;
        self.gauges();
    }

    pub(crate) fn enter(&self, state: RelayState) {
        *self.inner.lock() = (state, None);
        self.gauges();
    }

    pub(crate) fn failing(&self, state: RelayState, error: &str) {
        metrics::counter!("socialhub_relay_errors_total").increment(1);
        *self.inner.lock() = (state, Some(error.to_owned()));
        self.gauges();
    }

    pub(crate) fn published(&self, position: Position, records: usize) {
        self.position.send_replace(position);
        self.track.lock().note(Instant::now(), position);
        metrics::counter!("socialhub_relay_events_total").increment(records as u64);
        self.enter(RelayState::Leading);
    }

    pub(crate) fn stands_at(&self, position: Position) {
        self.position.send_replace(position);
        // Others have published what is before that.
        *self.track.lock() = Track::begin(RATE_OVER, Instant::now(), position);
        self.enter(RelayState::Leading);
    }

    pub(crate) fn gauges(&self) {
        let report = self.report();
        let leading = report.state == RelayState::Leading;
        metrics::gauge!("socialhub_relay_leader").set(if leading { 1.0 } else { 0.0 });
        metrics::gauge!("socialhub_relay_position").set(report.position as f64);
        metrics::gauge!("socialhub_relay_lag_events").set(report.lag_events as f64);
        metrics::gauge!("socialhub_relay_lag_seconds").set(report.lag_seconds);
        for state in RelayState::ALL {
            let is = if state == report.state { 1.0 } else { 0.0 };
            metrics::gauge!("socialhub_relay_state", "state" => state.word()).set(is);
        }
    }
}
