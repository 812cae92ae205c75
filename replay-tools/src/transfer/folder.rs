//! The folder that an export is: its files, and the page that says what they are.
//!
//! Every file is written under another name, brought to the disk, and then called by its own; the page is written after
//! each. While the export is under way the page is called [`UNFINISHED`], in the end [`MANIFEST`]: so a folder with a
//! manifest is a whole export, whatever was killed when. Nothing of it is anybody's but the owner's.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    TransferError,
    manifest::{FORMAT, FileEntry, Manifest, VERSION, hex},
};

/// The page of a finished export.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The page of one that is under way, or was interrupted.
pub(crate) const UNFINISHED: &str = "unfinished.json";
/// Held while the folder is written.
const LOCK: &str = ".lock";
/// What files are called until they are whole.
const PARTIAL: &str = ".partial";
/// What the names of files with lines end with.
const ENDING: &str = ".jsonl.zst";
/// Quick, and yet a tenth of the text.
const LEVEL: i32 = 1;

/// A folder that is being written.
#[derive(Debug)]
pub(crate) struct ExportFolder {
    path: PathBuf,
    _lock: File,
}

impl ExportFolder {
    /// Opens the folder, making it if it is not there, and answers the page of an export that was interrupted in it.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<Manifest>), TransferError> {
        let cannot = |error| TransferError::cannot_write(path, error);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(cannot)?;
        let folder = Self {
            path: path.to_owned(),
            _lock: lock(path)?,
        };
        if path.join(MANIFEST).exists() {
            return Err(TransferError::NotEmpty(format!(
                "{} holds a finished export",
                path.display()
            )));
        }
        let unfinished = path.join(UNFINISHED);
        if unfinished.exists() {
            let manifest = read_page(&unfinished)?;
            folder.tidy(&manifest)?;
            return Ok((folder, Some(manifest)));
        }
        let ours = |name: &str| name == LOCK || name.ends_with(PARTIAL);
        for entry in fs::read_dir(path).map_err(cannot)? {
            let name = entry.map_err(cannot)?.file_name();
            if !name.to_str().is_some_and(ours) {
                return Err(TransferError::NotEmpty(format!(
                    "{} is not empty: it has {}",
                    path.display(),
                    name.display()
                )));
            }
        }
        Ok((folder, None))
    }

    /// Makes sure that the files the page names are as it says, and removes those of lines that it does not name.
    fn tidy(&self, manifest: &Manifest) -> Result<(), TransferError> {
        for file in manifest.files() {
            load(&self.path, file)?;
        }
        let cannot = |error| TransferError::cannot_write(&self.path, error);
        for entry in fs::read_dir(&self.path).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let named = manifest.files().any(|file| file.file == name);
            if name.ends_with(PARTIAL) || (name.ends_with(ENDING) && !named) {
                fs::remove_file(entry.path()).map_err(cannot)?;
            }
        }
        Ok(())
    }

    /// Writes the page; the export is finished with the one that has a seal.
    pub(crate) fn save(&self, manifest: &Manifest) -> Result<(), TransferError> {
        let unfinished = self.path.join(UNFINISHED);
        let write = || -> io::Result<()> {
            let partial = self.path.join(format!("{UNFINISHED}{PARTIAL}"));
            let mut file = create(&partial)?;
            serde_json::to_writer_pretty(&mut file, manifest)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&partial, &unfinished)?;
            if !manifest.seal.is_empty() {
                // What a killed one left is in the way of nobody, but says nothing either.
                fs::rename(&unfinished, self.path.join(MANIFEST))?;
                fs::remove_file(self.path.join(LOCK))?;
            }
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|error| TransferError::cannot_write(&unfinished, error))
    }

    /// Begins the `number`-th file of a part.
    pub(crate) fn begin(&self, part: &str, number: usize) -> Result<Segment, TransferError> {
        let name = format!("{part}-{number:06}{ENDING}");
        Segment::create(&self.path, name)
    }

    /// The folder's own path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn lock(path: &Path) -> Result<File, TransferError> {
    let lock = path.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock)
        .map_err(|error| TransferError::cannot_write(&lock, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(TransferError::NotEmpty(format!(
            "another export is writing to {}",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(TransferError::cannot_write(&lock, error)),
    }
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(true).mode(0o600);
    options.open(path)
}

/// Where the compressed bytes go: to the file, counted and hashed.
#[derive(Debug)]
struct Counted {
    file: io::BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file with lines on its way. Dropped before it is finished, it is gone.
pub(crate) struct Segment {
    folder: PathBuf,
    name: String,
    encoder: Option<zstd::Encoder<'static, Counted>>,
    pub(crate) lines: u64,
    pub(crate) text_bytes: u64,
}

impl Segment {
    fn create(folder: &Path, name: String) -> Result<Self, TransferError> {
        let path = folder.join(format!("{name}{PARTIAL}"));
        let open = || {
            let file = Counted {
                file: io::BufWriter::new(create(&path)?),
                hash: Sha256::new(),
                bytes: 0,
            };
            zstd::Encoder::new(file, LEVEL)
        };
        let encoder = open().map_err(|error| TransferError::cannot_write(&path, error))?;
        Ok(Self {
            folder: folder.to_owned(),
            name,
            encoder: Some(encoder),
            lines: 0,
            text_bytes: 0,
        })
    }

    fn partial(&self) -> PathBuf {
        self.folder.join(format!("{}{PARTIAL}", self.name))
    }

    /// Adds lines. Blocks.
    pub(crate) fn append(&mut self, text: &[u8], lines: u64) -> Result<(), TransferError> {
        let path = self.folder.join(&self.name);
        let encoder = self.encoder.as_mut();
        let encoder = encoder.ok_or_else(|| TransferError::Closed(self.name.clone()))?;
        encoder
            .write_all(text)
            .map_err(|error| TransferError::cannot_write(&path, error))?;
        self.lines += lines;
        self.text_bytes += text.len() as u64;
        Ok(())
    }

    /// Brings the file to the disk and gives it its name. Blocks.
    pub(crate) fn finish(mut self) -> Result<FileEntry, TransferError> {
        let encoder = self.encoder.take();
        let encoder = encoder.ok_or_else(|| TransferError::Closed(self.name.clone()))?;
        let path = self.folder.join(&self.name);
        let finish = || -> io::Result<(u64, Sha256)> {
            let counted = encoder.finish()?;
            let file = counted.file.into_inner().map_err(io::Error::from)?;
            file.sync_all()?;
            fs::rename(self.partial(), &path)?;
            File::open(&self.folder)?.sync_all()?;
            Ok((counted.bytes, counted.hash))
        };
        let (bytes, hash) = finish().map_err(|error| TransferError::cannot_write(&path, error))?;
        Ok(FileEntry {
            file: self.name.clone(),
            lines: self.lines,
            text_bytes: self.text_bytes,
            bytes,
            sha256: hex(&hash.finalize()),
            link: String::new(),
        })
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // After `finish` there is no such file.
        let _ = fs::remove_file(self.partial());
    }
}

/// Reads the page of a finished export and makes sure that it was not tampered with.
pub(crate) fn read_manifest(folder: &Path) -> Result<Manifest, TransferError> {
    let path = folder.join(MANIFEST);
    if !path.exists() {
        let path = folder.display();
        return Err(TransferError::NotAnExport(
            match folder.join(UNFINISHED).exists() {
                true => format!(
                    "{path} holds an export that was interrupted: run the export again to finish it"
                ),
                false => format!("{path} is no export: it has no {MANIFEST}"),
            },
        ));
    }
    let manifest = read_page(&path)?;
    let bad = |reason: &str| TransferError::BadFile {
        path: path.clone(),
        reason: reason.to_owned(),
    };
    let right = manifest
        .right_seal()
        .map_err(|error| bad(&error.to_string()))?;
    if let Some(file) = manifest.broken_link() {
        let reason = format!("{} is not what stood there when it was made", file.file);
        return Err(bad(&reason));
    }
    if manifest.seal != right {
        return Err(bad("it is not as it was when it was made"));
    }
    if let Some(part) = manifest.parts.iter().find(|part| !part.complete) {
        return Err(bad(&format!("the part {} is not complete", part.name)));
    }
    Ok(manifest)
}

fn read_page(path: &Path) -> Result<Manifest, TransferError> {
    let bad = |reason: String| TransferError::BadFile {
        path: path.to_owned(),
        reason,
    };
    let text = fs::read(path).map_err(|error| bad(error.to_string()))?;
    let page: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    if page["format"] != FORMAT {
        return Err(bad("it is not the page of an export".to_owned()));
    }
    if page["version"] != VERSION {
        let reason = format!(
            "it has the format version {}, this program reads {VERSION}: use the program that made it, or a newer one",
            page["version"]
        );
        return Err(bad(reason));
    }
    let manifest: Manifest =
        serde_json::from_value(page).map_err(|error| bad(error.to_string()))?;
    let plain = |file: &str| {
        file.strip_suffix(ENDING).is_some_and(|stem| {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
            !stem.is_empty() && stem.chars().all(plain)
        })
    };
    if let Some(file) = manifest.files().find(|file| !plain(&file.file)) {
        return Err(bad(format!("{:?} is no name of a file", file.file)));
    }
    Ok(manifest)
}

/// The bytes of a file, if they are what the page says. Blocks.
fn load(folder: &Path, entry: &FileEntry) -> Result<Vec<u8>, TransferError> {
    let path = folder.join(&entry.file);
    let bad = |reason: String| TransferError::BadFile {
        path: path.clone(),
        reason,
    };
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // One byte more shows that there is more.
        let file = File::open(&path)?;
        file.take(entry.bytes + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(TransferError::Missing { path });
        }
        other => other.map_err(|error| bad(error.to_string()))?,
    };
    if (bytes.len() as u64) < entry.bytes {
        let reason = format!(
            "it was cut short: it has {} bytes of {}",
            bytes.len(),
            entry.bytes
        );
        return Err(bad(reason));
    }
    if hex(&Sha256::digest(&bytes)) != entry.sha256 {
        return Err(bad(
            "its SHA-256 is not the one that the manifest says: it was changed, or is another file"
                .to_owned(),
        ));
    }
    Ok(bytes)
}

/// The text of a file, if it is what the page says. Blocks.
pub(crate) fn read_text(folder: &Path, entry: &FileEntry) -> Result<Vec<u8>, TransferError> {
    let bytes = load(folder, entry)?;
    let bad = |reason: String| TransferError::BadFile {
        path: folder.join(&entry.file),
        reason,
    };
    let read = || -> io::Result<Vec<u8>> {
        let mut text = Vec::with_capacity(usize::try_from(entry.text_bytes).unwrap_or(0));
        let decoder = zstd::Decoder::new(bytes.as_slice())?;
        decoder.take(entry.text_bytes + 1).read_to_end(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| bad(error.to_string()))?;
    let lines = memchr::memchr_iter(b'\n', &text).count() as u64;
    if text.len() as u64 != entry.text_bytes || lines != entry.lines {
        return Err(bad(format!(
            "it does not have the {} lines that the manifest says",
            entry.lines
        )));
    }
    Ok(text)
}
