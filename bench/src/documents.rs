//! A MongoDB server by itself: what it does at most with documents like the notifications.

use std::time::{Duration, Instant};

use futures::{TryStreamExt, future::try_join_all};
use mongodb::{
    Client, Collection, Database, IndexModel,
    bson::{Document, doc},
    error::Error,
    options::ClientOptions,
};
use socialhub_domain::IdGenerator;
use socialhub_infra::clock::RandomIds;

/// How long pages are read.
const TIME: Duration = Duration::from_secs(3);
/// Connections, as many as a service keeps.
const CONNECTIONS: u32 = 24;
/// People whose documents there are.
const PEOPLE: usize = 4;

/// The database of an address, or the one that the program takes when there is none.
pub(crate) async fn database(url: &str) -> Result<Database, Error> {
    let mut options = ClientOptions::parse(url).await?;
    options.max_pool_size = Some(CONNECTIONS);
    let name = options.default_database.clone();
    let name = name.unwrap_or_else(|| "socialhub".to_owned());
    Ok(Client::with_options(options)?.database(&name))
}

/// A collection that nobody else uses.
pub(crate) fn scratch(database: &Database) -> Collection<Document> {
    database.collection(&format!("bench_{}", RandomIds.next_id().simple()))
}

/// How many first pages of `page` documents out of a person's `each` the server finds a second by an index, sorted, for
/// `clients` who ask at the same time.
///
/// # Errors
/// When the server does not answer.
pub async fn indexed_finds(
    url: &str,
    each: usize,
    page: usize,
    clients: usize,
) -> Result<f64, Error> {
    let collection = scratch(&database(url).await?);
    let by_user = IndexModel::builder().keys(doc! { "user": 1, "position": -1 });
    collection.create_index(by_user.build()).await?;
    for person in 0..PEOPLE {
        let documents = (0..each).map(|number| document(person, number));
        let documents: Vec<Document> = documents.collect();
        for some in documents.chunks(1_000) {
            collection.insert_many(some).ordered(false).await?;
        }
    }
    let begin = Instant::now();
    let asking = (0..clients).map(|client| {
        let collection = collection.clone();
        async move {
            let mut found = 0_u64;
            while begin.elapsed() < TIME {
                let page = collection
                    .find(doc! { "user": user(client % PEOPLE) })
                    .sort(doc! { "position": -1 })
                    .limit(page as i64);
                page.await?.try_collect::<Vec<_>>().await?;
                found += 1;
            }
            Ok::<u64, Error>(found)
        }
    });
    let found: u64 = try_join_all(asking).await?.into_iter().sum();
    let rate = found as f64 / begin.elapsed().as_secs_f64();
    collection.drop().await?;
    Ok(rate)
}

fn user(number: usize) -> String {
    format!("018f0000-0000-7000-8000-{number:012}")
}

/// About as large as a notification.
fn document(person: usize, number: usize) -> Document {
    let (number, person) = (number as i64, user(person));
    doc! {
        "_id": RandomIds.next_id().to_string(),
        "user": person.clone(),
        "position": number,
        "type": "COMMENT",
        "message": format!("bench-{number} commented on your post"),
        "actor": person.clone(),
        "post": person.clone(),
        "comment": person,
        "at": number,
        "read": false,
        "shown": true,
    }
}
