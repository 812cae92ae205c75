//! How far a verification has come, for those who wait for it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use socialhub_event_log::Position;

use crate::verify::{ModelRow, RowSink};

/// How far a verification has come. Whoever verifies notes it, whoever shows it looks now and then.
///
/// Each figure stands for itself: one that is a moment older than the next harms nobody.
#[derive(Debug, Default)]
pub struct VerifyCourse {
    looks: AtomicUsize,
    /// Of the present look.
    rows: AtomicU64,
    rows_before: AtomicU64,
    position: AtomicU64,
    upto: AtomicU64,
}

/// What a verification is at, and how far that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyStage {
    /// Which look at the model it is, from 1 on; 0 before the first.
    pub look: usize,
    /// What is done in it.
    pub doing: VerifyStep,
    /// So much of it: rows, or the position of an event.
    pub done: u64,
    /// Of so much. How many rows a model has nobody knows before the first look.
    pub of: Option<u64>,
}

/// The steps of a look, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyStep {
    /// The rows of the model are read.
    Reading,
    /// The log is folded, as far as the model has come.
    Folding,
    /// The two are compared. Of a store that shows batches in part, the next look is waited for, too.
    Comparing,
}

impl VerifyCourse {
    /// What it is at.
    pub fn stage(&self) -> VerifyStage {
        let look = self.looks.load(Relaxed);
        match self.upto.load(Relaxed) {
            0 => VerifyStage {
                look,
                doing: VerifyStep::Reading,
                done: self.rows.load(Relaxed),
                of: Some(self.rows_before.load(Relaxed)).filter(|rows| *rows > 0),
            },
            upto => {
                let done = self.position.load(Relaxed);
                let doing = if done < upto {
                    VerifyStep::Folding
                } else {
                    VerifyStep::Comparing
                };
                VerifyStage {
                    look,
                    doing,
                    done,
                    of: Some(upto),
                }
            }
        }
    }

    /// The model is going to be looked at.
    pub(super) fn look(&self) {
        self.rows_before.store(self.rows.swap(0, Relaxed), Relaxed);
        self.upto.store(0, Relaxed);
        self.looks.fetch_add(1, Relaxed);
    }

    /// The log has been folded up to `position` of `upto`.
    pub(super) fn fold(&self, position: Position, upto: Position) {
        self.position.store(position, Relaxed);
        self.upto.store(upto, Relaxed);
    }
}

/// Passes rows on, and counts them.
pub(super) struct Counting<'a, S> {
    pub rows: &'a mut S,
    pub course: &'a VerifyCourse,
}

impl<S: RowSink> RowSink for Counting<'_, S> {
    fn take(&mut self, row: ModelRow) {
        self.course.rows.fetch_add(1, Relaxed);
        self.rows.take(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_look_reads_and_folds_anew() {
        let course = VerifyCourse::default();
        let mut rows: Vec<ModelRow> = Vec::new();
        let row = ModelRow {
            table: "post",
            key: "1".to_owned(),
            value: serde_json::Value::Null.into(),
            position: 1,
        };
        for (look, of) in [(1, None), (2, Some(2))] {
            course.look();
            let mut counting = Counting {
                rows: &mut rows,
                course: &course,
            };
            counting.take(row.clone());
            counting.take(row.clone());
            let reading = VerifyStage {
                look,
                doing: VerifyStep::Reading,
                done: 2,
                of,
            };
            assert_eq!(course.stage(), reading);
            course.fold(7, 9);
            let folding = VerifyStage {
                look,
                doing: VerifyStep::Folding,
                done: 7,
                of: Some(9),
            };
            assert_eq!(course.stage(), folding);
            course.fold(9, 9);
            assert_eq!(course.stage().doing, VerifyStep::Comparing);
        }
        assert_eq!(rows.len(), 4);
    }
}
