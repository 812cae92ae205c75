//! What every store checks of a file on its way in, and how it refuses one.

use socialhub_commands::ports::{StagedFile, UploadError};

use super::{
    kind::{MediaKind, SNIFF_BYTES, sniff},
    name::FileName,
};

/// What is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaLimits {
    /// Bytes of one file.
    pub max_file_bytes: u64,
    /// Files of one post.
    pub max_files: usize,
}

/// Ten files of 10 MiB.
impl Default for MediaLimits {
    fn default() -> Self {
        Self {
            max_file_bytes: 10 * 1024 * 1024,
            max_files: 10,
        }
    }
}

/// The checks on one file.
#[derive(Debug)]
pub(super) struct Intake {
    name: FileName,
    max_bytes: u64,
    size: u64,
    kind: Option<MediaKind>,
    /// After a refusal, or when a write was broken off, there is nothing to finish.
    broken: bool,
}

impl Intake {
    /// Begins with a file, unless the post has as many as it may.
    pub(super) fn begin(name: FileName, limits: MediaLimits) -> Result<Self, UploadError> {
        if name.index >= limits.max_files {
            let message = format!("a post may have at most {} files", limits.max_files);
            return Err(UploadError::TooLarge(message));
        }
        Ok(Self {
            name,
            max_bytes: limits.max_file_bytes,
            size: 0,
            kind: None,
            broken: false,
        })
    }

    pub(super) fn name(&self) -> FileName {
        self.name
    }

    /// Marks the file as broken, or as whole again.
    pub(super) fn set_broken(&mut self, broken: bool) {
        self.broken = broken;
    }

    /// Refuses a file that is broken.
    pub(super) fn unbroken(&self) -> Result<(), UploadError> {
        if self.broken {
            return Err(UploadError::Broken(self.refusal("was broken off")));
        }
        Ok(())
    }

    /// Counts the bytes of a piece.
    pub(super) fn count(&mut self, piece: &[u8]) -> Result<(), UploadError> {
        self.size += piece.len() as u64;
        if self.size > self.max_bytes {
            let what = format!("has more than {} bytes", self.max_bytes);
            return Err(UploadError::TooLarge(self.refusal(&what)));
        }
        Ok(())
    }

    /// Looks at the start of the file. Answers its type as soon as there are enough bytes to decide it.
    pub(super) fn look(&mut self, start: &[u8]) -> Result<Option<MediaKind>, UploadError> {
        if self.kind.is_none() && start.len() >= SNIFF_BYTES {
            self.decide(start)?;
        }
        Ok(self.kind)
    }

    /// The file has come to its end; `start` is needed if it is a short one. Answers its type.
    pub(super) fn complete(&mut self, start: &[u8]) -> Result<MediaKind, UploadError> {
        self.unbroken()?;
        if self.size == 0 {
            return Err(UploadError::Broken(self.refusal("is empty")));
        }
        match self.kind {
            Some(kind) => Ok(kind),
            None => self.decide(start),
        }
    }

    /// The stored file, as it is told to the caller.
    pub(super) fn stored(&self, kind: MediaKind, sha256: [u8; 32]) -> StagedFile {
        let FileName { post, index } = self.name;
        StagedFile {
            url: format!("/media/{post}/{index}.{}", kind.extension),
            content_type: kind.content_type.to_owned(),
            size: self.size,
            sha256,
        }
    }

    fn decide(&mut self, start: &[u8]) -> Result<MediaKind, UploadError> {
        let start = &start[..start.len().min(SNIFF_BYTES)];
        let kind = sniff(start).map_err(|found| {
            let found = found.unwrap_or("of an unknown type");
            let what = format!("is {found}: only images, video and audio are taken");
            UploadError::UnsupportedType(self.refusal(&what))
        })?;
        self.kind = Some(kind);
        Ok(kind)
    }

    /// Whose fault it is, in words for the client; files count from 1.
    fn refusal(&self, what: &str) -> String {
        format!("file {} {what}", self.name.index + 1)
    }
}
