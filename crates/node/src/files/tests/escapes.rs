//! Paths that try to leave the sandbox.

use super::{SECRET, as_user, by, guest, whole};
use isopod_model::{
    Error,
    file::{FileKind, MakeDirectory, MoveFile},
};
use isopod_node_api::Preconditions;
use std::fs;

#[tokio::test]
async fn links_end_at_the_root() {
    let guest = guest();
    let secret = guest.secret.display().to_string();
    let up = format!("{}{secret}", "../".repeat(40));
    for (link, target) in [
        ("workspace/absolute", secret.as_str()),
        ("workspace/relative", up.as_str()),
        ("workspace/chain", "absolute"),
        ("workspace/process", "/proc/self/root"),
        ("workspace/descriptor", "/proc/self/fd/0"),
        ("workspace/init", "/proc/1/root/etc/passwd"),
    ] {
        guest.symlink(target, link);
    }
    guest.symlink(guest.directory.path(), "workspace/directory");
    let through_process = format!("/workspace/process{secret}");
    for path in [
        "/workspace/absolute",
        "/workspace/relative",
        "/workspace/chain",
        "/workspace/descriptor",
        "/workspace/init",
        "/workspace/directory/secret",
        through_process.as_str(),
        up.as_str(),
        secret.as_str(),
        "/proc/self/root/etc/passwd",
        "/proc/1/root/etc/passwd",
        "/proc/thread-self/cwd/Cargo.toml",
    ] {
        for user in ["user", "root"] {
            let error = guest.get(path, user).await.expect_err(path);
            let known = matches!(
                error,
                Error::FileNotFound { .. } | Error::PathRefused { .. } | Error::PermissionDenied { .. }
            );
            assert!(known, "{path}: {error:?}");
            guest.root.list(path, &as_user(user), true).await.expect_err(path);
            guest.root.stat(path, &as_user(user), true).await.expect_err(path);
        }
    }
    guest.assert_secret_is_safe();
}

#[tokio::test]
async fn writing_through_links_stays_inside() {
    let guest = guest();
    let secret = guest.secret.display().to_string();
    guest.symlink(&secret, "workspace/link");
    guest.symlink(format!("{}etc/x", "../".repeat(30)), "workspace/up");
    guest.symlink("target", "workspace/beside");
    guest.symlink("loop", "workspace/loop");

    guest.put("/workspace/link", "inside", "root").await.unwrap();
    let same_path_inside = secret.trim_start_matches('/');
    assert_eq!(fs::read_to_string(guest.inside(same_path_inside)).unwrap(), "inside");
    guest.put("/workspace/up", "inside", "root").await.unwrap();
    assert_eq!(fs::read_to_string(guest.inside("etc/x")).unwrap(), "inside");
    guest.put("/workspace/beside", "first", "user").await.unwrap();
    guest.put("/workspace/beside", "second", "user").await.unwrap();
    assert_eq!(guest.get("/workspace/target", "user").await.unwrap(), "second");
    let link = guest.root.stat("/workspace/beside", &as_user("user"), false).await.unwrap();
    assert_eq!(
        (link.kind, link.target.as_deref()),
        (FileKind::Symlink, Some("target")),
        "the link is still one"
    );
    let error = guest.put("/workspace/loop", "x", "root").await.unwrap_err();
    assert!(matches!(error, Error::PathRefused { .. }), "{error:?}");

    guest.root.delete("/workspace/link", &as_user("root"), true, &Preconditions::default()).await.unwrap();
    assert!(fs::symlink_metadata(guest.inside("workspace/link")).is_err());
    assert!(fs::metadata(guest.inside(same_path_inside)).is_ok(), "the target of a deleted link stays");
    guest.assert_secret_is_safe();
}

#[tokio::test]
async fn other_mounts_are_refused() {
    let guest = guest();
    fs::write(guest.inside("dev/file"), "x").unwrap();
    guest.symlink("/dev", "workspace/dev");
    let refused = |error| assert!(matches!(error, Error::PathRefused { .. }), "{error:?}");
    for path in ["/dev/file", "/workspace/dev/file", "/proc/version", "/proc/sys/kernel/hostname"] {
        refused(guest.get(path, "root").await.unwrap_err());
        refused(guest.root.stat(path, &as_user("root"), true).await.unwrap_err());
        refused(guest.put(path, "x", "root").await.unwrap_err());
    }
    for path in ["/dev", "/proc", "/run", "/workspace/dev"] {
        refused(guest.root.list(path, &as_user("root"), false).await.unwrap_err());
        refused(guest.put(&format!("{path}/new"), "x", "root").await.unwrap_err());
        refused(guest.put(&format!("{path}/new/deep"), "x", "root").await.unwrap_err());
        let make = MakeDirectory { path: format!("{path}/new"), user: Some("root".to_owned()), mode: None };
        refused(guest.root.make_directory(&make).await.unwrap_err());
    }
    for path in ["/dev", "/usr", "/proc"] {
        for recursive in [false, true] {
            let deleted =
                guest.root.delete(path, &as_user("root"), recursive, &Preconditions::default()).await;
            refused(deleted.unwrap_err());
        }
    }
    let request = |from: &str, to: &str| MoveFile {
        from: from.to_owned(),
        to: to.to_owned(),
        overwrite: true,
        user: Some("root".to_owned()),
    };
    refused(guest.root.move_file(&request("/etc/passwd", "/dev/passwd")).await.unwrap_err());
    refused(guest.root.move_file(&request("/dev/file", "/etc/file")).await.unwrap_err());
    refused(guest.root.move_file(&request("/usr/bin/tool", "/etc/tool")).await.unwrap_err());
    assert_eq!(fs::read_to_string(guest.inside("dev/file")).unwrap(), "x");
}

#[tokio::test]
async fn usr_is_there_and_read_only() {
    let guest = guest();
    assert_eq!(guest.get("/usr/bin/tool", "user").await.unwrap(), "a tool");
    assert_eq!(guest.root.list("/usr/bin", &as_user("user"), false).await.unwrap().len(), 1);
    for path in ["/usr/bin/tool", "/usr/bin/new", "/usr/new/deep"] {
        let error = guest.put(path, "x", "root").await.unwrap_err();
        assert!(
            matches!(error, Error::PathRefused { ref reason, .. } if reason.contains("read-only")),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn pipes_sockets_and_directories_are_not_opened() {
    let guest = guest();
    let pipe = guest.inside("workspace/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o666.into(), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(guest.inside("workspace/socket")).unwrap();
    guest.symlink("pipe", "workspace/link");
    for path in ["/workspace/pipe", "/workspace/socket", "/workspace/link", "/workspace", "/"] {
        let error = guest.get(path, "root").await.unwrap_err();
        assert!(matches!(error, Error::WrongFileKind { .. }), "{path}: {error:?}");
        let error = guest.put(path, "x", "root").await.unwrap_err();
        assert!(matches!(error, Error::WrongFileKind { .. } | Error::Invalid { .. }), "{path}: {error:?}");
    }
    let kind = guest.root.stat("/workspace/pipe", &as_user("user"), true).await.unwrap().kind;
    assert_eq!(kind, FileKind::Other);
    guest.root.delete("/workspace/pipe", &as_user("root"), false, &Preconditions::default()).await.unwrap();
}

#[tokio::test]
async fn wrong_paths_are_told_apart() {
    let guest = guest();
    guest.put("/workspace/f", "x", "user").await.unwrap();
    let code = |path: String| {
        let guest = &guest;
        async move {
            format!(
                "{:?}",
                guest.root.write(&path, by("root"), whole("x")).await.map(drop).unwrap_err().code()
            )
        }
    };
    assert_eq!(code("/workspace/\0".to_owned()).await, "InvalidValue");
    assert_eq!(code(format!("/workspace/{}", "n".repeat(256))).await, "InvalidValue");
    assert_eq!(code("/workspace/n/".repeat(500)).await, "InvalidValue");
    assert_eq!(code("/workspace/..".to_owned()).await, "InvalidValue");
    assert_eq!(code("/workspace/new/".to_owned()).await, "WrongFileKind");
    assert_eq!(code("/workspace/f/g".to_owned()).await, "WrongFileKind");
    let missing = guest.get("/workspace/none", "user").await.unwrap_err();
    assert_eq!(missing, Error::FileNotFound { path: "/workspace/none".to_owned() });
    let through_file = guest.get("/workspace/f/g", "user").await.unwrap_err();
    assert!(matches!(through_file, Error::WrongFileKind { .. }));
    assert_eq!(fs::read_to_string(&guest.secret).unwrap(), SECRET);
}
