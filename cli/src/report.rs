//! What `packscan verify` found, for people who would rather not believe it.

use std::collections::BTreeSet;
use std::fmt;

use comfy_table::{Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, presets};
use packscan::Device;
use packscan::runtime::kernel::{Domain, Spec};
use packscan::runtime::nvrtc::Nvrtc;
use packscan_verify::{Case, Failure, Outcome, Property};

use crate::Verdict;
use crate::output::{counted, green, red};

/// Failures that are shown in full; the table shows them all.
const SHOWN: usize = 3;

/// Every suite that ran.
pub struct Report<'a> {
    /// Device and outcome of each.
    pub rows: Vec<(&'a Device, Outcome)>,
    /// The fault that every kernel was given.
    pub fault: Option<&'static str>,
}

impl Report<'_> {
    /// What the command's exit code says.
    pub fn verdict(&self) -> Verdict {
        match (self.failures().next(), self.fault) {
            (Some(_), _) => Verdict::Bad,
            (None, None) => Verdict::Good,
            (None, Some(_)) => Verdict::Escaped,
        }
    }

    fn failures(&self) -> impl Iterator<Item = (&Device, &Outcome, &(Case, Failure))> {
        self.rows.iter().filter_map(|(device, outcome)| Some((*device, outcome, outcome.failure.as_ref()?)))
    }

    /// The kernels in the order in which they ran, each once.
    fn kernels(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for (_, outcome) in &self.rows {
            if !names.contains(&outcome.spec.name) {
                names.push(outcome.spec.name);
            }
        }
        names
    }

    fn table(&self, kernel: &str) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        let properties = Property::ALL.iter().map(ToString::to_string);
        let columns = ["variant", "options", "device", "cases"].map(str::to_owned).into_iter();
        table.set_header(columns.chain(properties).chain(["worst".to_owned(), "time".to_owned()]));
        for (device, outcome) in self.rows.iter().filter(|(_, outcome)| outcome.spec.name == kernel) {
            let (numbers, options) = parts(outcome.spec, &outcome.id);
            let mut cells =
                vec![Cell::new(numbers), Cell::new(options), Cell::new(device.kind()), right(outcome.cases)];
            cells.extend(Property::ALL.iter().map(|property| held(outcome.held(*property))));
            cells.push(right(format!("{:.3}", outcome.worst)));
            cells.push(right(format!("{:.1} s", outcome.time.as_secs_f64())));
            table.add_row(cells);
        }
        for (i, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 1));
            // On a narrow terminal headers wrap, ids and numbers do not.
            if !(4..4 + Property::ALL.len()).contains(&i) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        table
    }

    fn write_failure(
        &self,
        f: &mut fmt::Formatter<'_>,
        device: &Device,
        id: &str,
        what: &(Case, Failure),
    ) -> fmt::Result {
        let (case, failure) = what;
        writeln!(f, "\n{} {id} on {device}", red("FAILED"))?;
        writeln!(f, "  property       {}", failure.property)?;
        writeln!(f, "  during         {}", failure.during)?;
        let seen = failure.detail.strip_prefix(&format!("{id}: ")).unwrap_or(&failure.detail);
        writeln!(f, "  seen           {}", seen.replace('\n', "\n                 "))?;
        writeln!(f, "  case           {case}")?;
        let fault = self.fault.map(|name| format!(" --fault {name}")).unwrap_or_default();
        let command = format!("verify --device {} --variant {id} --case '{case}'{fault}", device.kind());
        writeln!(f, "  once more      cargo run --release -- {command}")
    }

    /// What was compiled, run and compared.
    fn write_good(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: BTreeSet<&str> = self.rows.iter().map(|(device, _)| device.kind()).collect();
        writeln!(f, "{}: {}, all properties held.", green("verified"), self.size())?;
        if let (true, Ok(nvrtc)) = (kinds.contains("emulator") || kinds.contains("cuda"), Nvrtc::get()) {
            let (major, minor) = nvrtc.version();
            writeln!(
                f,
                "compiled: the CUDA text of each variant, by NVRTC {major}.{minor} ({})",
                nvrtc.path().display()
            )?;
        }
        let ran = [
            (
                "emulator",
                "on the emulator the PTX that NVRTC made, every access watched and every byte's origin followed",
            ),
            ("cuda", "on the GPU the machine code that NVRTC made, fences around every output"),
            ("cpu", "on the CPU each operator's native path, fences around every output"),
        ];
        for (_, what) in ran.iter().filter(|(kind, _)| kinds.contains(kind)) {
            writeln!(f, "ran:      {what}")?;
        }
        let worst = self.rows.iter().map(|(_, outcome)| outcome.worst).fold(0.0, f64::max);
        writeln!(
            f,
            "compared: every element with the f64 textbook; the largest error is {worst:.3} of its derived bound;"
        )?;
        writeln!(
            f,
            "          bit for bit: with other runs and schedules, with other sequences' data replaced by other numbers,"
        )?;
        writeln!(f, "          NaN, infinities and huge values, with each sequence alone and elsewhere in the pack")?;
        writeln!(
            f,
            "doubtful? `verify --fault list` shows faults; `verify --fault skip-reset` injects one and must fail"
        )
    }

    fn write_bad(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self.failures().count();
        for (device, outcome, what) in self.failures().take(SHOWN) {
            self.write_failure(f, device, &outcome.id, what)?;
        }
        if failed > SHOWN {
            writeln!(f, "\n{} more failed, see the table", failed - SHOWN)?;
        }
        let of = self.rows.len();
        match self.fault {
            None => {
                writeln!(
                    f,
                    "\n{}: {}, a property FAILED in {failed} of {}",
                    red("not verified"),
                    self.size(),
                    counted(of, "suite")
                )
            }
            Some(name) => {
                let by: BTreeSet<String> = self.failures().map(|(_, _, what)| what.1.property.to_string()).collect();
                let by = by.into_iter().collect::<Vec<_>>().join(", ");
                writeln!(f, "\nfault {name} was caught in {failed} of {}, by {by}", counted(of, "suite"))?;
                for (device, outcome) in self.rows.iter().filter(|(_, outcome)| outcome.failure.is_none()) {
                    let id = &outcome.id;
                    writeln!(f, "  not noticed in {id} on {device}: in an option that it has not, nothing changes")?;
                }
                Ok(())
            }
        }
    }

    fn size(&self) -> String {
        let variants: BTreeSet<&str> = self.rows.iter().map(|(_, outcome)| outcome.id.as_str()).collect();
        let cases = self.rows.iter().map(|(_, outcome)| outcome.cases).sum();
        format!("{}, {}", counted(variants.len(), "variant"), counted(cases, "case"))
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kernel in self.kernels() {
            writeln!(f, "{kernel}\n{}\n", self.table(kernel).trim_fmt())?;
        }
        match (self.verdict(), self.fault) {
            (Verdict::Good, _) => self.write_good(f),
            (Verdict::Bad | Verdict::Interrupted, _) => self.write_bad(f),
            (Verdict::Escaped, name) => {
                let name = name.unwrap_or_default();
                writeln!(f, "{}: fault {name} went through {}", red("the fault was NOT caught"), self.size())
            }
        }
    }
}

fn right(text: impl ToString) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn held(held: Option<bool>) -> Cell {
    let (text, color) = match held {
        Some(true) => ("ok", Color::Green),
        Some(false) => ("FAILED", Color::Red),
        None => ("-", Color::Reset),
    };
    if console::colors_enabled() { Cell::new(text).fg(color) } else { Cell::new(text) }
}

/// An id without the kernel's name: its numbers, and its options in as few words as possible.
fn parts(spec: &Spec, id: &str) -> (String, String) {
    let flags: Vec<&str> = spec.parameters.iter().filter(|p| matches!(p.domain, Domain::Flag)).map(|p| p.tag).collect();
    let rest = id.strip_prefix(spec.name).unwrap_or(id).trim_start_matches('-');
    let (on, numbers): (Vec<&str>, Vec<&str>) = rest.split('-').partition(|word| flags.contains(word));
    let options = match on.len() {
        0 => "none".to_owned(),
        all if all == flags.len() => "all".to_owned(),
        _ => on.join(" "),
    };
    (numbers.join("-"), options)
}

#[cfg(test)]
mod tests {
    use packscan::kernels::selective_scan::Forward;
    use packscan::runtime::kernel::Variant;

    use super::parts;

    #[test]
    fn ids_are_shortened() {
        let numbers = "n16-l32-s4-c64-b1-v2-bf16";
        let of = |options: &str| parts(Forward::SPEC, &format!("selective_scan_fwd-{numbers}{options}"));
        assert_eq!(of(""), (numbers.to_owned(), "none".to_owned()));
        assert_eq!(of("-softplus-gate"), (numbers.to_owned(), "softplus gate".to_owned()));
        assert_eq!(of("-softplus-bias-skip-gate-initial-final-checkpoints"), (numbers.to_owned(), "all".to_owned()));
    }
}
