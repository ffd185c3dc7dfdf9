//! What well-behaved callers and guests see.

use super::{BASE, as_user, by, guest, whole};
use isopod_model::{
    Error,
    file::{FileKind, MakeDirectory, MoveFile},
};
use isopod_node_api::{ByteRange, FileContext, FileWrite, Preconditions};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
};

#[tokio::test]
async fn a_file_comes_back_as_it_was_written() {
    let guest = guest();
    let (new, stat) = guest.put("/workspace/a/b.txt", "hello", "user").await.unwrap();
    assert!(new);
    assert_eq!((stat.name.as_str(), stat.path.as_str(), stat.size_bytes), ("b.txt", "/workspace/a/b.txt", 5));
    assert_eq!((stat.uid, stat.gid, stat.mode.as_str(), stat.kind), (1000, 1000, "0644", FileKind::File));
    assert_eq!(guest.get("workspace//a/./b.txt", "user").await.unwrap(), "hello");
    assert_eq!(guest.get("/etc/../../workspace/a/b.txt", "user").await.unwrap(), "hello");
    let again = guest.root.stat("/workspace/a/b.txt", &FileContext::default(), true).await.unwrap();
    assert_eq!(again, stat, "a write answers with the facts that a stat gives");
    guest.put("/workspace/empty", "", "user").await.unwrap();
    assert_eq!(guest.get("/workspace/empty", "user").await.unwrap(), "");
}

#[tokio::test]
async fn owners_and_modes_on_disk_are_the_guests() {
    let guest = guest();
    guest.put("/workspace/a/b", "x", "user").await.unwrap();
    assert_eq!(guest.on_disk("workspace/a"), (BASE + 1000, BASE + 1000, 0o755));
    assert_eq!(guest.on_disk("workspace/a/b"), (BASE + 1000, BASE + 1000, 0o644));
    guest.put("/srv/c/d", "x", "root").await.unwrap();
    assert_eq!(guest.on_disk("srv/c"), (BASE, BASE, 0o755));
    assert_eq!(guest.on_disk("srv/c/d"), (BASE, BASE, 0o644));
    guest.put("/tmp/e", "x", "33:44").await.unwrap();
    assert_eq!(guest.on_disk("tmp/e"), (BASE + 33, BASE + 44, 0o644));
    let script = FileWrite { mode: Some(0o750), ..by("user") };
    guest.root.write("/workspace/f", script, whole("x")).await.unwrap();
    assert_eq!(guest.on_disk("workspace/f").2, 0o750);
}

#[tokio::test]
async fn overwriting_keeps_owner_and_mode() {
    let guest = guest();
    guest.put("/workspace/f", "one", "user").await.unwrap();
    fs::set_permissions(guest.inside("workspace/f"), fs::Permissions::from_mode(0o4711)).unwrap();
    let (new, stat) = guest.put("/workspace/f", "two", "root").await.unwrap();
    assert!(!new);
    assert_eq!(
        (stat.uid, stat.gid, stat.mode.as_str()),
        (1000, 1000, "0711"),
        "setuid goes as with any write"
    );
    assert_eq!(guest.on_disk("workspace/f"), (BASE + 1000, BASE + 1000, 0o711));

    let other = guest.inside("workspace/shared");
    fs::write(&other, "x").unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o666)).unwrap();
    chown(&other, Some(BASE + 7), Some(BASE + 8)).unwrap();
    guest.put("/workspace/shared", "y", "user").await.unwrap();
    assert_eq!(guest.on_disk("workspace/shared"), (BASE + 7, BASE + 8, 0o666));

    let executable = FileWrite { mode: Some(0o755), ..by("user") };
    guest.root.write("/workspace/f", executable, whole("three")).await.unwrap();
    assert_eq!(guest.on_disk("workspace/f"), (BASE + 1000, BASE + 1000, 0o755));
    guest.put("/template/file", "mine", "root").await.unwrap();
    assert_eq!(guest.get("/template/file", "user").await.unwrap(), "mine");
}

#[tokio::test]
async fn the_users_rights_are_those_inside() {
    let guest = guest();
    guest.put("/workspace/private", "x", "root").await.unwrap();
    fs::set_permissions(guest.inside("workspace/private"), fs::Permissions::from_mode(0o600)).unwrap();
    let denied = |error| assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    denied(guest.get("/workspace/private", "user").await.unwrap_err());
    denied(guest.put("/workspace/private", "y", "user").await.unwrap_err());
    denied(guest.put("/etc/new", "y", "user").await.unwrap_err());
    denied(guest.put("/new/deep/file", "y", "user").await.unwrap_err());
    denied(
        guest
            .root
            .delete("/etc/passwd", &as_user("user"), false, &Preconditions::default())
            .await
            .unwrap_err(),
    );
    assert_eq!(guest.get("/workspace/private", "root").await.unwrap(), "x");
    guest.put("/home/user/private", "mine", "user").await.unwrap();
    fs::set_permissions(guest.inside("home/user/private"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(guest.get("/home/user/private", "root").await.unwrap(), "mine", "root sees past permissions");
    denied(guest.get("/home/user/private", "1001").await.unwrap_err());
    assert!(matches!(guest.put("/tmp/x", "y", "nobody").await, Err(Error::Invalid { .. })));
}

#[tokio::test]
async fn ranges_give_their_bytes() {
    let guest = guest();
    guest.put("/workspace/f", "0123456789", "user").await.unwrap();
    for (range, expected) in [
        (ByteRange::From(0, Some(0)), "0"),
        (ByteRange::From(4, None), "456789"),
        (ByteRange::From(8, Some(100)), "89"),
        (ByteRange::Last(3), "789"),
    ] {
        let read = guest.root.read("/workspace/f", &as_user("user"), Some(range)).await.unwrap();
        assert_eq!(read.length, expected.len() as u64);
        let pieces: Vec<_> = futures::TryStreamExt::try_collect(read.body).await.unwrap();
        assert_eq!(<[bytes::Bytes]>::concat(&pieces), expected.as_bytes());
    }
    let beyond = guest.root.read("/workspace/f", &as_user("user"), Some(ByteRange::From(10, None))).await;
    assert_eq!(beyond.unwrap_err(), Error::RangeNotSatisfiable { size_bytes: 10 });
}

#[tokio::test]
async fn the_etag_changes_with_the_content() {
    let guest = guest();
    let mut tags = std::collections::HashSet::new();
    for number in 100..400 {
        let (_, stat) = guest.put("/workspace/f", &number.to_string(), "user").await.unwrap();
        assert!(tags.insert(stat.etag.unwrap()), "the same size in the same second");
    }
    let stat = guest.root.stat("/workspace/f", &as_user("user"), true).await.unwrap();
    assert!(tags.contains(stat.etag.as_ref().unwrap()), "reading leaves it alone");
}

#[tokio::test]
async fn preconditions_hold_or_nothing_changes() {
    let guest = guest();
    let write = |if_match: Option<&str>, if_none_match: Option<&str>| {
        let list = |tag: Option<&str>| tag.map(|tag| vec![tag.to_owned()]);
        let preconditions = Preconditions { if_match: list(if_match), if_none_match: list(if_none_match) };
        FileWrite { preconditions, ..by("user") }
    };
    let put = |write, text| guest.root.write("/workspace/f", write, whole(text));
    assert!(
        matches!(put(write(Some("*"), None), "0").await, Err(Error::PreconditionFailed { etag, .. }) if etag == "none")
    );
    let (_, first) = put(write(None, Some("*")), "1").await.unwrap();
    let tag = first.etag.unwrap();
    assert!(
        matches!(put(write(None, Some("*")), "2").await, Err(Error::PreconditionFailed { etag, .. }) if etag == tag)
    );
    put(write(Some(&tag), None), "3").await.unwrap();
    assert!(put(write(Some(&tag), None), "4").await.is_err());
    assert_eq!(guest.get("/workspace/f", "user").await.unwrap(), "3");
    let stale = write(Some(&tag), None).preconditions;
    assert!(guest.root.delete("/workspace/f", &as_user("user"), false, &stale).await.is_err());
    assert_eq!(guest.names(), ["f", "workspace"]);
}

#[tokio::test]
async fn directories_are_made_once() {
    let guest = guest();
    let make = |path: &str, mode: Option<&str>| MakeDirectory {
        path: path.to_owned(),
        user: None,
        mode: mode.map(str::to_owned),
    };
    assert_eq!(guest.root.make_directory(&make("/workspace/a/b", Some("0700"))).await, Ok(true));
    assert_eq!(guest.root.make_directory(&make("/workspace/a/b/", None)).await, Ok(false));
    assert_eq!(guest.root.make_directory(&make("/", None)).await, Ok(false));
    assert_eq!(guest.on_disk("workspace/a"), (BASE + 1000, BASE + 1000, 0o755));
    assert_eq!(guest.on_disk("workspace/a/b"), (BASE + 1000, BASE + 1000, 0o700));
    guest.put("/workspace/f", "x", "user").await.unwrap();
    for path in ["/workspace/f", "/workspace/f/g"] {
        let error = guest.root.make_directory(&make(path, None)).await.unwrap_err();
        assert!(matches!(error, Error::WrongFileKind { .. }), "{path}: {error:?}");
    }
    let error = guest.root.make_directory(&make("/workspace/c", Some("rwx"))).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { ref field, .. } if field == "mode"), "{error:?}");
}

#[tokio::test]
async fn moving_replaces_only_when_told() {
    let guest = guest();
    let request = |from: &str, to: &str, overwrite| MoveFile {
        from: from.to_owned(),
        to: to.to_owned(),
        overwrite,
        user: None,
    };
    guest.put("/workspace/a", "a", "user").await.unwrap();
    guest.put("/workspace/b", "b", "user").await.unwrap();
    guest.put("/workspace/d/e", "e", "user").await.unwrap();
    let moved = |from, to, overwrite| {
        let request = request(from, to, overwrite);
        let root = guest.root.clone();
        async move { root.move_file(&request).await }
    };
    assert!(
        matches!(moved("/workspace/a", "/workspace/b", false).await, Err(Error::FileExists { path }) if path == "/workspace/b")
    );
    moved("/workspace/a", "/workspace/b", true).await.unwrap();
    assert_eq!(guest.get("/workspace/b", "user").await.unwrap(), "a");
    assert!(
        matches!(moved("/workspace/a", "/workspace/c", false).await, Err(Error::FileNotFound { path }) if path == "/workspace/a")
    );
    assert!(matches!(moved("/workspace/b", "/workspace/d", true).await, Err(Error::WrongFileKind { .. })));
    assert!(matches!(moved("/workspace/b", "/workspace/x/y", true).await, Err(Error::FileNotFound { .. })));
    assert!(matches!(moved("/workspace/d", "/workspace/d/f", true).await, Err(Error::Invalid { .. })));
    moved("/workspace/d", "/workspace/g", false).await.unwrap();
    assert_eq!(guest.get("/workspace/g/e", "user").await.unwrap(), "e");
    assert!(matches!(moved("/", "/workspace/h", false).await, Err(Error::Invalid { .. })));
    let template = MoveFile { user: Some("root".to_owned()), ..request("/template", "/other", false) };
    assert!(matches!(guest.root.move_file(&template).await, Err(Error::PathRefused { .. })));
}
