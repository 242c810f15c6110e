//! Whole numbers for people.

/// `1,234,567`
pub fn thousands(number: u64) -> String {
    grouped(&number.to_string())
}

/// `1 document`, `1,234 documents`: how many of what one is called. Its plural ends in s.
pub fn counted(number: u64, one: &str) -> String {
    format!("{} {one}{}", thousands(number), if number == 1 { "" } else { "s" })
}

/// Digits with a comma before every third from the end.
pub fn grouped(digits: &str) -> String {
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let written: Vec<String> = [0, 999, 1000, 1_234_567].into_iter().map(thousands).collect();
        assert_eq!(written, ["0", "999", "1,000", "1,234,567"]);
        let counts = [0, 1, 2, 1000].map(|number| counted(number, "document"));
        assert_eq!(counts, ["0 documents", "1 document", "2 documents", "1,000 documents"]);
    }
}
