//! The benchmark: `cargo run --release -p socialhub-bench -- --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match socialhub_bench::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
