//! Open files: how many the process may have, and room for them.

use std::fs::File;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Most that room is made for ahead: a place takes eight bytes of the kernel's.
const ROOM_MAX: usize = 1 << 17;

/// Returns how many the process may have; `None` when there is no bound.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Raises the limit as far as the process may; returns what it is then.
pub fn raise_limit() -> Option<u64> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Where it is not granted the limit stays, and tells by itself.
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).ok();
    limit()
}

/// Has the kernel make room for `count` open files, as far as the limit goes, and for `ROOM_MAX` at most.
///
/// It doubles a table that is full, and in a process with threads it then waits until every core has let go of the old one
/// (`expand_fdtable` in Linux's fs/file.c): 10 to 25 ms at 256, 512, 1,024 … connections, in which none is accepted. Room
/// that can't be made ahead is made when it is needed.
pub fn make_room(count: usize) {
    let room = limit().map_or(ROOM_MAX as u64, |limit| limit.min(ROOM_MAX as u64)).min(count as u64);
    // Anything, opened once more at the last place and closed again.
    if let Ok(any) = File::open("/dev/null") {
        fcntl_dupfd_cloexec(&any, room.saturating_sub(1) as i32).ok();
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn room_is_made_within_the_bounds() {
        let room = || {
            let status = fs::read_to_string("/proc/self/status").expect("the kernel tells about its processes");
            let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).expect("it tells of descriptors");
            size.trim().parse::<usize>().expect("a number")
        };
        make_room(0);
        make_room(4000);
        assert!(room() >= 4000);
        // The kernel rounds up.
        make_room(usize::MAX);
        assert!(room() <= 2 * ROOM_MAX);
    }
}
