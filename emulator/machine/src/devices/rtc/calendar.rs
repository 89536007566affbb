//! Calendar arithmetic and register encodings of the clock.

use super::{from_bcd, to_bcd};
use crate::bits::low8;

const DAY_S: i64 = 86_400;

/// How registers show numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    pub binary: bool,
    pub hours_24: bool,
}

impl Format {
    pub fn encode(self, value: u8) -> u8 {
        if self.binary { value } else { to_bcd(value % 100) }
    }

    pub fn decode(self, value: u8) -> u8 {
        if self.binary { value } else { from_bcd(value) }
    }

    fn encode_hour(self, hour: u8) -> u8 {
        if self.hours_24 {
            return self.encode(hour);
        }
        let twelve = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.encode(twelve) | if hour >= 12 { 0x80 } else { 0 }
    }

    pub fn decode_hour(self, value: u8) -> u8 {
        if self.hours_24 {
            return self.decode(value);
        }
        let hour = self.decode(value & 0x7f) % 12;
        if value & 0x80 != 0 { hour + 12 } else { hour }
    }
}

/// A civil date and time, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DateTime {
    pub year: i64,
    pub month: u8,
    pub day: u8,
    /// 1 is Sunday.
    pub weekday: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
}

impl DateTime {
    /// From seconds since 1970. Days are counted in eras of 400 years that start on 1 March.
    pub fn from_unix(seconds: i64) -> Self {
        let days = seconds.div_euclid(DAY_S);
        let in_day = seconds.rem_euclid(DAY_S);
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self {
            year,
            month: small(month),
            day: small(day),
            weekday: small((days + 4).rem_euclid(7) + 1),
            hour: small(in_day / 3600),
            minute: small(in_day / 60 % 60),
            second: small(in_day % 60),
        }
    }

    /// Seconds since 1970. Fields out of range carry into the next larger one.
    pub fn to_unix(self) -> i64 {
        let month = i64::from(self.month).clamp(1, 12);
        let year = self.year - i64::from(month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let from_march = (month + 9) % 12;
        let day_of_year = (153 * from_march + 2) / 5 + i64::from(self.day.max(1)) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        days * DAY_S + i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second)
    }

    /// Register values: seconds, minutes, hours, day of week, day, month, year, century.
    pub fn encode(self, format: Format) -> [u8; 8] {
        [
            format.encode(self.second),
            format.encode(self.minute),
            format.encode_hour(self.hour),
            format.encode(self.weekday),
            format.encode(self.day),
            format.encode(self.month),
            format.encode(small(self.year.rem_euclid(100))),
            // The century byte is BCD whatever the data mode, as firmware keeps it.
            to_bcd(small(self.year.div_euclid(100).rem_euclid(100))),
        ]
    }

    /// From register values in the same order.
    pub fn decode(format: Format, values: [u8; 8]) -> Self {
        let [second, minute, hour, _, day, month, year, century] = values;
        let year = i64::from(from_bcd(century)) * 100 + i64::from(format.decode(year));
        Self {
            year,
            month: format.decode(month),
            day: format.decode(day),
            weekday: 1,
            hour: format.decode_hour(hour),
            minute: format.decode(minute),
            second: format.decode(second),
        }
    }
}

/// The first second after `after` whose hour, minute and second match; `None` matches any value. No match within two
/// days means never (fields out of range).
pub(super) fn next_match(after: i64, hour: Option<u8>, minute: Option<u8>, second: Option<u8>) -> Option<i64> {
    let matches = |field: Option<u8>, value: i64| field.is_none_or(|field| i64::from(field) == value);
    if hour.is_some_and(|v| v > 23) || minute.is_some_and(|v| v > 59) || second.is_some_and(|v| v > 59) {
        return None;
    }
    let mut at = after + 1;
    // Each loop steps at least to the next hour, minute or second that can match.
    for _ in 0..400 {
        let in_day = at.rem_euclid(DAY_S);
        if !matches(hour, in_day / 3600) {
            at += 3600 - in_day % 3600;
        } else if !matches(minute, in_day / 60 % 60) {
            at += 60 - in_day % 60;
        } else if !matches(second, in_day % 60) {
            at += 1;
        } else {
            return Some(at);
        }
    }
    None
}

fn small(value: i64) -> u8 {
    low8(value.unsigned_abs())
}
