//! The contract as files (`docs/contract`): true to the program, valid by the public validators, and enough to build a
//! consumer on, as the examples in Python and JavaScript show.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use socialhub_tests::support::{Server, server::binary};

mod consumers;

/// A folder of the repository.
fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// Fails, saying what to do, when a folder has not what is needed to run what is in it.
fn assert_installed(folder: &Path, what: &str, command: &str) {
    let found = folder.join(what).exists();
    assert!(found, "run `{command}` in {} first", folder.display());
}

/// What the program prints.
fn print(arguments: &[&str]) -> String {
    let output = Command::new(binary()).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The JSON files of a folder, name to text.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let names = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    names
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

#[test]
fn the_schemas_are_those_of_the_program() {
    let made = tempfile::tempdir().unwrap();
    print(&["schemas", "--dir", made.path().to_str().unwrap()]);
    let (made, kept) = (files(made.path()), files(&folder("docs/contract/schemas")));
    let names: Vec<_> = made.keys().collect();
    let hint = "write them anew: socialhub schemas --dir docs/contract/schemas";
    assert_eq!(kept.keys().collect::<Vec<_>>(), names, "{hint}");
    for (name, text) in made {
        assert_eq!(kept[&name], text, "{name}: {hint}");
    }
}

#[test]
fn the_documents_are_those_of_the_program() {
    for (name, command) in [("asyncapi.json", "asyncapi"), ("openapi.json", "openapi")] {
        let kept = fs::read_to_string(folder("docs/contract").join(name)).unwrap();
        let [kept, made] =
            [kept, print(&[command])].map(|text| serde_json::from_str::<Value>(&text).unwrap());
        let same = kept == made;
        assert!(
            same,
            "write it anew: socialhub {command} > docs/contract/{name}"
        );
    }
}

#[test]
fn the_released_schemas_are_kept_to() {
    let released = folder("domain/schemas/released");
    let said = print(&["schemas", "--check", released.to_str().unwrap()]);
    assert!(said.contains("kept to"), "{said}");
}

#[test]
fn a_schema_that_is_broken_fails_the_check() {
    let kept = tempfile::tempdir().unwrap();
    print(&["schemas", "--dir", kept.path().to_str().unwrap()]);
    let path = kept.path().join("post.liked.v1.json");
    let text = fs::read_to_string(&path)
        .unwrap()
        .replace("likerUsername", "likerName");
    fs::write(path, text).unwrap();
    let output = Command::new(binary())
        .args(["schemas", "--check"])
        .arg(kept.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("post.liked.v1.json: data.likerName: the field was removed"),
        "{said}"
    );
}

/// Runs one of the JavaScript programs and shows what it complains of.
#[track_caller]
fn assert_accepted(script: &str, folders: &[&str]) {
    let scripts = folder("tests/js");
    assert_installed(&scripts, "node_modules/@asyncapi/parser", "npm ci");
    let output = Command::new("node")
        .arg(script)
        .args(folders.iter().map(|name| folder(name)))
        .current_dir(scripts)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{why}");
}

#[test]
fn every_fixture_satisfies_its_schema() {
    assert_accepted("fixtures.js", &["docs/contract/schemas", "domain/fixtures"]);
}

#[test]
fn the_public_validators_accept_the_documents() {
    assert_accepted("validate.js", &["docs/contract"]);
}

#[tokio::test]
async fn chat_is_as_its_document_says() {
    let scripts = folder("tests/js");
    assert_installed(&scripts, "node_modules/ajv", "npm ci");
    let server = Server::start().await;
    let mut suite = Command::new("node");
    suite
        .args(["--test", "--test-reporter=spec", "contract.test.js"])
        .current_dir(scripts)
        .env("BASE_URL", server.url())
        .env_remove("PLAIN_TOKENS");
    let output = tokio::task::spawn_blocking(move || suite.output())
        .await
        .unwrap()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}
