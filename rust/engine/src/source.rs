//! Where bytes come from.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A run of bytes that can be read at any offset, from several threads at once.
pub trait Source: Send + Sync {
    /// Fill `buffer` from `offset` on. An end before that is [`io::ErrorKind::UnexpectedEof`].
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// The bytes themselves where they already lie in memory, so that they need not be copied.
    fn borrow(&self, _offset: u64, _length: usize) -> Option<&[u8]> {
        None
    }

    /// Whether offsets are those of the file at [`Source::path`].
    fn is_in_place(&self) -> bool {
        true
    }

    /// The file, for messages; empty for memory.
    fn path(&self) -> &Path;
}

/// A file, opened at the first read and kept open.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    file: OnceLock<File>,
}

impl FileSource {
    /// The file at `path`, not yet opened.
    pub const fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: OnceLock::new(),
        }
    }

    fn file(&self) -> io::Result<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let opened = File::open(&self.path)?;
        Ok(self.file.get_or_init(|| opened))
    }
}

impl Source for FileSource {
    #[cfg(unix)]
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self.file()?, buffer, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        use std::os::windows::fs::FileExt;
        let file = self.file()?;
        while !buffer.is_empty() {
            match file.seek_read(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    buffer = &mut buffer[count..];
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
