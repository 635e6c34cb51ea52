//! What a process uses: read before an attack, all the time while it happens, and after.

use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Time between two looks while an attack happens.
const LOOK: Duration = Duration::from_millis(10);

/// How long a node may take until it is as it was.
const RECOVERY_MAX: Duration = Duration::from_secs(20);

/// A process, by its id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
}

/// One reading.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Vitals {
    /// Memory that is mapped in, and the process's share of it.
    pub(crate) rss: u64,
    pub(crate) pss: u64,
    /// Memory that is the process's alone: what would come back if it ended.
    pub(crate) private: u64,
    /// What TCP holds in the kernel's buffers; of the whole machine, since the kernel does not say which process it belongs to.
    pub(crate) kernel: u64,
    pub(crate) descriptors: u64,
    pub(crate) cpu: Duration,
}

/// The course of an attack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    pub(crate) before: Vitals,
    /// The highest of each, whenever it was.
    pub(crate) peak: Vitals,
    pub(crate) after: Vitals,
    /// From the attack's end until its connections were gone and its memory was back.
    pub(crate) recovery: Option<Duration>,
}

impl Process {
    pub(crate) fn read(self) -> Vitals {
        let Self { pid } = self;
        let maps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let kib = |name: &str| -> u64 {
            let line = maps.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_ascii_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0) * 1024
        };
        Vitals {
            rss: kib("Rss:"),
            pss: kib("Pss:"),
            private: kib("Private_Clean:") + kib("Private_Dirty:"),
            kernel: kernel_bytes(),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |files| files.count() as u64),
            cpu: self.cpu(),
        }
    }

    /// Time on a processor, of all threads (proc(5), `schedstat`).
    fn cpu(self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
        let times = tasks.filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
        });
        times.sum()
    }

    /// Runs `attack`, and looks at this process all the time until it has recovered: its descriptors are those of before,
    /// and its private memory at most `slack` more.
    pub(crate) fn watch<T>(self, slack: u64, attack: impl FnOnce() -> T) -> (T, Course) {
        let before = self.read();
        let is_over = AtomicBool::new(false);
        thread::scope(|threads| {
            let watcher = threads.spawn(|| {
                let mut peak = before;
                while !is_over.load(Ordering::SeqCst) {
                    peak = peak.highest(self.read());
                    thread::sleep(LOOK);
                }
                peak
            });
            let outcome = attack();
            is_over.store(true, Ordering::SeqCst);
            let peak = watcher.join().expect("reading files does not panic");
            let end = Instant::now();
            let (after, recovery) = loop {
                let now = self.read();
                match before.compare(now, slack, end) {
                    ControlFlow::Continue(()) => thread::sleep(LOOK * 5),
                    ControlFlow::Break(recovery) => break (now, recovery),
                }
            };
            (outcome, Course { before, peak: peak.highest(after), after, recovery })
        })
    }
}

impl Vitals {
    fn highest(self, other: Self) -> Self {
        Self {
            rss: self.rss.max(other.rss),
            pss: self.pss.max(other.pss),
            private: self.private.max(other.private),
            kernel: self.kernel.max(other.kernel),
            descriptors: self.descriptors.max(other.descriptors),
            cpu: self.cpu.max(other.cpu),
        }
    }

    /// Breaks when `now` is as before, or it is too late for that.
    fn compare(self, now: Self, slack: u64, end: Instant) -> ControlFlow<Option<Duration>> {
        if now.descriptors <= self.descriptors && now.private <= self.private + slack {
            ControlFlow::Break(Some(end.elapsed()))
        } else if end.elapsed() > RECOVERY_MAX {
            ControlFlow::Break(None)
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// Pages of TCP's buffers, both ends of each connection of this machine, in bytes.
fn kernel_bytes() -> u64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:")).unwrap_or_default();
    let pages = line.split_ascii_whitespace().skip_while(|word| *word != "mem").nth(1);
    pages.and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * rustix::param::page_size() as u64
}
