//! The runtime of the read side: what is delivered to a read model, what is parked, what is retried; generations and
//! rebuilds.
//!
//! In the server: one [`LogTail`] reads and decodes the log, one [`Projector`] a model writes the current generation.
//! In a cluster: a [`PartitionProjector`] writes the partitions that are dealt to its process, each by itself, and
//! [`StorePosition`] tells every other process where the model is.
//! In a second process, or the same: [`rebuild`](mod@rebuild) fills new generations, [`check`] proves them,
//! [`repair`](mod@repair) makes right what differs, all behind [`ModelControl`]. Live projection and rebuild write through the same code, [`writer`].

mod abreast;
mod careful;
pub mod check;
pub mod control;
mod course;
pub(crate) mod division;
pub mod generations;
mod handled;
mod left_out;
mod letter;
mod live;
pub mod pace;
mod partition;
pub mod partitions;
mod patience;
pub mod projector;
pub mod rebuild;
pub mod repair;
pub mod source;
pub mod store_position;
pub mod tail;
pub mod writer;

pub use careful::Turns;
pub use check::{VerifyReport, VerifySummary};
pub use control::{Control, ModelControl};
pub use course::{VerifyCourse, VerifyStage, VerifyStep};
pub use generations::{
    Claim, Fence, Generation, GenerationState, Generations, Snapshot, WriteMode,
};
pub use left_out::LeftOutTally;
pub use live::ProjectorTask;
pub use pace::{Breather, Pace, Pacer};
pub use partitions::PartitionProjector;
pub use projector::Projector;
pub use rebuild::{Filler, Filling, Progress, RebuildError, RebuildReport};
pub use source::{
    Answer, Delivered, Delivery, PartitionedSource, Permit, Records, SourceError, Sources, Start,
};
pub use store_position::{CheckpointReader, StorePosition};
pub use tail::{Chunk, LogTail};
