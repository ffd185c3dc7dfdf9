//! Writing to standard output: tables, JSON and bytes. A reader that went away is [`Failure::BrokenPipe`].

use crate::failure::{Failure, Outcome};
use comfy_table::{Table, presets};
use serde::Serialize;
use std::io::Write;

/// Writes bytes as they are and hands them on at once.
pub(crate) fn bytes(data: &[u8]) -> Outcome<()> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(data)
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::io("writing standard output", &error))
}

/// Writes bytes to standard error; nobody is told when that fails, since there is no place to tell.
pub(crate) fn error_bytes(data: &[u8]) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(data).and_then(|()| stderr.flush());
}

/// Writes one line.
pub(crate) fn line(text: impl std::fmt::Display) -> Outcome<()> {
    bytes(format!("{text}\n").as_bytes())
}

/// Says something to the person at the terminal, on standard error.
pub(crate) fn note(text: impl std::fmt::Display) {
    error_bytes(format!("isopod: {text}\n").as_bytes());
}

/// Writes a value as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> Outcome<()> {
    line(serde_json::to_string_pretty(value).map_err(Failure::new)?)
}

/// Writes a value as one line of JSON.
pub(crate) fn json_line(value: &impl Serialize) -> Outcome<()> {
    line(serde_json::to_string(value).map_err(Failure::new)?)
}

/// Writes a table without lines, as `docker ps` and `kubectl get` do.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Outcome<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    line(lines.join("\n"))
}

/// Text from a sandbox made harmless for a terminal: control characters are escaped.
pub(crate) fn printable(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars()
        .flat_map(|symbol| {
            if symbol.is_control() { symbol.escape_default().collect::<Vec<_>>() } else { vec![symbol] }
        })
        .collect()
}

/// How long ago something was, as people say it: `3s`, `5m`, `2h`, `4d`.
pub(crate) fn age(then: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let seconds = (now.as_second() - then.as_second()).max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A number of bytes as people read it: `512 B`, `1.5 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_not_steered_by_sandboxes() {
        assert_eq!(printable("plain – ünï"), "plain – ünï");
        assert_eq!(printable("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }

    #[test]
    fn ages_are_short() {
        let at = |second| jiff::Timestamp::from_second(second).expect("in range");
        assert_eq!(age(at(100), at(100)), "0s");
        assert_eq!(age(at(100), at(90)), "0s");
        assert_eq!(age(at(0), at(150)), "2m");
        assert_eq!(age(at(0), at(172_799)), "47h");
        assert_eq!(age(at(0), at(172_800)), "2d");
    }
}
