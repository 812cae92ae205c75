//! Checks of single fields. Pure; each says what is wrong in words for the person who filled the field in.
//!
//! [`Problems`] collects them, so that an answer names every bad field and not only the first.

use crate::limits;

/// A bad field, by its name on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The field, e.g. `email`.
    pub field: String,
    /// What is wrong with it, in words for the person who filled it in.
    pub message: String,
}

impl FieldError {
    /// A bad field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

/// What a check found: nothing, or what is wrong.
pub type Check = Result<(), String>;

/// The bad fields found so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems(Vec<FieldError>);

impl Problems {
    /// Takes note of a field's check.
    #[must_use]
    pub fn with(mut self, field: &str, check: Check) -> Self {
        if let Err(message) = check {
            self.0.push(FieldError::new(field, message));
        }
        self
    }

    /// Succeeds when no field was bad.
    ///
    /// # Errors
    /// Every bad field, in the order they were checked.
    pub fn into_result(self) -> Result<(), Vec<FieldError>> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(self.0)
        }
    }
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(message()) }
}

/// At most `max` characters. Looks at bytes first: a text of at most `max` bytes needs no counting.
fn at_most(text: &str, max: usize) -> Check {
    ensure(text.len() <= max || text.chars().nth(max).is_none(), || {
        format!("must be at most {max} characters")
    })
}

/// Free text must hold no NUL: some stores cannot keep it.
fn no_nul(text: &str) -> Check {
    ensure(!text.contains('\0'), || {
        "must not contain NUL characters".to_owned()
    })
}

/// A display name, already trimmed: 1 to [`limits::NAME_MAX`] characters, no control characters.
///
/// # Errors
/// What is wrong with it.
pub fn name(name: &str) -> Check {
    ensure(!name.trim().is_empty(), || "must not be empty".to_owned())?;
    at_most(name, limits::NAME_MAX)?;
    ensure(!name.chars().any(char::is_control), || {
        "must not contain control characters".to_owned()
    })
}

/// A username: `[A-Za-z0-9_.-]{3,30}`.
///
/// # Errors
/// What is wrong with it.
pub fn username(username: &str) -> Check {
    let (min, max) = (limits::USERNAME_MIN, limits::USERNAME_MAX);
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    ensure(
        (min..=max).contains(&username.len()) && username.chars().all(allowed),
        || format!("must be {min} to {max} letters, digits or the characters _ . -"),
    )
}

/// A password: 8 to 72 bytes, no NUL (it would end the password for bcrypt).
///
/// # Errors
/// What is wrong with it.
pub fn password(password: &str) -> Check {
    let (min, max) = (limits::PASSWORD_MIN_BYTES, limits::PASSWORD_MAX_BYTES);
    ensure((min..=max).contains(&password.len()), || {
        format!("must be {min} to {max} bytes")
    })?;
    no_nul(password)
}

/// An e-mail address, already trimmed: one `@`, a local part, a domain with a dot, nothing that could break out of a
/// mail header. Whether it exists only a mail can tell.
///
/// # Errors
/// What is wrong with it.
pub fn email(email: &str) -> Check {
    let good = email.len() <= limits::EMAIL_MAX_BYTES
        && email
            .split_once('@')
            .is_some_and(|(local, domain)| local_part(local) && domain_part(domain));
    ensure(good, || "must be an e-mail address".to_owned())
}

fn local_part(local: &str) -> bool {
    let allowed = |c: char| !c.is_control() && !c.is_whitespace() && !"()<>[],;:\\\"@".contains(c);
    (1..=limits::EMAIL_LOCAL_MAX_BYTES).contains(&local.len())
        && local.split('.').all(|atom| !atom.is_empty())
        && local.chars().all(allowed)
}

fn domain_part(domain: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    domain.contains('.') && domain.split('.').all(label)
}

/// A one-time code: six digits.
///
/// # Errors
/// What is wrong with it.
pub fn otp(otp: &str) -> Check {
    let digits = limits::OTP_DIGITS;
    ensure(
        otp.len() == digits && otp.bytes().all(|b| b.is_ascii_digit()),
        || format!("must be {digits} digits"),
    )
}

/// A self-description: at most [`limits::BIO_MAX`] characters; empty removes it.
///
/// # Errors
/// What is wrong with it.
pub fn bio(bio: &str) -> Check {
    at_most(bio, limits::BIO_MAX)?;
    no_nul(bio)
}

/// The address of a picture: http, https or a path below `/media/`; empty removes it.
///
/// # Errors
/// What is wrong with it.
pub fn avatar(avatar: &str) -> Check {
    if avatar.is_empty() {
        return Ok(());
    }
    at_most(avatar, limits::AVATAR_MAX)?;
    let starts = |prefix: &str| {
        avatar
            .get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix) && avatar.len() > prefix.len())
    };
    let unsafe_char = |c: char| c.is_control() || c.is_whitespace() || "\"<>\\`".contains(c);
    let good = (starts("https://") || starts("http://") || avatar.starts_with("/media/"))
        && !avatar.chars().any(unsafe_char);
    ensure(good, || {
        "must be an http, https or /media/ address".to_owned()
    })
}

/// The text of a post: at most [`limits::CONTENT_MAX`] characters, not blank unless there are files.
///
/// # Errors
/// What is wrong with it.
pub fn content(content: &str, has_files: bool) -> Check {
    ensure(has_files || !content.trim().is_empty(), || {
        "must not be empty unless there are files".to_owned()
    })?;
    at_most(content, limits::CONTENT_MAX)?;
    no_nul(content)
}

/// A comment: 1 to [`limits::COMMENT_MAX`] characters, not blank.
///
/// # Errors
/// What is wrong with it.
pub fn comment(comment: &str) -> Check {
    ensure(!comment.trim().is_empty(), || {
        "must not be empty".to_owned()
    })?;
    at_most(comment, limits::COMMENT_MAX)?;
    no_nul(comment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_counted_in_characters_not_bytes() {
        assert!(name(&"ü".repeat(100)).is_ok());
        assert!(name(&"ü".repeat(101)).is_err());
        assert!(content(&"👩‍💻".repeat(3_333), false).is_ok());
        assert!(content(&"a".repeat(10_001), true).is_err());
        assert!(comment(&"字".repeat(2_000)).is_ok());
        assert!(comment(&"字".repeat(2_001)).is_err());
        assert!(bio(&"b".repeat(501)).is_err());
    }

    #[test]
    fn passwords_are_counted_in_bytes() {
        assert!(password("1234567").is_err());
        assert!(password("12345678").is_ok());
        assert!(password(&"ü".repeat(36)).is_ok());
        assert!(password(&"ü".repeat(37)).is_err());
        assert!(password("1234\0abcd").is_err());
    }

    #[test]
    fn names_are_neither_blank_nor_control() {
        assert!(name("").is_err());
        assert!(name("   ").is_err());
        assert!(name("a\nb").is_err());
        assert!(name("a\u{7f}").is_err());
        assert!(name("Ada Lovelace").is_ok());
    }

    #[test]
    fn usernames_keep_to_their_pattern() {
        for good in ["abc", "A_b.c-9", &"x".repeat(30)] {
            assert!(username(good).is_ok(), "{good}");
        }
        for bad in ["ab", "", "a b", "añb", "a\nbc", "a@b", &"x".repeat(31)] {
            assert!(username(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses_cannot_break_out_of_a_header() {
        for good in ["a@b.co", "first.last+tag@mail.example.org", "ü@bücher.de"] {
            assert!(email(good).is_ok(), "{good}");
        }
        let long = format!("{}@b.co", "x".repeat(65));
        for bad in [
            "",
            "@",
            "a",
            "a@b",
            "a@b.",
            "a@.b",
            "@b.co",
            "a b@c.de",
            "a@b.co\r\nBcc: x@y.z",
            "a@b@c.de",
            "a..b@c.de",
            "<a@b.co>",
            &long,
        ] {
            assert!(email(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn pictures_have_safe_addresses() {
        for good in ["", "https://a.b/c.png", "HTTP://a.b", "/media/x/0"] {
            assert!(avatar(good).is_ok(), "{good}");
        }
        for bad in [
            "javascript:alert(1)",
            "/other",
            "https://",
            "https://a b",
            "é",
            "data:image/png,x",
        ] {
            assert!(avatar(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_bad_field_is_named() {
        let found = Problems::default()
            .with("name", name(""))
            .with("username", username("fine"))
            .with("email", email("nope"))
            .into_result();
        let fields: Vec<_> = found.unwrap_err().into_iter().map(|e| e.field).collect();
        assert_eq!(fields, ["name", "email"]);
    }
}
