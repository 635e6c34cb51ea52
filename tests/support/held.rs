//! A thread of a running program that stands still, as one does that is stuck.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};

use super::interpreter::interpreter;

/// Holds one thread of a process as a debugger does, until it is dropped.
pub(crate) struct Held(Child);

impl Held {
    /// Holds a shard of the program with this process id; `None` where no debugger is to be had, or is not allowed.
    ///
    /// # Panics
    /// If there is no such shard.
    #[track_caller]
    pub(crate) fn shard(process: u32, index: usize) -> Option<Self> {
        let is_it = |thread: &fs::DirEntry| {
            let name = fs::read_to_string(thread.path().join("comm"));
            name.is_ok_and(|name| name.trim() == format!("pombo-shard-{index}"))
        };
        let mut threads = fs::read_dir(format!("/proc/{process}/task")).expect("its threads").filter_map(Result::ok);
        let shard = threads.find(is_it).expect("a thread of this name").file_name();
        Self::thread(shard.to_str().expect("a number"))
    }

    fn thread(id: &str) -> Option<Self> {
        const SCRIPT: &str = "import ctypes, os, sys\n\
            libc = ctypes.CDLL(None, use_errno=True)\n\
            libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]\n\
            SEIZE, INTERRUPT = 0x4206, 0x4207\n\
            thread = int(sys.argv[1])\n\
            if libc.ptrace(SEIZE, thread, None, None) or libc.ptrace(INTERRUPT, thread, None, None):\n\
            \x20   sys.exit(os.strerror(ctypes.get_errno()))\n\
            os.waitpid(thread, 0x40000000)\n\
            print('held', flush=True)\n\
            sys.stdin.read()\n";
        let mut python = interpreter("python3")?;
        python.args(["-c", SCRIPT, id]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().expect("Python starts");
        let mut told = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut told).expect("text");
        let held = Self(child);
        if told == "held\n" {
            return Some(held);
        }
        writeln!(io::stderr(), "skipped: no thread may be held here").ok();
        None
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // With its end the thread goes on.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
