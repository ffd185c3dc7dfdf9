//! Listing and deleting trees, also deep, changing and hostile ones.

use super::{as_user, guest};
use isopod_model::{Error, file::FileKind};
use isopod_node_api::Preconditions;
use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
};

#[tokio::test]
async fn a_listing_shows_entries_with_their_facts() {
    let guest = guest();
    guest.put("/workspace/b/c", "12345", "user").await.unwrap();
    guest.put("/workspace/a.txt", "1", "user").await.unwrap();
    guest.symlink("/etc/passwd", "workspace/link");
    fs::write(guest.inside("workspace/foreign"), "x").unwrap();
    let list = |path: &'static str, recursive| {
        let guest = &guest;
        async move { guest.root.list(path, &as_user("user"), recursive).await.unwrap() }
    };
    let entries = list("/workspace", false).await;
    let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["a.txt", "b", "foreign", "link"]);
    assert_eq!(entries[1].kind, FileKind::Directory);
    assert_eq!((entries[2].uid, entries[2].gid), (65534, 65534), "an owner from outside is nobody");
    assert_eq!((entries[3].kind, entries[3].target.as_deref()), (FileKind::Symlink, Some("/etc/passwd")));
    let paths: Vec<_> = list("workspace/", true).await.into_iter().map(|entry| entry.path).collect();
    let expected =
        ["/workspace/a.txt", "/workspace/b", "/workspace/b/c", "/workspace/foreign", "/workspace/link"];
    assert_eq!(paths, expected);

    let root: Vec<_> = list("/", true).await.into_iter().map(|entry| entry.path).collect();
    for path in ["/proc", "/dev", "/usr/bin/tool", "/workspace/b/c"] {
        assert!(root.contains(&path.to_owned()), "{path}");
    }
    assert!(!root.iter().any(|path| path.starts_with("/proc/")), "other mounts are not entered");
    let error = guest.root.list("/workspace/a.txt", &as_user("user"), false).await.unwrap_err();
    assert!(matches!(error, Error::WrongFileKind { .. }), "{error:?}");
}

#[tokio::test]
async fn a_listing_ends_at_its_bound() {
    let guest = guest();
    let directory = guest.inside("workspace");
    for number in 0..100_100 {
        fs::File::create(directory.join(format!("{number}"))).unwrap();
    }
    let entries = guest.root.list("/workspace", &as_user("user"), true).await.unwrap();
    assert_eq!(entries.len(), 100_000);
    assert!(entries.is_sorted_by_key(|entry| &entry.path));
    guest.root.delete("/workspace", &as_user("root"), true, &Preconditions::default()).await.unwrap();
    assert!(!directory.exists());
}

#[tokio::test]
async fn a_tree_deeper_than_any_path_can_be_listed_and_deleted() {
    let guest = guest();
    deepen(&guest.inside("workspace"), 3000);
    let entries = guest.root.list("/workspace", &as_user("user"), true).await.unwrap();
    assert_eq!(entries.len(), 128);
    let deleted = guest.root.delete("/workspace/d", &as_user("user"), true, &Preconditions::default()).await;
    deleted.unwrap();
    assert!(guest.root.list("/workspace", &as_user("user"), true).await.unwrap().is_empty());
}

/// Makes directories inside of each other, each the sandbox user's.
fn deepen(top: &std::path::Path, depth: usize) {
    let own = rustix::fs::Mode::from(0o755);
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let mut directory = rustix::fs::open(top, flags, own).unwrap();
    let user = super::BASE + 1000;
    for _ in 0..depth {
        rustix::fs::mkdirat(&directory, "d", own).unwrap();
        directory = rustix::fs::openat(&directory, "d", flags, own).unwrap();
        std::os::unix::fs::fchown(&directory, Some(user), Some(user)).unwrap();
    }
}

#[test]
fn listing_and_deleting_survive_a_tree_that_changes() {
    let guest = guest();
    let tree = guest.inside("workspace/tree");
    let stop = AtomicBool::new(false);
    let make = || {
        let mut number = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let directory = tree.join(format!("{}", number % 50));
            let _ = fs::create_dir_all(&directory);
            let _ = fs::write(directory.join(format!("{}", number % 7)), "x");
            if number.is_multiple_of(3) {
                let _ = fs::remove_dir_all(&directory);
            }
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let none = Preconditions::default();
    let delete = || runtime.block_on(guest.root.delete("/workspace/tree", &as_user("root"), true, &none));
    let failure = std::thread::scope(|scope| {
        scope.spawn(make);
        let failure = (0..300).find_map(|round| {
            let listed = runtime.block_on(guest.root.list("/workspace", &as_user("root"), true));
            let deleted = if round % 10 == 0 { delete() } else { Ok(()) };
            match (listed, deleted) {
                (Err(error), _) => Some(error),
                (_, Ok(()) | Err(Error::FileNotFound { .. } | Error::DirectoryNotEmpty { .. })) => None,
                (_, Err(error)) => Some(error),
            }
        });
        stop.store(true, Ordering::Relaxed);
        failure
    });
    assert_eq!(failure, None);
    let _ = delete();
    assert!(!tree.exists());
}

#[tokio::test]
async fn deleting_asks_for_recursion_and_spares_the_root() {
    let guest = guest();
    guest.put("/workspace/a/b", "x", "user").await.unwrap();
    let delete = |path: &'static str, recursive| {
        let guest = &guest;
        async move { guest.root.delete(path, &as_user("user"), recursive, &Preconditions::default()).await }
    };
    assert!(matches!(delete("/workspace/a", false).await, Err(Error::DirectoryNotEmpty { .. })));
    delete("/workspace/a/b", false).await.unwrap();
    delete("/workspace/a", false).await.unwrap();
    assert!(matches!(delete("/workspace/a", true).await, Err(Error::FileNotFound { .. })));
    for path in ["/", "", "/workspace/..", "."] {
        assert!(matches!(delete(path, true).await, Err(Error::Invalid { .. })), "{path}");
    }
    assert!(matches!(delete("/workspace", true).await, Err(Error::PermissionDenied { .. })));
    let template = guest.root.delete("/template", &as_user("root"), true, &Preconditions::default()).await;
    template.unwrap();
    assert!(!guest.inside("template").exists(), "the template's files can go, for this sandbox");
}
