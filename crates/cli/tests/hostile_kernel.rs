//! Guests that try the kernel: every door out is closed, for the user and for the namespace's root.

mod support;

use std::{fs, io::Read, net::TcpListener};
use support::{Sandbox, Server, json, until};

/// Calls system calls by number and says what each answered. Numbers are those of x86-64.
const CALLS: &str = r"
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    ctypes.set_errno(0)
    # Numbers are passed as long, else the upper half of those on the stack is left to chance.
    arguments = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = libc.syscall(ctypes.c_long(number), *arguments)
    return 'OK' if result >= 0 else errno.errorcode[ctypes.get_errno()]
def attempt(action):
    try:
        action()
        return 'OK'
    except OSError as error:
        return errno.errorcode[error.errno]
";

async fn sandbox() -> (Server, Sandbox) {
    let server = Server::start().await;
    let sandbox = server.sandbox(json!({ "limits": { "cpus": 1.0 } })).await;
    (server, sandbox)
}

/// Runs Python after [`CALLS`] as user and as root; gives both outputs.
async fn both(sandbox: &Sandbox, code: &str) -> [String; 2] {
    let code = format!("{CALLS}{code}");
    let mut said = Vec::new();
    for user in ["user", "root"] {
        said.push(sandbox.python_as(user, &code).await.fine().to_owned());
    }
    said.try_into().expect("two of them")
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn system_calls_that_lead_out_are_refused() {
    let (_server, sandbox) = sandbox().await;
    let code = r"
zero = ctypes.create_string_buffer(4096)
vector = (ctypes.c_long * 2)(ctypes.addressof(zero), 8)
here, tmp, proc_ = b'/tmp', b'tmpfs', b'proc'
refused = {
    'mount': (165, tmp, here, tmp, 0, 0), 'umount2': (166, b'/proc', 2), 'pivot_root': (155, b'/tmp', b'/tmp'),
    'unshare user': (272, 0x10000000), 'unshare mount': (272, 0x20000), 'unshare net': (272, 0x40000000),
    'setns': (308, os.open('/proc/self/ns/net', os.O_RDONLY), 0), 'fsopen': (430, tmp, 0), 'open_tree': (428, -100, here, 1),
    'move_mount': (429, -100, here, -100, here, 0), 'mount_setattr': (442, -100, here, 0, zero, 32), 'fsmount': (432, 0, 0, 0),
    'open_by_handle_at': (304, -100, zero, 0), 'bpf': (321, 0, zero, 128), 'keyctl': (250, 0, 0, 0), 'add_key': (248, b'user', b'k', b'v', 1, -3),
    'request_key': (249, b'user', b'k', None, -3), 'userfaultfd': (323, 1), 'io_uring_setup': (425, 8, zero),
    'perf_event_open': (298, zero, 0, -1, -1, 0), 'kexec_load': (246, 0, 0, 0, 0), 'init_module': (175, zero, 1, b''),
    'finit_module': (313, 0, b'', 0), 'delete_module': (176, b'x', 0), 'reboot': (169, 0xfee1dead, 672274793, 0x1234567, 0),
    'swapon': (167, here, 0), 'settimeofday': (164, zero, 0), 'clock_settime': (227, 0, zero), 'syslog': (103, 3, zero, 10),
    'quotactl': (179, 0, 0, 0, 0), 'acct': (163, here), 'clone user namespace': (56, 0x10000000 | 17, 0, 0, 0, 0),
    'clone net namespace': (56, 0x40000000 | 17, 0, 0, 0, 0), 'ptrace of PID 1': (101, 16, 1, 0, 0), 'seize of PID 1': (101, 0x4206, 1, 0, 0),
    'memory of PID 1': (310, 1, vector, 1, vector, 1, 0), 'descriptor of PID 1': (438, libc.syscall(434, 1, 0), 3, 0),
    'iopl': (172, 3), 'ioperm': (173, 0, 1, 1), 'clone3': (435, zero, 88), 'mount by the x32 interface': (0x40000000 | 165, tmp, here, tmp, 0, 0),
    'a call of the future': (1000,), 'lookup_dcookie': (212, 0, 0, 0), 'nfsservctl': (180,), 'sethostname': (170, b'x', 1),
}
for name, arguments in refused.items():
    answer = call(*arguments)
    if answer not in ('EPERM', 'ENOSYS'):
        print(name, answer)
";
    for (said, user) in both(&sandbox, code).await.iter().zip(["user", "root"]) {
        assert_eq!(said, "", "refused in no proper way as {user}");
    }
    // The calls of 32-bit programs are not even looked at: whoever makes one is ended.
    let old = "import mmap\npage = mmap.mmap(-1, 4096, prot=7)\npage.write(bytes([0xb8,20,0,0,0,0xcd,0x80,0xc3]))\n\
               address = ctypes.addressof(ctypes.c_char.from_buffer(page))\nprint(ctypes.CFUNCTYPE(ctypes.c_int)(address)())";
    let done = sandbox.python_as("root", &format!("{CALLS}{old}")).await;
    assert!(done.0["signal"] == 31 || done.stdout().starts_with('-'), "{}", done.brief());
    sandbox.assert_well().await;
}

#[tokio::test]
async fn only_harmless_sockets_can_be_made() {
    let (_server, sandbox) = sandbox().await;
    let code = r"
for name, arguments in {
    'raw': (2, 3, 1), 'raw 6': (10, 3, 58), 'packet': (17, 3, 0x300), 'packet dgram': (17, 2, 0x300), 'vsock': (40, 1, 0), 'alg': (38, 5, 0),
    'key': (15, 3, 2), 'uevent': (16, 3, 15), 'netfilter': (16, 3, 12), 'audit': (16, 3, 9), 'bluetooth': (31, 3, 1), 'can': (29, 3, 1), 'tipc': (30, 1, 0),
    'xdp': (44, 3, 0), 'rds': (21, 5, 0), 'smc': (43, 1, 0), 'kcm': (41, 5, 0), 'x25': (9, 5, 0), 'ax25': (3, 5, 0), 'pppox': (24, 1, 0),
}.items():
    answer = attempt(lambda: socket.socket(*arguments))
    if answer not in ('EPERM', 'ENOSYS', 'EACCES', 'EAFNOSUPPORT'): print(name, answer)
print([name for _, name in socket.if_nameindex()])
for arguments in ((1, 1, 0), (1, 5, 0), (2, 1, 0), (2, 2, 0), (10, 1, 0), (10, 2, 0), (16, 3, 0)):
    socket.socket(*arguments).close()
";
    assert_eq!(both(&sandbox, code).await, ["['lo']", "['lo']"]);
}

#[tokio::test]
async fn the_hosts_servers_cannot_be_reached() {
    let (server, sandbox) = sandbox().await;
    let four = TcpListener::bind("127.0.0.1:0").expect("a port");
    let six = TcpListener::bind("[::1]:0").or_else(|_| TcpListener::bind("127.0.0.1:0")).expect("a port");
    let port = |listener: &TcpListener| listener.local_addr().expect("bound").port();
    let code = format!(
        "def reach(family, address):\n s = socket.socket(family); s.settimeout(5); s.connect(address)\n\
         for family, host, port in ((2,'127.0.0.1',{0}), (10,'::1',{1}), (2,'127.0.0.1',{2}), (2,'0.0.0.0',{2}), (2,'127.1.2.3',{0}),\n \
         (2,'10.0.2.2',80), (2,'192.168.0.1',{0}), (2,'169.254.169.254',80), (2,'1.1.1.1',443), (10,'2606:4700:4700::1111',443), (10,'::ffff:127.0.0.1',{0})):\n \
         answer = attempt(lambda: reach(family, (host, port)))\n \
         if answer not in ('ECONNREFUSED','ENETUNREACH','EHOSTUNREACH','EADDRNOTAVAIL'): print(host, port, answer)\n\
         unix = attempt(lambda: socket.socket(1).connect('\\0isopod-test-{0}'))\nprint(unix)",
        port(&four),
        port(&six),
        server.port
    );
    use std::os::linux::net::SocketAddrExt;
    let name = format!("isopod-test-{}", port(&four));
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).expect("a name");
    let _abstract = std::os::unix::net::UnixListener::bind_addr(&address).expect("bound");
    assert_eq!(both(&sandbox, &code).await, ["ECONNREFUSED", "ECONNREFUSED"]);
    four.set_nonblocking(true).expect("ours");
    assert!(four.accept().is_err(), "nobody came");
    // Neither can a neighbour: each has a loopback of its own.
    let neighbour = server.sandbox(json!({})).await;
    let serving = neighbour.start(json!({ "argv": ["python3", "-m", "http.server", "8123"] })).await;
    serving.wait(json!({ "for": "port", "port": 8123, "timeout_ms": 60_000 })).await.expect(200);
    let reach = "print(attempt(lambda: socket.socket().connect(('127.0.0.1', 8123))))";
    assert_eq!(both(&sandbox, reach).await, ["ECONNREFUSED", "ECONNREFUSED"]);
}

#[tokio::test]
async fn the_agent_can_be_neither_read_nor_stopped() {
    let (server, sandbox) = sandbox().await;
    let agent = server.host().agents()[0];
    // The names of its descriptors may be listed by root; where they lead is told to nobody.
    let look = "cd /proc/1; for f in environ mem maps auxv syscall fd/0 fd/3 fd/4; do head -c 1 $f && echo read $f; done 2>/dev/null; \
                for f in cwd root exe fd/3 fd/4; do readlink $f && echo followed $f; done 2>/dev/null; \
                for d in root cwd map_files; do ls $d/; done 2>/dev/null; true";
    assert_eq!(sandbox.sh(look).await.fine(), "");
    assert_eq!(sandbox.root(look).await.fine(), "");
    for user in ["user", "root"] {
        for signal in ["KILL", "STOP", "TERM", "INT", "SEGV", "CHLD", "CONT", "USR1", "RTMIN"] {
            sandbox.exec(json!({ "shell": format!("kill -{signal} 1; true"), "user": user })).await.fine();
        }
        sandbox.assert_well().await;
        let other = sandbox.start(json!({ "shell": "echo up; sleep 1000", "user": "user" })).await;
        other.said("up").await;
        sandbox
            .exec(json!({ "shell": "kill -STOP -1; kill -CONT -1; kill -9 -1; sleep 1", "user": user }))
            .await;
        let ended = other.ended().await;
        assert_eq!((&ended["reason"], &ended["signal"]), (&"signaled".into(), &9.into()));
        sandbox.assert_well().await;
    }
    assert_eq!(server.host().agents(), [agent]);
    // Flooding it with dead children does not deafen it.
    sandbox.sh("for i in $(seq 300); do (setsid true &); done; wait").await.fine();
    sandbox.assert_well().await;
}

#[tokio::test]
async fn devices_can_be_neither_made_nor_opened() {
    let (_server, sandbox) = sandbox().await;
    let code = r"
import stat
for name, kind, device in (('disk', stat.S_IFBLK, os.makedev(254, 0)), ('loop', stat.S_IFBLK, os.makedev(7, 0)), ('mem', stat.S_IFCHR, os.makedev(1, 1)), ('null', stat.S_IFCHR, os.makedev(1, 3))):
    for where in ('/tmp', '/dev/shm', '/workspace'):
        path = f'{where}/{name}'
        made = attempt(lambda: os.mknod(path, kind | 0o666, device))
        opened = attempt(lambda: os.open(path, os.O_RDWR))
        if made not in ('EPERM',) or opened == 'OK': print(path, made, opened)
# What overlays call a whiteout may be made; it means nothing here.
attempt(lambda: os.mknod('/tmp/whiteout', stat.S_IFCHR | 0o666, 0))
print(attempt(lambda: os.open('/tmp/whiteout', os.O_RDWR)) in ('ENXIO', 'ENOENT', 'EACCES', 'EPERM'))
print(sorted(os.listdir('/dev')) == sorted('fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero'.split()))
print(attempt(lambda: os.remove('/dev/null')), attempt(lambda: os.open('/dev/new', os.O_CREAT | os.O_WRONLY)))
";
    for said in both(&sandbox, code).await {
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[..2], ["True", "True"], "{said}");
        assert!(lines[2].split(' ').all(|answer| ["EROFS", "EACCES", "EPERM"].contains(&answer)), "{said}");
    }
    let faked = "import fcntl,pty\nmaster, slave = pty.openpty()\nprint(attempt(lambda: fcntl.ioctl(slave, 0x5412, b'x')))";
    assert_eq!(both(&sandbox, faked).await, ["EPERM", "EPERM"]);
}

#[tokio::test]
async fn the_hosts_files_cannot_be_written() {
    let (server, sandbox) = sandbox().await;
    let neighbour = server.sandbox(json!({})).await;
    let env =
        |path: &str| fs::metadata(path).map(|facts| (facts.len(), facts.modified().expect("a time"))).ok();
    let before = env("/usr/bin/env");
    let vandal = "echo gone > /usr/bin/env && rm -rf /usr/share/doc && echo x > /usr/bin/isopod-test-mark && chmod 777 /usr/bin/bash \
                  && chown 1000 /usr/bin/ls && mkdir /usr/isopod-test-mark && mv /usr/bin/cat /usr/bin/dog && echo all done";
    assert_eq!(sandbox.root(vandal).await.fine(), "all done");
    assert_eq!(
        sandbox.sh("dog /usr/bin/env; ls -d /usr/isopod-test-mark").await.fine(),
        "gone\n/usr/isopod-test-mark"
    );
    assert_eq!(env("/usr/bin/env"), before);
    assert!(fs::metadata("/usr/bin/isopod-test-mark").is_err() && fs::metadata("/usr/bin/cat").is_ok());
    neighbour.assert_well().await;
    assert_eq!(neighbour.sh("env true && ls -l /usr/bin/bash | cut -c1-10").await.fine(), "-rwxr-xr-x");
    // As user even that is refused, and what shows the kernel is read-only for root as well.
    assert_ne!(neighbour.sh("echo x > /usr/bin/mark").await.code(), Some(0));
    let kernel = "for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sys/vm/overcommit_memory /proc/sys/net/ipv4/ip_forward \
                  /proc/sysrq-trigger /proc/irq/default_smp_affinity /sys/kernel/mm/transparent_hugepage/enabled /sys/fs/cgroup/x /proc/meminfo; \
                  do (echo 1 > $f) 2>/dev/null && echo wrote $f; done; true";
    assert_eq!(neighbour.root(kernel).await.fine(), "");
    assert_eq!(neighbour.sh(kernel).await.fine(), "");
    // It is undone with the sandbox, and only there.
    sandbox.delete().await;
    neighbour.assert_well().await;
}

#[tokio::test]
async fn root_inside_has_no_power_outside() {
    let (server, sandbox) = sandbox().await;
    let status = sandbox
        .root("grep -E '^(Cap(Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'")
        .await;
    let kept = "00000000a00405fb";
    assert_eq!(
        status.fine(),
        format!(
            "CapPrm:{kept}\nCapEff:{kept}\nCapBnd:{kept}\nCapAmb:0000000000000000\nNoNewPrivs:1\nSeccomp:2"
        )
    );
    assert_eq!(
        sandbox.sh("grep -E '^CapEff' /proc/self/status | tr -d '\\t'").await.fine(),
        "CapEff:0000000000000000"
    );
    // Becoming root by a program with the set-uid bit does not work, for lack of new privileges.
    assert_eq!(
        sandbox.root("cp /usr/bin/id /tmp/id && chmod 4755 /tmp/id && echo made").await.fine(),
        "made"
    );
    assert_eq!(sandbox.sh("/tmp/id -u").await.fine(), "1000");
    let leave = "import os\nos.makedirs('/tmp/jail', exist_ok=True)\nroot = os.open('/', 0)\nos.chroot('/tmp/jail')\nos.fchdir(root)\n\
                 for _ in range(100): os.chdir('..')\nos.chroot('.')\nprint(open('/etc/hostname').read().strip(), os.path.exists('/etc/shadow'))";
    assert_eq!(sandbox.python_as("root", leave).await.fine(), format!("{} False", sandbox.id));
    assert_eq!(sandbox.sh("cat /proc/self/cgroup | cut -d: -f3 | sort -u").await.fine(), "/");
    // Outside it is nobody: its processes have uids of its own range.
    let sleeping = sandbox.start(json!({ "argv": ["sleep", "1000"], "user": "root" })).await;
    let host = server.host();
    let uid = until("process of the sandbox", async || {
        host.pids_named("sleep").first().and_then(|pid| {
            let mut status = String::new();
            fs::File::open(format!("/proc/{pid}/status")).ok()?.read_to_string(&mut status).ok()?;
            let line = status.lines().find(|line| line.starts_with("Uid:"))?.to_owned();
            line.split('\t').nth(1)?.parse::<u32>().ok()
        })
    })
    .await;
    assert!(uid >= 0x8000_0000, "{uid}");
    sleeping.signal("KILL", true).await.expect(204);
}
