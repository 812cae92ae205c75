//! The event log: its ports, an in-memory adapter, and the change feed that projections tail.
//!
//! This crate says what a log promises: dense positions that commit in order, appends that are whole or not there, one
//! outcome per command, and side rows (credentials, epochs, stored answers) that commit with the events or not at all.
//! [`SealedLog`] keeps what is personal in it sealed, each field with the key of the person it is about.
//! `infra` implements the ports on SQLite and Postgres; [`memory`] implements them for tests. It must never import a
//! driver, a web framework, or the read or write side.

pub mod archive;
pub mod as_of;
pub mod eraser;
pub mod erasure;
pub mod event;
pub mod firehose;
pub mod frontier;
mod json_fields;
pub mod keys;
pub mod memory;
pub mod memory_relay;
pub mod port;
pub mod processes;
pub mod reading;
pub mod relay;
pub mod relay_store;
pub mod sealing;
pub mod side;
pub mod track;
mod unreadable;
pub mod wire;

pub use archive::{
    ArchiveError, EventRow, LogArchive, Over, UnfinishedCopy, require_no_other_keys,
    require_same_keys,
};
pub use as_of::LogAsOf;
pub use eraser::{AnswerErasure, Erasable, Eraser, KeyErasure, NotErased};
pub use erasure::{ERASED_EPOCH, ErasureStore, PendingErasure};
pub use event::{Metadata, NewEvent, Position, RecordedEvent};
pub use firehose::{Firehose, PublicEvent};
pub use frontier::{Frontier, FrontierReader, PartitionEnd, Quiet, partition_for};
pub use keys::{KeyRecord, KeyState, PersonKey, PersonKeys};
pub use memory::MemoryEventLog;
pub use memory_relay::MemoryRelayStore;
pub use port::{Append, AppendError, Appended, CredentialField, EventLog, LogError};
pub use processes::{
    HeardOf, LeftOut, MemoryProcessReports, PartReport, ProcessReport, ProcessReports,
};
pub use reading::{CHUNK_BYTES, READ_LIMIT, behind_for, behind_since, read_bounded};
pub use relay::{
    Outgoing, PartitionTail, PublishError, Publisher, Relay, RelayReport, RelaySettings,
    RelayState, RelayStatus, RelayTask, RewindError, Rewound, TailRecord, divided_anew, rewind,
};
pub use relay_store::{Lease, RelayStore};
pub use sealing::{FieldCipher, SealedLog, is_sealed, open_rows, sealed_for};
pub use side::{
    AnswerKey, Credentials, CredentialsReader, SideWrite, StoredAnswer, credential_key,
};
pub use track::{Moved, RATE_OVER, Track};
pub use wire::{Publication, WireHeaders, WireRecord};
