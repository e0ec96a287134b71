//! Owners, as a mount shows them: those of the image, or those that a user namespace makes of them.
//!
//! Invariant: wherever an id of the image gets out (attributes, ACLs, capabilities), it is mapped, and one that the
//! namespace does not know becomes the kernel's overflow id, which nobody is.

use std::fs;

use nydus_config::IdMapping;

/// What the kernel has for `overflowuid` and `overflowgid` unless told otherwise.
const OVERFLOW: u32 = 65534;

/// The ids of a mount.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owners {
    mapping: IdMapping,
    overflow_uid: u32,
    overflow_gid: u32,
}

impl Owners {
    /// Those of `mapping`.
    pub(crate) fn new(mapping: IdMapping) -> Self {
        Self { mapping, overflow_uid: overflow("overflowuid"), overflow_gid: overflow("overflowgid") }
    }

    /// The user of the host that is `id` in the image.
    pub(crate) fn uid(&self, id: u32) -> u32 {
        self.mapped(id).unwrap_or(self.overflow_uid)
    }

    /// The group of the host that is `id` in the image.
    pub(crate) fn gid(&self, id: u32) -> u32 {
        self.mapped(id).unwrap_or(self.overflow_gid)
    }

    fn mapped(&self, id: u32) -> Option<u32> {
        let place = id.checked_sub(self.mapping.inside).filter(|place| *place < self.mapping.count)?;
        self.mapping.outside.checked_add(place)
    }

    /// Maps the ids in the value of the extended attribute `name`. A value that is not of the attribute's form stays.
    pub(crate) fn map_xattr(&self, name: &[u8], value: &mut [u8]) {
        match name {
            b"system.posix_acl_access" | b"system.posix_acl_default" => self.map_acl(value),
            b"security.capability" => self.map_capability(value),
            _ => {}
        }
    }

    /// `struct posix_acl_xattr_header`: u32 version; then `struct posix_acl_xattr_entry`: u16 tag, u16 permissions, u32 id.
    fn map_acl(&self, value: &mut [u8]) {
        const USER: u16 = 2;
        const GROUP: u16 = 8;
        let Some(entries) = value.get_mut(4..) else { return };
        for entry in entries.chunks_exact_mut(8) {
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            let mapped = match u16::from_le_bytes([entry[0], entry[1]]) {
                USER => self.uid(id),
                GROUP => self.gid(id),
                _ => continue,
            };
            entry[4..].copy_from_slice(&mapped.to_le_bytes());
        }
    }

    /// `struct vfs_ns_cap_data`: u32 magic, revision 3 in its high byte; four words of capabilities; u32 rootid, the user
    /// who is root where they count. Revision 2 ends before it and counts everywhere.
    fn map_capability(&self, value: &mut [u8]) {
        let is_revision_3 = value.get(3) == Some(&3);
        if let Some(root) = value.get_mut(20..24).filter(|_| is_revision_3) {
            let id = u32::from_le_bytes([root[0], root[1], root[2], root[3]]);
            root.copy_from_slice(&self.uid(id).to_le_bytes());
        }
    }
}

fn overflow(name: &str) -> u32 {
    let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    text.trim().parse().unwrap_or(OVERFLOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners() -> Owners {
        let mapping = IdMapping { inside: 10, outside: 1000, count: 5 };
        Owners { mapping, overflow_uid: 65534, overflow_gid: 65533 }
    }

    #[test]
    fn ids_of_the_range_are_shifted_and_others_overflow() {
        let owners = owners();
        for (id, uid, gid) in [
            (9, 65534, 65533),
            (10, 1000, 1000),
            (14, 1004, 1004),
            (15, 65534, 65533),
            (0, 65534, 65533),
            (u32::MAX, 65534, 65533),
        ] {
            assert_eq!((owners.uid(id), owners.gid(id)), (uid, gid), "{id}");
        }
    }

    #[test]
    fn ids_of_acls_and_capabilities_are_mapped() {
        let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[7, 0], &id.to_le_bytes()].concat();
        let acl = |user, group| {
            let none = u32::MAX;
            [&2u32.to_le_bytes()[..], &entry(1, none), &entry(2, user), &entry(8, group), &entry(16, none)]
                .concat()
        };
        let mut value = acl(11, 99);
        owners().map_xattr(b"system.posix_acl_default", &mut value);
        assert_eq!(value, acl(1001, 65533));

        let capability = |root: u32| [&[1, 0, 0, 3], &[7; 16][..], &root.to_le_bytes()].concat();
        let mut value = capability(12);
        owners().map_xattr(b"security.capability", &mut value);
        assert_eq!(value, capability(1002));
    }

    #[test]
    fn values_of_another_form_stay() {
        for (name, value) in [
            (&b"user.acl"[..], &[2; 20][..]),
            (b"system.posix_acl_access", b"\x02\0\0"),
            (b"system.posix_acl_access", b"\x02\0\0\0\x02\0\x07"),
            (b"security.capability", b"\x01\0\0\x02aaaabbbbccccdddd"),
            (b"security.capability", b"\x01\0\0\x03aaaa"),
            (b"security.capability", b""),
        ] {
            let mut mapped = value.to_vec();
            owners().map_xattr(name, &mut mapped);
            assert_eq!(mapped, value);
        }
    }
}
