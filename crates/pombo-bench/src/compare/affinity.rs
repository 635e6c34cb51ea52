//! The cores that the calling thread, and the threads and processes that it starts, may run on.

use std::fmt;
use std::str::FromStr;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::super::BenchError;

/// A set of cores, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cores(Vec<usize>);

impl Cores {
    /// The core at `index`, or the last one if there are fewer.
    pub(super) fn one(&self, index: usize) -> Cores {
        Cores(vec![self.0[index.min(self.0.len() - 1)]])
    }
}

impl FromStr for Cores {
    type Err = String;

    /// Reads cores and ranges of them between commas, as taskset and `/proc` write them.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("expected cores below {}, such as 0 or 0-3,8", CpuSet::MAX_CPU);
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
            if first > last || last >= CpuSet::MAX_CPU {
                return Err(bad());
            }
            cores.extend(first..=last);
        }
        cores.sort_unstable();
        cores.dedup();
        Ok(Cores(cores))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&cores.join(","))
    }
}

impl serde::Serialize for Cores {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// The cores that the calling thread may use.
pub(super) fn allowed() -> Result<Cores, BenchError> {
    let set = sched_getaffinity(None)
        .map_err(|error| BenchError::Arguments(format!("cannot tell which cores there are: {error}")))?;
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect();
    if cores.is_empty() { Err(BenchError::Arguments("there are no cores".into())) } else { Ok(Cores(cores)) }
}

/// Keeps the calling thread, and the threads and processes that it starts from here on, on `cores`.
pub(super) fn pin(cores: &Cores) -> Result<(), BenchError> {
    let mut set = CpuSet::new();
    for core in &cores.0 {
        set.set(*core);
    }
    sched_setaffinity(None, &set)
        .map_err(|error| BenchError::Arguments(format!("cannot run on core {cores}: {error}")))?;
    // The kernel accepts a set if it may use one of its cores; a comparison needs all of them.
    let got = allowed()?;
    if got == *cores {
        Ok(())
    } else {
        Err(BenchError::Arguments(format!("cannot run on core {cores}: only {got} may be used")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let cores = text.parse::<Cores>().ok().map(|cores| cores.to_string());
        assert_eq!(cores.as_deref(), expected, "{text:?}");
    }

    #[test]
    fn lists_of_cores() {
        check("0", Some("0"));
        check("0-2,8", Some("0,1,2,8"));
        check("3,1,3", Some("1,3"));
        check("1023", Some("1023"));
        for bad in ["", "a", "1-", "-1", "2-1", "1024", "0,,1", "0 1", "0-18446744073709551615"] {
            check(bad, None);
        }
    }

    #[test]
    fn a_core_of_several() {
        let cores: Cores = "2,5".parse().expect("a list");
        assert_eq!([cores.one(0).to_string(), cores.one(1).to_string(), cores.one(2).to_string()], ["2", "5", "5"]);
    }
}
