//! The runtime of the read side: what is delivered to a read model, what is parked, what is retried; generations and
//! rebuilds.
//!
//! In the server: one [`LogTail`] reads and decodes the log, one [`Projector`] a model writes the current generation.
//! In a second process, or the same: [`rebuild`](mod@rebuild) fills new generations, [`check`] proves them, both behind
//! [`ModelControl`]. Live projection and rebuild write through the same code, [`writer`].

pub mod check;
pub mod control;
pub mod generations;
pub mod projector;
pub mod rebuild;
pub mod tail;
pub mod writer;

pub use check::{VerifyReport, VerifySummary};
pub use control::{Control, ModelControl};
pub use generations::{
    Claim, Fence, Generation, GenerationState, Generations, Snapshot, WriteMode,
};
pub use projector::{Projector, ProjectorTask};
pub use rebuild::{Filler, Filling, Progress, RebuildError, RebuildReport};
pub use tail::{Chunk, LogTail};
