//! A file that hangs whoever reads it, as one on a dead mount does.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, mkfifoat};

use super::patience::eventually;

/// A named pipe in the place of a file: nothing is ever written to it.
pub(crate) struct HangingFile {
    path: PathBuf,
    /// Held so that whoever reads it finds no end either.
    writer: Option<File>,
}

impl HangingFile {
    /// Puts one at `path`, in place of what may be there.
    #[track_caller]
    pub(crate) fn put(path: &Path) -> Self {
        let aside = path.with_extension("fifo");
        mkfifoat(CWD, &aside, Mode::RUSR | Mode::WUSR).expect("a named pipe");
        fs::rename(&aside, path).expect("the folder can be written");
        Self { path: path.to_owned(), writer: None }
    }

    /// Waits until somebody reads it.
    #[track_caller]
    pub(crate) fn expect_reader(&mut self) {
        eventually("somebody reads the file that hangs", || self.has_reader());
    }

    /// Tells whether somebody reads it, who then goes on to hang.
    pub(crate) fn has_reader(&mut self) -> bool {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        // Refused as long as nobody reads.
        self.writer = File::options().write(true).custom_flags(flags).open(&self.path).ok();
        self.writer.is_some()
    }

    /// Puts a file with this content in its place; whoever reads the old one still hangs.
    #[track_caller]
    pub(crate) fn replace(&self, content: &str) {
        let aside = self.path.with_extension("new");
        let mut file = File::create(&aside).expect("the folder can be written");
        file.write_all(content.as_bytes()).expect("the folder can be written");
        fs::rename(&aside, &self.path).expect("the folder can be written");
    }
}
