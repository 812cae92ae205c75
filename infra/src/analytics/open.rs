//! Which store an address names.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use socialhub_projections::analytics::Objects;

use super::StoredObjects;
use crate::media::{OpenMediaError, s3};

/// Opens the files at an address: `s3://…` as for media, `file:///folder`, or just a folder; without an address the folder
/// `analytics` in the data folder. Nothing is asked of a remote store yet.
///
/// # Errors
/// When the address is not as it must be, or the folder cannot be made. No message holds a key.
pub fn open_analytics(
    url: Option<&str>,
    data_dir: &Path,
) -> Result<Arc<dyn Objects>, OpenMediaError> {
    let Some(url) = url.filter(|url| !url.is_empty()) else {
        return folder(data_dir.join("analytics"));
    };
    let invalid = |message: String| Err(OpenMediaError::Invalid(message));
    match url.split_once("://") {
        None => folder(PathBuf::from(url)),
        Some(("file", path)) if path.starts_with('/') => folder(PathBuf::from(path)),
        Some(("file", _)) => invalid("a file address has three slashes: file:///folder".to_owned()),
        Some(("s3", _)) => {
            let s3::Opened {
                store,
                bucket,
                prefix,
            } = s3::open(url)?;
            let address = [format!("s3://{bucket}"), prefix.to_string()].join("/");
            let address = address.trim_end_matches('/').to_owned();
            Ok(Arc::new(StoredObjects::new(
                Arc::new(store),
                prefix,
                address,
            )))
        }
        Some((other, _)) => invalid(format!(
            "files cannot be kept at `{other}`: use a folder, file:///folder or s3://bucket/prefix"
        )),
    }
}

fn folder(folder: PathBuf) -> Result<Arc<dyn Objects>, OpenMediaError> {
    let made = std::fs::create_dir_all(&folder);
    let opened = made.and_then(|()| {
        StoredObjects::in_folder(&folder).map_err(|error| std::io::Error::other(error.to_string()))
    });
    match opened {
        Ok(objects) => Ok(Arc::new(objects)),
        Err(error) => Err(OpenMediaError::Folder { folder, error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_where_readers_find_the_files() {
        let data = tempfile::tempdir().unwrap();
        let root = data.path().canonicalize().unwrap().display().to_string();
        for (url, wanted) in [
            (None, format!("{root}/analytics/a/b")),
            (Some(format!("{root}/x")), format!("{root}/x/a/b")),
            (Some(format!("file://{root}/y")), format!("{root}/y/a/b")),
            (
                Some("s3://k:s@bucket/some/prefix".to_owned()),
                "s3://bucket/some/prefix/a/b".to_owned(),
            ),
            (Some("s3://bucket".to_owned()), "s3://bucket/a/b".to_owned()),
        ] {
            let objects = open_analytics(url.as_deref(), data.path()).unwrap();
            assert_eq!(objects.address("a/b"), wanted);
        }
    }

    #[test]
    fn a_bad_address_is_refused_in_words() {
        let data = tempfile::tempdir().unwrap();
        for (url, reason) in [
            ("ftp://host", "`ftp`"),
            ("file://folder", "three slashes"),
            ("s3://", "bucket"),
            ("s3://key:hush@b?color=blue", "color"),
        ] {
            let Err(error) = open_analytics(Some(url), data.path()) else {
                panic!("{url} was taken");
            };
            let error = error.to_string();
            assert!(error.contains(reason) && !error.contains("hush"), "{error}");
        }
    }
}
