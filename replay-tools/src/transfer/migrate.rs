//! `replay migrate`.

use std::{io::Write, sync::Arc, time::Instant};

use clap::Args;
use serde_json::json;
use socialhub_event_log::{LogArchive, UnfinishedCopy};
use tokio_util::sync::CancellationToken;

use super::{
    TransferError, copying::Copying, meter::Meter, pages::pages, part::Part, quoted, require_whole,
    without_secrets,
};
use crate::Verdict;

/// Options of `migrate`.
#[derive(Debug, Args)]
pub struct MigrateOptions {
    /// The data folder of the embedded profile, as `sqlite:FOLDER`; its server must be stopped
    #[arg(long, value_name = "URL")]
    pub from: String,
    /// The event log's new database, `postgres://…` [default: DATABASE_URL]
    #[arg(long, value_name = "URL")]
    pub to: Option<String>,
    /// Where uploaded files are now [default: the folder `media` in the data folder]; MEDIA_URL says where they go
    #[arg(long, value_name = "URL")]
    pub media_from: Option<String>,
    /// Print the outcome as JSON
    #[arg(long)]
    pub json: bool,
}

/// A part in the store it comes from, and in the one it goes to.
pub struct Both {
    /// Where it comes from.
    pub source: Arc<dyn Part>,
    /// Where it goes to.
    pub target: Arc<dyn Part>,
    /// The cursor it ends with, if that is known.
    pub last: String,
}

/// The logs that the parts belong to.
pub struct Logs {
    /// The one that everything comes from.
    pub source: Arc<dyn LogArchive>,
    /// The one that everything goes to.
    pub target: Arc<dyn LogArchive>,
}

/// Copies every part from its source to its target.
///
/// # Errors
/// [`TransferError`].
pub async fn migrate(
    options: &MigrateOptions,
    logs: &Logs,
    parts: &[Both],
    out: &mut (dyn Write + Send),
    stop: CancellationToken,
) -> Result<Verdict, TransferError> {
    let started = Instant::now();
    require_whole(&*logs.source).await?;
    for Both { target, last, .. } in parts {
        let ready = target.ready_for(last).await;
        ready.map_err(|error| TransferError::of_part(&**target, error))?;
    }
    let last = logs.source.head().await?;
    let mut copying = Copying::begin(&*logs.target, copy_of(options), last).await?;
    let copied = copy_all(parts, &mut copying, &stop).await;
    let copied = copying.end(copied).await?;
    let seconds = started.elapsed().as_secs_f64();
    let mut remarks = copied.iter().flat_map(|(_, copied)| &copied.remarks);
    if options.json {
        let parts: Vec<_> = copied
            .iter()
            .map(|(part, copied)| json!({ "part": part, "lines": copied.lines, "new": copied.new }))
            .collect();
        let remarks: Vec<_> = remarks.clone().collect();
        let line = json!({ "parts": parts, "remarks": remarks, "seconds": seconds });
        writeln!(out, "{line}")?;
    } else {
        for (part, Copied { lines, new, .. }) in &copied {
            match lines - new {
                0 => writeln!(out, "{part}: {new}")?,
                there => writeln!(out, "{part}: {new}, and {there} were there")?,
            }
        }
        for remark in remarks.clone() {
            writeln!(out, "{remark}")?;
        }
        writeln!(out, "Copied and compared in {seconds:.1} s.")?;
    }
    Ok(match remarks.next() {
        None => Verdict::Clean,
        Some(_) => Verdict::Wrong,
    })
}

/// By this the target knows the migration that it is half of. Addresses may hold passwords, which do not belong there.
fn copy_of(options: &MigrateOptions) -> UnfinishedCopy {
    let mut command = format!("socialhub replay migrate --from {}", quoted(&options.from));
    for (name, url) in [("to", &options.to), ("media-from", &options.media_from)] {
        if let Some(url) = url {
            command.push_str(&format!(" --{name} {}", quoted(&without_secrets(url))));
        }
    }
    UnfinishedCopy {
        id: "migrate".to_owned(),
        command,
    }
}

#[derive(Default)]
struct Copied {
    lines: u64,
    new: u64,
    remarks: Vec<String>,
}

/// Each part's name and what became of it.
async fn copy_all(
    parts: &[Both],
    copying: &mut Copying<'_>,
    stop: &CancellationToken,
) -> Result<Vec<(&'static str, Copied)>, TransferError> {
    for both in parts {
        compare(both, copying, stop).await?;
    }
    let mut copied = Vec::new();
    for both in parts {
        copied.push((both.target.name(), copy(both, copying, stop).await?));
    }
    Ok(copied)
}

async fn compare(
    both: &Both,
    copying: &Copying<'_>,
    stop: &CancellationToken,
) -> Result<(), TransferError> {
    let Both { source, target, .. } = both;
    let mut pages = pages(Arc::clone(source), String::new());
    while let Some(page) = pages.recv().await {
        if stop.is_cancelled() {
            return Err(TransferError::Interrupted);
        }
        let page = page.map_err(|error| TransferError::of_part(&**source, error))?;
        let compared = copying.compare(&**target, &page.text).await;
        if !compared.map_err(|error| TransferError::of_part(&**target, error))? {
            return Ok(());
        }
    }
    Ok(())
}

async fn copy(
    both: &Both,
    copying: &mut Copying<'_>,
    stop: &CancellationToken,
) -> Result<Copied, TransferError> {
    let Both { source, target, .. } = both;
    let total = source.progress("").await.map(|(_, total)| total);
    let mut meter = Meter::begin(source.name().to_owned(), 0, total);
    let mut pages = pages(Arc::clone(source), String::new());
    let mut copied = Copied::default();
    while let Some(page) = pages.recv().await {
        if stop.is_cancelled() {
            return Err(TransferError::Interrupted);
        }
        let page = page.map_err(|error| TransferError::of_part(&**source, error))?;
        let written = copying.write(&**target, &page.text).await;
        let written = written.map_err(|error| TransferError::of_part(&**target, error))?;
        meter.add(page.lines);
        copied.lines += page.lines;
        copied.new += written.new;
        copied.remarks.extend(page.remarks);
        copied.remarks.extend(written.remarks);
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_names_the_whole_command_and_no_password() {
        let options = MigrateOptions {
            from: "sqlite:/data".to_owned(),
            to: Some("postgres://me:secret@host/db".to_owned()),
            media_from: Some("/my files".to_owned()),
            json: false,
        };
        assert_eq!(
            copy_of(&options).command,
            "socialhub replay migrate --from sqlite:/data --to 'postgres://me:…@host/db' --media-from '/my files'"
        );
    }
}
