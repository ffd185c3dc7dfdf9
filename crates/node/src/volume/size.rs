//! How large a volume may become.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

const MEBIBYTE: u64 = 1 << 20;
const GIBIBYTE: u64 = 1 << 30;
/// What a volume leaves to the host, in bytes.
pub const RESERVED_FOR_HOST: u64 = 2 * GIBIBYTE;
/// The smallest volume that is worth having, in bytes.
pub const LEAST_SIZE: u64 = GIBIBYTE;

/// The size in bytes for the volume in the file `image` (which need not exist yet): what the operator set, if
/// anything, but never more than the free space of its file system less [`RESERVED_FOR_HOST`]. What the image
/// occupies already counts as free.
///
/// # Errors
/// When less than [`LEAST_SIZE`] would be left; the text says what is free and what to do.
pub fn image_size(image: &Path, setting: Option<u64>) -> io::Result<u64> {
    let directory = image.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let host = rustix::fs::statvfs(directory)?;
    let free = host.f_bavail.saturating_mul(host.f_frsize);
    let occupied = match fs::metadata(image) {
        Ok(metadata) => metadata.blocks() * 512,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    size_within(free.saturating_add(occupied), setting).map_err(|reason| {
        io::Error::new(io::ErrorKind::StorageFull, format!("{}: {reason}", directory.display()))
    })
}

fn size_within(available: u64, setting: Option<u64>) -> Result<u64, String> {
    let room = available.saturating_sub(RESERVED_FOR_HOST);
    if room < LEAST_SIZE {
        return Err(format!(
            "{} MiB are free, but sandboxes need at least {} MiB, {} of them left to the host; free some space or \
             choose another data directory",
            available / MEBIBYTE,
            (RESERVED_FOR_HOST + LEAST_SIZE) / MEBIBYTE,
            RESERVED_FOR_HOST / MEBIBYTE
        ));
    }
    let size = setting.unwrap_or(u64::MAX).min(room);
    if size < LEAST_SIZE {
        return Err(format!(
            "the disk size set for sandboxes is {} MiB, but must be at least {} MiB",
            size / MEBIBYTE,
            LEAST_SIZE / MEBIBYTE
        ));
    }
    Ok(size / MEBIBYTE * MEBIBYTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_keeps_its_share() {
        assert_eq!(size_within(10 * GIBIBYTE, None), Ok(8 * GIBIBYTE));
        assert_eq!(size_within(10 * GIBIBYTE, Some(3 * GIBIBYTE)), Ok(3 * GIBIBYTE));
        assert_eq!(size_within(10 * GIBIBYTE, Some(30 * GIBIBYTE)), Ok(8 * GIBIBYTE));
        assert_eq!(size_within(4 * GIBIBYTE + 5, None), Ok(2 * GIBIBYTE), "rounded down to MiB");
    }

    #[test]
    fn too_little_room_is_explained() {
        assert!(size_within(3 * GIBIBYTE - 1, None).unwrap_err().contains("free some space"));
        assert!(size_within(10 * GIBIBYTE, Some(MEBIBYTE)).unwrap_err().contains("must be at least"));
        assert!(size_within(0, None).is_err());
    }

    #[test]
    fn a_real_directory_has_a_size() {
        let directory = tempfile::tempdir().unwrap();
        assert!(image_size(&directory.path().join("volume"), Some(LEAST_SIZE)).unwrap() >= LEAST_SIZE);
    }
}
