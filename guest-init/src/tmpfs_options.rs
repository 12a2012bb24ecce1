//! Options of a tmpfs mount as `mount -o` takes them.

use rustix::mount::MountAttrFlags;

/// Options, sorted by who takes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsOptions {
    /// Of the mount.
    pub attributes: MountAttrFlags,
    /// Whether the whole file system is read-only.
    pub read_only: bool,
    /// Of the file system: `(name, value)`, checked by the kernel.
    pub parameters: Vec<(String, Option<String>)>,
}

impl TmpfsOptions {
    /// Reads options; what they do not say is as Docker has it: `noexec`, `nosuid`, `nodev`.
    ///
    /// # Errors
    ///
    /// A sentence that names the unknown option.
    pub fn parse(options: &str) -> Result<Self, String> {
        let mut parsed = Self {
            attributes: MountAttrFlags::MOUNT_ATTR_NOEXEC
                | MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV,
            read_only: false,
            parameters: Vec::new(),
        };
        for option in options.split(',').filter(|option| !option.is_empty()) {
            parsed.apply(option)?;
        }
        Ok(parsed)
    }

    fn apply(&mut self, option: &str) -> Result<(), String> {
        use MountAttrFlags as Flags;
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        match (name, value) {
            ("ro", None) => self.read_only = true,
            ("rw", None) => self.read_only = false,
            ("exec", None) => self.attributes.remove(Flags::MOUNT_ATTR_NOEXEC),
            ("noexec", None) => self.attributes.insert(Flags::MOUNT_ATTR_NOEXEC),
            ("suid", None) => self.attributes.remove(Flags::MOUNT_ATTR_NOSUID),
            ("nosuid", None) => self.attributes.insert(Flags::MOUNT_ATTR_NOSUID),
            ("dev", None) => self.attributes.remove(Flags::MOUNT_ATTR_NODEV),
            ("nodev", None) => self.attributes.insert(Flags::MOUNT_ATTR_NODEV),
            ("nodiratime", None) => self.attributes.insert(Flags::MOUNT_ATTR_NODIRATIME),
            ("diratime", None) => self.attributes.remove(Flags::MOUNT_ATTR_NODIRATIME),
            ("noatime", None) => self.set_access_time(Flags::MOUNT_ATTR_NOATIME),
            ("strictatime" | "norelatime", None) => self.set_access_time(Flags::MOUNT_ATTR_STRICTATIME),
            ("relatime" | "atime" | "defaults", None) => self.set_access_time(Flags::empty()),
            // Without meaning for memory.
            ("sync" | "async" | "dirsync" | "loud" | "silent" | "nomand", None) => {}
            // The container's mounts go nowhere else.
            ("private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared", None) => {}
            ("size" | "nr_blocks" | "nr_inodes" | "mode" | "uid" | "gid" | "huge" | "mpol", Some(value)) => {
                self.parameters.retain(|(known, _)| known != name);
                self.parameters.push((name.to_owned(), Some(value.to_owned())));
            }
            ("noswap" | "inode32" | "inode64", None) => self.parameters.push((name.to_owned(), None)),
            _ => return Err(format!("unknown tmpfs option {option:?}")),
        }
        Ok(())
    }

    fn set_access_time(&mut self, flag: MountAttrFlags) {
        self.attributes.remove(MountAttrFlags::MOUNT_ATTR__ATIME);
        self.attributes.insert(flag);
    }

    /// Whether the mode of the mount's root is said.
    #[must_use]
    pub fn has_mode(&self) -> bool {
        self.parameters.iter().any(|(name, _)| name == "mode")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC
        .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
        .union(MountAttrFlags::MOUNT_ATTR_NODEV);

    #[test]
    fn dockers_defaults() {
        let options = TmpfsOptions::parse("").unwrap();
        assert_eq!(options, TmpfsOptions { attributes: DEFAULT, read_only: false, parameters: vec![] });
    }

    #[test]
    fn the_last_one_counts() {
        let options = TmpfsOptions::parse("exec,size=1m,ro,noexec,size=64m,rw,mode=1777,suid").unwrap();
        assert_eq!(options.attributes, DEFAULT - MountAttrFlags::MOUNT_ATTR_NOSUID);
        assert!(!options.read_only && options.has_mode());
        let size = ("size".to_owned(), Some("64m".to_owned()));
        assert_eq!(options.parameters, [size, ("mode".to_owned(), Some("1777".to_owned()))]);
    }

    #[test]
    fn access_times_exclude_each_other() {
        let options = TmpfsOptions::parse("noatime,strictatime").unwrap();
        assert_eq!(options.attributes, DEFAULT | MountAttrFlags::MOUNT_ATTR_STRICTATIME);
        assert_eq!(TmpfsOptions::parse("noatime,relatime").unwrap().attributes, DEFAULT);
    }

    #[test]
    fn unknown_options_are_named() {
        for option in ["bind", "size", "ro=1", "lowerdir=/x", "exec ", "mode="] {
            let parsed = TmpfsOptions::parse(option);
            assert!(parsed.is_err() || option == "mode=", "{option}: {parsed:?}");
        }
        assert!(TmpfsOptions::parse("rw,frob=3").unwrap_err().contains("\"frob=3\""));
    }
}
