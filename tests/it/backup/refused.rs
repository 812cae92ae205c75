//! What was tampered with, or does not belong there.

use std::{fs, path::Path};

use reqwest::multipart::{Form, Part};
use serde_json::Value;
use socialhub_tests::support::Profile;

use super::{Exports, MANY, change, copy_all, fresh, many_posts, network::network};
use crate::media::png;

/// What somebody does to a good export.
type Harm = fn(&Path);

/// What is done, and what the message names.
const HARMS: [(&str, Harm, &str); 10] = [
    (
        "cut short",
        |f| {
            change(&f.join("events-000003.jsonl.zst"), |b| {
                b.truncate(b.len() / 2);
            });
        },
        "events-000003.jsonl.zst: it was cut short",
    ),
    (
        "emptied",
        |f| change(&f.join("events-000002.jsonl.zst"), Vec::clear),
        "events-000002.jsonl.zst: it was cut short",
    ),
    (
        "longer",
        |f| change(&f.join("events-000002.jsonl.zst"), |b| b.push(0)),
        "events-000002.jsonl.zst",
    ),
    (
        "one bit",
        |f| change(&f.join("credentials-000001.jsonl.zst"), |b| b[20] ^= 1),
        "credentials-000001.jsonl.zst: its SHA-256",
    ),
    (
        "dropped",
        |f| fs::remove_file(f.join("events-000002.jsonl.zst")).unwrap(),
        "events-000002.jsonl.zst: it is missing",
    ),
    (
        "swapped",
        |f| {
            let [a, b, c] = ["events-000001.jsonl.zst", "events-000002.jsonl.zst", "x"]
                .map(|name| f.join(name));
            fs::rename(&a, &c).unwrap();
            fs::rename(&b, &a).unwrap();
            fs::rename(&c, &b).unwrap();
        },
        "events-000001.jsonl.zst",
    ),
    (
        "a file left out of the manifest",
        |f| {
            edit(f, |page| {
                page["parts"][0]["files"].as_array_mut().unwrap().remove(1);
            });
        },
        "manifest.json",
    ),
    (
        "a count changed",
        |f| edit(f, |page| page["log"]["lastPosition"] = 3.into()),
        "manifest.json: it is not as it was",
    ),
    (
        "a name from elsewhere",
        |f| {
            edit(f, |page| {
                page["parts"][0]["files"][0]["file"] = "../x.jsonl.zst".into();
            });
        },
        "manifest.json",
    ),
    (
        "another format",
        |f| edit(f, |page| page["version"] = 2.into()),
        "manifest.json: it has the format version 2",
    ),
];

fn edit(folder: &Path, edit: impl FnOnce(&mut Value)) {
    change(&folder.join("manifest.json"), |bytes| {
        let mut page = serde_json::from_slice(bytes).unwrap();
        edit(&mut page);
        *bytes = serde_json::to_vec(&page).unwrap();
    });
}

#[tokio::test]
async fn an_export_that_was_tampered_with_is_refused_by_name() {
    let server = many_posts().await;
    let exports = Exports::new();
    let good = exports.name("good");
    let export = ["replay", "export", &good, "--all", "--file-size", "1"];
    server.succeed(&export).await;
    assert!(
        exports
            .path("good")
            .join("events-000003.jsonl.zst")
            .exists()
    );
    let target = fresh(Profile::Embedded).await;
    for (what, harm, named) in HARMS {
        let bad = exports.path(what);
        copy_all(&exports.path("good"), &bad);
        harm(&bad);
        let said = target
            .fail(&["replay", "import", bad.to_str().unwrap()])
            .await;
        assert!(said.contains(named), "{what}: {said}");
        assert!(!target.data_dir().exists(), "{what}: something was written");
    }
    let nothing = target
        .fail(&["replay", "import", &exports.name("nowhere")])
        .await;
    assert!(nothing.contains("is no export"), "{nothing}");
    let other = target
        .fail(&["replay", "import", &good, "--seal", "00"])
        .await;
    assert!(other.contains("not 00"), "{other}");
    target
        .succeed(&["replay", "import", &good, "--check"])
        .await;
}

#[tokio::test]
async fn an_event_that_is_no_json_is_kept_in_a_data_folder_and_refused_by_a_database() {
    use sqlx::{Connection, PgConnection};
    let server = many_posts().await;
    let log = rusqlite::Connection::open(server.data_dir().join("events.db")).unwrap();
    let broken = log.execute("UPDATE events SET payload = '{\"by' WHERE position = 5", []);
    assert_eq!(broken.unwrap(), 1);
    drop(log);
    let exports = Exports::new();
    let folder = exports.name("broken");
    let says = "the data of event 5 are no JSON";
    let exported = server.fail(&["replay", "export", &folder, "--all"]).await;
    assert!(exported.contains(says), "{exported}");

    let target = fresh(Profile::Embedded).await;
    let import = ["replay", "import", &folder];
    let checked = target.fail(&["replay", "import", &folder, "--check"]).await;
    assert_eq!(checked.matches(says).count(), 1, "{checked}");
    let imported = target.fail(&import).await;
    assert!(imported.contains(says), "{imported}");
    let again = target.succeed(&import).await;
    let there = format!("events: 0, and {} were there", MANY + 1);
    assert!(again.contains(&there), "{again}");
    let copy = exports.name("copy");
    let copied = target.fail(&["replay", "export", &copy, "--all"]).await;
    assert!(copied.contains(says), "{copied}");

    let target = fresh(Profile::Distributed).await;
    let from = format!("sqlite:{}", server.data_dir().display());
    let to = target.setting("DATABASE_URL").to_owned();
    let migrate = ["replay", "migrate", "--from", &from, "--to", &to];
    for bring in [&import[..], &migrate[..]] {
        let refused = target.fail(bring).await;
        assert!(refused.contains(says), "{refused}");
        assert!(refused.contains("into a data folder"), "{refused}");
    }
    let mut connection = PgConnection::connect(&to).await.unwrap();
    let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM events");
    assert_eq!(count.fetch_one(&mut connection).await.unwrap(), 0);
}

#[tokio::test]
async fn a_file_of_media_that_was_changed_is_refused_by_name() {
    let mut server = fresh(Profile::Embedded).await;
    server.restart().await;
    let network = network(&server).await;
    let exports = Exports::new();
    let folder = exports.name("backup");
    server
        .succeed(&["replay", "export", &folder, "--all"])
        .await;
    let picture = exports
        .path("backup")
        .join(network.picture.trim_start_matches('/'));
    let bytes = fs::read(&picture).unwrap();
    let target = fresh(Profile::Embedded).await;
    for (what, harm) in [("changed", 1), ("gone", 0)] {
        match harm {
            0 => fs::remove_file(&picture).unwrap(),
            _ => change(&picture, |bytes| bytes[100] ^= 1),
        }
        let said = target.fail(&["replay", "import", &folder]).await;
        assert!(said.contains(&network.picture), "{what}: {said}");
        assert!(!target.data_dir().exists());
    }
    fs::write(&picture, bytes).unwrap();
    target.succeed(&["replay", "import", &folder]).await;
    // A file that the server lost is told, once, and does not keep the rest from being saved.
    let file = Part::bytes(png(70_000)).file_name("b.png");
    let form = Form::new().text("content", "another").part("files", file);
    let posted = network.ada.post_form("/posts/", form).await;
    let lost = posted.expect_status(201).text("/post/id").to_owned();
    assert!(server.stop().await);
    let shards = fs::read_dir(server.data_dir().join("media")).unwrap();
    for file in shards.flat_map(|shard| fs::read_dir(shard.unwrap().path()).unwrap()) {
        let path = file.unwrap().path();
        if path.to_str().unwrap().contains(&lost) {
            fs::remove_file(path).unwrap();
        }
    }
    let one = exports.name("one");
    let said = server.fail(&["replay", "export", &one, "--all"]).await;
    let told = format!("/media/{lost}/0.png is missing");
    assert_eq!(said.matches(&told).count(), 1, "{said}");
    assert!(!said.contains(&network.picture), "{said}");
    for shard in fs::read_dir(server.data_dir().join("media")).unwrap() {
        let _ = fs::remove_dir_all(shard.unwrap().path());
    }
    let other = exports.name("other");
    let said = server.fail(&["replay", "export", &other, "--all"]).await;
    assert!(
        said.contains(&format!("{} is missing", network.picture)),
        "{said}"
    );
    target
        .succeed(&["replay", "import", &other, "--check"])
        .await;
}

#[tokio::test]
async fn what_does_not_belong_there_is_refused_and_nothing_is_touched() {
    let mut server = fresh(Profile::Embedded).await;
    server.restart().await;
    let exports = Exports::new();
    let (backup, part, foreign) = (
        exports.name("backup"),
        exports.name("part"),
        exports.name("foreign"),
    );
    let me = server.client().sign_up("first").await;
    server.succeed(&["replay", "export", &part, "--all"]).await;
    me.write_post("second", "public").await;
    server
        .succeed(&["replay", "export", &backup, "--all"])
        .await;

    // Positions, folders, options.
    let past = server
        .fail(&["replay", "export", &exports.name("x"), "--to", "99"])
        .await;
    assert!(
        past.contains("there is no position 99: the log ends at 2"),
        "{past}"
    );
    assert!(!exports.path("x").exists());
    server
        .fail(&["replay", "export", &exports.name("x"), "--to", "0"])
        .await;
    let finished = server.fail(&["replay", "export", &backup]).await;
    assert!(finished.contains("choose another folder"), "{finished}");
    fs::create_dir(exports.path("full")).unwrap();
    fs::write(exports.path("full").join("note"), "mine").unwrap();
    let full = server
        .fail(&["replay", "export", &exports.name("full")])
        .await;
    assert!(full.contains("is not empty"), "{full}");
    let nobody = fresh(Profile::Embedded).await;
    let none = nobody.fail(&["replay", "export", &exports.name("x")]).await;
    assert!(none.contains("there is no event log"), "{none}");
    server
        .succeed(&[
            "replay",
            "export",
            &exports.name("to"),
            "--to",
            "1",
            "--all",
        ])
        .await;

    // Logs.
    let running = server.fail(&["replay", "import", &backup]).await;
    assert!(running.contains("stop that one first"), "{running}");
    assert!(server.stop().await);
    let shorter = server.fail(&["replay", "import", &part]).await;
    assert!(
        shorter.contains("the target's log has 2 events, what is copied has 1"),
        "{shorter}"
    );
    let mut other = fresh(Profile::Embedded).await;
    other.restart().await;
    let stranger = other.client().sign_up("stranger").await;
    other.caught_up().await;
    assert!(other.stop().await);
    other
        .succeed(&["replay", "export", &foreign, "--all"])
        .await;
    let refused = other.fail(&["replay", "import", &backup]).await;
    assert!(refused.contains("another event at position 1"), "{refused}");
    other.verify_all().await;
    other.restart().await;
    other
        .client()
        .with_token(&stranger.id, "", &stranger.token)
        .get("/auth/me")
        .await
        .expect_status(200);

    // The beginning of the same log is gone on with.
    let third = fresh(Profile::Embedded).await;
    third.succeed(&["replay", "import", &part]).await;
    let said = third.succeed(&["replay", "import", &backup]).await;
    assert!(said.contains("events: 1, and 1 were there"), "{said}");
}
