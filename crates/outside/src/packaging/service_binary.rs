//! Looks at the service's executable before it goes into an image: an ELF file,
//! for which machine, and whether it needs a loader the image does not have.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::PackagingError;
use super::oci::Platform;

/// Program header type that names a dynamic loader (ELF-64 object file format, `PT_INTERP`).
const LOADER_SEGMENT: u32 = 3;
const ELF_HEADER_BYTES: usize = 64;
/// More program headers than any linker writes.
const MAX_PROGRAM_HEADERS: u16 = 128;

/// What an image needs to know of an executable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceBinary {
    /// The machine it runs on.
    pub(super) platform: Platform,
    /// Whether it starts without a dynamic loader.
    pub(super) is_static: bool,
}

/// Reads the headers of the executable at `path`.
pub(super) fn inspect(path: &Path) -> Result<ServiceBinary, PackagingError> {
    let fault = |fault: String| PackagingError::ServiceBinary { path: path.to_owned(), fault };
    let mut file = File::open(path).map_err(|error| fault(format!("cannot be opened ({error})")))?;
    let mut header = [0_u8; ELF_HEADER_BYTES];
    file.read_exact(&mut header).map_err(|error| fault(format!("cannot be read ({error})")))?;
    // Magic number, 64 bits, little-endian.
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return Err(fault("is not a 64-bit little-endian ELF executable".to_owned()));
    }
    let architecture = match short(&header, 18) {
        62 => "amd64",
        183 => "arm64",
        other => return Err(fault(format!("is for a machine (ELF code {other}) that is neither amd64 nor arm64"))),
    };
    let (offset, entry_size, count) = (long(&header, 32), short(&header, 54), short(&header, 56));
    if entry_size < 4 || count > MAX_PROGRAM_HEADERS {
        return Err(fault("has a damaged ELF header".to_owned()));
    }
    let mut is_static = true;
    for number in 0..count {
        let mut kind = [0_u8; 4];
        let position = offset.saturating_add(u64::from(number) * u64::from(entry_size));
        file.read_exact_at(&mut kind, position).map_err(|error| fault(format!("is cut short ({error})")))?;
        is_static &= u32::from_le_bytes(kind) != LOADER_SEGMENT;
    }
    let platform = Platform { architecture: architecture.to_owned(), os: "linux".to_owned() };
    Ok(ServiceBinary { platform, is_static })
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u64 {
    (0..8).rev().fold(0, |value, offset| value << 8 | u64::from(bytes[at + offset]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_executable_is_dynamically_linked() {
        let found = inspect(&std::env::current_exe().unwrap()).unwrap();
        assert!(!found.is_static);
        assert_eq!(found.platform.os, "linux");
    }

    #[test]
    fn a_script_is_no_service() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("delayd-serve");
        std::fs::write(&path, "#!/bin/sh\n".repeat(20)).unwrap();
        let error = inspect(&path).unwrap_err();
        assert!(error.to_string().contains("is not a 64-bit little-endian ELF executable"), "{error}");
    }
}
