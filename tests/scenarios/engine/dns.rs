//! A name server for one scenario: answers questions for addresses as steps say, and no others.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::schema::Resolution;

/// Kind of a question for an IPv4 address.
const A: u16 = 1;
/// The longest message that is read.
const MAX_MESSAGE: usize = 1500;

/// The server. It ends with the process.
#[derive(Clone)]
pub struct NameServer(Arc<Mutex<BTreeMap<String, Resolution>>>);

impl NameServer {
    /// Serves these names at port 53 of the loopback.
    pub fn start(names: &BTreeMap<String, Vec<Ipv4Addr>>) -> std::io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53))?;
        let at =
            |(name, addresses): (&String, &Vec<Ipv4Addr>)| (name.clone(), Resolution::At(addresses.clone()));
        let server = Self(Arc::new(Mutex::new(names.iter().map(at).collect())));
        let known = server.clone();
        std::thread::spawn(move || {
            let mut message = [0; MAX_MESSAGE];
            while let Ok((len, from)) = socket.recv_from(&mut message) {
                if let Some(reply) = reply(&message[..len], &known.lock()) {
                    let _ = socket.send_to(&reply, from);
                }
            }
        });
        Ok(server)
    }

    /// From now on `name` resolves so.
    pub fn set(&self, name: &str, resolution: Resolution) {
        self.lock().insert(name.to_owned(), resolution);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Resolution>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name and the kind that a message asks for, and where its question ends.
fn question(message: &[u8]) -> Option<(String, u16, usize)> {
    let (mut name, mut at) = (String::new(), 12);
    loop {
        let len = usize::from(*message.get(at)?);
        at += 1;
        match len {
            0 => break,
            1..=63 => {
                let label = message.get(at..at + len)?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(&String::from_utf8_lossy(label).to_ascii_lowercase());
                at += len;
            }
            // No question holds a pointer.
            _ => return None,
        }
    }
    let kind = message.get(at..at + 2)?;
    message.get(at + 2..at + 4)?;
    Some((name, u16::from(kind[0]) << 8 | u16::from(kind[1]), at + 4))
}

/// The answer to a message; `None`: none is given.
pub fn reply(message: &[u8], names: &BTreeMap<String, Resolution>) -> Option<Vec<u8>> {
    let (name, kind, end) = question(message)?;
    let (code, addresses): (u8, &[Ipv4Addr]) = match names.get(&name) {
        Some(Resolution::At(addresses)) if kind == A => (0, addresses),
        Some(Resolution::At(_)) => (0, &[]),
        Some(Resolution::Failing) => (2, &[]),
        Some(Resolution::Silent) => return None,
        Some(Resolution::Unknown) | None => (3, &[]),
    };
    let count = u8::try_from(addresses.len()).ok()?;
    let mut reply = message[..2].to_vec();
    // An answer, recursion wanted and given; one question, so many answers.
    reply.extend([0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
    reply.extend_from_slice(&message[12..end]);
    for address in addresses {
        // The name of the question, an address of the internet, good for no time at all.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        reply.extend(address.octets());
    }
    Some(reply)
}
