//! The page's questions, asked of files that the program made of known events.

use std::{
    collections::BTreeSet,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use socialhub_domain::Timestamp;

use super::{known, world::World};

/// Runs SQL in DuckDB: prints the rows of each statement of a list, as JSON.
const RUN: &str = r"
import datetime, json, sys, uuid
import duckdb
asked = json.load(sys.stdin)
db = duckdb.connect()
db.execute(asked['view'])
def plain(value):
    if isinstance(value, (uuid.UUID, datetime.date, datetime.datetime)):
        return str(value)
    return value
print(json.dumps([[list(map(plain, row)) for row in db.execute(sql).fetchall()] for sql in asked['questions']]))
";

/// The rows of each question.
pub fn ask(view: &str, questions: &[String]) -> Vec<Vec<Value>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let python = root.join("examples/consumers/python/.venv/bin/python");
    let mut child = Command::new(&python)
        .args(["-c", RUN])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}: run ./test.sh", python.display()));
    let asked = json!({"view": view, "questions": questions}).to_string();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(asked.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The questions of the page, each with its answer's SQL.
fn page() -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/analytics.md");
    let page = std::fs::read_to_string(path).unwrap();
    let question = |part: &str| {
        let (title, rest) = part.split_once('\n').unwrap();
        let (_, rest) = rest.split_once("```sql\n").unwrap();
        let (sql, _) = rest.split_once("```").unwrap();
        (title.to_owned(), sql.to_owned())
    };
    page.split("\n### ").skip(1).map(question).collect()
}

/// A view of everything that is there, as the page has it for those without the program.
fn pattern(url: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/analytics.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (_, rest) = page.split_once("    CREATE VIEW events AS\n").unwrap();
    let (select, _) = rest.split_once(";\n").unwrap();
    let select = select.replace("'analytics/", &format!("'{url}/"));
    format!("SET TimeZone = 'UTC'; CREATE VIEW events AS {select};")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_ten_questions_have_the_answers_that_the_events_have() {
    let world = World::new().await;
    let events = known::events();
    let _relay = world.start(&["relay"]);
    let mut consumer = world.start(&["analytics"]);
    // In some goes, so that days have more than one file of a type.
    for some in events.chunks(events.len() / 12) {
        world
            .append(some.iter().map(known::Known::event).collect())
            .await;
        world.assert_exact().await;
    }
    consumer.stop();
    let wanted = known::answers(&events);
    let questions = page();
    assert_eq!(questions.len(), 10);
    let sql: Vec<String> = questions.iter().map(|(_, sql)| sql.clone()).collect();
    let compare = |view: &str| {
        let answers = ask(view, &sql);
        for (((title, _), answer), wanted) in questions.iter().zip(&answers).zip(&wanted) {
            assert!(!wanted.is_empty(), "{title}");
            assert_eq!(answer, wanted, "{title}");
        }
    };
    let view = || String::from_utf8(world.run(&["analytics", "view"]).stdout).unwrap();
    compare(&view());
    compare(&pattern(world.url()));
    // Merged, they say the same, also to somebody who looks at everything that lies there.
    world.run(&["analytics", "compact"]);
    let listed = String::from_utf8(world.run(&["analytics", "files"]).stdout).unwrap();
    let kinds: BTreeSet<&str> = listed.lines().map(kind).collect();
    assert_eq!(listed.lines().count(), kinds.len(), "one of each is left");
    let there = world.files().len();
    assert!(
        there > kinds.len(),
        "{there}: the old ones stay for a while"
    );
    compare(&view());
    compare(&pattern(world.url()));
    nothing_personal(&world);
}

/// What a file is of: its date, type and partition.
fn kind(file: &str) -> &str {
    file.rsplit_once('-').unwrap().0
}

/// Looks into every file, unpacked.
fn nothing_personal(world: &World) {
    let everything = "SELECT to_json(e)::VARCHAR FROM events e".to_owned();
    let kept = "SELECT count(*) FROM events WHERE payload IS NOT NULL".to_owned();
    let found = ask(&pattern(world.url()), &[everything, kept]);
    let text = serde_json::to_string(&found[0]).unwrap();
    assert_eq!(found[0].len(), known::events().len());
    assert_eq!(found[1][0][0], found[0].len());
    assert!(text.contains("visibility"));
    assert!(
        !text.contains(known::SECRET),
        "a personal field is in a file"
    );
    for file in world.files() {
        let bytes = std::fs::read(&file).unwrap();
        let secret = known::SECRET.as_bytes();
        assert!(!bytes.windows(secret.len()).any(|part| part == secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn before_there_is_anything_the_questions_have_no_answers() {
    let world = World::new().await;
    let view = String::from_utf8(world.run(&["analytics", "view"]).stdout).unwrap();
    let sql: Vec<String> = page().into_iter().map(|(_, sql)| sql).collect();
    let answers = ask(&view, &sql);
    assert_eq!(answers[0], Vec::<Value>::new());
    assert_eq!(answers[7], [json!([0, 0, 0, 0])]);
    // The same columns as with rows in it.
    let columns = "SELECT column_name, column_type FROM (DESCRIBE events) ORDER BY 1".to_owned();
    let without = ask(&view, std::slice::from_ref(&columns));
    world.append(vec![known::events()[0].event()]).await;
    let _relay = world.start(&["relay"]);
    let _consumer = world.start(&["analytics"]);
    world.assert_exact().await;
    let view = String::from_utf8(world.run(&["analytics", "view"]).stdout).unwrap();
    assert_eq!(ask(&view, &[columns]), without);
    let first = world.rows().await;
    let at = Timestamp(known::events()[0].at.timestamp_millis());
    assert_eq!(first[0].occurred_at, Some(at));
}
