//! Sizes with units.

use crate::error::DomainXmlError;
use crate::xml::Element;

/// Takes a child that is a size, such as `<memory unit='MiB'>`; the result is in KiB, rounded up.
pub(crate) fn size_child(parent: &mut Element<'_>, name: &str) -> Result<Option<u64>, DomainXmlError> {
    let Some(mut element) = parent.child(name)? else { return Ok(None) };
    let unit = element.attribute("unit").unwrap_or("KiB");
    let Some(factor) = unit_bytes(unit) else {
        return Err(element.invalid(format!("'{unit}' is no unit of memory; write for example KiB, MiB or GiB")));
    };
    let text = element.text();
    let number: u64 =
        text.trim().parse().map_err(|_| element.invalid(format!("'{}' in <{name}> is no size", text.trim())))?;
    let bytes = number.checked_mul(factor).ok_or_else(|| element.invalid(format!("<{name}> is too large")))?;
    element.finish()?;
    Ok(Some(bytes.div_ceil(1024)))
}

fn unit_bytes(unit: &str) -> Option<u64> {
    let decimal = |power| 1000_u64.checked_pow(power);
    match unit.to_ascii_lowercase().as_str() {
        "b" | "bytes" => Some(1),
        "kb" => decimal(1),
        "mb" => decimal(2),
        "gb" => decimal(3),
        "tb" => decimal(4),
        "k" | "kib" => Some(1 << 10),
        "m" | "mib" => Some(1 << 20),
        "g" | "gib" => Some(1 << 30),
        "t" | "tib" => Some(1 << 40),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::parse;

    fn size(inner: &str) -> Result<Option<u64>, DomainXmlError> {
        parse(&format!("<a>{inner}</a>"), "a", |element| size_child(element, "memory"))
    }

    #[test]
    fn units() {
        assert_eq!(size("<memory>1024</memory>"), Ok(Some(1024)));
        assert_eq!(size("<memory unit='GiB'> 2 </memory>"), Ok(Some(2 << 20)));
        assert_eq!(size("<memory unit='b'>1025</memory>"), Ok(Some(2)));
        assert_eq!(size("<memory unit='MB'>1</memory>"), Ok(Some(977)));
        assert_eq!(size(""), Ok(None));
        assert!(size("<memory unit='x'>1</memory>").is_err());
        assert!(size("<memory>-1</memory>").is_err());
        assert!(size("<memory unit='T'>99999999999</memory>").is_err());
        assert!(size("<memory slots='1'>1</memory>").is_err());
    }
}
