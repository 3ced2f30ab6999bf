//! JSON by what it says: members in any order and white space of any kind are the same, number tokens stay as they are, and a
//! member that comes twice is refused. (Canonical JSON of RFC 8785 makes one of 9007199254740992 and …993.)

use idempotency_core::Digest;
use json_event_parser::{JsonEvent, SliceJsonParser};

use super::{Fields, NotReadable};

/// How deep values may be nested.
const DEPTH: usize = 128;

/// Bytes that are the same for documents that say the same, and different for others. What the pointers name is left out.
pub(super) fn canonical(
    body: &[u8],
    excluded: &[String],
    fields: &mut Fields<'_>,
) -> Result<Vec<u8>, NotReadable> {
    let mut parser = SliceJsonParser::new(body);
    let mut document =
        Document { out: Vec::with_capacity(body.len()), open: Vec::new(), pointer: String::new() };
    loop {
        match parser.parse_next().map_err(|_| NotReadable("it is no JSON".into()))? {
            JsonEvent::Eof => return Ok(document.out),
            JsonEvent::ObjectKey(key) => document.key(&key),
            event => document.value(event, excluded, fields)?,
        }
    }
}

struct Document {
    out: Vec<u8>,
    open: Vec<Open>,
    /// Of the value that is read (RFC 6901).
    pointer: String,
}

/// An array or object whose end is still to come.
struct Open {
    is_object: bool,
    /// It does not count, nor does anything in it.
    is_excluded: bool,
    /// Where it begins in `out`.
    start: usize,
    /// How long its own pointer is.
    pointer: usize,
    /// How many elements there are so far.
    len: usize,
    members: Vec<Member>,
}

struct Member {
    key: String,
    /// Of its value in `out`.
    start: usize,
    end: usize,
    is_excluded: bool,
}

impl Document {
    fn key(&mut self, key: &str) {
        self.pointer.push('/');
        for char in key.chars() {
            match char {
                '~' => self.pointer.push_str("~0"),
                '/' => self.pointer.push_str("~1"),
                char => self.pointer.push(char),
            }
        }
        if let Some(object) = self.open.last_mut() {
            let start = self.out.len();
            object.members.push(Member { key: key.to_owned(), start, end: start, is_excluded: false });
        }
    }

    fn value(
        &mut self,
        event: JsonEvent<'_>,
        excluded: &[String],
        fields: &mut Fields<'_>,
    ) -> Result<(), NotReadable> {
        if !matches!(event, JsonEvent::EndArray | JsonEvent::EndObject)
            && let Some(array) = self.open.last().filter(|open| !open.is_object)
        {
            self.pointer.push_str(&format!("/{}", array.len));
        }
        let start = self.out.len();
        let (start, is_leaf) = match event {
            JsonEvent::StartArray | JsonEvent::StartObject => {
                if self.open.len() == DEPTH {
                    return Err(NotReadable(format!("it is nested more than {DEPTH} deep").into()));
                }
                let is_object = event == JsonEvent::StartObject;
                let is_excluded = self.is_excluded(excluded);
                self.out.push(if is_object { b'{' } else { b'[' });
                let pointer = self.pointer.len();
                self.open.push(Open { is_object, is_excluded, start, pointer, len: 0, members: Vec::new() });
                return Ok(());
            }
            JsonEvent::EndArray | JsonEvent::EndObject => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                let (start, is_leaf) = (open.start, open.len == 0);
                if open.is_object {
                    self.sort(open)?;
                } else {
                    self.out.push(b']');
                }
                (start, is_leaf)
            }
            JsonEvent::String(text) => (self.text(b's', &text), true),
            JsonEvent::Number(token) => (self.text(b'n', &token), true),
            JsonEvent::Boolean(true) => (self.word(b't'), true),
            JsonEvent::Boolean(false) => (self.word(b'f'), true),
            JsonEvent::Null => (self.word(b'0'), true),
            JsonEvent::ObjectKey(_) | JsonEvent::Eof => return Ok(()),
        };
        let is_excluded = self.is_excluded(excluded);
        if is_excluded {
            self.out.truncate(start);
        } else {
            fields.note(&self.pointer, &self.out[start..], is_leaf, self.open.len() == 1);
        }
        if let Some(open) = self.open.last_mut() {
            open.len += 1;
            if let Some(member) = open.members.last_mut() {
                (member.end, member.is_excluded) = (self.out.len(), is_excluded);
            }
            self.pointer.truncate(open.pointer);
        }
        Ok(())
    }

    /// By itself, or with what it is in.
    fn is_excluded(&self, excluded: &[String]) -> bool {
        self.open.last().is_some_and(|open| open.is_excluded) || excluded.contains(&self.pointer)
    }

    /// Returns where it begins.
    fn text(&mut self, kind: u8, content: &str) -> usize {
        let start = self.out.len();
        text(&mut self.out, kind, content);
        start
    }

    fn word(&mut self, word: u8) -> usize {
        self.out.push(word);
        self.out.len() - 1
    }

    /// The members of an object that ends, by their keys. Their hash stands for them, so that what they say is copied once,
    /// however deep it is.
    fn sort(&mut self, mut object: Open) -> Result<(), NotReadable> {
        object.members.sort_by(|one, other| one.key.cmp(&other.key));
        let mut pairs = object.members.windows(2);
        if pairs.any(|pair| pair[0].key == pair[1].key) {
            return Err(NotReadable("a member of an object comes twice".into()));
        }
        let mut sorted = Vec::with_capacity(self.out.len() - object.start);
        for member in object.members.iter().filter(|member| !member.is_excluded) {
            text(&mut sorted, b'k', &member.key);
            sorted.extend_from_slice(&self.out[member.start..member.end]);
        }
        self.out.truncate(object.start);
        self.out.push(b'{');
        self.out.extend_from_slice(Digest::of(&sorted).as_bytes());
        Ok(())
    }
}

/// Its length comes first, so that no text is taken for another one and what follows it.
fn text(out: &mut Vec<u8>, kind: u8, text: &str) {
    out.push(kind);
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn form(text: &str) -> Result<Vec<u8>, String> {
        without(text, &[])
    }

    fn without(text: &str, excluded: &[&str]) -> Result<Vec<u8>, String> {
        let excluded: Vec<String> = excluded.iter().map(|&pointer| pointer.to_owned()).collect();
        canonical(text.as_bytes(), &excluded, &mut Fields::none()).map_err(|error| error.0.into_owned())
    }

    #[test]
    fn what_says_the_same_is_the_same() {
        for (one, other) in [
            (r#"{"a":1,"b":[true,null]}"#, "{ \"b\" : [ true,\nnull ],\t\"a\" : 1 }"),
            (r#""\u0061\/""#, r#""a/""#),
            (r#"{"\u0061":{"c":1,"b":2}}"#, r#"{"a":{"b":2,"c":1}}"#),
        ] {
            assert_eq!(form(one).unwrap(), form(other).unwrap(), "{one} and {other}");
        }
    }

    #[test]
    fn what_says_something_else_is_another() {
        let texts = [
            "9007199254740992",
            "9007199254740993",
            "1",
            "1.0",
            "1e0",
            "-0",
            "0",
            "\"1\"",
            "\"\"",
            "null",
            "true",
            "false",
            "[]",
            "{}",
            "[[]]",
            "[{}]",
            "[1]",
            "[1,1]",
            "[11]",
            "[[1],1]",
            "[[1,1]]",
            "{\"a\":1}",
            "{\"a\":\"1\"}",
            "{\"a\":1,\"b\":1}",
            "{\"a\":{\"b\":1}}",
            "{\"\":1}",
            "[\"a\",1]",
            "[null]",
            "[true,null]",
            "\"s\\u0001\"",
            "\"S\"",
        ];
        for (at, one) in texts.iter().enumerate() {
            for other in &texts[at + 1..] {
                assert_ne!(form(one).unwrap(), form(other).unwrap(), "{one} and {other}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_for_sure_is_refused() {
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(form(&deep(128)).is_ok());
        assert!(form(&deep(129)).unwrap_err().contains("128"));
        for text in [r#"{"a":1,"a":1}"#, r#"{"a":1,"b":2,"\u0061":1}"#, r#"[{"a":{"b":1,"b":2}}]"#] {
            assert!(form(text).unwrap_err().contains("twice"), "{text}");
        }
        for text in
            ["", " ", "{", "[1,]", "{\"a\"}", "01", "1 2", "nul", "\"\\x\"", "'a'", "{a:1}", "NaN", "\"\n\""]
        {
            assert!(form(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_excluded_does_not_count() {
        let excluded = ["/sent_at", "/items/1/note", "/a~1b/~0"];
        let one = r#"{"sent_at":1,"items":[{"note":1},{"note":{"x":[1]},"n":1}],"a/b":{"~":1}}"#;
        let other = r#"{"items":[{"note":1},{"n":1,"note":2}],"a/b":{"~":[]},"sent_at":{"y":1}}"#;
        let gone = r#"{"items":[{"note":1},{"n":1}],"a/b":{}}"#;
        let counts = r#"{"sent_at":1,"items":[{"note":2},{"note":1,"n":1}],"a/b":{"~":1}}"#;
        let of = |text| without(text, &excluded).unwrap();
        assert_eq!((of(one), of(one)), (of(other), of(gone)));
        assert_ne!(of(one), of(counts));
        assert!(
            without(r#"{"sent_at":1,"sent_at":2}"#, &excluded).is_err(),
            "also what does not count comes once"
        );
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn how_it_is_written_does_not_matter(value in json()) {
            let compact = serde_json::to_string(&value).unwrap();
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(form(&compact).unwrap(), form(&pretty).unwrap());
        }

        #[test]
        fn two_values_have_one_form_only_if_they_are_equal(one in json(), other in json()) {
            let of = |value| form(&serde_json::to_string(value).unwrap()).unwrap();
            prop_assert_eq!(of(&one) == of(&other), one == other);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = canonical(&bytes, &[], &mut Fields::none());
        }
    }
}
