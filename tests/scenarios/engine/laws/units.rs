//! Times and sizes.

use std::time::Duration;

use crate::units::{Size, Span, size, span};

#[test]
fn times_and_sizes_need_units_that_are_known() {
    assert_eq!(span("300ms"), Some(Span(Duration::from_millis(300))));
    assert_eq!(span("1.5s"), Some(Span(Duration::from_millis(1500))));
    assert_eq!(span("2min"), Some(Span(Duration::from_secs(120))));
    for text in ["", "10", "s", "-1s", "1 fortnight", "1e3s", "..s"] {
        assert_eq!(span(text), None, "{text}");
    }
    assert_eq!(size("4096"), Some(Size(4096)));
    assert_eq!(size("64KiB"), Some(Size(64 << 10)));
    assert_eq!(size("1.5MiB"), Some(Size(3 << 19)));
    assert_eq!(size("1GB"), None);
}
