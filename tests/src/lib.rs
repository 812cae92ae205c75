//! Contract suites of the ports, and the support of the black-box tests. May name every crate; nothing names it.

#![expect(
    clippy::unwrap_used,
    reason = "support of tests: what fails here fails the test, with its place"
)]

pub mod contract;
pub mod support;
