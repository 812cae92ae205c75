//! A folder or a bucket, by the one interface that both have.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    ObjectStore, ObjectStoreExt, PutMode, PutOptions, local::LocalFileSystem, path::Path,
};
use socialhub_domain::Timestamp;
use socialhub_projections::analytics::{Created, Object, Objects, ObjectsError};

/// Objects below a prefix of a store that can create an object only if there is none.
pub struct StoredObjects {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// What readers put before a name.
    address: String,
}

impl StoredObjects {
    /// Objects in a folder, which is there. What was answered is on the disk.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn in_folder(folder: &std::path::Path) -> Result<Self, ObjectsError> {
        let store = LocalFileSystem::new_with_prefix(folder).map_err(failed)?;
        let folder = folder
            .canonicalize()
            .map_err(|error| ObjectsError(error.to_string()))?;
        Ok(Self {
            store: Arc::new(store.with_fsync(true)),
            prefix: Path::default(),
            address: folder.display().to_string(),
        })
    }

    /// Objects below a prefix of a store; `address` is how readers call it.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: Path, address: String) -> Self {
        Self {
            store,
            prefix,
            address,
        }
    }

    fn path(&self, name: &str) -> Result<Path, ObjectsError> {
        let name = Path::parse(name).map_err(|error| ObjectsError(error.to_string()))?;
        Ok(Path::from_iter(self.prefix.parts().chain(name.parts())))
    }

    fn name(&self, path: &Path) -> Option<String> {
        let parts = path.prefix_match(&self.prefix)?;
        Some(Path::from_iter(parts).to_string())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "made for `map_err`")]
fn failed(error: object_store::Error) -> ObjectsError {
    ObjectsError(error.to_string())
}

#[async_trait]
impl Objects for StoredObjects {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), ObjectsError> {
        let path = self.path(name)?;
        let put = self.store.put(&path, bytes.into()).await;
        put.map(drop).map_err(failed)
    }

    async fn create(&self, name: &str, bytes: Bytes) -> Result<Created, ObjectsError> {
        let path = self.path(name)?;
        let options = PutOptions::from(PutMode::Create);
        match self.store.put_opts(&path, bytes.into(), options).await {
            Ok(_) => Ok(Created::Made),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => Ok(Created::Exists),
            Err(error) => Err(failed(error)),
        }
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, ObjectsError> {
        let path = self.path(name)?;
        let found = match self.store.get(&path).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        found.bytes().await.map(Some).map_err(failed)
    }

    async fn list(&self, folder: &str) -> Result<Vec<Object>, ObjectsError> {
        let path = self.path(folder)?;
        let listed = self.store.list(Some(&path)).try_filter_map(async |found| {
            let written = Timestamp(found.last_modified.timestamp_millis());
            let name = self.name(&found.location);
            Ok(name.map(|name| Object { name, written }))
        });
        let mut listed: Vec<Object> = listed.try_collect().await.map_err(failed)?;
        listed.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(listed)
    }

    async fn remove(&self, names: &[String]) -> Result<(), ObjectsError> {
        // One after the other: the order is a promise.
        for name in names {
            match self.store.delete(&self.path(name)?).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    fn address(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}
