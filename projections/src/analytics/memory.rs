//! Objects in memory: what the logic is tested on.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use socialhub_domain::Timestamp;

use super::ports::{Created, Object, Objects, ObjectsError};

/// Objects that end with the process.
#[derive(Default)]
pub struct MemoryObjects(Mutex<BTreeMap<String, (Bytes, Timestamp)>>);

impl MemoryObjects {
    /// The names of all objects.
    pub fn names(&self) -> Vec<String> {
        self.0.lock().keys().cloned().collect()
    }
}

#[async_trait]
impl Objects for MemoryObjects {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), ObjectsError> {
        // Long ago, for a sweeper.
        self.0.lock().insert(name.to_owned(), (bytes, Timestamp(0)));
        Ok(())
    }

    async fn create(&self, name: &str, bytes: Bytes) -> Result<Created, ObjectsError> {
        let mut objects = self.0.lock();
        if objects.contains_key(name) {
            return Ok(Created::Exists);
        }
        objects.insert(name.to_owned(), (bytes, Timestamp(0)));
        Ok(Created::Made)
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, ObjectsError> {
        Ok(self.0.lock().get(name).map(|(bytes, _)| bytes.clone()))
    }

    async fn list(&self, folder: &str) -> Result<Vec<Object>, ObjectsError> {
        let inside = format!("{folder}/");
        let objects = self.0.lock();
        let listed = objects
            .iter()
            .filter(|(name, _)| name.starts_with(&inside))
            .map(|(name, (_, written))| Object {
                name: name.clone(),
                written: *written,
            });
        Ok(listed.collect())
    }

    async fn remove(&self, names: &[String]) -> Result<(), ObjectsError> {
        let mut objects = self.0.lock();
        for name in names {
            objects.remove(name);
        }
        Ok(())
    }

    fn address(&self, name: &str) -> String {
        format!("memory://{name}")
    }
}
