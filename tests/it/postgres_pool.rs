//! Connections to Postgres when nobody is at the other end any more.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::join_all};
use socialhub_infra::{
    clock::SystemClock,
    postgres::{
        connect::Access,
        feed::PgFeed,
        model::PgGenerations,
        pool::{Pool, retrying},
        session::Session,
    },
};
use socialhub_projections::runtime::{Generations, WriteMode};
use socialhub_tests::support::{eventually, postgres::Database, proxy::Proxy};
use sqlx::{Executor, postgres::PgConnectOptions};

/// How long the server lets statements run.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than everything that is limited here, far shorter than TCP tries.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database and a way to it.
struct Place {
    database: Database,
    proxy: Proxy,
}

impl Place {
    async fn new() -> Self {
        let database = Database::create().await;
        let proxy = Proxy::to(database.url(), u64::MAX).await;
        Self { database, proxy }
    }

    fn url(&self) -> String {
        self.proxy.through(self.database.url())
    }

    fn access(&self) -> Access {
        Access::new(&self.url(), "test", STATEMENT_TIMEOUT, STATEMENT_TIMEOUT).unwrap()
    }

    fn pool(&self, connections: usize) -> Pool {
        Pool::new(self.access(), connections)
    }
}

/// Which of the server's processes answers.
async fn backend(pool: &Pool) -> sqlx::Result<i32> {
    sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(pool)
        .await
}

/// What must end by itself.
async fn soon<T>(answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, answer).await.unwrap()
}

fn is_timeout<T>(answer: &sqlx::Result<T>) -> bool {
    matches!(answer, Err(sqlx::Error::Io(error)) if error.kind() == std::io::ErrorKind::TimedOut)
}

/// Connects all.
async fn warm(pool: &Pool, connections: usize) {
    let all = join_all((0..connections).map(|_| pool.acquire())).await;
    assert!(all.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_statement_without_an_answer_ends_and_the_next_one_has_a_new_connection() {
    let place = Place::new().await;
    let pool = place.pool(1);
    let before = backend(&pool).await.unwrap();
    assert_eq!(backend(&pool).await.unwrap(), before, "it is kept");
    place.proxy.fail_over();
    let lost = soon(backend(&pool)).await;
    assert!(is_timeout(&lost), "{lost:?}");
    assert_ne!(soon(backend(&pool)).await.unwrap(), before);
    // Rows of which the first ones come.
    place.proxy.fail_over();
    let rows = soon(pool.fetch_all("SELECT 1")).await;
    assert!(is_timeout(&rows.map(|_| ())));
    assert_eq!(soon(pool.fetch_all("SELECT 1")).await.unwrap().len(), 1);
}

#[tokio::test]
async fn one_who_waited_in_vain_is_enough_to_distrust_all_that_rested() {
    let place = Place::new().await;
    let pool = place.pool(8);
    warm(&pool, 8).await;
    place.proxy.fail_over();
    assert!(is_timeout(&soon(backend(&pool)).await));
    for _ in 0..8 {
        soon(backend(&pool)).await.unwrap();
    }
    let all = soon(join_all((0..8).map(|_| backend(&pool)))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
}

#[tokio::test]
async fn a_read_finds_a_living_connection_after_a_restart() {
    let place = Place::new().await;
    let pool = place.pool(8);
    warm(&pool, 8).await;
    place.proxy.cut();
    retrying(|| backend(&pool)).await.unwrap();
    for _ in 0..8 {
        backend(&pool).await.unwrap();
    }
}

/// With one place only: each of these would keep it.
#[tokio::test]
async fn who_goes_away_leaves_the_place_free() {
    let place = Place::new().await;
    let pool = place.pool(1);
    backend(&pool).await.unwrap();
    // Nobody hears the answer.
    place.proxy.deafen();
    for _ in 0..3 {
        let mut gone = Box::pin(backend(&pool));
        assert!((&mut gone).now_or_never().is_none());
        drop(gone);
    }
    place.proxy.cut();
    soon(backend(&pool)).await.unwrap();
    // Somebody is still at it.
    let before = backend(&pool).await.unwrap();
    let mut gone = Box::pin(pool.execute("SELECT pg_sleep(60)"));
    assert!((&mut gone).now_or_never().is_none());
    drop(gone);
    assert_ne!(soon(backend(&pool)).await.unwrap(), before);
    // In the middle of a transaction.
    let mut transaction = pool.begin().await.unwrap();
    let mut gone = transaction.execute("SELECT pg_sleep(60)");
    assert!((&mut gone).now_or_never().is_none());
    drop(gone);
    drop(transaction);
    soon(backend(&pool)).await.unwrap();
}

#[tokio::test]
async fn what_is_not_committed_is_rolled_back() {
    let place = Place::new().await;
    place.database.execute("CREATE TABLE t (n int)").await;
    let pool = place.pool(1);
    let mut transaction = pool.begin().await.unwrap();
    let insert = "INSERT INTO t VALUES (1)";
    transaction.execute(insert).await.unwrap();
    drop(transaction);
    let count = || async {
        let count = sqlx::query_scalar("SELECT count(*) FROM t");
        count.fetch_one(&pool).await.unwrap()
    };
    let found: i64 = soon(count()).await;
    assert_eq!(found, 0);
    let before = backend(&pool).await.unwrap();
    let mut transaction = pool.begin().await.unwrap();
    transaction.execute(insert).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(soon(count()).await, 0);
    let mut transaction = pool.begin().await.unwrap();
    transaction.execute(insert).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(soon(count()).await, 1);
    assert_eq!(backend(&pool).await.unwrap(), before, "it is kept");
    // What the server refuses costs no connection.
    assert!(pool.execute("SELECT nonsense").await.is_err());
    assert_eq!(backend(&pool).await.unwrap(), before, "it is kept");
    // Nobody knows whether this one is; the place is free.
    let mut transaction = pool.begin().await.unwrap();
    transaction.execute(insert).await.unwrap();
    place.proxy.fail_over();
    assert!(is_timeout(&soon(transaction.commit()).await));
    assert_eq!(soon(count()).await, 1);
}

#[tokio::test]
async fn giving_back_costs_nothing() {
    let place = Place::new().await;
    let mut session = Session::connect(&place.access()).await.unwrap();
    let pool = place.pool(1);
    let ask = "SELECT 1";
    session.execute(ask).await.unwrap();
    pool.execute(ask).await.unwrap();
    let start = place.proxy.carried();
    for _ in 0..20 {
        session.execute(ask).await.unwrap();
    }
    let own = place.proxy.carried() - start;
    for _ in 0..20 {
        pool.execute(ask).await.unwrap();
    }
    assert_eq!(place.proxy.carried() - start, 2 * own);
}

#[tokio::test]
async fn a_statement_that_may_take_its_time_is_given_up_when_nobody_is_at_it() {
    let place = Place::new().await;
    let options: PgConnectOptions = place.url().parse().unwrap();
    // Here the server that vanishes is the one that takes over: it is to end what it was at.
    let options = options.options([("client_connection_check_interval", "100")]);
    let access = Access::watched(options);
    let mut session = Session::connect(&access).await.unwrap();
    let answer = tokio::spawn(async move { session.execute("SELECT pg_sleep(60)").await });
    // Longer than between two looks: somebody is at it.
    let mut other = Session::connect(&access).await.unwrap();
    other.execute("SELECT pg_sleep(6)").await.unwrap();
    assert!(!answer.is_finished());
    place.proxy.fail_over();
    assert!(is_timeout(&soon(answer).await.unwrap()));
}

/// A projector's store and the pointer that readers follow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_goes_on_with_the_server_that_took_over() {
    let place = Place::new().await;
    let generations = PgGenerations::<PgFeed>::open(&place.url(), Arc::new(SystemClock)).unwrap();
    let id = generations.refresh().await.unwrap();
    let store = generations.open(id, WriteMode::Live).await.unwrap();
    store.checkpoints().await.unwrap();
    generations.current_checkpoints().await.unwrap();
    place.proxy.fail_over();
    eventually("the writer goes on", async || {
        store.checkpoints().await.ok().map(|_| ())
    })
    .await;
    eventually("the readers go on", async || {
        generations.current_checkpoints().await.ok().map(|_| ())
    })
    .await;
    assert_eq!(soon(generations.refresh()).await.unwrap(), id);
    assert!(generations.list().await.unwrap()[0].has_writer);
    soon(store.close()).await;
    eventually("its lock is gone", async || {
        let found = generations.list().await.unwrap();
        (!found[0].has_writer).then_some(())
    })
    .await;
}
