//! Bodies: large ones, broken ones, and ones that do not fit.

use super::{Guest, as_user, by, guest, guest_with, whole};
use crate::volume;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use isopod_model::Error;
use isopod_node_api::FileWrite;
use std::{fs, io, os::fd::OwnedFd, path::Path};

const MEBIBYTE: usize = 1 << 20;

/// A body that breaks off after a megabyte.
fn broken(error: io::Error) -> futures::stream::BoxStream<'static, io::Result<Bytes>> {
    let piece = Bytes::from(vec![1; MEBIBYTE]);
    futures::stream::iter([Ok(piece), Err(error)]).boxed()
}

#[tokio::test]
async fn a_body_that_breaks_off_changes_nothing() {
    let guest = guest();
    guest.put("/workspace/old", "old", "user").await.unwrap();
    let before = guest.names();
    for path in ["/workspace/new", "/workspace/old", "/workspace/new/deep/file"] {
        let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the client went away");
        let error = guest.root.write(path, by("user"), broken(error)).await.unwrap_err();
        assert!(
            matches!(error, Error::Malformed { ref reason } if reason.contains("went away")),
            "{error:?}"
        );
    }
    let too_large = Error::TooLarge { what: "the body", limit_bytes: 5 };
    let wrapped = broken(io::Error::other(too_large.clone()));
    let error = guest.root.write("/workspace/new", by("user"), wrapped).await.unwrap_err();
    assert_eq!(error, too_large, "an error of the platform comes back as it is");
    assert_eq!(guest.names(), before);
    assert_eq!(guest.get("/workspace/old", "user").await.unwrap(), "old");
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nothing() {
    let guest = guest();
    let never =
        futures::stream::iter([Ok(Bytes::from(vec![1; MEBIBYTE]))]).chain(futures::stream::pending()).boxed();
    let mut write = Box::pin(guest.root.write("/workspace/new", by("user"), never));
    for _ in 0..1000 {
        assert!(futures::poll!(&mut write).is_pending());
        tokio::task::yield_now().await;
    }
    drop(write);
    // The overlay may have copied the directory up.
    assert!(guest.names().iter().all(|name| name == "workspace"), "{:?}", guest.names());
}

#[tokio::test]
async fn without_nameless_files_uploads_use_a_name_of_their_own() {
    use super::super::{identity::Identity, path::GuestPath, write::Upload};
    let guest = guest();
    let identity = Identity::parse(None, super::BASE).unwrap();
    let begin = |path: &str| {
        let _assumed = identity.assume().unwrap();
        let upload =
            Upload::begin(guest.root.clone(), GuestPath::parse(path).unwrap(), FileWrite::default(), false);
        let mut upload = upload.unwrap();
        upload.append(&[Bytes::from_static(b"text")]).unwrap();
        upload
    };
    let (new, stat) = begin("/workspace/a/b").finish(identity).unwrap();
    assert!(new);
    assert_eq!((stat.uid, stat.mode.as_str(), stat.size_bytes), (1000, "0644", 4));
    assert!(!begin("/workspace/a/b").finish(identity).unwrap().0);
    let unfinished = begin("/workspace/c");
    assert_eq!(guest.names().len(), 4);
    drop(unfinished);
    assert_eq!(guest.names(), ["a", "b", "workspace"]);
    assert_eq!(guest.get("/workspace/a/b", "user").await.unwrap(), "text");
}

fn resident_bytes() -> usize {
    let figures = fs::read_to_string("/proc/self/statm").unwrap();
    figures.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn large_files_stream_both_ways_at_flat_memory() {
    const PIECES: usize = 256;
    let guest = guest();
    let before = resident_bytes();
    let body = futures::stream::iter(0..PIECES).map(|_| Ok(Bytes::from(vec![7; MEBIBYTE]))).boxed();
    let (_, stat) = guest.root.write("/workspace/large", by("user"), body).await.unwrap();
    assert_eq!(stat.size_bytes, (PIECES * MEBIBYTE) as u64);
    let read = guest.root.read("/workspace/large", &as_user("user"), None).await.unwrap();
    let (mut received, mut most) = (0, resident_bytes());
    let mut body = read.body;
    while let Some(piece) = body.try_next().await.unwrap() {
        assert!(piece.len() <= 256 * 1024 && piece.iter().all(|byte| *byte == 7));
        received += piece.len();
        most = most.max(resident_bytes());
    }
    assert_eq!(received, PIECES * MEBIBYTE);
    // Other tests of this process share the figure; none of them holds more than a fraction of this file.
    assert!(most.saturating_sub(before) < 128 * MEBIBYTE, "{before} bytes before, {most} while streaming");
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_read_ends_with_an_error() {
    let guest = guest();
    guest.put("/workspace/f", &"x".repeat(MEBIBYTE), "user").await.unwrap();
    let read = guest.root.read("/workspace/f", &as_user("user"), None).await.unwrap();
    let file = fs::File::options().write(true).open(guest.inside("workspace/f")).unwrap();
    file.set_len(300_000).unwrap();
    let pieces: Vec<_> = read.body.collect().await;
    assert!(pieces.last().unwrap().is_err());
    let given: usize = pieces.iter().flatten().map(Bytes::len).sum();
    assert!(given <= 300_000, "nothing is made up");

    let read = guest.root.read("/workspace/f", &as_user("user"), None).await.unwrap();
    file.set_len(2 * MEBIBYTE as u64).unwrap();
    let pieces: Vec<Bytes> = read.body.try_collect().await.unwrap();
    assert_eq!(pieces.concat().len(), 300_000, "a file that grows gives what was promised");
}

/// A guest whose files lie on a volume, with a limit of 16 MiB.
fn guest_with_quota() -> (Guest, volume::Subvolumes) {
    let mut root: Option<OwnedFd> = None;
    let guest = guest_with(|path: &Path| {
        let mounted = volume::mount(&path.join("volume.img"), 1 << 30).unwrap();
        let at = path.join("run");
        fs::create_dir(&at).unwrap();
        let flags = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&mounted, "", rustix::fs::CWD, &at, flags).unwrap();
        let volume = volume::Subvolumes::new(mounted.try_clone().unwrap()).unwrap();
        volume.create("sandbox", 16 << 20).unwrap();
        root = Some(mounted);
        Some(at.join("sandbox"))
    });
    let volume = volume::Subvolumes::new(root.unwrap()).unwrap();
    (guest, volume)
}

#[tokio::test]
async fn a_full_disk_is_said_and_nothing_of_the_upload_stays() {
    let (guest, volume) = guest_with_quota();
    guest.put("/workspace/kept", "kept", "user").await.unwrap();
    let body = || futures::stream::iter(0..64).map(|_| Ok(Bytes::from(vec![7; MEBIBYTE]))).boxed();
    for path in ["/workspace/large", "/workspace/kept"] {
        let error = guest.root.write(path, by("user"), body()).await.unwrap_err();
        assert_eq!(error, Error::DiskFull { limit_mib: 16 });
    }
    let names: Vec<_> = guest.root.list("/workspace", &as_user("user"), true).await.unwrap();
    assert_eq!(names.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["kept"]);
    assert_eq!(guest.get("/workspace/kept", "user").await.unwrap(), "kept");
    rustix::fs::syncfs(volume.root()).unwrap();
    guest.root.write("/workspace/fits", by("user"), whole("fits")).await.unwrap();
    let half = futures::stream::iter(0..8).map(|_| Ok(Bytes::from(vec![7; MEBIBYTE]))).boxed();
    guest.root.write("/workspace/half", by("user"), half).await.unwrap();
}
