//! The contract as files: JSON Schema of every event version, and the AsyncAPI document of the topics and of chat.

mod chat;
mod topics;

use std::{fs, path::Path, process::ExitCode};

use clap::Args;
use serde_json::{Value, json};
use socialhub_domain::schema::{
    self, EventSchema,
    compat::{self, Change, Class},
};

/// What to do with the schemas.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct SchemaOptions {
    /// Write one file for each version of each event into this folder
    #[arg(long, value_name = "FOLDER")]
    dir: Option<std::path::PathBuf>,

    /// Hold the files of this folder, as somebody keeps them, against this program's; fail when it breaks them
    #[arg(long, value_name = "FOLDER")]
    check: Option<std::path::PathBuf>,
}

const DESCRIPTION: &str = "What SocialHub publishes on Kafka, and how clients talk to its chat service.\n\n\
Topics carry every event of the log, at least once and in order per key; `ce_id` tells a repeat. Fields may be added \
to an event at any time: ignore what you do not know. An event's version is raised when a field is added that is \
always there, or a value to an enumeration: do not take its values for all there will be. Nothing is ever removed or \
retyped, and no event moves to another topic or key.";

/// The AsyncAPI document.
///
/// # Errors
/// Never in practice: the schemas of retired versions are part of the program.
pub(crate) fn asyncapi() -> Result<Value, String> {
    let schemas = all()?;
    let mut document = json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "SocialHub",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": { "name": "MIT" },
        },
        "defaultContentType": "application/json",
    });
    for part in [topics::document(&schemas), chat::document()] {
        merge(&mut document, part);
    }
    Ok(document)
}

/// Puts the members of `more` into `into`, objects of the same name becoming one.
fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (name, member) in more {
                merge(into.entry(name).or_insert(Value::Null), member);
            }
        }
        (into, more) => *into = more,
    }
}

/// Prints the AsyncAPI document.
pub(crate) fn print_asyncapi() -> Result<ExitCode, String> {
    print!("{}", schema::text(&asyncapi()?));
    Ok(ExitCode::SUCCESS)
}

/// Writes or checks the schemas.
pub(crate) fn schemas(options: &SchemaOptions) -> Result<ExitCode, String> {
    let schemas = all()?;
    if let Some(folder) = &options.dir {
        write(&schemas, folder)?;
        println!("{} schemas written to {}", schemas.len(), folder.display());
    }
    let Some(folder) = &options.check else {
        return Ok(ExitCode::SUCCESS);
    };
    let checked = check(&schemas, folder)?;
    for note in &checked.notes {
        println!("{note}");
    }
    if checked.faults.is_empty() {
        println!("{} schemas are kept to", checked.files);
        return Ok(ExitCode::SUCCESS);
    }
    for fault in &checked.faults {
        println!("{fault}");
    }
    Ok(ExitCode::FAILURE)
}

/// What came of holding somebody's files against this program.
#[derive(Debug, Default, PartialEq, Eq)]
struct Checked {
    /// How many files there are.
    files: usize,
    /// In what this program breaks them.
    faults: Vec<String>,
    /// What was promised to be possible and has come about.
    notes: Vec<String>,
}

fn all() -> Result<Vec<EventSchema>, String> {
    schema::all().map_err(|error| format!("a retired schema does not read: {error}"))
}

fn write(schemas: &[EventSchema], folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder)
        .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    for schema in schemas {
        let path = folder.join(schema.file_name());
        fs::write(&path, schema.text())
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}

/// Holds the files of a folder against this program.
fn check(schemas: &[EventSchema], folder: &Path) -> Result<Checked, String> {
    let unreadable = |path: &Path, error: &dyn std::fmt::Display| {
        format!("cannot read {}: {error}", path.display())
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, &error))? {
        let name = entry
            .map_err(|error| unreadable(folder, &error))?
            .file_name();
        names.extend(
            name.into_string()
                .ok()
                .filter(|name| name.ends_with(".json")),
        );
    }
    if names.is_empty() {
        return Err(format!(
            "there are no schemas (*.json) in {}",
            folder.display()
        ));
    }
    names.sort();
    let mut checked = Checked {
        files: names.len(),
        ..Checked::default()
    };
    for name in &names {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
        let kept = serde_json::from_str(&text).map_err(|error| unreadable(&path, &error))?;
        compare(schemas, name, &kept, &mut checked);
    }
    Ok(checked)
}

/// Holds a schema that somebody keeps against this program.
fn compare(schemas: &[EventSchema], name: &str, kept: &Value, checked: &mut Checked) {
    let Some(same) = schemas.iter().find(|schema| schema.file_name() == name) else {
        let fault = format!("{name}: this program has no such version");
        return checked.faults.push(fault);
    };
    let mut found = compat::check(kept, &same.value, Change::SameVersion);
    // What is written is today's version, and it must still do for who reads the older one.
    let today = schemas
        .iter()
        .find(|one| one.current && one.event_type == same.event_type);
    if let Some(today) = today.filter(|_| !same.current) {
        found.extend(compat::check(kept, &today.value, Change::NextVersion));
    }
    for finding in &found {
        match finding.class {
            Class::Breaks => checked.faults.push(format!("{name}: {finding}")),
            Class::Widens => checked
                .notes
                .push(format!("{name}: to be reckoned with: {finding}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        write(&all().unwrap(), folder.path()).unwrap();
        folder
    }

    fn edit(folder: &Path, name: &str, edit: impl FnOnce(&mut Value)) {
        let path = folder.join(name);
        let mut schema = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        edit(&mut schema);
        fs::write(path, schema.to_string()).unwrap();
    }

    #[test]
    fn what_was_written_is_kept_to() {
        let folder = kept();
        let schemas = all().unwrap();
        let wanted = Checked {
            files: schemas.len(),
            ..Checked::default()
        };
        assert_eq!(check(&schemas, folder.path()), Ok(wanted));
    }

    #[test]
    fn a_promise_that_is_broken_is_named_with_its_file() {
        let folder = kept();
        edit(folder.path(), "post.liked.v1.json", |schema| {
            schema["$defs"]["data"]["properties"]["mood"] = json!({"type": "string"});
        });
        edit(folder.path(), "user.followed.v1.json", |schema| {
            schema["$defs"]["data"]["properties"]["followerId"]["type"] = "integer".into();
        });
        fs::write(folder.path().join("post.eaten.v1.json"), "{}").unwrap();
        let Checked { faults, .. } = check(&all().unwrap(), folder.path()).unwrap();
        let retyped =
            r#"user.followed.v1.json: data.followerId: `type` was "integer", is "string""#;
        assert_eq!(
            faults,
            [
                "post.eaten.v1.json: this program has no such version",
                "post.liked.v1.json: data.mood: the field was removed",
                retyped,
                retyped,
            ]
        );
    }

    #[test]
    fn what_may_come_with_a_new_version_is_said_and_fails_nothing() {
        let folder = kept();
        // As if version 1 had had two audiences, and no files to speak of.
        let old = all().unwrap();
        let old = old
            .iter()
            .find(|one| one.file_name() == "post.created.v2.json");
        let mut old = old.unwrap().value.clone();
        let data = &mut old["$defs"]["data"];
        data["properties"]["visibility"]["enum"] = json!(["public", "followers"]);
        let mut schemas = all().unwrap();
        for schema in &mut schemas {
            if schema.file_name() == "post.created.v1.json" {
                schema.value = old.clone();
                schema.value["$id"] = "urn:socialhub:event:post.created:v1".into();
                fs::write(folder.path().join(schema.file_name()), schema.text()).unwrap();
            }
        }
        let checked = check(&schemas, folder.path()).unwrap();
        assert_eq!(checked.faults, [""; 0]);
        assert_eq!(
            checked.notes,
            [
                r#"post.created.v1.json: to be reckoned with: data.visibility: the enumeration gained "private": do not take the values of before for all"#
            ]
        );
    }

    #[test]
    fn a_folder_without_schemas_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(
            check(&[], folder.path())
                .unwrap_err()
                .contains("no schemas")
        );
        fs::write(folder.path().join("x.json"), "{").unwrap();
        assert!(check(&[], folder.path()).unwrap_err().contains("x.json"));
        assert!(
            check(&[], Path::new("/nowhere"))
                .unwrap_err()
                .contains("/nowhere")
        );
    }

    /// Every `$ref` of the document leads somewhere in it.
    fn assert_resolved(document: &Value, part: &Value) {
        if let Some(target) = part.get("$ref").and_then(Value::as_str) {
            let pointer = target.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{target}");
        }
        let members = part
            .as_object()
            .into_iter()
            .flat_map(|members| members.values());
        for part in members.chain(part.as_array().into_iter().flatten()) {
            assert_resolved(document, part);
        }
    }

    #[test]
    fn the_document_is_whole() {
        let document = asyncapi().unwrap();
        assert_resolved(&document, &document);
        let channels: Vec<_> = document["channels"].as_object().unwrap().keys().collect();
        for wanted in ["POST_TOPIC", "USER_TOPIC", "NOTIFICATION_TOPIC", "chat"] {
            assert!(
                channels.iter().any(|channel| *channel == wanted),
                "{wanted}"
            );
        }
        for schema in all().unwrap() {
            let name = format!("{}.v{}", schema.event_type, schema.version);
            let message = format!("/channels/{}/messages/{name}", schema.topic.name());
            assert!(document.pointer(&message).is_some(), "{message}");
        }
    }
}
