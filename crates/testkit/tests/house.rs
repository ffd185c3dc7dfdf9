//! The house tests itself: which room may know which, who may read configuration, where `unsafe` may be, how large a
//! file may become, and whether the documents still speak of things that exist.

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Which of our own crates each crate may depend on. `isopod` is the executable in `crates/cli`.
const ROOMS: &[(&str, &[&str])] = &[
    ("isopod-model", &[]),
    ("isopod-guest", &[]),
    ("isopod-store", &["isopod-model"]),
    ("isopod-node-api", &["isopod-model"]),
    ("isopod-node", &["isopod-node-api", "isopod-guest", "isopod-model"]),
    ("isopod-control", &["isopod-store", "isopod-node-api", "isopod-model"]),
    ("isopod-api", &["isopod-control", "isopod-node-api", "isopod-model"]),
    ("isopod-testkit", &["isopod-node-api", "isopod-model"]),
    (
        "isopod",
        &[
            "isopod-api",
            "isopod-control",
            "isopod-store",
            "isopod-node",
            "isopod-node-api",
            "isopod-guest",
            "isopod-model",
        ],
    ),
];

/// What a room must not know, whoever wrote it.
const STRANGERS: &[(&str, &[&str])] = &[
    ("isopod-model", &["tokio", "async-trait", "axum", "http", "hyper", "sqlx", "rustix", "libc"]),
    ("isopod-store", &["axum", "http", "hyper", "rustix", "libc"]),
    ("isopod-node-api", &["axum", "http", "hyper", "sqlx", "rustix", "libc"]),
    ("isopod-node", &["axum", "http", "hyper", "hyper-util", "tower", "tower-http", "reqwest", "clap"]),
    (
        "isopod-control",
        &["axum", "http", "hyper", "hyper-util", "tower", "tower-http", "reqwest", "sqlx", "rustix", "libc"],
    ),
    ("isopod-api", &["sqlx", "rustix", "libc", "clap"]),
];

/// The only dependencies of the programs that run beside and inside sandboxes.
const GUEST_MAY: [&str; 4] = ["libc", "postcard", "seccompiler", "serde"];

/// The only files with `unsafe`, and why each needs it. Clippy checks that every block gives its own reason.
const UNSAFE: &[(&str, &str)] = &[
    ("crates/guest/src/agent/main.rs", "PID 1: prctl, signals, waitpid"),
    ("crates/guest/src/agent/spawn.rs", "fork and exec of a command"),
    ("crates/guest/src/agent/tree.rs", "kill"),
    ("crates/guest/src/launcher/child.rs", "becoming a container: credentials, mounts, limits, exec"),
    ("crates/guest/src/launcher/main.rs", "poll, waitpid, pidfd_send_signal"),
    ("crates/guest/src/launcher/slot.rs", "a process that only holds a user namespace"),
    ("crates/guest/src/launcher/sys.rs", "clone3 and the mount calls that the C library lacks"),
    ("crates/guest/src/launcher/world.rs", "daemon, device nodes, listening socket"),
    ("crates/guest/src/socket.rs", "descriptors over SEQPACKET sockets"),
    ("crates/node/src/files/identity.rs", "setfsuid and setfsgid of one thread"),
    ("crates/node/src/tiers/container/network.rs", "a network namespace of one thread"),
    ("crates/node/src/tiers/container/packets.rs", "registering an owned descriptor with the runtime"),
    ("crates/node/src/volume/ioctl.rs", "btrfs and loop device calls"),
    ("crates/node/src/files/tests/mod.rs", "test: a mount namespace of its own"),
    ("crates/node/src/journal/tests/disks.rs", "test: a mount namespace of its own"),
    ("crates/node/src/log/tests/disk.rs", "test: a mount namespace of its own"),
];

/// A file above this usually holds two ideas: listed.
const LONG_FILE: usize = 400;
/// A file above this certainly does: refused.
const TOO_LONG_FILE: usize = 800;

/// The workspace that the test runs in; not the one it was compiled in, which may have been another clone with the same
/// target directory.
fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&here).join("../..").canonicalize().expect("the workspace")
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in
        fs::read_dir(directory).expect("a directory of the workspace").map(|entry| entry.expect("an entry"))
    {
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() && entry.file_name() != "target" {
            walk(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

/// Files below `directory` with this ending: (path from the root, text), in order.
fn files(directory: &str, ending: &str) -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    walk(&root.join(directory), &mut found);
    found.sort();
    found
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == ending))
        .map(|path| {
            let name = path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("text"))
        })
        .collect()
}

/// The product's part of a source file: without the tests at its end, and nothing of a file of tests.
fn product<'text>(name: &str, text: &'text str) -> &'text str {
    let is_test = name.contains("/tests/") || name.ends_with("/tests.rs") || name.ends_with("/build.rs");
    if is_test { "" } else { text.split("#[cfg(test)]\nmod ").next().unwrap_or(text) }
}

/// The rooms, which are the packages below `crates/`: name, and (name, kind) of each dependency.
fn packages() -> BTreeMap<String, Vec<(String, String)>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().unwrap_or("normal").to_owned();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let rooms = format!("{}/crates/", root().display());
    list(&metadata["packages"])
        .iter()
        .filter(|package| text(&package["manifest_path"]).starts_with(&rooms))
        .map(|package| {
            let dependencies = list(&package["dependencies"]);
            let pairs =
                dependencies.iter().map(|dependency| (text(&dependency["name"]), text(&dependency["kind"])));
            (text(&package["name"]), pairs.collect())
        })
        .collect()
}

#[test]
fn rooms_know_only_those_below_them() {
    let packages = packages();
    let known: BTreeSet<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    let found: BTreeSet<&str> = packages.keys().map(String::as_str).collect();
    assert_eq!(found, known, "a room was added or removed: say here what it may know");
    for (room, allowed) in ROOMS {
        for (dependency, kind) in &packages[*room] {
            if dependency != "isopod" && !dependency.starts_with("isopod-") {
                continue;
            }
            if dependency == "isopod-testkit" {
                assert_eq!(kind, "dev", "{room}: the testkit is for tests");
            } else if kind != "dev" {
                assert!(allowed.contains(&dependency.as_str()), "{room} must not know {dependency}");
            }
        }
    }
    for (room, strangers) in STRANGERS {
        for (dependency, kind) in &packages[*room] {
            assert!(
                kind == "dev" || !strangers.contains(&dependency.as_str()),
                "{room} must not know {dependency}"
            );
        }
    }
    for (dependency, _) in &packages["isopod-guest"] {
        assert!(GUEST_MAY.contains(&dependency.as_str()), "the guest programs must stay small: {dependency}");
    }
}

#[test]
fn only_the_executable_reads_the_environment() {
    for (name, text) in files("crates", "rs") {
        let reads =
            ["env::var", "env::vars", "env::var_os"].iter().any(|call| product(&name, &text).contains(call));
        assert!(
            !reads || name == "crates/cli/src/settings.rs",
            "{name} reads the environment; settings come as parameters from crates/cli/src/settings.rs"
        );
    }
}

#[test]
fn unsafe_is_where_it_is_named() {
    let starts = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
    let found: BTreeSet<String> = files("crates", "rs")
        .into_iter()
        .filter(|(name, _)| name != "crates/testkit/tests/house.rs")
        .filter(|(_, text)| {
            text.lines().any(|line| {
                !line.trim_start().starts_with("//") && starts.iter().any(|start| line.contains(start))
            })
        })
        .map(|(name, _)| name)
        .collect();
    let named: BTreeSet<String> = UNSAFE.iter().map(|(name, _)| (*name).to_owned()).collect();
    let new: Vec<_> = found.difference(&named).collect();
    assert!(new.is_empty(), "unsafe in {new:?}: use a safe call, or name the file here with its reason");
    let gone: Vec<_> = named.difference(&found).collect();
    assert!(gone.is_empty(), "no unsafe in {gone:?} any more: take it off the list");
}

#[test]
fn files_stay_readable() {
    for (name, text) in files("crates", "rs") {
        let lines = text.lines().count();
        if lines > LONG_FILE {
            println!("warning: {name} has {lines} lines; above {LONG_FILE} it usually holds two ideas");
        }
        assert!(lines <= TOO_LONG_FILE, "{name} has {lines} lines; split it by idea");
    }
}

#[test]
fn nothing_is_left_for_later() {
    let words = ["todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX"];
    for (name, text) in files("crates", "rs") {
        if name == "crates/testkit/tests/house.rs" {
            continue;
        }
        for word in words {
            assert!(!text.contains(word), "{name} holds {word}");
        }
    }
}

#[test]
fn shipped_binaries_are_the_recorded_ones() {
    let seeds = root().join("crates/node/seed");
    let checked =
        Command::new("sha256sum").args(["--check", "--strict", "SHA256"]).current_dir(&seeds).output();
    let checked = checked.expect("sha256sum can be run");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    let recorded = fs::read_to_string(seeds.join("SHA256")).expect("recorded hashes");
    for entry in fs::read_dir(&seeds).expect("a directory").map(|entry| entry.expect("an entry")) {
        let name = entry.file_name().into_string().expect("a plain name");
        let is_source = name == "SHA256" || name.ends_with(".sh");
        assert!(is_source || recorded.contains(&format!("  {name}\n")), "{name} has no recorded hash");
    }
}

/// Our documents: (path from the root, text).
fn documents() -> Vec<(String, String)> {
    let mut documents = files("docs", "md");
    for name in ["README.md", "CHANGELOG.md"] {
        documents.push((name.to_owned(), fs::read_to_string(root().join(name)).expect("a document")));
    }
    documents
}

/// What stands between backticks outside of code blocks.
fn spans(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|prose| prose.split('`').skip(1).step_by(2)).collect()
}

const PLACES: [&str; 7] = ["crates/", "docs/", "examples/", "openapi/", "bench/", ".ci/", ".config/"];

#[test]
fn documents_speak_of_what_exists() {
    let root = root();
    for (document, text) in documents() {
        for span in spans(&text).into_iter().filter(|span| PLACES.iter().any(|place| span.starts_with(place)))
        {
            let (path, item) = span.split_once("::").map_or((span, None), |(path, item)| (path, Some(item)));
            assert!(root.join(path).exists(), "{document} names {path}, which does not exist");
            if let Some(item) = item {
                let source = fs::read_to_string(root.join(path)).expect("a source file");
                let defined = ["fn ", "struct ", "enum ", "trait ", "const ", "mod "].iter().any(|word| {
                    source.match_indices(&format!("{word}{item}")).any(|(at, found)| {
                        let next = source[at + found.len()..].chars().next();
                        next.is_none_or(|next| !next.is_alphanumeric() && next != '_')
                    })
                });
                assert!(defined, "{document} names {span}, but there is no such item in the file");
            }
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = root();
    for (document, text) in documents() {
        let directory = root.join(&document).parent().expect("a directory").to_owned();
        let prose: String = text.split("```").step_by(2).collect();
        for target in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") {
                assert!(directory.join(path).exists(), "{document} links to {target}, which does not exist");
            }
        }
    }
}
