//! What the terminal shows while a model trains: a bar, or plain lines where standard error is no terminal.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use console::style;
use indicatif::{ProgressBar, ProgressStyle};

use super::Metrics;
use super::number::{duration, fixed, percent, thousands};

/// Between two plain lines.
const QUIET: Duration = Duration::from_secs(10);

/// Steps over which the loss is a mean: the text of one says more of that text than of the model.
const RECENT: usize = 20;

/// The view of a run. Steps are shown by [`Progress::step`]; other lines go through [`Progress::note`], so that bar and line do not mix.
pub struct Progress {
    shown: Shown,
    steps: u64,
    started: Instant,
    /// Steps of this process: a resumed run's earlier ones say nothing about when it ends.
    made: u64,
    /// When the first of them was made; it took longer than the others, which did not have to compile kernels.
    first: Duration,
    /// Their losses, of the last [`RECENT`].
    losses: VecDeque<f64>,
    skipped: u64,
}

enum Shown {
    Bar(ProgressBar),
    Lines { out: Box<dyn Write + Send>, every: Duration, last: Option<Duration> },
}

impl Progress {
    /// The view of a run that has made `done` of `steps` steps: a bar if standard error is a terminal that can move its cursor, else a
    /// plain line for the first step, the last, and one every ten seconds. `NO_COLOR` is honoured.
    pub fn new(done: u64, steps: u64) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if dumb || !io::stderr().is_terminal() {
            return Progress::plain(steps, QUIET, io::stderr());
        }
        let bar = ProgressBar::new(steps).with_position(done);
        // The template is a constant; were it wrong, indicatif's own bar would do.
        let style = ProgressStyle::with_template("{wide_msg}\n{bar:30} {prefix}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.set_prefix(format!("step {}/{}", thousands(done), thousands(steps)));
        Progress::with(Shown::Bar(bar), steps)
    }

    /// Plain lines, at least `every` apart, without control codes, whatever `out` is.
    pub fn plain(steps: u64, every: Duration, out: impl Write + Send + 'static) -> Self {
        Progress::with(Shown::Lines { out: Box::new(out), every, last: None }, steps)
    }

    fn with(shown: Shown, steps: u64) -> Self {
        let (started, first, losses) = (Instant::now(), Duration::ZERO, VecDeque::new());
        Progress { shown, steps, started, made: 0, first, losses, skipped: 0 }
    }

    /// Shows a step that was made.
    pub fn step(&mut self, metrics: &Metrics) {
        self.step_at(metrics, self.started.elapsed());
    }

    /// The same, so long after the view was made.
    fn step_at(&mut self, metrics: &Metrics, now: Duration) {
        self.made += 1;
        if self.made == 1 {
            self.first = now;
        }
        self.skipped += u64::from(metrics.skipped);
        if metrics.loss.is_finite() {
            self.losses.truncate(RECENT - 1);
            self.losses.push_front(metrics.loss);
        }
        let (place, values) = (self.place(metrics, now), self.values(metrics));
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_position(metrics.step);
                bar.set_message(values);
                bar.set_prefix(place);
            }
            Shown::Lines { out, every, last } => {
                let due = last.is_none_or(|last| now.saturating_sub(last) >= *every);
                if due || metrics.step >= self.steps || metrics.skipped {
                    *last = Some(now);
                    // Nobody is left to tell if that fails.
                    let _ = writeln!(out, "{place} · {values}");
                }
            }
        }
    }

    /// `step 1,200/5,000 · 12 min 31 s left`
    fn place(&self, metrics: &Metrics, now: Duration) -> String {
        let step = format!("step {}/{}", thousands(metrics.step), thousands(self.steps));
        let left = self.steps.saturating_sub(metrics.step) as f64;
        let seconds_per_step = match self.made {
            0 | 1 => now.as_secs_f64(),
            made => now.saturating_sub(self.first).as_secs_f64() / (made - 1) as f64,
        };
        match left {
            0.0 => format!("{step} · {} in all", duration(metrics.elapsed_s)),
            _ => format!("{step} · {} left", duration(seconds_per_step * left)),
        }
    }

    /// `loss 3.412 · 18,432 tokens/s · 41.2 % of peak`: the loss a mean over recent steps, all else the step's own, as its line of
    /// `metrics.jsonl` has it.
    fn values(&self, metrics: &Metrics) -> String {
        let loss = match metrics.loss.is_finite() {
            true => self.losses.iter().sum::<f64>() / self.losses.len() as f64,
            false => metrics.loss,
        };
        let mut parts =
            vec![format!("loss {}", fixed(loss, 3)), format!("{} tokens/s", fixed(metrics.tokens_per_second, 0))];
        parts.extend(metrics.flops_utilisation.map(|share| format!("{} of peak", percent(share, 1))));
        parts.extend(metrics.held_out_loss.map(|loss| format!("held out {}", fixed(loss, 3))));
        if self.skipped > 0 {
            let skipped = format!("{} skipped", thousands(self.skipped));
            // Colours only on the bar: what plain lines are written to may be anything.
            let coloured = || style(&skipped).for_stderr().red().to_string();
            parts.push(if matches!(self.shown, Shown::Bar(_)) { coloured() } else { skipped });
        }
        parts.join(" · ")
    }

    /// Shows a line of another kind: a checkpoint that was written, a warning.
    pub fn note(&mut self, line: &str) {
        match &mut self.shown {
            Shown::Bar(bar) => bar.suspend(|| {
                let _ = writeln!(io::stderr(), "{line}");
            }),
            Shown::Lines { out, .. } => {
                let _ = writeln!(out, "{line}");
            }
        }
    }

    /// Leaves the bar as it stands, at the end of the run or where it stopped. Dropping does the same.
    pub fn finish(self) {}
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.abandon();
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("steps", &self.steps).field("made", &self.made).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Captured {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn step(step: u64, loss: f64) -> Metrics {
        Metrics { step, loss, tokens_per_second: 18_432.0, elapsed_s: step as f64, ..Metrics::default() }
    }

    #[test]
    fn plain_lines_keep_their_distance_and_have_no_control_codes() {
        let out = Captured::default();
        let mut progress = Progress::plain(2000, QUIET, out.clone());
        for i in 1..=2000 {
            let mut metrics = step(i, 2.5);
            metrics.flops_utilisation = Some(0.412);
            progress.step_at(&metrics, Duration::from_millis(i * 20));
        }
        progress.note("checkpoint written");
        progress.finish();
        let text = out.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "step 1/2,000 · 40 s left · loss 2.500 · 18,432 tokens/s · 41.2 % of peak");
        assert_eq!(lines[1], "step 501/2,000 · 30 s left · loss 2.500 · 18,432 tokens/s · 41.2 % of peak");
        assert_eq!(
            lines[lines.len() - 2],
            "step 2,000/2,000 · 33 min 20 s in all · loss 2.500 · 18,432 tokens/s · 41.2 % of peak"
        );
        assert_eq!(lines[lines.len() - 1], "checkpoint written");
        assert_eq!(lines.len(), 6);
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }

    #[test]
    fn a_skipped_step_is_told_at_once() {
        let out = Captured::default();
        let mut progress = Progress::plain(100, QUIET, out.clone());
        progress.step_at(&step(1, 4.0), Duration::from_secs(1));
        progress.step_at(&Metrics { skipped: true, ..step(2, f64::NAN) }, Duration::from_secs(2));
        let text = out.text();
        assert!(text.lines().nth(1).unwrap().contains("loss –"), "{text}");
        assert!(text.lines().nth(1).unwrap().ends_with("· 1 skipped"), "{text}");
    }

    #[test]
    fn the_loss_is_the_mean_of_recent_steps() {
        let told = |before: &[f64]| {
            let out = Captured::default();
            let mut progress = Progress::plain(99, Duration::ZERO, out.clone());
            for (i, loss) in before.iter().chain(&[2.125]).enumerate() {
                progress.step_at(&step(99 - before.len() as u64 + i as u64, *loss), Duration::from_secs(1));
            }
            out.text().lines().last().unwrap().to_owned()
        };
        assert_eq!(told(&[]), "step 99/99 · 1 min 39 s in all · loss 2.125 · 18,432 tokens/s");
        assert_eq!(told(&[5.0, f64::NAN, 4.375]), told(&[]).replace("2.125", "3.833"));
        assert_eq!(told(&[&[9.0; 30][..], &[2.0; 19]].concat()), told(&[]).replace("2.125", "2.006"));
    }

    #[test]
    fn a_loss_that_never_was_is_no_number() {
        let out = Captured::default();
        let mut progress = Progress::plain(0, QUIET, out.clone());
        progress.step_at(&step(1, f64::NAN), Duration::ZERO);
        assert!(out.text().contains("loss – · "), "{}", out.text());
    }
}
