//! What a server under load costs, read from Linux's `/proc`: CPU, context switches, private memory.
//!
//! A server is a process and its children, because some fork workers. A reading takes a few system calls per thread, so it
//! is made before and after the measured time, never during it.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// Ticks a second of `utime` and `stime`: the kernel's USER_HZ, 100 on every Linux that Rust runs on.
const TICK: Duration = Duration::from_millis(10);

/// Fewest ticks by which CPU time is split into user space and kernel, of which each must have one: with ten, a tick is a
/// tenth of the whole.
const SPLIT_TICKS_MIN: u32 = 10;

/// Readings of memory count as settled when two of them, this far apart, differ by less than a thousandth.
const SETTLE_INTERVAL: Duration = Duration::from_millis(250);

/// A process whose cost is wanted, with its children.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    pid: u32,
    /// A thread that is not counted: the generator's, if the server is in the same process.
    except: Option<u32>,
}

/// Why a process could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// It does not exist, or its files may not be read.
    #[error("cannot read /proc/{pid}/{file}: {kind}", kind = source.kind())]
    Unreadable {
        /// The process asked for.
        pid: u32,
        /// The file under its directory.
        file: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its text differs from the kernel's documentation.
    #[error("cannot make sense of /proc/{pid}/{file}")]
    Format {
        /// The process asked for.
        pid: u32,
        /// The file under its directory.
        file: &'static str,
    },
}

/// What a process has used since it began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// User time, in whole ticks.
    user: Duration,
    /// System time, in whole ticks.
    system: Duration,
    /// Time on a processor of the threads that live, to the nanosecond; zero where the kernel does not report it.
    exact: Duration,
    voluntary_switches: u64,
    involuntary_switches: u64,
    /// Each thread by its number.
    threads: Vec<(u32, Schedule)>,
}

/// What a process used between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Spent {
    /// User and system time.
    pub(super) cpu: Duration,
    /// Part of `cpu` in user space: the split is by ticks. None if there were too few to tell.
    pub(super) user_share: Option<f64>,
    pub(super) voluntary_switches: u64,
    pub(super) involuntary_switches: u64,
    /// Time that its busiest thread ran, or was ready to.
    pub(super) busiest_thread: Duration,
}

impl Usage {
    /// What was used from `before` to this reading.
    pub(super) fn since(&self, before: &Usage) -> Spent {
        let user = self.user.saturating_sub(before.user);
        let system = self.system.saturating_sub(before.system);
        let exact = self.exact.saturating_sub(before.exact);
        // The exact time of a thread that ended between the readings is lost; the ticks still include it.
        let cpu = if exact + 3 * TICK >= user + system { exact } else { user + system };
        let is_split = user >= TICK && system >= TICK && user + system >= TICK * SPLIT_TICKS_MIN;
        Spent {
            cpu,
            user_share: is_split.then(|| user.as_secs_f64() / (user + system).as_secs_f64()),
            voluntary_switches: self.voluntary_switches.saturating_sub(before.voluntary_switches),
            involuntary_switches: self.involuntary_switches.saturating_sub(before.involuntary_switches),
            busiest_thread: self.busiest_thread_since(before),
        }
    }
}

impl Usage {
    /// That of a process whose one thread has run for so long.
    #[cfg(test)]
    pub(super) fn of_one_thread(running: Duration) -> Self {
        Self { threads: vec![(1, Schedule { running, ..Schedule::default() })], ..Self::default() }
    }

    fn busiest_thread_since(&self, before: &Usage) -> Duration {
        let earlier = |number: u32| before.threads.iter().find(|(other, _)| *other == number).map(|(_, at)| *at);
        self.threads
            .iter()
            .map(|(number, now)| (now, earlier(*number).unwrap_or_default()))
            .map(|(now, then)| (now.running + now.waiting).saturating_sub(then.running + then.waiting))
            .max()
            .unwrap_or_default()
    }
}

impl Process {
    /// Names a process, and makes sure that it can be read.
    pub(super) fn open(pid: u32) -> Result<Self, ProcessError> {
        let process = Self { pid, except: None };
        process.usage()?;
        process.private_bytes()?;
        Ok(process)
    }

    /// Names this process without the calling thread.
    pub(super) fn around_this_thread() -> Result<Self, ProcessError> {
        let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        Ok(Self { except: Some(thread), ..Self::open(std::process::id())? })
    }

    /// Reads what it and its children have used.
    pub(super) fn usage(&self) -> Result<Usage, ProcessError> {
        let mut usage = Usage::default();
        for pid in self.family()? {
            let stat = parse_stat(&read(pid, "stat")?).ok_or(ProcessError::Format { pid, file: "stat" })?;
            usage.user += stat.user;
            usage.system += stat.system;
            let threads = fs::read_dir(format!("/proc/{pid}/task"));
            let threads = threads.map_err(|source| ProcessError::Unreadable { pid, file: "task", source })?;
            for thread in threads.flatten() {
                let number = thread.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or_default();
                if self.except == Some(number) {
                    let stat = fs::read_to_string(thread.path().join("stat")).ok().and_then(|text| parse_stat(&text));
                    if let Some(stat) = stat {
                        usage.user = usage.user.saturating_sub(stat.user);
                        usage.system = usage.system.saturating_sub(stat.system);
                    }
                    continue;
                }
                // A thread may end at any time: then it has nothing to tell.
                let schedstat = fs::read_to_string(thread.path().join("schedstat")).ok();
                let schedule = schedstat.and_then(|text| parse_schedstat(&text)).unwrap_or_default();
                usage.exact += schedule.running;
                usage.threads.push((number, schedule));
                let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
                usage.voluntary_switches += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
                usage.involuntary_switches += field(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
            }
        }
        Ok(usage)
    }

    /// Reads the private memory of the process and its children: the memory that would be free if they ended.
    pub(super) fn private_bytes(&self) -> Result<u64, ProcessError> {
        let mut bytes = 0;
        for pid in self.family()? {
            let text = read(pid, "smaps_rollup")?;
            bytes += parse_private_bytes(&text).ok_or(ProcessError::Format { pid, file: "smaps_rollup" })?;
        }
        Ok(bytes)
    }

    /// Counts the files and sockets that it and its children have open.
    pub(super) fn descriptors(&self) -> Result<u64, ProcessError> {
        let mut descriptors = 0;
        for pid in self.family()? {
            let files = fs::read_dir(format!("/proc/{pid}/fd"));
            let files = files.map_err(|source| ProcessError::Unreadable { pid, file: "fd", source })?;
            descriptors += files.count() as u64;
        }
        Ok(descriptors)
    }

    /// Reads the private memory once two readings in a row are alike, or `patience` is over.
    pub(super) fn settled_private_bytes(&self, patience: Duration) -> Result<u64, ProcessError> {
        let end = Instant::now() + patience;
        let mut last = self.private_bytes()?;
        loop {
            thread::sleep(SETTLE_INTERVAL);
            let bytes = self.private_bytes()?;
            if bytes.abs_diff(last) <= bytes / 1000 || Instant::now() >= end {
                return Ok(bytes);
            }
            last = bytes;
        }
    }

    /// The process, its children, and theirs.
    fn family(&self) -> Result<Vec<u32>, ProcessError> {
        let unreadable = |source| ProcessError::Unreadable { pid: self.pid, file: "stat", source };
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc").map_err(unreadable)?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let Some(stat) = fs::read_to_string(entry.path().join("stat")).ok().and_then(|text| parse_stat(&text))
            else {
                continue;
            };
            parents.push((pid, stat.parent));
        }
        let mut family = vec![self.pid];
        let mut asked = 0;
        while asked < family.len() {
            let parent = family[asked];
            family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
            asked += 1;
        }
        Ok(family)
    }
}

fn read(pid: u32, file: &'static str) -> Result<String, ProcessError> {
    fs::read_to_string(format!("/proc/{pid}/{file}")).map_err(|source| ProcessError::Unreadable { pid, file, source })
}

/// What the calling thread has used: the generator's own account.
pub(super) fn own_schedule() -> Schedule {
    fs::read_to_string("/proc/thread-self/schedstat").ok().and_then(|text| parse_schedstat(&text)).unwrap_or_default()
}

/// A thread's time with and without a processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Schedule {
    /// On a processor.
    pub(super) running: Duration,
    /// Ready to run, while something else did.
    pub(super) waiting: Duration,
}

/// The kernel's memory for sockets, on the whole machine: it is not known per process. If the server is on this machine,
/// it includes both ends of each connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KernelMemory {
    /// Its objects, sockets and their files among them: `Slab` of `/proc/meminfo`.
    pub(super) slab_bytes: u64,
    /// Data in TCP's buffers and what is set aside for more: `mem` of `TCP` in `/proc/net/sockstat`. Part of it lies in
    /// the slabs as well, so the two do not add up.
    pub(super) tcp_bytes: u64,
}

/// Reads the kernel's memory for sockets; `None` where the kernel does not report it.
pub(super) fn kernel_memory() -> Option<KernelMemory> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let sockstat = fs::read_to_string("/proc/net/sockstat").ok()?;
    let tcp_pages = parse_tcp_pages(&sockstat)?;
    let tcp_bytes = tcp_pages * rustix::param::page_size() as u64;
    Some(KernelMemory { slab_bytes: field(&meminfo, "Slab:")? * 1024, tcp_bytes })
}

/// Parses the pages that TCP has, out of `/proc/net/sockstat`: names and numbers by turns.
fn parse_tcp_pages(text: &str) -> Option<u64> {
    let mut words = text.lines().find_map(|line| line.strip_prefix("TCP:"))?.split_ascii_whitespace();
    words.find(|word| *word == "mem")?;
    words.next()?.parse().ok()
}

/// Counts the TCP segments with data that this machine has sent since it started, not counting what was sent again:
/// `TCPOrigDataSent` of `/proc/net/netstat`. `None` where the kernel does not tell.
pub(super) fn data_segments() -> Option<u64> {
    parse_data_segments(&fs::read_to_string("/proc/net/netstat").ok()?)
}

/// Parses two lines at a time: names, and the number of each.
fn parse_data_segments(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, numbers) = (lines.next()?.split_ascii_whitespace(), lines.next()?.split_ascii_whitespace());
    names.zip(numbers).find(|(name, _)| *name == "TCPOrigDataSent")?.1.parse().ok()
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    user: Duration,
    system: Duration,
}

/// Parses `/proc/PID/stat` (proc(5)). The name in brackets may hold spaces and brackets itself.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, behind_name) = text.rsplit_once(')')?;
    let mut fields = behind_name.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let user: u32 = fields.nth(9)?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(Stat { parent, user: TICK * user, system: TICK * system })
}

/// Parses `schedstat`: nanoseconds on a processor, nanoseconds waiting for one, time slices.
fn parse_schedstat(text: &str) -> Option<Schedule> {
    let mut fields = text.split_ascii_whitespace().map(|field| field.parse().ok().map(Duration::from_nanos));
    Some(Schedule { running: fields.next()??, waiting: fields.next()?? })
}

/// Adds up the private part of `smaps_rollup`, which is in KiB.
fn parse_private_bytes(text: &str) -> Option<u64> {
    Some((field(text, "Private_Clean:")? + field(text, "Private_Dirty:")?) * 1024)
}

/// The number on the line that begins with `name`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_stat(text: &str, expected: Option<(u32, u64, u64)>) {
        let stat =
            parse_stat(text).map(|stat| (stat.parent, stat.user.as_millis() as u64, stat.system.as_millis() as u64));
        assert_eq!(stat, expected, "{text:?}");
    }

    #[test]
    fn stat() {
        check_stat("1 (cat) R 14 14 10 0 -1 41 102 0 0 0 7 12 0 0 20 0 1 0 18 31 39", Some((14, 70, 120)));
        check_stat("1 (a b) c) S 2 14 10 0 -1 41 102 0 0 0 0 1 0 0 20 0 1 0 18 31 39", Some((2, 0, 10)));
        check_stat("1 (cat) R 14 14 10 0 -1 41 102 0 0 0 7", None);
        check_stat("1 (cat) R x 14 10 0 -1 41 102 0 0 0 7 12 0", None);
        check_stat("1 cat", None);
        check_stat("", None);
    }

    #[track_caller]
    fn check_schedstat(text: &str, expected: Option<(u64, u64)>) {
        let parsed = parse_schedstat(text).map(|at| (at.running.as_nanos() as u64, at.waiting.as_nanos() as u64));
        assert_eq!(parsed, expected, "{text:?}");
    }

    #[test]
    fn schedstat() {
        check_schedstat("79275 57269 2\n", Some((79275, 57269)));
        check_schedstat("0 0 0\n", Some((0, 0)));
        check_schedstat("79275", None);
        check_schedstat("many 1 2", None);
        check_schedstat("", None);
    }

    #[track_caller]
    fn check_private(text: &str, expected: Option<u64>) {
        assert_eq!(parse_private_bytes(text), expected, "{text:?}");
    }

    #[test]
    fn private_bytes() {
        check_private(
            "Rss: 9 kB\nShared_Dirty: 5 kB\nPrivate_Clean:  56 kB\nPrivate_Dirty:  116 kB\n",
            Some(172 * 1024),
        );
        check_private("Private_Clean: 0 kB\nPrivate_Dirty: 0 kB\n", Some(0));
        check_private("Private_Clean: 56 kB\n", None);
        check_private("Private_Clean: x kB\nPrivate_Dirty: 1 kB\n", None);
        check_private("", None);
    }

    #[track_caller]
    fn check_tcp_pages(text: &str, expected: Option<u64>) {
        assert_eq!(parse_tcp_pages(text), expected, "{text:?}");
    }

    #[test]
    fn tcp_pages() {
        check_tcp_pages("sockets: used 9\nTCP: inuse 5 orphan 0 tw 2 alloc 8 mem 31\nUDP: inuse 2 mem 7\n", Some(31));
        check_tcp_pages("TCP: inuse 5\nUDP: inuse 2 mem 7\n", None);
        check_tcp_pages("TCP: mem\n", None);
        check_tcp_pages("", None);
    }

    #[track_caller]
    fn check_data_segments(text: &str, expected: Option<u64>) {
        assert_eq!(parse_data_segments(text), expected, "{text:?}");
    }

    #[test]
    fn data_segments_are_found_by_their_name() {
        check_data_segments("TcpExt: A TCPOrigDataSent B\nTcpExt: 1 22 3\nIpExt: C\nIpExt: 4\n", Some(22));
        check_data_segments("TcpExt: A B\nTcpExt: 1 2\n", None);
        check_data_segments("TcpExt: A TCPOrigDataSent\nTcpExt: 1\n", None);
        check_data_segments("TcpExt: TCPOrigDataSent\n", None);
        check_data_segments("TcpExt: TCPOrigDataSent\nTcpExt: x\n", None);
        check_data_segments("", None);
    }

    #[test]
    fn the_busiest_thread_counts() {
        let at = |running, waiting| Schedule {
            running: Duration::from_millis(running),
            waiting: Duration::from_millis(waiting),
        };
        let before = Usage { threads: vec![(1, at(100, 5)), (2, at(10, 0))], ..Usage::default() };
        let after = Usage { threads: vec![(1, at(110, 5)), (2, at(30, 7)), (3, at(26, 0))], ..Usage::default() };
        assert_eq!(after.since(&before).busiest_thread, Duration::from_millis(27));
        assert_eq!(before.since(&before).busiest_thread, Duration::ZERO);
    }

    #[track_caller]
    fn check_spent(user: u64, system: u64, exact: u64, expected: (u64, Option<f64>)) {
        let millis = Duration::from_millis;
        let before = Usage { user: millis(10), system: millis(20), exact: millis(31), ..Usage::default() };
        let after =
            Usage { user: millis(10 + user), system: millis(20 + system), exact: millis(31 + exact), ..before.clone() };
        let spent = after.since(&before);
        assert_eq!((spent.cpu.as_millis() as u64, spent.user_share), expected);
    }

    #[test]
    fn spent() {
        check_spent(100, 300, 402, (402, Some(0.25)));
        check_spent(0, 0, 4, (4, None));
        check_spent(100, 300, 0, (400, Some(0.25)));
        check_spent(100, 300, 200, (400, Some(0.25)));
    }

    #[test]
    fn a_split_needs_ticks_of_both() {
        check_spent(50, 50, 100, (100, Some(0.5)));
        check_spent(50, 40, 90, (90, None));
        check_spent(0, 400, 400, (400, None));
        check_spent(400, 0, 400, (400, None));
    }

    #[test]
    fn this_process_can_be_read() {
        let process = Process::open(std::process::id()).expect("its own files");
        assert!(process.private_bytes().expect("its own memory") > 0);
        assert!(process.descriptors().expect("its own files") > 2);
        assert!(process.family().expect("its own family").contains(&std::process::id()));
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        let error = Process::open(u32::MAX).expect_err("no such process").to_string();
        assert_eq!(error, "cannot read /proc/4294967295/stat: entity not found");
    }
}
