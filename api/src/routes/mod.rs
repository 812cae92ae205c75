//! The routes, a folder for each service.

pub(crate) mod auth;
pub(crate) mod events;
pub(crate) mod feed;
pub(crate) mod media;
pub(crate) mod notify;
pub(crate) mod operations;
pub(crate) mod posts;
pub(crate) mod users;
