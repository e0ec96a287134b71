//! A scenario's own world: its processes, its mounts, its network and its names are those of nobody else, and gone when
//! its first process ends.

use std::cmp::Ordering;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use nix::mount::{MsFlags, mount};
use nydus_tests::requirements;

use crate::units::Size;

/// Packets on the loopback while it is limited: with its own 64 KiB a bucket of tokens never fills.
const MTU: &str = "1500";

/// The command that runs `program` in a world of its own.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]).arg(program);
    command
}

/// Why no such world can be made here; `None` if it can.
pub fn missing() -> Option<String> {
    if let Some(reason) = requirements::missing_for_mounts() {
        return Some(reason);
    }
    for tool in ["unshare", "ip", "tc"] {
        if requirements::tool(tool).is_none() {
            return Some(format!("{tool} is not installed"));
        }
    }
    let tried = command(Path::new("true")).stdin(Stdio::null()).output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("no namespaces: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

/// Prepares the world we are in: the network is up, and names are asked of a server of our own.
pub fn enter(dir: &Path) -> anyhow::Result<()> {
    run("ip", &["link", "set", "lo", "up"])?;
    let file = dir.join("resolv.conf");
    fs::write(&file, "nameserver 127.0.0.1\noptions timeout:1 attempts:2\n")?;
    let target = Path::new("/etc/resolv.conf");
    mount(Some(&file), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("/etc/resolv.conf")?;
    Ok(())
}

/// Limits everything on the network together, or nothing any more.
pub fn limit_link(rate: Option<Size>) -> anyhow::Result<()> {
    let Some(Size(rate)) = rate else {
        // There is nothing to delete if no limit was set.
        let _ = run("tc", &["qdisc", "del", "dev", "lo", "root"]);
        return Ok(());
    };
    run("ip", &["link", "set", "lo", "mtu", MTU])?;
    let bits = format!("{}bit", rate.saturating_mul(8));
    let words =
        ["qdisc", "replace", "dev", "lo", "root", "tbf", "rate", &bits, "burst", "32kb", "latency", "400ms"];
    run("tc", &words)
}

/// Makes `dir` a disk of its own of so many bytes.
pub fn mount_disk(dir: &Path, Size(bytes): Size) -> anyhow::Result<()> {
    let options = format!("size={bytes}");
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("a disk at {}", dir.display()))
}

/// Fills the disk that `dir` is until `leaves` bytes (whole blocks) are free; `None`: what was filled is free again.
///
/// The daemon may write to the disk meanwhile: what is free is asked again until it is as wished.
pub fn fill_disk(dir: &Path, leaves: Option<Size>) -> anyhow::Result<()> {
    let file = dir.join(".filler");
    let Some(Size(leaves)) = leaves else {
        return match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        };
    };
    let mut filler = fs::OpenOptions::new().create(true).append(true).open(&file)?;
    for _ in 0..100 {
        let space = nix::sys::statvfs::statvfs(dir)?;
        let free = space.blocks_available() * space.fragment_size();
        let wanted = leaves.next_multiple_of(space.fragment_size());
        match free.cmp(&wanted) {
            Ordering::Equal => return Ok(()),
            Ordering::Less => filler.set_len(filler.metadata()?.len().saturating_sub(wanted - free))?,
            Ordering::Greater => match io::copy(&mut io::repeat(0x5a).take(free - wanted), &mut filler) {
                Err(error) if error.kind() != io::ErrorKind::StorageFull => {
                    return Err(error).context("filling the disk");
                }
                // If it is full already, somebody took of the room that was seen.
                _ => {}
            },
        }
    }
    bail!("filling the disk: {leaves} bytes free were wanted, but others go on writing to it")
}

/// Removes the files of a directory.
pub fn remove_files(dir: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_file() {
            match fs::remove_file(&path) {
                // The daemon renames files of its own.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.with_context(|| path.display().to_string())?,
            }
        }
    }
    Ok(())
}

/// Connections that were begun in this network, whatever became of them.
pub fn connections_tried() -> anyhow::Result<u64> {
    let table = fs::read_to_string("/proc/self/net/snmp")?;
    let mut lines = table.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let value = pairs.find(|(name, _)| *name == "ActiveOpens").and_then(|(_, value)| value.parse().ok());
    value.context("/proc/self/net/snmp has no Tcp ActiveOpens")
}

fn run(program: &str, words: &[&str]) -> anyhow::Result<()> {
    let program = requirements::tool(program).with_context(|| format!("{program} is not installed"))?;
    let output = Command::new(&program).args(words).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!(
            "{} {}: {}",
            program.display(),
            words.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
