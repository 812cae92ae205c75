//! What handlers take: each extractor checks one thing and refuses with a problem that names the field.

pub(crate) mod auth;
pub(crate) mod body;
pub(crate) mod context;
pub(crate) mod fields;
pub(crate) mod paging;
pub(crate) mod path;
