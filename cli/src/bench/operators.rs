//! Operators against what the GPU could do.

use std::fs;
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use packscan::kernels::selective_scan::State;
use packscan::{Device, Dtype};
use packscan_train::ModelConfig;
use packscan_train::report::number::{fixed, percent};
use packscan_tune::report::{Report, Row};
use packscan_tune::workload::{self, Machine, Problem, natural_lengths, read_lengths};
use packscan_verify::operators;

use super::cuts::{self, Cuts};
use super::{Bench, gpu, roofline};
use crate::error::{Error, Result};
use crate::output::{self, counted, thousands};
use crate::variants::Launches;
use crate::{Verdict, parse};

/// Entries of the vocabulary of the published models.
const VOCABULARY: usize = 50_277;
/// How the ids begin of what finds the states of segments.
const STATE: &str = "selective_scan_state-";

impl Bench {
    /// Times kernels, or shows what was timed.
    pub(super) fn kernels(&self) -> Result<Verdict> {
        let (report, verdict) = match &self.from {
            Some(path) => (read(path)?, Verdict::Good),
            None => self.measure()?,
        };
        output::results(if self.json { json(&report) } else { table(&report) })?;
        if let Some(path) = &self.svg {
            let failed = |source| Error::Write { path: path.clone(), option: "--svg", source };
            fs::write(path, roofline::svg(&report)).map_err(failed)?;
            output::note(&format!("drawn: {}", path.display()));
        }
        Ok(verdict)
    }

    /// Everything that can be refused is refused before the GPU is asked for.
    fn measure(&self) -> Result<(Report, Verdict)> {
        let problem = self.problem()?;
        let (ids, states) = self.ids(&problem)?;
        let cuts = Cuts::new(&self.cut, states)?;
        let device = gpu()?;
        let Device::Cuda(cuda) = &device else { unreachable!("opened as a GPU") };
        let machine = Machine::of(cuda, &device)?;
        let mut report = Report { problem: (&problem).into(), machine, rows: Vec::new() };
        let mut last = None;
        let (mut wrong, mut failure) = (false, None);
        for (i, id) in ids.iter().enumerate() {
            output::note(&format!("{}/{} {id}", i + 1, ids.len()));
            // Buffers are shared among the variants of an operator, and given back before the next one needs others.
            let operator = id.split(['-', '_']).next().unwrap_or_default();
            let bench = match last.take() {
                Some((name, bench)) if name == operator => bench,
                before => {
                    drop(before);
                    workload::Bench::new(&device, problem.clone())?
                }
            };
            for cut in cuts.of(id, &bench)? {
                match Row::measure(&bench, id, cut.as_ref(), self.launches, &report.machine) {
                    Ok(row) => report.rows.push(row),
                    Err(error) => {
                        wrong |= matches!(error, packscan_tune::Error::Wrong { .. });
                        output::note(&format!("{} {id}: {error}", output::red_on_stderr("not timed:")));
                        failure = Some(error);
                    }
                }
            }
            last = Some((operator, bench));
        }
        match failure {
            Some(error) if report.rows.is_empty() && !wrong => Err(error.into()),
            _ => Ok((report, if wrong { Verdict::Bad } else { Verdict::Good })),
        }
    }

    fn problem(&self) -> Result<Problem> {
        let lengths = match &self.lengths {
            Some(path) => read_lengths(path)?,
            None => natural_lengths(self.tokens.unwrap_or(65_536), 0),
        };
        let io = self.dtype.unwrap_or(Dtype::Bf16);
        match &self.model {
            Some(name) => of_model(name, lengths, io),
            None => Ok(Problem::of_channels(lengths, self.channels, self.state, io)),
        }
    }

    /// The variants that were named, and the hand-picked ones of the operators that were; beside them what finds states where the scan cuts.
    fn ids(&self, problem: &Problem) -> Result<(Vec<String>, Vec<State>)> {
        if let Some(pass) = &self.pass {
            parse::one_of("pass", pass, &passes())?;
        }
        let (mut ids, mut states) = (Vec::new(), Vec::new());
        for word in &self.what {
            if word.starts_with(STATE) {
                operators::job(word)?;
                states.push(word.parse()?);
                continue;
            }
            let is_id = word.split_once('-').is_some_and(|(kernel, _)| workload::passes().any(|p| p.kernel == kernel));
            if is_id && !operators::names().contains(&word.as_str()) {
                // Its rules, before the GPU is asked for.
                ids.push(operators::job(word)?.id());
            } else {
                ids.extend(self.hand_picked(problem, &[&parse::operator(word)?])?);
            }
        }
        if ids.is_empty() && states.len() == self.what.len() {
            ids = self.hand_picked(problem, &operators::names())?;
        }
        match ids.is_empty() {
            true => Err(Error::NothingToTime { pass: self.pass.clone().unwrap_or_default() }),
            false => Ok((ids, states)),
        }
    }

    /// The hand-picked variants of some operators' passes that were asked for.
    fn hand_picked(&self, problem: &Problem, operators: &[&str]) -> Result<Vec<String>> {
        let asked = |pass: &&'static operators::Pass| operators.contains(&pass.operator);
        let of_pass = |pass: &&'static operators::Pass| self.pass.as_ref().is_none_or(|name| name == pass.name);
        let passes = workload::passes().filter(asked).filter(of_pass);
        Ok(passes.map(|pass| problem.hand_picked(pass.kernel)).collect::<Result<_, _>>()?)
    }
}

/// The names of all passes, each once.
fn passes() -> Vec<&'static str> {
    let mut names: Vec<&str> = workload::passes().map(|pass| pass.name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The sizes of a model, with the vocabulary of the published ones where it leaves that open.
fn of_model(name: &str, lengths: Vec<usize>, io: Dtype) -> Result<Problem> {
    let config = ModelConfig::open(name, VOCABULARY)?;
    Ok(Launches::new(&config, io, lengths).problem)
}

fn read(path: &Path) -> Result<Report> {
    let text = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| Error::NoRecord { path: path.to_owned(), source })
}

fn json(report: &Report) -> String {
    serde_json::to_string_pretty(report).expect("numbers and names are JSON") + "\n"
}

/// What was measured, for people.
fn table(report: &Report) -> String {
    let (problem, machine) = (&report.problem, &report.machine);
    let [d, n] = [problem.channels, problem.state].map(thousands);
    let mut out = format!(
        "{} in {}, D = {d}, N = {n}, {}, {}\n",
        counted(problem.tokens, "token"),
        counted(problem.sequences, "sequence"),
        problem.dtype,
        machine.name
    );
    out += &format!(
        "at most: {} TB/s as a copy reaches, {} T special functions/s, {} T f32 operations/s\n\n",
        fixed(machine.bytes_s / 1e12, 2),
        fixed(machine.special_s / 1e12, 2),
        fixed(machine.operations_s / 1e12, 1)
    );
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["variant", "median ms", "least to most", "floor ms", "of floor", "GB/s", "limited by", "error"]);
    for row in &report.rows {
        let times = &row.times;
        table.add_row([
            format!("{}{}", row.id, cuts::told(row.cut.as_ref())),
            fixed(times.median_ms, 3),
            format!("{} to {}", fixed(times.least_ms, 3), fixed(times.most_ms, 3)),
            fixed(row.floor_ms, 3),
            percent(row.share(), 0),
            thousands(row.gb_s().round() as usize),
            row.limit.to_string(),
            fixed(row.worst_error, 2),
        ]);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if !matches!(index, 0 | 6) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    out += &table.lines().map(|line| line.trim_end().to_owned() + "\n").collect::<String>();
    out += "\nof floor: the time that the GPU needs at least, for what limits it, as a share of the median\n";
    out + "error: the largest of the slice that was compared with the book, as a share of its bound\n"
}
