//! The crates' manifests, held against the rule of who may know whom.

use std::{collections::BTreeSet, path::Path};

/// What each crate may depend on among ours; `socialhub`, `tests` and `bench` may name all.
const MAY_KNOW: [(&str, &[&str]); 8] = [
    ("domain", &[]),
    ("event-log", &["domain"]),
    ("commands", &["domain", "event-log"]),
    ("projections", &["domain", "event-log"]),
    ("chat", &["domain"]),
    ("api", &["domain", "event-log", "commands", "projections"]),
    ("replay-tools", &["domain", "event-log", "projections"]),
    (
        "infra",
        &[
            "domain",
            "event-log",
            "commands",
            "projections",
            "chat",
            "api",
            "replay-tools",
        ],
    ),
];

/// Only `infra` may drive a store or a broker (and `bench` and `tests`, which look at them from outside).
const DRIVERS: [&str; 8] = [
    "rusqlite",
    "sqlx",
    "rdkafka",
    "mongodb",
    "redis",
    "object_store",
    "parquet",
    "lettre",
];

/// What has no place in pure code.
const IMPURE: [&str; 7] = [
    "tokio", "axum", "tracing", "rand", "chrono", "reqwest", "futures",
];

/// The names in the `[dependencies]` of a crate.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(folder)
        .join("Cargo.toml");
    let manifest = std::fs::read_to_string(path).unwrap();
    let section = manifest
        .split("[dependencies]")
        .nth(1)
        .unwrap()
        .split("\n[")
        .next()
        .unwrap();
    let name = |line: &str| {
        line.split(['.', '=', ' '])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    section
        .lines()
        .map(name)
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .collect()
}

#[test]
fn arrows_point_one_way() {
    for (folder, may_know) in MAY_KNOW {
        for name in dependencies(folder) {
            if let Some(ours) = name.strip_prefix("socialhub-") {
                assert!(may_know.contains(&ours), "{folder} must not know {ours}");
            }
        }
    }
}

#[test]
fn only_infra_names_drivers() {
    for (folder, _) in MAY_KNOW.iter().filter(|(folder, _)| *folder != "infra") {
        let named: Vec<_> = dependencies(folder)
            .into_iter()
            .filter(|name| DRIVERS.contains(&name.as_str()))
            .collect();
        assert!(named.is_empty(), "{folder} names {named:?}");
    }
}

#[test]
fn the_domain_is_pure() {
    let named: Vec<_> = dependencies("domain")
        .into_iter()
        .filter(|name| IMPURE.contains(&name.as_str()))
        .collect();
    assert!(named.is_empty(), "domain names {named:?}");
}

#[test]
fn the_catalogue_page_names_every_event_in_its_version() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/events.md");
    let page = std::fs::read_to_string(path).unwrap();
    for (event_type, version) in socialhub_domain::event::CATALOGUE {
        let row = format!("| `{event_type}` ({version}) |");
        assert!(page.contains(&row), "docs/events.md has no row {row}");
    }
}
