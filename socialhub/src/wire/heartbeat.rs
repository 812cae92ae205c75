//! This process's word that it lives, and what is wrong with it: what `/readyz` says, where `replay status` looks.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use socialhub_api::Readiness;
use socialhub_domain::{Clock, Timestamp};
use socialhub_event_log::{PartReport, ProcessReport, ProcessReports};
use socialhub_projections::{runtime::LeftOutTally, status::is_starting};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::Roles;

/// How often it is given; `replay status` takes a process for dead after a few of these.
const EVERY: Duration = Duration::from_secs(2);
/// How long taking it back may hold up the end.
const WITHDRAW_WITHIN: Duration = Duration::from_secs(1);

/// Gives the word of a process that has played its roles since a moment, until `stop`; then takes it back.
pub async fn beat(
    reports: Arc<dyn ProcessReports>,
    readiness: Arc<dyn Readiness>,
    left_out: Vec<Arc<LeftOutTally>>,
    roles: Roles,
    began: Timestamp,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let mut report = ProcessReport {
        process: format!("{}:{}", host(), std::process::id()),
        roles: roles.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: began,
        parts: Vec::new(),
        left_out: Vec::new(),
    };
    let mut parts = BTreeMap::new();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        look(&*readiness, &*clock, &mut parts).await;
        parts.values().for_each(publish);
        // Told once more, as over: who has not come to their work yet has not failed at it.
        parts.retain(|_, part| part.now || !is_starting(&part.error));
        report.parts = parts.values().cloned().collect();
        report.left_out = left_out.iter().flat_map(|tally| tally.sums()).collect();
        // Whoever keeps them is most likely what is wrong, and the log has said that.
        if let Err(error) = reports.report(&report).await {
            tracing::debug!(%error, "this process's report was not kept");
        }
    }
    // Who is not taken back in time looks killed, for a while.
    let _ = timeout(WITHDRAW_WITHIN, reports.withdraw(&report.process)).await;
}

/// Brings what is known of each part up to date.
async fn look(
    readiness: &dyn Readiness,
    clock: &dyn Clock,
    parts: &mut BTreeMap<String, PartReport>,
) {
    for part in parts.values_mut() {
        part.now = false;
    }
    let at = clock.now();
    for failing in readiness.not_ready().await {
        let report = PartReport {
            name: failing.name.clone(),
            error: failing.reason,
            at,
            now: true,
        };
        parts.insert(failing.name, report);
    }
}

/// What `replay status` says of a part that has ever failed, as gauges.
fn publish(part: &PartReport) {
    let name = part.name.clone();
    metrics::gauge!("socialhub_part_last_error_timestamp_seconds", "part" => name.clone())
        .set(part.at.0 as f64 / 1000.0);
    metrics::gauge!("socialhub_part_failing", "part" => name).set(if part.now { 1.0 } else { 0.0 });
}

/// This machine's name, or a container's.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "host".to_owned(),
        name => name.to_owned(),
    }
}
