//! The file systems of a container's disks, and the one with files of the host, in guest init's own mount namespace.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use protocol::{ContainerConfig, ContainerId, SHARED_FILES_TAG, VOLUME_DIRECTORY, VolumeMount};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use crate::failure::{Context, Result, failure};
use crate::platform::Platform;
use crate::{log, sys};

/// Options of every ext4 file system.
const EXT4: &std::ffi::CStr = c"discard,noinit_itable,errors=remount-ro";

/// The mounted file systems of a container. Dropping unmounts them.
#[derive(Debug)]
pub(crate) struct Disks {
    directory: PathBuf,
    mounted: Vec<PathBuf>,
    /// Those of `mounted` that may be written to: the scratch disk and volumes.
    writable: Vec<PathBuf>,
    /// In the order of the configuration.
    volumes: Vec<PathBuf>,
}

impl Disks {
    /// Mounts all of them.
    pub(crate) fn mount(platform: &dyn Platform, id: &ContainerId, config: &ContainerConfig) -> Result<Self> {
        let directory = platform.work().join(&id.0);
        let mut disks = Self { directory, mounted: Vec::new(), writable: Vec::new(), volumes: Vec::new() };
        let [image, scratch, root] = ["image", "scratch", "root"].map(|name| disks.directory.join(name));
        for path in [&disks.directory, &image, &scratch, &root] {
            fs::create_dir(path).context(|| format!("make {}", path.display()))?;
        }
        let device = platform.disk(&config.root_disk)?;
        mount(&device, &image, "erofs", MountFlags::RDONLY, None)
            .context(|| format!("mount the root disk {:?}", config.root_disk))?;
        disks.mounted.push(image.clone());
        let device = platform.disk(&config.scratch_disk)?;
        mount(&device, &scratch, "ext4", MountFlags::NOATIME, EXT4)
            .context(|| format!("mount the scratch disk {:?}", config.scratch_disk))?;
        disks.mounted.push(scratch.clone());
        disks.writable.push(scratch.clone());
        prepare_scratch(&scratch, &image).context(|| format!("prepare the scratch disk {:?}", config.scratch_disk))?;
        disks.mount_overlay(&image, &scratch, &root)?;
        disks.mounted.push(root);
        for volume in &config.volumes {
            disks.mount_volume(platform, volume).context(|| format!("mount the volume disk {:?}", volume.disk))?;
        }
        if !config.binds.is_empty() {
            disks.mount_shared_files()?;
        }
        Ok(disks)
    }

    /// Device nodes of the host mean other devices here.
    fn mount_shared_files(&mut self) -> Result<()> {
        let path = self.shared_files();
        fs::create_dir(&path).context(|| format!("make {}", path.display()))?;
        mount(SHARED_FILES_TAG, &path, "virtiofs", MountFlags::NODEV, None)
            .context(|| "mount the files of the host".to_owned())?;
        self.mounted.push(path);
        Ok(())
    }

    /// Where the files of the host are mounted, if the configuration has any.
    pub(crate) fn shared_files(&self) -> PathBuf {
        self.directory.join("binds")
    }

    fn mount_volume(&mut self, platform: &dyn Platform, volume: &VolumeMount) -> Result<()> {
        let path = self.directory.join(format!("volume{}", self.volumes.len()));
        fs::create_dir(&path).context(|| format!("make {}", path.display()))?;
        self.volumes.push(path.clone());
        let device = platform.disk(&volume.disk)?;
        let mounted = mount(&device, &path, "ext4", MountFlags::NOATIME, EXT4);
        let is_writable = match mounted {
            Err(Errno::ACCESS | Errno::ROFS) if volume.read_only => {
                // The disk itself is read-only. What its journal may hold cannot be written to it.
                mount(&device, &path, "ext4", MountFlags::RDONLY | MountFlags::NOATIME, c"noload")
                    .context(|| "read-only".to_owned())?;
                false
            }
            result => result.map(|()| true).context(|| "ext4".to_owned())?,
        };
        self.mounted.push(path.clone());
        let data = path.join(VOLUME_DIRECTORY);
        if is_writable {
            self.writable.push(path.clone());
            match fs::create_dir(&data).and_then(|()| fs::set_permissions(&data, fs::Permissions::from_mode(0o755))) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return failure(format!("make its directory {VOLUME_DIRECTORY}: {error}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Where the volumes are mounted, in the order of the configuration.
    pub(crate) fn volumes(&self) -> &[PathBuf] {
        &self.volumes
    }

    /// Where guest init has its files of the container.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Syncs and freezes what may be written to; all of it, or nothing. Waits for the disks.
    pub(crate) fn freeze(&self) -> Result<()> {
        for path in &self.writable {
            let frozen = open_directory(path).and_then(|directory| {
                rustix::fs::syncfs(&directory)?;
                sys::freeze(&directory)
            });
            match frozen {
                // It is frozen already.
                Ok(()) | Err(Errno::BUSY) => {}
                Err(errno) => {
                    self.thaw();
                    return Err(errno).context(|| "freeze a disk of the container".to_owned());
                }
            }
        }
        Ok(())
    }

    /// The end of a freeze, if there is one.
    pub(crate) fn thaw(&self) {
        for path in &self.writable {
            // EINVAL: it is not frozen.
            let _ = open_directory(path).and_then(|directory| sys::thaw(&directory));
        }
    }

    /// As Docker has it: renamed directories and metadata-only changes are copied up whole, so that the upper layer
    /// is complete in itself.
    fn mount_overlay(&self, image: &Path, scratch: &Path, root: &Path) -> Result<()> {
        let parameters =
            [("lowerdir", image.to_path_buf()), ("upperdir", scratch.join("upper")), ("workdir", scratch.join("work"))];
        let mut options = String::from("index=off,metacopy=off,redirect_dir=off,uuid=null,xino=on");
        for (name, path) in &parameters {
            // Of guest init's directories and a checked name: nothing in it needs escaping.
            options.push_str(&format!(",{name}={}", path.display()));
        }
        let options = std::ffi::CString::new(options).context(|| "overlay options".to_owned())?;
        mount("overlay", root, "overlay", MountFlags::empty(), options.as_c_str())
            .context(|| "mount the overlay of root and scratch disk".to_owned())
    }

    /// Where the overlay is mounted.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.join("root")
    }
}

fn open_directory(path: &Path) -> std::result::Result<std::os::fd::OwnedFd, Errno> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

impl Drop for Disks {
    fn drop(&mut self) {
        self.thaw();
        for path in self.mounted.drain(..).rev() {
            // The whole file system becomes read-only, its journal is empty then: whatever keeps the mount alive
            // can no longer hurt it.
            if self.writable.contains(&path)
                && let Err(errno) = mount_remount(&path, MountFlags::RDONLY, c"")
            {
                log::warn(&format!("make {} read-only: {errno}", path.display()));
            }
            if let Err(errno) = unmount(&path, UnmountFlags::empty()).or_else(|errno| match errno {
                Errno::BUSY => unmount(&path, UnmountFlags::DETACH),
                errno => Err(errno),
            }) {
                log::warn(&format!("unmount {}: {errno}", path.display()));
            }
        }
        // What is left is in memory. Nothing below a mount that is still there is touched.
        let _ = fs::remove_dir_all(self.directory.join("etc"));
        for path in &self.volumes {
            let _ = fs::remove_dir(path);
        }
        for name in ["binds", "image", "scratch", "root", ""] {
            let _ = fs::remove_dir(self.directory.join(name));
        }
    }
}

/// The directories of the overlay. A new upper root looks like the image's root.
fn prepare_scratch(scratch: &Path, image: &Path) -> std::io::Result<()> {
    let upper = scratch.join("upper");
    match fs::create_dir(&upper) {
        Ok(()) => {
            let like = fs::metadata(image)?;
            chown(&upper, Some(like.uid()), Some(like.gid()))?;
            fs::set_permissions(&upper, fs::Permissions::from_mode(like.mode() & 0o7777))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    match fs::create_dir(scratch.join("work")) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
