//! Reads a whole file of bounded length: whatever a path names, such as `/dev/zero`, it can't take all memory.
//!
//! Blocks for as long as the file system takes, which may be for ever: see the room `blocking`.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Reads a file of up to `bytes_max` bytes.
///
/// # Errors
/// When it can't be read, or is longer.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("longer than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Reads a file of up to `bytes_max` bytes of UTF-8.
///
/// # Errors
/// When it can't be read, is longer, or holds something else.
pub(crate) fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    String::from_utf8(read(path, bytes_max)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Reads a file that holds `content`, up to 8 bytes of it.
    #[track_caller]
    fn check(content: &[u8], bytes: Result<&[u8], &str>, text: Result<&str, &str>) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), content).expect("it can be written");
        let found = read(file.path(), 8).map_err(|error| error.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), bytes);
        let found = read_text(file.path(), 8).map_err(|error| error.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), text);
    }

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        check(b"", Ok(b""), Ok(""));
        check(b"12345678", Ok(b"12345678"), Ok("12345678"));
        check(b"123456789", Err("longer than 8 bytes"), Err("longer than 8 bytes"));
        check(b"\xff", Ok(b"\xff"), Err("not UTF-8"));
        let endless = read(Path::new("/dev/zero"), 8).expect_err("it has no end");
        assert_eq!(endless.to_string(), "longer than 8 bytes");
        assert_eq!(read(Path::new("/"), 8).expect_err("no file").kind(), io::ErrorKind::IsADirectory);
    }
}
