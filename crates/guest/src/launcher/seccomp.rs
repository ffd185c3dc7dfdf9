//! Which system calls a sandbox may make.
//!
//! The allow list follows Docker's default profile for a container without added capabilities, read against
//! kernel 6.18, less keyrings, `userfaultfd`, `io_uring`, `bpf` and `perf_event_open`. What is not listed answers
//! ENOSYS, so that C libraries fall back as on an older kernel; what programs expect to be refused answers EPERM.

use super::filter::{Condition, Rules, Verdict, program};
use seccompiler::{BpfProgram, Error};
use std::collections::BTreeMap;

/// Every namespace flag of clone(2): NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NAMESPACES: u64 =
    0x80 | 0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;

const REFUSE: Verdict = Verdict::Errno(libc::EPERM);
const UNKNOWN: Verdict = Verdict::Errno(libc::ENOSYS);

/// The program to load.
pub(crate) struct Filter(BpfProgram);

impl Filter {
    pub(crate) fn compile() -> Self {
        Self(program(&calls(), UNKNOWN))
    }

    /// Loads it for this process, its children and whatever they execute. Sets `no_new_privs`.
    pub(crate) fn apply(&self) -> Result<(), Error> {
        seccompiler::apply_filter(&self.0)
    }
}

/// What is said about each call; about every other that it is unknown.
fn calls() -> BTreeMap<u32, Rules> {
    let number = |call: i64| u32::try_from(call).expect("numbers of calls are small");
    let allowed = ALLOWED.iter().chain(ARCH_ALLOWED).map(|call| (number(*call), Verdict::Allow.into()));
    let refused = REFUSED.iter().map(|call| (number(*call), REFUSE.into()));
    let mut calls: BTreeMap<u32, Rules> = allowed.chain(refused).collect();
    let by_arguments = [
        (libc::SYS_clone, clone()),
        (libc::SYS_socket, socket()),
        (libc::SYS_ioctl, ioctl()),
        (libc::SYS_personality, personality()),
    ];
    calls.extend(by_arguments.map(|(call, rules)| (number(call), rules)));
    calls
}

/// The lower half of an argument, which is all that the kernel reads of an `int`.
fn is(argument: u32, value: u32) -> Condition {
    Condition { argument, mask: u32::MAX.into(), value: value.into() }
}

fn clone() -> Rules {
    let no_namespaces = Condition { argument: 0, mask: NAMESPACES, value: 0 };
    Rules { rules: vec![(vec![no_namespaces], Verdict::Allow)], otherwise: REFUSE }
}

fn socket() -> Rules {
    let family = |family: i32| is(0, family.cast_unsigned());
    let allowed = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
    let refused = [libc::AF_NETLINK, libc::AF_PACKET, libc::AF_ALG, libc::AF_VSOCK, libc::AF_KEY];
    let mut rules = allowed.map(|allowed| (vec![family(allowed)], Verdict::Allow)).to_vec();
    // Interfaces and addresses are listed over NETLINK_ROUTE (protocol 0); nothing else speaks netlink.
    rules.push((vec![family(libc::AF_NETLINK), is(2, 0)], Verdict::Allow));
    rules.extend(refused.map(|refused| (vec![family(refused)], REFUSE)));
    Rules { rules, otherwise: UNKNOWN }
}

/// Terminal input cannot be faked (TIOCSTI), nor the console driven (TIOCLINUX).
fn ioctl() -> Rules {
    let rules = [0x5412, 0x541c].map(|request| (vec![is(1, request)], REFUSE)).to_vec();
    Rules { rules, otherwise: Verdict::Allow }
}

fn personality() -> Rules {
    let values = [0, 0x8, 0x2_0000, 0x2_0008, 0x4_0000, 0xffff_ffff];
    let rules = values.map(|value| (vec![is(0, value)], Verdict::Allow)).to_vec();
    Rules { rules, otherwise: UNKNOWN }
}

/// Refused with EPERM rather than as unknown, because programs ask for them and read that answer.
#[rustfmt::skip]
const REFUSED: &[i64] = &[
    libc::SYS_acct, libc::SYS_add_key, libc::SYS_bpf, libc::SYS_delete_module, libc::SYS_finit_module,
    libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_fsopen, libc::SYS_init_module,
    libc::SYS_io_uring_setup, libc::SYS_kexec_load, libc::SYS_keyctl, libc::SYS_mount,
    libc::SYS_mount_setattr, libc::SYS_move_mount, libc::SYS_open_by_handle_at, libc::SYS_open_tree,
    libc::SYS_perf_event_open, libc::SYS_pivot_root, libc::SYS_quotactl, libc::SYS_reboot,
    libc::SYS_request_key, libc::SYS_setns, libc::SYS_settimeofday, libc::SYS_clock_settime,
    libc::SYS_swapoff, libc::SYS_swapon, libc::SYS_syslog, libc::SYS_umount2, libc::SYS_unshare,
    libc::SYS_userfaultfd, libc::SYS_vhangup,
];

/// Allowed whatever the arguments.
#[rustfmt::skip]
const ALLOWED: &[i64] = &[
    libc::SYS_accept, libc::SYS_accept4, libc::SYS_adjtimex, libc::SYS_bind, libc::SYS_brk,
    libc::SYS_capget, libc::SYS_capset, libc::SYS_chdir, libc::SYS_chroot, libc::SYS_clock_adjtime,
    libc::SYS_clock_getres, libc::SYS_clock_gettime, libc::SYS_clock_nanosleep, libc::SYS_close,
    libc::SYS_close_range, libc::SYS_connect, libc::SYS_copy_file_range, libc::SYS_dup, libc::SYS_dup3,
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2, libc::SYS_execve, libc::SYS_execveat, libc::SYS_exit, libc::SYS_exit_group,
    libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_fadvise64, libc::SYS_fallocate, libc::SYS_fchdir,
    libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchmodat2, libc::SYS_fchown, libc::SYS_fchownat,
    libc::SYS_fcntl, libc::SYS_fdatasync, libc::SYS_fgetxattr, libc::SYS_flistxattr, libc::SYS_flock,
    libc::SYS_fremovexattr, libc::SYS_fsetxattr, libc::SYS_fstat, libc::SYS_fstatfs, libc::SYS_fsync,
    libc::SYS_ftruncate, libc::SYS_futex, libc::SYS_futex_waitv, libc::SYS_get_mempolicy,
    libc::SYS_get_robust_list, libc::SYS_getcpu, libc::SYS_getcwd, libc::SYS_getdents64, libc::SYS_getegid,
    libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getgroups, libc::SYS_getitimer, libc::SYS_getpeername,
    libc::SYS_getpgid, libc::SYS_getpid, libc::SYS_getppid, libc::SYS_getpriority, libc::SYS_getrandom,
    libc::SYS_getresgid, libc::SYS_getresuid, libc::SYS_getrlimit, libc::SYS_getrusage, libc::SYS_getsid,
    libc::SYS_getsockname, libc::SYS_getsockopt, libc::SYS_gettid, libc::SYS_gettimeofday, libc::SYS_getuid,
    libc::SYS_getxattr, libc::SYS_inotify_add_watch, libc::SYS_inotify_init1, libc::SYS_inotify_rm_watch,
    libc::SYS_io_cancel, libc::SYS_io_destroy, libc::SYS_io_getevents, libc::SYS_io_setup,
    libc::SYS_io_submit, libc::SYS_ioprio_get, libc::SYS_ioprio_set, libc::SYS_kill,
    libc::SYS_landlock_add_rule, libc::SYS_landlock_create_ruleset, libc::SYS_landlock_restrict_self,
    libc::SYS_lgetxattr, libc::SYS_linkat, libc::SYS_listen, libc::SYS_listxattr, libc::SYS_llistxattr,
    libc::SYS_lremovexattr, libc::SYS_lseek, libc::SYS_lsetxattr, libc::SYS_madvise, libc::SYS_mbind,
    libc::SYS_membarrier, libc::SYS_memfd_create, libc::SYS_mincore, libc::SYS_mkdirat, libc::SYS_mknodat,
    libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_mlockall, libc::SYS_mmap, libc::SYS_mprotect,
    libc::SYS_mq_getsetattr, libc::SYS_mq_notify, libc::SYS_mq_open, libc::SYS_mq_timedreceive,
    libc::SYS_mq_timedsend, libc::SYS_mq_unlink, libc::SYS_mremap, libc::SYS_msgctl, libc::SYS_msgget,
    libc::SYS_msgrcv, libc::SYS_msgsnd, libc::SYS_msync, libc::SYS_munlock, libc::SYS_munlockall,
    libc::SYS_munmap, libc::SYS_name_to_handle_at, libc::SYS_nanosleep, libc::SYS_newfstatat,
    libc::SYS_openat, libc::SYS_openat2, libc::SYS_pidfd_getfd, libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal, libc::SYS_pipe2, libc::SYS_pkey_alloc, libc::SYS_pkey_free,
    libc::SYS_pkey_mprotect, libc::SYS_ppoll, libc::SYS_prctl, libc::SYS_pread64, libc::SYS_preadv,
    libc::SYS_preadv2, libc::SYS_prlimit64, libc::SYS_process_madvise, libc::SYS_process_mrelease,
    libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_pselect6, libc::SYS_ptrace,
    libc::SYS_pwrite64, libc::SYS_pwritev, libc::SYS_pwritev2, libc::SYS_read, libc::SYS_readahead,
    libc::SYS_readlinkat, libc::SYS_readv, libc::SYS_recvfrom, libc::SYS_recvmmsg, libc::SYS_recvmsg,
    libc::SYS_remap_file_pages, libc::SYS_removexattr, libc::SYS_renameat, libc::SYS_renameat2,
    libc::SYS_restart_syscall, libc::SYS_rseq, libc::SYS_rt_sigaction, libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_sigreturn, libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait, libc::SYS_rt_tgsigqueueinfo, libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min, libc::SYS_sched_getaffinity, libc::SYS_sched_getattr,
    libc::SYS_sched_getparam, libc::SYS_sched_getscheduler, libc::SYS_sched_rr_get_interval,
    libc::SYS_sched_setaffinity, libc::SYS_sched_setattr, libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler, libc::SYS_sched_yield, libc::SYS_seccomp, libc::SYS_semctl,
    libc::SYS_semget, libc::SYS_semop, libc::SYS_semtimedop, libc::SYS_sendfile, libc::SYS_sendmmsg,
    libc::SYS_sendmsg, libc::SYS_sendto, libc::SYS_set_mempolicy, libc::SYS_set_robust_list,
    libc::SYS_set_tid_address, libc::SYS_setfsgid, libc::SYS_setfsuid, libc::SYS_setgid,
    libc::SYS_setgroups, libc::SYS_setitimer, libc::SYS_setpgid, libc::SYS_setpriority, libc::SYS_setregid,
    libc::SYS_setresgid, libc::SYS_setresuid, libc::SYS_setreuid, libc::SYS_setrlimit, libc::SYS_setsid,
    libc::SYS_setsockopt, libc::SYS_setuid, libc::SYS_setxattr, libc::SYS_shmat, libc::SYS_shmctl,
    libc::SYS_shmdt, libc::SYS_shmget, libc::SYS_shutdown, libc::SYS_sigaltstack, libc::SYS_signalfd4,
    libc::SYS_socketpair, libc::SYS_splice, libc::SYS_statfs, libc::SYS_statx, libc::SYS_symlinkat,
    libc::SYS_sync, libc::SYS_sync_file_range, libc::SYS_syncfs, libc::SYS_sysinfo, libc::SYS_tee,
    libc::SYS_tgkill, libc::SYS_timer_create, libc::SYS_timer_delete, libc::SYS_timer_getoverrun,
    libc::SYS_timer_gettime, libc::SYS_timer_settime, libc::SYS_timerfd_create, libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime, libc::SYS_times, libc::SYS_tkill, libc::SYS_truncate, libc::SYS_umask,
    libc::SYS_uname, libc::SYS_unlinkat, libc::SYS_utimensat, libc::SYS_vmsplice, libc::SYS_wait4,
    libc::SYS_waitid, libc::SYS_write, libc::SYS_writev,
];

/// Allowed calls that only this architecture has.
#[rustfmt::skip]
#[cfg(target_arch = "x86_64")]
const ARCH_ALLOWED: &[i64] = &[
    libc::SYS_access, libc::SYS_alarm, libc::SYS_arch_prctl, libc::SYS_chmod, libc::SYS_chown,
    libc::SYS_creat, libc::SYS_dup2, libc::SYS_epoll_create, libc::SYS_epoll_ctl_old, libc::SYS_epoll_wait,
    libc::SYS_epoll_wait_old, libc::SYS_eventfd, libc::SYS_fork, libc::SYS_futimesat, libc::SYS_getdents,
    libc::SYS_getpgrp, libc::SYS_inotify_init, libc::SYS_lchown, libc::SYS_link, libc::SYS_lstat,
    libc::SYS_mkdir, libc::SYS_mknod, libc::SYS_modify_ldt, libc::SYS_open, libc::SYS_pause, libc::SYS_pipe,
    libc::SYS_poll, libc::SYS_readlink, libc::SYS_rename, libc::SYS_rmdir, libc::SYS_select,
    libc::SYS_signalfd, libc::SYS_stat, libc::SYS_symlink, libc::SYS_time, libc::SYS_unlink,
    libc::SYS_ustat, libc::SYS_utime, libc::SYS_utimes, libc::SYS_vfork,
];
/// Allowed calls that only this architecture has.
#[cfg(not(target_arch = "x86_64"))]
const ARCH_ALLOWED: &[i64] = &[];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::tests::decide;

    #[test]
    fn every_number_answers_as_its_list_says() {
        let Filter(program) = Filter::compile();
        let by_arguments = [libc::SYS_clone, libc::SYS_socket, libc::SYS_ioctl, libc::SYS_personality];
        for number in (0..2048).chain([0x4000_0000, 0x4000_0001, 0xffff_ffff]) {
            let call = i64::from(number);
            let expected = match () {
                () if by_arguments.contains(&call) => continue,
                () if REFUSED.contains(&call) => REFUSE,
                () if ALLOWED.contains(&call) || ARCH_ALLOWED.contains(&call) => Verdict::Allow,
                () => UNKNOWN,
            };
            assert_eq!(decide(&program, number, [u64::MAX; 6]), expected, "call {number}");
        }
    }

    #[test]
    fn no_call_is_both_allowed_and_refused() {
        for call in ALLOWED.iter().chain(ARCH_ALLOWED) {
            assert!(!REFUSED.contains(call), "call {call}");
        }
    }

    #[test]
    fn arguments_decide_where_they_must() {
        let Filter(program) = Filter::compile();
        let ask = |call: i64, arguments: [u64; 3]| {
            let [first, second, third] = arguments;
            let number = u32::try_from(call).expect("small");
            decide(&program, number, [first, second, third, 7, 7, 7])
        };
        for flags in [0x11, 0x0120_0011, 0x003d_0f00] {
            assert_eq!(ask(libc::SYS_clone, [flags, 0, 0]), Verdict::Allow, "{flags:#x}");
            for bit in (0..64).map(|bit| 1u64 << bit) {
                let expected = if NAMESPACES & bit == 0 { Verdict::Allow } else { REFUSE };
                assert_eq!(ask(libc::SYS_clone, [flags | bit, 0, 0]), expected, "{flags:#x} {bit:#x}");
            }
        }
        // Upper halves of arguments that are ints say nothing to the kernel.
        for high in [0, 1 << 32, 0xffff_ffff << 32] {
            for family in 0..64u64 {
                let (other, route) = match family {
                    1 | 2 | 10 => (Verdict::Allow, Verdict::Allow),
                    16 => (REFUSE, Verdict::Allow),
                    15 | 17 | 38 | 40 => (REFUSE, REFUSE),
                    _ => (UNKNOWN, UNKNOWN),
                };
                assert_eq!(ask(libc::SYS_socket, [high | family, 3, high]), route, "family {family}");
                assert_eq!(ask(libc::SYS_socket, [high | family, 3, high | 9]), other, "family {family}");
            }
            for (request, expected) in
                [(0x5412, REFUSE), (0x541c, REFUSE), (0x5413, Verdict::Allow), (0, Verdict::Allow)]
            {
                assert_eq!(ask(libc::SYS_ioctl, [0x5412, high | request, 0]), expected, "{request:#x}");
            }
        }
        for (value, expected) in
            [(0, Verdict::Allow), (0x4_0000, Verdict::Allow), (0xffff_ffff, Verdict::Allow), (1, UNKNOWN)]
        {
            assert_eq!(ask(libc::SYS_personality, [value, 0, 0]), expected, "{value:#x}");
        }
    }
}
