//! A run that was stopped goes on as if it had not been, bit for bit, and whatever kills a save leaves the newest whole checkpoint.

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{config, pack, save, texts, weights};
use packscan_runtime::{Device, Dtype};
use packscan_train::activations::Recompute;
use packscan_train::checkpoint::{self, Checkpoint};
use packscan_train::hugging_face::Pretrained;
use packscan_train::parameters::Layout;
use packscan_train::{Learner, Model, ModelConfig, Rates};
use serde_json::{Value, json};

const FILES: [&str; 4] = ["config.json", "model.safetensors", "optimizer.safetensors", "state.json"];

fn learner(model: Model) -> Learner {
    let recompute = vec![Recompute::Cheap; model.config.layers];
    Learner::new(model, 64, 2, &recompute).unwrap()
}

fn fresh(device: &Device, io: Dtype) -> Learner {
    let config = config(true);
    learner(Model::new(device, io, &config, &Layout::of(&config).fresh(3)).unwrap())
}

/// Steps `first..=last` of a run whose packs depend on the step.
fn train(learner: &mut Learner, first: u32, last: u32) {
    let (device, vocabulary) = (learner.model.device.clone(), learner.model.config.vocabulary);
    let rates = Rates { learning_rate: 1e-2, warmup: 4, steps: 20, ..Rates::default() };
    for step in first..=last {
        let lengths = [step as usize, 1, 30 - step as usize];
        let packs =
            [&lengths[..2], &lengths[2..]].map(|lengths| pack(&device, &texts(lengths, vocabulary), vocabulary));
        assert!(!learner.step(&packs, &rates, rates.at(step)).unwrap().skipped);
    }
}

/// Every bit of weights, of what products read of them, and of moments.
fn bits(learner: &Learner) -> Vec<u32> {
    let model = &learner.model;
    let matrices = model.layout.table.iter().filter(|p| p.slot.offset < model.layout.products);
    let read = matrices.flat_map(|p| model.weights.io(p.slot).unwrap().to_f32().unwrap());
    let moments = [&learner.optimiser.m, &learner.optimiser.v].map(|b| b.to_vec::<f32>().unwrap()).concat();
    weights(model).into_iter().chain(moments).chain(read).map(f32::to_bits).collect()
}

fn resumed(device: &Device, io: Dtype, checkpoint: &Checkpoint) -> Learner {
    let mut learner = learner(checkpoint.model(device, io).unwrap());
    checkpoint.restore(&mut learner).unwrap();
    learner
}

fn check_resuming(device: &Device, io: Dtype) {
    let run = tempfile::tempdir().unwrap();
    let mut whole = fresh(device, io);
    train(&mut whole, 1, 20);

    let mut half = fresh(device, io);
    train(&mut half, 1, 10);
    let trainer = json!({ "position": 123_456_789_012_345_u64, "loss": 0.1 + 0.2, "seeds": [1, 2] });
    save(run.path(), 10, &mut half, &trainer, 2).unwrap();
    let at_ten = bits(&half);
    drop(half);

    let (found, skipped) = checkpoint::newest(run.path()).unwrap();
    let found = found.expect("one was saved");
    assert!(skipped.is_empty());
    assert_eq!((found.step, &found.trainer), (10, &trainer));
    let mut again = resumed(device, io, &found);
    assert_eq!(again.optimiser.taken, 10);
    assert!(bits(&again) == at_ten, "{io} on {device}: what was loaded is not what was saved");
    train(&mut again, 11, 20);
    assert_eq!(again.optimiser.taken, whole.optimiser.taken);
    assert!(bits(&again) == bits(&whole), "{io} on {device}: 10 steps and 10 more are not 20");
    assert!(bits(&again) != at_ten, "nothing was learnt");
}

#[test]
fn resuming_is_bit_exact_on_the_cpu() {
    check_resuming(&Device::Cpu, Dtype::F32);
    check_resuming(&Device::Cpu, Dtype::F16);
    check_resuming(&Device::Cpu, Dtype::Bf16);
}

#[test]
fn resuming_is_bit_exact_on_a_gpu() {
    match Device::cuda(0) {
        Ok(device) => [Dtype::F32, Dtype::Bf16].into_iter().for_each(|io| check_resuming(&device, io)),
        Err(error) => println!("skipped: {error}"),
    }
}

/// A run's folder with whole checkpoints after these steps.
fn run_with(steps: &[u32]) -> (tempfile::TempDir, Learner) {
    let run = tempfile::tempdir().unwrap();
    let mut learner = fresh(&Device::Cpu, Dtype::F32);
    for &step in steps {
        save(run.path(), step, &mut learner, &json!({ "step": step }), usize::MAX).unwrap();
    }
    (run, learner)
}

fn folder(run: &Path, step: u32) -> PathBuf {
    run.join(format!("step-{step:08}"))
}

fn names(run: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(run).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_checkpoint_is_a_hugging_face_model() {
    let (run, learner) = run_with(&[1]);
    let opened = Pretrained::open(&folder(run.path(), 1)).unwrap();
    assert_eq!(opened.config, learner.model.config);
    for p in &learner.model.layout.table {
        assert_eq!(opened.values_of(p).unwrap(), learner.model.values_of(p).unwrap(), "{}", p.name);
    }
    let config: Value = serde_json::from_slice(&fs::read(folder(run.path(), 1).join("config.json")).unwrap()).unwrap();
    assert_eq!(config["eos_token_id"], json!(256), "its text ends where that of bytes does");
    let mut all = [&FILES[..], &["checksums.json", "tokenizer.json", "tokenizer_config.json"]].concat();
    all.sort_unstable();
    assert_eq!(names(&folder(run.path(), 1)), all);
}

/// A tensor of several pieces, whose last is short, where a number is kept in two halves.
#[test]
fn a_tensor_that_is_written_in_pieces_is_the_same() {
    let config = ModelConfig { vocabulary: (1 << 21) / config(true).width + 1, ..config(true) };
    let values = Layout::of(&config).fresh(3);
    let mut learner = learner(Model::new(&Device::Cpu, Dtype::Bf16, &config, &values).unwrap());
    let embedding = learner.model.layout.table[0].clone();
    assert!(embedding.slot.pieces().count() == 3, "{embedding:?}");
    let run = tempfile::tempdir().unwrap();
    let saved = save(run.path(), 1, &mut learner, &Value::Null, 1).unwrap();
    let opened = Pretrained::open(&saved).unwrap();
    assert!(opened.values_of(&embedding).unwrap() == values[embedding.slot.range()]);
}

#[test]
fn a_checkpoint_that_is_not_whole_is_left_out() {
    let (run, _) = run_with(&[9, 10]);
    let newest = folder(run.path(), 10);
    for name in FILES.into_iter().chain(["tokenizer.json"]) {
        let path = newest.join(name);
        let bytes = fs::read(&path).unwrap();
        let assert_left_out = |what: &str| {
            let (found, skipped) = checkpoint::newest(run.path()).unwrap();
            assert_eq!(found.expect("the older one is whole").step, 9, "{name} {what}");
            assert_eq!(skipped.len(), 1);
            let told = skipped[0].to_string();
            assert!(told.contains("step-00000010 is left out") && told.contains(name), "{name} {what}: {told}");
        };
        for length in [0, 5, bytes.len() / 2, bytes.len() - 3] {
            File::options().write(true).open(&path).unwrap().set_len(length as u64).unwrap();
            assert_left_out(&format!("cut to {length} of {} bytes", bytes.len()));
            fs::write(&path, &bytes).unwrap();
        }
        fs::remove_file(&path).unwrap();
        assert_left_out("removed");
        fs::write(&path, &bytes).unwrap();
        assert_eq!(checkpoint::newest(run.path()).unwrap().0.unwrap().step, 10, "{name} is back");
    }
}

/// A bit in the middle of each file of tensors: another number, as finite as the one that was saved.
#[test]
fn a_bit_that_changed_on_the_disk_is_noticed() {
    let (run, mut learner) = run_with(&[1]);
    let newest = folder(run.path(), 1);
    let mut read = || {
        let checkpoint = Checkpoint::open(&newest)?;
        checkpoint.model(&Device::Cpu, Dtype::F32)?;
        checkpoint.restore(&mut learner)
    };
    for name in &FILES[1..3] {
        let path = newest.join(name);
        let bytes = fs::read(&path).unwrap();
        let mut flipped = bytes.clone();
        flipped[(bytes.len() - bytes.len() / 4) & !3] ^= 1;
        fs::write(&path, flipped).unwrap();
        let error = read().unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("is not what was saved, by its checksum"), "{error}");
        fs::write(&path, bytes).unwrap();
        read().unwrap();
    }
}

#[test]
fn a_file_cut_short_names_tensor_shape_and_bytes() {
    let (run, learner) = run_with(&[1]);
    let path = folder(run.path(), 1).join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let error_of = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Checkpoint::open(&folder(run.path(), 1)).unwrap_err().to_string()
    };
    let error_at = |length: usize| error_of(&bytes[..length]);
    let first = &learner.model.layout.table[0];
    let all = 4 * first.slot.elements();
    for there in [0, 7, all - 1] {
        let error = error_at(8 + header + there);
        let of = format!("{there} of {all} bytes of {}, {:?} in F32, are there", first.name, first.shape);
        assert!(error.contains(&of) && error.contains("model.safetensors"), "{error}");
        assert!(error.contains("cut short") && error.contains("remove that"), "{error}");
    }
    let last = &learner.model.layout.table.last().unwrap();
    let all = 4 * last.slot.elements();
    let error = error_at(bytes.len() - 1);
    assert!(error.contains(&format!("{} of {all} bytes of {}, {:?}", all - 1, last.name, last.shape)), "{error}");
    assert!(error_at(8 + header - 9).contains(&format!("{} of {header} bytes of its header", header - 9)));
    assert!(error_at(3).contains("3 bytes are there"), "{}", error_at(3));
    assert!(error_of(&[&bytes[..], &[0; 5]].concat()).contains("5 bytes more than its tensors take"));
}

#[test]
fn what_a_killed_save_leaves_is_neither_loaded_nor_kept() {
    let (run, mut learner) = run_with(&[9, 10]);
    // Killed while it wrote step 11, while it removed step 8, and between the two names of step 10.
    for left in ["step-00000011.partial", "step-00000008.partial"] {
        fs::create_dir(run.path().join(left)).unwrap();
        fs::write(run.path().join(left).join("model.safetensors"), [0; 100]).unwrap();
    }
    fs::rename(folder(run.path(), 10), run.path().join("step-00000010.replaced")).unwrap();
    fs::create_dir(run.path().join("notes")).unwrap();
    assert_eq!(checkpoint::newest(run.path()).unwrap().0.unwrap().step, 10);

    save(run.path(), 10, &mut learner, &Value::Null, 5).unwrap();
    assert_eq!(names(run.path()), ["notes", "step-00000009", "step-00000010"]);
    assert_eq!(checkpoint::newest(run.path()).unwrap().0.unwrap().trainer, Value::Null);
    // The same step once more.
    save(run.path(), 10, &mut learner, &json!(1), 5).unwrap();
    assert_eq!(checkpoint::newest(run.path()).unwrap().0.unwrap().trainer, json!(1));
    assert_eq!(names(run.path()), ["notes", "step-00000009", "step-00000010"]);
}

#[test]
fn the_oldest_go_and_only_checkpoints() {
    let (run, mut learner) = run_with(&[10, 20, 30, 40]);
    fs::remove_file(folder(run.path(), 30).join("state.json")).unwrap();
    fs::create_dir(folder(run.path(), 5)).unwrap();
    fs::write(folder(run.path(), 5).join("thoughts.txt"), "mine").unwrap();
    fs::create_dir(run.path().join("step-7")).unwrap();
    // One that is not whole does not count: 20 stays in place of 30.
    save(run.path(), 50, &mut learner, &Value::Null, 3).unwrap();
    assert_eq!(names(run.path()), ["step-00000005", "step-00000020", "step-00000040", "step-00000050", "step-7"]);
    // An earlier step than others: those are left.
    save(run.path(), 45, &mut learner, &Value::Null, 1).unwrap();
    assert_eq!(names(run.path()), ["step-00000005", "step-00000045", "step-00000050", "step-7"]);
}

#[test]
fn a_checkpoint_of_another_model_names_tensor_and_shapes() {
    let (run, learner) = run_with(&[1]);
    let checkpoint = Checkpoint::open(&folder(run.path(), 1)).unwrap();
    checkpoint.check(&learner.model.config).unwrap();
    let wrong = |change: fn(&mut ModelConfig)| {
        let mut other = learner.model.config.clone();
        change(&mut other);
        checkpoint.check(&other).unwrap_err().to_string()
    };
    let error = wrong(|c| c.state = 6);
    assert!(error.contains("x_proj.weight") && error.contains("[13, 24]") && error.contains("[15, 24]"), "{error}");
    assert!(wrong(|c| c.layers = 4).contains("backbone.layers.3"));
    assert!(
        wrong(|c| c.layers = 4).contains("is missing; it is of a model with layers = 3, but run.toml has layers = 4")
    );
    assert!(wrong(|c| c.layers = 2).contains("run.toml has layers = 2; write layers = 3 there again"));
    assert!(wrong(|c| c.epsilon = 1e-6).contains("epsilon"));
    let mut other = wider();
    let error = checkpoint.restore(&mut other).unwrap_err().to_string();
    assert!(error.contains("backbone.embeddings.weight"), "{error}");

    // A file of moments of another model.
    let others = tempfile::tempdir().unwrap();
    save(others.path(), 1, &mut other, &Value::Null, 1).unwrap();
    fs::copy(folder(others.path(), 1).join(FILES[2]), folder(run.path(), 1).join(FILES[2])).unwrap();
    let error = Checkpoint::open(&folder(run.path(), 1)).unwrap_err().to_string();
    assert!(error.contains("optimizer.safetensors: m.backbone.embeddings.weight"), "{error}");
    // And a state of another version.
    let state = folder(others.path(), 1).join("state.json");
    fs::write(&state, fs::read_to_string(&state).unwrap().replace("\"format\": 1", "\"format\": 2")).unwrap();
    let error = Checkpoint::open(&folder(others.path(), 1)).unwrap_err().to_string();
    assert!(error.contains("state.json") && error.contains("format is 2"), "{error}");
}

/// Of a wider model.
fn wider() -> Learner {
    let config = ModelConfig::of(16, 3).for_vocabulary(24).unwrap();
    learner(Model::new(&Device::Cpu, Dtype::F32, &config, &Layout::of(&config).fresh(3)).unwrap())
}

/// Names the run's folder to the process that has no more disk.
const FULL: &str = "PACKSCAN_TEST_RUN_ON_A_FULL_DISK";

/// Runs itself as a process that can write only some kilobytes to a file.
#[test]
#[cfg(unix)]
fn a_full_disk_leaves_the_old_checkpoint_and_the_run() {
    if let Some(run) = std::env::var_os(FULL) {
        return save_on_a_full_disk(Path::new(&run));
    }
    let (run, learner) = run_with(&[1]);
    let largest = fs::metadata(folder(run.path(), 1).join("optimizer.safetensors")).unwrap().len();
    assert!(largest > 16 * 1024, "the limit below must be felt");
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_full_disk_leaves_the_old_checkpoint_and_the_run", "--nocapture"])
        .env(FULL, run.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("the error: cannot write") && told.contains("step-00000002"), "{told}");
    assert_eq!(names(run.path()), ["step-00000001"]);
    let old = Checkpoint::open(&folder(run.path(), 1)).unwrap();
    assert_eq!(bits(&resumed(&Device::Cpu, Dtype::F32, &old)), bits(&learner));
}

fn save_on_a_full_disk(run: &Path) {
    let mut learner = fresh(&Device::Cpu, Dtype::F32);
    train(&mut learner, 1, 2);
    println!("the error: {}", save(run, 2, &mut learner, &Value::Null, 1).unwrap_err());
    // The run goes on.
    train(&mut learner, 3, 4);
}

#[test]
fn what_could_not_be_loaded_is_not_saved() {
    let (run, learner) = run_with(&[1]);
    let (config, mut values) = (learner.model.config.clone(), weights(&learner.model));
    values[config.width + 2] = f32::NAN;
    let mut diverged = self::learner(Model::new(&Device::Cpu, Dtype::F32, &config, &values).unwrap());
    let error = save(run.path(), 2, &mut diverged, &Value::Null, 1).unwrap_err().to_string();
    assert!(error.contains("backbone.embeddings.weight[1, 2] is NaN") && error.contains("diverged"), "{error}");
    assert_eq!(names(run.path()), ["step-00000001"]);
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error() {
    let (run, mut learner) = run_with(&[1]);
    let file = run.path().join("a-file");
    fs::write(&file, "in the way").unwrap();
    let error = save(&file.join("run"), 2, &mut learner, &Value::Null, 1).unwrap_err().to_string();
    assert!(error.starts_with("cannot make") && error.contains("step-00000002"), "{error}");
    // Nor is there a checkpoint to be found in a folder that is none.
    assert!(checkpoint::newest(&file).is_err());
    assert!(checkpoint::newest(&run.path().join("nowhere")).unwrap_err().to_string().contains("nowhere"));
}
