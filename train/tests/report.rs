//! What a run leaves: its metrics survive kills and resumption, and its page shows whatever happened.

use std::fs;

use packscan_train::report::plot::{Axis, Mark, Plot, Scale, Series, Size, Tone, escaped};
use packscan_train::report::{Error, Metrics, MetricsFile, Page, Status, lengths_plot, read_metrics};
use tempfile::TempDir;

fn step(step: u64) -> Metrics {
    Metrics {
        step,
        epoch: 0.25,
        loss: 4.0 / step as f64,
        held_out_loss: step.is_multiple_of(5).then_some(4.5 / step as f64),
        gradient_norm: 1.5,
        learning_rate: 3e-4,
        tokens: 4096,
        tokens_per_second: 20_000.0,
        flops_utilisation: Some(0.31),
        memory_bytes: Some(13_600_000_000),
        padding: 0.001,
        skipped: false,
        elapsed_s: 0.2 * step as f64,
    }
}

fn page(metrics: &[Metrics]) -> String {
    let page = Page {
        name: "run",
        model: "tiny",
        device: "CPU",
        status: Status::Finished,
        parameters: 1_234_567,
        steps: 1000,
        metrics,
        lengths: &[(1, 3), (100, 20), (5000, 2)],
        configuration: "seed = 1",
    };
    page.html()
}

/// Every element of a text of HTML or SVG is closed in turn, and no coordinate is NaN or infinite.
fn assert_well_formed(html: &str) {
    const VOID: [&str; 4] = ["!doctype", "meta", "br", "hr"];
    let mut open: Vec<&str> = Vec::new();
    let body = html.split("<script>").next().unwrap();
    for tag in body.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap_or_else(|| panic!("<{tag} has no end"));
        let name = tag.split([' ', '/']).find(|name| !name.is_empty()).unwrap();
        match (tag.starts_with('/'), tag.ends_with('/') || VOID.contains(&name)) {
            (true, _) => assert_eq!(open.pop(), Some(name), "</{name}> closes another element"),
            (false, true) => {}
            (false, false) => open.push(name),
        }
        assert!(!tag.contains("NaN") && !tag.contains("inf "), "<{tag}>");
    }
    let left: &[&str] = if html.contains("<script>") { &["html", "body"] } else { &[] };
    assert_eq!(open, left);
}

#[test]
fn metrics_are_read_as_they_were_written() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut file = MetricsFile::create(&path).unwrap();
    let steps: Vec<Metrics> = (1..=10).map(step).collect();
    for metrics in &steps {
        file.append(metrics).unwrap();
        // Nothing waits in a buffer.
        assert_eq!(read_metrics(&path).unwrap().last(), Some(metrics));
    }
    assert_eq!(read_metrics(&path).unwrap(), steps);
}

#[test]
fn what_is_not_finite_is_null_in_the_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut file = MetricsFile::create(&path).unwrap();
    file.append(&Metrics { loss: f64::NAN, gradient_norm: f64::INFINITY, skipped: true, ..step(1) }).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(r#""loss":null"#) && text.contains(r#""gradient_norm":null"#), "{text}");
    let read = &read_metrics(&path).unwrap()[0];
    assert!(read.loss.is_nan() && read.gradient_norm.is_nan() && read.skipped);
}

#[test]
fn a_last_line_cut_short_is_passed_over_at_every_byte() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut file = MetricsFile::create(&path).unwrap();
    file.append(&step(1)).unwrap();
    let first = fs::read(&path).unwrap().len();
    file.append(&step(2)).unwrap();
    let whole = fs::read(&path).unwrap();
    for cut in first..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        // Without its line end, a line whose JSON is whole counts.
        let kept = if cut == whole.len() - 1 { 2 } else { 1 };
        assert_eq!(read_metrics(&path).unwrap().len(), kept, "cut at {cut}");
        let mut resumed = MetricsFile::resume(&path, 2).unwrap();
        resumed.append(&step(3)).unwrap();
        assert_eq!(read_metrics(&path).unwrap().len(), kept + 1, "cut at {cut}");
    }
}

#[test]
fn resuming_cuts_back_to_the_step_and_keeps_earlier_lines_as_they_were() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut file = MetricsFile::create(&path).unwrap();
    for i in 1..=20 {
        file.append(&step(i)).unwrap();
    }
    let before = fs::read_to_string(&path).unwrap();
    let mut file = MetricsFile::resume(&path, 10).unwrap();
    let after = fs::read_to_string(&path).unwrap();
    assert_eq!(after.lines().collect::<Vec<_>>(), before.lines().take(10).collect::<Vec<_>>());
    file.append(&step(11)).unwrap();
    assert_eq!(read_metrics(&path).unwrap(), (1..=11).map(step).collect::<Vec<_>>());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file was left");
    // A run whose file is gone goes on with a new one; a new run begins with an empty one.
    fs::remove_file(&path).unwrap();
    MetricsFile::resume(&path, 10).unwrap().append(&step(11)).unwrap();
    assert_eq!(read_metrics(&path).unwrap(), [step(11)]);
    MetricsFile::create(&path).unwrap();
    assert_eq!(read_metrics(&path).unwrap(), []);
}

#[test]
fn a_broken_line_in_the_middle_is_named_and_the_file_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let good = serde_json::to_string(&step(1)).unwrap();
    let text = format!("{good}\n{{\"step\":2\n{good}\n");
    fs::write(&path, &text).unwrap();
    let error = MetricsFile::resume(&path, 5).unwrap_err();
    assert!(matches!(&error, Error::Line { line: 2, .. }), "{error}");
    assert!(error.to_string().contains("metrics.jsonl, line 2: "), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_page_shows_the_run() {
    let metrics: Vec<Metrics> = (1..=40).map(|i| Metrics { skipped: i == 7, ..step(i) }).collect();
    let html = page(&metrics);
    assert_well_formed(&html);
    for shown in [
        "1,234,567",
        "40 / 1,000",
        "163,840",
        "13.6 GB",
        "31.0 % of peak",
        "Lowest held-out loss",
        "at step 40",
        "skipped (1)",
        "25 documents; median 100, mean 480, longest 5,000 tokens.",
        "seed = 1",
        "nats a token",
        "tokens/s",
    ] {
        assert!(html.contains(shown), "no {shown:?}");
    }
    // Self-contained: the only address in it is the name of SVG.
    for outside in ["src=", "href=", "url(", "@import"] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(
        html.replace("http://www.w3.org/2000/svg", "")
            .find("http")
            .is_none_or(|at| html[at..].starts_with("http-equiv"))
    );
}

#[test]
fn only_a_page_of_a_running_run_loads_itself_anew() {
    let running = Page {
        name: "run",
        model: "tiny",
        device: "CPU",
        status: Status::Running,
        parameters: 1,
        steps: 1,
        metrics: &[],
        lengths: &[],
        configuration: "",
    };
    assert!(running.html().contains("http-equiv=\"refresh\""));
    assert!(!Page { status: Status::Stopped, ..running }.html().contains("http-equiv"));
}

#[test]
fn text_in_a_page_is_only_text() {
    let hostile = "a = \"</script><script>alert(1)</script>\"\nb = '<b>&amp;'";
    let html = Page {
        name: "</title><b>",
        model: "<i>",
        device: "\"&\u{1b}[31m",
        status: Status::Finished,
        parameters: 1,
        steps: 1,
        metrics: &[step(1)],
        lengths: &[],
        configuration: hostile,
    }
    .html();
    assert_eq!(html.matches("<script>").count(), 1);
    assert_eq!(html.matches("</script>").count(), 1);
    assert!(!html.contains("<b>") && !html.contains("<i>") && !html.contains('\u{1b}'));
    assert!(html.contains("&lt;/script&gt;&lt;script&gt;alert(1)") && html.contains("&#39;&lt;b&gt;&amp;amp;&#39;"));
    assert_well_formed(&html);
    assert_eq!(escaped("a<b>&\"'\u{0}\n"), "a&lt;b&gt;&amp;&quot;&#39; \n");
}

#[test]
fn an_empty_run_one_step_and_losses_that_are_all_nan_have_pages() {
    let empty = page(&[]);
    assert!(empty.contains("No step yet.") && empty.contains("No finite loss yet.") && empty.contains("0 / 1,000"));
    let one = page(&[step(1)]);
    assert!(one.contains("4.000"));
    let nan = |i| Metrics {
        loss: f64::NAN,
        held_out_loss: Some(f64::INFINITY),
        gradient_norm: f64::NAN,
        learning_rate: 0.0,
        tokens_per_second: f64::NAN,
        flops_utilisation: Some(f64::NAN),
        memory_bytes: None,
        padding: f64::NAN,
        elapsed_s: f64::NAN,
        skipped: true,
        ..step(i)
    };
    let all_nan = page(&(1..=30).map(nan).collect::<Vec<_>>());
    assert!(all_nan.contains("No finite loss yet.") && all_nan.contains("skipped (30)"));
    for html in [empty, one, all_nan] {
        assert_well_formed(&html);
    }
}

#[test]
fn a_long_run_draws_no_larger_than_a_short_one() {
    let short: Vec<Metrics> = (1..=2000).map(step).collect();
    let long: Vec<Metrics> = (1..=200_000).map(step).collect();
    let (short, long) = (page(&short), page(&long));
    assert!(long.len() < short.len() * 3 / 2, "{} bytes beside {}", long.len(), short.len());
    assert!(long.len() < 400_000, "{} bytes", long.len());
}

#[test]
fn a_page_replaces_the_one_before_it() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("run.html");
    let page = Page {
        name: "run",
        model: "tiny",
        device: "CPU",
        status: Status::Running,
        parameters: 1,
        steps: 2,
        metrics: &[step(1)],
        lengths: &[],
        configuration: "",
    };
    page.write(&path).unwrap();
    let finished = Page { status: Status::Finished, ..page };
    finished.write(&path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), finished.html());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file was left");
    let error = page.write(&folder.path().join("gone/run.html")).unwrap_err();
    assert!(error.to_string().starts_with("cannot write "), "{error}");
}

#[test]
fn every_document_is_in_one_column_of_the_histogram() {
    for lengths in [
        vec![(1, 1)],
        vec![(8192, 4)],
        vec![(3, 2), (3, 5), (4, 1), (1_000_000, 1), (0, 9)],
        vec![(u64::MAX, 1), (1, 1)],
    ] {
        let plot = lengths_plot(&lengths);
        for series in &plot.series {
            let all: f64 = series.points.iter().map(|point| point.1).sum();
            assert!((all - 100.0).abs() < 1e-9, "{} of {lengths:?}: {all} %", series.name);
            assert!(series.points.is_sorted_by(|a, b| a.0 < b.0));
        }
        assert_well_formed(&plot.standalone(Size { width: 360, height: 200 }));
    }
    assert!(lengths_plot(&[(0, 9), (7, 0)]).series.iter().all(|series| series.points.is_empty()));
    assert!(lengths_plot(&[(0, 2), (5, 1)]).description.contains("2 empty, not shown"));
}

/// The median is the lower of two in the middle, as in a report on packing.
#[test]
fn medians_of_few_are_values_that_are_there() {
    let described = |lengths: &[(u64, u64)]| lengths_plot(lengths).description;
    assert_eq!(described(&[(10, 1)]), "1 document; median 10, mean 10, longest 10 tokens.");
    assert_eq!(described(&[(40, 1), (10, 1)]), "2 documents; median 10, mean 25, longest 40 tokens.");
    assert_eq!(described(&[(10, 1), (40, 2)]), "3 documents; median 40, mean 30, longest 40 tokens.");
    let speeds = |speeds: &[f64]| {
        let one = |(i, &tokens_per_second): (usize, &f64)| Metrics { tokens_per_second, ..step(i as u64 + 1) };
        page(&speeds.iter().enumerate().map(one).collect::<Vec<_>>())
    };
    assert!(speeds(&[300.0, 100.0]).contains("Median 100 tokens a second."));
    assert!(speeds(&[300.0, 100.0, 200.0]).contains("Median 200 tokens a second."));
}

#[test]
fn a_small_plot_is_drawn_so() {
    let points = vec![(0.0, 8.0), (1.0, 4.0), (2.0, f64::NAN), (3.0, 2.0), (4.0, f64::NAN), (5.0, 1.0), (6.0, 0.5)];
    let plot = Plot {
        title: "Loss & more".to_owned(),
        description: "Falling.".to_owned(),
        x: Axis::over("step", Scale::Linear, [0.0, 6.0]).whole(),
        y: Axis::over("nats", Scale::Log, points.iter().map(|point| point.1)).rounded(),
        series: vec![
            Series { name: "loss".to_owned(), mark: Mark::Line, tone: Tone::First, points },
            Series { name: "held out".to_owned(), mark: Mark::Dots, tone: Tone::Second, points: vec![(3.0, 3.0)] },
        ],
        notes: Vec::new(),
        readings: vec![(3.0, "step 3: \"2\"".to_owned())],
    };
    assert_eq!(plot.readings_json(), r#"[[0.5,"step 3: \"2\""]]"#);
    insta::assert_snapshot!(plot.svg("small", Size { width: 300, height: 160 }));
}
