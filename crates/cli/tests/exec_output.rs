//! Output: whatever a command writes, of any size and any bytes, is kept or accounted for.

mod support;

use support::{Sandbox, Server, json};

async fn sandbox() -> (Server, Sandbox) {
    let server = Server::start().await;
    let sandbox = server.sandbox(json!({ "instance_type": "standard", "limits": { "cpus": 2.0 } })).await;
    (server, sandbox)
}

#[tokio::test]
async fn bytes_that_are_no_text_arrive_as_they_are() {
    let (_server, sandbox) = sandbox().await;
    let code = "import sys; sys.stdout.buffer.write(bytes(range(256))*1000)";
    let stream = sandbox.follow(json!({ "language": "python", "code": code })).await;
    let (stdout, event, exit) = stream.drain().await;
    let expected: Vec<u8> = (0..=255_u8).cycle().take(256_000).collect();
    assert!(stdout == expected, "{} bytes", stdout.len());
    assert_eq!((event.as_str(), &exit["stdout_bytes"]), ("exit", &256_000.into()));
    // In JSON what is not UTF-8 is replaced, and the count is that of the bytes.
    let done = sandbox.sh(r"printf 'a\377b'").await;
    assert_eq!((done.stdout(), &done.0["stdout_bytes"]), ("a\u{fffd}b", &3.into()));
}

#[tokio::test]
async fn buffered_results_hold_the_first_4_mib() {
    let (_server, sandbox) = sandbox().await;
    let done = sandbox
        .sh("head -c 5000000 /dev/zero | tr '\\0' x; head -c 4194304 /dev/zero | tr '\\0' e >&2")
        .await;
    assert_eq!((done.stdout().len(), &done.0["stdout_bytes"]), (4 << 20, &5_000_000.into()));
    assert_eq!((&done.0["stdout_truncated"], &done.0["stderr_truncated"]), (&true.into(), &false.into()));
    assert_eq!((done.stderr().len(), done.code()), (4 << 20, Some(0)));
    let id = done.0["id"].as_str().expect("an id").to_owned();
    let exec = support::Execution { sandbox: sandbox.clone(), id };
    assert_eq!(exec.whole_output().await.len(), 5_000_000);
}

#[tokio::test]
async fn a_full_journal_keeps_head_and_tail_and_counts_the_middle() {
    let (_server, sandbox) = sandbox().await;
    // Lines of 10 bytes that say where they are.
    let (lines, total) = (8_000_000_u64, 80_000_000_u64);
    let exec = sandbox.start(json!({ "shell": "seq -f %09.0f 0 7999999" })).await;
    let ended = exec.ended().await;
    assert_eq!((&ended["stdout_bytes"], &ended["exit_code"]), (&total.into(), &0.into()));

    let mut stream = exec.follow(0).await;
    let (mut offset, mut held, mut skipped) = (0, 0, 0);
    let (mut first, mut last) = (String::new(), String::new());
    while let Some((event, data)) = stream.next().await {
        match event.as_str() {
            "stdout" => {
                let text = data["data"].as_str().expect("text");
                assert_eq!(
                    data["offset"].as_u64(),
                    Some(offset),
                    "no byte is told twice or left out silently"
                );
                let begin = usize::try_from((10 - offset % 10) % 10).expect("small");
                for (index, line) in text.as_bytes()[begin..].chunks_exact(10).enumerate().step_by(997) {
                    let expected = (offset + begin as u64) / 10 + index as u64;
                    assert_eq!(line, format!("{expected:09}\n").as_bytes());
                }
                if first.is_empty() {
                    first = text[..10].to_owned();
                }
                text[text.len() - 10..].clone_into(&mut last);
                offset += text.len() as u64;
                held += text.len() as u64;
            }
            "skipped" => {
                assert_eq!(data["offset"].as_u64(), Some(offset));
                let bytes = data["bytes"].as_u64().expect("a count");
                offset += bytes;
                skipped += bytes;
            }
            "exit" => break,
            other => panic!("{other}: {data}"),
        }
    }
    assert_eq!((first.as_str(), last), ("000000000\n", format!("{:09}\n", lines - 1)));
    assert_eq!(held + skipped, total);
    assert!(skipped > 0 && held <= 64 << 20, "{held} bytes are held, {skipped} are not");
}
