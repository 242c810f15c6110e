//! The suite: every property of one variant on one device, over fixed and random cases, shrinking what fails.

use std::time::{Duration, Instant};

use packscan_runtime::kernel::{Spec, Variant};
use packscan_runtime::nvrtc::Arch;
use packscan_runtime::{Device, Dtype, Packed, Result, kernel};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::case::cases;
use crate::check::{Trouble, check};
use crate::compare::all_agree;
use crate::{Call, Case, Failure, Mismatch, Operator, Property, Sizes, Tensor, documents};

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Small cases: seconds for all variants.
    Quick,
    /// Every length that the documentation promises.
    Full,
}

/// What to verify.
#[derive(Clone, Debug)]
pub struct Plan {
    /// State sizes.
    pub states: Vec<u32>,
    /// Types of the activations.
    pub dtypes: Vec<Dtype>,
    /// Where: each suite runs on another device of this kind, so that suites may run side by side.
    pub device: Device,
    /// Random cases for each variant, besides the fixed ones.
    pub cases: u32,
    /// Of the random cases.
    pub seed: u64,
    /// How large the cases are.
    pub level: Level,
    /// Only the variants of this kernel, because `device` has a fault in it.
    pub fault: Option<&'static str>,
}

/// A suite for one variant, whatever the operator.
pub trait Job: Send + Sync {
    /// The variant.
    fn id(&self) -> String;

    /// Runs the suite; `case_done` is called after each case.
    fn run(&self, plan: &Plan, case_done: &(dyn Fn() + Sync)) -> Outcome;

    /// Runs one case.
    fn replay(&self, device: &Device, case: &Case) -> Outcome;

    /// How many cases a run has.
    fn count(&self, plan: &Plan) -> usize;

    /// Checks the variant against its rules and against what a block may use on an architecture.
    ///
    /// # Errors
    /// [`Error::Variant`](packscan_runtime::Error::Variant) with every broken rule.
    fn check(&self, arch: Arch) -> Result<()>;

    /// The CUDA text of the variant.
    fn source(&self) -> String;

    /// What the variant works on at a time: its chunk, its tile of channels.
    fn sizes(&self) -> Sizes;

    /// Runs the operator once on random data, with what must run before it, and checks nothing of the results.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn launch(&self, device: &Device, case: &Case) -> Result<()>;

    /// Compares outputs of a run elsewhere with the book: the largest error as a share of its bound. The inputs are all that the outputs
    /// depend on, so a slice of a large run will do; outputs are in the operator's order, and those left out are not compared.
    ///
    /// # Errors
    /// The first element outside its bound.
    fn agreement(&self, packed: &Packed, inputs: &[Tensor], outputs: &[Option<Tensor>]) -> Result<f64, Box<Mismatch>>;
}

/// What a suite found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The kernel's declaration.
    pub spec: &'static Spec,
    /// The variant.
    pub id: String,
    /// Cases that were run, up to and including the first that failed.
    pub cases: usize,
    /// The largest error as a share of its bound.
    pub worst: f64,
    /// The smallest case that failed and what failed in it.
    pub failure: Option<(Case, Failure)>,
    /// What kept the suite from saying anything: an error of the environment, not of the kernel.
    pub error: Option<String>,
    /// How long it took, compiling included.
    pub time: Duration,
}

impl Outcome {
    fn note(&mut self, case: Case, trouble: Trouble) {
        match trouble {
            Trouble::Failed(failure) => self.failure = Some((case, failure)),
            Trouble::Error(error) => self.error = Some(error.to_string()),
        }
    }

    /// Whether `property` held on every case: `None` if an earlier failure left it unknown.
    pub fn held(&self, property: Property) -> Option<bool> {
        let Some((_, failure)) = &self.failure else { return self.error.is_none().then_some(true) };
        if failure.property == property {
            return Some(false);
        }
        let place = |p| Property::ALL.iter().position(|&q| q == p);
        // What is watched is watched in every run, also in those of later properties.
        (place(property) < place(failure.property) && property != Property::Watched).then_some(true)
    }
}

/// The suite of a variant of operator `O`.
pub(crate) struct Suite<O: Operator> {
    variant: O::Variant,
}

impl<O: Operator> Suite<O> {
    pub(crate) fn new(variant: O::Variant) -> Self {
        Suite { variant }
    }

    /// Elements (t, d, n) of one random and of one fixed case: what the emulator runs in about 10 and 200 ms.
    fn budgets(plan: &Plan) -> (usize, usize) {
        match (plan.level, &plan.device) {
            (Level::Quick, Device::Emulator(_)) => (8_000, 80_000),
            (Level::Quick, Device::Cuda(_) | Device::Cpu) => (30_000, 200_000),
            (Level::Full, Device::Emulator(_) | Device::Cpu) => (60_000, 3_000_000),
            (Level::Full, Device::Cuda(_)) => (300_000, 6_000_000),
        }
    }

    /// The cases that every variant must pass whatever the seed: one token, empty sequences, groups of sequences that are
    /// no neighbours, 300 of one token, one of 5,000, real documents.
    fn fixed(&self, plan: &Plan) -> Vec<Case> {
        let sizes = O::sizes(&self.variant, 0);
        let l = sizes.chunk;
        let d = (sizes.multiple.max(3)).next_multiple_of(sizes.multiple);
        let all = [
            Case::of_lengths(&[1], (sizes.tile + 1).next_multiple_of(sizes.multiple)),
            Case::of_lengths(&[0, l - 1, 0, 0, l + 1, 1, 0], d).with_continued(),
            Case::of_lengths(&[0, 0], d).with_continued(),
            // Shared out to two groups evenly only if the first and the last come to one.
            Case::of_lengths(&[34, 68, 34], sizes.multiple),
            Case::of_lengths(&[1; 300], sizes.multiple).with_continued(),
            Case::of_lengths(&[5000], sizes.multiple),
            Case::of_lengths(&documents::lengths(), sizes.multiple).with_continued(),
        ];
        let (_, budget) = Self::budgets(plan);
        // Each has a seed of its own: what an operator does for one seed in four, it does in every run.
        let seeded = all.into_iter().zip(0..).map(|(case, seed)| Case { seed, ..case });
        seeded.filter(|case| case.elements(sizes) <= budget).collect()
    }

    fn runner(plan: &Plan) -> TestRunner {
        let config = Config {
            cases: plan.cases,
            failure_persistence: None,
            max_shrink_iters: 200,
            max_shrink_time: 20_000,
            ..Config::default()
        };
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&plan.seed.to_le_bytes());
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed))
    }

    fn search(&self, plan: &Plan, outcome: &mut Outcome, case_done: &(dyn Fn() + Sync)) {
        for case in self.fixed(plan) {
            outcome.cases += 1;
            match check::<O>(&plan.device, &self.variant, &case) {
                Ok(worst) => outcome.worst = outcome.worst.max(worst),
                Err(trouble) => return outcome.note(case, trouble),
            }
            case_done();
        }
        let (budget, _) = Self::budgets(plan);
        let progress = std::sync::Mutex::new((0, 0.0f64, None));
        let found = Self::runner(plan).run(&cases(O::sizes(&self.variant, budget)), |case| {
            let result = check::<O>(&plan.device, &self.variant, &case);
            let mut progress = progress.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            progress.0 += 1;
            case_done();
            match result {
                Ok(worst) => progress.1 = progress.1.max(worst),
                Err(Trouble::Failed(failure)) => return Err(TestCaseError::fail(failure.to_string())),
                // No smaller case would tell more.
                Err(Trouble::Error(error)) => progress.2 = Some(error.to_string()),
            }
            Ok(())
        });
        let (cases, worst, error) = progress.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        outcome.worst = outcome.worst.max(worst);
        outcome.cases += cases.min(plan.cases as usize);
        outcome.error = error;
        if let Err(error) = found {
            self.note_shrunk(plan, error, outcome);
        }
    }

    /// The smallest case that the search found, run once more for its failure.
    fn note_shrunk(&self, plan: &Plan, error: TestError<Case>, outcome: &mut Outcome) {
        match error {
            TestError::Fail(reason, case) => {
                let detail = format!("{reason}; the same case then passed, so the result is not repeatable");
                let unsteady = Failure { property: Property::Determinism, during: "the search".to_owned(), detail };
                let again = check::<O>(&plan.device, &self.variant, &case).err();
                outcome.note(case, again.unwrap_or(Trouble::Failed(unsteady)));
            }
            TestError::Abort(reason) => outcome.error = Some(format!("no cases could be made: {reason}")),
        }
    }

    fn outcome(&self, work: impl FnOnce(&mut Outcome)) -> Outcome {
        let start = Instant::now();
        let id = self.variant.to_string();
        let mut outcome = Outcome {
            spec: O::Variant::SPEC,
            id,
            cases: 0,
            worst: 0.0,
            failure: None,
            error: None,
            time: Duration::ZERO,
        };
        work(&mut outcome);
        outcome.time = start.elapsed();
        outcome
    }
}

impl<O: Operator> Job for Suite<O> {
    fn check(&self, arch: Arch) -> Result<()> {
        kernel::check(&self.variant, arch)
    }

    fn source(&self) -> String {
        kernel::source(&self.variant)
    }

    fn sizes(&self) -> Sizes {
        O::sizes(&self.variant, 0)
    }

    fn launch(&self, device: &Device, case: &Case) -> Result<()> {
        let packed = case.packed(O::continues(&self.variant));
        let inputs = O::inputs(&self.variant, &packed, case);
        let packed = packed.on(device)?;
        let Case { channels, groups, padding, .. } = *case;
        let call = Call { variant: &self.variant, packed: &packed, channels, groups, padding, rounds: 1 };
        O::run(&call, &inputs).map(drop)
    }

    fn agreement(&self, packed: &Packed, inputs: &[Tensor], outputs: &[Option<Tensor>]) -> Result<f64, Box<Mismatch>> {
        all_agree(packed, outputs, &O::book(&self.variant, packed, inputs))
    }

    fn id(&self) -> String {
        self.variant.to_string()
    }

    fn count(&self, plan: &Plan) -> usize {
        self.fixed(plan).len() + plan.cases as usize
    }

    fn run(&self, plan: &Plan, case_done: &(dyn Fn() + Sync)) -> Outcome {
        self.outcome(|outcome| match plan.device.another() {
            Ok(device) => self.search(&Plan { device, ..plan.clone() }, outcome, case_done),
            Err(error) => outcome.error = Some(error.to_string()),
        })
    }

    fn replay(&self, device: &Device, case: &Case) -> Outcome {
        self.outcome(|outcome| {
            outcome.cases = 1;
            match check::<O>(device, &self.variant, case) {
                Ok(worst) => outcome.worst = worst,
                Err(trouble) => outcome.note(case.clone(), trouble),
            }
        })
    }
}
