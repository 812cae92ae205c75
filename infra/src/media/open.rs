//! Which store an address names.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{LocalMedia, Media, MediaLimits};

/// Why an address names no store that can be used. No message holds a key, a password or the address itself.
#[derive(Debug, thiserror::Error)]
pub enum OpenMediaError {
    /// Nothing is called that.
    #[error(
        "no media store is called `{0}`: use a folder, file:///folder, s3://bucket/prefix or cloudinary://key:secret@cloud"
    )]
    UnknownScheme(String),
    /// The program was built without it.
    #[error("{0}:// needs a program built with the feature `distributed`")]
    MissingFeature(&'static str),
    /// The address is not as it must be.
    #[error("{0}")]
    Invalid(String),
    /// The folder cannot be made.
    #[error("{}: {error}", .folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Opens the store at an address: `s3://…`, `cloudinary://…`, `file:///folder`, or just a folder; without an address the
/// folder `media` in the data folder. Nothing is asked of a remote store yet.
///
/// # Errors
/// [`OpenMediaError`].
pub fn open_media(
    url: Option<&str>,
    data_dir: &Path,
    limits: MediaLimits,
) -> Result<Arc<dyn Media>, OpenMediaError> {
    let Some(url) = url.filter(|url| !url.is_empty()) else {
        return folder(data_dir.join("media"), limits);
    };
    match url.split_once("://") {
        None => folder(PathBuf::from(url), limits),
        Some(("file", path)) if path.starts_with('/') => folder(PathBuf::from(path), limits),
        Some(("file", _)) => Err(OpenMediaError::Invalid(
            "a file address has three slashes: file:///folder".to_owned(),
        )),
        Some(("s3", _)) => s3(url, limits),
        Some(("cloudinary", _)) => cloudinary(url, limits),
        Some((other, _)) => Err(OpenMediaError::UnknownScheme(other.to_owned())),
    }
}

/// Whether the address, as [`open_media`] takes it, is that of a folder on this machine.
pub fn is_folder(url: Option<&str>) -> bool {
    url.and_then(|url| url.split_once("://"))
        .is_none_or(|(scheme, _)| scheme == "file")
}

fn folder(folder: PathBuf, limits: MediaLimits) -> Result<Arc<dyn Media>, OpenMediaError> {
    match LocalMedia::open(folder.clone(), limits) {
        Ok(media) => Ok(Arc::new(media)),
        Err(error) => Err(OpenMediaError::Folder { folder, error }),
    }
}

#[cfg(feature = "distributed")]
fn s3(url: &str, limits: MediaLimits) -> Result<Arc<dyn Media>, OpenMediaError> {
    Ok(Arc::new(super::s3::S3Media::open(url, limits)?))
}

#[cfg(feature = "distributed")]
fn cloudinary(url: &str, limits: MediaLimits) -> Result<Arc<dyn Media>, OpenMediaError> {
    Ok(Arc::new(super::cloudinary::Cloudinary::open(url, limits)?))
}

#[cfg(not(feature = "distributed"))]
fn s3(_: &str, _: MediaLimits) -> Result<Arc<dyn Media>, OpenMediaError> {
    Err(OpenMediaError::MissingFeature("s3"))
}

#[cfg(not(feature = "distributed"))]
fn cloudinary(_: &str, _: MediaLimits) -> Result<Arc<dyn Media>, OpenMediaError> {
    Err(OpenMediaError::MissingFeature("cloudinary"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: Option<&str>, data_dir: &Path) -> Result<Arc<dyn Media>, OpenMediaError> {
        open_media(url, data_dir, MediaLimits::default())
    }

    #[test]
    fn a_folder_is_made_where_the_address_says() {
        let data = tempfile::tempdir().unwrap();
        for (url, made) in [
            (None, "media"),
            (Some(String::new()), "media"),
            (Some(format!("file://{}/a", data.path().display())), "a"),
            (Some(format!("{}/b", data.path().display())), "b"),
        ] {
            open(url.as_deref(), data.path()).unwrap();
            assert!(is_folder(url.as_deref()), "{url:?}");
            assert!(data.path().join(made).is_dir(), "{url:?}");
        }
    }

    #[test]
    fn a_bad_address_is_refused_in_words() {
        let data = tempfile::tempdir().unwrap();
        let refusal = |url: &str| match open(Some(url), data.path()) {
            Ok(_) => panic!("{url} was taken"),
            Err(error) => error.to_string(),
        };
        assert!(refusal("ftp://host/folder").contains("`ftp`"));
        assert!(refusal("file://folder").contains("three slashes"));
        std::fs::write(data.path().join("a file"), "").unwrap();
        let in_a_file = format!("{}/a file/media", data.path().display());
        assert!(refusal(&in_a_file).contains("a file"));
    }

    #[cfg(not(feature = "distributed"))]
    #[test]
    fn a_store_that_was_not_built_in_is_refused_with_the_features_name() {
        for url in ["s3://bucket", "cloudinary://key:secret@cloud"] {
            let refused = open(Some(url), Path::new("nowhere"));
            let Err(error @ OpenMediaError::MissingFeature(_)) = refused else {
                panic!("{url} was taken");
            };
            assert!(error.to_string().contains("`distributed`"));
        }
    }

    #[cfg(feature = "distributed")]
    #[test]
    fn an_address_without_what_the_store_needs_is_refused_without_its_secret() {
        for url in [
            "s3:///prefix",
            "s3://key:hush@bucket?endpoint=hush",
            "s3://key:hush@bucket?endpoint=ftp://host",
            "s3://key:hush@bucket?color=blue",
            "s3://key@bucket",
            "cloudinary://hush",
            "cloudinary://key@hush",
            "cloudinary://key:hush@",
            "cloudinary://key:hush@cloud?endpoint=ftp://host",
            "cloudinary://key:hush@cloud?color=blue",
        ] {
            let Err(error) = open(Some(url), Path::new("nowhere")) else {
                panic!("{url} was taken");
            };
            assert!(!error.to_string().contains("hush"), "{error}");
        }
        assert!(!is_folder(Some("s3://bucket")));
        let cloud = "cloudinary://key:secret@cloud/some/folder";
        for url in ["s3://bucket", "s3://k:s%2F@b/some/prefix/", cloud] {
            open(Some(url), Path::new("nowhere")).unwrap_or_else(|error| panic!("{url}: {error}"));
        }
    }
}
