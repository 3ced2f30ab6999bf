//! What a client prefers (RFC 7240).

use std::time::Duration;

/// `wait=n`, in seconds: the first one counts (§2). Anything else, also what is malformed, is no preference.
pub(crate) fn wait(values: &[&[u8]]) -> Option<Duration> {
    let preferences = values.iter().flat_map(|value| outside_quotes(value, b','));
    let mut waits = preferences.filter_map(|preference| {
        let preference = outside_quotes(preference, b';').next()?;
        let (name, value) = preference.split_at(preference.iter().position(|&byte| byte == b'=')?);
        name.trim_ascii().eq_ignore_ascii_case(b"wait").then(|| value[1..].trim_ascii())
    });
    let seconds = waits.next()?;
    let seconds =
        seconds.strip_prefix(b"\"").and_then(|quoted| quoted.strip_suffix(b"\"")).unwrap_or(seconds);
    if seconds.is_empty() || !seconds.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(seconds).ok()?.parse().ok().map(Duration::from_secs)
}

/// The parts between separators that stand in no quoted string.
fn outside_quotes(value: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    value.split(move |&byte| {
        let was_escaped = is_escaped;
        is_escaped = is_quoted && !was_escaped && byte == b'\\';
        if byte == b'"' && !was_escaped {
            is_quoted = !is_quoted;
        }
        byte == separator && !is_quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wait_counts() {
        let seconds = |values: &[&str]| {
            let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
            wait(&values).map(|wait| wait.as_secs())
        };
        assert_eq!(seconds(&["wait=10"]), Some(10));
        assert_eq!(seconds(&["respond-async, WAIT = \"7\" ; x=1, wait=9"]), Some(7));
        assert_eq!(seconds(&["handling=lenient", "return=minimal,wait=0"]), Some(0));
        assert_eq!(seconds(&["foo=\"a, wait=5\""]), None);
        assert_eq!(seconds(&["foo=\"a\\\", wait=5\", wait=6"]), Some(6));
        for none in [
            "",
            "wait",
            "wait=",
            "wait=-1",
            "wait=+1",
            "wait=1.5",
            "wait=x",
            "await=5",
            "wait=99999999999999999999",
        ] {
            assert_eq!(seconds(&[none]), None, "{none}");
        }
    }
}
