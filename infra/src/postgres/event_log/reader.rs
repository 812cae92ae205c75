//! Loading streams: the read of every command, so it is gathered like the appends.
//!
//! A few tasks, each with a connection of its own, take all loads that wait and answer them with one query. A pool would
//! need a connection for each load under way.

use std::sync::Arc;

use socialhub_domain::StreamId;
use socialhub_event_log::{LogError, RecordedEvent};
use sqlx::{Row, postgres::PgRow};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::rows::{decode, event_columns};
use crate::postgres::{
    connect::{Access, is_refusal},
    session::Session,
};

/// Loads that may wait.
const QUEUE: usize = 8_192;

/// How many streams one query reads, unless one load alone asks for more.
const MAX_STREAMS: usize = 256;

type Streams = Vec<Vec<RecordedEvent>>;

#[derive(Debug)]
struct Load {
    streams: Vec<StreamId>,
    reply: oneshot::Sender<Result<Streams, LogError>>,
}

/// Loads streams. Ends its tasks when it is dropped.
#[derive(Debug)]
pub(super) struct StreamReader {
    loads: mpsc::Sender<Load>,
}

impl StreamReader {
    /// Starts so many tasks; they connect when there is something to load.
    pub(super) fn start(access: &Access, tasks: usize) -> Self {
        let (loads, queue) = mpsc::channel(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..tasks {
            tokio::spawn(run(access.clone(), Arc::clone(&queue)));
        }
        Self { loads }
    }

    /// Several streams as they were at one moment, in the order asked.
    pub(super) async fn read(&self, streams: Vec<StreamId>) -> Result<Streams, LogError> {
        if streams.is_empty() {
            return Ok(Vec::new());
        }
        let unavailable = |why: &str| LogError::Unavailable(why.to_owned());
        let (reply, answer) = oneshot::channel();
        self.loads
            .try_send(Load { streams, reply })
            .map_err(|_| unavailable("too many loads are waiting"))?;
        answer
            .await
            .unwrap_or_else(|_| Err(unavailable("it is closed")))
    }
}

async fn run(access: Access, queue: Arc<Mutex<mpsc::Receiver<Load>>>) {
    let mut session = None;
    while let Some(loads) = gather(&queue).await {
        let streams: Vec<&StreamId> = loads.iter().flat_map(|load| &load.streams).collect();
        match read(&access, &mut session, &streams).await {
            Ok(rows) => answer(loads, &rows),
            Err(error) => {
                for load in loads {
                    // The caller may have gone away.
                    let _ = load
                        .reply
                        .send(Err(LogError::Unavailable(error.to_string())));
                }
            }
        }
    }
}

/// Waits for a load and takes all that wait behind it. None when there will be no more.
async fn gather(queue: &Mutex<mpsc::Receiver<Load>>) -> Option<Vec<Load>> {
    let mut queue = queue.lock().await;
    let mut loads = vec![queue.recv().await?];
    let mut streams = loads[0].streams.len();
    while streams < MAX_STREAMS
        && let Ok(load) = queue.try_recv()
    {
        streams += load.streams.len();
        loads.push(load);
    }
    Some(loads)
}

/// Reads, on a new connection if the old one turns out to be dead.
async fn read(
    access: &Access,
    session: &mut Option<Session>,
    streams: &[&StreamId],
) -> Result<Vec<PgRow>, sqlx::Error> {
    if let Some(mut old) = session.take() {
        match query(&mut old, streams).await {
            Err(error) if !is_refusal(&error) => {
                tracing::debug!(%error, "a connection to the event log was lost");
            }
            answer => {
                *session = Some(old);
                return answer;
            }
        }
    }
    let mut new = Session::connect(access).await?;
    let answer = query(&mut new, streams).await?;
    *session = Some(new);
    Ok(answer)
}

async fn query(session: &mut Session, streams: &[&StreamId]) -> Result<Vec<PgRow>, sqlx::Error> {
    let sql = concat!(
        "SELECT ",
        event_columns!(),
        ", s.nth FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS s (aggregate_type, aggregate_id, nth)
         JOIN events AS e ON e.aggregate_type = s.aggregate_type AND e.aggregate_id = s.aggregate_id
         ORDER BY s.nth, e.sequence"
    );
    let types: Vec<&str> = streams.iter().map(|s| &*s.aggregate_type).collect();
    let ids: Vec<&str> = streams.iter().map(|s| &*s.aggregate_id).collect();
    sqlx::query(sql)
        .bind(types)
        .bind(ids)
        .fetch_all(session)
        .await
}

/// Gives each load its part of the rows.
fn answer(loads: Vec<Load>, rows: &[PgRow]) {
    let mut rows = rows.iter().peekable();
    let mut nth = 0;
    for load in loads {
        let mut events: Result<Streams, LogError> = Ok(Vec::with_capacity(load.streams.len()));
        for _ in &load.streams {
            nth += 1;
            let mut stream = Vec::new();
            // Every row is taken by its own load, also when another row of it cannot be read.
            while let Some(row) = rows.next_if(|row| nth_of(row) == Some(nth)) {
                match decode(row) {
                    Ok(event) => stream.push(event),
                    Err(error) => events = Err(error),
                }
            }
            if let Ok(events) = &mut events {
                events.push(stream);
            }
        }
        let _ = load.reply.send(events);
    }
}

/// Which of the streams asked for a row belongs to, from 1.
fn nth_of(row: &PgRow) -> Option<i64> {
    row.try_get(10).ok()
}
