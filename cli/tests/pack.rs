//! `packscan pack` on text whose packing can be counted by hand.

mod common;

use std::fs;

use common::training::Bench;
use common::{command, finish};
use packscan_train::report::read_metrics;

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

#[test]
fn lengths_of_few_documents_are_summed_up_by_those_that_are_there() {
    let bench = Bench::new();
    let line = |tokens: usize| format!("{{\"text\": \"{}\"}}\n", "x".repeat(tokens - 1));
    for (lengths, told) in [
        (vec![13], "1 document, 13 tokens out of 257\nlengths: 13 shortest, 13 median, 13 mean, 13 in 95 of 100"),
        (vec![40, 11], "2 documents, 51 tokens out of 257\nlengths: 11 shortest, 11 median, 26 mean, 40 in 95 of 100"),
        (
            (1..=20).map(|n| 10 * n).collect(),
            "20 documents, 2,100 tokens out of 257\nlengths: 10 shortest, 100 median, 105 mean, 190 in 95 of 100",
        ),
        (
            vec![200; 3],
            "3 documents, 600 tokens out of 257\nlengths: 200 shortest, 200 median, 200 mean, 200 in 95 of 100",
        ),
    ] {
        fs::write(bench.path("lines.jsonl"), lengths.into_iter().map(line).collect::<String>()).unwrap();
        let out = bench.good("pack lines.jsonl --tokens 500").out.replace("; packs of at most 500", "");
        assert!(out.starts_with(told), "{told:?} is not what\n{out}\nbegins with");
    }
}

/// Padding is the same share in a report on packing, in the metrics of a run and on its page.
#[test]
fn a_run_has_the_padding_that_was_told() {
    let bench = Bench::new();
    let line = |tokens: usize| format!("{{\"text\": \"{}\"}}\n", "x".repeat(tokens - 1));
    fs::write(bench.path("lines.jsonl"), [60, 40, 50, 50, 10].map(line).concat()).unwrap();
    // 210 tokens: in 3 packs of 100, and in batches of 3 and 2 rows, 180 or 170 and 100 or 80 tokens large.
    for (packed, run, epoch) in [
        ("best-fit-decreasing", "--tokens 100", 3),
        ("split", "--tokens 100 --strategy split", 3),
        ("single", "--tokens 100 --scheme single", 5),
        ("padded", "--tokens 300 --scheme padded --batch 3", 2),
    ] {
        let told = bench.good("pack lines.jsonl --tokens 100 --batch 3").out;
        let told = told.lines().find(|line| line.starts_with(packed)).expect(packed).to_owned();
        let told: f64 = told.split_whitespace().nth(1).unwrap().parse().unwrap();
        let folder = format!("run-{packed}");
        let steps = format!("--steps {epoch} --held-out 0 --keep 0 -o {folder}");
        bench.good(&format!("train lines.jsonl --model model.toml {run} {steps}"));
        let metrics = read_metrics(&bench.path(&folder).join("metrics.jsonl")).unwrap();
        let room: f64 = metrics.iter().map(|step| step.tokens as f64 / (1.0 - step.padding)).sum();
        let padding = 100.0 * (1.0 - 210.0 / room);
        assert!((padding - told).abs() < 0.001, "{packed}: {padding} % was trained with, {told} % told");
        let page = fs::read_to_string(bench.path(&folder).join("run.html")).unwrap();
        assert!(page.contains(&format!("<dt>Padding</dt><dd>{padding:.2} %")), "{packed}");
    }
}
