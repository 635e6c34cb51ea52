//! The memory that the process may use: the machine's, or the limit of its control group if that is lower.

use std::fs;
use std::path::{Path, PathBuf};

/// The assumed memory of a machine that does not report it, in bytes.
const UNKNOWN: usize = 2 << 30;

/// Returns half of the memory that the process may use, in whole MiB: the other half is for the kernel's buffers and all
/// memory that isn't counted.
pub(super) fn half() -> usize {
    const MIB: usize = 1 << 20;
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text)).unwrap_or(UNKNOWN);
    let usable = limits().into_iter().fold(machine, usize::min);
    (usable / 2 / MIB).max(1) * MIB
}

/// Finds the machine's memory in the text of `/proc/meminfo`.
fn total(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Reads the limits of the process's control group and those around it, in both versions' places.
fn limits() -> Vec<usize> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    files(&groups).iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).collect()
}

/// Names the files that may hold a limit, from the text of `/proc/self/cgroup`.
///
/// In a container the path is that of the host or `/`, so the files of the root groups are read, too.
fn files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (root, file) = match parts.next() {
            Some("") => ("/sys/fs/cgroup", "memory.max"),
            Some("memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let path = parts.next().unwrap_or_default().trim_start_matches('/');
        files.extend(Path::new(path).ancestors().map(|group| Path::new(root).join(group).join(file)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_found() {
        assert_eq!(total("MemTotal:       16303412 kB\nMemFree:  1 kB\n"), Some(16_303_412 << 10));
        assert_eq!(total("MemFree:  1 kB\n"), None);
        assert_eq!(total("MemTotal: many kB\n"), None);
    }

    #[test]
    fn limits_are_looked_for_up_to_the_root() {
        let files = |groups| files(groups).iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
        assert_eq!(files("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
        assert_eq!(
            files("0::/a/b\n"),
            ["/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/memory.max", "/sys/fs/cgroup/memory.max"]
        );
        assert_eq!(
            files("4:memory:/x\n3:cpu:/x\n"),
            ["/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
        assert_eq!(files("nonsense"), [""; 0]);
    }

    #[test]
    fn half_is_something() {
        assert!(half() >= 1 << 20);
    }
}
