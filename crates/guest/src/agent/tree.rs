//! Finding and signalling all descendants of an exec.
//!
//! While an exec's first process lives it is the subreaper of its descendants, so the tree below it is complete, also
//! for those that called `setsid` or forked twice.

use std::fs;

/// Parent and state of every process in the sandbox.
fn processes() -> Vec<(i32, i32, u8)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read(entry.path().join("stat")).ok()?;
            // The name may hold anything, spaces and parentheses included: the fields start after the last ')'.
            let rest = &stat[stat.iter().rposition(|byte| *byte == b')')? + 2..];
            let mut fields = rest.split(|byte| *byte == b' ');
            let state = *fields.next()?.first()?;
            let parent = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
            Some((pid, parent, state))
        })
        .collect()
}

/// All living descendants of `root`, without itself.
fn descendants(root: i32) -> Vec<i32> {
    let all = processes();
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(all.iter().filter(|(_, of, _)| *of == parent).map(|(pid, ..)| *pid));
        next += 1;
    }
    let dead = |pid: &i32| all.iter().any(|(other, _, state)| other == pid && matches!(state, b'Z' | b'X'));
    found.into_iter().skip(1).filter(|pid| !dead(pid)).collect()
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: kill reads no memory. The pid is positive: a reaped child of this process or found in /proc.
    unsafe { libc::kill(pid, signal) };
}

/// A scan of `/proc` is no moment: who is forked during one may be missing in it, so that it takes two that agree.
const AGREEING: usize = 2;
/// Rounds after which a tree that goes on forking is left to whoever asked.
const ROUNDS: usize = 1000;

/// Sends `signal` to `root`, and with `tree` to all its descendants, each once. A SIGKILL of a tree goes from the leaves
/// to the root: the root is stopped first, so that it stays the parent of whoever is orphaned meanwhile, and the rounds go
/// on until nobody is left, which ends a fork bomb too.
pub(crate) fn signal(root: i32, signal: i32, tree: bool) {
    if tree && signal == libc::SIGKILL {
        kill(root, libc::SIGSTOP);
        let mut empty = 0;
        for _ in 0..ROUNDS {
            let below = descendants(root);
            empty = if below.is_empty() { empty + 1 } else { 0 };
            if empty == AGREEING {
                break;
            }
            for signal in [libc::SIGSTOP, libc::SIGKILL] {
                below.iter().for_each(|pid| kill(*pid, signal));
            }
        }
    } else if tree {
        let mut told = Vec::new();
        for _ in 0..AGREEING {
            let new: Vec<i32> = descendants(root).into_iter().filter(|pid| !told.contains(pid)).collect();
            new.iter().for_each(|pid| kill(*pid, signal));
            told.extend(new);
        }
    }
    kill(root, signal);
}
