//! What a pack accepts, what it refuses and in which words.

use packscan_runtime::{Device, DevicePacked, Packed};

fn error(result: packscan_runtime::Result<Packed>) -> String {
    result.expect_err("this is no pack").to_string()
}

#[test]
fn every_way_to_state_a_pack_agrees() {
    let packed = Packed::from_lengths(&[3, 1, 2]).unwrap();
    assert_eq!(packed, Packed::from_cu_seqlens(&[0, 3, 4, 6], 6).unwrap());
    assert_eq!(packed, Packed::from_position_indices(&[0, 1, 2, 0, 0, 1]).unwrap());
    assert_eq!(packed, Packed::from_seq_idx(&[0, 0, 0, 1, 2, 2]).unwrap());
    assert_eq!((packed.tokens(), packed.sequences(), packed.lengths()), (6, 3, vec![3, 1, 2]));
    assert_eq!(packed.seq_idx(), [0, 0, 0, 1, 2, 2]);
}

#[test]
fn a_step_of_generation_is_one_token_each() {
    let step = Packed::one_token_each(&[true, false, true]).unwrap();
    assert_eq!(step, Packed::from_lengths(&[1; 3]).unwrap().with_continued(&[true, false, true]).unwrap());
    let none = error(Packed::one_token_each(&[]));
    assert!(none.contains("at least one sequence"), "{none}");
}

#[test]
fn segments_are_counted_from_the_start_of_their_sequence() {
    let packed = Packed::from_lengths(&[5, 0, 2, 4]).unwrap().with_continued(&[false, true, true, false]).unwrap();
    let (segments, firsts) = packed.segments(2);
    assert_eq!(segments.lengths(), [2, 2, 1, 0, 2, 2, 2]);
    assert_eq!(segments.continued(), [false, true, true, true, true, false, true]);
    assert_eq!(firsts, [0, 3, 4, 5, 7]);
    assert_eq!(packed.segments(usize::MAX).0, packed);
    assert_eq!(packed.segments(0).0.sequences(), 12);
}

#[test]
fn empty_sequences_are_legal() {
    let packed = Packed::from_cu_seqlens(&[0, 0, 2, 2, 2], 2).unwrap();
    assert_eq!(packed.lengths(), [0, 2, 0, 0]);
    assert_eq!(packed.seq_idx(), [1, 1]);
    assert_eq!(Packed::from_seq_idx(&[1, 1]).unwrap().lengths(), [0, 2]);
    assert_eq!(Packed::from_lengths(&[0]).unwrap().tokens(), 0);
}

#[test]
fn bad_boundaries_are_refused_by_name() {
    let starts = error(Packed::from_cu_seqlens(&[1, 3], 3));
    assert!(starts.contains("cu_seqlens") && starts.contains("starts at 1"), "{starts}");
    let decreases = error(Packed::from_cu_seqlens(&[0, 5, 3], 3));
    assert!(decreases.contains("decreases from 5 to 3 at entry 2"), "{decreases}");
    let ends = error(Packed::from_cu_seqlens(&[0, 3], 4));
    assert!(ends.contains("ends at 3") && ends.contains("4 tokens"), "{ends}");
    for short in [&[][..], &[0]] {
        let short = error(Packed::from_cu_seqlens(short, 0));
        assert!(short.contains("S + 1"), "{short}");
    }
    let long = error(Packed::from_lengths(&[1 << 30, 1 << 30, 1]));
    assert!(long.contains("lengths") && long.contains("split it"), "{long}");
    let huge = error(Packed::from_lengths(&[usize::MAX, 1]));
    assert!(huge.contains("sequence 0"), "{huge}");
    let none = error(Packed::from_lengths(&[]));
    assert!(none.contains("at least one sequence"), "{none}");
}

#[test]
fn bad_indices_are_refused_by_token() {
    let gap = error(Packed::from_position_indices(&[0, 1, 3]));
    assert!(
        gap.contains("position_indices") && gap.contains("token 2 has position 3") && gap.contains("0 or 2"),
        "{gap}"
    );
    let start = error(Packed::from_position_indices(&[1]));
    assert!(start.contains("token 0"), "{start}");
    let back = error(Packed::from_seq_idx(&[0, 1, 0]));
    assert!(back.contains("seq_idx") && back.contains("token 2"), "{back}");
    let marks = error(Packed::from_lengths(&[1, 2]).unwrap().with_continued(&[true]));
    assert!(marks.contains("continued") && marks.contains("2 sequences"), "{marks}");
}

#[test]
fn groups_cut_between_sequences_and_share_the_work() {
    let packed = Packed::from_lengths(&[10, 10, 10, 10, 0, 10, 10]).unwrap();
    let starts = packed.group_starts(3);
    assert_eq!((starts[0], *starts.last().unwrap(), starts.len()), (0, 7, 4));
    assert!(starts.windows(2).all(|pair| pair[0] <= pair[1]));
    let work: Vec<usize> =
        starts.windows(2).map(|pair| (pair[0]..pair[1]).map(|s| packed.range(s as usize).len()).sum()).collect();
    assert_eq!(work, [20, 20, 20]);
    // The longest run is the shortest possible: no other place of two cuts does better.
    let lengths = [7, 1, 0, 9, 4, 4, 2, 8, 1, 3];
    let packed = Packed::from_lengths(&lengths).unwrap();
    let longest =
        |starts: &[usize]| starts.windows(2).map(|p| lengths[p[0]..p[1]].iter().sum::<usize>()).max().unwrap();
    let got: Vec<usize> = packed.group_starts(3).iter().map(|&s| s as usize).collect();
    let best = (0..=10).flat_map(|i| (i..=10).map(move |j| longest(&[0, i, j, 10]))).min().unwrap();
    assert_eq!((got[3], longest(&got)), (10, best));
    // More groups than sequences leaves some with none.
    let starts = Packed::from_lengths(&[4]).unwrap().group_starts(4);
    assert_eq!((starts.len(), starts[0], starts[4]), (5, 0, 1));
}

#[test]
fn what_needs_no_pack_is_given_an_empty_one() {
    let nothing = DevicePacked::empty(&Device::Cpu).unwrap();
    assert_eq!((nothing.packed().tokens(), nothing.packed().sequences()), (0, 0));
    assert_eq!(nothing.cu_seqlens().to_vec::<u32>().unwrap(), [0]);
}
