//! Names the code that turns events into read models, so that a program can tell whether a half-built generation is the work
//! of the very same code or of another program, whose mistakes it may hold.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    io,
    path::{Path, PathBuf},
};

/// What is code: editors leave other files beside it.
const ENDINGS: [&str; 3] = ["rs", "lua", "sql"];

/// Which libraries there are, and which versions.
const LOCK: &str = "../Cargo.lock";

/// From an event's bytes to a model's rows: decoding and lifting, projections, and what writes them.
const SOURCES: [&str; 4] = [
    "../domain/src",
    "../event-log/src",
    "../projections/src",
    "src",
];

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed={LOCK}");
    let mut files = vec![PathBuf::from(LOCK)];
    for source in SOURCES {
        println!("cargo:rerun-if-changed={source}");
        collect(Path::new(source), &mut files)?;
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.hash(&mut hasher);
        fs::read(&file)?.hash(&mut hasher);
    }
    println!("cargo:rustc-env=SOCIALHUB_CODE={:016x}", hasher.finish());
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|ending| ENDINGS.iter().any(|code| ending == *code))
        {
            files.push(path);
        }
    }
    Ok(())
}
