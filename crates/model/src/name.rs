//! Names that callers choose for their sandboxes.

use crate::{Error, SandboxId};

/// Words that name routes, so no sandbox may be called so.
const RESERVED: [&str; 3] = ["exec", "files", "by-name"];

/// Checks a caller's sandbox name: `[A-Za-z0-9._-]{1,128}`, not reserved, not `.` or `..`, never an id's form.
///
/// # Errors
/// [`Error::Invalid`] for the field `name`, saying which rule it breaks.
pub fn check(name: &str) -> Result<(), Error> {
    let reason = if name.is_empty() || name.len() > 128 {
        "must be 1 to 128 characters long"
    } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
        "may hold only letters, digits, '.', '_' and '-'"
    } else if RESERVED.contains(&name) {
        "is reserved"
    } else if name.bytes().all(|byte| byte == b'.') {
        "must not consist of dots"
    } else if SandboxId::is_form(name) {
        "must not have the form of an id"
    } else {
        return Ok(());
    };
    Err(Error::invalid("name", reason))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn names_are_checked() {
        for good in ["a", "my.project_1-x", &"x".repeat(128)] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "..", "exec", "files", "a/b", "a b", "ü", "sb01jd2m3k4n5p6q7r8s9t", &"x".repeat(129)]
        {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
