//! The kernel's figures of the process, read through descriptors that stay open from the start. So the number of open
//! descriptors can be read even when no descriptor is free.
//!
//! The figures come from `/proc` on Linux. Elsewhere, and in a container without `/proc`, they are absent.

use std::sync::{Arc, Mutex, PoisonError};

use crate::descriptors;

/// Reads the figures; clones read through the same descriptors.
#[derive(Clone, Default)]
pub(crate) struct Process(Arc<Mutex<kernel::Files>>);

/// The figures; `None` for one that could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) threads: Option<i64>,
    /// When the process started, since 1970.
    pub(super) start_seconds: Option<f64>,
    pub(super) open_descriptors: Option<u64>,
    pub(super) descriptors_max: Option<u64>,
}

/// The figures that cost one read, however many descriptors are open; `None` for one that could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
}

impl Process {
    /// Opens the files that the figures are read from.
    pub(crate) fn open() -> Self {
        Self(Arc::new(Mutex::new(kernel::Files::open())))
    }

    /// Reads the figures; opens no file.
    pub(super) fn figures(&self) -> Figures {
        let mut figures = Figures { descriptors_max: descriptors::limit(), ..Figures::default() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).read(&mut figures);
        figures
    }

    /// Returns how many descriptors a process with so many shards has open before it accepts its first client; an estimate
    /// where the kernel does not report them.
    pub(crate) fn descriptors_without_clients(&self, shards: usize) -> u64 {
        /// Standard streams, listeners, runtimes, the reserve; and of each shard its poller and the eventfd that wakes it.
        const ESTIMATE: u64 = 64;
        const ESTIMATE_PER_SHARD: u64 = 2;

        // A descriptor that the process inherited may have a number above the limit. It takes no room from others.
        let end = descriptors::limit().unwrap_or(u64::MAX);
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner).descriptors_below(end);
        counted.unwrap_or(ESTIMATE + ESTIMATE_PER_SHARD * shards as u64)
    }

    /// Reads the processor time and the memory; does not count the descriptors, which takes time with many connections.
    pub(super) fn usage(&self) -> Usage {
        let mut figures = Figures::default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).read_stat(&mut figures);
        Usage { cpu_seconds: figures.cpu_seconds, resident_bytes: figures.resident_bytes }
    }
}

#[cfg(target_os = "linux")]
mod kernel {
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt as _;

    use rustix::fs::Dir;
    use rustix::param::{clock_ticks_per_second, page_size};

    use super::Figures;

    /// Longest content of `/proc/self/stat`: some fifty numbers, and a name of 16 bytes.
    const STAT_BYTES_MAX: usize = 4096;

    #[derive(Default)]
    pub(super) struct Files {
        /// `/proc/self/stat`, whose content is written anew for each read from its begin.
        stat: Option<File>,
        /// `/proc/self/fd`: an entry for each descriptor.
        descriptors: Option<Dir>,
        /// When the kernel started, in seconds since 1970.
        boot: Option<u64>,
    }

    impl Files {
        pub(super) fn open() -> Self {
            Self {
                stat: File::open("/proc/self/stat").ok(),
                descriptors: File::open("/proc/self/fd").ok().and_then(|folder| Dir::new(folder).ok()),
                boot: fs::read_to_string("/proc/stat").ok().and_then(|text| boot_seconds(&text)),
            }
        }

        pub(super) fn read(&mut self, figures: &mut Figures) {
            figures.open_descriptors = self.descriptors_below(u64::MAX);
            self.read_stat(figures);
        }

        pub(super) fn descriptors_below(&mut self, end: u64) -> Option<u64> {
            count_below(self.descriptors.as_mut()?, end)
        }

        /// Reads the figures of `/proc/self/stat` alone.
        pub(super) fn read_stat(&self, figures: &mut Figures) {
            let Some(stat) = self.stat.as_ref().and_then(read_stat) else { return };
            let seconds = |ticks: u64| ticks as f64 / clock_ticks_per_second() as f64;
            figures.cpu_seconds = Some(seconds(stat.cpu_ticks));
            figures.resident_bytes = Some(stat.resident_pages * page_size() as u64);
            figures.virtual_bytes = Some(stat.virtual_bytes);
            figures.threads = Some(stat.threads);
            figures.start_seconds = self.boot.map(|boot| boot as f64 + seconds(stat.start_ticks));
        }
    }

    /// The figures of `/proc/self/stat`.
    #[derive(Debug, PartialEq)]
    pub(super) struct Stat {
        pub(super) cpu_ticks: u64,
        pub(super) threads: i64,
        /// Since the kernel started.
        pub(super) start_ticks: u64,
        pub(super) virtual_bytes: u64,
        pub(super) resident_pages: u64,
    }

    fn read_stat(file: &File) -> Option<Stat> {
        let mut content = [0; STAT_BYTES_MAX];
        let length = file.read_at(&mut content, 0).ok()?;
        Stat::parse(std::str::from_utf8(&content[..length]).ok()?)
    }

    impl Stat {
        /// Reads the fields by the numbers that proc_pid_stat(5) gives them. The name, the second, may hold spaces and
        /// brackets itself.
        pub(super) fn parse(text: &str) -> Option<Self> {
            let (_, behind_name) = text.rsplit_once(')')?;
            let fields: Vec<&str> = behind_name.split_ascii_whitespace().collect();
            let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
            Some(Self {
                cpu_ticks: field(14)? + field(15)?,
                threads: i64::try_from(field(20)?).ok()?,
                start_ticks: field(22)?,
                virtual_bytes: field(23)?,
                resident_pages: field(24)?,
            })
        }
    }

    /// Finds when the kernel started in `/proc/stat`, in seconds since 1970.
    pub(super) fn boot_seconds(text: &str) -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
    }

    /// Counts the entries of the directory whose name is a number below `end`: not `.` and `..`.
    fn count_below(folder: &mut Dir, end: u64) -> Option<u64> {
        folder.rewind();
        let mut count = 0;
        while let Some(entry) = folder.read() {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str().ok().and_then(|name| name.parse::<u64>().ok());
            count += u64::from(number.is_some_and(|number| number < end));
        }
        Some(count)
    }
}

#[cfg(not(target_os = "linux"))]
mod kernel {
    use super::Figures;

    #[derive(Default)]
    pub(super) struct Files;

    impl Files {
        pub(super) fn open() -> Self {
            Self
        }

        pub(super) fn read(&mut self, _: &mut Figures) {}

        pub(super) fn descriptors_below(&mut self, _: u64) -> Option<u64> {
            None
        }

        pub(super) fn read_stat(&self, _: &mut Figures) {}
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::File;
    use std::hint::black_box;

    use super::kernel::{Stat, boot_seconds};
    use super::*;

    #[test]
    fn fields_are_found_by_their_number() {
        let text = "7 (a b) c) S 1 7 7 0 -1 4194560 900 0 3 0 14 15 16 17 20 0 20 0 22 23 24 25 1 1";
        let stat = Stat { cpu_ticks: 29, threads: 20, start_ticks: 22, virtual_bytes: 23, resident_pages: 24 };
        assert_eq!(Stat::parse(text), Some(stat));
        for bad in ["", "7 a S 1", "7 (a) S 1 7 7", &text.replace(" 24 ", " x ")] {
            assert_eq!(Stat::parse(bad), None, "{bad}");
        }
        assert_eq!(boot_seconds("cpu 1 2\nbtime 1760000000\nprocesses 3\n"), Some(1_760_000_000));
        assert_eq!(boot_seconds("cpu 1 2\nbtime soon\n"), None);
        assert_eq!(boot_seconds(""), None);
    }

    #[test]
    fn each_reading_is_of_now() {
        let process = Process::open();
        let before = process.figures();
        // Other tests of this process open and close theirs meanwhile, though not hundreds.
        let files: Vec<_> = (0..300).map(|_| File::open("/dev/null").expect("a descriptor is free")).collect();
        let memory = black_box(vec![1_u8; 128 << 20]);
        let after = process.figures();
        let grown = |read: fn(&Figures) -> Option<u64>| {
            read(&after).expect("the kernel reports it") as i64 - read(&before).expect("the kernel reports it") as i64
        };
        assert!((150..450).contains(&grown(|figures| figures.open_descriptors)), "{before:?} {after:?}");
        assert!(grown(|figures| figures.resident_bytes) > 64 << 20, "{before:?} {after:?}");
        assert!(after.start_seconds.is_some() && after.cpu_seconds >= before.cpu_seconds && after.threads >= Some(1));
        assert!(after.virtual_bytes >= after.resident_bytes && after.descriptors_max.is_some());
        drop((files, memory));
    }
}
