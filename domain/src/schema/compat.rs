//! What may change in a schema that was released.
//!
//! Within a version the old data in the log must satisfy the new schema, and new data the old one: so fields may be
//! added if they may be left out, and nothing else may change. A new version may do what an upcaster makes up for: add
//! fields that are always there, and values of an enumeration. What consumers of the old version read must stay, and so
//! must the topic that they read it from and the key that it is ordered by.

use std::{collections::BTreeSet, fmt};

use serde_json::{Map, Value};

/// Which schema is held against the released one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The same version, as the program writes it now.
    SameVersion,
    /// The next version.
    NextVersion,
}

/// What a change means for those who read what was released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It breaks them: it must not be.
    Breaks,
    /// It is promised to be possible, and yet breaks who did not reckon with it: they should be told.
    Widens,
}

/// A change that somebody may notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where, as a path of field names: `data.media[].url`.
    pub at: String,
    /// What has changed.
    pub what: String,
    /// What that means.
    pub class: Class,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

/// Keywords for people; they constrain nothing.
const ANNOTATIONS: [&str; 9] = [
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "title",
    "description",
    "examples",
    "default",
    "deprecated",
];

/// Keywords that are looked into; every other one must stay as it is.
const UNDERSTOOD: [&str; 5] = ["properties", "required", "items", "enum", "$ref"];

/// What readers of `released` notice of `new`; nothing that [`Class::Breaks`] when it is compatible.
pub fn check(released: &Value, new: &Value, change: Change) -> Vec<Finding> {
    let mut check = Check {
        released,
        new,
        change,
        found: Vec::new(),
    };
    check.place();
    check.schemas(released, new, "");
    check.found
}

/// Where the records of a schema are, and what they are ordered by.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    topic: &'a str,
    key: &'a str,
}

impl<'a> Place<'a> {
    /// As its comment says, whatever the words between.
    fn of(schema: &'a Value) -> Option<Self> {
        let mut quoted = schema
            .get("$comment")?
            .as_str()?
            .split('`')
            .skip(1)
            .step_by(2);
        Some(Self {
            topic: quoted.next()?,
            key: quoted.next()?,
        })
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` under `{}`", self.topic, self.key)
    }
}

struct Check<'a> {
    released: &'a Value,
    new: &'a Value,
    change: Change,
    found: Vec<Finding>,
}

impl Check<'_> {
    fn report(&mut self, at: &str, what: impl Into<String>) {
        self.classified(at, what, Class::Breaks);
    }

    fn classified(&mut self, at: &str, what: impl Into<String>, class: Class) {
        let at = if at.is_empty() { "the value" } else { at };
        self.found.push(Finding {
            at: at.to_owned(),
            what: what.into(),
            class,
        });
    }

    /// Topic and key. A schema that somebody has kept from before they were noted says nothing of them.
    fn place(&mut self) {
        let Some(before) = Place::of(self.released) else {
            return;
        };
        match Place::of(self.new) {
            Some(now) if now == before => {}
            Some(now) => self.report("the record", format!("was on {before}, is on {now}")),
            None => self.report(
                "the record",
                format!("was on {before}, is nobody knows where"),
            ),
        }
    }

    fn schemas(&mut self, old: &Value, new: &Value, at: &str) {
        let (released_root, new_root) = (self.released, self.new);
        let (Some(old), Some(new)) = (resolve(released_root, old), resolve(new_root, new)) else {
            return self.report(at, "a `$ref` leads nowhere");
        };
        let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else {
            if old != new {
                self.report(at, format!("was {old}, is {new}"));
            }
            return;
        };
        self.constraints(old, new, at);
        self.enumeration(old, new, at);
        self.required(old, new, at);
        let none = Map::new();
        let properties = |schema: &Map<String, Value>| {
            let found = schema.get("properties").and_then(Value::as_object);
            found.unwrap_or(&none).clone()
        };
        let now = properties(new);
        for (name, old_field) in properties(old) {
            let at = join(at, &name);
            match now.get(&name) {
                Some(new_field) => self.schemas(&old_field, new_field, &at),
                None => self.report(&at, "the field was removed"),
            }
        }
        match (old.get("items"), new.get("items")) {
            (Some(old), Some(new)) => self.schemas(old, new, &format!("{at}[]")),
            (None, None) => {}
            _ => self.report(at, "`items` was added or removed"),
        }
    }

    /// Everything that is not looked into: the type, the format, bounds, and what this program does not know.
    fn constraints(&mut self, old: &Map<String, Value>, new: &Map<String, Value>, at: &str) {
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for name in names {
            let passed =
                ANNOTATIONS.contains(&name.as_str()) || UNDERSTOOD.contains(&name.as_str());
            if !passed && old.get(name) != new.get(name) {
                let say = |value: Option<&Value>| {
                    value.map_or_else(|| "nothing".to_owned(), Value::to_string)
                };
                let (was, is) = (say(old.get(name)), say(new.get(name)));
                self.report(at, format!("`{name}` was {was}, is {is}"));
            }
        }
    }

    fn enumeration(&mut self, old: &Map<String, Value>, new: &Map<String, Value>, at: &str) {
        let values = |schema: &Map<String, Value>| schema.get("enum")?.as_array().cloned();
        let (before, now) = match (values(old), values(new)) {
            (None, None) => return,
            (Some(before), Some(now)) => (before, now),
            _ => return self.report(at, "`enum` was added or removed"),
        };
        for lost in before.iter().filter(|value| !now.contains(value)) {
            self.report(at, format!("the enumeration lost {lost}"));
        }
        for added in now.iter().filter(|value| !before.contains(value)) {
            let gained = format!("the enumeration gained {added}");
            match self.change {
                Change::SameVersion => {
                    self.report(at, format!("{gained}, which needs a new version"));
                }
                Change::NextVersion => {
                    let what = format!("{gained}: do not take the values of before for all");
                    self.classified(at, what, Class::Widens);
                }
            }
        }
    }

    fn required(&mut self, old: &Map<String, Value>, new: &Map<String, Value>, at: &str) {
        let names = |schema: &Map<String, Value>| -> BTreeSet<String> {
            let list = schema.get("required").and_then(Value::as_array);
            let names = list.into_iter().flatten().filter_map(Value::as_str);
            names.map(str::to_owned).collect()
        };
        let (before, now) = (names(old), names(new));
        let has = |name: &String| new.get("properties").is_some_and(|p| p.get(name).is_some());
        for name in before.difference(&now).filter(|name| has(name)) {
            self.report(
                &join(at, name),
                "the field was always there and may now be left out",
            );
        }
        if self.change == Change::SameVersion {
            for name in now.difference(&before) {
                self.report(
                    &join(at, name),
                    "the field is required now, which older data does not satisfy",
                );
            }
        }
    }
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() {
        name.to_owned()
    } else {
        format!("{at}.{name}")
    }
}

/// The schema itself, if it is not one that points elsewhere in the document.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> Option<&'a Value> {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(target) => root.pointer(target.strip_prefix('#')?),
        None => Some(schema),
    }
}
