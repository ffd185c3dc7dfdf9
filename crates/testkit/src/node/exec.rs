//! Execs that are scripts.

use super::{FakeNode, FakeSandbox};
use futures::stream::{self, BoxStream, StreamExt};
use isopod_model::{
    EndReason, Error, ExecId, Result, SandboxId, Timestamp,
    exec::{Exec, ExecRequest, ExecResult, ExecState, OutputStream, RESULT_LIMIT},
};
use isopod_node_api::{OutputEvent, OutputSlice, WaitFor};
use std::time::Duration;
use tokio::sync::watch;

pub(super) struct FakeExec {
    pub(super) record: Exec,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    stdin_open: bool,
    changed: watch::Sender<u64>,
}

impl FakeExec {
    pub(super) fn is_running(&self) -> bool {
        self.record.state == ExecState::Running
    }

    /// Ends it once; later ends are ignored.
    pub(super) fn end(&mut self, at: Timestamp, reason: EndReason, code: Option<i32>, signal: Option<i32>) {
        if !self.is_running() {
            return;
        }
        let record = &mut self.record;
        record.state = ExecState::Ended;
        record.ended_at = Some(at);
        #[allow(clippy::cast_precision_loss, reason = "tests run for less than 2^52 ms")]
        let duration = (at.as_millisecond() - record.started_at.as_millisecond()) as f64;
        record.duration_ms = duration;
        record.reason = Some(reason);
        record.exit_code = code.or(signal.map(|signal| 128 + signal));
        record.signal = signal;
        record.success = record.exit_code == Some(0);
        self.stdin_open = false;
        self.changed.send_modify(|version| *version += 1);
    }

    fn write(&mut self, stream: OutputStream, bytes: &[u8]) {
        match stream {
            OutputStream::Stdout => {
                self.stdout.extend_from_slice(bytes);
                self.record.stdout_bytes += bytes.len() as u64;
            }
            OutputStream::Stderr => {
                self.stderr.extend_from_slice(bytes);
                self.record.stderr_bytes += bytes.len() as u64;
            }
        }
        self.changed.send_modify(|version| *version += 1);
    }

    /// Runs the script as far as it goes by itself.
    fn run(&mut self, command: &[String], env: &dyn Fn(&str) -> Option<String>, stdin: Option<&str>) {
        let at = self.record.started_at;
        let words: Vec<&str> = match command {
            [bash, flag, text] if bash == "/bin/bash" && flag == "-c" => text.split_whitespace().collect(),
            words => words.iter().map(String::as_str).collect(),
        };
        let code = match words.as_slice() {
            ["echo", words @ ..] => {
                self.write(OutputStream::Stdout, format!("{}\n", words.join(" ")).as_bytes());
                0
            }
            [] | ["true"] => 0,
            ["false"] => 1,
            ["exit", code] => code.parse().unwrap_or(2),
            ["fail", words @ ..] => {
                self.write(OutputStream::Stderr, format!("{}\n", words.join(" ")).as_bytes());
                1
            }
            ["yes", bytes] => {
                let bytes = bytes.parse().unwrap_or(0);
                self.write(OutputStream::Stdout, &b"y\n".repeat(bytes / 2 + 1)[..bytes]);
                0
            }
            ["printenv", name] => match env(name) {
                Some(value) => {
                    self.write(OutputStream::Stdout, format!("{value}\n").as_bytes());
                    0
                }
                None => 1,
            },
            ["sleep", ..] => return,
            ["cat"] => {
                self.write(OutputStream::Stdout, stdin.unwrap_or_default().as_bytes());
                if self.stdin_open {
                    return;
                }
                0
            }
            [program, ..] => {
                self.write(OutputStream::Stderr, format!("{program}: not found\n").as_bytes());
                127
            }
        };
        self.end(at, EndReason::Exited, Some(code), None);
    }

    fn tail(&self, stream: OutputStream, offset: u64) -> Result<bytes::Bytes> {
        let content = match stream {
            OutputStream::Stdout => &self.stdout,
            OutputStream::Stderr => &self.stderr,
        };
        let size_bytes = content.len() as u64;
        let start = usize::try_from(offset).ok().filter(|start| *start <= content.len());
        let start = start.ok_or(Error::RangeNotSatisfiable { size_bytes })?;
        let end = content.len().min(start + RESULT_LIMIT);
        Ok(bytes::Bytes::copy_from_slice(&content[start..end]))
    }
}

impl FakeSandbox {
    fn exec(&mut self, id: &ExecId) -> Result<&mut FakeExec> {
        self.execs.get_mut(id).ok_or_else(|| Error::NotFound { what: "exec", id: id.to_string() })
    }
}

impl FakeNode {
    pub(super) fn start_exec(
        &self,
        id: &SandboxId,
        exec_id: ExecId,
        request: ExecRequest,
        key: Option<String>,
    ) -> Result<Exec> {
        let now = self.clock.now();
        if request.timeout_ms == Some(0) || request.session.is_some() || request.command().is_err() {
            return Err(self.violation(format!("{request:?} was not validated")));
        }
        let command = request.command()?;
        let mut doubled = false;
        let started = self.with_shell(id, |sandbox| {
            if let Some((then, first)) = key.as_ref().and_then(|key| sandbox.keys.get(key)).cloned() {
                if then != request {
                    return Err(Error::IdempotencyMismatch { id: first.to_string() });
                }
                return Ok(sandbox.exec(&first)?.record.clone());
            }
            doubled = sandbox.execs.contains_key(&exec_id);
            let record = new_record(sandbox, &exec_id, &request, &command, now);
            let (stdin_open, changed) = (request.stdin_open, watch::channel(0).0);
            let mut exec = FakeExec { record, stdout: vec![], stderr: vec![], stdin_open, changed };
            let spec_env = sandbox.spec.env.clone();
            let env = |name: &str| request.env.get(name).or_else(|| spec_env.get(name)).cloned();
            exec.run(&command, &env, request.stdin.as_deref());
            let record = exec.record.clone();
            sandbox.execs.insert(exec_id.clone(), exec);
            if let Some(key) = key {
                sandbox.keys.insert(key, (request.clone(), exec_id.clone()));
            }
            sandbox.note(now, "exec.started", serde_json::json!({ "exec_id": exec_id.as_str() }));
            Ok(record)
        })?;
        if doubled {
            return Err(self.violation(format!("{exec_id} was started twice")));
        }
        if let (Some(millis), ExecState::Running) = (request.timeout_ms, started.state) {
            self.end_after(id.clone(), exec_id, Duration::from_millis(millis));
        }
        Ok(started)
    }

    fn end_after(&self, id: SandboxId, exec: ExecId, timeout: Duration) {
        let node = self.me();
        tokio::spawn(async move {
            tokio::time::sleep(timeout).await;
            let now = node.clock.now();
            // An error means that sandbox or exec are gone already.
            let _ = node.with(&id, |sandbox| {
                sandbox.exec(&exec)?.end(now, EndReason::Timeout, None, Some(9));
                sandbox.last_active_at = now;
                Ok(())
            });
        });
    }

    pub(super) fn exec_record(&self, id: &SandboxId, exec: &ExecId) -> Result<Exec> {
        self.with(id, |sandbox| Ok(sandbox.exec(exec)?.record.clone()))
    }

    pub(super) fn exec_records(
        &self,
        id: &SandboxId,
        before: Option<&ExecId>,
        limit: u32,
    ) -> Result<Vec<Exec>> {
        self.with(id, |sandbox| {
            let execs = sandbox.execs.iter().rev();
            let older = execs.filter(|(exec, _)| before.is_none_or(|before| *exec < before));
            Ok(older.take(limit as usize).map(|(_, exec)| exec.record.clone()).collect())
        })
    }

    pub(super) async fn exec_ended(&self, id: &SandboxId, exec: &ExecId) -> Result<ExecResult> {
        let mut changed = self.with(id, |sandbox| Ok(sandbox.exec(exec)?.changed.subscribe()))?;
        loop {
            changed.borrow_and_update();
            let result = self.with(id, |sandbox| {
                let exec = sandbox.exec(exec)?;
                let show = |bytes: &[u8]| {
                    String::from_utf8_lossy(&bytes[..bytes.len().min(RESULT_LIMIT)]).into_owned()
                };
                Ok((!exec.is_running()).then(|| ExecResult {
                    exec: exec.record.clone(),
                    stdout: show(&exec.stdout),
                    stderr: show(&exec.stderr),
                    stdout_truncated: exec.stdout.len() > RESULT_LIMIT,
                    stderr_truncated: exec.stderr.len() > RESULT_LIMIT,
                }))
            })?;
            if let Some(result) = result {
                return Ok(result);
            }
            if changed.changed().await.is_err() {
                return Err(isopod_node_api::unknown_sandbox(id));
            }
        }
    }

    pub(super) fn exec_slice(
        &self,
        id: &SandboxId,
        exec: &ExecId,
        stdout_start: u64,
        stderr_start: u64,
    ) -> Result<OutputSlice> {
        self.with(id, |sandbox| {
            let exec = sandbox.exec(exec)?;
            Ok(OutputSlice {
                exec: exec.record.clone(),
                stdout: exec.tail(OutputStream::Stdout, stdout_start)?,
                stdout_start,
                stderr: exec.tail(OutputStream::Stderr, stderr_start)?,
                stderr_start,
            })
        })
    }

    pub(super) fn follow(
        &self,
        id: &SandboxId,
        exec: &ExecId,
        stdout: u64,
        stderr: u64,
    ) -> Result<BoxStream<'static, Result<OutputEvent>>> {
        self.exec_slice(id, exec, stdout, stderr)?;
        let changed = self.with(id, |sandbox| Ok(sandbox.exec(exec)?.changed.subscribe()))?;
        let reader = Some((self.me(), id.clone(), exec.clone(), stdout, stderr, changed));
        let pieces = stream::unfold(reader, async |reader| {
            let (node, id, exec, mut stdout, mut stderr, mut changed) = reader?;
            loop {
                changed.borrow_and_update();
                let slice = match node.exec_slice(&id, &exec, stdout, stderr) {
                    Ok(slice) => slice,
                    Err(error) => return Some((vec![Err(error)], None)),
                };
                let mut events = Vec::new();
                let pieces = [
                    (OutputStream::Stdout, slice.stdout, &mut stdout),
                    (OutputStream::Stderr, slice.stderr, &mut stderr),
                ];
                for (stream, data, offset) in pieces {
                    if !data.is_empty() {
                        events.push(Ok(OutputEvent::Output { stream, offset: *offset, data: data.clone() }));
                        *offset += data.len() as u64;
                    }
                }
                let record = slice.exec;
                let whole = record.stdout_bytes == stdout && record.stderr_bytes == stderr;
                if record.state == ExecState::Ended && whole {
                    events.push(Ok(OutputEvent::Ended(Box::new(record))));
                    return Some((events, None));
                }
                if !events.is_empty() {
                    return Some((events, Some((node, id, exec, stdout, stderr, changed))));
                }
                if changed.changed().await.is_err() {
                    return Some((vec![Err(isopod_node_api::unknown_sandbox(&id))], None));
                }
            }
        });
        Ok(pieces.flat_map(stream::iter).boxed())
    }

    pub(super) async fn wait(&self, id: &SandboxId, exec: &ExecId, wait: &WaitFor) -> Result<Exec> {
        let mut changed = self.with(id, |sandbox| Ok(sandbox.exec(exec)?.changed.subscribe()))?;
        loop {
            changed.borrow_and_update();
            let found = self.with(id, |sandbox| {
                let exec = sandbox.exec(exec)?;
                let there = match wait {
                    WaitFor::Exit => !exec.is_running(),
                    WaitFor::Port(_) => false,
                    WaitFor::Log(text) => [&exec.stdout, &exec.stderr]
                        .iter()
                        .any(|output| String::from_utf8_lossy(output).contains(text)),
                };
                if !there && !exec.is_running() {
                    return Err(Error::ExecEnded { id: exec.record.id.to_string() });
                }
                Ok(there.then(|| exec.record.clone()))
            })?;
            if let Some(record) = found {
                return Ok(record);
            }
            if changed.changed().await.is_err() {
                return Err(isopod_node_api::unknown_sandbox(id));
            }
        }
    }

    pub(super) fn feed(&self, id: &SandboxId, exec: &ExecId, data: &[u8], close: bool) -> Result<()> {
        let now = self.clock.now();
        self.with(id, |sandbox| {
            sandbox.last_active_at = now;
            let exec = sandbox.exec(exec)?;
            if !exec.is_running() {
                return Err(Error::ExecEnded { id: exec.record.id.to_string() });
            }
            if !exec.stdin_open {
                return Err(Error::invalid("stdin", "is not open; start the exec with stdin_open"));
            }
            if exec.record.argv.iter().any(|word| word == "cat") {
                exec.write(OutputStream::Stdout, data);
                if close {
                    exec.end(now, EndReason::Exited, Some(0), None);
                }
            }
            Ok(())
        })
    }

    pub(super) fn signal(&self, id: &SandboxId, exec: &ExecId, signal: i32, tree: bool) -> Result<()> {
        let now = self.clock.now();
        self.with(id, |sandbox| {
            let exec = sandbox.exec(exec)?;
            if !exec.is_running() {
                return Err(Error::ExecEnded { id: exec.record.id.to_string() });
            }
            let reason = if signal == 9 && tree { EndReason::Killed } else { EndReason::Signaled };
            exec.end(now, reason, None, Some(signal));
            sandbox.last_active_at = now;
            Ok(())
        })
    }
}

fn new_record(
    sandbox: &FakeSandbox,
    id: &ExecId,
    request: &ExecRequest,
    argv: &[String],
    now: Timestamp,
) -> Exec {
    Exec {
        id: id.clone(),
        sandbox_id: sandbox.spec.id.clone(),
        argv: argv.to_vec(),
        cwd: request.cwd.clone().unwrap_or_else(|| "/workspace".to_owned()),
        user: request.user.clone().unwrap_or_else(|| "user".to_owned()),
        background: request.background,
        state: ExecState::Running,
        tier: sandbox.spec.tier,
        started_at: now,
        ended_at: None,
        duration_ms: 0.0,
        timeout_ms: request.timeout_ms,
        reason: None,
        exit_code: None,
        signal: None,
        success: false,
        detail: None,
        stdout_bytes: 0,
        stderr_bytes: 0,
    }
}
