//! What is sent, when, and how it breaks off: a right answer, made wrong.

use std::time::Duration;

use crate::schema::{Cut, Distortion, Instead, Place};

/// An answer that is about to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub delay: Duration,
    /// None of the rest is sent, but this.
    pub instead: Option<Instead>,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// `Content-Length` is off by this.
    pub length_off: i64,
    pub cut: Option<Cut>,
    /// Bytes a second.
    pub pace: Option<u64>,
}

impl Plan {
    /// A right answer.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            delay: Duration::ZERO,
            instead: None,
            status,
            headers: Vec::new(),
            body: body.into(),
            length_off: 0,
            cut: None,
            pace: None,
        }
    }

    /// With a header more.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Nothing at all.
    pub fn silence() -> Self {
        Self { instead: Some(Instead::Silence), ..Self::new(0, "") }
    }

    /// The range of `content` that was asked for, by the rules; without one all of it.
    pub fn range(content: &[u8], range: Option<(u64, u64)>) -> Self {
        let size = content.len() as u64;
        let Some((first, last)) = range else { return Self::new(200, content) };
        if first >= size || last < first {
            return Self::new(416, "").with("content-range", format!("bytes */{size}"));
        }
        let last = last.min(size - 1);
        Self::new(206, &content[first as usize..=last as usize])
            .with("content-range", format!("bytes {first}-{last}/{size}"))
    }

    /// The same, wrong. `whole` is the blob that was asked for, if one was; `path` and `number` fill in redirects.
    pub fn distorted(mut self, by: &Distortion, whole: Option<&[u8]>, path: &str, number: u64) -> Self {
        self.delay += by.delay.map_or(Duration::ZERO, |delay| delay.0);
        self.instead = self.instead.or(by.instead);
        if let Some(content) = whole.filter(|_| by.whole) {
            self = Self { delay: self.delay, instead: self.instead, ..Self::new(200, content) };
        }
        if let Some(status) = by.status {
            (self.status, self.body) = (status, by.body.clone().into_bytes());
            self.headers.retain(|(name, _)| name != "content-range");
        }
        if let Some(to) = &by.redirect {
            let to = to.replace("{path}", path).replace("{n}", &number.to_string());
            (self.status, self.body) = (307, Vec::new());
            self.headers.retain(|(name, _)| name != "content-range" && name != "location");
            self.headers.push(("location".into(), to));
        }
        self.headers.extend(by.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        self.length_off += by.length_off;
        for (name, value) in &mut self.headers {
            if name == "content-range" && by.range_off != 0 {
                *value = shifted(value, by.range_off);
            }
        }
        if let Some(place) = by.flip.filter(|_| !self.body.is_empty()) {
            let last = self.body.len() - 1;
            let index = match place {
                Place::First => 0,
                Place::Middle => last / 2,
                Place::Last => last,
            };
            self.body[index] ^= 0x10;
        }
        if by.other {
            let other = (0u32..).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8);
            self.body = other.take(self.body.len()).collect();
        }
        self.cut = self.cut.or(by.cut);
        self.pace = self.pace.or(by.pace.map(|pace| pace.0.max(1)));
        self
    }
}

/// `bytes 0-9/100` as `bytes 1-10/100`.
fn shifted(value: &str, by: i64) -> String {
    let parse = || {
        let (range, size) = value.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (i64, i64) = (first.parse().ok()?, last.parse().ok()?);
        Some(format!("bytes {}-{}/{size}", first + by, last + by))
    };
    parse().unwrap_or_else(|| value.to_owned())
}
