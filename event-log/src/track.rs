//! How fast something moves on, as far as its own process saw.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Over how long the rate of a part is told that follows the log.
pub const RATE_OVER: Duration = Duration::from_secs(15);

/// How many places are kept of a while, at about equal distances.
const NOTES: u32 = 15;
/// A rate is of a second at least: what came in a moment tells little of how it goes on.
const LEAST: Duration = Duration::from_secs(1);

/// The places that something was at in the last while.
#[derive(Debug)]
pub struct Track {
    over: Duration,
    /// Where it has been since when, the oldest first: one of before the while, if there is one, and the last.
    notes: VecDeque<Note>,
    /// When the last note was begun; what comes soon after takes its place. None for the first, which stays.
    begun: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Note {
    at: Instant,
    place: u64,
}

/// How far something has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// By how much.
    pub by: u64,
    /// Since it was there from where that is counted.
    pub within: Duration,
}

impl Track {
    /// Something that begins at a place. What it moves by is told over so long.
    pub fn begin(over: Duration, at: Instant, place: u64) -> Self {
        Self {
            over,
            notes: VecDeque::from([Note { at, place }]),
            begun: None,
        }
    }

    /// Notes that it is at a place now.
    pub fn note(&mut self, at: Instant, place: u64) {
        let note = Note { at, place };
        let soon = |begun: Instant| at - begun < self.over / NOTES;
        match self.notes.back_mut() {
            Some(last) if self.begun.is_some_and(soon) => *last = note,
            _ => {
                self.begun = Some(at);
                self.notes.push_back(note);
            }
        }
        // The one that is as old as the while tells where it was then.
        while self
            .notes
            .get(1)
            .is_some_and(|next| at - next.at >= self.over)
        {
            self.notes.pop_front();
        }
    }

    /// Notes that it has moved on by so much.
    pub fn advance(&mut self, at: Instant, by: u64) {
        let place = self.notes.back().map_or(0, |last| last.place);
        self.note(at, place + by);
    }

    /// What it has moved by in the last while, or since it began; longer, when it was at no place in between.
    pub fn moved(&self, at: Instant) -> Moved {
        let older = self
            .notes
            .iter()
            .rev()
            .find(|note| at - note.at >= self.over);
        let first = older.or(self.notes.front());
        match (first, self.notes.back()) {
            (Some(first), Some(last)) => Moved {
                by: last.place.saturating_sub(first.place),
                within: at - first.at,
            },
            _ => Moved {
                by: 0,
                within: self.over,
            },
        }
    }

    /// By how much it has moved on in a second of the last while. What stood still before counts as if it had begun with it.
    pub fn per_second(&self, at: Instant) -> f64 {
        let Moved { by, within } = self.moved(at);
        let stood = within > self.over + 2 * self.over / NOTES;
        let within = if stood { self.over } else { within };
        by as f64 / within.max(LEAST).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVER: Duration = Duration::from_secs(15);

    fn seconds(count: f64) -> Duration {
        Duration::from_secs_f64(count)
    }

    fn moved(track: &Track, at: Instant) -> (u64, u64) {
        let Moved { by, within } = track.moved(at);
        (by, within.as_secs())
    }

    fn assert_rate(track: &Track, at: Instant, rate: f64) {
        let told = track.per_second(at);
        assert!((told - rate).abs() < 0.001, "{told}, not {rate}");
    }

    #[test]
    fn it_is_told_over_the_last_while_or_since_the_beginning() {
        let begin = Instant::now();
        let mut track = Track::begin(OVER, begin, 700);
        assert_eq!(moved(&track, begin), (0, 0));
        for second in 1..=10_u32 {
            track.note(begin + OVER / 15 * second, 700 + 10 * u64::from(second));
        }
        let ten = begin + seconds(10.0);
        assert_eq!(moved(&track, ten), (100, 10));
        assert_rate(&track, ten, 10.0);
        for second in 11..=40_u32 {
            let place = 800 + 20 * (u64::from(second) - 10);
            track.note(begin + OVER / 15 * second, place - 10);
            track.note(begin + OVER / 15 * second, place);
        }
        let forty = begin + seconds(40.0);
        assert_eq!(moved(&track, forty), (300, 15));
        assert_rate(&track, forty, 20.0);
        assert!(track.notes.len() <= 17, "{}", track.notes.len());
    }

    #[test]
    fn what_came_in_a_moment_is_over_after_the_while() {
        let begin = Instant::now();
        let mut track = Track::begin(OVER, begin, 0);
        track.note(begin + seconds(0.1), 40);
        assert_rate(&track, begin + seconds(0.1), 40.0);
        track.note(begin + seconds(0.5), 90);
        assert_eq!(moved(&track, begin + seconds(10.0)), (90, 10));
        let hour = begin + seconds(3_600.0);
        assert_rate(&track, hour, 0.0);
        // After an hour: of the last while nothing is known but this.
        track.note(hour, 120);
        assert_eq!(moved(&track, hour), (30, 3_599));
        assert_rate(&track, hour, 2.0);
        assert_rate(&track, hour + seconds(15.0), 0.0);
        // Back to an older copy: that is no way of moving on.
        track.note(hour + seconds(15.0), 5);
        assert_rate(&track, hour + seconds(15.0), 0.0);
    }

    #[test]
    fn what_moves_in_long_steps_is_told_over_whole_ones() {
        let begin = Instant::now();
        let mut track = Track::begin(OVER, begin, 0);
        for step in 1..=9_u32 {
            track.note(begin + seconds(10.0) * step, 10_000 * u64::from(step));
        }
        assert_eq!(moved(&track, begin + seconds(90.0)), (20_000, 20));
    }
}
