//! Which files are taken: decided by their first bytes, never by their name or by what the client says they are.

/// How many bytes decide; a shorter file is decided by all it has.
pub(super) const SNIFF_BYTES: usize = 4096;

/// A kind of file that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaKind {
    /// The media type it is served as.
    pub content_type: &'static str,
    /// The ending of its address, without the dot.
    pub extension: &'static str,
}

/// As `infer` names it, as we serve it, and the ending. What is active content in a browser (SVG, HTML, PDF) is not
/// here and never may be.
const TAKEN: &[(&str, &str, &str)] = &[
    ("image/png", "image/png", "png"),
    ("image/jpeg", "image/jpeg", "jpg"),
    ("image/gif", "image/gif", "gif"),
    ("image/webp", "image/webp", "webp"),
    ("image/avif", "image/avif", "avif"),
    ("video/mp4", "video/mp4", "mp4"),
    ("video/x-m4v", "video/mp4", "mp4"),
    ("video/webm", "video/webm", "webm"),
    ("video/quicktime", "video/quicktime", "mov"),
    ("audio/mpeg", "audio/mpeg", "mp3"),
    ("audio/ogg", "audio/ogg", "ogg"),
    ("audio/opus", "audio/ogg", "ogg"),
    ("audio/x-wav", "audio/wav", "wav"),
    ("audio/m4a", "audio/mp4", "m4a"),
    ("audio/x-flac", "audio/flac", "flac"),
    ("audio/aac", "audio/aac", "aac"),
];

/// The kind of a file by its first bytes.
///
/// # Errors
/// The media type of a file that is not taken; none when it is not known either.
pub fn sniff(start: &[u8]) -> Result<MediaKind, Option<&'static str>> {
    let found = infer::get(start).map(|kind| kind.mime_type());
    let taken = TAKEN.iter().find(|(theirs, ..)| found == Some(*theirs));
    taken
        .map(|&(_, content_type, extension)| MediaKind {
            content_type,
            extension,
        })
        .ok_or(found)
}

/// The kind of what is served as this media type.
#[cfg(feature = "distributed")]
pub(super) fn served_as(content_type: &str) -> Option<MediaKind> {
    let taken = TAKEN.iter().find(|(_, served, _)| *served == content_type);
    taken.map(|&(_, content_type, extension)| MediaKind {
        content_type,
        extension,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webm() -> Vec<u8> {
        let mut start = b"\x1a\x45\xdf\xa3\x42\x82\x84webm".to_vec();
        start.resize(300, 0);
        start
    }

    #[test]
    fn images_video_and_audio_are_taken() {
        let webm = webm();
        let cases: &[(&[u8], &str)] = &[
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image/png"),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", "image/jpeg"),
            (b"GIF89a\x01\0\x01\0", "image/gif"),
            (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
            (b"\0\0\0\x18ftypavif\0\0\0\0avifmif1", "image/avif"),
            (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "video/mp4"),
            (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "video/quicktime"),
            (&webm, "video/webm"),
            (b"ID3\x03\0\0\0\0\0\0", "audio/mpeg"),
            (b"\xff\xfb\x90\0", "audio/mpeg"),
            (b"OggS\0\x02\0\0\0\0", "audio/ogg"),
            (b"RIFF\0\0\0\0WAVEfmt ", "audio/wav"),
            (b"fLaC\0\0\0\x22", "audio/flac"),
            (b"\xff\xf1\x50\x80", "audio/aac"),
            (b"\0\0\0\x1cftypM4A \0\0\0\0M4A ", "audio/mp4"),
        ];
        for (start, content_type) in cases {
            let kind = sniff(start).unwrap_or_else(|other| panic!("{content_type}: {other:?}"));
            assert_eq!(kind.content_type, *content_type);
        }
    }

    #[test]
    fn what_could_run_is_not_taken() {
        let cases: &[&[u8]] = &[
            b"",
            b"plain text",
            b"<svg xmlns=\"http://www.w3.org/2000/svg\"><script/></svg>",
            b"<?xml version=\"1.0\"?><svg/>",
            b"<!DOCTYPE html><html></html>",
            b"%PDF-1.7",
            b"MZ\x90\0\x03\0\0\0",
            b"\x7fELF\x02\x01\x01\0",
            b"#!/bin/sh\necho",
            b"PK\x03\x04",
        ];
        for start in cases {
            assert!(sniff(start).is_err(), "{start:?}");
        }
    }
}
