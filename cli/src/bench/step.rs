//! Whole training steps on synthetic text, and where their time goes.

use std::time::Instant;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use packscan::{Device, Dtype, Packed};
use packscan_data::{NO_TARGET, PackOptions, Plan, Plans, Scheme, Strategy};
use packscan_train::activations::Recompute;
use packscan_train::parameters::Layout;
use packscan_train::profile::Profile;
use packscan_train::report::number::{self, fixed, percent};
use packscan_train::run::{Request, peak_flops};
use packscan_train::variants::Variants;
use packscan_train::{DevicePack, Learner, Model, ModelConfig, Rates};
use packscan_tune::workload::timing::Times;
use packscan_tune::workload::{natural_ids, natural_lengths};
use serde::Serialize;

use super::gpu;
use crate::error::{Error, Result};
use crate::memory::{Choice, Memory};
use crate::output::{self, counted, thousands};
use crate::train::SchemeName;
use crate::variants::{Launches, Missing};
use crate::{Verdict, parse};

/// How whole steps are made.
#[derive(Debug, Args)]
#[group(requires = "step")]
pub struct Steps {
    /// packed, or one of the baselines that packing is compared with: single sequences, or a batch padded to its longest.
    #[arg(long, value_enum, default_value = "packed")]
    scheme: SchemeName,
    /// Sequences of a batch of --scheme padded [default: 8].
    #[arg(long, value_name = "N", value_parser = parse::whole::<usize>)]
    batch: Option<usize>,
    /// What blocks compute again in the backward pass instead of keeping it; auto: as little as the memory allows.
    #[arg(long, value_enum, default_value = "auto")]
    recompute: Choice,
    /// Memory that the plan may use, such as 50GB [default: what is free].
    #[arg(long, value_name = "SIZE", value_parser = parse::bytes, allow_hyphen_values = true)]
    memory: Option<usize>,
    /// Steps, of which the first two are not timed.
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u32).range(3..))]
    steps: u32,
    /// On the CPU, without the shares of operators.
    #[arg(long)]
    cpu: bool,
}

/// What is asked of kernels too.
pub struct Asked<'a> {
    pub model: &'a str,
    pub tokens: usize,
    pub dtype: Option<Dtype>,
    pub json: bool,
}

/// What was measured.
#[derive(Serialize)]
struct Measured {
    model: String,
    parameters: usize,
    device: String,
    dtype: String,
    scheme: &'static str,
    /// Most tokens of a step.
    tokens: usize,
    recompute: String,
    steps: u32,
    /// Of one step, from the end of the one before, by the device's clock; the first two left out.
    median_ms: f64,
    least_ms: f64,
    most_ms: f64,
    /// Without padding.
    tokens_per_second: f64,
    padding: f64,
    /// Of matrix products that training needs; what is computed again does not count.
    tera_operations_per_second: f64,
    flops_utilisation: Option<f64>,
    /// After which the host had launched a step that ran alone.
    launched_ms: f64,
    /// The most that all buffers took.
    peak_bytes: usize,
    first_loss: f64,
    last_loss: f64,
    /// Of one more step, each launch between two events; none on the CPU.
    profile: Option<Profile>,
}

/// Steps that are not timed: products choose their algorithms, memory is had for the first time.
const WARM_UP: usize = 2;

impl Steps {
    /// Times steps and shows what they took.
    pub fn run(&self, asked: &Asked<'_>) -> Result<Verdict> {
        if self.batch.is_some() && self.scheme != SchemeName::Padded {
            return Err(Error::Idle { argument: "--batch", needs: "--scheme padded" });
        }
        let entries = if asked.model == "tiny" { 257 } else { 50_277 };
        let config = ModelConfig::open(asked.model, entries)?;
        let mut source = Source::new(&config, self.scheme(), asked.tokens, self.steps as usize + 2)?;
        let device = if self.cpu { Device::Cpu } else { gpu()? };
        let io = asked.dtype.unwrap_or(if self.cpu { Dtype::F32 } else { Dtype::Bf16 });
        let launches = Launches::new(&config, io, natural_lengths(asked.tokens, 0));
        let untuned = Missing::Leave("bench tunes nothing; `packscan tune` does");
        let (ids, mut lines) = launches.choose(&device, untuned)?;
        let (products, more) = launches.choose_products(&device, untuned)?;
        lines.extend(more);
        lines.iter().for_each(|line| output::note(line));
        let variants = Variants::of(&config, io, &ids)?;
        let (tokens, on_gpu) = (asked.tokens, !self.cpu);
        let request = Request { config: &config, io, tokens, packs: 1, chain: 0, shards: 1, variants, on_gpu };
        let memory = Memory { choice: self.recompute, bytes: self.memory };
        let recompute = memory.choose(&request, &device, |chosen| request.plan(chosen).to_string())?;

        let layout = Layout::of(&config);
        output::note(&format!("{}: {} parameters, {io} on {device}", asked.model, thousands(layout.parameters())));
        let mut model = Model::new(&device, io, &config, &layout.fresh(0))?;
        model.variants = variants;
        model.choose_products(&products);
        let mut learner = Learner::new(model, asked.tokens, 1, &recompute)?;
        let rates = Rates { warmup: 10.min(self.steps), steps: self.steps, ..Rates::default() };
        let mut room = DevicePack::with_room(&device, asked.tokens, config.vocabulary)?;
        let Timed { times, losses, tokens, room: all } = self.time(&mut learner, &mut source, &mut room, &rates)?;
        let launched_ms = launched(&mut learner, &mut source, &mut room, &rates)?;
        let tokens_of_step = tokens as f64 / times.len() as f64;
        let times = Times::of(times);
        let tokens_per_second = tokens_of_step / times.median_ms * 1e3;
        let operations = config.flops_per_token() * tokens_per_second;
        let measured = Measured {
            model: asked.model.to_owned(),
            parameters: layout.parameters(),
            device: device.to_string(),
            dtype: io.to_string(),
            scheme: self.scheme_name(),
            tokens: asked.tokens,
            recompute: described(&recompute),
            steps: self.steps,
            median_ms: times.median_ms,
            least_ms: times.least_ms,
            most_ms: times.most_ms,
            tokens_per_second,
            padding: 1.0 - tokens as f64 / all as f64,
            tera_operations_per_second: operations / 1e12,
            flops_utilisation: peak_flops(&device, io).map(|peak| operations / peak),
            launched_ms,
            peak_bytes: device.peak_bytes(),
            first_loss: losses[0],
            last_loss: losses[losses.len() - 1],
            profile: profile(&mut learner, &mut source, &mut room, &rates, &device)?,
        };
        let text = if asked.json {
            serde_json::to_string_pretty(&measured).expect("numbers and names are JSON") + "\n"
        } else {
            measured.to_text()
        };
        output::results(text)?;
        Ok(Verdict::Good)
    }

    /// Steps as training makes them: each is reported while the next one runs.
    fn time(&self, learner: &mut Learner, source: &mut Source, room: &mut DevicePack, rates: &Rates) -> Result<Timed> {
        let (mut times, mut losses) = (Vec::new(), Vec::new());
        let (mut tokens, mut all) = (0, 0);
        let mut last = learner.ended().clone();
        for step in 1..=self.steps + 1 {
            let report = if step <= self.steps {
                let (real, cost) = source.next(room)?;
                if step as usize > WARM_UP {
                    (tokens, all) = (tokens + real, all + cost);
                }
                learner.start(std::slice::from_ref(room), rates, rates.at(step))?
            } else {
                learner.finish()?
            };
            let Some(report) = report else { continue };
            let ms = learner.ended().since_s(&last)? * 1e3;
            last = learner.ended().clone();
            output::note(&format!("step {}/{}: {ms:.1} ms, loss {:.4}", step - 1, self.steps, report.loss));
            losses.push(report.loss);
            if losses.len() > WARM_UP {
                times.push(ms);
            }
        }
        Ok(Timed { times, losses, tokens, room: all })
    }

    fn scheme(&self) -> Scheme {
        match self.scheme {
            SchemeName::Packed => Scheme::Packed(Strategy::default()),
            SchemeName::Single => Scheme::Single,
            SchemeName::Padded => Scheme::Padded { batch: self.batch.unwrap_or(8) },
        }
    }

    fn scheme_name(&self) -> &'static str {
        match self.scheme {
            SchemeName::Packed => "packed",
            SchemeName::Single => "single",
            SchemeName::Padded => "padded",
        }
    }
}

/// What the steps took: milliseconds of each that counts, the loss of every one, and of those that count the tokens and
/// what packs had room for.
struct Timed {
    times: Vec<f64>,
    losses: Vec<f64>,
    tokens: usize,
    room: usize,
}

/// After how many milliseconds the host has launched a step that runs alone.
fn launched(learner: &mut Learner, source: &mut Source, room: &mut DevicePack, rates: &Rates) -> Result<f64> {
    source.next(room)?;
    let start = Instant::now();
    learner.start(std::slice::from_ref(room), rates, rates.at(rates.steps))?;
    let launched = start.elapsed().as_secs_f64() * 1e3;
    learner.finish()?;
    Ok(launched)
}

/// `cheap in 21 blocks, full in 27`
fn described(recompute: &[Recompute]) -> String {
    let count = |kind: &Recompute| recompute.iter().filter(|of_block| *of_block == kind).count();
    let kinds = Recompute::ALL.iter().filter(|kind| count(kind) > 0);
    let told: Vec<String> = kinds.map(|kind| format!("{kind} in {}", counted(count(kind), "block"))).collect();
    told.join(", ")
}

/// One more step, whose launches are noted.
fn profile(
    learner: &mut Learner,
    source: &mut Source,
    room: &mut DevicePack,
    rates: &Rates,
    device: &Device,
) -> Result<Option<Profile>> {
    let Device::Cuda(cuda) = device else { return Ok(None) };
    source.next(room)?;
    cuda.trace()?;
    learner.step(std::slice::from_ref(room), rates, rates.at(rates.steps))?;
    Ok(Some(Profile::of(&cuda.take_trace()?, &learner.model.config)))
}

/// Packs of documents whose lengths and words are as of natural text, and whose order of words is random.
struct Source {
    plans: Plans,
    padded: bool,
    vocabulary: usize,
    made: u64,
}

impl Source {
    fn new(config: &ModelConfig, scheme: Scheme, tokens: usize, steps: usize) -> Result<Source> {
        // As many tokens as the steps can take, and a window of documents for the last to choose from.
        let lengths = natural_lengths((steps * tokens).max(1 << 22), 0);
        let lengths: Vec<u32> = lengths.into_iter().map(|length| length as u32).collect();
        let plans = Plans::new(&lengths, PackOptions::new(tokens, scheme))?;
        Ok(Source { plans, padded: matches!(scheme, Scheme::Padded { .. }), vocabulary: config.vocabulary, made: 0 })
    }

    /// The next pack; how many of its tokens are no padding, and how many it has room for.
    fn next(&mut self, room: &mut DevicePack) -> Result<(usize, usize)> {
        let plan = self.plans.next().expect("packs without end");
        self.made += 1;
        let lengths: Vec<usize> = plan.pieces.iter().map(|piece| piece.tokens as usize).collect();
        let row = if self.padded { lengths.iter().copied().max() } else { None };
        let real = plan.real();
        let words = natural_ids(real, self.vocabulary, self.made);
        let (tokens, targets) = filled(&plan, &words, row);
        let rows: Vec<usize> = lengths.iter().map(|&length| row.unwrap_or(length)).collect();
        room.set(&Packed::from_lengths(&rows)?, &tokens, &targets)?;
        Ok((real, plan.cost(self.plans.options())))
    }
}

/// Tokens and targets of a plan's pieces, each filled up to `row` with padding that is not predicted.
fn filled(plan: &Plan, words: &[u32], row: Option<usize>) -> (Vec<u32>, Vec<u32>) {
    let (mut tokens, mut targets, mut start) = (Vec::new(), Vec::new(), 0);
    for piece in &plan.pieces {
        let of_piece = &words[start..start + piece.tokens as usize];
        start += of_piece.len();
        tokens.extend(of_piece);
        targets.extend(of_piece.iter().skip(1));
        let padding = row.map_or(0, |row| row - of_piece.len());
        tokens.extend(std::iter::repeat_n(0, padding));
        targets.extend(std::iter::repeat_n(NO_TARGET, padding + 1));
    }
    (tokens, targets)
}

impl Measured {
    fn to_text(&self) -> String {
        let Measured { model, dtype, device, scheme, .. } = self;
        let mut out = format!(
            "{model}, {dtype} on {device}, {scheme}, at most {} tokens a step, recompute {}\n\n",
            thousands(self.tokens),
            self.recompute
        );
        let mut line = |name: &str, value: String| out += &format!("  {name:<24}{value}\n");
        let spread = format!("{} to {}", fixed(self.least_ms, 1), fixed(self.most_ms, 1));
        line("a step", format!("{} ms ({spread})", fixed(self.median_ms, 1)));
        line("tokens/s", fixed(self.tokens_per_second, 0));
        line("padding", percent(self.padding, 2));
        let peak = self.flops_utilisation.map(|share| format!(", {} of the peak", percent(share, 1)));
        let products =
            fixed(self.tera_operations_per_second, if self.tera_operations_per_second < 1.0 { 3 } else { 1 });
        line("products", format!("{products} TFLOP/s{}", peak.unwrap_or_default()));
        line("launched", format!("by the host in {} ms", fixed(self.launched_ms, 1)));
        line("memory", format!("{}, all buffers at their peak", number::bytes(self.peak_bytes as u64)));
        line("loss", format!("{} to {}", fixed(self.first_loss, 3), fixed(self.last_loss, 3)));
        if let Some(profile) = &self.profile {
            out += &format!("\n{}", shares(profile));
        }
        out
    }
}

/// Where the time of a step goes.
fn shares(profile: &Profile) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["operator", "pass", "launches", "ms", "share"]);
    let mut row = |cells: [&str; 2], launches: String, ms: f64| {
        let share = percent(ms / profile.span_ms, 1);
        table.add_row([cells[0].to_owned(), cells[1].to_owned(), launches, fixed(ms, 3), share]);
    };
    for of in &profile.rows {
        row([&of.operator, &of.pass], of.launches.to_string(), of.ms);
    }
    row(["nothing", "between launches"], String::new(), profile.between_ms());
    row(["nothing", "waiting for the host"], String::new(), profile.waited_ms);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index > 1 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let table: String = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    format!(
        "one more step, each launch between two events: {} ms\n\n{table}\n\
         the host had launched everything after {} ms; the longest wait for it was {} ms\n",
        fixed(profile.span_ms, 1),
        fixed(profile.host_ms, 1),
        fixed(profile.longest_wait_ms, 3)
    )
}

#[cfg(test)]
mod tests {
    use packscan_train::profile::Row;

    use super::*;

    #[test]
    fn the_shares_of_a_step_add_up_to_it() {
        let row = |operator: &str, pass: &str, launches, ms| {
            let (operator, pass) = (operator.to_owned(), pass.to_owned());
            Row { operator, pass, launches, ms }
        };
        let profile = Profile {
            rows: vec![row("in_proj", "forward", 48, 60.0), row("selective_scan", "backward", 48, 30.0)],
            span_ms: 100.0,
            busy_ms: 90.0,
            waited_ms: 4.0,
            longest_wait_ms: 1.5,
            host_ms: 41.0,
        };
        let text = shares(&profile);
        let line = |words: &[&str]| text.lines().any(|line| line.split_whitespace().eq(words.iter().copied()));
        assert!(line(&["in_proj", "forward", "48", "60.000", "60.0", "%"]), "{text}");
        assert!(line(&["nothing", "between", "launches", "6.000", "6.0", "%"]), "{text}");
        assert!(line(&["nothing", "waiting", "for", "the", "host", "4.000", "4.0", "%"]), "{text}");
        assert!(text.contains("everything after 41.0 ms; the longest wait for it was 1.500 ms"), "{text}");
    }

    #[test]
    fn pieces_predict_their_own_next_token_and_padding_nothing() {
        let piece = |tokens| packscan_data::Piece { document: 0, start: 0, tokens };
        let plan = Plan { pieces: vec![piece(3), piece(1)], continued: false, continues: false };
        let words = [7, 8, 9, 5];
        assert_eq!(filled(&plan, &words, None), (vec![7, 8, 9, 5], vec![8, 9, NO_TARGET, NO_TARGET]));
        let none = NO_TARGET;
        let padded = (vec![7, 8, 9, 5, 0, 0], vec![8, 9, none, none, none, none]);
        assert_eq!(filled(&plan, &words, Some(3)), padded);
    }
}
