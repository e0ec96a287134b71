//! File handles, as NFS servers and CRIU keep them, outlive what the kernel remembers of a file; and those that somebody
//! made up lead nowhere.

use std::collections::BTreeMap;
use std::ffi::{CString, c_int};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use nydus_tests::daemon::complaints;
use nydus_tests::require_mounts;
use nydus_tests::rng::Rng;

use crate::support::{VERSIONS, Workshop, drop_inodes, errno};

/// `struct file_handle` of a FUSE file system.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Handle {
    bytes: u32,
    kind: c_int,
    /// Node number, upper half first, and generation.
    words: [u32; 3],
}

/// FILEID_INO64_GEN.
const KIND: c_int = 0x81;

impl Handle {
    fn of_node(node: u64) -> Self {
        Self { bytes: 12, kind: KIND, words: [(node >> 32) as u32, node as u32, 0] }
    }

    fn of(path: &Path) -> Self {
        let mut handle = Self { bytes: 12, kind: 0, words: [0; 3] };
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        let mut mount_id = 0;
        let place: *mut Self = &mut handle;
        // SAFETY: the handle has room for the 12 bytes that it claims; all pointers outlive the call.
        let result = unsafe {
            libc::syscall(libc::SYS_name_to_handle_at, libc::AT_FDCWD, path.as_ptr(), place, &mut mount_id, 0)
        };
        assert_eq!(result, 0, "{path:?}: {}", io::Error::last_os_error());
        assert_eq!((handle.bytes, handle.kind), (12, KIND));
        handle
    }

    fn open(&self, mount: &File, flags: c_int) -> io::Result<File> {
        let place: *const Self = self;
        // SAFETY: the kernel only reads the handle, which is as long as it says.
        let fd = unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), place, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that nobody else has.
        Ok(unsafe { File::from_raw_fd(fd as c_int) })
    }
}

/// The tree below `root`: path and inode number of every entry.
fn entries(root: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::from([(root.to_owned(), fs::metadata(root).unwrap().ino())]);
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                pending.push(path.clone());
            }
            found.insert(path, metadata.ino());
        }
    }
    found
}

/// An attribute, all of whose bytes together look like inodes of v6: compact ones of a file with the setuid bit, at each
/// offset that an inode can have.
fn fill_with_lookalikes(root: &Path) {
    let mut inode = [0; 32];
    // The name behind the prefix has 4 bytes, so that values lie at multiples of 4.
    // Format (compact, chunked), no attributes, mode, links, size 0; the union says chunks of 1 MiB.
    inode[..8].copy_from_slice(&[8, 0, 0, 0, 0xed, 0x89, 1, 0]);
    inode[16] = 0x28;
    for shift in (0..32).step_by(4) {
        let mut value = vec![0; shift];
        (0..8).for_each(|_| value.extend(inode));
        xattr::set(root.join("lookalikes"), format!("user.{shift:04}"), &value).unwrap();
    }
}

fn fill(root: &Path) {
    let mut directory = root.to_owned();
    for depth in 0..12 {
        directory.push(format!("depth{depth}"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("file"), format!("file at {depth}")).unwrap();
        symlink("file", directory.join("link")).unwrap();
    }
    mkfifo(&directory.join("fifo"), Mode::from_bits_truncate(0o644)).unwrap();
    fs::hard_link(directory.join("file"), root.join("hard")).unwrap();
    (0..40).for_each(|number| fs::write(root.join(format!("many{number}")), b"").unwrap());
    fs::write(root.join("lookalikes"), "x").unwrap();
    fill_with_lookalikes(root);
}

#[test]
fn handles_outlive_the_kernels_inodes() {
    require_mounts!();
    let workshop = Workshop::new();
    fill(&workshop.source());
    for version in VERSIONS {
        let daemon = workshop.mount(version);
        let root = daemon.mountpoint().to_owned();
        let handles: Vec<_> =
            entries(&root).into_iter().map(|(path, ino)| (Handle::of(&path), path, ino)).collect();
        daemon.unmount();
        // Those that another daemon gave are as good.
        let daemon = workshop.launch(&[]).start();
        let mount = File::open(&root).unwrap();
        for (handle, path, ino) in &handles {
            let context = format!("v{version}: {}", path.display());
            drop_inodes();
            let opened = handle.open(&mount, libc::O_PATH);
            let opened = opened.unwrap_or_else(|error| panic!("{context}: {error}")).metadata().unwrap();
            let of_path = fs::symlink_metadata(path).unwrap();
            assert_eq!((opened.ino(), opened.mode()), (*ino, of_path.mode()), "{context}");
            drop_inodes();
            if of_path.is_dir() {
                let opened = handle.open(&mount, libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
                let known = fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).unwrap();
                assert_eq!(known, *path, "{context}: the way to the root is found");
            } else if of_path.is_file() {
                let mut content = String::new();
                handle.open(&mount, libc::O_RDONLY).unwrap().read_to_string(&mut content).unwrap();
                assert_eq!(content, fs::read_to_string(path).unwrap(), "{context}");
            }
        }
        drop(mount);
        daemon.unmount();
    }
}

#[test]
fn handles_that_were_made_up_lead_to_no_other_inode() {
    require_mounts!();
    let workshop = Workshop::new();
    fill(&workshop.source());
    let mut logs = Vec::new();
    for version in VERSIONS {
        let daemon = workshop.mount(version);
        let root = daemon.mountpoint().to_owned();
        let known: Vec<u64> = entries(&root).into_values().collect();
        let mount = File::open(&root).unwrap();
        let largest = fs::metadata(workshop.bootstrap()).unwrap().len() / 32 + 200;
        let mut rng = Rng::new(7);
        let extremes =
            [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 59, (1 << 59) - 1, 1 << 32, u64::from(u32::MAX)];
        drop_inodes();
        let mut found = 0;
        for node in (0..largest).chain(extremes).chain((0..1000).map(|_| rng.next_u64())) {
            match Handle::of_node(node).open(&mount, libc::O_PATH) {
                Ok(file) => {
                    let ino = file.metadata().unwrap().ino();
                    assert!(
                        known.contains(&ino),
                        "v{version}: node {node} gives inode {ino}, which is in no directory"
                    );
                    found += 1;
                }
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(Errno::ESTALE as i32), "v{version}: node {node}")
                }
            }
        }
        let mut distinct = known.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(found, distinct.len(), "v{version}: every inode is found by its number");
        let mut of_another_generation = Handle::of(&root.join("hard"));
        of_another_generation.words[2] = 1;
        assert_eq!(errno(of_another_generation.open(&mount, libc::O_PATH)), Some(Errno::ESTALE));
        logs.extend(complaints(&daemon.stderr()).into_iter().filter(|line| line.contains("inode")));
        drop(mount);
        daemon.unmount();
    }
    assert!(logs.is_empty(), "handles fill the log: {} lines, the first is {}", logs.len(), logs[0]);
}
