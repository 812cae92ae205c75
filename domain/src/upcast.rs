//! Reading events of the past: chained upcasters, checked at start.
//!
//! An upcaster lifts the JSON of one version of an event to the next. They form a chain per type, from the oldest
//! version ever written to the one written today; [`check`] refuses a gap, a duplicate or a step past today's version,
//! and runs before the program reads its first event.

use std::fmt;

use serde_json::{Map, Value, error::Category};

use crate::event::{CATALOGUE, Event};

/// One step of a chain: lifts the data of `event_type` from version `from` to `from + 1`.
#[derive(Debug, Clone, Copy)]
pub struct Upcaster {
    /// The public type name.
    pub event_type: &'static str,
    /// The version it reads.
    pub from: u32,
    /// The change of shape.
    pub lift: fn(&mut Map<String, Value>),
}

/// Every step there is.
pub const UPCASTERS: &[Upcaster] = &[
    // Version 1 is the shape published before posts had an audience and files.
    Upcaster {
        event_type: "post.created",
        from: 1,
        lift: |data| {
            data.entry("visibility").or_insert_with(|| "public".into());
            data.entry("media")
                .or_insert_with(|| Value::Array(Vec::new()));
        },
    },
    // Version 1 is the shape published before followers could ask to be told of new posts.
    Upcaster {
        event_type: "user.followed",
        from: 1,
        lift: |data| {
            data.entry("notify").or_insert(Value::Bool(false));
        },
    },
];

/// How JSON is not what was expected, and where. Serde's own words repeat what stands there, which may be personal: these
/// can be kept and logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    category: Category,
    line: usize,
    column: usize,
}

impl From<serde_json::Error> for Misfit {
    fn from(error: serde_json::Error) -> Self {
        Self {
            category: error.classify(),
            line: error.line(),
            column: error.column(),
        }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, .. } = self;
        let what = match self.category {
            Category::Syntax => "it is no JSON",
            Category::Eof => "it ends too early",
            Category::Data => "it has another shape",
            Category::Io => "it cannot be read",
        };
        match line {
            // Of a value that was in memory already.
            0 => f.write_str(what),
            _ => write!(f, "{what} at line {line}, column {column}"),
        }
    }
}

/// Why a stored event cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The type is not in the catalogue.
    #[error("unknown event type `{0}`")]
    UnknownType(String),
    /// Written by a newer program, or a version that never was.
    #[error("`{event_type}` has no version {version}")]
    UnknownVersion {
        /// The type.
        event_type: String,
        /// The version found.
        version: u32,
    },
    /// The data does not have the shape its version promises.
    #[error("`{event_type}` version {version} does not decode: {misfit}")]
    Malformed {
        /// The type.
        event_type: String,
        /// The version found.
        version: u32,
        /// What the decoder met.
        misfit: Misfit,
    },
    /// What the log holds beside the data is damaged.
    #[error("`{event_type}` does not decode: {reason}")]
    Damaged {
        /// The type.
        event_type: String,
        /// What cannot be read.
        reason: String,
    },
    /// A personal field is sealed still: its person's key does not open it.
    #[error("`{event_type}` does not decode: the sealed field `{field}` does not open")]
    Sealed {
        /// The type.
        event_type: String,
        /// The field.
        field: &'static str,
    },
}

/// A fault in a set of upcasters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No step from a version that was once written.
    #[error("`{event_type}`: no upcaster from version {from}")]
    Gap {
        /// The type.
        event_type: String,
        /// The version without a step.
        from: u32,
    },
    /// Two steps from the same version.
    #[error("`{event_type}`: two upcasters from version {from}")]
    Duplicate {
        /// The type.
        event_type: String,
        /// The version with two steps.
        from: u32,
    },
    /// A step for a type, or from a version, that the catalogue does not have.
    #[error("`{event_type}`: upcaster from version {from} leads nowhere")]
    Stray {
        /// The type.
        event_type: String,
        /// The version it reads.
        from: u32,
    },
}

/// Proves that every version ever written of every type in `catalogue` reaches today's.
///
/// # Errors
/// The first fault found.
pub fn check_chain(catalogue: &[(&str, u32)], upcasters: &[Upcaster]) -> Result<(), ChainError> {
    for step in upcasters {
        let fault =
            |kind: fn(String, u32) -> ChainError| Err(kind(step.event_type.to_owned(), step.from));
        let today = catalogue
            .iter()
            .find(|(name, _)| *name == step.event_type)
            .map(|(_, version)| *version);
        if !today.is_some_and(|today| (1..today).contains(&step.from)) {
            return fault(|event_type, from| ChainError::Stray { event_type, from });
        }
        let same =
            |other: &&Upcaster| other.event_type == step.event_type && other.from == step.from;
        if upcasters.iter().filter(same).count() > 1 {
            return fault(|event_type, from| ChainError::Duplicate { event_type, from });
        }
    }
    for (event_type, today) in catalogue {
        for from in 1..*today {
            if !upcasters
                .iter()
                .any(|step| step.event_type == *event_type && step.from == from)
            {
                return Err(ChainError::Gap {
                    event_type: (*event_type).to_owned(),
                    from,
                });
            }
        }
    }
    Ok(())
}

/// [`check_chain`] of the real catalogue and the real upcasters; run at start.
///
/// # Errors
/// The first fault found.
pub fn check() -> Result<(), ChainError> {
    check_chain(CATALOGUE, UPCASTERS)
}

/// Reads a stored event of any version.
///
/// # Errors
/// [`DecodeError`] says whether the type, the version or the data is at fault.
pub fn decode(event_type: &str, version: u32, payload: &str) -> Result<Event, DecodeError> {
    let Some((_, today)) = CATALOGUE.iter().find(|(name, _)| *name == event_type) else {
        return Err(DecodeError::UnknownType(event_type.to_owned()));
    };
    let malformed = |error: serde_json::Error| DecodeError::Malformed {
        event_type: event_type.to_owned(),
        version,
        misfit: error.into(),
    };
    let decoded = if version == *today {
        Event::from_current(event_type, payload)
    } else if (1..*today).contains(&version) {
        let mut data: Map<String, Value> = serde_json::from_str(payload).map_err(malformed)?;
        for from in version..*today {
            let step = UPCASTERS
                .iter()
                .find(|step| step.event_type == event_type && step.from == from);
            let Some(step) = step else { break };
            (step.lift)(&mut data);
        }
        Event::from_current(event_type, &Value::Object(data).to_string())
    } else {
        return Err(DecodeError::UnknownVersion {
            event_type: event_type.to_owned(),
            version,
        });
    };
    match decoded {
        Some(result) => result.map_err(malformed),
        None => Err(DecodeError::UnknownType(event_type.to_owned())),
    }
}
