//! TLS of the clients that leave the choice of its cryptography to the program.

/// Chooses `ring`, unless the program has chosen already. Without a choice an HTTP client cannot be made, not even for
/// plain HTTP.
pub fn use_ring() {
    // An error says that there is a choice.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
