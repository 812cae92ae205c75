//! How the relay fares, as its store shows it.

use std::io::Write;

use serde::Serialize;
use socialhub_event_log::{Frontier, LogError, Position};

use crate::{RelayControl, ReplayError, processes::LastError, show};

/// A leader that has not renewed its lease for so long may be dead: another may take over.
const EXPIRY_SECONDS: f64 = 5.0;

/// What a relay is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum State {
    /// Publishes, or has nothing to publish.
    Leading,
    /// Leads, has something to publish and does not.
    Stuck,
    /// Begins again and again: it refuses, and its log and `/readyz` say why.
    Refusing,
    /// Its holder is gone or hangs.
    NotRenewed,
    /// No process holds the lease.
    NobodyLeads,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RelayView {
    state: State,
    holder: Option<String>,
    epoch: Option<i64>,
    seconds_since_renewal: Option<f64>,
    position: Position,
    #[serde(flatten)]
    lag: Lag,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<LastError>,
}

/// How far the topics are behind the log, and how fast they come on.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Lag {
    #[serde(rename = "lagEvents")]
    pub(crate) events: u64,
    /// The age of the first event that is not published.
    #[serde(rename = "lagSeconds")]
    pub(crate) seconds: f64,
    /// Events published a second, between two looks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<f64>,
}

/// What its store says at one moment.
pub(crate) struct Look {
    holder: Option<(String, i64, f64)>,
    /// How far it has published.
    pub(crate) frontier: Frontier,
}

impl Look {
    /// A relay that has published so far, and of which nothing else is known.
    #[cfg(test)]
    pub(crate) fn published(position: Position) -> Self {
        Self {
            holder: None,
            frontier: Frontier {
                position,
                ..Frontier::default()
            },
        }
    }

    pub(crate) async fn at(relay: &RelayControl) -> Result<Self, LogError> {
        Ok(Self {
            holder: relay.store.holder().await?,
            frontier: relay.store.frontier().await?,
        })
    }

    fn epoch(&self) -> Option<i64> {
        self.holder.as_ref().map(|(_, epoch, _)| *epoch)
    }

    /// A leader that refuses holds the lease for a moment only: that shows at the second look.
    fn state(&self, before: &Self, head: Position) -> State {
        let position = self.frontier.position;
        match &self.holder {
            None if before.holder.is_some() => State::Refusing,
            None => State::NobodyLeads,
            Some((.., seconds)) if *seconds > EXPIRY_SECONDS => State::NotRenewed,
            Some(_) if self.epoch() != before.epoch() => State::Refusing,
            Some(_) if position > head => State::Stuck,
            Some(_) if position < head && position <= before.frontier.position => State::Stuck,
            Some(_) => State::Leading,
        }
    }

    pub(crate) fn view(
        &self,
        before: &Self,
        head: Position,
        lag: Lag,
        last_error: Option<LastError>,
    ) -> RelayView {
        RelayView {
            state: self.state(before, head),
            holder: self.holder.as_ref().map(|(owner, ..)| owner.clone()),
            epoch: self.epoch(),
            seconds_since_renewal: self.holder.as_ref().map(|(.., seconds)| *seconds),
            position: self.frontier.position,
            lag,
            last_error,
        }
    }
}

pub(crate) fn print(view: &RelayView, out: &mut (dyn Write + Send)) -> Result<(), ReplayError> {
    let seconds = view.seconds_since_renewal.unwrap_or_default();
    let state = match view.state {
        State::Leading => "leading".to_owned(),
        State::Stuck => "stuck".to_owned(),
        State::Refusing => "beginning again and again; its log says why".to_owned(),
        State::NotRenewed => format!("not renewed for {seconds:.0} s"),
        State::NobodyLeads => "nobody leads".to_owned(),
    };
    let behind = view.lag.events;
    let age = match behind {
        0 => String::new(),
        _ => format!(" ({:.1} s)", view.lag.seconds),
    };
    let rate = show::per_second(view.lag.rate);
    writeln!(
        out,
        "The relay is at position {}, {behind} events behind{age}{rate}: {state}.",
        view.position
    )?;
    if let (Some(holder), Some(epoch)) = (&view.holder, view.epoch) {
        writeln!(out, "  {holder}, epoch {epoch}, renewed {seconds:.1} s ago")?;
    }
    Ok(writeln!(out)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(holder: Option<(i64, f64)>, position: Position) -> Look {
        Look {
            holder: holder.map(|(epoch, seconds)| ("relay-1".to_owned(), epoch, seconds)),
            frontier: Frontier {
                position,
                ..Frontier::default()
            },
        }
    }

    #[test]
    fn only_a_leader_that_renews_and_moves_looks_healthy() {
        let steady = look(Some((4, 0.3)), 90);
        assert_eq!(steady.state(&look(Some((4, 0.9)), 90), 90), State::Leading);
        assert_eq!(steady.state(&look(Some((4, 0.9)), 80), 99), State::Leading);
        assert_eq!(steady.state(&look(Some((4, 0.9)), 90), 99), State::Stuck);
        assert_eq!(steady.state(&look(Some((4, 0.9)), 90), 60), State::Stuck);
        assert_eq!(steady.state(&look(Some((3, 0.9)), 90), 90), State::Refusing);
        assert_eq!(steady.state(&look(None, 90), 90), State::Refusing);
        assert_eq!(look(None, 90).state(&steady, 90), State::Refusing);
        assert_eq!(
            look(None, 90).state(&look(None, 90), 90),
            State::NobodyLeads
        );
        let silent = look(Some((4, 5.5)), 90);
        assert_eq!(silent.state(&steady, 90), State::NotRenewed);
    }
}
