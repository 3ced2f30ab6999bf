//! A form by its parts: their headers and contents in order, whatever boundary divides them.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{FutureExt, stream};
use multer::Multipart;

use super::{Fields, NotReadable};

pub(super) fn canonical(
    content_type: &[u8],
    body: &[u8],
    fields: &mut Fields<'_>,
) -> Result<Vec<u8>, NotReadable> {
    // All of it is there, so nothing is waited for.
    parts(content_type, body, fields).now_or_never().unwrap_or_else(|| Err(malformed()))
}

async fn parts(content_type: &[u8], body: &[u8], fields: &mut Fields<'_>) -> Result<Vec<u8>, NotReadable> {
    let content_type = std::str::from_utf8(content_type).map_err(|_| malformed())?;
    let boundary = multer::parse_boundary(content_type).map_err(|_| malformed())?;
    let whole = Bytes::copy_from_slice(body);
    let mut parts = Multipart::new(stream::iter([Ok::<_, Infallible>(whole)]), boundary);
    let mut form = Vec::with_capacity(body.len());
    while let Some(part) = parts.next_field().await.map_err(|_| malformed())? {
        let start = form.len();
        let name = part.name().unwrap_or_default().to_owned();
        // As they are: what of a name or a type cannot be read must not make two parts one.
        let mut headers: Vec<_> =
            part.headers().iter().map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]).collect();
        headers.sort_unstable();
        form.extend_from_slice(&(headers.len() as u64).to_le_bytes());
        headers.iter().flatten().for_each(|said| text(&mut form, said));
        let content = part.bytes().await.map_err(|_| malformed())?;
        text(&mut form, &content);
        fields.note(&format!("/{name}"), &form[start..], true, true);
    }
    Ok(form)
}

/// Its length, and itself.
fn text(form: &mut Vec<u8>, text: &[u8]) {
    form.extend_from_slice(&(text.len() as u64).to_le_bytes());
    form.extend_from_slice(text);
}

fn malformed() -> NotReadable {
    NotReadable("it is no form with parts".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(boundary: &str, body: &str) -> Result<Vec<u8>, NotReadable> {
        let content_type = format!("multipart/form-data; boundary={boundary}");
        let body = body.replace("BOUNDARY", boundary).replace('\n', "\r\n");
        canonical(content_type.as_bytes(), body.as_bytes(), &mut Fields::none())
    }

    fn part(head: &str, content: &str) -> String {
        format!("--BOUNDARY\nContent-Disposition: form-data; {head}\n\n{content}\n")
    }

    #[test]
    fn the_boundary_does_not_matter_and_every_part_does() {
        let whole = |parts: &[String]| parts.concat() + "--BOUNDARY--\n";
        let amount = part("name=\"amount\"", "10");
        let file = part("name=\"receipt\"; filename=\"a.txt\"\nContent-Type: text/plain", "paid");
        let one = whole(&[amount.clone(), file.clone()]);
        assert_eq!(form("X", &one), form("a-longer-one", &one));
        assert!(form("X", &one).is_ok());
        let others = [
            whole(std::slice::from_ref(&amount)),
            whole(&[file.clone(), amount.clone()]),
            whole(&[part("name=\"amount\"", "11"), file.clone()]),
            whole(&[part("name=\"amounts\"", "10"), file.clone()]),
            whole(&[amount.clone(), file.replace("a.txt", "b.txt")]),
            whole(&[amount.clone(), file.replace("text/plain", "text/html")]),
            whole(&[amount.clone(), file.replace("\nContent-Type: text/plain", "")]),
        ];
        for other in others {
            assert_ne!(form("X", &one), form("X", &other), "{other}");
        }
    }

    #[test]
    fn what_cannot_be_read_of_a_part_still_tells_it_from_another() {
        let of = |head: &[u8]| {
            let body =
                [b"--X\r\nContent-Disposition: form-data; ", head, b"\r\n\r\n10\r\n--X--\r\n"].concat();
            canonical(b"multipart/form-data; boundary=X", &body, &mut Fields::none()).unwrap()
        };
        let heads: [&[u8]; 7] = [
            b"name=\"n\xe4me\"",
            b"name=\"n\xf6me\"",
            b"name=\"\"",
            b"",
            b"name=\"a\"; filename*=UTF-8''a",
            b"name=\"a\"; filename*=UTF-8''b",
            b"name=\"a\"\r\nContent-Type: rubbish",
        ];
        for (at, one) in heads.iter().enumerate() {
            for other in &heads[at + 1..] {
                assert_ne!(of(one), of(other), "{}", String::from_utf8_lossy(one));
            }
        }
    }

    #[test]
    fn what_is_no_form_is_refused() {
        assert!(form("X", "rubbish").is_err());
        assert!(form("X", &part("name=\"amount\"", "10")).is_err(), "its end is missing");
        let no_boundary = canonical(b"multipart/form-data", b"--X--\r\n", &mut Fields::none());
        assert!(no_boundary.is_err());
    }
}
