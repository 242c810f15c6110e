//! What is done with a trained model: text that goes on from a prompt, losses of other text, training further.

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;

use common::training::Bench;
use packscan_train::report::read_metrics;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A run of thirty steps.
fn trained() -> Bench {
    let bench = Bench::new();
    bench.good("train text --model model.toml --tokens 1024 --steps 30 --learning-rate 0.01 -o run");
    bench
}

#[test]
fn a_prompt_goes_on_in_the_same_way_from_the_same_seed() {
    let bench = trained();
    let text = |arguments: &str| bench.good(&format!("generate run {arguments} -n 60")).out;
    let first = text("pub --seed 3");
    assert!(first.starts_with("pub") && first.ends_with('\n') && first.len() > 40, "{first:?}");
    assert_eq!(text("pub --seed 3"), first);
    assert_ne!(text("pub --seed 4"), first);
    // From standard input, and from the checkpoint by its own name.
    let mut piped = bench.command("generate run/step-00000030 --seed 3 -n 60");
    piped.write_stdin("pub");
    assert_eq!(common::finish(piped).out, first);
    // The first text of a batch is the one that is made alone.
    let batch = text("pub --seed 3 --batch 3");
    assert_eq!(batch.matches("--- ").count(), 3, "{batch}");
    assert!(batch.starts_with(&format!("--- 1\n{first}--- 2\n")), "{batch}");
    // Drawing the most likely token needs no seed.
    assert_eq!(text("pub --temperature 0 --seed 1"), text("pub --temperature 0 --seed 2"));
    assert_eq!(bench.good("generate run pub -n 0").out, "pub\n");
}

#[test]
fn rows_that_pad_the_vocabulary_are_never_drawn() {
    let bench = trained();
    let config = fs::read_to_string(bench.path("run/step-00000030/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["vocab_size"], 264, "257 entries and padding");
    // At this temperature every token is as likely as any other, and one of padding would be an error of the decoder.
    for seed in 0..4 {
        bench.good(&format!("generate run x --temperature 1e9 -n 200 --batch 8 --seed {seed}"));
    }
}

#[test]
fn losses_do_not_depend_on_how_text_is_cut() {
    let bench = trained();
    let loss = |arguments: &str| -> (f64, String) {
        let out = bench.good(&format!("eval run {arguments}")).out;
        let value = |line: usize| out.lines().nth(line).unwrap().split_whitespace().nth(1).unwrap().to_owned();
        (value(0).parse().unwrap(), out.lines().nth(2).unwrap().to_owned())
    };
    let whole = loss("text --tokens 65536");
    assert!(whole.0 < 0.8 * 257f64.ln(), "it has learnt: {whole:?}");
    // State and history are carried over every cut: what is printed differs by its last digit at most.
    for tokens in [100, 1000] {
        let cut = loss(&format!("text --tokens {tokens}"));
        assert!((cut.0 - whole.0).abs() < 1.5e-4 && cut.1 == whole.1, "{cut:?} and {whole:?}");
    }
}

#[test]
fn another_run_starts_from_its_weights() {
    let bench = trained();
    let told = bench.good("train text --init run --tokens 1024 --steps 1 --learning-rate 1e-9 -o more").err;
    let loss = |err: &str| -> f64 {
        let line = err.lines().find(|line| line.starts_with("step 1/")).expect("a first step");
        line.split("loss ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
    };
    let fresh = bench.good("train text --model model.toml --tokens 1024 --steps 1 -o fresh").err;
    assert!(loss(&told) < 0.8 * loss(&fresh), "{told}\n{fresh}");
}

/// Text as JSONL, Parquet and compressed, through a `tokenizer.json`, which the run remembers wherever it is used from.
#[test]
fn every_kind_of_text_and_a_tokenizer() {
    let bench = Bench::new();
    let fixtures = Path::new(REPOSITORY).join("data/tests/fixtures");
    fs::copy(fixtures.join("tokenizer.json"), bench.path("tokenizer.json")).unwrap();
    for name in ["texts.snappy.parquet", "texts.zstd.parquet"] {
        fs::copy(fixtures.join(name), bench.path(name)).unwrap();
    }
    let record =
        |i: usize| format!("{}\n", serde_json::json!({ "id": i, "text": "some words of a record ".repeat(i + 1) }));
    fs::write(bench.path("a.jsonl"), (0..9).map(record).collect::<String>()).unwrap();
    let model = "--model model.toml --tokenizer tokenizer.json --tokens 128 --packs 2 --steps 3";
    bench.good(&format!("train text a.jsonl texts.snappy.parquet texts.zstd.parquet {model} -o run"));
    let settings = fs::read_to_string(bench.path("run/run.toml")).unwrap();
    assert!(settings.contains("vocabulary = 304"), "300 entries and padding: {settings}");
    let mut elsewhere = bench.command("generate ../run some -n 20 --temperature 2");
    elsewhere.current_dir(bench.path("text"));
    let ran = common::finish(elsewhere);
    assert!(ran.code == 0 && ran.out.starts_with("some"), "{ran:#?}");
    bench.good("eval run a.jsonl");
    // A run from these weights takes their tokenizer.
    bench.good("train a.jsonl --init run --tokens 128 --steps 1 -o more");
    assert!(fs::read_to_string(bench.path("more/run.toml")).unwrap().contains("tokenizer.json"));
}

/// Text that is compressed trains the same model as text that is not.
#[test]
fn compressed_text_is_the_text() {
    let bench = Bench::new();
    let record = |i: usize| format!("{}\n", serde_json::json!({ "text": "words of a record ".repeat(i + 1) }));
    let records: String = (0..9).map(record).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(records.as_bytes()).unwrap();
    let plain = fs::read(bench.path("text/lib.rs")).unwrap();
    let files = [
        ("plain", "a.jsonl", records.clone().into_bytes()),
        ("plain", "b.rs", plain.clone()),
        ("gz", "a.jsonl.gz", gzip.finish().unwrap()),
        ("gz", "b.rs", plain.clone()),
        ("zst", "a.jsonl.zst", zstd::encode_all(records.as_bytes(), 3).unwrap()),
        ("zst", "b.rs.zst", zstd::encode_all(plain.as_slice(), 3).unwrap()),
    ];
    for (folder, name, bytes) in files {
        fs::create_dir_all(bench.path(folder)).unwrap();
        fs::write(bench.path(folder).join(name), bytes).unwrap();
    }
    let losses = |folder: &str| {
        bench.good(&format!("train {folder} --model model.toml --tokens 256 --steps 3 -o run-{folder}"));
        let metrics = read_metrics(&bench.path(&format!("run-{folder}/metrics.jsonl"))).unwrap();
        metrics.iter().map(|m| (m.loss.to_bits(), m.tokens)).collect::<Vec<_>>()
    };
    let plain = losses("plain");
    assert_eq!(plain.len(), 3);
    assert!(losses("gz") == plain && losses("zst") == plain, "{plain:?}");
}

#[test]
fn the_plan_is_shown_and_nothing_is_run() {
    let bench = Bench::new();
    let plan = |arguments: &str| bench.good(&format!("train absent --model 130m --plan {arguments}")).out;
    let shown = plan("");
    for row in [
        "130m, f32 on the CPU, packs of 4,096 tokens",
        "parameters, f32",
        "moments of the optimiser",
        "24 blocks, recompute none",
        "tokens, targets and boundaries of packs",
    ] {
        assert!(shown.contains(row), "{row:?} is not in\n{shown}");
    }
    assert!(plan("--recompute full").contains("24 blocks, recompute full"));
    let cut = "states of documents cut between packs";
    assert!(!shown.contains(cut) && plan("--strategy split").contains(cut));
    let chosen = plan("--memory 6GB --tokens 8192");
    assert!(chosen.contains("recompute cheap") || chosen.contains("recompute full"), "{chosen}");
    assert!(!bench.path("runs").exists());
}

/// A bytes column of a plan.
fn planned(plan: &str, row: &str) -> f64 {
    let line = plan.lines().find(|line| line.trim_start().starts_with(row)).expect(row);
    let words: Vec<&str> = line.split_whitespace().rev().take(2).collect();
    let unit = match words[0] {
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        unit => panic!("{unit:?} in {line:?}"),
    };
    words[1].parse::<f64>().unwrap() * unit
}

/// No GPU is counted where there is none, parameters are those of the model, and a run that fits the plan takes no more.
#[test]
fn a_plan_on_a_cpu_is_what_a_run_there_takes() {
    let bench = Bench::new();
    let run = "text --model model.toml --tokens 4096 --steps 3 --memory 120MB";
    let plan = bench.good(&format!("train {run} --plan")).out;
    assert!(!plan.contains("driver"), "{plan}");
    let ran = bench.good(&format!("train {run} -o run"));
    let parameters = ran.err.split(" parameters").next().unwrap().rsplit(' ').next().unwrap().replace(',', "");
    let parameters: f64 = parameters.parse().unwrap();
    assert!((planned(&plan, "parameters, f32") / (4.0 * parameters) - 1.0).abs() < 0.01, "{parameters} and\n{plan}");
    let metrics = read_metrics(&bench.path("run/metrics.jsonl")).unwrap();
    if cfg!(target_os = "linux") {
        let most = metrics[2].memory_bytes.expect("Linux tells") as f64;
        let all = planned(&plan, "together");
        let beside = planned(&plan, "the program");
        assert!(most > all - beside && most < all, "{most} of\n{plan}");
        assert!(metrics.is_sorted_by_key(|step| step.memory_bytes));
    }
}
