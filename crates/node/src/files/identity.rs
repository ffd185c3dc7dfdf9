//! Touching a sandbox's files with the rights of somebody inside it, one thread at a time.

use super::UIDS_PER_SANDBOX;
use isopod_model::{Error, Result};
use rustix::{
    fs::Mode,
    process::umask,
    thread::{CapabilitySet, Gid, UnshareFlags},
};
use std::{cell::Cell, marker::PhantomData};

/// Somebody inside a sandbox, by the numbers that the host uses for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    uid: u32,
    gid: u32,
    is_root: bool,
}

impl Identity {
    /// Reads `user` (also when absent), `root`, `<uid>` or `<uid>:<gid>`; a missing gid equals the uid.
    pub(super) fn parse(user: Option<&str>, uid_base: u32) -> Result<Self> {
        let (uid, gid) = match user.unwrap_or("user") {
            "user" => (1000, 1000),
            "root" => (0, 0),
            numbers => {
                let (uid, gid) = numbers.split_once(':').unwrap_or((numbers, numbers));
                number(uid).zip(number(gid)).ok_or_else(|| {
                    Error::invalid("user", "must be user, root, a number, or uid:gid below 65536")
                })?
            }
        };
        Ok(Self { uid: uid_base + uid, gid: uid_base + gid, is_root: uid == 0 })
    }

    /// Gives this thread the identity until the answer is dropped: for files the thread is that user, without
    /// supplementary groups, with an empty umask, and without the capabilities that see past permissions. Only the
    /// sandbox's root keeps those, as it has them inside; they reach no further than the paths that
    /// [`super::resolve`] lets through.
    pub(super) fn assume(self) -> Result<Assumed> {
        own_umask()?;
        let groups = rustix::process::getgroups().map_err(|error| fault("getgroups", error))?;
        rustix::thread::set_thread_groups(&[]).map_err(|error| fault("setgroups", error))?;
        // From here on the guard restores whatever was changed so far.
        let assumed = Assumed {
            uid: set_file_id(libc::SYS_setfsuid, UNCHANGED),
            gid: set_file_id(libc::SYS_setfsgid, UNCHANGED),
            groups,
            umask: umask(Mode::empty()),
            not_send: PhantomData,
        };
        set_file_id(libc::SYS_setfsgid, self.gid);
        set_file_id(libc::SYS_setfsuid, self.uid);
        let now = (set_file_id(libc::SYS_setfsuid, UNCHANGED), set_file_id(libc::SYS_setfsgid, UNCHANGED));
        if now != (self.uid, self.gid) {
            return Err(Error::internal(format!("cannot act as {}:{} but as {now:?}", self.uid, self.gid)));
        }
        if self.is_root {
            raise_root_capabilities()?;
        }
        Ok(assumed)
    }
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number < UIDS_PER_SANDBOX)
}

/// An identity in force on this thread.
#[derive(Debug)]
pub(super) struct Assumed {
    uid: u32,
    gid: u32,
    groups: Vec<Gid>,
    umask: Mode,
    /// Identities belong to threads.
    not_send: PhantomData<*const ()>,
}

impl Drop for Assumed {
    fn drop(&mut self) {
        // Back to file uid 0 the kernel gives the capabilities back by itself.
        set_file_id(libc::SYS_setfsuid, self.uid);
        set_file_id(libc::SYS_setfsgid, self.gid);
        umask(self.umask);
        let restored = rustix::thread::set_thread_groups(&self.groups);
        let now = (set_file_id(libc::SYS_setfsuid, UNCHANGED), set_file_id(libc::SYS_setfsgid, UNCHANGED));
        if restored.is_err() || now != (self.uid, self.gid) {
            // A thread of the pool that stays somebody else's would do the platform's work with the wrong rights.
            std::process::abort();
        }
    }
}

/// Not a valid id, so that the call only tells the present one.
const UNCHANGED: u32 = u32::MAX;

/// Sets the file uid or gid of this thread alone, and gives the one before.
fn set_file_id(call: libc::c_long, id: u32) -> u32 {
    // SAFETY: setfsuid and setfsgid take one integer and change this thread's credentials only.
    let before = unsafe { libc::syscall(call, id) };
    u32::try_from(before & 0xffff_ffff).expect("the answer is a 32 bit id")
}

fn raise_root_capabilities() -> Result<()> {
    let wanted = CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::DAC_READ_SEARCH
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID;
    let mut sets = rustix::thread::capabilities(None).map_err(|error| fault("capget", error))?;
    sets.effective |= wanted & sets.permitted;
    rustix::thread::set_capabilities(None, sets).map_err(|error| fault("capset", error))
}

/// Makes the umask (and working directory) this thread's own; the threads of a process share one otherwise.
fn own_umask() -> Result<()> {
    thread_local! { static OWN: Cell<bool> = const { Cell::new(false) }; }
    if !OWN.get() {
        // SAFETY: CLONE_FS unshares umask, root and working directory, no descriptors or memory.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }
            .map_err(|error| fault("unshare", error))?;
        OWN.set(true);
    }
    Ok(())
}

fn fault(call: &str, error: rustix::io::Errno) -> Error {
    Error::internal(format!("{call}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present() -> (u32, u32, CapabilitySet, usize) {
        (
            set_file_id(libc::SYS_setfsuid, UNCHANGED),
            set_file_id(libc::SYS_setfsgid, UNCHANGED),
            rustix::thread::capabilities(None).unwrap().effective,
            rustix::process::getgroups().unwrap().len(),
        )
    }

    #[test]
    fn users_are_names_or_small_numbers() {
        let parse = |user| Identity::parse(user, 100_000).map(|id| (id.uid, id.gid, id.is_root));
        assert_eq!(parse(None), Ok((101_000, 101_000, false)));
        assert_eq!(parse(Some("root")), Ok((100_000, 100_000, true)));
        assert_eq!(parse(Some("0:5")), Ok((100_000, 100_005, true)));
        assert_eq!(parse(Some("33")), Ok((100_033, 100_033, false)));
        for wrong in ["", "nobody", "-1", "+1", "65536", "1:65536", "1:", ":1", "1:2:3", "4294967295"] {
            assert!(matches!(parse(Some(wrong)), Err(Error::Invalid { .. })), "{wrong}");
        }
    }

    #[test]
    fn an_identity_ends_with_its_guard_even_in_a_panic() {
        let before = present();
        let user = Identity::parse(None, 100_000).unwrap();
        let panicked = std::panic::catch_unwind(|| {
            let _assumed = user.assume().unwrap();
            let (uid, gid, capabilities, groups) = present();
            assert_eq!((uid, gid, groups), (101_000, 101_000, 0));
            assert!(!capabilities.intersects(
                CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::CHOWN
            ));
            panic!("on purpose");
        });
        assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"on purpose"));
        assert_eq!(present(), before);
    }

    #[test]
    fn other_threads_keep_their_own() {
        std::thread::scope(|scope| {
            let (ask, asked) = std::sync::mpsc::channel();
            let (answer, answers) = std::sync::mpsc::channel();
            scope.spawn(move || {
                for () in asked {
                    answer.send(present()).unwrap();
                }
            });
            ask.send(()).unwrap();
            let before = answers.recv().unwrap();
            let _assumed = Identity::parse(Some("root"), 100_000).unwrap().assume().unwrap();
            assert_eq!(present().0, 100_000);
            assert!(present().2.contains(CapabilitySet::DAC_OVERRIDE), "root sees past permissions");
            ask.send(()).unwrap();
            assert_eq!(answers.recv().unwrap(), before);
        });
    }
}
