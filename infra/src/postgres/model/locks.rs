//! Advisory locks: two numbers each, what for (with the model's name in it) and which generation.

use std::fmt;

use socialhub_projections::{GenerationId, ModelName};

/// What a lock is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// Making the catalogue.
    Catalogue,
    /// The right to change which generations there are.
    Claim,
    /// Shared by batches, held alone by what keeps batches out.
    Gate,
    /// Shared by the connections of open stores, so that others see that there is a writer.
    Writer,
}

/// An advisory lock's key, written as the arguments of Postgres's functions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) class: i32,
    pub(super) object: i32,
}

impl Key {
    /// The key for a purpose of a model; generation 0 where it is not about one.
    pub(super) fn new(purpose: Purpose, model: ModelName, generation: GenerationId) -> Self {
        Self {
            class: hash(&format!("socialhub read model {model} {purpose:?}")),
            object: generation.0.cast_signed(),
        }
    }

    /// The lock under which the catalogue of all models is made.
    pub(super) fn catalogue() -> Self {
        Self::new(Purpose::Catalogue, ModelName("*"), GenerationId(0))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.class, self.object)
    }
}

/// FNV-1a: the same in every process and version.
fn hash(text: &str) -> i32 {
    text.bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        })
        .cast_signed()
}
