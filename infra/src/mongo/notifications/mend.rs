//! Making what differs what it is in another generation.

use std::collections::{HashMap, HashSet};

use mongodb::{
    Collection,
    bson::{Bson, Document, doc},
};
use socialhub_projections::{notifications::PERSON, verify::Entity};

use super::{
    documents::{ERASED, GONE, READ, REMOVED, Told, fact_id},
    tables::Tables,
};
use crate::mongo::{
    access::Access,
    connection::{Fault, id_of},
};

/// The keys of documents that some entities are made of.
#[derive(Default)]
struct Parts {
    facts: HashSet<String>,
    /// Posts and comments.
    gone: HashSet<String>,
    notifications: HashSet<String>,
    /// Those with announcements.
    posts: HashSet<String>,
    people: HashSet<String>,
    wishes: HashSet<(String, String)>,
}

impl Parts {
    fn of(entities: &[Entity]) -> Self {
        let mut parts = Self::default();
        for entity in entities {
            let key = entity.key.clone();
            match entity.table {
                "notification" | "mark" => {
                    let marks = [READ, REMOVED].map(|what| fact_id(what, &key));
                    parts.facts.extend(marks);
                    parts.notifications.insert(key);
                }
                "announcement" => drop(parts.posts.insert(key)),
                "erased" => drop(parts.facts.insert(fact_id(ERASED, &key))),
                "gone" => {
                    parts.facts.insert(fact_id(GONE, &key));
                    parts.gone.insert(key);
                }
                PERSON => drop(parts.people.insert(key)),
                "wish" => parts.wishes.extend(
                    entity
                        .pair()
                        .map(|(author, follower)| (author.to_string(), follower.to_string())),
                ),
                _ => {}
            }
        }
        parts
    }
}

impl Tables {
    /// Makes entities what they are in another generation, which has handled the same events, with the facts that they
    /// are derived from.
    pub(in crate::mongo) async fn mend(
        &self,
        other: &Self,
        entities: &[Entity],
    ) -> Result<(), Fault> {
        let mut parts = Parts::of(entities);
        let access = &self.access;
        let ids = &parts.facts;
        copy(access, &self.facts, &other.facts, "_id", ids, |_| true).await?;
        copy(access, &self.marks, &other.marks, "_id", ids, |_| true).await?;
        copy(access, &self.ahead, &other.ahead, "_id", ids, |_| true).await?;
        let gone = other.gone_among(&parts.gone).await?;
        self.unlist(&(&parts.gone - &gone)).await?;
        self.list_as_gone(gone.into_iter().collect()).await?;

        let (mine, theirs, ids) = (
            &self.notifications,
            &other.notifications,
            &parts.notifications,
        );
        copy(access, mine, theirs, "_id", ids, |_| true).await?;
        // The announcement of a post goes with its author's own notification.
        let told: Vec<Told> = access.find_in(theirs, "_id", ids, &doc! {}).await?;
        let own = told.into_iter().filter(Told::is_of_own_post);
        parts.posts.extend(own.filter_map(|told| told.post));
        let (mine, theirs, ids) = (&self.announcements, &other.announcements, &parts.posts);
        copy(access, mine, theirs, "_id", ids, |_| true).await?;

        let (mine, theirs, people) = (&self.read_up_to, &other.read_up_to, &parts.people);
        copy(access, mine, theirs, "user", people, |_| true).await?;

        let authors = parts.wishes.iter().map(|(author, _)| author.clone());
        let is_wanted = |wish: &Document| {
            let text = |name| wish.get_str(name).unwrap_or_default().to_owned();
            parts.wishes.contains(&(text("author"), text("follower")))
        };
        let (mine, theirs, authors) = (&self.wishes, &other.wishes, authors.collect());
        copy(access, mine, theirs, "author", &authors, is_wanted).await
    }
}

/// Makes the documents in which a field is one of some values, as far as they are wanted, those that another collection
/// has. Untyped: what is to be replaced may be anything.
async fn copy<T: Send + Sync>(
    access: &Access,
    mine: &Collection<T>,
    other: &Collection<T>,
    field: &str,
    values: &HashSet<String>,
    is_wanted: impl Fn(&Document) -> bool,
) -> Result<(), Fault> {
    let (mine, other) = (
        mine.clone_with_type::<Document>(),
        other.clone_with_type::<Document>(),
    );
    let mut right = access.find_in(&other, field, values, &doc! {}).await?;
    let mut found = access.find_in(&mine, field, values, &doc! {}).await?;
    right.retain(&is_wanted);
    found.retain(&is_wanted);

    let mut there: HashMap<String, &Document> = HashMap::new();
    there.extend(found.iter().map(|document| (named(document), document)));
    let (mut missing, mut wrong) = (Vec::new(), Vec::new());
    for document in right {
        match there.remove(&named(&document)) {
            None => missing.push(document),
            Some(same) if *same == document => {}
            Some(_) => wrong.push(document),
        }
    }
    for document in &wrong {
        let id = doc! { "_id": id(document) };
        access.write(mine.replace_one(id, document)).await?;
    }
    let surplus = there.into_values();
    let (text, other): (Vec<_>, Vec<_>) = surplus.partition(|document| id_of(document).is_some());
    let text = text.into_iter().filter_map(id_of).collect();
    access.delete_ids(&mine, &text).await?;
    for document in other {
        access
            .write(mine.delete_one(doc! { "_id": id(document) }))
            .await?;
    }
    access.insert_new(&mine, &missing).await.map(|_| ())
}

fn id(document: &Document) -> Bson {
    document.get("_id").cloned().unwrap_or(Bson::Null)
}

/// An id as a key of a map: a number and a text are never the same.
fn named(document: &Document) -> String {
    id(document).to_string()
}
