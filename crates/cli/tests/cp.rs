//! `isopod cp`: bytes, names and modes, in both directions.

mod common;

use common::{Ended, TestServer};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};
use tempfile::TempDir;

fn noise(length: u32) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

async fn cp(server: &TestServer, source: &str, target: &str) -> Ended {
    server.run(&["cp", source, target]).await
}

#[tokio::test]
async fn files_go_in_and_out_unchanged() {
    let server = TestServer::start().await;
    let sandbox = server.sandbox().await;
    let here = TempDir::new().expect("a directory");
    let (big, back) = (here.path().join("big"), here.path().join("back"));
    fs::write(&big, noise(5_000_000)).expect("written");

    cp(&server, text(&big), &format!("{sandbox}:/tmp/x y/größe")).await.fine();
    cp(&server, &format!("{sandbox}:/tmp/x y/größe"), text(&back)).await.fine();
    assert!(fs::read(&back).expect("there") == noise(5_000_000));

    // Into directories, under its own name.
    cp(&server, text(&big), &format!("{sandbox}:")).await.fine();
    fs::create_dir(here.path().join("sub")).expect("made");
    cp(&server, &format!("{sandbox}:big"), text(&here.path().join("sub"))).await.fine();
    assert_eq!(fs::metadata(here.path().join("sub/big")).expect("there").len(), 5_000_000);
    server.node.assert_no_violations();
}

#[tokio::test]
async fn streams_are_files() {
    let server = TestServer::start().await;
    let sandbox = server.sandbox().await;
    let input = noise(2_000_000);
    server.run_with(&["cp", "-", &format!("{sandbox}:/tmp/noise")], &input).await.fine();
    let back = cp(&server, &format!("{sandbox}:/tmp/noise"), "-").await.fine();
    assert!(back.stdout == input);
    let usage = cp(&server, "-", &format!("{sandbox}:/tmp/")).await;
    assert_eq!(usage.code, 2, "{usage:?}");
}

#[tokio::test]
async fn directories_keep_their_shape() {
    let server = TestServer::start().await;
    let sandbox = server.sandbox().await;
    let here = TempDir::new().expect("a directory");
    let source = here.path().join("project");
    fs::create_dir_all(source.join("src/deep")).expect("made");
    fs::create_dir(source.join("empty")).expect("made");
    fs::write(source.join("src/deep/a.txt"), "a").expect("written");
    fs::write(source.join("run.sh"), "#!/bin/sh\n").expect("written");
    fs::set_permissions(source.join("run.sh"), fs::Permissions::from_mode(0o750)).expect("set");
    symlink("/etc/passwd", source.join("link")).expect("made");

    let ended = server.run(&["cp", "--json", text(&source), &format!("{sandbox}:/workspace")]).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("1 links and special files"), "{ended:?}");
    assert_eq!(ended.json(), serde_json::json!({"files": 2, "directories": 4, "bytes": 11, "skipped": 1}));

    let out = here.path().join("out");
    cp(&server, &format!("{sandbox}:project"), text(&out)).await.fine();
    assert_eq!(fs::read_to_string(out.join("src/deep/a.txt")).expect("there"), "a");
    assert!(out.join("empty").is_dir());
    assert_eq!(fs::metadata(out.join("run.sh")).expect("there").permissions().mode() & 0o777, 0o750);

    // What is in it, instead of itself.
    cp(&server, &format!("{}/.", text(&source)), &format!("{sandbox}:/tmp")).await;
    let single = cp(&server, &format!("{sandbox}:/tmp/run.sh"), "-").await.fine();
    assert_eq!(single.text(), "#!/bin/sh\n");
}

#[tokio::test]
async fn mistakes_are_explained() {
    let server = TestServer::start().await;
    let sandbox = server.sandbox().await;
    cp(&server, &format!("{sandbox}:/nope"), "-").await.failed(&["/nope", "file_not_found"]);
    cp(&server, &format!("{sandbox}:/nope"), "/tmp/never-made").await.failed(&["/nope"]);
    cp(&server, "/nope/here", &format!("{sandbox}:")).await.failed(&["/nope/here"]);
    cp(&server, "nobody:/x", "-").await.failed(&["nobody", "not_found"]);
    for (source, target) in [("a", "b"), ("x:/a", "y:/b"), ("-", "-"), ("x:/../a", "-")] {
        let ended = cp(&server, source, target).await;
        assert_eq!(ended.code, 2, "{ended:?}");
    }
}
