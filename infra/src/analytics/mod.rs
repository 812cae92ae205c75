//! Files of the analytics consumer: Parquet, in a local folder or in an S3-compatible bucket.

mod objects;
mod open;
mod parquet;

pub use self::{objects::StoredObjects, open::open_analytics, parquet::ParquetRows};
