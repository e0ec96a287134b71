//! Answers of the name server.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::dns::reply;
use crate::schema::Resolution;

fn ask(name: &str, kind: u8) -> Vec<u8> {
    let mut message = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.extend([0, 0, kind, 0, 1]);
    message
}

#[test]
fn questions_are_answered_as_names_resolve() {
    let names = BTreeMap::from([
        ("a.test".to_owned(), Resolution::At(vec![Ipv4Addr::new(127, 0, 0, 2)])),
        ("b.test".to_owned(), Resolution::Silent),
        ("c.test".to_owned(), Resolution::Failing),
    ]);
    let answer = reply(&ask("A.test", 1), &names).unwrap();
    assert_eq!((&answer[..2], answer[3] & 15, answer[7]), (&[7u8, 9][..], 0, 1));
    assert!(answer.ends_with(&[127, 0, 0, 2]));
    assert_eq!(reply(&ask("a.test", 28), &names).unwrap()[7], 0);
    assert_eq!(reply(&ask("b.test", 1), &names), None);
    assert_eq!(reply(&ask("c.test", 1), &names).unwrap()[3] & 15, 2);
    assert_eq!(reply(&ask("d.test", 1), &names).unwrap()[3] & 15, 3);
    assert_eq!(reply(&[0; 13], &names).map(|_| ()), None);
    assert_eq!(reply(&[0xff; 40], &names), None);
}
