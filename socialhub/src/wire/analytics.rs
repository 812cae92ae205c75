//! The analytics consumer's files: what it is wired to, and the commands that look at them.

#[cfg(feature = "distributed")]
use std::{sync::Arc, time::Duration};

use std::process::ExitCode;

#[cfg(feature = "distributed")]
use socialhub_domain::Clock;
#[cfg(feature = "distributed")]
use socialhub_infra::{
    analytics::{ParquetRows, open_analytics},
    clock::{RandomIds, SystemClock},
};
#[cfg(feature = "distributed")]
use socialhub_projections::{
    Source,
    analytics::{CommitLog, FileEntry, Limits, Objects, PartitionWriter, Ports, WriteError},
};
#[cfg(feature = "distributed")]
use tokio_util::sync::CancellationToken;

#[cfg(feature = "distributed")]
use super::text;
use crate::{AnalyticsCommand, config::Config};

/// What the consumer and the commands work with.
///
/// # Errors
/// A line for the operator.
#[cfg(feature = "distributed")]
pub fn ports(config: &Config, clock: Arc<dyn Clock>) -> Result<Ports, String> {
    Ok(Ports {
        objects: objects(config)?,
        format: Arc::new(ParquetRows::new().map_err(text)?),
        clock,
        ids: Arc::new(RandomIds),
    })
}

/// Where the files are.
///
/// # Errors
/// A line for the operator.
#[cfg(feature = "distributed")]
pub fn objects(config: &Config) -> Result<Arc<dyn Objects>, String> {
    open_analytics(config.analytics_url.as_deref(), &config.data_dir)
        .map_err(|error| format!("ANALYTICS_URL: {error}"))
}

/// How much the consumer gathers.
#[cfg(feature = "distributed")]
pub fn limits(config: &Config) -> Limits {
    Limits {
        age: Duration::from_secs(config.analytics_flush_seconds),
        ..Limits::default()
    }
}

/// Runs a command on the files.
///
/// # Errors
/// A line for the operator.
#[cfg(not(feature = "distributed"))]
#[expect(clippy::unused_async, reason = "awaits where the adapters are")]
pub async fn run(_: &Config, _: &AnalyticsCommand) -> Result<ExitCode, String> {
    Err(super::left_out())
}

/// Runs a command on the files.
///
/// # Errors
/// A line for the operator.
#[cfg(feature = "distributed")]
pub async fn run(config: &Config, command: &AnalyticsCommand) -> Result<ExitCode, String> {
    let ports = ports(config, Arc::new(SystemClock))?;
    match command {
        AnalyticsCommand::Files { json } => {
            for file in files(&*ports.objects).await? {
                if *json {
                    println!("{}", serde_json::to_string(&file).map_err(text)?);
                } else {
                    println!("{}", ports.objects.address(&file.name));
                }
            }
        }
        AnalyticsCommand::View => print!("{}", view(&*ports.objects).await?),
        AnalyticsCommand::Compact => compact(&ports, limits(config)).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The files that the commits of all partitions add up to.
#[cfg(feature = "distributed")]
async fn files(objects: &dyn Objects) -> Result<Vec<FileEntry>, String> {
    let mut files = Vec::new();
    for source in CommitLog::partitions(objects).await.map_err(text)? {
        let state = CommitLog::new(source).load(objects).await.map_err(text)?;
        files.extend(state.files.into_values());
    }
    Ok(files)
}

/// What DuckDB makes a view of; of no file at all one without rows.
#[cfg(feature = "distributed")]
async fn view(objects: &dyn Objects) -> Result<String, String> {
    const EMPTY: &str = "SET TimeZone = 'UTC';\nCREATE OR REPLACE VIEW events AS SELECT NULL::BIGINT AS position, NULL::UUID AS event_id, \
        NULL::VARCHAR AS event_type, NULL::INTEGER AS version, NULL::VARCHAR AS topic, NULL::INTEGER AS partition, \
        NULL::BIGINT AS \"offset\", NULL::VARCHAR AS key, NULL::TIMESTAMPTZ AS occurred_at, NULL::UUID AS actor_id, \
        NULL::UUID AS target_id, NULL::UUID AS post_id, NULL::UUID AS comment_id, NULL::VARCHAR AS payload, \
        NULL::DATE AS date, NULL::VARCHAR AS type WHERE false;\n";
    let files = files(objects).await?;
    if files.is_empty() {
        return Ok(EMPTY.to_owned());
    }
    let quoted = |file: &FileEntry| {
        let address = objects.address(&file.name).replace('\'', "''");
        format!("  '{address}'")
    };
    let list: Vec<String> = files.iter().map(quoted).collect();
    Ok(format!(
        "SET TimeZone = 'UTC';\nCREATE OR REPLACE VIEW events AS SELECT * FROM read_parquet([\n{}\n], hive_partitioning = true, \
         hive_types = {{'date': DATE, 'type': VARCHAR}}, union_by_name = true);\n",
        list.join(",\n")
    ))
}

#[cfg(feature = "distributed")]
async fn compact(ports: &Ports, limits: Limits) -> Result<(), String> {
    // Whoever asks for it does not wait for the day to be over.
    let limits = Limits {
        merge_from: 2,
        ..limits
    };
    let mut failures = Vec::new();
    let partitions = CommitLog::partitions(&*ports.objects).await;
    for source in partitions.map_err(text)? {
        match compact_partition(ports, limits, &source).await {
            Ok(unmerged) => failures.extend(unmerged),
            Err(error) => failures.push(format!("{source}: {error}")),
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    // Each is a line of its own, below this one.
    let failures = failures.join("\n");
    Err(format!(
        "not everything was merged, see docs/analytics.md on damaged files:\n{failures}"
    ))
}

/// Merges and sweeps one partition. Answers what could not be merged, a line each.
#[cfg(feature = "distributed")]
async fn compact_partition(
    ports: &Ports,
    limits: Limits,
    source: &Source,
) -> Result<Vec<String>, WriteError> {
    let stop = CancellationToken::new();
    let mut writer = PartitionWriter::open(ports.clone(), source.clone(), limits).await?;
    let before = writer.state().files.len();
    while writer.compact(&stop).await? {}
    let swept = writer.sweep(&stop).await?;
    let after = writer.state().files.len();
    println!("{source}: {before} files, now {after}; {swept} deleted");
    let unmerged = writer.take_unmerged();
    Ok(unmerged
        .iter()
        .map(|(folder, error)| format!("{source}: {folder}: {error}"))
        .collect())
}
