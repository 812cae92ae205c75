//! A JSON object as its fields, their values unread: for looking at some fields of a payload and leaving the others as
//! they are, letter by letter.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// The fields of an object in their order, each with the text of its value.
pub(crate) struct JsonFields<'a>(pub(crate) Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> JsonFields<'a> {
    /// Reads an object; none when the text is something else.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The text of a field's value.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| &**value)
    }

    /// What a field's text says; none when it is no text without escapes, or says something else.
    pub(crate) fn parsed<T: FromStr>(&self, name: &str) -> Option<T> {
        let text = self.get(name)?;
        text.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
    }

    /// Replaces the value of a field that is there.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<Cow<'a, str>>) {
        if let Some(field) = self.0.iter_mut().find(|(field, _)| field == name) {
            field.1 = value.into();
        }
    }

    /// Keeps the fields whose names pass.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|(name, _)| keep(name));
    }

    /// The object as text.
    pub(crate) fn to_json(&self) -> String {
        let length: usize = self.0.iter().map(|(n, v)| n.len() + v.len() + 4).sum();
        let mut json = String::with_capacity(length + 2);
        json.push('{');
        for (index, (name, value)) in self.0.iter().enumerate() {
            if index > 0 {
                json.push(',');
            }
            // Encoded as any text, although the names of the catalogue need no escapes.
            json.push_str(&serde_json::Value::from(&**name).to_string());
            json.push(':');
            json.push_str(value);
        }
        json.push('}');
        json
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonFields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Vec<(Cow<'de, str>, Cow<'de, str>)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields = Vec::with_capacity(8);
                while let Some(Name(name)) = map.next_key()? {
                    let value: &'de RawValue = map.next_value()?;
                    fields.push((name, Cow::Borrowed(value.get())));
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Fields).map(JsonFields)
    }
}

/// A name, borrowed when it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_stays_as_it_was_but_for_what_is_set() {
        let text = r#"{"b": [1, 2],"a\"":{"x":"}"},"c":"é\n"}"#;
        let mut fields = JsonFields::parse(text).unwrap();
        assert_eq!(fields.get("b"), Some("[1, 2]"));
        assert_eq!(fields.get("a\""), Some(r#"{"x":"}"}"#));
        fields.set("c", "7");
        fields.set("not there", "8");
        assert_eq!(fields.to_json(), r#"{"b":[1, 2],"a\"":{"x":"}"},"c":7}"#);
        fields.retain(|name| name != "b");
        assert_eq!(fields.to_json(), r#"{"a\"":{"x":"}"},"c":7}"#);
    }

    #[test]
    fn what_is_no_object_has_no_fields() {
        for text in ["", "7", "[{}]", "\"x\"", "{", "{} x", "null"] {
            assert!(JsonFields::parse(text).is_none(), "{text}");
        }
    }
}
