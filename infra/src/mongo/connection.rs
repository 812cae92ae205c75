//! The client, and what its errors mean.

use std::time::Duration;

use mongodb::{
    Client, Database,
    bson::{Bson, Document},
    error::{Error, ErrorKind, WriteFailure},
    options::{Acknowledgment, ClientOptions, ReadPreference, SelectionCriteria},
};
use socialhub_event_log::Position;
use socialhub_projections::{ReadError, StoreError};

/// How long a server is looked for, and a connection tried.
const SELECTION: Duration = Duration::from_millis(1_500);
/// How many operations a client has under way at once. FerretDB keeps one of its 50 connections to its own database for
/// each.
pub(super) const CONNECTIONS: u32 = 24;
/// Connections for what the driver does by itself.
const SPARE: u32 = 8;
/// Codes that say that a document will never go in: bad value, failed to parse, type mismatch, document validation,
/// too large, key too long.
const NEVER: [i32; 6] = [2, 9, 14, 121, 10_334, 17_280];

/// Why there is no client for an address.
#[derive(Debug, thiserror::Error)]
pub enum MongoAddressError {
    /// The address of the server, or the name of the database, cannot be right.
    #[error("the address of MongoDB is not usable: {0}")]
    Unusable(String),
    /// The servers behind a `mongodb+srv` address cannot be looked up now.
    #[error("the servers of MongoDB cannot be looked up: {0}")]
    NotFound(String),
}

/// Why an operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Fault {
    /// No answer, or none that tells anything of the documents.
    #[error("{0}")]
    Unavailable(String),
    /// The server does not take what was written, or holds what this program cannot read.
    #[error("{0}")]
    Rejected(String),
}

impl Fault {
    /// What it means for a batch; `position` is its first record's.
    pub(super) fn of_batch(self, position: Position) -> StoreError {
        match self {
            Self::Unavailable(reason) => StoreError::Unavailable(reason),
            Self::Rejected(reason) => StoreError::Rejected { position, reason },
        }
    }
}

/// Outside a batch there is no record to blame.
impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unavailable(reason) => Self::Unavailable(reason),
            Fault::Rejected(reason) => Self::Unusable(reason),
        }
    }
}

impl From<Fault> for ReadError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unavailable(reason) | Fault::Rejected(reason) => Self(reason),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let told = match error.kind.as_ref() {
            // What it says names the text that does not go.
            ErrorKind::BsonSerialization(_) => {
                return Self::Rejected("it cannot be stored as BSON".to_owned());
            }
            ErrorKind::Write(WriteFailure::WriteError(error)) => {
                Some((error.code, error.code_name.as_deref()))
            }
            ErrorKind::InsertMany(failure) => {
                let errors = failure.write_errors.iter().flatten();
                let mut told = errors.map(|error| (error.code, error.code_name.as_deref()));
                told.find(|(code, _)| NEVER.contains(code))
            }
            ErrorKind::Command(error) => Some((error.code, Some(error.code_name.as_str()))),
            _ => None,
        };
        match told.filter(|(code, _)| NEVER.contains(code)) {
            // The reason is kept with the event, where nothing personal may be, and the server quotes what it was given.
            Some((code, name)) => {
                let name = name.unwrap_or("no name");
                Self::Rejected(format!("the server refuses it with error {code} ({name})"))
            }
            None => Self::Unavailable(error.to_string()),
        }
    }
}

/// A client of the server at `url`. Makes no connection yet. Must be called within a tokio runtime.
pub(super) async fn connect(url: &str, database: &str) -> Result<Database, MongoAddressError> {
    let unusable = |error: Error| match *error.kind {
        ErrorKind::DnsResolve { .. } => MongoAddressError::NotFound(error.to_string()),
        _ => MongoAddressError::Unusable(error.to_string()),
    };
    let mut options = ClientOptions::parse(url).await.map_err(unusable)?;
    options
        .app_name
        .get_or_insert_with(|| "socialhub".to_owned());
    options.server_selection_timeout.get_or_insert(SELECTION);
    options.connect_timeout.get_or_insert(SELECTION);
    // With fewer than turns there would be waiting in the driver's queue. It closes cursors without a turn.
    let asked = options.max_pool_size.unwrap_or_default();
    options.max_pool_size = Some(asked.max(CONNECTIONS + SPARE));
    be_certain(&mut options)?;
    let client = Client::with_options(options).map_err(unusable)?;
    Ok(client.database(database))
}

/// "Whoever is second sees both" must hold after a failover, too, and checkpoint and documents must not come from two
/// servers: writes go to the majority, reads to the primary. An address that asks for less is refused.
fn be_certain(options: &mut ClientOptions) -> Result<(), MongoAddressError> {
    let refused = |what: &str| Err(MongoAddressError::Unusable(what.to_owned()));
    let mut asked = options.write_concern.take().unwrap_or_default();
    if asked.w.is_some_and(|w| w != Acknowledgment::Majority) {
        return refused("`w` must be `majority`: else a failover loses what a checkpoint covers");
    }
    if asked.journal == Some(false) {
        return refused(
            "`journal` must not be `false`: else a crash loses what a checkpoint covers",
        );
    }
    asked.w = Some(Acknowledgment::Majority);
    options.write_concern = Some(asked);
    match options.selection_criteria {
        None | Some(SelectionCriteria::ReadPreference(ReadPreference::Primary)) => Ok(()),
        Some(_) => {
            refused("`readPreference` must be `primary`: others may be behind what was written")
        }
    }
}

/// A number of a document, in whichever form the server has it.
pub(super) fn number(document: &Document, name: &str) -> Option<i64> {
    match document.get(name)? {
        Bson::Int64(number) => Some(*number),
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Double(number) => Some(*number as i64),
        _ => None,
    }
}

/// The id of a document, where that is a text.
pub(super) fn id_of(document: &Document) -> Option<String> {
    document.get_str("_id").ok().map(str::to_owned)
}

/// Positions are stored as signed numbers.
pub(super) fn to_stored(position: Position) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// As they were before [`to_stored`].
pub(super) fn from_stored(stored: i64) -> Position {
    u64::try_from(stored).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_asks_for_less_than_certainty_is_refused() {
        for query in [
            "",
            "?w=majority",
            "?journal=true",
            "?readPreference=primary",
        ] {
            assert_eq!(refusal(query).await, None, "{query}");
        }
        let refused = [
            ("?w=0", "`w`"),
            ("?w=1", "`w`"),
            ("?w=2&journal=true", "`w`"),
            ("?journal=false", "`journal`"),
            ("?readPreference=secondary", "`readPreference`"),
            ("?readPreference=primaryPreferred", "`readPreference`"),
        ];
        for (query, names) in refused {
            let said = refusal(query).await.unwrap_or_default();
            assert!(said.contains(names), "{query}: {said:?}");
        }
    }

    async fn refusal(query: &str) -> Option<String> {
        let url = format!("mongodb://127.0.0.1:1/socialhub{query}");
        let connected = connect(&url, "socialhub").await;
        connected.err().map(|error| error.to_string())
    }
}
