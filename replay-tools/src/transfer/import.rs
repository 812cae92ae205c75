//! `replay import`.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use clap::Args;
use serde_json::json;
use socialhub_event_log::{LogArchive, UnfinishedCopy};
use tokio_util::sync::CancellationToken;

use super::{
    TransferError,
    copying::Copying,
    folder::{read_manifest, read_text},
    keys::KEYS,
    log::CREDENTIALS,
    manifest::{FileEntry, Manifest, PartEntry},
    meter::Meter,
    pages::pieces,
    part::{Lines, Needs, Part, PartError, Written},
    quoted,
};
use crate::Verdict;

/// Lines that are checked or written at a time.
const LINES: usize = 500;

/// Options of `import`.
#[derive(Debug, Args)]
pub struct ImportOptions {
    /// The folder of the export
    folder: PathBuf,
    /// Only make sure that the export is whole and sound; write nothing
    #[arg(long)]
    check: bool,
    /// Take the keys of people from this export of the same log: a newer one, so that who was erased since stays erased
    #[arg(long, value_name = "FOLDER")]
    keys: Option<PathBuf>,
    /// Take only the export with this seal
    #[arg(long)]
    seal: Option<String>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

impl ImportOptions {
    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether nothing is to be written.
    pub fn checks_only(&self) -> bool {
        self.check
    }

    /// Whether the outcome is for a machine.
    pub fn json(&self) -> bool {
        self.json
    }
}

/// Where an export is brought to.
pub struct Target {
    /// The log.
    pub log: Arc<dyn LogArchive>,
    /// The log's own parts and all others.
    pub parts: Vec<Arc<dyn Part>>,
}

/// Checks an export and imports it. `lines` check what they are named by; `open` opens the target, once the export was
/// found to be good.
///
/// # Errors
/// [`TransferError`].
pub async fn import<F>(
    options: &ImportOptions,
    lines: &[Arc<dyn Lines>],
    open: impl FnOnce() -> F,
    out: &mut (dyn Write + Send),
    stop: CancellationToken,
) -> Result<Verdict, TransferError>
where
    F: Future<Output = Result<Target, String>>,
{
    let started = Instant::now();
    let mut manifest = read_manifest(&options.folder)?;
    if let Some(wanted) = options.seal.as_ref().filter(|seal| **seal != manifest.seal) {
        return Err(TransferError::OtherSeal {
            found: manifest.seal,
            wanted: wanted.clone(),
        });
    }
    let keys = match &options.keys {
        Some(elsewhere) => Some(take_keys(&mut manifest, elsewhere)?),
        None => None,
    };
    let import = Import {
        folder: options.folder.clone(),
        keys,
        manifest,
        stop,
    };
    import.check(lines).await?;
    let written = if options.check {
        None
    } else {
        import.require_all(lines)?;
        let target = open().await.map_err(TransferError::Target)?;
        Some(import.write(&target).await?)
    };
    let seconds = started.elapsed().as_secs_f64();
    let found: Vec<String> = lines.iter().flat_map(|lines| lines.remarks()).collect();
    let remarks = written.as_ref().map_or(&found, |written| &written.remarks);
    let (manifest, written) = (&import.manifest, written.as_ref());
    report(options, manifest, written, remarks, seconds, out)
}

/// Puts the keys of another export in the place of this one's.
fn take_keys(manifest: &mut Manifest, folder: &Path) -> Result<OtherKeys, TransferError> {
    let other = read_manifest(folder)?;
    let refuse = |reason: &str| {
        Err(TransferError::NotAnExport(format!(
            "--keys: {} {reason}",
            folder.display()
        )))
    };
    if other.log.first_event_id != manifest.log.first_event_id {
        return refuse("is an export of another log");
    }
    let Some(keys) = other.parts.into_iter().find(|part| part.name == KEYS) else {
        return refuse("has no keys: it was made without --all");
    };
    match manifest.parts.iter_mut().find(|part| part.name == KEYS) {
        Some(part) => *part = keys,
        None => manifest.parts.push(keys),
    }
    Ok(OtherKeys {
        folder: folder.to_owned(),
        seal: other.seal,
    })
}

/// The export that the keys are taken from.
struct OtherKeys {
    folder: PathBuf,
    seal: String,
}

struct Import {
    folder: PathBuf,
    /// Where the keys are, if elsewhere.
    keys: Option<OtherKeys>,
    manifest: Manifest,
    stop: CancellationToken,
}

/// What was done.
struct Outcome {
    /// New lines of each part.
    new: Vec<u64>,
    remarks: Vec<String>,
}

impl Import {
    /// Everything, before anything is written.
    async fn check(&self, lines: &[Arc<dyn Lines>]) -> Result<(), TransferError> {
        for entry in &self.manifest.parts {
            let known = lines.iter().find(|lines| lines.name() == entry.name);
            let known = known.ok_or_else(|| TransferError::UnknownPart(entry.name.clone()))?;
            let mut meter = Meter::begin(format!("{}, checked", entry.name), 0, Some(entry.lines));
            let (mut cursor, mut count) = (String::new(), 0);
            for file in &entry.files {
                let text = self.text(entry, file).await?;
                for (nth, piece) in pieces(&text, LINES).enumerate() {
                    let checked = known.check(&cursor, piece).await;
                    cursor = checked.map_err(|error| {
                        self.bad(entry, file, format!("after line {}: {error}", nth * LINES))
                    })?;
                }
                count += file.lines;
                meter.add(file.lines);
            }
            if count != entry.lines || cursor != entry.cursor {
                let reason = format!(
                    "the part {} does not end where the manifest says",
                    entry.name
                );
                return Err(TransferError::NotAnExport(reason));
            }
        }
        let events = self.manifest.parts.first().map(|part| part.lines);
        if events != Some(self.manifest.log.last_position) {
            let reason = "the manifest's positions are not those of its events".to_owned();
            return Err(TransferError::NotAnExport(reason));
        }
        self.require_matching(lines)
    }

    fn has_part(&self, name: &str) -> bool {
        self.manifest.parts.iter().any(|entry| entry.name == name)
    }

    /// Where a part comes with another that it needs, each person that it is about is in both.
    fn require_matching(&self, lines: &[Arc<dyn Lines>]) -> Result<(), TransferError> {
        for Needs { part, people } in lines.iter().filter_map(|lines| lines.needs()) {
            let Some(needed) = lines.iter().find(|lines| lines.name() == part) else {
                continue;
            };
            let missing = people.iter().filter(|(person, _)| !needed.has(**person));
            let first = missing.min_by_key(|(_, position)| **position);
            if let Some((person, position)) = first.filter(|_| self.has_part(part)) {
                return Err(TransferError::Lacks {
                    part,
                    person: *person,
                    position: *position,
                });
            }
        }
        Ok(())
    }

    /// A part of no use by itself comes with what it needs.
    fn require_all(&self, lines: &[Arc<dyn Lines>]) -> Result<(), TransferError> {
        let mut needed = lines.iter().filter_map(|lines| lines.needs());
        match needed.find(|needs| !self.has_part(needs.part)) {
            None => Ok(()),
            Some(Needs { part, .. }) => Err(TransferError::Needs { part }),
        }
    }

    async fn write(&self, target: &Target) -> Result<Outcome, TransferError> {
        let Target { log, parts } = target;
        let mut chosen = Vec::new();
        for entry in &self.manifest.parts {
            let part = parts.iter().find(|part| part.name() == entry.name);
            let part = part.ok_or_else(|| TransferError::UnknownPart(entry.name.clone()))?;
            let ready = part.ready_for(&entry.cursor).await;
            ready.map_err(|error| TransferError::of_part(&**part, error))?;
            chosen.push((entry, part));
        }
        let last = self.manifest.log.last_position;
        let mut copying = Copying::begin(&**log, self.copy(), last).await?;
        let outcome = self.bring(&chosen, &mut copying).await;
        copying.end(outcome).await
    }

    async fn bring(
        &self,
        chosen: &[(&PartEntry, &Arc<dyn Part>)],
        copying: &mut Copying<'_>,
    ) -> Result<Outcome, TransferError> {
        for (entry, part) in chosen {
            self.compare_part(entry, &***part, copying).await?;
        }
        let mut outcome = Outcome {
            new: Vec::new(),
            remarks: Vec::new(),
        };
        for (entry, part) in chosen {
            let written = self.write_part(entry, &***part, copying).await?;
            outcome.new.push(written.new);
            outcome.remarks.extend(written.remarks);
        }
        Ok(outcome)
    }

    /// By this the target knows the import that it is half of. With other keys it is another one: who was erased is kept
    /// away by the mark in the newer keys, and would come back with older ones.
    fn copy(&self) -> UnfinishedCopy {
        let place = |folder: &PathBuf| {
            let whole = folder.canonicalize();
            quoted(&whole.as_ref().unwrap_or(folder).to_string_lossy())
        };
        let mut command = format!("socialhub replay import {}", place(&self.folder));
        let mut id = self.manifest.seal.clone();
        if let Some(keys) = &self.keys {
            command.push_str(&format!(" --keys {}", place(&keys.folder)));
            id.push_str(&format!(" with the keys of {}", keys.seal));
        }
        UnfinishedCopy { id, command }
    }

    async fn compare_part(
        &self,
        entry: &PartEntry,
        part: &dyn Part,
        copying: &Copying<'_>,
    ) -> Result<(), TransferError> {
        for file in &entry.files {
            let text = self.text(entry, file).await?;
            for piece in pieces(&text, LINES) {
                let compared = copying.compare(part, piece).await;
                if !compared.map_err(|error| self.fault(entry, part, file, error))? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn write_part(
        &self,
        entry: &PartEntry,
        part: &dyn Part,
        copying: &mut Copying<'_>,
    ) -> Result<Written, TransferError> {
        let mut meter = Meter::begin(part.name().to_owned(), 0, Some(entry.lines));
        let mut all = Written::default();
        for file in &entry.files {
            let text = self.text(entry, file).await?;
            for piece in pieces(&text, LINES) {
                if self.stop.is_cancelled() {
                    return Err(TransferError::Interrupted);
                }
                let written = copying.write(part, piece).await;
                let written = written.map_err(|error| self.fault(entry, part, file, error))?;
                all.new += written.new;
                all.remarks.extend(written.remarks);
                meter.add(piece.iter().filter(|byte| **byte == b'\n').count() as u64);
            }
        }
        Ok(all)
    }

    /// Where the files of a part are.
    fn folder_of(&self, part: &PartEntry) -> &Path {
        let elsewhere = self.keys.as_ref().filter(|_| part.name == KEYS);
        elsewhere.map_or(&self.folder, |keys| &keys.folder)
    }

    async fn text(&self, part: &PartEntry, file: &FileEntry) -> Result<Vec<u8>, TransferError> {
        if self.stop.is_cancelled() {
            return Err(TransferError::Interrupted);
        }
        let (folder, file) = (self.folder_of(part).to_owned(), file.clone());
        let read = tokio::task::spawn_blocking(move || read_text(&folder, &file));
        match read.await? {
            Err(TransferError::Missing { path }) if part.name == KEYS => {
                Err(TransferError::MissingKeys { path })
            }
            read => read,
        }
    }

    fn fault(
        &self,
        entry: &PartEntry,
        part: &dyn Part,
        file: &FileEntry,
        error: PartError,
    ) -> TransferError {
        match error {
            PartError::Bad(reason) => self.bad(entry, file, reason),
            other => TransferError::of_part(part, other),
        }
    }

    fn bad(&self, part: &PartEntry, file: &FileEntry, reason: String) -> TransferError {
        TransferError::BadFile {
            path: self.folder_of(part).join(&file.file),
            reason,
        }
    }
}

fn report(
    options: &ImportOptions,
    manifest: &Manifest,
    written: Option<&Outcome>,
    remarks: &[String],
    seconds: f64,
    out: &mut (dyn Write + Send),
) -> Result<Verdict, TransferError> {
    let new = |nth: usize| written.map(|written| written.new[nth]);
    let lines: u64 = manifest.parts.iter().map(|part| part.lines).sum();
    let rate = lines as f64 / seconds.max(0.001);
    if options.json {
        let parts = manifest.parts.iter().enumerate();
        let parts: Vec<_> = parts
            .map(|(nth, part)| json!({ "part": part.name, "lines": part.lines, "new": new(nth) }))
            .collect();
        let line = json!({
            "position": manifest.log.last_position, "parts": parts, "written": written.is_some(),
            "exportRemarks": manifest.remarks, "remarks": remarks, "seal": manifest.seal, "seconds": seconds,
            "linesPerSecond": rate,
        });
        writeln!(out, "{line}")?;
    } else {
        for (nth, part) in manifest.parts.iter().enumerate() {
            match new(nth) {
                None => writeln!(out, "{}: {} are good", part.name, part.lines)?,
                Some(new) if new == part.lines => writeln!(out, "{}: {new}", part.name)?,
                Some(new) => {
                    let there = part.lines - new;
                    writeln!(out, "{}: {new}, and {there} were there", part.name)?;
                }
            }
        }
        let fresh = remarks
            .iter()
            .filter(|remark| !manifest.remarks.contains(remark));
        for remark in manifest.remarks.iter().chain(fresh) {
            writeln!(out, "{remark}")?;
        }
        let did = match written {
            None => "The export is whole and sound",
            Some(_) => "Imported and compared",
        };
        let last = manifest.log.last_position;
        writeln!(
            out,
            "{did}: up to position {last}, in {seconds:.1} s, {rate:.0} lines/s."
        )?;
        if !manifest.parts.iter().any(|part| part.name == CREDENTIALS) {
            writeln!(out, "It has no credentials: nobody of it can log in.")?;
        }
    }
    Ok(match remarks.is_empty() {
        true => Verdict::Clean,
        false => Verdict::Wrong,
    })
}
