//! Randomness for secrets, and secrets kept in files.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use hmac::{Hmac, Mac};
use rand::Rng;
use sha2::Sha256;
use socialhub_commands::ports::Secrets;

/// A kept secret must have at least as many characters: 128 bits in hexadecimal.
const MIN_LENGTH: usize = 32;

/// Secrets from the operating system's randomness (through a CSPRNG seeded and reseeded from it).
#[derive(Debug, Clone, Copy, Default)]
pub struct OsSecrets;

impl Secrets for OsSecrets {
    fn otp(&self) -> String {
        format!("{:06}", rand::rng().random_range(0..1_000_000_u32))
    }
}

/// A key for one purpose, made from a secret that has another: HMAC-SHA256 of the purpose under the secret, so that
/// neither tells the other.
pub fn derive_key(secret: &[u8], purpose: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(purpose);
    mac.finalize().into_bytes().into()
}

/// Why a secret could not be had from its file.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read or written.
    #[error("cannot keep a secret in {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is there, but what it holds is too short to be a secret.
    #[error("{path} holds fewer than {MIN_LENGTH} characters: remove it, or put a secret there")]
    TooShort {
        /// The file.
        path: PathBuf,
    },
}

/// The secret kept in a file; made there, 32 random bytes in hexadecimal, if there is none. Only the owner may read
/// the file. Of two processes that make it at the same time, both get the same.
///
/// # Errors
/// [`SecretError`].
pub fn load_or_create_secret(path: &Path) -> Result<String, SecretError> {
    let in_file = |source| SecretError::Io {
        path: path.to_owned(),
        source,
    };
    match fs::read_to_string(path) {
        Ok(text) => return accept(path, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(in_file(error)),
    }
    create(path).map_err(in_file)?;
    let text = fs::read_to_string(path).map_err(in_file)?;
    accept(path, &text)
}

fn accept(path: &Path, text: &str) -> Result<String, SecretError> {
    let secret = text.trim();
    if secret.len() < MIN_LENGTH {
        return Err(SecretError::TooShort {
            path: path.to_owned(),
        });
    }
    Ok(secret.to_owned())
}

/// Makes the file whole or not at all, and leaves one that somebody else made meanwhile.
fn create(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Readable by the owner alone from the start.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(file, "{}", random_hex())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => fs::File::open(folder)?.sync_all(),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error),
    }
}

fn random_hex() -> String {
    let bytes: [u8; 32] = rand::rng().random();
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, thread};

    use super::*;

    #[test]
    fn codes_have_six_digits_and_differ() {
        let codes: HashSet<String> = (0..1000).map(|_| OsSecrets.otp()).collect();
        assert!(codes.iter().all(|code| code.len() == 6));
        assert!(
            codes
                .iter()
                .all(|code| code.bytes().all(|b| b.is_ascii_digit()))
        );
        assert!(codes.len() > 900);
    }

    #[test]
    fn a_secret_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwt.secret");
        let made: HashSet<String> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| load_or_create_secret(&path).unwrap()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(made.len(), 1);
        assert_eq!(made.iter().next().unwrap().len(), 64);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwt.secret");
        load_or_create_secret(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_not_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwt.secret");
        for text in ["", "\n", "short"] {
            fs::write(&path, text).unwrap();
            let error = load_or_create_secret(&path).unwrap_err();
            assert!(matches!(error, SecretError::TooShort { .. }));
        }
        fs::write(&path, [0xff; 64]).unwrap();
        assert!(load_or_create_secret(&path).is_err());
    }
}
