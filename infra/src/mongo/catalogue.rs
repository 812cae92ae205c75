//! Which generations there are, which one is current, and who may change that.
//!
//! Every version of the catalogue is a document of its own; the next version is inserted under the next number. Of two
//! processes that change the same version one finds the number taken and looks again: that is compare-and-set with
//! nothing but a unique key.
//!
//! Whether the holder of a right is alive is told by a beat that it moves each second. Whoever waits for the right to fall
//! measures with its own clock how long the beat has not moved, so no clocks are compared.

use std::time::Duration;

use futures::TryStreamExt;
use mongodb::{
    Collection,
    bson::{doc, oid::ObjectId},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use socialhub_projections::{GenerationId, StoreError, runtime::GenerationState};
use tokio::time::Instant;

use crate::{
    CODE,
    mongo::{access::Access, connection::Fault},
};

/// What documents of the model look like. Raised when a new program cannot go on with what an old one wrote.
pub(super) const LAYOUT: i32 = 3;
/// How often the holder of a right moves its beat.
pub(super) const BEAT_EVERY: Duration = Duration::from_secs(1);
/// A right whose beat has not moved for this long has fallen.
const DEAD_AFTER: Duration = Duration::from_secs(5);
/// So many versions before the newest are kept: whoever works on an older one has been asleep for too long to matter.
const KEPT_VERSIONS: i64 = 200;

/// One version of a model's catalogue.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Catalogue {
    #[serde(rename = "_id")]
    id: String,
    model: String,
    /// Raised with each change.
    pub(super) version: i64,
    /// The generation that readers use.
    pub current: u32,
    /// The number of the next generation: none is given twice.
    pub next: u32,
    pub generations: Vec<Entry>,
    /// Who keeps everybody from writing the current generation.
    pub fence: Option<String>,
    /// Who may change generations.
    pub claim: Option<String>,
}

/// A generation in the catalogue.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    pub id: u32,
    pub layout: i32,
    pub created_at: i64,
    /// Whether it has been current.
    pub served: bool,
    /// When it stopped being current.
    pub retired_at: Option<i64>,
    /// By what code it was begun.
    #[serde(default)]
    pub made_by: Option<String>,
}

impl Entry {
    pub(super) fn new(id: u32, created_at: i64) -> Self {
        Self {
            id,
            layout: LAYOUT,
            created_at,
            served: false,
            retired_at: None,
            made_by: Some(CODE.to_owned()),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Beat {
    #[serde(rename = "_id")]
    holder: String,
    count: i64,
}

impl Catalogue {
    fn first(model: &str, created_at: i64) -> Self {
        let mut entry = Entry::new(1, created_at);
        entry.served = true;
        Self {
            id: version_id(model, 1),
            model: model.to_owned(),
            version: 1,
            current: 1,
            next: 2,
            generations: vec![entry],
            fence: None,
            claim: None,
        }
    }

    pub(super) fn entry(&self, id: GenerationId) -> Option<&Entry> {
        self.generations.iter().find(|entry| entry.id == id.0)
    }

    pub(super) fn entry_mut(&mut self, id: u32) -> Option<&mut Entry> {
        self.generations.iter_mut().find(|entry| entry.id == id)
    }

    pub(super) fn state(&self, entry: &Entry) -> GenerationState {
        if entry.id == self.current {
            GenerationState::Current
        } else if entry.served {
            GenerationState::Previous
        } else {
            GenerationState::Building
        }
    }
}

fn version_id(model: &str, version: i64) -> String {
    format!("{model}/{version:012}")
}

/// The collections behind the catalogue of one model.
pub(super) struct Catalogues {
    model: &'static str,
    access: Access,
    versions: Collection<Catalogue>,
    beats: Collection<Beat>,
    /// The fence that writers of this process meet, with its beat, and since when that has not moved.
    met: Mutex<Option<(Beat, Instant)>>,
}

impl Catalogues {
    pub(super) fn new(access: &Access, model: &'static str) -> Self {
        Self {
            model,
            access: access.clone(),
            versions: access.database.collection("read_model_generations"),
            beats: access.database.collection("read_model_rights"),
            met: Mutex::new(None),
        }
    }

    /// The newest version; none in an empty database.
    pub(super) async fn newest(&self) -> Result<Option<Catalogue>, Fault> {
        let filter = doc! { "model": self.model };
        self.access
            .write(async {
                let found = self
                    .versions
                    .find(filter)
                    .sort(doc! { "_id": -1 })
                    .limit(1)
                    .await?;
                found.try_collect::<Vec<_>>().await
            })
            .await
            .map(|found| found.into_iter().next())
    }

    /// The newest version; makes the first one, with an empty generation, when there is none.
    pub(super) async fn read(&self, now: i64) -> Result<Catalogue, Fault> {
        loop {
            if let Some(found) = self.newest().await? {
                return Ok(found);
            }
            self.access
                .insert_one(&self.versions, &Catalogue::first(self.model, now))
                .await?;
        }
    }

    /// Makes the next version. `change` may be called several times, each time on a newer version.
    pub(super) async fn change<T>(
        &self,
        now: i64,
        mut change: impl FnMut(&mut Catalogue) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            let mut next = self.read(now).await?;
            let answer = change(&mut next)?;
            next.version += 1;
            next.id = version_id(self.model, next.version);
            if self.access.insert_one(&self.versions, &next).await? {
                return Ok(answer);
            }
        }
    }

    /// Forgets versions and beats that nobody needs any more.
    pub(super) async fn tidy(&self) -> Result<(), Fault> {
        let Some(newest) = self.newest().await? else {
            return Ok(());
        };
        let old =
            doc! { "model": self.model, "version": { "$lt": newest.version - KEPT_VERSIONS } };
        self.access.write(self.versions.delete_many(old)).await?;
        for beat in self.access.find_all(&self.beats, doc! {}).await? {
            let held = [&newest.claim, &newest.fence];
            if !held
                .into_iter()
                .flatten()
                .any(|holder| *holder == beat.holder)
            {
                self.access
                    .write(self.beats.delete_one(doc! { "_id": &beat.holder }))
                    .await?;
            }
        }
        Ok(())
    }

    /// A name for a new holder of a right.
    pub(super) fn new_holder(&self) -> String {
        format!("{}/{}", self.model, ObjectId::new().to_hex())
    }

    /// Moves the beat of a holder. Nobody else writes it.
    pub(super) async fn beat(&self, holder: &str) -> Result<(), Fault> {
        let moved = doc! { "$inc": { "count": 1_i64 } };
        self.access
            .write(
                self.beats
                    .update_one(doc! { "_id": holder }, moved)
                    .upsert(true),
            )
            .await?;
        Ok(())
    }

    /// Forgets the beat of a holder.
    pub(super) async fn forget(&self, holder: &str) -> Result<(), Fault> {
        self.access
            .write(self.beats.delete_one(doc! { "_id": holder }))
            .await?;
        Ok(())
    }

    async fn count(&self, holder: &str) -> Result<i64, Fault> {
        let found = self
            .access
            .write(self.beats.find_one(doc! { "_id": holder }))
            .await?;
        // One without a beat does not move either.
        Ok(found.map_or(-1, |beat| beat.count))
    }

    /// Waits until it is clear whether a holder is alive: its beat moves, or has not moved for too long, or `held` says
    /// that it holds nothing any more.
    pub(super) async fn is_alive(
        &self,
        holder: &str,
        held: impl Fn(&Catalogue) -> bool,
    ) -> Result<bool, Fault> {
        let (first, since) = (self.count(holder).await?, Instant::now());
        while since.elapsed() < DEAD_AFTER {
            tokio::time::sleep(BEAT_EVERY / 10).await;
            if self.newest().await?.is_none_or(|newest| !held(&newest)) {
                return Ok(false);
            }
            if self.count(holder).await? != first {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the fence that a writer meets still stands. Does not wait: a writer that is refused comes again.
    pub(super) async fn stands(&self, holder: &str) -> Result<bool, Fault> {
        let beat = Beat {
            holder: holder.to_owned(),
            count: self.count(holder).await?,
        };
        let mut met = self.met.lock();
        match &*met {
            Some((known, since)) if known.holder == beat.holder && known.count == beat.count => {
                Ok(since.elapsed() < DEAD_AFTER)
            }
            _ => {
                *met = Some((beat, Instant::now()));
                Ok(true)
            }
        }
    }
}
