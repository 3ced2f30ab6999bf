use std::fmt;

/// A place in a distributed trace, as the header `traceparent` tells it (W3C Trace Context, §3.2).
///
/// ```
/// use idempotency_http::TraceParent;
///
/// let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let trace = TraceParent::parse(text.as_bytes()).unwrap();
/// assert!(trace.is_sampled());
/// assert_eq!(trace.trace_id()[..2], [0x4b, 0xf9]);
/// assert_eq!(trace.to_string(), text);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
}

impl TraceParent {
    pub(crate) const LEN: usize = 25;

    /// `None` if either id is all zeros, which stands for none.
    pub fn new(trace_id: [u8; 16], span_id: [u8; 8], flags: u8) -> Option<Self> {
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self { trace_id, span_id, flags })
    }

    /// Reads the value of the header. `None` if it is malformed; of a later version only what this one knows is read
    /// (§3.2.4).
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(55)?;
        let fields = [&known[..2], &known[3..35], &known[36..52], &known[53..]];
        let version = hex::<1>(fields[0])?[0];
        let is_delimited = [2, 35, 52].iter().all(|&at| known[at] == b'-');
        let is_whole =
            if version == 0 { rest.is_empty() } else { rest.first().is_none_or(|&byte| byte == b'-') };
        if !is_delimited || !is_whole || version == 0xff {
            return None;
        }
        Self::new(hex(fields[1])?, hex(fields[2])?, hex::<1>(fields[3])?[0])
    }

    /// Of the whole trace.
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// Of the span in it.
    pub fn span_id(&self) -> [u8; 8] {
        self.span_id
    }

    /// The flags as they are; see [`is_sampled`](Self::is_sampled).
    pub fn flags(&self) -> u8 {
        self.flags
    }

    /// Whether whoever made it records it.
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        [&self.trace_id[..], &self.span_id, &[self.flags]].concat()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; Self::LEN] = bytes.try_into().ok()?;
        let (trace_id, rest) = bytes.split_first_chunk()?;
        let (span_id, flags) = rest.split_first_chunk()?;
        Self::new(*trace_id, *span_id, flags[0])
    }
}

/// Small letters only, as the header has them.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_chunks::<2>().0) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        self.trace_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.span_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{:02x}", self.flags)
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceParent({self})")
    }
}

/// In the extensions of a replayed response: the trace of the request that did the work, for a layer that links the two.
///
/// ```
/// use idempotency_http::ReplayOf;
///
/// fn link(response: &http::Response<()>) {
///     if let Some(ReplayOf(original)) = response.extensions().get() {
///         println!("the work was done in {original}");
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayOf(pub TraceParent);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_header_is_read_as_the_recommendation_says() {
        let zero_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let zero_span = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", "0".repeat(16));
        let later = TEXT.replacen("00", "cc", 1);
        for (text, is_read) in [
            (TEXT.to_owned(), true),
            (TEXT.to_uppercase(), false),
            (format!("{TEXT}-more"), false),
            (later.clone(), true),
            (format!("{later}-more"), true),
            (format!("{later}more"), false),
            (TEXT.replacen("00", "ff", 1), false),
            (TEXT.replace('-', "_"), false),
            (TEXT[..54].to_owned(), false),
            (zero_trace, false),
            (zero_span, false),
            (String::new(), false),
        ] {
            assert_eq!(TraceParent::parse(text.as_bytes()).is_some(), is_read, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(trace: [u8; 16], span: [u8; 8], flags: u8) {
            let Some(trace) = TraceParent::new(trace, span, flags) else { return Ok(()) };
            prop_assert_eq!(TraceParent::parse(trace.to_string().as_bytes()), Some(trace));
            prop_assert_eq!(TraceParent::from_bytes(&trace.to_bytes()), Some(trace));
        }

        #[test]
        fn any_bytes_are_a_trace_or_none(bytes: Vec<u8>) {
            let _ = (TraceParent::parse(&bytes), TraceParent::from_bytes(&bytes));
        }
    }
}
