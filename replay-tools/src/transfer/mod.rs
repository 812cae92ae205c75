//! Copying everything: to a folder (`replay export`), from it (`replay import`), from one store to another
//! (`replay migrate`).
//!
//! What is copied comes in [`Part`]s, which the binary wires. The three commands know nothing of what a part holds, so
//! none of them has to be changed for another one.

mod copying;
mod export;
mod folder;
mod import;
mod keys;
mod log;
mod manifest;
pub mod media;
mod meter;
mod migrate;
mod pages;
pub mod part;

use std::{
    io,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use socialhub_domain::UserId;
use socialhub_event_log::{ArchiveError, LogArchive, Position, UnfinishedCopy};

pub use self::{
    export::{ExportOptions, MediaChoice, export},
    import::{ImportOptions, Target, import},
    keys::{KeyLines, PeoplesKeys},
    log::{CredentialsLines, EventLines, Events, PeoplesCredentials},
    migrate::{Both, Logs, MigrateOptions, migrate},
    part::{Lines, Needs, Page, Part, PartError, Written, rows},
};

/// A command that copies everything.
#[derive(Debug, Subcommand)]
pub enum Transfer {
    /// Write the log to a folder, as compressed JSON Lines with checksums; with --all everything that cannot be rebuilt
    Export(ExportOptions),
    /// Check an export and bring it into an empty log, or go on with one that was interrupted
    Import(ImportOptions),
    /// Move from the embedded to the distributed profile: log, credentials, keys, chat and media
    Migrate(MigrateOptions),
}

/// Why something was not copied. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The folder cannot be exported to.
    #[error("{0}: choose another folder")]
    NotEmpty(String),
    /// The export in the folder is another one.
    #[error("{0}: choose another folder, or remove this one")]
    OtherExport(String),
    /// The position is not in the log.
    #[error("there is no position {wanted}: the log ends at {head}")]
    BeyondTheEnd {
        /// What was asked for.
        wanted: u64,
        /// What there is.
        head: u64,
    },
    /// A file cannot be written.
    #[error(
        "cannot write {}: {error}; what is finished stays: make room, or mend it, and run the same command again to go on",
        .path.display()
    )]
    CannotWrite {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file was written after its end.
    #[error("{0} was finished already")]
    Closed(String),
    /// The folder is no export, or not a whole one.
    #[error("{0}")]
    NotAnExport(String),
    /// A file of an export is not as it must be.
    #[error(
        "{}: {reason}: the export cannot be used as it is, take another copy of it",
        .path.display()
    )]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of an export is not there.
    #[error(
        "{}: it is missing: the export cannot be used as it is, take another copy of it",
        .path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file with keys is not there: as it should be in all exports but the newest.
    #[error(
        "{}: it is missing: if the keys are kept apart, name an export of the same log that has them, with --keys FOLDER",
        .path.display()
    )]
    MissingKeys {
        /// The file.
        path: PathBuf,
    },
    /// It is not the export that was asked for.
    #[error("the export has the seal {found}, not {wanted}: it is another one, or was changed")]
    OtherSeal {
        /// What it has.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// There is a part that nobody here can take.
    #[error("the export has a part {0:?} that this program does not know: use a newer one")]
    UnknownPart(String),
    /// The export is of events whose keys are elsewhere.
    #[error(
        "the export has no {part}, without which its events cannot be read: name an export of the same log that has them, \
         with --{part} FOLDER"
    )]
    Needs {
        /// Which part.
        part: &'static str,
    },
    /// Events and keys are not of one time.
    #[error(
        "the {part} have none of the person {person}, which the event at position {position} needs: they are older than the \
         events; name an export of the same log that has them, with --{part} FOLDER"
    )]
    Lacks {
        /// Which part.
        part: &'static str,
        /// Who is not in it.
        person: UserId,
        /// The first event that needs them.
        position: Position,
    },
    /// The target cannot take what is copied.
    #[error(
        "{part}: {reason}: the target must be empty, or hold the beginning of what is copied; nothing in it was changed by this"
    )]
    Foreign {
        /// Which part.
        part: &'static str,
        /// What is in the way.
        reason: String,
    },
    /// The source is not as it must be.
    #[error("{part}: {reason}")]
    Bad {
        /// Which part.
        part: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The source holds half a copy.
    #[error("the event log that is to be copied is not whole: {0}")]
    NotWhole(UnfinishedCopy),
    /// A store went away.
    #[error(
        "{part}: {reason}; what was copied so far stays: see that the store answers, then run the same command again to go on"
    )]
    Store {
        /// Which part.
        part: &'static str,
        /// What it says.
        reason: String,
    },
    /// The target cannot be opened.
    #[error("{0}")]
    Target(String),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] ArchiveError),
    /// Interrupted.
    #[error("interrupted; run the same command again to go on where it stopped")]
    Interrupted,
    /// A task did not come to its end.
    #[error("a task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    /// Something cannot be shown as JSON.
    #[error("cannot show as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl TransferError {
    fn cannot_write(path: &Path, error: io::Error) -> Self {
        Self::CannotWrite {
            path: path.to_owned(),
            error,
        }
    }

    fn of_part(part: &dyn Part, error: PartError) -> Self {
        Self::of(part.name(), error)
    }

    /// What became of the mark that says whether the log is whole.
    fn of_log(error: ArchiveError) -> Self {
        Self::of(log::EVENTS, error.into())
    }

    fn of(part: &'static str, error: PartError) -> Self {
        match error {
            PartError::Store(reason) => Self::Store { part, reason },
            PartError::Bad(reason) => Self::Bad { part, reason },
            PartError::Foreign(reason) => Self::Foreign { part, reason },
        }
    }
}

/// Half a copy is not copied on.
async fn require_whole(log: &dyn LogArchive) -> Result<(), TransferError> {
    match log.unfinished_copy().await? {
        None => Ok(()),
        Some(copy) => Err(TransferError::NotWhole(copy)),
    }
}

/// A text as one word of a shell's command.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/:._-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// An address without what is secret in it, for who knows that: with its user and its place.
fn without_secrets(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (place, more) = match rest.split_once('?') {
        // It may hold a password, too.
        Some((place, _)) => (place, "?…"),
        None => (rest, ""),
    };
    let place = match place.rsplit_once('@') {
        None => place.to_owned(),
        Some((who, place)) => match who.split_once(':') {
            None => format!("{who}@{place}"),
            Some((user, _)) => format!("{user}:…@{place}"),
        },
    };
    format!("{scheme}://{place}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_without_its_secrets() {
        for (url, told) in [
            ("postgres://host/db", "postgres://host/db"),
            ("postgres://me@host/db", "postgres://me@host/db"),
            ("postgres://me:a:b@c@host:1/db", "postgres://me:…@host:1/db"),
            (
                "postgres://host/db?user=me&password=x",
                "postgres://host/db?…",
            ),
            (
                "s3://key:secret@bucket/at?region=x",
                "s3://key:…@bucket/at?…",
            ),
            ("/folder", "/folder"),
        ] {
            assert_eq!(without_secrets(url), told);
        }
    }

    #[test]
    fn a_word_of_a_command_stays_one() {
        assert_eq!(quoted("sqlite:/a/b-c.d"), "sqlite:/a/b-c.d");
        assert_eq!(quoted("a b's"), r"'a b'\''s'");
    }
}
