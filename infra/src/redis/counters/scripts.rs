//! The scripts, each put together from what it needs.

use std::sync::LazyLock;

use redis::Script;

macro_rules! script {
    ($name:ident, $($file:literal),+) => {
        pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!($(include_str!(concat!("scripts/", $file, ".lua"))),+)));
    };
}

script!(APPLY, "lib", "sums", "apply");
script!(ATTEMPTS, "attempts");
script!(CLEAN, "clean");
script!(CREATE, "lib", "create");
script!(DISCARD, "discard");
script!(DROP, "lib", "drop");
script!(FENCE, "lib", "fence");
script!(LIST, "lib", "list");
script!(MEND, "lib", "mend");
script!(PAUSE, "lib", "pause");
script!(POINTER, "pointer");
script!(READ, "read");
script!(RELEASE, "release");
script!(RENEW, "renew");
script!(SWITCH, "switch");
script!(WRITER, "lib", "writer");
