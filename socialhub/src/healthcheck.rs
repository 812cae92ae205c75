//! `socialhub healthcheck URL`: asks a process whether it is ready; for containers, whose image has no other client.

use std::{process::ExitCode, time::Duration};

/// How long the process may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks; success when the answer is a good one.
///
/// # Errors
/// When nobody answers.
pub async fn run(url: &str) -> Result<ExitCode, String> {
    let refused = |error: reqwest::Error| format!("{url}: {}", error.without_url());
    let client = reqwest::Client::builder()
        .timeout(PATIENCE)
        .build()
        .map_err(refused)?;
    let answer = client.get(url).send().await.map_err(refused)?;
    if answer.status().is_success() {
        return Ok(ExitCode::SUCCESS);
    }
    let status = answer.status();
    let body = answer.text().await.unwrap_or_default();
    Err(format!("{url}: {status} {body}"))
}
