//! Where bytes come from.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

#[cfg(target_os = "linux")]
pub use crate::mapped::Window;

/// Bytes of a file that can be read in place: nowhere but on Linux.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub struct Window<'a>(std::convert::Infallible, std::marker::PhantomData<&'a ()>);

#[cfg(not(target_os = "linux"))]
#[allow(missing_docs)] // As on Linux.
impl Window<'_> {
    pub fn bytes(&self) -> &[u8] {
        match self.0 {}
    }

    pub fn is_whole(&self) -> bool {
        match self.0 {}
    }
}

/// How files are read; never changes a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// In place where the system can and the file system is a local one, else copied.
    #[default]
    Auto,
    /// In place wherever the system can.
    Mapped,
    /// Copied into buffers.
    Copied,
}

impl Reading {
    /// Every way, by the name that users know it by.
    pub const ALL: [(&'static str, Self); 3] = [
        ("auto", Self::Auto),
        ("mapped", Self::Mapped),
        ("read", Self::Copied),
    ];
}

/// Must live while there are [`Window`]s: catches what becomes of files that shrink meanwhile.
#[derive(Debug)]
pub struct MappedReads {
    #[cfg(target_os = "linux")]
    _guard: crate::sigbus::Guard,
}

impl MappedReads {
    /// From now on windows may be opened.
    #[allow(clippy::new_without_default)] // It does something.
    pub fn new() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            _guard: crate::sigbus::Guard::new(),
        }
    }
}

/// A run of bytes that can be read at any offset, from several threads at once.
pub trait Source: Send + Sync {
    /// Fill `buffer` from `offset` on. An end before that is [`io::ErrorKind::UnexpectedEof`].
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// The bytes themselves where they already lie in memory, so that they need not be copied.
    fn borrow(&self, _offset: u64, _length: usize) -> Option<&[u8]> {
        None
    }

    /// Whether bytes are lent, or windows opened, rather than copied.
    fn reads_in_place(&self, _: Reading) -> bool {
        false
    }

    /// The bytes of a file in place, where that can be had; the pages are there and stay there.
    fn window(
        &self,
        _offset: u64,
        _length: usize,
        _: Reading,
        _: &MappedReads,
    ) -> Option<Window<'_>> {
        None
    }

    /// Whether offsets are those of the file at [`Source::path`].
    fn has_file_offsets(&self) -> bool {
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
    #[cfg(target_os = "linux")]
    mapping: OnceLock<Option<crate::mapped::Mapping>>,
}

impl FileSource {
    /// The file at `path`, not yet opened.
    pub const fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: OnceLock::new(),
            #[cfg(target_os = "linux")]
            mapping: OnceLock::new(),
        }
    }

    fn file(&self) -> io::Result<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let opened = File::open(&self.path)?;
        Ok(self.file.get_or_init(|| opened))
    }

    /// The file, mapped, if it is to be read that way.
    #[cfg(target_os = "linux")]
    fn mapping(&self, reading: Reading) -> Option<&crate::mapped::Mapping> {
        if reading == Reading::Copied {
            return None;
        }
        let file = self.file().ok()?;
        self.mapping
            .get_or_init(|| crate::mapped::Mapping::new(file))
            .as_ref()
            .filter(|mapping| reading == Reading::Mapped || mapping.is_trusted())
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

    #[cfg(target_os = "linux")]
    fn reads_in_place(&self, reading: Reading) -> bool {
        self.mapping(reading).is_some()
    }

    #[cfg(target_os = "linux")]
    fn window(
        &self,
        offset: u64,
        length: usize,
        reading: Reading,
        _: &MappedReads,
    ) -> Option<Window<'_>> {
        self.mapping(reading)?.window(offset, length)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A source of these bytes.
    pub(crate) struct Bytes(pub(crate) Vec<u8>);

    impl Source for Bytes {
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            let start = offset as usize;
            let bytes = self.0.get(start..start + buffer.len());
            buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }

        fn path(&self) -> &Path {
            Path::new("bytes")
        }
    }
}
