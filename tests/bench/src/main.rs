//! `nydus-bench`: measures our builder and daemon beside the unpacked tree, kernel EROFS and a peer, in one run.

mod bench;
mod cli;
mod corpus;
mod image;
mod link;
mod machine;
mod mount;
mod need;
mod page_cache;
mod process;
mod program;
mod remote;
mod results;
mod sample;
mod server;
mod workload;

use std::fs;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use bench::Bench;
use cli::Args;
use machine::Machine;
use program::Programs;
use results::Results;
use sample::Chapter;

fn main() -> Result<()> {
    let mut args = Args::parse();
    ensure!(nix::unistd::geteuid().is_root(), "mounting and dropping the page cache need root");
    fs::create_dir_all(&args.corpus_dir)?;
    args.corpus_dir =
        args.corpus_dir.canonicalize().with_context(|| args.corpus_dir.display().to_string())?;
    let ours = Programs::ours(&args)?;
    let mut samples = Vec::new();
    for name in &args.corpus {
        samples.extend(Bench::prepare(&args, &ours, name)?.run()?);
    }
    let machine = Machine::this(&args.corpus_dir)?;
    let earlier = args.json.as_deref().map(Results::load).transpose()?.flatten();
    let mut results = earlier.unwrap_or(Results { machine: machine.clone(), samples: Vec::new() });
    results.machine = machine;
    results.replace(samples);
    if let Some(file) = &args.json {
        results.save(file)?;
    }
    if let Some(file) = &args.update_docs {
        results.update(file)?;
    }
    for chapter in [Chapter::Local, Chapter::Links] {
        if let Some(tables) = results.tables(chapter) {
            println!("{tables}");
        }
    }
    Ok(())
}
