//! Messages of the log on their way to one socket.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::{
    frame::{Frame, body},
    ports::History,
};

/// What was read of a room for one who lacks it.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The messages, by rising `seq`.
    pub(crate) frames: Vec<Arc<Frame>>,
    /// The greatest `seq` of the room when it was read.
    pub(crate) last_seq: u64,
}

impl Told {
    /// All of a history.
    pub(crate) fn whole(history: History) -> Self {
        let frames = history.messages.into_iter().map(Frame::new);
        Self {
            frames: frames.map(Arc::new).collect(),
            last_seq: history.last_seq,
        }
    }

    /// The newest messages of a history that fit into so many bytes, as they go out.
    pub(crate) fn newest(history: History, bytes: usize) -> Self {
        let mut left = bytes;
        let newest_first = history.messages.into_iter().rev().map(Frame::new);
        // No more of them are made than fit.
        let frames = newest_first.take_while(|frame| spend(&mut left, frame));
        let mut frames: Vec<_> = frames.map(Arc::new).collect();
        frames.reverse();
        Self {
            frames,
            last_seq: history.last_seq,
        }
    }

    /// Goes on to `last_seq` with these, and forgets the oldest that no longer fit.
    pub(crate) fn extend(
        &mut self,
        frames: impl Iterator<Item = Arc<Frame>>,
        last_seq: u64,
        bytes: usize,
    ) {
        self.frames.extend(frames);
        self.last_seq = last_seq;
        let mut left = bytes;
        let newest_first = self.frames.iter().rev();
        let fit = newest_first.take_while(|frame| spend(&mut left, frame));
        let fit = fit.count();
        self.frames.drain(..self.frames.len() - fit);
    }

    /// Whether it goes on right where the client's knowledge ended.
    pub(crate) fn leaves_no_hole(&self, after: u64) -> bool {
        match self.frames.first() {
            Some(first) => first.seq() == after + 1,
            None => self.last_seq == after,
        }
    }

    /// Its text.
    pub(crate) fn body(&self) -> Box<RawValue> {
        let texts: Vec<&RawValue> = self.frames.iter().map(|frame| frame.json()).collect();
        body(&texts)
    }
}

/// Takes off what a message needs, with the comma before it, if so much is left.
fn spend(left: &mut usize, frame: &Frame) -> bool {
    let rest = left.checked_sub(frame.json().get().len() + 1);
    *left = rest.unwrap_or(0);
    rest.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::messages;

    fn history(seqs: std::ops::RangeInclusive<u64>) -> History {
        History {
            last_seq: *seqs.end(),
            messages: messages(seqs),
        }
    }

    fn seqs(told: &Told) -> Vec<u64> {
        told.frames.iter().map(|frame| frame.seq()).collect()
    }

    #[test]
    fn the_newest_that_fit_are_told_and_what_is_cut_off_leaves_a_hole() {
        let one = Told::whole(history(1..=1)).body().get().len();
        let all = Told::newest(history(1..=9), 9 * one);
        assert_eq!(seqs(&all), (1..=9).collect::<Vec<_>>());
        assert!(all.leaves_no_hole(0));
        let mut told = Told::newest(history(1..=9), 3 * one);
        assert_eq!((seqs(&told), told.last_seq), (vec![7, 8, 9], 9));
        assert!(told.body().get().len() <= 3 * one && !told.leaves_no_hole(0));
        let more = messages(10..=11).into_iter().map(Frame::new).map(Arc::new);
        told.extend(more, 11, 4 * one);
        assert_eq!((seqs(&told), told.last_seq), (vec![8, 9, 10, 11], 11));
    }

    #[test]
    fn a_thousand_longest_messages_of_letters_fit() {
        let mut history = history(1..=1_000);
        for message in &mut history.messages {
            message.message = "a".repeat(4_000);
            message.username = "u".repeat(100).into();
        }
        let told = Told::newest(history, crate::limits::HISTORY_BYTES);
        assert_eq!(told.frames.len(), 1_000);
    }
}
