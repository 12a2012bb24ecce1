//! The host's own bound on a container's machine: what is asked for, what holds, and what is left to clean up.
//!
//! The bound is a cgroup ([`monitor::cgroup`]). What became of it stands in a file beside the container's disks, so
//! that `inspect` can say what holds, and that whoever finds the container of a killed keeper can remove the group.

use std::{fs, path::PathBuf};

use monitor::{Accelerator, Confinement, HostLimits};
use serde_json::{Value, json};

use crate::{home::Home, plan::Plan};

/// The file in a container's directory.
const FILE: &str = "host-limits.json";

/// Longest such file that is read.
const SIZE_MAX: u64 = 16 << 10;

/// What the machine of a container may use of the host: its CPUs, and its guest's memory with what its processes need
/// beside that.
pub(crate) fn of(id: &str, plan: &Plan, accelerator: Accelerator) -> HostLimits {
    let memory = u64::from(plan.machine.memory_mib) << 20;
    HostLimits {
        name: id.to_owned(),
        cpu_milli: plan.host_cpu_milli,
        memory: Some(memory + monitor::cgroup::allowance(accelerator, memory)),
    }
}

fn path(home: &Home, id: &str) -> PathBuf {
    home.container(id).join(FILE)
}

/// Keeps what became of it. That it cannot be kept costs an answer later, and no container.
pub(crate) fn keep(home: &Home, id: &str, confinement: &Confinement) {
    if let Ok(text) = serde_json::to_vec(confinement) {
        let _ = fs::write(path(home, id), text);
    }
}

fn kept(home: &Home, id: &str) -> Option<Confinement> {
    let path = path(home, id);
    let small = fs::metadata(&path).is_ok_and(|found| found.len() <= SIZE_MAX);
    small.then(|| serde_json::from_slice(&fs::read(path).ok()?).ok()).flatten()
}

/// Removes the cgroup that a killed keeper left.
pub(crate) fn release(home: &Home, id: &str) {
    if let Some(cgroup) = kept(home, id).and_then(|confinement| confinement.cgroup) {
        monitor::cgroup::remove_left(&cgroup, id);
    }
}

/// What `inspect` says.
pub(crate) fn inspect(home: &Home, id: &str) -> Value {
    kept(home, id).map_or(Value::Null, |Confinement { cgroup, cpu_milli, memory, problem }| {
        json!({
            "Cgroup": cgroup,
            "NanoCpus": cpu_milli.map(|milli| u64::from(milli) * 1_000_000),
            "Memory": memory,
            "Problem": problem,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_is_kept_and_told() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home { data: directory.path().join("data"), run: directory.path().join("run") };
        let confinement =
            Confinement { cpu_milli: Some(500), problem: Some("no memory".into()), ..Confinement::default() };
        assert_eq!(inspect(&home, "c1"), Value::Null);
        keep(&home, "c1", &confinement);
        assert_eq!(inspect(&home, "c1"), Value::Null);
        crate::home::make_private(&home.container("c1")).unwrap();
        keep(&home, "c1", &confinement);
        let value = inspect(&home, "c1");
        assert_eq!((&value["NanoCpus"], &value["Problem"]), (&json!(500_000_000), &json!("no memory")));
        assert_eq!((&value["Cgroup"], &value["Memory"]), (&Value::Null, &Value::Null));
        fs::write(path(&home, "c1"), "{").unwrap();
        assert_eq!(inspect(&home, "c1"), Value::Null);
        release(&home, "c1");
    }
}
