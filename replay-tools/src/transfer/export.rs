//! `replay export`.

use std::{
    fmt,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::json;
use socialhub_domain::Timestamp;
use socialhub_event_log::{LogArchive, Position};
use tokio_util::sync::CancellationToken;

use super::{
    TransferError,
    folder::{ExportFolder, Segment},
    manifest::{Choices, FORMAT, LogRange, Manifest, PartEntry, VERSION},
    meter::Meter,
    pages::pages,
    part::Part,
    require_whole,
};
use crate::{Verdict, show};

/// MiB of text in one file, unless another size is chosen.
const FILE_SIZE: u64 = 32;

/// Whether uploaded files are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MediaChoice {
    /// The files themselves.
    Copy,
    /// Their names only.
    Name,
}

impl fmt::Display for MediaChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Copy => "copy",
            Self::Name => "name",
        })
    }
}

/// Options of `export`.
#[derive(Debug, Args)]
pub struct ExportOptions {
    /// Folder to export to; made if it is not there. An interrupted export in it is gone on with
    folder: PathBuf,
    /// Not only events: credentials, chat and media, too
    #[arg(long)]
    pub all: bool,
    /// Export up to this position [default: the log's end]
    #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<Position>,
    /// Whether uploaded files are copied, or only named [default: copied from a folder, named from a remote store]
    #[arg(long, value_enum, requires = "all")]
    pub media: Option<MediaChoice>,
    /// Text that goes into one file, in MiB [default: 32, or what an interrupted export was begun with]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1024))]
    file_size: Option<u64>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

impl ExportOptions {
    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Exports a log and what lies beside it. `parts` makes the parts of a log that ends at a position; `media` says how they
/// have the files, none when there are events alone.
///
/// # Errors
/// [`TransferError`].
pub async fn export(
    options: &ExportOptions,
    log: &dyn LogArchive,
    parts: impl FnOnce(Position) -> Vec<Arc<dyn Part>>,
    media: Option<MediaChoice>,
    now: Timestamp,
    out: &mut (dyn Write + Send),
    stop: CancellationToken,
) -> Result<Verdict, TransferError> {
    let started = Instant::now();
    require_whole(log).await?;
    let head = log.head().await?;
    if let Some(wanted) = options.to.filter(|wanted| *wanted > head) {
        return Err(TransferError::BeyondTheEnd { wanted, head });
    }
    let (folder, unfinished) = ExportFolder::open(&options.folder)?;
    let resumed = unfinished.is_some();
    let last = match &unfinished {
        Some(manifest) => manifest.log.last_position,
        None => options.to.unwrap_or(head),
    };
    let parts = parts(last);
    let range = range(log, last).await?;
    let (manifest, choices) = match unfinished {
        Some(manifest) => {
            same_export(&manifest, options, &range, &parts)?;
            let choices = same_choices(&manifest, options, media)?;
            (manifest, choices)
        }
        None => {
            let file_size = options.file_size.unwrap_or(FILE_SIZE);
            let choices = Choices { media, file_size };
            (begin(&folder, range, &parts, choices, now)?, choices)
        }
    };
    let mut copying = Copying {
        folder,
        manifest,
        limit: choices.file_size << 20,
        stop,
        lines: 0,
    };
    for (nth, part) in parts.iter().enumerate() {
        copying.copy(nth, part).await?;
    }
    copying.manifest.choices = None;
    copying.manifest.seal = copying.manifest.right_seal()?;
    copying.folder.save(&copying.manifest)?;
    let seconds = started.elapsed().as_secs_f64();
    report(&copying, options, resumed, seconds, out)
}

async fn range(log: &dyn LogArchive, last: Position) -> Result<LogRange, TransferError> {
    let mut ids = Vec::new();
    for position in [1.min(last), last] {
        let row = match position.checked_sub(1) {
            None => None,
            Some(before) => log.read_rows(before, 1).await?.pop(),
        };
        ids.push(row.filter(|row| row.position == position));
    }
    let id = |row: &Option<socialhub_event_log::EventRow>| row.as_ref().map(|row| row.event_id);
    Ok(LogRange {
        first_position: 1.min(last),
        last_position: last,
        first_event_id: id(&ids[0]),
        last_event_id: id(&ids[1]),
    })
}

fn begin(
    folder: &ExportFolder,
    log: LogRange,
    parts: &[Arc<dyn Part>],
    choices: Choices,
    now: Timestamp,
) -> Result<Manifest, TransferError> {
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        version: VERSION,
        made_by: format!("socialhub {}", env!("CARGO_PKG_VERSION")),
        begun_at: show::time(now),
        log,
        parts: parts
            .iter()
            .map(|part| PartEntry::new(part.name()))
            .collect(),
        remarks: Vec::new(),
        choices: Some(choices),
        seal: String::new(),
    };
    folder.save(&manifest)?;
    Ok(manifest)
}

/// What was begun is gone on with as it was begun.
fn same_export(
    begun: &Manifest,
    options: &ExportOptions,
    range: &LogRange,
    parts: &[Arc<dyn Part>],
) -> Result<(), TransferError> {
    let folder = options.folder.display();
    let last = begun.log.last_position;
    if begun.log != *range {
        let reason = format!("{folder} holds an interrupted export of another log");
        return Err(TransferError::OtherExport(reason));
    }
    if options.to.is_some_and(|to| to != last) {
        let reason = format!("{folder} holds an interrupted export up to position {last}");
        return Err(TransferError::OtherExport(reason));
    }
    let before: Vec<&str> = begun.parts.iter().map(|part| part.name.as_str()).collect();
    let now: Vec<&str> = parts.iter().map(|part| part.name()).collect();
    if before != now {
        if before.len() == now.len() && now.iter().all(|part| before.contains(part)) {
            let reason = format!(
                "{folder} holds an interrupted export that another version of this program began"
            );
            return Err(TransferError::OtherExport(reason));
        }
        let how = if begun.parts.len() > 1 {
            "with"
        } else {
            "without"
        };
        let reason = format!("{folder} holds an interrupted export that was begun {how} --all");
        return Err(TransferError::OtherExport(reason));
    }
    Ok(())
}

/// What was chosen when it was begun, if nothing else is chosen now.
fn same_choices(
    begun: &Manifest,
    options: &ExportOptions,
    media: Option<MediaChoice>,
) -> Result<Choices, TransferError> {
    let Some(choices) = begun.choices else {
        // Begun by a program that did not note it.
        let file_size = options.file_size.unwrap_or(FILE_SIZE);
        return Ok(Choices { media, file_size });
    };
    let begun_with = |begun: &dyn fmt::Display, now: &dyn fmt::Display| {
        let folder = options.folder.display();
        Err(TransferError::OtherExport(format!(
            "{folder} holds an interrupted export that was begun with {begun}, and this is one with {now}"
        )))
    };
    if let (Some(begun), Some(now)) = (choices.media, media)
        && begun != now
    {
        return begun_with(
            &format_args!("--media {begun}"),
            &format_args!("--media {now}"),
        );
    }
    if let Some(now) = options.file_size.filter(|now| *now != choices.file_size) {
        let begun = choices.file_size;
        return begun_with(
            &format_args!("--file-size {begun}"),
            &format_args!("--file-size {now}"),
        );
    }
    Ok(choices)
}

/// An export under way.
struct Copying {
    folder: ExportFolder,
    manifest: Manifest,
    /// Bytes of text after which a file is finished.
    limit: u64,
    stop: CancellationToken,
    /// Lines that this process has written.
    lines: u64,
}

impl Copying {
    /// Copies what is missing of a part.
    async fn copy(&mut self, nth: usize, part: &Arc<dyn Part>) -> Result<(), TransferError> {
        if self.manifest.parts[nth].complete {
            return Ok(());
        }
        let (mut cursor, begun) = {
            let entry = &self.manifest.parts[nth];
            (entry.cursor.clone(), entry.lines)
        };
        let total = part.progress(&cursor).await.map(|(_, total)| total);
        let mut meter = Meter::begin(part.name().to_owned(), begun, total);
        let mut pages = pages(Arc::clone(part), cursor.clone());
        let (mut segment, mut remarks) = (None, Vec::new());
        loop {
            let page = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(TransferError::Interrupted),
                page = pages.recv() => page,
            };
            let Some(page) = page else { break };
            let page = page.map_err(|error| TransferError::of_part(&**part, error))?;
            remarks.extend(page.remarks);
            if page.lines == 0 {
                continue;
            }
            cursor = page.cursor;
            meter.add(page.lines);
            let mut file = match segment.take() {
                Some(file) => file,
                None => self.begin_file(nth)?,
            };
            file = blocking(move || {
                file.append(&page.text, page.lines)?;
                Ok(file)
            })
            .await?;
            if file.text_bytes < self.limit {
                segment = Some(file);
            } else {
                self.end_file(nth, file, &cursor, &mut remarks).await?;
            }
        }
        if let Some(file) = segment {
            self.end_file(nth, file, &cursor, &mut remarks).await?;
        }
        self.manifest.remarks.append(&mut remarks);
        self.manifest.parts[nth].complete = true;
        self.folder.save(&self.manifest)
    }

    fn begin_file(&self, nth: usize) -> Result<Segment, TransferError> {
        let entry = &self.manifest.parts[nth];
        self.folder.begin(&entry.name, entry.files.len() + 1)
    }

    /// From here on a killed export need not read these lines again.
    async fn end_file(
        &mut self,
        nth: usize,
        file: Segment,
        cursor: &str,
        remarks: &mut Vec<String>,
    ) -> Result<(), TransferError> {
        let mut file = blocking(move || file.finish()).await?;
        file.link = self.manifest.next_link(&file);
        self.lines += file.lines;
        let entry = &mut self.manifest.parts[nth];
        entry.lines += file.lines;
        cursor.clone_into(&mut entry.cursor);
        entry.files.push(file);
        self.manifest.remarks.append(remarks);
        self.folder.save(&self.manifest)
    }
}

/// Compresses and writes off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TransferError> + Send + 'static,
) -> Result<T, TransferError> {
    tokio::task::spawn_blocking(work).await?
}

fn report(
    copying: &Copying,
    options: &ExportOptions,
    resumed: bool,
    seconds: f64,
    out: &mut (dyn Write + Send),
) -> Result<Verdict, TransferError> {
    let manifest = &copying.manifest;
    let bytes = |part: &PartEntry| part.files.iter().map(|file| file.bytes).sum::<u64>();
    let rate = copying.lines as f64 / seconds.max(0.001);
    if options.json {
        let parts: Vec<_> = manifest
            .parts
            .iter()
            .map(|part| {
                json!({
                    "part": part.name, "lines": part.lines, "files": part.files.len(), "bytes": bytes(part),
                })
            })
            .collect();
        let line = json!({
            "folder": copying.folder.path(), "position": manifest.log.last_position, "parts": parts,
            "remarks": manifest.remarks, "seal": manifest.seal, "resumed": resumed, "seconds": seconds,
            "linesPerSecond": rate,
        });
        writeln!(out, "{line}")?;
    } else {
        for part in &manifest.parts {
            let (files, size) = (part.files.len(), show::size(bytes(part)));
            writeln!(
                out,
                "{}: {} in {files} files, {size}",
                part.name, part.lines
            )?;
        }
        for remark in &manifest.remarks {
            writeln!(out, "{remark}")?;
        }
        writeln!(
            out,
            "Exported the log up to position {} to {} in {seconds:.1} s, {rate:.0} lines/s.\nIts seal is {}; note it \
             elsewhere, and `replay import --seal` takes no other export for this one.",
            manifest.log.last_position,
            copying.folder.path().display(),
            manifest.seal,
        )?;
        if !options.all {
            let without =
                "It holds events alone: without credentials nobody can log in (see --all).";
            writeln!(out, "{without}")?;
        }
    }
    Ok(match manifest.remarks.is_empty() {
        true => Verdict::Clean,
        false => Verdict::Wrong,
    })
}
