//! File descriptors: the process's limit, room in the kernel's table, and a reserve for when clients use all others.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::{FdFlags, dup2, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Most descriptors that room is made for in advance: each takes eight bytes of the kernel's memory.
const ROOM_MAX: usize = 1 << 17;

/// Descriptors in a full reserve.
const RESERVED: usize = 6;

/// Returns how many descriptors the process may have; `None` when there is no limit.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Raises the limit as far as the process may; returns the new limit.
pub fn raise_limit() -> Option<u64> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // If this fails the old limit stays, and is returned.
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).ok();
    limit()
}

/// Returns how many descriptors the process may have beside `others`; `None` when there is no limit.
pub(crate) fn left_beside(others: u64) -> Option<u64> {
    limit().map(|limit| limit.saturating_sub(others))
}

/// Makes the kernel enlarge the process's descriptor table for `count` open files, up to the limit, and 131,072 at most.
///
/// The kernel doubles a full table. In a process with threads it then waits until no core uses the old table any more
/// (`expand_fdtable` in Linux's fs/file.c): that takes 10 to 25 ms at 256, 512, 1,024 … connections, in which none is
/// accepted. If this call fails, the kernel enlarges the table when it is full.
pub fn make_room(count: usize) {
    let room = limit().map_or(ROOM_MAX as u64, |limit| limit.min(ROOM_MAX as u64)).min(count as u64);
    // Duplicates a descriptor to the highest number, and closes the duplicate again.
    if let Ok(any) = File::open("/dev/null") {
        fcntl_dupfd_cloexec(&any, room.saturating_sub(1) as i32).ok();
    }
}

/// Descriptors for the connections of control, so that an operator can still query the node when
/// clients use all other descriptors; clones share one reserve.
///
/// The gateway waits for a free descriptor, and takes it at once. So a descriptor must never be free between the reserve and
/// a connection: the reserve lends it under a lock that the gateway takes to accept ([`Reserve::lend`],
/// [`Reserve::while_not_lending`]), and replaces a connection that ends in place ([`Reserve::take_back`]).
#[derive(Clone, Default)]
pub(crate) struct Reserve(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    /// `/dev/null`; the spares are duplicates of it. `None` in a process that can't open it, which has no reserve.
    null: Option<File>,
    /// Each occupies a descriptor until it is lent; at most [`RESERVED`].
    spares: Vec<OwnedFd>,
}

impl Held {
    fn fill(&mut self) {
        if self.null.is_none() {
            self.null = File::open("/dev/null").ok();
        }
        while self.spares.len() < RESERVED {
            let Some(Ok(spare)) = self.null.as_ref().map(|null| fcntl_dupfd_cloexec(null, 0)) else { return };
            self.spares.push(spare);
        }
    }
}

impl Reserve {
    /// Takes free descriptors until the reserve is full, or none is free.
    pub(crate) fn fill(&self) {
        self.lock().fill();
    }

    /// Frees one descriptor of the reserve, and runs `accept`, which may take it; `None` if the reserve is empty.
    ///
    /// `accept` must not wait: the gateway can't accept meanwhile.
    pub(crate) fn lend<T>(&self, accept: impl FnOnce() -> T) -> Option<T> {
        let mut held = self.lock();
        drop(held.spares.pop()?);
        let accepted = accept();
        // If nothing was opened, the descriptor is still free.
        held.fill();
        Some(accepted)
    }

    /// Runs `accept` while the reserve lends no descriptor. Every listener except control's accepts in this way.
    ///
    /// `accept` must not wait.
    pub(crate) fn while_not_lending<T>(&self, accept: impl FnOnce() -> T) -> T {
        let _held = self.lock();
        accept()
    }

    /// Closes `ending`, and keeps its descriptor as a spare if one is missing.
    pub(crate) fn take_back(&self, mut ending: OwnedFd) {
        let mut held = self.lock();
        if held.spares.len() >= RESERVED {
            return;
        }
        // The kernel closes `ending` and reuses its number in one step (dup2(2)).
        let Some(Ok(())) = held.null.as_ref().map(|null| dup2(null, &mut ending)) else { return };
        fcntl_setfd(&ending, FdFlags::CLOEXEC).ok();
        held.spares.push(ending);
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn connection_that_ends_leaves_its_descriptor_to_the_reserve() {
        let reserve = Reserve::default();
        reserve.fill();
        assert_eq!(reserve.lock().spares.len(), RESERVED);
        // As in a shortage, in which a descriptor that was lent can't be replaced.
        let (near, mut far) = UnixStream::pair().expect("two descriptors are free");
        reserve.lock().spares.pop();
        let number = near.as_raw_fd();
        reserve.take_back(near.into());
        assert_eq!(far.read(&mut [0]).ok(), Some(0), "the connection is closed");
        let kept = reserve.lock().spares.last().map(AsRawFd::as_raw_fd);
        assert_eq!(kept, Some(number), "the number was free at no time");

        let number = far.as_raw_fd();
        reserve.take_back(far.into());
        let held = reserve.lock();
        assert_eq!(held.spares.len(), RESERVED);
        assert!(held.spares.iter().all(|spare| spare.as_raw_fd() != number), "a full reserve keeps none");
    }

    #[test]
    fn empty_reserve_lends_nothing_and_what_is_not_used_comes_back() {
        let reserve = Reserve::default();
        assert_eq!(reserve.lend(|| ()), None);
        reserve.fill();
        assert_eq!(reserve.lend(|| ()), Some(()));
        assert_eq!(reserve.lock().spares.len(), RESERVED);
    }

    #[test]
    fn room_is_made_within_the_bounds() {
        let room = || {
            let status = fs::read_to_string("/proc/self/status").expect("the kernel describes its processes");
            let size = status
                .lines()
                .find_map(|line| line.strip_prefix("FDSize:"))
                .expect("it has the size of the descriptor table");
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
