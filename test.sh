#!/usr/bin/env bash
# Installs or finds what the tests need, then runs all of them. What is needed and cannot be had is a failure.
#
#   ./test.sh           everything
#   ./test.sh quick     format, lints, and the tests that need no server process
set -euo pipefail
cd "$(dirname "$0")"

step() { printf '\n== %s\n' "$*"; }

# Installs Debian packages, as root or through sudo.
install_packages() {
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y "$@"
}

step "tools"
command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }
command -v cc >/dev/null || install_packages gcc libc6-dev
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    install_packages nodejs npm
fi
cargo --version
node --version

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings

if [ "${1:-}" = quick ]; then
    step "tests without a server"
    cargo test --workspace --exclude socialhub-tests --locked
    exit
fi

step "the socket.io clients"
(cd tests/js && npm ci --no-audit --no-fund)

step "build"
cargo build --locked

step "tests"
# The black-box tests start a server each: a few at a time are enough for two cores.
cargo test --workspace --locked -- --test-threads="${TEST_THREADS:-4}"

step "documentation"
# Links to private items are good here: the pages of private items are built, too.
RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --no-deps --locked --document-private-items

echo
echo "all passed"
