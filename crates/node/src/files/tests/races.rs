//! A guest that swaps files, links and directories as fast as it can.

use super::{Guest, SECRET, as_user, guest};
use isopod_model::Error;
use isopod_node_api::Preconditions;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
};

const ROUNDS: usize = 10_000;

/// Runs `work` while another thread exchanges two names inside the sandbox without a pause.
fn while_swapping(guest: &Guest, one: &str, other: &str, work: impl AsyncFnOnce()) {
    let stop = AtomicBool::new(false);
    let (one, other) = (guest.inside(one), guest.inside(other));
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let mut swaps = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                // Deleting may have taken one of the two for a moment.
                swaps += u64::from(renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).is_ok());
            }
            swaps
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(work())));
        stop.store(true, Ordering::Relaxed);
        let swaps = swapper.join().unwrap();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        assert!(swaps > 1000, "only {swaps} swaps");
    });
}

fn expected(error: &Error) -> bool {
    !matches!(error, Error::Internal { .. })
}

#[test]
fn a_file_that_turns_into_a_link_never_shows_the_secret() {
    let guest = guest();
    fs::write(guest.inside("workspace/a"), "harmless").unwrap();
    guest.symlink(&guest.secret, "workspace/b");
    while_swapping(&guest, "workspace/a", "workspace/b", async || {
        let mut read = 0;
        for _ in 0..ROUNDS {
            match guest.get("/workspace/a", "root").await {
                Ok(text) => {
                    assert_eq!(text, "harmless");
                    read += 1;
                }
                Err(error) => assert!(expected(&error), "{error:?}"),
            }
        }
        assert!(read > 0, "the file was there now and then");
    });
    guest.assert_secret_is_safe();
}

#[test]
fn a_directory_that_turns_into_a_link_never_leads_out() {
    let guest = guest();
    fs::create_dir(guest.inside("workspace/a")).unwrap();
    fs::write(guest.inside("workspace/a/secret"), "harmless").unwrap();
    guest.symlink(guest.directory.path(), "workspace/b");
    while_swapping(&guest, "workspace/a", "workspace/b", async || {
        for round in 0..ROUNDS {
            match guest.get("/workspace/a/secret", "root").await {
                Ok(text) => assert_ne!(text, SECRET),
                Err(error) => assert!(expected(&error), "{error:?}"),
            }
            if round % 4 == 0
                && let Err(error) = guest.put("/workspace/a/secret", "overwritten", "root").await
            {
                assert!(expected(&error), "{error:?}");
            }
            if round % 16 == 0
                && let Err(error) = guest.put("/workspace/a/../a/new/file", "x", "root").await
            {
                assert!(expected(&error), "{error:?}");
            }
        }
    });
    guest.assert_secret_is_safe();
}

#[test]
fn writes_to_a_name_that_turns_into_a_link_stay_inside() {
    let guest = guest();
    fs::write(guest.inside("workspace/a"), "harmless").unwrap();
    guest.symlink(&guest.secret, "workspace/b");
    while_swapping(&guest, "workspace/a", "workspace/b", async || {
        for _ in 0..ROUNDS {
            if let Err(error) = guest.put("/workspace/a", "overwritten", "root").await {
                assert!(expected(&error), "{error:?}");
            }
        }
    });
    guest.assert_secret_is_safe();
    let leftover =
        guest.names().into_iter().find(|name| name.starts_with(".a.") || name.starts_with(".secret."));
    assert_eq!(leftover, None);
}

#[test]
fn deleting_a_tree_that_turns_into_a_link_stays_inside() {
    let guest = guest();
    guest.symlink(guest.directory.path(), "workspace/link");
    fs::create_dir_all(guest.inside("workspace/tree")).unwrap();
    fs::create_dir_all(guest.inside("workspace/tree/below")).unwrap();
    while_swapping(&guest, "workspace/tree/below", "workspace/link", async || {
        for _ in 0..ROUNDS / 10 {
            for file in ["workspace/tree/below/one", "workspace/tree/one"] {
                let _ = guest.put(&format!("/{file}"), "x", "root").await;
            }
            let listed = guest.root.list("/workspace/tree", &as_user("root"), true).await;
            if let Ok(entries) = listed {
                assert!(entries.iter().all(|entry| !entry.path.ends_with("/secret")), "{entries:?}");
            }
            let deleted =
                guest.root.delete("/workspace/tree", &as_user("root"), true, &Preconditions::default()).await;
            if let Err(error) = deleted {
                assert!(expected(&error), "{error:?}");
            }
            let _ = fs::create_dir_all(guest.inside("workspace/tree"));
            let _ = fs::create_dir(guest.inside("workspace/tree/below"));
        }
    });
    guest.assert_secret_is_safe();
}
