//! Where the time of a step goes, from a trace of its launches.

use packscan_runtime::Traced;
use serde::{Deserialize, Serialize};

use crate::ModelConfig;

/// What a step did with the time of a GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Launches by what they belong to, the longest first.
    pub rows: Vec<Row>,
    /// From the begin of the first launch to the end of the last, in milliseconds.
    pub span_ms: f64,
    /// Of that, something ran.
    pub busy_ms: f64,
    /// Of that, nothing ran because the host had not launched it yet.
    pub waited_ms: f64,
    /// The longest of those waits.
    pub longest_wait_ms: f64,
    /// From the first launch to the last, on the host. What is less than the span, the host was ahead.
    pub host_ms: f64,
}

/// Launches of one pass of an operator, or of one product of a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `selective_scan`, `in_proj`, ...
    pub operator: String,
    /// `forward`, `again` where the backward pass computes it once more, `backward`, `input gradient`, ...
    pub pass: String,
    /// How often it was launched.
    pub launches: usize,
    /// All of them together, in milliseconds.
    pub ms: f64,
}

impl Profile {
    /// Of the launches of a step of a model.
    pub fn of(traced: &[Traced], config: &ModelConfig) -> Profile {
        let mut rows: Vec<Row> = Vec::new();
        let mut backward = false;
        for launch in traced {
            let (operator, mut pass) = belongs_to(&launch.label, config);
            // A pack's forward pass begins with the embedding, its backward pass with the gradient of the last norm.
            backward = pass == "backward" || backward && operator != "embedding";
            if backward && pass == "forward" && operator != "sum_rows" {
                pass = "again";
            }
            let ms = launch.end_ms - launch.start_ms;
            match rows.iter_mut().find(|row| row.operator == operator && row.pass == pass) {
                Some(row) => (row.launches, row.ms) = (row.launches + 1, row.ms + ms),
                None => rows.push(Row { operator, pass: pass.to_owned(), launches: 1, ms }),
            }
        }
        rows.sort_by(|a, b| b.ms.total_cmp(&a.ms));
        let waits = traced.windows(2).filter(|pair| pair[1].host_ms > pair[0].end_ms);
        let waits: Vec<f64> = waits.map(|pair| (pair[1].start_ms - pair[0].end_ms).max(0.0)).collect();
        let (span_ms, host_ms) = match (traced.first(), traced.last()) {
            (Some(first), Some(last)) => (last.end_ms - first.start_ms, last.host_ms - first.host_ms),
            _ => (0.0, 0.0),
        };
        Profile {
            busy_ms: rows.iter().map(|row| row.ms).sum(),
            waited_ms: waits.iter().sum(),
            longest_wait_ms: waits.into_iter().fold(0.0, f64::max),
            rows,
            span_ms,
            host_ms,
        }
    }

    /// Nothing ran and yet all was launched: what launches cost the GPU, and what noting them does.
    pub fn between_ms(&self) -> f64 {
        (self.span_ms - self.busy_ms - self.waited_ms).max(0.0)
    }
}

/// The operator and the pass of a launch.
fn belongs_to(label: &str, config: &ModelConfig) -> (String, &'static str) {
    let kernel = label.split('-').next().unwrap_or_default();
    if kernel == "gemm" {
        let product = sizes(label).and_then(|sizes| product(sizes, config));
        let (layer, pass) = product.unwrap_or(("other products", "forward"));
        return (layer.to_owned(), pass);
    }
    let endings = ["_fwd", "_bwd", "_clip", "_tokens", "_several"];
    let passes = std::iter::zip(endings, ["forward", "backward", "clip", "tokens", "several"]);
    for (ending, pass) in passes {
        if let Some(operator) = kernel.strip_suffix(ending) {
            return (operator.to_owned(), pass);
        }
    }
    let pass = match kernel {
        "cross_entropy" => "loss and gradient",
        "fill" => "zeros",
        "adamw" => "step",
        _ => "forward",
    };
    (kernel.to_owned(), pass)
}

/// m, n and k in the id of a product.
fn sizes(id: &str) -> Option<[usize; 3]> {
    let mut parts = id.split('-').skip(1);
    let mut size = |letter: char| parts.next()?.strip_prefix(letter)?.parse().ok();
    Some([size('m')?, size('n')?, size('k')?])
}

/// The layer whose product has these sizes. Where a pack has as many tokens as a layer has columns, two can have the same.
fn product([m, n, k]: [usize; 3], config: &ModelConfig) -> Option<(&'static str, &'static str)> {
    let (width, d, dbl) = (config.width, config.channels(), config.dbl());
    let layers = [
        ("in_proj", width, 2 * d),
        ("x_proj", d, dbl),
        ("dt_proj", config.rank, d),
        ("out_proj", d, width),
        ("head", width, config.vocabulary),
    ];
    layers.into_iter().find_map(|(layer, from, to)| match (n, k) {
        (n, k) if (n, k) == (to, from) => Some((layer, "forward")),
        (n, k) if (n, k) == (from, to) => Some((layer, "input gradient")),
        (n, _) if (m, n) == (to, from) => Some((layer, "weight gradient")),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ModelConfig {
        ModelConfig::named("1.4b").unwrap().for_vocabulary(50_277).unwrap()
    }

    #[test]
    fn products_are_named_by_their_layer() {
        let named = |m, n, k| belongs_to(&format!("gemm-m{m}-n{n}-k{k}-bf16-bf16"), &config());
        let t = 16_384;
        assert_eq!(named(t, 8192, 2048), ("in_proj".to_owned(), "forward"));
        assert_eq!(named(t, 2048, 8192), ("in_proj".to_owned(), "input gradient"));
        assert_eq!(named(8192, 2048, t), ("in_proj".to_owned(), "weight gradient"));
        assert_eq!(named(t, 2048, 4096), ("out_proj".to_owned(), "forward"));
        assert_eq!(named(t, 4096, 2048), ("out_proj".to_owned(), "input gradient"));
        assert_eq!(named(t, 160, 4096), ("x_proj".to_owned(), "forward"));
        assert_eq!(named(t, 128, 4096), ("dt_proj".to_owned(), "input gradient"));
        assert_eq!(named(50_280, 2048, 5000), ("head".to_owned(), "weight gradient"));
        assert_eq!(named(7, 7, 7).0, "other products");
    }

    #[test]
    fn time_is_shared_out_and_waits_for_the_host_are_told_from_the_rest() {
        let launch =
            |label: &str, start_ms, end_ms, host_ms| Traced { label: label.to_owned(), start_ms, end_ms, host_ms };
        let traced = [
            launch("selective_scan_fwd-n16-l16-k16", 1.0, 3.0, 0.5),
            launch("selective_scan_bwd-n16-l16", 3.5, 7.0, 0.6),
            // Launched half a millisecond after the GPU had nothing left to do.
            launch("selective_scan_fwd-n16-l16-k16", 7.6, 8.6, 7.5),
            launch("embedding_fwd-s128", 8.6, 8.6, 7.5),
            launch("selective_scan_fwd-n16-l16-k16", 8.6, 8.6, 7.5),
            launch("fill", 8.6, 8.7, 7.6),
        ];
        let profile = Profile::of(&traced, &config());
        let rows: Vec<(&str, &str, usize)> =
            profile.rows.iter().map(|row| (row.operator.as_str(), row.pass.as_str(), row.launches)).collect();
        let scan = "selective_scan";
        let embedding = ("embedding", "forward", 1);
        assert_eq!(
            rows,
            [(scan, "backward", 1), (scan, "forward", 2), (scan, "again", 1), ("fill", "zeros", 1), embedding]
        );
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(profile.span_ms, 7.7) && near(profile.busy_ms, 6.6), "{profile:?}");
        assert!(near(profile.waited_ms, 0.6) && near(profile.longest_wait_ms, 0.6), "{profile:?}");
        assert!(near(profile.between_ms(), 0.5) && near(profile.host_ms, 7.1), "{profile:?}");
        assert_eq!(Profile::of(&[], &config()).span_ms, 0.0);
    }
}
