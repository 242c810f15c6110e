//! `packscan pack` on text whose packing can be counted by hand.

mod common;

use std::fs;

use common::{command, finish};

#[test]
fn each_strategy_has_a_row_and_lengths_are_drawn() {
    let folder = tempfile::tempdir().unwrap();
    // Tokens of each document, its end among them.
    let line = |tokens: usize| format!("{{\"body\": \"{}\"}}\n", "x".repeat(tokens - 1));
    let lines: String = [60, 40, 50, 50, 10].map(line).concat();
    fs::write(folder.path().join("lines.jsonl"), lines + "{}\n").unwrap();
    let mut pack = command();
    pack.env("PACKSCAN_CACHE", folder.path().join("cache")).current_dir(folder.path());
    pack.args("pack lines.jsonl --tokens 100 --text-field body --skip-bad --batch 5 --svg lengths.svg".split(' '));
    let ran = finish(pack);
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert!(ran.out.contains("5 documents, 210 tokens out of 257; packs of at most 100"), "{}", ran.out);
    assert!(ran.out.contains("10 shortest, 50 median, 42 mean"), "{}", ran.out);
    assert!(ran.out.contains("left out: 1 bad record\n") && ran.out.contains("line 6"), "{}", ran.out);
    // 210 of 300 tokens; one batch of 5 rows of 60.
    for (strategy, padding, packs) in [
        ("first-fit", "30.000 %", 3),
        ("best-fit-decreasing", "30.000 %", 3),
        ("split", "30.000 %", 3),
        ("single", "0.000 %", 5),
        ("padded", "30.000 %", 1),
    ] {
        let row = ran.out.lines().find(|line| line.starts_with(strategy)).expect(strategy);
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells[1..4].join(" "), format!("{padding} {packs}"), "{row}");
    }
    assert!(ran.out.lines().any(|line| line.starts_with("sequential")), "{}", ran.out);
    let svg = fs::read_to_string(folder.path().join("lengths.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains("tokens in a document"));
}
