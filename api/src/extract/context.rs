//! The circumstances of a request: its id, trace context, `Idempotency-Key` and `X-Min-Position`.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::{HeaderMap, request::Parts};
use sha2::{Digest, Sha256};
use socialhub_commands::{Actor, CommandContext, IdempotencyKey};
use socialhub_domain::limits::IDEMPOTENCY_KEY_MAX;

use crate::{
    edge::{ClientAddress, RequestId},
    error::ApiError,
    state::App,
};

/// Where a command's request came from.
pub(crate) struct Origin {
    request_id: String,
    traceparent: Option<String>,
    /// The client's address, for limits.
    pub address: ClientAddress,
}

impl FromRequestParts<App> for Origin {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Infallible> {
        let id = parts.extensions.get::<RequestId>();
        let address = parts.extensions.get::<ClientAddress>();
        Ok(Self {
            request_id: id.map(|id| id.as_str().to_owned()).unwrap_or_default(),
            traceparent: traceparent(&parts.headers),
            address: address.copied().unwrap_or(ClientAddress(None)),
        })
    }
}

impl Origin {
    /// The context of a command by `actor`.
    pub(crate) fn context(self, actor: Option<Actor>) -> CommandContext {
        CommandContext {
            actor,
            request_id: self.request_id,
            traceparent: self.traceparent,
            idempotency: None,
        }
    }

    /// The same, for a route that takes an `Idempotency-Key`. The fingerprint is made only when there is one.
    pub(crate) fn keyed(
        self,
        actor: Option<Actor>,
        key: Key,
        route: &'static str,
        fingerprint: impl FnOnce() -> Fingerprint,
    ) -> CommandContext {
        CommandContext {
            idempotency: key.0.map(|key| IdempotencyKey {
                route,
                key,
                fingerprint: fingerprint().finish(),
            }),
            ..self.context(actor)
        }
    }
}

/// A W3C trace context of version 00; anything else is left out, as the specification asks.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    const LENGTH: usize = 55;
    let value = headers.get("traceparent")?.to_str().ok()?;
    let good = value.len() == LENGTH
        && value.starts_with("00-")
        && value
            .bytes()
            .all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    good.then(|| value.to_owned())
}

/// The `Idempotency-Key`, if the request brings one.
pub(crate) struct Key(pub Option<String>);

impl FromRequestParts<App> for Key {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        let mut values = parts.headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else {
            return Ok(Self(None));
        };
        let text = str::from_utf8(value.as_bytes()).ok().filter(|text| {
            values.next().is_none()
                && (1..=IDEMPOTENCY_KEY_MAX).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_graphic())
        });
        text.map(|text| Self(Some(text.to_owned()))).ok_or_else(|| {
            ApiError::bad_field(
                "Idempotency-Key",
                format!("must be 1 to {IDEMPOTENCY_KEY_MAX} visible ASCII characters, given once"),
            )
        })
    }
}

/// The position a read must have seen (`X-Min-Position`).
pub(crate) struct MinPosition(pub Option<u64>);

impl FromRequestParts<App> for MinPosition {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        let Some(value) = parts.headers.get("x-min-position") else {
            return Ok(Self(None));
        };
        let number = value.to_str().ok().and_then(|text| text.parse().ok());
        number.map(|number| Self(Some(number))).ok_or_else(|| {
            ApiError::bad_field("X-Min-Position", "must be a whole number, zero or more")
        })
    }
}

/// SHA-256 over decoded fields: names and lengths keep them apart, and how they were sent (JSON or form, white space,
/// order) makes no difference.
pub(crate) struct Fingerprint(Sha256);

impl Fingerprint {
    pub(crate) fn new() -> Self {
        Self(Sha256::new())
    }

    /// Adds a field.
    pub(crate) fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        for part in [name.as_bytes(), value.as_ref()] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}
