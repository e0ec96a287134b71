//! Right answers, and what distortions make of them.

use crate::plan::Plan;
use crate::schema::{Distortion, Place};

fn distorted(by: Distortion) -> Plan {
    let content: Vec<u8> = (0..100).collect();
    Plan::range(&content, Some((10, 19))).distorted(&by, Some(&content), "/b", 7)
}

#[test]
fn ranges_are_those_of_http() {
    let content: Vec<u8> = (0..100).collect();
    assert_eq!(Plan::range(&content, None).status, 200);
    let part = Plan::range(&content, Some((90, 200)));
    assert_eq!((part.status, part.body.len()), (206, 10));
    assert_eq!(part.headers[0].1, "bytes 90-99/100");
    assert_eq!(Plan::range(&content, Some((100, 200))).status, 416);
}

#[test]
fn each_distortion_changes_what_it_says() {
    let right = distorted(Distortion::default());
    assert_eq!(right.body, (10..20).collect::<Vec<u8>>());
    let flipped = distorted(Distortion { flip: Some(Place::Middle), ..Distortion::default() });
    let wrong: Vec<usize> = (0..10).filter(|index| flipped.body[*index] != right.body[*index]).collect();
    assert_eq!(wrong, [4]);
    let other = distorted(Distortion { other: true, ..Distortion::default() });
    assert!(other.body.len() == 10 && other.body != right.body);
    let whole = distorted(Distortion { whole: true, ..Distortion::default() });
    assert_eq!((whole.status, whole.body.len(), whole.headers.len()), (200, 100, 0));
    let shifted = distorted(Distortion { range_off: -3, ..Distortion::default() });
    assert_eq!(shifted.headers[0].1, "bytes 7-16/100");
    let led = distorted(Distortion { redirect: Some("http://x{path}?{n}".into()), ..Distortion::default() });
    assert_eq!((led.status, led.headers[0].1.as_str()), (307, "http://x/b?7"));
    let refused = distorted(Distortion { status: Some(503), ..Distortion::default() });
    assert!(refused.status == 503 && refused.body.is_empty() && refused.headers.is_empty());
}
