//! What programs find inside, and that what they need works.

mod support;

use support::{Sandbox, Server, json};

async fn sandbox() -> (Server, Sandbox) {
    // What is in the server's environment must not be in a sandbox's.
    let server =
        Server::start_with(&[("ISOPOD_SECRET", "of the host"), ("AWS_SECRET_ACCESS_KEY", "too")]).await;
    let sandbox = server
        .sandbox(json!({ "instance_type": "standard", "env": { "FROM_CREATE": "1", "BOTH": "create" } }))
        .await;
    (server, sandbox)
}

#[tokio::test]
async fn identity_environment_and_limits() {
    let (_server, sandbox) = sandbox().await;
    assert_eq!(sandbox.sh("id").await.fine(), "uid=1000(user) gid=1000(user) groups=1000(user)");
    assert_eq!(
        sandbox.sh("pwd; cd; pwd; hostname; cat /etc/hostname").await.fine(),
        format!("/workspace\n/home/user\n{0}\n{0}", sandbox.id)
    );
    assert_eq!(sandbox.sh("getent hosts $(hostname) | awk '{print $1}'").await.fine(), "127.0.0.1");
    let env = sandbox.exec(json!({ "argv": ["env"], "env": { "BOTH": "exec" } })).await;
    let mut lines: Vec<&str> = env.fine().lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "BOTH=exec",
            "FROM_CREATE=1",
            "HOME=/home/user",
            "LANG=C.UTF-8",
            "LOGNAME=user",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "SHELL=/bin/bash",
            "USER=user",
        ]
    );
    assert_eq!(sandbox.root("id -u; pwd; echo $HOME").await.fine(), "0\n/workspace\n/root");
    assert_eq!(sandbox.sh("nproc; date +%Z; umask").await.fine(), "1\nUTC\n0022");
    assert_eq!(
        sandbox.sh("awk '/MemTotal/{print $2}' /proc/meminfo; grep -c ^processor /proc/cpuinfo").await.fine(),
        "1048576\n1"
    );
    assert_eq!(sandbox.python_as("user", "import os; print(os.cpu_count())").await.fine(), "1");
    assert_eq!(
        sandbox.sh("readlink -f $(command -v python) | grep -c python3; python -c 'print(1)'").await.fine(),
        "1\n1"
    );
    assert_eq!(
        sandbox
            .sh("for d in /workspace ~ /tmp /var/tmp /dev/shm; do touch $d/x || echo $d; done")
            .await
            .fine(),
        ""
    );
    assert_eq!(sandbox.sh("ls -A /workspace/ /home/user | grep -v : | grep -v '^$'").await.fine(), "x\nx");
    assert_eq!(
        sandbox.sh("ls -l /proc/self/fd | wc -l; readlink /proc/self/fd/0").await.stdout().lines().last(),
        Some("/dev/null")
    );
}

#[tokio::test]
async fn nothing_of_the_host_is_seen() {
    let (_server, sandbox) = sandbox().await;
    let processes = sandbox.root("ps -e -o pid=,comm=").await;
    assert!(
        processes.fine().lines().count() <= 4 && processes.stdout().contains("isopod-agent"),
        "{}",
        processes.brief()
    );
    for secret in [
        "/etc/shadow",
        "/etc/ssh",
        "/root/.ssh",
        "/root/.cargo",
        "/boot/grub",
        "/var/lib/dpkg",
        "/var/run/docker.sock",
        "/.dockerenv",
    ] {
        assert_eq!(
            sandbox.root(&format!("test -e {secret} && echo there; true")).await.fine(),
            "",
            "{secret}"
        );
    }
    assert_eq!(
        sandbox.root("cat /proc/*/environ | tr '\\0' '\\n' | grep -c -E 'ISOPOD|AWS'").await.stdout(),
        "0\n"
    );
    assert_eq!(
        sandbox
            .sh("grep -v -E '^[^ ]+ (/|/usr|/proc[^ ]*|/dev[^ ]*|/sys|/run) ' /proc/mounts")
            .await
            .stdout(),
        ""
    );
}

#[tokio::test]
async fn languages_and_tools_work() {
    let (_server, sandbox) = sandbox().await;
    assert_eq!(
        sandbox
            .exec(json!({ "argv": ["node", "-e", "console.log([1,2,3].map(x => x*x).join())"] }))
            .await
            .fine(),
        "1,4,9"
    );
    let workers = "const {Worker}=require('worker_threads');new Worker('console.log(6*7)',{eval:true})";
    assert_eq!(sandbox.exec(json!({ "argv": ["node", "-e", workers] })).await.fine(), "42");
    let git = "git init -q repo && cd repo && git config user.email a@b && git config user.name n && echo x > f && git add f && git commit -q -m m && git log --format=%s";
    assert_eq!(sandbox.sh(git).await.fine(), "m");
    let gcc = "printf '#include <stdio.h>\\n#include <threads.h>\\nint t(void*a){return 41;}int main(){thrd_t h;int r;thrd_create(&h,t,0);thrd_join(h,&r);printf(\"%%d\\\\n\",r+1);}' > a.c && gcc -O2 a.c -o a -lpthread && ./a";
    assert_eq!(sandbox.sh(gcc).await.fine(), "42");
    let sockets = "import socket,threading\nfor f,a in ((2,'127.0.0.1'),(10,'::1')):\n s=socket.socket(f); s.bind((a,0)); s.listen()\n \
                   t=threading.Thread(target=lambda: s.accept()[0].sendall(b'hi')); t.start()\n print(socket.create_connection(s.getsockname()[:2]).recv(9)); t.join()\n\
                   s=socket.socket(); s.bind(('127.0.0.1',80)); print('low port')";
    assert_eq!(sandbox.python_as("user", sockets).await.fine(), "b'hi'\nb'hi'\nlow port");
    let workers = "import multiprocessing as m\nwith m.Pool(2) as p: print(p.map(abs, [-1,-2]))\nimport subprocess; print(subprocess.run(['echo','sub'],capture_output=True).stdout)";
    assert_eq!(sandbox.python_as("user", workers).await.fine(), "[1, 2]\nb'sub\\n'");
    assert_eq!(
        sandbox.sh("ps -o comm= -p 1; top -b -n 1 | head -1 | cut -c1-3").await.fine(),
        "isopod-agent\ntop"
    );
    let terminal = "import pty,os\nprint(pty.spawn(['tty']))";
    assert!(sandbox.python_as("user", terminal).await.fine().contains("/dev/pts/0"));
    let trace = "import ctypes,os,signal\nc=os.fork()\nif c==0:\n ctypes.CDLL(None).ptrace(0,0,0,0); os.kill(os.getpid(),19); os._exit(0)\nprint(os.WIFSTOPPED(os.waitpid(c,0)[1]))";
    assert_eq!(sandbox.python_as("user", trace).await.fine(), "True");
}

/// A wheel is a zip file: a module, and three files that describe it.
const WHEEL: &str = "import zipfile,hashlib,base64\nfiles={'tiny_isopod.py':'answer=42\\n',\
'tiny_isopod-1.0.dist-info/METADATA':'Metadata-Version: 2.1\\nName: tiny-isopod\\nVersion: 1.0\\n',\
'tiny_isopod-1.0.dist-info/WHEEL':'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n'}\n\
record=''.join(f'{n},sha256={base64.urlsafe_b64encode(hashlib.sha256(t.encode()).digest()).rstrip(b\"=\").decode()},{len(t)}\\n' for n,t in files.items())\n\
files['tiny_isopod-1.0.dist-info/RECORD']=record+'tiny_isopod-1.0.dist-info/RECORD,,\\n'\n\
z=zipfile.ZipFile('/tmp/tiny_isopod-1.0-py3-none-any.whl','w')\nfor n,t in files.items(): z.writestr(n,t)\nz.close()\nprint('built')";

#[tokio::test]
async fn pip_installs_a_wheel_as_user_and_as_root() {
    let (server, first) = sandbox().await;
    let second = server.sandbox(json!({ "limits": { "cpus": 1.0 } })).await;
    let pip = "PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install -q --no-index --disable-pip-version-check --root-user-action=ignore";
    for (sandbox, user, flag) in [(&first, "user", "--user"), (&second, "root", "")] {
        assert_eq!(sandbox.python_as("user", WHEEL).await.fine(), "built");
        let install =
            format!("{pip} {flag} /tmp/*.whl && python3 -c 'import tiny_isopod; print(tiny_isopod.answer)'");
        let done = sandbox.exec(json!({ "shell": install, "user": user })).await;
        assert_eq!(done.fine(), "42", "{}", done.brief());
    }
    // What root installed is there for all inside, and outside for nobody.
    assert_eq!(second.sh("python3 -c 'import tiny_isopod; print(tiny_isopod.answer)'").await.fine(), "42");
    assert_ne!(first.root("python3 -c 'import tiny_isopod'").await.code(), Some(0));
}
