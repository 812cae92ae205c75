//! The one TLS stack: rustls with ring.

/// Makes ring the process's cryptography for TLS. Clients of HTTP, Redis and mail look for it when they are built, so it
/// comes first in `main`; a repeat does nothing. The embedded profile speaks no TLS.
pub fn install() {
    #[cfg(feature = "distributed")]
    // An error says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
