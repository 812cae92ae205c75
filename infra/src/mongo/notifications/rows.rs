//! Every row of the notifications, for verification.

use std::collections::{BTreeMap, HashMap, HashSet};

use mongodb::bson::doc;
use serde_json::{Value, json};
use socialhub_event_log::Position;
use socialhub_projections::{
    notifications::PERSON,
    verify::{ModelRow, RowSink},
};

use super::{
    documents::{Announcement, ERASED, Fact, GONE, READ, REMOVED, ReadUpTo, Told, Wish},
    tables::Tables,
};
use crate::mongo::connection::{Fault, from_stored};

/// What marks of one notification say, and where the last one stands.
#[derive(Debug, Clone, Copy, Default)]
struct Marks {
    read: bool,
    removed: bool,
    /// Whether all of them are.
    noted: bool,
    /// Whether some are not found by what they are about.
    astray: bool,
    position: Position,
}

/// A row's value, which says so when what says the same elsewhere is not there: a note, a place in a list.
fn lacks(what: &str, lacks: bool, mut value: Value) -> Value {
    if lacks {
        value[what] = json!(false);
    }
    value
}

/// Hands over every row. Notifications last and part by part, so that only what says something about them is held.
pub(in crate::mongo) async fn read(tables: &Tables, rows: &mut dyn RowSink) -> Result<(), Fault> {
    let (announcements, wishes, facts, marked, read_up_to, ahead, list) = tokio::try_join!(
        tables.access.find_all(&tables.announcements, doc! {}),
        tables.access.find_all(&tables.wishes, doc! {}),
        tables.access.find_all(&tables.facts, doc! {}),
        tables.access.find_all(&tables.marks, doc! {}),
        tables.access.find_all(&tables.read_up_to, doc! {}),
        tables.access.find_all(&tables.ahead, doc! {}),
        tables.access.find_all(&tables.list, doc! {}),
    )?;
    standing(wishes).for_each(|row| rows.take(row));
    let noted: HashSet<&str> = ahead.iter().map(|note| &*note.id).collect();
    let parts = list.iter().filter(|part| part.number().is_some());
    let mut listed: HashSet<&str> = parts.flat_map(|part| &part.gone).map(|id| &**id).collect();
    let mut marks = BTreeMap::new();
    let (facts, marked) = (facts.iter(), marked.iter());
    let all = facts.map(|fact| (fact, false));
    for (fact, among_marks) in all.chain(marked.map(|mark| (mark, true))) {
        take_fact(fact, among_marks, &noted, &mut listed, &mut marks, rows)?;
    }
    // What nobody has said to be gone.
    for id in listed {
        rows.take(ModelRow {
            table: "gone",
            key: id.to_owned(),
            value: json!({"fact": false}).into(),
            position: 0,
        });
    }
    let announced = announcements
        .iter()
        .map(|announcement| (&*announcement.post, announcement));
    let mut about = About {
        read_up_to: highest(&read_up_to),
        announced: announced.collect(),
        marks,
        unseen: HashSet::new(),
    };
    let each = |part: Vec<Told>| {
        for told in part {
            if let Some(row) = about.row_of(told)? {
                rows.take(row);
            }
        }
        Ok(())
    };
    tables
        .access
        .each_part(&tables.notifications, doc! {}, each)
        .await?;
    about.left_over().for_each(|row| rows.take(row));
    people(&about.read_up_to).for_each(|row| rows.take(row));
    Ok(())
}

/// What is said about notifications elsewhere.
struct About<'a> {
    read_up_to: HashMap<&'a str, Position>,
    /// By post; those are left over that no notification is of.
    announced: HashMap<&'a str, &'a Announcement>,
    /// By notification; the same.
    marks: BTreeMap<&'a str, Marks>,
    /// Notifications that are there, and were never told.
    unseen: HashSet<String>,
}

impl About<'_> {
    /// None if it was never told, and is not shown.
    fn row_of(&mut self, told: Told) -> Result<Option<ModelRow>, Fault> {
        if !told.told && !told.shown {
            if self.marks.contains_key(&*told.id) {
                self.unseen.insert(told.id);
            }
            return Ok(None);
        }
        let up_to = self.read_up_to.get(&*told.user).copied();
        let marks = self.marks.remove(&*told.id).unwrap_or_default();
        let view = told.view(up_to.unwrap_or_default())?;
        let position = told.position();
        let mut value = json!({
            "view": view, "position": position, "gone": told.gone, "removed": told.removed,
        });
        if told.shown != (told.told && !told.removed && !told.gone) {
            value["shown"] = json!(told.shown);
        }
        if (told.read, told.removed) != (marks.read, marks.removed) || marks.astray {
            value["marks"] = json!({"read": marks.read, "removed": marks.removed});
        }
        if told.is_of_own_post() {
            let post = told.post.as_deref().unwrap_or_default();
            let announcement = self.announced.remove(post);
            if !announcement.is_some_and(|announcement| announcement.agrees_with(&told)) {
                value["announcement"] = json!(announcement);
            }
        }
        Ok(Some(ModelRow {
            table: "notification",
            key: told.id,
            value: value.into(),
            position: position.max(marks.position),
        }))
    }

    fn left_over(&self) -> impl Iterator<Item = ModelRow> {
        let announced = self.announced.values().map(|announcement| ModelRow {
            table: "announcement",
            key: announcement.post.clone(),
            value: json!(announcement).into(),
            position: from_stored(announcement.position),
        });
        let marks = self.marks.iter().map(|(id, marks)| {
            let value = json!({"read": marks.read, "removed": marks.removed});
            let value = lacks("found", marks.astray, value);
            // What waits for its notification must be found by it.
            let is_lost = !self.unseen.contains(*id) && !marks.noted;
            ModelRow {
                table: "mark",
                key: (*id).to_owned(),
                value: lacks("noted", is_lost, value).into(),
                position: marks.position,
            }
        });
        announced.chain(marks)
    }
}

fn take_fact<'f>(
    fact: &'f Fact,
    among_marks: bool,
    noted: &HashSet<&str>,
    listed: &mut HashSet<&str>,
    marks: &mut BTreeMap<&'f str, Marks>,
    rows: &mut dyn RowSink,
) -> Result<(), Fault> {
    let position = from_stored(fact.position);
    let (what, about) = fact.id.split_once(':').unwrap_or_default();
    // Whoever looks for it looks in its own place, by what it is about.
    let is_mark = [READ, REMOVED].contains(&what);
    let is_found = fact.about == about && is_mark == among_marks;
    let bare = match what {
        GONE => Some(("gone", "listed", listed.remove(about))),
        ERASED => Some(("erased", "noted", noted.contains(&*fact.id))),
        _ => None,
    };
    if let Some((table, elsewhere, is_there)) = bare {
        let value = lacks(elsewhere, !is_there, json!({}));
        rows.take(ModelRow {
            table,
            key: about.to_owned(),
            value: lacks("found", !is_found, value).into(),
            position,
        });
        return Ok(());
    }
    let mark = marks.entry(about).or_insert(Marks {
        noted: true,
        ..Marks::default()
    });
    mark.astray |= !is_found;
    mark.noted &= noted.contains(&*fact.id);
    match what {
        READ => mark.read = true,
        REMOVED => mark.removed = true,
        _ => return Err(Fault::Rejected(format!("no kind of fact: {}", fact.id))),
    }
    mark.position = mark.position.max(position);
    Ok(())
}

/// Up to where each person read everything.
fn highest(read_up_to: &[ReadUpTo]) -> HashMap<&str, Position> {
    let mut highest: HashMap<&str, Position> = HashMap::new();
    for fact in read_up_to {
        let known = highest.entry(&fact.user).or_default();
        *known = (*known).max(from_stored(fact.up_to));
    }
    highest
}

/// How much is not read is no row: it is counted when it is asked for.
fn people(read_up_to: &HashMap<&str, Position>) -> impl Iterator<Item = ModelRow> {
    read_up_to.iter().map(|(user, up_to)| ModelRow {
        table: PERSON,
        key: (*user).to_owned(),
        value: json!({ "readUpTo": up_to }).into(),
        position: *up_to,
    })
}

/// The wishes that hold at the end, each since it was first said without having been taken back.
fn standing(mut wishes: Vec<Wish>) -> impl Iterator<Item = ModelRow> {
    wishes.sort_by_key(|wish| wish.position);
    let mut since: BTreeMap<(String, String), i64> = BTreeMap::new();
    for wish in wishes {
        let pair = (wish.author, wish.follower);
        if wish.wanted {
            since.entry(pair).or_insert(wish.position);
        } else {
            since.remove(&pair);
        }
    }
    since.into_iter().map(|((author, follower), since)| {
        let since = from_stored(since);
        ModelRow {
            table: "wish",
            key: format!("{author}/{follower}"),
            value: json!({ "since": since }).into(),
            position: since,
        }
    })
}
