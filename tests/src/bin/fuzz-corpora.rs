//! Writes seed corpora for the fuzzer: `cargo run -p nydus-tests --bin fuzz-corpora -- tests/fuzz/corpus`.

use std::path::Path;

use anyhow::{Context, Result};
use nydus_tests::seeds::{self, Seed};

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).context("usage: fuzz-corpora DIRECTORY")?;
    let (v5, v6) = seeds::bootstraps().into_iter().partition(|seed| seed.name.starts_with("v5"));
    write(&dir, "bootstrap_v5", v5)?;
    write(&dir, "bootstrap_v6", v6)?;
    write(&dir, "chunk_table", seeds::chunk_tables())?;
    write(&dir, "toc", seeds::tocs())?;
    write(&dir, "zran", seeds::gzip_files())?;
    write(&dir, "server_words", seeds::server_words())?;
    write(&dir, "config", seeds::configurations())
}

fn write(dir: &str, target: &str, seeds: Vec<Seed>) -> Result<()> {
    let dir = Path::new(dir).join(target);
    std::fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
    for seed in seeds {
        let path = dir.join(&seed.name);
        std::fs::write(&path, seed.bytes).with_context(|| format!("{}", path.display()))?;
    }
    println!("{}", dir.display());
    Ok(())
}
