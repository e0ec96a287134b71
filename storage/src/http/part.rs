//! A range of an object on its way: bytes gathered from one answer after another, each of which is made to prove
//! that it is an answer to what was asked.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_ENCODING, CONTENT_RANGE, HeaderValue};

use super::client::{Answer, Sends};
use super::failure::{Failure, quoted};
use crate::Error;
use crate::backend::Arrivals;

/// How much is read and thrown away when a server sends the whole object instead of the range.
const MAX_SKIP: u64 = 16 << 20;

/// A range, and those of its first bytes that have come. What has come survives a body that breaks: the next
/// request asks for the rest.
#[derive(Debug)]
pub(crate) struct Part {
    offset: u64,
    len: u64,
    data: BytesMut,
    /// Bytes of the whole object, when a server has told.
    total: Option<u64>,
    /// The requests for it.
    sends: Sends,
    /// Told what comes.
    arrivals: Option<Arrivals>,
    /// An answer of 200 may be the range, where others send the object.
    bare_allowed: bool,
}

impl Part {
    /// `len` bytes from `offset`: at least one, and the last one has an address.
    pub(crate) fn new(offset: u64, len: u64) -> Self {
        let (data, sends) = (BytesMut::new(), Sends::default());
        Self { offset, len, data, total: None, sends, arrivals: None, bare_allowed: false }
    }

    /// The part, with an answer of 200 that is as long as what was asked for taken as the range, if `allowed`.
    pub(crate) fn allowing_bare(self, allowed: bool) -> Self {
        Self { bare_allowed: allowed, ..self }
    }

    /// The part, which tells what comes of it from now on.
    pub(crate) fn telling(self, arrivals: Option<Arrivals>) -> Self {
        Self { arrivals, ..self }
    }

    /// Whether it tells what comes.
    pub(crate) fn tells(&self) -> bool {
        self.arrivals.is_some()
    }

    /// The part with all that has come; what remains is the same range and nothing of it, and tells nothing.
    pub(crate) fn take_progress(&mut self) -> Self {
        let fresh =
            Self { sends: self.sends(), bare_allowed: self.bare_allowed, ..Self::new(self.offset, self.len) };
        std::mem::replace(self, fresh)
    }

    /// The bytes, if all have come.
    pub(crate) fn take(&mut self) -> Option<Bytes> {
        self.is_complete().then(|| std::mem::take(&mut self.data).freeze())
    }

    /// Bytes of the object, as the server told.
    pub(crate) fn total(&self) -> Option<u64> {
        self.total
    }

    /// What counts the requests for it.
    pub(crate) fn sends(&self) -> Sends {
        self.sends.clone()
    }

    /// How many bytes have come.
    pub(crate) fn received(&self) -> u64 {
        self.data.len() as u64
    }

    /// How many bytes are still to come.
    pub(crate) fn missing(&self) -> u64 {
        self.len - self.received()
    }

    /// The first and the last byte that are still wanted.
    fn wanted(&self) -> (u64, u64) {
        (self.offset + self.received(), self.offset + (self.len - 1))
    }

    /// The value of `Range` for what is still wanted.
    pub(crate) fn header(&self) -> HeaderValue {
        let (first, last) = self.wanted();
        HeaderValue::from_str(&format!("bytes={first}-{last}"))
            .unwrap_or_else(|_| HeaderValue::from_static("bytes=0-"))
    }

    /// Whether all bytes have come.
    pub(crate) fn is_complete(&self) -> bool {
        self.received() == self.len
    }

    /// Takes what `answer` brings: 206, 200 or 416. `what` names the object. At least one byte has come if there is no
    /// error, perhaps not all: a server may send less than it was asked for. On an error, the bytes that came before it
    /// are kept.
    pub(crate) async fn fill(&mut self, answer: Answer, what: &str) -> Result<(), Failure> {
        if let Some(encoding) = answer.header(CONTENT_ENCODING)
            && !encoding.eq_ignore_ascii_case("identity")
        {
            return Err(wrong(what, format!("the server encoded the bytes as {}", quoted(encoding))));
        }
        match answer.status() {
            StatusCode::PARTIAL_CONTENT => self.fill_from_range(answer, what).await,
            StatusCode::OK if self.bare_allowed => self.fill_from_either(answer, what).await,
            StatusCode::OK => self.fill_from_whole(answer, what).await,
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let total = answer.header(CONTENT_RANGE).and_then(|text| text.strip_prefix("bytes */"));
                if let Some(total) = total.and_then(number) {
                    self.learn_total(total)?;
                }
                Err(Failure::Refused(self.beyond_the_end(what)))
            }
            other => Err(wrong(what, format!("{other} is no answer to a range"))),
        }
    }

    async fn fill_from_range(&mut self, answer: Answer, what: &str) -> Result<(), Failure> {
        let (first, last) = self.wanted();
        let text = answer.header(CONTENT_RANGE).unwrap_or("none");
        let Some((start, end, total)) = content_range(text) else {
            return Err(wrong(
                what,
                format!("asked for bytes {first}-{last}, Content-Range is {}", quoted(text)),
            ));
        };
        if let Some(total) = total {
            self.learn_total(total)?;
        }
        if start != first || end > last {
            return Err(wrong(what, format!("asked for bytes {first}-{last}, got {start}-{end}")));
        }
        if end < last && total == Some(end + 1) {
            return Err(Failure::Refused(self.beyond_the_end(what)));
        }
        self.gather(Body::of(answer), 0, end - start + 1).await
    }

    /// The server does not know ranges, and sends everything.
    async fn fill_from_whole(&mut self, answer: Answer, what: &str) -> Result<(), Failure> {
        let (_, last) = self.wanted();
        if let Some(total) = answer.content_length() {
            self.learn_total(total)?;
            if total <= last {
                return Err(Failure::Refused(self.beyond_the_end(what)));
            }
        }
        self.skip_to(Body::of(answer), what).await
    }

    /// The server sends either everything or the range, and does not say which. Lengths tell: an object that has the
    /// range and more before it is longer than the range, and one that begins with the range begins with the same bytes.
    /// Only an object that ends before the range does can look like it; the digests of its chunks do not.
    async fn fill_from_either(&mut self, answer: Answer, what: &str) -> Result<(), Failure> {
        let (first, last) = self.wanted();
        let len = last - first + 1;
        match answer.content_length() {
            Some(told) if told < len => return Err(Failure::Refused(self.beyond_the_end(what))),
            Some(told) if told == len => return self.gather(Body::of(answer), 0, len).await,
            Some(_) => return self.fill_from_whole(answer, what).await,
            None if first == 0 => return self.gather(Body::of(answer), 0, len).await,
            None => {}
        }
        let mut body = Body::of(answer);
        match body.peek(len).await? {
            Peeked::Ends(found) if found == len => self.gather(body, 0, len).await,
            Peeked::Ends(found) => {
                Err(Failure::Broken(format!("the body ended after {found} bytes, {len} were asked for")))
            }
            Peeked::GoesOn => self.skip_to(body, what).await,
        }
    }

    /// Takes what is wanted of a body that is the whole object.
    async fn skip_to(&mut self, body: Body, what: &str) -> Result<(), Failure> {
        let (first, last) = self.wanted();
        if first > MAX_SKIP {
            return Err(Failure::Refused(Error::invalid(
                what,
                format!(
                    "the server ignores ranges: it answers 200 to bytes {first}-{last}, and more than {MAX_SKIP} \
                     bytes are not skipped"
                ),
            )));
        }
        self.gather(body, first, last - first + 1).await
    }

    /// Skips `skip` bytes of the body and takes the next `len`.
    async fn gather(&mut self, mut body: Body, mut skip: u64, len: u64) -> Result<(), Failure> {
        // At most MAX_READ, which the caller has checked, and pages that nothing is written to cost nothing.
        self.data.reserve(self.missing() as usize);
        let mut missing = len;
        while missing > 0 {
            let Some(mut chunk) = body.chunk().await? else {
                return Err(Failure::Broken(format!("the body ended {missing} bytes early")));
            };
            let skipped = skip.min(chunk.len() as u64);
            let _ = chunk.split_to(skipped as usize);
            skip -= skipped;
            let taken = missing.min(chunk.len() as u64);
            chunk.truncate(taken as usize);
            let at = self.offset + self.received();
            self.data.extend_from_slice(&chunk);
            missing -= taken;
            if let Some(arrivals) = &self.arrivals
                && taken > 0
            {
                arrivals.tell(at, chunk);
            }
        }
        Ok(())
    }

    /// Bytes of two versions of an object never mix: what came of the other one is dropped, and all of it is asked for
    /// again. Which of the two is right is not for us to say.
    fn learn_total(&mut self, total: u64) -> Result<(), Failure> {
        match self.total.replace(total) {
            Some(before) if before != total && !self.data.is_empty() => {
                self.data.clear();
                self.arrivals = None;
                Err(Failure::Broken(format!("the object had {before} bytes, now it has {total}")))
            }
            _ => Ok(()),
        }
    }

    fn beyond_the_end(&self, what: &str) -> Error {
        let size = match self.total {
            Some(total) => format!(", it has {total} bytes"),
            None => String::new(),
        };
        Error::corrupt(what, format!("range {}+{} is beyond the end{size}", self.offset, self.len))
    }
}

/// The bytes of an answer, some of which have been looked at.
struct Body {
    answer: Answer,
    peeked: VecDeque<Bytes>,
}

/// What there is of a body.
enum Peeked {
    /// So many bytes, and no more.
    Ends(u64),
    /// More than was asked about.
    GoesOn,
}

impl Body {
    fn of(answer: Answer) -> Self {
        Self { answer, peeked: VecDeque::new() }
    }

    /// Whether there are more than `len` bytes. They are kept: with what came along with the last of them.
    async fn peek(&mut self, len: u64) -> Result<Peeked, Failure> {
        let mut found = 0;
        while let Some(chunk) = self.answer.chunk().await? {
            found += chunk.len() as u64;
            self.peeked.push_back(chunk);
            if found > len {
                return Ok(Peeked::GoesOn);
            }
        }
        Ok(Peeked::Ends(found))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        match self.peeked.pop_front() {
            Some(chunk) => Ok(Some(chunk)),
            None => self.answer.chunk().await,
        }
    }
}

/// The server breaks the rules: its bytes cannot be trusted to be those that were asked for.
fn wrong(what: &str, detail: String) -> Failure {
    Failure::Refused(Error::corrupt(what, detail))
}

/// `bytes FIRST-LAST/TOTAL`, the total perhaps `*`.
pub(crate) fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let total = match total {
        "*" => None,
        digits => Some(number(digits)?),
    };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, last, total))
}

fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        for (text, expected) in [
            ("bytes 0-0/1", Some((0, 0, Some(1)))),
            ("bytes 5-9/*", Some((5, 9, None))),
            ("bytes 5-9/9", None),
            ("bytes 9-5/20", None),
            ("bytes */20", None),
            ("bytes 0-18446744073709551615/*", Some((0, u64::MAX, None))),
            ("bytes 0-18446744073709551616/*", None),
            ("bytes +1-2/3", None),
            ("bytes -2/3", None),
            ("items 0-0/1", None),
            ("", None),
        ] {
            assert_eq!(content_range(text), expected, "{text}");
        }
    }
}
