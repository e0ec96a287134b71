//! A client for the daemon's administration socket: one request a connection, no library.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// An answer: the status and the body, `Null` where there is none.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The decoded body.
    pub body: Value,
}

/// Sends `GET path` to the socket. Fails the test if there is no HTTP answer within ten seconds.
pub fn get(socket: &Path, path: &str) -> Answer {
    try_get(socket, path).unwrap_or_else(|error| panic!("GET {path} on {}: {error}", socket.display()))
}

/// As [`get`], for sockets that may not answer.
pub fn try_get(socket: &Path, path: &str) -> std::io::Result<Answer> {
    let (status, body) = try_get_text(socket, path)?;
    let body = if body.is_empty() { Value::Null } else { serde_json::from_str(&body)? };
    Ok(Answer { status, body })
}

/// The status and the body as text, for pages that are not JSON.
pub fn try_get_text(socket: &Path, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n")?;
    let (head, body) = read_answer(&mut stream)?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("not HTTP: {head:?}")))?;
    let body = String::from_utf8(body).map_err(|_| std::io::Error::other("the body is no text"))?;
    Ok((status, body))
}

/// Reads one answer of known length. The reference implementation keeps the connection open whatever is asked, so
/// the end of the stream says nothing.
fn read_answer(stream: &mut UnixStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            let body = &bytes[end + 4..];
            if body.len() >= length.unwrap_or(0) {
                return Ok((head, body[..length.unwrap_or(0)].to_vec()));
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::Error::other("the connection ended inside an answer")),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}
