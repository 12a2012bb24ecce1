//! What a container's root looks like, and what is mounted in it.

use clap::Args;
use engine::{
    mounts::{MountRequest, parse_mount, parse_volume},
    request::{TmpfsRequest, parse_tmpfs},
};

#[derive(Debug, Args)]
#[command(next_help_heading = "Files")]
pub(crate) struct FileFlags {
    /// Mount a volume, made if it is missing; without a name a new one of its own; with a path of the host in place of the
    /// name, that directory or file
    #[arg(short, long, value_name = "[NAME|HOST-PATH:]PATH[:ro]", value_parser = parse_volume)]
    pub(crate) volume: Vec<MountRequest>,
    /// Mount something, as in type=volume,source=NAME,target=PATH,readonly, type=bind,source=HOST-PATH,target=PATH or
    /// type=tmpfs,target=PATH,tmpfs-size=64m
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = parse_mount)]
    pub(crate) mount: Vec<MountRequest>,
    /// Make the root read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Mount a tmpfs, with options as of mount(8)
    #[arg(long, value_name = "PATH[:OPTIONS]", value_parser = parse_tmpfs)]
    pub(crate) tmpfs: Vec<TmpfsRequest>,
}
