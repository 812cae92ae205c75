//! What the machine can do at most, measured beside the rows it is compared with.

use std::{
    io, net,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use axum::{Router, http::header::CONTENT_TYPE, routing::get};
use rusqlite::Connection;
use serde::Serialize;

use crate::{
    client::{BenchError, Target},
    load::{Rotation, Shape, closed_loop},
};

/// How long each limit is measured.
const TIME: Duration = Duration::from_secs(3);

/// Bytes of a page of twenty posts, about.
const PAGE: usize = 9 * 1024;

/// The limits of this machine; one that was not needed is not measured.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Limits {
    /// bcrypt hashes of cost 10 a second, on all cores together.
    pub bcrypt_hashes: Option<f64>,
    /// Durable commits of one row a second: SQLite, WAL, `synchronous=FULL`, one connection.
    pub single_commits: Option<f64>,
    /// Rows a second in durable commits of 100.
    pub batched_rows: Option<f64>,
    /// Answers a second of a bare axum route with a few bytes, same client, same connections.
    pub bare_route: Option<f64>,
    /// The same with as many bytes as a page of twenty posts.
    pub bare_page: Option<f64>,
    /// First pages of a person's documents a second that the MongoDB server finds by an index; same number of clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub indexed_finds: Option<f64>,
}

/// Hashes on every core for a while.
///
/// # Errors
/// When bcrypt fails.
pub fn bcrypt_hashes() -> Result<f64, BenchError> {
    let threads = thread::available_parallelism().map_or(1, Into::into);
    let failed = |error: bcrypt::BcryptError| BenchError::Usage(error.to_string());
    let hash = bcrypt::hash("Correct-Horse-7", 10).map_err(failed)?;
    let rates: Vec<Result<f64, BenchError>> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let (begin, mut count) = (Instant::now(), 0_u32);
                    while begin.elapsed() < TIME {
                        bcrypt::verify("Correct-Horse-7", &hash).map_err(failed)?;
                        count += 1;
                    }
                    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
                })
            })
            .collect();
        running.into_iter().filter_map(|t| t.join().ok()).collect()
    });
    rates.into_iter().sum()
}

/// Durable commits a second of `batch` rows each, as rows a second.
///
/// # Errors
/// When the folder cannot be written.
pub fn durable_rows(folder: &Path, batch: usize) -> Result<f64, BenchError> {
    let folder = tempfile::tempdir_in(folder)?;
    let path = folder.path().join("limit.db");
    measure_rows(&path, batch).map_err(|error| BenchError::Usage(error.to_string()))
}

fn measure_rows(path: &Path, batch: usize) -> rusqlite::Result<f64> {
    let mut connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(
        "CREATE TABLE event (position INTEGER PRIMARY KEY, stream TEXT, payload TEXT)",
    )?;
    let payload = "x".repeat(300);
    let (begin, mut rows) = (Instant::now(), 0_usize);
    while begin.elapsed() < TIME {
        let transaction = connection.transaction()?;
        for _ in 0..batch {
            let sql = "INSERT INTO event (stream, payload) VALUES (?1, ?2)";
            let mut insert = transaction.prepare_cached(sql)?;
            insert.execute(("post/018f0000-0000-7000-8000-000000000000", &payload))?;
        }
        transaction.commit()?;
        rows += batch;
    }
    Ok(rows as f64 / begin.elapsed().as_secs_f64())
}

/// Answers a second of routes that do nothing, small and as large as a page.
///
/// # Errors
/// When the server cannot be started.
pub async fn bare_routes(connections: usize) -> Result<(f64, f64), BenchError> {
    let listener = net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let target = Target::parse(&format!("http://{}", listener.local_addr()?))?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = thread::spawn(move || serve_bare(listener, stopped));
    let small = rate(&target, "/small", connections).await?;
    let page = rate(&target, "/page", connections).await?;
    // Dropping the sender ends the server.
    drop(stop);
    server
        .join()
        .map_err(|_| io::Error::other("the bare server panicked"))??;
    Ok((small, page))
}

async fn rate(target: &Target, path: &str, connections: usize) -> Result<f64, BenchError> {
    let shape = Shape {
        connections,
        warm_up: Duration::from_millis(500),
        measured: TIME,
    };
    let request = target.get(path, "a-token-that-nobody-looks-at");
    let mut scripts = Rotation::spread(vec![request], connections);
    let sample = closed_loop(target, shape, &mut scripts).await?;
    Ok(sample.summary().rate)
}

fn serve_bare(
    listener: net::TcpListener,
    stopped: tokio::sync::oneshot::Receiver<()>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let answer = |body: String| {
        move || std::future::ready(([(CONTENT_TYPE, "application/json")], body.clone()))
    };
    let routes = Router::new()
        .route("/small", get(answer(r#"{"valid":true}"#.to_owned())))
        .route("/page", get(answer("x".repeat(PAGE))));
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tokio::select! {
            served = axum::serve(listener, routes) => served,
            _ = stopped => Ok(()),
        }
    })
}
