//! Files that are read again while the node runs: when they have changed, or on request.
//!
//! ```text
//!   next_look ─▶ look: the stamps of the files ── as at the last look, but not as at the last read ─▶ read
//!       ▲          └───────────────────────────── anything else ─┐                                   │
//!       └────────────────────────────────────────────────────────┴───────────────────────────────────┘
//! ```
//! A change counts when two looks in a row find the same stamps: a file may be half written, and of several files one is
//! written before the other. Each [`WatchedFiles`] belongs to one task. It looks and reads on a thread for blocking work,
//! because a file may be on a dead mount.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

use crate::blocking::{BlockingWork, Unfinished};

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Time to the next look after one that hung.
const HANGING_INTERVAL: Duration = Duration::from_secs(10);

/// The metadata that shows a change of files: for each its path and its [`Stamp`]; `None` if it does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

/// What the file system knows of a file, and changes with its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    /// Another file has another one, even if it was renamed to the same path.
    inode: u64,
    /// The time of the last change, in seconds and nanoseconds since 1970. No program can set it.
    changed: (i64, i64),
    length: u64,
}

impl Stamps {
    /// Looks at the files; blocks for as long as that takes.
    pub(crate) fn of(paths: &[PathBuf]) -> Self {
        Self(paths.iter().map(|path| (path.clone(), Stamp::of(path))).collect())
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self { inode: file.ino(), changed: (file.ctime(), file.ctime_nsec()), length: file.len() })
    }
}

/// Decides when files are read again.
#[derive(Debug)]
pub(crate) struct WatchedFiles {
    work: BlockingWork,
    /// As the last look found them.
    seen: Stamps,
    /// As they were when they were last read.
    read: Stamps,
    /// The next look reads the files whatever their stamps: a read was requested, or the last look did not finish.
    is_asked: bool,
    interval: Duration,
}

impl WatchedFiles {
    /// Begins with files that were read after the stamps `read` were taken.
    ///
    /// With [`Stamps::default`] the files are read once more, as soon as two looks in a row find the same stamps.
    pub(crate) fn new(read: Stamps) -> Self {
        let work = BlockingWork::reading();
        Self { work, seen: read.clone(), read, is_asked: false, interval: LOOK_INTERVAL }
    }

    /// Requests that the next look reads the files.
    pub(crate) fn ask(&mut self) {
        self.is_asked = true;
    }

    /// Waits until it is time for the next look.
    pub(crate) async fn next_look(&self) {
        sleep(self.interval).await;
    }

    /// Looks at the files, and calls `read` if they have changed or a read was requested; returns the result of `read`.
    ///
    /// # Errors
    /// When looking or reading did not end in time. Then the next look reads the files.
    ///
    /// # Cancel safety
    /// When the future is dropped, the files may have been read, but count as not read.
    pub(crate) async fn look<T: Send + 'static>(
        &mut self,
        paths: Vec<PathBuf>,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>, Unfinished> {
        let (seen, last_read, is_asked) = (self.seen.clone(), self.read.clone(), self.is_asked);
        let looked = self.work.run(move || {
            // First: a change while the files are read is seen at the next look.
            let stamps = Stamps::of(&paths);
            let is_due = is_asked || (stamps == seen && stamps != last_read);
            (stamps, is_due.then(read))
        });
        match looked.await {
            Ok((stamps, result)) => {
                self.interval = LOOK_INTERVAL;
                if result.is_some() {
                    self.is_asked = false;
                    self.read = stamps.clone();
                }
                self.seen = stamps;
                Ok(result)
            }
            Err(unfinished) => {
                self.interval = HANGING_INTERVAL;
                self.is_asked = true;
                Err(unfinished)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    /// Two files in a folder of their own.
    struct Files {
        folder: tempfile::TempDir,
        watched: WatchedFiles,
    }

    impl Files {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let mut files = Self { folder, watched: WatchedFiles::new(Stamps::default()) };
            files.replace(0);
            files.replace(1);
            files.watched = WatchedFiles::new(Stamps::of(&files.paths()));
            files
        }

        fn paths(&self) -> Vec<PathBuf> {
            ["one", "other"].map(|name| self.folder.path().join(name)).into()
        }

        /// Puts another file in the place of one.
        fn replace(&self, index: usize) {
            // Both are there at a time, so their inodes differ.
            let next = self.folder.path().join("next");
            fs::write(&next, "x").expect("the folder can be written");
            fs::rename(next, &self.paths()[index]).expect("the folder can be written");
        }

        /// Looks once; returns whether the files were read.
        async fn reads(&mut self) -> bool {
            self.watched.look(self.paths(), || ()).await.expect("nothing hangs").is_some()
        }
    }

    #[tokio::test]
    async fn a_change_is_read_once_when_it_has_settled() {
        let mut files = Files::new();
        assert!(!files.reads().await, "nothing has changed");
        for index in [0, 1] {
            files.replace(index);
            assert!(!files.reads().await, "it may be half written");
            files.replace(index);
            assert!(!files.reads().await, "it changes still");
            assert!(files.reads().await);
            assert!(!files.reads().await, "it was read");
        }
        fs::remove_file(&files.paths()[0]).expect("it is there");
        assert!(!files.reads().await);
        assert!(files.reads().await, "that it has gone is a change");
    }

    #[tokio::test]
    async fn files_are_read_at_once_when_somebody_asks() {
        let mut files = Files::new();
        files.watched.ask();
        assert!(files.reads().await);
        assert!(!files.reads().await, "asked for once");
        files.replace(0);
        files.watched.ask();
        assert!(files.reads().await, "whether it has settled or not");
        assert!(!files.reads().await, "read as it is");
    }

    #[tokio::test]
    async fn files_that_were_read_at_an_unknown_time_are_read_again() {
        let mut files = Files::new();
        files.watched = WatchedFiles::new(Stamps::default());
        assert!(!files.reads().await);
        assert!(files.reads().await);
        assert!(!files.reads().await);
    }

    #[tokio::test]
    async fn other_files_are_a_change() {
        let mut files = Files::new();
        let other = files.paths()[..1].to_vec();
        let watched = &mut files.watched;
        assert_eq!(watched.look(other.clone(), || 1).await, Ok(None));
        assert_eq!(watched.look(other, || 1).await, Ok(Some(1)));
    }

    /// Regression: a read that was given up counted as done. The file was not read again before it changed once more.
    #[tokio::test]
    async fn files_whose_read_was_given_up_are_read_again_later() {
        let mut files = Files::new();
        files.watched.work = BlockingWork::new(Duration::from_millis(10), 1);
        files.replace(0);
        assert!(!files.reads().await);
        let (end, until) = sync_channel::<()>(0);
        let looked = files.watched.look(files.paths(), move || until.recv().is_ok()).await;
        assert_eq!(looked, Err(Unfinished::Late(Duration::from_millis(10))));
        assert_eq!(files.watched.interval, HANGING_INTERVAL);
        assert_eq!(files.watched.look(files.paths(), || true).await, Err(Unfinished::Hanging(1)));
        drop(end);
        files.watched.work = BlockingWork::reading();
        assert!(files.reads().await, "nobody has read it");
        assert_eq!(files.watched.interval, LOOK_INTERVAL);
        assert!(!files.reads().await);
    }
}
