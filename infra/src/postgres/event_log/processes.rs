//! What processes say of themselves, in the log's database. All time is the database's.

use async_trait::async_trait;
use socialhub_event_log::{HeardOf, LogError, ProcessReport, ProcessReports};
use sqlx::types::Json;

use super::{PgEventLog, answer};
use crate::postgres::pool::Pool;

/// Who has said nothing for so long is forgotten.
const FORGET_AFTER: &str = "10 minutes";

#[async_trait]
impl ProcessReports for PgEventLog {
    async fn report(&self, report: &ProcessReport) -> Result<(), LogError> {
        let sql = "WITH forgotten AS (
                 DELETE FROM process_report WHERE process <> $1 AND seen < clock_timestamp() - $3::interval
             )
             INSERT INTO process_report (process, report, seen) VALUES ($1, $2, clock_timestamp())
             ON CONFLICT (process) DO UPDATE SET report = excluded.report, seen = excluded.seen";
        let kept = sqlx::query(sql)
            .bind(&report.process)
            .bind(Json(report))
            .bind(FORGET_AFTER)
            .execute(&self.pool);
        answer(kept.await)?;
        Ok(())
    }

    async fn withdraw(&self, process: &str) -> Result<(), LogError> {
        let removed = sqlx::query("DELETE FROM process_report WHERE process = $1")
            .bind(process)
            .execute(&self.pool);
        answer(removed.await)?;
        Ok(())
    }

    async fn all(&self) -> Result<Vec<HeardOf>, LogError> {
        answer(all(&self.pool).await)
    }
}

/// What every process said last, by name.
pub(super) async fn all(pool: &Pool) -> Result<Vec<HeardOf>, sqlx::Error> {
    let sql =
        "SELECT report, extract(epoch FROM clock_timestamp() - seen)::float8 FROM process_report
         ORDER BY process";
    let found: Vec<(Json<ProcessReport>, f64)> = sqlx::query_as(sql).fetch_all(pool).await?;
    let heard_of = |(Json(report), seconds_ago)| HeardOf {
        report,
        seconds_ago,
    };
    Ok(found.into_iter().map(heard_of).collect())
}
