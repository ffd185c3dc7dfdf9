//! A new volume's file: the shipped empty file system under a UUID of its own.
//!
//! The kernel refuses to mount two file systems with the same UUID, and every data directory's volume comes from the
//! same seed. So the seed's UUID moves into the superblock's `metadata_uuid` (which all its tree blocks carry) and a
//! fresh one takes its place, as `btrfstune -m` does.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

const SEED: &[u8] = include_bytes!("../../seed/btrfs.img.zst");

const SUPERBLOCK_OFFSET: usize = 64 * 1024;
const SUPERBLOCK_LENGTH: usize = 4096;
const CHECKSUM: std::ops::Range<usize> = 0..4;
const CHECKSUMMED_FROM: usize = 0x20;
const UUID: std::ops::Range<usize> = 0x20..0x30;
const MAGIC: std::ops::Range<usize> = 0x40..0x48;
const INCOMPATIBLE_FLAGS: std::ops::Range<usize> = 0xbc..0xc4;
const METADATA_UUID: std::ops::Range<usize> = 0x23b..0x24b;
const HAS_METADATA_UUID: u64 = 1 << 10;

/// Writes an empty volume of `size_bytes` (sparse) to `path`, which appears whole or not at all.
pub(super) fn write(path: &Path, size_bytes: u64) -> io::Result<()> {
    let mut image = Vec::new();
    zstd::Decoder::new(SEED)?.read_to_end(&mut image)?;
    if size_bytes < image.len() as u64 {
        let reason = format!("a volume needs at least {} bytes, not {size_bytes}", image.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    give_uuid(&mut image, fresh_uuid()?)?;

    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    const BLOCK: usize = 4096;
    for (number, block) in image.chunks(BLOCK).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, (number * BLOCK) as u64)?;
        }
    }
    file.set_len(size_bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

fn fresh_uuid() -> io::Result<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let number = u128::from_str_radix(&digits, 16).map_err(io::Error::other)?;
    Ok(number.to_be_bytes())
}

/// Replaces the UUID in the superblock. The seed is smaller than 64 MiB, where the superblock's first copy would be.
fn give_uuid(image: &mut [u8], uuid: [u8; 16]) -> io::Result<()> {
    let superblock = image
        .get_mut(SUPERBLOCK_OFFSET..SUPERBLOCK_OFFSET + SUPERBLOCK_LENGTH)
        .filter(|superblock| superblock[MAGIC] == *b"_BHRfS_M")
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the seed is not a btrfs image"))?;
    superblock.copy_within(UUID, METADATA_UUID.start);
    superblock[UUID].copy_from_slice(&uuid);
    let flags = superblock[INCOMPATIBLE_FLAGS].try_into().map(u64::from_le_bytes).expect("eight bytes");
    superblock[INCOMPATIBLE_FLAGS].copy_from_slice(&(flags | HAS_METADATA_UUID).to_le_bytes());
    let checksum = crc32c(&superblock[CHECKSUMMED_FROM..]);
    superblock[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

fn crc32c(data: &[u8]) -> u32 {
    const REVERSED_POLYNOMIAL: u32 = 0x82f6_3b78;
    !data.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            if sum & 1 == 1 { (sum >> 1) ^ REVERSED_POLYNOMIAL } else { sum >> 1 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn the_seed_is_the_recorded_one() {
        let recorded = include_str!("../../seed/SHA256");
        let found: String = Sha256::digest(SEED).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(recorded, format!("{found}  btrfs.img.zst\n"));
    }

    #[test]
    fn crc32c_gives_the_published_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn every_volume_is_sparse_and_has_its_own_uuid() {
        let directory = tempfile::tempdir().unwrap();
        let uuids: Vec<Vec<u8>> = ["one", "two"]
            .iter()
            .map(|name| {
                let path = directory.path().join(name);
                write(&path, 4 << 30).unwrap();
                assert_eq!(fs::metadata(&path).unwrap().len(), 4 << 30);
                assert!(
                    std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&path).unwrap()) * 512 < 8 << 20
                );
                let mut superblock = vec![0; SUPERBLOCK_LENGTH];
                File::open(&path).unwrap().read_exact_at(&mut superblock, SUPERBLOCK_OFFSET as u64).unwrap();
                superblock[UUID].to_vec()
            })
            .collect();
        assert_ne!(uuids[0], uuids[1]);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "no unfinished file is left");
    }

    #[test]
    fn a_volume_smaller_than_its_seed_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(write(&directory.path().join("small"), 1 << 20).is_err());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    }
}
