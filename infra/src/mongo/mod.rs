//! MongoDB adapters: the notifications read model.
