//! Execs: one command run, with an id, a journal of its output and one end.

use crate::{EndReason, Error, ExecId, SandboxId, Timestamp, sandbox::Tier};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many bytes of each stream an answer holds at most.
pub const RESULT_LIMIT: usize = 4 * 1024 * 1024;
/// How many bytes argv and environment may have together.
pub const ARGUMENT_LIMIT: usize = 128 * 1024;
/// How many bytes of output the journal of one exec keeps, both streams together.
pub const JOURNAL_LIMIT: u64 = 64 * 1024 * 1024;

/// The body of `POST /v1/sandboxes/{id}/exec`: exactly one of `argv`, `shell`, or `language` with `code`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(example = json!({"shell": "echo hello"}))]
pub struct ExecRequest {
    /// A program and its arguments, run as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<String>>,
    /// A command line for `/bin/bash -c`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// `python`, `javascript` or `bash`, together with `code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Source text for `language`, at most 120 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// `user` (1000, the default), `root` (0, without power outside), or a number with an optional `:group`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working directory, absolute or below `/workspace`; `/workspace` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Environment for this exec only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Text given to standard input, which then ends; `/dev/null` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Keep standard input open for `POST …/execs/{eid}/stdin`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stdin_open: bool,
    /// Milliseconds until the whole process tree is killed; no limit when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Answer at once (202) and let it run.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub background: bool,
    /// A session to run in. Not built yet: answers 501.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The command needs native code (it is not run in the `wasm` tier).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub requires_native: bool,
}

impl ExecRequest {
    /// The program and arguments that this request means.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the field that is missing, doubled, empty, unknown or too long, or holds a NUL.
    pub fn command(&self) -> Result<Vec<String>, Error> {
        let given =
            [self.argv.is_some(), self.shell.is_some(), self.language.is_some() || self.code.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            return Err(Error::invalid("argv", "give exactly one of argv, shell, or language with code"));
        }
        let argv = if let Some(argv) = &self.argv {
            if argv.first().is_none_or(String::is_empty) {
                return Err(Error::invalid("argv", "must name a program"));
            }
            argv.clone()
        } else if let Some(shell) = &self.shell {
            vec!["/bin/bash".into(), "-c".into(), shell.clone()]
        } else {
            let code = self.code.clone().ok_or_else(|| Error::invalid("code", "is missing"))?;
            let (program, flag) = match self.language.as_deref() {
                Some("python" | "python3") => ("python3", "-c"),
                Some("javascript" | "js" | "node") => ("node", "-e"),
                Some("bash" | "sh" | "shell") => ("/bin/bash", "-c"),
                Some(_) => return Err(Error::invalid("language", "must be python, javascript or bash")),
                None => return Err(Error::invalid("language", "is missing")),
            };
            vec![program.into(), flag.into(), code]
        };
        let bytes: usize = argv.iter().map(String::len).sum::<usize>()
            + self.env.iter().map(|(key, value)| key.len() + value.len() + 2).sum::<usize>();
        if bytes > ARGUMENT_LIMIT - 8 * 1024 {
            return Err(Error::invalid(
                "argv",
                "argv and env together exceed 120 KiB; write a file and run that",
            ));
        }
        for text in &argv {
            if text.contains('\0') {
                return Err(Error::invalid("argv", "must not hold a NUL character"));
            }
        }
        check_env("env", &self.env)?;
        if self.cwd.as_ref().is_some_and(|cwd| cwd.contains('\0') || cwd.len() > 4096) {
            return Err(Error::invalid("cwd", "must be a path of at most 4096 bytes without NUL"));
        }
        Ok(argv)
    }
}

/// Checks an environment: names without `=` and NUL, values without NUL.
///
/// # Errors
/// [`Error::Invalid`] for `field`.
pub fn check_env(field: &str, env: &BTreeMap<String, String>) -> Result<(), Error> {
    for (key, value) in env {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            return Err(Error::invalid(
                field,
                "names must be non-empty without '=' and NUL, values without NUL",
            ));
        }
    }
    Ok(())
}

/// Where an exec is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecState {
    /// It waits for its turn.
    Queued,
    /// Its first process is alive.
    Running,
    /// Its first process was reaped, or it is known to be lost.
    Ended,
}

/// One of an exec's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// An exec without its output: the record that is listed and kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Exec {
    /// Its id.
    pub id: ExecId,
    /// The sandbox it runs in.
    pub sandbox_id: SandboxId,
    /// What runs.
    pub argv: Vec<String>,
    /// Its working directory.
    pub cwd: String,
    /// The user it runs as.
    pub user: String,
    /// Whether the caller went on without waiting.
    pub background: bool,
    /// Where it is in its life.
    pub state: ExecState,
    /// The tier it runs in.
    pub tier: Tier,
    /// When it was started.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When its end was learned.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// Milliseconds from start to end, or until now.
    pub duration_ms: f64,
    /// Milliseconds after which it is killed.
    pub timeout_ms: Option<u64>,
    /// Why it ended.
    pub reason: Option<EndReason>,
    /// The exit code, 128 + n for signal n, absent while running and when unknown.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether it exited with code 0.
    pub success: bool,
    /// A sentence on how it ended, where the exit code does not say it all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Bytes written to standard output so far.
    pub stdout_bytes: u64,
    /// Bytes written to standard error so far.
    pub stderr_bytes: u64,
}

/// An exec with the beginning of its output: the buffered answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExecResult {
    /// The record.
    #[serde(flatten)]
    pub exec: Exec,
    /// The first 4 MiB of standard output; what is not UTF-8 is replaced by U+FFFD.
    pub stdout: String,
    /// The first 4 MiB of standard error.
    pub stderr: String,
    /// Whether there is more standard output than shown.
    pub stdout_truncated: bool,
    /// Whether there is more standard error than shown.
    pub stderr_truncated: bool,
}
