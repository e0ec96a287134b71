//! Points in time as people read them, in UTC.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time, taken apart. Times before 1970 become 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utc {
    year: u64,
    /// From 1.
    month: u64,
    /// From 1.
    day: u64,
    /// Of the day.
    second: u64,
    nanosecond: u32,
}

/// Days of 400 years; after them the calendar repeats.
const DAYS_OF_CYCLE: u64 = 146_097;

impl From<SystemTime> for Utc {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (day, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        // Years are counted from the first of March, so that the leap day is the last of its year; the first
        // such day is 0000-03-01, 719468 days before 1970.
        let day = day + 719_468;
        let (cycle, day) = (day / DAYS_OF_CYCLE, day % DAYS_OF_CYCLE);
        // Take out the leap days that have gone by: one in 4 years, none in 100, one in 400.
        let year = (day - day / 1460 + day / 36_524 - day / (DAYS_OF_CYCLE - 1)) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        // From March on, five months always have 153 days.
        let march_month = (5 * day + 2) / 153;
        let day = day - (153 * march_month + 2) / 5 + 1;
        let (month, year) =
            if march_month < 10 { (march_month + 3, year) } else { (march_month - 9, year + 1) };
        Self { year: cycle * 400 + year, month, day, second, nanosecond: since.subsec_nanos() }
    }
}

impl Utc {
    /// This moment.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// As the administration API shows times: `2026-11-22 16:25:43.2969676 +00:00:00`, without zeros at the
    /// end of the fraction.
    pub fn api(self) -> String {
        let fraction = format!("{:09}", self.nanosecond);
        let fraction = fraction.trim_end_matches('0');
        let fraction = if fraction.is_empty() { "0" } else { fraction };
        format!("{}.{fraction} +00:00:00", self.date_time())
    }

    fn date_time(self) -> String {
        let Self { year, month, day, second, .. } = self;
        format!(
            "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}",
            second / 3600,
            second / 60 % 60,
            second % 60
        )
    }
}

/// As log lines show times: `2026-11-22 16:25:43.295369 +00:00`.
impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06} +00:00", self.date_time(), self.nanosecond / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, nanoseconds: u32) -> Utc {
        (UNIX_EPOCH + Duration::new(seconds, nanoseconds)).into()
    }

    #[test]
    fn known_moments() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "1970-01-01 00:00:00.000000 +00:00"),
            (951_782_399, 999_999_999, "2000-02-28 23:59:59.999999 +00:00"),
            (951_782_400, 0, "2000-02-29 00:00:00.000000 +00:00"),
            (951_868_800, 0, "2000-03-01 00:00:00.000000 +00:00"),
            (1_795_364_743, 295_369_000, "2026-11-22 16:25:43.295369 +00:00"),
            (4_107_542_400, 1_000, "2100-03-01 00:00:00.000001 +00:00"),
            (4_107_456_000, 0, "2100-02-28 00:00:00.000000 +00:00"),
            (4_102_444_799, 0, "2099-12-31 23:59:59.000000 +00:00"),
        ] {
            assert_eq!(at(seconds, nanoseconds).to_string(), text);
        }
    }

    #[test]
    fn days_follow_each_other_for_five_centuries() {
        let mut previous = at(0, 0);
        for day in 1..500 * 365 {
            let next = at(day * 86_400, 0);
            let is_leap = previous.year.is_multiple_of(4)
                && (!previous.year.is_multiple_of(100) || previous.year.is_multiple_of(400));
            let length = [31, 28 + u64::from(is_leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
                [previous.month as usize - 1];
            let expected = match (previous.month, previous.day) {
                (12, 31) => (previous.year + 1, 1, 1),
                (month, day) if day == length => (previous.year, month + 1, 1),
                (month, day) => (previous.year, month, day + 1),
            };
            assert_eq!((next.year, next.month, next.day), expected);
            previous = next;
        }
    }

    #[test]
    fn the_api_leaves_zeros_out() {
        assert_eq!(at(1_795_364_743, 296_967_600).api(), "2026-11-22 16:25:43.2969676 +00:00:00");
        assert_eq!(at(0, 0).api(), "1970-01-01 00:00:00.0 +00:00:00");
    }
}
