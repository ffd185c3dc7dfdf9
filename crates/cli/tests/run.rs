//! `isopod run` and `isopod doctor` on this machine: what the first run does not show. Needs root.

mod common;

use common::{Ended, finish, isopod};
use std::{collections::BTreeSet, fs, path::Path};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, process::Command};

/// A place for scratch directories, or nothing where there are not the rights to run sandboxes.
fn place() -> Option<TempDir> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: running sandboxes needs root");
        return None;
    }
    Some(TempDir::new_in("/var/tmp").expect("a directory"))
}

fn command(place: &Path, arguments: &[&str]) -> Command {
    // No server: the address leads nowhere.
    let mut command = isopod("http://127.0.0.1:1", &["run"]);
    command.args(arguments).env("TMPDIR", place);
    command
}

async fn run(place: &Path, arguments: &[&str]) -> Ended {
    finish(command(place, arguments).spawn().expect("starts")).await
}

#[track_caller]
fn assert_empty(place: &Path) {
    let left: BTreeSet<_> =
        fs::read_dir(place).expect("readable").flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("readable");
    assert!(!mounts.contains(place.to_str().expect("text")), "{mounts}");
}

#[tokio::test]
async fn options_reach_the_command() {
    let Some(place) = place() else { return };
    let place = place.path();
    assert_eq!(run(place, &["--", "python3", "-c", "print(6*7)"]).await.fine().text(), "42\n");
    let ended =
        run(place, &["-e", "A=b", "-w", "/tmp", "-u", "root", "--", "bash", "-c", "id -u; pwd; echo $A"])
            .await;
    assert_eq!(ended.fine().text(), "0\n/tmp\nb\n");
    assert_empty(place);
}

#[tokio::test]
async fn what_this_host_has_not_is_named() {
    let Some(place) = place() else { return };
    let place = place.path();
    run(place, &["--template", "nope", "--", "true"]).await.failed(&["nope", "host"]);
    run(place, &["--tier", "microvm", "--", "true"]).await.failed(&["microvm", "isopod doctor"]);
    assert_empty(place);
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_everything_quietly() {
    let Some(place) = place() else { return };
    let mut child = command(place.path(), &["--", "yes"]).spawn().expect("starts");
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_exact(&mut [0; 10]).await.expect("some output");
    drop(stdout);
    let ended = finish(child).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (141, ""));
    assert_empty(place.path());
}

#[tokio::test]
async fn the_host_is_explained() {
    let report = finish(isopod("http://127.0.0.1:1", &["doctor", "--json"]).spawn().expect("starts")).await;
    let json = report.json();
    let works = json["tiers"].as_array().expect("tiers").iter().any(|tier| tier["available"] == true);
    assert_eq!(report.code, i32::from(!works), "{json}");
    assert!(json["checks"].as_array().is_some_and(|checks| !checks.is_empty()));
}
