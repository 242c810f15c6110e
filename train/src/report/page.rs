//! `run.html`: one page that shows a run, with nothing beside it.

use std::fmt::Write;
use std::path::Path;

use super::charts;
use super::number::{self, bytes, duration, fixed, percent, significant, thousands};
use super::plot::{self, Plot, Size, escaped};
use super::{Metrics, Result, write_whole};

/// The steps that the page lists.
const LISTED: usize = 12;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Under way: the page loads itself anew every 30 s.
    Running,
    /// All steps made.
    Finished,
    /// Ended before its last step, by the user or by an error.
    Stopped,
}

/// What a page is made of.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// The run's name, its folder's for instance.
    pub name: &'a str,
    /// The model, `130m` or a file.
    pub model: &'a str,
    /// The device or devices.
    pub device: &'a str,
    /// Where the run stands.
    pub status: Status,
    /// Parameters of the model.
    pub parameters: u64,
    /// Steps that the whole run is to make.
    pub steps: u64,
    /// The steps made, ascending.
    pub metrics: &'a [Metrics],
    /// Documents by length, `(tokens, documents)`, in any order.
    pub lengths: &'a [(u64, u64)],
    /// The resolved configuration, as text.
    pub configuration: &'a str,
}

impl Page<'_> {
    /// Writes the page under a temporary name and renames it.
    ///
    /// # Errors
    /// [`super::Error::File`]; the page before it is then still there.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_whole(path, self.html().as_bytes())
    }

    /// The page.
    pub fn html(&self) -> String {
        let refresh = match self.status {
            Status::Running => "<meta http-equiv=\"refresh\" content=\"30\">\n",
            Status::Finished | Status::Stopped => "",
        };
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n{refresh}\
             <title>{} · packscan</title>\n<style>\n{}{}</style>\n</head>\n<body>\n<main>\n",
            escaped(self.name),
            plot::STYLE,
            include_str!("page.css"),
        );
        self.header(&mut html);
        html.push_str("<section class=\"plots\" aria-label=\"Plots\">\n");
        figure(&mut html, "loss", &charts::loss_plot(self.metrics), true);
        figure(&mut html, "throughput", &charts::throughput_plot(self.metrics), false);
        figure(&mut html, "lengths", &charts::lengths_plot(self.lengths), false);
        figure(&mut html, "gradient", &charts::gradient_norm_plot(self.metrics), false);
        figure(&mut html, "rate", &charts::learning_rate_plot(self.metrics), false);
        html.push_str("</section>\n");
        self.table(&mut html);
        let _ = writeln!(
            html,
            "<section>\n<h2 id=\"configuration\">Configuration</h2>\n\
             <pre tabindex=\"0\" role=\"region\" aria-labelledby=\"configuration\"><code>{}</code></pre>\n</section>",
            escaped(self.configuration.trim_end())
        );
        let _ = writeln!(html, "</main>\n<script>\n{}</script>\n</body>\n</html>", include_str!("page.js"));
        html
    }

    fn header(&self, html: &mut String) {
        let status = match self.status {
            Status::Running => "running",
            Status::Finished => "finished",
            Status::Stopped => "stopped",
        };
        let _ = writeln!(
            html,
            "<header>\n<h1>{}</h1>\n<p>{} on {} · <span class=\"status {status}\">{status}</span><span id=\"written\"></span></p>\n\
             <dl class=\"facts\">",
            escaped(self.name),
            escaped(self.model),
            escaped(self.device)
        );
        for (name, value, note) in self.facts() {
            let note = if note.is_empty() { note } else { format!("<span>{}</span>", escaped(&note)) };
            let _ = writeln!(html, "<div><dt>{name}</dt><dd>{}{note}</dd></div>", escaped(&value));
        }
        html.push_str("</dl>\n</header>\n");
    }

    /// Name, value and a note on it.
    fn facts(&self) -> Vec<(&'static str, String, String)> {
        let none = || (number::NONE.to_owned(), String::new());
        let last = self.metrics.last();
        let tokens: u64 = self.metrics.iter().map(|m| m.tokens).sum();
        let epoch = last.map(|m| format!("epoch {}", fixed(m.epoch, 2))).unwrap_or_default();
        let skipped = self.metrics.iter().filter(|m| m.skipped).count() as u64;
        let loss = charts::last_loss(self.metrics).map_or_else(none, |(loss, steps)| {
            let of = if steps == 1 {
                "one step".to_owned()
            } else {
                format!("mean of the last {}", thousands(steps as u64))
            };
            (fixed(loss, 3), of)
        });
        let (best_name, best) = self.best();
        let best = best.map_or_else(none, |(loss, step)| (fixed(loss, 3), format!("at step {}", thousands(step))));
        let rate = charts::median(self.metrics.iter().map(|m| m.tokens_per_second));
        let utilisation = charts::median(self.metrics.iter().filter_map(|m| m.flops_utilisation));
        let utilisation =
            if utilisation.is_finite() { format!("{} of peak", percent(utilisation, 1)) } else { String::new() };
        let memory = self.metrics.iter().filter_map(|m| m.memory_bytes).max();
        let time = last.map_or(number::NONE.to_owned(), |m| duration(m.elapsed_s));
        vec![
            ("Loss", loss.0, loss.1),
            (best_name, best.0, best.1),
            ("Steps", format!("{} / {}", thousands(last.map_or(0, |m| m.step)), thousands(self.steps)), String::new()),
            ("Tokens seen", thousands(tokens), epoch),
            ("Tokens a second", fixed(rate, 0), utilisation),
            ("Parameters", thousands(self.parameters), String::new()),
            ("Peak memory", memory.map_or(number::NONE.to_owned(), bytes), String::new()),
            ("Padding", charts::weighted_padding(self.metrics), String::new()),
            ("Skipped steps", thousands(skipped), String::new()),
            ("Time", time, String::new()),
        ]
    }

    /// The lowest loss that was measured, of held-out text if there is any, and its step.
    fn best(&self) -> (&'static str, Option<(f64, u64)>) {
        let lowest = |loss: fn(&Metrics) -> Option<f64>| {
            let losses =
                self.metrics.iter().filter_map(|m| Some((loss(m)?, m.step))).filter(|(loss, _)| loss.is_finite());
            losses.min_by(|a, b| a.0.total_cmp(&b.0))
        };
        match lowest(|m| m.held_out_loss) {
            None => ("Lowest loss of a step", lowest(|m| Some(m.loss))),
            best => ("Lowest held-out loss", best),
        }
    }

    fn table(&self, html: &mut String) {
        html.push_str(
            "<section>\n<h2 id=\"steps\">Last steps</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"steps\">\n\
             <table>\n<thead><tr><th scope=\"col\">Step</th><th scope=\"col\">Loss<small>nats a token</small></th>\
             <th scope=\"col\">Held out<small>nats a token</small></th><th scope=\"col\">Gradient<small>norm</small></th>\
             <th scope=\"col\">Rate<small>of learning</small></th><th scope=\"col\">Tokens<small>of the step</small></th>\
             <th scope=\"col\">Speed<small>tokens/s</small></th><th scope=\"col\">FLOPs<small>of peak</small></th>\
             <th scope=\"col\">Memory<small>at peak</small></th><th scope=\"col\">Padding<small>of room</small></th>\
             <th scope=\"col\">Time<small>since start</small></th></tr></thead>\n<tbody>\n",
        );
        for m in self.metrics.iter().rev().take(LISTED) {
            let none = || number::NONE.to_owned();
            let cells = [
                format!("{}{}", thousands(m.step), if m.skipped { " skipped" } else { "" }),
                fixed(m.loss, 4),
                m.held_out_loss.map_or_else(none, |loss| fixed(loss, 4)),
                significant(m.gradient_norm, 3),
                significant(m.learning_rate, 3),
                thousands(m.tokens),
                fixed(m.tokens_per_second, 0),
                m.flops_utilisation.map_or_else(none, |share| percent(share, 1)),
                m.memory_bytes.map_or_else(none, bytes),
                percent(m.padding, 2),
                duration(m.elapsed_s),
            ];
            html.push_str(if m.skipped { "<tr class=\"skipped\">" } else { "<tr>" });
            for cell in cells {
                let _ = write!(html, "<td>{cell}</td>");
            }
            html.push_str("</tr>\n");
        }
        if self.metrics.is_empty() {
            html.push_str("<tr><td colspan=\"11\">No step yet.</td></tr>\n");
        }
        html.push_str("</tbody>\n</table>\n</div>\n</section>\n");
    }
}

/// A plot, drawn for a desk and for a phone; the style sheet shows one of them.
fn figure(html: &mut String, id: &str, plot: &Plot, whole_row: bool) {
    let desk = if whole_row { Size { width: 1080, height: 340 } } else { Size { width: 520, height: 270 } };
    let phone = Size { width: 360, height: 250 };
    let _ = write!(
        html,
        "<figure class=\"{}\" data-readings=\"{}\">\n<figcaption><h2>{}</h2><p>{}</p><output></output></figcaption>\n\
         <div class=\"desk\">{}</div><div class=\"phone\">{}</div></figure>\n",
        if whole_row { "whole" } else { "half" },
        escaped(&plot.readings_json()),
        escaped(&plot.title),
        escaped(&plot.description),
        plot.svg(&format!("{id}-desk"), desk),
        plot.svg(&format!("{id}-phone"), phone),
    );
}
