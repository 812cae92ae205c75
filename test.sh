#!/usr/bin/env bash
# Installs or finds what the tests need, then runs all of them, on both profiles, with the real servers.
# What is needed and cannot be had is a failure.
#
#   ./test.sh              everything
#   ./test.sh realign      only the stores that go back in time
#   ./test.sh full_stack   only the whole stack behind nginx under kills and outages
#   ./test.sh quick        format, lints, and the tests that need no server process
set -euo pipefail
cd "$(dirname "$0")"

step() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

# Installs Debian packages, as root or through sudo.
install_packages() {
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y "$@"
}

# One binary for both profiles; the adapters of both are tested.
features=(--features socialhub/distributed,socialhub-bench/distributed)

step "tools"
command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }
command -v cc >/dev/null || install_packages gcc g++ make libc6-dev
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    install_packages nodejs npm
fi
python3 -c 'import ensurepip' 2>/dev/null || install_packages python3 python3-venv
command -v kcat >/dev/null || install_packages kcat
# Debian keeps nginx where only root looks.
PATH=$PATH:/usr/sbin
command -v nginx >/dev/null || install_packages nginx
cargo --version
node --version

# Hundreds of databases and folders are made and deleted. ext4 does not give away again at once what was just deleted, and
# looks at all of it for each new file: a quarter of all time went there. So they are in memory, where there is enough of it.
room() { awk '/MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo 2>/dev/null || echo 0; }
if [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ] && [ "$(room)" -ge 12 ] &&
    [ "$(df -Pk /dev/shm | awk 'NR == 2 { print int($4 / 1048576) }')" -ge 8 ]; then
    export TMPDIR=/dev/shm
fi
scratch=$(mktemp -d "${TMPDIR:-/tmp}/socialhub-test.XXXXXX")
# Postgres runs as another user where we are root, and has to get through.
chmod 711 "$scratch"
export TMPDIR=$scratch
trap 'rm -rf "$scratch"' EXIT

# The servers live for minutes: what would make them faster in an hour only takes time now.
export JDK_JAVA_OPTIONS="-XX:TieredStopAtLevel=1 -XX:+UseSerialGC" GOGC=400

# What other languages need; written to a file, since the lints speak meanwhile.
install_clients() {
    (cd tests/js && npm ci --no-audit --no-fund)
    (cd examples/consumers/javascript && npm ci --no-audit --no-fund)
    for folder in examples/consumers/python tests/python; do
        (
            cd "$folder"
            [ -x .venv/bin/python ] || python3 -m venv .venv
            .venv/bin/pip install -q --disable-pip-version-check -r requirements.txt
        )
    done
}

step "format"
cargo fmt --all --check

if [ "${1:-}" != quick ]; then
    step "the servers, and clients in JavaScript and Python: fetched, built and started while the lints run"
    stack_dir=$scratch/stack
    mkdir "$stack_dir"
    ./stack up --servers-only --free-ports --dir "$stack_dir" &
    servers=$!
    install_clients >"$stack_dir/clients.log" 2>&1 &
    clients=$!
    documentation=
    end_servers() {
        for beside in $documentation $clients $servers; do
            kill "$beside" 2>/dev/null || true
            wait "$beside" || true
        done
        rm -f "$stack_dir"/*.log
        ./stack destroy --yes --dir "$stack_dir" >/dev/null || true
        rm -rf "$scratch"
    }
    trap end_servers EXIT
fi

step "lints"
cargo clippy --workspace --all-targets "${features[@]}" --locked -- -D warnings

step "the default build, which is the embedded profile alone"
cargo clippy --locked -- -D warnings

if [ "${1:-}" = quick ]; then
    step "tests without a server"
    cargo test --workspace --exclude socialhub-tests --locked
    exit
fi

step "clients and servers are there"
wait "$clients" || { clients=; cat "$stack_dir/clients.log" >&2; exit 1; }
clients=
wait "$servers" || { echo "the servers did not start" >&2; exit 1; }
# Its number may be somebody else's from now on.
servers=
eval "$(./stack env --dir "$stack_dir" | sed -n 's/^export \(DATABASE_URL\|REDIS_URL\|MONGODB_URL\|KAFKA_BROKERS\)=/export TEST_\1=/p')"
export TEST_POSTGRES_URL="$TEST_DATABASE_URL"

step "build"
cargo build --workspace --all-targets "${features[@]}" --locked

# Few at a time: each of these tests has servers, or a whole stack, of its own to kill.
with_servers_of_their_own() {
    step "$*"
    cargo test --workspace --test it "${features[@]}" --locked -- --test-threads=3 "${@/%/::}"
}

if [ "${1:-}" = realign ] || [ "${1:-}" = full_stack ]; then
    with_servers_of_their_own "$1"
    step "passed"
    exit
fi

step "tests, the embedded profile"
# The black-box tests start a server each: a few at a time are enough for two cores.
cargo test --workspace "${features[@]}" --locked -- --test-threads="${TEST_THREADS:-4}" \
    --skip realign:: --skip full_stack::

# What clients see, with each service in a process of its own, as a cluster is deployed. A dozen processes for each test, which
# work also while it waits: two tests at a time fill two cores, and four take longer.
step "the same black-box tests, the distributed profile: each service in a process of its own behind nginx"
TEST_PROFILE=split cargo test --workspace --test it "${features[@]}" --locked -- \
    --test-threads="${TEST_THREADS:-2}" --skip object_media:: \
    auth:: bad_input:: chat::chat_can_have contract_files::chat erasure:: firehose:: flow:: media:: social::

# What operators do and see, and what one service decides alone: beside one process that has all.
step "the same, all services in one process"
TEST_PROFILE=distributed cargo test --workspace --test it "${features[@]}" --locked -- \
    --test-threads="${TEST_THREADS:-3}" \
    backup::newer::a_ backup::restored::a_backup chat:: chat_hoard::who_asks concurrency:: durability:: old_versions:: \
    program:: replay:: seen:: smtp::real_server --skip chat::chat_can_have

with_servers_of_their_own full_stack realign

# These tests wait more than they work, and compile nothing. Links to private items are good in the documentation: their pages
# are built, too.
step "the launcher and the gateway; meanwhile the documentation"
documentation_log=$stack_dir/documentation.log
RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" \
    cargo doc --workspace --no-deps "${features[@]}" --locked --document-private-items >"$documentation_log" 2>&1 &
documentation=$!
tests/python/.venv/bin/python -m unittest discover -s deploy/tests
step "documentation"
wait "$documentation" || { documentation=; cat "$documentation_log" >&2; exit 1; }
documentation=
tail -n 3 "$documentation_log"

step "all passed"
