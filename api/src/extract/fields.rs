//! The fields of a JSON object or a form, taken out one by one, so that an answer names every bad one at once.

use axum::extract::{FromRequest, Request};
use serde_json::{Map, Value};
use socialhub_domain::event::Visibility;

use crate::{
    error::{ApiError, BadField},
    extract::body,
    state::App,
};

/// What a check says: nothing, or what is wrong.
pub(crate) type Check = Result<(), String>;

/// Fields that have been sent, and what is wrong with those looked at so far.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    values: Map<String, Value>,
    problems: Vec<BadField>,
}

/// Fields of a body that may be left out altogether.
pub(crate) struct OptionalFields(pub Fields);

impl FromRequest<App> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let json = body::is_json(request.headers());
        let bytes = body::read(app, request.into_body()).await?;
        if json {
            Self::from_json(&bytes)
        } else {
            Err(body::wrong_type("application/json"))
        }
    }
}

impl FromRequest<App> for OptionalFields {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let json = body::is_json(request.headers());
        let bytes = body::read(app, request.into_body()).await?;
        if bytes.is_empty() {
            Ok(Self(Fields::default()))
        } else if json {
            Fields::from_json(&bytes).map(Self)
        } else {
            Err(body::wrong_type("application/json"))
        }
    }
}

impl Fields {
    /// The fields of a JSON object.
    pub(crate) fn from_json(bytes: &[u8]) -> Result<Self, ApiError> {
        let malformed = |what: String| ApiError::bad_field("body", what);
        let text = str::from_utf8(bytes).map_err(|_| malformed("must be UTF-8".to_owned()))?;
        match serde_json::from_str(text) {
            Ok(Value::Object(values)) => Ok(Self {
                values,
                problems: Vec::new(),
            }),
            Ok(_) => Err(malformed("must be a JSON object".to_owned())),
            // Line and column only: the message may quote what was sent.
            Err(error) => Err(malformed(format!(
                "must be valid JSON (line {}, column {})",
                error.line(),
                error.column()
            ))),
        }
    }

    /// Adds a field of a form; a repeated one is bad.
    pub(crate) fn add(&mut self, name: &str, value: String) {
        let before = self.values.insert(name.to_owned(), Value::String(value));
        if before.is_some() {
            self.bad(name, "must be given once");
        }
    }

    /// Takes note of a bad field.
    pub(crate) fn bad(&mut self, field: &str, message: impl Into<String>) {
        self.problems.push(BadField {
            field: field.to_owned(),
            message: message.into(),
        });
    }

    /// A text that must be there. A bad one is noted and answered as empty.
    pub(crate) fn text(&mut self, name: &str, check: impl FnOnce(&str) -> Check) -> String {
        match self.values.remove(name) {
            Some(Value::String(text)) => {
                self.check(name, &text, check);
                text
            }
            Some(_) => self.bad_text(name, "must be a string"),
            None => self.bad_text(name, "is required"),
        }
    }

    fn bad_text(&mut self, name: &str, message: &str) -> String {
        self.bad(name, message);
        String::new()
    }

    fn check(&mut self, name: &str, text: &str, check: impl FnOnce(&str) -> Check) {
        if text.contains('\0') {
            self.bad(name, "must not contain NUL characters");
        } else if let Err(message) = check(text) {
            self.bad(name, message);
        }
    }

    /// A text that may be left out.
    pub(crate) fn optional_text(
        &mut self,
        name: &str,
        check: impl FnOnce(&str) -> Check,
    ) -> Option<String> {
        self.values
            .contains_key(name)
            .then(|| self.text(name, check))
    }

    /// A text that may be left out; `null` empties it.
    pub(crate) fn clearable_text(
        &mut self,
        name: &str,
        check: impl FnOnce(&str) -> Check,
    ) -> Option<String> {
        if self.values.get(name).is_some_and(Value::is_null) {
            self.values.remove(name);
            return Some(String::new());
        }
        self.optional_text(name, check)
    }

    /// A truth value that may be left out.
    pub(crate) fn optional_flag(&mut self, name: &str) -> Option<bool> {
        match self.values.remove(name)? {
            Value::Bool(flag) => Some(flag),
            _ => {
                self.bad(name, "must be true or false");
                None
            }
        }
    }

    /// A truth value that must be there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        if !self.values.contains_key(name) {
            self.bad(name, "is required");
        }
        self.optional_flag(name).unwrap_or_default()
    }

    /// Who may see a post; everybody when left out.
    pub(crate) fn visibility(&mut self, name: &str) -> Visibility {
        let Some(value) = self.values.remove(name) else {
            return Visibility::default();
        };
        match value.as_str() {
            Some("public") => Visibility::Public,
            Some("followers") => Visibility::Followers,
            Some("private") => Visibility::Private,
            _ => {
                self.bad(name, "must be public, followers or private");
                Visibility::default()
            }
        }
    }

    /// Succeeds when every field looked at was good.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(ApiError::invalid(self.problems))
        }
    }
}
