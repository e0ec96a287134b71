//! Idmapped mounts, made as container runtimes make them.

use std::ffi::{CString, c_char, c_int, c_uint, c_ulong};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::libc;

use crate::support::Mounted;

/// The same tree at another place, its owners those of a user namespace: ids from `inside` on are shown from `outside`
/// on. Users and groups alike.
pub fn idmapped(
    tree: &Path,
    mountpoint: &Path,
    (inside, outside, count): (u32, u32, u32),
) -> io::Result<Mounted> {
    let namespace = user_namespace(&format!("{inside} {outside} {count}"))?;
    let copy = open_tree(tree)?;
    mount_setattr(copy.as_raw_fd(), namespace.as_raw_fd())?;
    fs::create_dir_all(mountpoint)?;
    move_mount(copy.as_raw_fd(), mountpoint)?;
    Ok(Mounted(mountpoint.to_owned()))
}

/// A user namespace with this map, kept by its descriptor.
fn user_namespace(map: &str) -> io::Result<File> {
    // `cat` waits for the end of its input; it is in the namespace as soon as its maps can be written.
    let mut child = Command::new("unshare")
        .args(["--user", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let own = fs::read_link("/proc/self/ns/user")?;
    let of_child = format!("/proc/{}/ns/user", child.id());
    for _ in 0..500 {
        if fs::read_link(&of_child)? != own {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let made = || {
        for file in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{file}", child.id()), map)?;
        }
        File::open(&of_child)
    };
    let made = made();
    drop(child.stdin.take());
    child.wait()?;
    made
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("test paths have no NUL")
}

fn answer(result: libc::c_long) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as c_int) }
}

fn open_tree(path: &Path) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: c_uint = 1;
    let path = c_path(path);
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as c_uint;
    // SAFETY: the path is a C string that outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    // SAFETY: a descriptor that nobody else has.
    answer(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn mount_setattr(mount: RawFd, namespace: RawFd) -> io::Result<()> {
    // struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let attributes: [u64; 4] = [MOUNT_ATTR_IDMAP, 0, 0, namespace as u64];
    let empty: *const c_char = c"".as_ptr();
    let flags = libc::AT_EMPTY_PATH as c_uint;
    // SAFETY: the path is a C string, the attributes are as long as is said, and both outlive the call.
    answer(unsafe {
        let size = size_of_val(&attributes) as c_ulong;
        libc::syscall(libc::SYS_mount_setattr, mount, empty, flags, attributes.as_ptr(), size)
    })
    .map(drop)
}

fn move_mount(mount: RawFd, mountpoint: &Path) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;
    let mountpoint = c_path(mountpoint);
    let flags = MOVE_MOUNT_F_EMPTY_PATH;
    let (to, path) = (libc::AT_FDCWD, mountpoint.as_ptr());
    // SAFETY: both paths are C strings that outlive the call.
    answer(unsafe { libc::syscall(libc::SYS_move_mount, mount, c"".as_ptr(), to, path, flags) }).map(drop)
}
