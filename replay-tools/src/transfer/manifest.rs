//! What an export says of itself.
//!
//! Each file has its SHA-256, and a link that ties it to all files before it; the seal covers the whole page. So a file
//! that was changed, left out, put in another's place, or taken from another export does not go unnoticed. Nobody is
//! kept from making a new, consistent export of false words: who fears that notes the seal elsewhere.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use socialhub_event_log::Position;
use uuid::Uuid;

use super::export::MediaChoice;

/// What all exports are called.
pub(crate) const FORMAT: &str = "socialhub-export";
/// The version of the format that this program writes, and the only one it reads.
pub(crate) const VERSION: u32 = 1;

/// The page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Manifest {
    pub format: String,
    pub version: u32,
    /// The program's version.
    pub made_by: String,
    /// RFC 3339.
    pub begun_at: String,
    pub log: LogRange,
    pub parts: Vec<PartEntry>,
    /// What was not as it should be.
    pub remarks: Vec<String>,
    /// How it is being made; none once it is finished, when it can be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choices: Option<Choices>,
    /// Empty until the export is finished.
    pub seal: String,
}

/// What was chosen when an export was begun: it holds to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Choices {
    /// None when there are events alone.
    pub media: Option<MediaChoice>,
    /// In MiB.
    pub file_size: u64,
}

/// Which log, and how far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LogRange {
    pub first_position: Position,
    pub last_position: Position,
    /// No two logs have the same.
    pub first_event_id: Option<Uuid>,
    pub last_event_id: Option<Uuid>,
}

/// A part and its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PartEntry {
    pub name: String,
    pub lines: u64,
    /// Where its lines end.
    pub cursor: String,
    /// Whether there is nothing more to come.
    pub complete: bool,
    pub files: Vec<FileEntry>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FileEntry {
    pub file: String,
    pub lines: u64,
    /// Bytes of its text.
    pub text_bytes: u64,
    /// Bytes of the file.
    pub bytes: u64,
    pub sha256: String,
    pub link: String,
}

impl PartEntry {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            lines: 0,
            cursor: String::new(),
            complete: false,
            files: Vec::new(),
        }
    }
}

impl Manifest {
    /// All files in their order.
    pub(crate) fn files(&self) -> impl Iterator<Item = &FileEntry> {
        self.parts.iter().flat_map(|part| &part.files)
    }

    /// The link of the file after those that are there.
    pub(crate) fn next_link(&self, file: &FileEntry) -> String {
        let before = self.files().last().map_or("", |file| &file.link);
        link(before, file)
    }

    /// The first file whose link is not what it must be.
    pub(crate) fn broken_link(&self) -> Option<&FileEntry> {
        let mut before = "";
        for file in self.files() {
            if file.link != link(before, file) {
                return Some(file);
            }
            before = &file.link;
        }
        None
    }

    /// The seal that the page must have.
    pub(crate) fn right_seal(&self) -> Result<String, serde_json::Error> {
        let mut unsealed = self.clone();
        unsealed.seal = String::new();
        Ok(hex(&Sha256::digest(serde_json::to_vec(&unsealed)?)))
    }
}

fn link(before: &str, file: &FileEntry) -> String {
    let FileEntry {
        file,
        lines,
        text_bytes,
        bytes,
        sha256,
        ..
    } = file;
    let text = format!("{before}\n{file}\n{lines}\n{text_bytes}\n{bytes}\n{sha256}\n");
    hex(&Sha256::digest(text))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> FileEntry {
        FileEntry {
            file: name.to_owned(),
            lines: 1,
            text_bytes: 2,
            bytes: 3,
            sha256: hex(&Sha256::digest(name)),
            link: String::new(),
        }
    }

    fn manifest() -> Manifest {
        let mut manifest = Manifest {
            format: FORMAT.to_owned(),
            version: VERSION,
            made_by: "test".to_owned(),
            begun_at: String::new(),
            log: LogRange {
                first_position: 1,
                last_position: 3,
                first_event_id: None,
                last_event_id: None,
            },
            parts: vec![PartEntry::new("events"), PartEntry::new("media")],
            remarks: Vec::new(),
            choices: None,
            seal: String::new(),
        };
        for (part, name) in [(0, "a"), (0, "b"), (1, "c")] {
            let mut file = file(name);
            file.link = manifest.next_link(&file);
            manifest.parts[part].files.push(file);
        }
        manifest.seal = manifest.right_seal().unwrap();
        manifest
    }

    #[test]
    fn every_change_shows() {
        let good = manifest();
        assert_eq!(good.broken_link(), None);
        let mut swapped = good.clone();
        swapped.parts[0].files.swap(0, 1);
        assert_eq!(swapped.broken_link().unwrap().file, "b");
        let mut dropped = good.clone();
        dropped.parts[0].files.remove(0);
        assert_eq!(dropped.broken_link().unwrap().file, "b");
        let mut shorter = good.clone();
        shorter.parts[1].files.clear();
        assert_eq!(shorter.broken_link(), None);
        assert_ne!(shorter.right_seal().unwrap(), good.seal);
        let mut counted = good.clone();
        counted.parts[0].lines = 7;
        assert_ne!(counted.right_seal().unwrap(), good.seal);
        assert_eq!(good.right_seal().unwrap(), good.seal);
    }
}
