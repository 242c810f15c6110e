//! Candidates keep every rule, are of the problem of the hand-picked variant, and come nearest first.

use packscan_kernels::{rms_norm, selective_scan};
use packscan_runtime::Dtype;
use packscan_runtime::nvrtc::Arch;
use packscan_tune::candidates::{Candidate, Slot, slot};
use packscan_tune::workload::Problem;
use packscan_verify::operators;

fn shape(channels: usize, rank: usize) -> Problem {
    Problem { rank, parameters: 1 << 20, ..Problem::of_channels(vec![4096], channels, 16, Dtype::Bf16) }
}

fn scan(state: usize, channels: usize) -> selective_scan::Problem {
    selective_scan::Problem {
        channels,
        state,
        io: Dtype::Bf16,
        softplus: true,
        bias: true,
        skip: true,
        gate: true,
        initial: false,
        last: false,
        checkpoints: true,
    }
}

/// The hand-picked variants of a model of 1.4B.
fn hand_picked() -> Vec<String> {
    let scan = scan(16, 4096);
    let norm = rms_norm::Problem { width: 2048, io: Dtype::Bf16, residual: true, sum: true, stats: true, alone: false };
    vec![
        selective_scan::default_variant(&scan).to_string(),
        selective_scan::default_backward(&scan).to_string(),
        "causal_conv1d_fwd-k4-l32-a4-w4-p32-v8-b1-bf16-silu-bias".to_owned(),
        "causal_conv1d_bwd-k4-l64-a4-w4-p32-v4-b1-bf16-silu-bias".to_owned(),
        rms_norm::default_variant(&norm).to_string(),
        rms_norm::default_backward(&norm, true, true, true).to_string(),
        "cross_entropy-b1024-k7-v8-bf16".to_owned(),
        "embedding_fwd-s128-r2-v8-bf16".to_owned(),
        "embedding_bwd-p128-v4-bf16".to_owned(),
        "grad_norm-l65536-b256-v4-f32".to_owned(),
        "adamw-b256-v4-f32-bf16-copy-clip".to_owned(),
        "adamw-b256-v4-f32-bf16-split-clip".to_owned(),
    ]
}

fn options(id: &str) -> Vec<&str> {
    id.split('-').filter(|part| !part.bytes().any(|b| b.is_ascii_digit()) || part.starts_with("bf")).collect()
}

#[test]
fn every_candidate_keeps_the_rules_and_answers_the_same_problem() {
    let arch = Arch::new(90);
    for hand in hand_picked() {
        let Slot { candidates, kernel, .. } = slot("here", &hand, &shape(4096, 128), arch).unwrap();
        assert_eq!(candidates[0].id, hand, "the hand-picked one comes first");
        assert!(candidates.len() >= 4, "{hand} has {} candidates", candidates.len());
        let mut ids: Vec<&str> = candidates.iter().map(|candidate| candidate.id.as_str()).collect();
        for id in &ids {
            operators::job(id).unwrap_or_else(|error| panic!("{id}: {error}")).check(arch).unwrap();
            assert_eq!((options(id), id.split('-').next().unwrap()), (options(&hand), kernel), "{id}");
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), candidates.len(), "none comes twice");
    }
}

#[test]
fn what_won_elsewhere_comes_behind_the_hand_picked_one() {
    let hand = selective_scan::default_backward(&scan(16, 4096)).to_string();
    let mut slot = slot("scan_bwd", &hand, &shape(4096, 128), Arch::new(90)).unwrap();
    let before = slot.candidates.clone();
    let [far, farther] = [before.len() / 2, before.len() - 1].map(|place| before[place].id.clone());
    // The same mapping in another type and without an option; itself; one that this problem does not have.
    let elsewhere = far.replace("-bf16", "-f16").replace("-gate", "");
    slot.favour(&[&farther, &elsewhere, &hand, &far.replace("-n16-", "-n24-")]);
    let ids: Vec<&str> = slot.candidates.iter().map(|candidate| candidate.id.as_str()).collect();
    assert_eq!((slot.favoured, &ids[..3]), (3, &[hand.as_str(), &far, &farther][..]));
    let rest =
        |all: &[Candidate]| all.iter().filter(|c| ![&far, &farther].contains(&&c.id)).cloned().collect::<Vec<_>>();
    assert_eq!(rest(&slot.candidates), rest(&before), "the others keep their order");
}

#[test]
fn neighbours_come_before_strangers() {
    let hand = selective_scan::default_variant(&scan(16, 4096));
    let candidates = slot("scan", &hand.to_string(), &shape(4096, 128), Arch::new(90)).unwrap().candidates;
    // Doublings of the lanes, of the channels, of the chunk and of the distance.
    let apart = |id: &str| {
        let v: selective_scan::Forward = id.parse().unwrap();
        let pairs =
            [(v.lanes, hand.lanes), (v.channels, hand.channels), (v.chunk, hand.chunk), (v.distance, hand.distance)];
        pairs.map(|(a, b)| (f64::from(a) / f64::from(b)).log2().abs()).iter().sum::<f64>()
    };
    let (near, far) = (&candidates[1..6], &candidates[candidates.len() - 5..]);
    assert!(near.iter().all(|c| apart(&c.id) <= 1.0), "{near:?}");
    assert!(far.iter().all(|c| apart(&c.id) >= 3.0), "{far:?}");
}

#[test]
fn the_group_of_a_scan_is_the_distance_of_its_checkpoints() {
    let scan = scan(24, 4096);
    let forward = selective_scan::default_variant(&scan).to_string();
    let backward = selective_scan::default_backward(&scan).to_string();
    for (hand, tag) in [(forward, 'k'), (backward, 'l')] {
        let candidates = slot("scan", &hand, &shape(4096, 128), Arch::new(90)).unwrap().candidates;
        assert!(candidates.iter().all(|c| c.id.contains(&format!("-{tag}{}-", c.group))));
        let groups: std::collections::BTreeSet<u32> = candidates.iter().map(|c| c.group).collect();
        assert!(groups.contains(&8) && groups.contains(&16), "{groups:?}");
    }
}

#[test]
fn a_rank_that_no_wide_load_fits_leaves_narrow_ones() {
    let narrow = selective_scan::Forward { vec: 1, ..selective_scan::default_variant(&scan(16, 4096)) };
    for (rank, most) in [(3, 1), (6, 2), (48, 8)] {
        let candidates = slot("scan", &narrow.to_string(), &shape(4096, rank), Arch::new(90)).unwrap().candidates;
        let loads = candidates.iter().map(|c| c.id.parse::<selective_scan::Forward>().unwrap().vec);
        assert_eq!(loads.max(), Some(most), "R = {rank}");
    }
}

#[test]
fn a_small_gpu_gets_smaller_candidates() {
    let hand = selective_scan::default_backward(&scan(16, 4096)).to_string();
    let on = |arch| slot("scan_bwd", &hand, &shape(4096, 128), Arch::new(arch)).unwrap().candidates.len();
    assert!(on(86) < on(90), "{} {}", on(86), on(90));
}

#[test]
fn problems_differ_by_what_decides_the_best() {
    let words = |hand: &str, channels, rank| slot("x", hand, &shape(channels, rank), Arch::new(90)).unwrap().problem;
    let hand = selective_scan::default_variant(&scan(16, 4096)).to_string();
    assert_eq!(words(&hand, 4096, 128), "d4096 n16 r8 bf16 softplus bias skip gate checkpoints");
    assert_eq!(words(&hand, 4096, 128), words(&hand, 4096, 160), "only the alignment of R matters");
    assert_ne!(words(&hand, 4096, 128), words(&hand, 4096, 100));
    assert_ne!(words(&hand, 4096, 128), words(&hand, 5120, 128));
    assert_eq!(words("adamw-b256-v4-f32-bf16-copy-clip", 8, 8), "p1048576 f32 copies-bf16 clip");
    assert_eq!(words("adamw-b256-v4-f32-bf16-split-clip", 8, 8), "p1048576 f32 halves clip");
}

#[test]
fn what_is_no_variant_is_refused() {
    for wrong in ["selective_scan_fwd-n16", "voodoo-b1", "neg_exp_fwd-b256-v4", ""] {
        assert!(slot("x", wrong, &shape(64, 8), Arch::new(90)).is_err(), "{wrong}");
    }
}
